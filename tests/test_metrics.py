"""Answers by table, BLEU against sacrebleu, ROUGE against rouge-score."""

import random
from fractions import Fraction

import numpy as np
import pytest
import sacrebleu
from rouge_score import rouge_scorer

from ases.answers import parse_answer, to_number
from ases.metrics import (
    bleu_counts,
    bleu_of_counts,
    bootstrap_interval,
    corpus_bleu,
    rouge,
    score,
    text_kind,
    tokenize_13a,
    tokenize_characters,
    tokenize_zh,
    wilson_interval,
)
from tests.golden.conventions import CONVENTIONS


@pytest.mark.parametrize(
    "text, number",
    [
        ("1,005.00", Fraction(1005)),
        ("$1,005.00", Fraction(1005)),
        ("-3", Fraction(-3)),
        ("72.", Fraction(72)),
        ("1/2", Fraction(1, 2)),
        (".5", Fraction(1, 2)),
        ("-$7", Fraction(-7)),
        ("3/0", None),
        ("", None),
        ("five", None),
        ("1e5", None),
        ("0.1", Fraction(1, 10)),
        ("--2", None),
        ("½", None),
        ("٣", None),
    ],
)
def test_numbers(text, number):
    assert to_number(text) == number


@pytest.mark.parametrize(
    "text, number",
    [
        ("The answer is 72.", 72),
        ("The answer is 72", 72),
        ("the answer is $1,005.00.", 1005),
        ("The answer is -3.", -3),
        ("The answer is -$3.", -3),
        ("The answer is −５.", -5),
        ("#### " + "1" * 5000, None),
        ("The answer is 1/2.", Fraction(1, 2)),
        ("The answer is 10,000 apples.", 10000),
        ("The answer is 29.00", 29),
        ("#### 1,080", 1080),
        ("The answer is 5. Wait. The answer is 6.", 6),
        ("The answer is 5-2.", 5),
        ("The answer is 5 - 2.", None),
        ("He has 3 and then 4 apples.", None),
        ("The answer is unknown.", None),
        ("nothing", None),
        ("", None),
        ("The answer is 3/0.", None),
        ("9.5", None),
        ("asdf 12 qwer 7 #", None),
        ("The answer is: 9.5", Fraction(19, 2)),
    ],
)
def test_parsed_answers(text, number):
    assert parse_answer(text) == number


def test_accuracy_compares_numbers_and_strict_compares_strings():
    references = ["#### 72", "The answer is 1,000.", "The answer is 0.5.", "The answer is 3."]
    predictions = ["The answer is 72.", "The answer is $1000.00.", "The answer is 1/2.", "no idea"]
    scores = score("mwp", predictions, references)
    assert scores["accuracy"] == 0.75 and scores["accuracy_strict"] == 0.25
    assert scores["parseable"] == 0.75


@pytest.mark.parametrize(
    "convention, text, answer",
    [
        ("gsm8k", "so 5\n#### 1,080", "1080"),
        ("gsm8k", "#### $72", None),  # misses the dollar sign
        ("gsm8k", "#### 72.", "72."),  # is not "72"
        ("lm-eval-strict", "#### 72.", "72"),
        ("lm-eval-flexible", "it costs $1,005. Then 29.00", "29.00"),  # is not "29"
        ("lm-eval-flexible", "pays $1,005.", "1005"),
        ("lm-eval-cot", "The answer is 72.", "72"),
        ("lm-eval-cot", "The answer is 72", "7"),  # the full stop it waits for is the 2
        ("reasoning-teacher", "The answer is 4 of 5", "4"),
        ("reasoning-teacher", "we have 5-2", "-2"),  # takes the minus sign for a sign
        ("released", "costs 10,000", "10,000"),
        ("released", "it is -3", "3"),  # loses the sign
        ("released", "none", None),
    ],
)
def test_conventions_of_others(convention, text, answer):
    assert CONVENTIONS[convention](text) == answer


ALPHABET = [
    "the",
    "cat",
    "sat",
    ".",
    ",",
    "-",
    "$",
    "3",
    "1,005",
    "0.5",
    "a-b",
    "3-4",
    "&",
    "&amp;",
    "&quot;",
    "&lt;",
    "<skipped>",
    "-\n",
    "\n",
    "\t",
    "'",
    '"',
    "(",
    ")",
    "考虑",
    "恶性",
    "，",
    "。",
    "；",
    "２",
    "、",
    "\u2003",
    "\u2019",
    "\u2a6d",
    "é",
    "ＡＢ",
    "\U00020000",
    "\U0002f801",
    "#",
    "/",
    "%",
    "~",
    "^",
    "{",
    "}",
    "[",
    "\\",
    "@",
    ":",
    ";",
    "?",
    "!",
    "\xa0",
    "\u3000",
    "x2",
    "\u212a",
    "İ",
    "\u2028",
    "٠",
    "\x85",
    "",
]


