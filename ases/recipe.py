"""The whole experiment, on objects: cut and label, train, write, score. No paths, no printing.

    splits = split_examples(examples, seed=0)
    writer = train(Recipe(mode="usm"), splits, watcher)
    chains = writer.write([example.question for example in splits["test"]])
    results = score_chains("mwp", splits["test"], writer.texts(chains), chains)

This is the method from end to end, so it is the first file to read, and it imports all the others.
The modes differ in nothing but ``MODES`` (in ``ases.pairs``): which sub-models there are, and which
roles each of them writes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch

from ases.data import Example
from ases.decoding import Chain, Search, generate_chains, greedy, segment_decoder
from ases.entropy import chain_entropies
from ases.metrics import role_agreement, score
from ases.model import SIZES, EncoderDecoder, ModelConfig
from ases.pairs import CHAIN, MODES, Pair, Segmented, make_direct_pair, pairs_by_model
from ases.segmentation import (
    AS,
    ES,
    SegmentationSettings,
    entropy_labels,
    interleaved_labels,
    make_segments,
    piece_entropies,
    split_pieces,
)
from ases.settings import setting
from ases.tokenizer import Tokenizer
from ases.training import TrainingSettings, Watcher, fit

#: "train", "validation" and "test", and "longer" where there is one
Splits = dict[str, list[Example]]


@dataclass(frozen=True)
class Recipe:
    """All settings of an experiment but its data."""

    mode: str = setting(
        "usm",
        "direct: question to chain; dsm: a model for each role; usm: one model for both",
        choices=tuple(MODES),
        flag=True,
    )
    segmentation: SegmentationSettings = SegmentationSettings()
    training: TrainingSettings = TrainingSettings()
    model: dict = field(default_factory=lambda: dict(SIZES["tiny"]))  # arguments of ModelConfig
    vocab_size: int = setting(4096, "most ids that the tokenizer may have", low=260, high=1_000_000)
    max_source: int = setting(
        1024, "most ids of a context; longer ones lose the middle of the question", low=16
    )
    max_tokens: int | None = setting(
        None, "most ids of a segment", low=1, shown="twice the longest in training"
    )
    max_rounds: int | None = setting(
        None, "most segments of a chain", low=1, shown="twice the most in training"
    )


# --- cut and label -------------------------------------------------------------------------------


@dataclass
class Scorer:
    """A direct model, whose token entropies label pieces."""

    model: EncoderDecoder
    tokenizer: Tokenizer
    max_source: int = 1024


def segment(
    examples: Sequence[Example], settings: SegmentationSettings, scorer: Scorer | None = None
) -> list[Segmented]:
    """Pieces, labels and segments of each chain (Figure 2 of the paper).

    Raises:
        ValueError: labels by entropy are asked for without a scorer.
    """
    pieces = [split_pieces(e.answer) for e in examples]
    if settings.segmentation == "interleave":
        entropies = [None] * len(examples)
        labels = [interleaved_labels(len(p)) for p in pieces]
    elif scorer is None:
        raise ValueError("labels by entropy without a scorer; expected a direct model")
    else:
        questions = [e.question for e in examples]
        context, limit = settings.entropy_context, scorer.max_source
        of_tokens = chain_entropies(
            scorer.model, scorer.tokenizer, questions, pieces, context, limit
        )
        entropies = [piece_entropies(tokens, settings.gamma) for tokens in of_tokens]
        labels = [entropy_labels(values, settings.beta) for values in entropies]

    segments = [make_segments(p, found, settings.merge) for p, found in zip(pieces, labels)]
    return [Segmented(*row) for row in zip(examples, pieces, labels, segments, entropies)]


def agreement(segmented: Sequence[Segmented]) -> dict | None:
    """Precision, recall, F1 of each role against the true roles; None where the data has none."""
    known = [s for s in segmented if s.example.gold]
    if not known:
        return None
    gold = [[role for role, _ in s.example.gold] for s in known]
    return role_agreement(gold, [s.labels for s in known])


# --- train ---------------------------------------------------------------------------------------


def train(
    recipe: Recipe,
    splits: Splits,
    watcher: Watcher | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    scorer: Scorer | None = None,
    initial: Callable[[], EncoderDecoder] | None = None,
) -> "ChainWriter":
    """Train the sub-models of ``recipe.mode`` on the splits "train" and "validation".

    Args:
        watcher: told of everything while it happens.
        tokenizer: one to use; without it, one is trained on the training split.
        scorer: for labels by entropy; without it, a direct model is trained first, with as large a
            budget again.
        initial: makes the model that each sub-model starts as; without it, one of
            ``recipe.model``'s shape with random weights.
    Raises:
        ValueError: a sub-model has no pairs, or no budget is set.
        FloatingPointError: a loss that is not finite.
    """
    if tokenizer is None:
        texts = [text for example in splits["train"] for text in (example.question, example.answer)]
        tokenizer = Tokenizer.train(texts, recipe.vocab_size)
    if initial is None:
        initial = _random_model(recipe, tokenizer)
    reports = {}

    if recipe.mode != "direct" and recipe.segmentation.segmentation == "entropy" and scorer is None:
        direct = {"scorer": _direct_pairs(splits["train"], tokenizer, recipe.max_source)}
        direct_validation = {
            "scorer": _direct_pairs(splits["validation"], tokenizer, recipe.max_source)
        }
        models = _fit_all(recipe, direct, direct_validation, initial, watcher, reports)
        scorer = Scorer(models["scorer"], tokenizer, recipe.max_source)

    segmented = segment(splits["train"], recipe.segmentation, scorer)
    pairs = pairs_by_model(recipe.mode, segmented, tokenizer, recipe.max_source)
    segmented_validation = segment(splits["validation"], recipe.segmentation, scorer)
    validation = pairs_by_model(recipe.mode, segmented_validation, tokenizer, recipe.max_source)

    recipe = _with_decoding_limits(recipe, pairs, segmented)
    if watcher:
        watcher.planned(recipe)
    models = _fit_all(recipe, pairs, validation, initial, watcher, reports)
    return ChainWriter(recipe, tokenizer, models, reports)


def _random_model(recipe: Recipe, tokenizer: Tokenizer) -> Callable[[], EncoderDecoder]:
    def make() -> EncoderDecoder:
        torch.manual_seed(recipe.training.seed)
        return EncoderDecoder(ModelConfig(**{"vocab_size": tokenizer.vocab_size} | recipe.model))

    return make


def _direct_pairs(examples: Sequence[Example], tokenizer: Tokenizer, max_source: int) -> list[Pair]:
    return [
        make_direct_pair(e.question, split_pieces(e.answer), tokenizer, max_source)
        for e in examples
    ]


def _fit_all(
    recipe: Recipe,
    pairs: dict[str, list[Pair]],
    validation: dict[str, list[Pair]],
    initial: Callable[[], EncoderDecoder],
    watcher: Watcher | None,
    reports: dict[str, dict],
) -> dict[str, EncoderDecoder]:
    """Train each sub-model with an equal share of the budget; ``reports`` takes what fit says."""
    budget, n = recipe.training, len(pairs)
    share = replace(
        budget,
        max_steps=budget.max_steps and -(-budget.max_steps // n),  # rounded up
        max_minutes=budget.max_minutes and budget.max_minutes / n,
    )
    for name in pairs:
        if not pairs[name] or not validation[name]:
            raise ValueError(
                f"{name}: {len(pairs[name])} training and {len(validation[name])} validation "
                "pairs; "
                "expected some of each: try another --beta or --segmentation"
            )
    models = {}
    for name in pairs:
        models[name] = initial()
        reports[name] = fit(name, models[name], pairs[name], validation[name], share, watcher)
        reports[name]["pairs"] = len(pairs[name])
        reports[name]["cut_contexts"] = sum(pair.cut > 0 for pair in pairs[name])
    return models


def _with_decoding_limits(
    recipe: Recipe, pairs: dict[str, list[Pair]], segmented: Sequence[Segmented]
) -> Recipe:
    """Limits where none were given: twice the longest target and chain in training [ours]."""
    longest_target = max((len(pair.target) for own in pairs.values() for pair in own), default=1)
    longest_chain = 1 if recipe.mode == "direct" else 2 * max(len(s.segments) for s in segmented)
    return replace(
        recipe,
        max_tokens=recipe.max_tokens or 2 * longest_target,
        max_rounds=recipe.max_rounds or longest_chain,
    )


# --- write and score -----------------------------------------------------------------------------


@dataclass
class ChainWriter:
    """The trained sub-models of a mode, with all that they need to write chains of thought."""

    recipe: Recipe  # with max_tokens and max_rounds set
    tokenizer: Tokenizer
    models: dict[str, EncoderDecoder]  # by sub-model: "usm", or "esm" and "asm", or "direct"
    reports: dict[str, dict] = field(default_factory=dict)  # what ``fit`` said of each

    @property
    def by_role(self) -> dict[str, EncoderDecoder]:
        return {
            role: self.models[name]
            for name, roles in MODES[self.recipe.mode].items()
            for role in roles
        }

    def write(self, questions: Sequence[str], search: Search = greedy) -> list[Chain]:
        """A chain for each question, all of them as one batch."""
        recipe = self.recipe
        decode = segment_decoder(self.by_role, self.tokenizer, recipe.max_tokens, search)
        roles = (CHAIN,) if recipe.mode == "direct" else (ES, AS)
        ids = [self.tokenizer.encode(question) for question in questions]
        return generate_chains(
            decode, ids, self.tokenizer, roles, recipe.max_rounds, recipe.max_source
        )

    def texts(self, chains: Sequence[Chain]) -> list[str]:
        """Each chain as one text, decoded whole: two segments may share a character's bytes."""
        return [
            self.tokenizer.decode([i for _, ids in chain.segments for i in ids]) for chain in chains
        ]


def score_chains(
    task: str, examples: Sequence[Example], texts: Sequence[str], chains: Sequence[Chain]
) -> dict:
    """All scores of a test set, and beside them how the chains ended."""
    stops = Counter(chain.stop for chain in chains)
    return score(task, texts, [e.answer for e in examples]) | {
        "rounds_mean": sum(len(chain.segments) for chain in chains) / len(chains),
        "stop_reasons": {
            reason: stops[reason] / len(chains) for reason in ("end", "rounds", "length", "stuck")
        },
        "cut_contexts": sum(chain.cut > 0 for chain in chains),
    }
