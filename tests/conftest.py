"""What several tests share: the toy problem of the docs, a tokenizer and a small model."""

import os

import pytest

# Before torch is imported, and for the commands that tests run: threads that wait for each other on a
# busy machine make small models several times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = (
        "1"  # before triton is imported: its kernels then run on the CPU
    )

from ases.config import ModelConfig
from ases.data import TOY
from ases.model import EncoderDecoder
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
    parser.addoption(
        "--solutions", default=None, help="your answers to docs/exercises.md, a Python file"
    )


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer.train([TOY.question, TOY.answer] * 3, 320)


@pytest.fixture
def model(tokenizer) -> EncoderDecoder:
    torch.manual_seed(1)
    return EncoderDecoder(
        ModelConfig(
            vocab_size=tokenizer.vocab_size,
            d_model=32,
            d_kv=8,
            d_ff=48,
            num_layers=2,
            num_decoder_layers=2,
            num_heads=3,
        )
    ).eval()
