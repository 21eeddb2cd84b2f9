"""What is trained for each experiment, and how one trial runs.

A trial is one training with all its settings; ``Trial.key`` names it, so that experiments share
trials, and what was found once is not looked for again.

"Equal time" is equal updates: an update sees 2,048 tokens, whatever is trained, and costs about the
same. That gives the same result twice, which a clock would not; the seconds are reported beside.
"""

import hashlib
import json
import random
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch

from ases.beam import beam_search
from ases.config import SIZES, Recipe, SegmentationSettings, TrainingSettings
from ases.data import Example, split_examples
from ases.entropy import chain_entropies, token_entropies
from ases.experiments.mistakes import mistakes
from ases.metrics import is_correct, role_agreement, rouge, tokenize_characters
from ases.model import EncoderDecoder
from ases.pairs import Segmented, collate, make_batches, rows_by_model
from ases.recipe import (
    ChainWriter,
    Scorer,
    Splits,
    agreement,
    score_chains,
    segment,
    train,
    training_texts,
)
from ases.run.files import read_examples
from ases.segmentation import (
    AS,
    ES,
    entropy_labels,
    interleaved_labels,
    make_segments,
    piece_entropies,
    split_pieces,
)
from ases.tasks import make_splits
from ases.tasks.word_problems import word_problem
from ases.tokenizer import Tokenizer
from ases.training import Watcher

MAX_NUMBER = 20
STEPS = range(1, 9)  # of the problems in the experiment on length


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


#: How chains are written: arguments of ``ChainWriter.write``.
DECODINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "second try": {"second_try": beam_search},
    "4 beams": {"search": beam_search, "batch_tokens": 16384},
}


# --- other ways to cut ---------------------------------------------------------------------------


def cut_by_true_roles(examples: Sequence[Example]) -> list[Segmented]:
    """The roles that the generator knows."""
    labels = [[role for role, _ in e.gold or ()] for e in examples]
    return _segmented(examples, [[text for _, text in e.gold or ()] for e in examples], labels)


def cut_by_random_roles(examples: Sequence[Example]) -> list[Segmented]:
    """A coin decides on the role of each piece."""
    pieces = [split_pieces(e.answer) for e in examples]
    labels = []
    for e, own in zip(examples, pieces):
        rng = random.Random(f"roles-{e.question}")
        labels.append([rng.choice((ES, AS)) for _ in own])
    return _segmented(examples, pieces, labels)


def cut_at_random(examples: Sequence[Example]) -> list[Segmented]:
    """As many pieces as by punctuation, but cut between any two words."""
    pieces = []
    for e in examples:
        rng = random.Random(f"cuts-{e.question}")
        blanks = [i for i, c in enumerate(e.answer) if c == " "]
        n = min(len(split_pieces(e.answer)) - 1, len(blanks))
        places = [0, *sorted(rng.sample(blanks, n)), len(e.answer)]
        pieces.append([e.answer[a:b] for a, b in zip(places, places[1:])])
    return _segmented(examples, pieces, [interleaved_labels(len(p)) for p in pieces])


def _segmented(
    examples: Sequence[Example], pieces: list[list[str]], labels: list[list[str]]
) -> list[Segmented]:
    return [Segmented(e, p, r, make_segments(p, r)) for e, p, r in zip(examples, pieces, labels)]


CUTS = {
    "true roles": cut_by_true_roles,
    "random roles": cut_by_random_roles,
    "random cuts": cut_at_random,
}


# --- experiments ---------------------------------------------------------------------------------


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


#: Mode, segmentation, and how many seeds: what the claim rests on has three times as many.
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
            for seed in range(seeds if task == "mwp" else 5):
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
        for seed in range(3)
        for n in (250, 500, 1000, 2000)
        for mode in ("direct", "usm")
    ]


