"""Every setting, declared once with its default, range and help.

``--help``, ``config.json`` and all checks derive from these fields. Some are flags too; all can be
set from Python. Cheap to import.
"""

from collections.abc import Collection
from dataclasses import Field, dataclass, field, fields
from math import inf
from typing import Any, get_args

from ases.segmentation import AS, ES, RULES
from ases.tasks import TASKS

CHAIN = "CHAIN"  # the third role, beside ES and AS: a direct model's only target

#: The sub-models of each mode, and the roles each one writes. Modes differ only in this.
MODES: dict[str, dict[str, tuple[str, ...]]] = {
    "direct": {"direct": (CHAIN,)},
    "dsm": {"esm": (ES,), "asm": (AS,)},
    "usm": {"usm": (ES, AS)},
}

#: Why a chain stopped; each text completes "it …".
STOPS = {
    "end": "wrote the end-of-chain token",
    "no-end": "ended without that token (direct chains only)",
    "rounds": "reached the limit of segments",
    "length": "had a segment that reached its limit of tokens",
    "stuck": "wrote a segment twice in a row, or two empty ones",
}

#: "small" and "base" are T5 v1.1's; the others are small enough for a CPU.
_SHAPE = "d_model d_kv d_ff num_layers num_decoder_layers num_heads".split()
SIZES = {
    "micro": dict(zip(_SHAPE, (32, 16, 64, 1, 1, 2))),
    "tiny": dict(zip(_SHAPE, (64, 32, 128, 2, 2, 2))),
    "mini": dict(zip(_SHAPE, (128, 32, 256, 3, 3, 4))),
    "small": dict(zip(_SHAPE, (512, 64, 1024, 8, 8, 6))),
    "base": dict(zip(_SHAPE, (768, 64, 2048, 12, 12, 12))),
}


def setting(
    default: Any,
    help: str,
    low: float = -inf,  # inclusive
    above: float = -inf,  # exclusive
    high: float = inf,
    choices: Collection[str] = (),  # allowed values; a dictionary may gain entries
    shown: str | None = None,  # the default in words, if its value alone is unclear
    metavar: str | None = None,  # placeholder in --help: "FILE"
) -> Any:
    """A dataclass field whose metadata holds its range and help."""
    facts = dict(help=help, low=low, above=above, high=high)
    facts |= dict(choices=choices, shown=shown, metavar=metavar)
    return field(default=default, metadata=facts)


_TWICE = "twice the most in training"


