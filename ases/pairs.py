"""From segments to training pairs, and from pairs to batches.

``join_context`` is the only place where the context of a next segment is put together. Training and
inference both call it, on token ids, so what a model reads at inference is what it read in
training, id for id:

    question <sep> segment 1 <sep> … <sep> segment j−1 </s>   →   segment j </s>

The last segment of a chain is followed by <end> before its </s>.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from ases.data import Example
from ases.segmentation import AS, ES, Segment
from ases.tokenizer import Tokenizer

CHAIN = "CHAIN"  # the role of a direct model's only target, beside ES and AS
IGNORE = -100  # label of a padded target position: PyTorch's convention

#: The sub-models of each mode, and the roles that each of them writes: the whole difference between
#: the modes.
MODES = {
    "direct": {"direct": (CHAIN,)},
    "dsm": {"esm": (ES,), "asm": (AS,)},
    "usm": {"usm": (ES, AS)},
}


@dataclass(frozen=True)
class Pair:
    """One training example of a sub-model: source ids → target ids, both ending with </s>.

    ``cut`` is the number of tokens that the source had no room for.
    """

    role: str
    source: list[int]
    target: list[int]
    cut: int = 0


def join_context(
    question: Sequence[int],
    segments: Iterable[Sequence[int]],
    tokenizer: Tokenizer,
    max_source: int,
) -> tuple[list[int], int]:
    """Context of the next segment: x_j = join(q, s_1 … s_{j−1}), and how many tokens were cut from
    it.

    Too long a context loses the middle of the question; where the segments alone are too long, the
    oldest tokens go. The newest segment is never cut before everything older is gone [ours].

    Args:
        question, segments: token ids, without special ones.
        max_source: most ids the context may have, its </s> included.
    """
    segments = list(segments)
    n_history = sum(len(segment) + 1 for segment in segments)
    history: list[
        list[int]
    ] = []  # the newest first; what lies beyond the limit is not even looked at
    room = max_source - 1
    for segment in reversed(segments):
        if room <= 0:
            break
        history.append([tokenizer.sep_id, *segment][-room:])
        room -= len(history[-1])
    recent = [i for segment in reversed(history) for i in segment]

    cut = len(question) + n_history - (max_source - 1)
    if cut <= 0:
        return [*question, *recent, tokenizer.eos_id], 0
    head = (room + 1) // 2
    tail = room - head
    kept = [*question[:head], *question[len(question) - tail :]]
    return [*kept, *recent, tokenizer.eos_id], cut


def make_pairs(
    question: str, segments: Sequence[Segment], tokenizer: Tokenizer, max_source: int = 1024
) -> list[Pair]:
    """One pair for each segment, in order: the USM's; the ESM's are those of role ES, the ASM's
    those of AS."""
    question_ids = tokenizer.encode(question)
    targets = _encode_segments(segments, tokenizer)
    pairs = []
    for j, segment in enumerate(segments):
        # Earlier segments beyond the limit cannot show in the context; passing all of them would
        # take quadratic time.
        source, cut = join_context(
            question_ids, targets[max(0, j - max_source) : j], tokenizer, max_source
        )
        end = [tokenizer.end_id] if j == len(segments) - 1 else []
        pairs.append(Pair(segment.label, source, [*targets[j], *end, tokenizer.eos_id], cut))
    return pairs


def make_direct_pair(
    question: str, pieces: Sequence[str], tokenizer: Tokenizer, max_source: int = 1024
) -> Pair:
    """The baseline's pair, question → whole chain; its target has the same tokens as the segments
    together."""
    source, cut = join_context(tokenizer.encode(question), [], tokenizer, max_source)
    chain = [i for ids in tokenizer.encode_pieces(list(pieces)) for i in ids]
    return Pair(CHAIN, source, [*chain, tokenizer.end_id, tokenizer.eos_id], cut)


def _encode_segments(segments: Sequence[Segment], tokenizer: Tokenizer) -> list[list[int]]:
    return [[i for ids in tokenizer.encode_pieces(list(s.pieces)) for i in ids] for s in segments]


@dataclass(frozen=True)
class Segmented:
    """An example with what segmentation made of it; ``entropies`` holds H(p) of each piece, if it
    was needed."""

    example: Example
    pieces: list[str]
    labels: list[str]
    segments: list[Segment]
    entropies: list[float] | None = None


def pairs_by_model(
    mode: str, segmented: Sequence[Segmented], tokenizer: Tokenizer, max_source: int
) -> dict[str, list[Pair]]:
    """The training pairs of each sub-model of ``mode``: {"usm": all}, {"esm": ES pairs, "asm": AS
    pairs}, …"""
    if mode == "direct":
        return {
            "direct": [
                make_direct_pair(s.example.question, s.pieces, tokenizer, max_source)
                for s in segmented
            ]
        }
    pairs = []
    for s in segmented:
        pairs += make_pairs(s.example.question, s.segments, tokenizer, max_source)
    return {
        name: [pair for pair in pairs if pair.role in roles] for name, roles in MODES[mode].items()
    }


# --- batches -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Padded tensors of one batch: B pairs, S source and T target positions."""

    source: torch.Tensor  # (B, S) int64, padded with pad_id
    source_lengths: torch.Tensor  # (B,) int64, from 1 to S
    target: torch.Tensor  # (B, T) int64, padded with IGNORE

    @property
    def target_tokens(self) -> int:
        """Real target tokens, padding not counted."""
        return int((self.target != IGNORE).sum())

    @property
    def tokens(self) -> int:
        """Real tokens, source and target, padding not counted."""
        return int(self.source_lengths.sum()) + self.target_tokens

    def to(self, device: torch.device | str) -> "Batch":
        return Batch(self.source.to(device), self.source_lengths.to(device), self.target.to(device))


def collate(pairs: Sequence[Pair], pad_id: int) -> Batch:
    """Pad sources with ``pad_id`` and targets with IGNORE to the longest of the batch."""
    return Batch(
        pad_rows([p.source for p in pairs], pad_id),
        torch.tensor([len(p.source) for p in pairs]),
        pad_rows([p.target for p in pairs], IGNORE),
    )


def pad_rows(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """(B, longest) int64, each row filled up with ``value`` on the right."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=torch.long)


def make_batches(
    pairs: Sequence[Pair], tokens_per_batch: int, seed: int, epoch: int
) -> list[list[int]]:
    """Indices of ``pairs``, grouped for one epoch: alike in length, bounded in padded tokens, in
    random order.

    The same arguments give the same batches, so a position in the data is the pair (epoch, batch
    number). A pair longer than the bound is a batch of its own.
    """
    rng = random.Random(f"batches-{seed}-{epoch}")
    order = list(range(len(pairs)))
    rng.shuffle(order)  # ties of the sort below are broken anew each epoch
    order.sort(key=lambda i: (len(pairs[i].source) // 4, len(pairs[i].target)))

    batches: list[list[int]] = []
    batch: list[int] = []
    longest_source = longest_target = 0
    for i in order:
        source, target = len(pairs[i].source), len(pairs[i].target)
        longest_source, longest_target = max(longest_source, source), max(longest_target, target)
        if batch and (len(batch) + 1) * (longest_source + longest_target) > tokens_per_batch:
            batches.append(batch)
            batch, longest_source, longest_target = [], source, target
        batch.append(i)
    if batch:
        batches.append(batch)
    rng.shuffle(batches)
    return batches
