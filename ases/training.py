"""Training one sub-model. Direct, ESM, ASM and USM differ in their pairs, never in how they train.

``fit`` is the loop. ``Training`` is its state, which checkpoints save. A resumed training has the
losses and weights of an uninterrupted one, on a CPU bit for bit.
"""

import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ases import parallel
from ases.data import InputError
from ases.model import EncoderDecoder, summed_loss
from ases.optim import make_optimizers
from ases.pairs import IGNORE, Batch, Row, collate, make_batches
from ases.settings import Settings


@dataclass
class Counters:
    """How far a training has come."""

    step: int = 0  # updates
    epoch: int = 0
    position: int = 0  # of the next batch in the epoch
    seconds: float = 0.0
    validations: int = 0
    best: dict = field(default_factory=dict)  # scores of the best validation, and its step
    # Since the last report:
    target_tokens: int = 0
    tokens: int = 0  # of sources and targets
    report_seconds: float = 0.0


class Training(Counters):
    """A model in training, with its optimizers, counters and best weights so far. ``parts``: how
    many models share the budget, 2 in dsm."""

    def __init__(self, name: str, model: EncoderDecoder, settings: Settings, parts: int = 1):
        super().__init__()
        self.name = name
        self.settings = settings = replace(settings, device=usable_device(settings.device))
        self.model = model.to(settings.device).train()
        self.optimizers = make_optimizers(model, settings)
        steps, minutes = settings.max_steps, settings.max_minutes
        self.max_steps = math.ceil(steps / parts) if steps else math.inf
        self.max_seconds = 60 * (minutes / parts) if minutes else math.inf

        self.best_weights: dict[str, Tensor] = {}
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=settings.device)
        self.epochs = 0.0  # with the partial one; set at the end
        self.random: dict = {"seed": settings.seed}  # dropout's own random state
        with separate_rng(self.random):  # turn the seed into a state
            pass

    @property
    def budget_used(self) -> float:
        """Share of the budget used; training ends at 1."""
        return max(self.step / self.max_steps, self.seconds / self.max_seconds)

    @property
    def validations_due(self) -> int:
        """How many validations should be done by now."""
        n = self.settings.validations
        # The addend: 49/50 · 50 is not rounded down to 48.
        return min(n, int(n * self.budget_used + 1e-9))

    def add_time(self, since: float) -> float:
        """Add the seconds since ``since``; returns the time now."""
        now = time.perf_counter()
        self.seconds = parallel.value_of_rank_0(self.seconds + now - since)
        self.report_seconds += now - since
        return now

    def progress(self) -> dict:
        return {"step": self.step, "epoch": self.epoch, "seconds": round(self.seconds, 2)}

    def report(self, gradient_norm: Tensor) -> dict:
        """Metrics of the updates since the last report. Syncs with the GPU."""
        rates = [optimizer.groups[0].lr for optimizer in self.optimizers]  # blocks, embeddings
        loss, norm = float(self.loss_sum) / self.target_tokens, float(gradient_norm)
        for name, value in (("loss", loss), ("norm of the gradients", norm)):
            if not math.isfinite(value):
                message = f"the {name} is {value} by step {self.step}, at a rate of {rates[0]:.2g}"
                raise FloatingPointError(f"{message}; a lower --learning-rate may help")
        speed = round(self.tokens / max(self.report_seconds, 1e-9))
        self.loss_sum.zero_()
        self.target_tokens, self.tokens, self.report_seconds = 0, 0, 0.0
        row = {"tokens_per_second": speed, "gradient_norm": norm}
        row |= {"learning_rate": rates[0], "embedding_learning_rate": rates[-1]}
        return self.progress() | {"loss": loss} | row

    def keep_if_best(self, scores: dict) -> None:
        """Keep the weights with the most correct validation tokens; ties: lower loss (not in the
        paper). Why not the loss? It can rise while accuracy still improves, since the model gets
        more confident in its errors. Greedy decoding is unaffected."""
        quality = scores["validation_accuracy"], -scores["validation_loss"]
        best = self.best.get("validation_accuracy", -1.0), -self.best.get("validation_loss", 0.0)
        if quality > best:
            self.best = {"best_step": self.step} | scores
            weights = self.model.state_dict().items()
            self.best_weights = {name: tensor.detach().clone() for name, tensor in weights}

    def summary(self) -> dict:
        """How long it took, and the best validation."""
        seconds = round(self.seconds, 2)
        return {"steps": self.step, "epochs": self.epochs, "seconds": seconds} | self.best

    # --- checkpoints

    def state_dict(self) -> dict:
        """All it takes to resume, except the best weights: tensors and plain values."""
        return {
            "config": asdict(self.model.config),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": {f.name: getattr(self, f.name) for f in fields(Counters)},
            "loss_sum": self.loss_sum,
        } | self.random

    def load_state_dict(self, state: dict, best_weights: dict[str, Tensor]) -> None:
        """Resume from a ``state_dict``. A wrong one raises errors of many kinds."""
        if state["config"] != asdict(self.model.config):
            raise ValueError("it has other model settings")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        vars(self).update(vars(Counters(**state["progress"])))
        self.loss_sum.copy_(state["loss_sum"])
        # The budget may have grown.
        self.validations = min(self.validations, self.validations_due)
        self.best_weights = best_weights
        self.random = {name: state[name] for name in ("rng", "cuda_rng")}
        with separate_rng(self.random):  # check them
            pass


