"""Pages to look at: each one HTML file with everything in it, style (``page.css``) and script
(``page.js``), drawn by any browser from the disk.

All text from data goes through ``text``, so that markup in it is shown and never followed.
"""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from ases.config import SegmentationSettings
from ases.pairs import Segmented
from ases.run.plot import Points, draw_curves
from ases.run.show import first_difference, is_wrong, parts_of
from ases.run.table import SCORES, STOPS, same_problems, score_cell
from ases.segmentation import split_pieces
from ases.tokenizer import Tokenizer

Curves = dict[str, dict[str, Points]]


# --- building blocks -----------------------------------------------------------------------------


def text(content: object) -> str:
    """Any text as HTML that shows it."""
    return escape(str(content))


def tag(name: str, content: str = "", **attributes: object) -> str:
    """An element; ``content`` is HTML already, attributes are not: class_="x", data_stop="end"."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for key, value in attributes.items()
    )
    return f"<{name}{given}>{content}</{name}>"


def _page(title: str, body: str) -> str:
    style, script = (
        Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8")
        for kind in ("css", "js")
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>\n{style}</style></head>\n"
        f"<body><h1>{text(title)}</h1>\n{body}\n<script>\n{script}</script></body></html>\n"
    )


def _select(name: str, label: str, choices: dict[str, str]) -> str:
    options = "".join(tag("option", text(shown), value=value) for value, shown in choices.items())
    return tag("label", f"{text(label)} {tag('select', options, id=name)}")


def _filters(selects: Sequence[str]) -> str:
    search = '<label>search <input type="search" id="search" placeholder="press /"></label>'
    count = tag("output", id="count", aria_live="polite")
    return tag("form", "".join([*selects, search, count]), id="filters", role="search")


def _segment(role: str, content: str, behind: str = "") -> str:
    """A segment or piece with its role in front."""
    inner = f"{tag('b', text(role))} {tag('span', content)}{behind}"
    return tag("li", inner, class_=f"segment {role.lower()}")


def _legend() -> str:
    both = _segment("ES", "extractive: restates the context")
    return tag("ul", both + _segment("AS", "abstractive: derives something new"), class_="chain")


# --- an evaluation -------------------------------------------------------------------------------


def evaluation_page(
    rows: dict[str, dict], predictions: dict[str, list[dict]], curves: dict[str, Curves]
) -> str:
    """Scores, loss curves, and each problem with its reference and the chains of all runs.

    Args:
        rows, predictions, curves: by run: what ``results.json``, ``predictions.jsonl`` and
            ``metrics.jsonl`` hold.
    """
    by_question: dict[tuple[str, str], dict[str, dict]] = {}
    for run, lines in predictions.items():
        for line in lines:
            by_question.setdefault((line["id"], line["question"]), {})[run] = line
    problems = [_problem(lines) for lines in by_question.values()]

    steps = sorted({_steps(lines) for lines in by_question.values()})
    verdicts = {"": "all", "wrong": "wrong", "right": "right"}
    if len(rows) > 1:
        verdicts["split"] = "runs disagree"
    stops = {line["stop"] for lines in predictions.values() for line in lines}
    selects = [_select("verdict", "chains", verdicts)]
    selects.append(_select("stop", "stopped by", {"": "any"} | {s: s for s in STOPS if s in stops}))
    counts = {"": "any"} | {str(n): str(n) for n in steps}
    filters = _filters([*selects, _select("steps", "pieces in reference", counts)])
    drawn = "".join(_run_curves(run, own) for run, own in curves.items())
    note = tag("p", text(same_problems(rows)))
    body = [
        tag("section", tag("h2", "Scores") + _score_table(rows) + note),
        tag("section", tag("h2", "Loss") + tag("div", drawn, class_="figures")) if drawn else "",
        tag("section", tag("h2", "Chains") + _legend() + filters + "\n".join(problems)),
    ]
    return _page("Chains of thought: " + ", ".join(rows), "\n".join(body))


def _score_table(rows: dict[str, dict]) -> str:
    head = tag("tr", tag("th") + "".join(tag("th", text(run), scope="col") for run in rows))
    lines = []
    for name, (_, meaning) in SCORES.items():
        cells = [score_cell(results, name) for results in rows.values()]
        if any(cells):
            first = tag("th", text(name) + tag("small", text(meaning)), scope="row")
            lines.append(first + "".join(tag("td", text(cell)) for cell in cells))
    for reason, meaning in STOPS.items():
        shares = [results["stop_reasons"][reason] for results in rows.values()]
        if any(shares):
            first = tag("th", f"stop: {reason}" + tag("small", text(meaning)), scope="row")
            lines.append(first + "".join(tag("td", _bar(s, f"{s:.3f}")) for s in shares))
    body = "".join(tag("tr", line) for line in lines)
    return tag("div", tag("table", head + body), class_="wide")


def _bar(share: float, shown: str) -> str:
    return tag("span", text(shown), class_="bar", style=f"--share: {share:.4f}")


def _run_curves(run: str, curves: Curves) -> str:
    drawn = draw_curves(run, curves)
    if not drawn:
        return ""
    names = ", ".join(
        tag("span", text(name), class_=f"line-{n}") for n, name in enumerate(curves, 1)
    )
    caption = f"{text(run)}: nats per target token of {names}; thin training, thick validation"
    return tag("figure", drawn + tag("figcaption", caption))


def _steps(lines: dict[str, dict]) -> int:
    return len(split_pieces(next(iter(lines.values()))["reference"]))


def _problem(lines: dict[str, dict]) -> str:
    """One question, its reference, and the chain of each run that has answered it."""
    first = next(iter(lines.values()))
    columns = [_reference(first), *(_written(run, line) for run, line in lines.items())]
    verdicts = {_verdict(line) for line in lines.values()}
    if len(verdicts) > 1:
        verdicts.add("split")
    return tag(
        "article",
        tag("h3", f"{tag('small', text(first['id']))} {text(first['question'])}")
        + tag("div", "".join(columns), class_="columns"),
        data_verdict=" ".join(sorted(verdicts)),
        data_stop=" ".join(sorted({line["stop"] for line in lines.values()})),
        data_steps=_steps(lines),
    )


def _verdict(line: dict) -> str:
    return "wrong" if is_wrong(line) else "right"


def _reference(line: dict) -> str:
    """The reference, with its true roles where the data knows them."""
    if "gold" in line:
        pieces = [_segment(piece["role"], text(piece["text"].strip())) for piece in line["gold"]]
    else:
        pieces = [_segment("", text(piece.strip())) for piece in split_pieces(line["reference"])]
    return tag("div", tag("h4", "reference") + tag("ol", "".join(pieces), class_="chain"))


def _written(run: str, line: dict) -> str:
    """The chain that a run wrote; where it is wrong, the first difference is marked."""
    verdict = _verdict(line)
    parts = parts_of(line)
    mark = first_difference(line) if verdict == "wrong" else None
    note = tag("strong", "first difference", class_="note")
    segments = [
        _segment(role, text(part.strip() or "(empty)"), note if n == mark else "")
        for n, (role, part) in enumerate(parts)
    ]
    return tag(
        "div",
        tag("h4", f"{text(run)} {tag('span', verdict, class_=verdict)}")
        + tag("ol", "".join(segments), class_="chain")
        + tag("p", f"stopped by {text(line['stop'])}", class_="stop"),
    )


# --- a segmentation ------------------------------------------------------------------------------


def segmentation_page(
    segmented: Sequence[Segmented],
    settings: SegmentationSettings,
    description: str,
    tokenizer: Tokenizer | None = None,
) -> str:
    """Pieces and labels of each example; with a scorer's entropies, each token's and each piece's.
    ``tokenizer``: the scorer's, for the texts of the tokens."""
    if settings.segmentation == "interleave":
        rule = "Labels are positions: ES, AS, ES, … in turn, whatever a piece says."
    else:
        rule = (
            "A direct model is asked how unsure it is of each token: its entropy in nats, the "
            "darker the less sure. H(p) of a piece is the sum over its tokens / tokens ** "
            f"{settings.gamma:g}. A piece is AS where H(p) is above the line, {settings.beta:g} "
            "times the mean of its chain."
        )
    counts = sorted({len(s.pieces) for s in segmented})
    filters = _filters([_select("steps", "pieces", {"": "any"} | {str(n): str(n) for n in counts})])
    examples = [_segmented(s, settings, tokenizer) for s in segmented]
    intro = tag("p", text(description)) + tag("p", text(rule)) + _legend()
    return _page("Segments of chains of thought", intro + filters + "\n".join(examples))


