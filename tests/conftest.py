"""What several tests share: JSON files, the toy problem of the docs, a tokenizer, a small model."""

import json
import os

import pytest

# Before torch is imported, and for the commands that tests run: threads that wait for each other on a
# busy machine make small models several times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

# Before triton is imported: without a GPU, its kernels run on the CPU.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

from ases.attention import block_span, packed_span
from ases.data import TOY
from ases.decoding import ContextEncoder
from ases.model import EncoderDecoder
from ases.pairs import Batch, make_pairs
from ases.segmentation import Segment
from ases.settings import CHAIN, ModelConfig
from ases.tokenizer import Tokenizer

TOY_PIECES = [
    "Tom has 3 boxes of 4 apples,",
    " so he has 3 * 4 = 12 apples.",
    " He eats 2,",
    " so 12 - 2 = 10 are left.",
    " The answer is 10.",
]


def pytest_addoption(parser):
    parser.addoption("--mutations", type=int, default=60, help="files damaged in each test")
    parser.addoption("--kills", type=int, default=6, help="how often test_kill.py kills a run")
    parser.addoption("--solutions", help="your answers to docs/exercises.md, a Python file")


def parsed(text):
    """The values of JSON lines."""
    return [json.loads(line) for line in text.split("\n")[:-1]]


def read(path):
    """The value in a JSON file; a list of those in a file of JSON lines."""
    text = path.read_text(encoding="utf-8")
    return parsed(text) if path.suffix == ".jsonl" else json.loads(text)


def write_lines(path, rows):
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")
    return path


class Ids:
    """All that decoding needs of a tokenizer."""

    pad_id, eos_id, end_id = 0, 1, 2


def logits_of(model, source, inputs, lengths=None):
    """Logits of decoder inputs (B, T) over sources (B, S), each token seeing all of its own."""
    (rows, n), t = source.shape, inputs.shape[1]
    lengths = torch.tensor([n] * rows) if lengths is None else lengths
    spans = dict(
        source_span=block_span(lengths[:, None].expand(-1, n), lengths),
        target_span=packed_span(torch.zeros_like(inputs)),
        cross_span=block_span(lengths[:, None].expand(-1, t)),
    )
    begins = (torch.arange(rows), torch.zeros(rows, dtype=torch.long), lengths - 1)
    counts = dict(source_tokens=1, target_tokens=1)
    return model(Batch(source, inputs, inputs, begins=begins, **spans, **counts))


def make_direct_pair(question, pieces, tokenizer):
    """The baseline's pair, question → whole chain."""
    [pair] = make_pairs(question, [Segment(CHAIN, tuple(pieces))], tokenizer)
    return pair


def read_whole(model, sources):
    """A cache over sources, lists of ids, each of one block."""
    encoder = ContextEncoder(model, "bidirectional")
    return encoder.encode(list(range(len(sources))), [[list(source)] for source in sources])


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TOY.question, TOY.answer] * 3, 320)


@pytest.fixture
def model(tokenizer) -> EncoderDecoder:
    torch.manual_seed(1)
    shape = dict(d_model=32, d_kv=8, d_ff=48, num_layers=2, num_decoder_layers=2, num_heads=3)
    return EncoderDecoder(ModelConfig(vocab_size=tokenizer.vocab_size, **shape)).eval()
