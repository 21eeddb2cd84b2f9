"""Decoding one segment against slow oracles, and the iterative loop against scripted models."""

import itertools
import random
from functools import partial

import pytest
import torch
from conftest import TOY, TOY_PIECES, Ids, logits_of, read_whole

from ases import decoding
from ases.decoding import ContextEncoder, Decoded, SegmentWriter, generate_chains, greedy
from ases.extra.beam import Beams, beam_search
from ases.model import EncoderDecoder
from ases.pairs import make_pairs
from ases.segmentation import AS, ES, make_segments
from ases.settings import CHAIN, ModelConfig


def log_probabilities(model, source, ids):
    """(T, V): of every id, after each beginning of ``ids``."""
    logits = logits_of(model, torch.tensor([source]), torch.tensor([[0, *ids]]))
    return logits[0].log_softmax(-1)


def oracle(model, source, max_tokens):
    """Greedy decoding the slow way: one source, no cache, the whole model for every token."""
    ids = []
    while len(ids) < max_tokens and not {1, 2}.intersection(ids):
        ids.append(int(log_probabilities(model, source, ids)[-1].argmax()))
    return ids


SHAPE = dict(d_model=16, d_kv=4, d_ff=24, num_layers=2, num_decoder_layers=2, num_heads=2)


def random_model(seed, vocab_size=12):
    torch.manual_seed(seed)
    return EncoderDecoder(ModelConfig(vocab_size=vocab_size, **SHAPE)).eval()


def random_sources(rng, n, shortest=1, longest=9):
    return [[rng.randint(3, 11) for _ in range(rng.randint(shortest, longest))] for _ in range(n)]


def cut(ids):
    """What is written of ids, the last of which may end a segment or the chain."""
    end = {1: "segment", 2: "chain"}.get(ids[-1], "length")
    return ids if end == "length" else ids[:-1], end


@torch.no_grad()
@pytest.mark.parametrize("seed", [0, 1, 2, 4])
def test_greedy_is_the_oracle_in_any_batch_and_order(seed):
    model, rng = random_model(seed), random.Random(seed)
    sources = random_sources(rng, 17)
    expected = [oracle(model, s, 15) for s in sources]
    assert len({len(e) for e in expected}) > 2  # rows leave the batch at different times
    for size in (1, 2, 5, 17):
        order = rng.sample(range(17), 17)
        for batch in (order[i : i + size] for i in range(0, 17, size)):
            cache = read_whole(model, [sources[i] for i in batch])
            found = [(d.ids, d.end) for d in greedy(model, cache, Ids, 15)]
            assert found == [cut(expected[i]) for i in batch]


def all_sequences(vocab, length):
    """Every sequence that ends with 1 or 2, or has ``length`` ids without them."""
    others = [i for i in range(vocab) if i not in (1, 2)]
    for n in range(length):
        for body in itertools.product(others, repeat=n):
            yield from ([*body, 1], [*body, 2])
    yield from map(list, itertools.product(others, repeat=length))


@torch.no_grad()
@pytest.mark.parametrize("forbidden", [None, [], [3], [4, 3]])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_wide_beams_find_what_brute_force_finds(penalty, forbidden):
    for seed in range(5):
        model, source = random_model(seed, vocab_size=5), [3, 4, 3]

        def score(ids):
            log_p = log_probabilities(model, source, ids[:-1])
            return float(sum(log_p[t, i] for t, i in enumerate(ids))) / len(ids) ** penalty

        best = max((i for i in all_sequences(5, 3) if cut(i)[0] != forbidden), key=score)
        [found] = beam_search(model, read_whole(model, [source]), Ids, 3, [forbidden], 40, penalty)
        assert found.ids == cut(best)[0]
        assert found.score == pytest.approx(score(best), abs=1e-5)


@torch.no_grad()
def test_one_beam_is_greedy_and_batches_do_not_matter():
    model, sources = random_model(7), random_sources(random.Random(1), 9)
    search = lambda sources, **how: beam_search(model, read_whole(model, sources), Ids, 8, **how)
    plain = greedy(model, read_whole(model, sources), Ids, 8)
    one = search(sources, width=1, length_penalty=0.0)
    assert [(d.ids, d.end) for d in one] == [(d.ids, d.end) for d in plain]
    for source, expected in zip(sources, search(sources, width=3)):
        [alone] = search([source], width=3)
        assert (alone.ids, alone.end) == (expected.ids, expected.end)
        assert alone.score == pytest.approx(expected.score, abs=1e-5)


