"""Tests on a real Ray cluster of two workers, which is started once."""

import json
import os
import pathlib
import shutil
import signal
import socket
import sys

import pytest
from support.identity import save_mobilenet

import build_dataset
from cxr import storage
from cxr.engines import mapping, ray_engine
from cxr.engines.engine import LOCAL, Engine
from cxr.engines.ray_engine import run_ray
from cxr.errors import one_line_errors
from cxr.findings import parse_findings
from cxr.networks import features
from cxr.params import Params
from cxr.records import shards
from cxr.records.dataset import open_dataset

RAY = Engine("ray", workers=2)


@pytest.fixture(scope="module")
def cluster():
    """The Ray session of all tests in this file."""
    with ray_engine.ray_session(RAY) as ray:
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import a test file
        yield ray


def files_of(folder: pathlib.Path) -> dict[str, str]:
    """Hash of every file of a dataset, by name."""
    found = (path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): storage.sha256_of(path) for path in found}


def square(number):
    return number * number


def folder_and_process(_):
    return os.getcwd(), os.getpid()  # noqa: PTH109


def read_file(name):
    return pathlib.Path(name).read_bytes()


def test_every_job_has_its_result(cluster):
    assert sorted(run_ray(square, list(range(37)), RAY, accelerated=False)) == [n * n for n in range(37)]
    assert list(run_ray(square, [], RAY, accelerated=False)) == []


def test_workers_are_other_processes_in_the_same_folder(cluster, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = list(run_ray(folder_and_process, list(range(6)), RAY, accelerated=False))
    assert {folder for folder, _ in found} == {str(tmp_path)}
    assert os.getpid() not in {process for _, process in found}


def test_jobs_are_submitted_only_as_results_are_read(cluster):
    taken = []
    jobs = (taken.append(number) or number for number in range(100))
    results = run_ray(square, jobs, RAY, accelerated=False)
    next(results)
    assert len(taken) == 4  # two per core
    results.close()


def test_an_accelerated_job_has_all_cores_of_a_machine_without_gpu(cluster):
    assert ray_engine._resources(cluster, accelerated=False) == {"num_cpus": 1}
    assert ray_engine._resources(cluster, accelerated=True) == {"num_cpus": 2}


def test_an_accelerated_job_has_one_gpu(cluster, monkeypatch):
    monkeypatch.setattr(cluster, "cluster_resources", lambda: {"CPU": 16.0, "GPU": 4.0})
    assert ray_engine._resources(cluster, accelerated=True) == {"num_cpus": 1, "num_gpus": 1}


@pytest.mark.parametrize(
    ("function", "job", "line"),
    [
        pytest.param(parse_findings, "Nonsense", "^error: unknown finding 'Nonsense'", id="our ValueError"),
        pytest.param(read_file, "absent", r"^error: \[Errno 2\] No such file or directory: 'absent'$", id="OSError"),
    ],
)
def test_an_error_in_a_worker_is_one_line(cluster, function, job, line):
    with pytest.raises(SystemExit, match=line) as exit_, one_line_errors():
        list(run_ray(function, [job], RAY, accelerated=False))
    assert "\n" not in exit_.value.code


def test_a_bug_in_a_worker_keeps_its_type(cluster):
    with pytest.raises(json.JSONDecodeError), one_line_errors():  # a ValueError of a library
        list(run_ray(json.loads, ["{"], RAY, accelerated=False))


def test_a_folder_that_is_absent_on_a_machine_is_one_line():
    text = f"^/not/here is not on {socket.gethostname()} .*: every machine of a Ray cluster needs this project"
    with pytest.raises(OSError, match=text):
        ray_engine._in_folder("/not/here", square, 3)


def test_ray_builds_the_same_bytes_and_a_killed_worker_costs_one_shard(cluster, tmp_path, tiny_release, monkeypatch):
    flags = ["--data_dir", str(tiny_release()), "--image_size", "32", "--shard_size", "8"]
    build_dataset.main([*flags, "--output_dir", str(tmp_path / "local"), "--workers", "1"])
    write, attempts = shards.write_shard, tmp_path / "attempts"
    attempts.mkdir()

    def die_at_first(job):
        name = pathlib.Path(job.path).name
        is_retry = (attempts / f"{name} 1").exists()
        (attempts / f"{name} {2 if is_retry else 1}").touch()
        if name.startswith("train-00001") and not is_retry:
            os.kill(os.getpid(), signal.SIGKILL)
        return write(job)

    monkeypatch.setattr(shards, "write_shard", die_at_first)
    monkeypatch.chdir(tmp_path)
    build_dataset.main([*flags, "--output_dir", "ray", "--engine", "ray"])  # a relative path
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "local")
    written = list(tmp_path.glob("local/*.tfrecord"))
    assert len(written) > 4
    assert len(list(attempts.iterdir())) == len(written) + 1


def always_die(_):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_job_that_kills_every_worker_is_one_line(cluster, monkeypatch):
    monkeypatch.setattr(ray_engine, "RETRIES", 1)
    line = r"^error: one job lost its Ray worker 2 times, .*\(WorkerCrashedError\)\. What is finished is kept: run the"
    with pytest.raises(SystemExit, match=line), one_line_errors():
        list(run_ray(always_die, [1], RAY, accelerated=False))


def test_ray_extracts_the_same_features(cluster, built_dataset, tmp_path):
    spec = save_mobilenet(tmp_path / "mobilenet.weights.h5")
    datasets = []
    for engine in (LOCAL, RAY):
        folder = tmp_path / engine.name
        shutil.copytree(built_dataset, folder, ignore=shutil.ignore_patterns("features"))
        datasets.append(features.cached_features(open_dataset(folder), spec, Params(extractors=[spec]), engine=engine))
    assert files_of(datasets[0].folder) == files_of(datasets[1].folder)
    assert datasets[0].info == datasets[1].info


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    line = r"^error: the Ray engine needs ray\. Run: pip install -r requirements/ray\.txt$"
    with pytest.raises(SystemExit, match=line), one_line_errors():
        list(mapping.run(square, [1], RAY))


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "nonsense"])
def test_an_address_without_a_server_is_one_line(address, monkeypatch):
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    line = f"^error: no Ray cluster answers at {address} .* Start one: ray start --head"
    with pytest.raises(SystemExit, match=line), one_line_errors():
        list(mapping.run(square, [1], Engine("ray", ray_address=address)))


@pytest.mark.parametrize(
    "command", ["build_dataset.py --data_dir D", "train.py --model_dir M", "evaluate.py --model_dir M"]
)
def test_an_address_without_the_engine_is_a_bad_flag(cli, command):
    done = cli(*command.split(), "--ray_address", "auto")
    assert done.returncode == 2
    assert "--ray_address goes with --engine ray" in done.stderr