def random_texts(rng, n):
    make = lambda: "".join(
        rng.choice(ALPHABET) + rng.choice(["", "", " "]) for _ in range(rng.randint(0, 14))
    )
    references = [make() for _ in range(n)]
    predictions = [
        r
        if rng.random() < 0.3
        else "".join(c for c in r if rng.random() > 0.2)
        if rng.random() < 0.6
        else make()
        for r in references
    ]
    return predictions, references


@pytest.mark.parametrize("name, tokenize", [("13a", tokenize_13a), ("zh", tokenize_zh)])
def test_bleu_is_sacrebleus(name, tokenize):
    rng = random.Random(name)
    for _ in range(2500):
        predictions, references = random_texts(rng, rng.randint(1, 3))
        expected = sacrebleu.corpus_bleu(predictions, [references], tokenize=name).score
        assert corpus_bleu(predictions, references, tokenize) == pytest.approx(
            expected, abs=1e-9
        ), (predictions, references)


def test_rouge_is_rouge_scores():
    rng, scorer = random.Random(2), rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    for _ in range(1500):
        [prediction], [reference] = random_texts(rng, 1)
        expected = {name: s.fmeasure for name, s in scorer.score(reference, prediction).items()}
        assert rouge(prediction, reference) == pytest.approx(expected, abs=1e-9)


def test_rouge_of_characters_by_hand():
    # 考虑恶性 against 考虑良性: 3 of 4 characters, 1 of 3 pairs, longest common subsequence 3
    assert rouge("考虑恶性", "考虑 良性", tokenize_characters) == {
        "rouge1": 0.75,
        "rouge2": pytest.approx(1 / 3),
        "rougeL": 0.75,
    }
    assert rouge("", "考虑", tokenize_characters) == {"rouge1": 0.0, "rouge2": 0.0, "rougeL": 0.0}


def test_chinese_is_told_from_english():
    assert text_kind(["1、胰头部 PET/CT 高代谢灶"]) == "characters"
    assert text_kind(["The 胰 is not seen in this sentence"]) == "unicode-words"
    assert text_kind([""]) == "words"


def test_all_scores_have_their_names():
    english = score("mwp", ["so 2. The answer is 2."], ["so 2. The answer is 2."])
    assert (
        english["accuracy"]
        == english["accuracy_strict"]
        == english["parseable"]
        == english["exact_match"]
        == english["rougeL"]
        == 1.0
    )
    assert (
        english["bleu"] == pytest.approx(100)
        and english["bleu_signature"].endswith("tok:13a|smooth:exp")
        and english["rouge_tokens"] == "words"
    )
    chinese = score("pet", ["肝囊肿。"], ["左肾囊肿。"])
    assert (
        chinese["accuracy"] is None
        and chinese["rouge_tokens"] == "characters"
        and "tok:zh" in chinese["bleu_signature"]
    )


def test_wilson_intervals():
    # Values of Newcombe, "Two-sided confidence intervals for the single proportion", 1998, table I.
    for hits, n, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson_interval(hits, n) == pytest.approx((low, high), abs=1e-4)


def test_bootstrap_draws_examples_with_replacement():
    rng = random.Random(0)
    predictions, references = random_texts(rng, 12)
    counts = [bleu_counts(p, r) for p, r in zip(predictions, references)]
    found = bootstrap_interval(counts, bleu_of_counts, resamples=50)

    drawn = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=50)
    scores = []
    for times in drawn:
        texts = [t for t, n in zip(zip(predictions, references), times) for _ in range(n)]
        scores.append(corpus_bleu(*zip(*texts)))
    assert found == pytest.approx(tuple(np.percentile(scores, [2.5, 97.5])))


def test_every_score_lies_in_its_interval():
    predictions = [f"He has {i}. The answer is {i % 7}." for i in range(40)]
    references = [f"He has {i}. The answer is {i % 5}." for i in range(40)]
    scores = score("mwp", predictions, references)
    assert len(scores["intervals"]) == 8
    for name, (low, high) in scores["intervals"].items():
        assert low <= scores[name] <= high and high - low < (30 if name == "bleu" else 0.35), name
