"""One encoding of a chain against one of each context: losses, gradients and written chains."""

import random
from dataclasses import replace
from functools import partial

import pytest
import torch
from conftest import TOY, TOY_PIECES

from ases.beam import beam_search
from ases.config import CHAIN, MODES, ModelConfig
from ases.decoding import Decoded, Reader, SegmentWriter, generate_chains, greedy
from ases.model import EncoderDecoder
from ases.pairs import Pair, collate, make_direct_pair, make_pairs, make_rows, pad_rows
from ases.segmentation import AS, ES, interleaved_labels, make_segments

LABELS = {
    "interleaved": interleaved_labels(5),
    "an empty first segment": [AS, AS, ES, AS, ES],
    "one segment": [ES] * 5,
    "two segments, the first empty": [AS] * 5,
}


def small_model(vocab_size, seed=0):
    torch.manual_seed(seed)
    depth = dict(num_layers=2, num_decoder_layers=2, num_heads=3)
    config = ModelConfig(vocab_size=vocab_size, d_model=16, d_kv=4, d_ff=24, **depth)
    return EncoderDecoder(config).double().eval()


def states_alone(model, context):
    """Encode one context by the definition: block after block, each with a mask of its own.

    Attention is written out here, with a matrix of what each token sees.
    """
    ids = torch.tensor([[i for block in context for i in block]])
    ends = [end for end in torch.tensor([len(b) for b in context]).cumsum(0).tolist()]
    n = ids.shape[1]
    last = torch.tensor([next(e for e in ends if e > i) for i in range(n)])
    seen = torch.arange(n) < last[:, None]
    bias = model.encoder_bias()
    span = bias.shape[1] // 2
    difference = (torch.arange(n) - torch.arange(n)[:, None]).clamp(-span, span) + span
    x = model.embedding(ids)
    for block in model.encoder:
        inner = block.self_attention
        normed = block.norm_self(x)
        heads = (n, inner.heads, inner.width)
        q, k, v = (
            part(normed)[0].view(heads).transpose(0, 1) for part in (inner.q, inner.k, inner.v)
        )
        scores = inner.scale * (q @ k.mT) + bias[:, difference]
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        x = x + inner.o((weights @ v).transpose(0, 1).reshape(1, n, -1))
        x = x + block.feed_forward(block.norm_ff(x))
    return model.encoder_norm(x)


def loss_alone(model, pair):
    """−Σ log p of one pair's target: its context alone, its target alone, no rows, no masks."""
    states = states_alone(model, pair.context)
    cache = model.start(states, torch.tensor([states.shape[1]]))
    logits = model.decode(torch.tensor([[0, *pair.target[:-1]]]), cache)[0]
    log_p = logits.log_softmax(-1)
    return -log_p[torch.arange(len(pair.target)), torch.tensor(pair.target)].sum()


def gradients(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in model.named_parameters()
    }


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("max_question", [1024, 7])
@pytest.mark.parametrize("roles", [*MODES["dsm"].values(), *MODES["usm"].values(), (CHAIN,)])
def test_a_rows_loss_is_the_sum_of_its_pairs(tokenizer, labels, max_question, roles):
    pairs = make_pairs(TOY.question, make_segments(TOY_PIECES, labels), tokenizer, max_question)
    pairs.append(make_direct_pair(TOY.question, TOY_PIECES, tokenizer, max_question))
    pairs = [pair for pair in pairs if pair.role in roles]
    model = small_model(tokenizer.vocab_size)
    rows = make_rows(pairs, "block-causal")
    assert len(rows) == bool(pairs)
    if not pairs:
        return
    together = model.loss_sum(collate(rows, tokenizer.pad_id))
    alone = sum(loss_alone(model, pair) for pair in pairs)
    assert torch.allclose(together, alone, rtol=0, atol=1e-10)
    expected = gradients(model, alone)
    for name, gradient in gradients(model, together).items():
        assert torch.allclose(gradient, expected[name], rtol=0, atol=1e-10), name