def fit(training: Training, rows: Sequence[Row], validation: Sequence[Row]) -> Iterator[dict]:
    """Train until the budget is spent, then load the best weights into the model.

    An update's loss is the mean over its target tokens, across batches and processes: gradient
    accumulation equals one large batch.

    Yields a report after each update: {"training": …, "validation": …}, each only when due.
    Raises FloatingPointError: a loss or gradient norm that is not finite.
    """
    assert rows and validation, training.name
    settings, model = training.settings, training.model
    parallel.check_same_data(training.name, rows)
    loss_of = parallel.loss_function(model)
    if parallel.rank():  # dropout differs between processes
        training.random = {"seed": settings.seed + 1000 * training.step + parallel.rank()}
    batches = _stream(rows, training)

    clock = time.perf_counter()
    while training.budget_used < 1:
        chosen = [next(batches) for _ in range(settings.accumulate)]
        # In one process, all_sum(x) is x and world_size() is 1.
        target_tokens = parallel.all_sum(sum(batch.target_tokens for batch in chosen))
        for batch in chosen:
            # Only dropout needs random numbers.
            rng = separate_rng(training.random) if model.config.dropout_rate else nullcontext()
            with rng, autocast(settings):
                loss = loss_of(batch.to(settings.device))
            (loss * parallel.world_size() / target_tokens).backward()  # DDP averages gradients
            training.loss_sum += parallel.all_sum(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)

        for optimizer in training.optimizers:
            optimizer.set_rates(training.budget_used, settings.warmup)
            optimizer.step()
            optimizer.zero_grad()
        training.step += 1
        training.target_tokens += target_tokens
        training.tokens += parallel.all_sum(sum(b.source_tokens + b.target_tokens for b in chosen))
        clock = training.add_time(clock)

        report = {}
        validate = training.validations_due > training.validations
        if validate or training.step % settings.log_every == 0:
            report["training"] = training.report(norm)
        if validate:
            scores = validate_on(model, validation, settings)
            training.validations = training.validations_due
            training.keep_if_best(scores)
            clock = training.add_time(clock)
            training.report_seconds = 0.0  # validation is not part of training speed
            report["validation"] = training.progress() | scores
        yield report

    n_batches = len(make_batches(rows, settings.batch_tokens, settings.seed, training.epoch))
    training.epochs = training.epoch + training.position / n_batches
    model.load_state_dict(training.best_weights)
    model.eval()


