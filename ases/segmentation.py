"""From a chain of thought to labelled segments, Figure 2 of the paper:

    chain → pieces → labels (by position, or by entropy) → merged segments

Extractive segments (ES) restate the context; abstractive segments (AS) derive something new. The
toy problem's chain, labelled by position:

    ES  Tom has 3 boxes of 4 apples,
    AS  so he has 3 * 4 = 12 apples.
    ES  He eats 2,
    AS  so 12 - 2 = 10 are left.
    ES  The answer is 10.

There is no model here; ``ases.entropy`` computes the entropies.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

ES, AS = "ES", "AS"


@dataclass(frozen=True)
class Segment:
    """A run of pieces with the same label; an empty first ES segment has none."""

    label: str
    pieces: tuple[str, ...]

    @property
    def text(self) -> str:
        return "".join(self.pieces)


# --- pieces --------------------------------------------------------------------------------------
# A piece ends at 。；！？…;? and newlines; at "!" except in "!="; at a comma except between digits
# or in TeX's "1{,}000"; at a full stop except before a letter, digit, comma or TeX ("3.5", "U.S.",
# ".5", "0.\overline3"); at a row of dots except before a digit ("5...10"). It never ends in TeX's
# spaces ("10\,000", "14,\!400") or at a factorial in an expression ("10! / (2! * n!)").
_FACTORIAL = (
    r"(?:(?<=[\d)}\]]!)|(?<=\b[a-zA-Z]!))[)\]$]*"
    r"(?:[\d({}]|\s*[=^\\]|\s*[-+*/×·÷−–⋅<>≈:]\s*(?:[\d(\\]|[a-zA-Z]\b))"
)
_STOP = (
    rf"[。；！？…?\n]|(?<!\\);|(?<!\\)!(?!=)(?!{_FACTORIAL})"
    r"|(?<![\d{\\])[,，]|(?<![{\\])[,，](?!\d|\\[!,;: ])"
    r"|\.(?![\dA-Za-z,.]|\\[a-z])|\.{2,}(?![\d.])"
)
_CLOSERS = "\"')]}”’）】」』》"

# The cut also takes in further marks, closing quotes and brackets, and newlines with the blanks
# before them. URLs match first, which skips the marks inside them.
_URL = r"https?://[!-~]*[A-Za-z0-9/_=&#%-]"
_CUT = re.compile(rf"(?P<url>{_URL})|(?:{_STOP})(?:{_STOP}|[{re.escape(_CLOSERS)}])*(?:\s*\n)?")

# Abbreviations: those never at an end, and those not at an end before a number ("No. 5", "Jan. 5").
_ABBREVIATION = re.compile(
    r"(?<![\w.])(?:Mr|Mrs|Ms|Dr|Prof|St|vs|approx|(?:[A-Za-z]\.)+[A-Za-z])\.$"
)
_MONTHS = "Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec"
_BEFORE_NUMBER = re.compile(rf"(?<![\w.])(?:No|Nos|Rs|Fig|{_MONTHS})\.$")
_NUMBER_FOLLOWS = re.compile(r"[ \t]{0,3}\d")

_BLANKS = re.compile(r"\s*")
_REST_OF_LINE = re.compile(r"[^\S\n]*\S")


def split_pieces(chain: str) -> list[str]:
    """Cut a chain into sentences and clauses [ours]. Joined, they are the chain, byte for byte.

    Never cuts inside a number, a URL or "!=", or after an item number ("2.") or an abbreviation
    ("Mrs.", "i.e.", "No. 5"). Pieces start with their leading blanks, like the words of a
    byte-level vocabulary, and hold a letter or digit: stray marks join the previous piece.

    >>> split_pieces("He pays $1,005.50, i.e. 3.5 each. 胰头部高代谢灶，考虑恶性。")
    ['He pays $1,005.50,', ' i.e. 3.5 each.', ' 胰头部高代谢灶，', '考虑恶性。']
    """
    cuts = []
    words_from = _BLANKS.match(chain).end()  # start of the piece's first word
    for match in _CUT.finditer(chain):
        end = match.end()
        if match["url"] or (
            match.group() == "."
            and (_is_item_number(chain, words_from, end) or is_abbreviation(chain, end))
        ):
            continue
        cuts.append(end)
        words_from = _BLANKS.match(chain, end).end()

    starts, words = [0], False  # starts of pieces; any word so far?
    for a, b in zip([0, *cuts], [*cuts, len(chain)]):
        has_word = any(c.isalnum() for c in chain[a:b])
        if has_word and words:
            starts.append(a)
        words = words or has_word
    return [chain[a:b] for a, b in zip(starts, [*starts[1:], len(chain)]) if a < b]


def _is_item_number(chain: str, words_from: int, end: int) -> bool:
    """Is the piece so far an item number ("2."), with its item on the same line?"""
    # In "1, 2, 3. Then", "is it? 4. So" and "2 + 2 =\n4. So" the number ends a sentence.
    if end - words_from > 4 or not chain[words_from : end - 1].isdigit():
        return False
    before = chain[max(0, words_from - 8) : words_from].rstrip()
    ends_a_sentence = before.endswith(tuple(",，?？…=+-*/"))
    return not ends_a_sentence and _REST_OF_LINE.match(chain, end) is not None


def is_abbreviation(chain: str, end: int) -> bool:
    """Does the full stop before ``end`` belong to an abbreviation?"""
    # Abbreviations are shorter than this, and an unbounded search would take quadratic time.
    window = max(0, end - 16)
    before_number = _BEFORE_NUMBER.search(chain, window, end) and _NUMBER_FOLLOWS.match(chain, end)
    return bool(before_number or _ABBREVIATION.search(chain, window, end))


# --- labels --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Rule:
    """Labels pieces. To add a rule, write ``label`` and a line in ``RULES``. A rule that also
    reads questions must be passed to ``ases.train`` as ``cut``, a function of examples."""

    #: (pieces, token entropies of each piece or None, settings) → ES or AS for each piece
    label: Callable[[Sequence[str], Sequence[Sequence[float]] | None, Any], list[str]]
    words: str  # description in messages and pages
    needs_entropy: bool = False  # from a direct model, the scorer


def interleaved_labels(n: int) -> list[str]:
    """Labels by position: ES, AS, ES, … (the paper's interleaving segmentation)."""
    return [ES if i % 2 == 0 else AS for i in range(n)]


def piece_entropies(entropies: Sequence[Sequence[float]], gamma: float) -> list[float]:
    """H(p) = Σ_{t∈p} h_t / |p|^γ, from token entropies h_t in nats (paper; γ as exponent: ours)."""
    # A piece may have no tokens: T5's tokenizer drops newlines.
    return [sum(tokens) / len(tokens) ** gamma if tokens else 0.0 for tokens in entropies]


def entropy_labels(values: Sequence[float], beta: float) -> list[str]:
    """AS where a piece's entropy exceeds β times its chain's mean, else ES (paper)."""
    # H · n > β · ΣH with an exact sum: a rounded mean of equal numbers can fall below them.
    n, threshold = len(values), beta * math.fsum(values)
    return [AS if value * n > threshold else ES for value in values]


RULES = {
    "interleave": Rule(
        lambda pieces, entropies, settings: interleaved_labels(len(pieces)),
        "Labels alternate by position (ES, AS, ES, …), whatever a piece says.",
    ),
    "entropy": Rule(
        lambda pieces, entropies, settings: entropy_labels(
            piece_entropies(entropies, settings.gamma), settings.beta
        ),
        "A piece is AS if its entropy H under a direct model exceeds beta times its chain's mean.",
        needs_entropy=True,
    ),
}


# --- segments ------------------------------------------------------------------------------------
def make_segments(pieces: list[str], labels: list[str], merge: bool = True) -> list[Segment]:
    """Merge neighbours with the same label: segments alternate strictly, ES first [ours]. Without
    ``merge``, every piece is a segment (released code).

    >>> [(s.label, s.text) for s in make_segments(["a,", " b.", " c."], ["AS", "ES", "ES"])]
    [('ES', ''), ('AS', 'a,'), ('ES', ' b. c.')]

    Raises ValueError: not one label per piece, or an unknown label.
    """
    if len(pieces) != len(labels):
        raise ValueError(f"{len(pieces)} pieces but {len(labels)} labels; expected one for each")
    if unknown := set(labels) - {ES, AS}:
        raise ValueError(f"labels {unknown}; expected {ES} or {AS}")
    if not merge:
        return [Segment(label, (piece,)) for piece, label in zip(pieces, labels)]

    # Why merge: a USM that writes piece by piece never sees the labels. An ESM and ASM taking turns
    # would meet contexts unseen in training.
    segments = []
    if not labels or labels[0] == AS:
        segments.append(Segment(ES, ()))  # the ESM always goes first
    for label, run in groupby(zip(pieces, labels), key=lambda labelled: labelled[1]):
        segments.append(Segment(label, tuple(piece for piece, _ in run)))
    return segments
