"""Segments → pairs → rows → batches.

A *pair* is one training example: context → next segment. A context grows by appending. Each part is
a block that ends with </s>. A segment's target is its block in later contexts:

    question </s>                          →  segment 1 </s>
    question </s> segment 1 </s>           →  segment 2 </s>
    question </s> segment 1 </s> …         →  segment n <end> </s>

A *row* is a list of pairs that share one encoding. With a block-causal encoder, a source token sees
its own block and all earlier ones. Each context's encoding is then a prefix of the next one's, and
one row serves a whole chain (not in the paper):

    source    question </s> | segment 1 </s> | … | segment n−1 </s>    block j sees blocks 0 … j
    decoder   segment 1 </s> | segment 2 </s> | … | segment n <end> </s>    no block sees another
    cross     segment j's decoder tokens see the blocks before block j

With a bidirectional encoder, like T5's, a row is one pair whose context is one block.
"""

import random
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ases.attention import Span, block_span, packed_span
from ases.data import Example
from ases.segmentation import Segment
from ases.settings import CHAIN, MODES
from ases.tokenizer import Tokenizer

IGNORE = -100  # target value of padding; PyTorch's default ignore_index


# --- pairs ---------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Pair:
    """Context blocks → ids of the next segment, all with </s>."""

    role: str
    blocks: list[list[int]]  # of the context; of the whole chain if ``n_blocks`` is given
    target: list[int]
    n_blocks: int | None = None  # the pairs of a long chain share one list

    @property
    def context(self) -> list[list[int]]:
        return self.blocks[: self.n_blocks]

    def __eq__(self, other: object) -> bool:
        parts = (self.role, self.context, self.target)
        return isinstance(other, Pair) and parts == (other.role, other.context, other.target)

    @property
    def source(self) -> list[int]:
        return [i for block in self.context for i in block]


Row = list[Pair]


def join_context(
    question: Sequence[int], segments: Iterable[Sequence[int]], tokenizer: Tokenizer
) -> list[list[int]]:
    """The next segment's context, x_j = join(q, s_1 … s_{j−1}), from ids without special tokens.

    Training and generation share this function.
    """
    return [[*part, tokenizer.eos_id] for part in (question, *segments)]


def encode_question(text: str, tokenizer: Tokenizer, max_question: int) -> tuple[list[int], int]:
    """Ids of a question, and how many were dropped: long questions lose their middle (not in the
    paper).

    Raises ValueError: ``max_question`` is not positive.
    """
    if max_question < 1:
        raise ValueError(f"max_question is {max_question}; expected 1 or more")
    # Encoding takes time: encode only the ends of long texts. Tokens average under 32 characters.
    most = 32 * max_question
    shortened = len(text) > 2 * most
    if shortened:
        text = text[:most] + text[-most:]
    ids = tokenizer.encode(text)
    dropped = max(0, len(ids) - max_question)
    head = (max_question + 1) // 2
    return [*ids[:head], *ids[head + dropped :]], dropped or int(shortened)


def make_pairs(
    question: str, segments: Sequence[Segment], tokenizer: Tokenizer, max_question: int = 1024
) -> list[Pair]:
    """One pair per segment. The USM learns all, the ESM the ES ones, the ASM the AS ones.

    Raises ValueError: no segments.
    """
    if not segments:
        raise ValueError("no segments; expected at least one")
    question_ids, _ = encode_question(question, tokenizer, max_question)
    # Encode the chain once, then group the ids by segment.
    of_pieces = iter(tokenizer.encode_pieces([piece for s in segments for piece in s.pieces]))
    ids = [[i for _ in s.pieces for i in next(of_pieces)] for s in segments]
    blocks = join_context(question_ids, ids, tokenizer)
    targets = [*blocks[1:-1], [*ids[-1], tokenizer.end_id, tokenizer.eos_id]]
    return [Pair(s.label, blocks, targets[j], j + 1) for j, s in enumerate(segments)]


# --- rows ----------------------------------------------------------------------------------------
def make_rows(pairs: Sequence[Pair], encoder: str) -> list[Row]:
    """Rows from the pairs that one sub-model learns from one chain."""
    if encoder == "bidirectional":
        return [[Pair(pair.role, [pair.source], pair.target)] for pair in pairs]
    return [list(pairs)] if pairs else []


def source_length(row: Row) -> int:
    """Source tokens of a row: its last context contains the others."""
    return sum(map(len, row[-1].context))


def target_length(row: Row) -> int:
    return sum(len(pair.target) for pair in row)


@dataclass(frozen=True)
class Segmented:
    """An example and its segmentation."""

    example: Example
    pieces: list[str]
    labels: list[str]
    segments: list[Segment]
    # For labels by entropy: H(p) of each piece, and its token entropies.
    entropies: list[float] | None = None
    token_entropies: list[list[float]] | None = None


def rows_by_model(
    mode: str,
    segmented: Sequence[Segmented],
    tokenizer: Tokenizer,
    encoder: str,
    max_question: int = 1024,
) -> dict[str, list[Row]]:
    """Rows of each sub-model: {"usm": all pairs}, {"esm": ES pairs, "asm": AS pairs}, …"""
    rows: dict[str, list[Row]] = {name: [] for name in MODES[mode]}
    for s in segmented:
        segments = [Segment(CHAIN, tuple(s.pieces))] if mode == "direct" else s.segments
        pairs = make_pairs(s.example.question, segments, tokenizer, max_question)
        for name, roles in MODES[mode].items():
            rows[name] += make_rows([pair for pair in pairs if pair.role in roles], encoder)
    return rows


