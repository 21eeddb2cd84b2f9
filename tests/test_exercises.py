"""The exercises of docs/exercises.md. `--solutions mine.py` judges your functions instead of the project's."""

import math
import random
import runpy
from pathlib import Path

import pytest
import torch

from ases.model import EncoderDecoder, start_from
from ases.pairs import Pair, collate, rows_by_model
from ases.recipe import segment, training_texts
from ases.segmentation import AS, ES
from ases.settings import SIZES, ModelConfig, Settings
from ases.tasks import make_splits
from ases.tokenizer import Tokenizer
from ases.training import Training, fit


class Solutions:
    """The reader's functions; what is missing skips its test."""

    def __init__(self, path):
        if not Path(path).is_file():
            pytest.exit(f"--solutions: {path} is not a file", returncode=2)
        self.functions = runpy.run_path(path)

    def __getattr__(self, name):
        return self.functions.get(name) or pytest.skip(f"{name} is not in your file")


@pytest.fixture(scope="module")
def mine(request):
    """The functions to judge: the reader's, or the project's."""
    path = request.config.getoption("--solutions")
    return Solutions(path or Path(__file__).with_name("solutions.py"))


def test_1_interleaving(mine):
    assert [mine.interleaved_labels(n) for n in (0, 1, 4)] == [[], [ES], [ES, AS, ES, AS]]
    assert mine.merge(["a,", " b.", " c."], [ES, AS, AS]) == [(ES, "a,"), (AS, " b. c.")]
    assert mine.merge(["a,", " b."], [AS, ES]) == [(ES, ""), (AS, "a,"), (ES, " b.")]
    assert mine.merge(["a,", " b."], [ES, ES]) == [(ES, "a, b.")]


def test_2_token_entropies(mine):
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [1000.0, 0.0], [0.0, -math.inf]])
    of_a_quarter = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    expected = torch.tensor([math.log(2), of_a_quarter, 0.0, 0.0])
    assert torch.allclose(mine.token_entropies(logits), expected, atol=1e-6)
    even = mine.token_entropies(torch.zeros(2, 3, 50))
    assert torch.allclose(even, torch.full((2, 3), math.log(50)))
    wide = torch.zeros(1, 32_000, dtype=torch.bfloat16)
    assert float(mine.token_entropies(wide)) == pytest.approx(math.log(32_000), rel=1e-4)


def test_3_the_unified_path(mine):
    rng, whole = random.Random(0), []
    for chain in range(40):
        roles = [ES, AS, ES, AS, ES, AS][: rng.randint(1, 6)]
        whole += [Pair(r, [[chain + 50, j + 3, 1]], [10 + j, 1]) for j, r in enumerate(roles)]
        whole[-1].target.insert(1, 2)
    dual = {name: [p for p in whole if p.role == r] for name, r in (("esm", ES), ("asm", AS))}
    assert mine.unify(dual) == {"usm": whole}


def test_4_the_toeplitz_index(mine):
    for n, m in ((1, 1), (3, 4), (5, 2), (1, 7), (4, 1)):
        differences = torch.arange(-(n - 1), m)  # entry 0: the most negative
        matrix = differences[mine.toeplitz_index(n, m)]
        assert matrix.tolist() == [[j - i for j in range(m)] for i in range(n)]


def test_5_where_a_decoder_starts(mine):
    model = EncoderDecoder(ModelConfig(vocab_size=9)).eval()
    blocks = [[3, 4, 1], [5, 1]]
    batch = collate([[Pair(ES, blocks[:1], [5, 1]), Pair(AS, blocks, [6, 2, 1])]], 0)
    states, start = torch.randn(5, 64), model.embedding.weight[0]
    inputs = mine.first_inputs(start, states, [3, 5])
    expected = start_from(states[None], model.embedding(batch.decoder_input), batch.begins)
    assert torch.allclose(inputs, expected[0, [0, 2]])


def test_6_a_better_score(mine):
    splits = make_splits("mwp", 60, 30, 1, seed=0, max_number=20)
    tokenizer = Tokenizer.train(training_texts(splits), 1000)
    cut = [segment(splits[name]) for name in ("train", "validation")]
    rows = [rows_by_model("usm", part, tokenizer, "block-causal")["usm"] for part in cut]
    base = Settings(max_steps=60, batch_tokens=2048, validations=1)

    def loss(settings):
        torch.manual_seed(0)
        model = EncoderDecoder(ModelConfig(vocab_size=tokenizer.vocab_size, **SIZES["micro"]))
        training = Training("usm", model, settings)
        list(fit(training, *rows))
        return training.best["validation_loss"]

    better = mine.better_settings(base)
    assert better.max_steps == base.max_steps and better.max_minutes is None
    assert loss(better) <= 9 / 10 * loss(base)
