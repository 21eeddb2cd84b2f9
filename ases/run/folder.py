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
from ases.data import Example, InputError, split_examples
from ases.extra.t5 import T5Tokenizer, load_t5, lost_characters
from ases.model import EncoderDecoder
from ases.recipe import Scorer, Splits, Writer, check_lengths, training_texts
from ases.run.checkpoints import FORMAT, check_format, load_checkpoint, load_model, weights_digest
from ases.run.cli import Given, Options, choose_device, of
from ases.run.process import Lock
from ases.run.progress import tell
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
        """Write ``config.json``."""
        write_text(folder / "config.json", json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "RunConfig":
        """Read ``config.json``."""
        path = Path(folder) / "config.json"
        content = read_json(path, "a run folder's config.json")
        check_format(path, content)
        try:
            config = cls(**content)
            ModelConfig(**{"vocab_size": 1, **config.model})
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: not a run's settings ({error})") from None
        wrong = complaints(config)
        if config.max_steps is None and config.max_minutes is None:
            wrong.append("neither max_steps nor max_minutes is set; expected a budget")
        if wrong:
            raise InputError(f"{path}: {' | '.join(wrong)}")
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
        try:
            splits = make_splits(settings.task, *sizes, settings.seed, settings.max_number)
        except ValueError as error:
            raise InputError(f"--train-problems or --test-problems: {error}") from None
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
    if data_digest(splits) != config.data_digest:
        origin = config.data or "this version's generated data"
        raise InputError(f"{origin}: not the data that {folder} was trained on")
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
    resumed: bool
    scorer: Scorer | None
    initial: Callable[[], EncoderDecoder] | None  # a checkpoint's model; None: random weights


def open_run(given: Given, say: Callable[[str], None] = tell) -> Run:
    """Make a run's folder from the flags of train.py, or open one to resume."""
    options = of(Options, given)
    device = choose_device(options.device)
    if options.resume is not None:
        return _resume(Path(options.resume), given, device, say)

    config = _new_config(given, device)
    splits, description = load_splits(config)
    say(description)
    config = replace(config, data_digest=data_digest(splits), run_id=secrets.token_hex(8))
    scorer = _scorer(config, device, say)
    if scorer:
        config = replace(config, scorer_digest=weights_digest(scorer.model.state_dict()))
    tokenizer = _new_tokenizer(config, splits, say)
    if config.init is None:
        config = replace(config, characters="".join(sorted(set("".join(training_texts(splits))))))
    try:  # now: next, an older run may be overwritten
        check_lengths(splits, tokenizer, config.max_chain)
    except ValueError as error:
        raise InputError(str(error)) from None
    folder = Path(options.out_dir or Path("runs") / _default_name(given))
    lock = None
    if parallel.rank() == 0:
        inputs = [path for path in (config.data, config.scorer, config.init) if path]
        lock = prepare_folder(folder, options.overwrite, inputs)
        config.save(folder)  # first: a folder with it can be resumed or overwritten
        write_text(folder / "tokenizer.json", tokenizer.text())
    return Run(config, folder, lock, splits, tokenizer, False, scorer, _initial(config))


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
        changes["model"] = asdict(load_t5(given["init"]).config)
        changes |= {"encoder": "bidirectional", "optimizer": "adamw"}
        changes |= {name: given[name] for name in ("encoder", "optimizer") if name in given}
    return of(RunConfig, given, **changes)


def _default_name(given: Given) -> str:
    """Task and mode, and all other settings that were given: two commands seldom collide."""
    parts = [given.get("task", "mwp"), given.get("mode", "usm")]
    for name, value in given.items():
        if name in ("data", "scorer", "init"):
            parts.append(Path(value).stem)
        elif isinstance(value, bool):
            parts.append(name)
        elif name not in ("task", "mode", "device", "out_dir", "overwrite"):
            parts.append(value if isinstance(value, str) else f"{name}-{value:g}")
    return "-".join(parts).replace("_", "-")[:150]


def _resume(folder: Path, given: Given, device: str, say: Callable[[str], None]) -> Run:
    """A run as its config.json has it; the data may have moved, the budget may grow."""
    config = RunConfig.load(folder)
    lock = lock_folder(folder) if parallel.rank() == 0 else None
    for path in sorted(folder.glob("*.pt")):  # now, and not when the first model is trained
        load_checkpoint(path, config.run_id)
    if "data" in given:
        config = replace(config, data=str(Path(given["data"]).resolve()))
    splits, description = own_splits(folder, config)
    say(description)

    longer = {name: given[name] for name in ("max_steps", "max_minutes") if name in given}
    for name, value in longer.items():
        had = getattr(config, name)
        if had is None or value < had:
            wanted = "the run has no such limit" if had is None else f"expected at least its {had}"
            raise InputError(f"--{name.replace('_', '-')} is {value} with --resume; {wanted}")
    config = replace(config, device=device, **longer)

    if (folder / "tokenizer.json").exists():
        tokenizer = _load_tokenizer(folder, config)
    else:  # stopped at its very beginning
        tokenizer = _new_tokenizer(config, splits, say)
        if lock:
            write_text(folder / "tokenizer.json", tokenizer.text())
    scorer = _scorer(config, device, say)
    if scorer and weights_digest(scorer.model.state_dict()) != config.scorer_digest:
        raise InputError(f"{config.scorer}: trained anew since it labelled the chains of {folder}")
    if longer and (folder / "scorer.best.pt").exists() and config.max_rounds is not None:
        # Trained longer, the run's own scorer would change the labels.
        model = load_model(folder / "scorer.best.pt", device, config.run_id)
        scorer = Scorer(model, tokenizer, config.max_question)
    if lock:
        config.save(folder)
    return Run(config, folder, lock, splits, tokenizer, True, scorer, _initial(config))


def _scorer(config: RunConfig, device: str, say: Callable[[str], None]) -> Scorer | None:
    if config.scorer is None:
        return None
    scorer, its_config = load_scorer(config.scorer, device)
    if note := scorer_note(config.scorer, its_config, config.task):
        say(note)
    if its_config.data_digest != config.data_digest:
        told = "it may have seen this run's test examples"
        say(f"note: {config.scorer} was trained on other data; {told}")
    return scorer


def _initial(config: RunConfig) -> Callable[[], EncoderDecoder] | None:
    return partial(load_t5, config.init) if config.init else None


def _new_tokenizer(config: RunConfig, splits: Splits, say: Callable[[str], None]) -> Tokenizer:
    texts = training_texts(splits)
    if config.init is None:
        return Tokenizer.train(texts, config.vocab_size)
    tokenizer = _load_tokenizer(Path(config.init), config)
    share, lost = lost_characters(tokenizer, texts)
    examples = ": " + " ".join(repr(c) for c in lost[:20]) if lost else ""
    path = Path(config.init) / "tokenizer.json"
    say(f"{path}: {share:.2%} of the training characters cannot be written{examples}")
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
    """Keep other commands out, and remove what a killed one had begun to write."""
    lock = Lock(folder)
    for path in _leftovers(folder):
        path.unlink(missing_ok=True)
    return lock


def _leftovers(folder: Path) -> list[Path]:
    return [
        path for file in _files_of_a_run(folder) for path in file.parent.glob(f".{file.name}.*.tmp")
    ]


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

    Raises:
        InputError: not a run folder, or a damaged one.
    """
    folder = Path(folder)
    config = RunConfig.load(folder)
    tokenizer = _load_tokenizer(folder, config)
    if config.max_tokens is None or config.max_rounds is None:
        raise InputError(f"{folder / 'config.json'}: the run's training has not begun")
    writer = Writer(config, tokenizer, {})
    for name in MODES[config.mode]:
        path = folder / f"{name}.best.pt"
        model = load_model(path, device, config.run_id)
        if config.init is None and model.config.vocab_size != tokenizer.vocab_size:
            told = f"a vocabulary of {model.config.vocab_size}, but tokenizer.json has"
            raise InputError(f"{path}: {told} {tokenizer.vocab_size}")
        writer.models[name] = model
    return writer


def load_scorer(folder: str | Path, device: str = "cpu") -> tuple[Scorer, RunConfig]:
    """The model of a direct run, and the run's settings."""
    writer = load_run(folder, device)
    config: Any = writer.settings
    if config.mode != "direct":
        told = f"a run of mode {config.mode}; --scorer needs a direct one"
        raise InputError(f"{folder}: {told}")
    return Scorer(writer.models["direct"], writer.tokenizer, config.max_question), config


def scorer_note(folder: str | Path, config: RunConfig, task: str) -> str:
    """A warning if a scorer was trained for another task."""
    if config.task == task:
        return ""
    trained = f"{folder} was trained for --task {config.task}"
    return f"note: {trained}; its entropies say little of {task} chains"


# --- evaluations ---------------------------------------------------------------------------------


@dataclass
class Asked:
    """What a run is scored on."""

    examples: list[Example]
    split: str
    description: str
    trained_on: list[Example] | None  # its own training split; None if that is gone


def examples_for(
    folder: Path, config: RunConfig, changes: dict[str, Any], split: str | None
) -> Asked:
    """A split of the run's own data, by default "test"; or of another file, by default all of it.

    ``changes``: of the run's settings of data. A file that holds the run's own data, which has
    moved, is split as the run split it.
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
    return Asked(pick_split(splits, split), split, description, trained_on)


def evaluation_folder(
    run: Path, owner: str | None, name: str, out_dir: Path | None, overwrite: bool
) -> Path:
    """Where an evaluation goes: by default ``name`` in the run's folder. Makes nothing yet.

    Results there may be replaced if the run ``owner`` wrote them.
    """
    place = out_dir or run / name
    if out_dir is None and place.is_symlink():
        raise InputError(f"{place}: a link; remove it, or choose an --out-dir")
    if place.resolve() == run.resolve():
        raise InputError(f"{place}: holds the run's own results; choose another --out-dir")
    written = [place / "results.json", place / "predictions.jsonl"]
    if any(path.exists() for path in written) and not (overwrite or _wrote(owner, *written)):
        told = "holds results already; choose another --out-dir, or pass --overwrite"
        raise InputError(f"{place}: {told}")
    check_place(place / "results.json")
    return place


def _wrote(owner: str | None, results: Path, predictions: Path) -> bool:
    """Are these a run's own, and nobody has changed the predictions since?"""
    try:
        found = read_json(results, "results")
        digest = hashlib.sha256(read_bytes(predictions)).hexdigest()
        return (found["run"], found["predictions_digest"]) == (owner, digest)
    except (InputError, OSError, LookupError, TypeError):
        return False
