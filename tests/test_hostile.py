"""Files that are damaged, foreign or meant to harm, and outputs in strange places.

Whatever is in a file, a command succeeds or says so in one line with exit code 2. `--mutations
5000` tries more than the quick default.
"""

import json
import os
import random
import shutil
import stat
import subprocess
import sys

import pytest

from tests.test_commands import ROOT, SMALL, command, fail, process, succeed

QUICK = ["--size", "micro", "--train-problems", 60, "--test-problems", 3, "--device", "cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    options = ["--max-steps", 4, *QUICK]
    succeed("train.py", "--mode", "direct", "--out-dir", folder / "direct", *options)
    succeed("train.py", "--mode", "dsm", "--out-dir", folder / "dsm", *options)
    return folder


@pytest.fixture
def run(runs, tmp_path):
    return shutil.copytree(runs / "dsm", tmp_path / "run")


def ask(run):
    return command("evaluate.py", "--run", run, "--question", "Tom has 3?")


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# --- checkpoints ---------------------------------------------------------------------------------


def test_a_checkpoint_under_another_name_is_noticed(run):
    shutil.copy(run / "asm.best.pt", run / "esm.best.pt")
    assert "holds the model 'asm'" in fail("evaluate.py", "--run", run, "--question", "q")
    shutil.copy(run / "asm.last.pt", run / "esm.last.pt")
    assert "holds the model 'asm'" in fail("train.py", "--resume", run)


def test_a_checkpoint_of_another_run_is_refused(runs, run, tmp_path):
    other, scorer = tmp_path / "other", tmp_path / "scorer"
    succeed("train.py", "--mode", "dsm", "--out-dir", other, "--max-steps", 4, *QUICK)
    shutil.copy(other / "esm.best.pt", run / "esm.best.pt")
    told = "esm.best.pt: written by another run"
    assert told in fail("evaluate.py", "--run", run, "--question", "q")
    assert told in fail("train.py", "--resume", run)
    shutil.copy(other / "asm.last.pt", run / "asm.last.pt")
    shutil.copy(runs / "dsm" / "esm.best.pt", run / "esm.best.pt")
    assert "asm.last.pt: written by another run" in fail("train.py", "--resume", run)
    succeed("train.py", "--mode", "direct", "--out-dir", scorer, "--max-steps", 4, *QUICK)
    shutil.copy(runs / "direct" / "direct.best.pt", scorer / "direct.best.pt")
    by_entropy = ["--segmentation", "entropy", "--scorer", scorer]
    for arguments in (["segment.py"], ["train.py", "--mode", "usm", "--out-dir", tmp_path / "x"]):
        assert "direct.best.pt: written by another run" in fail(*arguments, *by_entropy)
    assert not (tmp_path / "x").exists()


def test_an_older_run_leaves_nothing_and_links_are_not_followed(runs, tmp_path):
    run, elsewhere = shutil.copytree(runs / "direct", tmp_path / "run"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("results.json", "predictions.jsonl", "mine.txt"):
        (elsewhere / name).write_text("mine")
    succeed("evaluate.py", "--run", run)
    (run / "eval-x").symlink_to(elsewhere)
    (run / "eval-test-beam2").symlink_to(elsewhere)
    (run / "notes.txt").write_text("mine")
    told = fail("evaluate.py", "--run", run, "--beams", 2, "--overwrite")
    assert "eval-test-beam2: a link" in told
    (run / "eval-test" / "results.json").unlink()
    (run / "eval-test" / "results.json").symlink_to(elsewhere / "results.json")
    succeed("evaluate.py", "--run", run, "--overwrite")
    assert not (run / "eval-test" / "results.json").is_symlink()

    options = ["--task", "pet", "--mode", "usm", "--max-steps", 4, "--out-dir", run, *QUICK]
    succeed("train.py", *options, "--overwrite")
    assert sorted(path.name for path in run.iterdir()) == [
        *("config.json", "eval-test-beam2", "eval-x", "metrics.jsonl", "notes.txt"),
        *("predictions.jsonl", "results.json", "tokenizer.json", "usm.best.pt", "usm.last.pt"),
    ]
    assert {path.read_text() for path in elsewhere.iterdir()} == {"mine"}


def test_a_mistake_loses_no_older_run(runs, tmp_path):
    run = shutil.copytree(runs / "direct", tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    long = {"question": "q", "answer": "word " * 6000 + "The answer is 1."}
    rows = [long | {"question": f"q{i}"} for i in range(9)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    here = ["--out-dir", run, "--overwrite", *QUICK]
    told = fail("train.py", "--data", tmp_path / "long.jsonl", *here)
    assert "a chain of" in told
    told = fail(f"train.py --data {run / 'predictions.jsonl'} --answer-field reference", *here)
    assert "predictions.jsonl: lies in" in told
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    shutil.copytree(run, tmp_path / "scorer" / "in")
    by_entropy = ["--segmentation", "entropy", "--scorer", "scorer/in", "--out-dir", "scorer"]
    assert "scorer: exists and is no run folder" in fail(
        "train.py", *by_entropy, *QUICK, cwd=tmp_path
    )


def test_answers_replace_a_link_and_do_not_follow_it(run, tmp_path):
    (tmp_path / "q.txt").write_text("Tom has 3?\n")
    (tmp_path / "mine.txt").write_text("mine")
    (run / "eval-q").mkdir()
    (run / "eval-q" / "predictions.jsonl").symlink_to(tmp_path / "mine.txt")
    ask = ["--questions", tmp_path / "q.txt", "--out-dir", run / "eval-q", "--overwrite"]
    succeed("evaluate.py", "--run", run, *ask)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_control_characters_are_shown_and_not_sent(run, tmp_path):
    evil = "\x1b[31m \x9b1m \x07 \r \u202e"
    row = {"id": f"a{evil}", "question": f"Tom {evil} has 3?", "answer": f"He {evil} has 3. #### 3"}
    path = tmp_path / "x\x1b[31m.jsonl"
    path.write_text(json.dumps(row) + "\n")
    bad = tmp_path / "bad\x1b.jsonl"
    bad.write_text(json.dumps(row | {"answer": evil}) + "\n")
    out = ["--out-dir", tmp_path / "out\x1b"]
    for done in (
        command("segment.py", "--data", path, "--show", 1),
        command("segment.py", "--data", path),
        command("segment.py", "--data", bad, "--check"),
        command("evaluate.py", "--run", run, "--data", path, "--show-wrong", 1, *out),
        command("evaluate.py", "--run", run, "--question", f"Tom {evil}?"),
        command("train.py", "--mode", f"usm{evil}", f"--x{evil}"),
        command("train.py", "--resume", f"{run}\x1b"),
    ):
        told = done.stdout + done.stderr
        assert not set(told) & set("\x1b\x9b\x07\r\x7f"), told
    assert "\\x1b[31m" in command("segment.py", "--data", path, "--show", 1).stdout


def test_no_damaged_checkpoint_is_taken(run, request):
    from ases.data import InputError
    from ases.run.checkpoints import load_checkpoint, weights_digest

    path = run / "esm.best.pt"
    whole, weights = path.read_bytes(), weights_digest(load_checkpoint(path))
    rng, noticed, n = random.Random(0), 0, request.config.getoption("--mutations")
    for _ in range(n):
        damaged = bytearray(whole)
        for _ in range(rng.choice([1, 1, 2, 8])):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        if rng.random() < 0.1:
            del damaged[rng.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        try:
            assert (
                weights_digest(load_checkpoint(path)) == weights
            )  # in the zip's padding, it does no harm
        except InputError as error:
            assert "\n" not in str(error)
            noticed += 1
    assert noticed > n / 2


def test_a_scorer_that_was_trained_anew_is_noticed(runs, tmp_path):
    scorer = shutil.copytree(runs / "direct", tmp_path / "scorer")
    entropy = ["--segmentation", "entropy", "--scorer", scorer, "--max-steps", 4]
    succeed("train.py", *entropy, "--out-dir", tmp_path / "run", *QUICK)
    succeed("train.py", "--resume", tmp_path / "run")
    shutil.rmtree(scorer)
    succeed("train.py", "--mode", "direct", "--max-steps", 5, "--out-dir", scorer, *QUICK)
    assert "trained anew since it labelled" in fail("train.py", "--resume", tmp_path / "run")


# --- settings and logs ---------------------------------------------------------------------------

EDITS = {
    "d_model as text": lambda c: c["model"].update(d_model="64"),
    "no heads": lambda c: c["model"].update(num_heads=None),
    "an unknown size": lambda c: c["model"].update(d_modle=64),
    "an unknown key": lambda c: c.update(colour="red"),
    "an unknown training key": lambda c: c.update(colour="red"),
    "no accumulation": lambda c: c.update(accumulate=0),
    "a rate that is none": lambda c: c.update(learning_rate=float("nan")),
    "a seed too large": lambda c: c.update(seed=2**70),
    "float16": lambda c: c.update(dtype="float16"),
    "fewer than no tokens": lambda c: c.update(batch_tokens=-5),
    "data as text": lambda c: c.update(data="mwp"),
    "true as a number": lambda c: c.update(max_tokens=True),
    "a device unknown": lambda c: c.update(device="abacus"),
    "too wide": lambda c: c["model"].update(d_model=10**11),
    "another width": lambda c: c["model"].update(d_model=48),
}


@pytest.mark.parametrize("name", EDITS)
def test_hand_edited_settings(run, name):
    edit(run / "config.json", EDITS[name])
    for path in run.glob("*.pt"):
        if name == "too wide":
            path.unlink()
    done = command("train.py", "--resume", run)
    assert (done.returncode, done.stderr.count("error: ")) in ((2, 1), (0, 0)), done.stderr
    assert done.returncode == 2 or name == "a device unknown"  # chosen anew by --resume


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"", b"[]", b"1", b'{"a": NaN}'])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "metrics.jsonl"])
def test_what_is_no_json(run, name, content):
    (run / name).write_bytes(content + b"\n" + content)
    done = command("train.py", "--resume", run)
    if name == "metrics.jsonl" and not content:
        assert done.returncode == 0
    else:
        assert done.returncode == 2 and done.stderr.count("error: ") == 1, done.stderr
    assert ask(run).returncode in ((2,) if name != "metrics.jsonl" else (0,))


def test_a_log_without_its_last_newline(run):
    log = run / "metrics.jsonl"
    whole = log.read_text()
    log.write_text(whole[:-1])
    succeed("train.py", "--resume", run)
    succeed("train.py", "--resume", run, "--max-steps", 8)
    assert all(json.loads(line)["step"] for line in log.read_text().splitlines())


def test_a_crash_before_the_first_tokenizer(run):
    for path in run.iterdir():
        if path.name != "config.json":
            path.unlink()
    succeed("train.py", "--resume", run)
    assert ask(run).returncode == 0


# --- data ----------------------------------------------------------------------------------------


def test_a_very_long_row(tmp_path):
    rows = [{"question": f"q{i}?", "answer": "a " * 10 + "The answer is 1."} for i in range(30)]
    rows[7]["answer"] = "so " * 300_000 + "The answer is 1."
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = ["--out-dir", tmp_path / "run", "--mode", "direct", "--max-steps", 4]
    told = fail("train.py", "--data", tmp_path / "a.jsonl", "--train-problems", 30, *out)
    assert "expected at most 4096" in told and "line-8: a chain of" in told
    assert not (tmp_path / "run").exists()


def test_a_long_field_of_a_table(tmp_path):
    text = "x" * 200_000
    (tmp_path / "a.csv").write_text(f"question,answer\n{text},#### 1\nb,#### 2\n")
    done = succeed("segment.py", "--data", tmp_path / "a.csv")
    assert len(json.loads(done.stdout.splitlines()[0])["question"]) == 200_000


@pytest.mark.parametrize("kind", ["folder", "fifo", "link to nothing"])
def test_what_is_no_file(run, tmp_path, kind):
    path = tmp_path / "thing"
    if kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "nothing")
    for arguments in (["--data", path], ["--data", path, "--check"]):
        assert "thing" in fail("segment.py", *arguments)
    assert "thing" in fail("train.py", "--data", path, *SMALL)
    assert "thing" in fail("evaluate.py", "--run", run, "--questions", path)
    assert "thing" in fail("evaluate.py", "--run", path, "--question", "q")


