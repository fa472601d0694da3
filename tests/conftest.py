"""What several test files stand on: a tiny hand-made release, a dataset built from it, the real images if present."""

import contextlib
import gc
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

# One thread for each worker of pytest, and for what it starts: on matrices as small as those of the tests, two threads
# of BLAS wait for each other longer than they compute. It must be set before NumPy loads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

import build_dataset
from cxr.engines import local
from cxr.evaluation import metrics
from cxr.findings import FINDINGS, NO_FINDING
from cxr.networks.imports import import_tensorflow

ROOT = Path(__file__).resolve().parents[1]
SLOWEST = (  # files that take about 20 seconds or more, the slowest first
    "training/test_average.py",
    "networks/test_ensemble.py",
    "searching/test_search_hyperparams.py",
    "training/test_train.py",
    "engines/test_interrupts.py",
    "tools/test_serve.py",  # before test_serve_page.py: it measures the peak memory of a server that both use
    "tools/test_serve_page.py",
    "training/test_fine_tune.py",
    "networks/test_runtime.py",
    "training/test_run.py",
    "networks/test_presets.py",
    "networks/test_devices.py",
    "engines/test_ray.py",
    "networks/test_jax.py",
    "tools/test_export.py",
    "end_to_end/test_encoders.py",
    "engines/test_ray_cluster.py",
)
TOGETHER = {  # files that share what takes seconds to make, for one worker: its name for each
    "evaluation/test_evaluate.py": "one epoch",
    "evaluation/test_evaluate_experts.py": "one epoch",
    "evaluation/test_external.py": "one epoch",
    "training/test_average.py": "trained experiments",
    "training/test_average_rejected.py": "trained experiments",
    "training/test_identity.py": "trained experiments",
    "training/test_same_network.py": "trained experiments",
    "tools/test_serve.py": "server",
    "tools/test_serve_page.py": "server",
    "tools/test_serve_start.py": "server",
}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HEADERS = {  # as NIH wrote them: commas inside the last names are not quoted
    "2017": "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],",
    "2020": "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]",
}


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator:
    """Spare the garbage collector the million objects of imported libraries, over which it takes half a second.

    Full collections are five times as rare as by default: after a few models have been traced, each takes 0.14 s.
    """
    gc.disable()
    if "PYTEST_XDIST_WORKER" in os.environ:  # which gets to tests of TensorFlow in any case
        import_tensorflow()
    result = yield
    gc.collect()
    gc.freeze()
    gc.set_threshold(700, 10, 50)
    gc.enable()
    return result


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slowest files, so that the workers end at about the same time."""
    place_of = {ROOT / "tests" / name: place for place, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place_of.get(item.path, len(SLOWEST)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log):
    """Give each worker whole files; those of one group of TOGETHER, to one worker."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduler(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = super()._split_scope(nodeid)
            return TOGETHER.get(path.removeprefix("tests/"), path)

    return Scheduler(config, log)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of real images beside the repository; a test that asks for it skips without it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip("../shared is absent")
    return folder


@pytest.fixture(scope="session")
def cli():
    """cli("build_dataset.py", "--help"): run a script as a user does; returns the finished process."""

    def run(script: str, *flags: object, timeout: float = 120) -> subprocess.CompletedProcess:
        command = [sys.executable, script, *map(str, flags)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout)

    return run


def findings_of(index: int) -> str:
    """Every second image has no finding; the others walk through the 14, every fourth with a second one."""
    if index % 2 == 0:
        return NO_FINDING
    place = index // 2
    names = {FINDINGS[place % 14]} | ({FINDINGS[(place + 5) % 14]} if index % 4 == 1 else set())
    return "|".join(sorted(names))


def entry_line(image_id: str, findings: str, patient: int, index: int, form: str) -> str:
    """One row of a Data_Entry CSV in the form of 2017 or of 2020."""
    sex, view = "FM"[patient % 2], ("PA", "AP")[index % 2]
    numbers = f"000,{patient:08d},{20 + patient:03d}Y" if form == "2017" else f"0,{patient},{20 + patient}"
    return f"{image_id},{findings},{numbers},{sex},{view},2682,2749,0.143,0.143"


