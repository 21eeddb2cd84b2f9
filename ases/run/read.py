"""Read examples, questions, JSON and logs.

A data file is JSON Lines, a JSON array of objects, or a table with a header and commas, semicolons
or tabs; content decides, not the name. Its fields are ``question``, ``answer`` (or the user's names
for them), optionally ``id`` or ``qid``, and one for the true answer. Answers with numbers get one
form: ``<<3*4=12>>`` notes are removed, and they end with ``The answer is N.``
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
from typing import TYPE_CHECKING, Any

from ases.answers import Stated, find_answer, plain_number
from ases.data import Example, InputError, check_regular, refuse_if, rough_length
from ases.run.write import counted
from ases.segmentation import split_pieces
from ases.settings import Settings
from ases.tasks import TASKS

if TYPE_CHECKING:  # slow to import
    from ases.tokenizer import Tokenizer

FORMATS = "JSON Lines, a JSON array, or a table with a header"
#: What programs write into a table's empty cells.
MISSING = {"nan", "NaN", "None", "NULL", "null", "N/A", "n/a", "#N/A", "<NA>", "NA"}
#: How gzip, zip, bzip2, xz and zstd files begin.
PACKED = b"\x1f\x8b", b"PK\x03\x04", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd"

#: Position ("7", "item 7"), and the row or its InputError.
Rows = Iterator[tuple[str, Any]]


@dataclass(frozen=True)
class Columns:
    """Field names of a data file."""

    question: str = "question"
    answer: str | None = "answer"  # None: questions only
    label: str | None = None  # of the true answer

    @property
    def needed(self) -> list[str]:
        """Required fields."""
        return [name for name in (self.question, self.answer, self.label) if name is not None]

    @property
    def words(self) -> str:
        return " and ".join(map(repr, self.needed))


@dataclass
class Dataset:
    """The examples of a file, and what was skipped or rewritten."""

    name: str
    examples: list[Example] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # a line per unusable row
    empty: list[str] = field(default_factory=list)  # a line per row with an empty field
    contradicted: list[str] = field(default_factory=list)  # a line per contradicted label
    unnumbered: int = 0  # chains without a readable number
    misnamed: int = 0  # rows that lack a field
    restated: int = 0  # answers whose #### was rewritten
    dropped: int = 0  # answers with text after their statement

    def described(self, skipped: bool = False) -> str:
        """The file's name, and what was left out or rewritten."""
        others = "whose chain and label state different numbers"
        notes = (
            (len(self.empty), "row", "{} without question or answer left out"),
            (len(self.problems), "bad row", "{} skipped"),
            (self.restated, "row", "#### N read as 'The answer is N.' in {}"),
            (self.dropped, "row", "text after the answer dropped in {}"),
            (len(self.contradicted), "row", f"{{}} {others} {'left out' if skipped else 'kept'}"),
        )
        parts = [text.format(counted(n, thing)) for n, thing, text in notes if n]
        return ", ".join([self.name, *parts])


def read_examples(
    path: str | Path,
    task: str,
    columns: Columns = Columns(),
    skip_bad_rows: bool = False,
    longest: float = math.inf,
) -> Dataset:
    """Read questions and answers. ``skip_bad_rows`` also skips answers that contradict a label."""
    data = scan_examples(path, task, columns, skip_bad_rows, longest)
    bad = len(data.problems)
    if bad and bad == data.misnamed and not data.examples:
        raise InputError(data.problems[0])
    if bad and not skip_bad_rows:
        more = f" ({bad - 1} more)" if bad > 1 else ""
        message = "fix these rows (segment.py --check lists them), or pass --skip-bad-rows"
        if not data.examples and data.unnumbered:
            message += "; for chains without numbers, use --task text"
        raise InputError(f"{data.problems[0]}{more}; {message}")
    message = f"no usable row ({len(data.empty)} without question or answer, {bad} bad)"
    refuse_if(not data.examples, path, message)
    return data


