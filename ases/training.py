"""Training one sub-model: direct, ESM, ASM and USM differ in their pairs, never in how they are
trained.

``fit`` is the loop. One update stands in ``Training.update``: forward, loss over tokens, backward,
clip, step. What there is to know about a training is in two objects: ``Progress`` (how far it has
come) and ``Training`` (with the model and the optimizers, all that a checkpoint holds). The loop
prints and writes nothing; it tells a ``Watcher``. It can be stopped anywhere and continued from its
last checkpoint: on a CPU the losses and weights are then those of an uninterrupted run, bit for
bit.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from ases import parallel
from ases.config import ModelConfig, TrainingSettings
from ases.model import EncoderDecoder, token_losses
from ases.muon import Muon
from ases.pairs import Batch, Row, collate, make_batches, without_targets


@dataclass
class Progress:
    """How far a training has come; tokens and ``since_report`` count from the last report."""

    step: int = 0
    epoch: int = 0
    position: int = 0  # of the next batch within the epoch
    seconds: float = 0.0
    validations: int = 0
    best: dict = field(default_factory=dict)  # what the best validation found, and its "best_step"
    target_tokens: int = 0
    tokens: int = 0
    since_report: float = 0.0  # seconds

    def share(self, settings: TrainingSettings) -> float:
        """The share of the budget that is used up; 1 or more means the end."""
        steps = self.step / settings.max_steps if settings.max_steps else 0.0
        minutes = self.seconds / (60 * settings.max_minutes) if settings.max_minutes else 0.0
        return max(steps, minutes)

    def validations_due(self, settings: TrainingSettings) -> int:
        """How many validations there should be by now; whole numbers, so that none comes twice."""
        n = settings.validations
        if self.share(settings) >= 1:
            return n
        by_steps = n * self.step // settings.max_steps if settings.max_steps else 0
        by_minutes = (
            int(n * self.seconds / (60 * settings.max_minutes)) if settings.max_minutes else 0
        )
        return max(by_steps, by_minutes)

    def add_time(self, since: float) -> float:
        """Count the time since the clock showed ``since``; returns what it shows now."""
        now = time.perf_counter()
        self.seconds = parallel.first(self.seconds + now - since)
        self.since_report += now - since
        return now

    def row(self) -> dict:
        """How far: step, epoch, seconds."""
        return {"step": self.step, "epoch": self.epoch, "seconds": round(self.seconds, 2)}


class Watcher:
    """What ``fit`` tells while it trains. This one does not listen.

    ``ases.run.checkpoints.Recorder`` writes files and shows a bar.
    """

    def planned(self, recipe: Any) -> None:
        """The data is cut and labelled; ``recipe`` now has limits for decoding, too."""

    def start(self, name: str, training: "Training") -> None:
        """Training ``name`` begins; a watcher with a checkpoint of it may load it into ``training``
        here."""

    def step(self, training: "Training") -> None:
        """An update is done, and what was due after it; here a watcher may save and raise."""

    def report(self, name: str, row: dict) -> None:
        """A row of numbers; "loss" and "validation_loss" are nats per target token."""

    def checkpoint(self, name: str, training: "Training", improved: bool) -> None:
        """A validation is done; ``improved`` says that its accuracy is the highest so far."""

    def end(self, name: str, training: "Training") -> None:
        """The budget is used up."""


def learning_rate_at(share: float, peak: float, warmup: float) -> float:
    """Linear warm-up to ``peak``, then a cosine down to zero; ``share`` of the budget runs from 0
    to 1.

    The rate begins at a hundredth of the peak, so that the first update counts.
    """
    if share < warmup:
        return peak * max(share / warmup, 0.01)
    return peak * 0.5 * (1 + math.cos(math.pi * (min(share, 1.0) - warmup) / (1 - warmup)))


def make_optimizers(
    model: EncoderDecoder, settings: TrainingSettings
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside blocks, and AdamW for embeddings, head, bias tables and norms.

    What is no map between states, as a table of embeddings, has no use for orthogonal updates
    [ours].
    """
    muon, adamw, vectors = [], [], []
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            vectors.append(parameter)
        elif settings.optimizer == "muon" and name.split(".")[0] in ("encoder", "decoder"):
            muon.append(parameter)
        else:
            adamw.append(parameter)

    # Beside muon, what is left for adamw is mostly embeddings: they bear a higher rate.
    rate = settings.learning_rate or (0.03 if settings.optimizer == "muon" else 3e-3)
    decay = settings.weight_decay
    groups = [
        {"params": adamw, "weight_decay": decay, "peak": rate},
        {"params": vectors, "weight_decay": 0.0, "peak": rate},
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if muon:
        group = {"params": muon, "peak": settings.muon_learning_rate}
        optimizers.append(Muon([group], momentum=settings.momentum, weight_decay=decay))
    optimizers.append(torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), fused=True))
    return optimizers


