"""`import ases`: the names that a user needs, on the user's own examples."""

import copy
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import pytest
import torch
from conftest import read, write_lines
from test_commands import fail, succeed

import ases
from ases.data import InputError, split_examples
from ases.pairs import encode_question
from ases.recipe import score_chains
from ases.run.checkpoints import Recorder
from ases.settings import STOPS
from ases.tasks import make_splits
from ases.training import one_thread_if_small

SHAPE = dict(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_decoder_layers=1, num_heads=2)
SETTINGS = ases.Settings(mode="usm", max_steps=6, validations=2, model=SHAPE)
EXAMPLES = make_splits("mwp", 40, 1, 1, 0, 20)["train"]
QUESTIONS = [e.question for e in EXAMPLES[:5]]


def train(examples=EXAMPLES, **changes):
    return ases.train(examples, replace(SETTINGS, **changes))


def cut(**settings):
    return ases.segment([ases.TOY], ases.Settings(**settings))


@pytest.fixture(scope="module")
def writer():
    return train()


IMPORTING = """
import csv, sys
before = csv.field_size_limit()
import ases
ases.TOY, ases.Settings
assert "torch" not in sys.modules
import ases.run.read, ases.run.folder, ases.run.page
assert csv.field_size_limit() == before
"""


def test_every_name_is_there_and_importing_costs_and_changes_nothing():
    assert all(getattr(ases, name) is not None for name in ases.__all__)
    assert set(ases.__all__) <= set(dir(ases))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ases.nonsense
    assert subprocess.run([sys.executable, "-c", IMPORTING]).returncode == 0


@pytest.mark.parametrize("mode, roles", [("usm", {"ES", "AS"}), ("direct", {"CHAIN"})])
def test_train_on_a_list_of_examples(mode, roles, tmp_path):
    random_numbers, folder = torch.get_rng_state(), tmp_path / "new" / "folder"
    writer = ases.train(EXAMPLES, replace(SETTINGS, mode=mode), Recorder(folder))
    assert (folder / f"{mode}.best.pt").exists()
    chain = writer.answer(QUESTIONS[0])
    assert torch.equal(torch.get_rng_state(), random_numbers)  # they stay as they were
    assert chain.roles and set(chain.roles) <= roles
    assert "".join(text for _, text in chain.segments) == chain.text
    assert chain.stop in STOPS
    assert chain.number is None or isinstance(chain.number, Fraction)


PIECES = cut()[0].segments
A_LIST = "expected a list of Example"
NO_EXAMPLES = [("q", "a")] * 3, [{"question": "q"}], ases.TOY, ["text"], {"train": EXAMPLES}
A_QUESTION = "expected a question, a text in valid Unicode; got"
#: What is called with a trained writer → what the error says.
MISTAKES = [
    *((lambda w, x=x: train(x), A_LIST) for x in NO_EXAMPLES[:-1]),
    *((lambda w, x=x: ases.segment(x), A_LIST) for x in NO_EXAMPLES),
    (lambda w: train([ases.TOY]), "1 different question"),
    (lambda w: train({"train": EXAMPLES, "validation": []}), "no examples in 'validation'"),
    (lambda w: train({"train": EXAMPLES, "dev": EXAMPLES}), "no examples in 'validation'"),
    (lambda w: ases.train([ases.TOY] * 9, ases.Settings(mode="both")), "mode is 'both'"),
    (lambda w: ases.train(EXAMPLES, "usm"), "'usm'; expected Settings"),
    (lambda w: ases.segment([ases.TOY], "entropy"), "'entropy'; expected Settings"),
    (lambda w: train(max_question=-5), "max_question is -5"),
    (lambda w: train(model=SHAPE | {"vocab_size": 5}), "vocab_size is 5; the tokenizer has"),
    (lambda w: train(model={"d_modle": 5}), "unexpected keyword argument 'd_modle'"),
    (lambda w: train(model={"pad_token_id": 9999}), "model: pad_token_id is 9999; expected less"),
    (lambda w: train(device="gpu"), "device is 'gpu'"),
    (lambda w: train(scorer="runs/direct"), "runs/direct is not loaded; pass scorer="),
    (lambda w: train(init="flan"), "flan is not loaded"),
    (lambda w: cut(segmentation="interleaved"), "segmentation is 'interleaved'"),
    (lambda w: cut(beta=float("nan")), "beta is nan"),
    (lambda w: w.write("text"), "expected a list of questions"),
    (lambda w: w.write(q for q in ["Tom?"]), "expected a list of questions"),
    *((lambda w, q=q: w.answer(q), f"{A_QUESTION} {q!r}") for q in (5, " ")),
    (lambda w: w.answer("\ud800"), A_QUESTION),
    *((lambda w, n=n: w.answer("q", beams=n), "beams is") for n in (0, 2.0, True)),
    (lambda w: ases.Tokenizer.train("text", 300), "expected a list of texts"),
    (lambda w: ases.make_pairs("q", PIECES, w.tokenizer, -5), "max_question is -5"),
    (lambda w: ases.make_pairs("q", [], w.tokenizer), "no segments"),
    (lambda w: score_chains("mwp", [], []), "no chains to score"),
]
if not torch.cuda.is_available():
    MISTAKES += [(lambda w: train(device="cuda"), "device is 'cuda'; PyTorch finds no GPU")]


