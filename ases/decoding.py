"""Writing chains: first the iterative loop of the paper, then how one segment is written.

``generate_chains`` knows roles and stop reasons, and of models only that something turns contexts
into segments. ``segment_decoder`` is that something: it picks the model by role. ``greedy`` writes
a segment for each context of a batch; ``ases.beam`` has beam search in its place.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ases.model import DecoderCache, EncoderDecoder
from ases.pairs import join_context, pad_rows
from ases.tokenizer import Tokenizer


@dataclass(frozen=True)
class Decoded:
    """One written segment: its ids without special ones at its end, and how it came to its end."""

    ids: list[int]
    end: str  # "chain": the end-of-chain token, "segment": </s>, "length": neither within the limit
    score: float = 0.0  # log-probability, for beam search divided by length ** length_penalty


Decode = Callable[[str, list[list[int]]], list[Decoded]]  # (role, contexts) → segments
#: (model, contexts, tokenizer, max_tokens) → segments: ``greedy``, or beam search
Search = Callable[[EncoderDecoder, Sequence[Sequence[int]], Tokenizer, int], list[Decoded]]


# --- the iterative loop --------------------------------------------------------------------------


@dataclass
class Chain:
    """A chain while it is written and afterwards: segments as (role, ids), and why it stopped.

    ``stop``: "end" (end-of-chain token), "rounds" (limit), "length" (a segment cut at its limit),
    "stuck" (one segment twice in a row, or two empty ones). ``cut`` counts the tokens that the
    longest context lost.
    """

    segments: list[tuple[str, list[int]]] = field(default_factory=list)
    stop: str = "rounds"
    cut: int = 0

    @property
    def is_stuck(self) -> bool:
        ids = [segment for _, segment in self.segments]
        repeats = len(ids) > 1 and ids[-1] == ids[-2]
        return repeats or (not ids[-1] and ids.count([]) > 1)


def generate_chains(
    decode: Decode,
    questions: Sequence[Sequence[int]],
    tokenizer: Tokenizer,
    roles: Sequence[str],
    max_rounds: int,
    max_source: int,
) -> list[Chain]:
    """Write all chains at once, segment by segment; the finished ones leave the batch (the paper's
    generation).

    Args:
        decode: writes one segment for each context, given the role whose turn it is.
        questions: token ids of each question.
        roles: whose turn it is, round after round: ("ES", "AS") for DSM and USM, ("CHAIN",) for
            direct.
        max_rounds: most segments of a chain.
        max_source: most ids of a context.
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
            context, cut = join_context(questions[i], written, tokenizer, max_source)
            chains[i].cut = max(chains[i].cut, cut)
            contexts.append(context)

        remaining = []
        for i, segment in zip(active, decode(role, contexts)):
            chain = chains[i]
            chain.segments.append((role, segment.ids))
            if segment.end == "chain":
                chain.stop = "end"
            elif segment.end == "length":
                chain.stop = "length"
            elif chain.is_stuck:
                chain.stop = "stuck"
            else:
                remaining.append(i)
        active = remaining
    return chains


# --- one segment ---------------------------------------------------------------------------------


@torch.inference_mode()
def greedy(
    model: EncoderDecoder, sources: Sequence[Sequence[int]], tokenizer: Tokenizer, max_tokens: int
) -> list[Decoded]:
    """The likeliest next token each time, for all sources at once, with a key-value cache.

    Args:
        sources: B contexts, each of at least one id.
        max_tokens: most ids of a segment, its </s> or end-of-chain token included.
    """
    cache = encode_sources(model, sources)
    device = cache.lengths.device
    written: list[list[int]] = [[] for _ in sources]
    scores = [0.0] * len(sources)
    # Which source each row of the cache belongs to.
    rows = torch.arange(len(sources), device=device)
    token = torch.full((len(sources), 1), model.config.decoder_start_token_id, device=device)
    stops = torch.tensor([tokenizer.eos_id, tokenizer.end_id], device=device)
    done = torch.zeros(len(sources), dtype=torch.bool, device=device)

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
        if done.sum() * 2 > len(done):  # shrinking copies the cache, so only once it pays
            alive = (~done).nonzero()[:, 0]
            cache.select(alive)
            rows, token, done = rows[alive], token[alive], done[alive]
    return [finished_segment(ids, score, tokenizer) for ids, score in zip(written, scores)]


def encode_sources(model: EncoderDecoder, sources: Sequence[Sequence[int]]) -> DecoderCache:
    """Encode a batch of contexts, padded, into a fresh cache."""
    device = model.embedding.weight.device
    lengths = torch.tensor([len(s) for s in sources], device=device)
    states = model.encode(pad_rows(sources, model.config.pad_token_id).to(device), lengths)
    return model.start(states, lengths)


def finished_segment(ids: list[int], score: float, tokenizer: Tokenizer) -> Decoded:
    """Take the special id off the end, and say which one it was."""
    if ids and ids[-1] == tokenizer.end_id:
        return Decoded(ids[:-1], "chain", score)
    if ids and ids[-1] == tokenizer.eos_id:
        return Decoded(ids[:-1], "segment", score)
    return Decoded(ids, "length", score)


def segment_decoder(
    models: dict[str, EncoderDecoder],
    tokenizer: Tokenizer,
    max_tokens: int,
    search: Search = greedy,
    batch_tokens: int = 32768,
) -> Decode:
    """What ``generate_chains`` calls: picks the model by role and decodes contexts of like length
    together.

    DSM: {"ES": esm, "AS": asm}; USM: {"ES": usm, "AS": usm}; direct: {"CHAIN": model}.
    """

    def decode(role: str, contexts: list[list[int]]) -> list[Decoded]:
        results: dict[int, Decoded] = {}
        order = sorted(range(len(contexts)), key=lambda i: len(contexts[i]))
        while order:
            longest = len(contexts[order[-1]])
            batch = order[: max(1, batch_tokens // longest)]
            order = order[len(batch) :]
            decoded = search(models[role], [contexts[i] for i in batch], tokenizer, max_tokens)
            results.update(zip(batch, decoded))
        return [results[i] for i in range(len(contexts))]

    return decode
