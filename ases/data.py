"""Examples: what they are, how files become examples, and how they are split.

A file is recognised by its content, not by its name:

* JSON Lines, one object a line, with ``question`` and ``answer``, and ``id`` or ``qid`` if there is one
  (GSM8K's own files are of this form);
* CSV with a header naming the same columns (cPET-11K's file is of this form, with a BOM).

Word-problem answers are brought to one form: ``<<3*4=12>>`` notes go, and the answer ends with
``The answer is N.``, whether it came as ``#### N`` or as a looser "the answer is" (METHOD 5).
Everything else in a text stays as it is, but for white space at both its ends.
"""

import csv
import io
import json
import random
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

TASKS = ("mwp", "pet")

#: A number as people write it: sign, thousands commas, decimals, a fraction; "5-2" holds 5 and 2, not -2.
NUMBER = r"(?:(?<![\w)])-)?(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)(?:/[0-9]+)?"
#: The same as an amount, "-$1,005.50": the sign and the number are its two groups.
AMOUNT = r"(?:(?<![\w)])(-)(?=[$€£¥]))?[$€£¥]?\s?(" + NUMBER + ")"

_CALCULATOR_NOTE = re.compile(r"<<[^<>\n]*>>")
_GSM8K_ANSWER = re.compile(r"\s*####\s*" + AMOUNT + r"\s?%?\.?\s*$")
_ANSWER_IS = re.compile(r"the answer is", re.IGNORECASE)
_HALF_READ = re.compile(r",[0-9]|\s[0-9]+/[0-9]|[0-9]")  # "1,00,000", "1 1/2": what follows belongs to the number


class InputError(ValueError):
    """A mistake in what the user handed over, told in one line; the commands print it and exit with 2."""


@dataclass(frozen=True)
class Example:
    """One question with its chain of thought.

    ``gold`` holds the chain's pieces with their true roles, ``(role, text)`` with role "ES" or "AS", for data
    that was generated together with them; their texts joined give ``answer``.
    """

    id: str
    question: str
    answer: str
    gold: tuple[tuple[str, str], ...] | None = None


@dataclass
class Dataset:
    """The examples of one file, and how many rows were left out because nothing stood in a needed field."""

    examples: list[Example]
    name: str
    empty_rows: int = 0


def read_examples(path: str | Path, task: str) -> Dataset:
    """Read a JSON Lines or CSV file of questions and answers.

    Raises:
        InputError: missing, empty or unreadable file; a line that is no JSON object; a missing or non-text
            field; unknown columns; an id that occurs twice; for ``mwp``, an answer without a final number.
    """
    path = Path(path)
    text = _read_text(path)
    rows = _json_rows(path, text) if text.lstrip().startswith(("{", "[", '"')) and not _csv_header(text) else _csv_rows(path, text)
    examples, first_line, empty = [], {}, 0
    for line, row in rows:
        question, answer = (_text_field(path, line, row, name).strip() for name in ("question", "answer"))
        example_id = _id_field(path, line, row)
        if example_id in first_line:
            raise InputError(f"{path}:{line}: field 'id': {example_id!r} stands already in line {first_line[example_id]}; expected unique ids")
        first_line[example_id] = line
        if not question or not answer:
            empty += 1
            continue
        if task == "mwp":
            answer = normalise_math_answer(answer)
            if answer is None:
                raise InputError(f"{path}:{line}: field 'answer': no final number; expected it to end with 'The answer is N.' or '#### N'")
        examples.append(Example(example_id, question, answer))
    if not examples:
        raise InputError(f"{path}: no usable row ({empty} without question or answer); expected at least one")
    return Dataset(examples, name=path.name, empty_rows=empty)


def normalise_math_answer(answer: str) -> str | None:
    """Bring an answer to end with ``The answer is N.``; None if it states no final number (METHOD 5).

    N is GSM8K's ``#### N``, or else the first number after the last "the answer is"; what follows it goes.

    >>> normalise_math_answer("He has 3*4 = <<3*4=12>>12 apples.\\n#### 12")
    'He has 3*4 = 12 apples.\\nThe answer is 12.'
    """
    answer = _CALCULATOR_NOTE.sub("", answer).strip()
    if match := _GSM8K_ANSWER.search(plain_signs(answer)):
        chain = answer[: match.start()]
    else:
        statements = list(_ANSWER_IS.finditer(answer))
        stated = plain_signs(answer[statements[-1].end() :]) if statements else ""
        match = re.search(AMOUNT, stated)
        if match is None or _HALF_READ.match(stated, match.end()):
            return None
        chain = answer[: statements[-1].start()]
    number = (match[1] or "") + match[2]
    if to_number(number) is None:
        return None
    joint = "\n" if chain and not chain[-1].isspace() and "####" in answer else ""
    return f"{chain}{joint}The answer is {number}."


def plain_signs(text: str) -> str:
    """Full-width digits and the typographic minus as ASCII; the length does not change."""
    return text.translate(_PLAIN)


