"""Decoding one segment against slow oracles, and the iterative loop against scripted models."""

import itertools
import random

import pytest
import torch
from conftest import TOY, TOY_PIECES

from ases.beam import beam_search
from ases.config import CHAIN, ModelConfig
from ases.decoding import Chain, Decoded, SegmentWriter, encode_sources, generate_chains, greedy
from ases.model import EncoderDecoder
from ases.pairs import make_pairs
from ases.segmentation import AS, ES, make_segments


class Ids:
    """All that decoding needs of a tokenizer."""

    pad_id, eos_id, end_id = 0, 1, 2


def oracle(model, source, max_tokens):
    """Greedy decoding the slow way: one source, no cache, the whole model for every token."""
    ids = []
    for _ in range(max_tokens):
        inputs = torch.tensor([[0, *ids]])
        ids.append(
            int(model(torch.tensor([source]), inputs, torch.tensor([len(source)]))[0, -1].argmax())
        )
        if ids[-1] in (1, 2):
            break
    return ids


def random_model(seed, vocab_size=12, **shape):
    torch.manual_seed(seed)
    return EncoderDecoder(
        ModelConfig(
            vocab_size=vocab_size,
            **(
                dict(d_model=16, d_kv=4, d_ff=24, num_layers=2, num_decoder_layers=2, num_heads=2)
                | shape
            ),
        )
    ).eval()


@torch.no_grad()
@pytest.mark.parametrize("seed", range(4))
def test_greedy_is_the_oracle_in_any_batch_and_order(seed):
    model, rng = random_model(seed), random.Random(seed)
    sources = [[rng.randint(3, 11) for _ in range(rng.randint(1, 9))] for _ in range(17)]
    expected = [oracle(model, s, 15) for s in sources]
    assert len({len(e) for e in expected}) > 2  # rows leave the batch at different times
    for size in (1, 2, 5, 17):
        order = rng.sample(range(17), 17)
        for start in range(0, 17, size):
            batch = order[start : start + size]
            cache = encode_sources(model, [sources[i] for i in batch])
            for i, decoded in zip(batch, greedy(model, cache, Ids, 15)):
                end = {1: "segment", 2: "chain"}.get(expected[i][-1], "length")
                assert (decoded.ids, decoded.end) == (
                    expected[i][:-1] if end != "length" else expected[i],
                    end,
                )


def all_sequences(vocab, length):
    """Every sequence that ends with 1 or 2, or has ``length`` ids without them."""
    others = [i for i in range(vocab) if i not in (1, 2)]
    for n in range(length):
        for body in itertools.product(others, repeat=n):
            yield from ([*body, 1], [*body, 2])
    yield from (list(body) for body in itertools.product(others, repeat=length))


@torch.no_grad()
@pytest.mark.parametrize("forbidden", [None, [], [3], [4, 3]])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_wide_beams_find_what_brute_force_finds(length_penalty, forbidden):
    for seed in range(5):
        model = random_model(seed, vocab_size=5)
        source = [3, 4, 3]
        best, best_ids = -torch.inf, None
        for ids in all_sequences(5, 3):
            if ids[-1] in (1, 2) and ids[:-1] == forbidden:
                continue
            logits = model(
                torch.tensor([source]), torch.tensor([[0, *ids[:-1]]]), torch.tensor([3])
            )[0].log_softmax(-1)
            score = float(sum(logits[t, i] for t, i in enumerate(ids))) / len(ids) ** length_penalty
            if score > best:
                best, best_ids = score, ids
        cache = encode_sources(model, [source])
        [found] = beam_search(model, cache, Ids, 3, [forbidden], 40, length_penalty)
        assert found.ids == [i for i in best_ids if i not in (1, 2)]
        assert found.score == pytest.approx(best, abs=1e-5)


@torch.no_grad()
def test_one_beam_is_greedy_and_batches_do_not_matter():
    model, rng = random_model(7), random.Random(1)
    sources = [[rng.randint(3, 11) for _ in range(rng.randint(1, 9))] for _ in range(9)]
    one = beam_search(model, encode_sources(model, sources), Ids, 8, width=1, length_penalty=0.0)
    plain = greedy(model, encode_sources(model, sources), Ids, 8)
    assert [(d.ids, d.end) for d in one] == [(d.ids, d.end) for d in plain]
    together = beam_search(model, encode_sources(model, sources), Ids, 8, width=3)
    for source, expected in zip(sources, together):
        [alone] = beam_search(model, encode_sources(model, [source]), Ids, 8, width=3)
        assert (alone.ids, alone.end) == (expected.ids, expected.end)
        assert alone.score == pytest.approx(expected.score, abs=1e-5)


def search_by_the_book(model, source, max_tokens, width, penalty):
    """Beam search, one source, the whole model for every beam.

    Of the 2 · width best continuations, those that end and are among the first width are finished;
    the first width of the others go on. It is over when the best of these could not beat the worst
    of width finished ones by ending here.
    """
    running, finished = [(0.0, [])], []
    for _ in range(max_tokens):
        candidates = []
        for score, ids in running:
            inputs = torch.tensor([[0, *ids]])
            logits = model(torch.tensor([source]), inputs, torch.tensor([len(source)]))[0, -1]
            log_p = logits.log_softmax(-1).tolist()
            candidates += [(score + p, [*ids, token]) for token, p in enumerate(log_p)]
        candidates = sorted(candidates, key=lambda c: -c[0])[: 2 * width]
        ends = [c for c in candidates[:width] if c[1][-1] in (1, 2)]
        finished += [(score / len(ids) ** penalty, ids) for score, ids in ends]
        finished = sorted(finished, key=lambda c: -c[0])[:width]
        running = [c for c in candidates if c[1][-1] not in (1, 2)][:width]
        score, ids = running[0]
        if len(finished) == width and score / len(ids) ** penalty <= finished[-1][0]:
            return max(finished)
    return max([*finished, *((score / len(ids) ** penalty, ids) for score, ids in running)])


