"""HTML reports: data as JSON inside ``page.html``, whose script draws it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ases.pairs import Segmented
from ases.run.scores import score_rows
from ases.run.show import first_difference, is_wrong, parts_of, segmented_row
from ases.segmentation import RULES, split_pieces
from ases.settings import Settings
from ases.tokenizer import Tokenizer


def page(data: dict[str, Any]) -> str:
    """Fill ``page.html``; markup in the data stays text."""
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return template.replace("{DATA}", json.dumps(data, ensure_ascii=False).replace("<", "\\u003c"))


def evaluation_page(
    results: dict[str, dict],
    predictions: dict[str, list[dict]],
    curves: dict[str, dict],
    notes: Sequence[str] = (),
) -> str:
    """Scores, loss curves, and each problem with its reference and all runs' chains.

    By run: ``results.json``, ``predictions.jsonl`` and ``read_curves``. ``notes``: lines to show.
    """
    problems: dict[tuple[str, str], dict] = {}
    for run, lines in predictions.items():
        for line in lines:
            pieces = [["", piece] for piece in split_pieces(line["reference"])]
            gold = [[piece["role"], piece["text"]] for piece in line.get("gold", ())]
            about = {"id": line["id"], "question": line["question"], "label": line.get("label")}
            about |= {"reference": gold or pieces, "chains": []}  # in true roles, if known
            problem = problems.setdefault((line["id"], line["question"]), about)
            wrong = is_wrong(line)
            chain = {"run": run, "verdict": "wrong" if wrong else "right", "stop": line["stop"]}
            mark = first_difference(line) if wrong else None
            problem["chains"].append(chain | {"mark": mark, "parts": parts_of(line)})
    whole: dict = {"title": "Chains of thought: " + ", ".join(results), "runs": list(results)}
    whole |= {"scores": score_rows(results), "notes": list(notes)}
    return page(whole | {"curves": curves, "problems": list(problems.values())})


def segmentation_page(
    segmented: Sequence[Segmented],
    settings: Settings,
    description: str,
    tokenizer: Tokenizer | None = None,
) -> str:
    """Pieces and labels of each example; with a scorer, entropies by its ``tokenizer``."""
    examples = [segmented_row(s) for s in segmented]
    for s, example in zip(segmented, examples):
        del example["answer"], example["segments"]  # its pieces are enough
        if s.entropies is not None:
            rows = zip(example["pieces"], tokenizer.encode_pieces(s.pieces), s.token_entropies)
            for piece, ids, entropies in rows:
                piece["tokens"] = _tokens(piece["text"], ids, entropies, tokenizer)
    notes = [description, RULES[settings.segmentation].words]
    if RULES[settings.segmentation].needs_entropy:
        notes.append(
            "H is the entropy of a piece in nats: the sum over its tokens / tokens ** "
            f"{settings.gamma:g}; the line is the chain's mean. Darker tokens are less certain."
        )
    return page({"title": "Segments of chains of thought", "notes": notes, "examples": examples})


def _tokens(
    piece: str, ids: Sequence[int], entropies: Sequence[float], tokenizer: Tokenizer
) -> list[list]:
    """[text, entropy] of each token; bytes of one character are joined, their entropies summed."""
    tokens, held, total = [], [], 0.0
    for i, h in zip(ids, entropies):
        held.append(i)
        total += h
        text = tokenizer.decode(held)
        if "\ufffd" not in text or "\ufffd" in piece:
            tokens.append([text, total])
            held, total = [], 0.0
    return tokens
