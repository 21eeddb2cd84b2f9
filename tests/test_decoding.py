"""Decoding one segment against slow oracles, and the iterative loop against scripted models."""

import itertools
import random
from functools import partial

import pytest
import torch
from conftest import TOY, TOY_PIECES, Ids, logits_of, read_whole

from ases import decoding
from ases.decoding import Decoded, Reader, SegmentWriter, generate_chains, greedy
from ases.extra.beam import beam_search
from ases.model import EncoderDecoder
from ases.pairs import make_pairs
from ases.segmentation import AS, ES, make_segments
from ases.settings import CHAIN, ModelConfig


def oracle(model, source, max_tokens):
    """Greedy decoding the slow way: one source, no cache, the whole model for every token."""
    ids = []
    for _ in range(max_tokens):
        inputs = torch.tensor([[0, *ids]])
        ids.append(int(logits_of(model, torch.tensor([source]), inputs)[0, -1].argmax()))
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
            cache = read_whole(model, [sources[i] for i in batch])
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
            inputs = torch.tensor([[0, *ids[:-1]]])
            logits = logits_of(model, torch.tensor([source]), inputs)[0].log_softmax(-1)
            score = float(sum(logits[t, i] for t, i in enumerate(ids))) / len(ids) ** length_penalty
            if score > best:
                best, best_ids = score, ids
        cache = read_whole(model, [source])
        [found] = beam_search(model, cache, Ids, 3, [forbidden], 40, length_penalty)
        assert found.ids == [i for i in best_ids if i not in (1, 2)]
        assert found.score == pytest.approx(best, abs=1e-5)


@torch.no_grad()
def test_one_beam_is_greedy_and_batches_do_not_matter():
    model, rng = random_model(7), random.Random(1)
    sources = [[rng.randint(3, 11) for _ in range(rng.randint(1, 9))] for _ in range(9)]
    one = beam_search(model, read_whole(model, sources), Ids, 8, width=1, length_penalty=0.0)
    plain = greedy(model, read_whole(model, sources), Ids, 8)
    assert [(d.ids, d.end) for d in one] == [(d.ids, d.end) for d in plain]
    together = beam_search(model, read_whole(model, sources), Ids, 8, width=3)
    for source, expected in zip(sources, together):
        [alone] = beam_search(model, read_whole(model, [source]), Ids, 8, width=3)
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
            logits = logits_of(model, torch.tensor([source]), inputs)[0, -1]
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
        cache = read_whole(model, [[3, 4, 5]])
        [found] = beam_search(model, cache, Ids, 7, None, width, penalty)
        assert found.ids == (ids[:-1] if ids[-1] in (1, 2) else ids)
        assert found.score == pytest.approx(score, abs=1e-5)


# --- the loop ------------------------------------------------------------------------------------


def scripted(script, calls):
    """Writes ``script[question's first id][number of segments so far]``."""

    def write(role, chains, contexts):
        calls.append((role, contexts))
        return [script[context[0][0]][len(context) - 1] for context in contexts]

    return write


class Spelling(Ids):
    """Ids as text."""

    @staticmethod
    def decode(ids):
        return "".join(f"<{i}>" for i in ids)


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
    write, questions = scripted(script, calls), [[q] for q in script]
    chains = generate_chains(write, questions, Spelling, (ES, AS), 4)
    assert [(chain.roles, chain.ids, chain.stop) for chain in chains] == [
        ([ES, AS, ES], [[20], [21], [22]], "end"),
        ([ES], [[30]], "end"),
        ([ES, AS], [[40], [41, 41]], "length"),
        ([ES, AS], [[50], [50]], "stuck"),
        ([ES, AS, ES], [[], [60], []], "stuck"),
        ([ES, AS, ES, AS], [[70], [71], [72], [73]], "rounds"),
    ]
    assert chains[2].text == "<40><41><41>" and chains[2].segments == [
        (ES, "<40>"),
        (AS, "<41><41>"),
    ]
    asked = [(role, len(contexts)) for role, contexts in calls]
    assert asked == [(ES, 6), (AS, 5), (ES, 3), (AS, 1)]
    assert calls[2][1] == [
        [[10, 1], [20, 1], [21, 1]],
        [[14, 1], [1], [60, 1]],
        [[15, 1], [70, 1], [71, 1]],
    ]


