"""Experiments: what they promise, on trials that take seconds."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from ases.experiments import figures, intervals, runner, tables, trials
from ases.experiments.__main__ import PAGE, insert, main
from ases.experiments.cuts import CUTS
from ases.experiments.one_trial import run_trial
from ases.experiments.trials import EXPERIMENTS, Experiment, Trial, recipe
from ases.run.command import run_command
from ases.tasks import make_splits


def test_keys_name_trials():
    for name, experiment in EXPERIMENTS.items():
        keys = [trial.key for trial in experiment.trials]
        assert len(set(keys)) == len(keys), name
    first = EXPERIMENTS["main"].trials[0]
    assert replace(first, row="other", x=3.0).key == first.key
    assert replace(first, recipe=recipe("direct", 1)).key != first.key
    shared = {t.key for t in EXPERIMENTS["main"].trials}
    length = {t.key for t in EXPERIMENTS["length"].trials}
    assert len(length & shared) == 35
    assert len(length & {t.key for t in EXPERIMENTS["data"].trials}) == 10
    assert {t.key for t in EXPERIMENTS["curves"].trials} <= shared


@pytest.mark.parametrize("name", CUTS)
def test_other_cuts_lose_nothing(name):
    examples = make_splits("mwp", 30, 3, 3, seed=0, max_number=20)["train"]
    for example, cut in zip(examples, CUTS[name](examples), strict=True):
        assert "".join(s.text for s in cut.segments) == example.answer
        assert "".join(cut.pieces) == example.answer
    if name == "true roles":
        assert [s.labels for s in CUTS[name](examples)] == [
            [r for r, _ in e.gold] for e in examples
        ]
    assert CUTS[name](examples) == CUTS[name](examples)


def small(trial: Trial) -> Trial:
    settings = replace(trial.recipe.training, max_steps=4)
    model = dict(trial.recipe.model, d_model=16, d_ff=16, num_layers=1, num_decoder_layers=1)
    return replace(
        trial,
        problems=30,
        recipe=replace(trial.recipe, training=settings, model=model, max_rounds=2, max_tokens=4),
    )


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "RESULTS", tmp_path)
    return tmp_path


def test_trials_are_run_once_and_reported(results, monkeypatch, capsys):
    rows = ("mwp direct", "mwp usm, interleave", "mwp usm, entropy", "pet usm, interleave")
    chosen = [small(t) for t in trials.main_trials() if t.row in rows and t.seed < 2]
    found = runner.run_missing(chosen, "nowhere", processes=2)
    assert set(found) == {t.key for t in chosen}
    monkeypatch.setattr(runner, "run_trial", pytest.fail)
    assert runner.run_missing(chosen, "nowhere", processes=1) == found
    absent = replace(chosen[0], data="none.jsonl")
    assert runner.run_missing([absent], "nowhere", processes=1) == found

    for experiment in (
        Experiment("All modes", chosen),
        Experiment("Lengths", chosen[:3], "axis", "steps"),
        Experiment("Losses", chosen[:3], "losses"),
        Experiment("Entropy", [t for t in chosen if t.row == "mwp direct"], "scorers"),
    ):
        text = tables.table(experiment, found)
        assert text.count("\n|") >= 2 and "missing" not in text
        if experiment.kind == "scorers":
            continue
        figures.draw(experiment, found, results / "figure.svg")
        assert (results / "figure.svg").read_text().startswith("<?xml")
    direct = found[chosen[0].key]
    assert direct["by_role"]["ES"]["tokens"] > direct["by_role"]["computed"]["tokens"] > 100
    assert {"test", "longer", "1 steps", "8 steps"} <= set(direct["tests"])


LONG = """
import sys
from dataclasses import replace
from pathlib import Path
from ases.experiments import runner
from ases.experiments.trials import Trial, recipe

