"""Training one sub-model: direct, ESM, ASM and USM differ in their pairs, never in how they are trained (METHOD 3).

``fit`` is the loop, and the update stands in one place in it. It can be stopped anywhere and resumed from its last
checkpoint: on a CPU the resumed run's losses and weights are those of an uninterrupted one, bit for bit.
"""

import json
import math
import os
import random
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from ases.data import InputError
from ases.model import EncoderDecoder, ModelConfig
from ases.pairs import IGNORE, Pair, collate, make_batches


@dataclass(frozen=True)
class TrainingOptions:
    """How one sub-model is trained.

    The budget is ``max_steps`` updates or ``max_minutes`` of wall time, validation included, whichever is used up
    first; only a budget of steps alone gives the same result twice. An update sees ``accumulate`` batches of at
    most ``batch_tokens`` padded tokens each, source and target together, so a step costs about the same whatever
    is trained.
    """

    max_steps: int | None = None
    max_minutes: float | None = None
    batch_tokens: int = 2048
    accumulate: int = 1
    learning_rate: float = 3e-3
    warmup: float = 0.05  # share of the budget
    weight_decay: float = 0.01
    clip: float = 1.0  # largest norm of all gradients together
    validations: int = 10  # how often to validate and to save, spread evenly over the budget
    log_every: int = 50  # steps
    seed: int = 0
    dtype: str = "float32"  # or "bfloat16"; never float16, which T5's feed-forward overflows
    device: str = "cpu"


def learning_rate_at(progress: float, peak: float, warmup: float) -> float:
    """Linear warm-up to ``peak``, then a cosine down to zero; ``progress`` is the share of the budget used, 0 to 1."""
    if progress < warmup:
        return peak * progress / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (min(progress, 1.0) - warmup) / (1 - warmup)))


