"""Flags, derived from settings. A mistake is one line and exit code 2, without a traceback."""

import argparse
import os
import signal
import sys
import textwrap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from ases.data import InputError, has_surrogate, printable
from ases.run.process import check_alone
from ases.run.write import check_place
from ases.segmentation import RULES
from ases.settings import ModelConfig, Settings, expected, is_valid, kind, setting

T = TypeVar("T")
Given = dict[str, Any]  # flags on the command line: name → value

SPLITS = ("train", "validation", "test", "longer", "all")


# --- flags ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Options:
    """All flags that are not settings of a run."""

    set: list | None = setting(None, "any other setting; see below", metavar="NAME=VALUE")
    out_dir: str | None = setting(None, "output folder", shown="in runs/ or RUN", metavar="FOLDER")
    overwrite: bool = setting(False, "replace older results in the output folder")
    resume: str | None = setting(None, "run to continue; its budget may grow", metavar="RUN")
    run: list | None = setting(None, "run folder; repeat it to compare runs", metavar="FOLDER")
    split: str | None = setting(None, "examples to use", shown="all; a run's: test", choices=SPLITS)
    beams: int = setting(1, "beam search; 1 decodes greedily", low=1, high=64)
    second_try: bool = setting(False, "retry segments that failed, with 4 beams")
    question: str | None = setting(None, "print the chain for this question")
    questions: str | None = setting(
        None, "write a chain for each; -: standard input", metavar="FILE"
    )
    check: bool = setting(False, "list the unusable rows of --data")
    show: int | None = setting(None, "print the first N examples instead of JSON", low=0)
    show_wrong: int = setting(0, "print N wrong chains and their references", low=0)
    report: str | None = setting(None, "write a page to browse and search", metavar="FILE.html")
    out: str | None = setting(None, "file for JSON lines", shown="standard output", metavar="FILE")


FILE_FLAGS = "question_field answer_field label_field skip_bad_rows"
_DATA = f"task data {FILE_FLAGS} seed train_problems test_problems"

#: Command → group → fields of ``Options`` or ``Settings``.
FLAGS = {
    "train": {
        "data": _DATA,
        "method": "mode segmentation beta gamma entropy_context scorer encoder",
        "model": "size dropout init",
        "training": "max_steps max_minutes batch_tokens optimizer learning_rate set",
        "run": "device out_dir overwrite resume",
    },
    "segment": {
        "data": _DATA,
        "method": "segmentation beta gamma entropy_context merge scorer",
        "what to do": "split check show report out overwrite device",
    },
    "evaluate": {
        "what to score": f"run data {FILE_FLAGS} split beams second_try device",
        "ask instead": "question questions",
        "output": "show_wrong report out_dir overwrite",
    },
}

#: Settings that only --set reaches: name → class and field.
_FLAGGED = {*" ".join(FLAGS["train"].values()).split(), "merge", "dropout_rate"}
UNFLAGGED: dict[str, tuple[type, Any]] = {
    f.name: (cls, f)
    for cls in (ModelConfig, Settings)  # the latter's vocab_size counts
    for f in fields(cls)
    if "help" in f.metadata and f.name not in _FLAGGED
}


def settings_help() -> str:
    """A list of what --set takes."""
    lines = ["settings for --set, with their defaults:"]
    for name, (_, f) in UNFLAGGED.items():
        default = f.metadata["shown"] or f.default
        text = f.metadata["help"] + ("" if default is None else f" [{default}]")
        lines += textwrap.wrap(f"  {name}: {text}", 78, subsequent_indent="      ")
    return "\n".join(lines)


# --- conflicting flags ---------------------------------------------------------------------------
_SCORING_FLAGS = "data split answer_field label_field skip_bad_rows show_wrong report"
_ALLOWED_WITH_RESUME = {"resume", "device", "data", "max_steps", "max_minutes"}
_RUN_FLAGS = set(" ".join(FLAGS["train"].values()).split()) - _ALLOWED_WITH_RESUME
_RUN_FLAGS |= {*UNFLAGGED, "model"}


