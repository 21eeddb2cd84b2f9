"""Accuracy by hand, BLEU against sacrebleu, ROUGE against rouge-score."""

import random

import numpy as np
import pytest
import sacrebleu
from rouge_score import rouge_scorer

from ases import metrics
from ases.metrics import bleu_counts, bleu_of_counts, rouge, score, text_kind, wilson_interval
from tests.golden.conventions import CONVENTIONS


def corpus_bleu(predictions, references, tokenize=metrics.tokenize_13a):
    counts = [bleu_counts(p, r, tokenize) for p, r in zip(predictions, references, strict=True)]
    return bleu_of_counts(np.sum(counts, axis=0))


def test_accuracy_compares_numbers():
    references = ["#### 72", "The answer is 1,000.", "The answer is 0.5.", "The answer is 3."]
    predictions = ["The answer is 72.", "The answer is $1000.00.", "The answer is 1/2.", "no idea"]
    scores = score("mwp", predictions, references)
    assert (scores["accuracy"], scores["parseable"]) == (0.75, 0.75)


#: Behind "####"; golden/scores.json has the other faults.
READINGS = [
    ("gsm8k", "so 5\n#### 1,080", "1080"),
    ("gsm8k", "#### $72", None),  # misses the dollar sign
    ("gsm8k", "#### 72.", "72."),
    ("lm-eval-strict", "#### 72.", "72"),
]


@pytest.mark.parametrize("convention, text, answer", READINGS)
def test_conventions_of_others(convention, text, answer):
    assert CONVENTIONS[convention](text) == answer


ALPHABET = r"""the cat sat . , - $ 3 1,005 0.5 a-b 3-4 & &amp; &quot; &lt; <skipped> ' " ( ) 考虑 恶性
    ， 。 ； ２ 、 é ＡＢ # / % ~ ^ { } [ \ @ : ; ? ! x2 ٠""".split()
ALPHABET += ["-\n", "\n", "\t", "", *"\xa0\x85\u2003\u2019\u2028\u212a\u2a6d\u3000\u0130"]
ALPHABET += ["\U00020000", "\U0002f801"]


def random_texts(rng, n):
    """Predictions, of which many are like their references, and references."""

    def make():
        pieces = rng.choices(ALPHABET, k=rng.randint(0, 14))
        return "".join(piece + rng.choice(["", "", " "]) for piece in pieces)

    def like(reference):
        damaged = "".join(c for c in reference if rng.random() > 0.2)
        return rng.choice([reference, damaged, make()])

    references = [make() for _ in range(n)]
    return [like(reference) for reference in references], references


@pytest.mark.parametrize("name", ["13a", "zh"])
def test_bleu_is_sacrebleus(name):
    tokenize, rng = getattr(metrics, f"tokenize_{name}"), random.Random(name)
    for _ in range(2500):
        predictions, references = random_texts(rng, rng.randint(1, 3))
        expected = sacrebleu.corpus_bleu(predictions, [references], tokenize=name).score
        bleu = corpus_bleu(predictions, references, tokenize)
        assert bleu == pytest.approx(expected, abs=1e-9), (predictions, references)


def test_rouge_is_rouge_scores():
    rng, scorer = random.Random(2), rouge_scorer.RougeScorer(["rouge1", "rouge2", "rougeL"])
    for _ in range(1500):
        [prediction], [reference] = random_texts(rng, 1)
        expected = {name: s.fmeasure for name, s in scorer.score(reference, prediction).items()}
        assert rouge(prediction, reference) == pytest.approx(expected, abs=1e-9)
    long = " ".join(map(str, range(4000)))  # longer than recursions may be deep
    assert rouge(long, long)["rougeL"] == 1.0


def test_rouge_of_characters_by_hand():
    # 考虑恶性 against 考虑良性: 3 of 4 characters, 1 of 3 pairs, longest common subsequence 3
    scores = rouge("考虑恶性", "考虑 良性", metrics.tokenize_characters)
    assert scores == pytest.approx({"rouge1": 3 / 4, "rouge2": 1 / 3, "rougeL": 3 / 4}, abs=1e-12)
    assert set(rouge("", "考虑", metrics.tokenize_characters).values()) == {0.0}


#: Two texts whose words, or characters, are not all the same; ROUGE's tokens and BLEU's.
PETS = [
    ("so 2. The answer is 2.", "so 2. The answer is 3.", "words", "13a"),
    ("Нет признаков роста", "Есть признаки роста", "unicode-words", "13a"),
    ("악성 종양 입니다", "양성 종양 입니다", "unicode-words", "13a"),
    ("कोई घाव नहीं", "एक घाव है", "unicode-words", "13a"),
    ("ورم خبيث كبير", "ورم حميد كبير", "unicode-words", "13a"),
    ("größere Läsion", "große Läsion", "unicode-words", "13a"),
    ("ผู้ป่วยไม่มีเนื้องอก 3 cm", "ผู้ป่วยมีเนื้องอก 3 cm", "characters", "char"),
    ("悪性の可能性", "良性の可能性", "characters", "zh"),
    ("SUVmax 12.3, 4.5 x 3.2 cm, 恶性", "SUVmax 12.3, 4.5 x 3.2 cm, 良性", "characters", "zh"),
]


