"""Experiments: what they promise, on trials that take seconds."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).parent.parent / "docs" / "results"
sys.path.insert(0, str(FOLDER))

import cuts
import figures
import intervals
import one_trial
import runner
import tables
from trials import EXPERIMENTS, PROBLEMS, Trial

from ases.run.cli import run_command
from ases.tasks import make_splits


def test_trials_have_baselines_and_are_shared():
    every = {name: set(experiment.trials) for name, experiment in EXPERIMENTS.items()}
    for name, trials in every.items():
        for trial in trials:
            assert trial.baseline.mode == "direct" and trial.baseline.baseline == trial.baseline
            if name not in ("sweep", "tasks"):
                assert trial.baseline in trials, (name, trial)
    assert every["words"] == every["longer"] > every["steps"]
    assert every["again"] < every["data"]
    [first, *_], test = EXPERIMENTS["longer"].cell("2,000", "USM, equal updates")
    assert (first.problems, first.epochs, first.equal, first.seed) == (2000, 14, "updates", 0)
    assert test == "longer" and len(EXPERIMENTS["words"].cell("1,000", "direct")[0]) == 15


@pytest.mark.parametrize("name", cuts.CUTS)
def test_other_cuts_lose_nothing(name):
    examples = make_splits("mwp", 30, 3, 3, seed=0, max_number=20)["train"]
    for example, cut in zip(examples, cuts.CUTS[name](examples), strict=True):
        assert "".join(s.text for s in cut.segments) == example.answer
        assert "".join(cut.pieces) == example.answer
    if name == "true roles":
        assert [s.labels for s in cuts.CUTS[name](examples)] == [
            [r for r, _ in e.gold] for e in examples
        ]
    assert cuts.CUTS[name](examples) == cuts.CUTS[name](examples)


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    return tmp_path


SMALL = Trial(problems=80, size="micro", epochs=2)


@pytest.mark.slow
def test_trials_are_run_once(results, monkeypatch):
    chosen = [SMALL.baseline, SMALL, replace(SMALL, labels="entropy", equal="updates")]
    runner.run_missing(chosen, "nowhere", processes=2)
    found = runner.read_results()
    assert set(found) == set(chosen)
    direct, usm, by_entropy = (found[trial] for trial in chosen)
    assert usm["epochs_done"] == {"usm": 2} and usm["updates"] > direct["updates"]
    assert by_entropy["updates"] == direct["updates"]
    assert all(0 < direct["by_role"][kind] < 6 for kind in ("ES", "AS", "computed"))
    assert 0 < direct["by_entropy"]["highest"]["AS"] < 1
    assert {"test", "longer", "1 steps", "8 steps"} <= set(usm["tests"])
    monkeypatch.setattr(runner, "run_trial", pytest.fail)
    runner.run_missing([*chosen, replace(SMALL, data="none.jsonl")], "nowhere", processes=1)
    assert runner.read_results() == found


@pytest.mark.slow
def test_pretraining_sees_no_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(one_trial, "PRETRAINING", 3)
    rows = [
        {
            "question": f"第{i}份：肝内低密度灶，大小约{i}mm，边界清。",
            "answer": f"肝囊肿{i}，考虑良性。",
        }
        for i in range(60)
    ]
    (tmp_path / "reports.jsonl").write_text("\n".join(map(json.dumps, rows)))
    trial = replace(SMALL, task="pet", data="reports.jsonl", size="tiny", epochs=1)
    plain = one_trial.run_trial(trial, str(tmp_path))
    pretrained = one_trial.run_trial(replace(trial, pretrained=True), str(tmp_path))
    assert set(pretrained["tests"]) == {"test", "test, second try", "test, 4 beams"}
    assert pretrained["updates"] == plain["updates"]
    assert pretrained["validation_loss"] != plain["validation_loss"]
    examples = make_splits("pet", 20, 3, 3, seed=0, max_number=20)["train"]
    holed = one_trial._with_holes(examples, one_trial.random.Random(0))
    questions = {e.id: e.question for e in examples}
    for e in holed:
        assert e.answer and sum(map(len, e.question.split("▢"))) + len(e.answer) == len(
            questions[e.id]
        )


LONG = """
import sys
from dataclasses import replace
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import runner
from trials import Trial

