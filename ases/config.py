"""Every setting of an experiment, declared once (how, says ``ases.settings``).

``Recipe`` holds them all, but where the data comes from. Importing this file costs nothing.
"""

from dataclasses import dataclass, field

from ases.segmentation import AS, ES
from ases.settings import complaints, setting

CHAIN = "CHAIN"  # the role of a direct model's only target, beside ES and AS

#: The sub-models of each mode, and the roles that each of them writes: the whole difference.
MODES: dict[str, dict[str, tuple[str, ...]]] = {
    "direct": {"direct": (CHAIN,)},
    "dsm": {"esm": (ES,), "asm": (AS,)},
    "usm": {"usm": (ES, AS)},
}

#: Who sees what in the encoder: ``ases.pairs`` has the picture.
ENCODERS = ("block-causal", "bidirectional")


@dataclass(frozen=True)
class SegmentationSettings:
    """How chains are labelled and merged."""

    segmentation: str = setting(
        "interleave",
        "label by position, or by a model's entropy",
        choices=("interleave", "entropy"),
    )
    beta: float = setting(1.0, "AS is above beta times the chain's mean entropy", low=0)
    gamma: float = setting(
        1.0, "of a piece: sum / tokens ** gamma; 0 sum, 1 mean", low=-10, high=10
    )
    entropy_context: str = setting(
        "prefix", "score after all before it, or the question", choices=("prefix", "question")
    )
    merge: bool = setting(True, "keep every piece a segment, as the released code")


@dataclass(frozen=True)
class ModelConfig:
    """Shape of a model, in the field's own names; ``SIZES`` has ready-made ones.

    ``feed_forward`` is "gated-gelu" (v1.1, Flan, mT5) or "relu" (v1.0). ``tie_word_embeddings``
    uses the embedding as output head; ``scale_decoder_outputs`` multiplies the decoder's output by
    D^−0.5 before the head, as v1.0 does. They are two settings: a checkpoint may store one tensor
    twice and still not be scaled.

    ``scale_scores`` gives the scores their 1/√K back, which T5 leaves to the queries' weights. A
    model can say the same either way, but Adam moves all weights by steps of one size: queries that
    have to be √K times smaller than all other weights make it unstable at the rates the rest could
    take [ours; off for T5's checkpoints].

    ``start_from_state`` adds the encoder's state of the context's newest token to the decoder's
    first input. A decoder then knows which segment was the last one, which nothing else marks in a
    block-causal encoder [ours; off with a bidirectional one and for T5's checkpoints].
    """

    vocab_size: int = setting(4096, "ids of the embedding", low=1, high=10**7)
    d_model: int = setting(64, "width of the model, D", low=1, high=10**6)
    d_kv: int = setting(32, "width of a head, K", low=1, high=10**6)
    d_ff: int = setting(128, "width of the feed-forward layers", low=1, high=10**6)
    num_layers: int = setting(2, "encoder layers", low=1, high=1000)
    num_decoder_layers: int = setting(2, "decoder layers", low=1, high=1000)
    num_heads: int = setting(2, "attention heads, H; H times K need not be D", low=1, high=10**6)
    relative_attention_num_buckets: int = setting(32, "a multiple of 4", low=4, high=10**6)
    relative_attention_max_distance: int = setting(
        128, "from here on, one bucket a side", low=1, high=10**6
    )
    feed_forward: str = setting("gated-gelu", "relu is v1.0's", choices=("gated-gelu", "relu"))
    layer_norm_epsilon: float = setting(1e-6, "added to the mean square", low=0)
    dropout_rate: float = setting(0.0, "share of activations dropped in training", low=0, high=0.99)
    tie_word_embeddings: bool = setting(False, "the embedding is the output head")
    scale_decoder_outputs: bool = setting(False, "multiply the decoder's output by D ** -0.5")
    scale_scores: bool = setting(True, "multiply the scores by K ** -0.5")
    start_from_state: bool = setting(True, "add the newest token's state to the start token")
    pad_token_id: int = setting(0, "fills batches", low=0)
    decoder_start_token_id: int = setting(0, "what the decoder reads first", low=0)
    eos_token_id: int = setting(1, "ends every source and target", low=0)

    def __post_init__(self):
        wrong = complaints(self)
        buckets = self.relative_attention_num_buckets
        farthest = self.relative_attention_max_distance
        if not wrong and buckets % 4:
            wrong.append(f"relative_attention_num_buckets is {buckets}; expected a multiple of 4")
        if not wrong and farthest <= buckets // 2:
            wrong.append(
                f"relative_attention_max_distance is {farthest}; expected more than half of "
                f"relative_attention_num_buckets, {buckets}"
            )
        if wrong:
            raise ValueError(" | ".join(wrong))


