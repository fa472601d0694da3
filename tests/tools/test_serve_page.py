"""The page of tools/serve.py in Chromium, by mouse and keyboard, on a desktop and on a phone."""

from collections.abc import Iterator

import numpy as np
import pytest
from support import serving
from support.serving import (
    BOMB_REJECTED,
    HTML,
    HTML_REJECTED,
    choose,
    drop,
    huge_png,
    noise,
    open_tab,
    png,
    rgb_of,
    seeded_experiment,
    shown_image,
    wait_for_text,
)

from cxr.findings import FINDINGS
from cxr.patient import Patient
from inference import readings
from tools.serving.validation import MAX_BYTES, TOO_LARGE

REJECTED = "Failed to load resource: the server responded with a status of 4"  # how Chromium logs a rejected request


@pytest.fixture
def opened(browser, server) -> Iterator:
    """opened(width) is a tab with the page; nothing may be logged, requested from elsewhere, or stored."""
    tabs = []

    def open_page(width: int = 1280):
        tabs.append(open_tab(browser, server.url, width))
        return tabs[-1]

    yield open_page
    titles = {tab.title() for tab in tabs}
    stored = {tab.evaluate("indexedDB.databases().then(kept => kept.length + localStorage.length)") for tab in tabs}
    for tab in tabs:
        tab.close()
        assert [text for text in tab.logged if not text.startswith(REJECTED)] == []
        assert [url for url in tab.requested if not url.startswith((server.url, "data:", f"blob:{server.url}"))] == []
    assert titles == {"Chest X-ray findings: seeded"}  # no script in a hostile file has run
    assert stored == {0}
    assert [path for path in server.scratch.rglob("*") if path.is_file()] == []  # nothing was stored


@pytest.mark.parametrize("width", [1280, 390])
def test_a_file_gives_14_probabilities_and_a_click_gives_a_heat_map(opened, predictor, width):
    tab, data = opened(width), noise(7)
    picture = predictor.read(data)
    reading = predictor.predict([picture])[0]
    warning = tab.get_by_text("Not for clinical use.").bounding_box()
    assert warning["y"] + warning["height"] < 844  # seen without scrolling
    choose(tab, data)
    tab.wait_for_selector("[data-finding]")
    found = {row.get_attribute("data-finding"): row for row in tab.query_selector_all("[data-finding]")}
    assert sorted(found) == sorted(FINDINGS)
    for finding, value in zip(FINDINGS, reading.calibrated, strict=True):
        assert found[finding].query_selector(".percent").inner_text() == f"{readings.percent(value)} %"
    assert {name for name, row in found.items() if row.get_attribute("class") == "called"} == set(reading.called)
    grey = shown_image(tab)
    assert (grey.min(axis=2) == grey.max(axis=2)).all()
    tab.click("[data-finding=Effusion]")
    tab.get_by_role("img", name="The X-ray with the heat map of Effusion").wait_for()
    overlay = rgb_of(predictor.overlay(picture, "Effusion"))
    assert np.abs(shown_image(tab) - overlay).max() <= 2
    assert (overlay.max(axis=2) - overlay.min(axis=2)).max() > 50  # it has colour
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.keyboard.press("Enter")  # the finding still has the focus
    tab.wait_for_selector("[data-finding=Effusion][aria-pressed=false]")
    np.testing.assert_array_equal(shown_image(tab), grey)


def test_dropping_a_file_and_entering_patient_inputs(opened, predictor):
    tab, data = opened(), noise(5)
    drop(tab, data, "<b>x.png")
    tab.wait_for_selector("[data-finding]")
    assert tab.inner_text("#chosen") == "<b>x.png"
    known, unknown = (
        [readings.percent(value) for value in predictor.predict([predictor.read(data, patient)])[0].calibrated]
        for patient in (Patient(81.0, "M", "AP"), Patient())
    )
    finding, wanted = next((f, k) for f, k, u in zip(FINDINGS, known, unknown, strict=True) if k != u)
    tab.get_by_label("Sex").select_option("M")
    tab.get_by_label("View position").select_option("AP")
    tab.get_by_label("Age").fill("81")
    tab.keyboard.press("Enter")
    wait_for_text(tab, f"[data-finding={finding}] .percent", f"{wanted} %")
    tab.get_by_label("Age").fill("300")
    tab.keyboard.press("Tab")
    wait_for_text(tab, "[role=alert]", "These patient inputs are not valid: age 300: expected 0 to 120 years")


def test_every_drawing_can_be_tried(opened):
    tab, shown = opened(390), []
    for name in ("no finding", "cardiomegaly", "mass, effusion"):
        button = tab.get_by_role("button", name=name, exact=True)
        button.click()
        tab.wait_for_function(
            "before => (document.querySelector('#image').src || before) !== before", arg=(shown or [""])[-1]
        )
        assert button.get_attribute("aria-pressed") == "true"
        assert tab.locator("[data-sample][aria-pressed=true]").count() == 1
        assert tab.locator("[data-finding]").count() == 14
        shown.append(tab.get_attribute("#image", "src"))
    assert len(set(shown)) == 3


