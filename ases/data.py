"""Examples, and splitting them by question before anything is fitted."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: Control characters, including those for text direction.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: object) -> str:
    """Make untrusted text safe to print: control characters become escapes like "\\x1b"."""
    return _UNSAFE.sub(lambda c: ascii(c[0])[1:-1], str(text))


def has_surrogate(text: str) -> bool:
    """Whether a text holds half a character, which is no valid Unicode and cannot be encoded."""
    return any("\ud800" <= character <= "\udfff" for character in text)


class InputError(ValueError):
    """A user error, reported in one line; commands exit with code 2."""

    def __init__(self, message: str):
        line = printable(message.replace("\n", " "))
        # The message may quote long texts: drop the middle.
        super().__init__(line if len(line) <= 1200 else f"{line[:700]} … {line[-400:]}")


def refuse_if(wrong: object, place: object, message: str) -> None:
    """Raise InputError about a file or folder if ``wrong`` is true."""
    if wrong:
        raise InputError(f"{place}: {message}")


_TOKEN = re.compile(r"\d|[a-zA-Z]{1,5}|\w{1,2}|[^\w\s]")


def rough_length(text: str) -> int:
    """About how many tokens a small vocabulary makes of ``text``. Unlike the exact number, it does
    not depend on which examples train the tokenizer (not in the paper).

    >>> rough_length("Tom has 12 apples.")
    7
    """
    return len(_TOKEN.findall(text))


def check_regular(path: Path, wanted: str) -> None:
    """Raises InputError: a folder or a device is in a file's place, or a pipe, which might never
    end."""
    refuse_if(path.exists() and not path.is_file(), path, f"not a regular file; expected {wanted}")


@dataclass(frozen=True)
class Example:
    """A question and its chain of thought."""

    id: str
    question: str
    answer: str  # the chain
    # True roles of the chain's pieces, ("ES" or "AS", text); generated data only.
    gold: tuple[tuple[str, str], ...] | None = None
    # The true number, if the data has a column for it: the chain may state a different one.
    label: str | None = None

    @property
    def reference(self) -> str:
        """Text stating the true answer."""
        return self.answer if self.label is None else f"The answer is {self.label}."


#: The toy problem in docs and tests.
TOY = Example(
    "toy",
    "Tom has 3 boxes of 4 apples. He eats 2. How many apples are left?",
    "Tom has 3 boxes of 4 apples, so he has 3 * 4 = 12 apples. He eats 2, so 12 - 2 = 10 are "
    "left. The answer is 10.",
)


def split_examples(examples: Sequence[Example], seed: int) -> dict[str, list[Example]]:
    """Shuffle, and split 80/10/10 by question into train, validation and test.

    Raises InputError: fewer than three different questions.
    """
    # Keep equal questions in one split: no test question is trained on under another id.
    by_question: dict[str, list[Example]] = {}
    for example in examples:
        by_question.setdefault(example.question, []).append(example)
    groups = list(by_question.values())
    if len(groups) < 3:
        raise InputError(f"{len(groups)} different questions; expected at least 3")
    random.Random(seed).shuffle(groups)

    n_validation = max(1, round(0.1 * len(groups)))
    n_train = min(round(0.8 * len(groups)), len(groups) - n_validation - 1)
    rest = groups[n_train:]
    parts = groups[:n_train], rest[:n_validation], rest[n_validation:]
    names = "train", "validation", "test"
    return {name: [e for group in part for e in group] for name, part in zip(names, parts)}
