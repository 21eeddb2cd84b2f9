"""Run folders stay readable: each format that there has been lies in old_runs/."""

import json
import shutil
from pathlib import Path

import pytest

from ases.run.folder import FORMAT, load_run
from tests.test_commands import command, fail, succeed

FOLDERS = sorted((Path(__file__).parent / "old_runs").glob("format-*"))


def test_this_format_is_among_them():
    assert f"format-{FORMAT}" in [folder.name for folder in FOLDERS]


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def run(request, tmp_path):
    return shutil.copytree(request.param, tmp_path / "run")


def test_it_is_read_and_asked(run):
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    chains = load_run(run).write([line["question"] for line in lines])
    assert [chain.text for chain in chains] == [line["prediction"] for line in lines]


def test_it_is_scored_and_resumed(run):
    data = ["--data", run / "data.jsonl"]
    succeed("evaluate.py", "--run", run, *data)
    done = command("train.py", "--resume", run, *data, "--max-steps", 410)
    assert done.returncode == 0 and "usm continues after 400 steps" in done.stderr


@pytest.mark.parametrize("found", [None, FORMAT - 1, FORMAT + 1, "x" * 1000])
def test_another_format_is_told(run, found):
    path = run / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"format": found}))
    told = fail("evaluate.py", "--run", run, "--question", "q")
    assert f"this version reads format {FORMAT}" in told and len(told) < 400
