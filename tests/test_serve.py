"""The JSON interface of tools/serve.py, from outside: a server process, many clients, and hostile ones."""

import concurrent.futures
import http.client
import io
import json
import select
import socket
import time
from pathlib import Path

import anyio
import numpy as np
import pytest
import requests
import serving
from PIL import Image
from serving import BOMB_REFUSED, HTML, NO_IMAGE, ask, huge_png, noise, png, rgb_of, seeded_experiment, status

import predict
from cxr.data.pictures import Patient
from cxr.evaluation import readings
from cxr.findings import FINDINGS
from predictor import Predictor
from tools.serving import validation
from tools.serving.app import BODIES, THREADS
from tools.serving.validation import MAX_BYTES, TOO_LARGE, RequestError, parse_finding, parse_patient


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


def image_of(server, data: bytes, **query: object) -> requests.Response:
    return requests.post(f"{server.url}/api/image", data=data, params=query, timeout=60)


def test_answers_are_those_of_predict_py(server, model_dir, tmp_path):
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(noise(seed))
    files = [str(tmp_path / f"{seed}.png") for seed in range(3)]
    predict.main(["--model_dir", str(model_dir), *files, "--output", str(tmp_path / "out.json")])
    for image in json.loads((tmp_path / "out.json").read_text())["images"]:
        answer = ask(server, Path(image["file"]).read_bytes()).json()
        assert answer["warnings"] == image["warnings"]
        assert_same(answer["findings"], image["findings"])


def test_fifty_concurrent_requests_among_hostile_ones_are_all_answered_right(server, predictor):
    images = [noise(seed) for seed in range(10)]
    patient = Patient(58.0, "F", "AP")
    wanted = [expected(predictor, image, patient) for image in images]
    values = np.array([[w[f]["probability"] for f in FINDINGS] for w in wanted])
    assert np.abs(values[:, None] - values[None]).max(axis=2)[~np.eye(10, dtype=bool)].min() > 1e-3  # all differ
    overlays = [rgb_of(predictor.overlay(predictor.read(image), "Effusion")) for image in images]
    hostile = [HTML, b"", images[0][:1500], huge_png(100_000, pixels=False), bytes(20 << 20)]

    def request(number: int) -> tuple:
        data = images[number % 10]
        answers = ask(server, data, age=58, sex="F", view_position="AP"), image_of(server, data, finding="Effusion")
        return *answers, ask(server, hostile[number % 5])

    threads, memory = status(server, "Threads"), status(server, "VmHWM")
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(request, range(50)))
    for number, (predicted, drawn, refused) in enumerate(answers):
        assert (predicted.status_code, drawn.status_code, refused.status_code) == (200, 200, 400), number
        assert_same(predicted.json()["findings"], wanted[number % 10])
        assert np.abs(rgb_of(drawn.content) - overlays[number % 10]).max() <= 2
    # Two thread pools: ours, and anyio's 40 for static files. TensorFlow starts a few of its own at the first heat map.
    assert status(server, "Threads") - threads <= THREADS + 16
    assert status(server, "VmHWM") - memory < 600 << 10  # kB; all 50 bodies at once would be 1 GB


def test_large_images_do_not_block_other_requests(server):
    large = png(np.random.default_rng(1).integers(0, 256, (4000, 4000), np.uint8))  # 16 MB, 0.2 s to decode
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        started = time.monotonic()
        asked = [pool.submit(ask, server, large) for _ in range(24)]
        slowest = 0.0
        while not all(future.done() for future in asked):
            begun = time.monotonic()
            assert requests.get(f"{server.url}/api/model", timeout=60).status_code == 200
            slowest = max(slowest, time.monotonic() - begun)
        lasted = time.monotonic() - started
    assert [future.result().status_code for future in asked] == [200] * 24
    assert slowest < lasted / 3