# --- batches -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Batch:
    """B rows, padded to S source and T target positions, and the keys each query sees."""

    source: Tensor  # (B, S) int64, padded with pad_id
    decoder_input: Tensor  # (B, T) int64: each target shifted right, after a start token
    target: Tensor  # (B, T) int64, padded with IGNORE
    source_span: Span  # encoder self-attention
    target_span: Span  # decoder self-attention
    cross_span: Span  # cross-attention
    begins: tuple[Tensor, ...]  # of each target: row, first position, last source position
    source_tokens: int  # without padding
    target_tokens: int

    def to(self, device: torch.device | str) -> "Batch":
        def moved(part: Any) -> Any:
            if isinstance(part, tuple):
                return tuple(map(moved, part))
            return part.to(device) if isinstance(part, Tensor) else part

        return Batch(**{name: moved(part) for name, part in vars(self).items()})


@dataclass
class PackedRow:
    """A row as flat lists: one entry for each source token or each target token."""

    source: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)  # where each source token's block ends
    inputs: list[int] = field(default_factory=list)  # of the decoder
    targets: list[int] = field(default_factory=list)
    # The first position of the target that each token belongs to, and the source tokens it reads.
    starts: list[int] = field(default_factory=list)
    reads: list[int] = field(default_factory=list)
    begins: list[tuple[int, int]] = field(default_factory=list)  # see ``Batch``; without the row


def pack(row: Row, start_id: int) -> PackedRow:
    """Concatenate a row's pairs."""
    packed, lengths = PackedRow(), []  # lengths: of the source up to each block
    for block in row[-1].context:  # the last context contains the others
        packed.source += block
        lengths.append(len(packed.source))
        packed.ends += [len(packed.source)] * len(block)
    for pair in row:
        n, first = len(pair.target), len(packed.targets)
        n_read = lengths[(pair.n_blocks or len(pair.blocks)) - 1]
        packed.begins.append((first, n_read - 1))
        packed.inputs += [start_id, *pair.target[:-1]]  # shifted right
        packed.targets += pair.target
        packed.starts += [first] * n
        packed.reads += [n_read] * n
    return packed


def collate(rows: Sequence[Row], pad_id: int, start_id: int = 0) -> Batch:
    """Pad rows to the longest. Padding sees nothing, and nothing sees it."""
    packed = [pack(row, start_id) for row in rows]
    source_lengths = [len(p.source) for p in packed]
    target_lengths = [len(p.targets) for p in packed]
    S, T = max(source_lengths), max(target_lengths)
    begins = [(b, *begin) for b, p in enumerate(packed) for begin in p.begins]
    # Padding gets the largest end, so that span ends never decrease along a row.
    ends = pad_rows([p.ends for p in packed], S)
    reads = pad_rows([p.reads for p in packed], S)
    return Batch(
        source=pad_rows([p.source for p in packed], pad_id),
        decoder_input=pad_rows([p.inputs for p in packed], pad_id),
        target=pad_rows([p.targets for p in packed], IGNORE),
        source_span=block_span(ends, torch.tensor(source_lengths)),
        target_span=packed_span(pad_rows([p.starts for p in packed], T)),
        cross_span=block_span(reads, torch.tensor(target_lengths)),
        begins=tuple(torch.tensor(begins).T),
        source_tokens=sum(source_lengths),
        target_tokens=sum(target_lengths),
    )


def pad_rows(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """(B, longest) int64, each row right-padded with ``value``."""
    longest = max(map(len, rows))
    flat = array("q")  # several times faster than torch.tensor on lists
    for row in rows:
        flat.extend(row)
        flat.extend([value] * (longest - len(row)))
    return torch.frombuffer(flat, dtype=torch.int64).view(len(rows), longest)


def make_batches(rows: Sequence[Row], batch_tokens: int, seed: int, epoch: int) -> list[list[int]]:
    """One epoch of batches, as indices of ``rows``: similar lengths, at most ``batch_tokens``
    padded tokens, random order. A longer row is a batch of its own.

    Deterministic: with equal arguments, (epoch, batch number) is a position in the data.
    """
    rng = random.Random(f"batches-{seed}-{epoch}")
    sizes = [(source_length(row), target_length(row)) for row in rows]
    order = list(range(len(rows)))
    rng.shuffle(order)  # the sort's ties fall differently in each epoch
    order.sort(key=lambda i: (sizes[i][0] // 4, sizes[i][1]))

    batches: list[list[int]] = []
    longest_source = longest_target = 0
    for i in order:
        source, target = sizes[i]
        longest_source, longest_target = max(longest_source, source), max(longest_target, target)
        width = longest_source + longest_target
        if not batches or (len(batches[-1]) + 1) * width > batch_tokens:
            batches.append([])
            longest_source, longest_target = source, target
        batches[-1].append(i)
    rng.shuffle(batches)
    return batches
