"""A run and its folder: make one, open one, and hand the method its objects.

runs/mwp-usm/
    config.json         all settings: enough to make the same data again, and to resume
    metrics.jsonl       a line for each reported or validated step of each sub-model
    tokenizer.json
    usm.best.pt, usm.last.pt    (or direct, or esm and asm; and scorer before them)
    predictions.jsonl   each test chain, segment by segment
    results.json        the scores
"""

import hashlib
import json
import secrets
import shlex
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ases import parallel
from ases.data import Example, InputError, refuse, split_examples
from ases.extra.t5 import T5Tokenizer, load_t5, lost_characters
from ases.model import EncoderDecoder
from ases.recipe import Splits, Writer, check_lengths, training_texts
from ases.run.checkpoints import FORMAT, check_format, load_checkpoint, load_model, weights_digest
from ases.run.cli import Given, Options, choose_device, of
from ases.run.process import Lock
from ases.run.progress import say, tell
from ases.run.read import Columns, read_bytes, read_examples, read_json
from ases.run.write import check_place, write_text
from ases.settings import MODES, ModelConfig, Settings, complaints
from ases.tasks import TASKS, make_splits
from ases.tokenizer import Tokenizer

N_TRAIN, N_VALIDATION, N_TEST = 2000, 300, 500  # of generated data


