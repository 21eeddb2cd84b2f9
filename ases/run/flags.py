"""The flags of the three commands, and which of them do not go together."""

from collections.abc import Iterable
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


def _useless(given: dict[str, Any], where: str, names: Iterable[str]) -> list[str]:
    flags = [f"--{name.replace('_', '-')}" for name in names if name in given]
    return [f"{flag} has no effect {where}; remove it" for flag in flags]


def segmentation_complaints(given: dict[str, Any]) -> list[str]:
    """Settings of the entropy rule say nothing about labels by position."""
    if given.get("segmentation") == "entropy":
        return []
    names = ("scorer", "beta", "gamma", "entropy_context")
    return _useless(given, "without --segmentation entropy", names)


#: How a file is to be read.
OF_FILES = ("question_field", "answer_field", "label_field", "skip_bad_rows")


def _without_data(given: dict[str, Any]) -> list[str]:
    return [] if "data" in given else _useless(given, "without --data", OF_FILES)


def train_complaints(given: dict[str, Any]) -> list[str]:
    """Flags of train.py that do not go together."""
    complaints = device_complaints(given)
    if "resume" in given:
        free = {"resume", "device", "data", "max_steps", "max_minutes"}
        where = "with --resume, for config.json has all settings"
        return complaints + _useless(given, where, [name for name in given if name not in free])
    complaints += segmentation_complaints(given) + _without_data(given)
    if given.get("mode") == "direct" and given.get("segmentation") == "entropy":
        complaints += _useless(given, "with --mode direct", ["segmentation"])
    if "init" in given:
        complaints += _useless(given, "with --init, for the checkpoint has a shape", ["size"])
    out_dir = Path(given.get("out_dir", "")).resolve()
    for name in ("scorer", "init"):
        if "out_dir" in given and name in given and Path(given[name]).resolve() == out_dir:
            complaints.append(f"--out-dir and --{name} are one folder; choose another --out-dir")
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


def _output_complaints(given: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    complaints = []
    for name in names:
        path = Path(given[name]) if name in given else None
        if path and path.is_dir():
            complaints.append(f"--{name} is {str(path)!r}, a folder; expected a file")
        elif path and path.exists() and "overwrite" not in given:
            told = f"--{name} is {str(path)!r}, which exists"
            complaints.append(f"{told}; choose another file, or pass --overwrite")
    places = [Path(given[name]).resolve() for name in ("data", *names) if name in given]
    if len(set(places)) < len(places):
        flags = ", ".join(f"--{name}" for name in names)
        complaints.append(f"two of --data, {flags} are one file; choose another")
    return complaints


def segment_complaints(given: dict[str, Any]) -> list[str]:
    """Flags of segment.py that do not go together."""
    complaints = device_complaints(given) + segmentation_complaints(given) + _without_data(given)
    if given.get("segmentation") == "entropy" and "scorer" not in given:
        complaints.append("--segmentation entropy needs --scorer, the folder of a direct run")
    if "check" in given:
        if "data" not in given:
            complaints.append("--check needs --data, the file to check")
        complaints += _useless(given, "with --check", ("split", "show", "report", "out"))
    return complaints + _output_complaints(given, ("out", "report"))


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
    of_scores = ("data", "split", *OF_FILES[1:], "show_wrong", "report")
    if "question" in given:
        question = given["question"]
        if not question.strip() or any("\ud800" <= c <= "\udfff" for c in question):
            complaints.append("--question is empty or no valid Unicode; expected a text")
        of_files = ("questions", "question_field", "out_dir", "overwrite")
        complaints += _useless(given, "with --question", (*of_scores, *of_files))
    elif "questions" in given:
        complaints += _useless(given, "with --questions", of_scores)
    elif "data" not in given:
        complaints += _useless(given, "on the run's own data", OF_FILES)
    complaints += _output_complaints(given, ("report",))
    if "report" in given and Path(given["report"]).suffix != ".html":
        complaints.append(f"--report is {given['report']!r}; expected a name that ends in .html")
    return complaints
