"""`python docs/results NAME`: run missing trials, then write tables, figures and numbers."""

import sys

try:
    from figures import draw
    from runner import RESULTS, read_results, run_missing
    from tables import PAGES, TABLES, filled, long_tables
    from trials import EXPERIMENTS
except ModuleNotFoundError as error:
    print(f"error: {error}; pip install -r tests/requirements.txt", file=sys.stderr)
    sys.exit(2)

from ases.data import InputError
from ases.run.cli import Parser, run_command
from ases.run.write import write_text


def main() -> None:
    """Run, print and draw one experiment, or all."""
    parser = Parser(prog="python docs/results", description=main.__doc__)
    parser.add_argument("name", choices=[*EXPERIMENTS, "all"], help="experiment to run")
    parser.add_argument("--only-report", action="store_true", help="rebuild tables and figures")
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="trials at once [2]")
    parser.add_argument("--data-folder", default="data", metavar="FOLDER", help="of real data sets")
    options = parser.parse_args()
    if options.processes < 1:
        raise InputError(f"--processes is {options.processes}; expected at least 1")
    for name in EXPERIMENTS if options.name == "all" else [options.name]:
        trials = EXPERIMENTS[name].trials
        if not options.only_report:
            run_missing(trials, options.data_folder, options.processes)
        results = read_results()
        print(f"\n{EXPERIMENTS[name].title}\n\n{TABLES[name](results)}")
        print(f"{sum(t in results for t in trials)} of {len(trials)} trials are done")
        draw(name, results, RESULTS / f"{name}.svg")
    write_text(RESULTS / "tables.md", long_tables(results))
    for page in PAGES:
        write_text(page, filled(page.read_text(encoding="utf-8"), results))


if __name__ == "__main__":
    run_command(main)
