"""Scores: numeric accuracy, BLEU, ROUGE, and how well labels agree with true roles.

Answers are compared as exact fractions. BLEU matches sacrebleu; ROUGE matches Google's rouge-score
for unaccented Latin text, and counts words or characters in other scripts. Each score has a 95 %
interval, since a test set is a sample.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from ases.answers import parse_answer
from ases.segmentation import AS, ES
from ases.tasks import TASKS


# --- final answers -------------------------------------------------------------------------------
def is_correct(prediction: str, reference: str) -> bool:
    """Whether both texts state the same number."""
    number = parse_answer(prediction)
    return number is not None and number == parse_answer(reference)


# --- tokens --------------------------------------------------------------------------------------
# Scripts without spaces between words: Chinese; then Thai, Lao, Tibetan, Burmese, Khmer, kana.
_HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
_OTHERS = re.compile(
    "[\u0e00-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\ua000-\ua4cf\ua980-\ua9df\uff66-\uff9f]"
)
# "3 cm" and "SUVmax 5.2", in a report of any language
_MEASURE = re.compile(r"(?<![a-zA-Z])[a-zA-Z]++(?=[^\w\n]{0,3}\d)|(?<=\d)\s{0,3}[a-zA-Z]+")


def text_kind(texts: Sequence[str]) -> str:
    """How to count words: "words" for unaccented Latin text, "characters" where at least a fifth of
    the letters are in a script without spaces, else "unicode-words" (not in the paper)."""
    text = unicodedata.normalize("NFC", "\n".join(texts))
    # Ignore Latin letters beside a number: they may be a unit.
    letters = [c for c in _MEASURE.sub("", text) if unicodedata.category(c)[0] in "LM"]
    if all(c.isascii() for c in letters or text):
        return "words"
    unspaced = len(_HAN.findall(text)) + len(_OTHERS.findall(text))
    return "characters" if unspaced * 5 >= len(letters) else "unicode-words"


def tokenize_13a(text: str) -> list[str]:
    """mteval-v13a tokens, as in sacrebleu."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")):
        text = text.replace(entity, character)
    return _western(f" {text} ").split()


def _western(text: str) -> str:
    # ASCII punctuation except . , - and the apostrophe
    text = re.sub(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])", r" \1 ", text)
    text = re.sub(r"([^0-9])([\.,])", r"\1 \2 ", text)  # . and , unless after a digit
    text = re.sub(r"([\.,])([^0-9])", r" \1 \2", text)  # … and unless before a digit
    return re.sub(r"([0-9])(-)", r"\1 \2 ", text)  # a dash after a digit


# sacrebleu's ranges, bug included: its "\u20000" means U+2000 and "0", so all of U+2001 to U+2A6D
# counts as Chinese, and nothing beyond U+FFFF does.
_ZH = re.compile(
    "([\u2001-\u2a6d\u2e80-\u2fdf\u2ff0-\u303f\u3100-\u312f\u31a0-\u31ef\u3200-\u4db5\u4e00-\u9fbb"
    "\uf900-\ufa2d\ufa30-\ufa6a\ufa70-\ufad9\ufe10-\ufe1f\ufe30-\ufe4f\uff00-\uffef])"
)


def tokenize_zh(text: str) -> list[str]:
    """sacrebleu's "zh": Chinese characters and punctuation one by one, the rest as mteval-v13a."""
    return _western(_ZH.sub(r" \1 ", text.strip())).split()


def tokenize_rouge(text: str) -> list[str]:
    """rouge-score's tokens: lower-case runs of a–z and 0–9, without stemming."""
    return re.findall(r"[a-z0-9]+", text.lower())


def tokenize_words(text: str) -> list[str]:
    """Lower-case runs of letters, digits and accents, in any script."""
    text = unicodedata.normalize("NFC", text.lower())
    return "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text).split()


def words_of(text: str) -> list[str]:
    """Words, but single characters in scripts without spaces."""
    words = tokenize_words(text)
    unspaced = [bool(_HAN.search(word) or _OTHERS.search(word)) for word in words]
    return [part for word, cut in zip(words, unspaced) for part in (word if cut else [word])]


