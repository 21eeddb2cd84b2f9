"""Several processes: torchrun on one machine, with gloo."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.test_commands import ROOT, succeed

pytestmark = pytest.mark.slow

#: Batches of few rows: with three processes, some have none.
FLAGS = "--task mwp --size micro --train-problems 40 --test-problems 5 --batch-tokens 200".split()
FLAGS += ["--device", "cpu", "--max-steps", "50"]
ENTROPY = ["--mode", "dsm", "--segmentation", "entropy"]

#: train.py, in which something happens to one process after an update.
SCRIPT = """
import os, signal, sys
sys.path.insert(0, {root!r})
import train
from ases.run.cli import run_command
from ases.training import Training

add_time = Training.add_time

def interrupted(self, since):
    if os.environ["RANK"] == "{rank}" and self.step == {step}:
        os.kill({process}, signal.{signal})
    return add_time(self, since)

Training.add_time = interrupted
run_command(train.main, alone=False)
"""


def torchrun(n, *arguments, script=ROOT / "train.py", timeout=60):
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", n]
    launch += ["--standalone", script, *arguments]
    done = subprocess.run(
        list(map(str, launch)), cwd=ROOT, capture_output=True, text=True, timeout=timeout
    )
    return done


def losses(folder: Path) -> dict:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        (row["model"], row["step"], name): row[name]
        for row in rows
        for name in ("loss", "validation_loss")
        if name in row
    }


def alike(folder: Path, reference: Path) -> None:
    """The same losses but for rounding, and the same chains."""
    ours, theirs = losses(folder), losses(reference)
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert len(ours) >= 20
    for name in ("predictions.jsonl", "predictions-longer.jsonl"):
        assert (folder / name).read_bytes() == (reference / name).read_bytes()
    names = [sorted(path.name for path in place.iterdir()) for place in (folder, reference)]
    assert names[0] == names[1]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The runs of one process."""
    folder = tmp_path_factory.mktemp("alone")
    succeed("train.py", *FLAGS, *ENTROPY, "--out-dir", folder / "dsm")
    succeed("train.py", *FLAGS, "--out-dir", folder / "usm")
    return folder


@pytest.mark.parametrize("n, mode, flags", [(2, "usm", []), (3, "dsm", ENTROPY)])
def test_several_processes_learn_what_one_learns(alone, tmp_path, n, mode, flags):
    done = torchrun(n, *FLAGS, *flags, "--out-dir", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("accuracy ") == 1  # one of them speaks
    alike(tmp_path / "run", alone / mode)


@pytest.mark.parametrize("who, number", [("os.getpid()", "SIGKILL"), ("os.getppid()", "SIGTERM")])
def test_a_lost_process_ends_the_run_and_others_go_on(alone, tmp_path, who, number):
    """One is killed; or all are asked to stop, and the first saves."""
    script = tmp_path / "script.py"
    rank = 1 if number == "SIGKILL" else 0
    script.write_text(SCRIPT.format(root=str(ROOT), rank=rank, step=8, process=who, signal=number))
    run = tmp_path / "run"
    done = torchrun(2, *FLAGS, "--out-dir", run, script=script)
    assert done.returncode != 0
    if number == "SIGTERM":
        saved = re.search(r"usm is saved as of step (\d+)", done.stderr).group(1)
        done = torchrun(3, "--resume", run)
        assert done.returncode == 0, done.stderr
        assert f"usm continues after {saved} steps" in done.stderr
    else:
        succeed("train.py", "--resume", run)
    alike(run, alone / "usm")


def test_mistakes_are_one_line(tmp_path):
    done = torchrun(2, "--data", tmp_path / "none.jsonl")
    assert done.returncode != 0
    assert done.stderr.count("error: ") == 1 and "none.jsonl: cannot be read" in done.stderr


def test_other_commands_are_for_one_process(tmp_path):
    done = torchrun(2, "--split", "test", script=ROOT / "segment.py")
    assert done.returncode != 0 and "start it without torchrun" in done.stderr


TOGETHER = """
import sys
sys.path.insert(0, {root!r})
import torch
from torch import distributed
from ases import parallel
distributed.init_process_group("gloo")
rank, n = parallel.rank(), parallel.count()
assert parallel.total(rank + 1) == 6 and type(parallel.total(2)) is int
assert parallel.total(torch.tensor([0.5, rank])).tolist() == [1.5, 3.0]
assert parallel.first(10.0 + rank) == 10.0
for count in range(8):
    own = parallel.own_part(list(range(count)))
    assert parallel.gather([i * i for i in own], count) == [i * i for i in range(count)]
parallel.check_alike("usm", [1])
try:
    parallel.check_alike("usm", [rank // 2])
except ValueError as error:
    assert "usm: processes 2 and 0 have different data" in str(error)
    print("noticed", flush=True)
distributed.destroy_process_group()
"""


def test_what_processes_tell_each_other(tmp_path):
    (tmp_path / "script.py").write_text(TOGETHER.format(root=str(ROOT)))
    done = torchrun(3, script=tmp_path / "script.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("noticed") == 3
