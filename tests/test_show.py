"""Tables, chains and notes as they are printed."""

import re

import pytest

from ases.data import Example
from ases.recipe import Chain, score_chains
from ases.run import progress
from ases.run.evaluation import prediction
from ases.run.scores import same_problems, score_help, table
from ases.run.show import first_difference, is_wrong, show_segment, show_wrong

RESULTS = {"n": 500, "accuracy": 0.5, "bleu": 47.12, "problems": "a"}
RESULTS["intervals"] = {"accuracy": (0.456, 0.544), "bleu": (45.0, 49.0)}
RESULTS["stop_reasons"] = {"end": 1.0, "no-end": 0.0, "rounds": 0.0, "length": 0.0, "stuck": 0.0}


def test_a_table_has_a_column_for_each_run_and_explained_rows():
    lines = table({"a": RESULTS, "runs/b": RESULTS | {"n": 7}}).splitlines()
    assert lines[0].split() == ["a", "runs/b"] and lines[1].split() == ["n", "500", "7"]
    assert lines[2].count("0.500 [0.456, 0.544]") == 2
    assert len(set(map(len, lines))) == 1
    rows = re.findall(r"^(stop: \S+|\S+)", "\n".join(lines[1:]), re.MULTILINE)
    assert rows == ["n", "accuracy", "bleu", "stop: end"]
    assert all(f"\n  {row} " in score_help() for row in rows)
    # ROUGE's usual tokens are not named.
    for kind in ("words", "characters"):
        assert ("rouge_tokens" in table({"a": RESULTS | {"rouge_tokens": kind}})) == (
            kind != "words"
        )


def test_runs_on_different_problems_are_distinguished():
    assert same_problems({"x": RESULTS, "z": RESULTS}) == []
    [note] = same_problems({"x": RESULTS, "y": RESULTS | {"problems": "b"}, "z": RESULTS})
    assert "not scored on the same problems: x, z; y;" in note


def line(segments, reference, task="mwp"):
    roles, texts = map(list, zip(*segments))
    chain = Chain(roles, [[]] * len(roles), "end", "".join(texts), texts)
    return prediction(task, Example("x", "q?", reference), chain)


def test_a_label_is_what_counts():
    example = Example("x", "q?", "so 5. The answer is 5.", label="6.0")
    for number, right in ((5, False), (6, True)):
        chain = Chain(["ES"], [[]], "end", f"The answer is {number}.", ["…"])
        written = prediction("mwp", example, chain)
        assert written["correct"] is right and written["label"] == "6.0"
        assert score_chains("mwp", [example], [chain])["accuracy"] == right
        assert "the true answer is 6.0" in show_wrong(written)


GOLD = "He has 3 * 4 = 12 pens, so he buys 2. The answer is 14."
#: Segments → the first one that differs from GOLD, and whether the chain is wrong.
DIFFERENCES = [
    ([("ES", GOLD)], None, False),
    ([("ES", "He owns 3 * 4 = 12 pens,"), ("AS", " buys 2. The answer is 14.")], 0, False),
    ([("ES", "He has 3 * 4 = 12"), ("AS", " buys 3."), ("ES", " The answer is 15.")], 1, True),
    ([("ES", "He has 3 * 4 = 12"), ("AS", " pens")], 1, True),
    ([("ES", GOLD), ("AS", " And 5 more.")], 1, False),
    ([("ES", ""), ("AS", "")], 1, True),
    ([("CHAIN", "He has 3 * 4 = 12 pens, so he buys 5. The answer is 17.")], 1, True),
]


@pytest.mark.parametrize("segments, first, wrong", DIFFERENCES)
def test_the_first_difference(segments, first, wrong):
    written = line(segments, GOLD)
    assert first_difference(written) == first and is_wrong(written) is wrong


def test_reports_are_compared_piece_by_piece():
    written = line([("ES", "肺结节，"), ("AS", "考虑良性。")], "肺结节，考虑恶性。", "pet")
    assert first_difference(written) == 1 and is_wrong(written)


SHOWN = """\
[x] q?
  written:
  ES He has 3 * 4 = 12 pens,
> AS so he buys 5.
  reference:
   He has 3 * 4 = 12 pens,
   so he buys 2.
   The answer is 14.
  stopped by end"""


def test_wrong_chains_stand_above_their_references():
    segments = [("ES", "He has 3 * 4 = 12 pens,"), ("AS", " so he buys 5.")]
    assert show_wrong(line(segments, GOLD)) == SHOWN


def test_newlines_in_a_segment_keep_the_indentation():
    assert show_segment("ES", "a\n b") == "  ES a\n     b"
    assert show_segment("AS", " ") == "  AS (empty)"
    coloured = show_segment("AS", "a\nb", colour=True)
    assert [row.count("\033[") for row in coloured.splitlines()] == [2, 2]


def test_plain_lines_every_half_minute(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    meter = progress.Meter("usm", 1.0, 0.2)  # resumed at a fifth
    for share in (0.3, 0.4, 0.5, 0.6):
        now[0] += 20
        meter.update(share, f"step {share * 100:.0f}")
    meter.update(0.7, "at last", now=True)
    meter.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "usm  40%, 02:00 left, step 40"  # 40 s for a fifth, three of them to go
    assert [row.split(", ")[-1] for row in lines] == ["step 40", "step 60", "at last"]