def search_by_the_book(model, source, max_tokens, width, penalty):
    """Beam search, one source, the whole model for every beam.

    Of the width best continuations, those that end are finished; the width best others go on. It is
    over when the best of these could not beat the worst of width finished ones by ending here.
    """
    scored = lambda score, ids: (score / len(ids) ** penalty, ids)
    running, finished = [(0.0, [])], []
    for _ in range(max_tokens):
        candidates = []
        for score, ids in running:
            log_p = log_probabilities(model, source, ids)[-1].tolist()
            candidates += [(score + p, [*ids, token]) for token, p in enumerate(log_p)]
        candidates = sorted(candidates, reverse=True)
        finished += [scored(*c) for c in candidates[:width] if c[1][-1] in (1, 2)]
        finished = sorted(finished, reverse=True)[:width]
        running = [c for c in candidates if c[1][-1] not in (1, 2)][:width]
        if len(finished) == width and scored(*running[0])[0] <= finished[-1][0]:
            return max(finished)
    return max([*finished, *(scored(*c) for c in running)])


@torch.no_grad()
@pytest.mark.parametrize("width, penalty", [(2, 1.0), (3, 1.0), (2, 0.0), (3, 2.0)])
def test_beams_by_the_book(width, penalty):
    for seed in range(12):
        model = random_model(seed, vocab_size=6)
        score, ids = search_by_the_book(model, source := [3, 4, 5], 7, width, penalty)
        [found] = beam_search(model, read_whole(model, [source]), Ids, 7, None, width, penalty)
        assert found.ids == cut(ids)[0]
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


# What is written, how the last segment ends, and why the chain stops.
SCRIPT = [
    ([[20], [21], [22]], "chain", "end"),
    ([[30]], "chain", "end"),
    ([[40], [41, 41]], "length", "length"),
    ([[50], [50]], "segment", "stuck"),
    ([[], [60], []], "segment", "stuck"),
    ([[70], [71], [72], [73]], "segment", "rounds"),
]


def test_roles_alternate_and_finished_chains_leave():
    script, calls = {}, []
    for question, (ids, end, _) in enumerate(SCRIPT, start=10):
        script[question] = [*(Decoded(i, "segment") for i in ids[:-1]), Decoded(ids[-1], end)]
    chains = generate_chains(scripted(script, calls), [[q] for q in script], Spelling, (ES, AS), 4)
    assert [(chain.ids, chain.stop) for chain in chains] == [(ids, why) for ids, _, why in SCRIPT]
    assert all(chain.roles == [ES, AS, ES, AS][: len(chain.ids)] for chain in chains)
    assert chains[2].text == "<40><41><41>"
    assert chains[2].segments == [(ES, "<40>"), (AS, "<41><41>")]
    assert [(role, len(c)) for role, c in calls] == [(ES, 6), (AS, 5), (ES, 3), (AS, 1)]
    third = [[[10, 1], [20, 1], [21, 1]], [[14, 1], [1], [60, 1]], [[15, 1], [70, 1], [71, 1]]]
    assert calls[2][1] == third


def test_generation_reads_what_training_read(tokenizer):
    pairs = make_pairs(TOY.question, make_segments(TOY_PIECES, [ES, AS, ES, AS, AS]), tokenizer)
    question, written, calls = tokenizer.encode(TOY.question), [], []
    for pair in pairs:
        end = "chain" if tokenizer.end_id in pair.target else "segment"
        written.append(Decoded([i for i in pair.target if i not in tokenizer.special_ids], end))
    write = scripted({question[0]: written}, calls)
    [chain] = generate_chains(write, [question], tokenizer, (ES, AS), 10)
    assert calls == [(p.role, [p.context]) for p in pairs] and chain.stop == "end"
    assert chain.text == TOY.answer


def test_direct_is_one_round():
    script = {10: [Decoded([20, 21], "chain")], 11: [Decoded([30], "segment")]}
    chains = generate_chains(scripted(script, []), [[10], [11]], Spelling, (CHAIN,), 1)
    assert [(c.stop, len(c.ids)) for c in chains] == [("end", 1), ("no-end", 1)]


