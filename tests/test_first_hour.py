"""What a user does in the first hour: own files, questions, stopping and going on, mistakes."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from ases.segmentation import RULES, Rule
from tests.test_commands import ROOT, SMALL, command, fail, losses_and_predictions, process, succeed


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def problem(i, answer=None):
    return {
        "problem": f"Tom has {i} pens and finds 2. How many?",
        "solution": answer or f"He has {i} + 2 = {i + 2}.\n#### {i + 2}",
    }


NAMES = ["--question-field", "problem", "--answer-field", "solution"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a file of the user's own, with other names of fields and two bad rows."""
    folder = tmp_path_factory.mktemp("own")
    content = [problem(i) for i in range(40)] + [problem(50, "no number"), {"problem": "x"}]
    (folder / "mine.json").write_text(json.dumps(content, indent=1))
    arguments = ["--data", "mine.json", *NAMES, "--max-steps", 12, "--out-dir", "run", *SMALL]
    assert "mine.json:item 41: field 'solution': no final number" in fail(
        "train.py", *arguments, cwd=folder
    )
    assert not (folder / "run").exists()
    done = succeed("train.py", *arguments, "--skip-bad-rows", cwd=folder)
    assert "2 bad rows skipped, #### N read as 'The answer is N.' in 40 rows" in done.stdout
    return folder


def test_own_data_is_checked(trained):
    done = command("segment.py", "--data", trained / "mine.json", *NAMES, "--check")
    assert done.returncode == 2 and done.stdout.count("\n") == 2
    assert "item 41: field 'solution'" in done.stdout and "item 42: field" in done.stdout
    assert re.fullmatch(r"error: 2 of 42 rows of .* cannot be used\n", done.stderr)
    assert "question-field" in fail("segment.py", "--data", trained / "mine.json")
    assert "--check needs --data" in fail("segment.py", "--check")


def test_a_run_finds_its_data_from_anywhere_and_where_it_has_moved(trained, tmp_path):
    run = trained / "run"
    succeed("evaluate.py", "--run", run, "--out-dir", tmp_path / "a", cwd=tmp_path)
    (trained / "mine.json").rename(trained / "moved.json")
    try:
        assert "say where with --data" in fail("evaluate.py", "--run", run, "--overwrite")
        moved = ["--data", trained / "moved.json"]
        succeed("evaluate.py", "--run", run, *moved, "--out-dir", tmp_path / "b")
        names = ("predictions.jsonl", "results.json")
        for path in names[:1]:
            assert (tmp_path / "a" / path).read_text() == (tmp_path / "b" / path).read_text()
        assert "say where with --data" in fail("train.py", "--resume", run)
        succeed("train.py", "--resume", run, *moved)
    finally:
        (trained / "moved.json").rename(trained / "mine.json")
        succeed("train.py", "--resume", run, "--data", trained / "mine.json")


def test_questions_from_a_file_and_from_standard_input(trained, tmp_path):
    (tmp_path / "q.txt").write_text("Tom has 3 pens and finds 2. How many?\n\nWhat?\n")
    done = succeed("evaluate.py", "--run", trained / "run", "--questions", tmp_path / "q.txt")
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["id"] for line in lines] == ["line-1", "line-3"]
    assert all("correct" not in line and line["segments"] for line in lines)
    with open(tmp_path / "q.txt") as file:
        piped = process("evaluate.py", "--run", trained / "run", "--questions", "-", stdin=file)
    assert piped.stdout == done.stdout
    out = ["--out-dir", tmp_path / "out"]
    succeed("evaluate.py", "--run", trained / "run", "--questions", tmp_path / "q.txt", *out)
    assert rows(tmp_path / "out" / "predictions.jsonl") == lines
    (tmp_path / "empty.txt").write_text(" \n")
    assert "is empty" in fail(
        f"evaluate.py --run {trained / 'run'} --questions {tmp_path / 'empty.txt'}"
    )


def test_strange_and_long_questions_are_told(trained):
    done = succeed("evaluate.py", "--run", trained / "run", "--question", "汤姆有 3 pens?")
    assert "note: 50.0% of the characters never occurred in training: 汤 姆 有" in done.stderr or (
        "of the characters never occurred in training: 汤 姆 有" in done.stderr
    )
    done = succeed("evaluate.py", "--run", trained / "run", "--question", "Tom has pens. " * 400)
    assert "note: 1 question longer than 1024 tokens; the middle is left out" in done.stderr