def write_pixels(path: Path, index: int, size: int) -> None:
    """A grey PNG, another for every index."""
    pixels = np.random.default_rng(index).integers(0, 256, (size, size), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_release(
    folder: Path, *, patients: int = 20, images_each: int = 3, size: int = 48, form: str = "2017", lists: bool = True
) -> Path:
    """Write a release: patients 1 to N of some images each, the last fifth of them on test_list.txt."""
    lines, listed = [HEADERS[form]], {"train_val_list.txt": [], "test_list.txt": []}
    for index in range(patients * images_each):
        patient = 1 + index // images_each
        image_id = f"{patient:08d}_{index % images_each:03d}.png"
        lines.append(entry_line(image_id, findings_of(index), patient, index, form))
        listed["test_list.txt" if patient > 0.8 * patients else "train_val_list.txt"].append(image_id)
        write_pixels(folder / "images" / image_id, index, size)
    name = "Data_Entry_2017.csv" if form == "2017" else "Data_Entry_2017_v2020.csv"
    (folder / name).write_text("\n".join(lines) + "\n")
    for name, members in listed.items() if lists else ():
        (folder / name).write_text("\n".join(members) + "\n")
    return folder


@pytest.fixture(scope="session")
def write_release():
    """write_release(folder, patients=4, ...): see `make_release`."""
    return make_release


@pytest.fixture
def tiny_release(tmp_path):
    """tiny_release(patients=4, ...): a release below tmp_path; the arguments are those of `make_release`."""

    def make(name: str = "release", **options) -> Path:
        return make_release(tmp_path / name, **options)

    return make


def run_here(function: Callable, jobs: list, *, workers: int) -> Iterator:
    """What `run_local` gives, without worker processes."""
    return map(function, jobs)


@pytest.fixture
def in_process(monkeypatch) -> None:
    """Jobs run in this process."""
    monkeypatch.setattr(local, "run_local", run_here)


def build_in_process(data_dir: Path, output_dir: Path, *flags: object) -> dict:
    """Run build_dataset.main without worker processes; returns dataset.json."""
    fixed = ["--data_dir", data_dir, "--output_dir", output_dir, "--image_size", 32]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "run_local", run_here)
        build_dataset.main([str(flag) for flag in [*fixed, *flags]])
    return json.loads((output_dir / "dataset.json").read_text())


@pytest.fixture(scope="session")
def build():
    """build(data_dir, output_dir, *flags): a 32 px dataset, built in this process; a later --image_size wins."""
    return build_in_process


@pytest.fixture(scope="session")
def built_dataset(tmp_path_factory) -> Path:
    """A dataset of 60 images of 20 patients at 32 px in several shards, no split empty. Read it, do not change it."""
    folder = tmp_path_factory.mktemp("built")
    release = make_release(folder / "release")
    build_in_process(release, folder / "records", "--shard_size", 16, "--ratios", 0.6, 0.2, 0.2)
    return folder / "records"


@contextlib.contextmanager
def twenty_resamples() -> Iterator[None]:
    """Intervals and bands from 20 resamples."""
    from tools.reporting import curves

    with pytest.MonkeyPatch.context() as patch:
        for function in (metrics.bootstrap_aurocs, metrics.draw_patients, curves.bands):
            patch.setitem(function.__kwdefaults__, "resamples", 20)
        yield


@pytest.fixture(scope="module")
def few_resamples() -> Iterator[None]:
    """20 resamples in all tests of a file, in which the width of an interval is not at stake."""
    with twenty_resamples():
        yield


@pytest.fixture(scope="session")
def with_few_resamples():
    """The same as a context, for an experiment of several such files."""
    return twenty_resamples


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """A headless Chromium; skips where there is none."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("no playwright. Run: pip install -r requirements/dev.txt")
    path = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if path is None:
        pytest.skip("no Chromium. Run: apt-get install chromium")
    with sync_playwright() as playwright:
        # In a container one is root, for whom Chromium's sandbox does not start; the pages are our own.
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()
