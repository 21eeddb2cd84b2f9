"""Readers, validation and splits."""

import csv
import io
import json
import math
import re

import pytest

from ases.data import Example, InputError, split_examples
from ases.run.folder import data_digest
from ases.run.read import Columns, data_notes, read_examples, read_questions, scan_examples
from ases.settings import Settings

QA = {"question": "1 + 1?", "answer": "The answer is 2."}
NO_NUMBER = QA | {"answer": "none"}
HALF = '{"question": "q", "answer": "#### 1", "%s": "\\ud800"}'


def write(tmp_path, text, name="data.txt"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines(*rows):
    return "\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n"


def test_json_lines_with_and_without_ids(tmp_path):
    data = read_examples(write(tmp_path, lines(QA | {"id": "a"}, QA | {"qid": 7}, QA)), "mwp")
    assert data.examples == [Example(id_, *QA.values()) for id_ in ("a", "7", "line-3")]


def test_chinese_csv_with_bom_quotes_and_newlines(tmp_path):
    text = '\ufeffquestion,answer,qid\n"  肺部，\n结节 ","1、结节，考虑良性。",5\n肝脏,正常。,6\n'
    data = read_examples(write(tmp_path, text), "pet")
    first = Example("5", "肺部，\n结节", "1、结节，考虑良性。")
    assert data.examples == [first, Example("6", "肝脏", "正常。")]


BAD_FILES = [
    ("", "is empty"),
    (" \n\n", "is empty"),
    (lines(QA) + "{oops\n", ":2: not JSON"),
    ('["a"]\n', ":item 1: a JSON str"),
    ('[{"question": "q",\n oops}]', ":2: not JSON"),
    (f'[{json.dumps(QA)},\n\n {{"question": "p"}}]', ":item 2: field 'answer' is"),
    ("[]", "no usable row"),
    ("frage\tantwort\na\tb\n", ":1: columns 'frage, antwort'"),
    (lines(QA, {"question": "q"}), ":2: field 'answer' is missing"),
    (lines(QA | {"answer": 3}), ":1: field 'answer' is int"),
    (lines(QA | {"id": [1]}), ":1: field 'id' is list"),
    ('{"id": ' + "1" * 5000 + "}\n", ":1: not JSON"),
    (HALF % "id", "field 'id' contains a lone surrogate"),
    ("x" * 200_000, ":1: columns"),
    (lines(QA | {"id": 1}, QA | {"id": "1", "question": "2?"}), ":2: field 'id': '1' is the id of"),
    (json.dumps({"n": 1, "data": [QA, QA]}, indent=2), "the rows lie in field 'data'"),
    (b"\x1f\x8b\x08\x00", "compressed; unpack it first"),
    (b"PK\x03\x04\x14", "compressed; unpack it first"),
    (lines(QA, QA | {"answer": "no number"}), ":2: field 'answer': no readable final number"),
    (HALF % "question", "field 'question' contains a lone surrogate"),
    ("frage,antwort\na,b\n", ":1: columns 'frage, antwort'"),
    ('question,answer\n"a\nb",c,d\n', ":2: 3 fields; expected 2"),
    ("question,answer,answer\na,b,c\n", "column 'answer' appears twice"),
    ('question,answer\n"a,b\n', ":2: not CSV"),
    (b"question,answer\nx,\xff\n", ":2: byte 18 is not UTF-8"),
    (lines({"question": " ", "answer": " "}), "no usable row"),
]


@pytest.mark.parametrize("text, message", BAD_FILES)
def test_bad_files_are_told_in_one_line(tmp_path, text, message):
    with pytest.raises(InputError) as error:
        read_examples(write(tmp_path, text), "mwp")
    told = str(error.value)
    assert message in told and "data.txt" in told and "\n" not in told


def test_arrays_and_other_separators_are_recognised(tmp_path):
    two = [QA, QA | {"question": "2 + 0?"}]
    texts = [json.dumps(two, indent=2), json.dumps(two)]
    texts += ["question;answer;note\n1 + 1?;The answer is 2.;x\n2 + 0?;The answer is 2.;y\n"]
    texts += ["question\tanswer\n1 + 1?\tThe answer is 2.\n2 + 0?\tThe answer is 2.\n"]
    for text in texts:
        examples = read_examples(write(tmp_path, text), "mwp").examples
        assert [{"question": e.question, "answer": e.answer} for e in examples] == two, text


#: An id as the file has it → the id of the example.
IDS = [(None, "line-1"), ("", "line-1"), (math.nan, "line-1"), (3.0, "3"), (1.5, "1.5"), ("a", "a")]


@pytest.mark.parametrize("given, id_", IDS)
def test_an_id_is_optional(tmp_path, given, id_):
    data = read_examples(write(tmp_path, lines(QA | {"id": given})), "mwp")
    assert [e.id for e in data.examples] == [id_]


def test_several_chains_of_one_question_may_share_its_id(tmp_path):
    rows = [QA | {"id": id_} for id_ in ("a", "a", "a-2", "a", "b", "line-6")] + [QA]
    data = read_examples(write(tmp_path, lines(*rows)), "mwp")
    assert [e.id for e in data.examples] == ["a", "a-2", "a-2-2", "a-3", "b", "line-6", "line-7"]


#: A label as a JSON file has it → the number.
NUMBERS = [(51.0, "51"), (-7.0, "-7"), (1e-05, "0.00001"), (1e20, "1" + 20 * "0"), (0.1, "0.1")]
NUMBERS += [("0.50", "0.5"), ("1,234.00", "1234"), ("1/3", "1/3"), (7, "7")]


@pytest.mark.parametrize("given, label", NUMBERS)
def test_a_label_is_a_number(tmp_path, given, label):
    row = QA | {"answer": f"The answer is {label}.", "label": given}
    data = read_examples(write(tmp_path, lines(row)), "mwp", Columns(label="label"))
    assert [e.label for e in data.examples] == [label]


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NULL", "N/A", ""])
def test_a_missing_value_written_as_a_word(tmp_path, word):
    data = read_examples(write(tmp_path, f"question,answer\na?,{word}\nb?,It is. So\n"), "text")
    assert [e.question for e in data.examples] == ["b?"] and len(data.empty) == 1
    in_json = read_examples(write(tmp_path, lines({"question": "a?", "answer": "None"})), "text")
    assert in_json.examples[0].answer == "None"


def test_null_is_as_empty(tmp_path):
    data = read_examples(write(tmp_path, lines(QA | {"answer": None}, QA)), "mwp")
    assert "1 row without question or answer left out" in data.described()


def test_chains_that_are_too_long_are_bad_rows(tmp_path):
    rows = [QA | {"answer": f"{'so ' * n}The answer is 2."} for n in (3, 4, 5, 9)]  # and six
    path = write(tmp_path, lines(*rows))
    with pytest.raises(InputError, match=r":3: .* about 11 tokens; expected at most 10 \(1 more\)"):
        read_examples(path, "mwp", longest=10)
    assert len(read_examples(path, "mwp", skip_bad_rows=True, longest=10).examples) == 2


HINTS = [
    (lines({"query": "1?"}), False),
    ('{"question": "1?", "answer": }', False),
    (lines(NO_NUMBER), True),
]
HINTS += [
    (lines(QA | {"answer": [{"role": "user"}]}), False),
    ("<html>\n", False),
    (lines(QA, NO_NUMBER), False),
]


@pytest.mark.parametrize("text, hinted", HINTS)
def test_the_hint_fits_the_cause(tmp_path, text, hinted):
    with pytest.raises(InputError) as error:
        read_examples(write(tmp_path, text), "mwp")
    assert ("--task text" in str(error.value)) == hinted


class Bytes:
    """A tokenizer of bytes."""

    def encode(self, text):
        return list(text.encode())


def test_notes_before_training():
    examples = [Example(str(i), "q" * (8 + i), "one" if i < 2 else "one, two") for i in range(20)]
    usm, direct = Settings(max_question=16), Settings(mode="direct", max_question=16)
    told = "note: 2 of 20 chains are one piece; usm and dsm then learn what direct learns"
    long = "note: 11 of 20 training questions are longer than 16 tokens; the middle is left out"
    assert data_notes(examples, examples, usm, Bytes()) == [told, long]
    assert data_notes(examples[1:], examples[:9], usm, Bytes()) == []
    assert data_notes(examples, [], direct) == []
    assert data_notes(examples, examples, direct) == []  # letters make fewer tokens than bytes


def test_other_names_of_columns(tmp_path):
    columns = Columns("problem", "solution")
    path = write(tmp_path, lines({"problem": "1 + 1?", "solution": "so 2\n#### 2", "answer": "2"}))
    data = read_examples(path, "mwp", columns)
    assert data.examples[0].answer == "so 2\nThe answer is 2." and data.restated == 1
    with pytest.raises(InputError, match="--question-field"):
        read_examples(path, "mwp")


def test_bad_rows_are_listed_or_skipped(tmp_path):
    empty = {"question": "  ", "answer": "x"}, {"question": "x", "answer": ""}
    path = write(tmp_path, lines(QA, NO_NUMBER, *empty) + "{\n")
    data, place = scan_examples(path, "mwp"), lambda problem: problem.split(": ")[0]
    assert list(map(place, data.problems)) == [f"{path}:2", f"{path}:5"]
    assert list(map(place, data.empty)) == [f"{path}:3", f"{path}:4"]
    assert len(read_examples(path, "mwp", skip_bad_rows=True).examples) == 1
    with pytest.raises(InputError, match=r":2: .*\(1 more\).*segment.py --check.*--skip-bad-rows"):
        read_examples(path, "mwp")


def questions_in(path, column=None):
    return [example.question for example in read_questions(str(path), column)]


ALONE = ["What, then?\n\n  How many; really?\n"]
ALONE += ['{"question": "What, then?"}\n{"question": "How many; really?"}\n']
ALONE += ['question,x\n"What, then?",1\nHow many; really?,2\n']


@pytest.mark.parametrize("text", ALONE)
def test_questions_alone(tmp_path, text, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    for source in (write(tmp_path, text), "-"):
        assert questions_in(source) == ["What, then?", "How many; really?"]


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


LABELLED = [
    {"question": "1 + 1?", "answer": "so 2. The answer is 2.", "gold": 2},
    {"question": "1 + 2?", "answer": "so 4. The answer is 4. Really.", "gold": "$3.00"},
    {"question": "1 + 3?", "answer": "#### 4", "gold": "it is so.\n#### 4"},
]


def test_true_answers_in_a_column_of_their_own(tmp_path):
    path, columns = write(tmp_path, lines(*LABELLED)), Columns(label="gold")
    data = read_examples(path, "mwp", columns)
    chains = "so 2. The answer is 2.", "so 4. The answer is 4.", "The answer is 4."
    assert [(e.answer, e.label) for e in data.examples] == list(zip(chains, ("2", "3", "4")))
    assert "1 row whose chain and label state different numbers kept" in data.described()
    assert "text after the answer dropped in 1 row" in data.described()
    filtered = read_examples(path, "mwp", columns, skip_bad_rows=True)
    assert [e.question for e in filtered.examples] == ["1 + 1?", "1 + 3?"]
    assert "different numbers left out" in filtered.described(skipped=True)
    assert all(e.label is None for e in read_examples(path, "mwp").examples)


BAD_LABELS = [("many", "'gold': no readable final number"), (True, "no readable final")]
BAD_LABELS += [([3], "is list"), (" ", "no usable")]
BAD_LABELS += [(text, "'gold': more than a number") for text in ("7. 8", "7\n8")]


@pytest.mark.parametrize("gold, message", BAD_LABELS)
def test_labels_that_cannot_be_read(tmp_path, gold, message):
    path = write(tmp_path, lines(LABELLED[0] | {"gold": gold}))
    with pytest.raises(InputError, match=message):
        read_examples(path, "mwp", Columns(label="gold"))
    with pytest.raises(InputError, match="--label-field cannot be combined with --task pet"):
        read_examples(path, "pet", Columns(label="gold"))


OTHER_COLUMNS = [
    ("q.csv", "id,text\n1,How many?\n", None),
    ("q.txt", "id;text\n1;How many?\n", None),
    ("q.txt", "Question Text,Gold Answer\nHow many?,1\n", None),
    ("q.TAB", "How many?\n", None),
    ("q.txt", "How many, then?\n", "query"),
    ("q.csv", "How many?\n", None),
]


@pytest.mark.parametrize("name, text, column", OTHER_COLUMNS)
def test_a_table_of_other_columns_is_refused(tmp_path, name, text, column):
    with pytest.raises(InputError, match="columns ") as error:
        questions_in(write(tmp_path, text, name), column)
    columns = re.sub("[,;] *", ", ", text.split("\n")[0])
    assert columns in str(error.value).replace(";", ", ")


def test_json_without_the_column_is_refused(tmp_path):
    path = write(tmp_path, '{"text": "How many?"}\n', "q.jsonl")
    with pytest.raises(InputError, match="'question' is missing.*fields are 'text'"):
        questions_in(path)


def test_only_a_newline_ends_a_question(tmp_path):
    path = write(tmp_path, "Tom\u2028has\x0c3\x85pens?\r\nAnd\x1cAnn?\n")
    assert questions_in(path) == ["Tom\u2028has\x0c3\x85pens?", "And\x1cAnn?"]


def test_a_stray_quote_glues_no_rows_together(tmp_path):
    text = 'question\tanswer\na?\t"#### 1\nb?\t#### 2"\nc?\t#### 3\n'
    data = scan_examples(write(tmp_path, text), "mwp")
    assert [e.question for e in data.examples] == ["c?"]
    assert "data.txt:2: a quoted field of several lines" in data.problems[0]


def test_reading_leaves_the_csv_module_alone(tmp_path):
    before, long = csv.field_size_limit(1000), "x" * 5000
    try:
        data = read_examples(write(tmp_path, f"question,answer\n{long},#### 1\n"), "mwp")
        assert data.examples[0].question == long and csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


def test_a_digest_sees_every_text_of_the_data():
    def digest(id_="a", question="q", answer="r", split="train"):
        return data_digest({split: [Example(id_, question, answer)], "test": []})

    others = [digest(id_="b"), digest(question="p"), digest(answer="s"), digest(split="validation")]
    assert len({digest(), *others}) == 5 and digest() == digest()


def test_a_field_that_every_row_lacks(tmp_path):
    path = write(
        tmp_path, lines({"query": "1?", "response": "2"}, {"query": "2?", "response": "2"})
    )
    told = "the fields are 'query, response'; name others with --question-field and --answer-field"
    with pytest.raises(InputError) as error:
        read_examples(path, "mwp")
    assert told in str(error.value) and "--check" not in str(error.value)


def test_chats_are_to_be_converted(tmp_path):
    chat = {"messages": [{"role": "user", "content": "1?"}, {"role": "assistant", "content": "1."}]}
    with pytest.raises(InputError, match=r"a chat; .*jq -c '\{question: .messages\[-2\].content"):
        read_examples(write(tmp_path, lines(chat, chat)), "text")
