"""Run folders: create, resume, load.

runs/mwp-usm/
    config.json         all settings: enough to regenerate the data and resume
    metrics.jsonl       a line per reported or validated step of a sub-model
    tokenizer.json
    usm.best.pt, usm.last.pt    (or direct, or esm and asm; and scorer before them)
    predictions.jsonl   each test chain, segment by segment
    results.json        the scores
"""

import hashlib
import json
import os
import secrets
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path

import torch

from ases import parallel
from ases.data import Example, InputError, refuse_if, split_examples
from ases.extra.t5 import T5Tokenizer, load_t5, lost_characters
from ases.metrics import words_of
from ases.model import EncoderDecoder
from ases.recipe import Splits, Writer, check_same_eos, training_texts
from ases.run.checkpoints import (
    FORMAT,
    Recorder,
    check_format,
    load_checkpoint,
    load_model,
    outputs_of,
    save_checkpoint,
    weights_digest,
)
from ases.run.cli import Given, Options, from_flags
from ases.run.process import Interrupted, Lock
from ases.run.progress import print_line, print_note
from ases.run.read import data_notes, read_examples, read_json
from ases.run.write import check_new, check_place, write_text
from ases.settings import MODES, ModelConfig, Settings, complaints
from ases.tasks import TASKS, make_splits
from ases.tokenizer import Tokenizer
from ases.training import usable_device


