"""A run: its settings and its folder on disk.

runs/mwp-usm-interleave/
    config.json         all settings, enough to make the same data again and to resume
    metrics.jsonl       a line for each reported or validated step of each sub-model
    tokenizer.json
    usm.best.pt, usm.last.pt    (or direct, or esm and asm, and scorer before them)
    predictions.jsonl   each test chain, segment by segment
    results.json        the scores
"""

import hashlib
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from ases.config import MODES
from ases.data import Example, InputError, split_examples
from ases.recipe import ChainWriter, Scorer, Splits
from ases.run.checkpoints import load_model
from ases.run.config import N_TEST, N_TRAIN, N_VALIDATION, DataSettings, RunConfig
from ases.run.files import check_place, read_bytes, read_examples, read_json
from ases.run.interrupt import Lock
from ases.tasks import make_splits
from ases.tokenizer import SentinelTokenizer, Tokenizer

# --- data ----------------------------------------------------------------------------------------


def load_splits(settings: DataSettings, whole: bool = False) -> tuple[Splits, str]:
    """The splits of a run, read or generated, and a line that says what they are; a ``whole`` file
    is one split."""
    n_train, n_test = settings.train_problems, settings.test_problems
    if settings.data is None:
        try:
            splits = make_splits(
                settings.task,
                n_train or N_TRAIN,
                N_VALIDATION,
                n_test or N_TEST,
                settings.seed,
                settings.max_number,
            )
        except ValueError as error:
            raise InputError(f"--train-problems or --test-problems: {error}") from None
        origin = f"generated {settings.task} problems, seed {settings.seed}"
    else:
        dataset = read_examples(
            settings.data, settings.task, settings.columns, settings.skip_bad_rows
        )
        if whole:
            splits = {"all": dataset.examples}
        else:
            splits = split_examples(dataset.examples, settings.seed)
            splits["train"] = splits["train"][:n_train]
            splits["test"] = splits["test"][:n_test]
        origin = dataset.described(settings.skip_bad_rows)
    sizes = ", ".join(f"{len(examples)} {name}" for name, examples in splits.items())
    return splits, f"data: {sizes} ({origin})"


def pick_split(splits: Splits, name: str) -> list[Example]:
    """The examples of one split, or of ``all``."""
    if name == "all":
        return [example for examples in splits.values() for example in examples]
    if name not in splits:
        raise InputError(f"--split is {name!r}; expected one of {', '.join(splits)}, all")
    return splits[name]


def data_digest(splits: Splits) -> str:
    """A fingerprint of the data, so that a run notices when its file has changed."""
    hasher = hashlib.sha256()
    for name in sorted(splits):
        for e in splits[name]:
            label = "" if e.label is None else f"\0{e.label}"
            hasher.update("\0".join((name, e.id, e.question, e.answer, label)).encode())
    return hasher.hexdigest()[:16]


# --- folders -------------------------------------------------------------------------------------


def prepare_folder(folder: Path, overwrite: bool, inputs: Sequence[str] = ()) -> Lock:
    """Make a run's folder, and with ``overwrite`` empty an older run's of its files. Nothing that
    the new run reads, ``inputs``, may lie there.

    Returns:
        the lock that keeps other commands out.
    """
    used = folder.exists()
    if used and folder.is_dir():
        used = bool(set(folder.iterdir()) - set(_leftovers(folder)))
    if used:
        try:
            RunConfig.load(folder)
        except InputError:
            told = "exists and is no run folder of this version; choose another --out-dir"
            raise InputError(f"{folder}: {told}") from None
        if not overwrite:
            resume = f"--resume {shlex.quote(str(folder))}"
            told = f"holds a run already; choose another --out-dir, --overwrite, or {resume}"
            raise InputError(f"{folder}: {told}")
    for path in map(Path, inputs):
        if path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{path}: lies in {folder}; choose another --out-dir")
    check_place(folder / "config.json")
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder)
    if used:
        _empty(folder)
    return lock


def lock_folder(folder: Path) -> Lock:
    """Keep other commands out, and take away what one that was killed had begun to write."""
    lock = Lock(folder)
    for path in _leftovers(folder):
        path.unlink(missing_ok=True)
    return lock


def _leftovers(folder: Path) -> list[Path]:
    """What ``ases.run.files.whole_file`` had begun when it was killed."""
    return [
        path for file in _files_of_a_run(folder) for path in file.parent.glob(f".{file.name}.*.tmp")
    ]


def discard_folder(folder: Path) -> None:
    """Take away a run in which nothing was trained."""
    _empty(folder)
    if not any(folder.iterdir()):
        folder.rmdir()


def _empty(folder: Path) -> None:
    """Take away all files of a run, and the folders of evaluations that held nothing else."""
    for path in _files_of_a_run(folder):
        path.unlink(missing_ok=True)
    for evaluation in _evaluations(folder):
        if not any(evaluation.iterdir()):
            evaluation.rmdir()


def _evaluations(folder: Path) -> list[Path]:
    """The folders of a run's evaluations; a link leads elsewhere."""
    return [path for path in folder.glob("eval-*") if path.is_dir() and not path.is_symlink()]


def _files_of_a_run(folder: Path) -> list[Path]:
    names = ["config.json", "metrics.jsonl", "tokenizer.json"]
    for model in ["scorer", *(name for sub_models in MODES.values() for name in sub_models)]:
        names += [f"{model}.best.pt", f"{model}.last.pt"]
    outputs = "predictions.jsonl results.json predictions-longer.jsonl results-longer.json".split()
    evaluated = [place / name for place in _evaluations(folder) for name in outputs]
    return [folder / name for name in names + outputs] + evaluated


