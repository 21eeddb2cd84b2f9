"""`import ases`: the names that a user needs, on the user's own examples."""

import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import pytest

import ases
from ases.tasks import make_splits
from tests.test_commands import SMALL, succeed

RECIPE = ases.Recipe(
    mode="usm",
    training=ases.TrainingSettings(max_steps=6, validations=2),
    model=dict(d_model=16, d_kv=8, d_ff=16, num_layers=1, num_decoder_layers=1, num_heads=2),
)


def test_every_name_is_there_and_costs_nothing_before_it_is_used():
    assert all(getattr(ases, name) is not None for name in ases.__all__)
    assert set(ases.__all__) <= set(dir(ases))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = ases.nonsense
    code = "import sys, ases; ases.TOY; ases.Recipe; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("mode, roles", [("usm", {"ES", "AS"}), ("direct", {"CHAIN"})])
def test_train_on_a_list_of_examples(mode, roles):
    examples = make_splits("mwp", 40, 1, 1, 0, 20)["train"]
    writer = ases.train(examples, replace(RECIPE, mode=mode))
    chain = writer.answer(examples[0].question)
    assert chain.roles and set(chain.roles) <= roles
    assert "".join(text for _, text in chain.segments) == chain.text
    assert chain.stop in ("end", "no-end", "rounds", "length", "stuck")
    assert chain.number is None or isinstance(chain.number, Fraction)


def test_a_list_too_short_to_split_and_settings_that_may_not_be():
    with pytest.raises(ValueError, match="1 different question"):
        ases.train([ases.TOY], RECIPE)
    with pytest.raises(ValueError, match="mode is 'both'"):
        ases.train([ases.TOY] * 9, ases.Recipe(mode="both"))


@pytest.mark.parametrize(
    "given", [[("q", "a")] * 3, [{"question": "q"}], ases.TOY, ["text"], {"train": [ases.TOY]}]
)
def test_what_are_no_examples(given):
    with pytest.raises(ValueError, match="expected a list of Example"):
        ases.train(given, RECIPE)
    with pytest.raises(ValueError, match="expected a list of Example"):
        ases.segment(given)


def test_load_run(tmp_path):
    succeed("train.py", "--max-steps", 4, "--out-dir", tmp_path / "run", *SMALL)
    chain = ases.load_run(tmp_path / "run").answer("Tom has 2 pens and buys 3. How many?")
    assert chain.roles[0] == "ES" and chain.text is not None
    with pytest.raises(ValueError, match="config.json: cannot be read"):
        ases.load_run(tmp_path / "nowhere")


def test_watching_into_a_folder_that_is_not_there_yet(tmp_path):
    from ases.run.checkpoints import Recorder

    examples = make_splits("mwp", 40, 1, 1, 0, 20)["train"]
    ases.train(examples, RECIPE, Recorder(tmp_path / "a" / "b"))
    assert (tmp_path / "a" / "b" / "usm.best.pt").exists()
