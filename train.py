"""From data to a scored test set: `python train.py --task mwp --mode usm`.

The order below is the method's: split the data, fit the tokenizer, cut and label the chains, make pairs, train the
sub-models, write chains for the test questions, score them.
"""

from dataclasses import asdict, replace
from pathlib import Path

import torch

from ases import cli, runs
from ases.data import InputError
from ases.model import SIZES, EncoderDecoder, ModelConfig
from ases.pretrained import load_t5
from ases.runs import MODES, RunConfig
from ases.tokenizer import Tokenizer, lost_characters
from ases.training import TrainingOptions, fit

SHAPE_FLAGS = {"d_model": "model width", "d_kv": "width of a head", "d_ff": "feed-forward width", "num_layers": "encoder layers",
               "num_decoder_layers": "decoder layers", "num_heads": "attention heads"}


def make_parser() -> cli.Parser:
    parser = cli.Parser("Train direct, dual-path (dsm) or unified-path (usm) models on chains of thought, and score them.")
    cli.add_data_flags(parser)
    parser.add_argument("--mode", type=cli.one_of(*MODES), default="usm", help="direct: question → chain; dsm: one model for each role; usm: one model for both")
    cli.add_segmentation_flags(parser)
    group = parser.add_argument_group("model")
    group.add_argument("--size", type=cli.one_of(*SIZES), default=None, help=f"one of {', '.join(SIZES)}; None means tiny; single flags below override it")
    for name, what in SHAPE_FLAGS.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=cli.number(int, 1), default=None, help=f"{what}; None means the size's")
    group.add_argument("--init", default=None, metavar="DIR", help="start from a T5-family checkpoint (config.json, weights, tokenizer.json) instead of random weights")
    group.add_argument("--tokenizer", default=None, metavar="PATH", help="tokenizer.json to use with --init; None means the one in its folder")
    group.add_argument("--dropout", type=cli.number(float, 0, 0.9), default=None, help="share of activations dropped in training; None means 0, or the checkpoint's with --init")
    group.add_argument("--vocab-size", type=cli.number(int, 260, 1_000_000), default=None, help="most ids that the tokenizer may have; None means 4096")
    group.add_argument("--max-source", type=cli.number(int, 16), default=1024, help="most ids of a context; longer ones lose the middle of the question")
    group = parser.add_argument_group("training")
    group.add_argument("--max-steps", type=cli.number(int, 1), default=None, help="updates, shared equally by the sub-models (a scorer trained here gets as many again); None means 12000, or no limit with --max-minutes")
    group.add_argument("--max-minutes", type=cli.number(float, 0, above=True), default=None, help="training time, shared likewise")
    group.add_argument("--batch-tokens", type=cli.number(int, 16), default=2048, help="most padded tokens of a batch, source and target together")
    group.add_argument("--accumulate", type=cli.number(int, 1), default=1, help="batches in an update")
    group.add_argument("--learning-rate", type=cli.number(float, 0, above=True), default=3e-3, help="its peak, after warm-up")
    group.add_argument("--weight-decay", type=cli.number(float, 0), default=0.01, help="of AdamW, on matrices")
    group.add_argument("--validations", type=cli.number(int, 1), default=10, help="how often each sub-model is validated and saved")
    group.add_argument("--dtype", type=cli.one_of("float32", "bfloat16"), default="float32", help="bfloat16 is for GPUs")
    group.add_argument("--device", default="auto", help="cpu, cuda, or auto: cuda where there is one")
    group = parser.add_argument_group("run")
    group.add_argument("--beams", type=cli.number(int, 1, 64), default=1, help="1 decodes greedily")
    group.add_argument("--max-rounds", type=cli.number(int, 1), default=None, help="most segments of a written chain; None means twice the most in training")
    group.add_argument("--max-tokens", type=cli.number(int, 1), default=None, help="most ids of a written segment; None means twice the longest in training")
    group.add_argument("--out-dir", type=Path, default=None, help="folder of the run; None means runs/<task>-<mode>-…")
    group.add_argument("--overwrite", action="store_true", help="replace the run that --out-dir holds")
    group.add_argument("--resume", type=Path, default=None, metavar="RUN", help="continue a stopped run with the settings of its config.json")
    return parser