# --- what is kept between rounds -----------------------------------------------------------------
class Anew(ContextEncoder):
    """Forgets everything after each round."""

    def encode(self, chains, contexts):
        self.cache, self.n_blocks = None, 0
        return super().encode(chains, contexts)


def that_ends(search):
    """Random models hardly ever end a segment: end it somewhere, by what stands in it."""

    def shortened(*arguments):
        written = [decoded.ids for decoded in search(*arguments)]
        ends = ["chain" if sum(ids) % 7 == 0 else "segment" for ids in written]
        return [Decoded(ids[: 1 + len(set(ids))], end) for ids, end in zip(written, ends)]

    return shortened


SEARCHES = {"greedy": that_ends(greedy), "beams": that_ends(partial(beam_search, width=2))}


def write_chains(models, questions, encoder, *searches, rounds=7):
    writer = SegmentWriter(models, Spelling, encoder, 6, *searches)
    return generate_chains(writer, questions, Spelling, (ES, AS), rounds)


@torch.no_grad()
@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("dual", [False, True], ids=["usm", "dsm"])
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_chains_are_those_of_reading_everything_anew(search, dual, seed, monkeypatch):
    first = random_model(seed).double()
    models = {ES: first, AS: random_model(seed + 10).double() if dual else first}
    questions = random_sources(random.Random(seed), 11, 0, 12)
    chains = lambda questions: write_chains(models, questions, "block-causal", search)
    kept = chains(questions)
    assert [chain for q in questions for chain in chains([q])] == kept
    monkeypatch.setattr(decoding, "ContextEncoder", Anew)
    assert chains(questions) == kept
    rounds = {len(chain.ids) for chain in kept}
    assert len(rounds) > 1 and max(rounds) > 2  # chains leave at different times


@torch.no_grad()
@pytest.mark.parametrize("seed", [2, 3, 4])
def test_segments_that_fail_are_written_again(seed, monkeypatch):
    """Those that are too long or repeat the one before, and only those, from the same context."""
    model, tried = random_model(seed).double(), []

    def search(*arguments):
        written = SEARCHES["greedy"](*arguments)
        return [Decoded(d.ids, "length" if sum(d.ids) % 3 == 0 else d.end) for d in written]

    def second_try(*arguments):
        tried.append(arguments[-1])
        return that_ends(partial(beam_search, width=3))(*arguments)

    questions = random_sources(random.Random(seed), 11, 0, 12)
    given = {ES: model, AS: model}, questions, "block-causal", search, second_try
    kept = write_chains(*given)
    assert len(tried) > 1 and sum(map(len, tried)) < sum(len(chain.ids) for chain in kept)
    assert "length" not in {chain.stop for chain in kept}
    monkeypatch.setattr(decoding, "ContextEncoder", Anew)
    assert write_chains(*given) == kept


@pytest.mark.parametrize("encoder", ["block-causal", "bidirectional"])
def test_the_second_try_may_not_repeat_the_segment_before(encoder):
    model, forbidden = random_model(1), []

    def stubborn(model, cache, *limits):
        return [Decoded([5], "segment") for _ in cache.first]

    def second_try(*arguments):
        forbidden.append(before := arguments[-1])
        return [Decoded([4], "segment") for _ in before]

    models = {ES: model, AS: model}
    chains = write_chains(models, [[3], [6, 7]], encoder, stubborn, second_try, rounds=4)
    assert chains[1].ids == [[5], [4], [5], [4]]
    assert forbidden == [[[5], [5]]] * 2


def test_a_first_segment_may_repeat_the_question():
    def parrot(model, cache, *limits):
        return [Decoded([3], "segment") for _ in cache.first]

    def second_try(*arguments):
        forbidden.append(arguments[-1])
        return [Decoded([4], "segment") for _ in arguments[-1]]

    forbidden, model = [], random_model(1)
    [chain] = write_chains(
        {ES: model, AS: model}, [[3]], "block-causal", parrot, second_try, rounds=2
    )
    assert chain.ids == [[3], [4]] and forbidden == [[[3]]]


def test_finished_beams_are_not_beaten_by_running_ones():
    beams = Beams(1, 0.0, {1, 2}, None)
    beams.advance([(-1.0, 0, 1), (-1.5, 0, 5)])
    assert beams.done and beams.best() == (-1.0, [1])
    beams.advance([(-0.5, 0, 6)])  # it comes too late
    assert beams.best() == (-1.0, [1])
