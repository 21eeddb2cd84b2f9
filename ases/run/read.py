"""Read examples, questions, JSON and logs.

A data file is JSON Lines, a JSON array of objects, or a table with a header and commas, semicolons
or tabs; its content tells which, not its name. Its fields are ``question``, ``answer`` (or the
user's names for them), optionally ``id`` or ``qid``, and one for the true answer. Answers with
numbers get one form: ``<<3*4=12>>`` notes are removed, and they end with ``The answer is N.``
"""

import csv
import io
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

from ases.answers import find_answer, plain_number
from ases.data import Example, InputError, check_regular, has_surrogate, refuse_if, rough_length
from ases.run.write import plural
from ases.segmentation import split_pieces
from ases.settings import Settings
from ases.tasks import TASKS

FORMATS = "JSON Lines, a JSON array, or a table with a header"
#: What programs write into a table's empty cells.
MISSING = {"nan", "NaN", "None", "NULL", "null", "N/A", "n/a", "#N/A", "<NA>", "NA"}
#: How gzip, zip, bzip2, xz and zstd files begin.
PACKED = b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd"

#: Position ("7", "item 7"), and the row or its InputError.
Rows = Iterator[tuple[str, Any]]


@dataclass
class Dataset:
    """The examples of ``settings.data``, and what was left out or rewritten."""

    settings: Settings
    examples: list[Example] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # a line per unusable row
    empty: list[str] = field(default_factory=list)  # a line per row with an empty field
    contradicted: list[str] = field(default_factory=list)  # a line per contradicted label
    notes: Counter = field(default_factory=Counter)  # what else was done → to how many rows
    seen: dict[str, tuple[str, str]] = field(default_factory=dict)  # id → first line and question
    copies: Counter = field(default_factory=Counter)  # ids of examples → rows that have it

    def add(self, line: str, row: Any) -> None:
        """Add a row's example. Raises InputError: a bad row."""
        settings, columns = self.settings, columns_of(self.settings)
        if isinstance(row, InputError):
            raise row
        if not isinstance(row, dict):
            raise InputError(f"a JSON {type(row).__name__}; expected a JSON object")
        for name in columns:
            if name not in row:
                raise InputError(_missing_field(row, name))
        texts = {name: _text(row, name, name == settings.label_field) for name in columns}
        given_id = _text(row, "id", True) or _text(row, "qid", True)
        place, field_ = f"{settings.data}:{line}", f"field {settings.answer_field!r}"
        if empty := [name for name in columns if not texts[name]]:
            self.empty.append(f"{place}: field {empty[0]!r} is empty; expected a text")
            return
        question, answer = texts[settings.question_field], texts.get(settings.answer_field, "")
        if given_id:  # chains of one question may share it
            first, other = self.seen.setdefault(given_id, (place, question))
            message = f"{given_id!r} is the id of {first}, too, which has another question"
            refuse_if(question != other, "field 'id'", message)
        label = None
        if TASKS[settings.task].numbers:
            stated = find_answer(answer)
            message = "no readable final number; end it with 'The answer is N.' or '#### N'"
            refuse_if(stated is None, field_, f"{message}, or use --task text")
            if settings.label_field is not None:
                true = _true_number(texts[settings.label_field], settings.label_field)
                label = plain_number(true)
                if true != stated.number:
                    message = f"states another number than {settings.label_field!r}: {label!r}"
                    self.contradicted.append(f"{place}: {field_} {message}")
                    if settings.skip_bad_rows:
                        return
            self.notes["with '#### N' read as 'The answer is N.'"] += "####" in answer
            self.notes["with text after the answer dropped"] += stated.dropped
            answer = stated.text
        length = rough_length(answer) if len(answer) > settings.max_chain else 0
        message = f"a chain of about {length:,} tokens; expected at most {settings.max_chain:,}"
        refuse_if(length > settings.max_chain, field_, message)
        default_id = f"line-{line}" if line.isdigit() else line.replace(" ", "-")
        id_ = self._unique(given_id or default_id)
        self.examples.append(Example(id_, question, answer, label=label))

    def _unique(self, id_: str) -> str:
        """The id, or "id-2", "id-3", … of later rows that share it."""
        unique = id_
        while unique in self.copies:
            self.copies[id_] += 1
            unique = f"{id_}-{self.copies[id_]}"
        self.copies[unique] = 1
        return unique

    def described(self) -> str:
        """The file's name, and what was left out or rewritten."""
        kept = "left out" if self.settings.skip_bad_rows else "kept"
        notes = {
            "left out without question or answer": len(self.empty),
            "skipped as unusable": len(self.problems),
            f"{kept} whose chain and label state different numbers": len(self.contradicted),
        } | self.notes
        parts = [f"{plural(n, 'row')} {what}" for what, n in notes.items() if n]
        return ", ".join([Path(self.settings.data).name, *parts])


