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

from ases.data import Example, InputError, split_examples
from ases.decoding import Chain, Search, SegmentWriter, generate_chains
from ases.entropy import chain_entropies
from ases.metrics import role_agreement, score
from ases.model import EncoderDecoder
from ases.pairs import Row, Segmented, encode_question, rows_by_model
from ases.segmentation import RULES, make_segments, piece_entropies, split_pieces
from ases.settings import MODES, SIZES, STOPS, ModelConfig, Settings, complaints
from ases.tokenizer import Tokenizer
from ases.training import Training, Watcher, check_rows, fit, randomness, usable_device

#: "train", "validation" and "test", and "longer" where there is one
Splits = dict[str, list[Example]]
SPLITS = ("train", "validation")  # what training needs


# --- cut and label -------------------------------------------------------------------------------
def segment(
    examples: Sequence[Example], settings: Settings = Settings(), scorer: "Writer | None" = None
) -> list[Segmented]:
    """Pieces, labels and segments of each chain (Figure 2 of the paper). ``scorer``: of mode
    "direct"; its token entropies label pieces."""
    check(settings, examples)
    rule = RULES[settings.segmentation]
    pieces = [split_pieces(e.answer) for e in examples]
    of_tokens: list = [None] * len(examples)
    if rule.needs_entropy:
        if scorer is None:
            raise ValueError(f"{settings.segmentation!r} needs a scorer, a direct model")
        of_tokens = chain_entropies(
            scorer.models["direct"],
            scorer.tokenizer,
            [e.question for e in examples],
            pieces,
            settings.entropy_context,
            scorer.settings.max_question,
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
    gold = [[role for role, _ in s.example.gold] for s in known]
    return role_agreement(gold, [s.labels for s in known]) if known else None


def check(settings: Settings, examples: object) -> None:
    """Raise a ValueError for an invalid setting, or for what is no list of examples."""
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
    scorer: "Writer | None" = None,
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
    if not isinstance(examples, dict):
        check(settings, examples)
        examples = split_examples(examples, settings.seed)
    splits: Splits = examples
    for name in SPLITS:
        check(settings, splits.get(name))
        if not splits[name]:
            raise ValueError(f"no examples in {name!r}; expected at least one")
    usable_device(settings.device)
    tokenizer = tokenizer or Tokenizer.train(training_texts(splits), settings.vocab_size)
    check_lengths(splits, tokenizer, settings.max_chain)
    initial = initial or _random_model(settings, tokenizer)
    watcher = watcher or Watcher()
    reports: dict[str, dict] = {}

    def rows_of(mode: str, segmented: Sequence[Segmented]) -> dict[str, list[Row]]:
        return rows_by_model(mode, segmented, tokenizer, settings.encoder, settings.max_question)

    def fit_all(rows: dict[str, list[Row]], validation: dict[str, list[Row]]) -> dict:
        """Train each sub-model with an equal part of the budget."""
        for name in rows:
            check_rows(name, rows[name], validation[name])
        models = {}
        for name in rows:
            training = Training(name, initial(), settings, parts=len(rows))
            watcher.start(training)
            for report in fit(training, rows[name], validation[name]):
                watcher.record(training, report)
            models[name] = training.model
            reports[name] = training.summary() | {"rows": len(rows[name])}
        return models

    needs_entropy = settings.mode != "direct" and RULES[settings.segmentation].needs_entropy
    if needs_entropy and not scorer and not cut:
        direct = [rows_of("direct", segment(splits[name]))["direct"] for name in SPLITS]
        model = fit_all(*({"scorer": rows} for rows in direct))["scorer"]
        scorer = Writer(replace(settings, mode="direct"), tokenizer, {"direct": model})
    cut = cut or partial(segment, settings=settings, scorer=scorer)
    segmented, validation = (cut(splits[name]) for name in SPLITS)
    rows = rows_of(settings.mode, segmented)

    # Where no limits are set: twice the longest target and chain in training [ours].
    pairs = [pair for own in rows.values() for row in own for pair in row]
    tokens = 2 * max((len(pair.target) for pair in pairs), default=1)
    rounds = 1 if settings.mode == "direct" else 2 * max(len(s.segments) for s in segmented)
    tokens, rounds = settings.max_tokens or tokens, settings.max_rounds or rounds
    settings = replace(settings, max_tokens=tokens, max_rounds=rounds)
    models = fit_all(rows, rows_of(settings.mode, validation))
    return Writer(settings, tokenizer, models, reports)


def training_texts(splits: Splits) -> list[str]:
    """Questions and answers of the training split: all that a tokenizer may learn from."""
    return [text for example in splits["train"] for text in (example.question, example.answer)]


def check_lengths(splits: Splits, tokenizer: Tokenizer, limit: int) -> None:
    """Raise if a chain is too long: attention's memory grows with the square."""
    for example in (example for name in SPLITS for example in splits[name]):
        if len(example.answer.encode()) < limit:
            continue  # it has no more tokens than bytes
        n = len(tokenizer.encode(example.answer))
        if n > limit:
            told = f"{example.id}: a chain of {n} tokens; expected at most {limit}"
            raise InputError(f"{told}: shorten it, leave it out, or raise max_chain")


def _random_model(settings: Settings, tokenizer: Tokenizer) -> Callable[[], EncoderDecoder]:
    if unknown := set(settings.model) - {f.name for f in fields(ModelConfig)}:
        raise ValueError(f"model: no field {min(unknown)!r}; expected those of ModelConfig")
    n = tokenizer.vocab_size
    # A bidirectional encoder is the paper's and T5's, and knows where a context ends.
    given: dict = dict(vocab_size=n, start_from_state=settings.encoder == "block-causal")
    given |= SIZES[settings.size] | dict(dropout_rate=settings.dropout) | settings.model
    config = ModelConfig(**given)
    if config.vocab_size < n:
        raise ValueError(f"model: vocab_size is {config.vocab_size}; the tokenizer has {n} ids")

    def make() -> EncoderDecoder:
        with randomness({"seed": settings.seed}):
            return EncoderDecoder(config)

    return make


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
        modes = MODES[self.settings.mode].items()
        return {role: self.models[name] for name, roles in modes for role in roles}

    def answer(self, question: str, search: Search | None = None) -> Chain:
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
        """
        a_list = isinstance(questions, (list, tuple))
        if not a_list or not all(isinstance(q, str) for q in questions):
            raise ValueError("expected a list of questions, each a text")
        for model in self.models.values():
            model.eval()
        settings, tokenizer, models = self.settings, self.tokenizer, self.by_role
        ids = [encode_question(q, tokenizer, settings.max_question)[0] for q in questions]

        chains: dict[int, Chain] = {}
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        while order:  # the longest first
            n = max(1, batch_tokens // (2 * len(ids[order[-1]]) + 2))
            batch, order = order[-n:], order[:-n]
            limits, of_batch = (settings.encoder, settings.max_tokens), [ids[i] for i in batch]
            write = SegmentWriter(models, tokenizer, *limits, search, second_try)
            written = generate_chains(
                write, of_batch, tokenizer, list(models), settings.max_rounds, finished
            )
            chains.update(zip(batch, written))
        return [chains[i] for i in range(len(ids))]

    def cut_questions(self, questions: Sequence[str]) -> int:
        """How many questions are too long and lose their middle."""
        limit = self.settings.max_question
        return sum(encode_question(q, self.tokenizer, limit)[1] > 0 for q in questions)


def score_chains(task: str, examples: Sequence[Example], chains: Sequence[Chain]) -> dict:
    """All scores of a test set, and how its chains ended."""
    texts = [chain.text for chain in chains]
    stops = Counter(chain.stop for chain in chains)
    questions, answers = [e.question for e in examples], [e.answer for e in examples]
    return score(task, texts, answers, questions, [e.reference for e in examples]) | {
        "rounds_mean": sum(len(chain.ids) for chain in chains) / len(chains),
        "stop_reasons": {reason: stops[reason] / len(chains) for reason in STOPS},
    }
