"""The T5-family encoder-decoder transformer; ``ModelConfig`` can make it exactly T5.

Unlike the textbook transformer, it has no biases, RMSNorm before each sub-layer, one learned
relative position bias per stack instead of position embeddings, no 1/√K in the scores (here, a
setting adds it), and from v1.1 on a gated GELU and an untied head.

Shapes: B batch, S source, T target, H heads, D model width, K head width, V vocabulary.
"""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ases.attention import Mask, attend, causal_span
from ases.pairs import IGNORE, Batch
from ases.settings import ModelConfig


# --- layers --------------------------------------------------------------------------------------
# PyTorch's layers draw their first weights, which imports its compiler where weights have no values
# yet. Here ``EncoderDecoder`` draws them, if they are needed.
class Linear(nn.Module):
    """x Wᵀ."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_out, n_in))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Embedding(nn.Module):
    """A row of W for each id."""

    def __init__(self, n_rows: int, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(n_rows, width))

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


class RMSNorm(nn.Module):
    """x / rms(x) · weight: no mean subtraction, no bias."""

    def __init__(self, width: int, epsilon: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)
        return _Normalise.apply(x, self.weight, self.epsilon)


class _Normalise(torch.autograd.Function):
    """RMSNorm with a hand-written gradient: a third as many operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        # Summing squares in bfloat16 would lose most digits.
        wide = x if x.dtype == torch.float64 else x.float()
        inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
        normed = wide * inverse
        ctx.save_for_backward(normed, inverse, weight)
        ctx.dtype = x.dtype
        return weight * normed.to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        normed, inverse, weight = ctx.saved_tensors
        along = gradient * normed
        radial = (along @ weight)[..., None] / weight.numel()
        of_x = torch.addcmul(gradient * weight, normed, radial, value=-1) * inverse
        return of_x.to(ctx.dtype), along.flatten(0, -2).sum(0), None


def relative_position_bucket(
    relative_position: Tensor, bidirectional: bool, num_buckets: int, max_distance: int
) -> Tensor:
    """T5's bucket for each distance j − i of key and query: integers from 0 to num_buckets − 1.

    Bidirectional attention spends half the buckets on keys to the right; causal attention puts
    those in bucket 0.
    """
    if bidirectional:
        num_buckets //= 2
        offset = (relative_position > 0).long() * num_buckets
        distance = relative_position.abs()
    else:
        offset = torch.zeros_like(relative_position)
        distance = (-relative_position).clamp(min=0)
    # Half the buckets hold one distance each. The rest grow logarithmically; the last one holds all
    # from max_distance on.
    exact = num_buckets // 2
    logarithm = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    steps = logarithm * (num_buckets - exact)
    far = (exact + steps.long()).clamp(max=num_buckets - 1)
    return offset + torch.where(distance < exact, distance, far)


class RelativeBias(nn.Module):
    """One stack's learned bias, shared by its layers: a table (buckets, H)."""

    def __init__(self, config: ModelConfig, bidirectional: bool):
        super().__init__()
        n, reach = config.relative_attention_num_buckets, config.relative_attention_max_distance
        self.table = Embedding(n, config.num_heads)
        difference = torch.arange(-reach, reach + 1, device="cpu")  # also under a "meta" device
        buckets = relative_position_bucket(difference, bidirectional, n, reach)
        self.register_buffer("buckets", buckets, persistent=False)

    def forward(self) -> Tensor:
        """(H, 2·reach + 1): entry d + reach is the bias at distance d = j − i."""
        return self.table(self.buckets).T.contiguous()


