#!/usr/bin/env python3
"""Cut and label chains of thought: `python segment.py "Tom has 3 pens, so …"`, `--show 3` for
generated examples, or `--data FILE --out FILE` for JSON lines."""

import signal
import sys
from dataclasses import replace
from pathlib import Path

if __name__ == "__main__":  # no traceback on Ctrl-C during imports
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from ases.data import Example, InputError, printable
from ases.run.cli import Options, catch_ctrl_c, colours_wanted, from_flags, parse, run_command
from ases.run.read import data_notes, scan_examples
from ases.run.write import json_lines, plural, write_text
from ases.settings import Settings

ABOUT = """Cut chains into pieces, label them ES or AS, merge them into segments.
Without a text or --data, it takes generated examples. Without --show, --out
or --report, it prints JSON lines."""


def check(settings: Settings) -> None:
    """Print every unusable row. Raises InputError: there are some, or there are no usable rows."""
    data = scan_examples(replace(settings, skip_bad_rows=True))
    bad = data.problems + data.empty + data.contradicted
    for line in bad:
        print(printable(line))
    n = len(bad) + len(data.examples)
    if bad or not data.examples:
        raise InputError(f"{len(bad)} of {plural(n, 'row')} of {settings.data} cannot be used")
    print(printable(f"{plural(n, 'usable row')} in {settings.data}"))
    for note in data_notes(data.examples, settings):
        print(note)


def main() -> None:
    given = parse("segment", ABOUT, text="a chain to cut, instead of a data set")
    options, settings = from_flags(Options, given), from_flags(Settings, given)
    if options.check:
        return check(settings)
    # Importing PyTorch is slow; --help and usage errors do not wait for it.
    from ases.recipe import segment
    from ases.run.folder import load_scorer, load_splits, pick_split
    from ases.run.page import segmentation_page
    from ases.run.progress import print_line
    from ases.run.show import segmented_row, segmented_summary, show_segmented

    catch_ctrl_c()
    files = [path for path in (options.out, options.report) if path]
    if "text" in given:
        examples, description = [Example("text", "", given["text"])], "one chain"
        notes = ["note: scored as the answer to an empty question"] if settings.scorer else []
    else:
        split = options.split or "all"
        splits, description = load_splits(settings, whole=split == "all")
        examples = pick_split(splits, split)
        notes = [description, *data_notes(examples, settings)]
    scorer = load_scorer(settings)
    segmented = segment(examples, settings, scorer)

    n_shown = 1 if "text" in given and not files else options.show
    for s in segmented[: n_shown or 0]:
        print(show_segmented(s, colours_wanted()) + "\n")
    rows = json_lines(map(segmented_row, segmented))
    if options.out:
        write_text(Path(options.out), rows)
    if options.report:
        tokenizer = scorer.tokenizer if scorer else None
        page = segmentation_page(segmented, settings, description, tokenizer)
        write_text(Path(options.report), page)
    for path in files:
        print_line(f"written: {path}")
    if not files and n_shown is None:
        sys.stdout.write(rows)
    sys.stdout.flush()
    summary = segmented_summary(segmented, settings)
    print(printable("\n".join([*notes, summary])), file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
