"""Promises about the code itself: docstrings, and the defaults that --help shows."""

import importlib
import inspect
import pkgutil
import re
from dataclasses import fields

import pytest

import ases
from ases.run.cli import EVALUATE_FLAGS, SEGMENT_FLAGS, TRAIN_FLAGS
from tests.test_commands import command

MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(ases.__path__, "ases.")
    if found.name != "ases.kernels.attention"  # kernels are documented as a whole
]


def public(module):
    """(name, function or class) of all that a module defines for others."""
    for name, thing in vars(module).items():
        if name.startswith("_") or getattr(thing, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(thing):
            yield name, thing
            for inner, method in vars(thing).items():
                method = method.fget if isinstance(method, property) else method
                method = getattr(method, "__func__", method)
                if not inner.startswith("_") and inspect.isfunction(method):
                    yield f"{name}.{inner}", getattr(thing, inner)
        elif inspect.isfunction(thing):
            yield name, thing


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_everything_public_is_documented(module):
    assert inspect.getdoc(module)
    for name, thing in public(module):
        text = inspect.getdoc(thing) or ""
        assert text and not text.startswith(f"{name}("), f"{name} has no docstring"
        if not inspect.isfunction(thing):
            continue
        signature = str(inspect.signature(thing))
        if re.search(r"\bTensor\b", signature):
            says = re.search(r"\(|shape|scalar|attention|weights", text)
            assert says, f"{name}: no shapes in its docstring"
        if "raise ValueError(" in inspect.getsource(thing) and "except" not in text:
            assert "Raises:" in text, f"{name}: its docstring does not say what it raises"


@pytest.mark.parametrize(
    "script, groups",
    [("train.py", TRAIN_FLAGS), ("segment.py", SEGMENT_FLAGS), ("evaluate.py", EVALUATE_FLAGS)],
)
def test_help_shows_the_defaults_of_the_code(script, groups):
    parts = command(script, "--help").stdout.split("\n  --")  # one for each flag
    told = {part.split()[0]: " ".join(part.split()) for part in parts}
    shown = 0
    for members in groups.values():
        for cls, names in members:
            made = cls()
            for f in fields(cls):
                value = getattr(made, f.name)
                if f.name not in names.split() or isinstance(value, bool) or value is None:
                    continue
                flag = f.name.replace("_", "-")
                assert f"[{f.metadata['shown'] or value}]" in told[flag], told[flag]
                shown += 1
    assert shown > 0