def columns_of(settings: Settings) -> list[str]:
    """Names of the fields that every row needs."""
    names = settings.question_field, settings.answer_field, settings.label_field
    return [name for name in names if name]


def read_examples(settings: Settings) -> Dataset:
    """Read questions and answers. ``skip_bad_rows`` also skips answers that contradict a label."""
    data = scan_examples(settings)
    bad, usable = data.problems, data.examples
    if bad and not (usable and settings.skip_bad_rows):
        more = f" ({len(bad) - 1} more)" if len(bad) > 1 else ""
        how = "; fix these rows (segment.py --check lists them), or pass --skip-bad-rows"
        raise InputError(bad[0] + more + (how if usable else ""))
    left_out = (
        f"{len(data.empty)} without question or answer, {len(data.contradicted)} contradicted"
    )
    refuse_if(not usable, settings.data, f"no usable row ({left_out})")
    return data


def scan_examples(settings: Settings, text: str = "") -> Dataset:
    """Read all of ``settings.data``, or its ``text``, collecting bad rows in ``problems``."""
    if settings.label_field is not None and not TASKS[settings.task].numbers:
        raise InputError(f"--label-field cannot be combined with --task {settings.task}")
    path, columns, data = settings.data, columns_of(settings), Dataset(settings)
    text = text or _decoded(path, read_bytes(Path(path), FORMATS), columns)
    delimiter = _delimiter(text, columns)
    is_json = delimiter is None and text.lstrip().startswith(("{", "[", '"'))
    name = _list_inside(text, columns) if is_json else ""
    refuse_if(name, path, f"the rows lie in field {name!r}; save that list, without the rest")
    for line, row in _json_rows(text) if is_json else _table_rows(path, text, columns, delimiter):
        try:
            data.add(line, row)
        except InputError as error:
            data.problems.append(f"{path}:{line}: {error}")
    return data


def data_notes(examples: Sequence[Example], settings: Settings) -> list[str]:
    """What to know before training. Lengths of questions are rough."""
    notes, n, most = [], len(examples), settings.max_question
    whole = sum(len(split_pieces(e.answer)) == 1 for e in examples)
    if settings.mode != "direct" and 10 * whole >= n:
        alike = "usm and dsm then learn what direct learns"
        notes.append(f"note: {whole:,} of {n:,} chains are one piece; {alike}")
    long = sum(len(e.question) > most and rough_length(e.question) > most for e in examples)
    if long:
        limit = f"{most} tokens; the middle is left out"
        notes.append(f"note: {long:,} of {n:,} questions are longer than about {limit}")
    return notes


