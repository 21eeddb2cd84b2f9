"""Scores: numeric accuracy, BLEU and ROUGE (METHOD 5).

Answers are compared as exact fractions, never as strings or floats, and nothing a model wrote is ever evaluated.
BLEU gives sacrebleu's numbers (corpus BLEU, exponential smoothing, tokenizers 13a and zh); ROUGE gives those of
Google's rouge-score for English, and counts characters for Chinese, whose words have no blanks between them.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

from ases.data import AMOUNT, plain_signs, to_number

# --- final answers -------------------------------------------------------------------------------------------

_ANSWER_MARK = re.compile(r"(?:####|the answer is)[\s:]*", re.IGNORECASE)


def parse_answer(text: str) -> Fraction | None:
    """The number a chain ends with: the first after its last "the answer is" or "####", else its last one [ours].

    >>> parse_answer("so he pays $1,005.00 in all. The answer is $1,005.00."), parse_answer("none")
    (Fraction(1005, 1), None)
    """
    text = plain_signs(text)
    marks = list(_ANSWER_MARK.finditer(text))
    found = re.findall(AMOUNT, text[marks[-1].end() :] if marks else text)
    return to_number("".join(found[0] if marks else found[-1])) if found else None


def _first(pattern: str, text: str) -> str | None:
    match = re.search(pattern, text)
    return match[1] if match else None


def _gsm8k(text: str) -> str | None:
    found = _first(r"#### (-?[0-9.,]+)", text)
    return None if found is None else found.replace(",", "")


def _lm_eval_strict(text: str) -> str | None:
    found = _gsm8k(text)
    return None if found is None else found.removesuffix(".")


def _lm_eval_flexible(text: str) -> str | None:
    found = [a or b for a, b in re.findall(r"(-?[$0-9.,]{2,})|(-?[0-9]+)", text)]
    return re.sub(r"\.$", "", re.sub(r"[,$]", "", found[-1])) if found else None


def _lm_eval_cot(text: str) -> str | None:
    found = _first(r"The answer is (-?[0-9.,]+).", text)  # its last dot eats one character: "is 72" gives 7
    return None if found is None else re.sub(r"\.$", "", re.sub(r"[,$]", "", found))


def _reasoning_teacher(text: str) -> str | None:
    after = text.split("The answer is", 1)[-1] if "The answer is" in text else text
    found = re.findall(r"-?\d+(?:\.\d+)?", after.replace(",", ""))
    return (found[0] if after is not text else found[-1]) if found else None


def _released(text: str) -> str | None:
    found = re.findall(r"\d+[.,/]?\d*", text)
    return found[-1] if found else None


#: How others read an answer out of a text; each returns a string (to be compared as one) or None. "lm-eval-strict",
#: GSM8K's own rule less a final full stop, is what the strict accuracy uses.
CONVENTIONS: dict[str, Callable[[str], str | None]] = {
    "gsm8k": _gsm8k,
    "lm-eval-strict": _lm_eval_strict,
    "lm-eval-flexible": _lm_eval_flexible,
    "lm-eval-cot": _lm_eval_cot,
    "reasoning-teacher": _reasoning_teacher,
    "released": _released,
}


def accuracy(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Share of predictions whose final number equals the reference's, as numbers."""
    hits = [(p := parse_answer(prediction)) is not None and p == parse_answer(reference) for prediction, reference in zip(predictions, references, strict=True)]
    return sum(hits) / len(hits)


def accuracy_strict(predictions: Sequence[str], references: Sequence[str]) -> float:
    """GSM8K's own rule, on "The answer is N." for its "#### N": equal strings once commas are dropped."""

    def extract(text: str) -> str | None:
        return _lm_eval_strict(text.replace("The answer is ", "#### "))  # our sentence ends with a full stop, theirs does not

    hits = [(p := extract(prediction)) is not None and p == extract(reference) for prediction, reference in zip(predictions, references, strict=True)]
    return sum(hits) / len(hits)


# --- tokens --------------------------------------------------------------------------------------------------


def is_chinese(texts: Sequence[str]) -> bool:
    """Whether Chinese characters are at least a fifth of all characters: then metrics count characters."""
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
    text = re.sub(r"([\{-\~\[-\` -\&\(-\+\:-\@\/])", r" \1 ", text)  # ASCII marks but . , - and the apostrophe
    text = re.sub(r"([^0-9])([\.,])", r"\1 \2 ", text)  # . and , unless a digit stands before
    text = re.sub(r"([\.,])([^0-9])", r" \1 \2", text)  # … and unless a digit follows
    return re.sub(r"([0-9])(-)", r"\1 \2 ", text)  # a dash after a digit