_PLAIN = {0x2212: "-"} | {0xFF10 + digit: str(digit) for digit in range(10)}


def to_number(text: str) -> Fraction | None:
    """"1,005.00", "-3", "1/2", "$72" → the exact number; None if it is none (a zero denominator too)."""
    text = text.strip().replace(",", "").replace("$", "").rstrip(".")
    if len(text) > 1000 or not re.fullmatch(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:/[0-9]+)?", text):
        return None
    whole, _, below = text.partition("/")
    if below and int(below) == 0:
        return None
    return Fraction(whole) / int(below or 1)


def split_examples(examples: list[Example], seed: int, shares: tuple[float, float] = (0.8, 0.1)) -> dict[str, list[Example]]:
    """Split into train, validation and test by question, before anything is fitted (METHOD 5).

    Rows that ask the same question word for word go to the same side, so no test question is trained on even
    where a file repeats itself under another id. Order within a split is the shuffled one: a prefix is a sample.

    Raises:
        InputError: fewer than three different questions.
    """
    by_question: dict[str, list[Example]] = {}
    for example in examples:
        by_question.setdefault(example.question, []).append(example)
    groups = list(by_question.values())
    if len(groups) < 3:
        raise InputError(f"{len(groups)} different questions; expected at least 3, one each for train, validation and test")
    random.Random(seed).shuffle(groups)
    n_validation = max(1, round(len(groups) * shares[1]))
    n_train = min(round(len(groups) * shares[0]), len(groups) - n_validation - 1)
    bounds = {"train": (0, n_train), "validation": (n_train, n_train + n_validation), "test": (n_train + n_validation, len(groups))}
    return {name: [e for group in groups[a:b] for e in group] for name, (a, b) in bounds.items()}


# --- reading, row by row -------------------------------------------------------------------------------------


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected a JSON Lines or CSV file") from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{path}:{line}: byte {error.start} is not UTF-8; expected a UTF-8 file") from None
    if not text.strip():
        raise InputError(f"{path}: the file is empty; expected JSON Lines or CSV with 'question' and 'answer'")
    return text


def _csv_header(text: str) -> bool:
    """Whether the first line is a CSV header with the needed columns (it may well be quoted)."""
    try:
        header = next(csv.reader([text.lstrip().split("\n", 1)[0]]), [])
    except csv.Error:  # a first line too long for a header
        return False
    return {"question", "answer"} <= {name.strip() for name in header}


def _json_rows(path: Path, text: str):
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (ValueError, RecursionError) as error:  # a number of thousands of digits is a ValueError, too
            reason = getattr(error, "msg", "a value is too large")
            raise InputError(f"{path}:{line}: not JSON ({reason}); expected one JSON object a line") from None
        if not isinstance(row, dict):
            raise InputError(f"{path}:{line}: a JSON {type(row).__name__}; expected one JSON object a line")
        yield line, row


def _csv_rows(path: Path, text: str):
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start, header = 1, None
    while True:
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{path}:{start}: not CSV ({error}); expected comma-separated values") from None
        if values is None:
            return
        line, start = start, reader.line_num + 1
        if not values:
            continue
        if header is None:
            header = [name.strip() for name in values]
            if not {"question", "answer"} <= set(header):
                found = ", ".join(header)[:120]
                raise InputError(f"{path}:{line}: columns {found!r}; expected 'question' and 'answer', and 'id' or 'qid' if there is one")
            if repeated := [name for name in ("question", "answer", "id", "qid") if header.count(name) > 1]:
                raise InputError(f"{path}:{line}: column {repeated[0]!r} stands twice; expected it once")
        elif len(values) != len(header):
            raise InputError(f"{path}:{line}: {len(values)} fields; expected {len(header)}, as in the header")
        else:
            yield line, dict(zip(header, values))


def _text_field(path: Path, line: int, row: dict, name: str) -> str:
    if name not in row:
        raise InputError(f"{path}:{line}: field {name!r} is missing; expected a text")
    value = row[name]
    if not isinstance(value, str):
        raise InputError(f"{path}:{line}: field {name!r} is {type(value).__name__}; expected a text")
    return _valid_unicode(path, line, name, value)


def _valid_unicode(path: Path, line: int, name: str, value: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{path}:{line}: field {name!r} holds half a surrogate pair; expected valid Unicode")
    return value


def _id_field(path: Path, line: int, row: dict) -> str:
    for name in ("id", "qid"):
        if name in row:
            value = row[name]
            if isinstance(value, bool) or not isinstance(value, (str, int)):
                raise InputError(f"{path}:{line}: field {name!r} is {type(value).__name__}; expected a text or a whole number")
            if not str(value).strip():
                raise InputError(f"{path}:{line}: field {name!r} is empty; expected a text or a whole number")
            return _valid_unicode(path, line, name, str(value).strip())
    return f"line-{line}"
