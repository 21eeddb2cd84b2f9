"""Readers, validation and splits."""

import csv
import io
import json
import math
import re

import pytest

from ases.data import Example, InputError, split_examples
from ases.run.folder import data_digest
from ases.run.read import data_notes, read_examples, read_questions, scan_examples
from ases.settings import Settings

QA = {"question": "1 + 1?", "answer": "The answer is 2."}
NO_NUMBER = QA | {"answer": "none"}
TWO = [QA, QA | {"question": "2 + 0?"}]
SURROGATE = '{"question": "q", "answer": "#### 1", "%s": "\\ud800"}'
CHAT = [{"messages": [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "1."}]}]


def lines(*rows):
    return "\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n"


@pytest.fixture
def write(tmp_path):
    def write(content, name="data.txt"):
        """A file of bytes, a text, or rows as JSON Lines."""
        content = lines(*content) if isinstance(content, list) else content
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


@pytest.fixture
def read(write):
    """``read_examples`` of a file with the given content."""

    def read(content, task="mwp", **options):
        return read_examples(Settings(data=str(write(content)), task=task, **options))

    return read


FORMATS = [
    lines(*TWO),
    json.dumps(TWO, indent=2),
    json.dumps(TWO),
    "question;answer;note\n1 + 1?;The answer is 2.;x\n2 + 0?;The answer is 2.;y\n",
    "question\tanswer\n1 + 1?\tThe answer is 2.\n2 + 0?\tThe answer is 2.\n",
]


@pytest.mark.parametrize("text", FORMATS)
def test_formats_are_recognised(read, text):
    assert [{"question": e.question, "answer": e.answer} for e in read(text).examples] == TWO


def test_chinese_csv_with_bom_quotes_and_newlines(read):
    text = '\ufeffquestion,answer,qid\n"  肺部，\n结节 ","1、结节，考虑良性。",5\n肝脏,正常。,6\n'
    first = Example("5", "肺部，\n结节", "1、结节，考虑良性。")
    assert read(text, "pet").examples == [first, Example("6", "肝脏", "正常。")]


#: Fields of ids in a file → ids of the examples.
IDS = [
    ([{"id": "a"}, {"qid": 7}, {}], ["a", "7", "line-3"]),
    ([{"id": None}, {"id": ""}, {"id": math.nan}], ["line-1", "line-2", "line-3"]),
    ([{"id": 3.0}, {"id": 1.5}], ["3", "1.5"]),
    # Several chains of one question may share its id.
    ([{"id": i} for i in ("a", "a", "a-2", "a")], ["a", "a-2", "a-2-2", "a-3"]),
    ([{"id": "line-2"}, {}], ["line-2", "line-2-2"]),
]


@pytest.mark.parametrize("rows, ids", IDS)
def test_ids_are_optional_and_made_unique(read, rows, ids):
    assert [e.id for e in read([QA | row for row in rows]).examples] == ids


#: Content → what its line of error says.
BAD_FILES = [
    ("", "is empty"),
    (" \n\n", "is empty"),
    (lines(QA) + "{oops\n", ":2: not JSON"),
    ('["a"]\n', ":item 1: a JSON str"),
    ('[{"question": "q",\n oops}]', ":2: not JSON"),
    (f'[{json.dumps(QA)},\n\n {{"question": "p"}}]', ":item 2: field 'answer' is"),
    ("[]", "no usable row"),
    ([{"question": " ", "answer": " "}], "no usable row"),
    ([QA, {"question": "q"}], ":2: field 'answer' is missing"),
    ([QA | {"answer": 3}], ":1: field 'answer' is int"),
    ([QA | {"id": [1]}], ":1: field 'id' is list"),
    ('{"id": ' + "1" * 5000 + "}\n", ":1: not JSON"),
    (SURROGATE % "id", "field 'id' contains a lone surrogate"),
    (SURROGATE % "question", "field 'question' contains a lone surrogate"),
    ([QA | {"id": 1}, QA | {"id": "1", "question": "2?"}], ":2: field 'id': '1' is the id of"),
    (json.dumps({"n": 1, "data": [QA, QA]}, indent=2), "the rows lie in field 'data'"),
    (CHAT, "a chat; convert the file first: jq -c '{question: .messages[-2].content"),
    (b"\x1f\x8b\x08\x00", "compressed; unpack it first"),
    (b"PK\x03\x04\x14", "compressed; unpack it first"),
    ([QA, NO_NUMBER], ":2: field 'answer': no readable final number"),
    ([NO_NUMBER], ", or use --task text"),
    ("<html>\n", ":1: columns '<html>'"),
    ("x" * 200_000, ":1: columns"),
    ("frage,antwort\na,b\n", ":1: columns 'frage, antwort'"),
    ("frage\tantwort\na\tb\n", ":1: columns 'frage, antwort'"),
    ('question,answer\n"a\nb",c,d\n', ":2: 3 fields; expected 2"),
    ("question,answer,answer\na,b,c\n", "column 'answer' appears twice"),
    ('question,answer\n"a,b\n', ":2: not CSV"),
    # A stray quote glues no rows together; the other rows can be read.
    (
        'question\tanswer\na\t"b\nc\td"\ne\t#### 3\n',
        ":2: a quoted field of several lines (a stray quote?); fix these rows",
    ),
    (b"question,answer\nx,\xff\n", ":2: byte 18 is not UTF-8"),
]