class Attention(nn.Module):
    """Multi-head attention: queries from x, keys and values from x or the encoder."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        inner = config.num_heads * config.d_kv  # may differ from D
        self.heads, self.width = config.num_heads, config.d_kv
        self.scale = config.d_kv**-0.5 if config.scale_scores else 1.0
        self.q = Linear(config.d_model, inner)
        self.k = Linear(config.d_model, inner)
        self.v = Linear(config.d_model, inner)
        self.o = Linear(inner, config.d_model)

    def keys_and_values(self, x: Tensor) -> Tensor:
        """x (B, T, D) → (B, T, 2, H, K), in one matmul."""
        both = F.linear(x, torch.cat([self.k.weight, self.v.weight]))
        return both.unflatten(-1, (2, self.heads, self.width))

    def forward(self, x: Tensor, keys_and_values: Tensor, mask: Mask) -> Tensor:
        """x (B, Q, D), keys and values (B, T, 2, H, K) → (B, Q, D)."""
        q = self.q(x).unflatten(-1, (self.heads, self.width))  # (B, Q, H·K) → (B, Q, H, K)
        k, v = keys_and_values.unbind(2)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))  # → (B, H, Q or T, K)
        out = attend(q, k, v, mask, self.scale)
        return self.o(out.transpose(1, 2).flatten(2))  # → (B, Q, H, K) → (B, Q, H·K)


class FeedForward(nn.Module):
    """relu(x W_up) W_down, or gated: (gelu(x W_gate) · x W_up) W_down."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        gated = config.feed_forward == "gated-gelu"
        self.gate = Linear(config.d_model, config.d_ff) if gated else None
        self.up = Linear(config.d_model, config.d_ff)
        self.down = Linear(config.d_ff, config.d_model)
        self.dropout = nn.Dropout(config.dropout_rate)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            hidden = F.relu(self.up(x))
        else:
            # T5's "gelu" is the tanh approximation.
            hidden = F.gelu(self.gate(x), approximate="tanh") * self.up(x)
        return self.down(self.dropout(hidden))


class Block(nn.Module):
    """Self-attention, cross-attention (decoder only), feed-forward; each pre-norm and residual."""

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
        mask: Mask,
        cache: "Cache | None" = None,
        layer: int = 0,
        cross: tuple[Tensor, Mask] | None = None,
    ) -> Tensor:
        """x (B, Q, D) → (B, Q, D). ``cross``: the encoder's keys and values, and their mask."""
        normed = self.norm_self(x)
        keys_and_values = self.self_attention.keys_and_values(normed)
        if cache is not None:
            keys_and_values = cache.add(cache.layers, layer, keys_and_values)
        x = x + self.dropout(self.self_attention(normed, keys_and_values, mask))
        if cross is not None:
            x = x + self.dropout(self.cross_attention(self.norm_cross(x), *cross))
        return x + self.dropout(self.feed_forward(self.norm_ff(x)))


