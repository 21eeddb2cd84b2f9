"""Files that are damaged, foreign or meant to harm, and outputs in strange places.

Whatever is in a file, a command succeeds or says so in one line with exit code 2.
"""

import json
import os
import shutil
import stat
import sys

import pytest
import torch
from conftest import read, write_lines

import ases
from ases.data import Example, InputError
from ases.run.checkpoints import save_checkpoint
from tests.test_commands import SMALL, command, fail, process, succeed

QUICK = "--size micro --train-problems 60 --test-problems 3 --device cpu".split()


def train(mode, folder, steps=2):
    succeed(f"train.py --mode {mode} --out-dir {folder} --max-steps {steps}", *QUICK)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    for mode in ("direct", "dsm"):
        train(mode, folder / mode)
    return folder


@pytest.fixture
def run(runs, tmp_path):
    return shutil.copytree(runs / "dsm", tmp_path / "run")


def asking(run):
    return f"evaluate.py --run {run} --question 'Tom has 3?'"


# --- checkpoints ---------------------------------------------------------------------------------
def test_a_checkpoint_under_another_name_is_noticed(run):
    shutil.copy(run / "asm.best.pt", run / "esm.best.pt")
    assert "contains model 'asm'; expected 'esm'" in fail(asking(run))
    shutil.copy(run / "asm.last.pt", run / "esm.last.pt")
    assert "contains model 'asm'; expected 'esm'" in fail(f"train.py --resume {run}")


def test_a_checkpoint_of_another_run_is_refused(runs, run, tmp_path):
    told = "{}: written by another run".format
    other, resume = train("dsm", tmp_path / "other"), f"train.py --resume {run}"
    shutil.copy(other / "esm.best.pt", run)
    for line in (asking(run), resume):
        assert told("esm.best.pt") in fail(line)
    shutil.copy(other / "asm.last.pt", run)
    shutil.copy(runs / "dsm" / "esm.best.pt", run)
    assert told("asm.last.pt") in fail(resume)
    scorer = train("direct", tmp_path / "scorer")
    shutil.copy(runs / "direct" / "direct.best.pt", scorer)
    for line in ("segment.py", f"train.py --mode usm --out-dir {tmp_path}/x"):
        assert told("direct.best.pt") in fail(f"{line} --segmentation entropy --scorer {scorer}")
    assert not (tmp_path / "x").exists()


def test_a_scorer_that_was_trained_anew_is_noticed(runs, tmp_path):
    scorer = shutil.copytree(runs / "direct", tmp_path / "scorer")
    entropy = f"--segmentation entropy --scorer {scorer} --max-steps 1"
    succeed(f"train.py {entropy} --out-dir {tmp_path}/run", *QUICK)
    succeed(f"train.py --resume {tmp_path}/run")
    shutil.rmtree(scorer)
    train("direct", scorer, steps=1)
    assert "retrained after it labelled" in fail(f"train.py --resume {tmp_path}/run")


def nested(depth):
    content = []
    for _ in range(depth):
        content = [content]
    return content


CONTENTS = {"nested": nested(5000), "meta": torch.zeros(2, 2, device="meta"), "none": None}
CONTENTS |= {"sparse": torch.zeros(2, 2).to_sparse(), "bits": torch.zeros(2, dtype=torch.bool)}


@pytest.mark.parametrize("kind", CONTENTS)
def test_strange_things_in_a_checkpoint(run, kind):
    path = run / "esm.best.pt"
    whole = torch.load(path, weights_only=True)
    for change in (
        {"more": CONTENTS[kind]},
        {"model": whole["model"] | {"head.weight": CONTENTS[kind]}},
    ):
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(100_000)
        try:
            torch.save(whole | change, path)
        finally:
            sys.setrecursionlimit(limit)
        done = command(asking(run))
        assert done.returncode == 0 or (done.returncode == 2 and done.stderr.count("\n") == 1), done
        if "model" in change:
            assert "esm.best.pt: " in done.stderr


FILES = "config.json tokenizer.json metrics.jsonl esm.best.pt asm.last.pt results.json".split()


