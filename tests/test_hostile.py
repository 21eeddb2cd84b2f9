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
from tests.test_commands import command, fail, process, succeed

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


@pytest.fixture
def resume(run):
    return f"train.py --resume {run}"


@pytest.fixture
def ask(run):
    return f"evaluate.py --run {run} --question 'Tom has 3?'"


# --- checkpoints ---------------------------------------------------------------------------------
def test_a_checkpoint_under_another_name_is_noticed(run, resume, ask):
    for line, kind in ((ask, "best"), (resume, "last")):
        shutil.copy(run / f"asm.{kind}.pt", run / f"esm.{kind}.pt")
        assert "contains model 'asm'; expected 'esm'" in fail(line)


def test_a_checkpoint_of_another_run_is_refused(runs, run, resume, ask, tmp_path):
    other, scorer = train("dsm", tmp_path / "other"), train("direct", tmp_path / "scorer")
    shutil.copy(other / "esm.best.pt", run)
    shutil.copy(runs / "direct" / "direct.best.pt", scorer)
    entropy = f"--segmentation entropy --scorer {scorer}"
    labelling = f"segment.py {entropy}", f"train.py {entropy} --out-dir {tmp_path}/x"
    for name, lines in (("esm", (ask, resume)), ("direct", labelling)):
        for line in lines:
            assert f"{name}.best.pt: written by another run" in fail(line)
    shutil.copy(other / "asm.last.pt", run)
    shutil.copy(runs / "dsm" / "esm.best.pt", run)
    assert "asm.last.pt: written by another run" in fail(resume)
    assert not (tmp_path / "x").exists()


def test_a_scorer_that_was_trained_anew_is_noticed(runs, tmp_path):
    scorer = shutil.copytree(runs / "direct", tmp_path / "scorer")
    entropy = f"--segmentation entropy --scorer {scorer} --max-steps 1"
    succeed(f"train.py {entropy} --out-dir {tmp_path}/run", *QUICK)
    succeed(f"train.py --resume {tmp_path}/run")
    shutil.rmtree(scorer)
    train("direct", scorer, steps=1)
    assert "retrained after it labelled" in fail(f"train.py --resume {tmp_path}/run")


NESTED = []
for _ in range(5000):
    NESTED = [NESTED]
CONTENTS = {"nested": NESTED, "meta": torch.zeros(2, 2, device="meta"), "none": None}
CONTENTS |= {"sparse": torch.zeros(2, 2).to_sparse(), "bits": torch.zeros(2, dtype=torch.bool)}


@pytest.mark.parametrize("kind", CONTENTS)
def test_strange_things_in_a_checkpoint(run, ask, kind):
    path = run / "esm.best.pt"
    whole = torch.load(path, weights_only=True)
    weights = whole["model"] | {"head.weight": CONTENTS[kind]}
    for change in ({"more": CONTENTS[kind]}, {"model": weights}):
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(100_000)
        try:
            torch.save(whole | change, path)
        finally:
            sys.setrecursionlimit(limit)
        done = command(ask)
        assert done.returncode == 0 or (done.returncode == 2 and done.stderr.count("\n") == 1), done
        assert "model" not in change or "esm.best.pt: " in done.stderr


def test_the_end_of_texts_is_the_tokenizers(run, ask):
    for name in ("esm.best.pt", "asm.best.pt"):
        content = torch.load(run / name, weights_only=True)
        content["config"]["eos_token_id"] = 5
        save_checkpoint(run / name, content["run"], content)
    assert "eos_token_id is 5; expected the tokenizer's, 1" in fail(ask)
    examples = [Example(str(n), f"{n}?", f"{n}, so {n}.") for n in range(9)]
    with pytest.raises(InputError, match="eos_token_id is 5"):
        ases.train(examples, ases.Settings(max_steps=1, model=dict(eos_token_id=5)))


# --- settings and logs ---------------------------------------------------------------------------
def change_settings(run, model={}, **others):
    content = read(run / "config.json")
    content["model"] = None if model is None else content["model"] | model
    (run / "config.json").write_text(json.dumps(content | others))


OF_MODEL = dict(d_model="64"), dict(num_heads=None), dict(d_modle=64), dict(d_model=10**11), None
EDITS = [dict(model=change) for change in OF_MODEL]
EDITS += [dict(seed="0"), dict(seed=2**70), dict(seed=int("9" * 400)), dict(batch_tokens=-5)]
EDITS += [dict(colour="red"), dict(mode="both"), dict(dtype="float16"), dict(accumulate=0)]
EDITS += [dict(max_tokens=True), dict(max_rounds="x"), dict(learning_rate=float("nan"))]
EDITS += [dict(max_steps=None, max_minutes=None), dict(characters=5), dict(device="abacus")]
EDITS += [dict(run_id=None), dict(data_digest=["a"]), dict(scorer_digest=1)]