@pytest.mark.parametrize("text, other, kind, bleu", PETS)
def test_scores_of_every_script(text, other, kind, bleu):
    same, different = (score("pet", [t], [text]) for t in (text, other))
    assert same["rouge_tokens"] == kind and same["accuracy"] is None
    assert same["exact_match"] == same["rouge1"] == same["rougeL"] == 1.0
    assert 0.0 < different["rouge1"] < 1.0 and different["rougeL"] < 1.0
    expected = sacrebleu.corpus_bleu([other], [[text]], tokenize=bleu).score
    assert different["bleu"] == pytest.approx(expected)
    assert different["bleu_signature"].endswith(f"tok:{bleu}|smooth:exp")


#: Chinese and other letters: a fifth decides.
KINDS = [
    ("1、胰头部 PET/CT 高代谢灶", "characters"),
    ("The 胰 is not seen in this sentence", "unicode-words"),
]
KINDS += [("abcdefgh 胰腺", "characters"), ("abcdefghi 胰腺", "unicode-words")]
KINDS += [("", "words"), ("a" * 300_000, "words")]


def test_chinese_is_recognised_in_english():
    for text, kind in KINDS:
        assert text_kind([text]) == kind, text[:50]


def test_words_of_any_script_by_hand():
    words = metrics.tokenize_words("Größere Läsion, 3.5cm: निदान_é e\u0301")
    assert words == "größere läsion 3 5cm निदान é é".split()
    rng = random.Random(5)
    for _ in range(300):  # in unaccented Latin text they are Google's
        text = "".join(rng.choices("aZ09 ,.-_'(\n\t%", k=20))
        assert metrics.tokenize_words(text) == metrics.tokenize_rouge(text)


def test_rows_of_one_question_count_as_one_sample():
    rows = [("The answer is 1.", "The answer is 1."), ("The answer is 2.", "The answer is 3.")] * 20
    alone, two = score("mwp", *zip(*rows)), score("mwp", *zip(*rows[:2]))
    by_question = score("mwp", *zip(*rows), questions=["a", "b"] * 20)
    assert alone | {"intervals": by_question["intervals"]} == by_question
    for name in ("accuracy", "exact_match", "rouge1", "rougeL"):
        assert by_question["intervals"][name] == pytest.approx(two["intervals"][name])
    assert by_question["intervals"]["accuracy"][0] < alone["intervals"]["accuracy"][0]


def test_what_predictions_are_compared_with():
    scores = score("mwp", ["The answer is 5."], ["The answer is 6."], labels=["The answer is 5."])
    assert scores["accuracy"] == 1.0 and scores["exact_match"] == 0.0
    assert score("text", ["a  b\n", "a b c"], ["a b", "a b  d"])["exact_match"] == 0.5
    with pytest.raises(ValueError, match="no chains to score"):
        score("mwp", [], [])


NEWCOMBE = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)]
NEWCOMBE += [(0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]


@pytest.mark.parametrize("hits, n, low, high", NEWCOMBE)
def test_wilson_intervals_are_newcombes(hits, n, low, high):
    """Two-sided confidence intervals for the single proportion, 1998, table I."""
    assert wilson_interval(hits, n) == pytest.approx((low, high), abs=1e-4)


def test_bootstrap_draws_examples_with_replacement():
    predictions, references = random_texts(random.Random(0), 12)
    counts = [bleu_counts(p, r) for p, r in zip(predictions, references)]
    drawn = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=50)
    samples = [np.repeat(range(12), times) for times in drawn]
    draw = lambda texts, sample: [texts[i] for i in sample]
    expected = [corpus_bleu(draw(predictions, s), draw(references, s)) for s in samples]
    interval = metrics.bootstrap_interval(counts, bleu_of_counts, resamples=50)
    assert interval == pytest.approx(tuple(np.percentile(expected, [2.5, 97.5])))


def test_every_score_lies_in_its_interval():
    texts = ([f"He has {i}. The answer is {i % n}." for i in range(40)] for n in (7, 5))
    scores = score("mwp", *texts)
    assert len(scores["intervals"]) == 7
    for name, (low, high) in scores["intervals"].items():
        assert low <= scores[name] <= high and high - low < (30 if name == "bleu" else 0.35), name
