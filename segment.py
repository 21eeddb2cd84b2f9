#!/usr/bin/env python3
"""Cut and label chains of thought: `python segment.py --show 3`, or `--out FILE` for one JSON line
per example."""

if __name__ == "__main__":  # Ctrl-C ends it without a traceback, also while modules load
    import signal

    signal.signal(signal.SIGINT, signal.SIG_DFL)

import sys
from pathlib import Path

from ases.config import SegmentationSettings
from ases.data import InputError, shown
from ases.run.command import choose_device, colours_wanted, parse, run_command
from ases.run.config import DataSettings
from ases.run.files import check_place, counted, scan_examples, write_text
from ases.run.flags import SEGMENT_FLAGS, SegmentOptions, segment_complaints


def check(data: DataSettings) -> None:
    """List every row that cannot be used.

    Raises:
        InputError: there are some.
    """
    found = scan_examples(data.data, data.task, data.columns, True)
    bad = found.problems + found.empty + found.contradicted
    for line in bad:
        print(shown(line))
    usable = f"{counted(len(found.examples), 'usable row')} in {data.data}"
    if bad or not found.examples:
        rows = counted(len(bad), "row")
        raise InputError(f"{rows} cannot be used, beside {usable}; expected all to be usable")
    print(shown(usable))


def main() -> None:
    flags = parse(
        "Cut chains into pieces, label them ES or AS, merge them into segments.",
        SEGMENT_FLAGS,
        segment_complaints,
    )
    options, data = flags.of(SegmentOptions), flags.of(DataSettings)
    settings = flags.of(SegmentationSettings)
    if options.check:
        return check(data)
    # Only here, for PyTorch takes its time, and --help and mistakes need not wait for it.
    from ases.recipe import agreement, segment
    from ases.run.folder import load_scorer, load_splits, pick_split, scorer_note
    from ases.run.page import segmentation_page
    from ases.run.results import json_lines, segmented_row
    from ases.run.show import segmented_summary, show_segmented

    outputs = [Path(path) for path in (options.out, options.report) if path]
    for path in outputs:
        check_place(path)
    splits, description = load_splits(data, whole=options.split == "all")
    examples = pick_split(splits, options.split)
    scorer, notes = None, [description]
    if options.scorer:
        scorer, its_config = load_scorer(options.scorer, choose_device(options.device))
        notes.append(scorer_note(options.scorer, its_config, data.task))
    segmented = segment(examples, settings, scorer)

    for s in segmented[: options.show or 0]:
        print(show_segmented(s, settings.beta, colours_wanted()) + "\n")
    if options.out:
        write_text(Path(options.out), json_lines(map(segmented_row, segmented)))
    if options.report:
        tokenizer = scorer.tokenizer if scorer else None
        page = segmentation_page(segmented, settings, description, tokenizer)
        write_text(Path(options.report), page)
    if not outputs and options.show is None:
        sys.stdout.write(json_lines(map(segmented_row, segmented)))
    notes.append(segmented_summary(segmented, agreement(segmented)))
    print(shown("\n".join(note for note in notes if note)), file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
