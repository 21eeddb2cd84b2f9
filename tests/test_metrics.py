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


READINGS = [
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
]


@pytest.mark.parametrize("convention, text, answer", READINGS)
def test_conventions_of_others(convention, text, answer):
    assert CONVENTIONS[convention](text) == answer


ALPHABET = r"""the cat sat . , - $ 3 1,005 0.5 a-b 3-4 & &amp; &quot; &lt; <skipped> ' " ( ) 考虑 恶性
    ， 。 ； ２ 、 é ＡＢ # / % ~ ^ { } [ \ @ : ; ? ! x2 ٠""".split()
ALPHABET += ["-\n", "\n", "\t", "", *"\xa0\x85\u2003\u2019\u2028\u212a\u2a6d\u3000\u0130"]
ALPHABET += ["\U00020000", "\U0002f801"]


def random_texts(rng, n):
    def make():
        pieces = rng.choices(ALPHABET, k=rng.randint(0, 14))
        return "".join(piece + rng.choice(["", "", " "]) for piece in pieces)

    def like(reference):
        damaged = "".join(c for c in reference if rng.random() > 0.2)
        return rng.choices([reference, damaged, make()], weights=[30, 42, 28])[0]

    references = [make() for _ in range(n)]
    return [like(reference) for reference in references], references


@pytest.mark.parametrize("name", ["13a", "zh"])
def test_bleu_is_sacrebleus(name):
    tokenize = getattr(metrics, f"tokenize_{name}")
    rng = random.Random(name)
    for _ in range(2500):
        predictions, references = random_texts(rng, rng.randint(1, 3))
        expected = sacrebleu.corpus_bleu(predictions, [references], tokenize=name).score
        found = corpus_bleu(predictions, references, tokenize)
        assert found == pytest.approx(expected, abs=1e-9), (predictions, references)


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
    found = rouge("考虑恶性", "考虑 良性", metrics.tokenize_characters)
    assert found == pytest.approx({"rouge1": 3 / 4, "rouge2": 1 / 3, "rougeL": 3 / 4}, abs=1e-12)
    assert set(rouge("", "考虑", metrics.tokenize_characters).values()) == {0.0}


#: Two texts whose words, or characters, are not all the same.
PETS = [
    ("Нет признаков роста", "Есть признаки роста", "unicode-words"),
    ("악성 종양 입니다", "양성 종양 입니다", "unicode-words"),
    ("कोई घाव नहीं", "एक घाव है", "unicode-words"),
    ("ورم خبيث كبير", "ورم حميد كبير", "unicode-words"),
    ("ผู้ป่วยมีเนื้องอก", "ผู้ป่วยไม่มีเนื้องอก", "characters"),
    ("größere Läsion", "große Läsion", "unicode-words"),
    ("悪性の可能性", "良性の可能性", "characters"),
    ("SUVmax 12.3, 4.5 cm x 3.2 cm, 恶性", "SUVmax 12.3, 4.5 cm x 3.2 cm, 良性", "characters"),
]


@pytest.mark.parametrize("text, other, kind", PETS)
def test_rouge_of_every_script(text, other, kind):
    same, not_same = (score("pet", [t], [text]) for t in (text, other))
    assert same["rouge_tokens"] == kind and same["rouge1"] == same["rougeL"] == 1.0
    assert 0.0 < not_same["rouge1"] < 1.0 and not_same["rougeL"] < 1.0


def test_words_of_any_script_by_hand():
    found = metrics.tokenize_words("Größere Läsion, 3.5cm: निदान_é e\u0301")
    assert found == "größere läsion 3 5cm निदान é é".split()
    rng = random.Random(5)
    for _ in range(300):  # in unaccented Latin text they are Google's
        text = "".join(rng.choices("aZ09 ,.-_'(\n\t%", k=20))
        assert metrics.tokenize_words(text) == metrics.tokenize_rouge(text)


