"""The three commands, end to end on a very small model, and every mistake in one line."""

import io
import json
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from dataclasses import fields
from pathlib import Path
from subprocess import PIPE, CompletedProcess
from unittest import mock

import pytest
from conftest import parsed, read

from ases.run.cli import FLAGS, Options, run_command
from ases.run.read import read_examples
from ases.settings import MODES, STOPS, ModelConfig, Settings

ROOT = Path(__file__).parent.parent
SMALL = "--size micro --train-problems 60 --test-problems 12 --device cpu".split()
MAINS = {f"{name}.py": runpy.run_path(str(ROOT / f"{name}.py"))["main"] for name in FLAGS}


# --- what other tests use, too -------------------------------------------------------------------
def command(line, *arguments, cwd=None):
    """Run a command in this process, which spares the seconds that importing PyTorch takes.

    ``line`` is split as a shell splits it, ``arguments`` are not.
    """
    script, *words = shlex.split(line)
    argv, code = mock.patch("sys.argv", [script, *words, *map(str, arguments)]), 0
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2))
    with argv, chdir(cwd or "."), redirect_stdout(out), redirect_stderr(err):
        try:
            run_command(MAINS[script])
        except SystemExit as end:
            code = end.code or 0
    return CompletedProcess(line, code, *(s.buffer.getvalue().decode() for s in (out, err)))


