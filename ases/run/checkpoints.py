"""Checkpoints, and the watcher that writes them and the log during training."""

import hashlib
import json
import zipfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ases import parallel
from ases.data import InputError, check_regular, refuse_if
from ases.model import EncoderDecoder
from ases.run.process import Signals
from ases.run.progress import Meter, print_note
from ases.run.read import read_log
from ases.run.write import whole_file, write_text, writing
from ases.settings import ModelConfig
from ases.training import Training, Watcher, usable_device

if TYPE_CHECKING:  # it imports this module
    from ases.run.folder import RunConfig

#: Version of config.json, results.json and checkpoints. Bump it on incompatible changes.
FORMAT = 5
#: Entries of the log that progress shows.
SHOWN = {"loss": "loss {:.3f}", "validation_loss": "val {:.3f}", "tokens_per_second": "{:,} tok/s"}


def check_format(path: Path, content: object) -> None:
    """Raises InputError: ``content`` has another format."""
    version = content.get("format") if isinstance(content, dict) else None
    message = f"format {str(version)[:20]}; this version reads format {FORMAT}: train again"
    refuse_if(version != FORMAT, path, message)


def save_checkpoint(path: Path, run_id: str, content: dict) -> None:
    """Write tensors and plain values, atomically."""
    about = {"format": FORMAT, "name": path.name.split(".")[0], "run": run_id}
    with writing(path), whole_file(path) as file:
        torch.save(about | content, file)


def load_checkpoint(path: Path, run_id: str | None = None) -> dict:
    """Read without executing code. Raises InputError: missing, damaged, or another run's."""
    check_regular(path, "a checkpoint")
    try:
        with zipfile.ZipFile(path) as file:  # torch.load checks no record's CRC-32
            damaged = file.testzip()
        content = None if damaged else torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # zipfile and torch raise many kinds for damaged or foreign files
        raise InputError(f"{path}: not a readable checkpoint ({type(error).__name__})") from None
    refuse_if(damaged, path, f"damaged in {damaged}")
    check_format(path, content)
    expected, name = path.name.split(".")[0], content.get("name")
    refuse_if(name != expected, path, f"contains model {name!r}; expected {expected!r}")
    refuse_if(run_id not in (None, content.get("run")), path, "written by another run")
    return content


def weights_digest(weights: dict[str, torch.Tensor]) -> str:
    """SHA-256 of a model's weights."""
    hasher = hashlib.sha256()
    for name, tensor in weights.items():
        hasher.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
    return hasher.hexdigest()


#: What scoring leaves in a run's folder and in its eval-* folders.
OUTPUTS = "predictions.jsonl results.json predictions-longer.jsonl results-longer.json".split()


def outputs_of(folder: Path) -> list[Path]:
    # Symlinks lead out of the folder.
    places = [p for p in folder.glob("eval-*") if p.is_dir() and not p.is_symlink()]
    return [place / name for place in (folder, *places) for name in OUTPUTS]


def load_model(path: Path, device: str = "auto", run_id: str | None = None) -> EncoderDecoder:
    """The model of a checkpoint, on ``device`` and in eval mode."""
    checkpoint = load_checkpoint(path, run_id)
    try:
        config = ModelConfig(**checkpoint["config"])
        model = EncoderDecoder.with_weights(config, checkpoint["model"])
    except (TypeError, ValueError, LookupError) as error:
        raise InputError(f"{path}: config and weights do not fit ({error})") from None
    return model.to(usable_device(device)).eval()


class Recorder(Watcher):
    """Writes a run's ``metrics.jsonl``, ``<name>.best.pt`` and ``<name>.last.pt``; shows progress.

    ``best.pt`` has the weights with the most correct validation tokens, ``last.pt`` all that
    ``resume`` needs. Only rank 0 writes.
    """

    def __init__(self, folder: Path, resume: bool = False, config: "RunConfig | None" = None):
        """``config``: the run's ``RunConfig``, to be completed by training's settings."""
        self.folder, self.resume, self.config = Path(folder), resume, config
        self.run_id = config.run_id if config else ""
        self.writes = parallel.rank() == 0
        self.signals = Signals()
        self.log = self.folder / "metrics.jsonl"
        self.saved = ""  # model and step, for messages
        if self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)

    def start(self, training: Training) -> None:
        if self.resume:
            self._load(training)
        if not self.writes:
            return
        if self.config:
            replace(self.config, settings=training.settings).save(self.folder)
        if training.step:
            what = "is trained already:" if training.budget_used >= 1 else "continues after"
            print_note(f"{training.name} {what} {training.step:,} steps")
        if self.log.exists():  # drop rows that will be written again
            rows = read_log(self.folder)
            kept = [r for r in rows if r["model"] != training.name or r["step"] <= training.step]
            write_text(self.log, "".join(json.dumps(row) + "\n" for row in kept))
        self.latest: dict = {}  # entries of the log
        if training.budget_used < 1:
            self.meter = Meter(training.name, 1.0, training.budget_used)
            self.signals.held = True

    def _load(self, training: Training) -> None:
        path = self.folder / f"{training.name}.last.pt"
        if not path.exists():
            return
        state, best = load_checkpoint(path), {}
        try:
            if state["progress"]["best"]:  # none before the first validation
                best = load_checkpoint(self.folder / f"{training.name}.best.pt")["model"]
                training.model.load_state_dict(best)  # check that they fit
            training.load_state_dict(state, best)
            self.saved = f"{training.name} is saved as of step {training.step:,}"
        except Exception as error:  # damaged states raise many kinds
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: cannot be resumed ({reason})") from None

    def record(self, training: Training, report: dict[str, dict]) -> None:
        if not self.writes:
            return
        for row in report.values():
            self.latest |= row
            with writing(self.log), open(self.log, "a", encoding="utf-8") as file:
                file.write(json.dumps({"model": training.name} | row, allow_nan=False) + "\n")
        validated, stopping = "validation" in report, self.signals.pending is not None
        if validated and training.best["best_step"] == training.step:
            for path in outputs_of(self.folder):  # they would be those of older weights
                path.unlink(missing_ok=True)
            best = {"config": asdict(training.model.config), "model": training.best_weights}
            path = self.folder / f"{training.name}.best.pt"
            save_checkpoint(path, self.run_id, best | training.best)
        if validated or stopping:
            path = self.folder / f"{training.name}.last.pt"
            save_checkpoint(path, self.run_id, training.state_dict())
            self.saved = f"{training.name} is saved as of step {training.step:,}"
        share = min(1.0, training.budget_used)
        parts = [text.format(self.latest[k]) for k, text in SHOWN.items() if k in self.latest]
        self.meter.update(share, ", ".join([f"step {training.step}", *parts]), now=validated)
        if stopping or share >= 1:
            self.meter.close()
            self.signals.release()