@torch.no_grad()
@pytest.mark.parametrize("width, penalty", [(2, 1.0), (3, 1.0), (2, 0.0), (3, 2.0)])
def test_beams_by_the_book(width, penalty):
    for seed in range(12):
        model = random_model(seed, vocab_size=6)
        score, ids = search_by_the_book(model, [3, 4, 5], 7, width, penalty)
        cache = encode_sources(model, [[3, 4, 5]])
        [found] = beam_search(model, cache, Ids, 7, None, width, penalty)
        assert found.ids == (ids[:-1] if ids[-1] in (1, 2) else ids)
        assert found.score == pytest.approx(score, abs=1e-5)


# --- the loop ------------------------------------------------------------------------------------


def scripted(script, calls):
    """A decoder that writes ``script[question's first id][number of segments so far]``."""

    def write(role, chains, contexts):
        calls.append((role, contexts))
        return [script[context[0][0]][len(context) - 1] for context in contexts]

    return write


def segment(*ids):
    return Decoded(list(ids), "segment")


def test_roles_alternate_and_finished_chains_leave():
    script = {
        10: [segment(20), segment(21), Decoded([22], "chain")],
        11: [Decoded([30], "chain")],
        12: [segment(40), Decoded([41, 41], "length")],
        13: [segment(50), segment(50)],
        14: [segment(), segment(60), segment()],
        15: [segment(70), segment(71), segment(72), segment(73)],
    }
    calls = []
    chains = generate_chains(
        scripted(script, calls), [[q] for q in script], Ids, (ES, AS), max_rounds=4
    )
    assert chains == [
        Chain([(ES, [20]), (AS, [21]), (ES, [22])], "end"),
        Chain([(ES, [30])], "end"),
        Chain([(ES, [40]), (AS, [41, 41])], "length"),
        Chain([(ES, [50]), (AS, [50])], "stuck"),
        Chain([(ES, []), (AS, [60]), (ES, [])], "stuck"),
        Chain([(ES, [70]), (AS, [71]), (ES, [72]), (AS, [73])], "rounds"),
    ]
    assert [(role, len(contexts)) for role, contexts in calls] == [
        (ES, 6),
        (AS, 5),
        (ES, 3),
        (AS, 1),
    ]
    assert calls[2][1] == [
        [[10, 1], [20, 1], [21, 1]],
        [[14, 1], [1], [60, 1]],
        [[15, 1], [70, 1], [71, 1]],
    ]


def test_inference_reads_what_training_read(tokenizer):
    segments = make_segments(TOY_PIECES, [ES, AS, ES, AS, AS])
    pairs = make_pairs(TOY.question, segments, tokenizer)
    read = []

    def teacher(role, chains, contexts):
        pair = pairs[len(read)]
        read.append((role, contexts[0]))
        end = "chain" if tokenizer.end_id in pair.target else "segment"
        return [Decoded([i for i in pair.target if i not in tokenizer.special_ids], end)]

    [chain] = generate_chains(teacher, [tokenizer.encode(TOY.question)], tokenizer, (ES, AS), 10)
    assert read == [(p.role, p.context) for p in pairs] and chain.stop == "end"
    assert tokenizer.decode([i for _, ids in chain.segments for i in ids]) == TOY.answer


def test_direct_is_one_round():
    script = {10: [Decoded([20, 21], "chain")], 11: [segment(30)]}
    chains = generate_chains(scripted(script, []), [[10], [11]], Ids, (CHAIN,), max_rounds=1)
    assert [(c.stop, len(c.segments)) for c in chains] == [("end", 1), ("no-end", 1)]


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["block-causal", "bidirectional"])
def test_the_dual_path_asks_the_model_of_the_role(encoder):
    models = {ES: random_model(1), AS: random_model(2)}
    questions = [[4, 5, 6, 1], [7, 1], [8, 9, 4, 4, 5, 1]]
    for role, model in models.items():  # of one block, either encoder says the same
        writer = SegmentWriter(models, Ids, 6, encoder)
        written = writer(role, [0, 1, 2], [[question] for question in questions])
        expected = greedy(model, encode_sources(model, questions), Ids, 6)
        assert [d.ids for d in written] == [d.ids for d in expected]


@torch.no_grad()
def test_a_bidirectional_encoder_reads_each_context_anew():
    model = random_model(3)
    contexts = [[[4, 5, 1], [6, 1]], [[7, 1], [8, 9, 1]]]
    writer = SegmentWriter({ES: model, AS: model}, Ids, 6, "bidirectional")
    writer(ES, [0, 1], [context[:1] for context in contexts])
    sources = [[i for block in context for i in block] for context in contexts]
    expected = greedy(model, encode_sources(model, sources), Ids, 6)
    assert writer(AS, [0, 1], contexts) == expected