@pytest.mark.parametrize("call, message", MISTAKES)
def test_a_mistake_is_one_clear_line(writer, call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(writer)
    assert "\n" not in str(error.value)


def test_writing_is_without_dropout():
    w = train(model=SHAPE | {"dropout_rate": 0.5})
    expected = w.write(["Tom has 3 pens?"])
    w.models["usm"].train()
    assert w.write(["Tom has 3 pens?"]) == expected and not w.models["usm"].training


def test_limits_are_twice_the_longest(writer):
    cuts = ases.segment(split_examples(EXAMPLES, 0)["train"])
    pairs = [ases.make_pairs(c.example.question, c.segments, writer.tokenizer) for c in cuts]
    assert writer.settings.max_tokens == 2 * max(len(p.target) for chain in pairs for p in chain)
    assert writer.settings.max_rounds == 2 * max(len(c.segments) for c in cuts)


def test_two_models_share_updates_rounded_up():
    w = train(mode="dsm", max_steps=7)
    assert [w.reports[name]["steps"] for name in ("esm", "asm")] == [4, 4]


@pytest.mark.parametrize("unit", ["word ", "x", " "])
def test_a_long_question_is_cut_before_it_is_encoded(writer, unit, monkeypatch):
    kind, lengths = type(writer.tokenizer), []
    encode = kind.encode
    spy = lambda tokenizer, text: lengths.append(len(text)) or encode(tokenizer, text)
    monkeypatch.setattr(kind, "encode", spy)
    text = unit * (1_000_000 // len(unit))
    ids, left_out = encode_question(f"begin {text} end", writer.tokenizer, 64)
    assert max(lengths) <= 64 * 64 and left_out > 0 and len(ids) <= 64
    shortened = writer.tokenizer.decode(ids)
    assert shortened.startswith("begin ") and shortened.endswith(" end")


def test_what_python_trains_is_saved_loaded_and_scored(writer, tmp_path):
    writer.save(folder := tmp_path / "saved")
    loaded = ases.load_run(folder)
    assert loaded.write(QUESTIONS) == writer.write(QUESTIONS) and loaded.settings.mode == "usm"
    with pytest.raises(InputError, match="exists and is not empty"):
        writer.save(folder)
    assert "use --data to say what to score" in fail(f"evaluate.py --run {folder}")
    rows = [{"question": e.question, "answer": e.answer} for e in EXAMPLES]
    data = write_lines(tmp_path / "data.jsonl", rows)
    succeed(f"evaluate.py --run {folder} --data {data} --split all --beams 2")
    assert read(folder / "eval-all-data-beam2" / "results.json")["n"] == len(EXAMPLES)


def test_training_goes_on_from_given_weights(writer):
    model = writer.models["usm"]
    still = dict(learning_rate=1e-9, embedding_learning_rate=1e-9, weight_decay=0.0)
    start = dict(initial=lambda: copy.deepcopy(model), tokenizer=writer.tokenizer)
    again = ases.train(EXAMPLES, replace(SETTINGS, **still), **start).models["usm"]
    weights = zip(again.parameters(), model.parameters())
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in weights)


def test_beams_and_a_second_try_from_python(writer):
    assert writer.write(QUESTIONS, beams=1) == writer.write(QUESTIONS)
    chain = writer.answer(QUESTIONS[0], beams=4, second_try=True)
    assert chain == writer.write(QUESTIONS, 4, True)[0]


@pytest.mark.parametrize("width, given, expected", [(64, None, 1), (128, None, 2), (64, "2", 2)])
def test_small_models_take_one_thread(writer, monkeypatch, width, given, expected):
    """Unless OMP_NUM_THREADS says otherwise; larger ones take all."""
    model, before = writer.models["usm"], torch.get_num_threads()
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(model, "config", replace(model.config, d_model=width))
    torch.set_num_threads(2)
    try:
        with one_thread_if_small(model):
            assert torch.get_num_threads() == expected
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