def test_the_model_is_described(server, predictor, built_dataset):
    model = requests.get(f"{server.url}/api/model", timeout=60).json()
    info = json.loads((built_dataset / "dataset.json").read_text())
    assert (model["experiment"], model["checkpoint"], model["clinical_use"]) == ("seeded", "best", False)
    assert model["dataset"] == {"csv": "Data_Entry_2017.csv", "split": "official", "fingerprint": info["fingerprint"]}
    assert list(model["findings"]) == list(FINDINGS)
    calibrated = 1 / (1 + np.exp(0.5))  # sigmoid(1.5 * logit(0.5) - 0.5)
    assert model["findings"]["Effusion"] == {"threshold": 0.5, "calibrated_threshold": pytest.approx(calibrated)}
    assert model["findings"]["Hernia"] == {"threshold": None, "calibrated_threshold": None}
    assert (model["metadata"], model["advice"], model["max_bytes"]) == (True, None, 32 << 20)
    assert model["samples"] == ["no finding", "cardiomegaly", "mass, effusion"]
    drawn = requests.get(f"{server.url}/samples/2.png", timeout=60)
    assert Image.open(io.BytesIO(drawn.content)).size == (512, 512)
    assert requests.get(f"{server.url}/samples/3.png", timeout=60).json() == {"detail": "Not Found"}


def test_the_image_is_drawn_plain_or_under_a_heat_map(server, predictor):
    data = noise(7, height=60, width=48)
    plain, heat = image_of(server, data), image_of(server, data, finding="Effusion")
    assert (plain.headers["content-type"], heat.headers["content-type"]) == ("image/png", "image/png")
    grey, overlay = rgb_of(plain.content), rgb_of(heat.content)
    assert grey.shape == overlay.shape == (512, 410, 3)
    assert (grey.min(axis=2) == grey.max(axis=2)).all()
    assert np.abs(overlay - rgb_of(predictor.overlay(predictor.read(data), "Effusion"))).max() <= 2
    refused = image_of(server, data, finding="effusion")
    assert (refused.status_code, refused.json()["detail"][:44]) == (422, "finding effusion: expected Atelectasis, Card")


def test_an_answer_names_its_model_and_warns(server):
    answer = ask(server, noise(3, height=40, width=100)).json()
    assert answer["experiment"] == "seeded"
    assert answer["checkpoint"] == "best"
    assert answer["clinical_use"] is False
    assert answer["warnings"] == ["100 x 40 pixels, far from square"]
    assert answer["findings"]["Hernia"]["threshold"] is None
    assert answer["findings"]["Hernia"]["call"] is None
    assert answer["findings"]["Mass"]["call"] is True


def test_the_patient_inputs_change_the_answer(server):
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
    known = {"age": 58, "sex": "M", "view_position": "PA"}  # else the DICOM's header would say what the PNG cannot
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
def test_an_unusable_image_is_refused_with_a_reason(server, data, why):
    answer = ask(server, data)
    assert answer.status_code == 400
    assert answer.json()["detail"].startswith(why)


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ({"age": "300"}, "age 300: expected 0 to 120 years"),
        ({"age": "-1"}, "age -1: expected 0 to 120 years"),
        ({"age": "nan"}, "age nan: expected 0 to 120 years"),
        ({"age": "old"}, "age old: expected 0 to 120 years"),
        ({"sex": "x"}, "sex x: expected F or M"),
        ({"view_position": "LL"}, "view_position LL: expected PA or AP"),
        ({"view": "PA"}, "unknown parameter view: expected age, sex, view_position"),
    ],
)
def test_an_impossible_patient_is_refused(server, query, why):
    with pytest.raises(RequestError) as caught:
        parse_patient(query)
    assert (caught.value.status, str(caught.value)) == (422, why)
    answer = ask(server, noise(1), **query)
    assert (answer.status_code, answer.json()) == (422, {"detail": why})


def test_a_query_is_parsed():
    assert parse_patient({"age": "58.5", "sex": "F", "view_position": "AP"}) == Patient(58.5, "F", "AP")
    assert parse_patient({"age": "", "sex": ""}) == Patient()
    assert (parse_finding({"finding": "Mass"}), parse_finding({"finding": ""}), parse_finding({})) == (
        "Mass",
        None,
        None,
    )
    with pytest.raises(RequestError, match=r"^unknown parameter age: expected finding$"):
        parse_finding({"age": "58"})


