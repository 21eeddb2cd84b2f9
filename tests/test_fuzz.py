"""Whatever is in a file: it is read, or one line says what is wrong with it.

Hypothesis damages every kind of file that the commands read: it turns, cuts, doubles and inserts
bytes, and replaces values of JSON. `--mutations 5000` tries more than the quick default;
docs/reference.md has the counts of a long run. Each read succeeds or raises an ``InputError`` of
one line, within 5 seconds and a gigabyte; executes nothing from the file, and writes nothing.
"""

import copy
import csv
import io
import json
import resource
import shutil
from itertools import islice

import pytest
import torch
from conftest import write_lines
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from ases.data import InputError
from ases.extra.t5 import load_t5, save_t5
from ases.model import EncoderDecoder
from ases.run.checkpoints import Recorder, load_checkpoint, load_model, weights_digest
from ases.run.folder import RunConfig, load_run
from ases.run.read import read_curves, read_log, read_questions, scan_examples
from ases.settings import ModelConfig, Settings
from ases.tokenizer import Tokenizer
from ases.training import Training
from tests.test_commands import command, succeed
from tests.test_hostile import QUICK

NASTY = rb'\ud800 " "" , { ]} 1e999 NaN null -1 <end> </s> ../../x'.split()
NASTY += [b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"\r", b"\n", b"\n\n", b";\t"]
NASTY += [b"#### ", b"The answer is ", "é".encode("latin-1"), "肝".encode("gb18030")]
NASTY += [b"[" * 20_000, b'{"a":' * 20_000, b"9" * 5_000, b"x" * 200_000]
VALUES = [None, True, -1, 0, 1, 2**31, 2**70, 0.5, 1e308, float("nan"), "", "x", "\ud800", [], {}]
VALUES += [[[]], {"": 0}, ["x"] * 3, "cuda", "../..", "/", 10**8, [0] * 20]

positions = st.floats(0, 1, exclude_max=True)
#: What happens to a file, where, and how much of it.
of_bytes = st.lists(
    st.one_of(
        st.tuples(st.just("turn"), positions, st.integers(0, 255)),
        st.tuples(st.sampled_from(["cut", "double"]), positions, positions),
        st.tuples(st.just("put in"), positions, st.sampled_from(NASTY)),
    ),
    min_size=1,
    max_size=4,
)
of_values = st.lists(st.tuples(positions, st.sampled_from(VALUES)), min_size=1, max_size=3)


def damage(content: bytes, mutations: list) -> bytes:
    data = bytearray(content)
    for kind, where, what in mutations:
        i = int(where * len(data))
        if kind == "turn" and data:
            data[i] = what
        elif kind == "cut":
            del data[i : int(i + what * (len(data) - i)) + 1]
        elif kind == "double":
            data[i:i] = data[i : i + int(what * 200) + 1]
        elif kind == "put in":
            data[i:i] = what
    return bytes(data)