def roles_trials() -> list[Trial]:
    """USM with other labels: is it the roles, or merely the cutting?"""
    trials = []
    for seed in range(3):
        trials.append(Trial("direct", recipe("direct", seed)))
        trials.append(Trial("by position", recipe("usm", seed)))
        for beta in (0.8, 1.0, 1.2):
            by_entropy = recipe("usm", seed, segmentation="entropy", beta=beta)
            trials.append(Trial(f"by entropy, β = {beta}", by_entropy))
        trials.append(Trial("every piece", recipe("usm", seed, merge=False)))
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
        for seed in range(2)
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
    """Those of ``main``, on problems of one to eight steps; and what might help: positions that say
    less of where in a question a word stands, and more problems."""
    wanted = ("mwp direct", "mwp dsm, interleave", "mwp usm, interleave", "mwp usm, entropy")
    trials = [trial for trial in main_trials() if trial.row in wanted]
    near = dict(relative_attention_num_buckets=16, relative_attention_max_distance=16)
    for seed in range(3):
        for mode in ("direct", "usm"):
            settings = recipe(mode, seed)
            settings = replace(settings, model=settings.model | near)
            trials.append(Trial(f"mwp {mode}, distances to 16", settings))
            trials.append(
                Trial(f"mwp {mode}, 4,000 problems", recipe(mode, seed, 2000), problems=4000)
            )
    return trials


def curves_trials() -> list[Trial]:
    """Those of ``main`` whose losses are drawn (Figure 4 of the paper)."""
    return [t for t in main_trials() if t.task == "mwp" and t.recipe.encoder == "block-causal"]


