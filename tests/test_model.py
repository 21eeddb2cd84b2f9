"""The model: buckets against a table, padding that changes nothing, a cache that changes nothing."""

import pytest
import torch

from ases.model import SIZES, EncoderDecoder, ModelConfig, relative_position_bucket


def test_bidirectional_buckets():
    # 8 buckets, distance up to 16: 0, 1 exact; then log2(d / 2) / log2(16 / 2) · 2 steps; keys to the right + 4
    distances = torch.tensor([-100, -16, -15, -6, -5, -3, -2, -1, 0, 1, 2, 3, 5, 6, 15, 16, 100])
    assert relative_position_bucket(distances, True, 8, 16).tolist() == [
        3,
        3,
        3,
        3,
        2,
        2,
        2,
        1,
        0,
        5,
        6,
        6,
        6,
        7,
        7,
        7,
        7,
    ]


def test_causal_buckets():
    # 8 buckets, distance up to 16: 0 to 3 exact, then four steps of the logarithm from 4 to 16; the future is bucket 0
    distances = torch.tensor([3, 1, 0, -1, -2, -3, -4, -5, -6, -7, -8, -9, -11, -12, -15, -16, -99])
    assert relative_position_bucket(distances, False, 8, 16).tolist() == [
        0,
        0,
        0,
        1,
        2,
        3,
        4,
        4,
        5,
        5,
        6,
        6,
        6,
        7,
        7,
        7,
        7,
    ]


@pytest.mark.parametrize(
    "variant",
    [
        dict(),
        dict(feed_forward="relu", tie_word_embeddings=True, scale_decoder_outputs=True),
        dict(
            num_layers=1,
            num_decoder_layers=3,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=20,
        ),
    ],
)
def test_every_parameter_gets_a_gradient(variant):
    model = EncoderDecoder(
        ModelConfig(
            vocab_size=20,
            **(
                dict(
                    d_model=16,
                    d_kv=4,
                    d_ff=24,
                    num_layers=2,
                    num_decoder_layers=2,
                    num_heads=3,
                    dropout_rate=0.0,
                )
                | variant
            ),
        )
    )
    source, lengths = torch.randint(3, 20, (4, 9)), torch.tensor([9, 5, 1, 7])
    model.loss_sum(source, lengths, torch.randint(3, 20, (4, 6))).backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in model.parameters()
    )


def test_padding_more_changes_nothing(model):
    source, lengths = torch.randint(4, 90, (3, 7)), torch.tensor([7, 3, 5])
    target = torch.randint(4, 90, (3, 6))
    target[1, 4:] = -100
    loss = model.loss_sum(source, lengths, target)
    wider = torch.cat(
        [source, torch.randint(0, 90, (3, 5))], dim=1
    )  # what stands in the padding does not matter
    longer = torch.cat([target, torch.full((3, 4), -100)], dim=1)
    assert torch.allclose(model.loss_sum(wider, lengths, longer), loss, rtol=1e-6)


def test_shift_right(model):
    assert model.shift_right(torch.tensor([[5, 6, 1], [7, 1, -100], [1, -100, -100]])).tolist() == [
        [0, 5, 6],
        [0, 7, 1],
        [0, 1, 0],
    ]


def test_loss_is_a_sum_over_real_target_tokens(model):
    source, lengths, target = (
        torch.randint(4, 90, (2, 5)),
        torch.tensor([5, 4]),
        torch.tensor([[8, 9, 1], [7, 1, -100]]),
    )
    log_p = model(source, model.shift_right(target), lengths).log_softmax(-1)
    by_hand = -sum(log_p[b, t, target[b, t]] for b, t in [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)])
    assert torch.allclose(model.loss_sum(source, lengths, target), by_hand)


@pytest.mark.parametrize("chunks", [[1] * 8, [3, 1, 4], [8]])
@torch.no_grad()
def test_cached_decoding_is_uncached_decoding(model, chunks):
    source, lengths, inputs = (
        torch.randint(4, 90, (3, 6)),
        torch.tensor([6, 2, 4]),
        torch.randint(0, 90, (3, 8)),
    )
    whole = model(source, inputs, lengths)
    cache = model.start(model.encode(source, lengths), lengths)
    parts = [model.decode(chunk, cache) for chunk in inputs.split(chunks, dim=1)]
    assert torch.allclose(torch.cat(parts, dim=1), whole, atol=1e-5)


@torch.no_grad()
def test_cache_rows_can_be_selected(model):
    source, lengths, inputs = (
        torch.randint(4, 90, (3, 6)),
        torch.tensor([6, 2, 4]),
        torch.randint(0, 90, (3, 4)),
    )
    cache = model.start(model.encode(source, lengths), lengths)
    model.decode(inputs[:, :2], cache)
    rows = torch.tensor([2, 0, 2])
    cache.select(rows)
    assert torch.allclose(
        model.decode(inputs[rows, 2:], cache), model(source, inputs, lengths)[rows, 2:], atol=1e-5
    )


def test_sizes_by_name_and_bad_shapes():
    assert SIZES["base"] == dict(
        d_model=768, d_kv=64, d_ff=2048, num_layers=12, num_decoder_layers=12, num_heads=12
    )
    for bad in (
        dict(feed_forward="swish"),
        dict(d_model=0),
        dict(relative_attention_num_buckets=6),
        dict(relative_attention_max_distance=16),
        dict(dropout_rate=1.0),
    ):
        with pytest.raises(ValueError, match=next(iter(bad))):
            ModelConfig(vocab_size=10, **bad)
