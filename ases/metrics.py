"""Scores: numeric accuracy, BLEU, ROUGE, and how well labels agree with true roles.

Answers are compared as exact fractions, never as strings or floats. BLEU gives sacrebleu's numbers
(corpus BLEU, exponential smoothing, tokenizers 13a and zh); ROUGE gives those of Google's
rouge-score for English, and counts characters for Chinese, whose words have no blanks between them.
Each score has a 95 % interval, for a test set is a sample.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from ases.answers import gsm8k_strict, parse_answer
from ases.segmentation import AS, ES

# --- final answers -------------------------------------------------------------------------------


def is_correct(prediction: str, reference: str) -> bool:
    """Whether the prediction's final number is the reference's, as a number."""
    number = parse_answer(prediction)
    return number is not None and number == parse_answer(reference)


def is_strictly_correct(prediction: str, reference: str) -> bool:
    """GSM8K's own rule, on "The answer is N." too: equal strings once commas are dropped."""
    found = gsm8k_strict(prediction)
    return found is not None and found == gsm8k_strict(reference)


# --- tokens --------------------------------------------------------------------------------------


def is_chinese(texts: Sequence[str]) -> bool:
    """Whether a fifth of all characters or more are Chinese: then metrics count characters."""
    text = "".join(texts)
    return bool(text) and sum("\u4e00" <= c <= "\u9fff" for c in text) * 5 >= len(text)


def tokenize_13a(text: str) -> list[str]:
    """The tokens of mteval-v13a, as sacrebleu cuts them."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    if "&" in text:
        for entity, character in (("&quot;", '"'), ("&amp;", "&"), ("&lt;", "<"), ("&gt;", ">")):
            text = text.replace(entity, character)
    return _western(f" {text} ").split()


def _western(text: str) -> str:
    # ASCII marks but . , - and the apostrophe
    text = re.sub(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])", r" \1 ", text)
    text = re.sub(r"([^0-9])([\.,])", r"\1 \2 ", text)  # . and , unless a digit stands before
    text = re.sub(r"([\.,])([^0-9])", r" \1 \2", text)  # … and unless a digit follows
    return re.sub(r"([0-9])(-)", r"\1 \2 ", text)  # a dash after a digit


# sacrebleu compares characters with strings such as "\u20000", two characters long; compared as
# strings these make one range that begins just after U+2000. Its numbers are the reference, so the
# ranges here are what it does. fmt: off
_CHINESE_RANGES = [
    ("\u3400", "\u4db5"),
    ("\u4e00", "\u9fa5"),
    ("\u9fa6", "\u9fbb"),
    ("\uf900", "\ufa2d"),
    ("\ufa30", "\ufa6a"),
    ("\ufa70", "\ufad9"),
    ("\u20000", "\u2a6d6"),
    ("\u2f800", "\u2fa1d"),
    ("\uff00", "\uffef"),
    ("\u2e80", "\u2eff"),
    ("\u3000", "\u303f"),
    ("\u31c0", "\u31ef"),
    ("\u2f00", "\u2fdf"),
    ("\u2ff0", "\u2fff"),
    ("\u3100", "\u312f"),
    ("\u31a0", "\u31bf"),
    ("\ufe10", "\ufe1f"),
    ("\ufe30", "\ufe4f"),
    ("\u2600", "\u26ff"),
    ("\u2700", "\u27bf"),
    ("\u3200", "\u32ff"),
    ("\u3300", "\u33ff"),
]
# fmt: on


def tokenize_zh(text: str) -> list[str]:
    """sacrebleu's "zh": Chinese characters and marks one by one, the rest as mteval cuts it."""
    text = text.strip()
    return _western(
        "".join(f" {c} " if any(a <= c <= b for a, b in _CHINESE_RANGES) else c for c in text)
    ).split()