def check_flags(command: str, given: Given) -> None:
    """Raise InputError if flags conflict or are missing."""
    refuse = partial(_refuse, given)
    if command != "train":
        check_alone()
    rule = given.get("segmentation", "interleave")
    if "resume" in given:
        refuse(" ".join(sorted(_RUN_FLAGS)), "cannot be combined with --resume")
    if "question" in given:
        others = f"{_SCORING_FLAGS} questions question_field out_dir overwrite"
        refuse(others, "cannot be combined with --question")
    if "questions" in given:
        refuse(_SCORING_FLAGS, "cannot be combined with --questions")
    if "data" not in given and "questions" not in given:
        refuse(f"{FILE_FLAGS} check", "needs --data")
    if given.get("mode") == "direct":
        refuse("segmentation", "cannot be combined with --mode direct")
    if rule == "interleave":  # your own rule may read them, too
        refuse("beta gamma entropy_context", "needs --segmentation entropy")
    if not RULES[rule].needs_entropy:
        refuse("scorer", "needs --segmentation entropy")
    elif command == "segment" and "scorer" not in given:
        refuse("segmentation", f"{rule} needs --scorer, the folder of a direct run")
    if given.get("optimizer", "adamw" if "init" in given else "muon") == "adamw":
        refuse("embedding_learning_rate momentum", "needs --optimizer muon")
    if "init" in given:  # a checkpoint has its shape
        refuse("size dropout model", "cannot be combined with --init")
    if "check" in given:
        refuse("split show report out", "cannot be combined with --check")
    if command == "segment" and "data" in given and given.get("split", "all") == "all":
        refuse("seed train_problems test_problems", "needs --split with --data")
    if "text" in given:
        refuse(f"{_DATA} split check show", "cannot be combined with a text")
        if not given["text"].strip():
            raise InputError("the text to cut is empty")
    if "://" in given.get("data", ""):
        refuse("data", "is a web address; download the file first")
    question = given.get("question", "?")
    if not question.strip() or has_surrogate(question):
        refuse("question", "is empty or not valid Unicode")
    runs = [Path(os.path.realpath(run)) for run in given.get("run", [])]
    if command == "evaluate" and not runs:
        raise InputError("--run is missing; expected the folder of a run")
    if len(set(runs)) < len(runs):
        refuse("run", "names a folder twice")
    if len({run.name for run in runs}) < len(runs):
        refuse("out_dir", "cannot hold two runs of one name; omit it")


def check_paths(command: str, given: Given) -> None:
    """Raise InputError if an output cannot be written, or would overwrite an input, a folder or,
    without --overwrite, a file."""
    refuse = partial(_refuse, given)
    for name in [name for name in ("out", "report") if name in given]:
        path = Path(given[name])
        if path.is_dir():
            refuse(name, f"is {str(path)!r}, a folder; expected a file")
        if path.exists() and "overwrite" not in given:
            refuse(name, f"is {str(path)!r}, which exists; choose another or --overwrite")
        check_place(path)
    if command == "evaluate" and not given.get("report", ".html").endswith(".html"):
        refuse("report", f"is {given['report']!r}; expected a name that ends in .html")
    for together in ("data out report", "out_dir scorer", "out_dir init"):
        flags: dict[str, str] = {}  # path → first flag
        for flag in [flag for flag in together.split() if flag in given]:
            first = flags.setdefault(os.path.realpath(given[flag]), flag)
            if first != flag:
                refuse(first, f"and {_flag(flag)} name the same path; change one")


def _refuse(given: Given, names: str, why: str) -> None:
    for name in names.split():
        if name in given:
            raise InputError(f"{_flag(name)} {why}")


# --- parsing -------------------------------------------------------------------------------------
class Parser(argparse.ArgumentParser):
    """Raises InputError where argparse prints usage and exits."""

    def error(self, message: str):
        raise InputError(f"{message}; see --help")


