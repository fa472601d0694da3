"""The page and the endpoint, asked from outside: a server process, a browser, and people who mean no good."""

import concurrent.futures
import http.client
import json
import select
import socket
from pathlib import Path

import numpy as np
import pytest
import requests
import serving
from serving import (
    BOMB_REFUSED,
    HTML,
    HTML_REFUSED,
    NO_IMAGE,
    ask,
    choose,
    drop,
    huge_png,
    noise,
    peak_memory,
    png,
    rgb_of,
    seeded_experiment,
    shown_image,
    wait_for_text,
)

from cxr.data.pictures import Patient
from cxr.evaluation import readings
from cxr.findings import FINDINGS
from predictor import Predictor
from tools.serving.gate import MAX_BYTES, TOO_LARGE


@pytest.fixture(scope="module")
def model_dir(built_dataset, tmp_path_factory) -> Path:
    return seeded_experiment(tmp_path_factory.mktemp("serve") / "seeded", built_dataset)


@pytest.fixture(scope="module")
def predictor(model_dir) -> Predictor:
    return Predictor(model_dir)


@pytest.fixture(scope="module")
def server(model_dir, tmp_path_factory):
    yield from serving.serve(model_dir, tmp_path_factory.mktemp("scratch"))


def expected(predictor: Predictor, data: bytes, patient: Patient) -> dict:
    return readings.as_json(predictor.predict([predictor.read(data, patient)])[0], predictor.points)


def assert_same(found: dict, wanted: dict, tolerance: float = 1e-6) -> None:
    assert list(found) == list(FINDINGS)
    for finding in FINDINGS:
        assert found[finding] == pytest.approx(wanted[finding], abs=tolerance), finding


def test_fifty_at_a_time_get_what_predict_says(server, predictor):
    images = [noise(seed) for seed in range(10)]
    patient = Patient(58.0, "F", "AP")
    wanted = [expected(predictor, image, patient) for image in images]
    values = np.array([[w[f]["probability"] for f in FINDINGS] for w in wanted])
    assert np.abs(values[:, None] - values[None]).max(axis=2)[~np.eye(10, dtype=bool)].min() > 1e-3  # all differ
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda n: ask(server, images[n % 10], age=58, sex="F", view="AP"), range(50)))
    assert [answer.status_code for answer in answers] == [200] * 50
    for number, answer in enumerate(answers):
        assert_same(answer.json()["findings"], wanted[number % 10])


def test_an_answer_says_of_what_and_warns(server):
    answer = ask(server, noise(3, height=40, width=100)).json()
    assert answer["experiment"] == "seeded"
    assert answer["checkpoint"] == "best"
    assert answer["clinical_use"] is False
    assert answer["warnings"] == ["100 x 40 pixels, far from square"]
    assert answer["findings"]["Hernia"]["threshold"] is None
    assert answer["findings"]["Hernia"]["call"] is None
    assert answer["findings"]["Mass"]["call"] is True


def test_the_patient_counts(server):
    image = noise(1)
    answers = [ask(server, image, **known).json()["findings"] for known in ({}, {"age": 80}, {"sex": "M"})]
    assert len({answer["Mass"]["probability"] for answer in answers}) == 3


