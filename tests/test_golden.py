"""Our own implementation against the golden files that others check theirs with."""

import importlib.util
import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from conftest import make_direct_pair

from ases.answers import parse_answer
from ases.entropy import token_entropies
from ases.metrics import score
from ases.pairs import collate, encode_question, make_pairs
from ases.segmentation import (
    AS,
    ES,
    entropy_labels,
    interleaved_labels,
    make_segments,
    piece_entropies,
    split_pieces,
)
from ases.tokenizer import Tokenizer
from tests.golden.conventions import CONVENTIONS

GOLDEN = Path(__file__).parent / "golden"
specification = importlib.util.spec_from_file_location("golden_make", GOLDEN / "make.py")
make = importlib.util.module_from_spec(specification)
specification.loader.exec_module(make)


def read(name):
    return json.loads((GOLDEN / name).read_text(encoding="utf-8"))


PROBLEMS = {p["id"]: p for p in read("segmentation.json")}


def as_texts(segments):
    return [{"label": s.label, "text": s.text} for s in segments]


def test_segmentation():
    assert len(PROBLEMS) == 15
    for p in PROBLEMS.values():
        assert split_pieces(p["answer"]) == p["pieces"] and "".join(p["pieces"]) == p["answer"]
        assert interleaved_labels(len(p["pieces"])) == p["interleaved"]
        assert as_texts(make_segments(p["pieces"], p["interleaved"])) == p["segments"]


def test_entropy():
    for row in read("entropy.json"):
        pieces = row.get("pieces") or PROBLEMS[row["id"]]["pieces"]
        logits = [[float(x) for x in line] for line in row["logits"]]
        values = token_entropies(torch.tensor(logits))
        assert values.tolist() == pytest.approx(row["token_entropies"], abs=1e-6)
        for line, expected in zip(logits, row["token_entropies"]):  # and by plain arithmetic
            shares = [math.exp(x) / sum(map(math.exp, line)) for x in line]
            entropy = -sum(p * math.log(p) for p in shares if p)
            assert entropy == pytest.approx(expected, abs=1e-9)
        per_piece = [part.tolist() for part in values.split(row["tokens_per_piece"])]
        assert len(per_piece) == len(pieces) and len(row["scored"]) == (
            1 if row["context"] == "prefix" else len(pieces)
        )
        for gamma, expected in row["piece_entropies"].items():
            assert piece_entropies(per_piece, float(gamma)) == pytest.approx(expected, abs=1e-5)
        for key, labels in row["labels"].items():
            gamma, beta = (part.split("=")[1] for part in key.split())
            assert entropy_labels(row["piece_entropies"][gamma], float(beta)) == labels
        labels = row["labels"]["gamma=1.0 beta=1.0"]
        assert as_texts(make_segments(pieces, labels)) == row["segments"]
        assert as_texts(make_segments(pieces, labels, merge=False)) == row["segments_unmerged"]


def test_decoder_starts():
    given = read("decoder_starts.json")
    assert given == make.decoder_starts()
    inputs = []
    for target, read_tokens in zip(given["targets"], given["reads"]):
        vectors = [given["embeddings"][i] for i in (given["start_id"], *target[:-1])]
        newest = given["states"][read_tokens - 1]
        inputs += [[a + b for a, b in zip(vectors[0], newest)], *vectors[1:]]
    assert inputs == given["decoder_inputs"]


def test_pairs():
    tokenizer = Tokenizer.train([p["question"] + p["answer"] for p in PROBLEMS.values()], 500)
    for row in read("pairs.json"):
        p = PROBLEMS[row["id"]]
        ours = make_pairs(p["question"], make_segments(p["pieces"], row["labels"]), tokenizer)
        for name, found in (
            ("usm", ours),
            ("esm", [x for x in ours if x.role == ES]),
            ("asm", [x for x in ours if x.role == AS]),
            ("direct", [make_direct_pair(p["question"], p["pieces"], tokenizer)]),
        ):
            assert len(found) == len(row[name])
            for pair, expected in zip(found, row[name]):
                assert (
                    pair.role == expected["role"]
                    and tokenizer.decode(pair.target) == expected["target"]
                )
                assert (tokenizer.end_id in pair.target) == expected["end"] and pair.target[
                    -1
                ] == pair.source[-1] == tokenizer.eos_id
                assert [tokenizer.decode(block) for block in pair.context] == expected["context"]
        assert "".join(pair["target"] for pair in row["usm"]) == p["answer"]

        unmerged = make_pairs(
            p["question"], make_segments(p["pieces"], row["labels"], merge=False), tokenizer
        )
        assert [(x.role, tokenizer.decode(x.target)) for x in unmerged] == [
            (x["role"], x["target"]) for x in row["usm_unmerged"]
        ]
        check_one_encoding(row, p["question"])
        cut = row["cut_question"]
        ids, lost = encode_question(cut["question"], make.Letters, cut["max_question"])
        assert ids == cut["ids"] == [ord(c) for c in "abcdjkl"] and lost == 5


def check_one_encoding(row, question):
    """By plain loops: a block for the question and each segment but the last."""
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
    segments = make_segments(PROBLEMS[row["id"]]["pieces"], row["labels"])
    own = make_pairs(question, segments, make.Letters)
    batch = collate([own], make.Letters.pad_id)
    assert batch.source[0].tolist() == source and batch.source_span[1][0].tolist() == ends
    assert [pair.target for pair in own] == targets
    assert [len(pair.source) for pair in own] == reads


def test_decoding():
    for row in read("decoding.json"):
        ends = {"</s>": "segment", "<end>": "chain", "limit": "length"}
        script = [[step["segment"], ends[step["ended_by"]]] for step in row["script"]]
        roles = tuple(row["roles"])
        chain, shown = make.written_by(script, roles, row["max_rounds"], row["question"])
        contexts = [{"role": role, "context": make.spelled(blocks)} for role, blocks in shown]
        assert contexts == row["read"] and chain.stop == row["stop"]
        segments = [{"label": role, "text": text} for role, text in chain.segments]
        assert segments == row["segments"]


def test_attention():
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


def test_scores():
    content = read("scores.json")
    for row in content["answers"]:
        number = parse_answer(row["text"])
        assert (None if number is None else str(number)) == row["number"]
        assert {name: rule(row["text"]) for name, rule in CONVENTIONS.items()} == row[
            "by_convention"
        ]
    for row in content["sets"]:
        found = score(row["task"], row["predictions"], row["references"])
        assert found.pop("intervals").keys() <= found.keys()
        assert found == pytest.approx(row["scores"], abs=1e-9)


def assert_alike(a, b, place):
    """Texts, ids and labels exactly; floats to 1e-6, for their last digits differ between processors."""
    assert type(a) is type(b), place
    if isinstance(a, dict):
        assert list(a) == list(b), place
        for key in a:
            assert_alike(a[key], b[key], f"{place}/{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), place
        for i, (x, y) in enumerate(zip(a, b)):
            assert_alike(x, y, f"{place}/{i}")
    elif isinstance(a, float):
        assert a == pytest.approx(b, abs=1e-6), place
    else:
        assert a == b, place


def test_the_files_are_what_make_writes(tmp_path, monkeypatch):
    monkeypatch.setattr(make, "HERE", tmp_path)
    make.main()
    for path in tmp_path.iterdir():
        written, kept = (
            json.loads((folder / path.name).read_text(encoding="utf-8"))
            for folder in (tmp_path, GOLDEN)
        )
        assert_alike(written, kept, path.name)
    assert sum(p.stat().st_size for p in GOLDEN.glob("*.json")) < 400_000