# --- the model -----------------------------------------------------------------------------------
class Cache:
    """Each layer's keys and values, (B, T, 2, H, K): of a source read block by block, or of the
    target written over it.

    Sources are right-aligned: the newest token of every row is in the last column, and the keys
    that a query sees are one span.
    """

    def __init__(self, n_rows: int, device: torch.device):
        self.layers: list[Tensor] = []  # the encoder's while encoding, the decoder's while decoding
        self.cross: list[Tensor] = []  # of the source, per decoder layer
        self.newest: Tensor  # states of the newest tokens, set by ``encode``
        # The columns of each row's source: first ≤ j < last.
        self.first = torch.zeros(n_rows, dtype=torch.long, device=device)
        self.last = self.first
        self.places: Tensor | None = None  # (B, kept): the columns that ``add`` keeps; None: all
        self._mask: Mask | None = None

    @property
    def n_columns(self) -> int:
        return self.layers[0].shape[1] if self.layers else 0

    def add(self, held: list[Tensor], layer: int, new: Tensor) -> Tensor:
        """Append columns to ``held[layer]``, in one of the lists above; returns them all."""
        if layer == len(held):
            held.append(new)
        else:
            held[layer] = torch.cat([held[layer], new], 1)
        if self.places is not None:  # close the gaps
            flat = held[layer].flatten(0, 1).index_select(0, self.places.flatten())
            held[layer] = flat.unflatten(0, self.places.shape)
        return held[layer]

    def grow(self, new_lengths: Tensor, n_new: int) -> int:
        """Prepare for ``n_new`` more source columns; each row uses its last ``new_lengths`` (B,).
        Old columns move right to close the gaps. Returns the new number of columns."""
        n_all, lengths = self.n_columns + n_new, self.last - self.first + new_lengths
        kept = min(n_all, int(lengths.max()))
        self.last = torch.full_like(lengths, kept)
        self.first = self.last - lengths
        self._mask, self.places = None, None
        if not self.layers or (kept == n_all and int(new_lengths.min()) == n_new):  # no gaps
            return kept
        column = torch.arange(n_all - kept, n_all, device=lengths.device)
        moved = (column - (n_new - new_lengths)[:, None]).clamp(min=0)
        column = torch.where(column >= n_all - new_lengths[:, None], column, moved)
        row = n_all * torch.arange(len(lengths), device=lengths.device)[:, None]
        self.places = row + column  # in the flattened rows
        return kept

    def cross_mask(self, n_queries: int) -> Mask:
        """The decoder's mask over the source, the same at every step."""
        if self._mask is None or self._mask.last.shape[1] != n_queries:
            first, last = self.first[:, None], self.last[:, None]
            self._mask = Mask(first.expand(-1, n_queries), last.expand(-1, n_queries))
        return self._mask

    def select(self, rows: Tensor) -> None:
        """Keep the batch rows ``rows``: indices in any order, repeats allowed."""
        self.select_target(rows)
        self.cross = [x.index_select(0, rows) for x in self.cross]
        self.newest, self.first, self.last = self.newest[rows], self.first[rows], self.last[rows]
        self._mask = None

    def select_target(self, rows: Tensor) -> None:
        """``select`` for beams, whose rows move only among copies of one source."""
        self.layers = [x.index_select(0, rows) for x in self.layers]

    def for_target(self) -> "Cache":
        """A cache for a new target over the same source."""
        fresh = copy.copy(self)
        fresh.layers, fresh.places = [], None
        return fresh


