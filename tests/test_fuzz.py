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
from ases.run.read import LOG, read_curves, read_questions, read_rows, scan_examples
from ases.settings import ModelConfig
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
# What happens to a file, where, and how much of it
turned = st.tuples(st.just("turn"), positions, st.integers(0, 255))
cut = st.tuples(st.just("cut"), positions, positions)
doubled = st.tuples(st.just("double"), positions, positions)
put_in = st.tuples(st.just("put in"), positions, st.sampled_from(NASTY))
of_bytes = st.lists(st.one_of(turned, cut, doubled, put_in), min_size=1, max_size=4)
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


def place(value, where):
    """One of the first 2,000."""
    found = list(islice(places(value), 2000))
    return found[int(where * len(found))]


def replace_values(content, mutations: list):
    """Replace values, some tensors by others, delete some values, or add an unknown key."""
    for where, value in mutations:
        container, key = place(content, where)
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
    replace_values(value, mutations)
    torch.save(value, file)
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
    succeed("train.py", "--max-steps", 4, *QUICK, "--out-dir", folder / "run")
    tokenizer = Tokenizer.load(folder / "run" / "tokenizer.json")
    shape = dict(d_model=16, d_ff=16, start_from_state=False)
    model = EncoderDecoder(ModelConfig(vocab_size=tokenizer.vocab_size, **shape))
    save_t5(model, folder / "t5")
    triples = [(str(i), f"Tom has {i}?", f"So {i}.\n#### {i}") for i in range(30)]
    rows = [dict(zip(("id", "question", "answer"), triple)) for triple in triples]
    write_lines(folder / "data.jsonl", rows)
    (folder / "data.json").write_text(json.dumps(rows))
    with open(folder / "data.csv", "w", newline="") as file:
        csv.writer(file).writerows([rows[0], *triples])
    succeed("segment.py", "--split", "test", *QUICK[2:6], "--out", folder / "labels.jsonl")
    return folder


@pytest.fixture
def whole(originals, tmp_path):
    return shutil.copytree(originals, tmp_path / "whole")


CALM = settings(deadline=5000, database=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture
def fuzz(request):
    """Damage a file many times, always in the same ways, and check it each time."""
    n = request.config.getoption("--mutations")

    def run(path, check, change=damage, n=n):
        content, before = path.read_bytes(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

        @seed(request.node.name)
        @settings(CALM, max_examples=n)
        @given(of_bytes if change is damage else of_values)
        def damaged(mutations):
            path.write_bytes(change(content, mutations))
            check()

        damaged()
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 2**20  # in kB

    return run


def told_in_one_line(read, *arguments) -> None:
    try:
        read(*arguments)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1500


EXAMPLES = [(name, damage) for name in ("data.jsonl", "data.json", "data.csv", "labels.jsonl")]
EXAMPLES += [("data.jsonl", damage_lines), ("labels.jsonl", damage_lines)]


@pytest.mark.parametrize("name, change", EXAMPLES)
def test_files_of_examples(whole, fuzz, name, change):
    def check():
        for task in ("mwp", "pet"):
            told_in_one_line(scan_examples, whole / name, task)
        told_in_one_line(read_questions, str(whole / name))

    fuzz(whole / name, check, change)


RUN = [(name, damage) for name in ("config.json", "tokenizer.json", "metrics.jsonl")]
RUN += [(name, damage_json) for name in ("config.json", "tokenizer.json")]


@pytest.mark.parametrize("name, change", RUN)
def test_a_run(whole, fuzz, name, change):
    run = whole / "run"

    def check():
        told_in_one_line(load_run, run)
        told_in_one_line(read_rows, run / "metrics.jsonl", LOG)
        told_in_one_line(read_curves, run)

    fuzz(run / name, check, change)


T5 = [("config.json", damage), ("model.safetensors", damage), ("config.json", damage_json)]


@pytest.mark.parametrize("name, change", T5)
def test_a_t5_folder(whole, fuzz, name, change):
    fuzz(whole / "t5" / name, lambda: told_in_one_line(load_t5, whole / "t5"), change)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "usm.last.pt", "metrics.jsonl"])
def test_whole_commands(originals, tmp_path, fuzz, request, name):
    """A tenth as often, for they take longer: a run with a damaged file is resumed, and asked."""
    damaged, run = tmp_path / name, tmp_path / "there" / "run"
    shutil.copy(originals / "run" / name, damaged)

    def check():
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(originals / "run", run)
        shutil.copy(damaged, run / name)
        ask = ["evaluate.py", "--run", run, "--question", "Tom?"]
        for arguments in (ask, ["train.py", "--resume", run]):
            done = command(*arguments)
            assert (done.returncode, done.stderr.count("error: ")) in ((0, 0), (2, 1)), done.stderr
        assert [path.name for path in run.parent.iterdir()] == ["run"]

    fuzz(damaged, check, n=max(5, request.config.getoption("--mutations") // 10))


def test_bytes_of_checkpoints(whole, fuzz):
    path = whole / "run" / "usm.best.pt"
    right = weights_digest(load_checkpoint(path)["model"])

    def read():
        assert (
            weights_digest(load_checkpoint(path)["model"]) == right
        )  # what was hit matters to nobody

    fuzz(path, lambda: told_in_one_line(read))


@pytest.mark.parametrize("name", ["usm.best.pt", "usm.last.pt"])
def test_values_of_checkpoints(whole, fuzz, name):
    run = whole / "run"
    model = EncoderDecoder(load_model(run / "usm.best.pt").config)
    training = Training("usm", model, RunConfig.load(run).settings)

    def check():
        told_in_one_line(load_model, run / name)
        told_in_one_line(Recorder(run, resume=True)._load, training)

    fuzz(run / name, check, damage_checkpoint)
