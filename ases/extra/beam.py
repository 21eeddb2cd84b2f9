"""Beam search: ``greedy`` with several candidates at once."""

from collections.abc import Sequence

import torch

from ases.decoding import Decoded, finished_segment
from ases.model import Cache, EncoderDecoder
from ases.tokenizer import Tokenizer


class Beams:
    """One source's candidates: ``width`` running ones and the best ``width`` finished ones.

    A candidate scores Σ log p / length. The source is done when no running candidate, ended here,
    would beat the worst of ``width`` finished ones: the usual bound, although a longer one still
    might. A candidate equal to ``forbidden`` is dropped.
    """

    def __init__(self, width: int, stops: set[int], forbidden: list[int] | None):
        self.width, self.stops, self.forbidden = width, stops, forbidden
        self.finished: list[tuple[float, list[int]]] = []
        # All beams start identical, so all but one start at −∞.
        self.running = [(0.0, []), *[(-torch.inf, [])] * (width - 1)]
        self.done = False

    def advance(self, candidates: Sequence[tuple[float, int, int]]) -> list[int]:
        """Take the best of (Σ log p, parent beam, token), sorted; return the parents kept."""
        kept: list[tuple[float, int, list[int]]] = []
        for rank, (score, parent, token) in enumerate(candidates):
            ids = [*self.running[parent][1], token]
            if token not in self.stops:
                kept.append((score, parent, ids))
            elif rank < self.width and not self.done and score > -torch.inf:
                if ids[:-1] != self.forbidden:
                    self.finished.append((score / len(ids), ids))
        kept = (kept + [(-torch.inf, 0, [0])] * self.width)[: self.width]

        self.running = [(score, ids) for score, _, ids in kept]
        self.finished = sorted(self.finished, key=lambda candidate: -candidate[0])[: self.width]
        if len(self.finished) == self.width:
            score, ids = self.running[0]
            self.done |= score / len(ids) <= self.finished[-1][0]
        return [parent for _, parent, _ in kept]

    def best(self) -> list[int]:
        """The best candidate; at the token limit, running ones compete too."""
        running = [] if self.done else self.running
        ended = [(score / len(ids), ids) for score, ids in running if score > -torch.inf]
        return max(self.finished + ended, key=lambda candidate: candidate[0])[1]


@torch.inference_mode()
def beam_search(
    model: EncoderDecoder,
    cache: Cache,
    tokenizer: Tokenizer,
    max_tokens: int,
    forbidden: Sequence[list[int] | None] | None = None,
    width: int = 4,
) -> list[Decoded]:
    """Write the best segment that ``width`` beams find; other arguments as for ``greedy``.

    ``forbidden``: for each context, the ids that its segment must not equal.
    """
    n, device = len(cache.first), cache.first.device
    # ``width`` adjacent rows per context
    cache.select(torch.arange(n, device=device).repeat_interleave(width))
    token = torch.full((n * width, 1), model.config.decoder_start_token_id, device=device)
    stops = {tokenizer.eos_id, tokenizer.end_id}
    searches = [Beams(width, stops, ids) for ids in forbidden or [None] * n]

    for _ in range(max_tokens):
        log_p = torch.log_softmax(model.decode(token, cache)[:, -1].float(), dim=-1)
        log_p = log_p.view(n, width, -1)  # (sources, width, V)
        so_far = [[score for score, _ in beams.running] for beams in searches]
        total = torch.tensor(so_far, device=device)[:, :, None] + log_p
        # Every beam may end here in two ways; ``width`` others must remain.
        top, index = total.flatten(1).topk(min(3 * width, total[0].numel()), dim=-1)
        parents, tokens = index // log_p.shape[-1], index % log_p.shape[-1]

        rows = []
        for r, beams in enumerate(searches):
            candidates = list(zip(top[r].tolist(), parents[r].tolist(), tokens[r].tolist()))
            rows += [r * width + parent for parent in beams.advance(candidates)]
        if all(beams.done for beams in searches):
            break
        cache.select_target(torch.tensor(rows, device=device))  # a source's beams read the same
        newest = [ids[-1] for beams in searches for _, ids in beams.running]
        token = torch.tensor(newest, device=device)[:, None]

    return [finished_segment(beams.best(), tokenizer) for beams in searches]