@dataclass(frozen=True)
class RunConfig(Settings):
    """Settings, and what makes a run recognise its own: all that ``config.json`` holds."""

    run_id: str = ""  # its checkpoints and results carry it
    data_digest: str = ""
    scorer_digest: str = ""
    characters: str = ""  # of the training texts: what a model has seen at all
    format: int = FORMAT

    def save(self, folder: Path) -> None:
        write_text(folder / "config.json", json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "RunConfig":
        path = Path(folder) / "config.json"
        content = read_json(path, "a run folder's config.json")
        check_format(path, content)
        try:
            config = cls(**content)
            ModelConfig(**{"vocab_size": 1, **config.model})
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: not a run's settings ({error})") from None
        refuse(wrong := complaints(config), path, " | ".join(wrong))
        return config


# --- data ----------------------------------------------------------------------------------------
def load_splits(settings: Settings, whole: bool = False) -> tuple[Splits, str]:
    """The splits of a run, read or generated, and a line about them; ``whole``: a file is one
    split."""
    n_train, n_test = settings.train_problems, settings.test_problems
    if settings.data is None:
        if TASKS[settings.task].make is None:
            raise InputError(f"--task {settings.task} needs --data: it has no generated examples")
        sizes = (n_train or N_TRAIN, N_VALIDATION, n_test or N_TEST)
        splits = make_splits(settings.task, *sizes, settings.seed, settings.max_number)
        origin = f"generated {settings.task} problems, seed {settings.seed}"
    else:
        columns = Columns(settings.question_field, settings.answer_field, settings.label_field)
        dataset = read_examples(settings.data, settings.task, columns, settings.skip_bad_rows)
        splits = {"all": dataset.examples}
        if not whole:
            splits = split_examples(dataset.examples, settings.seed)
            splits["train"] = splits["train"][:n_train]
            splits["test"] = splits["test"][:n_test]
        origin = dataset.described(settings.skip_bad_rows)
    counts = ", ".join(f"{len(examples)} {name}" for name, examples in splits.items())
    return splits, f"data: {counts} ({origin})"


def pick_split(splits: Splits, name: str) -> list[Example]:
    """The examples of a split, or of ``all``."""
    if name == "all":
        return [example for examples in splits.values() for example in examples]
    if name not in splits:
        raise InputError(f"--split is {name!r}; this data has {', '.join(splits)}, all")
    return splits[name]


def data_digest(splits: Splits) -> str:
    """A fingerprint: a run notices when its file has changed."""
    hasher = hashlib.sha256()
    for name in sorted(splits):
        for e in splits[name]:
            label = "" if e.label is None else f"\0{e.label}"
            hasher.update("\0".join((name, e.id, e.question, e.answer, label)).encode())
    return hasher.hexdigest()[:16]


def own_splits(folder: Path, config: RunConfig) -> tuple[Splits, str]:
    """The splits that a run was trained on, and a line about them."""
    try:
        splits, description = load_splits(config)
    except InputError as error:
        raise InputError(f"{error}; if the file has moved, say where with --data") from None
    origin, changed = config.data or "generated data", data_digest(splits) != config.data_digest
    refuse(changed, origin, f"not the data that {folder} was trained on")
    return splits, description


# --- a run that is ready to train ----------------------------------------------------------------
@dataclass
class Run:
    """What training needs."""

    config: RunConfig
    folder: Path
    lock: Lock | None  # None in a process that does not write
    splits: Splits
    tokenizer: Tokenizer
    scorer: Writer | None
    resumed: bool

    @property
    def initial(self) -> Callable[[], EncoderDecoder] | None:
        """Makes the checkpoint's model with ``--init``; None means random weights."""
        return partial(load_t5, self.config.init) if self.config.init else None


def open_run(given: Given) -> Run:
    """Make a run's folder from the flags of train.py, or open one to resume."""
    options = of(Options, given)
    device = choose_device(options.device)
    if options.resume is not None:
        return _resume(Path(options.resume), given, device)

    config = _new_config(given, device)
    splits, description = load_splits(config)
    tell(description)
    config = replace(config, data_digest=data_digest(splits), run_id=secrets.token_hex(8))
    scorer = load_scorer(config, device)
    tokenizer = _new_tokenizer(config, splits)
    known = "" if config.init else "".join(sorted(set("".join(training_texts(splits)))))
    config = replace(config, scorer_digest=_digest(scorer), characters=known)
    check_lengths(splits, tokenizer, config.max_chain)  # next, an older run may be overwritten
    folder = Path(options.out_dir or Path("runs") / _default_name(given))
    lock = None
    if parallel.rank() == 0:
        inputs = [path for path in (config.data, config.scorer, config.init) if path]
        lock = prepare_folder(folder, options.overwrite, inputs)
        config.save(folder)  # first: a folder with it can be resumed or overwritten
        write_text(folder / "tokenizer.json", tokenizer.text())
    return Run(config, folder, lock, splits, tokenizer, scorer, resumed=False)


def _digest(scorer: Writer | None) -> str:
    return weights_digest(scorer.models["direct"].state_dict()) if scorer else ""


def _new_config(given: Given, device: str) -> RunConfig:
    changes: dict[str, Any] = {"device": device}
    # bfloat16 is fast on GPUs only; float16 would overflow in T5's feed-forward layers.
    if device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        changes["dtype"] = "bfloat16"
    if "max_minutes" in given and "max_steps" not in given:
        changes["max_steps"] = None
    for name in ("data", "scorer", "init"):  # makes --resume work from any folder
        if name in given:
            changes[name] = str(Path(given[name]).resolve())
    if "init" in given:  # what a checkpoint was trained with
        changes |= {"encoder": "bidirectional", "optimizer": "adamw"}
        changes |= {name: given[name] for name in ("encoder", "optimizer") if name in given}
        changes["model"] = asdict(load_t5(given["init"]).config)
    return of(RunConfig, given, **changes)


def _default_name(given: Given) -> str:
    """Task and mode, and all other settings that were given: two commands seldom collide."""
    parts = [given.get("task", "mwp"), given.get("mode", "usm")]
    for name, value in given.items():
        if name in ("data", "scorer", "init"):
            parts.append(Path(value).stem)
        elif name not in ("task", "mode", "device", "out_dir", "overwrite"):
            shown = name if value is True else f"{name}-{value}"
            parts.append(value if isinstance(value, str) else shown)
    return "-".join(parts).replace("_", "-")[:150]


def _resume(folder: Path, given: Given, device: str) -> Run:
    """A run as its config.json has it; the data may have moved, the budget may grow."""
    config = RunConfig.load(folder)
    lock = lock_folder(folder) if parallel.rank() == 0 else None
    for path in sorted(folder.glob("*.pt")):  # now, and not when the first model is trained
        load_checkpoint(path, config.run_id)
    if "data" in given:
        config = replace(config, data=str(Path(given["data"]).resolve()))
    splits, description = own_splits(folder, config)
    tell(description)

    longer = {name: given[name] for name in ("max_steps", "max_minutes") if name in given}
    for name, value in longer.items():
        had = getattr(config, name)
        if had is None or value < had:
            wanted = "the run has no such limit" if had is None else f"expected at least its {had}"
            raise InputError(f"--{name.replace('_', '-')} is {value} with --resume; {wanted}")
    config = replace(config, device=device, **longer)

    path = folder / "tokenizer.json"  # there is none if it was stopped at its very beginning
    tokenizer = _load_tokenizer(folder, config) if path.exists() else _new_tokenizer(config, splits)
    scorer = load_scorer(config, device)
    anew = f"trained anew since it labelled the chains of {folder}"
    refuse(_digest(scorer) != config.scorer_digest, config.scorer, anew)
    if longer and (folder / "scorer.best.pt").exists() and config.max_rounds is not None:
        # Trained longer, the run's own scorer would change the labels.
        model = load_model(folder / "scorer.best.pt", device, config.run_id)
        scorer = Writer(config, tokenizer, {"direct": model})
    if lock:
        config.save(folder)
        if not path.exists():
            write_text(path, tokenizer.text())
    return Run(config, folder, lock, splits, tokenizer, scorer, resumed=True)


def _new_tokenizer(config: RunConfig, splits: Splits) -> Tokenizer:
    texts = training_texts(splits)
    if config.init is None:
        return Tokenizer.train(texts, config.vocab_size)
    tokenizer = _load_tokenizer(Path(config.init), config)
    share, lost = lost_characters(tokenizer, texts)
    examples = ": " + " ".join(repr(c) for c in lost[:20]) if lost else ""
    path = Path(config.init) / "tokenizer.json"
    tell(f"{path}: {share:.2%} of the training characters cannot be written{examples}")
    return tokenizer


def _load_tokenizer(folder: Path, config: RunConfig) -> Tokenizer:
    path = folder / "tokenizer.json"
    if config.init is None:
        return Tokenizer.load(path)
    tokenizer = T5Tokenizer.load(path)
    tokenizer.set_rows(config.model["vocab_size"], path)
    return tokenizer


# --- folders -------------------------------------------------------------------------------------
def prepare_folder(folder: Path, overwrite: bool, inputs: Sequence[str] = ()) -> Lock:
    """Make a run's folder; with ``overwrite``, empty an older run's. None of the new run's
    ``inputs`` may lie there. The lock keeps other commands out."""
    used = folder.exists()
    if used and folder.is_dir():
        used = not set(folder.iterdir()) <= set(_leftovers(folder))
    if used:
        other = "choose another --out-dir"
        try:
            RunConfig.load(folder)
        except InputError:
            refuse(True, folder, f"exists and is no run folder of this version; {other}")
        resume = f"--resume {shlex.quote(str(folder))}"
        refuse(not overwrite, folder, f"holds a run already; {other}, --overwrite, or {resume}")
    for path in inputs:
        inside = Path(path).resolve().is_relative_to(folder.resolve())
        refuse(inside, path, f"lies in {folder}; choose another --out-dir")
    check_place(folder / "config.json")
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder)
    if used:
        _empty(folder)
    return lock