def test_wrong_chains_and_a_page(trained, tmp_path):
    page = tmp_path / "new" / "page.html"
    arguments = ["--run", trained / "run", "--split", "train", "--show-wrong", 2, "--report", page]
    done = succeed("evaluate.py", *arguments)
    assert done.stdout.count("  reference:") == 2 and done.stdout.count("\n> ") >= 1
    assert page.read_text(encoding="utf-8").count('"question": ') >= 30
    assert "which exists" in fail("evaluate.py", *arguments)
    page = tmp_path / "pieces.html"
    succeed("segment.py", "--test-problems", 5, "--split", "test", "--report", page)
    assert page.read_text(encoding="utf-8").count('"question": ') == 5


def test_a_budget_grows(trained, tmp_path):
    out = ["--out-dir", tmp_path / "run"]
    own = ["--data", trained / "mine.json", *NAMES, "--skip-bad-rows"]
    options = ["--mode", "dsm", "--segmentation", "entropy", *own]
    succeed("train.py", *options, "--max-steps", 20, *out, *SMALL)
    scorer = (tmp_path / "run" / "scorer.best.pt").read_bytes()
    assert "expected at least its 20" in fail(
        f"train.py --resume {tmp_path / 'run'} --max-steps 10"
    )
    assert "no such limit" in fail("train.py", "--resume", tmp_path / "run", "--max-minutes", 1)
    done = succeed("train.py", "--resume", tmp_path / "run", "--max-steps", 40)
    assert "esm continues after 10 steps" in done.stderr
    log = rows(tmp_path / "run" / "metrics.jsonl")
    for name in ("esm", "asm"):
        assert max(row["step"] for row in log if row["model"] == name) == 20
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["training"]["asm"]["steps"] == 20
    assert (tmp_path / "run" / "scorer.best.pt").read_bytes() == scorer
    done = succeed("train.py", "--resume", tmp_path / "run")
    assert "asm was trained already, for 20 steps" in done.stderr


def start(*arguments):
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path):
    run = tmp_path / "run"
    process = start("--max-steps", 100000, "--out-dir", run, *SMALL)
    while process.poll() is None and not (run / "metrics.jsonl").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130 and "Traceback" not in told
    [step] = re.findall(
        rf"^stopped; usm is saved as of step (\d+)\. Continue with: python train.py --resume {run}$",
        told,
        re.MULTILINE,
    )
    process = start("--resume", run)
    while f"usm continues after {step} steps" not in process.stderr.readline():
        assert process.poll() is None
    process.terminate()
    _, told = process.communicate()
    assert process.returncode == 143 and "Continue with" in told


@pytest.mark.slow
def test_an_early_ctrl_c_leaves_no_traceback(tmp_path):
    for delay in (0.1, 0.2, 0.4, 0.8, 1.2):
        process = start("--max-steps", 100000, "--out-dir", tmp_path / "run", "--overwrite", *SMALL)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate()
        assert "Traceback" not in told, (delay, told)


def test_a_refused_command_leaves_no_folder(trained, tmp_path):
    run = trained / "run"
    fail("evaluate.py", "--run", run, "--data", "none.csv", "--out-dir", tmp_path / "a" / "b")
    fail("evaluate.py", "--run", run, "--split", "longer", "--out-dir", tmp_path / "a" / "b")
    fail("segment.py", "--data", "none.csv", "--out", tmp_path / "a" / "out.jsonl")
    entropy = ["--segmentation", "entropy", "--scorer", run]
    fail("train.py", "--out-dir", tmp_path / "a", *entropy, *SMALL)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "script, arguments",
    [
        ("evaluate.py", ["--question", "q", "--split", "all"]),
        ("evaluate.py", ["--questions", "-", "--report", "x.html"]),
        ("evaluate.py", ["--answer-field", "solution"]),
        ("train.py", ["--label-field", "gold"]),
        ("segment.py", ["--skip-bad-rows"]),
        ("segment.py", ["--check", "--show", "1", "--data", "x"]),
    ],
)
def test_flags_without_effect_are_refused(script, arguments, trained):
    run = ["--run", trained / "run"] if script == "evaluate.py" else []
    assert "has no effect" in fail(script, *run, *arguments)


def test_a_scorer_of_another_task_is_told(trained, tmp_path):
    succeed("train.py", "--mode", "direct", "--max-steps", 4, "--out-dir", tmp_path / "s", *SMALL)
    entropy = ["--segmentation", "entropy", "--scorer", tmp_path / "s", "--split", "test"]
    done = succeed("segment.py", "--task", "pet", "--test-problems", 5, "--show", 1, *entropy)
    assert "was trained for --task mwp; its entropies say little of pet chains" in done.stderr
    assert re.search(r"\(H \d\.\d\d", done.stdout) and "AS is H above" in done.stdout


def test_other_numbers_of_threads_aside_a_resumed_run_is_the_same(trained):
    before = losses_and_predictions(trained / "run")
    succeed("train.py", "--resume", trained / "run")
    assert losses_and_predictions(trained / "run") == before


