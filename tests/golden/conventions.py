"""How other projects read the answer of a text, with their faults: a string, or None."""

import re
from collections.abc import Callable


def _gsm8k(text: str) -> str | None:
    """openai/grade-school-math: misses "$72", and "72." is not "72"."""
    match = re.search(r"#### (-?[0-9.,]+)", text)
    return match[1].replace(",", "") if match else None


def _lm_eval_strict(text: str) -> str | None:
    found = _gsm8k(text)
    return None if found is None else found.removesuffix(".")


def _lm_eval_flexible(text: str) -> str | None:
    """The last number; "29.00" is not "29"."""
    found = [a or b for a, b in re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text)]
    return _without_marks(found[-1]) if found else None


def _lm_eval_cot(text: str) -> str | None:
    """The last dot of its pattern eats one character: an unpunctuated "is 72" gives 7."""
    match = re.search(r"The answer is (-?[0-9.,]+).", text)
    return _without_marks(match[1]) if match else None


def _without_marks(number: str) -> str:
    return re.sub(r"\.$", "", re.sub(r"[,$]", "", number))


def _reasoning_teacher(text: str) -> str | None:
    """The first number after the phrase, else the last one; "5-2" holds -2."""
    _, phrase, after = text.partition("The answer is")
    found = re.findall(r"-?\d+(?:\.\d+)?", (after if phrase else text).replace(",", ""))
    return found[0 if phrase else -1] if found else None


def _released(text: str) -> str | None:
    """rootnx/AS-ES-learning: loses signs, and leaves "10,000" as it is."""
    return (re.findall(r"\d+[.,/]?\d*", text) or [None])[-1]


CONVENTIONS: dict[str, Callable[[str], str | None]] = {
    "gsm8k": _gsm8k,
    "lm-eval-strict": _lm_eval_strict,
    "lm-eval-flexible": _lm_eval_flexible,
    "lm-eval-cot": _lm_eval_cot,
    "reasoning-teacher": _reasoning_teacher,
    "released": _released,
}
