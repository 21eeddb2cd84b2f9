"""The whole experiment in memory: segment, train, write, score.

    splits = split_examples(examples, seed=0)
    writer = train(splits, Settings(mode="usm"))
    chains = writer.write([example.question for example in splits["test"]])
    results = score_chains("mwp", splits["test"], chains)

Read this file after docs/minimal.py: it is the method from end to end.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch

from ases.data import Example, InputError, has_surrogate, rough_length, split_examples
from ases.decoding import Chain, SegmentWriter, generate_chains
from ases.entropy import chain_entropies
from ases.extra.beam import beam_search
from ases.metrics import score
from ases.model import EncoderDecoder
from ases.pairs import Row, Segmented, encode_question, rows_by_model
from ases.segmentation import RULES, make_segments, piece_entropies, split_pieces
from ases.settings import MODES, SIZES, STOPS, ModelConfig, Settings, complaints
from ases.tokenizer import Tokenizer
from ases.training import Training, Watcher, fit, one_thread_if_small, separate_rng, usable_device

#: "train", "validation", "test", and for some tasks "longer"
Splits = dict[str, list[Example]]
FITTED = ("train", "validation")  # the splits that training sees


# --- segment -------------------------------------------------------------------------------------
def segment(
    examples: Sequence[Example], settings: Settings = Settings(), scorer: "Writer | None" = None
) -> list[Segmented]:
    """Cut chains into labelled segments (Figure 2 of the paper). ``scorer``: a direct-mode Writer,
    needed for labels by entropy."""
    check(settings, examples)
    rule = RULES[settings.segmentation]
    pieces = [split_pieces(e.answer) for e in examples]
    of_tokens: list = [None] * len(examples)
    if rule.needs_entropy:
        if scorer is None:
            raise ValueError(f"{settings.segmentation!r} needs a scorer, a direct model")
        model, limit = scorer.models["direct"], scorer.settings.max_question
        questions, context = [e.question for e in examples], settings.entropy_context
        with one_thread_if_small(model):
            of_tokens = chain_entropies(model, scorer.tokenizer, questions, pieces, context, limit)
    segmented = []
    for example, cut, h in zip(examples, pieces, of_tokens):
        labels = rule.label(cut, h, settings)
        segments = make_segments(cut, labels, settings.merge)
        entropies = None if h is None else piece_entropies(h, settings.gamma)
        segmented.append(Segmented(example, cut, labels, segments, entropies, h))
    return segmented


def check(settings: Settings, examples: object) -> None:
    """Raise ValueError for an invalid setting, or if ``examples`` is not a list of examples."""
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
        examples: the splits "train" and "validation", or a list to split by question.
        watcher: follows each sub-model's training; by default, shows a progress bar.
        tokenizer: by default, trained on the training split.
        scorer: for labels by entropy; by default, a direct model, trained first on a full budget.
        initial: makes each sub-model's starting model; by default, with random weights.
        cut: replaces ``segment``.
    Raises:
        ValueError: an invalid setting, too few questions or pairs, a chain too long.
        FloatingPointError: a non-finite loss or gradient norm.
    """
    splits = _checked_splits(examples, settings)
    for path, loaded in ((settings.scorer, scorer), (settings.init, initial)):
        if path and not loaded:
            raise ValueError(f"{path} is not loaded; pass scorer= or initial=")
    settings = replace(settings, device=usable_device(settings.device))
    tokenizer = tokenizer or Tokenizer.train(training_texts(splits), settings.vocab_size)
    initial = initial or _random_model(settings, tokenizer)
    watcher = watcher or Watcher()
    encoding = tokenizer, settings.encoder, settings.max_question
    reports: dict[str, dict] = {}

    # 1. Chains to labelled segments.
    needs_entropy = settings.mode != "direct" and RULES[settings.segmentation].needs_entropy
    if needs_entropy and not scorer and not cut:
        # A direct pair has the whole chain, whatever the labels.
        rows, validation_rows = (
            {"scorer": rows_by_model("direct", segment(splits[name]), *encoding)["direct"]}
            for name in FITTED
        )
        models, reports = _fit_all(rows, validation_rows, settings, tokenizer, initial, watcher)
        scorer = Writer(replace(settings, mode="direct"), tokenizer, {"direct": models["scorer"]})
    cut = cut or partial(segment, settings=settings, scorer=scorer)
    segmented, validation = (cut(splits[name]) for name in FITTED)

    # 2. Segments to rows of each sub-model.
    rows = rows_by_model(settings.mode, segmented, *encoding)
    validation_rows = rows_by_model(settings.mode, validation, *encoding)
    for name in rows:
        n, m = len(rows[name]), len(validation_rows[name])
        if not n or not m:
            message = f"{name}: {n} training and {m} validation rows; expected some of each"
            raise InputError(f"{message}: try another --beta or --segmentation, or longer chains")

    # 3. Rows to models.
    settings = _with_limits(settings, rows, segmented)
    models, more = _fit_all(rows, validation_rows, settings, tokenizer, initial, watcher)
    return Writer(settings, tokenizer, models, reports | more)