@pytest.mark.parametrize("name", FILES)
def test_a_pipe_is_no_file(run, name):
    """Nobody waits for what never comes."""
    (run / name).unlink()
    os.mkfifo(run / name)
    for line in (f"train.py --resume {run} --max-steps 3", asking(run), f"evaluate.py --run {run}"):
        done = command(line)
        assert done.returncode in (0, 2), done.stderr
        if done.returncode:
            assert done.stderr.count("error: ") == 1 and name in done.stderr
    told = command(f"train.py --resume {run} --max-steps 4").stderr
    assert name == "results.json" or "not a regular file" in told


def test_the_end_of_texts_is_the_tokenizers(run, tmp_path):
    for name in ("esm.best.pt", "asm.best.pt"):
        content = torch.load(run / name, weights_only=True)
        content["config"]["eos_token_id"] = 5
        save_checkpoint(run / name, content)
    assert "eos_token_id is 5; expected the tokenizer's, 1" in fail(asking(run))
    with pytest.raises(InputError, match="eos_token_id is 5"):
        train_in_python(dict(eos_token_id=5))


def train_in_python(model):
    examples = [Example(str(n), f"{n}?", f"{n}, so {n}.") for n in range(9)]
    return ases.train(examples, ases.Settings(size="micro", max_steps=1, model=model))


def test_questions_in_python_are_unicode():
    with pytest.raises(ValueError, match="valid Unicode"):
        train_in_python({}).answer("\ud800")


# --- settings and logs ---------------------------------------------------------------------------
def set_values(run, change):
    content = read(run / "config.json")
    merged = {"model": content["model"] | change["model"]} if change.get("model") else {}
    (run / "config.json").write_text(json.dumps(content | change | merged))


OF_MODEL = [dict(d_model="64"), dict(num_heads=None), dict(d_modle=64), dict(d_model=10**11)]
EDITS = [dict(model=change) for change in OF_MODEL]
EDITS += [dict(seed="0"), dict(seed=2**70), dict(seed=int("9" * 400)), dict(batch_tokens=-5)]
EDITS += [dict(colour="red"), dict(mode="both"), dict(dtype="float16"), dict(accumulate=0)]
EDITS += [dict(max_tokens=True), dict(max_rounds="x"), dict(learning_rate=float("nan"))]
EDITS += [
    dict(max_steps=None, max_minutes=None),
    dict(model=None),
    dict(characters=5),
    dict(device="abacus"),
]
EDITS += [dict(run_id=None), dict(data_digest=["a"]), dict(scorer_digest=1)]


@pytest.mark.parametrize("change", EDITS, ids=lambda change: str(change)[:40])
def test_hand_edited_settings_are_told(run, change):
    set_values(run, change)
    for line in (asking(run), f"train.py --resume {run}"):
        told = fail(line)
        assert "config.json: " in told and ("model" in change or next(iter(change)) in told)


def test_hand_edited_settings_that_one_command_can_do_without(run):
    set_values(run, dict(max_tokens=None))  # resuming measures it anew
    assert "config.json: " in fail(asking(run))
    set_values(run, dict(model=dict(d_model=48)))
    fail(f"train.py --resume {run}")
    set_values(run, dict(model=dict(d_model=32), data="mwp"))
    assert "mwp: cannot be read" in fail(f"train.py --resume {run}")


