"""Generating chains: the paper's iterative loop, and decoding one segment.

``generate_chains`` alternates roles and decides when a chain stops. ``SegmentWriter`` encodes new
context and decodes the next segment, by ``greedy`` or the beam search of ``ases.extra.beam``.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import cycle, islice

import torch

from ases.answers import parse_answer
from ases.model import Cache, EncoderDecoder
from ases.pairs import join_context, pad_rows
from ases.settings import CHAIN
from ases.tokenizer import Tokenizer


@dataclass
class Chain:
    """A generated chain of thought."""

    roles: list[str] = field(default_factory=list)  # of each segment: ES, AS, or CHAIN for direct
    ids: list[list[int]] = field(default_factory=list)  # of each segment, without stop tokens
    stop: str = "rounds"  # why it stopped, from ``ases.settings.STOPS``
    text: str = ""
    texts: list[str] = field(default_factory=list)  # of each segment

    @property
    def segments(self) -> list[tuple[str, str]]:
        return list(zip(self.roles, self.texts))

    @property
    def number(self) -> Fraction | None:
        """The number stated as the answer, if any."""
        return parse_answer(self.text)

    @property
    def is_stuck(self) -> bool:
        """Whether the last segment repeats the one before, or is a second empty one."""
        last = self.ids[-1]
        return self.ids[-2:] == [last, last] or (not last and self.ids.count([]) > 1)


@dataclass(frozen=True)
class Decoded:
    """A decoded segment."""

    ids: list[int]  # without the stop token
    end: str  # "chain": the end-of-chain token; "segment": </s>; "length": cut at the limit


Context = list[list[int]]  # the blocks of ``join_context``
#: ``greedy`` or ``beam_search``
Search = Callable[..., list[Decoded]]


# --- the iterative loop --------------------------------------------------------------------------
def generate_chains(
    next_segments: Callable[[str, list[int], list[Context]], list[Decoded]],
    questions: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    roles: Sequence[str],
    max_rounds: int,
    on_finished: Callable[[int], object] = lambda n: None,
) -> list[Chain]:
    """Generate all chains as a batch, segment by segment; finished ones leave it (paper).

    Args:
        next_segments: (role, indices of chains, their contexts) → segments; a ``SegmentWriter``.
        questions: token ids of each question.
        roles: taken in turn; ("ES", "AS") for DSM and USM, ("CHAIN",) for direct.
        on_finished: called after each round with the number of chains that finished in it.
    """
    chains = [Chain() for _ in questions]
    active = list(range(len(questions)))
    for role in islice(cycle(roles), max_rounds):
        if not active:
            break
        contexts = [join_context(questions[i], chains[i].ids, tokenizer) for i in active]
        remaining = []
        for i, segment in zip(active, next_segments(role, active, contexts)):
            chain = chains[i]
            chain.roles.append(role)
            chain.ids.append(segment.ids)
            if segment.end == "chain":
                chain.stop = "end"
            elif segment.end == "length":
                chain.stop = "length"
            elif role == CHAIN:
                chain.stop = "no-end"
            elif chain.is_stuck:
                chain.stop = "stuck"
            else:
                remaining.append(i)
        on_finished(len(active) - len(remaining))
        active = remaining
    on_finished(len(active))
    for chain in chains:
        # Decode the whole too: a character's bytes may span two segments.
        chain.text = tokenizer.decode([i for ids in chain.ids for i in ids])
        chain.texts = [tokenizer.decode(ids) for ids in chain.ids]
    return chains


class SegmentWriter:
    """Encodes the new context blocks with the role's model, and decodes its next segment.

    Args:
        models: by role: {"ES": esm, "AS": asm}, or the USM twice, or {"CHAIN": direct}.
        search: decodes a segment; by default, ``greedy``.
        second_try: decodes again a segment that hit the limit or repeats the one before; by
            default, the chain stops there (not in the paper).
    """

    def __init__(
        self,
        models: dict[str, EncoderDecoder],
        tokenizer: Tokenizer,
        encoder: str,
        max_tokens: int,
        search: Search | None = None,
        second_try: Search | None = None,
    ):
        self.models, self.tokenizer, self.max_tokens = models, tokenizer, max_tokens
        self.search, self.second_try = search or greedy, second_try
        self.encoders = {model: ContextEncoder(model, encoder) for model in models.values()}

    def __call__(self, role: str, chains: list[int], contexts: list[Context]) -> list[Decoded]:
        model = self.models[role]
        cache = self.encoders[model].encode(chains, contexts)
        fresh = cache.for_target()
        segments = self.search(model, cache, self.tokenizer, self.max_tokens)
        if self.second_try is None:
            return segments

        failed, forbidden = [], []
        for row, (segment, context) in enumerate(zip(segments, contexts)):
            before = context[-1][:-1] if len(context) > 1 else None  # ids of the segment before
            if segment.end == "length" or segment.ids == before:
                failed.append(row)
                forbidden.append(before)
        if failed:
            fresh.select(torch.tensor(failed, device=fresh.first.device))
            retried = self.second_try(model, fresh, self.tokenizer, self.max_tokens, forbidden)
            for row, segment in zip(failed, retried):
                segments[row] = segment
        return segments


class ContextEncoder:
    """One model's cache for a batch of chains.

    A block-causal encoder encodes only new blocks; a bidirectional one encodes the whole context
    again in each round, as one block.
    """

    def __init__(self, model: EncoderDecoder, encoder: str):
        self.model, self.reencodes = model, encoder == "bidirectional"
        self.cache: Cache | None = None
        self.chains: list[int] = []  # the chain of each row
        self.n_blocks = 0  # encoded so far, the same for all chains

    @torch.inference_mode()
    def encode(self, chains: list[int], contexts: list[Context]) -> Cache:
        """Encode what is new, and drop chains that have finished."""
        config, device = self.model.config, self.model.embedding.weight.device
        if self.cache is None or self.reencodes:
            self.cache, self.n_blocks = Cache(len(chains), device), 0
        elif chains != self.chains:
            row = {chain: r for r, chain in enumerate(self.chains)}
            self.cache.select(torch.tensor([row[chain] for chain in chains], device=device))
        self.chains = list(chains)

        new = [context[self.n_blocks :] for context in contexts]
        if self.reencodes:
            new = [[[i for block in blocks for i in block]] for blocks in new]
        self.n_blocks = len(contexts[0])
        lengths = [sum(map(len, blocks)) for blocks in new]
        ids, ends = [], []
        for blocks, length in zip(new, lengths):
            gap = max(lengths) - length
            ids.append([config.pad_token_id] * gap)
            ends.append([0] * gap)
            for block in blocks:
                ids[-1] += block
                ends[-1] += [len(ids[-1])] * len(block)
        new_ids, new_ends = pad_rows(ids, 0).to(device), pad_rows(ends, 0).to(device)
        self.model.encode(new_ids, new_ends, torch.tensor(lengths, device=device), self.cache)
        return self.cache.for_target()


# --- one segment ---------------------------------------------------------------------------------
@torch.inference_mode()
def greedy(
    model: EncoderDecoder, cache: Cache, tokenizer: Tokenizer, max_tokens: int
) -> list[Decoded]:
    """Greedy decoding of a segment for each context in ``cache``, at most ``max_tokens`` tokens
    including the stop token."""
    n, device = len(cache.first), cache.first.device
    written: list[list[int]] = [[] for _ in range(n)]
    rows = torch.arange(n, device=device)  # the context of each cache row
    token = torch.full((n, 1), model.config.decoder_start_token_id, device=device)
    stops = torch.tensor([tokenizer.eos_id, tokenizer.end_id], device=device)
    done = torch.zeros(n, dtype=torch.bool, device=device)

    for _ in range(max_tokens):
        token = model.decode(token, cache)[:, -1].argmax(-1, keepdim=True)  # (rows, 1)
        for row, value, finished in zip(rows.tolist(), token[:, 0].tolist(), done.tolist()):
            if not finished:
                written[row].append(value)

        done |= torch.isin(token[:, 0], stops)
        if done.all():
            break
        if done.sum() * 4 > len(done):  # dropping rows copies the cache: wait until it pays
            alive = (~done).nonzero()[:, 0]
            cache.select(alive)
            rows, token, done = rows[alive], token[alive], done[alive]
    return [finished_segment(ids, tokenizer) for ids in written]


def finished_segment(ids: list[int], tokenizer: Tokenizer) -> Decoded:
    """Strip the stop token, and record which one it was."""
    ends = {tokenizer.end_id: "chain", tokenizer.eos_id: "segment"}
    end = ends.get(ids[-1], "length")
    return Decoded(ids if end == "length" else ids[:-1], end)
