"""Reading files: examples, questions, JSON and logs.

A data file is recognised by its content, not by its name: JSON Lines, one JSON array of objects,
or a table with a header, separated by commas, semicolons or tabs. It needs two fields, ``question``
and ``answer`` or what the user calls them; ``id`` or ``qid`` is used if there is one. Answers of
tasks with numbers are brought to one form: ``<<3*4=12>>`` notes go, and the answer ends with ``The
answer is N.`` The true answer may stand in a third field.
"""

import csv
import errno
import io
import json
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ases.answers import Stated, find_answer
from ases.data import Example, InputError
from ases.run.write import counted
from ases.tasks import TASKS

FORMATS = "JSON Lines, a JSON array, or a table with a header"

#: Where a row stands ("7", "item 7"), and the row or what is wrong with it.
Rows = Iterator[tuple[str, dict | InputError]]


@dataclass(frozen=True)
class Columns:
    """What the fields of a file are called."""

    question: str = "question"
    answer: str | None = "answer"  # None: questions alone are asked for
    label: str | None = None  # of the true answer

    @property
    def needed(self) -> tuple[str, ...]:
        """The fields that every row must have."""
        return tuple(n for n in (self.question, self.answer, self.label) if n is not None)

    @property
    def words(self) -> str:
        """Their names, as a complaint quotes them."""
        return " and ".join(map(repr, self.needed))


@dataclass
class Dataset:
    """The examples of one file, and what was not taken over as it stood there."""

    name: str
    examples: list[Example] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # of rows that cannot be used, a line each
    empty: list[str] = field(default_factory=list)  # the same for rows without question or answer
    contradicted: list[str] = field(default_factory=list)  # the same where the label is another
    restated: int = 0  # answers whose #### was rewritten
    dropped: int = 0  # answers with text behind their statement

    def described(self, skipped: bool = False) -> str:
        """What was left out or rewritten, in a few words."""
        notes = []
        if self.empty:
            notes.append(f"{counted(len(self.empty), 'row')} without question or answer left out")
        if self.problems:
            notes.append(f"{counted(len(self.problems), 'bad row')} skipped")
        if self.restated:
            notes.append(f"#### N read as 'The answer is N.' in {counted(self.restated, 'row')}")
        if self.dropped:
            notes.append(f"text after the answer dropped in {counted(self.dropped, 'row')}")
        if self.contradicted:
            rows = counted(len(self.contradicted), "row")
            what = "left out" if skipped else "kept"
            notes.append(f"{rows} whose chain states another number than its label {what}")
        return ", ".join([self.name, *notes])


def read_examples(
    path: str | Path, task: str, columns: Columns = Columns(), skip_bad_rows: bool = False
) -> Dataset:
    """Read a file of questions and answers. ``skip_bad_rows``: leave out bad rows, and those whose
    chain states another number than the label."""
    data = scan_examples(path, task, columns, skip_bad_rows)
    if data.problems and not skip_bad_rows:
        more = f" ({len(data.problems) - 1} more)" if len(data.problems) > 1 else ""
        told = "fix these rows (segment.py --check lists them), or pass --skip-bad-rows"
        if not data.examples and TASKS[task].numbers:
            told += "; for chains without numbers, use --task text"
        raise InputError(f"{data.problems[0]}{more}; {told}")
    if not data.examples:
        bad = f", {len(data.problems)} bad" if data.problems else ""
        told = f"no usable row ({len(data.empty)} without question or answer{bad})"
        raise InputError(f"{path}: {told}")
    return data


@contextmanager
def _texts_of_any_length() -> Iterator[None]:
    """The csv module's limit is the whole process's: it is lifted only while a file is read."""
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


@_texts_of_any_length()
def scan_examples(
    path: str | Path, task: str, columns: Columns = Columns(), skip_contradicted: bool = False
) -> Dataset:
    """Read a file to its end; each bad row is a line of ``problems``."""
    path = Path(path)
    if columns.label is not None and not TASKS[task].numbers:
        raise InputError(f"--label-field has no effect with --task {task}; remove it")
    return _scan(path, _read_text(path, columns), task, columns, skip_contradicted)


@_texts_of_any_length()
def read_questions(path: str, column: str | None = None) -> list[Example]:
    """Questions without answers: a data file of which ``column`` is read, or one question a line.

    Args:
        path: "-" is the standard input.
        column: what the file calls its questions, if it is a data file for sure.
    """
    columns = Columns(column or "question", None)
    if path == "-":
        path = "standard input"
        text = _decoded(Path(path), sys.stdin.buffer.read(), columns)
    else:
        text = _read_text(Path(path), columns)
    if column or _begins_with_json(text) or _delimiter(text, columns) or _has_header(path, text):
        data = _scan(Path(path), text, "", columns)
        if data.problems:
            raise InputError(data.problems[0])
        questions = data.examples
    else:
        lines = enumerate(text.split("\n"), 1)
        questions = [Example(f"line-{n}", line.strip(), "") for n, line in lines if line.strip()]
    if not questions:
        raise InputError(f"{path}: no question; expected one a line, or {FORMATS}")
    return questions