#: The exit codes of resuming and of asking, when a file holds nonsense.
CODES = {"config.json": (2, 2), "tokenizer.json": (2, 2), "metrics.jsonl": (2, 0)}
CODES |= {"results.json": (0, 0)}


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"", b"[]", b"1", b'{"a": NaN}'])
@pytest.mark.parametrize("name", CODES)
def test_what_is_no_json(run, name, content):
    (run / name).write_bytes(content + b"\n" + content)
    for line, code in zip((f"train.py --resume {run}", asking(run)), CODES[name]):
        code = 0 if name == "metrics.jsonl" and not content else code  # a log of nothing
        done = command(line)
        assert (done.returncode, done.stderr.count("error: ")) == (code, code // 2), done.stderr


def test_a_log_without_its_last_newline(run):
    log = run / "metrics.jsonl"
    log.write_text(log.read_text()[:-1])
    succeed(f"train.py --resume {run}")
    succeed(f"train.py --resume {run} --max-steps 4")
    assert all(row["step"] for row in read(log))


def test_a_crash_before_the_first_tokenizer(run):
    for path in run.iterdir():
        if path.name != "config.json":
            path.unlink()
    succeed(f"train.py --resume {run}")
    succeed(asking(run))


def test_a_diverging_run_says_so(tmp_path):
    line = f"train.py --learning-rate 1e20 --max-steps 200 --out-dir {tmp_path}/run"
    told = fail(line, *QUICK)
    expected = "a lower --learning-rate may help", "by step", "at a rate of", "saved"
    assert all(part in told for part in expected), told
    log = tmp_path / "run" / "metrics.jsonl"
    for line in log.read_text().splitlines() if log.exists() else []:
        json.loads(line, parse_constant=pytest.fail)


# --- data ----------------------------------------------------------------------------------------
def test_a_very_long_row(tmp_path):
    rows = [{"question": f"q{i}?", "answer": "a " * 10 + "The answer is 1."} for i in range(30)]
    rows[7]["answer"] = "so " * 300_000 + "The answer is 1."
    data = write_lines(tmp_path / "a.jsonl", rows)
    line = f"train.py --data {data} --train-problems 30 --mode direct --max-steps 4"
    told = fail(f"{line} --out-dir {tmp_path}/run")
    assert "expected at most 4,096" in told and "a.jsonl:8: field 'answer': a chain of" in told
    assert not (tmp_path / "run").exists()
    assert "a.jsonl:8" in command(f"segment.py --data {data} --check").stdout
    assert (
        "1 bad row skipped" in succeed(f"segment.py --data {data} --skip-bad-rows --show 0").stderr
    )


def test_a_quoting_mistake_is_not_one_bad_row_and_a_header_is_no_row(tmp_path):
    rows = ["question,answer", *(f'"q{i}","#### {i}"' for i in range(30))]
    rows[3] = '"bad "quote" here","#### 1"'
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    for flag in ("--skip-bad-rows", "--check"):
        assert "a.csv:4: not CSV" in fail(f"segment.py --data {tmp_path}/a.csv {flag}")
    (tmp_path / "a.csv").write_text("question,answer\n")
    assert "0 of 0 rows" in fail(f"segment.py --data {tmp_path}/a.csv --check")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("nothing")])
def test_what_is_no_file(run, tmp_path, make):
    make(path := tmp_path / "thing")
    lines = [f"segment.py --data {path}", f"segment.py --data {path} --check"]
    lines += [f"train.py --data {path} {' '.join(SMALL)}", f"evaluate.py --run {path} --question q"]
    lines += [f"evaluate.py --run {run} --questions {path}"]
    assert all("thing" in fail(line) for line in lines)


def test_control_characters_are_shown_and_not_sent(run, tmp_path):
    evil = "\x1b[31m \x9b1m \x07 \r \u202e"
    row = {"id": f"a{evil}", "question": f"Tom {evil} has 3?", "answer": f"He {evil} has 3. #### 3"}
    data = write_lines(tmp_path / "x\x1b[31m.jsonl", [row])
    bad = write_lines(tmp_path / "bad\x1b.jsonl", [row | {"answer": evil}])
    shown = command("segment.py --show 1 --data", data)
    assert "\\x1b[31m" in shown.stdout
    evaluate = f"evaluate.py --run {run}"
    for done in (
        shown,
        command("segment.py --data", data),
        command("segment.py --check --data", bad),
        command(f"{evaluate} --show-wrong 1 --data", data, "--out-dir", tmp_path / "out\x1b"),
        command(f"{evaluate} --question", f"Tom {evil}?"),
        command("train.py --mode", f"usm{evil}", f"--x{evil}"),
        command("train.py --resume", f"{run}\x1b"),
    ):
        assert not set(done.stdout + done.stderr) & set("\x1b\x9b\x07\r\x7f"), done


