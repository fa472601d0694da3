"""The pages as a browser shows them: nothing is asked of the network, everything loads, nothing sticks out."""

import shutil

import pytest
from support.scored import add_localization, make_experiment

from tools import report

WIDTHS = (1280, 390)  # pixels: a desk, a phone


@pytest.fixture(scope="module")
def pages(built_dataset, few_resamples, tmp_path_factory) -> dict[str, str]:
    """The report of an experiment with all its parts, one with as few as may be, and that of a dataset, as URLs."""
    folder = tmp_path_factory.mktemp("pages")
    data_dir = shutil.copytree(built_dataset, folder / "records")
    full = make_experiment(folder / "full", data_dir)
    add_localization(full)
    least = make_experiment(folder / "least", data_dir, splits=("val",))
    (least / "history.csv").unlink()
    (least / "train.log").unlink()
    report.main(["--model_dir", str(full), "--data_dir", str(data_dir)])
    report.main(["--model_dir", str(least), "--split", "val"])
    report.main(["--data_dir", str(data_dir)])
    paths = {"full": full / "report_test.html", "least": least / "report_val.html", "dataset": data_dir / "report.html"}
    return {name: path.as_uri() for name, path in paths.items()}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["full", "least", "dataset"])
def test_a_page_loads_whole_by_itself_and_fits_the_screen(browser, pages, name, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name])
    widths = page.evaluate("[...document.images].map(image => image.complete ? image.naturalWidth : 0)")
    wide = page.evaluate("document.documentElement.scrollWidth")
    shown = page.evaluate("document.body.innerText")
    page.close()
    assert said == []
    assert [url for url in asked if not url.startswith("data:")] == [pages[name]]
    assert len(widths) >= {"full": 8, "least": 1, "dataset": 40}[name]
    assert min(widths) > 0
    assert wide <= width
    assert "Not for clinical use." in shown


def test_a_page_goes_on_paper(browser, pages):
    page = browser.new_page(viewport={"width": 718, "height": 900})  # A4 between its margins
    page.goto(pages["full"])
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    page.close()


def test_the_browser_test_notices_what_it_looks_for(browser, tmp_path):
    (tmp_path / "bad.html").write_text(
        '<meta name="viewport" content="width=device-width"><img src="nowhere.png"><div style="width: 900px">x</div>'
    )
    page = browser.new_page(viewport={"width": 390, "height": 900})
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("request", lambda request: asked.append(request.url))
    page.goto((tmp_path / "bad.html").as_uri())
    assert page.evaluate("document.images[0].naturalWidth") == 0
    assert page.evaluate("document.documentElement.scrollWidth") > 390
    assert len(asked) == 2
    assert said
    page.close()
