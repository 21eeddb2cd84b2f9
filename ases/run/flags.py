"""The flags of the three commands, and which of them do not go together."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ases.config import SIZES, SegmentationSettings, TrainingSettings
from ases.run.command import DEVICES, Groups, device_complaints
from ases.run.config import DataSettings, RunConfig
from ases.settings import setting

# --- train.py ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainOptions:
    """What train.py can be told beside a run's settings."""

    size: str = setting("tiny", "shape of the model", choices=tuple(SIZES))
    device: str = setting("auto", "auto is cuda where there is one", choices=DEVICES)
    out_dir: str | None = setting(
        None, "folder of the run", shown="runs/TASK-MODE-…", metavar="FOLDER"
    )
    overwrite: bool = setting(False, "replace the run that --out-dir holds")
    resume: str | None = setting(
        None, "go on, maybe with a higher --max-steps or --max-minutes", metavar="RUN"
    )


TRAIN_FLAGS: Groups = {
    "data": [
        (DataSettings, "task data question_field answer_field label_field skip_bad_rows seed"),
        (DataSettings, "train_problems test_problems"),
    ],
    "method": [
        (RunConfig, "mode"),
        (SegmentationSettings, "segmentation beta gamma entropy_context"),
        (RunConfig, "scorer encoder"),
    ],
    "model": [(TrainOptions, "size"), (RunConfig, "init")],
    "training": [(TrainingSettings, "max_steps max_minutes batch_tokens learning_rate")],
    "run": [(TrainOptions, "device out_dir overwrite resume")],
}


def segmentation_complaints(given: dict[str, Any]) -> list[str]:
    """Settings of the entropy rule say nothing about labels by position."""
    if given.get("segmentation") == "entropy":
        return []
    return [
        f"--{name.replace('_', '-')} is {given[name]!r} with --segmentation interleave; "
        "expected it only with entropy"
        for name in ("scorer", "beta", "gamma", "entropy_context")
        if name in given
    ]


def train_complaints(given: dict[str, Any]) -> list[str]:
    """Flags of train.py that do not go together."""
    if "resume" in given:
        free = ("resume", "device", "data", "max_steps", "max_minutes")
        others = [name for name in given if name not in free]
        return device_complaints(given) + [
            f"--{name.replace('_', '-')} with --resume; "
            "expected no other setting, for config.json has them"
            for name in others
        ]
    complaints = device_complaints(given) + segmentation_complaints(given)
    if given.get("mode") == "direct" and given.get("segmentation") == "entropy":
        complaints.append(
            "--segmentation is 'entropy' with --mode direct; expected it only with dsm or usm"
        )
    if "init" in given and "size" in given:
        complaints.append("--size with --init; expected no shape, for the checkpoint has one")
    for name in ("scorer", "init"):
        if (
            name in given
            and "out_dir" in given
            and Path(given[name]).resolve() == Path(given["out_dir"]).resolve()
        ):
            complaints.append(
                f"--out-dir is {given['out_dir']!r}, and so is --{name}; expected another folder"
            )
    return complaints


# --- segment.py ----------------------------------------------------------------------------------

SEGMENT_SPLITS = ("train", "validation", "test", "longer", "all")


@dataclass(frozen=True)
class SegmentOptions:
    """What segment.py can be told beside data and labels."""

    scorer: str | None = setting(None, "direct run that measures entropy", metavar="RUN")
    split: str = setting("all", "which examples", choices=SEGMENT_SPLITS)
    check: bool = setting(False, "list the rows of --data that cannot be used")
    show: int | None = setting(None, "print the first N examples to read instead", low=0)
    report: str | None = setting(None, "page with pieces, labels, entropies", metavar="FILE.html")
    out: str | None = setting(
        None, "file for the JSON lines", shown="standard output", metavar="FILE"
    )
    overwrite: bool = setting(False, "replace --out or --report if it exists")
    device: str = setting("auto", "of the scorer", choices=DEVICES)


SEGMENT_FLAGS: Groups = {
    "data": [
        (DataSettings, "task data question_field answer_field label_field skip_bad_rows seed"),
        (DataSettings, "train_problems test_problems"),
    ],
    "method": [
        (SegmentationSettings, "segmentation beta gamma entropy_context merge"),
        (SegmentOptions, "scorer"),
    ],
    "what to do": [(SegmentOptions, "split check show report out overwrite device")],
}


