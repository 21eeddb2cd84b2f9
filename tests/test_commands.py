"""The three commands, as a user calls them: end to end on a very small model, and every mistake in one line."""

import importlib.util
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from ases.run.cli import run_command
from ases.run.read import read_examples

ROOT = Path(__file__).parent.parent
SMALL = "--size micro --train-problems 60 --test-problems 12 --device cpu".split()


def load(script):
    specification = importlib.util.spec_from_file_location(f"command_{script[:-3]}", ROOT / script)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


MAINS = {name: load(name).main for name in ("train.py", "segment.py", "evaluate.py")}


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


def command(line, *arguments, cwd=None):
    """Run a command in this process, which spares the seconds that importing PyTorch takes.

    ``line`` is split at its blanks, ``arguments`` are not.
    """
    script, *words = line.split()
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    before = sys.argv, os.getcwd(), sys.stdout, sys.stderr
    sys.argv = [script, *words, *map(str, arguments)]
    os.chdir(cwd or before[1])
    sys.stdout, sys.stderr = streams
    code = 0
    try:
        run_command(MAINS[script])
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv, folder, sys.stdout, sys.stderr = before
        os.chdir(folder)
    texts = []
    for stream in streams:
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8"))
    return Done(code, *texts)


def process(line, *arguments, **options):
    """Run a command as a user does."""
    script, *words = line.split()
    environment = os.environ | {"NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, str(ROOT / script), *words, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


def succeed(script, *arguments, cwd=None):
    done = command(script, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def fail(script, *arguments, cwd=None):
    """One line on standard error, exit code 2."""
    done = command(script, *arguments, cwd=cwd)
    assert (
        done.returncode == 2 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    ), done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run of each mode; usm with labels by entropy, from the direct run."""
    folder = tmp_path_factory.mktemp("runs")
    for mode in ("direct", "dsm", "usm"):
        extra = (
            ["--segmentation", "entropy", "--scorer", folder / "direct"] if mode == "usm" else []
        )
        succeed(f"train.py --mode {mode} --max-steps 40 --out-dir {folder / mode}", *SMALL, *extra)
    return folder


RESULTS = "task mode segmentation n accuracy accuracy_strict bleu rouge1 rouge2 rougeL parseable rounds_mean stop_reasons train_seconds".split()


@pytest.mark.parametrize(
    "mode, models", [("direct", ["direct"]), ("dsm", ["esm", "asm"]), ("usm", ["usm"])]
)
def test_a_run_leaves_what_others_can_read(runs, mode, models):
    folder = runs / mode
    files = {p.name for p in folder.iterdir() if p.is_file()}
    assert files == {
        "config.json",
        "metrics.jsonl",
        "tokenizer.json",
        "predictions.jsonl",
        "results.json",
        "predictions-longer.jsonl",
        "results-longer.json",
        *(f"{m}.{kind}.pt" for m in models for kind in ("best", "last")),
    }
    results = json.loads((folder / "results.json").read_text())
    assert (
        set(RESULTS) <= results.keys()
        and results["n"] == 12
        and results["mode"] == mode
        and results["train_seconds"] > 0
    )
    assert sum(results["stop_reasons"].values()) == pytest.approx(1)
    predictions = [
        json.loads(line) for line in (folder / "predictions.jsonl").read_text().split("\n")[:-1]
    ]
    assert len(predictions) == 12
    for p in predictions:
        assert p["stop"] in ("end", "rounds", "length", "stuck") and p["rounds"] == len(
            p["segments"]
        )
        expected = (
            ["CHAIN"] if mode == "direct" else [("ES", "AS")[i % 2] for i in range(p["rounds"])]
        )
        assert [s["role"] for s in p["segments"]] == expected
    losses = [
        r
        for r in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
        if "validation_loss" in r
    ]
    assert {r["model"] for r in losses} == set(models)
    for m in models:
        values = [r["validation_loss"] for r in losses if r["model"] == m]
        assert values[-1] < values[0]


def test_entropy_segmentation_trains_its_own_scorer_and_pet_has_no_accuracy(tmp_path):
    done = succeed(
        f"train.py --task pet --mode dsm --segmentation entropy --max-steps 6 --out-dir {tmp_path / 'run'}",
        *SMALL,
    )
    assert (tmp_path / "run" / "scorer.best.pt").exists() and str(tmp_path / "run") in done.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (
        results["accuracy"] is None
        and results["bleu"] is not None
        and set(results["training"]) == {"scorer", "esm", "asm"}
    )


def losses_and_predictions(folder):
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [(r["model"], r["step"], r.get("loss"), r.get("validation_loss")) for r in rows], (
        folder / "predictions.jsonl"
    ).read_text()


def test_same_seed_same_losses_and_predictions(tmp_path):
    for name in "ab":
        succeed(f"train.py --mode usm --max-steps 20 --out-dir {tmp_path / name}", *SMALL)
    assert losses_and_predictions(tmp_path / "a") == losses_and_predictions(tmp_path / "b")


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_result(tmp_path):
    arguments = ["--mode", "dsm", "--max-steps", 60, *SMALL]
    succeed("train.py", *arguments, "--out-dir", tmp_path / "whole")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [
            sys.executable,
            str(ROOT / "train.py"),
            *map(str, arguments),
            "--out-dir",
            str(tmp_path / "killed"),
        ],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while process.poll() is None and not (tmp_path / "killed" / "esm.last.pt").exists():
        pass
    process.kill()
    process.wait()
    done = succeed("train.py", "--resume", tmp_path / "killed")
    assert losses_and_predictions(tmp_path / "killed") == losses_and_predictions(
        tmp_path / "whole"
    ), done.stdout


def test_evaluate_repeats_training_and_compares(runs, tmp_path):
    done = succeed(f"evaluate.py --run {runs / 'usm'} --run {runs / 'direct'} --out-dir {tmp_path}")
    assert all(
        name in done.stdout
        for name in ("accuracy", "rougeL", str(runs / "usm"), str(runs / "direct"))
    )
    for mode in ("usm", "direct"):
        assert (tmp_path / mode / "predictions.jsonl").read_text() == (
            runs / mode / "predictions.jsonl"
        ).read_text()
        assert (
            json.loads((tmp_path / mode / "results.json").read_text())["train_seconds"]
            == json.loads((runs / mode / "results.json").read_text())["train_seconds"]
        )
    # A run replaces its own results, unless somebody has changed them since.
    both = ["--run", runs / "usm", "--run", runs / "direct", "--out-dir", tmp_path]
    succeed("evaluate.py", *both)
    (tmp_path / "usm" / "predictions.jsonl").write_text("mine\n")
    assert "holds results already" in fail("evaluate.py", *both)
    assert (tmp_path / "usm" / "predictions.jsonl").read_text() == "mine\n"


def test_evaluate_other_data_and_a_question(runs, tmp_path):
    data = tmp_path / "mine.jsonl"
    data.write_text(
        "".join(
            json.dumps(
                {
                    "question": f"Tom has {i} pens. How many pens?",
                    "answer": f"He has {i}.\n#### {i}",
                }
            )
            + "\n"
            for i in range(10)
        )
    )
    succeed(
        f"evaluate.py --run {runs / 'usm'} --data {data} --split all --beams 2 --out-dir {tmp_path / 'out'}"
    )
    assert json.loads((tmp_path / "out" / "results.json").read_text())["n"] == 10
    done = succeed(
        f"evaluate.py --run {runs / 'dsm'} --question", "Tom has 3 boxes of 4 pens. How many?"
    )
    assert " ES " in done.stdout and "stopped by" in done.stdout


def test_a_second_try_mends_chains(runs):
    """After so few updates segments fail: greedily many chains stop there."""
    stops = {}
    for flags, folder in (([], "eval-test"), (["--second-try"], "eval-test-second-try")):
        succeed("evaluate.py", "--run", runs / "usm", "--overwrite", *flags)
        results = json.loads((runs / "usm" / folder / "results.json").read_text())
        assert results["second_try"] is bool(flags)
        stops[folder] = results["stop_reasons"]
    failed = [own["stuck"] + own["length"] for own in stops.values()]
    assert failed[0] > 0.1 and failed[1] < failed[0]


def test_segment_writes_json_lines(runs, tmp_path):
    data = tmp_path / "mine.csv"
    data.write_text(
        'question,answer,id\n"q, a","He has 3 boxes, so 3 * 4 = 12. The answer is 12.",x1\n',
        encoding="utf-8-sig",
    )
    # one question cannot be split into three parts
    assert "1 different questions" in fail("segment.py", "--data", data, "--split", "test")
    assert len(succeed("segment.py", "--data", data).stdout.splitlines()) == 1
    data.write_text(
        data.read_text(encoding="utf-8-sig") + "b,#### 2,x2\nc,#### 3,x3\n", encoding="utf-8-sig"
    )
    rows = [
        json.loads(line) for line in succeed("segment.py", "--data", data).stdout.split("\n")[:-1]
    ]
    assert sorted(r["id"] for r in rows) == ["x1", "x2", "x3"]
    [row] = [r for r in rows if r["id"] == "x1"]
    assert row["pieces"] == [
        {"text": "He has 3 boxes,", "label": "ES", "entropy": None},
        {"text": " so 3 * 4 = 12.", "label": "AS", "entropy": None},
        {"text": " The answer is 12.", "label": "ES", "entropy": None},
    ]
    assert row["segments"] == [{"label": p["label"], "text": p["text"]} for p in row["pieces"]]

    out = tmp_path / "out.jsonl"
    done = succeed(
        f"segment.py --segmentation entropy --scorer {runs / 'direct'} --split test --test-problems 5 --out {out} --show 2"
    )
    assert (
        done.stdout.count("  ES ") >= 2
        and "\033" not in done.stdout
        and "agreement with the true roles: ES" in done.stderr
    )
    for row in map(json.loads, out.read_text().split("\n")[:-1]):
        mean = sum(p["entropy"] for p in row["pieces"]) / len(row["pieces"])
        assert all((p["label"] == "AS") == (p["entropy"] > mean) for p in row["pieces"])
        assert (
            "".join(s["text"] for s in row["segments"]) == row["answer"]
            and row["segments"][0]["label"] == "ES"
        )
    assert "exists" in fail("segment.py", "--out", out)


@pytest.mark.parametrize("script", MAINS)
def test_mistakes_of_a_process_are_one_line_too(script):
    done = process(script, "--device", "abacus")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not done.stdout
    assert done.stderr.startswith("error: --device is 'abacus'; expected one of auto, cpu, cuda")


@pytest.mark.slow
def test_a_process_trains_and_answers(tmp_path):
    done = process("train.py", "--max-steps", 4, "--out-dir", "run", *SMALL, cwd=tmp_path)
    assert done.returncode == 0 and "run folder: run" in done.stdout
    assert "usm 100%, 00:00 left, step 4, loss" in done.stderr
    asked = process("evaluate.py", "--run", "run", "--question", "Tom has 3?", cwd=tmp_path)
    assert asked.returncode == 0 and "stopped by" in asked.stdout and "\033" not in asked.stdout


def test_all_bad_flags_at_once():
    message = fail("train.py --max-steps many --beta -1 --task chess --learning-rate 0")
    assert all(
        part in message
        for part in (
            "--max-steps is 'many'",
            "--beta is '-1'",
            "--task is 'chess'; expected one of mwp, pet",
            "--learning-rate is '0'; expected a number above 0",
        )
    )


@pytest.mark.parametrize(
    "arguments, message",
    [
        (
            ["--mode", "direct", "--segmentation", "entropy"],
            "--segmentation has no effect with --mode direct; remove it",
        ),
        (["--scorer", "x"], "--scorer has no effect without --segmentation entropy"),
        (["--data", "none.csv"], "none.csv: cannot be read"),
        (["--resume", "nowhere"], "config.json: cannot be read"),
        (["--resume", "nowhere", "--mode", "dsm"], "--mode has no effect with --resume"),
        (["--frobnicate"], "--frobnicate is no flag; see --help"),
        (["--max_steps", "3"], "--max_steps is no flag; did you mean --max-steps?"),
        (["usm"], "unexpected argument 'usm'"),
        (["--max-steps", "-1", "--device", "abacus"], "--device is 'abacus'"),
        (["--seed", "9" * 30], "--seed is"),
        (["--beta", "1.4"], "--beta has no effect without --segmentation entropy"),
        (
            ["--scorer", "a", "--segmentation", "entropy", "--out-dir", "a"],
            "--out-dir and --scorer are one place",
        ),
        (["--segmentation", "entropy", "--scorer", "nowhere"], "config.json: cannot be read"),
    ],
)
def test_mistakes_of_train(arguments, message, tmp_path):
    assert message in fail("train.py", *arguments, cwd=tmp_path)
    assert not list(tmp_path.iterdir())  # nothing was begun


def test_runs_are_not_overwritten(runs, tmp_path):
    assert "holds a run already" in fail(f"train.py --mode usm --out-dir {runs / 'usm'}", *SMALL)
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "dear.txt").write_text("keep me")
    assert "is no run folder" in fail(
        f"train.py --out-dir {tmp_path / 'letters'} --overwrite", *SMALL
    )
    (tmp_path / "letters" / "config.json").write_text(
        '{"model_type": "t5"}'
    )  # somebody else's folder
    assert "is no run folder" in fail(
        f"train.py --out-dir {tmp_path / 'letters'} --overwrite", *SMALL
    )
    assert (tmp_path / "letters" / "dear.txt").read_text() == "keep me"


def test_mistakes_about_runs(runs, tmp_path):
    assert "--scorer needs a direct one" in fail(
        f"segment.py --segmentation entropy --scorer {runs / 'usm'}"
    )
    assert "needs --scorer" in fail("segment.py", "--segmentation", "entropy")
    assert "config.json: cannot be read" in fail("evaluate.py", "--run", tmp_path)
    assert "names a folder twice" in fail(f"evaluate.py --run {runs / 'usm'} --run {runs / 'usm'}")
    assert "--data has no effect with --question" in fail(
        f"evaluate.py --run {runs / 'usm'} --question q --data d"
    )

    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (broken / name).write_bytes((runs / "direct" / name).read_bytes())
    assert "direct.best.pt: cannot be read" in fail("evaluate.py", "--run", broken)  # no checkpoint
    (broken / "direct.best.pt").write_bytes((runs / "direct" / "direct.best.pt").read_bytes())
    tokenizer = json.loads((broken / "tokenizer.json").read_text())
    tokenizer["model"]["vocab"]["one more"] = len(tokenizer["model"]["vocab"])
    (broken / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert "a vocabulary of" in fail(
        f"evaluate.py --run {broken}"
    )  # a checkpoint of another vocabulary


@pytest.mark.parametrize(
    "change",
    [
        {"max_rounds": "x"},
        {"model": None},
        {"max_tokens": None},
        {"mode": "both"},
        {"seed": "0"},
        {"surplus": 1},
        {"max_steps": None, "max_minutes": None},
    ],
)
def test_damaged_settings_are_told_in_one_line(runs, tmp_path, change):
    folder = tmp_path / "run"
    folder.mkdir()
    for path in (runs / "direct").iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / "results.json").write_text("[")  # only a source of seconds: no matter
    config = json.loads((folder / "config.json").read_text())
    for name, value in change.items():
        config[name] = config[name] | value if isinstance(value, dict) else value
    (folder / "config.json").write_text(json.dumps(config))
    assert "config.json: " in fail("evaluate.py", "--run", folder, "--question", "q?")


def test_two_runs_of_one_name_and_a_place_that_is_none(runs, tmp_path):
    other = tmp_path / "usm"
    other.mkdir()
    for path in (runs / "usm").iterdir():
        if path.is_file():
            (other / path.name).write_bytes(path.read_bytes())
    assert "two folders of one name" in fail(
        f"evaluate.py --run {runs / 'usm'} --run {other} --out-dir {tmp_path / 'out'}"
    )
    (tmp_path / "file").write_text("")
    assert "is no folder" in fail(
        f"evaluate.py --run {other} --out-dir {tmp_path / 'file' / 'out'}"
    )
    assert "a folder; expected a file" in fail("segment.py", "--out", tmp_path, "--overwrite")


def test_labels_that_leave_a_model_without_pairs(runs, tmp_path):
    arguments = [
        "--mode",
        "dsm",
        "--segmentation",
        "entropy",
        "--scorer",
        runs / "direct",
        "--beta",
        50,
        "--max-steps",
        4,
        "--out-dir",
        tmp_path / "run",
        *SMALL,
    ]
    assert "asm: 0 training and 0 validation rows" in fail("train.py", *arguments)


@pytest.mark.parametrize("script", ["train.py", "segment.py", "evaluate.py"])
def test_help_says_what_each_flag_does_and_its_default(script):
    text = succeed(script, "--help").stdout
    assert all(len(line) <= 80 for line in text.splitlines())
    flags = [entry.split("\n\n")[0].split("\n  -h")[0] for entry in text.split("\n  --")[1:]]
    assert len(flags) >= 14
    assert sum("]" in entry.splitlines()[-1] for entry in flags) >= 5  # a default in brackets
    for entry in flags:  # its text is one line, beside the flag or below it
        name, *rest = entry.split("\n")
        assert len(rest) <= 1 and ("  " in name.strip() or rest), entry


REAL = ROOT.parent / "shared" / "data"


@pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not here")
@pytest.mark.parametrize(
    "name, task, rows",
    [
        ("gsm8k_train.jsonl", "mwp", 7473),
        ("llm_cot.jsonl", "mwp", 1140),  # three state two numbers or more
        ("cpet_part.csv", "pet", 10677),
    ],
)
def test_segmentation_of_the_real_sets_is_lossless(name, task, rows, tmp_path):
    out = tmp_path / "out.jsonl"
    options = ["--task", task, "--data", REAL / name, "--out", out, "--skip-bad-rows"]
    done = succeed("segment.py", *options)
    assert f"pieces joined equal the chain in {rows} of {rows}" in done.stderr
    answers = {
        e.id: e.answer for e in read_examples(REAL / name, task, skip_bad_rows=True).examples
    }
    for row in map(json.loads, out.read_text().split("\n")[:-1]):
        assert "".join(s["text"] for s in row["segments"]) == answers[row["id"]]
