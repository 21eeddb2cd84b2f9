"""The embedded tasks."""

import re

import pytest

from ases import tasks
from ases.metrics import parse_answer
from ases.segmentation import split_pieces
from ases.tasks import word_problems

EQUATION = re.compile(r"(\d+) ([-+*/]) (\d+) = (\d+)")


@pytest.fixture(scope="module")
def splits():
    return {
        task: tasks.make_splits(task, 1500, 200, 300, seed=5, max_number=50)
        for task in ("mwp", "pet")
    }


@pytest.mark.parametrize("task", ["mwp", "pet"])
def test_no_question_occurs_twice(splits, task):
    questions = [e.question for part in splits[task].values() for e in part]
    assert len(set(questions)) == len(questions) >= 2000


@pytest.mark.parametrize("task", ["mwp", "pet"])
def test_gold_pieces_are_the_splitters_pieces(splits, task):
    for part in splits[task].values():
        for e in part:
            assert [text for _, text in e.gold] == split_pieces(e.answer)
            assert {role for role, _ in e.gold} == {"ES", "AS"}


def test_every_derivation_is_true_and_the_answer_is_the_last_result(splits):
    for part in splits["mwp"].values():
        for e in part:
            equations = EQUATION.findall(e.answer)
            for a, sign, b, result in equations:
                a, b, result = int(a), int(b), int(result)
                assert {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign] == result
                assert max(a, b, result) <= 50 and min(a, b, result) >= 1
            assert parse_answer(e.answer) == int(equations[-1][3])
            assert e.answer.endswith(f" The answer is {equations[-1][3]}.")


def test_longer_problems_have_more_steps_than_any_training_problem(splits):
    steps = {
        name: [len(EQUATION.findall(e.answer)) for e in part]
        for name, part in splits["mwp"].items()
    }
    assert set(steps["train"]) == {1, 2, 3, 4} and set(steps["longer"]) == {5, 6}


def test_there_are_at_least_ten_schemas_and_all_are_used(splits):
    schemas = word_problems.OPENINGS + word_problems.EVENTS
    assert len(schemas) >= 10
    for piece in (
        "boxes with | gets | an hour | dollars | loses | finds | given | twice | "
        "three times | shared by | more than before | fewer than before"
    ).split(" | "):
        assert any(piece in e.answer for e in splits["mwp"]["train"]), piece


def test_derivations_are_as_and_facts_are_es(splits):
    for e in splits["mwp"]["train"]:
        for role, text in e.gold:
            assert (role == "AS") == bool(EQUATION.search(text))
    for e in splits["pet"]["train"]:
        for role, text in e.gold:
            assert (role == "AS") == bool(re.search(r"considered|likely|advised|excluded", text))


def test_seeded_and_nested():
    small, large = (tasks.make_splits("mwp", n, 20, 30, seed=1, max_number=50) for n in (50, 80))
    assert large["train"][:50] == small["train"] and large["test"] == small["test"]
    assert tasks.make_splits("mwp", 50, 20, 30, seed=2, max_number=50) != small


def test_nothing_stands_between_a_sentence_and_what_it_refers_to(splits):
    about_something_else = re.compile(r"years old|miles to|trees near|cousins")
    for e in splits["mwp"]["train"]:
        sentences = e.question.split(". ")
        for before, sentence in zip(sentences, sentences[1:]):
            if re.search(r"than that|than before|fewer|as many|as large", sentence):
                assert not about_something_else.search(before), e.question


def test_one_of_a_thing_is_singular(splits):
    for e in splits["mwp"]["train"]:
        assert not re.search(
            r"(?<![0-9])1 (?!more|fewer|of)[a-z]+s(?![a-z])", e.question + e.answer
        ), e


def test_running_out_of_questions_is_told(monkeypatch):
    monkeypatch.setattr(
        tasks,
        "word_problem",
        lambda rng, steps, max_number: (f"q{rng.randint(1, 9)}", [("ES", "a")]),
    )
    with pytest.raises(ValueError, match="only . different"):
        tasks.make_splits("mwp", 20, 1, 1, 0, 50)