def tokenize_characters(text: str) -> list[str]:
    """sacrebleu's "char": every character except white space."""
    return [c for c in text if not c.isspace()]


# --- BLEU ----------------------------------------------------------------------------------------
def bleu_counts(prediction: str, reference: str, tokenize: Callable = tokenize_13a) -> list[int]:
    """The ten counts that BLEU sums over a corpus: matching n-grams for n = 1 … 4, the prediction's
    n-grams for n = 1 … 4, its length and the reference's."""
    p, r = tokenize(prediction.rstrip()), tokenize(reference.rstrip())
    correct = [(_ngrams(p, n) & _ngrams(r, n)).total() for n in range(1, 5)]
    return [*correct, *(max(0, len(p) - n) for n in range(4)), len(p), len(r)]


def bleu_of_counts(counts: Sequence[int] | np.ndarray) -> float:
    """BLEU from summed ``bleu_counts``."""
    *_, predicted_length, reference_length = counts
    correct, total = counts[:4], counts[4:8]
    if not any(correct) or not all(total):
        return 0.0
    log_precisions, smoothing = 0.0, 1.0
    for c, t in zip(correct, total):
        smoothing *= 1 if c else 2
        log_precisions += math.log(100 * c / t if c else 100 / (smoothing * t))
    brevity = min(0.0, 1 - reference_length / predicted_length)  # the log of the penalty
    return math.exp(brevity + log_precisions / 4)


def _ngrams(tokens: Sequence[str], n: int) -> Counter:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


# --- ROUGE ---------------------------------------------------------------------------------------
def rouge(prediction: str, reference: str, tokenize: Callable = tokenize_rouge) -> dict[str, float]:
    """ROUGE-1, ROUGE-2 and ROUGE-L F1 of one pair of texts, 0 to 1."""
    p, r = tokenize(prediction), tokenize(reference)
    pairs, singles = ((_ngrams(p, n) & _ngrams(r, n)).total() for n in (2, 1))
    return {
        "rouge1": _f1(singles, len(p), len(r)),
        "rouge2": _f1(pairs, len(p) - 1, len(r) - 1),
        "rougeL": _f1(_longest_common_subsequence(p, r), len(p), len(r)),
    }


def _f1(hits: int, n_predicted: int, n_reference: int) -> float:
    return 2 * hits / (n_predicted + n_reference) if hits else 0.0


def _longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    # The usual dynamic programming table, one row at a time.
    number = {token: n for n, token in enumerate(b)}
    numbers = np.array([number[token] for token in b], dtype=np.int64)
    row = np.zeros(len(b) + 1, dtype=np.int64)
    for token in a:
        hit = numbers == number.get(token, -1)
        row[1:] = np.maximum.accumulate(np.maximum(row[1:], row[:-1] + hit))
    return int(row[-1])


