"""A setting is declared once: name, type, default, range and help stand in one field of a
dataclass.

    @dataclass(frozen=True)
    class Cooking:
        minutes: float = setting(10.0, "time on the stove", above=0)

The flags of the commands, their ``--help``, the content of ``config.json`` and all checks are
derived from such fields. A default of None means that the value is worked out; ``shown`` then says
from what. A help text fits one line of 80 columns with its default.
"""

import math
from dataclasses import Field, field, fields
from typing import Any, get_args, get_type_hints


def setting(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    above: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] = (),
    shown: str | None = None,
    metavar: str | None = None,
) -> Any:
    """A dataclass field that knows what it may hold.

    Args:
        default: its value where none is given.
        help: what it does, in a few words.
        low, above, high: smallest value, a value that it must exceed, largest value.
        choices: the words it may be.
        shown: the default in words, where the value alone would not tell.
        metavar: what stands for the value in a command's help, if not its type: "FILE".
    """
    facts = dict(
        help=help, low=low, above=above, high=high, choices=choices, shown=shown, metavar=metavar
    )
    return field(default=default, metadata=facts)


def kind(cls: type, name: str) -> type:
    """The type of a field, None left out: ``int | None`` → ``int``."""
    hint = get_type_hints(cls)[name]
    allowed = [t for t in get_args(hint) if t is not type(None)]
    return allowed[0] if allowed else hint


def expected(cls: type, f: Field) -> str:
    """What a field may hold, in words: "a whole number of at least 1"."""
    facts = f.metadata
    if facts["choices"]:
        return f"one of {', '.join(facts['choices'])}"
    words = {int: "a whole number", float: "a number", bool: "true or false"}.get(
        kind(cls, f.name), "a text"
    )
    if facts["metavar"]:
        words = f"a name ({facts['metavar']})"
    if facts["low"] is not None:
        words += f" of at least {facts['low']:g}"
    if facts["above"] is not None:
        words += f" above {facts['above']:g}"
    if facts["high"] is not None:
        words += f" and at most {facts['high']:g}"
    return words


def fits(cls: type, f: Field, value: Any) -> bool:
    """Whether ``value`` has the type of field ``f`` and lies in its range."""
    facts, wanted = f.metadata, kind(cls, f.name)
    if value is None:
        return type(None) in get_args(get_type_hints(cls)[f.name])
    if isinstance(value, bool) or wanted is bool:
        return wanted is bool and isinstance(value, bool)
    if not isinstance(value, (int, float) if wanted is float else wanted):
        return False
    if wanted not in (int, float):
        if facts["metavar"] and not value:  # a file or folder without a name
            return False
        return not facts["choices"] or value in facts["choices"]
    if isinstance(value, float) and not math.isfinite(value):
        return False
    return (
        (facts["low"] is None or value >= facts["low"])
        and (facts["above"] is None or value > facts["above"])
        and (facts["high"] is None or value <= facts["high"])
    )


def complaints(settings: Any) -> list[str]:
    """Everything that is wrong with a dataclass of settings, one line each."""
    cls = type(settings)
    declared = [f for f in fields(settings) if "help" in f.metadata]
    return [
        f"{f.name} is {getattr(settings, f.name)!r}; expected {expected(cls, f)}"
        for f in declared
        if not fits(cls, f, getattr(settings, f.name))
    ]