def _scan(
    path: Path, text: str, task: str, columns: Columns, skip_contradicted: bool = False
) -> Dataset:
    data, seen = Dataset(path.name), {}
    for line, row in _rows(path, text, columns):
        try:
            if isinstance(row, InputError):
                raise row
            texts = {name: _text(row, name, name == columns.label) for name in columns.needed}
            id_ = _id(row) or (f"line-{line}" if line.isdigit() else line.replace(" ", "-"))
            if id_ in seen:
                first = f"{path}:{seen[id_]}"
                told = f"field 'id': {id_!r} is the id of {first}, too"
                raise InputError(told)
            seen[id_] = line
            if empty := [name for name in columns.needed if not texts[name]]:
                data.empty.append(f"{path}:{line}: field {empty[0]!r} is empty; expected a text")
                continue
            answer = texts.get(columns.answer, "")
            example = Example(id_, texts[columns.question], answer)
            if columns.answer is not None and TASKS[task].numbers:
                stated = _stated(columns.answer, answer)
                data.restated += "####" in answer
                data.dropped += stated.dropped
                example = replace(example, answer=stated.text)
                if columns.label is not None:
                    label = _stated(
                        columns.label, f"The answer is {texts[columns.label]}", "a number"
                    )
                    if label.dropped:
                        raise InputError(f"field {columns.label!r}: more than a number")
                    true = label.text.rpartition("The answer is ")[2].removesuffix(".")
                    example = replace(example, label=true)
                    if label.number != stated.number:
                        told = f"{path}:{line}: field {columns.answer!r} states another number"
                        data.contradicted.append(f"{told} than {columns.label!r}: {true!r}")
                        if skip_contradicted:
                            continue
            data.examples.append(example)
        except InputError as error:
            data.problems.append(f"{path}:{line}: {error}")
    return data


def _stated(
    column: str, text: str, wanted: str = "it to end with 'The answer is N.' or '#### N'"
) -> Stated:
    """The answer that a text states, in the one form."""
    stated = find_answer(text)
    if stated is None:
        raise InputError(f"field {column!r}: no final number that can be read; expected {wanted}")
    return stated


def read_bytes(path: Path) -> bytes:
    """A regular file's content; a pipe might never end.

    Raises:
        OSError: there is none, or it cannot be read.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "no regular file")
    return path.read_bytes()


def read_json(path: Path, wanted: str) -> Any:
    """A JSON file's content."""
    try:
        return json.loads(read_bytes(path).decode("utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); expected {wanted}") from None
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", None) or type(error).__name__
        raise InputError(f"{path}: not JSON ({reason}); expected {wanted}") from None


PREDICTION = {"id": str, "question": str, "reference": str, "prediction": str, "segments": list}
LOG = {"model": str, "step": (int, float)}


def read_rows(path: Path, needed: dict[str, Any]) -> list[dict]:
    """The rows of a run's ``metrics.jsonl`` or ``predictions.jsonl``, without a torn last line.

    Args:
        needed: the fields of a row, with their types: ``LOG`` or ``PREDICTION``.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    lines, rows = [line for line in text.split("\n") if line], []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not all(isinstance(row[name], kind) for name, kind in needed.items()):
                raise ValueError
            rows.append(row)
        except (ValueError, KeyError, TypeError, RecursionError):
            if number < len(lines):
                told = f"not a line of this file: a JSON object with {', '.join(needed)}"
                raise InputError(f"{path}:{number}: {told}") from None
    return rows


# --- reading, row by row -------------------------------------------------------------------------


def _read_text(path: Path, columns: Columns) -> str:
    try:
        raw = read_bytes(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    return _decoded(path, raw, columns)


def _decoded(path: Path, raw: bytes, columns: Columns) -> str:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        told = f"{path}:{line}: byte {error.start} is not UTF-8; expected a UTF-8 file"
        raise InputError(told) from None
    if not text.strip():
        raise InputError(f"{path}: the file is empty; expected {FORMATS} with {columns.words}")
    return text


def _rows(path: Path, text: str, columns: Columns) -> Rows:
    delimiter = _delimiter(text, columns)
    if delimiter is None and _is_json(text):
        return _array_rows(path, text) if text.lstrip().startswith("[") else _json_rows(text)
    if delimiter is None:  # the complaint about the header shall show its names
        delimiter = max(",", "\t", ";", key=text.lstrip().split("\n", 1)[0].count)
    return _table_rows(path, text, columns, delimiter)


def _is_json(text: str) -> bool:
    return text.lstrip().startswith(("{", "[", '"'))


def _begins_with_json(text: str) -> bool:
    """Whether a JSON object or array stands at the beginning, and not a question in brackets."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        value, _ = json.JSONDecoder().raw_decode(text.lstrip())
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) or (value != [] and isinstance(value[0], dict))