def places(value):
    """Every (container, key) within a JSON value."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], (dict, list)):
            yield from places(value[key])


def replace_values(content, mutations: list):
    """Replace values, some tensors by others, delete some values, or add an unknown key."""
    for where, value in mutations:
        first = list(islice(places(content), 2000))
        container, key = first[int(where * len(first))]
        old, new = container[key], copy.deepcopy(value)
        if isinstance(old, torch.Tensor) and new in (0, 1, -1, 0.5):
            others = {0: old.flatten()[:0], 1: old.double(), -1: old.int(), 0.5: old.flatten()}
            new = others[new]
        if where > 0.97 and isinstance(container, dict):
            container["unknown"] = new
        elif where < 0.05:
            del container[key]
        else:
            container[key] = new
    return content


def damage_json(content: bytes, mutations: list) -> bytes:
    return json.dumps(replace_values(json.loads(content), mutations)).encode()


def damage_lines(content: bytes, mutations: list) -> bytes:
    rows = replace_values([json.loads(line) for line in content.splitlines()], mutations)
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def damage_checkpoint(content: bytes, mutations: list) -> bytes:
    """Replace values, with the right checksums."""
    value, file = listed(torch.load(io.BytesIO(content), weights_only=True)), io.BytesIO()
    torch.save(replace_values(value, mutations), file)
    return file.getvalue()


def listed(value):
    """Lists for tuples, whose values cannot be replaced."""
    if isinstance(value, dict):
        return {key: listed(inner) for key, inner in value.items()}
    return [listed(inner) for inner in value] if isinstance(value, (list, tuple)) else value


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """A run, a T5 folder, and files of examples."""
    folder = tmp_path_factory.mktemp("whole")
    succeed(f"train.py --max-steps 4 --out-dir {folder}/run", *QUICK)
    size = Tokenizer.load(folder / "run" / "tokenizer.json").vocab_size
    shape = dict(vocab_size=size, d_model=16, d_ff=16, start_from_state=False)
    save_t5(EncoderDecoder(ModelConfig(**shape)), folder / "t5")
    texts = [(str(i), f"Tom has {i}?", f"So {i}.\n#### {i}") for i in range(30)]
    rows = [dict(zip(("id", "question", "answer"), row)) for row in texts]
    write_lines(folder / "data.jsonl", rows)
    (folder / "data.json").write_text(json.dumps(rows))
    with open(folder / "data.csv", "w", newline="") as file:
        csv.writer(file).writerows([rows[0], *texts])
    succeed("segment.py --split test", *QUICK[2:6], "--out", folder / "labels.jsonl")
    return folder


@pytest.fixture
def whole(originals, tmp_path):
    return shutil.copytree(originals, tmp_path / "whole")


@pytest.fixture
def fuzz(request):
    """Damage a file many times, always in the same ways, and check it each time."""
    n = request.config.getoption("--mutations")

    def run(path, check, change=damage, n=n):
        content, before = path.read_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        slow = [HealthCheck.too_slow]

        @seed(request.node.name)
        @settings(deadline=5000, database=None, suppress_health_check=slow, max_examples=n)
        @given(of_bytes if change is damage else of_values)
        def damaged(mutations):
            path.write_bytes(change(content, mutations))
            check()

        damaged()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 2**20  # in kB

    return run


def reads_or_is_one_line(read, *arguments) -> None:
    try:
        read(*arguments)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1500


FILES = {
    damage: "data.jsonl data.json data.csv labels.jsonl run/config.json run/tokenizer.json "
    "run/metrics.jsonl t5/config.json t5/model.safetensors",
    damage_json: "run/config.json run/tokenizer.json t5/config.json",
    damage_lines: "data.jsonl labels.jsonl",
}


@pytest.mark.parametrize(
    "change, name", [(change, name) for change in FILES for name in FILES[change].split()]
)
def test_files_that_are_read(whole, fuzz, change, name):
    run, path = whole / "run", whole / name

    def check():
        if path.parent == run:
            reads_or_is_one_line(load_run, run)
            reads_or_is_one_line(read_log, run)
            reads_or_is_one_line(read_curves, run)
        elif path.parent == whole:
            for task in ("mwp", "pet"):
                reads_or_is_one_line(scan_examples, Settings(data=str(path), task=task))
            reads_or_is_one_line(read_questions, str(path))
        else:
            reads_or_is_one_line(load_t5, path.parent)

    fuzz(path, check, change)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "usm.last.pt", "metrics.jsonl"])
def test_whole_commands(originals, tmp_path, fuzz, request, name):
    """A tenth as often, for they take longer: a run with a damaged file is resumed, and asked."""
    damaged, run = tmp_path / name, tmp_path / "there" / "run"
    shutil.copy(originals / "run" / name, damaged)

    def check():
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(originals / "run", run)
        shutil.copy(damaged, run / name)
        for line in (f"evaluate.py --run {run} --question Tom?", f"train.py --resume {run}"):
            done = command(line)
            assert (done.returncode, done.stderr.count("error: ")) in ((0, 0), (2, 1)), done.stderr
        assert [path.name for path in run.parent.iterdir()] == ["run"]

    fuzz(damaged, check, n=max(5, request.config.getoption("--mutations") // 10))


def test_bytes_of_checkpoints(whole, fuzz):
    path = whole / "run" / "usm.best.pt"
    digest = lambda: weights_digest(load_checkpoint(path)["model"])
    right = digest()

    def read():
        assert digest() == right  # what was hit matters to nobody

    fuzz(path, lambda: reads_or_is_one_line(read))


@pytest.mark.parametrize("name", ["usm.best.pt", "usm.last.pt"])
def test_values_of_checkpoints(whole, fuzz, name):
    run = whole / "run"
    model = EncoderDecoder(load_model(run / "usm.best.pt").config)
    training = Training("usm", model, RunConfig.load(run).settings)

    def check():
        reads_or_is_one_line(load_model, run / name)
        reads_or_is_one_line(Recorder(run, resume=True)._load, training)

    fuzz(run / name, check, damage_checkpoint)
