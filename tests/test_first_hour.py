"""What a user does in the first hour: own files, questions, stopping and going on, mistakes."""

import json
import re
import shutil
import signal
import time
from unittest import mock

import pytest
from conftest import parsed, read, write_lines

from ases.data import InputError
from ases.run.folder import load_run
from ases.run.process import Interrupted, Signals
from ases.segmentation import RULES, Rule
from tests.test_commands import ROOT, SMALL, command, fail, start, succeed
from tests.test_hostile import QUICK

NAMES = "--question-field problem --answer-field solution"


def problem(i, answer=None):
    solution = answer or f"He has {i} + 2 = {i + 2}.\n#### {i + 2}"
    return {"problem": f"Tom has {i} pens and finds 2. How many?", "solution": solution}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a file of the user's own, with other names of fields and two bad rows."""
    folder = tmp_path_factory.mktemp("trained")
    content = [problem(i) for i in range(40)] + [problem(50, "no number"), {"problem": "x"}]
    (folder / "mine.json").write_text(json.dumps(content, indent=1))
    line = f"train.py --data mine.json {NAMES} --max-steps 12 --out-dir run"
    message = fail(line, *QUICK, cwd=folder)
    assert "mine.json:item 41: field 'solution': no readable final number" in message
    assert not (folder / "run").exists()
    done = succeed(line, "--skip-bad-rows", *QUICK, cwd=folder)
    notes = "2 rows skipped as unusable, 40 rows with '#### N' read as 'The answer is N.'"
    assert notes in done.stdout
    return folder


@pytest.fixture
def evaluate(trained):
    return f"evaluate.py --run {trained}/run"


# --- own data ------------------------------------------------------------------------------------
def test_own_data_is_checked(trained, tmp_path):
    done = command(f"segment.py --data {trained}/mine.json {NAMES} --check")
    assert done.returncode == 2 and done.stdout.count("\n") == 2
    assert "item 41: field 'solution'" in done.stdout and "item 42: field" in done.stdout
    assert re.fullmatch(r"error: 2 of 42 rows of .* cannot be used\n", done.stderr)
    (tmp_path / "header.csv").write_text("question,answer\n")
    assert "0 of 0 rows" in fail(f"segment.py --data {tmp_path}/header.csv --check")


def test_a_run_knows_its_data_from_anywhere_and_where_it_has_moved(trained, evaluate, tmp_path):
    run, data = shutil.copytree(trained / "run", tmp_path / "run"), f"--data {trained}/mine.json"
    files = [run / "metrics.jsonl", run / "predictions.jsonl"]
    before = [path.read_bytes() for path in files]
    succeed(f"{evaluate} --out-dir {tmp_path}/a", cwd=tmp_path)
    config = (run / "config.json").read_text()
    (run / "config.json").write_text(config.replace("/mine.json", "/not-there.json"))
    for line in (f"evaluate.py --run {run}", f"train.py --resume {run}"):
        assert "pass its new path with --data" in fail(line)
    succeed(f"evaluate.py --run {run} {data} --out-dir {tmp_path}/b")
    one, other = ((tmp_path / name / "predictions.jsonl").read_text() for name in "ab")
    assert one == other
    succeed(f"train.py --resume {run} {data}")
    assert [path.read_bytes() for path in files] == before


def test_another_file_is_scored_as_a_whole_and_training_data_is_reported(evaluate, tmp_path):
    """The run's number of test problems, 3, is not the other file's."""
    other = tmp_path / "other.json"
    other.write_text(json.dumps([problem(i) for i in (*range(28), *range(90, 102))]))
    flags = f"--data {other}", f"--data {other} --split test", f"--out-dir {tmp_path}/out"
    whole, part, test_split = (succeed(f"{evaluate} {given}") for given in flags)
    for done, n in ((whole, 40), (part, 4), (test_split, 3)):
        assert re.search(rf"^n +{n}$", done.stdout, re.MULTILINE)
    note = re.search(r"note: (\d+) of 40 questions were in this run's training data", whole.stderr)
    assert 20 <= int(note[1]) <= 28 and "training data" not in test_split.stderr
    fail(f"{evaluate} --split longer --out-dir {tmp_path}/none")
    assert not (tmp_path / "none").exists()


def test_labels_from_file_to_score(tmp_path):
    content = [problem(i) | {"gold": i + 2 if i % 5 else i} for i in range(40)]
    (tmp_path / "mine.json").write_text(json.dumps(content))
    data = f"--data mine.json {NAMES} --label-field gold"
    done = succeed(f"train.py {data} --max-steps 4 --out-dir run", *SMALL, cwd=tmp_path)
    assert "8 rows kept whose chain and label state different numbers" in done.stdout
    assert all("label" in row for row in read(tmp_path / "run" / "predictions.jsonl"))
    done = succeed(f"segment.py {data} --skip-bad-rows --show 0", cwd=tmp_path)
    assert "data: 32 all" in done.stderr and "8 rows left out whose chain" in done.stderr
    check = command(f"segment.py {data} --check", cwd=tmp_path)
    assert check.returncode == 2 and check.stdout.count("another number than 'gold'") == 8


