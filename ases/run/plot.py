"""Plot loss curves (needs matplotlib): `python -m ases.run.plot RUN … --out curves.svg`."""

import math
from pathlib import Path
from typing import Any

from ases.data import InputError, refuse_if
from ases.run.cli import Parser, run_command
from ases.run.progress import tell
from ases.run.read import read_curves
from ases.run.write import check_place


def main() -> None:
    """Draw losses: training thin, validation with dots."""
    parser = Parser(prog="python -m ases.run.plot", description="Draw the loss curves of runs.")
    parser.add_argument("run", nargs="+", type=Path, help="folder that train.py wrote")
    parser.add_argument("--out", type=Path, default=Path("curves.svg"), help="[%(default)s]")
    options = parser.parse_args()
    check_place(options.out)
    refuse_if(options.out.is_dir(), "--out", f"{options.out} is a folder; expected a file")
    figure, axes = need_pyplot().subplots(figsize=(7, 4))
    for folder in options.run:
        for name, losses in read_curves(folder).items():
            [line] = axes.plot(
                *zip(*losses["training"] or [(0, math.nan)]), linewidth=0.8, alpha=0.5
            )
            label = f"{folder.name}: {name}"
            pairs = losses["validation"] or [(0, math.nan)]
            axes.plot(*zip(*pairs), marker=".", color=line.get_color(), label=label)
    axes.set(xlabel="updates", ylabel="nats per target token", yscale="log")
    axes.grid(alpha=0.3)
    axes.legend(title="training (thin) and validation loss", fontsize=8)
    save_figure(figure, options.out)
    tell(f"written: {options.out}")


def need_pyplot() -> Any:
    """Import pyplot and make its SVGs reproducible."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("figures need matplotlib: pip install matplotlib") from None
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "ases"
    from matplotlib import pyplot

    return pyplot


def save_figure(figure: Any, out: Path) -> None:
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, format="svg", metadata={"Date": None})
    need_pyplot().close(figure)


if __name__ == "__main__":
    run_command(main)
