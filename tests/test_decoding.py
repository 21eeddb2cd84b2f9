"""Decoding one segment against slow oracles, and the iterative loop against scripted models."""

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
from ases.settings import ModelConfig


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
            written = [(d.ids, d.end) for d in greedy(model, cache, Ids, 15)]
            assert written == [cut(expected[i]) for i in batch]


def search_by_the_book(model, source, max_tokens, width, forbidden):
    """Beam search, one source, the whole model for every beam.

    Of the width best continuations, those that end are finished, and dropped if they are forbidden;
    the width best others go on. It is over when the best of these could not beat the worst of width
    finished ones by ending here.
    """
    scored = lambda score, ids: (score / len(ids), ids)
    running, finished = [(0.0, [])], []
    for _ in range(max_tokens):
        candidates = []
        for score, ids in running:
            log_p = log_probabilities(model, source, ids)[-1].tolist()
            candidates += [(score + p, [*ids, token]) for token, p in enumerate(log_p)]
        candidates = sorted(candidates, reverse=True)
        ended = [c for c in candidates[:width] if c[1][-1] in (1, 2)]
        finished += [scored(score, ids) for score, ids in ended if ids[:-1] != forbidden]
        finished = sorted(finished, reverse=True)[:width]
        running = [c for c in candidates if c[1][-1] not in (1, 2)][:width]
        if len(finished) == width and scored(*running[0])[0] <= finished[-1][0]:
            return max(finished)
    return max([*finished, *(scored(*c) for c in running)])


@torch.no_grad()
@pytest.mark.parametrize("width", [1, 2, 3, 8])
def test_beams_by_the_book_in_a_batch(width):
    sources = [3, 4, 5], [4], [5, 5, 3, 4]
    for seed in range(4):
        model, forbidden = random_model(seed, vocab_size=6), [None] * 3
        for _ in range(2):  # anything, then anything but that
            cache = read_whole(model, sources)
            batch = beam_search(model, cache, Ids, 5, forbidden, width)
            for source, without, written in zip(sources, forbidden, batch, strict=True):
                _, ids = search_by_the_book(model, source, 5, width, without)
                assert (written.ids, written.end) == cut(ids)
            forbidden = [written.ids for written in batch]


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


def write_chains(model, questions, encoder, *searches, rounds=7, model_as=None):
    models = {ES: model, AS: model_as or model}
    writer = SegmentWriter(models, Spelling, encoder, 6, *searches)
    return generate_chains(writer, questions, Spelling, (ES, AS), rounds)


@torch.no_grad()
@pytest.mark.parametrize("search", SEARCHES.values(), ids=SEARCHES)
@pytest.mark.parametrize("dual", [False, True], ids=["usm", "dsm"])
@pytest.mark.parametrize("seed", [3, 4, 5])
def test_chains_are_those_of_reading_everything_anew(search, dual, seed, monkeypatch):
    model, model_as = (random_model(n).double() for n in (seed, seed + 10))
    questions = random_sources(random.Random(seed), 11, 0, 12)

    other = dict(model_as=model_as) if dual else {}
    chains = lambda questions: write_chains(model, questions, "block-causal", search, **other)
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
    given = model, questions, "block-causal", search, second_try
    kept = write_chains(*given)
    assert len(tried) > 1 and sum(map(len, tried)) < sum(len(chain.ids) for chain in kept)
    assert "length" not in {chain.stop for chain in kept}
    monkeypatch.setattr(decoding, "ContextEncoder", Anew)
    assert write_chains(*given) == kept


@pytest.mark.parametrize("encoder", ["block-causal", "bidirectional"])
def test_a_second_try_may_repeat_the_question_but_not_the_segment_before(encoder):
    forbidden = []

    def stubborn(model, cache, *limits):
        return [Decoded([5], "segment") for _ in cache.first]

    def second_try(*arguments):
        forbidden.append(before := arguments[-1])
        return [Decoded([4], "segment") for _ in before]

    questions = [[5], [6, 7]]
    chains = write_chains(random_model(1), questions, encoder, stubborn, second_try, rounds=4)
    assert [chain.ids for chain in chains] == [[[5], [4], [5], [4]]] * 2
    assert forbidden == [[[5], [5]]] * 2


def test_a_finished_search_is_not_beaten_by_later_candidates():
    beams = Beams(1, {1, 2}, None)
    beams.advance([(-1.0, 0, 1), (-1.5, 0, 5)])
    assert beams.done and beams.best() == [1]
    beams.advance([(-0.4, 0, 1), (-0.5, 0, 6)])  # they come too late
    assert beams.best() == [1]
