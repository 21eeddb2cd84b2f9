"""The pages in a real browser: everything in one file, filters, search, text that looks like markup."""

import json
import re
import shutil

import pytest

from ases.data import TOY, Example
from ases.decoding import Chain
from ases.metrics import score
from ases.recipe import Writer, segment
from ases.run.evaluation import prediction
from ases.run.page import evaluation_page, segmentation_page
from ases.run.plot import main
from ases.run.read import read_curves
from ases.settings import Settings

BROWSER = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)
EVIL = "<script>document.title = 'run'</script> & <b>\"'"


def scorer(model, tokenizer):
    return Writer(Settings(mode="direct"), tokenizer, {"direct": model})


@pytest.fixture(scope="module")
def browser():
    if BROWSER is None:
        pytest.skip("no Chromium is installed")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def evaluation():
    """Two runs on four problems; the second is right once, the first always."""
    examples = [
        Example(
            f"x{i}", f"Problem {i} {EVIL if i == 3 else ''}?", f"He has {i}. The answer is {i}."
        )
        for i in range(4)
    ]
    predictions, rows = {}, {}
    for run in ("runs/a", "runs/b"):
        written = []
        for i, example in enumerate(examples):
            n = i if run == "runs/a" or i == 0 else 9
            texts = [f"He has {n}.", f" The answer is {n}."]
            stop = "end" if i < 2 else "stuck"
            chain = Chain(["ES", "AS"], [[], []], stop, "".join(texts), texts)
            written.append(prediction("mwp", example, chain))
        predictions[run] = written
        texts = [line["prediction"] for line in written]
        rows[run] = score("mwp", texts, [e.answer for e in examples])
        rows[run] |= {"stop_reasons": dict.fromkeys(("end", "stuck"), 0.5), "rounds_mean": 2.0}
        rows[run]["problems"] = run
        for reason in ("no-end", "rounds", "length"):
            rows[run]["stop_reasons"][reason] = 0.0
    curves = {"runs/a": {"usm": {"training": [(1, 3.0), (2, 1.0)], "validation": [(2, 1.5)]}}}
    return evaluation_page(rows, predictions, curves, ["runs/a: 4 chains, test"])


def visible(page):
    return page.eval_on_selector_all(
        "article",
        "all => all.filter(a => a.checkVisibility()).map(a => a.querySelector('small').textContent)",
    )


def test_nothing_comes_from_elsewhere_and_markup_stays_text(evaluation):
    assert not re.search(r"""(?:src|href)\s*=|url\(|@import""", evaluation)
    assert evaluation.count("<script>") == 1  # our own
    assert EVIL not in evaluation and "\\u003cscript>" in evaluation


def test_an_evaluation_is_filtered_and_searched(evaluation, browser, tmp_path):
    (tmp_path / "page.html").write_text(evaluation, encoding="utf-8")
    page = browser.new_page()
    errors, requests = [], []
    page.on("pageerror", lambda error: errors.append(error))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((tmp_path / "page.html").as_uri())

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
    page.select_option("#verdict", "split")
    assert visible(page) == ["x1", "x2", "x3"]
    assert page.locator(".note").count() == 3  # the first wrong step of each wrong chain

    text = page.inner_text("body")
    assert "not scored on the same problems: runs/a; runs/b" in text and EVIL in text
    assert "runs/a: 4 chains, test" in text and page.title().startswith("Chains of thought")
    assert page.locator("svg.curves path.line-1").count() == 2
    assert not errors and len(requests) == 1
    for width in (1280, 360):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("th[scope=row]").first.bounding_box()["width"] > 150
    page.close()


def test_a_segmentation_with_entropies(browser, tmp_path, model, tokenizer):
    settings = Settings(segmentation="entropy")
    examples = [TOY, Example("evil", EVIL, f"{EVIL} 胰头, so 3. The answer is 3.")]
    segmented = segment(examples, settings, scorer(model, tokenizer))
    content = segmentation_page(segmented, settings, "data: 2", tokenizer)
    (tmp_path / "page.html").write_text(content, encoding="utf-8")
    page = browser.new_page(color_scheme="dark")
    page.goto((tmp_path / "page.html").as_uri())
    assert visible(page) == ["toy", "evil"]
    shown = page.eval_on_selector_all(".tokens", "all => all.map(t => t.textContent)")
    pieces = [piece for s in segmented for piece in s.pieces]
    assert [s.strip() for s in shown] == [piece.strip() for piece in pieces]
    assert page.locator(".bar.mean").count() == len(pieces)
    page.fill("#search", "boxes")
    assert visible(page) == ["toy"]
    page.close()


def test_tokens_of_a_page(model, tokenizer):
    """The bytes of one character stand together, and a piece's tokens spell it."""
    settings = Settings(segmentation="entropy")
    segmented = segment([Example("x", "q?", "胰头, so 3.")], settings, scorer(model, tokenizer))
    content = segmentation_page(segmented, settings, "data: 1", tokenizer)
    data = json.loads(re.search(r'id="data">(.*?)</script>', content)[1])
    [example] = data["examples"]
    assert ["".join(text for text, _ in piece["tokens"]) for piece in example["pieces"]] == [
        "胰头,",
        " so 3.",
    ]
    totals = [sum(h for _, h in piece["tokens"]) for piece in example["pieces"]]
    assert totals == pytest.approx([sum(tokens) for tokens in segmented[0].token_entropies])


def test_labels_by_position_are_called_so():
    content = segmentation_page(segment([TOY]), Settings(), "data: 1")
    assert "Labels alternate by position" in content and content.count('"label": "ES"') == 3


def test_curves(tmp_path, monkeypatch, capsys):
    rows = [
        {"model": "usm", "step": s, "loss": 4 / s, "tokens_per_second": 1} for s in range(1, 20)
    ] + [{"model": "usm", "step": 10, "validation_loss": 0.5}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    curves = read_curves(tmp_path)
    assert len(curves["usm"]["training"]) == 19 and curves["usm"]["validation"] == [(10, 0.5)]

    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    out = tmp_path / "new" / "curves.svg"
    monkeypatch.setattr("sys.argv", ["plot", str(tmp_path), "--out", str(out)])
    main()
    assert "<svg" in out.read_text() and str(out) in capsys.readouterr().out
