"""Flags of the commands, derived from dataclasses of settings; and how a user's mistake becomes one
line.

All wrong values are told together. A mistake ends the command with exit code 2 and no traceback.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import Field, fields
from typing import Any, TypeVar

from ases.data import InputError
from ases.settings import expected, fits, kind

T = TypeVar("T")
Complain = Callable[[dict[str, Any]], list[str]]


class Flags:
    """What the user gave: the flags' names and values, and nothing for the others."""

    def __init__(self, given: dict[str, Any]):
        self.given = given

    def of(self, cls: type[T], **more: Any) -> T:
        """The settings ``cls`` with the values given for its fields; ``more`` sets others."""
        own = {f.name: self.given[f.name] for f in fields(cls) if f.name in self.given}
        return cls(**(own | more))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}; see --help")


def parse(description: str, groups: dict[str, type], complain: Complain) -> Flags:
    """Read the command line.

    Args:
        groups: title of a group of flags → the dataclass whose settings with ``flag=True`` are its
            flags.
        complain: adds complaints about flags that do not go together; it sees the values given.
    Raises:
        InputError: naming every flag that is wrong, its value, and what was expected.
    """
    parser = _Parser(
        description=description, argument_default=argparse.SUPPRESS, allow_abbrev=False
    )
    declared: dict[str, tuple[type, Field]] = {}
    for title, cls in groups.items():
        group = parser.add_argument_group(title)
        for f in fields(cls):
            if f.metadata.get("flag") and f.name not in declared:
                declared[f.name] = (cls, f)
                _add_flag(group, cls, f)

    given, wrong = {}, []
    for name, text in vars(parser.parse_args()).items():
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


def _flag(f: Field) -> str:
    name = f.name.replace("_", "-")
    return f"--no-{name}" if f.default is True else f"--{name}"


def _add_flag(group: Any, cls: type, f: Field) -> None:
    wanted, facts = kind(cls, f.name), f.metadata
    text = facts["help"]
    if wanted is bool:
        group.add_argument(
            _flag(f), dest=f.name, action="store_const", const=not f.default, help=text
        )
        return
    shown = facts["shown"] or f.default
    if shown is not None and shown != "":
        text += f" (default: {shown})"
    metavar = {int: "N", float: "X"}.get(wanted, f.name.upper().replace("_", "-"))
    if facts["choices"]:
        metavar = "{" + ",".join(facts["choices"]) + "}"
    action = "append" if wanted is list else "store"
    group.add_argument(
        _flag(f), dest=f.name, metavar=metavar, action=action, help=text.replace("%", "%%")
    )


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
    if given.get("device") == "cuda" and choose_device("auto") == "cpu":
        return ["--device is 'cuda'; expected cpu, for PyTorch finds no CUDA here"]
    return []


def choose_device(device: str) -> str:
    if device != "auto":
        return device
    import torch  # here, for it takes longer than all else that --help needs

    return "cuda" if torch.cuda.is_available() else "cpu"


# --- mistakes ------------------------------------------------------------------------------------


def run_command(main: Callable[[], None]) -> None:
    """Call ``main``; a mistake of the user's becomes one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character is no reason to stop.
        stream.reconfigure(errors="replace")
    try:
        main()
    except (InputError, FloatingPointError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        sys.stderr.close()
        sys.exit(1)
    except OSError as error:  # a full disk, a folder that cannot be written
        print(f"error: {error.filename or 'output'}: {error.strerror}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)
