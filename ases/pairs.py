"""From segments to training pairs, from pairs to rows, and from rows to batches.

A *pair* is what is learned: context → next segment. ``join_context`` is the only place where the
context is put together, on token ids, for training and inference. It grows by appending: each part
is a block that ends with </s>, and the block that a segment adds equals the target it came from.

    question </s>                          →  segment 1 </s>
    question </s> segment 1 </s>           →  segment 2 </s>
    question </s> segment 1 </s> …         →  segment n <end> </s>

A *row* is what is computed. With a bidirectional encoder, as T5's, every pair is one. With a
block-causal encoder a source token sees its own block and all earlier ones, so that the encoding of
one context is a prefix of that of the next, and one row serves a whole chain [ours]:

    source    question </s> | segment 1 </s> | … | segment n−1 </s>    block j sees blocks 0 … j
    decoder   segment 1 </s> | segment 2 </s> | … | segment n <end> </s>    each blind to the others
    cross     the decoder of segment j reads the blocks before block j
"""

import random
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ases.attention import Runs, blocks, packed
from ases.config import CHAIN, MODES
from ases.data import Example
from ases.segmentation import Segment
from ases.tokenizer import Tokenizer

IGNORE = -100  # label of a padded target position: PyTorch's convention

# --- pairs ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """One thing to learn: the blocks of a context → the ids of the next segment, all with </s>."""

    role: str
    context: list[list[int]]
    target: list[int]

    @property
    def source(self) -> list[int]:
        """The context as one sequence."""
        return [i for block in self.context for i in block]


def join_context(
    question: Sequence[int], segments: Iterable[Sequence[int]], tokenizer: Tokenizer
) -> list[list[int]]:
    """Context of the next segment: x_j = join(q, s_1 … s_{j−1}), each part closed by </s>.

    Args:
        question, segments: token ids, without special ones.
    """
    return [[*part, tokenizer.eos_id] for part in (question, *segments)]


def encode_question(
    question: str, tokenizer: Tokenizer, max_question: int
) -> tuple[list[int], int]:
    """Ids of a question, and how many were cut at least: one that is too long loses its middle
    [ours].

    It is cut once for its chain, so that contexts go on growing by appending.

    Raises:
        ValueError: ``max_question`` is not positive.
    """
    if max_question < 1:
        raise ValueError(f"max_question is {max_question}; expected 1 or more")
    most = 32 * max_question  # characters of either end; tokens have fewer
    shortened = len(question) > 2 * most
    if shortened:
        question = question[:most] + question[-most:]
    ids = tokenizer.encode(question)
    cut = len(ids) - max_question
    if cut <= 0:
        return ids, int(shortened)
    head = (max_question + 1) // 2
    tail = max_question - head
    return [*ids[:head], *ids[len(ids) - tail :]], cut


def make_pairs(
    question: str, segments: Sequence[Segment], tokenizer: Tokenizer, max_question: int = 1024
) -> list[Pair]:
    """One pair for each segment, in order: the USM's; the ESM learns those of ES, the ASM of AS.

    The chain is encoded once, and its tokens are dealt to the segments.

    Raises:
        ValueError: no segments.
    """
    if not segments:
        raise ValueError("no segments; expected at least one")
    question_ids, _ = encode_question(question, tokenizer, max_question)
    of_pieces = iter(tokenizer.encode_pieces([piece for s in segments for piece in s.pieces]))
    ids = [[i for _ in s.pieces for i in next(of_pieces)] for s in segments]
    blocks = join_context(question_ids, ids, tokenizer)
    pairs = [
        Pair(segment.label, blocks[: j + 1], blocks[j + 1]) for j, segment in enumerate(segments)
    ]
    last = pairs[-1]
    pairs[-1] = Pair(last.role, last.context, [*ids[-1], tokenizer.end_id, tokenizer.eos_id])
    return pairs


def make_direct_pair(
    question: str, pieces: Sequence[str], tokenizer: Tokenizer, max_question: int = 1024
) -> Pair:
    """The baseline's pair, question → whole chain; its target has the same tokens as all pairs'."""
    question_ids, _ = encode_question(question, tokenizer, max_question)
    chain = [i for ids in tokenizer.encode_pieces(list(pieces)) for i in ids]
    target = [*chain, tokenizer.end_id, tokenizer.eos_id]
    return Pair(CHAIN, join_context(question_ids, [], tokenizer), target)


