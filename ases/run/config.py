"""The settings of a run beside its recipe: ``config.json``, and the flags of train.py."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ases.config import SIZES, Recipe, SegmentationSettings, TrainingSettings
from ases.data import TASKS, InputError
from ases.run.command import device_complaints
from ases.run.files import write_text
from ases.settings import complaints, setting

N_TRAIN, N_VALIDATION, N_TEST, MAX_NUMBER = 2000, 300, 500, 20  # of generated data


@dataclass(frozen=True)
class DataSettings:
    """Which examples a run sees."""

    task: str = setting("mwp", "math word problems, or PET/CT reports", choices=TASKS, flag=True)
    data: str | None = setting(
        None, "JSON Lines or CSV with question and answer", shown="generated examples", flag=True
    )
    seed: int = setting(0, "of data, split, weights and training", low=0, high=2**63 - 1, flag=True)
    train_problems: int | None = setting(
        None, "training examples", low=1, shown=f"{N_TRAIN}, or all of --data", flag=True
    )
    test_problems: int | None = setting(
        None, "test examples", low=1, shown=f"{N_TEST}, or all of --data", flag=True
    )
    max_number: int = setting(
        MAX_NUMBER, "largest number in generated word problems", low=10, high=100_000
    )


@dataclass(frozen=True)
class RunConfig(Recipe):
    """A recipe with where its data and its first weights come from: all that ``config.json``
    holds."""

    data: DataSettings = field(default_factory=DataSettings)
    scorer: str | None = setting(
        None,
        "run folder of a direct model for --segmentation entropy",
        shown="train one first",
        flag=True,
    )
    init: str | None = setting(
        None, "folder of a T5-family checkpoint to start from", shown="random weights", flag=True
    )
    data_digest: str = ""

    def save(self, folder: Path) -> None:
        write_text(folder / "config.json", json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "RunConfig":
        """Read ``config.json``.

        Raises:
            InputError: it is missing or not as ``save`` writes it.
        """
        path = Path(folder) / "config.json"
        parts = {
            "data": DataSettings,
            "segmentation": SegmentationSettings,
            "training": TrainingSettings,
        }
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            for name, part in parts.items():
                content[name] = part(**content[name])
            config = cls(**content)
        except OSError as error:
            raise InputError(
                f"{path}: cannot be read ({error.strerror}); expected the folder of a run"
            ) from None
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{path}: not a run's settings ({error}); expected what train.py writes"
            ) from None

        wrong = complaints(config)
        for name in parts:
            wrong += [f"{name}.{complaint}" for complaint in complaints(getattr(config, name))]
        if not isinstance(config.model, dict):
            wrong.append(f"model is {config.model!r}; expected a shape")
        if config.training.max_steps is None and config.training.max_minutes is None:
            wrong.append("neither max_steps nor max_minutes is set; expected a budget")
        if wrong:
            raise InputError(f"{path}: {' | '.join(wrong)}")
        return config


# --- flags of train.py ----------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainOptions:
    """What train.py can be told beside a run's settings."""

    size: str = setting("tiny", "shape of the model", choices=tuple(SIZES), flag=True)
    device: str = setting(
        "auto", "auto is cuda where there is one", choices=("auto", "cpu", "cuda"), flag=True
    )
    out_dir: str | None = setting(
        None, "folder of the run", shown="runs/<task>-<mode>-…", flag=True
    )
    overwrite: bool = setting(False, "replace the run that --out-dir holds", flag=True)
    resume: str | None = setting(
        None, "continue this run, with the settings of its config.json", flag=True
    )


TRAIN_FLAGS = {
    "data": DataSettings,
    "method": Recipe,
    "segmentation": SegmentationSettings,
    "training": TrainingSettings,
    "first weights and decoding": RunConfig,
    "run": TrainOptions,
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
        others = [name for name in given if name not in ("resume", "device")]
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
    if given.get("mode") == "direct" and "merge" in given:
        complaints.append("--no-merge with --mode direct; expected it only with dsm or usm")
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
