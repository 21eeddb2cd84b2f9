"""The encoder-decoder transformer: of the T5 family, and T5 v1.0, v1.1, Flan-T5 or mT5 if asked.

What sets the family apart from the transformer of the textbooks: no biases in any layer, RMSNorm
before each sub-layer, a learned relative position bias in self-attention instead of position
embeddings (held by the stack, shared by its layers), no 1/√K in the scores (a setting here), and,
from v1.1 on, a gated GELU feed-forward and an untied head.

Shapes: B batch, S source, T target, H heads, D model width, K width of a head, F feed-forward
width, V vocabulary.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ases.attention import Runs, attention, causal, padding
from ases.config import ModelConfig
from ases.pairs import IGNORE, Batch

KeysAndValues = tuple[Tensor, Tensor]  # (B, H, T, K) each

# --- layers --------------------------------------------------------------------------------------


def linear(n_in: int, n_out: int) -> nn.Linear:
    """A matrix; no layer of the family has a bias."""
    return nn.Linear(n_in, n_out, bias=False)


class RMSNorm(nn.Module):
    """x / rms(x) · weight: no mean is subtracted, nothing is added."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """x (…, D) → (…, D)."""
        # A sum of squares in bfloat16 would lose most of its digits.
        wide = x if x.dtype == torch.float64 else x.float()
        mean_square = wide.pow(2).mean(-1, keepdim=True)
        return self.weight * (wide * torch.rsqrt(mean_square + self.epsilon)).to(x.dtype)


def relative_position_bucket(
    relative_position: Tensor, bidirectional: bool, num_buckets: int, max_distance: int
) -> Tensor:
    """T5's bucket of each difference j − i: near ones have their own, far ones share.

    Half of the buckets are exact; the rest grow with the logarithm of the distance up to
    ``max_distance``, and everything farther falls into the last. Bidirectional attention spends
    half of all buckets on keys to the right; causal attention puts those into bucket 0.

    Args:
        relative_position: integers, any shape.
    Returns:
        integers from 0 to num_buckets − 1, of the same shape.
    """
    if bidirectional:
        num_buckets //= 2
        offset = (relative_position > 0).long() * num_buckets
        distance = relative_position.abs()
    else:
        offset = torch.zeros_like(relative_position)
        distance = (-relative_position).clamp(min=0)
    exact = num_buckets // 2
    # Beyond the exact ones, a bucket is a step on the logarithm of the distance.
    logarithm = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    steps = logarithm * (num_buckets - exact)
    far = (exact + steps.long()).clamp(max=num_buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


class RelativeBias(nn.Module):
    """The learned bias of one stack, shared by its layers: a table (buckets, H)."""

    def __init__(self, config: ModelConfig, bidirectional: bool):
        super().__init__()
        self.table = nn.Embedding(config.relative_attention_num_buckets, config.num_heads)
        self.bidirectional = bidirectional
        self.max_distance = config.relative_attention_max_distance

    def forward(self) -> Tensor:
        """(H, 2·span + 1): entry d + span is the bias of the difference d = j − i of key and query.

        The span is the largest distance: from there on, all differences share a bucket.
        """
        span = self.max_distance
        difference = torch.arange(-span, span + 1, device=self.table.weight.device)
        bucket = relative_position_bucket(
            difference, self.bidirectional, self.table.num_embeddings, self.max_distance
        )
        return self.table(bucket).T.contiguous()


class Attention(nn.Module):
    """Multi-head attention: queries from x, keys and values from x too or from the encoder."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        inner = config.num_heads * config.d_kv  # need not be D
        self.heads, self.width = config.num_heads, config.d_kv
        self.scale = config.d_kv**-0.5 if config.scale_scores else 1.0
        self.q = linear(config.d_model, inner)
        self.k = linear(config.d_model, inner)
        self.v = linear(config.d_model, inner)
        self.o = linear(inner, config.d_model)

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """x (B, T, D) → keys and values, (B, H, T, K) each."""
        return self._split(self.k(x)), self._split(self.v(x))

    def forward(
        self,
        x: Tensor,
        k: Tensor,
        v: Tensor,
        runs: Runs,
        rel_bias: Tensor | None = None,
        query_offset: int = 0,
    ) -> Tensor:
        """x (B, Q, D) and k, v (B, H, T, K) → (B, Q, D); ``runs``: the keys that queries see."""
        q = self._split(self.q(x))
        first, last = runs
        out = attention(
            q, k, v, rel_bias, first=first, last=last, query_offset=query_offset, scale=self.scale
        )
        return self.o(out.transpose(1, 2).flatten(2))  # (B, H, Q, K) → (B, Q, H, K) → (B, Q, H·K)

    def _split(self, x: Tensor) -> Tensor:
        heads = x.unflatten(-1, (self.heads, self.width))  # (B, Q, H·K) → (B, Q, H, K)
        return heads.transpose(1, 2)  # → (B, H, Q, K)


