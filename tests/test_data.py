"""Readers, validation and splits."""

import io
import json

import pytest

from ases.answers import normalise_answer
from ases.data import Example, InputError, split_examples
from ases.run.files import Columns, read_examples, read_questions, scan_examples

QA = {"question": "1 + 1?", "answer": "The answer is 2."}


def write(tmp_path, text, name="data.txt"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def lines(*rows):
    return "\n".join(json.dumps(r, ensure_ascii=False) for r in rows) + "\n"


def test_gsm8k_answers_are_brought_to_one_form():
    answer = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nShe sold 48+24 = <<48+24=72>>72 clips.\n#### 72"
    assert (
        normalise_answer(answer)
        == "Natalia sold 48/2 = 24 clips in May.\nShe sold 48+24 = 72 clips.\nThe answer is 72."
    )


@pytest.mark.parametrize(
    "answer, expected",
    [
        ("a\n#### 1,080", "a\nThe answer is 1,080."),
        ("#### -3", "The answer is -3."),
        ("So 7 left. \nThe answer is 7. \n\nI hope this helps!", "So 7 left. \nThe answer is 7."),
        ('The answer is "48".', "The answer is 48."),
        ("The answer is 51", "The answer is 51."),
        ("The answer is : \n\n17", "The answer is 17."),
        ("the answer is 4? No, the answer is $5.50.", "the answer is 4? No, The answer is 5.50."),
        ("The answer is -$5.", "The answer is -5."),
        ("The answer is −５.", "The answer is -5."),
        ("x\n#### -$72%", "x\nThe answer is -72."),
        ("The answer is 1 1/2.", None),
        ("The answer is 1,00,000.", None),
        ("The answer is 1/0.", None),
        ("Nothing stated: 5", None),
        ("The answer is unknown.", None),
    ],
)
def test_stated_answers(answer, expected):
    assert normalise_answer(answer) == expected


def test_json_lines_with_and_without_ids(tmp_path):
    data = read_examples(write(tmp_path, lines(QA | {"id": "a"}, QA | {"qid": 7}, QA)), "mwp")
    assert data.examples == [
        Example("a", *QA.values()),
        Example("7", *QA.values()),
        Example("line-3", *QA.values()),
    ]


def test_chinese_csv_with_bom_quotes_and_newlines(tmp_path):
    text = '\ufeffquestion,answer,qid\n"  肺部，\n结节 ","1、结节，考虑良性。",5\n肝脏,正常。,6\n'
    data = read_examples(write(tmp_path, text), "pet")
    assert data.examples == [
        Example("5", "肺部，\n结节", "1、结节，考虑良性。"),
        Example("6", "肝脏", "正常。"),
    ]


def test_rows_with_nothing_in_them_are_counted(tmp_path):
    data = read_examples(
        write(
            tmp_path, lines(QA, {"question": "  ", "answer": "x"}, {"question": "x", "answer": ""})
        ),
        "pet",
    )
    assert len(data.examples) == 1 and len(data.empty) == 2


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        (lines(QA) + "{oops\n", ":2: not JSON"),
        ('["a"]\n', ":item 1: a JSON str"),
        ('[{"question": "q",\n oops}]', ":2: not JSON"),
        (
            '[{"question": "q", "answer": "#### 1"},\n\n {"question": "p"}]',
            ":item 2: field 'answer' is",
        ),
        ("[]", "no usable row"),
        ("frage\tantwort\na\tb\n", ":1: columns 'frage, antwort'"),
        (lines(QA, {"question": "q"}), ":2: field 'answer' is missing"),
        (lines(QA | {"answer": 3}), ":1: field 'answer' is int"),
        (lines(QA | {"id": None}), ":1: field 'id' is NoneType"),
        ('{"id": ' + "1" * 5000 + "}\n", ":1: not JSON"),
        (
            '{"id": "\\ud800", "question": "q", "answer": "#### 1"}',
            "field 'id' holds half a surrogate pair",
        ),
        ("x" * 200_000, ":1: columns"),
        (lines(QA | {"id": 1}, QA | {"id": "1"}), ":2: field 'id': '1' stands already in"),
        (lines(QA, QA | {"answer": "no number"}), ":2: field 'answer': no final number"),
        ('{"question": "\\ud800", "answer": "#### 1"}', "half a surrogate pair"),
        ("frage,antwort\na,b\n", ":1: columns 'frage, antwort'"),
        ('question,answer\n"a\nb",c,d\n', ":2: 3 fields; expected 2"),
        ("question,answer,answer\na,b,c\n", "column 'answer' stands twice"),
        ('question,answer\n"a,b\n', ":2: not CSV"),
        (b"question,answer\nx,\xff\n", ":2: byte 18 is not UTF-8"),
        (lines({"question": " ", "answer": " "}), "no usable row"),
    ],
)
def test_bad_files_are_told_in_one_line(tmp_path, text, message):
    with pytest.raises(InputError, match=".") as error:
        read_examples(write(tmp_path, text), "mwp")
    assert (
        message in str(error.value)
        and "data.txt" in str(error.value)
        and "\n" not in str(error.value)
    )


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([QA, QA | {"question": "2 + 0?"}], indent=2),
        json.dumps([QA, QA | {"question": "2 + 0?"}]),
        "question;answer;note\n1 + 1?;The answer is 2.;x\n2 + 0?;The answer is 2.;y\n",
        "question\tanswer\n1 + 1?\tThe answer is 2.\n2 + 0?\tThe answer is 2.\n",
    ],
)
def test_arrays_and_other_separators_are_recognised(tmp_path, text):
    examples = read_examples(write(tmp_path, text), "mwp").examples
    assert [(e.question, e.answer) for e in examples] == [
        ("1 + 1?", "The answer is 2."),
        ("2 + 0?", "The answer is 2."),
    ]


