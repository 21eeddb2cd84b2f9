"""Loss curves of runs: `python -m ases.run.plot RUN … --out curves.svg`, and drawn in pages.

The command draws with matplotlib; pages bring their own few lines of SVG, for they need nothing
installed.
"""

import math
from html import escape
from pathlib import Path
from typing import Any

from ases.data import InputError
from ases.run.command import Parser, run_command
from ases.run.files import check_place, read_log
from ases.run.progress import tell

#: (step, nats per target token)
Points = list[tuple[int, float]]


def read_curves(folder: Path) -> dict[str, dict[str, Points]]:
    """The losses in a run's ``metrics.jsonl``: {"usm": {"training": …, "validation": …}}."""
    curves: dict[str, dict[str, Points]] = {}
    for row in read_log(folder / "metrics.jsonl"):
        own = curves.setdefault(row["model"], {"training": [], "validation": []})
        for kind, name in (("training", "loss"), ("validation", "validation_loss")):
            if name in row:
                own[kind].append((row["step"], row[name]))
    return curves


# --- in a page -----------------------------------------------------------------------------------

_WIDTH, _HEIGHT, _LEFT, _BELOW = 560, 240, 44, 34


def draw_curves(title: str, curves: dict[str, dict[str, Points]]) -> str:
    """An SVG of losses over steps, the losses on a logarithmic axis; "" where there are none.

    Colours and fonts are those of the page: classes ``line-1`` and so on, one for each model.
    """
    points = [p for own in curves.values() for kind in own.values() for p in kind if p[1] > 0]
    if len(points) < 2:
        return ""
    last_step = max(step for step, _ in points)
    low = math.log10(min(loss for _, loss in points))
    high = max(math.log10(max(loss for _, loss in points)), low + 0.1)

    def x(step: int) -> float:
        return _LEFT + (_WIDTH - _LEFT - 8) * step / last_step

    def y(loss: float) -> float:
        share = (math.log10(loss) - low) / (high - low)
        return 12 + (_HEIGHT - _BELOW - 12) * (1 - share)

    parts = []
    for exponent in range(math.floor(low), math.ceil(high) + 1):
        for mantissa in (1, 2, 5):
            loss = mantissa * 10.0**exponent
            if low <= math.log10(loss) <= high:
                parts.append(f'<path class="grid" d="M{_LEFT} {y(loss):.1f}H{_WIDTH - 8}"/>')
                parts.append(
                    f'<text x="{_LEFT - 6}" y="{y(loss) + 4:.1f}" text-anchor="end">{loss:g}</text>'
                )
    for share in (0.0, 0.5, 1.0):
        step = round(share * last_step)
        anchor = {0.0: "start", 0.5: "middle", 1.0: "end"}[share]
        parts.append(
            f'<text x="{x(step):.1f}" y="{_HEIGHT - 16}" text-anchor="{anchor}">{step}</text>'
        )
    parts.append(f'<text x="{_WIDTH / 2}" y="{_HEIGHT - 2}" text-anchor="middle">updates</text>')

    for number, own in enumerate(curves.values(), 1):
        for kind, pairs in own.items():
            path = "L".join(f"{x(step):.1f} {y(loss):.1f}" for step, loss in pairs if loss > 0)
            if path:
                parts.append(f'<path class="line-{number} {kind}" d="M{path}"/>')
    names = ", ".join(curves)
    return (
        f'<svg class="curves" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(f"losses of {names} in {title}")}">{"".join(parts)}</svg>'
    )


# --- as a command --------------------------------------------------------------------------------


def plot(folders: list[Path], out: Path) -> None:
    """Draw the losses of runs with matplotlib: training thin, validation with dots."""
    pyplot = need_pyplot()
    figure, axes = pyplot.subplots(figsize=(7, 4))
    for folder in folders:
        for name, own in read_curves(folder).items():
            [line] = axes.plot(*zip(*own["training"] or [(0, math.nan)]), linewidth=0.8, alpha=0.5)
            label = f"{folder.name}: {name}"
            pairs = own["validation"] or [(0, math.nan)]
            axes.plot(*zip(*pairs), marker=".", color=line.get_color(), label=label)
    axes.set(xlabel="updates", ylabel="nats per target token", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(title="training (thin) and validation loss", fontsize=8)
    save_figure(figure, out)


def need_pyplot() -> Any:
    """matplotlib's part that draws, set to make the same SVG each time."""
    try:
        import matplotlib
    except ImportError:
        told = "matplotlib is not installed; expected it for figures: pip install matplotlib"
        raise InputError(told) from None
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "ases"
    from matplotlib import pyplot

    return pyplot


def save_figure(figure: Any, out: Path) -> None:
    """Write an SVG, and the folder it stands in."""
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format="svg", metadata={"Date": None})
    need_pyplot().close(figure)


def main() -> None:
    """Draw the losses of runs."""
    parser = Parser(prog="python -m ases.run.plot", description="Draw the loss curves of runs.")
    parser.add_argument("run", nargs="+", type=Path, help="folder that train.py wrote")
    parser.add_argument("--out", type=Path, default=Path("curves.svg"), help="[%(default)s]")
    options = parser.parse_args()
    check_place(options.out)
    if options.out.is_dir():
        raise InputError(f"--out is {str(options.out)!r}, a folder; expected a file")
    plot(options.run, options.out)
    tell(f"written: {options.out}")


if __name__ == "__main__":
    run_command(main)
