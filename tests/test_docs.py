"""README and docs: the quick commands print what stands behind them, and what is made by a script is up to date."""

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def load(name):
    specification = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


outputs, picture = load("outputs"), load("picture")


@pytest.mark.parametrize("page", outputs.PAGES, ids=lambda path: path.name)
def test_quick_commands_print_what_is_shown(page):
    text = page.read_text(encoding="utf-8")
    assert outputs.refreshed(text) == text, "python docs/outputs.py makes them anew"


def test_the_picture_is_what_its_script_draws():
    assert (ROOT / "docs" / "method.svg").read_text(encoding="utf-8") == picture.draw()


def anchors(page):
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


def test_every_link_leads_somewhere():
    for page in outputs.PAGES:
        links = re.findall(r"\]\((?!http)([^)#]*)#?([^)]*)\)", page.read_text(encoding="utf-8"))
        for target, anchor in links:
            place = page.parent / target if target else page
            assert place.exists(), (page.name, target)
            assert not anchor or anchor in anchors(place), (page.name, target, anchor)