runner.RESULTS = Path(sys.argv[1])
short, long = Trial("short", recipe("usm", 0, 1)), Trial("long", recipe("usm", 0, 10**6))
print(runner.run_missing([replace(t, problems=30) for t in (short, long)], "nowhere", 2))
"""


def test_killed_the_runner_leaves_results_and_no_process(results):
    process = subprocess.Popen([sys.executable, "-c", LONG, results], start_new_session=True)
    found = results / "trials.jsonl"
    try:
        wait_until(found.exists)
        process.kill()
        process.wait()
        wait_until(lambda: not group_lives(process.pid))
    finally:
        if group_lives(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
    assert [row["row"] for row in runner.read_results().values()] == ["short"]


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


def test_epochs_in_place_of_updates():
    trial = replace(small(Trial("usm", recipe("usm", 0))), epochs=3)
    assert run_trial(trial, "nowhere")["epochs"] == {"usm": 3.0}


def fake(accuracies: dict, seeds=3, n=400):
    """Trials along an axis that had these accuracies."""
    rows = {}
    for mode, own in accuracies.items():
        rows[mode] = []
        for seed in range(seeds):
            for x, accuracy in own.items():
                hits = np.random.default_rng((seed, int(x))).random(n) < accuracy
                each = "".join("01"[int(h)] for h in hits)
                trial = Trial(mode, recipe(mode, seed), x=x)
                rows[mode].append((trial, {"tests": {"test": {"each": each}}}))
    return rows


def test_how_many_problems_direct_needs():
    rows = fake(
        {
            "direct": {250: 0.2, 500: 0.4, 1000: 0.6, 2000: 0.8},
            "usm": {250: 0.4, 500: 0.6, 1000: 0.8, 2000: 0.9},
        }
    )
    ratios = intervals.problems_to_match(rows)
    assert [n for n, *_ in ratios] == [250, 500, 1000]
    for n, ratio, low, high in ratios:
        assert low - 1e-9 <= ratio <= high + 1e-9 and ratio == pytest.approx(2, rel=0.25), n
    assert intervals.problems_to_match({}) == []


def test_intervals():
    rows = fake({"direct": {1: 0.5}, "usm": {1: 0.7}})
    mean, low, high, _ = intervals.difference_interval(rows["usm"], rows["direct"], "test")
    assert low < mean < high and low > 0 and mean == pytest.approx(0.2, abs=0.05)
    mean, low, high, _ = intervals.difference_interval(rows["usm"], rows["usm"], "test")
    assert mean == low == high == 0
    assert intervals.difference_interval(rows["usm"], [], "test") is None
    shorter = fake({"direct": {1: 0.5}, "usm": {1: 0.7}}, seeds=1, n=300)
    both = {name: found[1:] + shorter[name] for name, found in rows.items()}
    assert intervals.difference_interval(both["usm"], both["direct"], "test")[1] > 0
    # Of two seeds it is over their 800 problems, of which USM alone solves one in five.
    two = {name: found[:2] for name, found in rows.items()}
    mean, low, high, _ = intervals.difference_interval(two["usm"], two["direct"], "test")
    assert low < mean < high and high - low == pytest.approx(0.055, abs=0.01)
    assert np.isnan(intervals.mean_interval([3.0])[1])
    # By hand: mean 3, deviation 1.5811, Student's t for five values 2.776.
    assert intervals.mean_interval([1.0, 2, 3, 4, 5]) == (
        3,
        pytest.approx(2.776 * 1.5811 / 5**0.5, rel=1e-3),
    )


def test_the_page_shows_what_the_trials_found(tmp_path, monkeypatch):
    """docs/results.md is what --only-report makes of docs/results/trials.jsonl."""
    page = shutil.copy(PAGE, tmp_path / "results.md")
    monkeypatch.setattr("ases.experiments.__main__.PAGE", page)
    monkeypatch.setattr("ases.experiments.__main__.RESULTS", tmp_path)
    monkeypatch.setattr("sys.argv", ["experiments", "all", "--only-report"])
    main()
    assert page.read_text() == PAGE.read_text()
    shown = {path.name for path in tmp_path.glob("*.svg")}
    assert shown == {path.name for path in (PAGE.parent / "results").glob("*.svg")}


def test_mistakes(results, monkeypatch, capsys):
    (results / "trials.jsonl").write_text('{"key": "a"}\n[]\n')
    for arguments, told in (
        (["mein"], "invalid choice: 'mein'"),
        (["main", "--processes", "0"], "--processes is 0"),
        (["main", "--only-report"], "trials.jsonl:2: not what a trial found"),
    ):
        monkeypatch.setattr("sys.argv", ["experiments", *arguments])
        with pytest.raises(SystemExit) as end:
            run_command(main)
        assert end.value.code == 2
        assert told in capsys.readouterr().err


def test_a_table_is_put_in_its_place(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x -->\nold\n<!-- end -->\nb\n<!-- y -->\n<!-- end -->\n")
    insert(page, "x", "| new |\n")
    assert (
        page.read_text()
        == "a\n<!-- x -->\n\n| new |\n\n<!-- end -->\nb\n<!-- y -->\n<!-- end -->\n"
    )