def test_the_keyboard_is_enough(opened):
    tab = opened()
    reached = []
    for _ in range(8):
        tab.keyboard.press("Tab")
        reached.append(
            tab.evaluate("document.activeElement.name || document.activeElement.textContent.trim() || 'file'")
        )
    samples = ["no finding", "cardiomegaly", "mass, effusion"]
    assert reached == ["Limits", "file", *samples, "age", "sex", "view_position"]
    for _ in range(5):
        tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Space")  # chooses the first drawing
    tab.wait_for_selector("[data-finding]")
    for _ in range(6):
        tab.keyboard.press("Tab")
    finding = tab.evaluate("document.activeElement.dataset.finding")
    tab.keyboard.press("Enter")
    tab.wait_for_selector(f"[data-finding={finding}][aria-pressed=true]")
    assert tab.evaluate("document.activeElement.dataset.finding") == finding
    tab.keyboard.press("Enter")
    tab.wait_for_selector(f"[data-finding={finding}][aria-pressed=false]")


def test_a_late_answer_does_not_replace_a_later_one(opened, predictor):
    tab, late = opened(), []
    tab.route("**/api/image?", lambda route: late.append(route), times=1)
    choose(tab, noise(1))
    tab.wait_for_function("document.querySelector('#result').inert")
    choose(tab, noise(5, height=80, width=64))
    tab.wait_for_selector("#result:not([aria-busy]) [data-finding]")
    shown = tab.get_attribute("#image", "src")
    late[0].continue_()
    tab.wait_for_timeout(1000)
    assert tab.get_attribute("#image", "src") == shown
    assert shown_image(tab).shape == (512, 410, 3)  # 64 / 80 of 512
    wanted = predictor.predict([predictor.read(noise(5, height=80, width=64))])[0].calibrated
    assert tab.inner_text("[data-finding=Edema] .percent") == f"{readings.percent(wanted[FINDINGS.index('Edema')])} %"


def test_a_bad_file_shows_a_clear_message(opened, tmp_path):
    tab, large = opened(), tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    choose(tab, HTML)
    wait_for_text(tab, "[role=alert]", f"This image cannot be read: {HTML_REJECTED}")
    tab.set_input_files("input[type=file]", large)
    wait_for_text(tab, "[role=alert]", f"This image cannot be read: {TOO_LARGE}")
    choose(tab, huge_png(100_000, pixels=False))
    wait_for_text(tab, "[role=alert]", f"This image cannot be read: {BOMB_REJECTED}")
    assert "Traceback" not in tab.inner_text("body")
    choose(tab, noise(1))  # the next image is read as usual
    tab.wait_for_selector("[data-finding]")


def test_an_image_out_of_distribution_has_a_banner_and_no_calls(opened):
    tab = opened(390)
    choose(tab, png(np.full((40, 40), 7, np.uint8)))
    tab.wait_for_selector(".stranger")
    text = "this does not look like the frontal chest X-rays of training, so no finding is called."
    assert tab.locator("#warnings p").all_inner_texts() == [
        f"Out of distribution: {text}",  # its distance is below the threshold: it is blank
        "Unlike the training images: blank or nearly so: the standard deviation of its grey values is 0.0",
    ]
    assert tab.locator("#findings h2").all_inner_texts() == ["Not called: the numbers mean nothing for such an image"]
    assert tab.locator("[data-finding]").count() == 14
    assert tab.locator("#findings .called").count() == 0
    assert tab.inner_text("#status") == "Done. Out of distribution: no finding is called."
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    near = tab.evaluate("""async () => (await import("./findings.js")).strangerNotice(
        {distance: 18.25, distance_threshold: 12.5}).innerText""")
    assert near == f"Out of distribution: {text} Its distance from them is 18.3, the limit is 12.5."
    choose(tab, noise(1))  # the banner is gone with the next image
    tab.wait_for_selector("#findings .called")
    assert tab.locator("#warnings p").count() == 0


def test_without_operating_points_distances_or_patient_inputs(browser, built_dataset, tmp_path):
    model_dir = seeded_experiment(tmp_path / "seeded", built_dataset, metadata=False, points=False)
    (tmp_path / "scratch").mkdir()
    server = next(running := serving.serve(model_dir, tmp_path / "scratch"))
    tab = open_tab(browser, server.url)
    assert not tab.get_by_label("Age").is_visible()
    choose(tab, noise(2))
    tab.wait_for_selector("[data-finding]")
    assert tab.locator("#warnings p").all_inner_texts() == [
        "Warning: distances are not fitted: an image unlike those of training may go unnoticed. "
        f"Run: python evaluate.py --model_dir {model_dir} --split val",
        "No operating points yet, so nothing is called or calibrated. "
        f"Run: python evaluate.py --model_dir {model_dir} --split val",
    ]
    assert tab.locator("#findings h2").all_inner_texts() == ["Without an operating point"]
    assert tab.locator("[data-finding]").count() == 14
    assert tab.locator("#findings :is(.called, .mark)").count() == 0
    assert "operating point:" not in tab.inner_text("#findings")  # no vertical line to explain
    next(running, None)  # Ctrl-C
    tab.click("[data-finding=Mass]")
    wait_for_text(tab, "[role=alert]", "No answer: is the server still running in its terminal?")
    tab.close()