@pytest.mark.parametrize("content, message", BAD_FILES)
def test_bad_files_are_described_in_one_line(read, content, message):
    with pytest.raises(InputError) as error:
        read(content)
    line = str(error.value)
    assert message in line and "data.txt" in line and "\n" not in line


def test_if_every_row_lacks_a_field_names_can_be_given(read):
    with pytest.raises(InputError) as error:
        read([{"query": "1?", "response": "2"}, {"query": "2?", "response": "2"}])
    hint = "the fields are 'query, response'; name others with --question-field, --answer-field or --label-field"
    assert hint in str(error.value) and "--check" not in str(error.value)
    rows = [{"problem": "1 + 1?", "solution": "so 2\n#### 2", "answer": "2"}]
    data = read(rows, question_field="problem", answer_field="solution")
    assert data.examples[0].answer == "so 2\nThe answer is 2."
    assert "1 row with '#### N' read as 'The answer is N.'" in data.described()


#: A label as a JSON file has it → the number.
NUMBERS = [(51.0, "51"), (-7.0, "-7"), (1e-05, "0.00001"), (1e20, "1" + 20 * "0"), (0.1, "0.1")]
NUMBERS += [("0.50", "0.5"), ("1,234.00", "1234"), ("1/3", "1/3"), (7, "7")]


@pytest.mark.parametrize("given, label", NUMBERS)
def test_a_label_is_a_number(read, given, label):
    row = QA | {"answer": f"The answer is {label}.", "label": given}
    assert [e.label for e in read([row], label_field="label").examples] == [label]


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NULL", "N/A", ""])
def test_words_for_a_missing_value_are_empty_cells_of_a_table(read, word):
    data = read(f"question,answer\na?,{word}\nb?,It is. So\n", "text")
    assert [e.question for e in data.examples] == ["b?"] and len(data.empty) == 1
    assert read([QA | {"answer": "None"}], "text").examples[0].answer == "None"


def test_chains_that_are_too_long_are_bad_rows(read):
    rows = [QA | {"answer": f"{'so ' * n}The answer is 2."} for n in (9, 10, 11, 15)]  # and six
    with pytest.raises(InputError, match=r":3: .* about 17 tokens; expected at most 16 \(1 more\)"):
        read(rows, max_chain=16)
    assert len(read(rows, skip_bad_rows=True, max_chain=16).examples) == 2


def test_a_quoting_mistake_is_not_one_bad_row(read):
    with pytest.raises(InputError, match=":3: not CSV"):
        read('question,answer\nq,#### 1\n"a "b" c",#### 1\nr,#### 1\n', skip_bad_rows=True)


def test_bad_rows_are_listed_or_skipped(read, write):
    empty = (
        {"question": "  ", "answer": "x"},
        {"question": "x", "answer": ""},
        QA | {"answer": None},
    )
    text = lines(QA, NO_NUMBER, *empty) + "{\n"
    data = scan_examples(Settings(data=str(path := write(text))))
    assert [line.split(": ")[0] for line in data.problems] == [f"{path}:2", f"{path}:6"]
    assert [line.split(": ")[0] for line in data.empty] == [f"{path}:{n}" for n in (3, 4, 5)]
    assert "3 rows left out without question or answer" in data.described()
    assert len(read(text, skip_bad_rows=True).examples) == 1
    with pytest.raises(InputError, match=r":2: .*\(1 more\).*segment.py --check.*--skip-bad-rows"):
        read(text)


def test_notes_before_training():
    examples = [Example(str(i), "q " * (8 + i), "one" if i < 2 else "one, two") for i in range(20)]
    usm, direct = Settings(max_question=16), Settings(mode="direct", max_question=16)
    short = "note: 2 of 20 chains are one piece; usm and dsm then learn what direct learns"
    long = "note: 11 of 20 questions are longer than about 16 tokens; the middle is left out"
    assert data_notes(examples, usm) == [short, long]
    assert data_notes(examples, direct) == [long]
    assert data_notes(examples[1:9], usm) == [short.replace("2 of 20", "1 of 8")]


LABELLED = [
    {"question": "1 + 1?", "answer": "so 2. The answer is 2.", "gold": 2},
    {"question": "1 + 2?", "answer": "so 4. The answer is 4. Really.", "gold": "$3.00"},
    {"question": "1 + 3?", "answer": "#### 4", "gold": "it is so.\n#### 4"},
]


