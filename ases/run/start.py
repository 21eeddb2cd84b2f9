"""From the flags of train.py to everything that ``ases.recipe.train`` wants."""

import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ases import parallel
from ases.config import SIZES, SegmentationSettings, TrainingSettings
from ases.data import InputError
from ases.model import EncoderDecoder
from ases.pretrained import load_t5
from ases.recipe import Scorer, Splits, check_lengths, training_texts
from ases.run.checkpoints import load_checkpoint, load_model, weights_digest
from ases.run.command import Flags, choose_device
from ases.run.config import DataSettings, RunConfig
from ases.run.files import write_text
from ases.run.flags import TrainOptions
from ases.run.folder import (
    check_vocabulary,
    data_digest,
    load_scorer,
    load_splits,
    lock_folder,
    own_splits,
    prepare_folder,
    scorer_note,
)
from ases.run.interrupt import Lock
from ases.run.progress import tell
from ases.tokenizer import Tokenizer, lost_characters


@dataclass
class Start:
    """A run that is ready to train."""

    config: RunConfig
    folder: Path
    lock: Lock | None  # of the folder; None in a process that does not write
    splits: Splits
    tokenizer: Tokenizer
    resumed: bool
    scorer: Scorer | None = None
    initial: Callable[[], EncoderDecoder] | None = None


def start(flags: Flags, say: Callable[[str], None] = tell) -> Start:
    """Read the data and make the run's folder, or open the folder of a run to resume."""
    options = flags.of(TrainOptions)
    device = choose_device(options.device)
    if options.resume is not None:
        return _resume(Path(options.resume), flags.given, device, say)

    config, folder = _new_run(flags, options, device)
    splits, description = load_splits(config.data)
    say(description)
    config = replace(config, data_digest=data_digest(splits), run_id=secrets.token_hex(8))
    scorer = _scorer(config, device, say)
    if scorer:
        config = replace(config, scorer_digest=weights_digest(scorer.model.state_dict()))
    tokenizer = _new_tokenizer(config, splits, say)
    if config.init is None:
        config = replace(config, characters="".join(sorted(set("".join(training_texts(splits))))))
    try:  # now, for an older run may be overwritten next
        check_lengths(splits, tokenizer, config.max_chain)
    except ValueError as error:
        raise InputError(str(error)) from None
    lock = None
    if parallel.rank() == 0:
        inputs = [path for path in (config.data.data, config.scorer, config.init) if path]
        lock = prepare_folder(folder, options.overwrite, inputs)
        config.save(folder)  # first, for what has it can be resumed or overwritten
        write_text(folder / "tokenizer.json", tokenizer.text())
    return Start(config, folder, lock, splits, tokenizer, False, scorer, _initial_model(config))


def _resume(folder: Path, given: dict[str, Any], device: str, say: Callable[[str], None]) -> Start:
    """A run as its config.json has it; the data may have moved, the budget may grow."""
    config = RunConfig.load(folder)
    lock = lock_folder(folder) if parallel.rank() == 0 else None
    for path in sorted(folder.glob("*.pt")):  # now, and not when the first model is trained
        load_checkpoint(path, config.run_id)
    if "data" in given:
        config = replace(config, data=replace(config.data, data=_absolute(given["data"])))
    splits, description = own_splits(folder, config)
    say(description)

    longer = {name: given[name] for name in ("max_steps", "max_minutes") if name in given}
    for name, value in longer.items():
        had = getattr(config.training, name)
        if had is None or value < had:
            wanted = "none, for the run has no such limit" if had is None else f"at least its {had}"
            told = f"--{name.replace('_', '-')} is {value} with --resume; expected {wanted}"
            raise InputError(told)
    config = replace(config, training=replace(config.training, device=device, **longer))

    if (folder / "tokenizer.json").exists():
        path = folder / "tokenizer.json"
        tokenizer = Tokenizer.load(path)
        embeddings = config.model.get("vocab_size", tokenizer.vocab_size)
        check_vocabulary(folder, embeddings, path, tokenizer)
    else:  # stopped at its very beginning
        tokenizer = _new_tokenizer(config, splits, say)
        if lock:
            write_text(folder / "tokenizer.json", tokenizer.text())
    scorer = _scorer(config, device, say)
    if scorer and weights_digest(scorer.model.state_dict()) != config.scorer_digest:
        told = f"not the scorer that {folder} was labelled with, for it was trained anew"
        raise InputError(f"{config.scorer}: {told}; expected the same weights")
    if longer and (folder / "scorer.best.pt").exists() and config.max_rounds is not None:
        # Trained longer, the run's own scorer would change the labels under the models' feet.
        model = load_model(folder / "scorer.best.pt", device, config.run_id)
        scorer = Scorer(model, tokenizer, config.max_question)
    if lock:
        config.save(folder)
    return Start(config, folder, lock, splits, tokenizer, True, scorer, _initial_model(config))


