"""The embedded tasks: generated examples whose every piece knows its true role.

Nothing is downloaded and nothing is fixed text: a seed gives the same examples everywhere, and the
generators know which piece of a chain restates the question (ES) and which derives something (AS),
so that a segmentation can be scored against the truth.

* ``mwp``, word problems: one to four steps (five or six in the split ``longer``), a fact that does
not matter
  now and then, whole numbers from 1 to ``max_number``.
* ``pet``, PET/CT findings → a numbered impression: every item restates a finding and judges it.
"""

import random

from ases.data import Example
from ases.tasks.reports import report
from ases.tasks.word_problems import word_problem

STEPS = (1, 2, 2, 3, 3, 4)
STEPS_LONGER = (5, 6)


def make_splits(
    task: str, n_train: int, n_validation: int, n_test: int, seed: int, max_number: int
) -> dict[str, list[Example]]:
    """Generate the splits ``train``, ``validation``, ``test`` and, for ``mwp``, ``longer``.

    ``longer`` has problems of more steps than any training problem, as many as ``test``. No
    question occurs twice, within a split or across them. A larger training split begins with the
    smaller one.

    Raises:
        ValueError: a range so small that the generator runs out of different questions.
    """
    sizes = {"test": n_test, "validation": n_validation, "train": n_train}
    if task == "mwp":
        sizes = {"longer": n_test} | sizes
    seen: set[str] = set()
    splits = {
        name: _split(task, name, size, seed, max_number, seen) for name, size in sizes.items()
    }
    return {
        name: splits[name] for name in ("train", "validation", "test", "longer") if name in splits
    }


def _split(
    task: str, name: str, size: int, seed: int, max_number: int, seen: set[str]
) -> list[Example]:
    # A stream of its own: a split does not depend on the others' sizes.
    rng = random.Random(f"{task}-{name}-{seed}")
    examples: list[Example] = []
    repeats = 0
    while len(examples) < size:
        if repeats > 1000:
            raise ValueError(
                f"only {len(examples)} different {name} questions found with numbers up to "
                f"{max_number}; "
                f"expected {size}"
            )
        if task == "pet":
            question, pieces = report(rng)
        else:
            steps = rng.choice(STEPS_LONGER if name == "longer" else STEPS)
            question, pieces = word_problem(rng, steps, max_number)

        if question in seen:
            repeats += 1
            continue
        repeats = 0
        seen.add(question)
        answer = "".join(text for _, text in pieces)
        examples.append(Example(f"{name}-{len(examples)}", question, answer, tuple(pieces)))
    return examples
