"""All trials and experiments.

A trial is one training run. An experiment is a table of trials: rows × columns × seeds. A trial in
several tables runs once.

Modes are compared in three ways. "Equal updates": all take as many as direct takes for its epochs.
"Equal epochs": all see each chain equally often. "USM's time": direct takes as many updates as USM
does for those epochs. Every update reads 2,048 tokens, so equal updates are about equal time, but
reproducible.
"""

from dataclasses import dataclass, replace
from itertools import product

#: Raise it when a code change alters results; old results are then refused.
VERSION = 4

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
    #: How many updates: "epochs": what the mode takes for them; "updates": what direct takes;
    #: "time": what USM takes; or a number.
    equal: str = "epochs"
    rate: float = 0.02  # peak of the blocks'
    embedding_rate: float = 0.03
    weight_decay: float = 0.2
    seed: int = 0

    @property
    def baseline(self) -> "Trial":
        """Direct training on the same data, for the same epochs."""
        names = ("task", "data", "problems", "size", "pretrained", "epochs", "rate", "seed")
        return Trial(mode="direct", **{name: getattr(self, name) for name in names})

    @property
    def rival(self) -> "Trial":
        """What it is compared with: direct given as many updates or as much time, else the
        baseline."""
        if self.mode != "direct" and self.equal.isdigit():
            return replace(self.baseline, equal=self.equal)
        if (self.mode, self.equal, self.encoder) == ("usm", "epochs", "block-causal"):
            return replace(self.baseline, equal="time")
        return self.baseline


@dataclass(frozen=True)
class Experiment:
    """A table. Each row and column is a dict of ``Trial`` fields; it may also hold "seeds" (how
    many), "first" (the first of them) and "test" (which of a trial's tests to show)."""

    title: str
    rows: dict[str, dict]
    columns: dict[str, dict]

    def cell(self, row: str, column: str) -> tuple[list[Trial], str]:
        """The trials of a cell, one per seed, and the name of their test."""
        fields = {"seeds": 3, "first": 0, "test": "test"} | self.rows[row] | self.columns[column]
        seeds, first, test = (fields.pop(name) for name in ("seeds", "first", "test"))
        return [Trial(**fields, seed=first + n) for n in range(seeds)], test

    @property
    def trials(self) -> list[Trial]:
        """All trials once, ordered by seed."""
        cells = [self.cell(*place)[0] for place in product(self.rows, self.columns)]
        return sorted(dict.fromkeys(sum(cells, [])), key=lambda trial: trial.seed)


DIRECT, DSM = {"mode": "direct"}, {"mode": "dsm"}
UPDATES, EPOCHS, TIME = ({"equal": name} for name in ("updates", "epochs", "time"))
BY_ENTROPY = {"labels": "entropy"}
MODES = {
    "direct": DIRECT,
    "USM, equal updates": UPDATES,
    "direct, USM's time": DIRECT | TIME,
    "USM, equal epochs": EPOCHS,
    "DSM, equal updates": DSM | UPDATES,
    "DSM, equal epochs": DSM | EPOCHS,
}

# Direct takes about 1,100 updates for up to 1,000 problems, 1,400 for more.
PROBLEMS = {
    "250": {"problems": 250, "epochs": 80, "seeds": 5},
    "500": {"problems": 500, "epochs": 40, "seeds": 5},
    "1,000": {"problems": 1000, "epochs": 20, "seeds": 8},
    "2,000": {"problems": 2000, "epochs": 14, "seeds": 5},
    "4,000": {"problems": 4000, "epochs": 7, "seeds": 5},
}

LLM_COT = {"data": "llm_cot.jsonl", "problems": None, "epochs": 18}
UNTUNED = {"rate": 0.01}  # no sweep: reports and GSM8K keep the package's default
REPORTS = {"task": "pet", "data": "cpet_part.csv"} | UNTUNED
DATASETS = {
    "generated reports": UNTUNED | {"task": "pet", "problems": 250, "epochs": 40},
    "cPET, 500 reports": REPORTS | {"problems": 500, "epochs": 14},
    "cPET, all reports": REPORTS | {"problems": None, "epochs": 2},
    "cPET, 500 reports, pretrained": REPORTS | {"problems": 500, "epochs": 14, "pretrained": True},
    "cPET, all reports, pretrained": REPORTS | {"problems": None, "epochs": 2, "pretrained": True},
    "LLM CoT": LLM_COT,
    "GSM8K": UNTUNED | {"data": "gsm8k_train.jsonl", "problems": None, "epochs": 6},
}
SECOND_TRY = {"test": "test, second try"}
STEPS = range(1, 9)