def test_sacrebleus_characters():
    texts = [["ผู้ป่วยมีเนื้องอก 3 cm"], ["ผู้ป่วยไม่มีเนื้องอก 3 cm"]]
    expected = sacrebleu.corpus_bleu(texts[0], [texts[1]], tokenize="char").score
    found = score("pet", *texts)
    assert found["bleu"] == pytest.approx(expected) and "tok:char" in found["bleu_signature"]


def test_rows_of_one_question_are_no_sample_of_their_own():
    rows = [("The answer is 1.", "The answer is 1."), ("The answer is 2.", "The answer is 3.")] * 20
    alone = score("mwp", *zip(*rows))
    asked = score("mwp", *zip(*rows), questions=["a", "b"] * 20)
    two = score("mwp", *zip(*rows[:2]))
    assert alone | {"intervals": asked["intervals"]} == asked
    for name in ("accuracy", "exact_match", "rouge1", "rougeL"):
        assert asked["intervals"][name] == pytest.approx(two["intervals"][name])
    assert asked["intervals"]["accuracy"][0] < alone["intervals"]["accuracy"][0]


def test_labels_are_what_predictions_are_compared_with():
    found = score("mwp", ["The answer is 5."], ["The answer is 6."], labels=["The answer is 5."])
    assert found["accuracy"] == 1.0 and found["exact_match"] == 0.0
    with pytest.raises(ValueError, match="no chains to score"):
        score("mwp", [], [])


def test_chinese_is_told_from_english():
    assert text_kind(["1、胰头部 PET/CT 高代谢灶"]) == "characters"
    assert text_kind(["The 胰 is not seen in this sentence"]) == "unicode-words"
    # A fifth of the letters decides.
    assert text_kind(["abcdefgh 胰腺"]) == "characters"
    assert text_kind(["abcdefghi 胰腺"]) == "unicode-words"
    assert text_kind([""]) == "words" and text_kind(["a" * 300_000]) == "words"


def test_all_scores_have_their_names():
    text = "so 2. The answer is 2."
    english, chinese = score("mwp", [text], [text]), score("pet", ["肝囊肿。"], ["左肾囊肿。"])
    ones = "accuracy parseable exact_match rougeL".split()
    assert [english[name] for name in ones] == [1.0] * 4 and english["bleu"] == pytest.approx(100)
    assert english["bleu_signature"].endswith("tok:13a|smooth:exp")
    assert chinese["accuracy"] is None and "tok:zh" in chinese["bleu_signature"]
    assert (english["rouge_tokens"], chinese["rouge_tokens"]) == ("words", "characters")


NEWCOMBE = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605)]
NEWCOMBE += [(0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]


@pytest.mark.parametrize("hits, n, low, high", NEWCOMBE)
def test_wilson_intervals_are_newcombes(hits, n, low, high):
    """Two-sided confidence intervals for the single proportion, 1998, table I."""
    assert wilson_interval(hits, n) == pytest.approx((low, high), abs=1e-4)


def test_bootstrap_draws_examples_with_replacement():
    rng = random.Random(0)
    predictions, references = random_texts(rng, 12)
    counts = [bleu_counts(p, r) for p, r in zip(predictions, references)]
    found = metrics.bootstrap_interval(counts, bleu_of_counts, resamples=50)

    drawn = np.random.default_rng(0).multinomial(12, np.full(12, 1 / 12), size=50)
    chosen = (np.repeat(range(12), times) for times in drawn)
    texts = (([predictions[i] for i in c], [references[i] for i in c]) for c in chosen)
    scores = [corpus_bleu(*each) for each in texts]
    assert found == pytest.approx(tuple(np.percentile(scores, [2.5, 97.5])))


def test_every_score_lies_in_its_interval():
    texts = ([f"He has {i}. The answer is {i % n}." for i in range(40)] for n in (7, 5))
    scores = score("mwp", *texts)
    assert len(scores["intervals"]) == 7
    for name, (low, high) in scores["intervals"].items():
        assert low <= scores[name] <= high and high - low < (30 if name == "bleu" else 0.35), name


def test_white_space_is_no_difference():
    assert score("text", ["a  b\n", "a b c"], ["a b", "a b  d"])["exact_match"] == 0.5
