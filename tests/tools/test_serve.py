"""The JSON interface of tools/serve.py: a server process and many clients."""

import concurrent.futures
import io
import json
from pathlib import Path

import numpy as np
import pytest
import requests
from PIL import Image
from support.serving import HTML, huge_png, noise, post_predict, rgb_of, status

import predict
from cxr.findings import FINDINGS
from cxr.patient import Patient
from inference import readings
from inference.predictor import Predictor
from tools.serving.app import THREADS
from tools.serving.validation import RequestError, parse_finding, parse_patient


def expected(predictor: Predictor, data: bytes, patient: Patient) -> dict:
    return readings.as_json(predictor.predict([predictor.read(data, patient)])[0], predictor.points)


def assert_same(found: dict, wanted: dict, tolerance: float = 1e-6) -> None:
    assert list(found) == list(FINDINGS)
    for finding in FINDINGS:
        assert found[finding] == pytest.approx(wanted[finding], abs=tolerance), finding


def post_image(server, data: bytes, **query: object) -> requests.Response:
    return requests.post(f"{server.url}/api/image", data=data, params=query, timeout=60)


def test_answers_equal_those_of_predict_py(server, seeded, tmp_path):
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(noise(seed))
    files = [str(tmp_path / f"{seed}.png") for seed in range(3)]
    predict.main(["--model_dir", str(seeded), *files, "--output", str(tmp_path / "out.json")])
    for image in json.loads((tmp_path / "out.json").read_text())["images"]:
        answer = post_predict(server, Path(image["file"]).read_bytes()).json()
        assert answer["warnings"] == image["warnings"]
        assert_same(answer["findings"], image["findings"])


def test_fifty_concurrent_requests_among_hostile_ones_are_answered_correctly(server, predictor):
    images = [noise(seed) for seed in range(10)]
    patient = Patient(58.0, "F", "AP")
    wanted = [expected(predictor, image, patient) for image in images]
    values = np.array([[w[f]["probability"] for f in FINDINGS] for w in wanted])
    assert np.abs(values[:, None] - values[None]).max(axis=2)[~np.eye(10, dtype=bool)].min() > 1e-3  # all differ
    overlays = [rgb_of(predictor.overlay(predictor.read(image), "Effusion")) for image in images]
    hostile = [HTML, b"", images[0][:1500], huge_png(100_000, pixels=False), bytes(20 << 20)]

    def request(number: int) -> tuple:
        data = images[number % 10]
        answers = (
            post_predict(server, data, age=58, sex="F", view_position="AP"),
            post_image(server, data, finding="Effusion"),
        )
        return *answers, post_predict(server, hostile[number % 5])

    threads, memory = status(server, "Threads"), status(server, "VmHWM")
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(request, range(50)))
    for number, (predicted, drawn, rejected) in enumerate(answers):
        assert (predicted.status_code, drawn.status_code, rejected.status_code) == (200, 200, 400), number
        assert_same(predicted.json()["findings"], wanted[number % 10])
        assert np.abs(rgb_of(drawn.content) - overlays[number % 10]).max() <= 2
    # Two thread pools: ours, and anyio's 40 for static files. TensorFlow starts a few of its own at the first heat map.
    assert status(server, "Threads") - threads <= THREADS + 16
    assert status(server, "VmHWM") - memory < 600 << 10  # kB


def test_of_fifty_large_uploads_only_a_few_are_in_memory(server):
    memory = status(server, "VmHWM")
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        answers = list(pool.map(lambda _: post_predict(server, bytes(20 << 20)), range(50)))
    assert {answer.status_code for answer in answers} == {400}
    assert status(server, "VmHWM") - memory < 400 << 10  # kB; all 50 at once would be 1 GB


def test_a_large_image_does_not_block_other_requests(server):
    large = huge_png(8000, pixels=True)  # takes half a second or more in a thread
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        pending, answered = pool.submit(post_predict, server, large), 0
        while not pending.done():
            assert requests.get(f"{server.url}/api/model", timeout=60).status_code == 200
            answered += 1
        assert pending.result().json()["warnings"] == [
            "blank or nearly so: the standard deviation of its grey values is 0.0"
        ]
    assert answered >= 8  # 2 if the event loop waits for the image, hundreds if not