def autocast(settings: TrainingSettings) -> AbstractContextManager:
    """Whether matrices are multiplied in ``settings.dtype``; weights and sums stay float32."""
    if settings.dtype == "float32":
        return nullcontext()
    return torch.autocast(torch.device(settings.device).type, torch.bfloat16)


def usable_device(device: str) -> torch.device:
    """
    Raises:
        ValueError: there is no such device.
    """
    try:
        found = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device is {device!r}; expected cpu or cuda") from None
    if found.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device is {device!r}; PyTorch finds no GPU here")
    return found


_ALONE = threading.RLock()


@contextmanager
def randomness(state: dict) -> Iterator[None]:
    """Random numbers of one training's own: inside, they take the place of the process's, which
    come back afterwards. Trainings in several threads wait for one another.

    Args:
        state: where they stand, and where they will; {"seed": n} is a beginning.
    """
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


class Training:
    """A model in training with its optimizers: all that a checkpoint holds."""

    def __init__(self, model: EncoderDecoder, settings: TrainingSettings):
        self.model = model.to(usable_device(settings.device)).train()
        self._begin_randomly(settings.seed)
        self.settings = settings
        self.progress = Progress()
        self.best_weights: dict[str, torch.Tensor] = {}

        self.optimizers = make_optimizers(model, settings)
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=settings.device)
        self.gradient_norm = self.loss_sum
        self.loss: Callable[[Batch], torch.Tensor] = model.loss_sum

    def _begin_randomly(self, seed: int) -> None:
        self.random = {"seed": seed}
        with randomness(self.random):
            pass

    def share_with_others(self) -> None:
        """Make the gradients those of all processes, where there are several."""
        self.loss = parallel.loss_function(self.model)
        if parallel.rank():  # dropout may not drop the same in all
            self._begin_randomly(self.settings.seed + 1000 * self.progress.step + parallel.rank())

    def update(self, batches: Sequence[Batch]) -> None:
        """One update from all of ``batches``.

        The loss is the sum of token losses over the number of target tokens, across all batches, so
        accumulating gives what one large batch would, and so do several processes with their parts
        of it. No number is asked back from a GPU.
        """
        settings, model, progress = self.settings, self.model, self.progress
        target_tokens = parallel.total(sum(batch.target_tokens for batch in batches))

        for batch in batches:
            batch = batch.to(settings.device)
            drops = model.config.dropout_rate  # only dropout needs random numbers
            with randomness(self.random) if drops else nullcontext(), autocast(settings):
                loss = self.loss(batch)
            (loss * parallel.count() / target_tokens).backward()  # DDP takes the mean
            self.loss_sum += parallel.total(loss.detach())

        self.gradient_norm = torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        share = progress.share(settings)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate_at(share, group["peak"], settings.warmup)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        progress.step += 1
        progress.target_tokens += target_tokens
        progress.tokens += parallel.total(sum(batch.tokens for batch in batches))

    def report(self) -> dict:
        """What there is to say of the updates since the last report; here a GPU is waited for.

        Raises:
            FloatingPointError: the loss or the gradients are not finite.
        """
        progress = self.progress
        loss = float(self.loss_sum) / progress.target_tokens
        norm = float(self.gradient_norm)
        for name, value in (("loss", loss), ("norm of the gradients", norm)):
            if not math.isfinite(value):
                rate = self.optimizers[-1].param_groups[0]["lr"]
                raise FloatingPointError(
                    f"the {name} is {value} by step {progress.step}, at a rate of {rate:.2g}; "
                    "expected a number, as a lower learning rate may give"
                )
        row = progress.row() | {
            "loss": loss,
            "tokens_per_second": round(progress.tokens / max(progress.since_report, 1e-9)),
            "learning_rate": self.optimizers[-1].param_groups[0]["lr"],
            "gradient_norm": norm,
        }
        self.loss_sum.zero_()
        progress.target_tokens, progress.tokens, progress.since_report = 0, 0, 0.0
        return row

    def keep_if_best(self, found: dict) -> bool:
        """Keep the weights if their validation accuracy is the highest so far; says whether.

        Where data is scarce, the loss of a model that gets ever more tokens right may rise all the
        same, for it is surer of those it gets wrong; greedy decoding does not care [ours].
        """
        progress = self.progress
        best = progress.best
        if best and _rank(found) <= _rank(best):
            return False
        progress.best = {"best_step": progress.step} | found
        self.best_weights = {
            name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()
        }
        return True

    def state_dict(self) -> dict:
        """Tensors and plain values: with the best weights, all that going on bit for bit needs."""
        return {
            "config": asdict(self.model.config),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "progress": asdict(self.progress),
            "loss_sum": self.loss_sum,
        } | self.random

    def load_state_dict(self, state: dict, best_weights: dict[str, torch.Tensor]) -> None:
        """Continue from what ``state_dict`` returned (and the best weights, by name).

        Raises:
            ValueError: it belongs to a model of other settings, or parts are missing.
        """
        try:
            if state["config"] != asdict(self.model.config):
                raise ValueError("it was trained with other model settings")
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.progress = Progress(**state["progress"])
            self.loss_sum.copy_(state["loss_sum"])
            # In a larger budget, what has been done is less.
            due = self.progress.validations_due(self.settings)
            self.progress.validations = min(self.progress.validations, due)
            self.best_weights = best_weights
            self.random = {name: state[name] for name in ("rng", "cuda_rng")}
            with randomness(self.random):  # they must be such states
                pass
        except (AttributeError, LookupError, TypeError, RuntimeError) as error:
            raise ValueError(" ".join(str(error).split())[:200]) from None


