"""Cut and label chains of thought: `python segment.py --show 3`, or `--out FILE` for one JSON line
per example."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from ases.config import SegmentationSettings
from ases.run.command import choose_device, device_complaints, parse, run_command
from ases.run.config import DataSettings, segmentation_complaints
from ases.run.files import make_parent, write_text
from ases.settings import setting

SPLITS = ("train", "validation", "test", "longer", "all")


@dataclass(frozen=True)
class SegmentOptions:
    scorer: str | None = setting(
        None, "run folder of a direct model, for labels by entropy", flag=True
    )
    split: str = setting("all", "which examples", choices=SPLITS, flag=True)
    out: str | None = setting(None, "file for the JSON lines", shown="standard output", flag=True)
    overwrite: bool = setting(False, "replace --out if it exists", flag=True)
    show: int | None = setting(None, "print the first N examples to read instead", low=0, flag=True)
    device: str = setting("auto", "of the scorer", choices=("auto", "cpu", "cuda"), flag=True)


FLAGS = {"data": DataSettings, "segmentation": SegmentationSettings, "what to do": SegmentOptions}


def complain(given: dict) -> list[str]:
    complaints = device_complaints(given) + segmentation_complaints(given)
    if given.get("segmentation") == "entropy" and "scorer" not in given:
        complaints.append(
            "--segmentation is 'entropy' without --scorer; "
            "expected the run folder of a direct model"
        )
    out = Path(given["out"]) if "out" in given else None
    if out and out.is_dir():
        complaints.append(f"--out is {str(out)!r}, a folder; expected a file")
    elif out and out.exists() and "overwrite" not in given:
        complaints.append(
            f"--out is {str(out)!r}, which exists; expected a new file, or --overwrite"
        )
    return complaints


def main() -> None:
    flags = parse(
        "Cut the chains of a data set into pieces, label them ES or AS, merge them into segments.",
        FLAGS,
        complain,
    )
    # Only here, for PyTorch takes its time, and --help and mistakes need not wait for it.
    from ases.recipe import agreement, segment
    from ases.run.folder import load_scorer, load_splits, pick_split
    from ases.run.report import segmented_line, segmented_summary, show_segments

    options, data = flags.of(SegmentOptions), flags.of(DataSettings)
    splits, description = load_splits(data, whole=options.split == "all")
    examples = pick_split(splits, options.split)
    scorer = (
        load_scorer(options.scorer, choose_device(options.device))[0] if options.scorer else None
    )
    segmented = segment(examples, flags.of(SegmentationSettings), scorer)

    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    for s in segmented[: options.show or 0]:
        print(f"[{s.example.id}] {s.example.question}")
        print(show_segments([(part.label, part.text) for part in s.segments], colour) + "\n")
    if options.out:
        make_parent(Path(options.out))
        write_text(Path(options.out), "".join(map(segmented_line, segmented)))
    elif options.show is None:
        sys.stdout.writelines(map(segmented_line, segmented))
    print(f"{description}\n{segmented_summary(segmented, agreement(segmented))}", file=sys.stderr)


if __name__ == "__main__":
    run_command(main)