class FeedForward(nn.Module):
    """relu(x W_up) W_down, or gated: (gelu(x W_gate) · x W_up) W_down."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        gated = config.feed_forward == "gated-gelu"
        self.gate = linear(config.d_model, config.d_ff) if gated else None
        self.up = linear(config.d_model, config.d_ff)
        self.down = linear(config.d_ff, config.d_model)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        """x (…, D) → (…, D)."""
        if self.gate is None:
            hidden = F.relu(self.up(x))
        else:
            # The family's "gelu" is the tanh approximation.
            hidden = F.gelu(self.gate(x), approximate="tanh") * self.up(x)
        return self.down(self.dropout(hidden))


class Block(nn.Module):
    """Self-attention, in decoders attention to the encoder's states, and feed-forward: each after a
    norm, and added to the states as they were."""

    def __init__(self, config: ModelConfig, decodes: bool):
        super().__init__()
        self.norm_self = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.self_attention = Attention(config)
        if decodes:
            self.norm_cross = RMSNorm(config.d_model, config.layer_norm_epsilon)
            self.cross_attention = Attention(config)
        self.norm_ff = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(
        self,
        x: Tensor,
        runs: Runs,
        rel_bias: Tensor,
        past: KeysAndValues | None = None,
        lengths: Tensor | None = None,
        cross: KeysAndValues | None = None,
        cross_runs: Runs = (None, None),
    ) -> tuple[Tensor, KeysAndValues]:
        """x (B, Q, D) → the next states (B, Q, D), and the keys and values so far.

        ``lengths`` is ``append_right``'s; ``cross`` and ``cross_runs`` are a decoder's.
        """
        normed = self.norm_self(x)
        k, v = append_right(past, self.self_attention.keys_and_values(normed), lengths)
        attended = self.self_attention(normed, k, v, runs, rel_bias, _width(past))
        x = x + self.dropout(attended)
        if cross is not None:
            x = x + self.dropout(self.cross_attention(self.norm_cross(x), *cross, cross_runs))
        return x + self.dropout(self.feed_forward(self.norm_ff(x))), (k, v)


# --- the whole -----------------------------------------------------------------------------------


class Cache:
    """What generation keeps of a batch: keys and values of each layer, of a source that grows
    (``append``) or of a target that is written over it (``decode``).

    Sources that grow are aligned on the right, so that the newest tokens of all stand in the same
    columns: then one vector of biases serves them, and what a row sees is one run.
    """

    def __init__(
        self, n_layers: int, cross: list[KeysAndValues | None], first: Tensor, last: Tensor
    ):
        self.past: list[KeysAndValues | None] = [None] * n_layers  # what has been read or written
        self.cross = cross  # the source's, for each layer of the decoder
        self.first, self.last = first, last  # (B,) the columns in which a row's source stands

    def select(self, rows: Tensor) -> None:
        """Keep the batch rows ``rows`` (indices, in the order wanted, repeats allowed)."""
        self.cross = [_rows_of(pair, rows) for pair in self.cross]
        self.select_past(rows)
        self.first, self.last = self.first[rows], self.last[rows]

    def select_past(self, rows: Tensor) -> None:
        """Reorder rows that read the same source, as ``select`` (only what they wrote differs)."""
        self.past = [_rows_of(pair, rows) for pair in self.past]

    def fresh(self) -> "Cache":
        """For a target over the same source, of which nothing is written."""
        return Cache(len(self.cross), list(self.cross), self.first, self.last)


def _width(pair: KeysAndValues | None) -> int:
    """Columns so far."""
    return 0 if pair is None else pair[0].shape[2]


def _rows_of(pair: KeysAndValues | None, rows: Tensor) -> KeysAndValues | None:
    return None if pair is None else (pair[0].index_select(0, rows), pair[1].index_select(0, rows))


def _last_columns(pair: KeysAndValues, n: int) -> KeysAndValues:
    return pair[0][:, :, -n:], pair[1][:, :, -n:]


def append_right(
    past: KeysAndValues | None, new: KeysAndValues, lengths: Tensor | None
) -> KeysAndValues:
    """Put W new columns behind the old ones, without gaps: all rows stay aligned on the right.

    Args:
        past, new: (B, H, C, K) and (B, H, W, K), each row's real columns on the right.
        lengths: (B,) how many of the new columns are real; None: all.
    """
    if past is None:
        return new
    n_new = new[0].shape[2]
    joined = [torch.cat(parts, dim=2) for parts in zip(past, new)]  # (B, H, C + W, K)
    if lengths is not None and int(lengths.min()) < n_new:
        B, H, n_all, _ = joined[0].shape
        column = torch.arange(n_all, device=lengths.device)
        gap = n_new - lengths[:, None]
        is_new = column >= n_all - lengths[:, None]
        origin = torch.where(is_new, column, (column - gap).clamp(min=0))  # (B, C + W)
        # Which of all rows of K numbers comes where: they move as wholes, which is quick.
        start = n_all * torch.arange(B * H, device=lengths.device).view(B, H, 1)
        place = (start + origin[:, None]).flatten()
        joined = [x.flatten(0, 2).index_select(0, place).view(x.shape) for x in joined]
    return joined[0], joined[1]


class EncoderDecoder(nn.Module):
    """The model: ``logits`` and ``loss_sum`` of a batch of rows for training; for generation
    ``append`` (block-causal) or ``encode`` and ``start``, then ``decode``."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder_bias = RelativeBias(config, bidirectional=True)
        self.encoder = nn.ModuleList(Block(config, False) for _ in range(config.num_layers))
        self.encoder_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.decoder_bias = RelativeBias(config, bidirectional=False)
        self.decoder = nn.ModuleList(Block(config, True) for _ in range(config.num_decoder_layers))
        self.decoder_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        tied = config.tie_word_embeddings
        self.head = None if tied else linear(config.d_model, config.vocab_size)
        self.dropout = nn.Dropout(config.dropout_rate)
        self._initialise()

    @classmethod
    def with_weights(cls, config: ModelConfig, weights: dict[str, Tensor]) -> "EncoderDecoder":
        """A model that takes over ``weights`` as they are, in float32; none are made before.

        Raises:
            ValueError: they are not those of such a model.
        """
        with torch.device("meta"):  # shapes without numbers
            model = cls(config)
        try:
            model.load_state_dict({k: v.float() for k, v in weights.items()}, assign=True)
        except (RuntimeError, AttributeError, TypeError) as error:
            raise ValueError(" ".join(str(error).split())[:200]) from None
        return model

    def forward(
        self, input_ids: Tensor, decoder_input_ids: Tensor, input_lengths: Tensor
    ) -> Tensor:
        """Logits of every next token.

        Args:
            input_ids: (B, S) source; row b counts up to input_lengths[b], the rest may hold any id.
            decoder_input_ids: (B, T) target shifted right.
            input_lengths: (B,) from 1 to S.
        Returns:
            (B, T, V).
        """
        states = self.encode(input_ids, padding(input_lengths, input_ids.shape[1]))
        return self.decode(decoder_input_ids, self.start(states, input_lengths))

    def logits(self, batch: Batch) -> Tensor:
        """Logits (B, T, V) of every next token of a batch of rows."""
        states = self.encode(batch.source, batch.source_runs)
        past: list[KeysAndValues | None] = [None] * len(self.decoder)
        logits, _ = self._decode(
            batch.decoder_input, batch.target_runs, past, self._cross(states), batch.cross_runs
        )
        return logits

    def encode(self, input_ids: Tensor, runs: Runs) -> Tensor:
        """(B, S) ids → (B, S, D) states; ``runs`` says which source tokens each of them sees."""
        x = self.dropout(self.embedding(input_ids))
        rel_bias = self.encoder_bias()
        for block in self.encoder:
            x, _ = block(x, runs, rel_bias)
        return self.dropout(self.encoder_norm(x))

    def start(self, states: Tensor, input_lengths: Tensor) -> Cache:
        """A fresh cache over the encoder's states (B, S, D), of sources aligned on the left."""
        cross, first = self._cross(states), torch.zeros_like(input_lengths)
        return Cache(len(self.decoder), cross, first, input_lengths)

    def nothing_read(self, n: int) -> Cache:
        """A cache for ``n`` sources of which nothing has been read."""
        zero = torch.zeros(n, dtype=torch.long, device=self.embedding.weight.device)
        return Cache(len(self.encoder), [None] * len(self.decoder), zero, zero)

    def append(self, input_ids: Tensor, ends: Tensor, lengths: Tensor, cache: Cache) -> None:
        """Encode new blocks of a block-causal source behind what ``cache`` holds.

        Args:
            input_ids: (B, W) the new tokens, aligned on the right.
            ends: (B, W) the end of each token's block, counted in these columns.
            lengths: (B,) how many of the columns are real.
        """
        n_old, n_new = _width(cache.cross[0]), input_ids.shape[1]
        n_all, all_lengths = n_old + n_new, cache.last - cache.first + lengths
        padded = torch.arange(n_new, device=lengths.device) < n_new - lengths[:, None]
        start = (n_all - all_lengths)[:, None]
        runs = torch.where(padded, 0, start), torch.where(padded, 0, n_old + ends)

        x, rel_bias = self.embedding(input_ids), self.encoder_bias()
        kept = min(n_all, int(all_lengths.max()))
        for i, block in enumerate(self.encoder):
            x, joined = block(x, runs, rel_bias, cache.past[i], lengths)
            cache.past[i] = _last_columns(joined, kept)
        states = self.encoder_norm(x)
        for i, new in enumerate(self._cross(states)):
            cache.cross[i] = _last_columns(append_right(cache.cross[i], new, lengths), kept)
        cache.last = torch.full_like(lengths, kept)
        cache.first = cache.last - all_lengths

    def decode(self, decoder_input_ids: Tensor, cache: Cache) -> Tensor:
        """Logits (B, T, V) for the next T decoder inputs (B, T), whose keys and values are kept."""
        n_past, n_new = _width(cache.past[0]), decoder_input_ids.shape[1]
        runs = causal(n_new, n_past, decoder_input_ids.device)
        first, last = (end[:, None].expand(-1, n_new) for end in (cache.first, cache.last))
        logits, cache.past = self._decode(
            decoder_input_ids, runs, cache.past, cache.cross, (first, last)
        )
        return logits

    def _cross(self, states: Tensor) -> list[KeysAndValues | None]:
        """Each decoder layer's keys and values of the encoder's states (B, S, D)."""
        blocks = [cast(Block, block) for block in self.decoder]
        return [block.cross_attention.keys_and_values(states) for block in blocks]

    def _decode(
        self,
        ids: Tensor,
        runs: Runs,
        past: list[KeysAndValues | None],
        cross: list[KeysAndValues | None],
        cross_runs: Runs,
    ) -> tuple[Tensor, list[KeysAndValues]]:
        """Logits of the decoder inputs, and each layer's keys and values so far."""
        x = self.dropout(self.embedding(ids))
        rel_bias = self.decoder_bias()
        so_far = []
        for i, block in enumerate(self.decoder):
            x, keys_and_values = block(x, runs, rel_bias, past[i], None, cross[i], cross_runs)
            so_far.append(keys_and_values)
        x = self.dropout(self.decoder_norm(x))
        if self.config.scale_decoder_outputs:
            x = x * self.config.d_model**-0.5
        head = self.embedding if self.head is None else self.head
        return F.linear(x, head.weight), so_far

    def loss_sum(self, batch: Batch) -> Tensor:
        """−Σ log p over the target tokens of a batch, a scalar."""
        return token_losses(self.logits(batch), batch.target)

    def _initialise(self) -> None:
        """T5's own scheme (Mesh TensorFlow): each matrix keeps the variance of what it is fed.

        Where the scores have no 1/√K, the queries start that much smaller.
        """
        c = self.config
        from_model, from_heads = c.d_model**-0.5, (c.num_heads * c.d_kv) ** -0.5
        spread = dict.fromkeys("table q k v gate up head".split(), from_model)
        spread |= {"embedding": 1.0, "o": from_heads, "down": c.d_ff**-0.5}
        if not c.scale_scores:
            spread["q"] = (c.d_model * c.d_kv) ** -0.5
        for name, parameter in self.named_parameters():
            if "norm" not in name:
                nn.init.normal_(parameter, std=spread[name.split(".")[-2]])


def token_losses(logits: Tensor, target: Tensor) -> Tensor:
    """−Σ log p over the target tokens (B, T) but padding labels (−100), at least in float32."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    flat, labels = logits.flatten(0, 1), target.flatten()
    return F.cross_entropy(flat, labels, ignore_index=IGNORE, reduction="sum")