# --- outputs -------------------------------------------------------------------------------------
def test_an_older_run_leaves_nothing_and_links_are_not_followed(runs, tmp_path):
    run, elsewhere = shutil.copytree(runs / "direct", tmp_path / "run"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("results.json", "predictions.jsonl", "mine.txt"):
        (elsewhere / name).write_text("mine")
    evaluate = f"evaluate.py --run {run}"
    succeed(evaluate)
    for name in ("eval-x", "eval-test-beam2"):
        (run / name).symlink_to(elsewhere)
    (run / "notes.txt").write_text("mine")
    assert "eval-test-beam2: a link" in fail(f"{evaluate} --beams 2 --overwrite")
    results = run / "eval-test" / "results.json"
    results.unlink()
    results.symlink_to(elsewhere / "results.json")
    succeed(f"{evaluate} --overwrite")
    assert not results.is_symlink()

    succeed(f"train.py --task pet --max-steps 1 --out-dir {run} --overwrite", *QUICK)
    own = "config.json metrics.jsonl predictions.jsonl results.json tokenizer.json"
    expected = f"{own} usm.best.pt usm.last.pt eval-test-beam2 eval-x notes.txt"
    assert {path.name for path in run.iterdir()} == set(expected.split())
    assert {path.read_text() for path in elsewhere.iterdir()} == {"mine"}


def test_a_mistake_loses_no_older_run(runs, tmp_path):
    run = shutil.copytree(runs / "direct", tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    line = f"train.py --out-dir {run} --overwrite --data"
    answer = "word " * 6000 + "The answer is 1."
    rows = [{"question": f"q{i}", "answer": answer} for i in range(9)]
    long, own = write_lines(tmp_path / "long.jsonl", rows), f"{run}/predictions.jsonl"
    assert "a chain of" in fail(line, long, *QUICK)
    assert f"{own}: lies in" in fail(line, own, "--answer-field", "reference", *QUICK)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before
    shutil.copytree(run, tmp_path / "scorer" / "in")
    line = "train.py --segmentation entropy --scorer scorer/in --out-dir scorer"
    assert "scorer: exists, but is not a run folder" in fail(line, *QUICK, cwd=tmp_path)


def test_outputs_follow_links_and_spare_devices(tmp_path):
    texts = {"target.jsonl": "old", "out.jsonl.tmp": "mine", "target.jsonl.tmp": "mine, too"}
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    out, target = tmp_path / "out.jsonl", tmp_path / "target.jsonl"
    out.symlink_to(target)
    line = "segment.py --split test --test-problems 3 --overwrite --out"
    succeed(line, out)
    assert out.is_symlink() and len(read(target)) == 3
    assert all((tmp_path / name).read_text() == texts[name] for name in list(texts)[1:])
    succeed(line, "/dev/null")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


def test_runs_with_names_that_lead_elsewhere(run, runs, tmp_path):
    out = tmp_path / "O" / "inner"
    below = shutil.copytree(runs / "direct", tmp_path / "up") / "down"
    below.mkdir()
    succeed(f"evaluate.py --run {run} --run .. --out-dir {out}", cwd=below)
    assert sorted(path.name for path in out.iterdir()) == ["run", "up"]
    assert list((tmp_path / "O").iterdir()) == [out]


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "gb18030"])
def test_pipes_get_utf8_whatever_the_terminal(tmp_path, encoding, monkeypatch):
    data = write_lines(tmp_path / "a.jsonl", [{"question": "肝？", "answer": "肝囊肿，正常。"}])
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    monkeypatch.setenv("LC_ALL", "C")
    done = process(f"segment.py --task pet --data {data}")
    assert json.loads(done.stdout)["question"] == "肝？"
    assert process("segment.py --task pet --data nö.csv").returncode == 2


def test_evaluations_overwrite_nothing_unasked(run, tmp_path):
    (questions := tmp_path / "q.txt").write_text("[1] Tom has 3?\n{x} And 4?\n")
    evaluate = f"evaluate.py --run {run}"
    line = f"{evaluate} --questions {questions} --out-dir {run}/eval-q"
    succeed(line)
    assert "holds results already" in fail(line)
    succeed(f"{line} --overwrite")
    assert len(read(run / "eval-q" / "predictions.jsonl")) == 2
    assert "holds other files" in fail(f"{evaluate} --out-dir {run} --overwrite")
    (run / "metrics.jsonl").unlink()
    succeed(f"{evaluate} --out-dir {tmp_path}/b --report {tmp_path}/r.html")


def test_files_have_the_usual_permissions_and_messages_an_end(tmp_path):
    before = os.umask(0o022)
    try:
        succeed(f"segment.py --split test --test-problems 3 --out {tmp_path}/out.jsonl")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(tmp_path / "out.jsonl").st_mode) == 0o644
    told = str(InputError("begin" + "x" * 100_000 + "end"))
    assert told.startswith("begin") and told.endswith("end") and len(told) < 1300