def lock_folder(folder: Path) -> Lock:
    """Keep other commands out, and remove what a killed one had begun to write."""
    lock = Lock(folder)
    for path in _leftovers(folder):
        path.unlink(missing_ok=True)
    return lock


def _leftovers(folder: Path) -> list[Path]:
    files = _files_of_a_run(folder)
    return [path for file in files for path in file.parent.glob(f".{file.name}.*.tmp")]


def discard_folder(folder: Path) -> None:
    """Remove a run in which nothing was trained."""
    _empty(folder)
    if not any(folder.iterdir()):
        folder.rmdir()


def _empty(folder: Path) -> None:
    """Remove a run's files, and folders of evaluations that held nothing else."""
    for path in _files_of_a_run(folder):
        path.unlink(missing_ok=True)
    for evaluation in _evaluations(folder):
        if not any(evaluation.iterdir()):
            evaluation.rmdir()


def _evaluations(folder: Path) -> list[Path]:
    # A link leads elsewhere.
    return [path for path in folder.glob("eval-*") if path.is_dir() and not path.is_symlink()]


def _files_of_a_run(folder: Path) -> list[Path]:
    names = ["config.json", "metrics.jsonl", "tokenizer.json"]
    for model in ["scorer", *(name for sub_models in MODES.values() for name in sub_models)]:
        names += [f"{model}.best.pt", f"{model}.last.pt"]
    outputs = "predictions.jsonl results.json predictions-longer.jsonl results-longer.json".split()
    evaluated = [place / name for place in _evaluations(folder) for name in outputs]
    return [folder / name for name in names + outputs] + evaluated


