"""From files to examples, and back to files.

A file is recognised by its content, not by its name:

* JSON Lines, one object a line, with ``question`` and ``answer``, and ``id`` or ``qid`` if there is
one
  (GSM8K's own files are of this form);
* CSV with a header naming the same columns (cPET-11K's file is of this form, with a BOM).

Word-problem answers are brought to one form: ``<<3*4=12>>`` notes go, and the answer ends with
``The answer is N.``, whether it came as ``#### N`` or as a looser "the answer is".
Everything else in a text stays as it is, but for white space at both its ends.
"""

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ases.answers import normalise_answer
from ases.data import Example, InputError


@dataclass
class Dataset:
    """The examples of one file, and how many rows were left out because nothing stood in a needed
    field."""

    examples: list[Example]
    name: str
    empty_rows: int = 0


def read_examples(path: str | Path, task: str) -> Dataset:
    """Read a JSON Lines or CSV file of questions and answers.

    Raises:
        InputError: missing, empty or unreadable file; a line that is no JSON object; a missing or
            non-text field; unknown columns; an id that occurs twice; for ``mwp``, an answer without
            a final number.
    """
    path = Path(path)
    text = _read_text(path)
    looks_like_json = text.lstrip().startswith(("{", "[", '"')) and not _has_csv_header(text)
    rows = _json_rows(path, text) if looks_like_json else _csv_rows(path, text)

    data = Dataset([], path.name)
    first_line: dict[str, int] = {}
    for line, row in rows:
        example = _example(path, line, row, task)
        if example.id in first_line:
            raise InputError(
                f"{path}:{line}: field 'id': {example.id!r} stands already in line "
                f"{first_line[example.id]}; "
                "expected unique ids"
            )
        first_line[example.id] = line
        if example.question and example.answer:
            data.examples.append(example)
        else:
            data.empty_rows += 1
    if not data.examples:
        raise InputError(
            f"{path}: no usable row ({data.empty_rows} without question or answer); "
            "expected at least one"
        )
    return data


def _example(path: Path, line: int, row: dict, task: str) -> Example:
    question, answer = (
        _text_field(path, line, row, name).strip() for name in ("question", "answer")
    )
    identifier = _id_field(path, line, row)
    if task == "mwp" and question and answer:
        stated = normalise_answer(answer)
        if stated is None:
            raise InputError(
                f"{path}:{line}: field 'answer': no final number that can be read; "
                "expected it to end with 'The answer is N.' or '#### N'"
            )
        answer = stated
    return Example(identifier, question, answer)


def write_text(path: Path, text: str) -> None:
    """Write a whole file or nothing: temporary file, then rename."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def make_parent(path: Path) -> None:
    """Make the folder that ``path`` goes into.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{path.parent}: cannot be made ({error.strerror}); "
            "expected a folder that can be written"
        ) from None


# --- reading, row by row -------------------------------------------------------------------------


def _read_text(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); expected a JSON Lines or CSV file"
        ) from None
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{path}:{line}: byte {error.start} is not UTF-8; expected a UTF-8 file"
        ) from None
    if not text.strip():
        raise InputError(
            f"{path}: the file is empty; expected JSON Lines or CSV with 'question' and 'answer'"
        )
    return text


def _has_csv_header(text: str) -> bool:
    """Whether the first line is a CSV header with the needed columns (it may well be quoted)."""
    try:
        header = next(csv.reader([text.lstrip().split("\n", 1)[0]]), [])
    except csv.Error:  # a first line too long for a header
        return False
    return {"question", "answer"} <= {name.strip() for name in header}


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict]]:
    for line, content in enumerate(text.split("\n"), 1):
        if not content.strip():
            continue
        try:
            row = json.loads(content)
        except (
            ValueError,
            RecursionError,
        ) as error:  # a number of thousands of digits is a ValueError, too
            reason = getattr(error, "msg", "a value is too large")
            raise InputError(
                f"{path}:{line}: not JSON ({reason}); expected one JSON object a line"
            ) from None
        if not isinstance(row, dict):
            raise InputError(
                f"{path}:{line}: a JSON {type(row).__name__}; expected one JSON object a line"
            )
        yield line, row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict]]:
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start, header = 1, None
    while True:
        try:
            values = next(reader, None)
        except csv.Error as error:
            raise InputError(
                f"{path}:{start}: not CSV ({error}); expected comma-separated values"
            ) from None
        if values is None:
            return
        line, start = start, reader.line_num + 1
        if not values:
            continue
        if header is None:
            header = _header(path, line, values)
        elif len(values) != len(header):
            raise InputError(
                f"{path}:{line}: {len(values)} fields; expected {len(header)}, as in the header"
            )
        else:
            yield line, dict(zip(header, values))


def _header(path: Path, line: int, values: list[str]) -> list[str]:
    header = [name.strip() for name in values]
    if not {"question", "answer"} <= set(header):
        found = ", ".join(header)[:120]
        raise InputError(
            f"{path}:{line}: columns {found!r}; "
            "expected 'question' and 'answer', and 'id' or 'qid' if there is one"
        )
    for name in ("question", "answer", "id", "qid"):
        if header.count(name) > 1:
            raise InputError(f"{path}:{line}: column {name!r} stands twice; expected it once")
    return header


def _text_field(path: Path, line: int, row: dict, name: str) -> str:
    if name not in row:
        raise InputError(f"{path}:{line}: field {name!r} is missing; expected a text")
    value = row[name]
    if not isinstance(value, str):
        raise InputError(
            f"{path}:{line}: field {name!r} is {type(value).__name__}; expected a text"
        )
    return _valid_unicode(path, line, name, value)


def _valid_unicode(path: Path, line: int, name: str, value: str) -> str:
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(
            f"{path}:{line}: field {name!r} holds half a surrogate pair; expected valid Unicode"
        )
    return value


def _id_field(path: Path, line: int, row: dict) -> str:
    for name in ("id", "qid"):
        if name in row:
            value = row[name]
            if isinstance(value, bool) or not isinstance(value, (str, int)):
                kind = type(value).__name__
                raise InputError(
                    f"{path}:{line}: field {name!r} is {kind}; expected a text or a whole number"
                )
            if not str(value).strip():
                raise InputError(
                    f"{path}:{line}: field {name!r} is empty; expected a text or a whole number"
                )
            return _valid_unicode(path, line, name, str(value).strip())
    return f"line-{line}"