def test_real_images_and_a_dicom_of_the_same_pixels(server, predictor, shared_dir):
    files = sorted((shared_dir / "nih-1024/images").glob("*.png"))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda file: ask(server, file.read_bytes()), files))
    pictures = [predictor.read(file.read_bytes()) for file in files]
    wanted = [reading.probabilities for reading in predictor.predict(pictures)]
    found = [[answer.json()["findings"][f]["probability"] for f in FINDINGS] for answer in answers]
    assert len(found) == 84
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    known = {"age": 58, "sex": "M", "view": "PA"}  # else the DICOM's header would say what the PNG cannot
    twins = [shared_dir / "odd/nih_dicom.dcm", shared_dir / "nih-1024/images/00000001_000.png"]
    dicom, plain = (ask(server, file.read_bytes(), **known).json()["findings"] for file in twins)
    assert_same(dicom, plain)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", NO_IMAGE + "(0 bytes)"),
        (
            HTML,
            "not a PNG, JPEG, WebP or DICOM image (68 bytes, starting \"<img src=x onerror='document.title=1'> $\")",
        ),
        (noise(1)[:1500], "broken image: "),
        (png(np.zeros((1, 1), np.uint8)), "1 x 1 pixels, under 32 a side"),
        (huge_png(100_000, pixels=False), BOMB_REFUSED),
        (huge_png(20_000, pixels=True), "declares 20000 x 20000 pixels, over the limit of 67,108,864"),
    ],
    ids=["empty", "html", "truncated", "1x1", "bomb", "20,000x20,000"],
)
def test_what_is_no_usable_image_is_refused_with_a_reason(server, data, why):
    answer = ask(server, data)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(why)


@pytest.mark.parametrize(
    ("patient", "why"),
    [
        ({"age": 300}, "age 300: expected 0 to 120 years"),
        ({"age": "nan"}, "age nan: expected 0 to 120 years"),
        ({"age": "old"}, "age old: expected 0 to 120 years"),
        ({"sex": "x"}, "sex x: expected F or M"),
        ({"view": "LL"}, "view LL: expected PA or AP"),
    ],
)
def test_an_impossible_patient_is_refused(server, patient, why):
    answer = ask(server, noise(1), **patient)
    assert (answer.status_code, answer.json()) == (422, {"detail": why})


def test_a_form_is_told_how_to_send_a_file(server):
    answer = requests.post(f"{server.url}/api/predict", files={"file": noise(1)}, timeout=60)
    assert answer.status_code == 415
    assert answer.json()["detail"].endswith("curl --data-binary @FILE")


@pytest.mark.parametrize("path", ["/api/predict", "/gradio_api/queue/join"])
def test_200_megabytes_are_refused_before_they_are_there(server, path):
    before, sent, piece = peak_memory(server), 0, bytes(1 << 20)
    with socket.create_connection(server.url.removeprefix("http://").split(":"), timeout=60) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
        connection.sendall(f"{head}Content-Type: application/json\r\n\r\n".encode())
        while sent < 200 and not select.select([connection], [], [], 0.002)[0]:
            connection.sendall(b"100000\r\n" + piece + b"\r\n")
            sent += 1
        status = connection.recv(1 << 16).split(b"\r\n")[0]
    assert status.startswith(b"HTTP/1.1 413 ")
    assert sent < 60  # megabytes: the limit, a third more for base64, and what the sockets hold
    assert peak_memory(server) - before < 250


def test_a_size_that_is_announced_is_refused_at_once(server):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    connection.putrequest("POST", "/api/predict")
    connection.putheader("Content-Length", str(200 << 20))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read()) == {"detail": TOO_LARGE}
    connection.close()


def test_nothing_can_be_put_there_or_fetched(server):
    for path in (
        "gradio_api/file=/etc/hosts",
        "gradio_api/file/etc/hosts",
        "gradio_api/proxy=http://127.0.0.1",
        "docs",
    ):
        assert requests.get(f"{server.url}/{path}", timeout=60).status_code == 404, path
    for path in ("gradio_api/upload", "gradio_api/run/look", "gradio_api/process_recording"):
        assert requests.post(f"{server.url}/{path}", files={"files": b"x"}, timeout=60).status_code == 404, path
    assert requests.get(f"{server.url}/assets/../../../../etc/hosts", timeout=60).status_code == 404
    assert requests.get(server.url, headers={"Host": "elsewhere.example"}, timeout=60).status_code == 400
    hosts = socket.gethostbyname_ex(socket.gethostname())[2]
    for host in set(hosts) - {"127.0.0.1"}:  # on the network nobody listens
        with pytest.raises(OSError, match=r"refused|timed out|unreachable"):
            socket.create_connection((host, int(server.url.split(":")[-1])), timeout=1)


