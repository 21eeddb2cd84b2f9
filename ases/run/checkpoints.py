"""Checkpoints, and the watcher that writes them, with the log, while a model trains."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ases import parallel
from ases.config import ModelConfig, Recipe
from ases.data import InputError
from ases.model import EncoderDecoder
from ases.run.config import FORMAT, RunConfig, check_format
from ases.run.files import cannot_write, read_log, whole_file, write_text
from ases.run.interrupt import Signals
from ases.run.progress import Meter, say
from ases.training import Training, Watcher, usable_device


def save_checkpoint(path: Path, content: dict) -> None:
    """Write tensors and plain values, with a digest of them all, so that no moment sees half a
    file."""
    try:
        with whole_file(path) as file:
            content = content | {"format": FORMAT}
            torch.save(content | {"digest": weights_digest(content)}, file)
    except (OSError, RuntimeError) as error:  # torch has its own words for a full disk
        raise cannot_write(path, error) from None


def load_checkpoint(path: Path, run_id: str | None = None) -> dict:
    """Read what ``save_checkpoint`` wrote; nothing in the file is executed."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        told = f"cannot be read ({error.strerror}); expected a checkpoint"
        raise InputError(f"{path}: {told}") from None
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        told = f"not a readable checkpoint ({type(error).__name__}); expected one of train.py's"
        raise InputError(f"{path}: {told}") from None
    check_format(path, content)
    if not {"config", "model", "name", "digest"} <= content.keys():
        told = "no model, config and digest in it; expected a checkpoint of train.py's"
        raise InputError(f"{path}: {told}")
    if content.pop("digest") != weights_digest(content):
        raise InputError(f"{path}: damaged (its digest is another); expected it as it was written")
    if content["name"] != path.name.split(".")[0]:
        raise InputError(f"{path}: holds the model {content['name']!r}; expected its own")
    if run_id not in (None, content.get("run")):
        raise InputError(f"{path}: another run wrote it; expected the file that this run wrote")
    return content


def weights_digest(content: object) -> str:
    """A fingerprint of nested dictionaries and lists of tensors and plain values."""
    hasher = hashlib.sha256()
    _feed(hasher, content)
    return hasher.hexdigest()


def _feed(hasher: Any, content: object) -> None:
    if isinstance(content, dict):
        for key, value in content.items():
            hasher.update(f"{key!r}:".encode())
            _feed(hasher, value)
        hasher.update(b"}")
    elif isinstance(content, (list, tuple)):
        for value in content:
            _feed(hasher, value)
        hasher.update(b"]")
    elif isinstance(content, torch.Tensor):
        hasher.update(f"{content.dtype}{tuple(content.shape)}".encode())
        flat = content.detach().cpu().contiguous().flatten()
        hasher.update(flat.view(torch.uint8).numpy().data)
    else:
        hasher.update(f"{content!r};".encode())


def load_model(path: Path, device: str = "cpu", run_id: str | None = None) -> EncoderDecoder:
    """The model of a run's checkpoint, built from the config inside it, ready for inference.

    Raises:
        InputError: as ``load_checkpoint``; weights that do not fit the config.
        ValueError: there is no such device.
    """
    checkpoint = load_checkpoint(path, run_id)
    try:
        config = ModelConfig(**checkpoint["config"])
        model = EncoderDecoder.with_weights(config, checkpoint["model"])
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: config and weights do not fit ({error})") from None
    return model.to(usable_device(device)).eval()


class Loader(Watcher):
    """Takes a training up again from its last checkpoint, with ``resume``, and writes nothing."""

    saved = "this process saves nothing"

    def __init__(self, folder: Path, resume: bool = False):
        self.folder, self.resume = Path(folder), resume

    def start(self, name: str, training: Training) -> None:
        path = self.folder / f"{name}.last.pt"
        if not self.resume or not path.exists():
            return
        state, best = load_checkpoint(path), {}
        try:
            if state["progress"]["best"]:  # stopped before its first validation, it has none
                best = load_checkpoint(self.folder / f"{name}.best.pt")["model"]
                training.model.load_state_dict(best)  # they must fit, too
            training.load_state_dict(state, best)
        except InputError:
            raise
        except (ValueError, RuntimeError, TypeError, LookupError, AttributeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"{path}: cannot be resumed ({reason})") from None


