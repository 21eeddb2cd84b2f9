"""How one trial runs: train, write chains, score them, and what else is worth keeping."""

import random
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from ases.beam import beam_search
from ases.config import Recipe, SegmentationSettings
from ases.data import Example, split_examples
from ases.experiments.cuts import CUTS
from ases.experiments.mistakes import mistakes
from ases.experiments.roles import by_true_role, entropies_against_roles
from ases.experiments.trials import STEPS, Trial
from ases.metrics import is_correct, rouge, tokenize_characters
from ases.pairs import Segmented, make_batches, rows_by_model
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
from ases.segmentation import AS
from ases.tasks import make_splits
from ases.tasks.word_problems import word_problem
from ases.tokenizer import Tokenizer
from ases.training import Watcher

MAX_NUMBER = 20
#: Arguments of ``ChainWriter.write`` for each of ``DECODINGS``.
WRITE: dict[str, dict[str, Any]] = {
    "greedy": {},
    "second try": {"second_try": beam_search},
    "4 beams": {"search": beam_search, "batch_tokens": 16384},
}


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
    """Train, write and score. ``folder``: where the real data lies."""
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
            label = name if decoding == "greedy" else f"{name}, {decoding}"
            result["tests"][label] = _test(trial.task, name, writer, examples, decoding)
    result["all_seconds"] = round(time.perf_counter() - started, 1)
    return _rounded(result)


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
    "mwp": ("accuracy", "bleu", "stop_reasons"),
    "pet": ("bleu", "rouge1", "rouge2", "rougeL", "stop_reasons"),
}


def _rounded(found: Any) -> Any:
    """A number, or all of a table's, to six digits: more would say nothing."""
    if isinstance(found, dict):
        return {name: _rounded(value) for name, value in found.items()}
    return round(found, 6) if isinstance(found, float) else found


def _test(
    task: str, name: str, writer: ChainWriter, examples: list[Example], decoding: str
) -> dict:
    questions = [e.question for e in examples]
    chains = writer.write(questions, **WRITE[decoding])
    scores = score_chains(task, examples, chains)
    if name.endswith(" steps"):
        return {"accuracy": scores["accuracy"]}
    found = {name: scores[name] for name in KEPT[task]}
    texts = [chain.text for chain in chains]
    if task == "mwp":
        right = [is_correct(t, e.answer) for t, e in zip(texts, examples)]
        found["each"] = "".join("01"[hit] for hit in right)
        if name == "longer":
            found["mistakes"] = mistakes(texts, [e.answer for e in examples], right)
    else:
        tokens = tokenize_characters if scores["rouge_tokens"] == "characters" else str.split
        each = [rouge(t, e.answer, tokens)["rougeL"] for t, e in zip(texts, examples)]
        found["each"] = [round(value, 3) for value in each]
        found["stops"] = "".join(chain.stop[0] for chain in chains)  # e for end, s for stuck, …
    return found
