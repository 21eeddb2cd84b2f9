"""Draw the method: `python docs/picture.py` writes docs/method.svg, for light and dark pages."""

import sys
from html import escape
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from ases.data import TOY
from ases.segmentation import interleaved_labels, make_segments, split_pieces

STYLE = """
  .paper { fill: #ffffff; }
  text { font: 14px system-ui, sans-serif; fill: #1f2328; }
  .small { font-size: 12px; fill: #59636e; }
  .role { font-weight: 600; }
  .ES { fill: #cfe3ff; stroke: #2f6fd0; }
  .AS { fill: #ffe2b8; stroke: #b35c00; }
  .plain { fill: none; stroke: #818b98; }
  .line { fill: none; stroke: #59636e; stroke-width: 1.5; }
  .head { fill: #59636e; }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #0d1117; }
    text { fill: #e6edf3; }
    .small { fill: #9198a1; }
    .ES { fill: #143158; stroke: #6ea8ff; }
    .AS { fill: #5a3200; stroke: #ffb457; }
    .plain { stroke: #656c76; }
    .line { stroke: #9198a1; }
    .head { fill: #9198a1; }
  }
"""
WIDTH, LEFT, BOX, GAP = 900, 20, 26, 8


def text(x: float, y: float, content: str, kind: str = "") -> str:
    return f'<text x="{x}" y="{y}" class="{kind}">{escape(content)}</text>'


def box(x: float, y: float, width: float, kind: str) -> str:
    return f'<rect x="{x}" y="{y}" width="{width}" height="{BOX}" rx="4" class="{kind}"/>'


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1} {y1} L{x2} {y2}" class="line" marker-end="url(#head)"/>'


def draw() -> str:
    """The picture as SVG."""
    pieces = split_pieces(TOY.answer)
    segments = make_segments(pieces, interleaved_labels(len(pieces)))
    parts = [text(LEFT, 28, "question", "small"), text(LEFT + 80, 28, TOY.question)]

    y = 74
    parts.append(text(LEFT, y - 12, "chain of thought, cut and labelled", "small"))
    rows = []
    for segment in segments:
        shown = segment.text.strip()
        parts.append(box(LEFT + 34, y, 8 * len(shown) + 16, segment.label))
        parts.append(text(LEFT, y + 18, segment.label, "role"))
        parts.append(text(LEFT + 42, y + 18, shown))
        rows.append(y + BOX / 2)
        y += BOX + GAP
    parts.append(text(LEFT, y + 10, "ES restates the context, AS derives something new", "small"))

    # Training: which model learns to write which segments.
    x = 390
    models = {
        "ESM": (x, rows[0], "ES", "context → next ES"),
        "ASM": (x, rows[1], "AS", "context → next AS"),
        "USM": (x + 260, (rows[0] + rows[1]) / 2, "plain", "context → next segment"),
    }
    parts.append(text(x, 62, "dual path: two models, one per role", "small"))
    parts.append(text(x + 260, 62, "unified path: one model", "small"))
    for name, (left, middle, kind, what) in models.items():
        parts.append(box(left, middle - BOX / 2, 230, kind))
        parts.append(text(left + 8, middle + 5, name, "role"))
        parts.append(text(left + 52, middle + 5, what))

    # Generation: a loop.
    top = rows[3] - BOX / 2
    parts.append(text(x, top - 12, "generation: write a segment, append it, read again", "small"))
    parts.append(box(x, top, 205, "plain"))
    parts.append(text(x + 8, top + 18, "question, segments so far"))
    parts.append(arrow(x + 205, top + BOX / 2, x + 236, top + BOX / 2))
    parts.append(box(x + 242, top, 80, "plain"))
    parts.append(text(x + 258, top + 18, "model"))
    parts.append(arrow(x + 322, top + BOX / 2, x + 353, top + BOX / 2))
    parts.append(box(x + 359, top, 131, "plain"))
    parts.append(text(x + 370, top + 18, "next segment"))
    back = top + BOX + 18
    loop = f"M{x + 424} {top + BOX} L{x + 424} {back} L{x + 100} {back} L{x + 100} {top + BOX + 7}"
    parts.append(f'<path d="{loop}" class="line" marker-end="url(#head)"/>')
    told = "until it writes <end>; each starts from the state of the newest token read"
    parts.append(text(x, back + 16, told, "small"))

    height = int(max(y + 20, back + 26))
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    label = "AS-ES learning: segments of a chain of thought, two paths, iterative generation"
    marker = 'viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" orient="auto"'
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}">',
        '<rect width="100%" height="100%" class="paper"/>',
        f"<style>{STYLE}</style>",
        f'<defs><marker id="head" {marker}>',
        '<path d="M0 0 L8 4 L0 8 z" class="head"/></marker></defs>',
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    (Path(__file__).parent / "method.svg").write_text(draw(), encoding="utf-8")