def tokenize_rouge(text: str) -> list[str]:
    """rouge-score's tokens: runs of a–z and 0–9 of the lowered text, without stemming."""
    return re.findall(r"[a-z0-9]+", text.lower())


def tokenize_characters(text: str) -> list[str]:
    """Every character that is no white space."""
    return [c for c in text if not c.isspace()]


# --- BLEU ----------------------------------------------------------------------------------------


def corpus_bleu(
    predictions: Sequence[str],
    references: Sequence[str],
    tokenize: Callable[[str], list[str]] = tokenize_13a,
) -> float:
    """Corpus BLEU-4, 0 to 100, one reference each, exponential smoothing: sacrebleu's value."""
    counts = [bleu_counts(p, r, tokenize) for p, r in zip(predictions, references, strict=True)]
    return bleu_of_counts(np.sum(counts, axis=0))


def bleu_counts(
    prediction: str, reference: str, tokenize: Callable[[str], list[str]] = tokenize_13a
) -> list[int]:
    """The ten numbers of a pair of texts that BLEU adds up over a corpus.

    Returns:
        n-grams of the prediction that are in the reference, for n = 1 … 4; all its n-grams,
        likewise; its length and the reference's.
    """
    p, r = tokenize(prediction.rstrip()), tokenize(reference.rstrip())
    grams = [(_ngrams(p, n), _ngrams(r, n)) for n in range(1, 5)]
    correct = [(own & theirs).total() for own, theirs in grams]
    total = [own.total() for own, _ in grams]
    return [*correct, *total, len(p), len(r)]


def bleu_of_counts(counts: Sequence[int] | np.ndarray) -> float:
    """BLEU from what ``bleu_counts`` gives, added up over a corpus."""
    *_, predicted_length, reference_length = counts
    correct, total = counts[:4], counts[4:8]
    if not any(correct) or not all(total):
        return 0.0

    log_precisions, smoothing = 0.0, 1.0
    for c, t in zip(correct, total):
        if c == 0:
            smoothing *= 2
        log_precisions += math.log(100 * c / t if c else 100 / (smoothing * t))
    brevity = min(0.0, 1 - reference_length / predicted_length)  # its logarithm
    return math.exp(brevity + log_precisions / 4)


def _ngrams(tokens: Sequence[str], n: int) -> Counter:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


# --- ROUGE ---------------------------------------------------------------------------------------


def rouge(
    prediction: str, reference: str, tokenize: Callable[[str], list[str]] = tokenize_rouge
) -> dict[str, float]:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L, 0 to 1, for one pair of texts."""
    p, r = tokenize(prediction), tokenize(reference)
    return {
        "rouge1": _overlap_f1(p, r, 1),
        "rouge2": _overlap_f1(p, r, 2),
        "rougeL": _f1(_longest_common_subsequence(p, r), len(p), len(r)),
    }


def _overlap_f1(predicted: Sequence[str], reference: Sequence[str], n: int) -> float:
    p, r = _ngrams(predicted, n), _ngrams(reference, n)
    return _f1((p & r).total(), p.total(), r.total())


def _f1(hits: int, n_predicted: int, n_reference: int) -> float:
    return 2 * hits / (n_predicted + n_reference) if hits else 0.0


def _longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            longest = diagonal + 1 if x == y else max(row[j], row[j - 1])
            diagonal, row[j] = row[j], longest
    return row[-1]


# --- intervals -----------------------------------------------------------------------------------


def wilson_interval(hits: int, n: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson's score interval), which also holds near 0 and 1.

    >>> [round(bound, 3) for bound in wilson_interval(10, 10)]
    [0.722, 1.0]
    """
    z = 1.96
    share, extra = hits / n, z * z / n
    centre = (share + extra / 2) / (1 + extra)
    reach = z * math.sqrt(share * (1 - share) / n + extra / (4 * n)) / (1 + extra)
    return max(0.0, centre - reach), min(1.0, centre + reach)


