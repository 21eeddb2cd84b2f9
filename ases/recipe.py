"""The whole experiment, on objects: cut and label, train, write, score. No paths, no printing.

    splits = split_examples(examples, seed=0)
    writer = train(splits, Recipe(mode="usm"))
    chains = writer.write([example.question for example in splits["test"]])
    results = score_chains("mwp", splits["test"], chains)

This is the method from end to end, so it is the first file to read, and it imports all the others.
The modes differ in nothing but ``MODES`` (in ``ases.config``): which sub-models there are, and
which roles each of them writes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from fractions import Fraction
from functools import partial
from typing import Any

import torch

from ases.answers import parse_answer
from ases.config import CHAIN, MODES, ModelConfig, Recipe, SegmentationSettings
from ases.data import Example, split_examples
from ases.decoding import STOPS, Chain, Search, SecondTry, SegmentWriter, generate_chains
from ases.entropy import chain_entropies
from ases.metrics import role_agreement, score
from ases.model import EncoderDecoder
from ases.pairs import Row, Segmented, encode_question, rows_by_model
from ases.segmentation import (
    AS,
    ES,
    entropy_labels,
    interleaved_labels,
    make_segments,
    piece_entropies,
    split_pieces,
)
from ases.settings import complaints
from ases.tokenizer import Tokenizer
from ases.training import Watcher, fit, randomness, usable_device

#: "train", "validation" and "test", and "longer" where there is one
Splits = dict[str, list[Example]]
SPLITS = ("train", "validation")  # what training needs


# --- cut and label -------------------------------------------------------------------------------


@dataclass
class Scorer:
    """A direct model, whose token entropies label pieces."""

    model: EncoderDecoder
    tokenizer: Tokenizer
    max_question: int = 1024


def segment(
    examples: Sequence[Example],
    settings: SegmentationSettings = SegmentationSettings(),
    scorer: Scorer | None = None,
) -> list[Segmented]:
    """Pieces, labels and segments of each chain (Figure 2 of the paper).

    Raises:
        ValueError: what is given are no examples; a setting that may not be so; labels by entropy
            are asked for without a scorer.
    """
    _check_examples(examples)
    _check_settings(settings)
    pieces = [split_pieces(e.answer) for e in examples]
    if settings.segmentation == "interleave":
        entropies: list = [None] * len(examples)
        of_tokens: list = entropies
        labels = [interleaved_labels(len(p)) for p in pieces]
    elif scorer is None:
        raise ValueError("labels by entropy without a scorer; expected a direct model")
    else:
        questions = [e.question for e in examples]
        context, limit = settings.entropy_context, scorer.max_question
        of_tokens = chain_entropies(
            scorer.model, scorer.tokenizer, questions, pieces, context, limit
        )
        entropies = [piece_entropies(tokens, settings.gamma) for tokens in of_tokens]
        labels = [entropy_labels(values, settings.beta) for values in entropies]

    segments = [make_segments(p, found, settings.merge) for p, found in zip(pieces, labels)]
    return [
        Segmented(*row) for row in zip(examples, pieces, labels, segments, entropies, of_tokens)
    ]


def agreement(segmented: Sequence[Segmented]) -> dict | None:
    """Precision, recall, F1 of each role against the true roles; None where the data has none."""
    known = [s for s in segmented if s.example.gold]
    if not known:
        return None
    gold = [[role for role, _ in s.example.gold] for s in known]
    return role_agreement(gold, [s.labels for s in known])


# --- train ---------------------------------------------------------------------------------------


def train(
    examples: Sequence[Example] | Splits,
    recipe: Recipe,
    watcher: Watcher | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    scorer: Scorer | None = None,
    initial: Callable[[], EncoderDecoder] | None = None,
    cut: Callable[[Sequence[Example]], list[Segmented]] | None = None,
) -> "ChainWriter":
    """Train the sub-models of ``recipe.mode``.

    Args:
        examples: the splits "train" and "validation"; or a list, which is then split by question.
        watcher: told of everything while it happens.
        tokenizer: one to use; without it, one is trained on the training split.
        scorer: for labels by entropy; without it, a direct model is trained first, with as large a
            budget again.
        initial: makes the model that each sub-model starts as; without it, one of
            ``recipe.model``'s shape with random weights.
        cut: cuts and labels chains in another way than ``segment`` does.
    Raises:
        ValueError: a setting that may not be so, too few different questions, too long a chain,
            a sub-model without pairs, no budget, or gradients that are switched off.
        FloatingPointError: a loss or gradients that are not finite.
    """
    _check_settings(recipe)
    _check_settings(recipe.segmentation, recipe.training)
    usable_device(recipe.training.device)
    if not torch.is_grad_enabled():
        raise ValueError("gradients are switched off (no_grad); expected them on")
    if isinstance(examples, dict):
        splits = examples
        for name in SPLITS:
            _check_examples(splits.get(name))
            if not splits[name]:
                raise ValueError(f"no examples in {name!r}; expected at least one")
    else:
        _check_examples(examples)
        splits = split_examples(examples, recipe.training.seed)
    if tokenizer is None:
        tokenizer = Tokenizer.train(training_texts(splits), recipe.vocab_size)
    check_lengths(splits, tokenizer, recipe.max_chain)
    if initial is None:
        initial = _random_model(recipe, tokenizer)
    reports: dict[str, dict] = {}

    by_entropy = recipe.mode != "direct" and recipe.segmentation.segmentation == "entropy"
    if by_entropy and not scorer and not cut:
        scorer = _train_scorer(splits, recipe, tokenizer, initial, watcher, reports)
    if cut is None:
        cut = partial(segment, settings=recipe.segmentation, scorer=scorer)
    segmented = {name: cut(splits[name]) for name in SPLITS}
    rows = {name: _rows(recipe, recipe.mode, segmented[name], tokenizer) for name in SPLITS}
    recipe = _with_decoding_limits(recipe, rows["train"], segmented["train"])
    if watcher:
        watcher.planned(recipe)
    models = _fit_all(recipe, rows, initial, watcher, reports)
    return ChainWriter(recipe, tokenizer, models, reports)


def training_texts(splits: Splits) -> list[str]:
    """Questions and answers of the training split: all that a tokenizer may learn from."""
    return [text for example in splits["train"] for text in (example.question, example.answer)]


def _check_settings(*parts: Any) -> None:
    for part in parts:
        if not is_dataclass(part):
            raise ValueError(f"{part!r:.80} in place of settings; expected a Recipe or its parts")
    if wrong := [complaint for part in parts for complaint in complaints(part)]:
        raise ValueError(" | ".join(wrong))


def _check_examples(examples: object) -> None:
    if not isinstance(examples, (list, tuple)) or not all(
        isinstance(e, Example) and isinstance(e.question, str) and isinstance(e.answer, str)
        for e in examples
    ):
        raise ValueError("expected a list of Example(id, question, answer), all of them texts")


def check_lengths(splits: Splits, tokenizer: Tokenizer, limit: int) -> None:
    """Attention's memory grows with the square of a chain's length.

    Raises:
        ValueError: one is longer than ``limit``.
    """
    for name in SPLITS:
        for example in splits[name]:
            if len(example.answer.encode()) < limit:  # it has no more tokens than bytes
                continue
            n = len(tokenizer.encode(example.answer))
            if n > limit:
                told = f"{example.id}: a chain of {n} tokens; expected at most {limit}"
                raise ValueError(f"{told}: shorten it, leave it out, or raise Recipe.max_chain")


def _rows(
    recipe: Recipe, mode: str, segmented: Sequence[Segmented], tokenizer: Tokenizer
) -> dict[str, list[Row]]:
    return rows_by_model(mode, segmented, tokenizer, recipe.encoder, recipe.max_question)


def _random_model(recipe: Recipe, tokenizer: Tokenizer) -> Callable[[], EncoderDecoder]:
    unknown = set(recipe.model) - {f.name for f in fields(ModelConfig)}
    if unknown:
        raise ValueError(f"model: no field {min(unknown)!r}; expected those of ModelConfig")
    # A bidirectional encoder is the paper's and T5's, and knows where a context ends.
    shape: dict = {"start_from_state": recipe.encoder == "block-causal"} | recipe.model
    config = ModelConfig(**{"vocab_size": tokenizer.vocab_size} | shape)
    if config.vocab_size < tokenizer.vocab_size:
        n = tokenizer.vocab_size
        raise ValueError(f"model: vocab_size is {config.vocab_size}; the tokenizer has {n} ids")

    def make() -> EncoderDecoder:
        with randomness({"seed": recipe.training.seed}):
            return EncoderDecoder(config)

    return make


def _train_scorer(
    splits: Splits,
    recipe: Recipe,
    tokenizer: Tokenizer,
    initial: Callable[[], EncoderDecoder],
    watcher: Watcher | None,
    reports: dict[str, dict],
) -> Scorer:
    """A direct model with the recipe's whole budget; ``reports`` takes what fit says."""
    rows = {
        name: {"scorer": _rows(recipe, "direct", segment(splits[name]), tokenizer)["direct"]}
        for name in SPLITS
    }
    models = _fit_all(recipe, rows, initial, watcher, reports)
    return Scorer(models["scorer"], tokenizer, recipe.max_question)