# --- trained runs --------------------------------------------------------------------------------
def load_run(folder: str | Path, device: str = "cpu") -> Writer:
    """A trained run, ready to write chains; its ``settings`` are the run's ``RunConfig``.

    Raises InputError: not a run folder, or a damaged one.
    """
    folder = Path(folder)
    config = RunConfig.load(folder)
    tokenizer = _load_tokenizer(folder, config)
    begun = config.max_tokens is not None and config.max_rounds is not None
    refuse(not begun, folder / "config.json", "the run's training has not begun")
    writer = Writer(config, tokenizer, {})
    for name in MODES[config.mode]:
        path = folder / f"{name}.best.pt"
        model = writer.models[name] = load_model(path, device, config.run_id)
        rows, ids = model.config.vocab_size, tokenizer.vocab_size
        told = f"a vocabulary of {rows}, but tokenizer.json has {ids}"
        refuse(config.init is None and rows != ids, path, told)
    return writer


def load_scorer(settings: Settings, device: str) -> Writer | None:
    """The direct run ``settings.scorer``, if there is one; tells what speaks against it."""
    if settings.scorer is None:
        return None
    scorer = load_run(settings.scorer, device)
    own: Any = scorer.settings
    told = f"a run of mode {own.mode}; --scorer needs a direct one"
    refuse(own.mode != "direct", settings.scorer, told)
    if own.task != settings.task:
        trained = f"{settings.scorer} was trained for --task {own.task}"
        say(f"note: {trained}; its entropies say little of {settings.task} chains")
    if getattr(settings, "data_digest", own.data_digest) != own.data_digest:
        told = "it may have seen this run's test examples"
        say(f"note: {settings.scorer} was trained on other data; {told}")
    return scorer


# --- evaluations ---------------------------------------------------------------------------------
def examples_for(
    folder: Path, config: RunConfig, changes: dict[str, Any], split: str | None
) -> tuple[list[Example], str, str, list[Example] | None]:
    """A split of the run's own data, by default "test"; or of another file, by default all of it.

    ``changes``: of the run's settings of data. A file that holds the run's own data, which has
    moved, is split as the run split it. Returns the examples, the split, a line about them, and the
    run's own training split; None if that is gone.
    """
    moved, own = replace(config, **changes), None
    if "data" not in changes:
        own = own_splits(folder, config)
    elif config.data is not None:
        with suppress(InputError):  # another file, then
            own = own_splits(folder, moved)
    if own:
        splits, description = own
        split, trained_on = split or "test", splits["train"]
    else:
        split, trained_on = split or "all", None
        whole = replace(moved, train_problems=None, test_problems=None)
        splits, description = load_splits(whole, split == "all")
        with suppress(InputError):
            trained_on = own_splits(folder, config)[0]["train"]
    return pick_split(splits, split), split, description, trained_on


def evaluation_folders(
    writers: dict[Path, Writer], names: dict[Path, str], out_dir: str | None, overwrite: bool
) -> dict[Path, Path]:
    """Where each run's evaluation goes, by default into its own folder; or its answers, which have
    no names. Makes nothing yet. Results there may be replaced if the same run wrote them."""
    places: dict[Path, Path] = {}
    for run, writer in writers.items():
        place = run / names.get(run, "")
        if out_dir:
            place = Path(out_dir) / (run.resolve().name if len(writers) > 1 else "")
        link, own = not out_dir and place.is_symlink(), place.resolve() == run.resolve()
        refuse(link, place, "a link; remove it, or choose an --out-dir")
        refuse(own, place, "holds the run's own results; choose another --out-dir")
        refuse(place in places.values(), place, "for two folders of one name; leave --out-dir out")
        config: Any = writer.settings
        files = [place / "results.json", place / "predictions.jsonl"]
        may_replace = overwrite or (names and _wrote(config.run_id, *files))
        told = "holds results already; choose another --out-dir, or pass --overwrite"
        refuse(any(path.exists() for path in files) and not may_replace, place, told)
        check_place(files[0])
        places[run] = place
    return places


def _wrote(owner: str, results: Path, predictions: Path) -> bool:
    """Are these a run's own, and nobody has changed the predictions since?"""
    try:
        found = read_json(results, "results")
        digest = hashlib.sha256(read_bytes(predictions, "")).hexdigest()
        return (found["run"], found["predictions_digest"]) == (owner, digest)
    except (InputError, LookupError, TypeError):
        return False
