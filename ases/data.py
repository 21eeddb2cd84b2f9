"""What an example is, and how a set of them is split: by question, before anything is fitted."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

TASKS = ("mwp", "pet")  # math word problems; PET/CT report summaries


def shown(text: object) -> str:
    """Text from data or file names, safe on a terminal: control characters become "\\x1b"."""
    return re.sub(
        r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]",
        lambda c: f"\\x{ord(c[0]):02x}" if ord(c[0]) < 256 else f"\\u{ord(c[0]):04x}",
        str(text),
    )


class InputError(ValueError):
    """A mistake in what the user handed over, in one line; the commands then exit with code 2.

    What the line quotes may be long, or have several lines: its middle is left out.
    """

    def __init__(self, message: str):
        line = shown(" ".join(message.split("\n")))
        super().__init__(line if len(line) <= 1200 else f"{line[:700]} … {line[-400:]}")


@dataclass(frozen=True)
class Example:
    """One question with its chain of thought.

    ``gold`` holds the chain's pieces with their true roles, ``(role, text)`` with role "ES" or
    "AS", for data that was generated together with them; their texts joined give ``answer``.
    ``label`` is the true number, as text, for data that has it in a column of its own: a language
    model's chain may state another.
    """

    id: str
    question: str
    answer: str
    gold: tuple[tuple[str, str], ...] | None = None
    label: str | None = None

    @property
    def reference(self) -> str:
        """What states the true answer."""
        return self.answer if self.label is None else f"The answer is {self.label}."


#: The toy problem of the docs and tests.
TOY = Example(
    "toy",
    "Tom has 3 boxes of 4 apples. He eats 2. How many apples are left?",
    "Tom has 3 boxes of 4 apples, so he has 3 * 4 = 12 apples. He eats 2, so 12 - 2 = 10 are "
    "left. The answer is 10.",
)


def split_examples(examples: Sequence[Example], seed: int) -> dict[str, list[Example]]:
    """Split into train, validation and test, 80/10/10 by question.

    Rows that ask the same question word for word go to the same side, so no test question is
    trained on even where a file repeats itself under another id. Order within a split is the
    shuffled one: a prefix is a sample.

    Raises:
        InputError: fewer than three different questions.
    """
    by_question: dict[str, list[Example]] = {}
    for example in examples:
        by_question.setdefault(example.question, []).append(example)

    groups = list(by_question.values())
    if len(groups) < 3:
        raise InputError(
            f"{len(groups)} different questions; "
            "expected at least 3, one each for train, validation and test"
        )
    random.Random(seed).shuffle(groups)

    n_validation = max(1, round(0.1 * len(groups)))
    n_train = min(round(0.8 * len(groups)), len(groups) - n_validation - 1)
    parts = {
        "train": groups[:n_train],
        "validation": groups[n_train : n_train + n_validation],
        "test": groups[n_train + n_validation :],
    }
    return {name: [example for group in part for example in group] for name, part in parts.items()}