def _useless(given: dict[str, Any], what: str, names: tuple[str, ...]) -> list[str]:
    return [
        f"--{name.replace('_', '-')} with {what}; expected it without, for it would do nothing"
        for name in names
        if name in given
    ]


def _output_complaints(given: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    complaints = []
    for name in names:
        path = Path(given[name]) if name in given else None
        if path and path.is_dir():
            complaints.append(f"--{name} is {str(path)!r}, a folder; expected a file")
        elif path and path.exists() and "overwrite" not in given:
            complaints.append(
                f"--{name} is {str(path)!r}, which exists; expected a new file, or --overwrite"
            )
    return complaints


def segment_complaints(given: dict[str, Any]) -> list[str]:
    """Flags of segment.py that do not go together."""
    complaints = device_complaints(given) + segmentation_complaints(given)
    if given.get("segmentation") == "entropy" and "scorer" not in given:
        complaints.append(
            "--segmentation is 'entropy' without --scorer; "
            "expected the run folder of a direct model"
        )
    if "check" in given and "data" not in given:
        complaints.append("--check without --data; expected a file to check")
    if "check" in given:
        complaints += _useless(given, "--check", ("split", "show", "report", "out"))
    complaints += _output_complaints(given, ("out", "report"))
    places = [Path(given[name]).resolve() for name in ("data", "out", "report") if name in given]
    if len(set(places)) < len(places):
        complaints.append("two of --data, --out and --report are one file; expected different ones")
    return complaints


# --- evaluate.py ---------------------------------------------------------------------------------

EVALUATE_SPLITS = ("test", "validation", "train", "longer", "all")


@dataclass(frozen=True)
class EvaluateOptions:
    """What evaluate.py can be told."""

    run: list | None = setting(
        None, "folder that train.py wrote; several are compared", metavar="FOLDER"
    )
    data: str | None = setting(None, "another file", shown="the run's own data", metavar="FILE")
    split: str | None = setting(
        None, "tenth of the data", shown="test, or all of --data", choices=EVALUATE_SPLITS
    )
    beams: int = setting(1, "beam search; 1 decodes greedily", low=1, high=64)
    second_try: bool = setting(False, "write a segment that fails once more, with 4 beams")
    device: str = setting("auto", "auto is cuda where there is one", choices=DEVICES)
    question: str | None = setting(None, "print the chain for this question instead")
    questions: str | None = setting(
        None, "answer all of a file, or - for standard input", metavar="FILE"
    )
    show_wrong: int = setting(0, "print N wrong chains beside the references", low=0)
    report: str | None = setting(None, "page with scores and all chains", metavar="FILE.html")
    out_dir: str | None = setting(
        None, "folder of what is written", shown="RUN/eval-SPLIT", metavar="FOLDER"
    )
    overwrite: bool = setting(False, "replace what was written there")


EVALUATE_FLAGS: Groups = {
    "what is scored": [
        (EvaluateOptions, "run data"),
        (DataSettings, "question_field answer_field label_field skip_bad_rows"),
        (EvaluateOptions, "split beams second_try device"),
    ],
    "asking instead": [(EvaluateOptions, "question questions")],
    "output": [(EvaluateOptions, "show_wrong report out_dir overwrite")],
}


def evaluate_complaints(given: dict[str, Any]) -> list[str]:
    """Flags of evaluate.py that do not go together."""
    complaints = device_complaints(given)
    runs = [Path(run).resolve() for run in given.get("run", [])]
    if not runs:
        complaints.append("--run is missing; expected the folder of a run")
    if len(set(runs)) < len(runs):
        complaints.append("--run names one folder twice; expected different ones")
    if "question" in given:
        if not given["question"].strip() or any(
            "\ud800" <= c <= "\udfff" for c in given["question"]
        ):
            complaints.append("--question is empty or no valid Unicode; expected a text")
    fields = ("question_field", "answer_field", "label_field", "skip_bad_rows")
    of_scores = ("data", "split", *fields[1:], "show_wrong", "report")
    if "question" in given:
        of_files = ("questions", "question_field", "out_dir", "overwrite")
        complaints += _useless(given, "--question", (*of_scores, *of_files))
    elif "questions" in given:
        complaints += _useless(given, "--questions", of_scores)
    elif "data" not in given:
        complaints += _useless(given, "the run's own data", fields)
    complaints += _output_complaints(given, ("report",))
    if "report" in given and Path(given["report"]).suffix != ".html":
        complaints.append(f"--report is {given['report']!r}; expected a name that ends in .html")
    return complaints