def _fit_all(
    recipe: Recipe,
    rows: dict[str, dict[str, list[Row]]],
    initial: Callable[[], EncoderDecoder],
    watcher: Watcher | None,
    reports: dict[str, dict],
) -> dict[str, EncoderDecoder]:
    """Train each sub-model with an equal share of the budget; ``reports`` takes what fit says."""
    budget, n = recipe.training, len(rows["train"])
    share = replace(
        budget,
        max_steps=budget.max_steps and -(-budget.max_steps // n),  # rounded up
        max_minutes=budget.max_minutes and budget.max_minutes / n,
    )
    for name in rows["train"]:
        counts = [len(rows[split][name]) for split in SPLITS]
        if 0 in counts:
            raise ValueError(
                f"{name}: {counts[0]} training and {counts[1]} validation rows; "
                "expected some of each: try another --beta or --segmentation"
            )
    models = {}
    for name in rows["train"]:
        models[name] = initial()
        train_rows, validation_rows = (rows[split][name] for split in SPLITS)
        reports[name] = fit(name, models[name], train_rows, validation_rows, share, watcher)
        reports[name]["rows"] = len(train_rows)
    return models


def _with_decoding_limits(
    recipe: Recipe, rows: dict[str, list[Row]], segmented: Sequence[Segmented]
) -> Recipe:
    """Limits where none were given: twice the longest target and chain in training [ours]."""
    targets = [target for own in rows.values() for row in own for target in row.targets]
    longest_target = max(map(len, targets), default=1)
    longest_chain = 1
    if recipe.mode != "direct":
        longest_chain = 2 * max(len(s.segments) for s in segmented)
    return replace(
        recipe,
        max_tokens=recipe.max_tokens or 2 * longest_target,
        max_rounds=recipe.max_rounds or longest_chain,
    )


# --- write and score -----------------------------------------------------------------------------


@dataclass(frozen=True)
class WrittenChain:
    """A chain of thought that a model wrote, as text.

    ``segments`` are (role, text), with role "ES" or "AS", or "CHAIN" for a direct model's only one;
    ``stop`` is one of ``ases.decoding.STOPS``.
    """

    text: str
    segments: list[tuple[str, str]]
    stop: str

    @property
    def roles(self) -> list[str]:
        """The role of each segment."""
        return [role for role, _ in self.segments]

    @property
    def number(self) -> Fraction | None:
        """What the chain states as its answer; None where it states no number."""
        return parse_answer(self.text)


@dataclass
class ChainWriter:
    """The trained sub-models of a mode, with all that they need to write chains of thought."""

    recipe: Recipe  # with max_tokens and max_rounds set
    tokenizer: Tokenizer
    models: dict[str, EncoderDecoder]  # by sub-model: "usm", or "esm" and "asm", or "direct"
    reports: dict[str, dict] = field(default_factory=dict)  # what ``fit`` said of each

    @property
    def by_role(self) -> dict[str, EncoderDecoder]:
        """The model that writes each role."""
        return {
            role: self.models[name]
            for name, roles in MODES[self.recipe.mode].items()
            for role in roles
        }

    def answer(self, question: str, search: Search | None = None) -> WrittenChain:
        """The chain for one question."""
        return self.write([question], search)[0]

    def write(
        self,
        questions: Sequence[str],
        search: Search | None = None,
        batch_tokens: int = 65536,
        finished: Callable[[int], None] | None = None,
        second_try: SecondTry | None = None,
    ) -> list[WrittenChain]:
        """A chain for each question, in batches of like length, greedy by default.

        Args:
            search: how a segment is written.
            batch_tokens: bounds a batch: as many source tokens, twice over for what is to come.
            finished: told after each round how many chains it has finished.
            second_try: how a segment is written again that was cut at its limit or repeats the one
                before; None lets the chain stop there.
        Raises:
            ValueError: what is given is no list of texts.
        """
        if not isinstance(questions, (list, tuple)) or not all(
            isinstance(q, str) for q in questions
        ):
            raise ValueError("expected a list of questions, all of them texts")
        for model in self.models.values():
            model.eval()
        recipe, tokenizer = self.recipe, self.tokenizer
        ids = [encode_question(q, tokenizer, recipe.max_question)[0] for q in questions]
        roles = (CHAIN,) if recipe.mode == "direct" else (ES, AS)

        chains: dict[int, WrittenChain] = {}
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        while order:
            n = max(1, batch_tokens // (2 * len(ids[order[-1]]) + 2))
            batch, order = order[-n:], order[:-n]
            writer = SegmentWriter(
                self.by_role, tokenizer, recipe.max_tokens, recipe.encoder, search, second_try
            )
            batch_ids = [ids[i] for i in batch]
            written = generate_chains(
                writer, batch_ids, tokenizer, roles, recipe.max_rounds, finished
            )
            chains.update(zip(batch, map(self.as_text, written)))
        return [chains[i] for i in range(len(ids))]

    def as_text(self, chain: Chain) -> WrittenChain:
        """A chain of ids, decoded."""
        decode = self.tokenizer.decode
        # The text is decoded whole, for two segments may share a character's bytes.
        text = decode([i for _, ids in chain.segments for i in ids])
        return WrittenChain(text, [(role, decode(ids)) for role, ids in chain.segments], chain.stop)

    def cut_questions(self, questions: Sequence[str]) -> int:
        """How many questions are too long and lose their middle."""
        limit = self.recipe.max_question
        return sum(encode_question(q, self.tokenizer, limit)[1] > 0 for q in questions)


def score_chains(task: str, examples: Sequence[Example], chains: Sequence[WrittenChain]) -> dict:
    """All scores of a test set, and beside them how the chains ended.

    Raises:
        ValueError: no chains, or not one for each example.
    """
    texts = [chain.text for chain in chains]
    stops = Counter(chain.stop for chain in chains)
    questions, answers = [e.question for e in examples], [e.answer for e in examples]
    return score(task, texts, answers, questions, [e.reference for e in examples]) | {
        "rounds_mean": sum(len(chain.segments) for chain in chains) / len(chains),
        "stop_reasons": {reason: stops[reason] / len(chains) for reason in STOPS},
    }