@pytest.fixture
def opened(browser, server):
    """opened(width): the page; what it says on the console and asks of others must be nothing."""
    pages, said, asked = [], [], []

    def open_page(width: int = 1280):
        tab = browser.new_page(viewport={"width": width, "height": 844})
        pages.append(tab)
        tab.set_default_timeout(30_000)
        tab.on("console", lambda message: said.append(message.text))
        tab.on("pageerror", lambda error: said.append(str(error)))
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(server.url)
        tab.wait_for_selector("[data-sample]")
        return tab

    yield open_page
    titles = {tab.title() for tab in pages}
    stored = {tab.evaluate("indexedDB.databases().then(kept => kept.length + localStorage.length)") for tab in pages}
    for tab in pages:
        tab.close()
    assert said == []
    assert [url for url in asked if not url.startswith((server.url, "data:"))] == []
    assert titles == {"Chest X-ray findings: seeded"}  # no script of a bad file has run
    assert stored == {0}
    assert [path for path in server.scratch.rglob("*") if path.is_file()] == []  # nothing was kept


@pytest.mark.parametrize("width", [1280, 390])
def test_a_file_gives_14_probabilities_and_a_click_the_heat_map(opened, predictor, width):
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
    tab.wait_for_selector("[data-finding=Effusion][aria-pressed=true]")
    overlay = rgb_of(predictor.overlay(picture, "Effusion"))
    assert np.abs(shown_image(tab) - overlay).max() <= 2
    assert (overlay.max(axis=2) - overlay.min(axis=2)).max() > 50  # a map there is
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.keyboard.press("Enter")  # the focus is still on it
    tab.wait_for_selector("[data-finding=Effusion][aria-pressed=false]")
    np.testing.assert_array_equal(shown_image(tab), grey)


def test_a_file_is_dropped_anywhere_and_the_patient_added(opened, predictor):
    tab, data = opened(), noise(5)
    drop(tab, data, "<b>x.png")
    tab.wait_for_selector("[data-finding]")
    assert tab.inner_text(".chosen") == "<b>x.png"
    known, unknown = (
        [readings.percent(value) for value in predictor.predict([predictor.read(data, patient)])[0].calibrated]
        for patient in (Patient(81.0, "M", "AP"), Patient())
    )
    finding, wanted = next((f, k) for f, k, u in zip(FINDINGS, known, unknown, strict=True) if k != u)
    tab.select_option("[data-patient=sex]", "M")
    tab.select_option("[data-patient=view]", "AP")
    tab.fill("[data-patient=age]", "81")
    tab.press("[data-patient=age]", "Tab")
    wait_for_text(tab, f"[data-finding={finding}] .percent", f"{wanted} %")
    tab.fill("[data-patient=age]", "300")
    tab.press("[data-patient=age]", "Tab")
    wait_for_text(tab, "[role=alert]", "This patient is impossible: age 300: expected 0 to 120 years")


def test_every_drawing_can_be_tried(opened):
    tab, shown = opened(390), [None]
    for number in range(3):
        tab.click(f"[data-sample='{number}']")
        other = "before => (document.querySelector('figure img')?.src ?? before) !== before"
        tab.wait_for_function(other, arg=shown[-1])
        shown.append(tab.get_attribute("figure img", "src"))
        assert tab.locator("[data-finding]").count() == 14
    assert len(set(shown)) == 4


def test_a_bad_file_gets_a_clear_message(opened, tmp_path):
    tab, large = opened(), tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    choose(tab, HTML)
    wait_for_text(tab, "[role=alert]", f"This image cannot be read: {HTML_REFUSED}")
    tab.set_input_files("input[type=file]", large)
    wait_for_text(tab, "[role=alert]", f"This image cannot be read: {TOO_LARGE}")
    choose(tab, huge_png(100_000, pixels=False))
    wait_for_text(tab, "[role=alert]", f"This image cannot be read: {BOMB_REFUSED}")
    assert "Traceback" not in tab.inner_text("body")
    choose(tab, noise(1))  # and the next image is read as if nothing had been
    tab.wait_for_selector("[data-finding]")
