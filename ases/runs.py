"""A run: its settings, its folder on disk, and the steps that the commands put together.

    runs/mwp-usm-interleave/
        config.json         all settings, enough to make the same data again and to resume
        metrics.jsonl       a line for each logged or validated step of each sub-model
        tokenizer.json
        usm.best.pt, usm.last.pt    (or direct, or esm and asm, and scorer before them)
        predictions.jsonl   each test chain, segment by segment
        results.json        the scores
"""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import get_args, get_type_hints

from ases import synthetic
from ases.data import Example, InputError, read_examples, split_examples
from ases.decoding import generate_chains, segment_decoder
from ases.metrics import parse_answer, score
from ases.model import EncoderDecoder
from ases.pairs import CHAIN, Pair, make_direct_pair, make_pairs
from ases.scoring import chain_entropies
from ases.segmentation import AS, ES, Segment, entropy_labels, interleaved_labels, make_segments, piece_entropies, role_agreement, split_pieces
from ases.tokenizer import SentinelTokenizer, Tokenizer
from ases.training import TrainingOptions, load_model

#: The sub-models of each mode and the roles each of them plays: the whole difference between the modes.
MODES = {"direct": {"direct": (CHAIN,)}, "dsm": {"esm": (ES,), "asm": (AS,)}, "usm": {"usm": (ES, AS)}}


@dataclass(frozen=True)
class DataOptions:
    """Which examples a run sees; see the flags of the same names."""

    task: str
    data: str | None = None
    seed: int = 0
    train_problems: int | None = None
    test_problems: int | None = None
    max_number: int | None = None


@dataclass(frozen=True)
class SegmentationOptions:
    """How chains are cut and labelled; see the flags of the same names."""

    segmentation: str = "interleave"
    beta: float = 1.0
    gamma: float = 1.0
    entropy_context: str = "prefix"
    merge: bool = True