@dataclass(frozen=True)
class Settings:
    """All settings of a run, in pipeline order."""

    # --- data
    task: str = setting("mwp", "what the chains are about", choices=TASKS)
    data: str | None = setting(
        None, "JSON Lines, JSON, CSV or TSV", shown="generated, or RUN's own", metavar="FILE"
    )
    question_field: str = setting("question", "column of questions in --data", metavar="NAME")
    answer_field: str = setting("answer", "column of answers", metavar="NAME")
    label_field: str | None = setting(
        None, "column of true answers", shown="in the answer", metavar="NAME"
    )
    skip_bad_rows: bool = setting(False, "skip unusable rows")
    seed: int = setting(0, "random seed of data, weights, batches", low=0, high=2**63 - 1)
    train_problems: int | None = setting(
        None, "training examples", low=1, high=1e8, shown="8000, or all"
    )
    test_problems: int | None = setting(None, "test examples", low=1, high=1e8, shown="500, or all")
    max_number: int = setting(20, "largest number in generated problems", low=10, high=100_000)

    # --- segmentation
    mode: str = setting("usm", "direct: baseline; dsm: two models; usm: one", choices=MODES)
    segmentation: str = setting("interleave", "how to label pieces", choices=RULES)
    beta: float = setting(1.0, "AS if above beta times the chain's mean entropy", low=0)
    # The paper sweeps a gamma that its released code lacks. As an exponent, it covers that code's
    # two options: sum (0) and mean (1) (not in the paper).
    gamma: float = setting(1.0, "piece entropy = sum / tokens ** gamma", low=-10, high=10)
    entropy_context: str = setting(
        "prefix", "measure pieces after the chain so far, or alone", choices=("prefix", "question")
    )
    scorer: str | None = setting(
        None, "direct run whose model measures entropy", shown="train.py trains one", metavar="RUN"
    )
    # The help is that of --no-merge.
    merge: bool = setting(True, "one segment per piece, like the released code")

    # --- model
    encoder: str = setting(
        "block-causal",
        "block-causal: encode each chain once; bidirectional: every context again, as in the paper",
        choices=("block-causal", "bidirectional"),
    )
    size: str = setting("tiny", "shape of the model", choices=SIZES)
    dropout: float = setting(0.0, "fraction of activations dropped in training", low=0, high=0.99)
    init: str | None = setting(None, "T5 checkpoint", shown="random weights", metavar="FOLDER")
    vocab_size: int = setting(4096, "maximum vocabulary size", low=260, high=1_000_000)
    max_question: int = setting(1024, "maximum tokens; longer questions lose their middle", low=16)
    max_chain: int = setting(4096, "maximum tokens of a training chain", low=16)

    # --- training: until max_steps or max_minutes runs out; None: no such limit
    max_steps: int | None = setting(
        1700, "updates of all sub-models", low=1, high=10**9, shown="1700, or --max-minutes"
    )
    max_minutes: float | None = setting(None, "total training time", above=0, shown="no limit")
    batch_tokens: int = setting(
        2048, "tokens per batch: source, target and padding", low=16, high=10**8
    )
    accumulate: int = setting(1, "batches in an update", low=1, high=10**6)
    optimizer: str | None = setting(
        None,
        "optimizer for the weight matrices of the blocks",
        choices=("muon", "adamw"),
        shown="muon; adamw with --init",
    )
    learning_rate: float | None = setting(
        None, "peak learning rate of the blocks", above=0, shown="0.01; 0.003 with adamw"
    )
    embedding_learning_rate: float | None = setting(
        None,
        "peak learning rate of embeddings, head and norms, which adamw trains",
        above=0,
        shown="0.03; with --optimizer adamw, that of the blocks",
    )
    momentum: float = setting(0.95, "momentum of muon", low=0, high=0.999)
    warmup: float = setting(0.05, "fraction of the budget for warm-up", low=0, high=0.9)
    weight_decay: float = setting(0.2, "weight decay of matrices, decoupled", low=0)
    clip: float = setting(1.0, "largest global norm of gradients", above=0)
    validations: int = setting(10, "validations and checkpoints in the budget", low=1, high=10**6)
    log_every: int = setting(50, "log the loss every N updates", low=1)
    # bfloat16 is fast only on GPUs. Weights and sums stay float32.
    dtype: str = setting("float32", "of activations", choices=("float32", "bfloat16"))
    device: str = setting("auto", "auto: cuda if there is a GPU", choices=("auto", "cpu", "cuda"))

    # --- decoding
    max_tokens: int | None = setting(None, "maximum tokens of a segment", low=1, shown=_TWICE)
    max_rounds: int | None = setting(None, "maximum segments of a chain", low=1, shown=_TWICE)

    #: ``ModelConfig`` fields that override those of ``size``.
    model: dict = field(default_factory=dict)


