#!/usr/bin/env python3
"""Cut and label chains of thought: `python segment.py "Tom has 3 pens, so …"`, `--show 3` for
generated examples, or `--data FILE --out FILE` for JSON lines."""

import signal
import sys
from pathlib import Path

if __name__ == "__main__":  # no traceback on Ctrl-C during imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from ases.data import Example, InputError, shown
from ases.run.cli import Options, colours_wanted, of, parse, run_command
from ases.run.read import Columns, data_notes, scan_examples
from ases.run.write import check_place, counted, json_lines, write_text
from ases.settings import Settings

ABOUT = """Cut chains into pieces, label them ES or AS, merge them into segments.
Without a text or --data, it takes generated examples. Without --show, --out
or --report, it prints JSON lines."""


def check(settings: Settings) -> None:
    """Print every unusable row. Raises InputError: there are some, or there are no usable rows."""
    columns = Columns(settings.question_field, settings.answer_field, settings.label_field)
    data = scan_examples(settings.data, settings.task, columns, True, settings.max_chain)
    bad = data.problems + data.empty + data.contradicted
    for line in bad:
        print(shown(line))
    n = len(bad) + len(data.examples)
    if bad or not data.examples:
        raise InputError(f"{len(bad)} of {counted(n, 'row')} of {settings.data} cannot be used")
    lines = [
        f"{counted(n, 'usable row')} in {settings.data}",
        *data_notes(data.examples, data.examples, settings),
    ]
    print(shown("\n".join(lines)))


def main() -> None:
    given = parse("segment", ABOUT, text="a chain to cut, in place of a data set")
    options, settings = of(Options, given), of(Settings, given)
    if options.check:
        return check(settings)
    # Importing PyTorch is slow; --help and usage errors do not wait for it.
    from ases.recipe import segment
    from ases.run.folder import load_scorer, load_splits, pick_split
    from ases.run.page import segmentation_page
    from ases.run.progress import tell
    from ases.run.show import segmented_row, segmented_summary, show_segmented

    out, report = ([Path(path)] if path else [] for path in (options.out, options.report))
    for path in out + report:
        check_place(path)
    examples, description = [Example("text", "", given.get("text", ""))], "one chain"
    if "text" not in given:
        split = options.split or "all"
        splits, description = load_splits(settings, whole=split == "all")
        examples = pick_split(splits, split)
    scorer = load_scorer(settings)
    segmented = segment(examples, settings, scorer)

    rows = json_lines(map(segmented_row, segmented))
    n_shown = options.show or (1 if "text" in given and not out + report else 0)
    for s in segmented[:n_shown]:
        print(show_segmented(s, colours_wanted()) + "\n")
    for path in out:
        write_text(path, rows)
        tell(f"written: {path}")
    for path in report:
        tokenizer = scorer.tokenizer if scorer else None
        write_text(path, segmentation_page(segmented, settings, description, tokenizer))
        tell(f"written: {path}")
    if not out + report and options.show is None and "text" not in given:
        sys.stdout.write(rows)
    summary = segmented_summary(segmented, settings)
    note = "note: scored as the answer to an empty question"
    sys.stdout.flush()
    lines = [note] if scorer else []
    if "text" not in given:
        lines = [description, *data_notes(examples, examples, settings)]
    print(shown("\n".join([*lines, summary])), file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
