"""Pulling the plug: a run that is killed at any moment loses nothing, and ends as if it had not been.

`--kills 50` kills more often than the quick default.
"""

import os
import random
import resource
import signal
import time

import pytest
from conftest import read, write_lines

from ases import training
from ases.data import InputError
from ases.run import checkpoints
from ases.run.checkpoints import load_checkpoint
from tests.test_commands import SMALL, command, fail, losses_and_predictions, start, succeed

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def new(tmp_path_factory):
    """Begins a run on short chains, which models that have learned little write quickly."""
    sums = [(a, b, a + b) for a in range(9) for b in range(9)]
    texts = [(f"{a} and {b}?", f"{a} + {b}, so {c}. The answer is {c}.") for a, b, c in sums]
    rows = [{"question": question, "answer": answer} for question, answer in texts]
    data = write_lines(tmp_path_factory.mktemp("data") / "short.jsonl", rows)
    options = f"--mode dsm --segmentation entropy --max-steps 40 --data {data}"
    return f"train.py {options} --size micro --device cpu --out-dir"


def begin(line, before=lambda: None):
    """Start a command in a child process, which has PyTorch already."""
    child = os.fork()
    if child == 0:
        os.closerange(1, 3)
        before()
        try:
            os._exit(command(line).returncode)
        finally:
            os._exit(70)
    return child


def ended(child):
    """The exit code of a child process; a signal's number with a minus."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def outcome(folder):
    """All that must be the same, however a run has come to its end."""
    results = read(folder / "results.json")
    timed = {name for name in results if "seconds" in name} | {"training", "run"}
    timeless = {name: value for name, value in results.items() if name not in timed}
    weights = {path.name: load_checkpoint(path)["model"] for path in folder.glob("*.best.pt")}
    tensors = {(name, key): t.tolist() for name, w in weights.items() for key, t in w.items()}
    return *losses_and_predictions(folder), timeless, tensors


def check_files(folder):
    list(map(load_checkpoint, folder.glob("*.pt")))
    list(map(read, folder.glob("*.json")))


def check_resumed(folder, expected):
    check_files(folder)
    succeed(f"train.py --resume {folder}")
    assert outcome(folder) == expected


@pytest.fixture(scope="module")
def whole(tmp_path_factory, new):
    """A run that nobody disturbs: its outcome, seconds, and the size of a checkpoint."""
    folder, started = tmp_path_factory.mktemp("whole") / "run", time.monotonic()
    succeed(f"{new} {folder}")
    seconds = time.monotonic() - started
    return outcome(folder), seconds, (folder / "esm.best.pt").stat().st_size


def test_killed_at_random_moments_a_run_resumes_bit_for_bit(whole, new, tmp_path, request):
    expected, seconds, _ = whole
    kills, rng = request.config.getoption("--kills"), random.Random(0)
    while kills > 0:
        folder, code = tmp_path / f"before-{kills}-kills", -signal.SIGKILL
        while code < 0:
            begun = (folder / "config.json").exists()
            child = begin(f"train.py --resume {folder}" if begun else f"{new} {folder}")
            if kills > 0:
                time.sleep(rng.uniform(0, 0.6 * seconds))
                os.kill(child, signal.SIGKILL)
                kills -= 1
            code = ended(child)
            assert code <= 0
            check_files(folder)
        assert outcome(folder) == expected
        assert not list(folder.glob(".*"))


@pytest.mark.parametrize("place", (1, 4, 7, 12))
def test_killed_while_a_checkpoint_is_written(whole, new, tmp_path, place):
    """The child kills itself in the write of its nth checkpoint, in the middle of the file."""

    def before():
        written, save = [], checkpoints.torch.save

        def half(content, file):
            save(content, file)
            written.append(file)
            if len(written) == place:
                file.truncate(file.tell() // 2)
                os.kill(os.getpid(), signal.SIGKILL)

        checkpoints.torch.save = half

    assert ended(begin(f"{new} {tmp_path}/run", before)) == -signal.SIGKILL
    check_resumed(tmp_path / "run", whole[0])


#: DSM makes 40 updates of the scorer, and 20 of each model.
UPDATES = [("scorer", n) for n in range(1, 41)]
UPDATES += [(model, n) for model in ("esm", "asm") for n in range(1, 21)]


@pytest.mark.parametrize("update", [1, 4, 10, 13, 40, 41, 60, 65, 80])
def test_a_signal_in_any_update_changes_nothing(whole, new, tmp_path, update, monkeypatch):
    """Also in a model's first and last one, and in one after which a validation is due."""
    number = [signal.SIGINT, signal.SIGTERM][update % 2]
    make_batches, made = training._stream, []

    def signalled(rows, trained):
        for batch in make_batches(rows, trained):
            made.append(batch)
            if len(made) == update:  # it is about to be made
                os.kill(os.getpid(), number)
            yield batch

    monkeypatch.setattr(training, "_stream", signalled)
    stopped, (name, step) = command(f"{new} {tmp_path}/run"), UPDATES[update - 1]
    assert stopped.returncode == 128 + number
    assert f"{name} is saved as of step {step}." in stopped.stderr
    monkeypatch.undo()
    check_resumed(tmp_path / "run", whole[0])


def test_a_full_disk_is_reported_and_loses_nothing(whole, new, tmp_path):
    """A limit on the size of files stands for the disk."""
    expected, _, size = whole

    def before():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 1000, resource.RLIM_INFINITY))

    assert ended(begin(f"{new} {tmp_path}/run", before)) == 2
    assert not list((tmp_path / "run").glob(".*"))
    check_resumed(tmp_path / "run", expected)


def test_what_cannot_be_written_leaves_the_older_checkpoint(tmp_path, monkeypatch):
    def full(content, file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ases.run.checkpoints.torch.save", full)
    (tmp_path / "a.pt").write_text("old")
    with pytest.raises(InputError, match=r"a.pt: cannot be written \(No space left"):
        checkpoints.save_checkpoint(tmp_path / "a.pt", "", {})
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.pt": "old"}


def test_the_second_command_on_a_folder_is_refused(tmp_path):
    folder = tmp_path / "run"
    child = start(f"train.py --max-steps 10000 --out-dir {folder}", *SMALL)
    try:
        while child.poll() is None and not (folder / "metrics.jsonl").exists():
            time.sleep(0.01)
        for words in (["--resume", folder], ["--out-dir", folder, "--overwrite", *SMALL]):
            assert "another command is using this folder" in fail("train.py", *words)
        assert (folder / "config.json").exists()
    finally:
        child.kill()
        child.communicate()
    succeed(f"train.py --out-dir {folder} --overwrite --max-steps 4", *SMALL)