def scan_examples(
    path: str | Path,
    task: str,
    columns: Columns = Columns(),
    skip_contradicted: bool = False,
    longest: float = math.inf,
    text: str = "",
) -> Dataset:
    """Read a whole file, or its ``text``, collecting bad rows in ``problems``. ``longest``: most
    tokens of a chain, by ``rough_length``."""
    if columns.label is not None and not TASKS[task].numbers:
        raise InputError(f"--label-field cannot be combined with --task {task}")
    path = Path(path)
    text = text or _decoded(path, read_bytes(path, FORMATS), columns)
    delimiter = _delimiter(text, columns)
    is_json = delimiter is None and text.lstrip().startswith(("{", "[", '"'))
    name = _list_inside(text, columns) if is_json else ""
    refuse_if(name, path, f"the rows lie in field {name!r}; save that list, without the rest")
    rows = _json_rows(text) if is_json else _table_rows(path, text, columns, delimiter)
    scan = _Scan(path, task, columns, skip_contradicted, longest, Dataset(path.name))
    for line, row in rows:
        try:
            scan.add(line, row)
        except InputError as error:
            scan.data.problems.append(f"{path}:{line}: {error}")
            scan.data.misnamed += isinstance(error, MissingField)
    return scan.data


@dataclass
class _Scan:
    """Rows to examples, one after the other."""

    path: Path
    task: str
    columns: Columns
    skip_contradicted: bool
    longest: float
    data: Dataset
    seen: dict[str, tuple[str, str]] = field(default_factory=dict)  # id → first line and question
    copies: Counter = field(default_factory=Counter)  # ids of examples → rows that have it

    def add(self, line: str, row: Any) -> None:
        """Raises InputError: a bad row."""
        if isinstance(row, InputError):
            raise row
        if not isinstance(row, dict):
            raise InputError(f"a JSON {type(row).__name__}; expected a JSON object")
        columns, data = self.columns, self.data
        kinds = {columns.label: (str, int, float, bool)}
        texts = {name: _text(row, name, kinds.get(name, (str,))) for name in columns.needed}
        ids = [_text(row, name, (str, int, float)) for name in ("id", "qid") if name in row]
        if empty := [name for name in columns.needed if not texts[name]]:
            message = f"field {empty[0]!r} is empty; expected a text"
            data.empty.append(f"{self.path}:{line}: {message}")
            return
        question, answer, label = texts[columns.question], texts.get(columns.answer, ""), None
        given_id = next(filter(None, ids), "")
        if given_id:  # chains of one question may share it
            first, other = self.seen.setdefault(given_id, (line, question))
            message = (
                f"{given_id!r} is the id of {self.path}:{first}, too, which has another question"
            )
            refuse_if(question != other, "field 'id'", message)
        if TASKS[self.task].numbers:
            stated = self._stated(answer)
            if columns.label is not None:
                true = self._label(texts[columns.label])
                label = plain_number(true)
                if true != stated.number:
                    message = f"states another number than {columns.label!r}: {label!r}"
                    where = f"{self.path}:{line}: field {columns.answer!r}"
                    data.contradicted.append(f"{where} {message}")
                    if self.skip_contradicted:
                        return
            data.restated += "####" in answer
            data.dropped += stated.dropped
            answer = stated.text
        length = rough_length(answer) if len(answer) > self.longest else 0
        message = f"a chain of about {length:,} tokens; expected at most {self.longest:,}"
        refuse_if(length > self.longest, f"field {columns.answer!r}", message)
        id_ = self._unique(given_id or f"{'line-' * line.isdigit()}{line}".replace(" ", "-"))
        data.examples.append(Example(id_, question, answer, label=label))

    def _stated(self, answer: str) -> Stated:
        stated = find_answer(answer)
        self.data.unnumbered += stated is None
        message = "no readable final number; end it with 'The answer is N.' or '#### N'"
        refuse_if(stated is None, f"field {self.columns.answer!r}", message)
        return stated

    def _label(self, text: str) -> Fraction:
        stated, place = find_answer(f"The answer is {text}"), f"field {self.columns.label!r}"
        refuse_if(stated is None, place, "no readable final number")
        refuse_if(stated.dropped, place, "more than a number")
        return stated.number

    def _unique(self, id_: str) -> str:
        """The id, or "id-2", "id-3", … of later rows that share it."""
        unique = id_
        while unique in self.copies:
            self.copies[id_] += 1
            unique = f"{id_}-{self.copies[id_]}"
        self.copies[unique] = 1
        return unique