@torch.no_grad()
def test_a_decoder_begins_with_the_newest_state():
    """It is as if the start token's embedding were another one for each context."""
    model, rng = small_model(20), random.Random(3)
    pairs = random_pairs(rng, 4)
    plain = EncoderDecoder(replace(model.config, start_from_state=False)).double().eval()
    losses = []
    for pair in pairs:
        plain.load_state_dict(model.state_dict())
        plain.embedding.weight[0] += states_alone(model, pair.context)[0, -1]
        losses.append(loss_alone(plain, pair))
    together = model.loss_sum(collate(make_rows(pairs, "block-causal"), pad_id=0))
    assert torch.allclose(together, sum(losses), rtol=0, atol=1e-10)


def random_pairs(rng, n_segments):
    """Pairs of a made-up chain, its segments of 0 to 4 ids."""
    blocks = [[rng.randint(3, 19) for _ in range(rng.randint(0, 9))] + [1]]
    blocks += [
        [rng.randint(3, 19) for _ in range(rng.randint(0, 4))] + [1] for _ in range(n_segments)
    ]
    return [Pair(ES, blocks[: j + 1], blocks[j + 1]) for j in range(n_segments)]


def test_a_batch_of_chains_is_the_sum_of_all_pairs():
    rng, model = random.Random(0), small_model(20)
    chains = [random_pairs(rng, n) for n in (1, 5, 2, 9)]
    batch = collate([row for c in chains for row in make_rows(c, "block-causal")], pad_id=0)
    alone = sum(loss_alone(model, pair) for chain in chains for pair in chain)
    expected = gradients(model, alone)
    for name, gradient in gradients(model, model.loss_sum(batch)).items():
        assert torch.allclose(gradient, expected[name], rtol=0, atol=1e-10), name


def test_the_bidirectional_encoder_is_another_function():
    rng, model = random.Random(1), small_model(20)
    pairs = random_pairs(rng, 3)
    with torch.no_grad():
        losses = [
            float(model.loss_sum(collate(make_rows(pairs, encoder), pad_id=0)))
            for encoder in ("block-causal", "bidirectional")
        ]
    assert abs(losses[0] - losses[1]) > 1e-3
    # With a question alone there is no later block, so that nothing differs.
    first = make_rows(pairs[:1], "block-causal")
    assert first == make_rows(pairs[:1], "bidirectional")


# --- writing -------------------------------------------------------------------------------------


class Ids:
    pad_id, eos_id, end_id = 0, 1, 2


class Anew:
    """What a ``SegmentWriter`` writes, but every round encodes all of every context."""

    def __init__(self, models, search, second_try=None):
        self.models, self.search, self.second_try = models, search, second_try

    def __call__(self, role, chains, contexts):
        model = self.models[role]
        written = []
        for context in contexts:
            states = states_alone(model, context)
            cache = model.start(states, torch.tensor([states.shape[1]]))
            [segment] = self.search(model, cache, Ids, 6)
            before = context[-1][:-1] if len(context) > 1 else None
            if self.second_try and (segment.end == "length" or segment.ids == before):
                cache = model.start(states, torch.tensor([states.shape[1]]))
                [segment] = self.second_try(model, cache, Ids, 6, [before])
            written.append(segment)
        return written


def that_ends(search):
    """Random models hardly ever end a segment: end it somewhere, by what stands in it."""

    def shortened(*arguments):
        written = [decoded.ids for decoded in search(*arguments)]
        ends = ["chain" if sum(ids) % 7 == 0 else "segment" for ids in written]
        return [Decoded(ids[: 1 + len(set(ids))], end) for ids, end in zip(written, ends)]

    return shortened


SEARCHES = {"greedy": that_ends(greedy), "beams": that_ends(partial(beam_search, width=2))}