def check(args) -> list[str]:
    complaints = cli.check_data_flags(args) + cli.check_segmentation_flags(args) + cli.check_device(args.device)
    if args.mode == "direct" and args.segmentation == "entropy":
        complaints.append("--segmentation is 'entropy' with --mode direct; expected it only with dsm or usm")
    if args.init:
        given = [name for name in ("size", "vocab_size", *SHAPE_FLAGS) if getattr(args, name) is not None]
        complaints += [f"--{name.replace('_', '-')} with --init; expected no shape, for the checkpoint has one" for name in given]
    elif args.tokenizer:
        complaints.append("--tokenizer without --init; expected it only with a checkpoint")
    if args.mode == "direct" and args.max_rounds:
        complaints.append(f"--max-rounds is {args.max_rounds} with --mode direct; expected it only with dsm or usm")
    for source in ("scorer", "init"):
        if getattr(args, source) and args.out_dir and Path(getattr(args, source)).resolve() == args.out_dir.resolve():
            complaints.append(f"--out-dir is {str(args.out_dir)!r}, and so is --{source}; expected another folder")
    if args.mode == "direct" and args.no_merge:
        complaints.append("--no-merge with --mode direct; expected it only with dsm or usm")
    if args.resume:
        given = [name for name, value in vars(args).items() if name not in ("resume", "device") and value != vars(make_parser().parse_args([]))[name]]
        complaints += [f"--{name.replace('_', '-')} with --resume; expected no other setting, for they are in the run's config.json" for name in given]
    return complaints


def make_config(args) -> tuple[RunConfig, Path]:
    parts = [args.task, args.mode] + ([] if args.mode == "direct" else [args.segmentation]) + ([Path(args.data).stem] if args.data else [])
    data = runs.DataOptions(args.task, args.data, args.seed, args.train_problems, args.test_problems, args.max_number)
    segmentation = runs.SegmentationOptions(args.segmentation, args.beta, args.gamma, args.entropy_context, not args.no_merge)
    steps = args.max_steps or (None if args.max_minutes else 12000)
    training = TrainingOptions(max_steps=steps, max_minutes=args.max_minutes, batch_tokens=args.batch_tokens, accumulate=args.accumulate, learning_rate=args.learning_rate,
                               weight_decay=args.weight_decay, validations=args.validations, seed=args.seed, dtype=args.dtype, device=cli.choose_device(args.device))
    if args.init:
        shape = asdict(load_t5(args.init).config)
    else:
        shape = SIZES[args.size or "tiny"] | {name: getattr(args, name) for name in SHAPE_FLAGS if getattr(args, name) is not None} | {"dropout_rate": 0.0}
    if args.dropout is not None:
        shape["dropout_rate"] = args.dropout
    config = RunConfig(args.mode, data, segmentation, training, shape, args.vocab_size or 4096, args.max_source, args.max_tokens, args.max_rounds, args.beams, args.scorer, args.init)
    return config, args.out_dir or Path("runs") / "-".join(parts)


