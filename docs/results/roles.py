"""What a direct model knows of the true roles: losses and entropies of their tokens."""

from collections.abc import Sequence

import torch

from ases.data import Example
from ases.entropy import chain_entropies, token_entropies
from ases.metrics import role_agreement
from ases.model import EncoderDecoder
from ases.pairs import collate, rows_by_model
from ases.recipe import Writer, segment
from ases.segmentation import (
    AS,
    ES,
    entropy_labels,
    interleaved_labels,
    piece_entropies,
    split_pieces,
)


def entropies_against_roles(writer: Writer, examples: Sequence[Example]) -> dict:
    """F1 of both roles against the true ones, of several rules on the entropies of a direct model:
    a piece is AS where its value is above the mean of its chain's (β = 1)."""
    pieces = [split_pieces(e.answer) for e in examples]
    questions = [e.question for e in examples]
    tokens = chain_entropies(writer.models["direct"], writer.tokenizer, questions, pieces)
    rules = {
        "mean": [piece_entropies(own, 1.0) for own in tokens],
        "sum": [piece_entropies(own, 0.0) for own in tokens],
        "first token": [[piece[0] for piece in own] for own in tokens],
        "highest": [[max(piece) for piece in own] for own in tokens],
    }
    gold = [[role for role, _ in e.gold or ()] for e in examples]
    found = {
        name: role_agreement(gold, [entropy_labels(values, 1.0) for values in rows])
        for name, rows in rules.items()
    }
    found["position"] = role_agreement(gold, [interleaved_labels(len(p)) for p in pieces])
    return {name: {role: own[role]["f1"] for role in (ES, AS)} for name, own in found.items()}


@torch.inference_mode()
def by_true_role(writer: Writer, examples: Sequence[Example]) -> dict:
    """Loss, entropy and accuracy of a direct model on the tokens of each true role, teacher-forced,
    and on digits behind "=", which are computed."""
    model: EncoderDecoder = writer.models["direct"]
    tokenizer, totals = writer.tokenizer, {}
    segmented = segment(examples)
    rows = rows_by_model("direct", segmented, tokenizer, "block-causal")["direct"]
    for i in range(0, len(rows), 50):
        batch = collate(rows[i : i + 50], 0)
        log_p = torch.log_softmax(model(batch), -1)
        entropy, best = token_entropies(log_p), log_p.argmax(-1)
        for r, s in enumerate(segmented[i : i + 50]):
            place = 0
            for (role, _), ids in zip(s.example.gold or (), tokenizer.encode_pieces(s.pieces)):
                after_equals = False
                for position, token in enumerate(ids):
                    name = role
                    text = tokenizer.decode([token])
                    if after_equals and any(c.isdigit() for c in text):
                        name = "computed"
                    after_equals = "=" in text or (after_equals and not text.strip("$ ").isalpha())
                    first = totals.setdefault(f"{role}, first token", [0, 0.0, 0.0, 0])
                    for total in (totals.setdefault(name, [0, 0.0, 0.0, 0]), first):
                        if total is first and position:
                            continue
                        total[0] += 1
                        total[1] -= float(log_p[r, place, token])
                        total[2] += float(entropy[r, place])
                        total[3] += int(best[r, place] == token)
                    place += 1
    return {
        name: {"tokens": n, "loss": loss / n, "entropy": h / n, "accuracy": right / n}
        for name, (n, loss, h, right) in totals.items()
    }
