"""Writing segments, and writing chains of them (METHOD 4).

``greedy`` and ``beam_search`` write one segment for each context of a batch. ``generate_chains`` is the iterative
loop above them: it knows roles and stop reasons, and of models only that something turns contexts into segments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from ases.model import EncoderDecoder
from ases.pairs import join_context, pad_rows
from ases.tokenizer import Tokenizer


@dataclass(frozen=True)
class Decoded:
    """One written segment: its ids without special ones at its end, and how it came to its end."""

    ids: list[int]
    end: str  # "chain": the end-of-chain token, "segment": </s>, "length": neither within the limit
    score: float = 0.0  # log-probability, for beam search divided by length ** length_penalty


Decode = Callable[[str, list[list[int]]], list[Decoded]]  # (role, contexts) → segments


# --- one segment ---------------------------------------------------------------------------------------------


@torch.inference_mode()
def greedy(model: EncoderDecoder, sources: Sequence[Sequence[int]], tokenizer: Tokenizer, max_tokens: int) -> list[Decoded]:
    """The likeliest next token each time, for all sources at once, with a key-value cache.

    Args:
        sources: B contexts, each of at least one id.
        max_tokens: most ids of a segment, its </s> or end-of-chain token included.
    """
    cache = _encode(model, sources)
    device = cache.lengths.device
    written: list[list[int]] = [[] for _ in sources]
    scores = [0.0] * len(sources)
    rows = torch.arange(len(sources), device=device)  # which source each row of the cache belongs to
    token = torch.full((len(sources), 1), model.config.decoder_start_token_id, device=device)
    stops = torch.tensor([tokenizer.eos_id, tokenizer.end_id], device=device)
    done = torch.zeros(len(sources), dtype=torch.bool, device=device)
    for _ in range(max_tokens):
        log_p = torch.log_softmax(model.decode(token, cache)[:, -1].float(), dim=-1)  # (rows, V)
        best, token = log_p.max(dim=-1, keepdim=True)
        for row, value, score, finished in zip(rows.tolist(), token[:, 0].tolist(), best[:, 0].tolist(), done.tolist()):
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
    return [_decoded(ids, score, tokenizer) for ids, score in zip(written, scores)]


@torch.inference_mode()
def beam_search(model: EncoderDecoder, sources: Sequence[Sequence[int]], tokenizer: Tokenizer, max_tokens: int, width: int = 4, length_penalty: float = 1.0) -> list[Decoded]:
    """The best of the sequences that ``width`` beams find; a score is Σ log p / length ** length_penalty.

    A row ends when no running beam, were it to end here, beats the worst of ``width`` finished ones: the usual
    bound, and exact for length_penalty = 0.
    """
    n, beams = len(sources), width
    cache = _encode(model, sources)
    device = cache.lengths.device
    cache.select(torch.arange(n, device=device).repeat_interleave(beams))  # (n · beams) rows, a source's beams together
    stops = {tokenizer.eos_id, tokenizer.end_id}
    running = torch.full((n, beams), -torch.inf, device=device)  # Σ log p of each beam
    running[:, 0] = 0.0  # all beams are alike before the first token: let one speak
    prefixes: list[list[list[int]]] = [[[] for _ in range(beams)] for _ in sources]
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in sources]
    open_rows = [True] * n
    token = torch.full((n * beams, 1), model.config.decoder_start_token_id, device=device)
    for length in range(1, max_tokens + 1):
        log_p = torch.log_softmax(model.decode(token, cache)[:, -1].float(), dim=-1)  # (n · beams, V)
        vocab = log_p.shape[-1]
        total = (running[:, :, None] + log_p.view(n, beams, vocab)).flatten(1)  # (n, beams · V)
        top, index = total.topk(min(2 * beams, beams * vocab), dim=-1)  # 2 · beams: enough to go on if all of the best end
        parents, tokens = index // vocab, index % vocab
        origin, chosen = [], []
        for r in range(n):
            kept: list[tuple[float, int, int]] = []
            for rank, (score, parent, value) in enumerate(zip(top[r].tolist(), parents[r].tolist(), tokens[r].tolist())):
                if value not in stops:
                    kept.append((score, parent, value))
                elif rank < beams and open_rows[r] and score > -torch.inf:
                    finished[r].append((score / length**length_penalty, [*prefixes[r][parent], value]))
            kept = (kept + [(-torch.inf, 0, 0)] * beams)[:beams]
            prefixes[r] = [[*prefixes[r][parent], value] for _, parent, value in kept]
            running[r] = torch.tensor([score for score, _, _ in kept], device=device)
            finished[r] = sorted(finished[r], key=lambda f: -f[0])[:beams]
            if len(finished[r]) == beams and kept[0][0] / length**length_penalty <= finished[r][-1][0]:
                open_rows[r] = False
            origin += [r * beams + parent for _, parent, _ in kept]
            chosen += [value for _, _, value in kept]
        if not any(open_rows):
            break
        cache.select(torch.tensor(origin, device=device))
        token = torch.tensor(chosen, device=device)[:, None]
    results = []
    for r in range(n):
        if open_rows[r]:  # the limit came first: what is still running competes as it stands
            finished[r] += [(s / max_tokens**length_penalty, p) for s, p in zip(running[r].tolist(), prefixes[r]) if s > -torch.inf]
        score, ids = max(finished[r], key=lambda f: f[0])
        results.append(_decoded(ids, score, tokenizer))
    return results


def _encode(model: EncoderDecoder, sources: Sequence[Sequence[int]]):
    device = model.embedding.weight.device
    lengths = torch.tensor([len(s) for s in sources], device=device)
    states = model.encode(pad_rows(sources, model.config.pad_token_id).to(device), lengths)
    return model.start(states, lengths)


def _decoded(ids: list[int], score: float, tokenizer: Tokenizer) -> Decoded:
    if ids and ids[-1] == tokenizer.end_id:
        return Decoded(ids[:-1], "chain", score)
    if ids and ids[-1] == tokenizer.eos_id:
        return Decoded(ids[:-1], "segment", score)
    return Decoded(ids, "length", score)


def segment_decoder(models: dict[str, EncoderDecoder], tokenizer: Tokenizer, max_tokens: int, beams: int = 1, batch_tokens: int = 32768) -> Decode:
    """What ``generate_chains`` calls: picks the model by role and decodes contexts of like length together.

    DSM: {"ES": esm, "AS": asm}; USM: {"ES": usm, "AS": usm}; direct: {"CHAIN": model}.
    """

    def decode(role: str, contexts: list[list[int]]) -> list[Decoded]:
        results: list[Decoded | None] = [None] * len(contexts)
        order = sorted(range(len(contexts)), key=lambda i: len(contexts[i]))
        while order:
            batch = order[: max(1, batch_tokens // (len(contexts[order[-1]]) * beams))]
            order = order[len(batch) :]
            sources = [contexts[i] for i in batch]
            if beams == 1:
                decoded = greedy(models[role], sources, tokenizer, max_tokens)
            else:
                decoded = beam_search(models[role], sources, tokenizer, max_tokens, beams)
            for i, result in zip(batch, decoded):
                results[i] = result
        return results

    return decode


# --- the iterative loop --------------------------------------------------------------------------------------


@dataclass
class Chain:
    """A chain while it is written and afterwards: segments as (role, ids), and why it stopped.

    ``stop``: "end" (end-of-chain token), "rounds" (limit), "length" (a segment cut at its limit), "stuck" (one
    segment twice in a row, or two empty ones). ``cut`` counts the question tokens that the longest context lost.
    """

    segments: list[tuple[str, list[int]]] = field(default_factory=list)
    stop: str = "rounds"
    cut: int = 0


def generate_chains(decode: Decode, questions: Sequence[Sequence[int]], tokenizer: Tokenizer, roles: Sequence[str], max_rounds: int, max_source: int) -> list[Chain]:
    """Write all chains at once, segment by segment; the finished ones leave the batch (the paper's generation).

    Args:
        decode: writes one segment for each context, given the role whose turn it is.
        questions: token ids of each question.
        roles: whose turn it is, round after round: ("ES", "AS") for DSM and USM, ("CHAIN",) for direct.
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
            context, cut = join_context(questions[i], [ids for _, ids in chains[i].segments], tokenizer, max_source)
            chains[i].cut = max(chains[i].cut, cut)
            contexts.append(context)
        remaining = []
        for i, segment in zip(active, decode(role, contexts)):
            chains[i].segments.append((role, segment.ids))
            if segment.end == "chain":
                chains[i].stop = "end"
            elif segment.end == "length":
                chains[i].stop = "length"
            elif _stuck(chains[i]):
                chains[i].stop = "stuck"
            else:
                remaining.append(i)
        active = remaining
    return chains


def _stuck(chain: Chain) -> bool:
    ids = [ids for _, ids in chain.segments]
    return (len(ids) > 1 and ids[-1] == ids[-2]) or (not ids[-1] and ids.count([]) > 1)
