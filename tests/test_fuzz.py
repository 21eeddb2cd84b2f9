"""Whatever is in a file: it is read, or one line says what is wrong with it.

Every kind of file that the commands read is damaged by hypothesis, from whole files of that kind: bytes
are turned, cut, doubled and put in, and values of JSON replaced. `--mutations 5000` tries more than
the quick default; the counts of a long run are in docs/reference.md.

None of it may end otherwise than with success or an ``InputError`` of one line, take 5 seconds or a
gigabyte, execute what is in the file, or write anything.
"""

import copy
import json
import resource
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ases.data import InputError
from ases.extra.t5 import load_t5, save_t5
from ases.model import EncoderDecoder
from ases.run.checkpoints import Recorder, load_checkpoint, load_model, weights_digest
from ases.run.folder import RunConfig, load_run
from ases.run.read import LOG, read_curves, read_questions, read_rows, scan_examples
from ases.settings import ModelConfig
from ases.tokenizer import Tokenizer
from tests.test_commands import command, succeed
from tests.test_hostile import QUICK

NASTY = [
    b"\x00",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\\ud800",
    b"\r",
    b"\n",
    b"\n\n",
    b'"',
    b'""',
    b",",
    b";\t",
    b"{",
    b"]}",
    b"[" * 20_000,
    b'{"a":' * 20_000,
    b"9" * 5_000,
    b"x" * 200_000,
    b"1e999",
    b"NaN",
    b"null",
    b"-1",
    b"#### ",
    b"The answer is ",
    b"<end>",
    b"</s>",
    b"../../x",
    "é".encode("latin-1"),
    "肝".encode("gb18030"),
]
VALUES = [None, True, -1, 0, 1, 2**31, 2**70, 0.5, 1e308, float("nan"), "", "x", "\ud800", [], {}]
VALUES += [[[]], {"": 0}, ["x"] * 3, "cuda", "../..", "/", 10**8, [0] * 20]

positions = st.floats(0, 1, exclude_max=True)
#: What happens to a file, where, and how much of it.
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


def places(value, found=None) -> list:
    """Every (container, key) within a JSON value."""
    found = [] if found is None else found
    keys = list(value) if isinstance(value, dict) else range(len(value))
    for key in keys:
        found.append((value, key))
        if isinstance(value[key], (dict, list)) and len(found) < 2000:
            places(value[key], found)
    return found


