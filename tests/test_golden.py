"""The golden files: what make.py writes, and what plain arithmetic and our own tokenizer find."""

import importlib.util
import json
import math
import re
from pathlib import Path

import pytest
import torch
from conftest import make_direct_pair

from ases.entropy import token_entropies
from ases.pairs import collate, make_pairs
from ases.segmentation import AS, ES, make_segments, piece_entropies
from ases.tokenizer import Tokenizer
from tests.test_attention import by_loops

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
    case, inputs = read("decoder_starts.json"), []
    for target, read_tokens in zip(case["targets"], case["reads"]):
        first, *others = [case["embeddings"][i] for i in (case["start_id"], *target[:-1])]
        newest = case["states"][read_tokens - 1]
        inputs += [[a + b for a, b in zip(first, newest)], *others]
    assert inputs == case["decoder_inputs"]


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train([p["question"] + p["answer"] for p in PROBLEMS.values()], 500)


@pytest.mark.parametrize("row", read("pairs.json"), ids=list(PROBLEMS))
def test_pairs(tokenizer, row):
    problem, labels = PROBLEMS[row["id"]], row["labels"]
    question, pieces = problem["question"], problem["pieces"]

    def described(pairs):
        """Pairs in the words of the file."""
        for pair in pairs:
            assert pair.target[-1] == pair.source[-1] == tokenizer.eos_id
            context, target = map(tokenizer.decode, pair.context), tokenizer.decode(pair.target)
            end = tokenizer.end_id in pair.target
            yield {"role": pair.role, "context": list(context), "target": target, "end": end}

    def pairs_of(merge):
        segments = make_segments(pieces, labels, merge=merge)
        return list(described(make_pairs(question, segments, tokenizer)))

    assert row["usm"] == (usm := pairs_of(merge=True))
    assert row["esm"] == [pair for pair in usm if pair["role"] == ES]
    assert row["asm"] == [pair for pair in usm if pair["role"] == AS]
    assert row["direct"] == list(described([make_direct_pair(question, pieces, tokenizer)]))
    assert row["usm_unmerged"] == pairs_of(merge=False)
    assert "".join(pair["target"] for pair in usm) == problem["answer"]


@pytest.mark.parametrize("row", read("pairs.json"), ids=list(PROBLEMS))
def test_one_encoding_by_plain_loops(row):
    """A block for the question and each segment but the last; and a question that is cut."""
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
    assert row["cut_question"]["ids"] == [*map(ord, "abcdjkl")]


def test_attention_by_plain_arithmetic():
    for case in read("attention.json"):
        inputs = [torch.tensor(case[x], dtype=torch.float64) for x in ("q", "k", "v", "rel_bias")]
        spans = [None if case[x] is None else torch.tensor(case[x]) for x in ("first", "last")]
        out = by_loops(*inputs, *spans, case["query_offset"], case["scale"])
        expected = torch.tensor(case["out"], dtype=torch.float64)
        assert torch.allclose(out, expected, rtol=0, atol=1e-9), case["name"]
