"""Experiments: what they promise, on trials that take seconds."""

import itertools
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from conftest import write_lines

FOLDER = Path(__file__).parent.parent / "docs" / "results"
sys.path.insert(0, str(FOLDER))

import convert
import cuts
import figures
import intervals
import one_trial
import runner
import tables
from trials import BUDGETS, EXPERIMENTS, MODES, PROBLEMS, Trial

from ases.run.cli import run_command
from ases.tasks import make_splits


def test_trials_have_baselines_and_are_shared():
    every = {name: set(experiment.trials) for name, experiment in EXPERIMENTS.items()}
    for name, trials in every.items():
        for trial in trials:
            assert trial.baseline.mode == "direct" and trial.baseline.baseline == trial.baseline
            if name not in ("sweep", "tasks", "curve") and not name.startswith("rates"):
                assert trial.rival in trials, (name, trial)
    assert every["words"] == every["longer"] > every["steps"]
    assert every["again"] < every["data"]
    [first, *_], test = EXPERIMENTS["longer"].cell("2,000", "USM, equal updates")
    assert (first.problems, first.epochs, first.equal, first.seed) == (2000, 14, "updates", 0)
    assert test == "longer" and len(EXPERIMENTS["words"].cell("1,000", "direct")[0]) == 8


@pytest.mark.parametrize("name", cuts.CUTS)
def test_other_cuts_lose_nothing(name):
    examples = make_splits("mwp", 30, 3, 3, seed=0, max_number=20)["train"]
    cut = cuts.cut_by(name, examples)
    for example, segmented in zip(examples, cut, strict=True):
        assert (
            "".join(s.text for s in segmented.segments)
            == "".join(segmented.pieces)
            == example.answer
        )
        assert name != "true roles" or segmented.labels == [role for role, _ in example.gold]
    assert cuts.cut_by(name, examples) == cut


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    return tmp_path


SMALL = Trial(problems=80, size="micro", epochs=2)


@pytest.mark.slow
def test_trials_are_run_once(results, monkeypatch):
    chosen = [SMALL.baseline, SMALL, replace(SMALL, labels="entropy", equal="updates")]
    runner.run_missing(chosen, "nowhere", processes=2)
    finished = runner.read_results()
    assert set(finished) == set(chosen)
    direct, usm, by_entropy = (finished[trial] for trial in chosen)
    assert usm["epochs_done"] == {"usm": 2} and usm["updates"] > direct["updates"]
    assert by_entropy["updates"] == direct["updates"]
    assert all(0 < direct["by_role"][kind] < 6 for kind in ("ES", "AS", "computed"))
    assert 0 < direct["by_entropy"]["highest"]["AS"] < 1
    assert {"test", "longer", "1 steps", "8 steps"} <= set(usm["tests"])
    monkeypatch.setattr(runner, "run_trial", pytest.fail)
    runner.run_missing([*chosen, replace(SMALL, data="none.jsonl")], "nowhere", processes=1)
    assert runner.read_results() == finished


@pytest.mark.slow
def test_pretraining_sees_no_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(one_trial, "PRETRAINING", 3)
    texts = [(f"第{i}份：肝内低密度灶，大小约{i}mm。", f"肝囊肿{i}，考虑良性。") for i in range(60)]
    write_lines(tmp_path / "reports.jsonl", [dict(question=q, answer=a) for q, a in texts])
    trial = replace(SMALL, task="pet", data="reports.jsonl", size="tiny", epochs=1)
    plain = one_trial.run_trial(trial, str(tmp_path))
    pretrained = one_trial.run_trial(replace(trial, pretrained=True), str(tmp_path))
    assert set(pretrained["tests"]) == {"validation", "test", "test, second try"}
    assert pretrained["updates"] == plain["updates"]
    assert pretrained["validation_loss"] != plain["validation_loss"]
    examples = make_splits("pet", 20, 3, 3, seed=0, max_number=20)["train"]
    holed = one_trial._with_holes(examples, one_trial.random.Random(0))
    lengths = {e.id: len(e.question) for e in examples}
    for e in holed:
        left = len(e.question) - e.question.count(one_trial.BLANK)
        assert e.answer and left + len(e.answer) == lengths[e.id]


