"""From the flags of train.py to everything that ``ases.recipe.train`` wants."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from ases.config import SIZES, ModelConfig, SegmentationSettings, TrainingSettings
from ases.data import InputError
from ases.model import EncoderDecoder
from ases.pretrained import load_t5
from ases.recipe import Scorer, Splits
from ases.run.command import Flags, choose_device
from ases.run.config import DataSettings, RunConfig, TrainOptions
from ases.run.folder import check_vocabulary, digest, load_scorer, load_splits, prepare_folder
from ases.tokenizer import Tokenizer, lost_characters


@dataclass
class Start:
    """A run that is ready to train."""

    config: RunConfig
    folder: Path
    splits: Splits
    tokenizer: Tokenizer
    resumed: bool
    scorer: Scorer | None = None
    initial: Callable[[], EncoderDecoder] | None = None


def start(flags: Flags, say: Callable[[str], None] = print) -> Start:
    """Read the data and make the run's folder, or open the folder of a run to resume.

    Raises:
        InputError: whatever is wrong with the files and folders named.
    """
    options = flags.of(TrainOptions)
    device = choose_device(options.device)
    resumed = options.resume is not None
    if resumed:
        folder = Path(options.resume)
        config = RunConfig.load(folder)
        config = replace(config, training=replace(config.training, device=device))
    else:
        config, folder = _new_run(flags, options, device)

    splits, description = load_splits(config.data)
    say(description)
    fingerprint = digest(splits)
    if resumed and config.data_digest != fingerprint:
        raise InputError(
            f"{config.data.data}: not the data that {folder} was trained on; expected the same file"
        )

    scorer = None
    if config.scorer:
        scorer, its_config = load_scorer(config.scorer, device)
        if its_config.data_digest != fingerprint:
            say(
                f"note: {config.scorer} was trained on other data; "
                "this run's test examples may have been seen"
            )

    if not resumed:
        tokenizer = _new_tokenizer(config, splits, say)
        prepare_folder(folder, options.overwrite)
        tokenizer.save(folder / "tokenizer.json")
        config = replace(config, data_digest=fingerprint)
        config.save(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    return Start(config, folder, splits, tokenizer, resumed, scorer, _initial_model(config))


def _new_run(flags: Flags, options: TrainOptions, device: str) -> tuple[RunConfig, Path]:
    data = flags.of(DataSettings)
    # bfloat16 is quick on GPUs alone; float16 would overflow in T5's feed-forward layers.
    dtype = (
        "bfloat16"
        if device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        else "float32"
    )
    training = flags.of(TrainingSettings, seed=data.seed, device=device, dtype=dtype)
    if "max_minutes" in flags.given and "max_steps" not in flags.given:
        training = replace(training, max_steps=None)
    shape, encoder = dict(SIZES[options.size]), "block-causal"
    if "init" in flags.given:  # what a checkpoint was trained with
        shape, encoder = asdict(load_t5(flags.given["init"]).config), "bidirectional"
        if "optimizer" not in flags.given:
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

    name = [data.task, config.mode]
    if config.mode != "direct":
        name.append(segmentation.segmentation)
    if data.data:
        name.append(Path(data.data).stem)
    return config, Path(options.out_dir or Path("runs") / "-".join(name))


def _new_tokenizer(config: RunConfig, splits: Splits, say: Callable[[str], None]) -> Tokenizer:
    texts = [text for example in splits["train"] for text in (example.question, example.answer)]
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
    if config.init is None:
        return None

    def make() -> EncoderDecoder:
        model = EncoderDecoder(ModelConfig(**config.model))
        model.load_state_dict(load_t5(config.init).state_dict())
        return model

    return make
