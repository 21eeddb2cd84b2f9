"""Training one sub-model. Direct, ESM, ASM and USM differ in their pairs, never in how they train.

``fit`` is the loop. ``Training`` is what it changes, and all that a checkpoint holds: a training
continued from a checkpoint has the losses and weights of an uninterrupted one, on a CPU bit for
bit.
"""

import math
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ases import parallel
from ases.model import EncoderDecoder, token_losses
from ases.optim import learning_rate_at, make_optimizers
from ases.pairs import IGNORE, Batch, Row, collate, make_batches
from ases.settings import Settings


class Training:
    """A model in training, one of ``parts`` that share the budget: its optimizers, counters, and
    best weights so far."""

    def __init__(self, name: str, model: EncoderDecoder, settings: Settings, parts: int = 1):
        self.name, self.settings = name, settings
        self.model = model.to(usable_device(settings.device)).train()
        self.max_steps = settings.max_steps and -(-settings.max_steps // parts)  # rounded up
        self.max_minutes = settings.max_minutes and settings.max_minutes / parts
        self.optimizers = make_optimizers(model, settings)

        self.step = self.epoch = self.validations = 0
        self.epochs = 0.0  # at the end, with the begun one
        self.position = 0  # of the next batch within the epoch
        self.seconds = 0.0
        self.best: dict = {}  # what the best validation found, and its step
        self.best_weights: dict[str, Tensor] = {}
        # Since the last report:
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=settings.device)
        self.target_tokens = self.tokens = 0
        self.report_seconds = 0.0
        # Dropout draws from random numbers of its own, different ones in each process.
        self.seed_randomness()

    def seed_randomness(self) -> None:
        rank = parallel.rank()
        self.random: dict = {"seed": self.settings.seed + (1000 * self.step + rank if rank else 0)}
        with randomness(self.random):
            pass

    @property
    def share(self) -> float:
        """The share of the budget that is used up; from 1 on, training is over."""
        steps = self.step / self.max_steps if self.max_steps else 0.0
        minutes = self.seconds / (60 * self.max_minutes) if self.max_minutes else 0.0
        return max(steps, minutes)

    @property
    def validations_due(self) -> int:
        """How many validations there should be by now."""
        n = self.settings.validations
        return min(n, int(n * self.share + 1e-9))  # 49/50 of 50 is 49, whatever floats say

    def add_time(self, since: float) -> float:
        """Count the seconds since the clock showed ``since``; returns what it shows now."""
        now = time.perf_counter()
        self.seconds = parallel.first(self.seconds + now - since)
        self.report_seconds += now - since
        return now

    def place(self) -> dict:
        return {"step": self.step, "epoch": self.epoch, "seconds": round(self.seconds, 2)}

    def report(self, gradient_norm: Tensor) -> dict:
        """The updates since the last report. Here the GPU is waited for."""
        rate = self.optimizers[-1].param_groups[0]["lr"]
        loss, norm = float(self.loss_sum) / self.target_tokens, float(gradient_norm)
        for name, value in (("loss", loss), ("norm of the gradients", norm)):
            if not math.isfinite(value):
                told = f"the {name} is {value} by step {self.step}, at a rate of {rate:.2g}"
                raise FloatingPointError(f"{told}; a lower --learning-rate may help")
        speed = round(self.tokens / max(self.report_seconds, 1e-9))
        self.loss_sum.zero_()
        self.target_tokens, self.tokens, self.report_seconds = 0, 0, 0.0
        own = {"tokens_per_second": speed, "learning_rate": rate, "gradient_norm": norm}
        return self.place() | {"loss": loss} | own

    def keep_if_best(self, found: dict) -> None:
        """Keep the weights if they got more validation tokens right than any before; of equals,
        those with the lower loss.

        Where data is scarce, the loss may rise while ever more tokens are right: the model gets
        surer of those it gets wrong. Greedy decoding does not care [ours].
        """

        def rank(found: dict) -> tuple[float, float]:
            return found["validation_accuracy"], -found["validation_loss"]

        if not self.best or rank(found) > rank(self.best):
            self.best = {"best_step": self.step} | found
            weights = self.model.state_dict().items()
            self.best_weights = {name: tensor.detach().clone() for name, tensor in weights}

    def summary(self) -> dict:
        """How long it took, and what ``best`` holds."""
        seconds = round(self.seconds, 1)
        return {"steps": self.step, "epochs": self.epochs, "seconds": seconds} | self.best

    # --- checkpoints

    _COUNTERS = "step epoch position seconds validations best".split()
    _COUNTERS += "target_tokens tokens report_seconds".split()

    def state_dict(self) -> dict:
        """Tensors and plain values; with the best weights, all it takes to continue."""
        return {
            "config": asdict(self.model.config),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": {name: getattr(self, name) for name in self._COUNTERS},
            "loss_sum": self.loss_sum,
        } | self.random

    def load_state_dict(self, state: dict, best_weights: dict[str, Tensor]) -> None:
        """Continue from what ``state_dict`` returned. Errors of many kinds tell of a wrong one."""
        if state["config"] != asdict(self.model.config):
            raise ValueError("it was trained with other model settings")
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for name in self._COUNTERS:
            setattr(self, name, state["progress"][name])
        self.loss_sum.copy_(state["loss_sum"])
        # The budget may have grown since.
        self.validations = min(self.validations, self.validations_due)
        self.best_weights = best_weights
        self.random = {name: state[name] for name in ("rng", "cuda_rng")}
        with randomness(self.random):  # check them
            pass