def _fit_all(
    rows: dict[str, list[Row]],
    validation: dict[str, list[Row]],
    settings: Settings,
    tokenizer: Tokenizer,
    initial: Callable[[], EncoderDecoder],
    watcher: Watcher,
) -> tuple[dict[str, EncoderDecoder], dict[str, dict]]:
    """Train sub-models one after the other, each on an equal share of the budget. Returns the
    models and their training summaries, by name."""
    models, reports = {}, {}
    for name in rows:
        training = Training(name, initial(), settings, parts=len(rows))
        check_same_eos(training.model, tokenizer, name)
        watcher.start(training)
        with one_thread_if_small(training.model):
            for report in fit(training, rows[name], validation[name]):
                watcher.record(training, report)
        models[name] = training.model
        reports[name] = training.summary() | {"rows": len(rows[name])}
    return models, reports


def _checked_splits(examples: Sequence[Example] | Splits, settings: Settings) -> Splits:
    if not torch.is_grad_enabled():
        raise ValueError("gradients are off (torch.no_grad or inference_mode); train outside of it")
    if not isinstance(examples, dict):
        check(settings, examples)
        examples = split_examples(examples, settings.seed)
    limit = settings.max_chain  # attention's memory is quadratic
    for name in FITTED:
        if not examples.get(name):
            raise ValueError(f"no examples in {name!r}; expected at least one")
        check(settings, examples[name])
        for e in examples[name]:
            if len(e.answer) > limit and (n := rough_length(e.answer)) > limit:
                message = f"{e.id}: a chain of about {n} tokens; expected at most {limit}"
                raise InputError(f"{message}; shorten it, leave it out or raise max_chain")
    return examples


def _with_limits(
    settings: Settings, rows: dict[str, list[Row]], segmented: Sequence[Segmented]
) -> Settings:
    """By default, twice the most target tokens and segments seen in training (not in the paper)."""
    pairs = [pair for of_model in rows.values() for row in of_model for pair in row]
    tokens = 2 * max(len(pair.target) for pair in pairs)
    rounds = 1 if settings.mode == "direct" else 2 * max(len(s.segments) for s in segmented)
    tokens, rounds = settings.max_tokens or tokens, settings.max_rounds or rounds
    return replace(settings, max_tokens=tokens, max_rounds=rounds)


def training_texts(splits: Splits) -> list[str]:
    """What a tokenizer is trained on: the training split's questions and answers."""
    return [text for example in splits["train"] for text in (example.question, example.answer)]


def check_same_eos(model: EncoderDecoder, tokenizer: Tokenizer, name: str) -> None:
    """Raise InputError if a model ends its texts with another token than its tokenizer."""
    theirs, ours = model.config.eos_token_id, tokenizer.eos_id
    if theirs != ours:
        raise InputError(f"{name}: eos_token_id is {theirs}; expected the tokenizer's, {ours}")


