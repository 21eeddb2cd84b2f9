"""The generated problems and reports."""

import operator
import random
import re

import pytest

from ases import tasks
from ases.metrics import parse_answer
from ases.segmentation import split_pieces
from ases.tasks import make_splits, reports, word_problems

EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")
SIGNS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
#: What the pieces of AS hold, and those of ES don't.
DERIVATIONS = {"mwp": EQUATION, "pet": re.compile("considered|likely|advised|excluded")}


@pytest.fixture(scope="module")
def splits():
    return {t: make_splits(t, 1500, 200, 300, seed=5, max_number=50) for t in DERIVATIONS}


@pytest.fixture
def problems(splits):
    return [e for part in splits["mwp"].values() for e in part]


@pytest.mark.parametrize("task", DERIVATIONS)
def test_pieces_and_roles_are_true_and_no_question_occurs_twice(splits, task):
    examples = [e for part in splits[task].values() for e in part]
    assert len({e.question for e in examples}) == len(examples) >= 2000
    for e in examples:
        assert [text for _, text in e.gold] == split_pieces(e.answer)
        assert {role for role, _ in e.gold} == {"ES", "AS"}
        for role, text in e.gold:
            assert (role == "AS") == bool(DERIVATIONS[task].search(text))


def test_every_derivation_is_true_and_the_answer_is_the_last_result(problems):
    for e in problems:
        for a, sign, b, result in (equations := EQUATION.findall(e.answer)):
            numbers = int(a), int(b), int(result)
            assert SIGNS[sign](*numbers[:2]) == numbers[2]
            assert 1 <= min(numbers) and max(numbers) <= 50
        last = equations[-1][3]
        assert parse_answer(e.answer) == int(last) and e.answer.endswith(f" The answer is {last}.")


def test_longer_problems_have_more_steps_than_any_training_problem(splits):
    for name, steps in (("train", {1, 2, 3, 4}), ("longer", {5, 6})):
        assert {len(EQUATION.findall(e.answer)) for e in splits["mwp"][name]} == steps


SCHEMAS = "boxes with|gets|an hour|dollars|loses|finds|given|twice|three times|shared by|half of"
SCHEMAS += "|more than before|fewer than before"


def test_all_of_at_least_ten_schemas_are_used(problems):
    assert len(word_problems.OPENINGS + word_problems.EVENTS) >= 10
    for words in SCHEMAS.split("|"):
        assert any(words in e.answer for e in problems), words


def test_seeded_and_nested():
    sizes = (50, 1), (80, 1), (50, 2)
    small, large, other = (make_splits("mwp", n, 20, 30, seed, 50) for n, seed in sizes)
    assert large["train"][:50] == small["train"] and large["test"] == small["test"]
    assert other != small


def test_sentences_stand_beside_what_they_refer_to_join_and_count_right(problems):
    refers = re.compile(r"than that|than before|fewer|as many|as large")
    about_something_else = re.compile(r"years old|miles to|trees near|cousins")
    plural_of_one = re.compile(r"(?<![0-9])1 (?!more|fewer|of)[a-z]+s(?![a-z])")
    for e in problems:
        sentences = e.question.split(". ")
        for before, sentence in zip(sentences, sentences[1:]):
            assert not (refers.search(sentence) and about_something_else.search(before)), e
        assert not plural_of_one.search(e.question + e.answer), e
    questions = " ".join(e.question for e in problems)
    assert " and loses" in questions
    assert re.search(r"[A-Z][a-z]+ has \d+ \w+ and (gives|loses|sells)", questions)


def ask_only(n, monkeypatch):
    """Problems are one of n."""
    one_of = lambda rng, steps, max_number: (f"q{rng.randint(1, n)}", [("ES", "a")])
    monkeypatch.setattr(tasks, "word_problem", one_of)


def test_running_out_of_questions_is_reported(monkeypatch):
    ask_only(9, monkeypatch)
    with pytest.raises(ValueError, match="only . different"):
        make_splits("mwp", 20, 1, 1, 0, 50)


def test_test_splits_do_not_depend_on_the_training_split(monkeypatch):
    """With few questions to choose from, too: what one split takes, the other lacks."""
    ask_only(100, monkeypatch)
    few, many = (make_splits("mwp", n, 20, 20, 1, 10) for n in (5, 25))
    assert all(few[name] == many[name] for name in ("validation", "test", "longer"))


def test_a_nodule_of_10_mm_is_a_large_one():
    """The smaller judgement is for findings below 10 mm."""
    small, large = reports._JUDGEMENTS["mild", "node"]
    seen = set()
    for seed in range(6000):
        question, pieces = reports.report(random.Random(seed))
        for size in re.findall(r"lymph node of (\d+) mm[^.]* with mildly", question):
            [text] = [b for (_, a), (_, b) in zip(pieces, pieces[1:]) if "Lymph node" in a][:1]
            if size in ("9", "10") and "than before" not in text:
                seen.add((size, text.strip(" .")))
    assert seen == {("9", small), ("10", large)}


def test_every_wording_is_said_and_every_question_is_clear(problems):
    """Nobody is asked what is left unless something went, nor about people not mentioned."""
    for e in problems:
        asked = e.question.rsplit(". ", 1)[-1]
        last = [text for role, text in e.gold if role == "AS"][-1]
        if "left" in asked:
            assert last.endswith(" left."), e
        for words, derived in (("together", "they have"), ("each friend", "each friend gets")):
            assert not re.search(rf"\b{words}\b", asked) or derived in last, e
        names = set(re.findall(r"\b[A-Z][a-z]+\b", asked)) - {"How"}
        assert all(name in e.question.removesuffix(asked) for name in names), e
        assert not re.search("[{}]", e.question + e.answer), e
    text = " ".join(e.question for e in problems)
    for section, lines in word_problems.WORDINGS.items():
        for line in lines if section != "distractors" else []:
            said = re.split(r"\{\w+\}", line.split(" | ")[0])
            assert max(said, key=len).strip(" .?") in text, (section, line)