def check_rows(name: str, rows: Sequence[Row], validation: Sequence[Row]) -> None:
    """Raise if a sub-model has nothing to learn from."""
    if not rows or not validation:
        told = f"{name}: {len(rows)} training and {len(validation)} validation rows"
        raise ValueError(f"{told}; expected some of each: try another --beta or --segmentation")


def fit(training: Training, rows: Sequence[Row], validation: Sequence[Row]) -> Iterator[dict]:
    """Train until the budget is used up, and leave the best weights in the model.

    The loss of an update is the sum of its token losses over the number of its target tokens,
    across batches and processes: accumulating gives what one large batch would.

    Yields after each update what there is to report: {"training": …, "validation": …}, or nothing.
    Raises ValueError: no rows; FloatingPointError: a loss that is not finite.
    """
    settings, model = training.settings, training.model
    check_rows(training.name, rows, validation)
    parallel.check_alike(training.name, rows)
    loss_of = parallel.loss_function(model)
    if parallel.rank():
        training.seed_randomness()
    batches = _stream(rows, training)

    clock = time.perf_counter()
    while training.share < 1:
        chosen = [next(batches) for _ in range(settings.accumulate)]
        target_tokens = parallel.total(sum(batch.target_tokens for batch in chosen))
        for batch in chosen:
            # Only dropout needs random numbers.
            own = randomness(training.random) if model.config.dropout_rate else nullcontext()
            with own, autocast(settings):
                loss = loss_of(batch.to(settings.device))
            (loss * parallel.count() / target_tokens).backward()  # DDP takes the mean
            training.loss_sum += parallel.total(loss.detach())
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)

        share = training.share
        for optimizer in training.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(share, group["peak"], settings.warmup)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        training.step += 1
        training.target_tokens += target_tokens
        training.tokens += parallel.total(sum(b.source_tokens + b.target_tokens for b in chosen))
        clock = training.add_time(clock)

        report = {}
        validate = training.validations_due > training.validations
        if validate or training.step % settings.log_every == 0:
            report["training"] = training.report(norm)
        if validate:
            found = validate_on(model, validation, settings)
            training.validations = training.validations_due
            training.keep_if_best(found)
            clock = training.add_time(clock)
            training.report_seconds = 0.0  # it says nothing of the speed of updates
            report["validation"] = training.place() | found
        yield report

    n_batches = len(make_batches(rows, settings.batch_tokens, settings.seed, training.epoch))
    training.epochs = training.epoch + training.position / n_batches
    model.load_state_dict(training.best_weights)
    model.eval()


