"""Several processes: torchrun on one machine, with gloo."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import read

from tests.test_commands import ROOT, succeed

pytestmark = pytest.mark.slow

#: Batches of few rows: with three processes, some have none.
FLAGS = "--task mwp --size micro --train-problems 40 --test-problems 5 --batch-tokens 200"
FLAGS += " --device cpu --max-steps 50"
ENTROPY = "--mode dsm --segmentation entropy"

#: train.py, in which something happens to one process after an update.
SCRIPT = """
import os, signal, train
from ases.run.cli import run_command
from ases.training import Training

add_time = Training.add_time

def interrupted(self, since):
    if os.environ["RANK"] == "{rank}" and self.step == 8:
        os.kill({process}, signal.{signal})
    return add_time(self, since)

Training.add_time = interrupted
run_command(train.main)
"""


def torchrun(n, flags="", script=ROOT / "train.py", fails=False):
    launch = f"-m torch.distributed.run --nproc-per-node {n} --standalone {script} {flags}"
    options = dict(env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=ROOT, timeout=300)
    line = [sys.executable, *launch.split()]
    done = subprocess.run(line, capture_output=True, text=True, **options)
    assert bool(done.returncode) == fails, done.stderr
    return done


def losses(folder: Path) -> dict:
    kinds = "loss", "validation_loss"
    log = [(row, kind) for row in read(folder / "metrics.jsonl") for kind in kinds if kind in row]
    return {(row["model"], row["step"], kind): row[kind] for row, kind in log}


def alike(folder: Path, reference: Path) -> None:
    """The same losses but for rounding, and the same chains."""
    ours = losses(folder)
    assert ours == pytest.approx(losses(reference), rel=1e-5) and len(ours) >= 20
    for name in ("predictions.jsonl", "predictions-longer.jsonl"):
        assert (folder / name).read_bytes() == (reference / name).read_bytes()
    assert set(os.listdir(folder)) == set(os.listdir(reference))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The runs of one process."""
    folder = tmp_path_factory.mktemp("alone")
    succeed(f"train.py {FLAGS} {ENTROPY} --out-dir {folder}/dsm")
    succeed(f"train.py {FLAGS} --out-dir {folder}/usm")
    return folder


@pytest.mark.parametrize("n, mode, flags", [(2, "usm", ""), (3, "dsm", ENTROPY)])
def test_several_processes_learn_what_one_learns(alone, tmp_path, n, mode, flags):
    done = torchrun(n, f"{FLAGS} {flags} --out-dir {tmp_path}/run")
    assert done.stdout.count("accuracy ") == 1  # one of them speaks
    alike(tmp_path / "run", alone / mode)


def interrupted(run, rank, process, signal):
    """Two processes, of which one does harm after its eighth update."""
    script = run.parent / "script.py"
    script.write_text(SCRIPT.format(rank=rank, process=process, signal=signal))
    return torchrun(2, f"{FLAGS} --out-dir {run}", script, fails=True)


def test_a_killed_process_ends_the_run_and_one_goes_on(alone, tmp_path):
    interrupted(tmp_path / "run", 1, "os.getpid()", "SIGKILL")
    succeed(f"train.py --resume {tmp_path}/run")
    alike(tmp_path / "run", alone / "usm")


def test_processes_that_are_asked_to_stop_save_and_others_go_on(alone, tmp_path):
    done = interrupted(tmp_path / "run", 0, "os.getppid()", "SIGTERM")
    saved = re.search(r"usm is saved as of step (\d+)", done.stderr).group(1)
    done = torchrun(3, f"--resume {tmp_path}/run")
    assert f"usm continues after {saved} steps" in done.stderr
    alike(tmp_path / "run", alone / "usm")


def test_mistakes_are_one_line_and_other_commands_are_for_one_process():
    message = torchrun(2, "--data none.jsonl", fails=True).stderr
    assert message.count("error: ") == 1 and "none.jsonl: cannot be read" in message
    message = torchrun(2, "--split test", ROOT / "segment.py", fails=True).stderr
    assert "start it without torchrun" in message


TOGETHER = """
import torch
from torch import distributed
from ases import parallel
distributed.init_process_group("gloo")
rank, n = parallel.rank(), parallel.world_size()
assert parallel.all_sum(rank + 1) == 6 and type(parallel.all_sum(2)) is int
assert parallel.all_sum(torch.tensor([0.5, rank])).tolist() == [1.5, 3.0]
assert parallel.value_of_rank_0(10.0 + rank) == 10.0
for count in range(8):
    part = parallel.shard(list(range(count)))
    assert parallel.gather([i * i for i in part], count) == [i * i for i in range(count)]
parallel.check_same_data("usm", [1])
try:
    parallel.check_same_data("usm", [rank // 2])
except ValueError as error:
    assert "usm: processes 2 and 0 have different data" in str(error)
    print("noticed", flush=True)
distributed.destroy_process_group()
"""


def test_processes_share_sums_and_lists(tmp_path):
    (tmp_path / "script.py").write_text(TOGETHER)
    assert torchrun(3, script=tmp_path / "script.py").stdout.count("noticed") == 3
