"""The golden files: what make.py writes, and what plain arithmetic and our own tokenizer find."""

import importlib.util
import itertools
import json
import math
import re
from pathlib import Path

import pytest
import torch
from conftest import make_direct_pair

from ases.entropy import token_entropies
from ases.pairs import collate, encode_question, make_pairs
from ases.segmentation import AS, ES, make_segments, piece_entropies
from ases.tokenizer import Tokenizer

GOLDEN = Path(__file__).parent / "golden"
specification = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
make = importlib.util.module_from_spec(specification)
specification.loader.exec_module(make)


def read(name):
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


PROBLEMS = {p["id"]: p for p in read("segmentation.json")}


def split_floats(path):
    """The text between a file's floats, and the floats: their last digits depend on the processor."""
    text = path.read_text(encoding="utf-8")
    parts = re.split(r"(?m)(?<= )(-?\d+(?:\.\d+|e-\d+)+)(?=,?$)", text)
    return parts[::2], list(map(float, parts[1::2]))


def test_the_files_are_what_make_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(make, "HERE", tmp_path)
    make.main()
    written, kept = list(tmp_path.iterdir()), list(GOLDEN.glob("*.json"))
    assert {path.name for path in written} == {path.name for path in kept}
    for path in written:
        texts, floats = split_floats(path)
        expected_texts, expected = split_floats(GOLDEN / path.name)
        assert texts == expected_texts and floats == pytest.approx(expected, abs=1e-9), path.name
    assert sum(path.stat().st_size for path in kept) < 400_000


def test_pieces_join_to_the_answer():
    assert len(PROBLEMS) == 15
    assert all("".join(p["pieces"]) == p["answer"] for p in PROBLEMS.values())


def test_entropy_in_float32_and_by_plain_arithmetic():
    for row in read("entropy.json"):
        pieces = row.get("pieces") or PROBLEMS[row["id"]]["pieces"]
        logits = [[float(x) for x in line] for line in row["logits"]]
        values = token_entropies(torch.tensor(logits))
        assert values.tolist() == pytest.approx(row["token_entropies"], abs=1e-6)
        for line, expected in zip(logits, row["token_entropies"]):
            shares = [math.exp(x) / sum(map(math.exp, line)) for x in line]
            entropy = -sum(p * math.log(p) for p in shares if p)
            assert entropy == pytest.approx(expected, abs=1e-9)
        per_piece = [part.tolist() for part in values.split(row["tokens_per_piece"])]
        for gamma, expected in row["piece_entropies"].items():
            assert piece_entropies(per_piece, float(gamma)) == pytest.approx(expected, abs=1e-5)
        assert len(per_piece) == len(pieces)
        assert len(row["scored"]) == (1 if row["context"] == "prefix" else len(pieces))


def test_decoder_starts_by_hand():
    given = read("decoder_starts.json")
    inputs = []
    for target, read_tokens in zip(given["targets"], given["reads"]):
        vectors = [given["embeddings"][i] for i in (given["start_id"], *target[:-1])]
        newest = given["states"][read_tokens - 1]
        inputs += [[a + b for a, b in zip(vectors[0], newest)], *vectors[1:]]
    assert inputs == given["decoder_inputs"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([p["question"] + p["answer"] for p in PROBLEMS.values()], 500)


@pytest.mark.parametrize("row", read("pairs.json"), ids=list(PROBLEMS))
def test_pairs(tokenizer, row):
    problem, labels = PROBLEMS[row["id"]], row["labels"]
    question, pieces = problem["question"], problem["pieces"]

    def described(pair):
        """A pair in the words of the file."""
        assert pair.target[-1] == pair.source[-1] == tokenizer.eos_id
        context, end = list(map(tokenizer.decode, pair.context)), tokenizer.end_id in pair.target
        target = tokenizer.decode(pair.target)
        return {"role": pair.role, "context": context, "target": target, "end": end}

    usm = list(map(described, make_pairs(question, make_segments(pieces, labels), tokenizer)))
    assert row["usm"] == usm
    assert row["esm"] == [pair for pair in usm if pair["role"] == ES]
    assert row["asm"] == [pair for pair in usm if pair["role"] == AS]
    assert row["direct"] == [described(make_direct_pair(question, pieces, tokenizer))]
    unmerged = make_segments(pieces, labels, merge=False)
    assert row["usm_unmerged"] == list(map(described, make_pairs(question, unmerged, tokenizer)))
    assert "".join(pair["target"] for pair in usm) == problem["answer"]
    cut = row["cut_question"]
    ids, lost = encode_question(cut["question"], make.Letters, cut["max_question"])
    assert ids == cut["ids"] == [ord(c) for c in "abcdjkl"] and lost == 5


@pytest.mark.parametrize("row", read("pairs.json"), ids=list(PROBLEMS))
def test_one_encoding_by_plain_loops(row):
    """A block for the question and each segment but the last."""
    eos, end = make.Letters.eos_id, make.Letters.end_id
    source, ends, targets, reads = [], [], [], []
    for pair in row["usm"]:
        block = [*map(ord, pair["context"][-1]), eos]
        source += block
        ends += [len(source)] * len(block)
        reads.append(len(source))
        targets.append([*map(ord, pair["target"]), *([end] if pair["end"] else []), eos])
    expected = {"source": source, "ends": ends, "targets": targets, "reads": reads}
    assert row["one_encoding"] == expected
    problem = PROBLEMS[row["id"]]
    segments = make_segments(problem["pieces"], row["labels"])
    batch = collate([make_pairs(problem["question"], segments, make.Letters)], make.Letters.pad_id)
    assert batch.source[0].tolist() == source and batch.source_span[1][0].tolist() == ends


def test_attention_by_plain_arithmetic():
    for case in read("attention.json"):
        for b, h, i in itertools.product(range(2), range(2), range(4)):
            first = 0 if case["first"] is None else case["first"][b][i]
            last = 5 if case["last"] is None else case["last"][b][i]
            q, weights = case["q"][b][h][i], {}
            for j in range(first, last):
                difference = min(max(j - i - case["query_offset"], -2), 2)
                product = sum(x * y for x, y in zip(q, case["k"][b][h][j]))
                weights[j] = math.exp(case["scale"] * product + case["rel_bias"][h][difference + 2])
            for c in range(3):
                value = sum(w * case["v"][b][h][j][c] for j, w in weights.items())
                expected = value / sum(weights.values()) if weights else 0.0
                assert case["out"][b][h][i][c] == pytest.approx(expected, abs=1e-9), case["name"]