@dataclass(frozen=True)
class RunConfig:
    """Everything that ``config.json`` holds."""

    mode: str
    data: DataOptions
    segmentation: SegmentationOptions
    training: TrainingOptions
    model: dict  # shape, as in SIZES
    vocab_size: int = 4096  # at most; the tokenizer may need fewer
    max_source: int = 1024  # ids of a context
    max_tokens: int | None = None  # ids of a written segment; None: set from the training targets
    max_rounds: int | None = None  # segments of a chain; None: set from the training chains
    beams: int = 1
    scorer: str | None = None  # run folder of the scorer, if it was not trained here
    init: str | None = None  # folder of a T5-family checkpoint to start from
    data_digest: str = ""

    def save(self, folder: Path) -> None:
        write_text(folder / "config.json", json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, folder: str | Path) -> "RunConfig":
        """Read ``config.json``.

        Raises:
            InputError: it is missing or not as ``save`` writes it.
        """
        path = Path(folder) / "config.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            parts = {"data": DataOptions, "segmentation": SegmentationOptions, "training": TrainingOptions}
            config = cls(**{name: _typed(parts[name](**value)) if name in parts else value for name, value in content.items()})
            _typed(config)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); expected the folder of a run") from None
        except (ValueError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: not a run's settings ({error}); expected what train.py writes") from None
        if config.mode not in MODES:
            raise InputError(f"{path}: mode is {config.mode!r}; expected one of {', '.join(MODES)}")
        if config.training.max_steps is None and config.training.max_minutes is None:
            raise InputError(f"{path}: neither max_steps nor max_minutes is a number; expected a budget")
        return config


def _typed(settings):
    """``settings`` itself, once every field holds what its annotation says (a whole number may stand for a float)."""
    for name, hint in get_type_hints(type(settings)).items():
        value, allowed = getattr(settings, name), get_args(hint) or (hint,)
        if not isinstance(value, (*allowed, *((int,) if float in allowed else ()))) or (isinstance(value, bool) and bool not in allowed):
            raise TypeError(f"{name} is {value!r}")
    return settings


# --- data and segments ---------------------------------------------------------------------------------------


def load_splits(options: DataOptions, whole: bool = False) -> tuple[dict[str, list[Example]], str]:
    """The splits of a run, read or generated, and a line that says what they are; a ``whole`` file is one split."""
    if options.data is None:
        try:
            splits = synthetic.make_splits(options.task, options.train_problems or 4000, 300, options.test_problems or 500, options.seed, options.max_number or 20)
        except ValueError as error:
            raise InputError(f"--max-number or --train-problems: {error}") from None
        origin = f"generated {options.task} problems, seed {options.seed}"
    else:
        dataset = read_examples(options.data, options.task)
        splits = {"all": dataset.examples} if whole else split_examples(dataset.examples, options.seed)
        if not whole:
            splits["train"] = splits["train"][: options.train_problems]
            splits["test"] = splits["test"][: options.test_problems]
        origin = f"{dataset.name}, {dataset.empty_rows} rows without question or answer left out"
    return splits, f"data: {', '.join(f'{len(examples)} {name}' for name, examples in splits.items())} ({origin})"


def digest(splits: dict[str, list[Example]]) -> str:
    """A fingerprint of the data, so that a run notices when its file has changed."""
    hasher = hashlib.sha256()
    for name in sorted(splits):
        for e in splits[name]:
            hasher.update("\0".join((name, e.id, e.question, e.answer, "")).encode())
    return hasher.hexdigest()[:16]


@dataclass(frozen=True)
class Segmented:
    """An example with what segmentation made of it; ``entropies`` holds H(p) of each piece, if it was needed."""

    example: Example
    pieces: list[str]
    labels: list[str]
    segments: list[Segment]
    entropies: list[float] | None = None


def segment_examples(examples: Sequence[Example], options: SegmentationOptions, scorer: tuple[EncoderDecoder, Tokenizer] | None = None, max_source: int = 1024) -> list[Segmented]:
    """Pieces, labels and segments of each chain; ``scorer`` is the direct model for labels by entropy."""
    pieces = [split_pieces(e.answer) for e in examples]
    if options.segmentation == "interleave":
        entropies = [None] * len(pieces)
        labels = [interleaved_labels(len(p)) for p in pieces]
    else:
        tokens = chain_entropies(*scorer, [e.question for e in examples], pieces, options.entropy_context, max_source)
        entropies = [piece_entropies(t, options.gamma) for t in tokens]
        labels = [entropy_labels(h, options.beta) for h in entropies]
    return [Segmented(e, p, l, make_segments(p, l, options.merge), h) for e, p, l, h in zip(examples, pieces, labels, entropies)]


def agreement(segmented: Sequence[Segmented]) -> dict | None:
    """Precision, recall and F1 of each role against the true roles, where the data knows them; else None."""
    known = [s for s in segmented if s.example.gold]
    return role_agreement([[role for role, _ in s.example.gold] for s in known], [s.labels for s in known]) if known else None


def pairs_by_model(mode: str, segmented: Sequence[Segmented], tokenizer: Tokenizer, max_source: int) -> dict[str, list[Pair]]:
    """The training pairs of each sub-model of ``mode``."""
    if mode == "direct":
        return {"direct": [make_direct_pair(s.example.question, s.pieces, tokenizer, max_source) for s in segmented]}
    pairs = [pair for s in segmented for pair in make_pairs(s.example.question, s.segments, tokenizer, max_source)]
    return {name: [p for p in pairs if p.role in roles] for name, roles in MODES[mode].items()}


def with_decoding_limits(config: RunConfig, pairs: dict[str, list[Pair]], segmented: Sequence[Segmented]) -> RunConfig:
    """Limits for decoding where none were given: twice the longest target and chain of the training split [ours]."""
    longest_target = max(len(p.target) for ps in pairs.values() for p in ps)
    longest_chain = max(len(s.segments) for s in segmented)
    return replace(config, max_tokens=config.max_tokens or 2 * longest_target, max_rounds=1 if config.mode == "direct" else config.max_rounds or 2 * longest_chain)


# --- folders -------------------------------------------------------------------------------------------------


def prepare_folder(folder: Path, overwrite: bool) -> None:
    """Make a run's folder, and with ``overwrite`` empty an older run's of its files.

    Raises:
        InputError: something is there that may not be overwritten.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        try:
            RunConfig.load(folder)
        except InputError:
            raise InputError(f"{folder}: exists and is no run folder; expected a new name for --out-dir") from None
        if not overwrite:
            raise InputError(f"{folder}: holds a run already; expected another --out-dir, --overwrite, or --resume {folder}")
        models = ["scorer", *(name for names in MODES.values() for name in names)]
        files = ["config.json", "metrics.jsonl", "tokenizer.json", *(f"{name}.{kind}.pt" for name in models for kind in ("best", "last"))]
        for output in ("predictions.jsonl", "results.json", "predictions-longer.jsonl", "results-longer.json"):
            files += [output, *(str(path.relative_to(folder)) for path in folder.glob(f"eval-*/{output}"))]
        for name in files:
            (folder / name).unlink(missing_ok=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror}); expected a folder that can be written") from None


@dataclass
class Run:
    """A trained run, loaded for use."""

    config: RunConfig
    tokenizer: Tokenizer
    models: dict[str, EncoderDecoder] = field(default_factory=dict)  # by sub-model name
    train_seconds: float | None = None  # of the sub-models together

    @property
    def by_role(self) -> dict[str, EncoderDecoder]:
        return {role: self.models[name] for name, roles in MODES[self.config.mode].items() for role in roles}


def load_run(folder: str | Path, device: str = "cpu") -> Run:
    """Settings, tokenizer and best models of a run folder.

    Raises:
        InputError: a part is missing, damaged, or does not fit the others.
    """
    folder = Path(folder)
    run = Run(RunConfig.load(folder), Tokenizer.load(folder / "tokenizer.json"))
    try:
        run.train_seconds = json.loads((folder / "results.json").read_text(encoding="utf-8"))["train_seconds"]
    except (OSError, ValueError, KeyError, TypeError):
        pass  # a run that was stopped before its evaluation can be evaluated all the same
    if run.config.max_tokens is None or run.config.max_rounds is None:
        raise InputError(f"{folder / 'config.json'}: no max_tokens or max_rounds; expected a run whose training has begun")
    for name in MODES[run.config.mode]:
        path = folder / f"{name}.best.pt"
        model = run.models[name] = load_model(path, device)
        check_vocabulary(path, model.config.vocab_size, folder / "tokenizer.json", run.tokenizer)
    return run


def check_vocabulary(model_path: Path, embeddings: int, tokenizer_path: Path, tokenizer: Tokenizer) -> None:
    """T5's embeddings are rounded up beyond the tokenizer's ids; ours are exactly as many.

    Raises:
        InputError: they do not fit.
    """
    fits = tokenizer.vocab_size <= embeddings if isinstance(tokenizer, SentinelTokenizer) else tokenizer.vocab_size == embeddings
    if not fits:
        raise InputError(f"{model_path}: a vocabulary of {embeddings}; expected {tokenizer.vocab_size}, as in {tokenizer_path}")


def load_scorer(folder: str | Path, device: str = "cpu") -> tuple[EncoderDecoder, Tokenizer]:
    """The direct model of a run, and its tokenizer, as ``segment_examples`` wants them.

    Raises:
        InputError: as ``load_run``; a run of another mode.
    """
    run = load_run(folder, device)
    if run.config.mode != "direct":
        raise InputError(f"{folder}: a run of mode {run.config.mode}; expected a direct one as --scorer")
    return run.models["direct"], run.tokenizer


# --- evaluation ----------------------------------------------------------------------------------------------


def evaluate(run: Run, examples: Sequence[Example], beams: int = 1) -> tuple[dict, list[dict]]:
    """Write a chain for each example and score it: the content of ``results.json`` and ``predictions.jsonl``."""
    config, tokenizer = run.config, run.tokenizer
    started = time.perf_counter()
    decode = segment_decoder(run.by_role, tokenizer, config.max_tokens, beams)
    roles = (CHAIN,) if config.mode == "direct" else (ES, AS)
    chains = generate_chains(decode, [tokenizer.encode(e.question) for e in examples], tokenizer, roles, config.max_rounds, config.max_source)
    seconds = time.perf_counter() - started
    predictions = []
    for example, chain in zip(examples, chains):
        segments = [{"role": role, "text": tokenizer.decode(ids)} for role, ids in chain.segments]
        # Decoded as a whole: a character's bytes may be spread over two segments.
        text = tokenizer.decode([i for _, ids in chain.segments for i in ids])
        line = {"id": example.id, "question": example.question, "reference": example.answer, "prediction": text,
                "stop": chain.stop, "rounds": len(segments), "segments": segments}
        if config.data.task == "mwp":
            answer = parse_answer(text)
            line |= {"answer": None if answer is None else str(answer), "correct": answer is not None and answer == parse_answer(example.answer)}
        predictions.append(line)
    results = {"task": config.data.task, "mode": config.mode, "segmentation": None if config.mode == "direct" else config.segmentation.segmentation}
    results |= score(config.data.task, [p["prediction"] for p in predictions], [e.answer for e in examples])
    stops = Counter(chain.stop for chain in chains)
    results |= {
        "rounds_mean": sum(len(c.segments) for c in chains) / len(chains),
        "stop_reasons": {reason: stops[reason] / len(chains) for reason in ("end", "rounds", "length", "stuck")},
        "cut_contexts": sum(c.cut > 0 for c in chains),
        "beams": beams,
        "decode_seconds": round(seconds, 1),
    }
    return results, predictions


def table(rows: dict[str, dict]) -> str:
    """Results side by side, one row each."""
    columns = ["n", "accuracy", "accuracy_strict", "bleu", "rouge1", "rouge2", "rougeL", "exact_match", "parseable", "rounds_mean", "train_seconds"]
    columns = [c for c in columns if any(r.get(c) is not None for r in rows.values())]
    counted = {c: f"{c} (char)" for c in columns if c.startswith("rouge") and any(r.get("rouge_tokens") == "characters" for r in rows.values())}
    lines = [["", *(counted.get(c, c) for c in columns), "stopped by"]]
    for name, r in rows.items():
        cells = ["-" if (v := r.get(c)) is None else f"{v:.3f}" if isinstance(v, float) and c.startswith(("acc", "rouge", "exact", "pars")) else f"{v:.1f}" if isinstance(v, float) else str(v) for c in columns]
        lines.append([name, *cells, ", ".join(f"{reason} {share:.0%}" for reason, share in r["stop_reasons"].items() if share)])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join("  ".join(cell.ljust(w) if i in (0, len(widths) - 1) else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths))).rstrip() for line in lines)


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: temporary file, then rename."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def write_evaluation(folder: Path, results: dict, predictions: list[dict], suffix: str = "") -> None:
    write_text(folder / f"predictions{suffix}.jsonl", "".join(json.dumps(p, ensure_ascii=False) + "\n" for p in predictions))
    write_text(folder / f"results{suffix}.json", json.dumps(results, indent=2) + "\n")