def _delimiter(text: str, columns: Columns) -> str | None:
    """What separates the fields of a table: that by which its first line holds the needed names
    (they may well be quoted); None if it holds them by none."""
    first = text.lstrip().split("\n", 1)[0]
    for delimiter in (",", "\t", ";"):
        try:
            header = next(csv.reader([first], delimiter=delimiter), [])
        except csv.Error:  # a first line too long for a header
            continue
        if set(columns.needed) <= {name.strip() for name in header}:
            return delimiter
    return None


def _has_header(path: str, text: str) -> bool:
    """Whether a file is a table by its name, or by a first line of single words with marks between
    them: what its columns are called is then asked, and nothing is answered line by line."""
    names = re.split("[,;\t]", text.lstrip().split("\n", 1)[0])
    words = [re.fullmatch(r"\s*\"?\w{1,40}(?: \w{1,40}){0,2}\"?\s*", name) for name in names]
    kinds = (".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson")
    return path.lower().endswith(kinds) or (len(names) > 1 and all(words))


def _json_rows(text: str) -> Rows:
    for number, content in enumerate(text.split("\n"), 1):
        if content.strip():
            try:
                yield str(number), _object(json.loads(content))
            except (ValueError, RecursionError) as error:
                yield str(number), _not_json(error, "one JSON object a line")


def _array_rows(path: Path, text: str) -> Rows:
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        told = _not_json(error, "a JSON array of objects")
        raise InputError(f"{path}:{getattr(error, 'lineno', 1)}: {told}") from None
    for number, row in enumerate(rows, 1):
        yield f"item {number}", _object(row)


def _not_json(error: Exception, wanted: str) -> InputError:
    # A number of thousands of digits is a ValueError without a message of JSON's.
    reason = getattr(error, "msg", "a value is too large")
    return InputError(f"not JSON ({reason}); expected {wanted}")


def _object(row: object) -> dict | InputError:
    if isinstance(row, dict):
        return row
    return InputError(f"a JSON {type(row).__name__}; expected a JSON object")


def _table_rows(path: Path, text: str, columns: Columns, delimiter: str) -> Rows:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    start, header = 1, None
    while True:
        try:
            values = next(reader, None)
        except csv.Error as error:
            reason = f"not CSV ({error}); expected values separated by {delimiter!r}"
            # Of the file, not of the row: where the next row begins cannot be known.
            raise InputError(f"{path}:{start}: {reason}") from None
        if values is None:
            return
        line, start = str(start), reader.line_num + 1
        if not values:
            continue
        if header is None:
            header = _header(f"{path}:{line}", values, columns)
        elif len(values) != len(header):
            told = f"{len(values)} fields; expected {len(header)}, as in the header"
            yield line, InputError(told)
        elif delimiter == "\t" and any(set(value) & set("\r\n") for value in values):
            told = "a quoted field of several lines; expected a row a line (a stray quote?)"
            yield line, InputError(told)
        else:
            yield line, dict(zip(header, values))


def _header(place: str, values: list[str], columns: Columns) -> list[str]:
    header = [name.strip() for name in values]
    if not set(columns.needed) <= set(header):
        found = ", ".join(header)[:120]
        wanted = f"{columns.words}, or their names as --question-field and so on"
        raise InputError(f"{place}: columns {found!r}; expected {wanted}")
    for name in (*columns.needed, "id", "qid"):
        if header.count(name) > 1:
            raise InputError(f"{place}: column {name!r} stands twice; expected it once")
    return header


def _text(row: dict, name: str, or_number: bool = False) -> str:
    """A field's text without the blanks around it; a label may be a number in JSON."""
    if name not in row:
        found = ", ".join(map(str, row))[:120]
        others = f"the fields are {found!r}; --question-field and so on name others"
        raise InputError(f"field {name!r} is missing; expected a text ({others})")
    value = row[name]
    if or_number and isinstance(value, (int, float)):
        value = str(value)
    if not isinstance(value, str):
        raise InputError(f"field {name!r} is {type(value).__name__}; expected a text")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"field {name!r} holds half a surrogate pair; expected valid Unicode")
    return value.strip()


def _id(row: dict) -> str | None:
    """What a row calls itself; None if it does not."""
    name = next((name for name in ("id", "qid") if name in row), None)
    if name is None:
        return None
    wanted = "expected a text or a whole number"
    if isinstance(row[name], bool) or not isinstance(row[name], (str, int)):
        raise InputError(f"field {name!r} is {type(row[name]).__name__}; {wanted}")
    if not str(row[name]).strip():
        raise InputError(f"field {name!r} is empty; {wanted}")
    return _text({name: str(row[name])}, name)