def real_trials() -> list[Trial]:
    """The paper's reports, and word problems written by people and by language models."""
    reports, people, llm = "cpet_part.csv", "gsm8k_train.jsonl", "llm_cot.jsonl"
    trials = []
    for name, task, file, problems, updates, epochs, seeds in (
        ("cPET, 500 reports", "pet", reports, 500, 1000, None, 3),
        ("cPET, 1,500 reports", "pet", reports, 1500, 1500, None, 1),
        ("cPET", "pet", reports, 10**6, 1500, None, 1),
        ("cPET, 3 epochs", "pet", reports, 10**6, 1000, 3, 1),
        ("LLM CoT", "mwp", llm, 10**6, 1000, None, 3),
        ("GSM8K", "mwp", people, 10**6, 2000, None, 1),
    ):
        for seed in range(seeds):
            for mode in ("direct", "usm"):
                settings = recipe(mode, seed, updates)
                row = f"{name} {mode}"
                trials.append(
                    Trial(row, settings, task, problems, file, "recipe", epochs, tuple(DECODINGS))
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


# --- one trial -----------------------------------------------------------------------------------


class Curves(Watcher):
    """Keeps what a training reports: (step, seconds, nats per target token)."""

    def __init__(self):
        self.training: dict[str, list] = {}
        self.validation: dict[str, list] = {}

    def report(self, name: str, row: dict) -> None:
        own, loss = self.training, row.get("loss")
        if loss is None:
            own, loss = self.validation, row["validation_loss"]
        own.setdefault(name, []).append([row["step"], row["seconds"], round(loss, 4)])


def run_trial(trial: Trial, folder: str) -> dict:
    """Train, write and score.

    Args:
        folder: where the real data lies.
    """
    started = time.perf_counter()
    splits = _splits(trial, folder)
    curves, scorer = Curves(), None
    settings = trial.recipe.segmentation
    if settings.segmentation == "entropy" and trial.recipe.mode != "direct":
        direct, _ = _direct(trial, folder)
        scorer = Scorer(direct.models["direct"], direct.tokenizer)
    cut = CUTS.get(trial.labels) or partial(segment, settings=settings, scorer=scorer)
    if trial.recipe.mode == "direct" and trial.epochs is None:
        writer, curves = _direct(trial, folder)
    else:
        writer = train(splits, _with_epochs(trial, splits), curves, cut=cut)

    segmented = cut(splits["test"])
    result: dict[str, Any] = {
        "key": trial.key,
        "row": trial.row,
        "seed": trial.seed,
        "seconds": round(sum(r["seconds"] for r in writer.reports.values()), 1),
        "steps": sum(r["steps"] for r in writer.reports.values()),
        "epochs": {name: round(r["epochs"], 2) for name, r in writer.reports.items()},
        "parameters": sum(p.numel() for m in writer.models.values() for p in m.parameters()),
        "as_share": _as_share(segmented),
        "segments": sum(len(s.segments) for s in segmented) / len(segmented),
        "roles": agreement(segmented) if trial.labels != "random cuts" else None,
        "target_tokens": _target_tokens(writer, cut(splits["validation"])),
        "curves": curves.training,
        "validation": curves.validation,
        "tests": {},
    }
    if trial.recipe.mode == "direct" and trial.task == "mwp" and trial.data is None:
        result["by_role"] = by_true_role(writer, splits["test"])
        result["by_entropy"] = entropies_against_roles(writer, splits["test"])
    for decoding in trial.decodings:
        for name, examples in _tests(trial, splits).items():
            name = name if decoding == "greedy" else f"{name}, {decoding}"
            result["tests"][name] = _test(trial.task, writer, examples, decoding)
    result["all_seconds"] = round(time.perf_counter() - started, 1)
    return result


def _splits(trial: Trial, folder: str) -> Splits:
    if trial.data is None:
        return make_splits(trial.task, trial.problems, 300, 500, trial.seed, MAX_NUMBER)
    examples = read_examples(Path(folder) / trial.data, trial.task, skip_bad_rows=True).examples
    splits = split_examples(examples, trial.seed)
    limits = {"train": trial.problems, "validation": 300, "test": 200}
    return {name: splits[name][:n] for name, n in limits.items()}


def _with_epochs(trial: Trial, splits: Splits) -> Recipe:
    """The recipe with as many updates as the trial's epochs take, if it has any."""
    recipe = trial.recipe
    if trial.epochs is None:
        return recipe
    tokenizer = Tokenizer.train(training_texts(splits), recipe.vocab_size)
    rows = rows_by_model(recipe.mode, segment(splits["train"]), tokenizer, recipe.encoder)
    tokens = recipe.training.batch_tokens
    batches = sum(len(make_batches(own, tokens, 0, 0)) for own in rows.values())
    return replace(recipe, training=replace(recipe.training, max_steps=trial.epochs * batches))


#: The last direct models by their trials' keys: each is a trial of its own, and a scorer of others.
_KEPT: dict[str, tuple[ChainWriter, Curves]] = {}


def _direct(trial: Trial, folder: str) -> tuple[ChainWriter, Curves]:
    """The direct model of a trial's data, seed and budget, and the losses of its training."""
    settings = replace(trial.recipe, mode="direct", segmentation=SegmentationSettings())
    trial = replace(trial, recipe=settings, decodings=("greedy",), labels="recipe")
    if trial.key not in _KEPT:
        curves = Curves()
        _KEPT[trial.key] = train(_splits(trial, folder), settings, curves), curves
        while len(_KEPT) > 2:
            del _KEPT[next(iter(_KEPT))]
    return _KEPT[trial.key]


def _target_tokens(writer: ChainWriter, segmented: Sequence[Segmented]) -> dict[str, float]:
    """Target tokens a chain, of each sub-model: times nats a token, its share of nats a chain."""
    recipe = writer.recipe
    rows = rows_by_model(recipe.mode, segmented, writer.tokenizer, recipe.encoder)
    return {
        name: round(sum(row.target_length for row in own) / len(segmented), 2)
        for name, own in rows.items()
    }


def _as_share(segmented: Sequence[Segmented]) -> float:
    labels = [label for s in segmented for label in s.labels]
    return labels.count(AS) / len(labels)


def _tests(trial: Trial, splits: Splits) -> dict[str, list[Example]]:
    tests: Splits = {name: splits[name] for name in ("test", "longer") if name in splits}
    if trial.task == "mwp" and trial.data is None:
        tests |= {f"{n} steps": problems_of(n) for n in STEPS}
    return tests


@lru_cache
def problems_of(steps: int, n: int = 100) -> list[Example]:
    """Word problems of a number of steps; none of them is for training."""
    rng, examples = random.Random(f"length-{steps}"), []
    for i in range(n):
        question, pieces = word_problem(rng, steps, MAX_NUMBER)
        answer = "".join(text for _, text in pieces)
        examples.append(Example(f"{steps}-{i}", question, answer, tuple(pieces)))
    return examples


#: The scores of a test that stand in the file.
KEPT = {
    "mwp": ("n", "accuracy", "bleu", "rounds_mean", "stop_reasons"),
    "pet": ("n", "bleu", "rouge1", "rouge2", "rougeL", "rounds_mean", "stop_reasons"),
}


def _rounded(score: Any) -> Any:
    """A score, or a table of them, to four digits: more would say nothing."""
    if isinstance(score, dict):
        return {name: _rounded(value) for name, value in score.items()}
    return round(score, 4) if isinstance(score, float) else score


def _test(task: str, writer: ChainWriter, examples: list[Example], decoding: str) -> dict:
    questions = [e.question for e in examples]
    chains = writer.write(questions, **DECODINGS[decoding])
    scores = score_chains(task, examples, chains)
    found = {name: _rounded(scores[name]) for name in KEPT[task]}
    texts = [chain.text for chain in chains]
    if task == "mwp":
        right = [is_correct(t, e.answer) for t, e in zip(texts, examples)]
        found["each"] = "".join("01"[hit] for hit in right)
        if examples[0].gold:
            found["mistakes"] = _rounded(mistakes(texts, [e.answer for e in examples], right))
    else:
        tokens = tokenize_characters if scores["rouge_tokens"] == "characters" else str.split
        each = [rouge(t, e.answer, tokens)["rougeL"] for t, e in zip(texts, examples)]
        found["each"] = [round(value, 3) for value in each]
        found["stops"] = [chain.stop for chain in chains]
    return found


def entropies_against_roles(writer: ChainWriter, examples: Sequence[Example]) -> dict:
    """F1 of both roles against the true ones, of several rules on the entropies of a direct model:
    a piece is AS where its value is above the mean of its chain's (β = 1)."""
    pieces = [split_pieces(e.answer) for e in examples]
    questions = [e.question for e in examples]
    tokens = chain_entropies(writer.models["direct"], writer.tokenizer, questions, pieces)
    rules = {
        "mean": [piece_entropies(own, 1.0) for own in tokens],
        "sum": [piece_entropies(own, 0.0) for own in tokens],
        "first token": [[piece[0] for piece in own] for own in tokens],
        "highest": [[max(piece) for piece in own] for own in tokens],
    }
    gold = [[role for role, _ in e.gold or ()] for e in examples]
    found = {
        name: role_agreement(gold, [entropy_labels(values, 1.0) for values in rows])
        for name, rows in rules.items()
    }
    found["position"] = role_agreement(gold, [interleaved_labels(len(p)) for p in pieces])
    return {name: {role: own[role]["f1"] for role in (ES, AS)} for name, own in found.items()}


@torch.inference_mode()
def by_true_role(writer: ChainWriter, examples: Sequence[Example]) -> dict:
    """Loss, entropy and accuracy of a direct model on the tokens of each true role, teacher-forced,
    and on digits behind "=", which are computed."""
    model: EncoderDecoder = writer.models["direct"]
    tokenizer, totals = writer.tokenizer, {}
    segmented = segment(examples)
    rows = rows_by_model("direct", segmented, tokenizer, "block-causal")["direct"]
    for i in range(0, len(rows), 50):
        batch = collate(rows[i : i + 50], 0)
        log_p = torch.log_softmax(model.logits(batch), -1)
        entropy, best = token_entropies(log_p), log_p.argmax(-1)
        for r, s in enumerate(segmented[i : i + 50]):
            place = 0
            for (role, _), ids in zip(s.example.gold or (), tokenizer.encode_pieces(s.pieces)):
                after_equals = False
                for position, token in enumerate(ids):
                    name = role
                    text = tokenizer.decode([token])
                    if after_equals and any(c.isdigit() for c in text):
                        name = "computed"
                    after_equals = "=" in text or (after_equals and not text.strip("$ ").isalpha())
                    first = totals.setdefault(f"{role}, first token", [0, 0.0, 0.0, 0])
                    for total in (totals.setdefault(name, [0, 0.0, 0.0, 0]), first):
                        if total is first and position:
                            continue
                        total[0] += 1
                        total[1] -= float(log_p[r, place, token])
                        total[2] += float(entropy[r, place])
                        total[3] += int(best[r, place] == token)
                    place += 1
    return {
        name: {"tokens": n, "loss": loss / n, "entropy": h / n, "accuracy": right / n}
        for name, (n, loss, h, right) in totals.items()
    }
