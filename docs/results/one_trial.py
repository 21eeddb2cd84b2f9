"""Run one trial: train, write chains, score them."""

import copy
import json
import random
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from cuts import cut_by
from roles import compare_roles
from trials import GENERATED, STEPS, Trial

from ases.data import Example, split_examples
from ases.model import EncoderDecoder
from ases.pairs import make_batches, rows_by_model
from ases.recipe import Splits, Writer, score_chains, segment, train, training_texts
from ases.run.read import read_examples
from ases.segmentation import split_pieces
from ases.settings import Settings
from ases.tasks import make_splits
from ases.tasks.word_problems import word_problem
from ases.tokenizer import Tokenizer

MAX_NUMBER = 20
PRETRAINING = 3000  # updates
VOCABULARY = 4096
BLANK = "▢"  # replaces clauses left out
#: Scores to keep in the results.
KEPT = {"mwp": ("accuracy", "bleu"), "pet": ("rougeL", "rouge1", "rouge2", "bleu")}


def run_trial(trial: Trial, folder: str) -> dict:
    """Train, write and score. ``folder`` holds the real data."""
    splits, cut, writer, seconds = _train(trial, folder)
    segmented, reports = cut(splits["test"]), writer.reports
    result: dict[str, Any] = {
        "seconds": seconds,  # of one core
        "updates": sum(report["steps"] for report in reports.values()),
        "epochs_done": {name: report["epochs"] for name, report in reports.items()},
        "validation_loss": {name: report["validation_loss"] for name, report in reports.items()},
        "segments": sum(len(s.segments) for s in segmented) / len(segmented),
        "tests": {},
    }
    generated = trial.task == "mwp" and trial.data == GENERATED
    if generated and trial.mode == "direct":
        result["by_role"], result["by_entropy"] = compare_roles(writer, splits["test"])
    for name, examples in _tests(trial, splits).items():
        second_try = name == "test, second try"
        chains = writer.write([e.question for e in examples], second_try=second_try)
        scores = score_chains(trial.task, examples, chains)
        kept = {name: scores[name] for name in KEPT[trial.task]}
        result["tests"][name] = kept | {"end": scores["stop_reasons"]["end"]}
    # All floats in five decimals.
    return json.loads(json.dumps(result), parse_float=lambda text: round(float(text), 5))


# --- data ----------------------------------------------------------------------------------------
def _all_splits(trial: Trial, folder: str) -> Splits:
    if trial.data == GENERATED:
        return make_splits(trial.task, trial.problems, 300, 500, trial.seed, MAX_NUMBER)
    settings = Settings(data=f"{folder}/{trial.data}", task=trial.task, skip_bad_rows=True)
    return split_examples(read_examples(settings).examples, trial.seed)


def _tests(trial: Trial, splits: Splits) -> dict[str, list[Example]]:
    if trial.data != GENERATED:
        return {n: splits[n.split(",")[0]] for n in ("validation", "test", "test, second try")}
    tests = {name: splits[name] for name in ("validation", "test", "longer") if name in splits}
    return tests | ({f"{n} steps": problems_of(n) for n in STEPS} if trial.task == "mwp" else {})


@lru_cache
def problems_of(steps: int, n: int = 100) -> list[Example]:
    """Test problems with ``steps`` steps."""
    rng, examples = random.Random(f"length-{steps}"), []
    for i in range(n):
        question, pieces = word_problem(rng, steps, MAX_NUMBER)
        answer = "".join(text for _, text in pieces)
        examples.append(Example(f"{steps}-{i}", question, answer, tuple(pieces)))
    return examples


# --- training ------------------------------------------------------------------------------------
def _train(trial: Trial, folder: str) -> tuple[Splits, Callable, Writer, float]:
    splits = _all_splits(trial, folder)
    if trial.data != GENERATED:
        limits = {"train": trial.problems, "validation": 300, "test": 200}
        splits = {name: splits[name][:n] for name, n in limits.items()}
    cut: Callable = segment
    if trial.labels == "entropy":
        rule = Settings(segmentation="entropy", beta=trial.beta, gamma=trial.gamma)
        cut = partial(segment, settings=rule, scorer=_scorer(trial.baseline, folder))
    elif trial.labels != "interleave":
        cut = partial(cut_by, trial.labels)

    start: dict[str, Any] = {"tokenizer": Tokenizer.train(training_texts(splits), VOCABULARY)}
    if trial.pretrained:
        model, start["tokenizer"] = _pretrained(trial.task, trial.data, trial.seed, folder)
        start["initial"] = partial(copy.deepcopy, model)
    mode = {"updates": "direct", "time": "usm"}.get(trial.equal, trial.mode)
    rows = rows_by_model(mode, cut(splits["train"]), start["tokenizer"], trial.encoder)
    batches = sum(len(make_batches(own, Settings.batch_tokens, 0, 0)) for own in rows.values())
    # Pretrained, lower rates, to keep what it learned.
    rate, embedding_rate = (0.003, 0.01) if trial.pretrained else (trial.rate, trial.embedding_rate)
    settings = Settings(
        mode=trial.mode,
        encoder=trial.encoder,
        size=trial.size,
        seed=trial.seed,
        max_steps=int(trial.equal) if trial.equal.isdigit() else trial.epochs * batches,
        learning_rate=rate,
        embedding_learning_rate=embedding_rate,
        weight_decay=trial.weight_decay,
    )

    before = time.process_time()
    writer = train(splits, settings, cut=cut, **start)
    return splits, cut, writer, time.process_time() - before


@lru_cache(1)
def _scorer(direct: Trial, folder: str) -> Writer:
    return _train(direct, folder)[2]


@lru_cache(1)
def _pretrained(task: str, data: str, seed: int, folder: str) -> tuple[EncoderDecoder, Tokenizer]:
    """A model trained to write clauses left out of the training questions. It has seen no answers;
    the tokenizer has."""
    splits = _all_splits(Trial(task=task, data=data, seed=seed), folder)
    rng = random.Random(f"left-out-{seed}")
    tokenizer = Tokenizer.train(training_texts(splits), VOCABULARY)
    holed = {name: _with_holes(splits[name], rng) for name in ("train", "validation")}
    holed["validation"] = holed["validation"][:300]
    settings = Settings(mode="direct", max_steps=PRETRAINING, seed=seed)
    writer = train(holed, settings, tokenizer=tokenizer)
    return writer.models["direct"], tokenizer


def _with_holes(examples: Sequence[Example], rng: random.Random) -> list[Example]:
    """Questions with 30 % of clauses left out; those clauses, in order, are the answers."""
    holed = []
    for e in examples:
        kept, gone = "", ""
        for piece in split_pieces(e.question):
            if rng.random() >= 0.3:
                kept += piece
            else:
                gone += piece
                kept = kept.removesuffix(BLANK) + BLANK
        if gone:
            holed.append(Example(e.id, kept, gone))
    return holed