def data_notes(
    examples: Sequence[Example],
    training: Sequence[Example],
    settings: Settings,
    tokenizer: "Tokenizer | None" = None,
) -> list[str]:
    """What to know before training. Without a tokenizer, lengths of questions are rough."""
    notes, n, most = [], len(examples), settings.max_question
    whole = sum(len(split_pieces(e.answer)) == 1 for e in examples)
    if settings.mode != "direct" and 10 * whole >= n:
        alike = "usm and dsm then learn what direct learns"
        notes.append(f"note: {whole:,} of {n:,} chains are one piece; {alike}")
    length = rough_length if tokenizer is None else lambda text: len(tokenizer.encode(text))
    texts = [e.question for e in training if len(e.question.encode()) > most]  # of bytes or more
    if long := sum(length(text) > most for text in texts):
        questions = f"{long:,} of {len(training):,} training questions are longer than"
        notes.append(f"note: {questions} {most} tokens; the middle is left out")
    return notes


def read_questions(path: str, column: str | None = None) -> list[Example]:
    """A question a line; or a data file, if ``column`` is set or it looks like one. "-": stdin."""
    columns = Columns(column or "question", None)
    raw = sys.stdin.buffer.read() if path == "-" else read_bytes(Path(path), FORMATS)
    path = "standard input" if path == "-" else path
    text = _decoded(path, raw, columns)
    if column or _delimiter(text, columns) or _has_header(path, text):
        data = scan_examples(path, "text", columns, text=text)
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


PREDICTION = {"id": str, "question": str, "reference": str, "prediction": str, "segments": list}
LOG = {"model": str, "step": (int, float)}


def read_rows(path: Path, needed: dict[str, Any]) -> list[dict]:
    """Rows of a run's JSON Lines, less a torn last line. ``needed``: ``LOG`` or ``PREDICTION``."""
    text = read_bytes(path, "a run's file").decode("utf-8", "surrogateescape")
    lines, rows = [line for line in text.split("\n") if line], []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            if not all(isinstance(row[name], kind) for name, kind in needed.items()):
                raise ValueError
            rows.append(row)
        except (ValueError, KeyError, TypeError, RecursionError):
            message = f"not a line of this file: a JSON object with {', '.join(needed)}"
            refuse_if(number < len(lines), f"{path}:{number}", message)
    return rows


def read_curves(folder: Path) -> dict[str, dict[str, list]]:
    """{"usm": {"training": [(step, nats per token), …], "validation": …}} of a run's log."""
    curves: dict[str, dict[str, list]] = {}
    for row in read_rows(folder / "metrics.jsonl", LOG):
        losses = curves.setdefault(row["model"], {"training": [], "validation": []})
        for kind, name in (("training", "loss"), ("validation", "validation_loss")):
            if name in row:
                losses[kind].append((row["step"], row[name]))
    return curves


# --- reading, row by row -------------------------------------------------------------------------
def _decoded(path: str | Path, raw: bytes, columns: Columns) -> str:
    refuse_if(raw.startswith(PACKED), path, f"compressed; unpack it first, to get {FORMATS}")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        message = f"{path}:{line}: byte {error.start} is not UTF-8; expected a UTF-8 file"
        raise InputError(message) from None
    refuse_if(not text.strip(), path, f"the file is empty; expected {FORMATS} with {columns.words}")
    return text