@pytest.mark.parametrize("task", ["text", "pet"])
def test_chains_without_numbers(tmp_path, task):
    rows = [
        {"question": f"第{i}份：肝内低密度灶。", "answer": f"肝囊肿{i}，考虑良性。"}
        for i in range(40)
    ]
    data = write_lines(tmp_path / "data.jsonl", rows)
    line = f"train.py --task {task} --data {data} --max-steps 4 --out-dir {tmp_path}/run"
    succeed(line, *SMALL)
    results = read(tmp_path / "run" / "results.json")
    assert results["accuracy"] is None and results["bleu"] is not None
    assert results["rouge_tokens"] == "characters"


# --- questions and answers -----------------------------------------------------------------------
def test_questions_from_a_file_and_from_standard_input(evaluate, tmp_path, monkeypatch):
    questions = tmp_path / "q.txt"
    questions.write_text("Tom has 3 pens and finds 2. How many?\n\nWhat?\n")
    done = succeed(f"{evaluate} --questions {questions}")
    lines = parsed(done.stdout)
    assert [line["id"] for line in lines] == ["line-1", "line-3"]
    assert all("correct" not in line and line["segments"] for line in lines)
    with open(questions) as file:
        monkeypatch.setattr("sys.stdin", file)
        assert succeed(f"{evaluate} --questions -").stdout == done.stdout
    succeed(f"{evaluate} --questions {questions} --out-dir {tmp_path}/out")
    assert read(tmp_path / "out" / "predictions.jsonl") == lines
    questions.write_text(" \n")
    assert "is empty" in fail(f"{evaluate} --questions {questions}")


def test_strange_and_long_questions_are_reported(evaluate):
    strange = "note: never seen in training: 汤, 姆, 有"
    long = "note: 1 question longer than 1024 tokens; the middle is left out"
    for question, note in (("汤姆有 3 pens?", strange), ("Tom has pens. " * 400, long)):
        assert note in succeed(evaluate, "--question", question).stderr


def test_wrong_chains_and_a_page(evaluate, tmp_path):
    page, pieces = tmp_path / "new" / "page.html", tmp_path / "pieces.html"
    line = f"{evaluate} --split train --show-wrong 2 --report {page}"
    output = succeed(line).stdout
    assert output.count("  reference:") == 2 and output.count("\n> ") >= 1
    assert page.read_text(encoding="utf-8").count('"question": ') >= 30
    assert "which exists" in fail(line)
    succeed(f"segment.py --test-problems 5 --split test --report {pieces}")
    assert pieces.read_text(encoding="utf-8").count('"question": ') == 5


@pytest.mark.slow
def test_plain_questions_are_answered(tmp_path):
    """By the model of the default command."""
    succeed(f"train.py --out-dir {tmp_path}/run")
    questions = ROOT / "tests" / "questions.tsv"  # as a visitor asks them, with the numbers
    rows = [line.split("\t") for line in questions.read_text().splitlines()]
    chains = load_run(tmp_path / "run").write([question for question, _ in rows])
    right = sum(chain.number == int(number) for chain, (_, number) in zip(chains, rows))
    assert len(rows) == 20 and right >= 18


# --- segmentation --------------------------------------------------------------------------------
def test_one_chain_is_cut():
    output = succeed("segment.py 'He has 3, so 4. The answer is 4.'").stdout
    assert output == "  ES He has 3,\n  AS so 4.\n  ES The answer is 4.\n\n"


def test_flags_messages_and_pages_know_a_rule_of_ones_own(monkeypatch, tmp_path):
    def by_length(pieces, entropies, settings):
        return ["AS" if len(piece) > 16 else "ES" for piece in pieces]

    monkeypatch.setitem(RULES, "length", Rule(by_length, "Long pieces are AS."))
    page, rule = tmp_path / "page.html", "--segmentation length"
    line = f"segment.py {rule} --split test --test-problems 9 --show 1 --report {page}"
    for text in (succeed(line).stderr, page.read_text()):
        assert "Long pieces are AS." in text and "alternate" not in text
    assert "length" in succeed("segment.py --help").stdout
    succeed(f"train.py {rule} --max-steps 1 --out-dir {tmp_path}/run", *SMALL)


def test_a_scorer_of_another_task_is_reported(tmp_path):
    succeed(f"train.py --mode direct --max-steps 1 --out-dir {tmp_path}/s", *SMALL)
    entropy = f"--segmentation entropy --scorer {tmp_path}/s"
    done = succeed(f"segment.py --task pet --split test --test-problems 5 --show 1 {entropy}")
    assert "was trained for --task mwp; its entropies say little about pet chains" in done.stderr
    assert re.search(r"\(H \d\.\d\d", done.stdout) and "mean H: " in done.stdout