def load_run(folder: str | Path, device: str = "cpu") -> ChainWriter:
    """A trained run, ready to write chains; its ``recipe`` is the run's ``RunConfig``."""
    folder = Path(folder)
    config = RunConfig.load(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    if config.max_tokens is None or config.max_rounds is None:
        told = "no max_tokens or max_rounds; expected a run whose training has begun"
        raise InputError(f"{folder / 'config.json'}: {told}")
    writer = ChainWriter(config, tokenizer, {})
    for name in MODES[config.mode]:
        path = folder / f"{name}.best.pt"
        writer.models[name] = load_model(path, device, config.run_id)
        check_vocabulary(
            path, writer.models[name].config.vocab_size, folder / "tokenizer.json", tokenizer
        )
    return writer


def check_vocabulary(
    model_path: Path, embeddings: int, tokenizer_path: Path, tokenizer: Tokenizer
) -> None:
    """T5's embeddings are rounded up beyond the tokenizer's ids, and mT5's tokenizer may have more
    ids than they have rows; ours are exactly as many."""
    fits = tokenizer.vocab_size == embeddings
    if isinstance(tokenizer, SentinelTokenizer):
        fits = max(tokenizer.special_ids) < embeddings
        tokenizer.rows = embeddings
    if not fits:
        told = f"a vocabulary of {embeddings}; expected {tokenizer.vocab_size}"
        raise InputError(f"{model_path}: {told}, as in {tokenizer_path}")


def load_scorer(folder: str | Path, device: str = "cpu") -> tuple[Scorer, RunConfig]:
    """The direct model of a run, as ``ases.recipe.segment`` wants it, and the run's settings."""
    writer = load_run(folder, device)
    config = cast(RunConfig, writer.recipe)
    if config.mode != "direct":
        told = f"a run of mode {config.mode}; expected a direct one as --scorer"
        raise InputError(f"{folder}: {told}")
    return Scorer(writer.models["direct"], writer.tokenizer, config.max_question), config


def scorer_note(folder: str | Path, config: RunConfig, task: str) -> str:
    """What to say of a scorer that was trained for another task; "" if it was not."""
    if config.data.task == task:
        return ""
    trained = f"{folder} was trained for --task {config.data.task}"
    return f"note: {trained}; its entropies say little of {task} chains"


# --- evaluations ---------------------------------------------------------------------------------


def own_splits(folder: Path, config: RunConfig) -> tuple[Splits, str]:
    """The splits that a run was trained on, and a line that says what they are."""
    try:
        splits, description = load_splits(config.data)
    except InputError as error:
        raise InputError(f"{error}; if the file has moved, say where with --data") from None
    if data_digest(splits) != config.data_digest:
        origin = config.data.data or "the generated data of this version"
        told = f"not the data that {folder} was trained on; expected the same examples"
        raise InputError(f"{origin}: {told}")
    return splits, description


@dataclass
class Asked:
    """What a run is to be scored on."""

    examples: list[Example]
    split: str
    description: str
    trained_on: list[Example] | None  # its own training split; None if that is gone


def examples_for(
    folder: Path, config: RunConfig, changes: dict[str, Any], split: str | None
) -> Asked:
    """What a run is evaluated on: a split of its own data, by default "test", or another file, by
    default all of it, if ``changes`` name one.

    A file that holds the run's own data, which has moved, is split as the run has split it.
    ``changes``: of the run's ``DataSettings``.
    """
    moved, own = replace(config.data, **changes), None
    if "data" not in changes:
        own = own_splits(folder, config)
    elif config.data.data is not None:
        with suppress(InputError):  # another file, then
            own = own_splits(folder, replace(config, data=moved))
    if own:
        splits, description = own
        split, trained_on = split or "test", splits["train"]
    else:
        split, trained_on = split or "all", None
        whole = replace(moved, train_problems=None, test_problems=None)
        splits, description = load_splits(whole, split == "all")
        with suppress(InputError):
            trained_on = own_splits(folder, config)[0]["train"]
    return Asked(pick_split(splits, split), split, description, trained_on)


def evaluation_folder(
    run: Path, owner: str | None, name: str, out_dir: Path | None, overwrite: bool
) -> Path:
    """Where an evaluation of a run goes, ``name`` in its folder by default; nothing is made yet.

    Results there that the run ``owner`` wrote before may be replaced.
    """
    place = out_dir or run / name
    if out_dir is None and place.is_symlink():
        raise InputError(f"{place}: a link; remove it, or choose an --out-dir")
    if place.resolve() == run.resolve():
        reason = "the run's own results lie there; expected another --out-dir"
        raise InputError(f"{place}: {reason}")
    written = [place / "results.json", place / "predictions.jsonl"]
    if any(path.exists() for path in written) and not (overwrite or _wrote(owner, *written)):
        reason = "holds results already; expected another --out-dir, or --overwrite"
        raise InputError(f"{place}: {reason}")
    check_place(place / "results.json")
    return place


def _wrote(owner: str | None, results: Path, predictions: Path) -> bool:
    """Whether these are a run's own, and nobody has changed the predictions since."""
    try:
        found = read_json(results, "results")
        digest = hashlib.sha256(read_bytes(predictions)).hexdigest()
        return (found["run"], found["predictions_digest"]) == (owner, digest)
    except (InputError, OSError, LookupError, TypeError):
        return False
