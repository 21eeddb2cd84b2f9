"""How a direct model's token entropies, and labels made from them, match the true roles."""

from collections.abc import Sequence

from ases.data import Example
from ases.entropy import chain_entropies
from ases.metrics import role_agreement
from ases.recipe import Writer
from ases.segmentation import AS, ES, entropy_labels, interleaved_labels, split_pieces

#: A piece's value from its token entropies; above the chain's mean, it is AS (β = 1).
RULES = {
    "mean": lambda piece: sum(piece) / len(piece),
    "sum": sum,
    "first token": lambda piece: piece[0],
    "highest": max,
}


def compare_roles(writer: Writer, examples: Sequence[Example]) -> tuple[dict, dict]:
    """Two results: mean token entropy (nats) by true role, where digits after "=" count as
    "computed" instead; F1 of both roles by rule, or "position" for labels by position."""
    pieces = [split_pieces(e.answer) for e in examples]
    questions = [e.question for e in examples]
    entropies = chain_entropies(writer.models["direct"], writer.tokenizer, questions, pieces)
    gold = [[role for role, _ in e.gold] for e in examples]

    values: dict[str, list[float]] = {ES: [], AS: [], "computed": []}
    for roles, texts, of_pieces in zip(gold, pieces, entropies):
        for role, piece, tokens in zip(roles, writer.tokenizer.encode_pieces(texts), of_pieces):
            behind_equals = False
            for token, entropy in zip(piece, tokens):
                text = writer.tokenizer.decode([token])
                digits = any(c.isdigit() for c in text)
                values["computed" if behind_equals and digits else role].append(entropy)
                # The result ends at the first word after it.
                behind_equals = "=" in text or (behind_equals and not text.strip("$ ").isalpha())

    labels = {"position": [interleaved_labels(len(texts)) for texts in pieces]}
    for name, rule in RULES.items():
        labels[name] = [
            entropy_labels([rule(p) for p in of_pieces], 1.0) for of_pieces in entropies
        ]
    scores = {name: role_agreement(gold, of_rule) for name, of_rule in labels.items()}
    by_rule = {name: {role: of[role]["f1"] for role in (ES, AS)} for name, of in scores.items()}
    return {kind: sum(nats) / len(nats) for kind, nats in values.items()}, by_rule