runner.RESULTS = Path(sys.argv[1])
short = Trial(problems=30, size="micro", epochs=1)
runner.run_missing([short, replace(short, epochs=10**6)], "nowhere", 2)
"""


@pytest.mark.slow
def test_killed_the_runner_leaves_results_and_no_process(results):
    command = [sys.executable, "-c", LONG, results, FOLDER]
    process = subprocess.Popen(command, start_new_session=True)
    found = results / "trials.jsonl"
    try:
        wait_until(found.exists)
        process.kill()
        process.wait()
        wait_until(lambda: not group_lives(process.pid))
    finally:
        if group_lives(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    assert [trial.epochs for trial in runner.read_results()] == [1]


def wait_until(condition, seconds=120):
    for _ in range(10 * seconds):
        if condition():
            return
        time.sleep(0.1)
    pytest.fail("waited in vain")


def group_lives(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


ACCURACIES = {
    "direct": {"250": 0.2, "500": 0.4, "1,000": 0.6, "2,000": 0.8, "4,000": 0.9},
    "USM, equal updates": {"250": 0.4, "500": 0.6, "1,000": 0.8, "2,000": 0.9, "4,000": 0.9},
}


def fake_results():
    """Trials of five seeds that had about these accuracies."""
    found, rng = {}, np.random.default_rng(0)
    for column, own in ACCURACIES.items():
        for row in PROBLEMS:
            for trial in EXPERIMENTS["words"].cell(row, column)[0][:5]:
                accuracy = own[row] + rng.normal(0, 0.01)
                scores = {"accuracy": accuracy, "bleu": 50.0, "end": 1.0}
                found[trial] = asdict(trial) | {
                    "tests": {"test": scores, "longer": scores},
                    "machine": "a",
                    "seconds": 10.0 if trial.mode == "direct" else 15.0,
                    "segments": 5.0,
                    "updates": 100,
                    "epochs_done": {trial.mode: 2.0},
                }
    return found


def test_cells_are_compared_with_direct():
    found = fake_results()
    cell = intervals.find_cell(found, "words", "500", "USM, equal updates")
    assert np.mean(cell.differences) == pytest.approx(0.2, abs=0.03)
    assert cell.significant and cell.time == 1.5
    assert intervals.find_cell(found, "words", "500", "DSM, equal epochs") is None
    direct = intervals.find_cell(found, "words", "500", "direct")
    assert not direct.significant and np.isnan(direct.time)
    level = intervals.find_cell(found, "words", "4,000", "USM, equal updates")
    assert not level.significant
    text = tables.table("words", found)
    assert text.count("**") == 8 and text.count("× 1.50") == 5  # bold: all but 4,000
    assert "trials are missing" in text
    assert "500" in tables.long_tables(found)
    for row, ratio, low, high in intervals.problems_to_match(found, "USM, equal updates"):
        assert low <= ratio <= high and ratio == pytest.approx(2, rel=0.25), row


def test_figures_are_drawn(tmp_path):
    figures.draw("words", fake_results(), tmp_path / "words.svg")
    assert (tmp_path / "words.svg").read_text().startswith("<?xml")
    figures.draw("size", {}, tmp_path / "size.svg")
    assert not (tmp_path / "size.svg").exists()


def test_numbers_find_their_places():
    text = "a <!-- words/500/direct/score -->?<!-- end --> b\n<!-- words -->\nold\n<!-- end -->\nc"
    filled = tables.filled(text, fake_results())
    assert "a <!-- words/500/direct/score -->0.4" in filled and filled.endswith("<!-- end -->\nc")
    assert "old" not in filled and "| 4,000 |" in filled
    assert tables.filled(filled, fake_results()) == filled


def test_intervals():
    assert np.isnan(intervals.mean_interval([3.0])[1])
    # By hand: mean 3, deviation 1.5811, Student's t for five values 2.776.
    assert intervals.mean_interval([1.0, 2, 3, 4, 5]) == (
        3,
        pytest.approx(2.776 * 1.5811 / 5**0.5, rel=1e-3),
    )


def test_pages_show_what_the_trials_found():
    """README, results.md and tables.md are what --only-report makes of trials.jsonl."""
    found = runner.read_results()
    for page in tables.PAGES:
        assert tables.filled(page.read_text(), found) == page.read_text()
    assert tables.long_tables(found) == (FOLDER / "tables.md").read_text()
    drawn = {
        name
        for name, experiment in EXPERIMENTS.items()
        if experiment.figure and set(experiment.trials) & set(found)
    }
    assert drawn == {path.stem for path in FOLDER.glob("*.svg")}


def test_mistakes(results, monkeypatch, capsys):
    good = json.dumps(asdict(SMALL) | {"format": 2})
    for content, told in (
        ("[]", "trials.jsonl:1: not a trial's JSON"),
        (good, "trials.jsonl:1: trial version 2; expected 3"),
    ):
        (results / "trials.jsonl").write_text(content + "\n")
        with pytest.raises(SystemExit) as end:
            run_command(runner.read_results)
        assert end.value.code == 2
        assert told in capsys.readouterr().err
    done = subprocess.run(
        [sys.executable, FOLDER, "words", "--processes", "0"],
        env=os.environ | {"PYTHONPATH": str(FOLDER.parent.parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and "--processes is 0" in done.stderr