def test_a_diverging_run_says_so(tmp_path):
    options = ["--learning-rate", "1e20", "--max-steps", 200, "--out-dir", tmp_path / "run"]
    told = fail("train.py", *options, *QUICK)
    assert (
        "a lower --learning-rate may help" in told and "by step" in told and "at a rate of" in told
    )
    assert "saved" in told
    log = tmp_path / "run" / "metrics.jsonl"
    for line in log.read_text().splitlines() if log.exists() else []:
        json.loads(line, parse_constant=pytest.fail)


# --- outputs -------------------------------------------------------------------------------------

SEGMENT = ["--split", "test", "--test-problems", 3]


def test_outputs_follow_links_and_spare_devices(tmp_path):
    (tmp_path / "target.jsonl").write_text("old")
    (tmp_path / "out.jsonl").symlink_to(tmp_path / "target.jsonl")
    (tmp_path / "out.jsonl.tmp").write_text("mine")
    (tmp_path / "target.jsonl.tmp").write_text("mine, too")
    succeed("segment.py", *SEGMENT, "--out", tmp_path / "out.jsonl", "--overwrite")
    assert (tmp_path / "out.jsonl").is_symlink()
    assert len((tmp_path / "target.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "out.jsonl.tmp").read_text() == "mine"
    assert (tmp_path / "target.jsonl.tmp").read_text() == "mine, too"
    succeed("segment.py", *SEGMENT, "--out", "/dev/null", "--overwrite")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_runs_with_names_that_lead_elsewhere(run, runs, tmp_path):
    out = tmp_path / "O" / "inner"
    (tmp_path / "here").mkdir()
    arguments = ["--run", run, "--run", "..", "--out-dir", out]
    work = shutil.copytree(runs / "direct", tmp_path / "up")
    (work / "down").mkdir()
    succeed("evaluate.py", *arguments, cwd=work / "down")
    assert sorted(path.name for path in out.iterdir()) == ["run", "up"]
    assert list((tmp_path / "O").iterdir()) == [out]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gb18030"])
def test_pipes_get_utf8_whatever_the_terminal(tmp_path, encoding, monkeypatch):
    rows = {"question": "肝？", "answer": "肝囊肿，正常。"}
    (tmp_path / "a.jsonl").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    monkeypatch.setenv("LC_ALL", "C")
    arguments = ["--task", "pet", "--data", tmp_path / "a.jsonl"]
    done = subprocess.run(
        [sys.executable, ROOT / "segment.py", *map(str, arguments)], capture_output=True
    )
    assert json.loads(done.stdout.decode("utf-8"))["question"] == "肝？"
    assert process("segment.py", "--task", "pet", "--data", "nö.csv").returncode == 2


def test_a_quoting_mistake_is_not_one_bad_row(tmp_path):
    rows = [f'"q{i}","#### {i}"' for i in range(30)]
    rows[2] = '"bad "quote" here","#### 1"'
    (tmp_path / "a.csv").write_text("question,answer\n" + "\n".join(rows) + "\n")
    for flag in ("--skip-bad-rows", "--check"):
        assert "a.csv:4: not CSV" in fail("segment.py", "--data", tmp_path / "a.csv", flag)


def test_numbers_without_end_and_names_without_letters(run):
    assert "--seed is" in fail("train.py", "--seed", "9" * 400)
    edit(run / "config.json", lambda c: c.update(seed=int("9" * 400)))
    assert "seed is" in fail("train.py", "--resume", run)
    assert "--scorer is ''" in fail("segment.py", "--segmentation", "entropy", "--scorer", "")


def test_evaluations_overwrite_nothing_unasked(run, tmp_path):
    (tmp_path / "q.txt").write_text("[1] Tom has 3?\n{x} And 4?\n")
    ask = ["--run", run, "--questions", tmp_path / "q.txt", "--out-dir", tmp_path / "out"]
    succeed("evaluate.py", *ask)
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) == 2
    assert "holds results already" in fail("evaluate.py", *ask)
    own = ["--run", run, "--out-dir", run, "--overwrite"]
    assert "the run's own results" in fail("evaluate.py", *own)
    report = ["--run", run, "--out-dir", tmp_path / "b", "--report", tmp_path / "r.html"]
    (run / "metrics.jsonl").unlink()
    succeed("evaluate.py", *report)


def test_data_is_not_overwritten_by_what_is_made_of_it(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "q", "answer": "#### 1"}\n')
    for flag in ("--out", "--report"):
        told = fail("segment.py", "--data", path, flag, path, "--overwrite")
        assert "are one place" in told
    assert path.read_text().count("####") == 1
    (tmp_path / "head.csv").write_text("question,answer\n")
    assert "0 of 0 rows" in fail("segment.py", "--data", tmp_path / "head.csv", "--check")
