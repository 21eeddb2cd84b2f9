"""Flags of the commands, derived from dataclasses of settings; and how a user's mistake becomes one
line.

All wrong values are told together. A mistake ends the command with exit code 2 and no traceback.
"""

import argparse
import difflib
import os
import sys
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any, TypeVar

from ases.data import InputError, shown
from ases.run.processes import several_processes
from ases.settings import expected, fits, kind

T = TypeVar("T")
Complain = Callable[[dict[str, Any]], list[str]]
#: Titles of the groups of flags, in the method's order → dataclasses and which of their settings.
Groups = dict[str, list[tuple[type, str]]]

DEVICES = ("auto", "cpu", "cuda")


class Flags:
    """What the user gave: the flags' names and values, and nothing for the others."""

    def __init__(self, given: dict[str, Any]):
        self.given = given

    def of(self, cls: type[T], **more: Any) -> T:
        """The settings ``cls`` with the values given for its fields; ``more`` sets others."""
        names = [f.name for f in fields(cls)]  # type: ignore[arg-type]
        own = {name: self.given[name] for name in names if name in self.given}
        return cls(**(own | more))


class Parser(argparse.ArgumentParser):
    """One whose complaints are one line."""

    def error(self, message: str):
        raise InputError(f"{message}; see --help")


class _Help(argparse.RawDescriptionHelpFormatter):
    """Flags, allowed words and defaults in two columns, 80 wide."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=24, width=80)


def parse(description: str, groups: Groups, complain: Complain, epilog: str = "") -> Flags:
    """Read the command line.

    Args:
        complain: adds complaints about flags that do not go together; it sees the values given.
        epilog: ends the help.
    """
    parser = Parser(
        usage="%(prog)s [flags]",
        description=description,
        epilog=epilog,
        formatter_class=_Help,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
    )
    declared: dict[str, tuple[type, Field]] = {}
    for title, members in groups.items():
        group = parser.add_argument_group(title)
        for cls, names in members:
            for name in names.split():
                [f] = (f for f in fields(cls) if f.name == name)
                declared[name] = (cls, f)
                _add_flag(group, cls, f)
    group.add_argument("-h", "--help", action="help", help="show this and stop")

    namespace, unknown = parser.parse_known_args()
    wrong = _unknown_flags(unknown, [_flag(f) for _, f in declared.values()])
    given = {}
    for name, text in vars(namespace).items():
        cls, f = declared[name]
        value = _convert(kind(cls, name), text)
        if isinstance(value, list) or (value is not None and fits(cls, f, value)):
            given[name] = value
        else:
            wrong.append(f"{_flag(f)} is {text!r}; expected {expected(cls, f)}")
    wrong += complain(given)
    if wrong:
        raise InputError(" | ".join(wrong))
    return Flags(given)


def _unknown_flags(words: list[str], flags: list[str]) -> list[str]:
    """A complaint about each word that is no flag or value, with the flag that it resembles."""
    complaints = []
    for word in words:
        name = word.split("=", 1)[0].replace("_", "-")
        if not word.startswith("-"):
            if not complaints:  # behind an unknown flag stands its value
                complaints.append(f"{word!r} belongs to no flag; expected --NAME VALUE")
            continue
        alike = difflib.get_close_matches(name, flags, n=1, cutoff=0.75)
        hint = f"did you mean {alike[0]}?" if alike else "see --help"
        complaints.append(f"{word} is no flag; {hint}")
    return complaints


def _flag(f: Field) -> str:
    name = f.name.replace("_", "-")
    return f"--no-{name}" if f.default is True else f"--{name}"


def _add_flag(group: Any, cls: type, f: Field) -> None:
    wanted, facts = kind(cls, f.name), f.metadata
    text = facts["help"].replace("%", "%%")
    if wanted is bool:
        group.add_argument(
            _flag(f), dest=f.name, action="store_const", const=not f.default, help=text
        )
        return
    shown = facts["shown"] or f.default
    if shown is not None:
        text += f" [{shown}]"
    metavar = facts["metavar"] or {int: "N", float: "X"}.get(wanted, "TEXT")
    if facts["choices"]:
        metavar = "{" + ",".join(facts["choices"]) + "}"
    action = "append" if wanted is list else "store"
    group.add_argument(_flag(f), dest=f.name, metavar=metavar, action=action, help=text)


def _convert(wanted: type, text: Any) -> Any:
    """The value that ``text`` stands for, or None if it stands for none of that type."""
    if not isinstance(text, str):
        return text
    try:
        return wanted(text)
    except ValueError:
        return None


# --- devices -------------------------------------------------------------------------------------


def device_complaints(given: dict[str, Any]) -> list[str]:
    """CUDA is asked for, and there is none."""
    if given.get("device") == "cuda" and choose_device("auto") == "cpu":
        return ["--device is 'cuda'; expected cpu, for PyTorch finds no CUDA here"]
    return []


def choose_device(device: str) -> str:
    """``cpu`` or ``cuda``, whatever ``auto`` may be here."""
    if device != "auto":
        return device
    import torch  # here, for it takes longer than all else that --help needs

    return "cuda" if torch.cuda.is_available() else "cpu"


# --- mistakes ------------------------------------------------------------------------------------


def run_command(main: Callable[[], None], alone: bool = True) -> None:
    """Call ``main``; a mistake of the user's becomes one line on standard error and exit code 2.

    A KeyboardInterrupt with a text ends with that text. ``alone``: it must be the only process;
    torchrun may not have started several.
    """
    streams: list[Any] = [sys.stdout, sys.stderr]
    for stream in streams:
        # Files and pipes get UTF-8, and a terminal that cannot show a character gets its number.
        if stream.isatty():
            stream.reconfigure(errors="backslashreplace")
        else:
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")
    try:
        if alone and several_processes():
            raise InputError("torchrun has started several processes; expected one, without it")
        main()
    except (InputError, FloatingPointError) as error:
        _end(f"error: {error}", 2)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that cannot be written
        reason = error.strerror or str(error)
        place = error.filename or "output"
        _end(f"error: {place}: {reason}; expected one that can be read or written", 2)
    except (MemoryError, RuntimeError) as error:
        if "memory" not in str(error) and not isinstance(error, MemoryError):
            raise
        reason = " ".join(str(error).split())[:120]
        wanted = "a smaller model, smaller batches, or shorter texts"
        _end(f"error: not enough memory ({reason}); expected {wanted}", 2)
    except KeyboardInterrupt as interrupt:
        told = interrupt.args[0] if interrupt.args else "stopped"
        _end(told, 128 + getattr(interrupt, "number", 2))


def _end(message: str, code: int) -> None:
    print(shown(message), file=sys.stderr)
    sys.exit(code)


def colours_wanted() -> bool:
    """Whether standard output is a terminal, and NO_COLOR (https://no-color.org) not set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")
