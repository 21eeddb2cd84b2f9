"""Pulling the plug: a run that is killed at any moment loses nothing, and ends as if it had not been.

`--kills 50` kills more often than the quick default.
"""

import json
import os
import random
import resource
import signal
import time

import pytest

from ases.data import InputError
from ases.run.checkpoints import load_checkpoint
from tests.test_commands import SMALL, command, fail, losses_and_predictions, succeed

pytestmark = pytest.mark.slow

SIZES = ["--size", "micro", "--device", "cpu"]
FLAGS = ["--mode", "dsm", "--segmentation", "entropy", "--max-steps", 40, *SIZES]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Short chains, which are written quickly by models that have learned little."""
    path = tmp_path_factory.mktemp("data") / "short.jsonl"
    rows = [
        {"question": f"{a} and {b}?", "answer": f"{a} + {b}, so {a + b}. The answer is {a + b}."}
        for a in range(9)
        for b in range(9)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ["--data", path]


def forked(*arguments, before=lambda: None):
    """A command in a child process, which has PyTorch already."""
    child = os.fork()
    if child == 0:
        os.close(1)
        os.close(2)
        before()
        try:
            os._exit(command("train.py", *arguments).returncode)
        finally:
            os._exit(70)
    return child


def outcome(folder):
    """All that must be the same, however a run has come to its end."""
    losses, predictions = losses_and_predictions(folder)
    results = json.loads((folder / "results.json").read_text())
    others = ("training", "run")
    timeless = {k: v for k, v in results.items() if "seconds" not in k and k not in others}
    weights = {
        path.name: load_checkpoint(path)["model"] for path in sorted(folder.glob("*.best.pt"))
    }
    tensors = {f"{name} {key}": t.tolist() for name, w in weights.items() for key, t in w.items()}
    return losses, predictions, timeless, tensors


def check_files(folder):
    for path in folder.glob("*.pt"):
        load_checkpoint(path)
    for path in folder.glob("*.json"):
        json.loads(path.read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("whole") / "run"
    started = time.monotonic()
    succeed("train.py", *FLAGS, *data, "--out-dir", folder)
    return folder, time.monotonic() - started


def test_killed_at_random_moments(whole, data, tmp_path, request):
    reference, seconds = whole
    kills, rng = request.config.getoption("--kills"), random.Random(0)
    while kills > 0:
        folder = tmp_path / f"before-{kills}-kills"
        ended = False
        while not ended:
            going = (folder / "config.json").exists()
            child = forked(
                *(["--resume", folder] if going else [*FLAGS, *data, "--out-dir", folder])
            )
            if kills > 0:
                time.sleep(rng.uniform(0, 0.6 * seconds))
                os.kill(child, signal.SIGKILL)
                kills -= 1
            _, status = os.waitpid(child, 0)
            ended = not os.WIFSIGNALED(status)
            assert not ended or os.waitstatus_to_exitcode(status) == 0
            check_files(folder)
        assert outcome(folder) == outcome(reference)
        assert not list(folder.glob(".*"))


@pytest.mark.parametrize("place", (1, 4, 7, 12))
def test_killed_while_a_checkpoint_is_written(whole, data, tmp_path, place):
    """The child kills itself in the write of its nth checkpoint, in the middle of the file."""
    from ases.run import checkpoints

    def before():
        count, save = [0], checkpoints.torch.save

        def half(content, file):
            count[0] += 1
            save(content, file)
            if count[0] == place:
                file.truncate(file.tell() // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoints.torch.save = half

    folder = tmp_path / "run"
    child = forked(*FLAGS, *data, "--out-dir", folder, before=before)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    check_files(folder)
    succeed("train.py", "--resume", folder)
    assert outcome(folder) == outcome(whole[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_save_and_end(whole, data, tmp_path, number):
    reference, seconds = whole
    folder = tmp_path / "run"
    for share in (0.15, 0.3, 0.5):
        going = (folder / "config.json").exists()
        child = forked(*(["--resume", folder] if going else [*FLAGS, *data, "--out-dir", folder]))
        while not (folder / "metrics.jsonl").exists():
            time.sleep(0.01)
        time.sleep(share * seconds)
        os.kill(child, number)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code in (128 + number, -number, 0)
        check_files(folder)
    succeed("train.py", "--resume", folder)
    assert outcome(folder) == outcome(reference)


@pytest.mark.parametrize("step", [1, 4, 5, 10, 13, 20])
def test_a_signal_in_any_update_changes_nothing(data, tmp_path, step, monkeypatch):
    """Also in the last one, and in one after which a validation is due."""
    from ases import training

    flags = ["--mode", "usm", "--max-steps", 20, *data, *SIZES]
    succeed("train.py", *flags, "--out-dir", tmp_path / "whole")
    make_batches, made = training._stream, []

    def signalled(rows, trained):
        for batch in make_batches(rows, trained):
            made.append(batch)
            if len(made) == step:  # the update is about to be made
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(training, "_stream", signalled)
    stopped = command("train.py", *flags, "--out-dir", tmp_path / "run")
    assert stopped.returncode == 143 and f"usm is saved as of step {step}." in stopped.stderr
    monkeypatch.undo()
    succeed("train.py", "--resume", tmp_path / "run")
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_full_disk_is_told_and_loses_nothing(whole, data, tmp_path):
    """A limit on the size of files stands for the disk."""
    folder = tmp_path / "run"
    limit = (whole[0] / "esm.best.pt").stat().st_size + 1000

    def before():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    child = forked(*FLAGS, *data, "--out-dir", folder, before=before)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
    check_files(folder)
    assert not list(folder.glob(".*"))
    succeed("train.py", "--resume", folder)
    assert outcome(folder) == outcome(whole[0])


def test_the_line_of_a_full_disk(tmp_path, monkeypatch):
    from ases.run.checkpoints import save_checkpoint

    def full(content, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ases.run.checkpoints.torch.save", full)
    (tmp_path / "a.pt").write_text("old")
    with pytest.raises(InputError, match=r"a.pt: cannot be written \(No space left"):
        save_checkpoint(tmp_path / "a.pt", {})
    assert [p.name for p in tmp_path.iterdir()] == ["a.pt"]
    assert (tmp_path / "a.pt").read_text() == "old"


def test_the_second_command_on_a_folder_is_refused(tmp_path):
    folder = tmp_path / "run"
    child = forked("--max-steps", 10_000, *SMALL, "--out-dir", folder)
    try:
        while not (folder / "metrics.jsonl").exists():
            time.sleep(0.01)
        told = "another command is using this folder"
        assert told in fail("train.py", "--resume", folder)
        assert told in fail("train.py", "--out-dir", folder, "--overwrite", *SMALL)
        assert (folder / "config.json").exists()
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    succeed("train.py", "--out-dir", folder, "--overwrite", "--max-steps", 4, *SMALL)