class Recorder(Loader):
    """Writes a run's ``metrics.jsonl``, ``<name>.best.pt`` and ``<name>.last.pt``, and shows how
    far it has come.

    ``best.pt`` has the weights that got most validation tokens right, ``last.pt`` all that
    resuming needs. With ``resume``, a training goes on from its last checkpoint, or, if it had
    ended, is only loaded. The folder is made if there is none.
    """

    def __init__(self, folder: Path, resume: bool = False, run_id: str = ""):
        super().__init__(folder, resume)
        self.run_id, self.signals = run_id, Signals()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "metrics.jsonl"
        self.name = ""
        self.meter: Meter | None = None
        self.saved = "nothing is saved yet"
        self.loss = self.validation = self.speed = ""

    def planned(self, recipe: Recipe) -> None:
        if isinstance(recipe, RunConfig):
            recipe.save(self.folder)

    def start(self, name: str, training: Training) -> None:
        super().start(name, training)
        if training.progress.step:
            ended = self._share(training) >= 1
            what = "was trained already, for" if ended else "goes on after"
            say(f"{name} {what} {training.progress.step:,} steps")
            self._remember(name, training)
        self.name, self.signals.held = name, True
        self._drop_rows(name, after=training.progress.step)
        self.loss = self.validation = self.speed = ""
        self.meter = Meter(name, 1.0, self._share(training))

    def step(self, training: Training) -> None:
        self.meter.update(self._share(training), self._note(training))

        if self.signals.pending is not None:
            self._save(self.name, training)
            self.meter.close()
            self.signals.check()

    def report(self, name: str, row: dict) -> None:
        if "loss" in row:
            self.loss = f", loss {row['loss']:.3f}"
            self.speed = f", {row['tokens_per_second'] / 1000:.1f}k tok/s"
        else:
            self.validation = f", val {row['validation_loss']:.3f}"
        line = json.dumps({"model": name} | row, allow_nan=False) + "\n"
        try:
            with open(self.log, "a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            raise cannot_write(self.log, error) from None

    def checkpoint(self, name: str, training: Training, improved: bool) -> None:
        if improved:
            best = {"config": asdict(training.model.config), "model": training.best_weights}
            self._write(name, "best", best | training.progress.best)
        self._save(name, training)
        self.meter.line(self._share(training), self._note(training))

    def end(self, name: str, training: Training) -> None:
        self.meter.close()
        self.signals.held = False
        self.signals.check()

    def _save(self, name: str, training: Training) -> None:
        self._write(name, "last", training.state_dict())
        self._remember(name, training)

    def _write(self, name: str, kind: str, content: dict) -> None:
        content = {"name": name, "run": self.run_id} | content
        save_checkpoint(self.folder / f"{name}.{kind}.pt", content)

    def _share(self, training: Training) -> float:
        return min(1.0, training.progress.share(training.settings))

    def _note(self, training: Training) -> str:
        return f"step {training.progress.step}{self.loss}{self.validation}{self.speed}"

    def _remember(self, name: str, training: Training) -> None:
        self.saved = f"{name} is saved as of step {training.progress.step:,}"

    def _drop_rows(self, name: str, after: int) -> None:
        """Take back the rows of ``name`` that a resumed run is about to write again."""
        if not self.log.exists():
            return
        rows = read_log(self.log)
        kept = [row for row in rows if row["model"] != name or row["step"] <= after]
        write_text(self.log, "".join(json.dumps(row) + "\n" for row in kept))


def make_watcher(folder: Path, resume: bool, run_id: str) -> Loader:
    """The watcher of a command: one of several processes records, and the others go along."""
    if parallel.rank() > 0:
        return Loader(folder, resume)
    recorder = Recorder(folder, resume, run_id)
    recorder.signals.install()
    return recorder
