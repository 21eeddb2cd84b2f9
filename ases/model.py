"""The encoder-decoder transformer: of the T5 family, and T5 v1.0, v1.1, Flan-T5 or mT5 if asked.

What sets the family apart from the transformer of the textbooks: no biases in any layer, RMSNorm
before each sub-layer, a learned relative position bias in self-attention instead of position
embeddings (held by the stack, shared by its layers), no 1/√K in the scores (a setting here), and,
from v1.1 on, a gated GELU feed-forward and an untied head.

Shapes: B batch, S source, T target, H heads, D model width, K width of a head, F feed-forward
width, V vocabulary.
"""

import math
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ases.attention import Mask, Runs, attend, causal, padding
from ases.config import ModelConfig
from ases.pairs import IGNORE, Batch

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
        if not torch.is_grad_enabled():
            return F.rms_norm(x, self.weight.shape, self.weight, self.epsilon)
        return _Normalise.apply(x, self.weight, self.epsilon)


class _Normalise(torch.autograd.Function):
    """RMSNorm with its gradient written out: a third of the steps that PyTorch would take."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        # A sum of squares in bfloat16 would lose most of its digits.
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
        span = config.relative_attention_max_distance
        difference = torch.arange(-span, span + 1, device="cpu")  # even where weights have no place
        buckets = relative_position_bucket(
            difference, bidirectional, config.relative_attention_num_buckets, span
        )
        self.register_buffer("buckets", buckets, persistent=False)

    def forward(self) -> Tensor:
        """(H, 2·span + 1): entry d + span is the bias of the difference d = j − i of key and query.

        The span is the largest distance: from there on, all differences share a bucket.
        """
        return self.table(self.buckets).T.contiguous()


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

    def keys_and_values(self, x: Tensor) -> Tensor:
        """x (B, T, D) → (B, T, 2, H, K), in one product."""
        both = F.linear(x, torch.cat([self.k.weight, self.v.weight]))
        return both.unflatten(-1, (2, self.heads, self.width))

    def forward(self, x: Tensor, keys_and_values: Tensor, mask: Mask) -> Tensor:
        """x (B, Q, D) and what ``keys_and_values`` gave (B, T, 2, H, K) → (B, Q, D)."""
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


def join_columns(past: Tensor | None, new: Tensor) -> Tensor:
    """(B, C, …) and (B, W, …) → (B, C + W, …)."""
    return new if past is None else torch.cat([past, new], 1)


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
        mask: Mask,
        past: Tensor | None = None,
        join: Callable[[Tensor | None, Tensor], Tensor] = join_columns,
        cross: Tensor | None = None,
        cross_mask: Mask | None = None,
    ) -> tuple[Tensor, Tensor]:
        """x (B, Q, D) → the next states (B, Q, D), and the keys and values so far.

        ``join`` puts the new keys and values behind ``past``; ``cross`` and ``cross_mask`` are a
        decoder's.
        """
        normed = self.norm_self(x)
        so_far = join(past, self.self_attention.keys_and_values(normed))
        x = x + self.dropout(self.self_attention(normed, so_far, mask))
        if cross is not None and cross_mask is not None:
            x = x + self.dropout(self.cross_attention(self.norm_cross(x), cross, cross_mask))
        return x + self.dropout(self.feed_forward(self.norm_ff(x))), so_far


# --- the whole -----------------------------------------------------------------------------------


class Cache:
    """What generation keeps of a batch: keys and values of each layer, (B, T, 2, H, K), of a source
    that grows (``append``) or of a target that is written over it (``decode``).

    Sources that grow are aligned on the right, so that the newest tokens of all stand in the same
    columns: then one vector of biases serves them, and what a row sees is one run.
    """

    def __init__(
        self, n_layers: int, cross: list[Tensor], newest: Tensor, first: Tensor, last: Tensor
    ):
        self.past: list[Tensor | None] = [None] * n_layers  # what has been read or written
        self.cross = cross  # the source's, for each layer of the decoder
        self.newest = newest  # (B, D) the encoder's state of each source's newest token
        self.first, self.last = first, last  # (B,) the columns in which a row's source stands
        self._mask = Mask()

    def mask(self, n_queries: int) -> Mask:
        """What a decoder's queries see of the source: the same in every step."""
        if self._mask.last is None or self._mask.last.shape[1] != n_queries:
            first, last = self.first[:, None], self.last[:, None]
            self._mask = Mask(first.expand(-1, n_queries), last.expand(-1, n_queries))
        return self._mask

    def select(self, rows: Tensor) -> None:
        """Keep the batch rows ``rows`` (indices, in the order wanted, repeats allowed)."""
        self.select_past(rows)
        self.cross = [x.index_select(0, rows) for x in self.cross]
        self.newest, self.first, self.last = self.newest[rows], self.first[rows], self.last[rows]
        self._mask = Mask()

    def select_past(self, rows: Tensor) -> None:
        """Reorder rows that read the same source, as ``select`` (only what they wrote differs)."""
        self.past = [x if x is None else x.index_select(0, rows) for x in self.past]

    def fresh(self) -> "Cache":
        """For a target over the same source, of which nothing is written."""
        return Cache(len(self.cross), list(self.cross), self.newest, self.first, self.last)


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
        x = self.dropout(self.embedding(batch.decoder_input))
        if self.config.start_from_state:
            x = start_from(states, x, batch.begins)
        mask, cross_mask = Mask(*batch.target_runs, self.decoder_bias()), Mask(*batch.cross_runs)
        past: list[Tensor | None] = [None] * len(self.decoder)
        logits, _ = self._decode(x, mask, past, self._cross(states), cross_mask)
        return logits

    def encode(self, input_ids: Tensor, runs: Runs) -> Tensor:
        """(B, S) ids → (B, S, D) states; ``runs`` says which source tokens each of them sees."""
        x = self.dropout(self.embedding(input_ids))
        mask = Mask(*runs, self.encoder_bias())
        for block in self.encoder:
            x, _ = block(x, mask)
        return self.dropout(self.encoder_norm(x))

    def start(self, states: Tensor, input_lengths: Tensor) -> Cache:
        """A fresh cache over the encoder's states (B, S, D), of sources aligned on the left."""
        newest = states[torch.arange(len(states), device=states.device), input_lengths - 1]
        first = torch.zeros_like(input_lengths)
        return Cache(len(self.decoder), self._cross(states), newest, first, input_lengths)

    def nothing_read(self, n: int) -> Cache:
        """A cache for ``n`` sources of which nothing has been read."""
        zero = torch.zeros(n, dtype=torch.long, device=self.embedding.weight.device)
        newest = self.embedding.weight.new_zeros(n, self.config.d_model)
        return Cache(len(self.encoder), [], newest, zero, zero)

    def append(self, input_ids: Tensor, ends: Tensor, lengths: Tensor, cache: Cache) -> None:
        """Encode new blocks of a block-causal source behind what ``cache`` holds.

        Args:
            input_ids: (B, W) the new tokens, aligned on the right.
            ends: (B, W) the end of each token's block, counted in these columns.
            lengths: (B,) how many of the columns are real.
        """
        n_old, n_new = cache.cross[0].shape[1] if cache.cross else 0, input_ids.shape[1]
        n_all, all_lengths = n_old + n_new, cache.last - cache.first + lengths
        kept, shortest = min(n_all, int(all_lengths.max())), int(lengths.min())
        # Where each row's last columns stand, once new ones that are padding are left out.
        column = torch.arange(n_all - kept, n_all, device=lengths.device)
        old = (column - (n_new - lengths)[:, None]).clamp(min=0)
        column = torch.where(column >= n_all - lengths[:, None], column, old)
        row = n_all * torch.arange(len(lengths), device=lengths.device)[:, None]
        place = (row + column).flatten()  # among the columns of all rows

        def join(past: Tensor | None, new: Tensor) -> Tensor:
            """New columns behind old ones without gaps: all rows stay aligned on the right."""
            both = join_columns(past, new)
            if past is None or shortest == n_new:
                return both[:, -kept:]
            return both.flatten(0, 1).index_select(0, place).unflatten(0, (len(new), kept))

        padded = torch.arange(n_new, device=lengths.device) < n_new - lengths[:, None]
        start = (kept - all_lengths)[:, None]
        runs = torch.where(padded, 0, start), torch.where(padded, 0, kept - n_new + ends)
        x, mask = self.embedding(input_ids), Mask(*runs, self.encoder_bias(), kept - n_new)
        for i, block in enumerate(self.encoder):
            x, cache.past[i] = block(x, mask, cache.past[i], join)
        states = self.encoder_norm(x)
        new = self._cross(states)
        cache.cross = [join(*pair) for pair in zip(cache.cross or [None] * len(new), new)]
        cache.newest = states[:, -1]
        cache.last = torch.full_like(lengths, kept)
        cache.first = cache.last - all_lengths

    def decode(self, decoder_input_ids: Tensor, cache: Cache) -> Tensor:
        """Logits (B, T, V) for the next T decoder inputs (B, T), whose keys and values are kept."""
        n_new, past = decoder_input_ids.shape[1], cache.past[0]
        n_past = 0 if past is None else past.shape[1]
        x = self.dropout(self.embedding(decoder_input_ids))
        if self.config.start_from_state and n_past == 0:
            x = torch.cat([x[:, :1] + cache.newest[:, None], x[:, 1:]], 1)
        # One query sees all that is written.
        runs = causal(n_new, n_past, x.device) if n_new > 1 else (None, None)
        mask = Mask(*runs, self.decoder_bias(), n_past)
        logits, cache.past = self._decode(x, mask, cache.past, cache.cross, cache.mask(n_new))
        return logits

    def _cross(self, states: Tensor) -> list[Tensor]:
        """Each decoder layer's keys and values of the encoder's states (B, S, D)."""
        blocks = [cast(Block, block) for block in self.decoder]
        return [block.cross_attention.keys_and_values(states) for block in blocks]

    def _decode(
        self,
        x: Tensor,
        mask: Mask,
        past: list[Tensor | None],
        cross: list[Tensor],
        cross_mask: Mask,
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits of the decoder inputs, and each layer's keys and values so far."""
        so_far = []
        for i, block in enumerate(self.decoder):
            x, written = block(x, mask, past[i], join_columns, cross[i], cross_mask)
            so_far.append(written)
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


def start_from(states: Tensor, x: Tensor, begins: tuple[Tensor, ...]) -> Tensor:
    """Where a decoder begins: the encoder's state of the newest token that a target reads is added
    to the target's first input [ours].

    Args:
        states: (B, S, D) of the encoder.
        x: (B, T, D) embedded decoder inputs of packed targets.
        begins: each target's row, its first place in it, and the place of the source token, (N,).
    """
    rows, places, newest = begins
    return x.index_put((rows, places), states[rows, newest], accumulate=True)


def token_losses(logits: Tensor, target: Tensor) -> Tensor:
    """−Σ log p over the target tokens (B, T) but padding labels (−100), at least in float32."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return _CrossEntropy.apply(logits.flatten(0, 1), target.flatten())


class _CrossEntropy(torch.autograd.Function):
    """−Σ log softmax(logits)[target], whose gradient, softmax − one-hot, takes no more memory."""

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
