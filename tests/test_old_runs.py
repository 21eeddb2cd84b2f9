"""Run folders stay readable: each format that there has been lies in old_runs/."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import read

from ases.run.folder import FORMAT, load_run
from tests.test_commands import fail, succeed

FOLDERS = sorted((Path(__file__).parent / "old_runs").glob("format-*"))


def test_this_format_is_among_them():
    assert f"format-{FORMAT}" in [folder.name for folder in FOLDERS]


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def run(request, tmp_path):
    return shutil.copytree(request.param, tmp_path / "run")


def test_an_old_run_is_read_asked_scored_and_resumed(run):
    lines = read(run / "predictions.jsonl")
    chains = load_run(run).write([line["question"] for line in lines])
    assert [chain.text for chain in chains] == [line["prediction"] for line in lines]
    data = f"--data {run}/data.jsonl"
    succeed(f"evaluate.py --run {run} {data}")
    done = succeed(f"train.py --resume {run} {data} --max-steps 410")
    assert "usm continues after 400 steps" in done.stderr


@pytest.mark.parametrize("version", [None, FORMAT - 1, FORMAT + 1, "x" * 1000])
def test_another_format_is_refused(run, version):
    content = read(run / "config.json") | {"format": version}
    (run / "config.json").write_text(json.dumps(content))
    message = fail(f"evaluate.py --run {run} --question q")
    assert f"this version reads format {FORMAT}" in message and len(message) < 400