def test_other_names_of_columns(tmp_path):
    columns = Columns("problem", "solution")
    path = write(tmp_path, lines({"problem": "1 + 1?", "solution": "so 2\n#### 2", "answer": "2"}))
    data = read_examples(path, "mwp", columns)
    assert data.examples[0].answer == "so 2\nThe answer is 2." and data.restated == 1
    with pytest.raises(InputError, match="--question-field"):
        read_examples(path, "mwp")


def test_bad_rows_are_listed_or_skipped(tmp_path):
    path = write(
        tmp_path, lines(QA, QA | {"answer": "none"}, {"question": "", "answer": "x"}) + "{\n"
    )
    data = scan_examples(path, "mwp")
    assert [p.split(": ")[0] for p in data.problems] == [f"{path}:2", f"{path}:4"]
    assert [p.split(": ")[0] for p in data.empty] == [f"{path}:3"]
    assert len(read_examples(path, "mwp", skip_bad_rows=True).examples) == 1


@pytest.mark.parametrize(
    "text",
    [
        "What, then?\n\n  How many; really?\n",
        '{"question": "What, then?"}\n{"question": "How many; really?"}\n',
        'question,x\n"What, then?",1\nHow many; really?,2\n',
    ],
)
def test_questions_alone(tmp_path, text, monkeypatch):
    expected = ["What, then?", "How many; really?"]
    assert [e.question for e in read_questions(str(write(tmp_path, text)))] == expected
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert [e.question for e in read_questions("-")] == expected


def test_a_missing_file_and_a_folder(tmp_path):
    for path in (tmp_path / "none.csv", tmp_path):
        with pytest.raises(InputError, match="cannot be read"):
            read_examples(path, "mwp")


def test_splits_are_by_question_and_seeded():
    examples = [Example(str(i), f"q{i // 2}", "a") for i in range(200)]  # every question twice
    splits = split_examples(examples, seed=3)
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [160, 20, 20]
    questions = [{e.question for e in part} for part in splits.values()]
    assert (
        not questions[0] & questions[1]
        and not questions[0] & questions[2]
        and not questions[1] & questions[2]
    )
    assert sorted(e.id for part in splits.values() for e in part) == sorted(e.id for e in examples)
    assert split_examples(examples, seed=3) == splits != split_examples(examples, seed=4)


def test_the_smallest_file_fills_every_split():
    splits = split_examples([Example(str(i), f"q{i}", "a") for i in range(3)], seed=0)
    assert [len(part) for part in splits.values()] == [1, 1, 1]
    with pytest.raises(InputError, match="2 different questions"):
        split_examples([Example("0", "a", "a"), Example("1", "b", "b")], seed=0)
