"""The settings of a run beside its recipe: all that ``config.json`` holds."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ases.config import ModelConfig, Recipe, SegmentationSettings, TrainingSettings
from ases.data import TASKS, InputError
from ases.run.files import Columns, read_json, write_text
from ases.settings import complaints, setting

#: Of run folders: config.json, results.json and checkpoints carry it. It grows by one whenever
#: what this version writes could not be read by the one before, or the other way round.
FORMAT = 3

N_TRAIN, N_VALIDATION, N_TEST, MAX_NUMBER = 2000, 300, 500, 20  # of generated data


def check_format(path: Path, content: object) -> None:
    """
    Raises:
        InputError: ``content`` was written in another format.
    """
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise InputError(
            f"{path}: format {str(found)[:20]}; this version reads format {FORMAT}, whose decoders "
            "start differently: use the version that wrote it, or train again"
        )


@dataclass(frozen=True)
class DataSettings:
    """Which examples a run sees."""

    task: str = setting("mwp", "math word problems, or PET/CT reports", choices=TASKS)
    data: str | None = setting(
        None, "JSON Lines, JSON or a table", shown="generated examples", metavar="FILE"
    )
    question_field: str = setting("question", "what --data calls its questions", metavar="NAME")
    answer_field: str = setting("answer", "what --data calls its answers", metavar="NAME")
    label_field: str | None = setting(
        None, "what --data calls true answers", shown="none; the answer states it", metavar="NAME"
    )
    skip_bad_rows: bool = setting(False, "leave out rows that cannot be used")
    seed: int = setting(0, "of data, split, weights and training", low=0, high=2**63 - 1)
    train_problems: int | None = setting(
        None, "training examples", low=1, shown=f"{N_TRAIN}, or all of --data"
    )
    test_problems: int | None = setting(
        None, "test examples", low=1, shown=f"{N_TEST}, or all of --data"
    )
    max_number: int = setting(
        MAX_NUMBER, "largest number in generated word problems", low=10, high=100_000
    )

    @property
    def columns(self) -> Columns:
        """What the fields of ``data`` are called."""
        return Columns(self.question_field, self.answer_field, self.label_field)


@dataclass(frozen=True)
class RunConfig(Recipe):
    """A recipe with where its data and its first weights come from: all that ``config.json``
    holds.

    ``characters`` are those of the training texts: what a model has seen at all. By the digests a
    resumed run notices that its data or its scorer has changed; by ``run_id``, which its
    checkpoints carry, that one of them is another run's.
    """

    data: DataSettings = field(default_factory=DataSettings)
    scorer: str | None = setting(
        None, "direct run that measures entropy", shown="train one first", metavar="RUN"
    )
    init: str | None = setting(
        None, "T5-family checkpoint (bidirectional, AdamW)", shown="random", metavar="FOLDER"
    )
    characters: str = ""
    data_digest: str = ""
    scorer_digest: str = ""
    run_id: str = ""
    format: int = FORMAT

    def save(self, folder: Path) -> None:
        """Write ``config.json``."""
        write_text(folder / "config.json", json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "RunConfig":
        """Read ``config.json``."""
        path = Path(folder) / "config.json"
        content = read_json(path, "the folder of a run")
        check_format(path, content)
        parts = {
            "data": DataSettings,
            "segmentation": SegmentationSettings,
            "training": TrainingSettings,
        }
        try:
            for name, part in parts.items():
                content[name] = part(**content[name])
            config = cls(**content)
            ModelConfig(**{"vocab_size": 1} | config.model)
        except (ValueError, TypeError, KeyError) as error:
            told = f"{path}: not a run's settings ({error}); expected what train.py writes"
            raise InputError(told) from None

        wrong = complaints(config)
        for name in parts:
            wrong += [f"{name}.{complaint}" for complaint in complaints(getattr(config, name))]
        if config.training.max_steps is None and config.training.max_minutes is None:
            wrong.append("neither max_steps nor max_minutes is set; expected a budget")
        if wrong:
            raise InputError(f"{path}: {' | '.join(wrong)}")
        return config