@pytest.mark.parametrize("change", EDITS, ids=lambda change: str(change)[:40])
def test_settings_edited_by_hand_are_checked(run, resume, ask, change):
    change_settings(run, **change)
    for line in (ask, resume):
        message = fail(line)
        assert "config.json: " in message and ("model" in change or next(iter(change)) in message)


def test_settings_edited_by_hand_that_one_command_can_do_without(run, resume, ask):
    change_settings(run, max_tokens=None)  # resuming measures it anew
    assert "config.json: " in fail(ask)
    change_settings(run, dict(d_model=48))
    fail(resume)
    change_settings(run, dict(d_model=32), data="mwp")
    assert "mwp: cannot be read" in fail(resume)


#: The exit codes of resuming and of asking, when a file holds nonsense.
CODES = {"config.json": (2, 2), "tokenizer.json": (2, 2), "metrics.jsonl": (2, 0)}
CODES |= {"results.json": (0, 0)}


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff", b"", b"[]", b"1", b'{"a": NaN}'])
@pytest.mark.parametrize("name", CODES)
def test_what_is_no_json(run, resume, ask, name, content):
    (run / name).write_bytes(content + b"\n" + content)
    for line, code in zip((resume, ask), CODES[name]):
        code = 0 if name == "metrics.jsonl" and not content else code  # a log of nothing
        done = command(line)
        assert (done.returncode, done.stderr.count("error: ")) == (code, code // 2), done.stderr


def test_a_crash_before_the_first_tokenizer(run, resume, ask):
    for path in run.iterdir():
        if path.name != "config.json":
            path.unlink()
    succeed(resume)
    chain = succeed(ask).stdout
    assert " ES " in chain and "stopped by" in chain


def test_a_diverging_run_says_so(tmp_path):
    line = f"train.py --learning-rate 1e20 --max-steps 200 --out-dir {tmp_path}/run"
    message = fail(line, *QUICK)
    for part in ("a lower --learning-rate may help", "by step", "at a rate of", "saved"):
        assert part in message
    log = tmp_path / "run" / "metrics.jsonl"
    for line in log.read_text().splitlines() if log.exists() else []:
        json.loads(line, parse_constant=pytest.fail)


# --- what is no file -----------------------------------------------------------------------------
FILES = "config.json tokenizer.json metrics.jsonl esm.best.pt asm.last.pt results.json".split()


@pytest.mark.parametrize("name", FILES)
def test_nobody_waits_for_a_pipe_in_a_run(run, resume, ask, name):
    (run / name).unlink()
    os.mkfifo(run / name)
    for line in (f"{resume} --max-steps 3", ask, f"evaluate.py --run {run}"):
        done = command(line)
        assert done.returncode in (0, 2), done.stderr
        if done.returncode:
            assert done.stderr.count("error: ") == 1 and name in done.stderr
    message = command(f"{resume} --max-steps 4").stderr
    assert name == "results.json" or "not a regular file" in message


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo, lambda path: path.symlink_to("nothing")])
def test_an_input_that_is_no_file(run, tmp_path, make):
    make(path := tmp_path / "thing")
    lines = f"segment.py --data {path}", f"evaluate.py --run {path} --question q"
    for line in (*lines, f"evaluate.py --run {run} --questions {path}"):
        assert "thing" in fail(line)


# --- data ----------------------------------------------------------------------------------------
def test_control_characters_are_escaped(run, tmp_path):
    evil = "\x1b[31m \x9b1m \x07 \r \u202e"
    row = {"id": f"a{evil}", "question": f"Tom {evil} has 3?", "answer": f"He {evil} has 3. #### 3"}
    data = write_lines(tmp_path / "x\x1b[31m.jsonl", [row])
    bad = write_lines(tmp_path / "bad\x1b.jsonl", [row | {"answer": evil}])
    assert "\\x1b[31m" in command("segment.py --show 1 --data", data).stdout
    evaluate = f"evaluate.py --run {run}"
    for arguments in (
        ("segment.py --show 1 --data", data),
        ("segment.py --data", data),
        ("segment.py --check --data", bad),
        (f"{evaluate} --show-wrong 1 --data", data, "--out-dir", tmp_path / "out\x1b"),
        (f"{evaluate} --question", f"Tom {evil}?"),
        ("train.py --mode", f"usm{evil}", f"--x{evil}"),
        ("train.py --resume", f"{run}\x1b"),
    ):
        done = command(*arguments)
        assert not set(done.stdout + done.stderr) & set("\x1b\x9b\x07\r\x7f"), done