class EncoderDecoder(nn.Module):
    """The model. Training calls it with a batch; generation calls ``encode`` and ``decode``."""

    def __init__(self, config: ModelConfig, initialise: bool = True):
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.d_model)
        self.encoder_bias = RelativeBias(config, bidirectional=True)
        self.encoder = nn.ModuleList(Block(config, False) for _ in range(config.num_layers))
        self.encoder_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        self.decoder_bias = RelativeBias(config, bidirectional=False)
        self.decoder = nn.ModuleList(Block(config, True) for _ in range(config.num_decoder_layers))
        self.decoder_norm = RMSNorm(config.d_model, config.layer_norm_epsilon)
        tied = config.tie_word_embeddings
        self.head = None if tied else Linear(config.d_model, config.vocab_size)
        self.dropout = nn.Dropout(config.dropout_rate)
        if initialise:
            self._initialise()

    @classmethod
    def with_weights(cls, config: ModelConfig, weights: dict[str, Tensor]) -> "EncoderDecoder":
        """A model with these ``weights`` in float32; skips initialisation.

        Raises ValueError: the weights do not fit the model.
        """
        with torch.device("meta"):  # shapes without storage
            model = cls(config, initialise=False)
        try:
            if any(v.is_meta or v.layout != torch.strided for v in weights.values()):
                raise ValueError("weights without values, or sparse ones")
            model.load_state_dict({k: v.float() for k, v in weights.items()}, assign=True)
        except (RuntimeError, AttributeError, TypeError) as error:
            raise ValueError(" ".join(str(error).split())[:200]) from None
        return model

    def forward(self, batch: Batch) -> Tensor:
        """Next-token logits (B, T, V) of a batch."""
        x = self.dropout(self.embedding(batch.source))
        mask = Mask(*batch.source_span, self.encoder_bias())
        for block in self.encoder:
            x = block(x, mask)
        states = self.dropout(self.encoder_norm(x))

        x = self.dropout(self.embedding(batch.decoder_input))
        if self.config.start_from_state:
            x = start_from(states, x, batch.begins)
        mask, cross_mask = Mask(*batch.target_span, self.decoder_bias()), Mask(*batch.cross_span)
        for block, cross in zip(self.decoder, self._cross(states)):
            x = block(x, mask, cross=(cross, cross_mask))
        return self._logits(x)

    def loss_sum(self, batch: Batch) -> Tensor:
        """−Σ log p over the target tokens of a batch."""
        return summed_loss(self(batch), batch.target)

    def encode(self, input_ids: Tensor, ends: Tensor, lengths: Tensor, cache: Cache) -> None:
        """Encode new source blocks into ``cache``: right-aligned ids (B, W); the end of each
        token's block among these columns, (B, W); the number of real tokens, (B,)."""
        n_new = input_ids.shape[1]
        n_old = cache.grow(lengths, n_new) - n_new
        padded = torch.arange(n_new, device=lengths.device) < n_new - lengths[:, None]
        first = torch.where(padded, 0, cache.first[:, None])
        last = torch.where(padded, 0, n_old + ends)
        x, mask = self.embedding(input_ids), Mask(first, last, self.encoder_bias(), n_old)
        for layer, block in enumerate(self.encoder):
            x = block(x, mask, cache, layer)
        states = self.encoder_norm(x)
        for layer, new in enumerate(self._cross(states)):
            cache.add(cache.cross, layer, new)
        cache.newest = states[:, -1]

    def decode(self, decoder_input_ids: Tensor, cache: Cache) -> Tensor:
        """Logits (B, T, V) of the next T decoder inputs (B, T), given the source in ``cache``."""
        n_new, n_past = decoder_input_ids.shape[1], cache.n_columns
        x = self.embedding(decoder_input_ids)
        if self.config.start_from_state and n_past == 0:
            x = torch.cat([x[:, :1] + cache.newest[:, None], x[:, 1:]], 1)
        # A single query sees everything written so far.
        span = causal_span(n_new, n_past, x.device) if n_new > 1 else (None, None)
        mask, cross_mask = Mask(*span, self.decoder_bias(), n_past), cache.cross_mask(n_new)
        for layer, block in enumerate(self.decoder):
            x = block(x, mask, cache, layer, (cache.cross[layer], cross_mask))
        return self._logits(x)

    def _cross(self, states: Tensor) -> list[Tensor]:
        """Each decoder layer's keys and values from encoder states (B, S, D)."""
        blocks: Any = self.decoder
        return [block.cross_attention.keys_and_values(states) for block in blocks]

    def _logits(self, x: Tensor) -> Tensor:
        x = self.dropout(self.decoder_norm(x))
        if self.config.scale_decoder_outputs:
            x = x * self.config.d_model**-0.5
        head = self.embedding if self.head is None else self.head
        return F.linear(x, head.weight)

    def _initialise(self) -> None:
        """T5's scheme (Mesh TensorFlow): each matrix preserves the variance of its input.

        Without 1/√K in the scores, the query weights start √K times smaller.
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


def start_from(states: Tensor, x: Tensor, begins: tuple[Tensor, ...]) -> Tensor:
    """Add to each target's first input, in x (B, T, D), the state (B, S, D) of the newest source
    token it reads (not in the paper)."""
    rows, places, newest = begins
    return x.index_put((rows, places), states[rows, newest], accumulate=True)


def summed_loss(logits: Tensor, target: Tensor) -> Tensor:
    """−Σ log p over the targets (B, T) except padding (−100), in float32 or wider."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return _CrossEntropy.apply(logits.flatten(0, 1), target.flatten())


class _CrossEntropy(torch.autograd.Function):
    """−Σ log softmax(logits)[target]; the gradient, softmax − one-hot, is computed in place."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor) -> Tensor:
        highest = logits.amax(-1, keepdim=True)
        powers = (logits - highest).exp_()
        total = powers.sum(-1, keepdim=True)
        real = (target != IGNORE)[:, None]
        label = torch.where(real, target[:, None], 0)
        losses = total.log() + highest - logits.gather(-1, label)
        ctx.save_for_backward(powers, total, label, real)
        return torch.where(real, losses, 0).sum()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        powers, total, label, real = ctx.saved_tensors
        gradient = gradient * real
        return powers.mul_(gradient / total).scatter_add_(-1, label, -gradient), None