# --- folders, stopping and going on --------------------------------------------------------------
def test_default_folders_have_different_names(tmp_path):
    for flags in ("", "--seed 1", "--encoder bidirectional"):
        done = succeed(f"train.py --max-steps 1 {flags}", *SMALL, cwd=tmp_path)
        assert "run folder: runs/mwp-usm-" in done.stdout
    assert len(list(tmp_path.glob("runs/mwp-usm-*"))) == 3


def test_a_budget_grows(trained, tmp_path):
    run = tmp_path / "run"
    data = f"--data {trained}/mine.json {NAMES} --skip-bad-rows"
    dsm = f"--mode dsm --segmentation entropy --max-steps 20 --out-dir {run}"
    succeed(f"train.py {data} {dsm}", *SMALL)
    reports = lambda: read(run / "results.json")["training"]
    assert set(reports()) == {"scorer", "esm", "asm"}
    scorer = (run / "scorer.best.pt").read_bytes()
    assert "expected at least its 20" in fail(f"train.py --resume {run} --max-steps 10")
    assert "no such limit" in fail(f"train.py --resume {run} --max-minutes 1")
    done = succeed(f"train.py --resume {run} --max-steps 40")
    assert "esm continues after 10 steps" in done.stderr
    steps = [(row["model"], row["step"]) for row in read(run / "metrics.jsonl")]
    assert all(max(s for m, s in steps if m == name) == 20 for name in ("esm", "asm"))
    assert reports()["asm"]["steps"] == 20
    assert (run / "scorer.best.pt").read_bytes() == scorer
    assert "asm is trained already: 20 steps" in succeed(f"train.py --resume {run}").stderr


def test_results_of_older_weights_go(trained, tmp_path):
    """Whoever trains on, and stops before the chains are written, finds no results to believe."""
    run = shutil.copytree(trained / "run", tmp_path / "run")
    evaluate = f"evaluate.py --run {run} --data {trained}/mine.json"
    succeed(f"{evaluate} --skip-bad-rows {NAMES}")
    before = read(run / "results.json")["train_seconds"]
    outdated = [path for path in run.rglob("*") if re.match("results|predictions", path.name)]
    assert {path.parent.name for path in outdated} >= {"run", "eval-test-mine"}
    resume = f"train.py --resume {run} --data {trained}/mine.json"
    succeed(resume)  # trains nothing, writes the same again
    with mock.patch("ases.run.evaluation.write_chains", side_effect=InputError("stopped")):
        assert command(f"{resume} --max-steps 40").returncode == 2
    assert not any(path.exists() for path in outdated)
    # evaluate.py knows the time from the log.
    assert "train_seconds" in succeed(evaluate).stdout
    seconds = read(run / "eval-test-mine" / "results.json")["train_seconds"]
    assert seconds == pytest.approx(read(run / "metrics.jsonl")[-1]["seconds"], abs=0.1)
    assert seconds > before


def interrupt(child, number=signal.SIGINT):
    child.send_signal(number)
    message = child.communicate(timeout=120)[1]
    assert "Traceback" not in message
    return child.returncode, message


@pytest.mark.slow
def test_ctrl_c_says_how_to_go_on(tmp_path):
    run = tmp_path / "run"
    child = start(f"train.py --max-steps 100000 --out-dir {run}", *SMALL)
    while child.poll() is None and not (run / "metrics.jsonl").exists():
        time.sleep(0.05)
    code, message = interrupt(child)
    again = rf"Continue with: python train.py --resume {run}$"
    state = re.search(rf"^stopped; usm is saved as of step (\d+)\. {again}", message, re.MULTILINE)
    child = start(f"train.py --resume {run}")
    while f"usm continues after {state[1]} steps" not in child.stderr.readline():
        assert child.poll() is None
    terminated, message = interrupt(child, signal.SIGTERM)
    assert (code, terminated) == (130, 143) and "Continue with" in message


@pytest.mark.slow
def test_ctrl_c_while_chains_are_written_keeps_the_training(tmp_path):
    line = f"train.py --size micro --train-problems 60 --test-problems 200 --out-dir {tmp_path}/run"
    child = start(f"{line} --max-steps 4 --device cpu")
    while "writing 200 chains" not in child.stdout.readline():
        assert child.poll() is None
    code, message = interrupt(child)
    assert code == 130 and "usm is saved as of step 4. Continue with" in message
    assert not (tmp_path / "run" / "results.json").exists()
    done = succeed(f"train.py --resume {tmp_path}/run")
    assert "usm is trained already: 4 steps" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("delay", [0.1, 0.2, 0.4, 0.8, 1.2])
def test_an_early_ctrl_c_leaves_no_traceback(tmp_path, delay):
    child = start(f"train.py --max-steps 100000 --out-dir {tmp_path}/run", *SMALL)
    time.sleep(delay)
    interrupt(child)


def test_a_second_signal_does_not_wait():
    signals = Signals()
    signals.held = True
    signals._on_signal(signal.SIGINT, None)
    with pytest.raises(Interrupted):
        signals._on_signal(signal.SIGINT, None)