@torch.no_grad()
@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("dual", [False, True], ids=["usm", "dsm"])
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_chains_are_those_of_encoding_everything_anew(search, dual, seed):
    first = small_model(14, seed)
    models = {ES: first, AS: small_model(14, seed + 10) if dual else first}
    rng = random.Random(seed)
    questions = [[rng.randint(3, 13) for _ in range(rng.randint(0, 12))] for _ in range(11)]
    writer = SegmentWriter(models, Ids, 6, "block-causal", search)
    kept = generate_chains(writer, questions, Ids, (ES, AS), 7)
    anew = generate_chains(Anew(models, search), questions, Ids, (ES, AS), 7)
    assert kept == anew
    rounds = {len(chain.segments) for chain in kept}
    assert len(rounds) > 1 and max(rounds) > 2  # chains leave at different times


@torch.no_grad()
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_segments_that_fail_are_written_again(seed):
    """Those that are too long or repeat the one before, and only those, from the same context."""
    model, rng, tried = small_model(14, seed), random.Random(seed), []

    def search(*arguments):
        written = that_ends(greedy)(*arguments)
        return [Decoded(d.ids, "length" if sum(d.ids) % 3 == 0 else d.end) for d in written]

    def second_try(*arguments):
        tried.append(arguments[-1])
        return that_ends(partial(beam_search, width=3))(*arguments)

    questions = [[rng.randint(3, 13) for _ in range(rng.randint(0, 12))] for _ in range(11)]
    models = {ES: model, AS: model}
    writer = SegmentWriter(models, Ids, 6, "block-causal", search, second_try)
    kept = generate_chains(writer, questions, Ids, (ES, AS), 7)
    assert len(tried) > 1 and sum(map(len, tried)) < sum(len(chain.segments) for chain in kept)
    assert kept == generate_chains(Anew(models, search, second_try), questions, Ids, (ES, AS), 7)
    assert "length" not in {chain.stop for chain in kept}


@pytest.mark.parametrize("encoder", ["block-causal", "bidirectional"])
def test_the_second_try_may_not_repeat_the_segment_before(encoder):
    model, forbidden = small_model(14), []

    def second_try(model, cache, tokenizer, max_tokens, before):
        forbidden.append(before)
        return [Decoded([4], "segment") for _ in before]

    def stubborn(model, cache, tokenizer, max_tokens):
        return [Decoded([5], "segment") for _ in cache.first]

    writer = SegmentWriter({ES: model, AS: model}, Ids, 6, encoder, stubborn, second_try)
    chains = generate_chains(writer, [[3], [6, 7]], Ids, (ES, AS), 4)
    assert [ids for _, ids in chains[1].segments] == [[5], [4], [5], [4]]
    assert forbidden == [[[5], [5]]] * 2


@torch.no_grad()
def test_appending_blocks_is_encoding_them_at_once():
    """Rows of different lengths, several blocks at a time, rows that leave: states are the same."""
    model, rng = small_model(20), random.Random(2)
    contexts = [random_pairs(rng, 6)[-1].context for _ in range(5)]
    reader = Reader(model)
    left = list(range(5))
    for n_blocks, leaving in ((1, []), (3, [1]), (4, [0, 4]), (6, [])):
        left = [i for i in left if i not in leaving]
        cache = reader.read(left, [contexts[i][:n_blocks] for i in left])
        inputs = torch.tensor([[0, 5, 6]] * len(left))
        logits = model.decode(inputs, cache)
        for row, i in enumerate(left):
            states = states_alone(model, contexts[i][:n_blocks])
            alone = model.decode(inputs[:1], model.start(states, torch.tensor([states.shape[1]])))
            assert torch.allclose(logits[row], alone[0], rtol=0, atol=1e-10)


@torch.no_grad()
def test_a_writer_serves_again():
    model = small_model(14)
    writer = SegmentWriter({ES: model, AS: model}, Ids, 6, "block-causal", SEARCHES["greedy"])
    questions = [[3, 4, 5], [6], [7, 8]]
    first = generate_chains(writer, questions, Ids, (ES, AS), 4)
    assert generate_chains(writer, questions[:1] * 5, Ids, (ES, AS), 4) == first[:1] * 5
    assert generate_chains(writer, questions, Ids, (ES, AS), 4) == first


def test_rows_are_padded_on_the_right():
    assert pad_rows([[4], [5, 6]], 0).tolist() == [[4, 0], [5, 6]]