def _scorer(config: RunConfig, device: str, say: Callable[[str], None]) -> Scorer | None:
    if config.scorer is None:
        return None
    scorer, its_config = load_scorer(config.scorer, device)
    if note := scorer_note(config.scorer, its_config, config.data.task):
        say(note)
    if its_config.data_digest != config.data_digest:
        told = "this run's test examples may have been seen"
        say(f"note: {config.scorer} was trained on other data; {told}")
    return scorer


def _absolute(path: str | None) -> str | None:
    """So that a run can be resumed from any folder."""
    return path and str(Path(path).resolve())


def _new_run(flags: Flags, options: TrainOptions, device: str) -> tuple[RunConfig, Path]:
    data = flags.of(DataSettings)
    data = replace(data, data=_absolute(data.data))
    # bfloat16 is quick on GPUs alone; float16 would overflow in T5's feed-forward layers.
    quick = device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    dtype = "bfloat16" if quick else "float32"
    training = flags.of(TrainingSettings, seed=data.seed, device=device, dtype=dtype)
    if "max_minutes" in flags.given and "max_steps" not in flags.given:
        training = replace(training, max_steps=None)
    shape, encoder = dict(SIZES[options.size]), "block-causal"
    if "init" in flags.given:  # what a checkpoint was trained with
        shape, encoder = asdict(load_t5(flags.given["init"]).config), "bidirectional"
        training = replace(training, optimizer="adamw")
    segmentation = flags.of(SegmentationSettings)
    config = flags.of(
        RunConfig,
        data=data,
        encoder=flags.given.get("encoder", encoder),
        segmentation=segmentation,
        training=training,
        model=shape,
    )
    config = replace(config, scorer=_absolute(config.scorer), init=_absolute(config.init))

    name = [data.task, config.mode]
    if config.mode != "direct":
        name.append(segmentation.segmentation)
    if data.data:
        name.append(Path(data.data).stem)
    return config, Path(options.out_dir or Path("runs") / "-".join(name))


def _new_tokenizer(config: RunConfig, splits: Splits, say: Callable[[str], None]) -> Tokenizer:
    texts = training_texts(splits)
    if config.init is None:
        return Tokenizer.train(texts, config.vocab_size)
    path = Path(config.init) / "tokenizer.json"
    tokenizer = Tokenizer.load(path)
    check_vocabulary(Path(config.init), config.model["vocab_size"], path, tokenizer)
    share, lost = lost_characters(tokenizer, texts)
    examples = ": " + " ".join(repr(c) for c in lost[:20]) if lost else ""
    say(f"{path}: {share:.2%} of the training characters cannot be written{examples}")
    return tokenizer


def _initial_model(config: RunConfig) -> Callable[[], EncoderDecoder] | None:
    """Makes the checkpoint's model with ``--init``; None means random weights."""
    return partial(load_t5, config.init) if config.init else None
