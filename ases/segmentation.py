"""From a chain of thought to labelled segments: Figure 2 of the paper, METHOD 2.

    chain → pieces → labels (by position, or by entropy) → merged segments

Extractive segments (ES) restate what stands in the context, abstractive segments (AS) derive something new. For
the answer

    Tom has 3 boxes of 4 apples, so he has 12 apples. He eats 2, so 10 are left. The answer is 10.

the pieces are "Tom has 3 boxes of 4 apples," · " so he has 12 apples." · " He eats 2," · " so 10 are left." ·
" The answer is 10."; interleaving labels them ES, AS, ES, AS, ES. This file needs numbers, never a model: who
wants labels by entropy brings the token entropies along.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

ES, AS = "ES", "AS"


@dataclass(frozen=True)
class Segment:
    """A run of neighbouring pieces with one label; ``pieces`` is empty for the empty first ES segment."""

    label: str
    pieces: tuple[str, ...]

    @property
    def text(self) -> str:
        return "".join(self.pieces)


# --- pieces --------------------------------------------------------------------------------------------------

_CLOSERS = "\"')]}”’）】」』》"
# What ends a piece: full-width marks and ! ? ; always; an ASCII comma unless it stands between digits; an ASCII
# full stop unless a letter, digit or comma follows ("3.5", "U.S.", ".5"). Further marks, closing quotes and
# brackets belong to the same end, and so do newlines with the blanks before them.
_STOP = r"[。，；！？…!?;\n]|(?<!\d),|,(?!\d)|\.(?![\dA-Za-z,])"
_CUT = re.compile(rf"(?:{_STOP})(?:{_STOP}|[{re.escape(_CLOSERS)}])*(?:\s*\n)?")
_ITEM_NUMBER = re.compile(r"\s*\d+\.")
_ABBREVIATION = re.compile(r"(?:^|[\s(])(?:Mr|Mrs|Ms|Dr|St|vs|(?:[A-Za-z]\.)+[A-Za-z])\.$")


def split_pieces(chain: str) -> list[str]:
    """Cut a chain into sentences and clauses; the pieces joined are the chain, byte for byte [ours].

    Never inside a number (a full-width comma always cuts), never after an item number ("2." at a sentence's start) or an abbreviation ("Mrs.",
    "i.e."). A piece
    begins with the blanks before it, as the words of a byte-level vocabulary do, and holds a letter or a digit:
    marks that stand alone go with the piece before them.

    >>> split_pieces("He pays $1,005.50, i.e. 3.5 each. 胰头部高代谢灶，考虑恶性。")
    ['He pays $1,005.50,', ' i.e. 3.5 each.', ' 胰头部高代谢灶，', '考虑恶性。']
    """
    pieces, start = [], 0
    for match in _CUT.finditer(chain):
        piece = chain[start : match.end()]
        if match.group() == "." and match.end() < len(chain) and (_is_item_number(chain, start, piece) or _ABBREVIATION.search(piece)):
            continue
        pieces.append(piece)
        start = match.end()
    if start < len(chain):
        pieces.append(chain[start:])
    return _join_empty(pieces)


def _is_item_number(chain: str, start: int, piece: str) -> bool:
    """"2." at the start of a sentence; in "1, 2, 3." the last number ends one."""
    return bool(_ITEM_NUMBER.fullmatch(piece)) and (start == 0 or chain[start - 1] not in ",，")


def _join_empty(pieces: list[str]) -> list[str]:
    joined: list[str] = []
    held = ""  # marks before the first word
    for piece in pieces:
        if any(c.isalnum() for c in piece):
            joined.append(held + piece)
            held = ""
        elif joined:
            joined[-1] += piece
        else:
            held += piece
    return joined or ([held] if held else [])


# --- labels --------------------------------------------------------------------------------------------------


def interleaved_labels(n: int) -> list[str]:
    """Labels by position: ES, AS, ES, … (the paper's interleaving segmentation).

    >>> interleaved_labels(3)
    ['ES', 'AS', 'ES']
    """
    return [ES if i % 2 == 0 else AS for i in range(n)]


def token_entropies(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of each next-token distribution, −Σ_v p(v) log p(v), in nats (paper; METHOD 2).

    Args:
        logits: (..., V), any floating dtype. A logit of −inf is a token that cannot come and contributes 0.
    Returns:
        (...,), float32 (float64 for float64 logits).
    """
    log_p = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)
    return -(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(-1)  # 0 · −inf would be NaN


def piece_entropies(entropies: Sequence[Sequence[float]], gamma: float) -> list[float]:
    """H(p) = Σ_{t∈p} h_t / |p|^γ for each piece, from the entropies of its tokens, in nats.

    γ = 0 is the sum, γ = 1 the mean per token. That γ is this exponent is ours: the paper sweeps a γ, its
    released code has none and offers the sum or the mean; this puts both on one axis.

    >>> piece_entropies([[1.0, 3.0], [2.0]], gamma=1.0)
    [2.0, 2.0]
    """
    return [sum(tokens) / len(tokens) ** gamma if tokens else 0.0 for tokens in entropies]


def entropy_labels(values: Sequence[float], beta: float) -> list[str]:
    """AS where a piece's entropy exceeds β times the mean over the pieces of the same answer, else ES (paper).

    >>> entropy_labels([1.0, 4.0, 1.0], beta=1.0)
    ['ES', 'AS', 'ES']
    """
    threshold = beta * sum(values) / len(values) if values else 0.0
    return [AS if value > threshold else ES for value in values]


# --- segments ------------------------------------------------------------------------------------------------


def make_segments(pieces: Sequence[str], labels: Sequence[str], merge: bool = True) -> list[Segment]:
    """Merge neighbours with one label, so that segments alternate strictly, ES first [ours].

    Where the first label is AS, the first ES segment is empty. ``merge=False`` keeps every piece a segment of its
    own, as the released code does; segments then need not alternate.

    >>> [(s.label, s.text) for s in make_segments(["a,", " b.", " c."], ["AS", "ES", "ES"])]
    [('ES', ''), ('AS', 'a,'), ('ES', ' b. c.')]

    Raises:
        ValueError: not one label for each piece.
    """
    if len(pieces) != len(labels):
        raise ValueError(f"{len(pieces)} pieces but {len(labels)} labels; expected one label for each piece")
    if not merge:
        return [Segment(label, (piece,)) for piece, label in zip(pieces, labels)]
    segments = [Segment(ES, ())]
    for piece, label in zip(pieces, labels):
        if segments[-1].label == label:
            segments[-1] = Segment(label, segments[-1].pieces + (piece,))
        else:
            segments.append(Segment(label, (piece,)))
    return segments


def role_agreement(gold: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of each role, over the pieces of all examples; 0 where a ratio is undefined.

    Args:
        gold, labels: for each example, one role for each of its pieces.
    Raises:
        ValueError: an example with not as many labels as gold roles.
    """
    pairs = []
    for index, (true, found) in enumerate(zip(gold, labels, strict=True)):
        if len(true) != len(found):
            raise ValueError(f"example {index}: {len(found)} labels, {len(true)} gold roles; expected as many")
        pairs += zip(true, found)
    scores = {}
    for role in (ES, AS):
        hits = sum(true == found == role for true, found in pairs)
        found, true = sum(f == role for _, f in pairs), sum(t == role for t, _ in pairs)
        precision, recall = hits / found if found else 0.0, hits / true if true else 0.0
        scores[role] = {"precision": precision, "recall": recall, "f1": 2 * hits / (found + true) if found + true else 0.0}
    return scores
