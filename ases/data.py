"""What an example is, and how a data set is split: by question, before anything is fitted."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

#: Control characters, and those that turn the direction of text.
_UNSAFE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def shown(text: object) -> str:
    """Text from data or file names, safe for a terminal: control characters become "\\x1b"."""
    return _UNSAFE.sub(lambda c: ascii(c[0])[1:-1], str(text))


class InputError(ValueError):
    """A user's mistake, told in one line; commands exit with code 2."""

    def __init__(self, message: str):
        line = shown(" ".join(message.split("\n")))
        # It may quote long texts: leave out the middle.
        super().__init__(line if len(line) <= 1200 else f"{line[:700]} … {line[-400:]}")


def refuse(wrong: object, place: object, told: str) -> None:
    """Complain about a file or folder if something is wrong with it."""
    if wrong:
        raise InputError(f"{place}: {told}")


@dataclass(frozen=True)
class Example:
    """One question with its chain of thought."""

    id: str
    question: str
    answer: str  # the chain
    # The chain's pieces with their true roles, ("ES" or "AS", text), where a generator knows them.
    gold: tuple[tuple[str, str], ...] | None = None
    # The true number, where the data has it in a column of its own: a chain may state another.
    label: str | None = None

    @property
    def reference(self) -> str:
        """A text that states the true answer."""
        return self.answer if self.label is None else f"The answer is {self.label}."


#: The toy problem of the docs and tests.
TOY = Example(
    "toy",
    "Tom has 3 boxes of 4 apples. He eats 2. How many apples are left?",
    "Tom has 3 boxes of 4 apples, so he has 3 * 4 = 12 apples. He eats 2, so 12 - 2 = 10 are "
    "left. The answer is 10.",
)


def split_examples(examples: Sequence[Example], seed: int) -> dict[str, list[Example]]:
    """Split into train, validation and test, 80/10/10 by question; the order is random.

    Raises InputError: fewer than three different questions.
    """
    # Equal questions go to the same side: no test question is trained on under another id.
    by_question: dict[str, list[Example]] = {}
    for example in examples:
        by_question.setdefault(example.question, []).append(example)
    groups = list(by_question.values())
    if len(groups) < 3:
        raise InputError(f"{len(groups)} different questions; expected at least 3")
    random.Random(seed).shuffle(groups)

    n_validation = max(1, round(0.1 * len(groups)))
    n_train = min(round(0.8 * len(groups)), len(groups) - n_validation - 1)
    splits: dict[str, list[Example]] = {"train": [], "validation": [], "test": []}
    for i, group in enumerate(groups):
        name = "train" if i < n_train else "test" if i >= n_train + n_validation else "validation"
        splits[name] += group
    return splits