def fit(
    model: EncoderDecoder,
    name: str,
    pairs: Sequence[Pair],
    validation: Sequence[Pair],
    options: TrainingOptions,
    folder: Path,
    resume: bool = False,
    quiet: bool = False,
) -> dict:
    """Train ``model`` in place and leave its best weights in it.

    Writes to ``folder``: lines of ``metrics.jsonl`` with ``model`` = ``name``, ``<name>.best.pt`` (lowest
    validation loss) and ``<name>.last.pt`` (all that resuming needs). With ``resume``, a last checkpoint that is
    there is continued, or, if it had ended, only loaded.

    Returns:
        {"steps", "epochs", "seconds", "validation_loss", "best_step"}; losses are nats per target token.
    Raises:
        InputError: no pairs; a loss that is not finite; a checkpoint that does not fit the model.
    """
    if not pairs or not validation:
        raise InputError(f"{name}: {len(pairs)} training and {len(validation)} validation pairs; expected at least one of each")
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    model.to(device).train()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() == 1]
    groups = [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), fused=True)

    state = {"step": 0, "epoch": 0, "position": 0, "seconds": 0.0, "validations": 0, "best_loss": math.inf, "best_step": 0}
    window = {"loss_sum": 0.0, "target_tokens": 0, "tokens": 0, "seconds": 0.0}  # since the last line of the log
    last, best, log = folder / f"{name}.last.pt", folder / f"{name}.best.pt", folder / "metrics.jsonl"
    if resume and last.exists():
        checkpoint = load_checkpoint(last)
        _restore(checkpoint, model, optimizer, last)
        state, window = checkpoint["state"], checkpoint["window"]
    _drop_lines(log, name, after=state["step"])

    def progress() -> float:
        shares = [state["step"] / options.max_steps] if options.max_steps else []
        shares += [state["seconds"] / (60 * options.max_minutes)] if options.max_minutes else []
        return max(shares)

    autocast = torch.autocast(device.type, torch.bfloat16) if options.dtype == "bfloat16" else nullcontext()
    bar = tqdm(total=options.max_steps, initial=state["step"], desc=name, unit="step", disable=quiet or None)
    batches = make_batches(pairs, options.batch_tokens, options.seed, state["epoch"])
    clock = time.perf_counter()
    while progress() < 1:
        micro_batches = []
        while len(micro_batches) < options.accumulate:
            if state["position"] == len(batches):
                state["epoch"], state["position"] = state["epoch"] + 1, 0
                batches = make_batches(pairs, options.batch_tokens, options.seed, state["epoch"])
            micro_batches.append(collate([pairs[i] for i in batches[state["position"]]], model.config.pad_token_id))
            state["position"] += 1

        # One update: the sum of token losses over the number of target tokens, across all micro-batches.
        target_tokens = sum(int((b.target != IGNORE).sum()) for b in micro_batches)
        loss_sum = torch.zeros((), device=device)
        for batch in micro_batches:
            b = batch.to(device)
            with autocast:
                loss = model.loss_sum(b.source, b.source_lengths, b.target)
            (loss / target_tokens).backward()
            loss_sum += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), options.clip)
        rate = learning_rate_at(progress(), options.learning_rate, options.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        state["step"] += 1

        if not math.isfinite(loss_sum := float(loss_sum)):
            raise InputError(f"{name}: the loss is {loss_sum} at step {state['step']}; expected a finite one: try a lower --learning-rate")
        seconds, clock = time.perf_counter() - clock, time.perf_counter()
        state["seconds"] += seconds
        step_tokens = sum(b.tokens for b in micro_batches)
        for key, value in (("loss_sum", loss_sum), ("target_tokens", target_tokens), ("tokens", step_tokens), ("seconds", seconds)):
            window[key] += value
        bar.update()

        due = progress() >= (state["validations"] + 1) / options.validations or progress() >= 1
        if due or state["step"] % options.log_every == 0:
            speed = window["tokens"] / window["seconds"]
            mean_loss = window["loss_sum"] / window["target_tokens"]
            bar.set_postfix_str(f"loss {mean_loss:.3f}, {speed:,.0f} tokens/s")
            _append(log, {"model": name, "step": state["step"], "epoch": state["epoch"], "loss": mean_loss, "learning_rate": rate, "gradient_norm": float(norm),
                          "tokens_per_second": round(speed), "seconds": round(state["seconds"], 2)})
            window = dict.fromkeys(window, 0) | {"loss_sum": 0.0}
        if due:
            value = validation_loss(model, validation, options)
            state["validations"] = min(int(progress() * options.validations), options.validations)
            if value < state["best_loss"]:
                state["best_loss"], state["best_step"] = value, state["step"]
                save_checkpoint(best, {"name": name, "config": asdict(model.config), "model": model.state_dict(), "step": state["step"], "validation_loss": value})
            state["seconds"], clock = state["seconds"] + time.perf_counter() - clock, time.perf_counter()
            _append(log, {"model": name, "step": state["step"], "epoch": state["epoch"], "validation_loss": value, "seconds": round(state["seconds"], 2)})
            save_checkpoint(last, _snapshot(name, model, optimizer, state, window))
    bar.close()
    model.load_state_dict(load_checkpoint(best)["model"])
    model.eval()
    return {"steps": state["step"], "epochs": state["epoch"] + state["position"] / len(batches), "seconds": round(state["seconds"], 1),
            "validation_loss": state["best_loss"], "best_step": state["best_step"]}


@torch.no_grad()
def validation_loss(model: EncoderDecoder, pairs: Sequence[Pair], options: TrainingOptions) -> float:
    """Nats per target token over all pairs, dropout off; the model is back in training mode afterwards."""
    model.eval()
    total, count = 0.0, 0
    for indices in make_batches(pairs, 2 * options.batch_tokens, seed=0, epoch=0):
        batch = collate([pairs[i] for i in indices], model.config.pad_token_id).to(options.device)
        with torch.autocast(torch.device(options.device).type, torch.bfloat16) if options.dtype == "bfloat16" else nullcontext():
            total += float(model.loss_sum(batch.source, batch.source_lengths, batch.target))
        count += int((batch.target != IGNORE).sum())
    model.train()
    return total / count


# --- checkpoints ---------------------------------------------------------------------------------------------


def save_checkpoint(path: Path, content: dict) -> None:
    """Write tensors and plain values so that no moment sees half a file: temporary file, fsync, rename."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "wb") as file:
        torch.save(content, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def load_checkpoint(path: Path) -> dict:
    """Read what ``save_checkpoint`` wrote; nothing in the file is executed.

    Raises:
        InputError: the file is missing, damaged, or not a checkpoint of this project.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a checkpoint") from None
    except Exception as error:  # torch raises many kinds for a damaged or foreign file
        raise InputError(f"{path}: not a readable checkpoint ({type(error).__name__}); expected one that train.py wrote") from None
    if not isinstance(content, dict) or not {"config", "model", "name"} <= content.keys():
        raise InputError(f"{path}: no model and config in it; expected a checkpoint that train.py wrote")
    return content


def load_model(path: Path, device: str = "cpu") -> EncoderDecoder:
    """The model of a checkpoint, built from the config inside it, ready for inference.

    Raises:
        InputError: as ``load_checkpoint``; weights that do not fit the config.
    """
    checkpoint = load_checkpoint(path)
    try:
        model = EncoderDecoder(ModelConfig(**checkpoint["config"]))
        model.load_state_dict(checkpoint["model"])
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: config and weights do not fit ({' '.join(str(error).split())[:200]})") from None
    return model.to(device).eval()


def _snapshot(name: str, model: EncoderDecoder, optimizer: torch.optim.Optimizer, state: dict, window: dict) -> dict:
    version, internal, gauss = random.getstate()
    return {
        "name": name, "config": asdict(model.config), "model": model.state_dict(), "optimizer": optimizer.state_dict(), "state": dict(state), "window": dict(window),
        "rng": {"torch": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [], "python": [version, list(internal), gauss]},
    }


def _restore(checkpoint: dict, model: EncoderDecoder, optimizer: torch.optim.Optimizer, path: Path) -> None:
    try:
        if checkpoint["config"] != asdict(model.config):
            raise ValueError("it was trained with other model settings")
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        rng = checkpoint["rng"]
        torch.set_rng_state(rng["torch"])
        if torch.cuda.is_available():
            torch.cuda.set_rng_state_all(rng["cuda"])
        version, internal, gauss = rng["python"]
        random.setstate((version, tuple(internal), gauss))
    except (KeyError, ValueError, RuntimeError) as error:
        raise InputError(f"{path}: cannot be resumed ({' '.join(str(error).split())[:200]})") from None


def _append(log: Path, line: dict) -> None:
    with open(log, "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def _drop_lines(log: Path, name: str, after: int) -> None:
    """Take back the lines of ``name`` that a resumed run is about to write again."""
    if not log.exists():
        return
    kept = []
    for number, line in enumerate(lines := log.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        try:
            row = json.loads(line)
            if row["model"] != name or row["step"] <= after:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            if number < len(lines):  # the last line may be torn where the machine stopped
                raise InputError(f"{log}:{number}: not a line of the log; expected a JSON object with model and step") from None
    temporary = log.with_name(log.name + ".tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    os.replace(temporary, log)
