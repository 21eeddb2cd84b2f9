"""The settings of a run beside its recipe, and ``config.json``."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ases.data import TASKS, InputError
from ases.recipe import Recipe
from ases.run.files import write_text
from ases.segmentation import SegmentationSettings
from ases.settings import complaints, setting
from ases.training import TrainingSettings

N_TRAIN, N_VALIDATION, N_TEST, MAX_NUMBER = 4000, 300, 500, 20  # of generated data


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