def _random_model(settings: Settings, tokenizer: Tokenizer) -> Callable[[], EncoderDecoder]:
    n = tokenizer.vocab_size
    # The tokens of a bidirectional encoder, the paper's and T5's, see where a context ends.
    given: dict = dict(vocab_size=n, start_from_state=settings.encoder == "block-causal")
    given |= SIZES[settings.size] | dict(dropout_rate=settings.dropout) | settings.model
    try:
        config = ModelConfig(**given)
    except (TypeError, ValueError) as error:  # TypeError: no such field
        raise InputError(f"model: {error}") from None
    if config.vocab_size < n:
        raise InputError(f"model: vocab_size is {config.vocab_size}; the tokenizer has {n} ids")

    def make() -> EncoderDecoder:
        with separate_rng({"seed": settings.seed}):
            return EncoderDecoder(config)

    return make


# --- write and score -----------------------------------------------------------------------------
@dataclass
class Writer:
    """The trained sub-models of a mode, ready to write chains of thought."""

    settings: Settings  # max_tokens and max_rounds are set
    tokenizer: Tokenizer
    models: dict[str, EncoderDecoder]  # "usm", or "esm" and "asm", or "direct"
    reports: dict[str, dict] = field(default_factory=dict)  # training summaries by name

    def answer(self, question: str, beams: int = 1, second_try: bool = False) -> Chain:
        """Write a chain for a question."""
        return self.write([question], beams, second_try)[0]

    def write(
        self,
        questions: Sequence[str],
        beams: int = 1,
        second_try: bool = False,
        on_finished: Callable[[int], object] = lambda n: None,
    ) -> list[Chain]:
        """Write a chain for each question, in batches of similar length.

        Args:
            beams: for beam search; 1 decodes greedily.
            second_try: decode segments that failed again, with 4 beams; see ``SegmentWriter``.
            on_finished: see ``generate_chains``.
        Raises ValueError: not a list of valid Unicode texts; no beams.
        """
        if not isinstance(questions, (list, tuple)):
            raise ValueError("expected a list of questions")
        for q in questions:
            if not isinstance(q, str) or not q.strip() or has_surrogate(q):
                raise ValueError(f"expected a question, a text in valid Unicode; got {q!a:.80}")
        if type(beams) is not int or beams < 1:
            raise ValueError(f"beams is {beams!r}; expected a whole number of at least 1")
        search = partial(beam_search, width=beams) if beams > 1 else None
        retry = beam_search if second_try else None
        s, tokenizer = self.settings, self.tokenizer
        models = {}  # by role, in the order of their turns
        for name, roles in MODES[s.mode].items():
            for role in roles:
                models[role] = self.models[name].eval()
        ids = [encode_question(q, tokenizer, s.max_question)[0] for q in questions]

        chains: dict[int, Chain] = {}
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        while order:  # longest first, in batches of at most 65,536 tokens
            # Questions count double, to allow for their chains.
            n = max(1, 65536 // (beams * (2 * len(ids[order[-1]]) + 2)))
            batch, order = order[-n:], order[:-n]
            write = SegmentWriter(models, tokenizer, s.encoder, s.max_tokens, search, retry)
            asked, turns = [ids[i] for i in batch], list(models)
            with one_thread_if_small(models[turns[0]]):
                written = generate_chains(write, asked, tokenizer, turns, s.max_rounds, on_finished)
            chains.update(zip(batch, written))
        return [chains[i] for i in range(len(ids))]

    def save(self, folder: str | Path) -> None:
        """Write a run folder, as train.py does; ``ases.load_run`` and evaluate.py read it.

        Raises InputError: the folder holds something, or cannot be written.
        """
        from ases import save_run  # imported here, to keep files out of this module

        save_run(self, Path(folder))

    def count_shortened(self, questions: Sequence[str]) -> int:
        """Count the questions whose middle is cut."""
        limit = self.settings.max_question
        return sum(encode_question(q, self.tokenizer, limit)[1] > 0 for q in questions)


def score_chains(task: str, examples: Sequence[Example], chains: Sequence[Chain]) -> dict:
    """All scores on a test set, mean rounds, and the share of each stop reason."""
    texts = [chain.text for chain in chains]
    stops = Counter(chain.stop for chain in chains)
    questions, answers = [e.question for e in examples], [e.answer for e in examples]
    return score(task, texts, answers, questions, [e.reference for e in examples]) | {
        "rounds_mean": sum(len(chain.ids) for chain in chains) / len(chains),
        "stop_reasons": {reason: stops[reason] / len(chains) for reason in STOPS},
    }
