import os
import subprocess
import sys
from pathlib import Path

import pytest

from searching import slots

TWO = "GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa)\nGPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb)\n"


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """nvidia_smi(output, code): a fake one, alone on PATH; both environment variables are unset."""
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("CUDA_VISIBLE_DEVICES", "TF_FORCE_GPU_ALLOW_GROWTH"):
        monkeypatch.delenv(name, raising=False)

    def install(output: str = TWO, code: int = 0) -> None:
        script = tmp_path / "nvidia-smi"
        text = f"import sys\nassert sys.argv[1:] == ['-L']\nsys.stdout.write({output!r})\nsys.exit({code})\n"
        script.write_text(f"#!{sys.executable}\n{text}")
        script.chmod(0o755)

    return install


def gpus_of(jobs: int) -> list[str | None]:
    return [slot.environment.get("CUDA_VISIBLE_DEVICES") for slot in slots.make_slots(jobs)]


def test_slots_use_the_gpus_in_turn(nvidia_smi):
    nvidia_smi()
    assert gpus_of(3) == ["0", "1", "0"]
    assert gpus_of(1) == ["0"]


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ("1", ["1", "1"]),
        ("1, 0", ["1", "0"]),
        ("GPU-bbbb,GPU-aaaa", ["GPU-bbbb", "GPU-aaaa"]),
        ("0,2,1", ["0", "0"]),  # as in CUDA, 2 is not a GPU and hides 1
        ("", ["", ""]),  # no GPU is allowed: unchanged
        ("-1", ["-1", "-1"]),
    ],
)
def test_cuda_visible_devices_restricts_the_gpus(nvidia_smi, monkeypatch, allowed, expected):
    nvidia_smi()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", allowed)
    assert gpus_of(2) == expected


def test_without_a_gpu_the_variable_is_not_set(nvidia_smi, monkeypatch):
    assert gpus_of(2) == [None, None]  # nvidia-smi is absent
    nvidia_smi("No devices were found\n")
    assert gpus_of(2) == [None, None]
    nvidia_smi("GPU 0: NVIDIA A100\nUnable to determine the device handle\n", code=9)
    assert gpus_of(2) == [None, None]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert gpus_of(2) == ["1", "1"]


def test_a_mig_instance_is_not_counted_as_a_gpu(nvidia_smi):
    nvidia_smi("GPU 0: NVIDIA A100 (UUID: GPU-aaaa)\n  MIG 1g.5gb Device 0: (UUID: MIG-cccc)\n")
    assert gpus_of(2) == ["0", "0"]


def test_gpu_memory_grows_by_default(nvidia_smi, monkeypatch):
    assert [slot.environment["TF_FORCE_GPU_ALLOW_GROWTH"] for slot in slots.make_slots(2)] == ["true", "true"]
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    assert slots.make_slots(1)[0].environment["TF_FORCE_GPU_ALLOW_GROWTH"] == "false"


@pytest.mark.parametrize(
    ("cores", "jobs", "shares"),
    [
        ({0, 1}, 1, [None]),
        ({0, 1}, 2, [{0}, {1}]),
        ({2, 3, 5, 7}, 2, [{2, 3}, {5, 7}]),
        ({0, 1, 2}, 2, [{0}, {1, 2}]),
        ({0, 1}, 4, [{0}, {1}, {0}, {1}]),  # more jobs than cores
    ],
)
def test_jobs_share_the_cores(monkeypatch, cores, jobs, shares):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: cores)
    assert [slots.share_of_cores(number, jobs) for number in range(jobs)] == shares


def test_a_process_stays_on_its_cores():
    before = os.sched_getaffinity(0)
    with slots.Slot(frozenset({max(before)}), {}).confined():
        code = "import os; print(os.sched_getaffinity(0))"
        seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert (seen, os.sched_getaffinity(0)) == (f"{ {max(before)} }\n", before)


def test_counting_gpus_does_not_load_tensorflow():
    code = "import sys; from searching import slots; slots.make_slots(2); print('tensorflow' in sys.modules)"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
