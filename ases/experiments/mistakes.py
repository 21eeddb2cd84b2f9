"""Where a chain of a generated word problem first goes wrong, seen from its derivations.

A derivation is "a + b = c". The first that is not the reference's tells what was not done right:

    arithmetic      the right numbers, another result
    left out        a later step of the reference is done now
    repeated        an earlier step is done again
    other step      numbers that no step of the reference has
    too few, too many     all right so far, but it ends too early, or goes on
    answer          all derivations are right, the stated answer is not
"""

import re
from collections import Counter
from collections.abc import Sequence

KINDS = ("arithmetic", "left out", "repeated", "other step", "too few", "too many", "answer")
_DERIVATION = re.compile(r"(\d+) ([*+/-]) \$?(\d+) = \$?(\d+)")


def first_mistake(chain: str, reference: str) -> str:
    """One of ``KINDS``, of a chain whose answer is wrong.

    >>> first_mistake("so 2 + 3 = 6.", "so 2 + 3 = 5.")
    'arithmetic'
    >>> first_mistake("so 2 + 3 = 5. so 5 * 2 = 10.", "so 2 + 3 = 5. so 5 - 1 = 4. so 4 * 2 = 8.")
    'left out'
    """
    ours, theirs = _DERIVATION.findall(chain), _DERIVATION.findall(reference)
    for i, (found, wanted) in enumerate(zip(ours, theirs)):
        if found == wanted:
            continue
        if found[:3] == wanted[:3]:
            return "arithmetic"
        # What a step does to the value so far: "+ 3".
        if found[1:3] in [step[1:3] for step in theirs[i + 1 :]]:
            return "left out"
        if found[1:3] in [step[1:3] for step in theirs[:i]]:
            return "repeated"
        return "other step"
    if len(ours) != len(theirs):
        return "too few" if len(ours) < len(theirs) else "too many"
    return "answer"


def mistakes(chains: Sequence[str], references: Sequence[str], right: Sequence[bool]) -> dict:
    """How often each kind came first, as shares of all chains."""
    rows = zip(chains, references, right, strict=True)
    counts = Counter(first_mistake(c, r) for c, r, correct in rows if not correct)
    return {kind: counts[kind] / len(chains) for kind in KINDS}