# sacrebleu compares characters with strings such as "\u20000", two characters long; compared as strings these make
# one range that begins just after U+2000. Its numbers are the reference, so the ranges here are what it does.
_CHINESE_RANGES = [
    ("\u3400", "\u4db5"), ("\u4e00", "\u9fa5"), ("\u9fa6", "\u9fbb"), ("\uf900", "\ufa2d"), ("\ufa30", "\ufa6a"), ("\ufa70", "\ufad9"),
    ("\u20000", "\u2a6d6"), ("\u2f800", "\u2fa1d"), ("\uff00", "\uffef"), ("\u2e80", "\u2eff"), ("\u3000", "\u303f"), ("\u31c0", "\u31ef"),
    ("\u2f00", "\u2fdf"), ("\u2ff0", "\u2fff"), ("\u3100", "\u312f"), ("\u31a0", "\u31bf"), ("\ufe10", "\ufe1f"), ("\ufe30", "\ufe4f"),
    ("\u2600", "\u26ff"), ("\u2700", "\u27bf"), ("\u3200", "\u32ff"), ("\u3300", "\u33ff"),
]


def tokenize_zh(text: str) -> list[str]:
    """sacrebleu's "zh": Chinese characters and marks one by one, the rest as mteval cuts Western text."""
    text = text.strip()
    return _western("".join(f" {c} " if any(a <= c <= b for a, b in _CHINESE_RANGES) else c for c in text)).split()


def tokenize_rouge(text: str) -> list[str]:
    """rouge-score's tokens: runs of a–z and 0–9 of the lowered text, without stemming."""
    return re.findall(r"[a-z0-9]+", text.lower())


def tokenize_characters(text: str) -> list[str]:
    """Every character that is no white space."""
    return [c for c in text if not c.isspace()]


# --- BLEU ----------------------------------------------------------------------------------------------------


def corpus_bleu(predictions: Sequence[str], references: Sequence[str], tokenize: Callable[[str], list[str]] = tokenize_13a) -> float:
    """Corpus BLEU-4, 0 to 100, one reference each, exponential smoothing: sacrebleu's value."""
    correct, total = [0] * 4, [0] * 4
    predicted_length = reference_length = 0
    for prediction, reference in zip(predictions, references, strict=True):
        p, r = tokenize(prediction.rstrip()), tokenize(reference.rstrip())
        predicted_length, reference_length = predicted_length + len(p), reference_length + len(r)
        for n in range(1, 5):
            grams = _ngrams(p, n)
            correct[n - 1] += sum((grams & _ngrams(r, n)).values())
            total[n - 1] += sum(grams.values())
    if not any(correct) or not all(total):
        return 0.0
    log_precisions, smoothing = 0.0, 1.0
    for c, t in zip(correct, total):
        if c == 0:
            smoothing *= 2
        log_precisions += math.log(100 * c / t if c else 100 / (smoothing * t))
    brevity = 1.0 if predicted_length >= reference_length else math.exp(1 - reference_length / predicted_length)
    return brevity * math.exp(log_precisions / 4)


def _ngrams(tokens: Sequence[str], n: int) -> Counter:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


# --- ROUGE ---------------------------------------------------------------------------------------------------


def rouge(prediction: str, reference: str, tokenize: Callable[[str], list[str]] = tokenize_rouge) -> dict[str, float]:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L, 0 to 1, for one pair of texts."""
    p, r = tokenize(prediction), tokenize(reference)
    overlap = {f"rouge{n}": (sum((_ngrams(p, n) & _ngrams(r, n)).values()), len(p) - n + 1, len(r) - n + 1) for n in (1, 2)}
    overlap["rougeL"] = (_longest_common_subsequence(p, r), len(p), len(r))
    return {name: _f1(hits, max(n_p, 0), max(n_r, 0)) for name, (hits, n_p, n_r) in overlap.items()}


def _f1(hits: int, n_predicted: int, n_reference: int) -> float:
    return 2 * hits / (n_predicted + n_reference) if hits else 0.0


def _longest_common_subsequence(a: Sequence[str], b: Sequence[str]) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], diagonal + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


# --- all together --------------------------------------------------------------------------------------------


def score(task: str, predictions: Sequence[str], references: Sequence[str]) -> dict:
    """All scores of a set of chains, under the names that ``results.json`` uses.

    Accuracy, strict accuracy and share parseable are None for ``pet``. BLEU is 0 to 100, everything else 0 to 1;
    ``bleu_signature`` and ``rouge_tokens`` say how the text was cut.
    """
    chinese = is_chinese(references)
    rouges = [rouge(p, r, tokenize_characters if chinese else tokenize_rouge) for p, r in zip(predictions, references, strict=True)]
    math_task = task == "mwp"
    return {
        "n": len(references),
        "accuracy": accuracy(predictions, references) if math_task else None,
        "accuracy_strict": accuracy_strict(predictions, references) if math_task else None,
        "parseable": sum(parse_answer(p) is not None for p in predictions) / len(predictions) if math_task else None,
        "exact_match": sum(p.split() == r.split() for p, r in zip(predictions, references)) / len(references),
        "bleu": corpus_bleu(predictions, references, tokenize_zh if chinese else tokenize_13a),
        **{name: sum(r[name] for r in rouges) / len(rouges) for name in ("rouge1", "rouge2", "rougeL")},
        "bleu_signature": f"nrefs:1|case:mixed|eff:no|tok:{'zh' if chinese else '13a'}|smooth:exp",
        "rouge_tokens": "characters" if chinese else "words",
    }