def test_another_file_is_scored_as_a_whole(trained, tmp_path):
    """By default all of it; and what a run was trained on is told."""
    content = [problem(i) for i in (*range(10), 90, 91)]
    (tmp_path / "other.json").write_text(json.dumps(content))
    arguments = ["--run", trained / "run", "--data", tmp_path / "other.json"]
    done = succeed("evaluate.py", *arguments)
    assert re.search(r"^n +12$", done.stdout, re.MULTILINE)
    told = re.search(r"note: (\d+) of 12 questions were in this run's training data", done.stdout)
    assert 5 <= int(told[1]) <= 10
    again = succeed("evaluate.py", *arguments, "--split", "test")
    assert re.search(r"^n +1$", again.stdout, re.MULTILINE)
    own = succeed("evaluate.py", "--run", trained / "run", "--out-dir", tmp_path / "own")
    assert "training data" not in own.stdout and re.search(r"^n +4$", own.stdout, re.MULTILINE)


def test_labels_from_file_to_score(tmp_path):
    content = [problem(i) | {"gold": i + 2 if i % 5 else i} for i in range(40)]
    (tmp_path / "mine.json").write_text(json.dumps(content))
    arguments = ["--data", "mine.json", *NAMES, "--label-field", "gold"]
    run = ["--max-steps", 4, "--out-dir", "run", *SMALL]
    done = succeed("train.py", *arguments, *run, cwd=tmp_path)
    assert "8 rows whose chain states another number than its label kept" in done.stdout
    assert all("label" in row for row in rows(tmp_path / "run" / "predictions.jsonl"))
    done = succeed("segment.py", *arguments, "--skip-bad-rows", "--show", 0, cwd=tmp_path)
    assert "data: 32 all" in done.stderr and "than its label left out" in done.stderr
    check = command("segment.py", *arguments, "--check", cwd=tmp_path)
    assert check.returncode == 2 and check.stdout.count("another number than 'gold'") == 8


def test_chains_without_numbers(tmp_path):
    content = [
        {"question": f"第{i}份：肝内低密度灶。", "answer": f"肝囊肿{i}，考虑良性。"}
        for i in range(40)
    ]
    (tmp_path / "text.json").write_text(json.dumps(content))
    arguments = ["--task", "text", "--data", "text.json", "--max-steps", 4, *SMALL]
    succeed("train.py", *arguments, "--out-dir", "run", cwd=tmp_path)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["accuracy"] is None and results["rouge_tokens"] == "characters"
    assert "needs --data" in fail("train.py", "--task", "text", cwd=tmp_path)


def test_a_rule_of_ones_own(monkeypatch, tmp_path):
    """One function and one line: flags, messages and pages know it."""

    def by_length(pieces, entropies, settings):
        return ["AS" if len(piece) > 16 else "ES" for piece in pieces]

    monkeypatch.setitem(RULES, "length", Rule(by_length, "Long pieces are AS."))
    arguments = ["--segmentation", "length", "--split", "test", "--test-problems", 9]
    done = succeed("segment.py", *arguments, "--show", 1, "--report", tmp_path / "page.html")
    assert "Long pieces are AS." in done.stderr and "positions" not in done.stderr
    page = (tmp_path / "page.html").read_text()
    assert "Long pieces are AS." in page and "positions" not in page
    assert "length" in succeed("segment.py", "--help").stdout
    succeed("train.py", *arguments[:2], "--max-steps", 4, "--out-dir", tmp_path / "run", *SMALL)


def test_one_chain_is_cut():
    done = succeed("segment.py", "He has 3, so 4. The answer is 4.")
    assert done.stdout == "  ES He has 3,\n  AS so 4.\n  ES The answer is 4.\n\n"


def test_flags_of_other_programs_and_flags_given_twice():
    told = fail("train.py", "--epochs", 3, "--lr", 0.1, "--batch-size", 8)
    for flag in ("--max-steps", "--learning-rate", "--batch-tokens"):
        assert f"did you mean {flag}" in told
    assert "--seed is given twice" in fail("train.py", "--seed", 1, "--seed", 2)


def test_wrong_chains_of_a_run_are_there_already(trained, monkeypatch):
    monkeypatch.setattr("ases.run.folder.load_run", None)  # no model is needed
    done = succeed("evaluate.py", "--run", trained / "run", "--show-wrong", 1)
    assert " wrong" in done.stdout and done.stdout.count("  reference:") == 1


def test_default_folders_tell_commands_apart(tmp_path):
    names = set()
    for flags in ([], ["--seed", 1], ["--encoder", "bidirectional"]):
        done = succeed("train.py", "--max-steps", 1, *flags, *SMALL, cwd=tmp_path)
        names.add(re.search(r"run folder: (\S+)", done.stdout)[1])
    assert len(names) == 3 and all(name.startswith("runs/mwp-usm-") for name in names)