def _rank(found: dict) -> tuple[float, float]:
    """Accuracy first; between equals, the loss."""
    return found["validation_accuracy"], -found["validation_loss"]


def fit(
    name: str,
    model: EncoderDecoder,
    rows: Sequence[Row],
    validation: Sequence[Row],
    settings: TrainingSettings,
    watcher: Watcher | None = None,
) -> dict:
    """Train ``model`` in place and leave in it the weights that got most validation tokens right.

    Returns:
        {"steps", "epochs", "seconds", "best_step", "validation_loss", "validation_accuracy"}; the
        last two are what ``validate_on`` found at the best step.
    Raises:
        ValueError: no rows, or no budget.
        FloatingPointError: a loss that is not finite.
    """
    if not rows or not validation:
        raise ValueError(
            f"{name}: {len(rows)} training and {len(validation)} validation rows; "
            "expected some of each"
        )
    if not settings.max_steps and not settings.max_minutes:
        raise ValueError("neither max_steps nor max_minutes is set; expected a budget")
    watcher = watcher or Watcher()
    training = Training(model, settings)
    parallel.check_alike(name, rows)
    watcher.start(name, training)
    training.share_with_others()
    progress = training.progress
    batches = _stream(rows, settings, progress, model.config)

    clock = time.perf_counter()
    while progress.share(settings) < 1:
        training.update([next(batches) for _ in range(settings.accumulate)])
        clock = progress.add_time(clock)

        validate = progress.validations_due(settings) > progress.validations
        if validate or progress.step % settings.log_every == 0:
            watcher.report(name, training.report())
        if validate:
            found = validate_on(model, validation, settings)
            progress.validations = progress.validations_due(settings)
            improved = training.keep_if_best(found)
            clock = progress.add_time(clock)
            progress.since_report = 0.0  # validating says nothing of the speed of training
            watcher.report(name, progress.row() | found)
            watcher.checkpoint(name, training, improved)
        watcher.step(training)

    watcher.end(name, training)
    model.load_state_dict(training.best_weights)
    model.eval()
    n_batches = len(make_batches(rows, settings.batch_tokens, settings.seed, progress.epoch))
    return {
        "steps": progress.step,
        "epochs": progress.epoch + progress.position / n_batches,
        "seconds": round(progress.seconds, 1),
    } | progress.best


def _stream(
    rows: Sequence[Row], settings: TrainingSettings, progress: Progress, config: ModelConfig
) -> Iterator[Batch]:
    """This process's part of batches without end, from where ``progress`` says, moving it along."""
    while True:
        batches = make_batches(rows, settings.batch_tokens, settings.seed, progress.epoch)
        while progress.position < len(batches):
            progress.position += 1
            chosen = [rows[i] for i in batches[progress.position - 1]]
            own = parallel.own_part(chosen)
            batch = collate(own or chosen[:1], config.pad_token_id, config.decoder_start_token_id)
            yield batch if own else without_targets(batch)
        progress.epoch, progress.position = progress.epoch + 1, 0


@torch.no_grad()
def validate_on(
    model: EncoderDecoder, rows: Sequence[Row], settings: TrainingSettings
) -> dict[str, float]:
    """Loss and accuracy over all rows, without dropout; leaves the model in training mode.

    Returns:
        "validation_loss" in nats per target token, and "validation_accuracy", the share of target
        tokens that were the likeliest ones.
    Raises:
        FloatingPointError: the loss is not finite.
    """
    config = model.config
    model.eval()
    loss, right, count = 0.0, 0, 0
    for indices in parallel.own_part(make_batches(rows, 2 * settings.batch_tokens, 0, epoch=0)):
        chosen = [rows[i] for i in indices]
        batch = collate(chosen, config.pad_token_id, config.decoder_start_token_id)
        batch = batch.to(settings.device)
        with autocast(settings):
            logits = model.logits(batch)
        loss += float(token_losses(logits, batch.target))
        right += int((logits.argmax(-1) == batch.target).sum())
        count += batch.target_tokens
    loss, right, count = parallel.total(loss), parallel.total(right), parallel.total(count)
    model.train()
    if not math.isfinite(loss):
        raise FloatingPointError(f"the validation loss is {loss}; expected a number")
    return {"validation_loss": loss / count, "validation_accuracy": right / count}