def test_a_form_is_refused_with_the_right_command(server):
    answer = requests.post(f"{server.url}/api/predict", files={"file": noise(1)}, timeout=60)
    assert answer.status_code == 415
    assert answer.json() == {"detail": "send the file itself as the body, not a form: curl --data-binary @FILE"}


def test_a_body_that_stalls_is_refused(monkeypatch):
    from starlette.requests import Request

    monkeypatch.setattr(validation, "MAX_SECONDS", 0.1)
    request = Request({"type": "http", "method": "POST", "headers": []}, anyio.sleep_forever)
    with pytest.raises(RequestError, match=r"^the image did not arrive within 0.1 seconds; send it again$") as caught:
        anyio.run(validation.read_image, request)
    assert caught.value.status == 408


@pytest.mark.parametrize("path", ["/api/predict", "/api/image"])
def test_200_megabytes_are_refused_while_they_arrive(server, path):
    before, sent, piece = status(server, "VmHWM"), 0, bytes(1 << 20)
    with socket.create_connection(server.url.removeprefix("http://").split(":"), timeout=60) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        while sent < 200 and not select.select([connection], [], [], 0.002)[0]:
            connection.sendall(b"100000\r\n" + piece + b"\r\n")
            sent += 1
        answer = connection.recv(1 << 16).split(b"\r\n")[0]
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert MAX_BYTES >> 20 <= sent < 45  # megabytes: the limit, and what the sockets hold
    assert status(server, "VmHWM") - before < 120 << 10  # kB


def test_clients_that_hang_up_leave_no_trace(server, predictor):
    for _ in range(2 * BODIES):  # each would keep a place if it were not given back
        with socket.create_connection(server.url.removeprefix("http://").split(":"), timeout=60) as connection:
            connection.sendall(b"POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf")
    assert_same(ask(server, noise(1)).json()["findings"], expected(predictor, noise(1), Patient()))


def test_a_declared_size_is_refused_at_once(server):
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=60)
    connection.putrequest("POST", "/api/predict")
    connection.putheader("Content-Length", str(200 << 20))
    connection.endheaders()
    answer = connection.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read()) == {"detail": TOO_LARGE}
    connection.close()


@pytest.mark.parametrize("path", ["docs", "openapi.json", "app.py", "..%2fapp.py", "%2e%2e/app.py", "samples/-1.png"])
def test_only_the_files_of_the_page_can_be_fetched(server, path):
    answer = requests.get(f"{server.url}/{path}", timeout=60)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})


def test_requests_of_other_sites_are_refused(server):
    own = server.url
    assert requests.get(own, headers={"Host": "elsewhere.example"}, timeout=60).status_code == 400  # DNS rebinding
    for origin in ("https://elsewhere.example", "null", own.replace("127.0.0.1", "localhost"), own + "0"):
        answer = requests.post(f"{own}/api/predict", data=noise(1), headers={"Origin": origin}, timeout=60)
        assert (answer.status_code, answer.json()) == (403, {"detail": f"only the page at {own} may send this"})
    answer = requests.post(f"{own}/api/predict", data=noise(1), headers={"Origin": own}, timeout=60)
    assert answer.status_code == 200
    assert "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("path", ["", "page.js", "api/model", "samples/0.png", "nowhere"])
def test_every_answer_forbids_what_would_leave_this_computer(server, path):
    headers = requests.get(f"{server.url}/{path}", timeout=60).headers
    policy = dict(rule.split(" ", 1) for rule in headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"


def test_no_other_computer_can_connect(server):
    hosts = socket.gethostbyname_ex(socket.gethostname())[2]
    for host in set(hosts) - {"127.0.0.1"}:
        with pytest.raises(OSError, match=r"refused|timed out|unreachable"):
            socket.create_connection((host, int(server.url.split(":")[-1])), timeout=1)