def _stream(rows: Sequence[Row], training: Training) -> Iterator[Batch]:
    """This process's part of batches without end, from where the training stands."""
    settings, config = training.settings, training.model.config
    while True:
        batches = make_batches(rows, settings.batch_tokens, settings.seed, training.epoch)
        while training.position < len(batches):
            training.position += 1
            chosen = [rows[i] for i in batches[training.position - 1]]
            own = parallel.own_part(chosen)
            batch = collate(own or chosen[:1], config.pad_token_id, config.decoder_start_token_id)
            if not own:  # more processes than rows: nothing to learn from
                nothing = torch.full_like(batch.target, IGNORE)
                batch = replace(batch, target=nothing, source_tokens=0, target_tokens=0)
            yield batch
        training.epoch, training.position = training.epoch + 1, 0


@torch.no_grad()
def validate_on(model: EncoderDecoder, rows: Sequence[Row], settings: Settings) -> dict[str, float]:
    """Nats per target token, and the share of target tokens that are the likeliest, over all rows,
    without dropout; leaves the model in training mode."""
    config, device = model.config, settings.device
    model.eval()
    loss, right, count = 0.0, 0, 0
    for indices in parallel.own_part(make_batches(rows, 2 * settings.batch_tokens, 0, epoch=0)):
        chosen = [rows[i] for i in indices]
        batch = collate(chosen, config.pad_token_id, config.decoder_start_token_id).to(device)
        with autocast(settings):
            logits = model(batch)
        loss += float(token_losses(logits, batch.target))
        right += int((logits.argmax(-1) == batch.target).sum())
        count += batch.target_tokens
    loss, right, count = parallel.total(loss), parallel.total(right), parallel.total(count)
    model.train()
    if not math.isfinite(loss):
        raise FloatingPointError(f"the validation loss is {loss}; a lower --learning-rate may help")
    return {"validation_loss": loss / count, "validation_accuracy": right / count}


class Watcher:
    """Watches trainings: shows a bar. ``ases.run.checkpoints`` has one that also writes files."""

    def start(self, training: Training) -> None:
        """A training begins. A watcher may load a checkpoint into it."""
        self.bar = tqdm(desc=training.name, total=training.max_steps, unit="update", disable=None)

    def record(self, training: Training, report: dict[str, dict]) -> None:
        """An update is done; ``report`` is what ``fit`` yields."""
        self.bar.update()
        if "training" in report:
            self.bar.set_postfix(loss=f"{report['training']['loss']:.3f}")
        if training.share >= 1:
            self.bar.close()


# --- devices and random numbers ------------------------------------------------------------------
def usable_device(device: str) -> torch.device:
    """Raise a ValueError if there is no such device."""
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device is {device!r}; expected cpu or cuda") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}; PyTorch finds no GPU here")
    return found


def autocast(settings: Settings) -> AbstractContextManager:
    """Multiplies matrices in ``settings.dtype``; weights and sums stay float32."""
    if settings.dtype == "float32":
        return nullcontext()
    return torch.autocast(torch.device(settings.device).type, torch.bfloat16)


_ALONE = threading.RLock()


@contextmanager
def randomness(state: dict[str, Any]) -> Iterator[None]:
    """Random numbers of one's own: inside, they replace the process's, which come back afterwards.
    ``state``: where they stand; {"seed": n} is a beginning. Threads wait for one another."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_initialized() else []
    with _ALONE, torch.random.fork_rng(devices):
        if "seed" in state:
            torch.default_generator.manual_seed(state["seed"])
            if devices:
                torch.cuda.manual_seed(state["seed"])
            del state["seed"]
        else:
            torch.set_rng_state(state["rng"])
            for device, own in zip(devices, state["cuda_rng"]):
                torch.cuda.set_rng_state(own, device)
        yield
        state["rng"] = torch.get_rng_state()
        state["cuda_rng"] = [torch.cuda.get_rng_state(device) for device in devices]