def bootstrap_interval(
    rows: Sequence[Sequence[float]], statistic: Callable[[np.ndarray], float], resamples: int = 1000
) -> tuple[float, float]:
    """95 % interval of a score that is made of sums over examples, by the percentile bootstrap.

    The examples are drawn again and again with replacement, as many as there are, always with the
    same random numbers.

    Args:
        rows: (n, k), what each example adds to the sums.
        statistic: the score, made of (k,) sums.
    """
    n = len(rows)
    drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=resamples)
    values = [statistic(sums) for sums in drawn @ np.asarray(rows)]
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


# --- all together --------------------------------------------------------------------------------


def score(task: str, predictions: Sequence[str], references: Sequence[str]) -> dict:
    """All scores of a set of chains, under the names that ``results.json`` uses.

    Accuracy, strict accuracy and share parseable are None for ``pet``. BLEU is 0 to 100, everything
    else 0 to 1; ``intervals`` has the 95 % interval of each; ``bleu_signature`` and
    ``rouge_tokens`` say how the text was cut.
    """
    pairs = list(zip(predictions, references, strict=True))
    n = len(pairs)
    hits: dict = {"accuracy": None, "accuracy_strict": None, "parseable": None}
    if task == "mwp":
        hits["accuracy"] = sum(is_correct(*pair) for pair in pairs)
        hits["accuracy_strict"] = sum(is_strictly_correct(*pair) for pair in pairs)
        hits["parseable"] = sum(parse_answer(p) is not None for p in predictions)
    hits["exact_match"] = sum(p.split() == r.split() for p, r in pairs)
    scores: dict = {"n": n}
    intervals = {}
    for name, count in hits.items():
        scores[name] = None if count is None else count / n
        if count is not None:
            intervals[name] = wilson_interval(count, n)

    chinese = is_chinese(references)
    bleu_tokens, rouge_tokens = tokenize_13a, tokenize_rouge
    if chinese:
        bleu_tokens, rouge_tokens = tokenize_zh, tokenize_characters
    counts = [bleu_counts(p, r, bleu_tokens) for p, r in pairs]
    scores["bleu"] = bleu_of_counts(np.sum(counts, axis=0))
    intervals["bleu"] = bootstrap_interval(counts, bleu_of_counts)
    rouges = [rouge(p, r, rouge_tokens) for p, r in pairs]
    for name in ("rouge1", "rouge2", "rougeL"):
        values = [found[name] for found in rouges]
        scores[name] = sum(values) / n
        intervals[name] = bootstrap_interval([[v] for v in values], lambda sums: sums[0] / n)

    scores["bleu_signature"] = (
        f"nrefs:1|case:mixed|eff:no|tok:{'zh' if chinese else '13a'}|smooth:exp"
    )
    scores["rouge_tokens"] = "characters" if chinese else "words"
    scores["intervals"] = intervals
    return scores


def role_agreement(
    gold: Sequence[Sequence[str]], labels: Sequence[Sequence[str]]
) -> dict[str, dict[str, float]]:
    """Precision, recall and F1 of each role, over the pieces of all examples; 0 where a ratio is
    undefined.

    Args:
        gold, labels: for each example, one role for each of its pieces.
    Raises:
        ValueError: an example with not as many labels as gold roles.
    """
    pairs = []
    for index, (true, found) in enumerate(zip(gold, labels, strict=True)):
        if len(true) != len(found):
            raise ValueError(
                f"example {index}: {len(found)} labels, {len(true)} gold roles; expected as many"
            )
        pairs += zip(true, found)

    scores = {}
    for role in (ES, AS):
        hits = sum(true == found == role for true, found in pairs)
        n_found = sum(found == role for _, found in pairs)
        n_true = sum(true == role for true, _ in pairs)
        scores[role] = {
            "precision": hits / n_found if n_found else 0.0,
            "recall": hits / n_true if n_true else 0.0,
            "f1": _f1(hits, n_found, n_true),
        }
    return scores