@dataclass(frozen=True)
class ModelConfig:
    """Model shape. Most names are those of T5's config.json."""

    vocab_size: int = setting(4096, "ids of the embedding", low=1, high=10**7)
    d_model: int = setting(64, "width of the model, D", low=1, high=10**6)
    d_kv: int = setting(32, "width of a head, K", low=1, high=10**6)
    d_ff: int = setting(128, "width of the feed-forward layers", low=1, high=10**6)
    num_layers: int = setting(2, "encoder layers", low=1, high=1000)
    num_decoder_layers: int = setting(2, "decoder layers", low=1, high=1000)
    # H times K may differ from D.
    num_heads: int = setting(2, "attention heads, H", low=1, high=10**6)
    relative_attention_num_buckets: int = setting(32, "a multiple of 4", low=4, high=10**6)
    relative_attention_max_distance: int = setting(
        128, "one bucket for all beyond", low=1, high=10**6
    )
    # gated-gelu: T5 v1.1, Flan-T5, mT5. relu: T5 v1.0.
    feed_forward: str = setting("gated-gelu", "activation", choices=("gated-gelu", "relu"))
    layer_norm_epsilon: float = setting(1e-6, "added to the mean square", low=0)
    dropout_rate: float = setting(0.0, "fraction of activations dropped", low=0, high=0.99)
    # Two settings, not one: a checkpoint may tie the weights and still not scale.
    tie_word_embeddings: bool = setting(False, "the embedding is the output head")
    scale_decoder_outputs: bool = setting(False, "multiply the decoder's output by D ** -0.5")
    # T5 folds 1/√K into the query weights. But Adam's steps have the same size for all weights:
    # √K times smaller query weights become unstable at rates that suit the rest (not in the paper).
    scale_scores: bool = setting(True, "multiply the scores by K ** -0.5")
    # With a block-causal encoder, nothing else tells which segment is the last (not in the paper).
    start_from_state: bool = setting(True, "add the newest token's state to the start token")
    pad_token_id: int = setting(0, "fills batches", low=0)
    decoder_start_token_id: int = setting(0, "what the decoder reads first", low=0)
    eos_token_id: int = setting(1, "ends every source and target", low=0)

    def __post_init__(self):
        if wrong := complaints(self):
            raise ValueError(" | ".join(wrong))
        n, reach = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if n % 4 or reach <= n // 2:
            wanted = f"a multiple of 4, less than twice relative_attention_max_distance, {reach}"
            raise ValueError(f"relative_attention_num_buckets is {n}; expected {wanted}")
        for name in ("pad_token_id", "decoder_start_token_id", "eos_token_id"):
            if getattr(self, name) >= self.vocab_size:
                raise ValueError(f"{name} is {getattr(self, name)}; expected less than vocab_size")


# --- checks --------------------------------------------------------------------------------------
def kind(f: Field) -> Any:
    """A field's type without None: ``int | None`` → ``int``."""
    return next((t for t in get_args(f.type) if t is not type(None)), f.type)


def expected(f: Field) -> str:
    """What a field accepts, in words: "a whole number of at least 1"."""
    facts = f.metadata
    if facts["choices"]:
        return f"one of {', '.join(facts['choices'])}"
    if facts["metavar"]:
        return f"a name ({facts['metavar']})"
    words = {int: "a whole number", float: "a number", bool: "true or false"}
    limits = ("low", "of at least"), ("above", "above"), ("high", "and at most")
    parts = [f"{says} {facts[end]:g}" for end, says in limits if abs(facts[end]) < inf]
    return " ".join([words.get(kind(f), "a text"), *parts])


def is_valid(f: Field, value: Any) -> bool:
    """Does ``value`` fit field ``f``'s type and range?"""
    facts, wanted = f.metadata, kind(f)
    if value is None:
        return type(None) in get_args(f.type)
    if type(value) is not wanted and not (wanted is float and type(value) is int):
        return False  # a bool is not a number
    if facts["choices"]:
        return value in facts["choices"]
    if wanted not in (int, float):
        return value != "" or not facts["metavar"]
    return facts["low"] <= value <= facts["high"] and facts["above"] < value != inf  # rejects NaN


def complaints(settings: Any) -> list[str]:
    """One line per invalid value."""
    messages = []
    for f in fields(settings):
        value = getattr(settings, f.name)
        if "help" in f.metadata and not is_valid(f, value):
            messages.append(f"{f.name} is {value!r}; expected {expected(f)}")
    if getattr(settings, "max_steps", 1) is None and settings.max_minutes is None:
        messages.append("neither max_steps nor max_minutes is set; expected a budget")
    return messages
