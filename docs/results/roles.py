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


def entropies_of_roles(writer: Writer, examples: Sequence[Example]) -> dict:
    """Mean token entropy (nats) by true role; digits after "=" count as "computed" instead."""
    pieces, entropies = _entropies(writer, examples)
    values: dict[str, list[float]] = {ES: [], AS: [], "computed": []}
    for e, own, of_pieces in zip(examples, pieces, entropies):
        ids = writer.tokenizer.encode_pieces(own)
        for (role, _), piece, tokens in zip(e.gold or (), ids, of_pieces):
            behind_equals = False
            for token, entropy in zip(piece, tokens):
                text = writer.tokenizer.decode([token])
                digits = any(c.isdigit() for c in text)
                values["computed" if behind_equals and digits else role].append(entropy)
                # The result ends at the first word after it.
                behind_equals = "=" in text or (behind_equals and not text.strip("$ ").isalpha())
    return {name: sum(own) / len(own) for name, own in values.items()}


def rules_against_roles(writer: Writer, examples: Sequence[Example]) -> dict:
    """F1 of both roles against the true ones, by rule; "position": labels by position."""
    pieces, entropies = _entropies(writer, examples)
    labels = {"position": [interleaved_labels(len(own)) for own in pieces]}
    for name, rule in RULES.items():
        labels[name] = [entropy_labels([rule(p) for p in own], 1.0) for own in entropies]
    gold = [[role for role, _ in e.gold or ()] for e in examples]
    found = {name: role_agreement(gold, own) for name, own in labels.items()}
    return {name: {role: own[role]["f1"] for role in (ES, AS)} for name, own in found.items()}


def _entropies(writer: Writer, examples: Sequence[Example]) -> tuple[list, list]:
    pieces = [split_pieces(e.answer) for e in examples]
    questions = [e.question for e in examples]
    model = writer.models["direct"]
    return pieces, chain_entropies(model, writer.tokenizer, questions, pieces)