def _stream(rows: Sequence[Row], training: Training) -> Iterator[Batch]:
    """This process's part of endless batches, from the training's position on."""
    settings, config = training.settings, training.model.config
    while True:
        batches = make_batches(rows, settings.batch_tokens, settings.seed, training.epoch)
        while training.position < len(batches):
            training.position += 1
            chosen = [rows[i] for i in batches[training.position - 1]]
            here = parallel.shard(chosen)
            batch = collate(here or chosen[:1], config.pad_token_id, config.decoder_start_token_id)
            if not here:  # more processes than rows: a batch of padding
                nothing = torch.full_like(batch.target, IGNORE)
                batch = replace(batch, target=nothing, source_tokens=0, target_tokens=0)
            yield batch
        training.epoch, training.position = training.epoch + 1, 0


@torch.no_grad()
def validate_on(model: EncoderDecoder, rows: Sequence[Row], settings: Settings) -> dict[str, float]:
    """Nats per target token and token accuracy over all rows, without dropout. Leaves the model in
    training mode. Raises FloatingPointError: a loss that is not finite."""
    config, device = model.config, model.embedding.weight.device
    model.eval()
    loss = right = count = 0.0
    for indices in parallel.shard(make_batches(rows, 2 * settings.batch_tokens, 0, epoch=0)):
        chosen = [rows[i] for i in indices]
        batch = collate(chosen, config.pad_token_id, config.decoder_start_token_id).to(device)
        with autocast(settings):
            logits = model(batch)
        loss += float(summed_loss(logits, batch.target))
        right += int((logits.argmax(-1) == batch.target).sum())
        count += batch.target_tokens
    loss, right, count = (parallel.all_sum(value) for value in (loss, right, count))
    model.train()
    if not math.isfinite(loss):
        raise FloatingPointError(f"the validation loss is {loss}; a lower --learning-rate may help")
    return {"validation_loss": loss / count, "validation_accuracy": right / count}


class Watcher:
    """Shows a progress bar. ``ases.run.checkpoints`` has one that also writes files."""

    def start(self, training: Training) -> None:
        """Called before training; may load a checkpoint into it."""
        self.bar = tqdm(desc=training.name, total=training.max_steps, unit="update", disable=None)

    def record(self, training: Training, report: dict[str, dict]) -> None:
        """Called after each update with the ``report`` from ``fit``."""
        self.bar.update()
        if "training" in report:
            self.bar.set_postfix(loss=f"{report['training']['loss']:.3f}")
        if training.budget_used >= 1:
            self.bar.close()


# --- devices and random numbers ------------------------------------------------------------------
def usable_device(device: str) -> str:
    """ "cpu" or "cuda", which "auto" takes if there is one. Raises InputError: there is none."""
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and not has_gpu:
        raise InputError("device is 'cuda'; PyTorch finds no GPU here")
    return ("cuda" if has_gpu else "cpu") if device == "auto" else device


@contextmanager
def one_thread_if_small(model: EncoderDecoder) -> Iterator[None]:
    """One thread for a small model on a CPU: several would wait for one another, and on a busy
    machine for other programs. ``OMP_NUM_THREADS`` takes precedence."""
    before, on_cpu = torch.get_num_threads(), model.embedding.weight.device.type == "cpu"
    if on_cpu and model.config.d_model < 128 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def autocast(settings: Settings) -> AbstractContextManager:
    """Matrix products in ``settings.dtype``; weights and sums stay float32."""
    if settings.dtype == "float32":
        return nullcontext()
    return torch.autocast(usable_device(settings.device), torch.bfloat16)


_RANDOM_LOCK = threading.RLock()


@contextmanager
def separate_rng(state: dict[str, Any]) -> Iterator[None]:
    """Use a separate random state inside, and restore the process's own afterwards. ``state`` is
    updated in place and starts as {"seed": n}. Threads take turns."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with _RANDOM_LOCK, torch.random.fork_rng(devices):
        if "seed" in state:
            torch.default_generator.manual_seed(state["seed"])
            if devices:
                torch.cuda.manual_seed(state["seed"])
            del state["seed"]
        else:
            torch.set_rng_state(state["rng"])
            for device, device_state in zip(devices, state["cuda_rng"]):
                torch.cuda.set_rng_state(device_state, device)
        yield
        state["rng"] = torch.get_rng_state()
        state["cuda_rng"] = [torch.cuda.get_rng_state(device) for device in devices]