def train_models(names: list[str], pairs: dict, validation: dict, config: RunConfig, tokenizer: Tokenizer, folder: Path, device: str, resume: bool) -> tuple[dict, dict]:
    """Train each of ``names`` on its own pairs with an equal share of the budget; returns the models and what ``fit`` says of them."""
    budget = config.training
    share = replace(budget, max_steps=budget.max_steps and -(-budget.max_steps // len(names)), max_minutes=budget.max_minutes and budget.max_minutes / len(names), device=device)
    models, reports = {}, {}
    if empty := [name for name in names if not pairs[name] or not validation[name]]:
        raise InputError(f"{empty[0]}: {len(pairs[empty[0]])} training and {len(validation[empty[0]])} validation pairs; expected some of each: try another --beta or --segmentation")
    for name in names:
        torch.manual_seed(budget.seed)
        models[name] = EncoderDecoder(ModelConfig(**{"vocab_size": tokenizer.vocab_size} | config.model))
        if config.init:
            models[name].load_state_dict(load_t5(config.init).state_dict())
        cut = sum(pair.cut > 0 for pair in pairs[name])
        print(f"{name}: {sum(p.numel() for p in models[name].parameters()):,} parameters, {len(pairs[name]):,} pairs" + (f", {cut} contexts cut to {config.max_source} ids" if cut else ""))
        reports[name] = fit(models[name], name, pairs[name], validation[name], share, folder, resume)
    return models, reports


def main() -> None:
    args = make_parser().parse(check=check)
    config, folder = (RunConfig.load(args.resume), args.resume) if args.resume else make_config(args)
    device = cli.choose_device(args.device)

    splits, description = runs.load_splits(config.data)
    print(description)
    if args.resume and runs.digest(splits) != config.data_digest:
        raise InputError(f"{config.data.data}: not the data that {folder} was trained on; expected the same file")
    scorer = runs.load_scorer(config.scorer, device) if config.scorer else None
    if scorer and runs.RunConfig.load(Path(config.scorer)).data_digest != runs.digest(splits):
        print(f"note: {config.scorer} was trained on other data than this run's; its test examples may have been seen")
    if not args.resume:
        texts = [text for e in splits["train"] for text in (e.question, e.answer)]
        if config.init:
            path = Path(args.tokenizer or Path(config.init) / "tokenizer.json")
            tokenizer = Tokenizer.load(path)
            runs.check_vocabulary(Path(config.init), config.model["vocab_size"], path, tokenizer)
            share, lost = lost_characters(tokenizer, texts)
            print(f"{path}: {share:.2%} of the training characters cannot be written" + (f": {' '.join(map(repr, lost[:20]))}" if lost else ""))
        else:
            tokenizer = Tokenizer.train(texts, config.vocab_size)
        runs.prepare_folder(folder, args.overwrite)
        tokenizer.save(folder / "tokenizer.json")
        config = replace(config, data_digest=runs.digest(splits))
        config.save(folder)
    tokenizer = Tokenizer.load(folder / "tokenizer.json")

    def fit_models(names: list[str], pairs: dict, validation: dict) -> tuple[dict, dict]:
        return train_models(names, pairs, validation, config, tokenizer, folder, device, bool(args.resume))

    reports = {}
    if config.segmentation.segmentation == "entropy" and scorer is None:  # the scorer is what --mode direct trains
        whole = [runs.segment_examples(splits[name], runs.SegmentationOptions()) for name in ("train", "validation")]
        models, reports = fit_models(["scorer"], *({"scorer": runs.pairs_by_model("direct", w, tokenizer, config.max_source)["direct"]} for w in whole))
        scorer = models["scorer"], tokenizer
    segmented = [runs.segment_examples(splits[name], config.segmentation, scorer, config.max_source) for name in ("train", "validation")]
    pairs, validation = (runs.pairs_by_model(config.mode, s, tokenizer, config.max_source) for s in segmented)
    config = runs.with_decoding_limits(config, pairs, segmented[0])
    config.save(folder)
    models, own_reports = fit_models(list(MODES[config.mode]), pairs, validation)
    reports |= own_reports

    run = runs.Run(config, tokenizer, models)
    rows = {}
    for split in [name for name in ("test", "longer") if name in splits]:
        print(f"writing {len(splits[split])} chains for {split} …", flush=True)
        results, predictions = runs.evaluate(run, splits[split], config.beams)
        results |= {"train_seconds": round(sum(r["seconds"] for r in own_reports.values()), 1), "training": reports}
        results |= {"scorer_seconds": reports["scorer"]["seconds"]} if "scorer" in reports else {}
        runs.write_evaluation(folder, results, predictions, "" if split == "test" else f"-{split}")
        rows[split] = results
    print(runs.table(rows))
    print(f"run folder: {folder}")


if __name__ == "__main__":
    cli.run_command(main)
