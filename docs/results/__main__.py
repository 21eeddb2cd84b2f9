"""`python docs/results NAME`: run missing trials, then write tables, figures and numbers."""

from figures import draw
from runner import RESULTS, read_results, run_missing
from tables import fill_pages, long_tables, table
from trials import EXPERIMENTS

from ases.data import InputError
from ases.run.cli import Parser, run_command
from ases.run.write import write_text


def main() -> None:
    """Run, print and draw one experiment, or all."""
    parser = Parser(prog="python docs/results", description=main.__doc__)
    parser.add_argument("name", choices=[*EXPERIMENTS, "all"], help="experiment to run")
    parser.add_argument(
        "--only-report", action="store_true", help="only rebuild tables and figures"
    )
    parser.add_argument("--processes", type=int, default=2, metavar="N", help="trials at once [2]")
    parser.add_argument(
        "--data-folder", default="data", metavar="FOLDER", help="of the real data sets"
    )
    options = parser.parse_args()
    if options.processes < 1:
        raise InputError(f"--processes is {options.processes}; expected at least 1")
    names = list(EXPERIMENTS) if options.name == "all" else [options.name]
    for name in names:
        if not options.only_report:
            run_missing(EXPERIMENTS[name].trials, options.data_folder, options.processes)
        results = read_results()
        trials = EXPERIMENTS[name].trials
        print(f"\n{EXPERIMENTS[name].title}\n\n{table(name, results)}")
        print(f"{sum(t in results for t in trials)} of {len(trials)} trials are done")
        draw(name, results, RESULTS / f"{name}.svg")
    results = read_results()
    write_text(RESULTS / "tables.md", long_tables(results))
    fill_pages(results)


if __name__ == "__main__":
    run_command(main)
