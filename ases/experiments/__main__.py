"""`python -m ases.experiments NAME`: run what is missing, print the table, draw the figure."""

import re
from pathlib import Path

from ases.data import InputError
from ases.experiments.figures import draw
from ases.experiments.intervals import finished, problems_to_match
from ases.experiments.runner import RESULTS, read_results, run_missing
from ases.experiments.tables import table
from ases.experiments.trials import EXPERIMENTS
from ases.run.command import Parser, run_command
from ases.run.files import write_text

PAGE = RESULTS.parent / "results.md"


def main() -> None:
    """Run, print and draw one experiment, or all."""
    parser = Parser(prog="python -m ases.experiments", description=main.__doc__)
    parser.add_argument("name", choices=[*EXPERIMENTS, "all"], help="which")
    parser.add_argument("--only-report", action="store_true", help="train nothing")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="trials at once [2]")
    parser.add_argument("--data-folder", default="data", metavar="FOLDER", help="of real data")
    options = parser.parse_args()
    if options.processes < 1:
        raise InputError(f"--processes is {options.processes}; expected at least 1")
    names = list(EXPERIMENTS) if options.name == "all" else [options.name]
    for name in names:
        experiment = EXPERIMENTS[name]
        results = read_results()
        if not options.only_report:
            results = run_missing(experiment.trials, options.data_folder, options.processes)
        text = table(experiment, results)
        if name == "data":
            text += _ratios(problems_to_match(finished(experiment, results)))
        print(f"\n{experiment.title}\n\n{text}")
        insert(PAGE, name, text)
        draw(experiment, results, RESULTS / f"{name}.svg")


def _ratios(ratios: list) -> str:
    lines = [
        f"With {n:g} problems USM is as accurate as direct with {ratio:.2f} times as many "
        f"[{low:.2f}, {high:.2f}]."
        for n, ratio, low, high in ratios
    ]
    return "\n" + "\n".join(lines) + "\n" if lines else ""


def insert(page: Path, name: str, text: str) -> None:
    """Put a table where the page has its place, from ``<!-- NAME -->`` to ``<!-- end -->``."""
    content = page.read_text(encoding="utf-8")
    place = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
    write_text(page, place.sub(lambda found: f"{found[1]}\n{text}\n{found[2]}", content))


if __name__ == "__main__":
    run_command(main)