def _size(d_model: int, d_kv: int, d_ff: int, layers: int, heads: int) -> dict:
    depth = dict(num_layers=layers, num_decoder_layers=layers)
    return dict(d_model=d_model, d_kv=d_kv, d_ff=d_ff, **depth, num_heads=heads)


#: Sizes by name. "small" and "base" have the shapes of T5 v1.1's; the others are for teaching.
SIZES = {
    "micro": _size(32, 16, 64, layers=1, heads=2),
    "tiny": _size(64, 32, 128, layers=2, heads=2),
    "mini": _size(128, 32, 256, layers=3, heads=4),
    "small": _size(512, 64, 1024, layers=8, heads=6),
    "base": _size(768, 64, 2048, layers=12, heads=12),
}


@dataclass(frozen=True)
class TrainingSettings:
    """How one sub-model is trained.

    The budget is ``max_steps`` updates or ``max_minutes`` of wall time, validation included,
    whichever is used up first; only a budget of steps alone gives the same result twice. An update
    sees ``accumulate`` batches of at most ``batch_tokens`` padded tokens each, source and target
    together, so a step costs about the same whatever is trained.
    """

    max_steps: int | None = setting(
        1400, "updates, shared by sub-models", low=1, shown="1400, or --max-minutes"
    )
    max_minutes: float | None = setting(
        None, "training time, shared likewise", above=0, shown="no limit"
    )
    batch_tokens: int = setting(2048, "padded tokens in a batch, source and target", low=16)
    accumulate: int = setting(1, "batches in an update", low=1)
    optimizer: str = setting(
        "muon",
        "muon for the matrices of blocks and adamw for the rest, or adamw alone",
        choices=("muon", "adamw"),
        shown="muon; adamw with --init",
    )
    learning_rate: float | None = setting(
        None, "peak of AdamW's rate", above=0, shown="0.03 beside Muon, 0.003 alone"
    )
    muon_learning_rate: float = setting(0.01, "peak of muon's rate", above=0)
    momentum: float = setting(0.95, "of muon", low=0, high=0.999)
    warmup: float = setting(0.05, "share of the budget in which rates rise", low=0, high=0.9)
    weight_decay: float = setting(0.2, "of matrices: a step takes off rate times this", low=0)
    clip: float = setting(1.0, "largest norm of all gradients together", above=0)
    validations: int = setting(
        10, "validations and checkpoints, spread evenly over the budget", low=1
    )
    log_every: int = setting(50, "steps between two reports of the training loss", low=1)
    seed: int = setting(0, "of dropout and of the order of batches", low=0, high=2**63 - 1)
    dtype: str = setting(
        "float32", "of activations; weights stay float32", choices=("float32", "bfloat16")
    )
    device: str = setting("cpu", "where to train: cpu or cuda")


@dataclass(frozen=True)
class Recipe:
    """All settings of an experiment but its data."""

    mode: str = setting(
        "usm", "baseline; a model for each role; one for both", choices=tuple(MODES)
    )
    encoder: str = setting(
        "block-causal", "encode a chain once, or anew each segment", choices=ENCODERS
    )
    segmentation: SegmentationSettings = SegmentationSettings()
    training: TrainingSettings = TrainingSettings()
    model: dict = field(default_factory=lambda: dict(SIZES["tiny"]))  # arguments of ModelConfig
    vocab_size: int = setting(4096, "most ids that the tokenizer may have", low=260, high=1_000_000)
    max_question: int = setting(
        1024, "most ids of a question; longer ones lose their middle", low=16
    )
    max_chain: int = setting(4096, "most ids of a chain that is trained on", low=16)
    max_tokens: int | None = setting(
        None, "most ids of a segment", low=1, shown="twice the longest in training"
    )
    max_rounds: int | None = setting(
        None, "most segments of a chain", low=1, shown="twice the most in training"
    )