def test_generation_reads_what_training_read(tokenizer):
    pairs = make_pairs(TOY.question, make_segments(TOY_PIECES, [ES, AS, ES, AS, AS]), tokenizer)
    question, written = tokenizer.encode(TOY.question), []
    for pair in pairs:
        end = "chain" if tokenizer.end_id in pair.target else "segment"
        written.append(Decoded([i for i in pair.target if i not in tokenizer.special_ids], end))
    calls = []
    write = scripted({question[0]: written}, calls)
    [chain] = generate_chains(write, [question], tokenizer, (ES, AS), 10)
    read = [(role, contexts[0]) for role, contexts in calls]
    assert read == [(p.role, p.context) for p in pairs] and chain.stop == "end"
    assert chain.text == TOY.answer


def test_direct_is_one_round():
    script = {10: [Decoded([20, 21], "chain")], 11: [segment(30)]}
    chains = generate_chains(scripted(script, []), [[10], [11]], Spelling, (CHAIN,), 1)
    assert [(c.stop, len(c.ids)) for c in chains] == [("end", 1), ("no-end", 1)]


# --- what is kept between rounds -----------------------------------------------------------------


class Anew(Reader):
    """Forgets everything after each round."""

    def read(self, chains, contexts):
        self.cache, self.n_blocks = None, 0
        return super().read(chains, contexts)


def that_ends(search):
    """Random models hardly ever end a segment: end it somewhere, by what stands in it."""

    def shortened(*arguments):
        written = [decoded.ids for decoded in search(*arguments)]
        ends = ["chain" if sum(ids) % 7 == 0 else "segment" for ids in written]
        return [Decoded(ids[: 1 + len(set(ids))], end) for ids, end in zip(written, ends)]

    return shortened


SEARCHES = {"greedy": that_ends(greedy), "beams": that_ends(partial(beam_search, width=2))}


def some_questions(seed):
    rng = random.Random(seed)
    return [[rng.randint(3, 11) for _ in range(rng.randint(0, 12))] for _ in range(11)]


@torch.no_grad()
@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("dual", [False, True], ids=["usm", "dsm"])
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_chains_are_those_of_reading_everything_anew(search, dual, seed, monkeypatch):
    first = random_model(seed).double()
    models = {ES: first, AS: random_model(seed + 10).double() if dual else first}

    def chains(questions):
        writer = SegmentWriter(models, Spelling, "block-causal", 6, search)
        return generate_chains(writer, questions, Spelling, (ES, AS), 7)

    questions = some_questions(seed)
    kept = chains(questions)
    assert [chain for q in questions for chain in chains([q])] == kept
    monkeypatch.setattr(decoding, "Reader", Anew)
    assert chains(questions) == kept
    rounds = {len(chain.ids) for chain in kept}
    assert len(rounds) > 1 and max(rounds) > 2  # chains leave at different times


@torch.no_grad()
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_segments_that_fail_are_written_again(seed, monkeypatch):
    """Those that are too long or repeat the one before, and only those, from the same context."""
    model, tried = random_model(seed).double(), []

    def search(*arguments):
        written = that_ends(greedy)(*arguments)
        return [Decoded(d.ids, "length" if sum(d.ids) % 3 == 0 else d.end) for d in written]

    def second_try(*arguments):
        tried.append(arguments[-1])
        return that_ends(partial(beam_search, width=3))(*arguments)

    models = {ES: model, AS: model}

    def chains():
        writer = SegmentWriter(models, Spelling, "block-causal", 6, search, second_try)
        return generate_chains(writer, some_questions(seed), Spelling, (ES, AS), 7)

    kept = chains()
    assert len(tried) > 1 and sum(map(len, tried)) < sum(len(chain.ids) for chain in kept)
    assert "length" not in {chain.stop for chain in kept}
    monkeypatch.setattr(decoding, "Reader", Anew)
    assert chains() == kept


@pytest.mark.parametrize("encoder", ["block-causal", "bidirectional"])
def test_the_second_try_may_not_repeat_the_segment_before(encoder):
    model, forbidden = random_model(1), []

    def second_try(model, cache, tokenizer, max_tokens, before):
        forbidden.append(before)
        return [Decoded([4], "segment") for _ in before]

    def stubborn(model, cache, tokenizer, max_tokens, forbidden):
        return [Decoded([5], "segment") for _ in cache.first]

    models, questions = {ES: model, AS: model}, [[3], [6, 7]]
    writer = SegmentWriter(models, Spelling, encoder, 6, stubborn, second_try)
    chains = generate_chains(writer, questions, Spelling, (ES, AS), 4)
    assert chains[1].ids == [[5], [4], [5], [4]]
    assert forbidden == [[[5], [5]]] * 2