def read_questions(path: str, column: str | None = None) -> list[Example]:
    """One question per line, or a data file if ``column`` is set or it looks like one. -: stdin."""
    raw = sys.stdin.buffer.read() if path == "-" else read_bytes(Path(path), FORMATS)
    path = "standard input" if path == "-" else path
    settings = Settings(
        task="text", data=path, question_field=column or "question", answer_field=""
    )
    columns = columns_of(settings)
    text = _decoded(path, raw, columns)
    if column or _delimiter(text, columns) or _has_header(path, text):
        data = scan_examples(settings, text)
        if data.problems:
            raise InputError(data.problems[0])
        questions = data.examples
    else:
        lines = enumerate(text.split("\n"), 1)
        questions = [Example(f"line-{n}", line.strip(), "") for n, line in lines if line.strip()]
    refuse_if(not questions, path, f"no question; expected one per line, or {FORMATS}")
    return questions


def read_bytes(path: Path, wanted: str) -> bytes:
    """Read a regular file."""
    check_regular(path, wanted)
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected {wanted}") from None


def read_json(path: Path, wanted: str) -> Any:
    content = read_bytes(path, wanted)
    try:
        return json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or type(error).__name__
        raise InputError(f"{path}: not JSON ({reason}); expected {wanted}") from None


def read_log(folder: Path) -> list[dict]:
    """Rows of a run's ``metrics.jsonl``, without an incomplete last line."""
    path, rows = folder / "metrics.jsonl", []
    text = read_bytes(path, "a run's log").decode("utf-8", "surrogateescape")
    lines = [line for line in text.split("\n") if line]
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not isinstance(row["model"], str) or not isinstance(row["step"], (int, float)):
                raise ValueError
            rows.append(row)
        except (ValueError, KeyError, TypeError, RecursionError):
            message = "not a line of a log: a JSON object with model and step"
            refuse_if(number < len(lines), f"{path}:{number}", message)
    return rows


def read_curves(folder: Path) -> dict[str, dict[str, list]]:
    """{"usm": {"training": [(step, nats per token), …], "validation": …}} of a run's log."""
    curves: dict[str, dict[str, list]] = {}
    for row in read_log(folder):
        losses = curves.setdefault(row["model"], {"training": [], "validation": []})
        for kind, name in (("training", "loss"), ("validation", "validation_loss")):
            if name in row:
                losses[kind].append((row["step"], row[name]))
    return curves