@dataclass(frozen=True)
class RunConfig:
    """The content of ``config.json``: settings, and what identifies a run's files."""

    settings: Settings
    run_id: str = field(default_factory=lambda: secrets.token_hex(8))
    data_digest: str = ""  # of all splits; "" if a run does not know its data
    scorer_digest: str = ""  # of the weights that measured entropy
    words: str = ""  # that occur in the training texts

    def save(self, folder: Path) -> None:
        content = asdict(self.settings) | vars(self) | {"format": FORMAT}
        del content["settings"]
        write_text(folder / "config.json", json.dumps(content, indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "RunConfig":
        path = Path(folder) / "config.json"
        content = read_json(path, "a run folder's config.json")
        check_format(path, content)
        try:
            del content["format"]
            identity = {f.name: content.pop(f.name) for f in fields(cls)[1:]}
            settings = Settings(**content)
            ModelConfig(**{"vocab_size": 10**7, **settings.model})
        except (KeyError, ValueError, TypeError) as error:
            raise InputError(f"{path}: not a run's settings ({error})") from None
        wrong = complaints(settings)
        wrong += [
            f"{name} is not a text" for name, text in identity.items() if type(text) is not str
        ]
        refuse_if(wrong, path, " | ".join(wrong))
        return cls(settings, **identity)


# --- data ----------------------------------------------------------------------------------------
def load_splits(settings: Settings, whole: bool = False) -> tuple[Splits, str]:
    """Read or generate splits, with a line about them; ``whole``: leave a file in one split."""
    n_train, n_test = settings.train_problems, settings.test_problems
    if settings.data is None:
        if TASKS[settings.task].make is None:
            raise InputError(f"--task {settings.task} needs --data: it has no generated examples")
        sizes = (n_train or 8000, 300, n_test or 500)
        splits = make_splits(settings.task, *sizes, settings.seed, settings.max_number)
        origin = f"generated {settings.task} problems, seed {settings.seed}"
    else:
        dataset = read_examples(settings)
        splits = {"all": dataset.examples}
        if not whole:
            splits = split_examples(dataset.examples, settings.seed)
            splits["train"] = splits["train"][:n_train]
            splits["test"] = splits["test"][:n_test]
        origin = dataset.described()
    counts = ", ".join(f"{len(examples)} {name}" for name, examples in splits.items())
    return splits, f"data: {counts} ({origin})"


def pick_split(splits: Splits, name: str) -> list[Example]:
    """The examples of a split; "all" joins all splits."""
    everything = {**splits, "all": [e for examples in splits.values() for e in examples]}
    refuse_if(name not in everything, "--split", f"{name!r}; this data has {', '.join(everything)}")
    return everything[name]


def data_digest(splits: Splits) -> str:
    """A fingerprint that detects changed data."""
    hasher = hashlib.sha256()
    for name in sorted(splits):
        for e in splits[name]:
            label = "" if e.label is None else f"\0{e.label}"
            hasher.update("\0".join((name, e.id, e.question, e.answer, label)).encode())
    return hasher.hexdigest()[:16]


def splits_of(folder: Path, config: RunConfig) -> tuple[Splits, str]:
    """The splits of a run, with a line about them. Raises InputError: the data has changed."""
    message = "trained in Python without a data file; use --data to say what to score"
    refuse_if(not config.data_digest, folder, message)
    try:
        splits, description = load_splits(config.settings)
    except InputError as error:
        raise InputError(f"{error}; if the file has moved, pass its new path with --data") from None
    origin = config.settings.data or "generated data"
    changed = data_digest(splits) != config.data_digest
    refuse_if(changed, origin, f"not the data that {folder} was trained on")
    return splits, description


@dataclass
class Run:
    """An open run folder."""

    folder: Path
    config: RunConfig
    writer: Writer | None = None  # None until it is trained
    # Set by ``open_run``, for training:
    lock: Lock | None = None  # on rank 0 only
    splits: Splits = field(default_factory=dict)
    tokenizer: Tokenizer | None = None
    scorer: Writer | None = None
    initial: Callable[[], EncoderDecoder] | None = None  # loads the T5 model to start from
    recorder: Recorder | None = None


# --- a run that is ready to train ----------------------------------------------------------------


def open_run(given: Given) -> Run:
    """Create or resume a run, from the flags of train.py."""
    options, device = from_flags(Options, given), usable_device(given.get("device", "auto"))
    resumed, lock = options.resume is not None, None
    folder = Path(options.resume or options.out_dir or Path("runs") / _default_name(given))
    if resumed:
        config, lock = _old_config(folder, given)
        splits, description = splits_of(folder, config)
    else:
        config = RunConfig(_new_settings(given, device))
        splits, description = load_splits(config.settings)
    print_line(description)
    settings = replace(config.settings, device=device)
    config = replace(config, settings=settings, data_digest=data_digest(splits))
    for note in data_notes(pick_split(splits, "all"), settings):
        print_line(note)
    scorer = load_scorer(settings, config.data_digest)
    digest = weights_digest(scorer.models["direct"].state_dict()) if scorer else ""
    path = folder / "tokenizer.json"
    known = resumed and path.exists()  # not if it stopped at once
    tokenizer = _load_tokenizer(folder, settings) if known else _new_tokenizer(settings, splits)

    if resumed:
        anew = f"retrained after it labelled the chains of {folder}"
        refuse_if(digest != config.scorer_digest, settings.scorer, anew)
        longer = {"max_steps", "max_minutes"} & given.keys()
        if longer and (folder / "scorer.best.pt").exists() and settings.max_rounds is not None:
            # Training the run's own scorer longer would change the labels.
            model = load_model(folder / "scorer.best.pt", device, config.run_id)
            scorer = Writer(settings, tokenizer, {"direct": model})
    else:
        text = "" if settings.init else " ".join(training_texts(splits))
        # Each word once: telling letters from marks takes time.
        words = " ".join(sorted({word for part in set(text.split()) for word in words_of(part)}))
        config = replace(config, scorer_digest=digest, words=words)
        if parallel.rank() == 0:
            lock = prepare_folder(folder, options.overwrite, settings)
    if lock:
        config.save(folder)  # first: a folder with it can be resumed or overwritten
        if not known:
            write_text(path, tokenizer.text())
    initial = partial(load_t5, settings.init) if settings.init else None
    recorder = Recorder(folder, resumed, config)
    return Run(folder, config, None, lock, splits, tokenizer, scorer, initial, recorder)


@contextmanager
def orderly_exit(run: Run) -> Iterator[None]:
    """While a run trains, signals wait for a checkpoint. Mistakes and Ctrl-C say what is saved; a
    folder in which nothing was trained is emptied."""
    if run.lock:
        run.recorder.signals.install()
    try:
        yield
    except (InputError, FloatingPointError, Interrupted) as error:
        if run.lock and not run.recorder.resume and not list(run.folder.glob("*.pt")):
            empty_folder(run.folder)
            with suppress(OSError):  # it holds other files
                run.folder.rmdir()
        if isinstance(error, InputError):
            raise
        saved = run.recorder.saved or "nothing new is saved"
        if isinstance(error, FloatingPointError):
            raise InputError(f"{error} ({saved})") from None
        if (run.folder / "config.json").exists():
            saved += f". Continue with: python train.py --resume {shlex.quote(str(run.folder))}"
        raise Interrupted(f"stopped; {saved}", error.args[1]) from None


def _old_config(folder: Path, given: Given) -> tuple[RunConfig, Lock | None]:
    """Lock a run's folder and apply what --resume may change: the data's path, a larger budget."""
    config, lock = RunConfig.load(folder), None
    if parallel.rank() == 0:
        lock = Lock(folder)
        for path in _leftovers(folder):
            path.unlink(missing_ok=True)
    for path in sorted(folder.glob("*.pt")):  # fail now, not after training another model
        load_checkpoint(path, config.run_id)
    changes: Given = {n: given[n] for n in ("max_steps", "max_minutes") if n in given}
    for name, value in changes.items():
        had = getattr(config.settings, name)
        if had is None or value < had:
            wanted = "this run has no such limit" if had is None else f"expected at least its {had}"
            raise InputError(f"--{name.replace('_', '-')} is {value} with --resume; {wanted}")
    if "data" in given:
        changes["data"] = os.path.realpath(given["data"])
    return replace(config, settings=replace(config.settings, **changes)), lock


def _new_settings(given: Given, device: str) -> Settings:
    new: Given = {"max_steps": None} if "max_minutes" in given else {}
    if "init" in given:  # defaults that suit a T5 checkpoint
        config = load_t5(given["init"]).config
        new |= {"encoder": "bidirectional", "optimizer": "adamw", "model": asdict(config)}
    # bfloat16 is fast on GPUs only; float16 would overflow in T5's feed-forward layers.
    if device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        new["dtype"] = "bfloat16"
    # Absolute paths make --resume work from any folder.
    paths = {n: os.path.realpath(given[n]) for n in ("data", "scorer", "init") if n in given}
    return from_flags(Settings, new | given | paths)


def _default_name(given: Given) -> str:
    """Task, mode and all other given settings, so that names seldom collide."""
    parts = [given.get("task", "mwp"), given.get("mode", "usm")]
    for name, value in sorted(given.items()):  # whatever the order of the flags
        if name in ("data", "scorer", "init"):
            parts.append(Path(value).stem)
        elif name == "model":
            parts += [f"{field}-{size}" for field, size in value.items()]
        elif name not in ("task", "mode", "device", "out_dir", "overwrite"):
            shown = name if value is True else f"{name}-{value}"
            parts.append(value if isinstance(value, str) else shown)
    return "-".join(parts).replace("_", "-")[:150]


def _new_tokenizer(settings: Settings, splits: Splits) -> Tokenizer:
    texts = training_texts(splits)
    if settings.init is None:
        return Tokenizer.train(texts, settings.vocab_size)
    tokenizer = _load_tokenizer(Path(settings.init), settings)
    share, lost = lost_characters(tokenizer, texts)
    examples = ": " + " ".join(repr(c) for c in lost[:20]) if lost else ""
    path = Path(settings.init) / "tokenizer.json"
    message = "of the training characters are not in its vocabulary"
    print_line(f"{path}: {share:.2%} {message}{examples}")
    return tokenizer


def _load_tokenizer(folder: Path, settings: Settings) -> Tokenizer:
    path = folder / "tokenizer.json"
    if settings.init is None:
        return Tokenizer.load(path)
    tokenizer = T5Tokenizer.load(path)
    tokenizer.set_rows(settings.model["vocab_size"], path)
    return tokenizer


# --- folders -------------------------------------------------------------------------------------
def prepare_folder(folder: Path, overwrite: bool, settings: Settings) -> Lock:
    """Create and lock a run's folder; with ``overwrite``, empty an older run's. Raises InputError:
    the folder is in use, or the new run reads something in it."""
    check_place(folder / "config.json")
    folder.mkdir(parents=True, exist_ok=True)
    lock = Lock(folder)
    if not set(folder.iterdir()) <= set(_leftovers(folder)):
        other = "choose another --out-dir"
        try:
            RunConfig.load(folder)
        except InputError:
            refuse_if(True, folder, f"exists, but is not a run folder of this version; {other}")
        refuse_if(not overwrite, folder, f"already holds a run; {other}, --overwrite or --resume")
        for path in filter(None, (settings.data, settings.scorer, settings.init)):
            inside = Path(path).is_relative_to(folder.resolve())
            refuse_if(inside, path, f"lies in {folder}; {other}")
    empty_folder(folder)
    return lock


def empty_folder(folder: Path) -> None:
    """Remove a run's files, and evaluation folders that are then empty."""
    files = _files_of_a_run(folder) + _leftovers(folder)
    for path in files:
        path.unlink(missing_ok=True)
    for evaluation in {path.parent for path in files} - {folder}:
        with suppress(OSError):  # it holds other files
            evaluation.rmdir()


def _leftovers(folder: Path) -> list[Path]:
    """Temporary files of killed commands."""
    files = _files_of_a_run(folder)
    return [path for file in files for path in file.parent.glob(f".{file.name}.*.tmp")]


def _files_of_a_run(folder: Path) -> list[Path]:
    names = ["config.json", "metrics.jsonl", "tokenizer.json"]
    for model in ["scorer", *(name for sub_models in MODES.values() for name in sub_models)]:
        names += [f"{model}.best.pt", f"{model}.last.pt"]
    return [folder / name for name in names] + outputs_of(folder)


# --- trained runs --------------------------------------------------------------------------------
def save_run(writer: Writer, folder: Path) -> None:
    """Write what Python has trained, as a run whose data and words are not known: evaluate.py needs
    --data."""
    config = RunConfig(replace(writer.settings, data=None))
    check_new(folder)
    config.save(folder)
    write_text(folder / "tokenizer.json", writer.tokenizer.text())
    for name, model in writer.models.items():
        content = {"config": asdict(model.config), "model": model.state_dict()}
        save_checkpoint(folder / f"{name}.best.pt", config.run_id, content)


def load_run(folder: str | Path, device: str = "auto") -> Writer:
    """Load a trained run. Raises InputError: no intact run."""
    return open_trained(Path(folder), device).writer


def open_trained(folder: Path, device: str = "auto") -> Run:
    """A trained run. Raises InputError: no intact run."""
    config = RunConfig.load(folder)
    settings, tokenizer = config.settings, _load_tokenizer(folder, config.settings)
    begun = settings.max_tokens is not None and settings.max_rounds is not None
    refuse_if(not begun, folder / "config.json", "the run's training has not begun")
    writer = Writer(settings, tokenizer, {})
    for name in MODES[settings.mode]:
        path = folder / f"{name}.best.pt"
        model = writer.models[name] = load_model(path, device, config.run_id)
        rows, ids = model.config.vocab_size, tokenizer.vocab_size
        message = f"a vocabulary of {rows}, but tokenizer.json has {ids}"
        refuse_if(settings.init is None and rows != ids, path, message)
        check_same_eos(model, tokenizer, str(path))
    return Run(folder, config, writer)


def load_scorer(settings: Settings, digest: str | None = None) -> Writer | None:
    """Load the direct run ``settings.scorer``, if set; note another task or, with the
    ``data_digest`` of the chains to label, other data."""
    if settings.scorer is None:
        return None
    scorer = open_trained(Path(settings.scorer), settings.device)
    task, mode = scorer.config.settings.task, scorer.config.settings.mode
    message = f"a run of mode {mode}; --scorer needs a direct one"
    refuse_if(mode != "direct", settings.scorer, message)
    if task != settings.task:
        message = f"its entropies say little about {settings.task} chains"
        print_note(f"note: {settings.scorer} was trained for --task {task}; {message}")
    if digest not in (None, scorer.config.data_digest):
        message = "it may have seen this run's test examples"
        print_note(f"note: {settings.scorer} was trained on other data; {message}")
    return scorer.writer
