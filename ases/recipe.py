"""The whole experiment, on objects: cut and label, train, write, score. No paths, no printing.

    splits = split_examples(examples, seed=0)
    writer = train(splits, Settings(mode="usm"))
    chains = writer.write([example.question for example in splits["test"]])
    results = score_chains("mwp", splits["test"], chains)

This is the method from end to end, so it is the first file to read, and it imports all the others.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial

from ases.data import Example, split_examples
from ases.decoding import STOPS, Chain, Search, SegmentWriter, generate_chains
from ases.entropy import chain_entropies
from ases.metrics import role_agreement, score
from ases.model import EncoderDecoder
from ases.pairs import Row, Segmented, encode_question, rows_by_model
from ases.segmentation import RULES, make_segments, piece_entropies, split_pieces
from ases.settings import MODES, SIZES, ModelConfig, Settings, complaints
from ases.tokenizer import Tokenizer
from ases.training import Training, Watcher, fit, randomness, usable_device

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
    examples: Sequence[Example], settings: Settings = Settings(), scorer: Scorer | None = None
) -> list[Segmented]:
    """Pieces, labels and segments of each chain (Figure 2 of the paper).

    Raises:
        ValueError: not a list of examples; an invalid setting; a rule that needs a scorer has none.
    """
    check(settings, examples)
    rule = RULES[settings.segmentation]
    pieces = [split_pieces(e.answer) for e in examples]
    of_tokens: list = [None] * len(examples)
    if rule.needs_entropy:
        if scorer is None:
            raise ValueError(f"{settings.segmentation!r} needs a scorer, a direct model")
        of_tokens = chain_entropies(
            scorer.model,
            scorer.tokenizer,
            [e.question for e in examples],
            pieces,
            settings.entropy_context,
            scorer.max_question,
        )
    segmented = []
    for example, own, tokens in zip(examples, pieces, of_tokens):
        labels = rule.label(own, tokens, settings)
        segments = make_segments(own, labels, settings.merge)
        entropies = tokens and piece_entropies(tokens, settings.gamma)
        segmented.append(Segmented(example, own, labels, segments, entropies, tokens))
    return segmented


def agreement(segmented: Sequence[Segmented]) -> dict | None:
    """Precision, recall, F1 of each role against the true roles; None where the data has none."""
    known = [s for s in segmented if s.example.gold]
    if not known:
        return None
    gold = [[role for role, _ in s.example.gold] for s in known]
    return role_agreement(gold, [s.labels for s in known])


def check(settings: Settings, examples: object = ()) -> None:
    """
    Raises:
        ValueError: an invalid setting; not a list of examples.
    """
    if not isinstance(settings, Settings):
        raise ValueError(f"{settings!r:.80}; expected Settings")
    if wrong := complaints(settings):
        raise ValueError(" | ".join(wrong))
    if not isinstance(examples, (list, tuple)) or not all(
        isinstance(e, Example) and isinstance(e.question, str) and isinstance(e.answer, str)
        for e in examples
    ):
        raise ValueError("expected a list of Example(id, question, answer)")


# --- train ---------------------------------------------------------------------------------------


def train(
    examples: Sequence[Example] | Splits,
    settings: Settings,
    watcher: Watcher | None = None,
    *,
    tokenizer: Tokenizer | None = None,
    scorer: Scorer | None = None,
    initial: Callable[[], EncoderDecoder] | None = None,
    cut: Callable[[Sequence[Example]], list[Segmented]] | None = None,
) -> "Writer":
    """Train the sub-models of ``settings.mode``.

    Args:
        examples: the splits "train" and "validation"; or a list, to be split by question.
        watcher: watches each training; by default, it shows a bar.
        tokenizer: by default, trained on the training split.
        scorer: for labels by entropy; by default, a direct model trained first, with the same
            budget again.
        initial: makes the model that each sub-model starts as; by default, random weights.
        cut: cuts and labels chains in place of ``segment``.
    Raises:
        ValueError: an invalid setting, too few questions, too long a chain, a sub-model without
            pairs.
        FloatingPointError: a loss or gradients that are not finite.
    """
    check(settings)
    usable_device(settings.device)
    if isinstance(examples, dict):
        splits = examples
    else:
        check(settings, examples)
        splits = split_examples(examples, settings.seed)
    for name in SPLITS:
        check(settings, splits.get(name))
        if not splits[name]:
            raise ValueError(f"no examples in {name!r}; expected at least one")
    tokenizer = tokenizer or Tokenizer.train(training_texts(splits), settings.vocab_size)
    check_lengths(splits, tokenizer, settings.max_chain)
    initial = initial or _random_model(settings, tokenizer)
    watcher = watcher or Watcher()
    reports: dict[str, dict] = {}

    def rows_of(mode: str, segmented: Sequence[Segmented]) -> dict[str, list[Row]]:
        return rows_by_model(mode, segmented, tokenizer, settings.encoder, settings.max_question)

    needs_entropy = settings.mode != "direct" and RULES[settings.segmentation].needs_entropy
    if needs_entropy and not scorer and not cut:
        direct = [rows_of("direct", segment(splits[name]))["direct"] for name in SPLITS]
        own, others = ({"scorer": rows} for rows in direct)
        model = _fit_all(settings, own, others, initial, watcher, reports)["scorer"]
        scorer = Scorer(model, tokenizer, settings.max_question)
    cut = cut or partial(segment, settings=settings, scorer=scorer)
    segmented, validation = (cut(splits[name]) for name in SPLITS)
    rows, others = rows_of(settings.mode, segmented), rows_of(settings.mode, validation)
    settings = _with_decoding_limits(settings, rows, segmented)
    models = _fit_all(settings, rows, others, initial, watcher, reports)
    return Writer(settings, tokenizer, models, reports)


def training_texts(splits: Splits) -> list[str]:
    """Questions and answers of the training split: all that a tokenizer may learn from."""
    return [text for example in splits["train"] for text in (example.question, example.answer)]


def check_lengths(splits: Splits, tokenizer: Tokenizer, limit: int) -> None:
    """
    Raises:
        ValueError: a chain is too long: attention's memory grows with the square.
    """
    for name in SPLITS:
        for example in splits[name]:
            if len(example.answer.encode()) < limit:  # it has no more tokens than bytes
                continue
            n = len(tokenizer.encode(example.answer))
            if n > limit:
                told = f"{example.id}: a chain of {n} tokens; expected at most {limit}"
                raise ValueError(f"{told}: shorten it, leave it out, or raise max_chain")


def _random_model(settings: Settings, tokenizer: Tokenizer) -> Callable[[], EncoderDecoder]:
    unknown = set(settings.model) - {f.name for f in fields(ModelConfig)}
    if unknown:
        raise ValueError(f"model: no field {min(unknown)!r}; expected those of ModelConfig")
    own = {"vocab_size": tokenizer.vocab_size, "dropout_rate": settings.dropout}
    # A bidirectional encoder is the paper's and T5's, and knows where a context ends.
    own["start_from_state"] = settings.encoder == "block-causal"
    config = ModelConfig(**own | SIZES[settings.size] | settings.model)
    if config.vocab_size < tokenizer.vocab_size:
        n = tokenizer.vocab_size
        raise ValueError(f"model: vocab_size is {config.vocab_size}; the tokenizer has {n} ids")

    def make() -> EncoderDecoder:
        with randomness({"seed": settings.seed}):
            return EncoderDecoder(config)

    return make


def _with_decoding_limits(
    settings: Settings, rows: dict[str, list[Row]], segmented: Sequence[Segmented]
) -> Settings:
    """Where no limits are set: twice the longest target and chain in training [ours]."""
    lengths = [len(pair.target) for own in rows.values() for row in own for pair in row]
    rounds = 1
    if settings.mode != "direct":
        rounds = 2 * max(len(s.segments) for s in segmented)
    return replace(
        settings,
        max_tokens=settings.max_tokens or 2 * max(lengths, default=1),
        max_rounds=settings.max_rounds or rounds,
    )


def _fit_all(
    settings: Settings,
    rows: dict[str, list[Row]],
    validation: dict[str, list[Row]],
    initial: Callable[[], EncoderDecoder],
    watcher: Watcher,
    reports: dict[str, dict],
) -> dict[str, EncoderDecoder]:
    """Train each sub-model with an equal part of the budget; ``reports`` takes their summaries."""
    for name in rows:
        if not rows[name] or not validation[name]:
            raise ValueError(
                f"{name}: {len(rows[name])} training and {len(validation[name])} validation rows; "
                "expected some of each: try another --beta or --segmentation"
            )
    models = {}
    for name in rows:
        training = Training(name, initial(), settings, parts=len(rows))
        watcher.start(training)
        for report in fit(training, rows[name], validation[name]):
            watcher.record(training, report)
        models[name] = training.model
        reports[name] = training.summary() | {"rows": len(rows[name])}
    return models


# --- write and score -----------------------------------------------------------------------------


@dataclass
class Writer:
    """The trained sub-models of a mode, with all they need to write chains of thought."""

    settings: Settings  # with max_tokens and max_rounds
    tokenizer: Tokenizer
    models: dict[str, EncoderDecoder]  # "usm", or "esm" and "asm", or "direct"
    reports: dict[str, dict] = field(default_factory=dict)  # summary of each training

    @property
    def by_role(self) -> dict[str, EncoderDecoder]:
        """The model that writes each role, in the order of turns."""
        return {
            role: self.models[name]
            for name, roles in MODES[self.settings.mode].items()
            for role in roles
        }

    def answer(self, question: str, search: Search | None = None) -> Chain:
        """The chain for one question."""
        return self.write([question], search)[0]

    def write(
        self,
        questions: Sequence[str],
        search: Search | None = None,
        batch_tokens: int = 65536,
        finished: Callable[[int], None] | None = None,
        second_try: Search | None = None,
    ) -> list[Chain]:
        """A chain for each question, in batches of like length; greedy by default.

        Args:
            batch_tokens: bounds a batch: its source tokens, twice over for what is to come.
            search, second_try: as for ``SegmentWriter``.
            finished: as for ``generate_chains``.
        Raises:
            ValueError: not a list of texts.
        """
        if not isinstance(questions, (list, tuple)) or not all(
            isinstance(q, str) for q in questions
        ):
            raise ValueError("expected a list of questions, each a text")
        for model in self.models.values():
            model.eval()
        settings, tokenizer = self.settings, self.tokenizer
        ids = [encode_question(q, tokenizer, settings.max_question)[0] for q in questions]

        chains: dict[int, Chain] = {}
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        while order:  # the longest first
            n = max(1, batch_tokens // (2 * len(ids[order[-1]]) + 2))
            batch, order = order[-n:], order[:-n]
            write = SegmentWriter(
                self.by_role, tokenizer, settings.encoder, settings.max_tokens, search, second_try
            )
            of_batch, roles = [ids[i] for i in batch], list(self.by_role)
            written = generate_chains(
                write, of_batch, tokenizer, roles, settings.max_rounds, finished
            )
            chains.update(zip(batch, written))
        return [chains[i] for i in range(len(ids))]

    def cut_questions(self, questions: Sequence[str]) -> int:
        """How many questions are too long and lose their middle."""
        limit = self.settings.max_question
        return sum(encode_question(q, self.tokenizer, limit)[1] > 0 for q in questions)


def score_chains(task: str, examples: Sequence[Example], chains: Sequence[Chain]) -> dict:
    """All scores of a test set, and how its chains ended.

    Raises:
        ValueError: no chains, or not one for each example.
    """
    texts = [chain.text for chain in chains]
    stops = Counter(chain.stop for chain in chains)
    questions, answers = [e.question for e in examples], [e.answer for e in examples]
    return score(task, texts, answers, questions, [e.reference for e in examples]) | {
        "rounds_mean": sum(len(chain.ids) for chain in chains) / len(chains),
        "stop_reasons": {reason: stops[reason] / len(chains) for reason in STOPS},
    }
