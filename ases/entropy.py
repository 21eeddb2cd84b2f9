"""How unsure a direct model is of each token of a chain: the basis of entropy labels."""

from collections.abc import Sequence

import torch

from ases.model import EncoderDecoder
from ases.pairs import Pair, collate, encode_question, join_context, make_batches, target_length
from ases.settings import CHAIN
from ases.tokenizer import Tokenizer


def token_entropies(logits: torch.Tensor) -> torch.Tensor:
    """Entropy −Σ_v p(v) log p(v) in nats (paper), in float32 or wider: (…, V) → (…)."""
    log_p = torch.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)
    finite = log_p.clamp(min=torch.finfo(log_p.dtype).min)  # 0 · −inf would be NaN
    return -(log_p.exp() * finite).sum(-1)


@torch.no_grad()
def chain_entropies(
    model: EncoderDecoder,
    tokenizer: Tokenizer,
    questions: Sequence[str],
    pieces: Sequence[Sequence[str]],
    context: str = "prefix",
    max_question: int = 1024,
    batch_tokens: int = 4096,
) -> list[list[list[float]]]:
    """Entropy in nats of each token under teacher forcing: [example][piece][token].

    Args:
        model: a direct model, question → chain.
        pieces: the pieces of each example's chain.
        context: "prefix" scores a piece given the question and all earlier pieces, in one pass
            (not in the paper); "question" scores it as if it were the whole chain (released code).
    """
    encoded = [tokenizer.encode_pieces(list(p)) for p in pieces]
    rows = []
    for question, ids in zip(questions, encoded, strict=True):
        question_ids, _ = encode_question(question, tokenizer, max_question)
        blocks = join_context(question_ids, [], tokenizer)
        targets = [[i for piece in ids for i in piece]] if context == "prefix" else ids
        # T5's tokenizer may give no token for a piece.
        rows += [[Pair(CHAIN, blocks, target)] for target in targets if target]

    model.eval()
    device, config = model.embedding.weight.device, model.config
    row_entropies: list[list[float]] = [[] for _ in rows]
    for indices in make_batches(rows, batch_tokens, seed=0, epoch=0):
        chosen = [rows[i] for i in indices]
        batch = collate(chosen, config.pad_token_id, config.decoder_start_token_id).to(device)
        for i, values in zip(indices, token_entropies(model(batch)).tolist()):
            row_entropies[i] = values[: target_length(rows[i])]
    # Joined, the rows are the chains, token by token: split the flat list back into pieces.
    flat = iter([value for row in row_entropies for value in row])
    return [[[next(flat) for _ in piece] for piece in ids] for ids in encoded]
