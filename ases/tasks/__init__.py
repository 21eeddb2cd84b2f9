"""Tasks: what the chains are about. A new one needs an entry in ``TASKS``.

``mwp`` and ``pet`` generate examples: a seed gives the same ones everywhere. Each piece of a chain
has its true role: ES restates the question, AS derives something. ``text`` takes any chains, in any
language, from a file.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tqdm import tqdm

from ases.data import Example, InputError
from ases.tasks.reports import report
from ases.tasks.word_problems import word_problem

#: A question, and the pieces of its chain: ("ES" or "AS", text).
Made = tuple[str, list[tuple[str, str]]]


@dataclass(frozen=True)
class Task:
    """One kind of chain."""

    # (rng, split, max_number) → example; None: user files only
    make: Callable[[random.Random, str, int], Made] | None = None
    numbers: bool = False  # chains end with "The answer is N." and are scored by N
    splits: tuple[str, ...] = ("train", "validation", "test")  # of generated examples


def _word_problem(rng: random.Random, split: str, max_number: int) -> Made:
    steps = (5, 6) if split == "longer" else (1, 2, 2, 3, 3, 4)
    return word_problem(rng, rng.choice(steps), max_number)


TASKS = {
    "mwp": Task(_word_problem, True, ("train", "validation", "test", "longer")),
    "pet": Task(lambda rng, split, max_number: report(rng)),
    "text": Task(),
}


def make_splits(
    task: str, n_train: int, n_validation: int, n_test: int, seed: int, max_number: int
) -> dict[str, list[Example]]:
    """Generate a task's splits; "longer" has problems with more steps than in training.

    No question occurs twice. A larger training split starts with the smaller one.
    """
    sizes = {"train": n_train, "validation": n_validation, "test": n_test, "longer": n_test}
    splits: dict[str, list[Example]] = {name: [] for name in TASKS[task].splits}
    seen: set[str] = set()
    bar = tqdm(desc="problems", total=sum(map(sizes.get, splits)), delay=2, disable=None)
    for name, examples in reversed(splits.items()):  # training last: it takes what the rest leaves
        # One random stream per split: the others only remove questions they share.
        rng = random.Random(f"{task}-{name}-{seed}")
        while len(examples) < sizes[name]:
            for _ in range(1001):
                question, pieces = TASKS[task].make(rng, name, max_number)
                if question not in seen:
                    break
            else:
                made = f"{len(examples)} different {name} questions with numbers up to {max_number}"
                raise InputError(f"only {made}; expected {sizes[name]}")
            seen.add(question)
            answer = "".join(text for _, text in pieces)
            examples.append(Example(f"{name}-{len(examples)}", question, answer, tuple(pieces)))
            bar.update()
    bar.close()
    return splits
