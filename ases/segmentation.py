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
# A piece ends at 。；！？…;? and line ends; at "!" except in "!="; at a comma except between digits
# or in TeX's "1{,}000"; at a full stop except before a letter, digit, comma or TeX ("3.5", "U.S.",
# ".5", "0.\overline3"); at a row of dots except before a digit ("5...10"). It never ends in TeX's
# spaces ("10\,000", "14,\!400") or at a factorial in an expression ("10! / (2! * n!)").
_FACTORIAL = (
    r"(?:(?<=[\d)}\]]!)|(?<=\b[a-zA-Z]!))[)\]$]*"
    r"(?:[\d({}]|\s*[=^\\]|\s*[-+*/×·÷−–⋅<>≈:]\s*(?:[\d(\\]|[a-zA-Z]\b))"
)
LINE_ENDS = "\n\r\v\f\x85\u2028\u2029"
# Other scripts: Unicode's Sentence_Terminal and Tibetan's shad; then all that Unicode names comma
# or semicolon, except 、, which separates items of a list. Between digits they end nothing.
SENTENCE_ENDS = (
    "\u0589\u061d-\u061f\u06d4\u0700-\u0702\u07f9\u0837\u0839\u083d\u083e\u0964\u0965"
    "\u0f0d-\u0f11\u104a\u104b\u1362\u1367\u1368\u166e\u1735\u1736\u17d4\u17d5\u1803\u1809\u1944"
    "\u1945\u1aa8-\u1aab\u1b4e\u1b4f\u1b5a\u1b5b\u1b5e\u1b5f\u1b7d-\u1b7f\u1c3b\u1c3c\u1c7e\u1c7f"
    "\u2cf9-\u2cfb\u2e2e\u2e3c\u2e53\u2e54\ua4ff\ua60e\ua60f\ua6f3\ua6f7\ua876\ua877\ua8ce\ua8cf"
    "\ua92f\ua9c8\ua9c9\uaa5d-\uaa5f\uaaf0\uaaf1\uabeb\ufe12\ufe15\ufe16\ufe52\ufe56\ufe57\uff0e"
    "\uff61\U00010a56\U00010a57\U00010f55-\U00010f59\U00010f86-\U00010f89\U00011047\U00011048"
    "\U000110be-\U000110c1\U00011141-\U00011143\U000111c5\U000111c6\U000111cd\U000111de\U000111df"
    "\U00011238\U00011239\U0001123b\U0001123c\U000112a9\U0001144b\U0001144c\U000115c2\U000115c3"
    "\U000115c9-\U000115d7\U00011641\U00011642\U0001173c-\U0001173e\U00011944\U00011946\U00011a42"
    "\U00011a43\U00011a9b\U00011a9c\U00011c41\U00011c42\U00011ef7\U00011ef8\U00011f43\U00011f44"
    "\U00016a6e\U00016a6f\U00016af5\U00016b37\U00016b38\U00016b44\U00016e98\U0001bc9f\U0001da88"
)
_COMMAS = (
    "\u037e\u055d\u060c\u061b\u07f8\u1363\u1364\u1802\u1808\u204f\u2e32\u2e34\u2e35\u2e41\u2e49"
    "\u2e4c\ua4fe\ua60d\ua6f5\ua6f6\ufe10\ufe14\ufe50\ufe54\U0001144d\U0001145a\U00016e97"
    "\U0001da87\U0001da89"
)
_OTHERS = f"[{SENTENCE_ENDS}{_COMMAS}‼⁇⁈⁉‽]"
_GREEK = "[\u0370-\u03ff\u1f00-\u1fff]"  # whose semicolon, elsewhere, is a sign of multiplication
_STOP = (
    rf"[。；！？…?{LINE_ENDS}]|(?<!\\);|(?<!\\)!(?!=)(?!{_FACTORIAL})"
    r"|(?<![\d{\\])[,，]|(?<![{\\])[,，](?!\d|\\[!,;: ])"
    r"|\.(?![\dA-Za-z,.]|\\[a-z])|\.{2,}(?![\d.])"
    rf"|(?<!\d){_OTHERS}|{_OTHERS}(?!\d)"
    rf"|(?<={_GREEK})[·\u0387](?=\s)|(?<=\w)[·\u0387](?=\s+{_GREEK})"
)
_CLOSERS = "\"')]}”’）】」』》»｣"

# URLs and formulas match first, which skips the marks inside them. $…$ is a formula, and not money
# ("pays $5, then $6", "5$, then 6$"), if no space follows the first "$" or precedes the last, no
# digit precedes the first, and none follows the last. An unclosed formula ends at the next opening.
_URL = r"https?://[!-~]*[A-Za-z0-9/_=&#%-]"
_FORMULA = (
    r"\$\$(?:(?!\$\$)[\s\S])+\$\$|(?<![\d\\$])\$(?![\s$<])(?:\\.|[^$\\]|\\\n)*?(?<![\s=+*/(-])\$(?!\.?[\d<])"
    r"|\\\((?:(?!\\\()[\s\S])*?\\\)|\\\[(?:(?!\\\[)[\s\S])*?\\\]"
    r"|\\begin\{(?P<of>[a-z]+\*?)\}(?:(?!\\begin\{(?P=of)\})[\s\S])*?\\end\{(?P=of)\}"
)
# A formula whose last sign is a mark ends a piece ("so $r = 3.$ Then").
_ENDS_INSIDE = re.compile(r"(?<!\\)[.,;?。，；]\s*(?:\$\$?|\\[\])])$")
# The cut also takes in further marks, closing quotes and brackets, and line ends with the blanks
# before them.
_CUT = re.compile(
    rf"(?P<whole>{_URL}|{_FORMULA})"
    rf"|(?:{_STOP})(?:{_STOP}|[{re.escape(_CLOSERS)}])*(?:\s*[{LINE_ENDS}])?"
)

# Abbreviations: those never at an end, and those not at an end before a number ("No. 5", "Jan. 5").
_ABBREVIATION = re.compile(
    r"(?<![\w.])(?:Mr|Mrs|Ms|Dr|Prof|St|vs|approx|(?:[A-Za-z]\.)+[A-Za-z])\.$"
)
_MONTHS = "Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec"
_BEFORE_NUMBER = re.compile(rf"(?<![\w.])(?:No|Nos|Rs|Fig|{_MONTHS})\.$")
_NUMBER_FOLLOWS = re.compile(r"[ \t]{0,3}\d")

_BLANKS = re.compile(r"\s*")
_REST_OF_LINE = re.compile(rf"[^\S{LINE_ENDS}]*\S")


def split_pieces(chain: str) -> list[str]:
    """Cut a chain into sentences and clauses. Joined, they are the chain, byte for byte. Not in the
    paper.

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
        if (match["whole"] and not _ENDS_INSIDE.search(match["whole"])) or (
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
    """Merge neighbours with the same label: segments alternate strictly, ES first (not in the
    paper). Without ``merge``, every piece is a segment (released code).

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
