"""All trials and experiments.

A trial is one training run. An experiment is a table of trials: rows × columns × seeds. A trial in
several tables runs once.

Comparisons come in two kinds. "Equal epochs": all modes see each chain equally often. "Equal
updates": all modes get as many updates as direct takes for those epochs. Every update reads 2,048
tokens, so this is about equal time, but reproducible.
"""

from dataclasses import dataclass
from itertools import product

#: Raise it when a code change alters results; old results are then refused.
VERSION = 3

GENERATED = "generated"


@dataclass(frozen=True)
class Trial:
    """One training run: all that decides its result, except the package's defaults."""

    task: str = "mwp"
    data: str = GENERATED  # or a file's name
    problems: int | None = 1000  # for training; None: all
    mode: str = "usm"
    encoder: str = "block-causal"
    labels: str = "interleave"  # or "entropy", or one of ``cuts.CUTS``
    beta: float = 1.0
    gamma: float = 1.0
    size: str = "tiny"
    pretrained: bool = False
    epochs: int = 20
    equal: str = "epochs"  # or "updates": as many as direct takes for the epochs
    seed: int = 0

    @property
    def baseline(self) -> "Trial":
        """Direct training on the same data, for the same epochs."""
        shared = ("task", "data", "problems", "size", "pretrained", "epochs", "seed")
        return Trial(mode="direct", **{name: getattr(self, name) for name in shared})


@dataclass(frozen=True)
class Experiment:
    """A table: each row and column is a dict of ``Trial`` fields, and may hold "seeds" (how many)
    and "test" (which of a trial's tests to show)."""

    title: str
    rows: dict[str, dict]
    columns: dict[str, dict]

    def cell(self, row: str, column: str) -> tuple[list[Trial], str]:
        """The trials of a cell, one per seed, and the name of their test."""
        own = [{"seeds": 5, "test": "test"} | self.rows[row], {"seeds": 15} | self.columns[column]]
        seeds = min(settings.pop("seeds") for settings in own)
        settings = own[0] | own[1]
        test = settings.pop("test")
        return [Trial(**settings, seed=seed) for seed in range(seeds)], test

    @property
    def trials(self) -> list[Trial]:
        """All trials once, ordered by seed."""
        cells = [self.cell(*place)[0] for place in product(self.rows, self.columns)]
        return sorted(dict.fromkeys(sum(cells, [])), key=lambda trial: trial.seed)


DIRECT = {"mode": "direct"}
DSM = {"mode": "dsm"}
UPDATES = {"equal": "updates"}
EPOCHS = {"equal": "epochs"}
BY_ENTROPY = {"labels": "entropy"}
MODES = {
    "direct": DIRECT,
    "USM, equal updates": UPDATES,
    "USM, equal epochs": EPOCHS,
    "DSM, equal updates": DSM | UPDATES | {"seeds": 5},
    "DSM, equal epochs": DSM | EPOCHS | {"seeds": 5},
}

# Direct takes about 1,040 updates for up to 1,000 problems, 1,460 for more.
PROBLEMS = {
    "250": {"problems": 250, "epochs": 80},
    "500": {"problems": 500, "epochs": 40},
    "1,000": {"problems": 1000, "epochs": 20, "seeds": 15},
    "2,000": {"problems": 2000, "epochs": 14},
    "4,000": {"problems": 4000, "epochs": 7},
}

REPORTS = {"task": "pet", "data": "cpet_part.csv", "seeds": 3}
LLM_COT = {"data": "llm_cot.jsonl", "problems": None, "epochs": 18, "seeds": 3}
DATASETS = {
    "generated reports": {"task": "pet", "problems": 250, "epochs": 40, "seeds": 3},
    "cPET, 500 reports": REPORTS | {"problems": 500, "epochs": 14},
    "cPET, all reports": REPORTS | {"problems": None, "epochs": 2},
    "cPET, 500 reports, pretrained": REPORTS | {"problems": 500, "epochs": 14, "pretrained": True},
    "cPET, all reports, pretrained": REPORTS | {"problems": None, "epochs": 2, "pretrained": True},
    "LLM CoT": LLM_COT,
    "GSM8K": {"data": "gsm8k_train.jsonl", "problems": None, "epochs": 6, "seeds": 1},
}
SECOND_TRY = {"test": "test, second try"}
STEPS = range(1, 9)

EXPERIMENTS = {
    "words": Experiment("Word problems", PROBLEMS, MODES),
    "longer": Experiment(
        "Problems of five and six steps, after training on one to four",
        {name: row | {"test": "longer"} for name, row in PROBLEMS.items()},
        MODES,
    ),
    "steps": Experiment(
        "Steps, after training on 2,000 problems of one to four",
        {f"{n}": PROBLEMS["2,000"] | {"test": f"{n} steps"} for n in STEPS},
        MODES,
    ),
    "data": Experiment("Other data sets, written greedily", DATASETS, MODES),
    "again": Experiment(
        "Other data sets, with a second try",
        {name: row | SECOND_TRY for name, row in DATASETS.items() if "data" in row},
        MODES,
    ),
    "encoder": Experiment(
        "The paper's encoder",
        {"1,000 problems": {"epochs": 20}, "LLM CoT": LLM_COT},
        {
            "direct": DIRECT,
            "block-causal, equal updates": UPDATES,
            "block-causal, equal epochs": EPOCHS,
            "bidirectional, equal updates": UPDATES | {"encoder": "bidirectional"},
            "bidirectional, equal epochs": EPOCHS | {"encoder": "bidirectional"},
        },
    ),
    "labels": Experiment(
        "Roles, or just cuts? USM with other labels",
        {
            "by position (every piece a segment)": {},
            "by entropy": BY_ENTROPY,
            "the true roles": {"labels": "true roles"},
            "random roles": {"labels": "random roles"},
            "random cuts between words": {"labels": "random cuts"},
        },
        {"direct": DIRECT | {"labels": "interleave"}, "USM, equal updates": UPDATES},
    ),
    "tasks": Experiment(
        "Which labels win on which task",
        {"1,000 problems": {}, "generated reports": DATASETS["generated reports"]},
        {
            "USM by position": UPDATES,
            "USM by entropy": UPDATES | BY_ENTROPY,
            "DSM by position": DSM | UPDATES,
            "DSM by entropy": DSM | UPDATES | BY_ENTROPY,
        },
    ),
    "sweep": Experiment(
        "β and γ: USM by entropy, equal updates",
        {f"β = {beta}": UPDATES | {"beta": beta, "seeds": 3} for beta in (0.8, 1.0, 1.2, 1.4)},
        {f"γ = {gamma:g}": BY_ENTROPY | {"gamma": gamma} for gamma in (1.0, 0.0)},
    ),
    "size": Experiment(
        "Sizes of models",
        {size: {"size": size, "seeds": 3} for size in ("micro", "tiny", "mini")},
        {name: MODES[name] for name in ("direct", "USM, equal updates", "USM, equal epochs")},
    ),
    "scorers": Experiment(
        "What entropy finds",
        {f"{n} epochs": DIRECT | {"epochs": n, "seeds": 3} for n in (2, 6, 20)},
        {"direct": {}},
    ),
    "losses": Experiment(
        "Losses",
        {"1,000 problems": {"seeds": 5}},
        {
            "direct": DIRECT,
            "USM by position": UPDATES,
            "USM by entropy": UPDATES | BY_ENTROPY,
            "DSM by position": DSM | UPDATES,
        },
    ),
}
