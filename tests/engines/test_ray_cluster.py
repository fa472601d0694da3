"""A real Ray cluster of several simulated machines, one of which is killed during a build."""

import os
import pathlib
import subprocess
import sys
import time

import psutil
import pytest

from cxr import storage

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHARDS = 40
HEALTH_CHECK = {"initial_delay_ms": 300, "period_ms": 300, "timeout_ms": 5000, "failure_threshold": 3}
# Ray's own test cluster leaves the pipes of its processes open.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def cluster(monkeypatch):
    """A head without cores for jobs and two machines of one core each, which misses a lost one within a second."""
    from ray.cluster_utils import Cluster

    for name, value in HEALTH_CHECK.items():
        monkeypatch.setenv(f"RAY_health_check_{name}", str(value))

    options = {"object_store_memory": 100 << 20}  # bytes
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False, **options})
    for _ in range(2):
        made.add_node(num_cpus=1, **options)
    made.wait_for_nodes()
    yield made
    made.shutdown()


def start_build(release: pathlib.Path, output: pathlib.Path, *flags: str) -> subprocess.Popen:
    fixed = ["--data_dir", release, "--output_dir", output, "--image_size", 32, "--shard_size", 2]
    command = [sys.executable, "build_dataset.py", *map(str, fixed), *flags]
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def files_of(folder: pathlib.Path) -> dict[str, str]:
    """Hash of every file of a dataset, by name."""
    return {str(p.relative_to(folder)): storage.sha256_of(p) for p in folder.rglob("*") if p.is_file()}


def finished_shards(output: pathlib.Path) -> int:
    return len(list(output.glob("*.tfrecord")))


def stop_a_job(node) -> psutil.Process:
    """Stop a process of a machine in the middle of a job, which so does not end before the machine is lost."""
    [raylet] = node.all_processes["raylet"]
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(raylet.process.pid).children():
            child.suspend()
            if " ".join(child.cmdline()).startswith("ray::_in_folder"):
                return child
            child.resume()
    raise AssertionError("the machine had no job")


def test_a_machine_lost_in_the_middle_costs_only_its_shards(cluster, tmp_path, tiny_release):
    release = tiny_release(
        patients=SHARDS, images_each=2, size=512
    )  # large enough that the machine is lost during the build
    local = start_build(release, tmp_path / "local")
    _, stderr = local.communicate(timeout=120)
    assert local.returncode == 0, stderr
    build = start_build(release, tmp_path / "ray", "--engine", "ray", "--ray_address", cluster.address)
    while finished_shards(tmp_path / "ray") < 3:
        assert build.poll() is None, build.stderr.read()
        time.sleep(0.005)
    lost = cluster.list_all_nodes()[-1]
    stopped = stop_a_job(lost)
    cluster.remove_node(lost, allow_graceful=False)
    stopped.kill()
    before = finished_shards(tmp_path / "ray")
    _, stderr = build.communicate(timeout=240)
    assert build.returncode == 0, stderr
    assert before < SHARDS, "the build had already ended when its machine was lost"
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "local")
    assert stderr.decode().count("\n") <= 1, stderr  # nothing but the progress bar