def test_labels_in_a_column_count_and_chains_may_contradict_them(read):
    data = read(LABELLED, label_field="gold")
    chains = "so 2. The answer is 2.", "so 4. The answer is 4.", "The answer is 4."
    assert [(e.answer, e.label) for e in data.examples] == list(zip(chains, ("2", "3", "4")))
    assert "1 row kept whose chain and label state different numbers" in data.described()
    assert "1 row with text after the answer dropped" in data.described()
    filtered = read(LABELLED, label_field="gold", skip_bad_rows=True)
    assert [e.question for e in filtered.examples] == ["1 + 1?", "1 + 3?"]
    assert "1 row left out whose chain and label state" in filtered.described()
    assert all(e.label is None for e in read(LABELLED).examples)


BAD_LABELS = [
    ("many", "mwp", "'gold': no readable final number"),
    (True, "mwp", "is bool"),
    ([3], "mwp", "is list"),
    (" ", "mwp", "no usable"),
    ("7. 8", "mwp", "'gold': more than a number"),
    ("7\n8", "mwp", "'gold': more than a number"),
    (2, "pet", "--label-field cannot be combined with --task pet"),
]


@pytest.mark.parametrize("gold, task, message", BAD_LABELS)
def test_labels_that_cannot_be_read_are_mistakes(read, gold, task, message):
    with pytest.raises(InputError, match=message):
        read([LABELLED[0] | {"gold": gold}], task, label_field="gold")


def test_reading_leaves_the_csv_module_alone(read):
    before, long = csv.field_size_limit(1000), "x" * 5000
    try:
        assert read(f"question,answer\n{long},#### 1\n").examples[0].question == long
        assert csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


# --- questions -----------------------------------------------------------------------------------
QUESTIONS = [
    ("What, then?\n\n  How many; really?\n", ["What, then?", "How many; really?"]),
    ('{"question": "What, then?"}\n{"question": "How many?"}\n', ["What, then?", "How many?"]),
    ('question,x\n"What, then?",1\nHow many?,2\n', ["What, then?", "How many?"]),
    # Only a newline ends a question.
    ("Tom\u2028has\x0c3\x85?\r\nAnd\x1cAnn?\n", ["Tom\u2028has\x0c3\x85?", "And\x1cAnn?"]),
]


@pytest.mark.parametrize("text, questions", QUESTIONS)
def test_questions_need_no_answers(write, text, questions, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    for source in (str(write(text)), "-"):
        assert [example.question for example in read_questions(source)] == questions


OTHER_COLUMNS = [
    ("q.csv", "id,text\n1,How many?\n", None, "columns 'id, text'"),
    ("q.txt", "id;text\n1;How many?\n", None, "columns 'id, text'"),
    ("q.txt", "Question Text,Gold Answer\n?,1\n", None, "columns 'Question Text, Gold Answer'"),
    ("q.TAB", "How many?\n", None, "columns 'How many?'"),
    ("q.csv", "How many?\n", None, "columns 'How many?'"),
    ("q.txt", "How many, then?\n", "query", "columns 'How many, then?'"),
    ("q.jsonl", [{"text": "How many?"}], None, "(the fields are 'text'"),
]


@pytest.mark.parametrize("name, content, column, message", OTHER_COLUMNS)
def test_questions_in_other_columns_are_not_guessed(write, name, content, column, message):
    with pytest.raises(InputError, match=re.escape(message)):
        read_questions(str(write(content, name)), column)


# --- splits --------------------------------------------------------------------------------------
def test_splits_are_by_question_and_seeded():
    examples = [Example(str(i), f"q{i // 2}", "a") for i in range(200)]
    splits = split_examples(examples, seed=3)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [160, 20, 20]
    questions = [{e.question for e in part} for part in splits.values()]
    assert len(set.union(*questions)) == sum(map(len, questions)) == 100  # no question in two parts
    assert sorted(e.id for part in splits.values() for e in part) == sorted(e.id for e in examples)
    assert split_examples(examples, seed=3) == splits != split_examples(examples, seed=4)


def test_the_smallest_file_fills_every_split():
    examples = [Example(str(i), f"q{i}", "a") for i in range(3)]
    assert [len(part) for part in split_examples(examples, seed=0).values()] == [1, 1, 1]
    with pytest.raises(InputError, match="2 different questions"):
        split_examples(examples[:2], seed=0)


def test_a_digest_depends_on_every_text_of_the_data():
    def digest(id_="a", question="q", answer="r", split="train"):
        return data_digest({split: [Example(id_, question, answer)], "test": []})

    others = [digest(id_="b"), digest(question="p"), digest(answer="s"), digest(split="validation")]
    assert len({digest(), *others}) == 5 and digest() == digest()