# Peak rates of embeddings and blocks, and weight decay, are tuned for each mode on seeds that no
# other table uses, by accuracy in validation: one seed on a grid, then three on what leads it.
GRID = [(e, b, 0.2) for e in (0.01, 0.02, 0.03, 0.05) for b in (0.005, 0.01, 0.02)]
GRID += [(0.02, 0.03, 0.2), (0.03, 0.02, 0.05), (0.03, 0.02, 0.5)]
# On LLM CoT, along both axes through the package's default.
CROSS = [(e, 0.01, 0.2) for e in (0.01, 0.02, 0.03, 0.05)] + [(0.03, 0.005, 0.2)]
CROSS += [(0.02, 0.02, 0.2), (0.03, 0.02, 0.2), (0.03, 0.01, 0.05), (0.03, 0.01, 0.5)]
FINALISTS = [(0.03, 0.01, 0.2), (0.02, 0.02, 0.2), (0.03, 0.02, 0.2)]


def rates(grid: list[tuple], data: dict) -> dict[str, dict]:
    """Rows of an experiment."""
    return {
        f"{e:g}, {b:g}, {decay:g}": data
        | {"embedding_rate": e, "rate": b, "weight_decay": decay, "equal": "updates"}
        | {"first": 200, "seeds": 3 if (e, b, decay) in FINALISTS else 1, "test": "validation"}
        for e, b, decay in grid
    }


#: Budgets of the curve of accuracy over time.
BUDGETS = (250, 500, 1000, 2000, 4000)
CURVES = {f"{n:,} problems": {"problems": n} for n in (500, 1000, 2000)} | {"LLM CoT": LLM_COT}

EXPERIMENTS = {
    f"rates, {name}": Experiment(
        f"{name}: embeddings' rate, blocks' rate, weight decay; accuracy in validation",
        rates(grid, data),
        {"direct": DIRECT, "USM": {}, "DSM": DSM},
    )
    for name, grid, data in (("1,000 problems", GRID, {}), ("LLM CoT", CROSS, LLM_COT))
}
EXPERIMENTS |= {
    "curve": Experiment(
        "Accuracy over training time",
        {
            f"{name}, {mode}": row | fields
            for name, row in CURVES.items()
            for mode, fields in (("direct", DIRECT), ("USM", {}), ("DSM", DSM))
            if mode != "DSM" or name == "1,000 problems"
        },
        {f"{n:,} updates": {"equal": str(n)} for n in BUDGETS},
    ),
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
        {"1,000 problems": {}, "LLM CoT": LLM_COT},
        {
            "direct": DIRECT,
            "block-causal, equal updates": UPDATES,
            "direct, USM's time": DIRECT | TIME,
            "block-causal, equal epochs": EPOCHS,
            "bidirectional, equal updates": UPDATES | {"encoder": "bidirectional"},
            "bidirectional, equal epochs": EPOCHS | {"encoder": "bidirectional"},
        },
    ),
    "labels": Experiment(
        "Roles, or just cuts? USM with other labels, 1,000 problems, equal updates",
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
        "Which labels win on which task, equal updates",
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
        {f"β = {beta}": UPDATES | {"beta": beta} for beta in (0.8, 1.0, 1.2, 1.4)},
        {f"γ = {gamma:g}": BY_ENTROPY | {"gamma": gamma} for gamma in (1.0, 0.0)},
    ),
    "size": Experiment(
        "Sizes of models",
        {size: {"size": size} for size in ("micro", "tiny", "mini")},
        dict(list(MODES.items())[:4]),
    ),
    "scorers": Experiment(
        "What entropy finds, after so many epochs of a direct model",
        {f"{n} epochs": {"epochs": n} for n in (2, 6, 20)},
        {"direct": DIRECT},
    ),
}