#: Runs a short trial and an endless one.
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
def test_killed_the_process_leaves_results_and_no_process(results):
    command = [sys.executable, "-c", LONG, results, FOLDER]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE)
    try:
        while not (results / "trials.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.1)
        process.kill()
        process.communicate(timeout=120)  # until the last process has closed its output
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert [trial.epochs for trial in runner.read_results()] == [1]


ACCURACIES = {
    "direct": dict(zip(PROBLEMS, (0.2, 0.4, 0.6, 0.8, 0.9))),
    "USM, equal updates": dict(zip(PROBLEMS, (0.4, 0.6, 0.8, 0.9, 0.9))),
}


@pytest.fixture
def finished():
    """Trials of five seeds that had about these accuracies."""
    finished, rng = {}, np.random.default_rng(0)
    same = dict(session="a", segments=5.0, updates=100)
    same |= dict(by_role=dict.fromkeys(("ES", "AS", "computed"), 0.1))
    rules = "mean", "sum", "first token", "highest", "position"
    same |= dict(by_entropy={rule: {"ES": 0.5, "AS": 0.5} for rule in rules})
    for column, row in itertools.product(ACCURACIES, PROBLEMS):
        for trial in EXPERIMENTS["words"].cell(row, column)[0][:5]:
            accuracy = ACCURACIES[column][row] + rng.normal(0, 0.01)
            scores = {"accuracy": accuracy, "bleu": 50.0, "end": 1.0}
            result = {"tests": {"test": scores, "longer": scores}, "epochs_done": {trial.mode: 2.0}}
            result["seconds"] = 10.0 if trial.mode == "direct" else 15.0
            finished[trial] = asdict(trial) | same | result
    return finished


def test_cells_are_compared_with_direct(finished):
    cell = intervals.find_cell(finished, "words", "500", "USM, equal updates")
    assert np.mean(cell.differences) == pytest.approx(0.2, abs=0.03)
    assert cell.time == 1.5
    assert intervals.find_cell(finished, "words", "500", "DSM, equal epochs") is None
    direct = intervals.find_cell(finished, "words", "500", "direct")
    assert not direct.differences and np.isnan(direct.time)
    rows = {row for row, _ in intervals.significant(finished, "words")}
    assert rows == set(PROBLEMS) - {"4,000"}  # where both modes are level
    text = tables.TABLES["words"](finished)
    assert text.count("**") == 8 and text.count("× 1.50") == 5 and "500 (5 seeds)" in text
    assert "500" in tables.long_tables(finished)


def test_many_comparisons_need_stronger_evidence(finished):
    """Holm: what one test alone would call different need not be so among twenty."""
    for column, row in itertools.product(list(MODES)[4:], PROBLEMS):  # level with direct
        for n, trial in enumerate(EXPERIMENTS["words"].cell(row, column)[0][:5]):
            like = dict(finished[trial.baseline])
            like["tests"] = {"test": {"accuracy": 0.5 + 0.01 * n, "bleu": 1.0, "end": 1.0}}
            finished[trial] = like
    place = "250", "USM, equal updates"
    trials, _ = EXPERIMENTS["words"].cell(*place)
    gains = 0.002, 0.01, 0.012, 0.02, 0.03  # p = 0.03
    for trial, gain in zip(trials, gains, strict=True):
        score = finished[trial.baseline]["tests"]["test"]["accuracy"] + gain
        finished[trial]["tests"] = {"test": {"accuracy": score, "bleu": 1.0, "end": 1.0}}
    assert intervals.stats.ttest_1samp(gains, 0).pvalue < 0.05
    assert place not in intervals.significant(finished, "words")


def test_with_all_the_time_the_budget_is_chosen_on_validation(finished):
    for n, validation in zip(BUDGETS, (0.1, 0.3, 0.5, 0.4, 0.2)):
        trials, _ = EXPERIMENTS["curve"].cell("500 problems, USM", f"{n:,} updates")
        tests = {"validation": validation, "test": 1 - validation, "longer": 0.1}
        for trial in trials:
            finished[trial] = {"tests": {name: {"accuracy": a} for name, a in tests.items()}}
            finished[trial] |= {"seconds": 1.0, "session": "a"}
    text = tables.TABLES["all the time"](finished)
    assert "| 500 problems, USM (3 seeds) | 1,000 | 0.500 ± 0.000 | 0.100 ± 0.000 |" in text


def test_logs_of_a_language_model_become_json_lines(tmp_path):
    entry = "{n}st data\n1_th_sampling\nQ: {q} ?\nA: Let's think step by step. \n\nTom has 3. \n\n"
    entry += "3 - 1 = 2 \nTherefore, the answer (arabic numerals) is: \n2.\npred_before : : \n2.\n"
    entry += "pred_after : 2\npred_list : ['2']\npred_mode : 2\nGT : {gold}\n***\n"
    log = tmp_path / "addsub_zero_shot_cot.log"
    log.write_text("***\n" + entry.format(n=1, q="a", gold=2) + entry.format(n=2, q="b", gold=5))
    [row] = convert.rows_of(log)
    answer = "Tom has 3. \n\n3 - 1 = 2 \nThe answer is : \n2."
    assert row == {"id": "addsub-0", "question": "a ?", "answer": answer, "gold": "2"}


def test_figures_are_drawn(finished, tmp_path):
    for trial in EXPERIMENTS["curve"].trials:
        finished[trial] = {"tests": {"test": {"accuracy": 0.5}}, "session": "b", "seconds": 1.0}
    figures.draw("curve", finished, tmp_path / "curve.svg")
    text = (tmp_path / "curve.svg").read_text()
    assert "1,000 problems, DSM" in text and len(text) < 120_000  # text as text
    figures.draw("encoder", {}, tmp_path / "encoder.svg")
    assert not (tmp_path / "encoder.svg").exists()


def test_numbers_find_their_places(finished):
    text = "a <!-- words/500/direct/cell -->?<!-- end --> b\n<!-- words -->\nold\n<!-- end -->\nc"
    filled = tables.filled(text, finished)
    assert "<!-- words/500/direct/cell -->0.4" in filled and filled.endswith("<!-- end -->\nc")
    assert "old" not in filled and "| 4,000 (5 seeds) |" in filled
    assert tables.filled(filled, finished) == filled


def test_intervals():
    assert np.isnan(intervals.mean_interval([3.0])[1])
    # By hand: mean 3, deviation 1.5811, Student's t for five values 2.776.
    mean, reach = intervals.mean_interval([1.0, 2, 3, 4, 5])
    assert mean == 3 and reach == pytest.approx(2.776 * 1.5811 / 5**0.5, rel=1e-3)


def test_pages_show_what_the_trials_found():
    """README, results.md and tables.md are what --only-report makes of trials.jsonl."""
    finished = runner.read_results()
    for page in tables.PAGES:
        assert tables.filled(page.read_text(), finished) == page.read_text()
    assert tables.long_tables(finished) == (FOLDER / "tables.md").read_text()
    drawn = {name for name in figures.FIGURES if set(EXPERIMENTS[name].trials) & set(finished)}
    assert {path.stem for path in FOLDER.glob("*.svg")} == drawn


def test_mistakes(results, capsys, monkeypatch):
    main, other = runpy.run_path(str(FOLDER))["main"], json.dumps(asdict(SMALL) | {"format": 2})
    mistakes = [("[]", "2", "trials.jsonl:1: not a trial of version 4")]
    mistakes += [(other, "2", "trials.jsonl:1: not a trial of version 4")]
    mistakes += [("", "0", "--processes is 0")]
    for content, processes, told in mistakes:
        (results / "trials.jsonl").write_text(content + "\n")
        monkeypatch.setattr("sys.argv", ["results", "words", "--processes", processes])
        with pytest.raises(SystemExit) as end:
            run_command(main)
        assert end.value.code == 2 and told in capsys.readouterr().err
