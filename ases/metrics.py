"""Scores: numeric accuracy, BLEU, ROUGE, and how well labels agree with true roles.

Answers are compared as exact fractions, never as strings or floats. BLEU gives sacrebleu's numbers
(corpus BLEU, exponential smoothing, tokenizers 13a and zh); ROUGE gives those of Google's
rouge-score for English, and counts characters for Chinese, whose words have no blanks between them.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence

from ases.answers import gsm8k_strict, parse_answer
from ases.segmentation import AS, ES

# --- final answers -------------------------------------------------------------------------------


def is_correct(prediction: str, reference: str) -> bool:
    """Whether the prediction's final number is the reference's, as a number."""
    number = parse_answer(prediction)
    return number is not None and number == parse_answer(reference)


def accuracy(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share of predictions whose final number equals the reference's, as numbers."""
    hits = [is_correct(p, r) for p, r in zip(predictions, references, strict=True)]
    return sum(hits) / len(hits)


def accuracy_strict(predictions: Sequence[str], references: Sequence[str]) -> float:
    """GSM8K's own rule, on "The answer is N." too: equal strings once commas are dropped."""
    hits = []
    for prediction, reference in zip(predictions, references, strict=True):
        found = gsm8k_strict(prediction)
        hits.append(found is not None and found == gsm8k_strict(reference))
    return sum(hits) / len(hits)


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
    correct, total = [0] * 4, [0] * 4
    predicted_length = reference_length = 0
    for prediction, reference in zip(predictions, references, strict=True):
        p, r = tokenize(prediction.rstrip()), tokenize(reference.rstrip())
        predicted_length += len(p)
        reference_length += len(r)
        for n in range(1, 5):
            grams = _ngrams(p, n)
            correct[n - 1] += (grams & _ngrams(r, n)).total()
            total[n - 1] += grams.total()
    if not any(correct) or not all(total):
        return 0.0

    log_precisions, smoothing = 0.0, 1.0
    for c, t in zip(correct, total):
        if c == 0:
            smoothing *= 2
        log_precisions += math.log(100 * c / t if c else 100 / (smoothing * t))
    brevity = (
        1.0
        if predicted_length >= reference_length
        else math.exp(1 - reference_length / predicted_length)
    )
    return brevity * math.exp(log_precisions / 4)


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


# --- all together --------------------------------------------------------------------------------


def score(task: str, predictions: Sequence[str], references: Sequence[str]) -> dict:
    """All scores of a set of chains, under the names that ``results.json`` uses.

    Accuracy, strict accuracy and share parseable are None for ``pet``. BLEU is 0 to 100, everything
    else 0 to 1; ``bleu_signature`` and ``rouge_tokens`` say how the text was cut.
    """
    n = len(references)
    scores: dict = {"n": n, "accuracy": None, "accuracy_strict": None, "parseable": None}
    if task == "mwp":
        scores["accuracy"] = accuracy(predictions, references)
        scores["accuracy_strict"] = accuracy_strict(predictions, references)
        scores["parseable"] = sum(parse_answer(p) is not None for p in predictions) / n

    chinese = is_chinese(references)
    bleu_tokens, rouge_tokens = tokenize_13a, tokenize_rouge
    if chinese:
        bleu_tokens, rouge_tokens = tokenize_zh, tokenize_characters
    scores["exact_match"] = (
        sum(p.split() == r.split() for p, r in zip(predictions, references, strict=True)) / n
    )
    scores["bleu"] = corpus_bleu(predictions, references, bleu_tokens)
    rouges = [rouge(p, r, rouge_tokens) for p, r in zip(predictions, references)]
    for name in ("rouge1", "rouge2", "rougeL"):
        scores[name] = sum(values[name] for values in rouges) / n

    scores["bleu_signature"] = (
        f"nrefs:1|case:mixed|eff:no|tok:{'zh' if chinese else '13a'}|smooth:exp"
    )
    scores["rouge_tokens"] = "characters" if chinese else "words"
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