# --- outputs -------------------------------------------------------------------------------------
def test_an_older_run_leaves_nothing_and_links_are_not_followed(runs, tmp_path):
    run, elsewhere = shutil.copytree(runs / "direct", tmp_path / "run"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("results.json", "predictions.jsonl", "mine.txt"):
        (elsewhere / name).write_text("mine")
    evaluate = f"evaluate.py --run {run} --overwrite"
    succeed(evaluate)
    for name in ("eval-x", "eval-test-beam2"):
        (run / name).symlink_to(elsewhere)
    (run / "notes.txt").write_text("mine")
    assert "eval-test-beam2: a link" in fail(f"{evaluate} --beams 2")
    results = run / "eval-test" / "results.json"
    results.unlink()
    results.symlink_to(elsewhere / "results.json")
    succeed(evaluate)
    assert not results.is_symlink()

    succeed(f"train.py --task pet --max-steps 1 --out-dir {run} --overwrite", *QUICK)
    written = "config.json metrics.jsonl predictions.jsonl results.json tokenizer.json"
    kept = "eval-test-beam2 eval-x notes.txt"
    expected = f"{written} usm.best.pt usm.last.pt {kept}".split()
    assert {path.name for path in run.iterdir()} == set(expected)
    assert {path.read_text() for path in elsewhere.iterdir()} == {"mine"}


def test_a_mistake_loses_no_older_run(runs, tmp_path):
    run = shutil.copytree(runs / "direct", tmp_path / "run")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    rows = [{"question": f"q{i}", "answer": "so " * 6000 + "#### 1"} for i in range(9)]
    long, inside = write_lines(tmp_path / "long.jsonl", rows), f"{run}/predictions.jsonl"
    error = "long.jsonl:1: field 'answer': a chain of about 6,006 tokens; expected at most 4,096"
    assert error in fail(f"train.py --out-dir {run} --overwrite --data {long}", *QUICK)
    assert "long.jsonl:9: field" in command(f"segment.py --data {long} --check").stdout
    options = f"--out-dir {run} --overwrite --data {inside} --answer-field reference"
    assert f"{inside}: lies in" in fail(f"train.py {options}", *QUICK)
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_outputs_follow_links_and_spare_devices(tmp_path):
    out, target = tmp_path / "out.jsonl", tmp_path / "target.jsonl"
    others = [tmp_path / "out.jsonl.tmp", tmp_path / "target.jsonl.tmp"]
    for path in (target, *others):
        path.write_text("mine")
    out.symlink_to(target)
    line = "segment.py --split test --test-problems 3 --overwrite --out"
    succeed(line, out)
    assert out.is_symlink() and len(read(target)) == 3
    assert [path.read_text() for path in others] == ["mine", "mine"]
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


@pytest.mark.parametrize("what", ["", "--questions q.txt"])
def test_evaluations_overwrite_nothing_unasked(run, tmp_path, what):
    (tmp_path / "q.txt").write_text("[1] Tom has 3?\n{x} And 4?\n")
    line = f"evaluate.py --run {run} --out-dir out {what}"
    succeed(line, cwd=tmp_path)
    assert "holds results already" in fail(line, cwd=tmp_path)
    succeed(f"{line} --overwrite", cwd=tmp_path)
    assert len(read(tmp_path / "out" / "predictions.jsonl")) == (2 if what else 3)
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert "holds other files" in fail(f"{line} --overwrite", cwd=tmp_path)


def test_a_page_needs_no_log(run, tmp_path):
    (run / "metrics.jsonl").unlink()
    succeed(f"evaluate.py --run {run} --report {tmp_path}/page.html")


def test_files_have_the_usual_permissions_and_messages_an_end(tmp_path):
    before = os.umask(0o022)
    try:
        succeed(f"segment.py --split test --test-problems 3 --out {tmp_path}/out.jsonl")
    finally:
        os.umask(before)
    assert stat.S_IMODE(os.stat(tmp_path / "out.jsonl").st_mode) == 0o644
    message = str(InputError("begin" + "x" * 100_000 + "end"))
    assert message.startswith("begin") and message.endswith("end") and len(message) < 1300
