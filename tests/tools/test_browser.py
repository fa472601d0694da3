"""The report pages in Chromium: they load completely, without the network, and fit the screen and paper."""

import shutil

import pytest
from support.scored import add_localization, make_experiment

from tools import report

WIDTHS = (1280, 390)  # pixels: a desktop, a phone


@pytest.fixture(scope="module")
def pages(built_dataset, few_resamples, tmp_path_factory) -> dict[str, str]:
    """URLs of three reports: an experiment with all its files, one with the fewest possible, and a dataset."""
    folder = tmp_path_factory.mktemp("pages")
    data_dir = shutil.copytree(built_dataset, folder / "records")
    full = make_experiment(folder / "full", data_dir)
    add_localization(full)
    fewest = make_experiment(folder / "fewest", data_dir, splits=("val",))
    (fewest / "history.csv").unlink()
    (fewest / "train.log").unlink()
    report.main(["--model_dir", str(full), "--data_dir", str(data_dir)])
    report.main(["--model_dir", str(fewest), "--split", "val"])
    report.main(["--data_dir", str(data_dir)])
    paths = {
        "full": full / "report_test.html",
        "fewest": fewest / "report_val.html",
        "dataset": data_dir / "report.html",
    }
    return {name: path.as_uri() for name, path in paths.items()}


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["full", "fewest", "dataset"])
def test_a_page_loads_without_the_network_and_fits_the_screen(browser, pages, name, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    logged, requested = [], []
    page.on("console", lambda message: logged.append(message.text))
    page.on("pageerror", lambda error: logged.append(str(error)))
    page.on("request", lambda request: requested.append(request.url))
    page.goto(pages[name])
    widths = page.evaluate("[...document.images].map(image => image.complete ? image.naturalWidth : 0)")
    wide = page.evaluate("document.documentElement.scrollWidth")
    shown = page.evaluate("document.body.innerText")
    page.close()
    assert logged == []
    assert [url for url in requested if not url.startswith("data:")] == [pages[name]]
    assert len(widths) >= {"full": 8, "fewest": 1, "dataset": 40}[name]
    assert min(widths) > 0
    assert wide <= width
    assert "Not for clinical use." in shown


def test_a_page_can_be_printed(browser, pages):
    page = browser.new_page(viewport={"width": 718, "height": 900})  # A4 between its margins
    page.goto(pages["full"])
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.evaluate("document.documentElement.scrollWidth") <= 718
    assert page.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    page.close()