# --- reading, row by row -------------------------------------------------------------------------
def _decoded(path: str, raw: bytes, columns: list[str]) -> str:
    refuse_if(raw.startswith(PACKED), path, f"compressed; unpack it first, to get {FORMATS}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = f"{path}:{line}: byte {error.start} is not UTF-8; expected a UTF-8 file"
        raise InputError(message) from None
    wanted = f"{FORMATS} with {' and '.join(map(repr, columns))}"
    refuse_if(not text.strip(), path, f"the file is empty; expected {wanted}")
    return text


def _delimiter(text: str, columns: list[str]) -> str | None:
    """The delimiter by which the first line has all needed names, perhaps quoted; else None."""
    first = text.lstrip().split("\n", 1)[0]
    for delimiter in (",", "\t", ";"):
        with suppress(csv.Error):  # a first line too long for a header
            header = next(csv.reader([first], delimiter=delimiter), [])
            if set(columns) <= {name.strip() for name in header}:
                return delimiter
    return None


def _has_header(path: str, text: str) -> bool:
    """Whether a file's name, or a first line of short names, marks it as a table, not questions."""
    names = re.split("[,;\t]", text.lstrip().split("\n", 1)[0])
    words = [re.fullmatch(r"\s*\"?\w{1,40}(?: \w{1,40}){0,2}\"?\s*", name) for name in names]
    json_begins = re.match(r'\s*(\[\s*)?\{\s*"', text)  # and no question in brackets
    kinds = (".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson")
    return path.lower().endswith(kinds) or bool(json_begins) or (len(names) > 1 and all(words))


def _list_inside(text: str, columns: list[str]) -> str:
    """The field of a lone JSON object that holds a list of rows, if any."""
    with suppress(ValueError, RecursionError, AttributeError, TypeError):
        for name, value in json.loads(text).items():
            if isinstance(value, list) and value and set(columns) <= value[0].keys():
                return name
    return ""


def _json_rows(text: str) -> Rows:
    """Rows of JSON Lines, or of an array."""
    array = text.lstrip().startswith("[")
    for number, part in enumerate([text] if array else text.split("\n"), 1):
        if not part.strip():
            continue
        try:
            value = json.loads(part)
        except (ValueError, RecursionError) as error:
            # A number with thousands of digits raises a ValueError without ``msg``.
            reason = getattr(error, "msg", "a value is too large")
            line = str(number + getattr(error, "lineno", 1) - 1)
            wanted = "expected one JSON object per line, or an array of them"
            yield line, InputError(f"not JSON ({reason}); {wanted}")
            continue
        for n, row in enumerate(value if array else [value], 1):
            yield f"item {n}" if array else str(number), row


def _table_rows(path: str, text: str, columns: list[str], delimiter: str | None) -> Rows:
    if delimiter is None:  # guess, so that the error shows the header's names
        delimiter = max(",", "\t", ";", key=text.lstrip().split("\n", 1)[0].count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start, header = 1, []
    limit = csv.field_size_limit(2**31 - 1)  # the process's: lifted while a file is read
    try:
        for values in reader:
            line, start = str(start), reader.line_num + 1
            if not values:
                continue
            if not header:
                header = [name.strip() for name in values]
                _check_header(header, columns, f"{path}:{line}")
            elif len(values) != len(header):
                message = f"{len(values)} fields; expected {len(header)}, as in the header"
                yield line, InputError(message)
            elif delimiter == "\t" and any(set(value) & set("\r\n") for value in values):
                yield line, InputError("a quoted field of several lines (a stray quote?)")
            else:
                cells = ["" if value.strip() in MISSING else value for value in values]
                yield line, dict(zip(header, cells))
    except csv.Error as error:
        reason = f"not CSV ({error}); expected values separated by {delimiter!r}"
        # Fatal: where the next row begins is unknown.
        raise InputError(f"{path}:{start}: {reason}") from None
    finally:
        csv.field_size_limit(limit)


def _check_header(header: list[str], columns: list[str], place: str) -> None:
    wanted = f"{' and '.join(map(repr, columns))}, or name them with {_NAMING}"
    message = f"columns {', '.join(header)[:120]!r}; expected {wanted}"
    refuse_if(not set(columns) <= set(header), place, message)
    for name in (*columns, "id", "qid"):
        refuse_if(header.count(name) > 1, place, f"column {name!r} appears twice; expected once")


_NAMING = "--question-field, --answer-field or --label-field"


def _missing_field(row: dict, name: str) -> str:
    """A message; for chats, with a command that converts them (https://jqlang.org)."""
    for chat, text in (("messages", "content"), ("conversations", "value")):
        if chat in row:
            filter_ = f"{{question: .{chat}[-2].{text}, answer: .{chat}[-1].{text}}}"
            return f"a chat; convert the file first: jq -c '{filter_}' FILE > data.jsonl"
    names = ", ".join(row)[:120]
    message = f"field {name!r} is missing; expected a text"
    return f"{message} (the fields are {names!r}; name others with {_NAMING})"


def _text(row: dict, name: str, number: bool = False) -> str:
    """A field as stripped text; "" if it is null, NaN or missing. ``number``: it may be one."""
    value = row.get(name)
    if value is None or value != value:
        return ""
    if type(value) is not str and not (number and type(value) in (int, float)):
        raise InputError(f"field {name!r} is {type(value).__name__}; expected a text")
    if isinstance(value, float) and math.isfinite(value):
        value = plain_number(Fraction(repr(value)))
    text = str(value).strip()
    if has_surrogate(text):
        raise InputError(f"field {name!r} contains a lone surrogate; expected valid Unicode")
    return text


def _true_number(label: str, name: str) -> Fraction:
    stated = find_answer(f"The answer is {label}")
    refuse_if(stated is None, f"field {name!r}", "no readable final number")
    refuse_if(stated.dropped, f"field {name!r}", "more than a number")
    return stated.number