def parse(command: str, about: str, epilog: str = "", text: str = "") -> Given:
    """Parse a command's flags. ``text``: help of its positional argument."""
    form = partial(argparse.RawDescriptionHelpFormatter, max_help_position=24, width=80)
    parser = Parser(
        usage="%(prog)s [flags] [TEXT]" if text else "%(prog)s [flags]",
        description=about,
        epilog=epilog,
        formatter_class=form,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    if text:
        parser.add_argument("text", nargs="?", help=text)
    declared: dict = {f.name: f for cls in (Settings, Options) for f in fields(cls)}
    for title, names in FLAGS[command].items():
        group = parser.add_argument_group(title)
        for name in names.split():
            _add_flag(group, declared[name])
    group.add_argument("-h", "--help", action="help", help="show this help and exit")

    given: Given = vars(parser.parse_args())
    for name in [name for name in declared if name in given]:
        f, typed = declared[name], given[name]
        if isinstance(typed, list) and kind(f) is not list:
            if len(typed) > 1:
                raise InputError(f"{_flag(name)} is given twice")
            typed = typed[0]
        given[name] = _checked(f, _flag(name), typed)
    for pair in given.pop("set", []):
        name, _, typed = pair.partition("=")
        if name not in UNFLAGGED:
            raise InputError(f"--set {pair!r}: expected NAME=VALUE with a name that --help lists")
        cls, f = UNFLAGGED[name]
        place = given if cls is Settings else given.setdefault("model", {})
        place[name] = _checked(f, f"--set {name}", typed)
    check_flags(command, given)
    check_paths(command, given)
    return given


def _checked(f: Any, name: str, typed: Any) -> Any:
    """What was typed, as the field's type."""
    wanted, value = kind(f), typed
    if isinstance(typed, str) and wanted is bool:
        value = {"true": True, "false": False}.get(typed.lower(), typed)
    elif isinstance(typed, str):
        with suppress(ValueError):
            value = wanted(typed)
    if not is_valid(f, value):
        raise InputError(f"{name} is {typed!r}; expected {expected(f)}")
    return value


def from_flags(cls: type[T], given: Given) -> T:
    """Build ``cls`` from the flags that are fields of it."""
    known = cls.__dataclass_fields__  # type: ignore[attr-defined]
    return cls(**{name: given[name] for name in given if name in known})


def _flag(name: str) -> str:
    if name == "model":
        return "--set of a model's shape"
    if name in UNFLAGGED:
        return f"--set {name}"
    # The only flag that is on by default.
    return "--no-merge" if name == "merge" else f"--{name.replace('_', '-')}"


def _add_flag(group: Any, f: Any) -> None:
    wanted, facts = kind(f), f.metadata
    text = facts["help"].replace("%", "%%")
    if wanted is bool:
        const = not f.default
        group.add_argument(_flag(f.name), dest=f.name, action="store_const", const=const, help=text)
        return
    default = facts["shown"] or f.default
    if default is not None:
        text += f" [{default}]"
    metavar = facts["metavar"] or {int: "N", float: "X"}.get(wanted, "TEXT")
    if facts["choices"]:
        metavar = "{" + ",".join(facts["choices"]) + "}"
    # ``append`` notices a flag given twice.
    group.add_argument(_flag(f.name), dest=f.name, metavar=metavar, action="append", help=text)


# --- ending --------------------------------------------------------------------------------------
def run_command(main: Callable[[], None]) -> None:
    """Call ``main``; print an error as one line on stderr."""
    streams: list[Any] = [sys.stdout, sys.stderr]
    for stream in streams:
        # Files and pipes get UTF-8; a terminal gets escapes for characters it lacks.
        changes = {} if stream.isatty() else {"encoding": "utf-8"}
        stream.reconfigure(errors="backslashreplace", **changes)
    try:
        return main()
    except (InputError, FloatingPointError) as error:
        message, code = f"error: {error}", 2
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:  # a full disk, an unwritable folder
        place = error.filename or "output"
        message, code = f"error: {place}: cannot be read or written ({error.strerror or error})", 2
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        reason = " ".join(str(error).split())[:120]
        message, code = f"error: not enough memory ({reason}); try a smaller model or batches", 2
    except KeyboardInterrupt as interrupt:
        message, number = interrupt.args or ("stopped", signal.SIGINT)
        code = 128 + number
    print(printable(message), file=sys.stderr)
    sys.exit(code)


def catch_ctrl_c() -> None:
    """From now on, Ctrl-C raises KeyboardInterrupt. Before, it ends the process at once: libraries
    may swallow an exception that is raised while they are imported."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def colours_wanted() -> bool:
    """Whether stdout is a terminal and NO_COLOR (https://no-color.org) is unset."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