def _segmented(s: Segmented, settings: SegmentationSettings, tokenizer: Tokenizer | None) -> str:
    if s.entropies is None:
        pieces = [_segment(label, text(p.strip())) for label, p in zip(s.labels, s.pieces)]
    else:
        threshold = settings.beta * sum(s.entropies) / len(s.entropies)
        top = max(*s.entropies, threshold, 1e-9)
        bars = []
        for h in s.entropies:
            style = f"--share: {h / top:.4f}; --threshold: {threshold / top:.4f}"
            told = f"H(p) = {h:.3f} nats; the threshold is {threshold:.3f}"
            cell = tag("span", f"H {h:.2f}", class_="bar threshold", style=style, title=told)
            bars.append(cell)
        ids = tokenizer.encode_pieces(s.pieces)
        tokens = [_tokens(*row, tokenizer) for row in zip(s.pieces, ids, s.token_entropies)]
        pieces = [_segment(*row) for row in zip(s.labels, tokens, bars)]
    question = tag("h3", tag("small", text(s.example.id)) + " " + text(s.example.question))
    chain = tag("ol", "".join(pieces), class_="chain")
    return tag("article", question + chain, data_steps=len(s.pieces))


def _tokens(
    piece: str, ids: Sequence[int], entropies: Sequence[float], tokenizer: Tokenizer
) -> str:
    """The tokens of a piece, the less sure the darker; bytes of one character stand together, and
    their entropies add up."""
    cells, held, total = [], [], 0.0
    for i, h in zip(ids, entropies):
        held.append(i)
        total += h
        shown = tokenizer.decode(held)
        if "\ufffd" not in shown or "\ufffd" in piece:
            shown = shown if cells else shown.lstrip()
            style = f"--heat: {min(1.0, total / 3):.3f}"
            cells.append(tag("span", text(shown), style=style, title=f"{total:.3f} nats"))
            held, total = [], 0.0
    return tag("span", "".join(cells), class_="tokens")