def replace_values(content, mutations: list):
    """A JSON value in which some values are others; or an unknown key is added."""
    content = json.loads(json.dumps(content))
    for where, value in mutations:
        value = copy.deepcopy(value)
        all_places = places(content)
        container, key = all_places[int(where * len(all_places))]
        if where > 0.97 and isinstance(container, dict):
            container["unknown"] = value
        elif where < 0.05:
            del container[key]
        else:
            container[key] = value
    return content


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run, a T5 folder, and files of examples, none of them damaged."""
    folder = tmp_path_factory.mktemp("whole")
    succeed("train.py", "--max-steps", 4, *QUICK, "--out-dir", folder / "run")
    tokenizer = Tokenizer.load(folder / "run" / "tokenizer.json")
    shape = dict(d_model=16, d_ff=16, start_from_state=False)
    model = EncoderDecoder(ModelConfig(vocab_size=tokenizer.vocab_size, **shape))
    save_t5(model, folder / "t5")
    rows = [
        {"id": str(i), "question": f"Tom has {i}?", "answer": f"So {i}.\n#### {i}"}
        for i in range(30)
    ]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "data.json").write_text(json.dumps(rows))
    table = "".join(f'{r["id"]},"{r["question"]}","{r["answer"]}"\n' for r in rows)
    (folder / "data.csv").write_text("id,question,answer\n" + table)
    succeed("segment.py", "--split", "test", *QUICK[2:6], "--out", folder / "labels.jsonl")
    return folder


@pytest.fixture
def many(request):
    """The hypothesis settings: how often each file is damaged, always in the same ways."""
    n = request.config.getoption("--mutations")
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=n, derandomize=True, deadline=5000, database=None, suppress_health_check=checks
    )


def within_a_gigabyte(test) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    test()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 2**20  # in kB


def told_in_one_line(read, *arguments) -> None:
    try:
        read(*arguments)
    except InputError as error:
        assert "\n" not in str(error) and len(str(error)) < 1500


def names_in(folder: Path) -> set:
    return {(path, path.stat().st_size) for path in folder.rglob("*")}


def read_data(path: Path) -> None:
    for task in ("mwp", "pet"):
        told_in_one_line(scan_examples, path, task)
    told_in_one_line(read_questions, str(path))


@pytest.mark.parametrize("name", ["data.jsonl", "data.json", "data.csv", "labels.jsonl"])
def test_files_of_examples(whole, tmp_path, many, name):
    content, path = (whole / name).read_bytes(), tmp_path / name

    @many
    @given(of_bytes)
    def check(mutations):
        path.write_bytes(damage(content, mutations))
        read_data(path)

    within_a_gigabyte(check)


@pytest.mark.parametrize("name", ["data.jsonl", "labels.jsonl"])
def test_values_of_examples(whole, tmp_path, many, name):
    rows = [json.loads(line) for line in (whole / name).read_text().splitlines()]
    path = tmp_path / name

    @many
    @given(of_values)
    def check(mutations):
        changed = replace_values(rows, mutations)
        path.write_text("".join(json.dumps(row) + "\n" for row in changed))
        read_data(path)

    within_a_gigabyte(check)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "metrics.jsonl"])
def test_bytes_of_a_run(whole, tmp_path, many, name):
    run = shutil.copytree(whole / "run", tmp_path / "run")
    content = (run / name).read_bytes()

    @many
    @given(of_bytes)
    def check(mutations):
        (run / name).write_bytes(damage(content, mutations))
        told_in_one_line(load_run, run)
        told_in_one_line(read_rows, run / "metrics.jsonl", LOG)
        told_in_one_line(read_curves, run)

    within_a_gigabyte(check)


@pytest.mark.parametrize(
    "kind, name, read",
    [
        ("run", "config.json", load_run),
        ("run", "tokenizer.json", load_run),
        ("t5", "config.json", load_t5),
    ],
)
def test_values_of_folders(whole, tmp_path, many, kind, name, read):
    folder = shutil.copytree(whole / kind, tmp_path / kind)
    content = json.loads((folder / name).read_text())

    @many
    @given(of_values)
    def check(mutations):
        (folder / name).write_text(json.dumps(replace_values(content, mutations)))
        told_in_one_line(read, folder)

    within_a_gigabyte(check)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "usm.last.pt", "metrics.jsonl"])
def test_whole_commands(whole, tmp_path, many, name):
    """A tenth as often, for they take longer: a run with a damaged file is resumed, and asked."""
    content = (whole / "run" / name).read_bytes()
    run = tmp_path / "run"

    @settings(many, max_examples=max(5, many.max_examples // 10))
    @given(of_bytes)
    def check(mutations):
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(whole / "run", run)
        (run / name).write_bytes(damage(content, mutations))
        for arguments in (
            ["evaluate.py", "--run", run, "--question", "Tom?"],
            ["train.py", "--resume", run],
        ):
            done = command(*arguments)
            assert (done.returncode, done.stderr.count("error: ")) in ((0, 0), (2, 1)), done.stderr
        assert {path.name for path in tmp_path.iterdir()} == {"run"}

    within_a_gigabyte(check)


def test_bytes_of_checkpoints(whole, tmp_path, many):
    content, path = (whole / "run" / "usm.best.pt").read_bytes(), tmp_path / "usm.best.pt"
    right = weights_digest(load_checkpoint(whole / "run" / "usm.best.pt"))

    @many
    @given(of_bytes)
    def check(mutations):
        path.write_bytes(damage(content, mutations))
        try:
            found = load_checkpoint(path)
        except InputError as error:
            assert "\n" not in str(error)
        else:  # what was hit matters to nobody
            assert weights_digest(found) == right

    within_a_gigabyte(check)


@pytest.mark.parametrize("name", ["usm.best.pt", "usm.last.pt"])
def test_values_of_checkpoints(whole, tmp_path, many, name):
    """Values that were exchanged by someone who mended the digest, too."""
    run = shutil.copytree(whole / "run", tmp_path / "run")
    content = torch.load(run / name, weights_only=True)
    del content["digest"]
    training = _training(whole / "run")

    def exchange(value, mutations):
        value = _copied(value)
        for where, new in mutations:
            new = copy.deepcopy(new)
            all_places = places(value)
            container, key = all_places[int(where * len(all_places))]
            old = container[key]
            if isinstance(old, torch.Tensor) and new in (0, 1, -1, 0.5):
                new = {0: old.flatten()[:0], 1: old.double(), -1: old.int(), 0.5: old.flatten()}[
                    new
                ]
            container[key] = new
        return value

    @many
    @given(of_values)
    def check(mutations):
        changed = exchange(content, mutations)
        torch.save(changed | {"digest": weights_digest(changed)}, run / name)
        told_in_one_line(load_model, run / name)
        told_in_one_line(Recorder(run, resume=True)._load, training)

    within_a_gigabyte(check)


def _copied(value):
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return [_copied(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _training(run):
    from ases.training import Training

    config = RunConfig.load(run)
    model = load_model(run / "usm.best.pt")
    return Training("usm", EncoderDecoder(model.config), config)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_bytes_of_t5(whole, tmp_path, many, name):
    t5 = shutil.copytree(whole / "t5", tmp_path / "t5")
    content = (t5 / name).read_bytes()

    @many
    @given(of_bytes)
    def check(mutations):
        (t5 / name).write_bytes(damage(content, mutations))
        told_in_one_line(load_t5, t5)

    within_a_gigabyte(check)