def test_the_model_description(server, predictor, built_dataset):
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


def test_the_image_is_drawn_with_and_without_a_heat_map(server, predictor):
    data = noise(7, height=60, width=48)
    plain, heat = post_image(server, data), post_image(server, data, finding="Effusion")
    assert (plain.headers["content-type"], heat.headers["content-type"]) == ("image/png", "image/png")
    grey, overlay = rgb_of(plain.content), rgb_of(heat.content)
    assert grey.shape == overlay.shape == (512, 410, 3)
    assert (grey.min(axis=2) == grey.max(axis=2)).all()
    assert np.abs(overlay - rgb_of(predictor.overlay(predictor.read(data), "Effusion"))).max() <= 2
    rejected = post_image(server, data, finding="effusion")
    assert (rejected.status_code, rejected.json()["detail"][:44]) == (
        422,
        "finding effusion: expected Atelectasis, Card",
    )


def test_an_answer_has_the_model_and_warnings(server):
    answer = post_predict(server, noise(3, height=40, width=100)).json()
    assert answer["experiment"] == "seeded"
    assert answer["checkpoint"] == "best"
    assert answer["clinical_use"] is False
    assert answer["warnings"] == ["100 x 40 pixels, far from square"]
    assert answer["findings"]["Hernia"]["threshold"] is None
    assert answer["out_of_distribution"] == 1
    assert {finding["call"] for finding in answer["findings"].values()} == {None}
    answer = post_predict(server, noise(3)).json()
    assert (answer["out_of_distribution"], answer["distance_threshold"]) == (0, 1000)
    assert 0 < answer["distance"] < 1000
    assert answer["findings"]["Hernia"]["call"] is None
    assert answer["findings"]["Mass"]["call"] is True


def test_the_patient_inputs_change_the_answer(server):
    image = noise(1)
    answers = [post_predict(server, image, **patient).json()["findings"] for patient in ({}, {"age": 80}, {"sex": "M"})]
    assert len({answer["Mass"]["probability"] for answer in answers}) == 3


def test_real_images_and_a_dicom_with_the_same_pixels(server, predictor, shared_dir):
    files = sorted((shared_dir / "nih-1024/images").glob("*.png"))
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda file: post_predict(server, file.read_bytes()), files))
    pictures = [predictor.read(file.read_bytes()) for file in files]
    wanted = [reading.probabilities for reading in predictor.predict(pictures)]
    found = [[answer.json()["findings"][f]["probability"] for f in FINDINGS] for answer in answers]
    assert len(found) == 84
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
    known = {"age": 58, "sex": "M", "view_position": "PA"}  # overrides the DICOM header, which the PNG lacks
    twins = [shared_dir / "odd/nih_dicom.dcm", shared_dir / "nih-1024/images/00000001_000.png"]
    dicom, plain = (post_predict(server, file.read_bytes(), **known).json()["findings"] for file in twins)
    assert_same(dicom, plain)


@pytest.mark.parametrize(
    ("query", "detail"),
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
def test_an_impossible_patient_is_rejected(server, query, detail):
    answer = post_predict(server, noise(1), **query)
    assert (answer.status_code, answer.json()) == (422, {"detail": detail})


def test_a_query_is_parsed():
    assert parse_patient({"age": "58.5", "sex": "F", "view_position": "AP"}) == Patient(58.5, "F", "AP")
    assert parse_patient({"age": "", "sex": ""}) == Patient()
    assert parse_finding({"finding": "Mass"}) == "Mass"
    assert parse_finding({"finding": ""}) is None
    assert parse_finding({}) is None
    with pytest.raises(RequestError, match=r"^unknown parameter age: expected finding$"):
        parse_finding({"age": "58"})


def test_a_form_is_rejected_with_the_right_command(server):
    answer = requests.post(f"{server.url}/api/predict", files={"file": noise(1)}, timeout=60)
    assert answer.status_code == 415
    assert answer.json() == {"detail": "send the file itself as the body, not a form: curl --data-binary @FILE"}