def _delimiter(text: str, columns: Columns) -> str | None:
    """The delimiter by which the first line has all needed names, perhaps quoted; else None."""
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
    """Whether a file's name, or a first line of short names, marks it as a table, not questions."""
    names = re.split("[,;\t]", text.lstrip().split("\n", 1)[0])
    words = [re.fullmatch(r"\s*\"?\w{1,40}(?: \w{1,40}){0,2}\"?\s*", name) for name in names]
    json_begins = re.match(r'\s*(\[\s*)?\{\s*"', text)  # and no question in brackets
    kinds = (".csv", ".tsv", ".tab", ".json", ".jsonl", ".ndjson")
    return path.lower().endswith(kinds) or bool(json_begins) or (len(names) > 1 and all(words))


def _list_inside(text: str, columns: Columns) -> str:
    """The field of a lone JSON object that holds a list of rows, if any."""
    with suppress(ValueError, RecursionError, AttributeError, TypeError):
        for name, value in json.loads(text).items():
            if isinstance(value, list) and value and set(columns.needed) <= value[0].keys():
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
            message = f"not JSON ({getattr(error, 'msg', 'a value is too large')})"
            line = str(number + getattr(error, "lineno", 1) - 1)
            yield (
                line,
                InputError(f"{message}; expected one JSON object per line, or an array of them"),
            )
        else:
            for n, row in enumerate(value if array else [value], 1):
                yield f"item {n}" if array else str(number), row


def _table_rows(path: Path, text: str, columns: Columns, delimiter: str | None) -> Rows:
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
                header, place = [name.strip() for name in values], f"{path}:{line}"
                wanted = f"{columns.words}, or name them with --question-field and --answer-field"
                message = f"columns {', '.join(header)[:120]!r}; expected {wanted}"
                refuse_if(not set(columns.needed) <= set(header), place, message)
                for name in (*columns.needed, "id", "qid"):
                    message = f"column {name!r} appears twice; expected once"
                    refuse_if(header.count(name) > 1, place, message)
            elif len(values) != len(header):
                message = f"{len(values)} fields; expected {len(header)}, as in the header"
                yield line, InputError(message)
            elif delimiter == "\t" and any(set(value) & set("\r\n") for value in values):
                message = (
                    "a quoted field of several lines; expected one row per line (stray quote?)"
                )
                yield line, InputError(message)
            else:
                cells = ["" if value.strip() in MISSING else value for value in values]
                yield line, dict(zip(header, cells))
    except csv.Error as error:
        reason = f"not CSV ({error}); expected values separated by {delimiter!r}"
        # Fatal: where the next row begins is unknown.
        raise InputError(f"{path}:{start}: {reason}") from None
    finally:
        csv.field_size_limit(limit)


class MissingField(InputError):
    """A row has other fields."""


#: Turns chats into questions and answers; https://jqlang.org.
_FROM_CHATS = "jq -c '{{question: .{0}[-2].{1}, answer: .{0}[-1].{1}}}' FILE > data.jsonl"
_TEXTS_OF_CHATS = {"messages": "content", "conversations": "value"}


def _text(row: dict, name: str, kinds: tuple[type, ...]) -> str:
    """A field as stripped text; its type must be one of ``kinds``."""
    if name not in row:
        names = ", ".join(map(str, row))[:120]
        message = (
            f"field {name!r} is missing; expected a text (the fields are {names!r}; name others"
        )
        message += " with --question-field and --answer-field)"
        for chat in _TEXTS_OF_CHATS.keys() & row.keys():
            command = _FROM_CHATS.format(chat, _TEXTS_OF_CHATS[chat])
            message = f"a chat; convert the file first: {command}"
        raise MissingField(message)
    value = row[name]
    if value is None or value != value:  # null, or NaN
        return ""
    if type(value) not in kinds:
        raise InputError(f"field {name!r} is {type(value).__name__}; expected a text")
    if isinstance(value, float) and math.isfinite(value):
        value = plain_number(Fraction(repr(value)))
    text = str(value).strip()
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise InputError(f"field {name!r} contains a lone surrogate; expected valid Unicode")
    return text