def start(line, *arguments, **options):
    """Start a command as a user does."""
    script, *words = shlex.split(line)
    options["env"] = os.environ | {"NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    argv = [sys.executable, ROOT / script, *words, *arguments]
    return subprocess.Popen(
        list(map(str, argv)), stdout=PIPE, stderr=PIPE, encoding="utf-8", **options
    )


def process(line, *arguments, **options):
    """Run a command as a user does."""
    with start(line, *arguments, **options) as child:
        try:
            out, err = child.communicate(timeout=300)
        finally:
            child.kill()
    return CompletedProcess(line, child.returncode, out, err)


def succeed(line, *arguments, cwd=None):
    done = command(line, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def fail(line, *arguments, cwd=None):
    """One line on standard error, exit code 2."""
    done = command(line, *arguments, cwd=cwd)
    assert done.returncode == 2 and done.stderr.startswith("error: "), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


def losses_and_predictions(folder):
    log = read(folder / "metrics.jsonl")
    losses = [(r["model"], r["step"], r.get("loss"), r.get("validation_loss")) for r in log]
    return losses, (folder / "predictions.jsonl").read_text()


# --- whole runs ----------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each mode; usm with labels by entropy, from the direct run."""
    folder = tmp_path_factory.mktemp("runs")
    entropy = f"--segmentation entropy --scorer {folder}/direct".split()
    for mode, more in (("direct", []), ("dsm", []), ("usm", entropy)):
        succeed(f"train.py --mode {mode} --max-steps 8 --out-dir {folder}/{mode}", *SMALL, *more)
    shutil.copytree(folder / "usm", folder / "again" / "usm")
    return folder


WRITTEN = "config.json metrics.jsonl tokenizer.json predictions.jsonl results.json".split()
WRITTEN += ["predictions-longer.jsonl", "results-longer.json"]
RESULTS = "task mode segmentation n accuracy bleu rouge1 rouge2 rougeL".split()
RESULTS += "parseable rounds_mean stop_reasons train_seconds".split()


@pytest.mark.parametrize("mode", MODES)
def test_a_run_leaves_what_others_can_read(runs, mode):
    folder = runs / mode
    checkpoints = [f"{m}.{kind}.pt" for m in MODES[mode] for kind in ("best", "last")]
    assert {p.name for p in folder.iterdir() if p.is_file()} == {*WRITTEN, *checkpoints}
    results = read(folder / "results.json")
    assert set(RESULTS) <= results.keys()
    assert results["n"] == 12 and results["mode"] == mode and results["train_seconds"] > 0
    assert sum(results["stop_reasons"].values()) == pytest.approx(1)
    predictions = read(folder / "predictions.jsonl")
    assert len(predictions) == 12
    for p in predictions:
        roles, n = [s["role"] for s in p["segments"]], p["rounds"]
        assert p["stop"] in STOPS and n == len(roles)
        assert roles == (["CHAIN"] if mode == "direct" else (["ES", "AS"] * n)[:n])
    rows = [r for r in read(folder / "metrics.jsonl") if "validation_loss" in r]
    assert {r["model"] for r in rows} == set(MODES[mode])
    for model in MODES[mode]:
        losses = [r["validation_loss"] for r in rows if r["model"] == model]
        assert losses[-1] < losses[0]


def test_same_seed_same_losses_and_predictions(runs, tmp_path):
    succeed(f"train.py --mode dsm --max-steps 8 --out-dir {tmp_path}/run", *SMALL)
    assert losses_and_predictions(tmp_path / "run") == losses_and_predictions(runs / "dsm")


@pytest.mark.slow
def test_a_process_trains_and_answers(tmp_path):
    done = process("train.py --max-steps 4 --out-dir run", *SMALL, cwd=tmp_path)
    assert done.returncode == 0 and "run folder: run" in done.stdout
    assert "usm 100%, 00:00 left, step 4, loss" in done.stderr
    done = process("evaluate.py --run run --question 'Tom has 3?'", cwd=tmp_path)
    assert done.returncode == 0 and "stopped by" in done.stdout and "\033" not in done.stdout


def test_evaluate_repeats_training_and_compares_runs_question_by_question(runs, tmp_path):
    one, other = runs / "usm", runs / "direct"
    output = succeed(f"evaluate.py --run {one} --run {other} --out-dir {tmp_path}").stdout
    assert all(s in output for s in ("accuracy", "rougeL", str(one), str(other)))
    results = [read(tmp_path / mode / "results.json") for mode in ("usm", "direct")]
    for run, result in zip((one, other), results):
        assert result["train_seconds"] == read(run / "results.json")["train_seconds"]
        predictions = [folder / "predictions.jsonl" for folder in (run, tmp_path / run.name)]
        assert predictions[0].read_text() == predictions[1].read_text()
    number = r"([+-]\d\.\d{3})"
    interval = rf"{number} \[{number}, {number}\]"
    line = rf"{other} minus {one}, on the same questions: accuracy {interval}, rougeL {interval}$"
    difference = float(re.search(line, output, re.MULTILINE)[4])
    assert difference == pytest.approx(results[1]["rougeL"] - results[0]["rougeL"], abs=1e-3)


def test_a_second_try_mends_chains(runs):
    """After so few updates segments fail: greedily many chains stop there."""
    failed = {}
    for name, flag in (("eval-test", ""), ("eval-test-second-try", "--second-try")):
        succeed(f"evaluate.py --run {runs}/usm --overwrite {flag}")
        results = read(runs / "usm" / name / "results.json")
        stops = results["stop_reasons"]
        failed[results["second_try"]] = stops["stuck"] + stops["length"]
    assert 0.1 < failed[False] > failed[True]


def test_segment_writes_json_lines(tmp_path):
    data, line = tmp_path / "mine.csv", f"segment.py --data {tmp_path}/mine.csv"
    row = '"q, a","He has 3 boxes, so 3 * 4 = 12. The answer is 12.",x1'
    data.write_text(f"question,answer,id\n{row}\nb,#### 2,x2\n", encoding="utf-8-sig")
    assert "2 different questions" in fail(f"{line} --split test")  # too few for three splits
    first, other = sorted(parsed(succeed(line).stdout), key=lambda row: row["id"])
    pieces = ("ES", "He has 3 boxes,"), ("AS", " so 3 * 4 = 12."), ("ES", " The answer is 12.")
    expected = [{"label": label, "text": text} for label, text in pieces]
    assert [first["id"], other["id"]] == ["x1", "x2"] and first["segments"] == expected
    assert first["pieces"] == [piece | {"entropy": None} for piece in expected]


def test_segment_labels_by_entropy(runs, tmp_path):
    out = tmp_path / "out.jsonl"
    options = f"--scorer {runs}/direct --split test --test-problems 5 --out {out} --show 2"
    done = succeed(f"segment.py --segmentation entropy {options}")
    assert done.stdout.count("  ES ") >= 2 and "\033" not in done.stdout
    assert "agreement with the true roles: ES" in done.stderr
    rows = read(out)
    assert len(rows) == 5
    for row in rows:
        mean = sum(p["entropy"] for p in row["pieces"]) / len(row["pieces"])
        assert all((p["label"] == "AS") == (p["entropy"] > mean) for p in row["pieces"])
        assert "".join(s["text"] for s in row["segments"]) == row["answer"]
        assert row["segments"][0]["label"] == "ES"
    assert "exists" in fail(f"segment.py --out {out}")


REAL = ROOT.parent / "shared" / "data"
#: Of llm_cot, five rows state their number in a form too rare to be read.
SETS = [
    ("gsm8k_train.jsonl", "mwp", 7473),
    ("llm_cot.jsonl", "mwp", 1138),
    ("cpet_part.csv", "pet", 10677),
]


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not here")
@pytest.mark.parametrize("name, task, rows", SETS)
def test_segmentation_of_the_real_sets_is_lossless(name, task, rows, tmp_path):
    out = tmp_path / "out.jsonl"
    done = succeed(f"segment.py --task {task} --out {out} --skip-bad-rows --data", REAL / name)
    assert f"pieces joined equal the chain in {rows} of {rows}" in done.stderr
    examples = read_examples(
        Settings(data=str(REAL / name), task=task, skip_bad_rows=True)
    ).examples
    joined = {row["id"]: "".join(s["text"] for s in row["segments"]) for row in read(out)}
    assert joined == {e.id: e.answer for e in examples}


# --- mistakes ------------------------------------------------------------------------------------
#: A command → what its line of error says.
MISTAKES = f"""
train.py --max-steps many → --max-steps is 'many'; expected a whole number of at least 1
train.py --beta -1 → --beta is '-1'
train.py --task chess → --task is 'chess'; expected one of mwp, pet
train.py --learning-rate 0 → --learning-rate is '0'; expected a number above 0
train.py --seed {"9" * 30} → --seed is
train.py --seed {"9" * 400} → --seed is
train.py --seed 1 --seed 2 → --seed is given twice
train.py --frobnicate --max_steps 3 → unrecognized arguments: --frobnicate --max_steps 3; see --help
train.py --set clip=0 → --set clip is '0'; expected a number above 0
train.py --set colour=3 → --set 'colour=3': expected NAME=VALUE
train.py --optimizer adamw --set momentum=0.9 → --set momentum needs --optimizer muon
train.py --set d_model=abc → --set d_model is 'abc'
train.py --set relative_attention_num_buckets=30 --out-dir a SMALL → model: relative_attention_num_buckets is 30; expected a multiple of 4
train.py --set pad_token_id=99999 --out-dir a SMALL → model: pad_token_id is 99999; expected less than vocab_size
train.py --set clip=1 --resume nowhere → --set clip cannot be combined with --resume
train.py --set d_model=16 --resume nowhere → --set of a model's shape cannot be combined with --resume
segment.py --data d --out x --report x → --out and --report name the same path
train.py --max-steps 10000000000000000000000 → --max-steps is
train.py --batch-tokens 100000000000 → --batch-tokens is
train.py --seed -1 → --seed is '-1'; expected a whole number of at least 0
train.py --data https://a.b/c.jsonl → --data is a web address; download the file first
train.py --max-step 3 → unrecognized arguments: --max-step
train.py usm → unrecognized arguments: usm
train.py --mode direct --segmentation entropy → --segmentation cannot be combined with --mode direct
train.py --scorer x → --scorer needs --segmentation entropy
train.py --beta 1.4 → --beta needs --segmentation entropy
train.py --label-field gold → --label-field needs --data
train.py --task text → needs --data
train.py --data none.csv → none.csv: cannot be read
train.py --resume nowhere → config.json: cannot be read
train.py --resume nowhere --mode dsm → --mode cannot be combined with --resume
train.py --segmentation entropy --scorer a --out-dir a → --out-dir and --scorer name the same path
train.py --segmentation entropy --scorer RUNS/usm --out-dir a SMALL → --scorer needs a direct one
train.py --mode dsm --segmentation entropy --scorer RUNS/direct --beta 50 --out-dir a SMALL → asm: 0 training and 0 validation rows
train.py --mode usm --out-dir RUNS/usm SMALL → already holds a run
segment.py --segmentation entropy → --segmentation entropy needs --scorer
segment.py --segmentation entropy --scorer '' → --scorer is ''
segment.py --check → --check needs --data
segment.py --check --show 1 --data x → --show cannot be combined with --check
segment.py --data a.jsonl --seed 3 → --seed needs --split
segment.py --data none.csv --out a/out.jsonl → none.csv: cannot be read
segment.py --data a.jsonl --out a.jsonl --overwrite → name the same path
segment.py --data a.jsonl --report a.jsonl --overwrite → name the same path
segment.py --out . --overwrite → a folder; expected a file
evaluate.py --run . → config.json: cannot be read
evaluate.py --run RUNS/usm --run RUNS/usm → names a folder twice
evaluate.py --run RUNS/usm --run RUNS/again/usm --out-dir a → two runs of one name
evaluate.py --run RUNS/usm --out-dir RUNS/usm/config.json/a → is no folder
evaluate.py --run RUNS/usm --question q --data d → --data cannot be combined with --question
evaluate.py --run RUNS/usm --question q --split all → --split cannot be combined with --question
evaluate.py --run RUNS/usm --questions - --report x.html → --report cannot be combined with --questions
evaluate.py --run RUNS/usm --answer-field solution → --answer-field needs --data
evaluate.py --run RUNS/usm --data none.csv --out-dir a/b → none.csv: cannot be read
""".strip().splitlines()


@pytest.mark.parametrize("line, message", [case.split(" → ") for case in MISTAKES])
def test_a_mistake_is_one_line_and_nothing_is_begun(line, message, runs, tmp_path):
    line = line.replace("RUNS", str(runs)).replace("SMALL", " ".join(SMALL))
    assert message in fail(line, cwd=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", MAINS)
def test_mistakes_of_a_process_are_one_line_too(script):
    done = process(script, "--device", "abacus")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout
    assert done.stderr.startswith("error: --device is 'abacus'; expected one of auto, cpu, cuda")


def test_what_is_no_run_folder_is_not_overwritten(tmp_path):
    line, theirs = f"train.py --out-dir {tmp_path} --overwrite", '{"model_type": "t5"}'
    for name in ("dear.txt", "config.json"):
        (tmp_path / name).write_text(theirs)
        assert "is not a run folder" in fail(line, *SMALL)
    assert [path.read_text() for path in tmp_path.iterdir()] == [theirs, theirs]


def test_a_checkpoint_of_another_vocabulary_is_noticed(runs, tmp_path):
    run = shutil.copytree(runs / "direct", tmp_path / "run")
    tokenizer = read(run / "tokenizer.json")
    tokenizer["model"]["vocab"]["one more"] = len(tokenizer["model"]["vocab"])
    (run / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "a vocabulary of" in fail(f"evaluate.py --run {run}")


# --- flags ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("name, groups", FLAGS.items())
def test_help_explains_each_flag_in_few_words_with_its_default(name, groups):
    text = succeed(f"{name}.py --help").stdout
    assert all(len(line) <= 80 for line in text.splitlines())
    entries = [entry.split("\n\n")[0].split("\n  -h")[0] for entry in text.split("\n  --")[1:]]
    shown = {entry.split()[0]: entry.split("\n") for entry in entries}
    declared = {f.name: (f, cls()) for cls in (Settings, Options) for f in fields(cls)}
    for flag in " ".join(groups.values()).split():
        first, *rest = shown["no-merge" if flag == "merge" else flag.replace("_", "-")]
        assert len(rest) <= 2 and ("  " in first.strip() or rest), first
        field, defaults = declared[flag]
        default = field.metadata["shown"] or getattr(defaults, flag)
        if not isinstance(default, bool) and default is not None:
            assert f"[{default}]" in " ".join(" ".join([first, *rest]).split()), first


def test_any_setting_is_set_from_the_command(tmp_path):
    line = f"train.py --max-steps 2 --out-dir {tmp_path}/run --set clip=0.5 --set warmup=0.2"
    line += " --set max_rounds=3 --set d_ff=48 --set tie_word_embeddings=true"
    succeed(line, *SMALL)
    config = read(tmp_path / "run" / "config.json")
    assert (config["clip"], config["warmup"], config["max_rounds"]) == (0.5, 0.2, 3)
    assert config["model"] == {"d_ff": 48, "tie_word_embeddings": True}
    text = succeed("train.py --help").stdout
    names = {field.name for cls in (Settings, ModelConfig) for field in fields(cls)}
    for name in names - {"merge", "model", "dropout_rate"}:
        assert f"--{name.replace('_', '-')} " in text or f"\n  {name}: " in text, name


@pytest.mark.slow
def test_commands_import_slow_modules_only_if_they_need_them(runs, tmp_path):
    slow = {"torch._dynamo", "triton", "sympy", "transformers", "matplotlib"}
    for line in (
        f"evaluate.py --run {runs}/usm --question 'Tom has 3?'",
        f"train.py --max-steps 2 --out-dir {tmp_path}/run {' '.join(SMALL)}",
        "segment.py --show 1",
    ):
        script, *words = shlex.split(line)
        code = f"import runpy, sys; sys.argv = {[script, *words]!r}; sys.path.insert(0, {str(ROOT)!r})\n"
        code += f"runpy.run_path({str(ROOT / script)!r}, run_name='__main__')\n"
        code += f"imported = {slow!r} & set(sys.modules); assert not imported, imported"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
