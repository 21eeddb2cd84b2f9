"""Writing chains: first the iterative loop of the paper, then how one segment is written.

``generate_chains`` knows roles and stop reasons, and of models only that something turns contexts
into segments. ``SegmentWriter`` is that something: it picks the model by role and keeps what has
been encoded. ``greedy`` writes a segment for each context of a batch; ``ases.beam`` has beam search
in its place, and for segments that have to be written again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ases.attention import padding
from ases.config import CHAIN
from ases.model import Cache, EncoderDecoder
from ases.pairs import join_context, pad_rows
from ases.tokenizer import Tokenizer


@dataclass(frozen=True)
class Decoded:
    """One written segment: its ids without special ones at its end, and how it came to its end."""

    ids: list[int]
    end: str  # "chain": the end-of-chain token, "segment": </s>, "length": neither within the limit
    score: float = 0.0  # log-probability, for beam search divided by length ** length_penalty


Context = list[list[int]]  # the blocks of ``join_context``
#: (role, numbers of the chains, their contexts) → segments
Write = Callable[[str, list[int], list[Context]], list[Decoded]]
#: (model, what it has read, tokenizer, max_tokens) → segments: ``greedy``, or beam search
Search = Callable[[EncoderDecoder, Cache, Tokenizer, int], list[Decoded]]
#: The same with what each segment may not be, which is the one before it: ``beam_search``
SecondTry = Callable[
    [EncoderDecoder, Cache, Tokenizer, int, Sequence[list[int] | None]], list[Decoded]
]


# --- the iterative loop --------------------------------------------------------------------------


#: Why a chain stopped: it wrote the end-of-chain token; a direct chain came to its </s> without
#: that; it has as many segments as it may; a segment was cut at its limit; one segment came twice
#: in a row, or a second empty one.
STOPS = ("end", "no-end", "rounds", "length", "stuck")


@dataclass
class Chain:
    """A chain while it is written and afterwards: segments as (role, ids), and why it stopped."""

    segments: list[tuple[str, list[int]]] = field(default_factory=list)
    stop: str = "rounds"

    @property
    def is_stuck(self) -> bool:
        """Whether the last segment stands there twice, or a second empty one."""
        ids = [segment for _, segment in self.segments]
        repeats = len(ids) > 1 and ids[-1] == ids[-2]
        return repeats or (not ids[-1] and ids.count([]) > 1)


def generate_chains(
    write: Write,
    questions: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    roles: Sequence[str],
    max_rounds: int,
    finished: Callable[[int], None] | None = None,
) -> list[Chain]:
    """Write all chains at once, segment by segment; the finished ones leave the batch (paper).

    Args:
        write: writes one segment for each context, given the role whose turn it is.
        questions: token ids of each question.
        roles: whose turn it is, round after round: ("ES", "AS") for DSM and USM, ("CHAIN",) for
            direct.
        max_rounds: most segments of a chain.
        finished: told after each round how many chains it has finished.
    """
    chains = [Chain() for _ in questions]
    active = list(range(len(questions)))

    for round_ in range(max_rounds):
        if not active:
            break
        role = roles[round_ % len(roles)]  # here the dual path alternates

        contexts = []
        for i in active:
            written = [ids for _, ids in chains[i].segments]
            contexts.append(join_context(questions[i], written, tokenizer))

        remaining = []
        for i, segment in zip(active, write(role, active, contexts)):
            chain = chains[i]
            chain.segments.append((role, segment.ids))
            if segment.end == "chain":
                chain.stop = "end"
            elif segment.end == "length":
                chain.stop = "length"
            elif role == CHAIN:  # a whole chain; nothing could follow it
                chain.stop = "no-end"
            elif chain.is_stuck:
                chain.stop = "stuck"
            else:
                remaining.append(i)
        if finished:
            finished(len(active) - len(remaining))
        active = remaining
    if finished:
        finished(len(active))
    return chains


class SegmentWriter:
    """What ``generate_chains`` calls: picks the model by role, lets it read, and searches.

    DSM: {"ES": esm, "AS": asm}; USM: {"ES": usm, "AS": usm}; direct: {"CHAIN": model}. With a
    block-causal encoder each model keeps what it has encoded, and a round encodes only the blocks
    that are new to it; with a bidirectional one it encodes all of them anew.

    A chain that is written step by step can be mended step by step [ours]: with ``second_try``, a
    segment that was cut at its limit or repeats the one before is written once more, and the chain
    goes on with that.
    """

    def __init__(
        self,
        models: dict[str, EncoderDecoder],
        tokenizer: Tokenizer,
        max_tokens: int,
        encoder: str,
        search: Search | None = None,
        second_try: SecondTry | None = None,
    ):
        self.models, self.tokenizer, self.max_tokens = models, tokenizer, max_tokens
        self.search, self.second_try = search or greedy, second_try
        self.readers = None
        if encoder == "block-causal":
            self.readers = {id(model): Reader(model) for model in models.values()}

    def __call__(self, role: str, chains: list[int], contexts: list[Context]) -> list[Decoded]:
        model = self.models[role]
        if self.readers is None:
            sources = [[i for block in context for i in block] for context in contexts]
            cache = encode_sources(model, sources)
        else:
            cache = self.readers[id(model)].read(chains, contexts)
        if self.second_try is None:
            return self.search(model, cache, self.tokenizer, self.max_tokens)

        fresh = cache.fresh()
        segments = self.search(model, cache, self.tokenizer, self.max_tokens)
        before = [context[-1][:-1] if len(context) > 1 else None for context in contexts]
        failed = []
        for row, segment in enumerate(segments):
            if segment.end == "length" or segment.ids == before[row]:
                failed.append(row)
        if failed:
            fresh.select(torch.tensor(failed, device=fresh.first.device))
            forbidden = [before[row] for row in failed]
            again = self.second_try(model, fresh, self.tokenizer, self.max_tokens, forbidden)
            for row, segment in zip(failed, again):
                segments[row] = segment
        return segments


class Reader:
    """What one model has encoded of a batch of chains, and which of their blocks that is."""

    def __init__(self, model: EncoderDecoder):
        self.model = model
        self.cache: Cache | None = None
        self.chains: list[int] = []  # the chain of each row
        self.n_blocks = 0  # all chains have the same number of them

    @torch.inference_mode()
    def read(self, chains: list[int], contexts: list[Context]) -> Cache:
        """Encode the blocks that are new, and forget the chains that are not asked for any more."""
        model = self.model
        device = model.embedding.weight.device
        if len(contexts[0]) <= self.n_blocks:  # other chains begin
            self.cache, self.n_blocks = None, 0
        if self.cache is None:
            self.cache = model.nothing_read(len(chains))
        elif chains != self.chains:
            row = {chain: r for r, chain in enumerate(self.chains)}
            self.cache.select(torch.tensor([row[chain] for chain in chains], device=device))
        self.chains = list(chains)

        new = [context[self.n_blocks :] for context in contexts]
        self.n_blocks = len(contexts[0])
        lengths = [sum(map(len, blocks)) for blocks in new]
        ids, ends = [], []
        for blocks, length in zip(new, lengths):
            gap = max(lengths) - length
            ids.append([model.config.pad_token_id] * gap)
            ends.append([0] * gap)
            for block in blocks:
                ids[-1] += block
                ends[-1] += [len(ids[-1])] * len(block)
        new_ids, new_ends = pad_rows(ids, 0).to(device), pad_rows(ends, 0).to(device)
        model.append(new_ids, new_ends, torch.tensor(lengths, device=device), self.cache)
        return self.cache.fresh()


# --- one segment ---------------------------------------------------------------------------------


@torch.inference_mode()
def greedy(
    model: EncoderDecoder, cache: Cache, tokenizer: Tokenizer, max_tokens: int
) -> list[Decoded]:
    """The likeliest next token each time, for a whole batch, with a key-value cache.

    Args:
        cache: B contexts that the model has read.
        max_tokens: most ids of a segment, its </s> or end-of-chain token included.
    """
    n, device = len(cache.first), cache.first.device
    written: list[list[int]] = [[] for _ in range(n)]
    scores = [0.0] * n
    # Which source each row of the cache belongs to.
    rows = torch.arange(n, device=device)
    token = torch.full((n, 1), model.config.decoder_start_token_id, device=device)
    stops = torch.tensor([tokenizer.eos_id, tokenizer.end_id], device=device)
    done = torch.zeros(n, dtype=torch.bool, device=device)

    for _ in range(max_tokens):
        log_p = torch.log_softmax(model.decode(token, cache)[:, -1].float(), dim=-1)  # (rows, V)
        best, token = log_p.max(dim=-1, keepdim=True)
        columns = (rows, token[:, 0], best[:, 0], done)
        for row, value, score, finished in zip(*(column.tolist() for column in columns)):
            if not finished:
                written[row].append(value)
                scores[row] += score

        done |= torch.isin(token[:, 0], stops)
        if done.all():
            break
        if done.sum() * 4 > len(done):  # shrinking copies the cache, so only once it pays
            alive = (~done).nonzero()[:, 0]
            cache.select(alive)
            rows, token, done = rows[alive], token[alive], done[alive]
    return [finished_segment(ids, score, tokenizer) for ids, score in zip(written, scores)]


@torch.inference_mode()
def encode_sources(model: EncoderDecoder, sources: Sequence[Sequence[int]]) -> Cache:
    """Encode a batch of whole contexts, each source token seeing all of its own, for decoding."""
    device = model.embedding.weight.device
    ids = pad_rows(sources, model.config.pad_token_id).to(device)
    lengths = torch.tensor([len(s) for s in sources], device=device)
    return model.start(model.encode(ids, padding(lengths, ids.shape[1], lengths)), lengths)


def finished_segment(ids: list[int], score: float, tokenizer: Tokenizer) -> Decoded:
    """Take the special id off the end, and say which one it was."""
    if ids and ids[-1] == tokenizer.end_id:
        return Decoded(ids[:-1], "chain", score)
    if ids and ids[-1] == tokenizer.eos_id:
        return Decoded(ids[:-1], "segment", score)
    return Decoded(ids, "length", score)
