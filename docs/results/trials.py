"""All trials and experiments.

A trial is one training run. An experiment is a table of trials: rows × columns × seeds. A trial in
several tables runs once.

Comparisons come in three kinds. "Equal epochs": all modes see each chain equally often. "Equal
updates": all modes get as many updates as direct takes for those epochs. "USM's time": direct gets
as many updates as USM takes for them. Every update reads 2,048 tokens, so equal updates are about
equal time, but reproducible.
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
    #: How many updates: "epochs": what the mode takes for them; "updates": what direct takes;
    #: "time": what USM takes; or a number.
    equal: str = "epochs"
    rate: float = 0.01  # peak of the blocks'
    embedding_rate: float = 0.03
    weight_decay: float = 0.2
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
        test, first = settings.pop("test"), settings.pop("first", 0)
        return [Trial(**settings, seed=first + n) for n in range(seeds)], test

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
#: Rates for each mode, on seeds that no other table uses; chosen by accuracy in validation.
TUNED = {"mwp": {"epochs": 20}, "LLM CoT": LLM_COT}
GRID = [(e, b) for e in (0.01, 0.02, 0.03, 0.05) for b in (0.005, 0.01, 0.02)]
RATES = {f"{e:g}, {b:g}, 0.2": {"embedding_rate": e, "rate": b} for e, b in GRID}
RATES |= {f"0.03, 0.01, {d:g}": {"weight_decay": d} for d in (0.05, 0.5)}
OF_RATES = {"first": 200, "seeds": 2, "test": "validation", "equal": "updates"}
#: Budgets of updates for the curves of accuracy over time.
BUDGETS = (250, 500, 1000, 2000, 4000)
CURVES = {f"{n:,} problems": {"problems": n} for n in (500, 1000, 2000)}
CURVES |= {"LLM CoT": LLM_COT}
SECOND_TRY = {"test": "test, second try"}
STEPS = range(1, 9)

EXPERIMENTS = {
    f"rates, {name}": Experiment(
        f"Peak rates of embeddings and blocks, weight decay: {name}",
        {rates: data | OF_RATES | settings for rates, settings in RATES.items()},
        {"direct": DIRECT, "USM": {}, "DSM": DSM},
    )
    for name, data in TUNED.items()
}
EXPERIMENTS |= {
    "curve": Experiment(
        "Accuracy over training time",
        {
            f"{name}, {n:,} updates": row | {"equal": str(n), "seeds": 3}
            for name, row in CURVES.items()
            for n in BUDGETS
        },
        {"direct": DIRECT, "USM": {}},
    ),
    "curve, DSM": Experiment(
        "Accuracy over training time: DSM",
        {f"1,000 problems, {n:,} updates": {"equal": str(n), "seeds": 3} for n in BUDGETS},
        {"DSM": DSM},
    ),
    "time": Experiment(
        "Direct with USM's time: as many updates as USM takes for the epochs",
        PROBLEMS | {"LLM CoT": LLM_COT},
        {"direct, USM's time": DIRECT | {"equal": "time"}},
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
