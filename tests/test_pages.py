"""The pages in a real browser: everything in one file, filters, search, text that looks like markup."""

import json
import re
import shutil

import pytest
from conftest import write_lines

from ases.data import TOY, Example
from ases.decoding import Chain
from ases.recipe import Writer, score_chains, segment
from ases.run.evaluation import prediction
from ases.run.page import evaluation_page, segmentation_page
from ases.run.read import read_curves
from ases.run.scores import same_problems
from ases.settings import Settings

NAMES = "chromium", "chromium-browser", "google-chrome"
EVIL = "<script>document.title = 'run'</script> & <b>\"'"


@pytest.fixture(scope="module")
def browser():
    path = next(filter(None, map(shutil.which, NAMES)), None) or pytest.skip("no Chromium here")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])


@pytest.fixture
def opened(browser, tmp_path):
    """Opens a page; no script in it fails, and it loads nothing but itself."""
    path, page, errors, requests = tmp_path / "page.html", browser.new_page(), [], []
    page.on("pageerror", lambda error: errors.append(error))
    page.on("request", lambda request: requests.append(request.url))

    def open_(content):
        path.write_text(content, encoding="utf-8")
        page.goto(path.as_uri())
        return page

    yield open_
    page.close()
    assert not errors and requests == [path.as_uri()]


@pytest.fixture(scope="module")
def evaluation():
    """Two runs on four problems: the first is always right, the second only once."""

    def chain(number, stop):
        texts = [f"He has {number}.", f" The answer is {number}."]
        return Chain(["ES", "AS"], [[], []], stop, "".join(texts), texts)

    questions = ["Problem 0?", "Problem 1?", "Problem 2?", f"Problem 3 {EVIL}?"]
    examples = [Example(f"x{i}", q, chain(i, "").text) for i, q in enumerate(questions)]
    predictions, results = {}, {}
    for run, numbers in (("runs/a", [0, 1, 2, 3]), ("runs/b", [0, 9, 9, 9])):
        chains = list(map(chain, numbers, ("end", "end", "stuck", "stuck")))
        predictions[run] = [prediction("mwp", *row) for row in zip(examples, chains)]
        results[run] = score_chains("mwp", examples, chains) | {"problems": run}
    curves = {"runs/a": {"usm": {"training": [(1, 3.0), (2, 1.0)], "validation": [(2, 1.5)]}}}
    notes = [*same_problems(results), "runs/a: 4 chains, test"]
    return evaluation_page(results, predictions, curves, notes)


def visible(page):
    articles = page.locator("article:visible").all()
    return [article.locator("small").first.text_content() for article in articles]


def test_nothing_comes_from_elsewhere_and_markup_stays_text(evaluation):
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import""", evaluation)
    assert evaluation.count("<script>") == 1  # our own
    assert EVIL not in evaluation and "\\u003cscript>" in evaluation


def test_an_evaluation_is_filtered_and_searched(evaluation, opened):
    page = opened(evaluation)
    assert visible(page) == ["x0", "x1", "x2", "x3"] and page.inner_text("#count") == "4 of 4"
    page.select_option("#verdict", "wrong")
    assert visible(page) == ["x1", "x2", "x3"]
    page.select_option("#stop", "stuck")
    assert visible(page) == ["x2", "x3"]
    page.keyboard.press("/")
    page.keyboard.type("problem 2")
    assert visible(page) == ["x2"] and page.inner_text("#count") == "1 of 4"
    page.fill("#search", "")
    page.select_option("#stop", "")
    page.select_option("#verdict", "runs disagree")
    assert visible(page) == ["x1", "x2", "x3"]
    page.select_option("#verdict", "")
    page.click("#wrong")
    assert visible(page) == ["x1", "x2", "x3"]


def test_an_evaluation_shows_chains_first_and_scores_and_notes_on_a_click(evaluation, opened):
    page = opened(evaluation)
    assert page.locator(".note").count() == 3  # the first wrong step of each wrong chain
    assert page.locator("article").nth(1).bounding_box()["y"] < 720
    assert "not scored" not in page.inner_text("body")
    page.click("summary")
    text = page.inner_text("body")
    assert "not scored on the same problems: runs/a; runs/b" in text and EVIL in text
    assert "runs/a: 4 chains, test" in text and page.title().startswith("Chains of thought")
    assert page.locator("svg.curves path.line-1").count() == 2
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("th[scope=row]").first.bounding_box()["width"] > 150


@pytest.fixture
def by_entropy(model, tokenizer):
    """Examples → their segments, and the page of these."""
    settings = Settings(segmentation="entropy")
    scorer = Writer(Settings(mode="direct"), tokenizer, {"direct": model})

    def cut(*examples):
        segmented = segment(examples, settings, scorer)
        return segmented, segmentation_page(segmented, settings, "data: mine", tokenizer)

    return cut


def test_a_segmentation_with_entropies(by_entropy, opened):
    evil = Example("evil", EVIL, f"{EVIL} 胰头, so 3. The answer is 3.")
    segmented, content = by_entropy(TOY, evil)
    page = opened(content)
    page.emulate_media(color_scheme="dark")
    assert visible(page) == ["toy", "evil"]
    pieces = [piece.strip() for s in segmented for piece in s.pieces]
    assert [text.strip() for text in page.locator(".tokens").all_text_contents()] == pieces
    assert page.locator(".bar.mean").count() == len(pieces)
    page.fill("#search", "boxes")
    assert visible(page) == ["toy"]


def test_tokens_of_a_page(by_entropy):
    """The bytes of one character stand together, and a piece's tokens spell it."""
    [segmented], content = by_entropy(Example("x", "q?", "胰头, so 3."))
    [example] = json.loads(re.search(r'id="data">(.*?)</script>', content)[1])["examples"]
    rows = zip(example["pieces"], ["胰头,", " so 3."], segmented.token_entropies, strict=True)
    for piece, text, entropies in rows:
        assert "".join(token for token, _ in piece["tokens"]) == text
        assert sum(h for _, h in piece["tokens"]) == pytest.approx(sum(entropies))


def test_labels_by_position_are_called_so():
    content = segmentation_page(segment([TOY]), Settings(), "data: 1")
    assert "Labels alternate by position" in content and content.count('"label": "ES"') == 3


def test_curves(tmp_path):
    rows = [
        {"model": "usm", "step": s, "loss": 4 / s, "tokens_per_second": 1} for s in range(1, 20)
    ]
    rows.append({"model": "usm", "step": 10, "validation_loss": 0.5})
    curves = read_curves(write_lines(tmp_path / "metrics.jsonl", rows).parent)["usm"]
    assert len(curves["training"]) == 19 and curves["validation"] == [(10, 0.5)]