# --- intervals -----------------------------------------------------------------------------------
def wilson_interval(hits: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion, which also holds near 0 and 1."""
    z = 1.96
    share, extra = hits / n, z * z / n
    centre = (share + extra / 2) / (1 + extra)
    reach = z * math.sqrt(share * (1 - share) / n + extra / (4 * n)) / (1 + extra)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def bootstrap_interval(
    rows: Sequence[Sequence[float]] | np.ndarray, statistic: Callable, resamples: int = 1000
) -> tuple[float, float]:
    """95 % percentile-bootstrap interval of a ``statistic`` of sums (k,), with a fixed seed.
    ``rows``: (n, k), what each question adds to the sums."""
    n = len(rows)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples)
    values = [statistic(sums) for sums in drawn @ np.asarray(rows)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def mean_interval(values: Sequence[float], questions: Sequence) -> tuple[float, float, float]:
    """Mean of ``values``, and its 95 % interval over questions."""
    sums = _by_question([[value, 1] for value in values], questions)
    low, high = bootstrap_interval(sums, lambda sums: sums[0] / sums[1])
    return sum(values) / len(values), low, high


def _by_question(rows: Sequence[Sequence[float]], questions: Sequence) -> np.ndarray:
    """Sums of the rows of each question."""
    number = {question: i for i, question in enumerate(dict.fromkeys(questions))}
    sums = np.zeros((len(number), len(rows[0])))
    np.add.at(sums, [number[question] for _, question in zip(rows, questions, strict=True)], rows)
    return sums


# --- all together --------------------------------------------------------------------------------
def score(
    task: str,
    predictions: Sequence[str],
    references: Sequence[str],
    questions: Sequence | None = None,
    labels: Sequence[str] | None = None,
) -> dict:
    """All scores of a set of chains, as in ``results.json``: BLEU 0 to 100, the others 0 to 1.

    Args:
        questions: rows of one question count as one sample; by default, each row is its own.
        labels: texts with the true answers, where references may state others.
    Raises ValueError: nothing to score.
    """
    pairs = list(zip(predictions, references, strict=True))
    if not pairs:
        raise ValueError("no chains to score; expected at least one")
    n = len(pairs)
    questions = range(n) if questions is None else questions
    hits: dict[str, int] = {}
    scores: dict = {"n": n, "accuracy": None, "parseable": None}
    if TASKS[task].numbers:
        stated = list(zip(predictions, labels or references, strict=True))
        hits["accuracy"] = sum(is_correct(*pair) for pair in stated)
        hits["parseable"] = sum(parse_answer(p) is not None for p in predictions)
    hits["exact_match"] = sum(p.split() == r.split() for p, r in pairs)
    scores |= {name: count / n for name, count in hits.items()}
    # Rows of one question count as one sample, as if all were right or all wrong.
    n_asked = len(set(questions))
    intervals = {name: wilson_interval(c * n_asked / n, n_asked) for name, c in hits.items()}

    kind, bleu_name, bleu_tokens, rouge_tokens = _tokens_of(references)
    counts = [bleu_counts(p, r, bleu_tokens) for p, r in pairs]
    scores["bleu"] = bleu_of_counts(np.sum(counts, axis=0))
    intervals["bleu"] = bootstrap_interval(_by_question(counts, questions), bleu_of_counts)
    rouges = [rouge(p, r, rouge_tokens) for p, r in pairs]
    for name in ("rouge1", "rouge2", "rougeL"):
        mean, low, high = mean_interval([row[name] for row in rouges], questions)
        scores[name], intervals[name] = mean, (low, high)

    scores["bleu_signature"] = f"nrefs:1|case:mixed|eff:no|tok:{bleu_name}|smooth:exp"
    return scores | {"rouge_tokens": kind, "intervals": intervals}


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> list[float]:
    """ROUGE-L of each pair, in the tokens that ``score`` takes for these references."""
    tokenize = _tokens_of(references)[3]
    return [rouge(p, r, tokenize)["rougeL"] for p, r in zip(predictions, references, strict=True)]


def _tokens_of(references: Sequence[str]) -> tuple[str, str, Callable, Callable]:
    """``text_kind``, the name of BLEU's tokenizer, BLEU's tokenizer, ROUGE's."""
    kind, text = text_kind(references), "".join(references)
    if kind != "characters":
        return kind, "13a", tokenize_13a, tokenize_rouge if kind == "words" else tokenize_words
    chinese = len(_HAN.findall(text)) > len(_OTHERS.findall(text))
    name, of_bleu = ("zh", tokenize_zh) if chinese else ("char", tokenize_characters)
    return kind, name, of_bleu, tokenize_characters


def role_agreement(gold: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]) -> dict:
    """Precision, recall and F1 of each role over all pieces; 0 where undefined.

    Raises ValueError: an example with more or fewer labels than gold roles.
    """
    pairs = []
    for true, ours in zip(gold, labels, strict=True):
        pairs += zip(true, ours, strict=True)

    scores = {}
    for role in (ES, AS):
        hits = pairs.count((role, role))
        n_true = sum(true == role for true, _ in pairs)
        n_ours = sum(ours == role for _, ours in pairs)
        precision, recall = hits / max(1, n_ours), hits / max(1, n_true)
        scores[role] = {"precision": precision, "recall": recall, "f1": _f1(hits, n_ours, n_true)}
    return scores