# --- rows ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """One row of a batch: a source, and the targets that are decoded from it.

    ``ends[i]`` is the end of what source token i sees; the decoder of ``targets[k]`` reads the
    first ``reads[k]`` source tokens.
    """

    source: list[int]
    ends: list[int]
    targets: list[list[int]]
    reads: list[int]

    @property
    def target_length(self) -> int:
        """Ids of all targets."""
        return sum(map(len, self.targets))


def make_rows(pairs: Sequence[Pair], encoder: str) -> list[Row]:
    """What is computed for the pairs of one chain that one sub-model learns.

    The loss of the rows is the sum of the pairs' losses, each encoded alone, exactly.

    Args:
        pairs: of one chain, in order.
        encoder: "block-causal" makes one row of them all, "bidirectional" one of each.
    """
    if encoder == "bidirectional":
        return [
            Row(p.source, [len(p.source)] * len(p.source), [p.target], [len(p.source)])
            for p in pairs
        ]
    if not pairs:
        return []
    source: list[int] = []
    ends: list[int] = []
    for block in pairs[-1].context:
        source += block
        ends += [len(source)] * len(block)
    reads = [sum(map(len, pair.context)) for pair in pairs]
    return [Row(source, ends, [pair.target for pair in pairs], reads)]


@dataclass(frozen=True)
class Segmented:
    """An example with what segmentation made of it.

    Where labels are by entropy, ``entropies`` holds H(p) of its pieces, and ``token_entropies``
    those of their tokens, [piece][token].
    """

    example: Example
    pieces: list[str]
    labels: list[str]
    segments: list[Segment]
    entropies: list[float] | None = None
    token_entropies: list[list[float]] | None = None


def rows_by_model(
    mode: str,
    segmented: Sequence[Segmented],
    tokenizer: Tokenizer,
    encoder: str,
    max_question: int = 1024,
) -> dict[str, list[Row]]:
    """The rows of each sub-model: {"usm": of all pairs}, {"esm": of ES, "asm": of AS}, …"""
    rows: dict[str, list[Row]] = {name: [] for name in MODES[mode]}
    for s in segmented:
        question = s.example.question
        if mode == "direct":
            pairs = [make_direct_pair(question, s.pieces, tokenizer, max_question)]
        else:
            pairs = make_pairs(question, s.segments, tokenizer, max_question)
        for name, roles in MODES[mode].items():
            rows[name] += make_rows([pair for pair in pairs if pair.role in roles], encoder)
    return rows


# --- batches -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batch:
    """Padded tensors of B rows, S source and T target positions, and which keys each query sees."""

    source: Tensor  # (B, S) int64, padded with pad_id
    decoder_input: Tensor  # (B, T) int64: each target shifted right, the start token before it
    target: Tensor  # (B, T) int64, padded with IGNORE
    source_runs: Runs  # of source tokens over source tokens
    target_runs: Runs  # of target tokens over target tokens
    cross_runs: Runs  # of target tokens over source tokens
    begins: tuple[Tensor, ...]  # each target's row, first place, and newest source token it reads
    source_tokens: int  # real ones, padding not counted
    target_tokens: int

    @property
    def tokens(self) -> int:
        """Real tokens of source and target."""
        return self.source_tokens + self.target_tokens

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on a device."""

        def moved(part: Any) -> Any:
            if isinstance(part, tuple):
                return tuple(map(moved, part))
            return part.to(device) if isinstance(part, Tensor) else part

        return Batch(*(moved(getattr(self, f.name)) for f in fields(self)))


def collate(rows: Sequence[Row], pad_id: int, start_id: int = 0) -> Batch:
    """Pad rows to the longest of the batch; padding sees nothing, and nothing sees it.

    Args:
        start_id: what the decoder reads first, in each target.
    """
    inputs, labels, starts, reads, begins = [], [], [], [], []
    for b, row in enumerate(rows):
        inputs.append([i for target in row.targets for i in (start_id, *target[:-1])])
        labels.append([i for target in row.targets for i in target])
        lengths = [len(target) for target in row.targets]
        before = [0, *accumulate(lengths)]
        begins += [(b, start, read - 1) for start, read in zip(before, row.reads)]
        starts.append([start for start, n in zip(before, lengths) for _ in range(n)])
        reads.append([read for read, n in zip(row.reads, lengths) for _ in range(n)])

    source_lengths = [len(row.source) for row in rows]
    target_lengths = [len(row) for row in labels]
    longest_source, longest_target = max(source_lengths), max(target_lengths)
    ends = pad_rows([row.ends for row in rows], longest_source)
    return Batch(
        pad_rows([row.source for row in rows], pad_id),
        pad_rows(inputs, pad_id),
        pad_rows(labels, IGNORE),
        source_runs=blocks(ends, torch.tensor(source_lengths)),
        target_runs=packed(pad_rows(starts, longest_target)),
        cross_runs=blocks(pad_rows(reads, longest_source), torch.tensor(target_lengths)),
        begins=tuple(torch.tensor(begins).T),
        source_tokens=sum(source_lengths),
        target_tokens=sum(target_lengths),
    )


def without_targets(batch: Batch) -> Batch:
    """The same batch with nothing to learn from: its loss and gradients are zero."""
    nothing = torch.full_like(batch.target, IGNORE)
    return replace(batch, target=nothing, source_tokens=0, target_tokens=0)


def pad_rows(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """(B, longest) int64, each row filled up on the right with ``value``."""
    longest = max(map(len, rows))
    flat = array("q")
    for row in rows:
        flat.extend(row)
        flat.extend([value] * (longest - len(row)))
    return torch.frombuffer(flat, dtype=torch.int64).view(len(rows), longest)


def make_batches(
    rows: Sequence[Row], tokens_per_batch: int, seed: int, epoch: int
) -> list[list[int]]:
    """Indices of ``rows``, grouped for one epoch: alike in length, bounded in padded tokens.

    The order of batches is random. The same arguments give the same batches, so a position in the
    data is the pair (epoch, batch number). A row longer than the bound is a batch of its own.
    """
    rng = random.Random(f"batches-{seed}-{epoch}")
    sizes = [(len(row.source), row.target_length) for row in rows]
    order = list(range(len(rows)))
    rng.shuffle(order)  # ties of the sort below are broken anew each epoch
    order.sort(key=lambda i: (sizes[i][0] // 4, sizes[i][1]))

    batches: list[list[int]] = []
    batch: list[int] = []
    longest_source = longest_target = 0
    for i in order:
        source, target = sizes[i]
        longest_source, longest_target = max(longest_source, source), max(longest_target, target)
        if batch and (len(batch) + 1) * (longest_source + longest_target) > tokens_per_batch:
            batches.append(batch)
            batch, longest_source, longest_target = [], source, target
        batch.append(i)
    if batch:
        batches.append(batch)
    rng.shuffle(batches)
    return batches
