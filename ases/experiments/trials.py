"""What is trained for each experiment.

A trial is one training with all its settings; ``Trial.key`` names it, so that experiments share
trials, and what was found once is not looked for again.

"Equal time" is equal updates: an update sees 2,048 tokens, whatever is trained, and costs about the
same. That gives the same result twice, which a clock would not; the seconds are reported beside.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from ases.config import SIZES, Recipe, SegmentationSettings, TrainingSettings
from ases.experiments.cuts import CUTS

STEPS = range(1, 9)  # of the problems in the experiment on length
DECODINGS = ("greedy", "second try", "4 beams")


@dataclass(frozen=True)
class Trial:
    """One training, and what its chains are tested on."""

    row: str  # what it is called; the trials of a row differ in their seeds
    recipe: Recipe
    task: str = "mwp"
    problems: int = 1000  # for training
    data: str | None = None  # a file's name; None for generated examples
    labels: str = "recipe"  # or one of ``CUTS``
    epochs: int | None = None  # in place of the recipe's updates
    decodings: tuple[str, ...] = ("greedy",)  # some of ``DECODINGS``
    x: float | None = None  # its place on the figure's axis

    @property
    def seed(self) -> int:
        """Of data and model."""
        return self.recipe.training.seed

    @property
    def key(self) -> str:
        """A digest of everything that decides the result."""
        content = asdict(self)
        del content["row"], content["x"]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def recipe(
    mode: str,
    seed: int,
    updates: int = 1000,
    segmentation: str = "interleave",
    encoder: str = "block-causal",
    size: str = "tiny",
    **labels: Any,
) -> Recipe:
    """One of the recipes that experiments are made of."""
    return Recipe(
        mode=mode,
        encoder=encoder,
        segmentation=SegmentationSettings(segmentation=segmentation, **labels),
        training=TrainingSettings(max_steps=updates, seed=seed),
        model=dict(SIZES[size]),
    )


#: Mode, segmentation, and how many seeds of word problems: what the claim rests on has three times
#: as many. Of reports there are two: the generated ones are too easy to tell modes apart.
MAIN = (
    ("direct", "interleave", 15),
    ("dsm", "interleave", 5),
    ("usm", "interleave", 15),
    ("dsm", "entropy", 5),
    ("usm", "entropy", 5),
)


def main_trials() -> list[Trial]:
    """All modes and segmentations, at equal updates, word problems and reports."""
    trials = []
    for task in ("mwp", "pet"):
        for mode, segmentation, seeds in MAIN:
            name = f"{task} {mode}" if mode == "direct" else f"{task} {mode}, {segmentation}"
            for seed in range(seeds if task == "mwp" else 2):
                trials.append(Trial(name, recipe(mode, seed, 1000, segmentation), task))
    for seed in range(5):
        again = recipe("usm", seed, encoder="bidirectional")
        trials.append(Trial("mwp usm, interleave, encoding anew", again))
    return trials


def epochs_trials() -> list[Trial]:
    """The modes after equally many epochs."""
    return [
        Trial(f"mwp {mode}", recipe(mode, seed), epochs=20)
        for seed in range(5)
        for mode in ("direct", "dsm", "usm")
    ]


def data_trials() -> list[Trial]:
    """Direct and USM with ever more problems."""
    return [
        Trial(mode, recipe(mode, seed, 1500), problems=n, x=n)
        for seed in range(5)
        for n in (250, 500, 1000, 2000, 4000)
        for mode in ("direct", "usm")
    ]


def roles_trials() -> list[Trial]:
    """USM with other labels: is it the roles, or merely the cutting? (Labels by position never
    merge: they are also the case of every piece a segment.)"""
    trials = []
    for seed in range(5):
        trials.append(Trial("direct", recipe("direct", seed)))
        trials.append(Trial("by position", recipe("usm", seed)))
        for beta in (0.8, 1.0, 1.2):
            by_entropy = recipe("usm", seed, segmentation="entropy", beta=beta)
            trials.append(Trial(f"by entropy, β = {beta}", by_entropy))
        trials += [Trial(name, recipe("usm", seed), labels=name) for name in CUTS]
    return trials


def scorers_trials() -> list[Trial]:
    """Direct models that have learned for longer and longer: what do their entropies find?"""
    return [
        Trial(f"after {updates} updates", recipe("direct", seed, updates))
        for updates in (100, 300, 900)
        for seed in range(3)
    ]


def sweep_trials() -> list[Trial]:
    """USM by entropy, for several β and γ (Figure 3 of the paper)."""
    return [
        Trial(
            f"γ = {gamma}",
            recipe("usm", seed, segmentation="entropy", beta=beta, gamma=gamma),
            x=beta,
        )
        for seed in range(3)
        for gamma in (1.0, 0.0)
        for beta in (0.8, 1.0, 1.2, 1.4)
    ]


def size_trials() -> list[Trial]:
    """Models of several sizes."""
    return [
        Trial(mode, recipe(mode, seed, size=size), x=i)
        for seed in range(3)
        for i, size in enumerate(("micro", "tiny", "mini"))
        for mode in ("direct", "usm")
    ]


def length_trials() -> list[Trial]:
    """Those of ``main`` and of ``data``, on problems of one to eight steps; and what might help:
    positions that say less of where in a question a word stands."""
    wanted = ("mwp direct", "mwp dsm, interleave", "mwp usm, interleave")
    trials = [trial for trial in main_trials() if trial.row in wanted]
    near = dict(relative_attention_num_buckets=16, relative_attention_max_distance=16)
    for seed in range(3):
        for mode in ("direct", "usm"):
            settings = recipe(mode, seed)
            settings = replace(settings, model=settings.model | near)
            trials.append(Trial(f"mwp {mode}, distances to 16", settings))
    for trial in data_trials():
        if trial.problems == 4000:
            trials.append(replace(trial, row=f"mwp {trial.row}, 4,000 problems"))
    return trials


def curves_trials() -> list[Trial]:
    """Those of ``main`` whose losses are drawn (Figure 4 of the paper)."""
    return [t for t in main_trials() if t.task == "mwp" and t.recipe.encoder == "block-causal"]


def real_trials() -> list[Trial]:
    """The paper's reports, and word problems written by people and by language models."""
    reports, people, llm = "cpet_part.csv", "gsm8k_train.jsonl", "llm_cot.jsonl"
    trials = []
    both, all_three = ("direct", "usm"), ("direct", "dsm", "usm")
    for name, task, file, problems, updates, epochs, seeds, modes in (
        ("cPET, 500 reports", "pet", reports, 500, 1000, None, 3, all_three),
        ("cPET, 500 reports, 300 updates", "pet", reports, 500, 300, None, 1, both),
        ("cPET, 1,500 reports", "pet", reports, 1500, 1500, None, 1, both),
        ("cPET", "pet", reports, 10**6, 1500, None, 1, all_three),
        ("cPET, 1 epoch", "pet", reports, 10**6, 1000, 1, 1, both),
        ("LLM CoT", "mwp", llm, 10**6, 1000, None, 2, all_three),
        ("GSM8K", "mwp", people, 10**6, 2000, None, 1, both),
    ):
        for seed in range(seeds):
            for mode in modes:
                settings = recipe(mode, seed, updates)
                row = f"{name} {mode}"
                trials.append(
                    Trial(row, settings, task, problems, file, "recipe", epochs, DECODINGS)
                )
    return trials


@dataclass(frozen=True)
class Experiment:
    """What is compared: the trials' rows, or rows along an axis."""

    title: str
    trials: list[Trial]
    kind: str = "rows"  # of table and figure: "rows", "axis", "sweep", "losses" or "scorers"
    axis: str = ""


EXPERIMENTS = {
    "main": Experiment("All modes at equal updates", main_trials()),
    "epochs": Experiment("All modes after 20 epochs", epochs_trials()),
    "data": Experiment("Ever more problems", data_trials(), "axis", "training problems"),
    "roles": Experiment("The roles, or merely the cutting?", roles_trials()),
    "scorers": Experiment("What entropy finds", scorers_trials(), "scorers"),
    "length": Experiment("More steps than in training", length_trials(), "axis", "steps"),
    "curves": Experiment("Losses", curves_trials(), "losses"),
    "sweep": Experiment("β and γ", sweep_trials(), "sweep", "β"),
    "size": Experiment("Sizes", size_trials(), "axis", "micro, tiny, mini"),
    "real": Experiment("Real data", real_trials()),
}
