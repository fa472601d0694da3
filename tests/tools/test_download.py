"""The download command: what it downloads, what it skips, and what it rejects before it starts."""

import functools
import gzip
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.loopback import odd, serving, status

from tools import download
from tools.downloading.transfer import RetryPolicy

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    "/Data_Entry_2017_v2020.csv": b"Image Index\n",
    "/images_001.tar.gz": gzip.compress(os.urandom(400_000)),
    "/images_002.tar.gz": gzip.compress(os.urandom(400_000)),
}


def sums_of(folder: Path) -> set[str]:
    return {f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}" for path in folder.glob("*.*[vz]")}


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with serving(FILES) as site:
        yield site


@pytest.fixture
def links(site, tmp_path):
    """A list of links to the site: the CSV with its checksum, part 1 with its size, part 2 with neither."""
    path = tmp_path / "links.csv"
    proof = {"/Data_Entry_2017_v2020.csv": f"12,md5:{hashlib.md5(b'Image Index' + bytes([10])).hexdigest()}"}
    proof["/images_001.tar.gz"] = f"{len(FILES['/images_001.tar.gz'])},"
    rows = [f"{name.strip('/')},{proof.get(name, ',')},{site.url(name)}" for name in FILES]
    path.write_text("\n".join(["name,bytes,checksum,url", *rows]) + "\n")
    return path


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "nih").mkdir()
    return tmp_path / "nih"


@pytest.fixture
def run(links, folder):
    """run(*flags): the command in this process, with short pauses and timeouts."""

    def main(*flags: object) -> None:
        retry = RetryPolicy(attempts=2, pause=0.01, timeout=1)
        download.main(["--output_dir", str(folder), "--links", str(links), *flags], retry=retry)

    return main


@pytest.fixture
def kaggle(tmp_path, monkeypatch):
    """kaggle(script): replace Kaggle's client, which needs the network, by a script; there is room for its 45 GB."""
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**12))

    def install(script: str) -> None:
        program = tmp_path / "bin" / "kaggle"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!{sys.executable}\nimport pathlib, sys, zipfile\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(program))

    return install


def test_all_files_are_downloaded_and_the_next_command_is_printed(run, folder, capsys):
    run()
    assert {f"/{path.name}": path.read_bytes() for path in folder.glob("*.*[vz]")} == FILES
    assert set((folder / "SHA256SUMS").read_text().splitlines()) == sums_of(folder)
    first, whole, following = capsys.readouterr().out.splitlines()
    size = 12 + len(FILES["/images_001.tar.gz"])
    assert first.startswith(f"to download: {size:,} bytes and 1 files of unknown size; free in {folder}: ")
    assert whole.startswith(f"{folder}: all 3 listed files are complete, see SHA256SUMS.")
    assert following == f"next: python build_dataset.py --data_dir {folder} --output_dir data/records"


def test_complete_files_are_not_downloaded_again(site, run):
    run()
    requests = len(site.ranges)
    run()
    assert requests == len(site.ranges) == 3


def test_a_file_that_was_cut_after_its_check_is_checked_again(run, folder):
    run()
    size = len(FILES["/images_001.tar.gz"])
    path = folder / "images_001.tar.gz"
    path.write_bytes(path.read_bytes()[:-5])
    message = rf"^error: {path} is not the listed file: {size - 5:,} bytes, expected {size:,}\. Move it away"
    with pytest.raises(SystemExit, match=message):
        run()
    assert path.stat().st_size == size - 5


def test_a_part_is_downloaded_with_the_small_files(run, folder, capsys):
    run("--parts", "2")
    assert {path.name for path in folder.glob("*.*[vz]")} == {"Data_Entry_2017_v2020.csv", "images_002.tar.gz"}
    assert capsys.readouterr().out.splitlines()[-1].endswith(" --allow_missing")


def test_a_file_saved_by_hand_is_checked_and_kept(site, run, folder):
    (folder / "images_001.tar.gz").write_bytes(FILES["/images_001.tar.gz"])
    (folder / "images_001.tar.gz.partial").write_bytes(b"of an earlier attempt")
    run("--parts", "1")
    assert len(site.ranges) == 1  # the CSV
    assert set((folder / "SHA256SUMS").read_text().splitlines()) == sums_of(folder)
    assert not list(folder.glob("*.partial*"))


def test_another_file_with_that_name_is_not_overwritten(site, run, folder):
    (folder / "images_001.tar.gz").write_bytes(b"mine")
    with pytest.raises(SystemExit, match=r"^error: \S+/images_001\.tar\.gz is not the listed file: 4 bytes, expected "):
        run()
    assert (folder / "images_001.tar.gz").read_bytes() == b"mine"
    assert not site.ranges


def test_a_recorded_checksum_is_checked_in_a_later_download(site, run, folder):
    run()
    (folder / "images_002.tar.gz").unlink()
    site.files["/images_002.tar.gz"] = gzip.compress(b"another")
    with pytest.raises(SystemExit, match=r"^error: images_002\.tar\.gz: sha256 .*, in two attempts"):
        run()


def test_a_download_that_does_not_fit_on_the_disk_does_not_start(site, run, folder, links):
    links.write_text(links.read_text().replace(f",{len(FILES['/images_001.tar.gz'])},", ",9000000000000000,"))
    text = (
        r"^error: to download: 9,000,000\.00 GB and 1 files .*; free in \S+: [\d,.]+ GB\. Make room, take fewer --parts"
    )
    with pytest.raises(SystemExit, match=text):
        run()
    assert not site.ranges


def test_bytes_already_downloaded_do_not_count_as_needed_space(run, folder, links, capsys):
    (folder / "images_001.tar.gz.partial").write_bytes(FILES["/images_001.tar.gz"][:100_000])
    run("--parts", "1")
    assert capsys.readouterr().out.startswith(
        f"to download: {len(FILES['/images_001.tar.gz']) + 12 - 100_000:,} bytes;"
    )


def test_a_dead_link_is_one_line(site, run):
    site.answers["/Data_Entry_2017_v2020.csv"] = [status(404)]
    with pytest.raises(
        SystemExit, match=r"^error: Data_Entry_2017_v2020\.csv: the server answers 404 Not Found for http"
    ):
        run()


def test_two_downloads_into_one_folder_exclude_each_other(run, folder):
    with (
        download.storage.exclusive(folder, "downloading into"),
        pytest.raises(SystemExit, match=r"^error: another process is downloading into \S+/nih; wait for it or choose"),
    ):
        run()


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ("name,url\na,http://a\n", "has no column bytes; expected name,bytes,checksum,url"),
        ("name,bytes,checksum,url\n", "lists no file"),
        ("name,bytes,checksum,url\n../a,,,http://a\n", "line 2: name '../a'; expected a plain file name"),
        ("name,bytes,checksum,url\n.lock,,,http://a\n", "line 2: name '.lock'; expected a plain file name"),
        ("name,bytes,checksum,url\na,-1,,http://a\n", "line 2: bytes '-1'; expected a whole number above 0"),
        ("name,bytes,checksum,url\na,,abc,http://a\n", "line 2: checksum 'abc'; expected md5:<32 digits>"),
        ("name,bytes,checksum,url\na,,,file:///a\n", "line 2: url 'file:///a'; expected http:// or https://"),
        ("name,bytes,checksum,url\na,,,http://a\nA,,,http://b\n", "names a twice"),
        ("name,bytes,checksum,url\na\n", "line 2: url ''; expected http:// or https://"),
    ],
)
def test_a_bad_list_of_links_is_rejected(run, links, rows, text):
    links.write_text(rows)
    with pytest.raises(SystemExit) as caught:
        run()
    assert f"{links}" in caught.value.code
    assert text in caught.value.code


def test_an_unknown_part_and_an_invalid_sums_file_are_rejected(run, folder):
    with pytest.raises(SystemExit, match=r"^error: --parts 13: no such part; the list has 1, 2$"):
        run("--parts", "1", "13")
    (folder / "SHA256SUMS").write_text("hello\n")
    with pytest.raises(
        SystemExit, match=r"SHA256SUMS, line 1: expected a checksum and a name, as sha256sum writes them$"
    ):
        run()


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (signal.SIGKILL, ""),
        (signal.SIGINT, "error: interrupted; run the same command again to resume\n"),
    ],
)
def test_a_stopped_download_is_resumed(site, links, folder, how, said):
    data = FILES["/images_002.tar.gz"]

    def slow(handler):
        odd(cut=300_000, length=len(data))(handler)
        time.sleep(30)  # the connection stays open: the process is stopped while it waits for the rest

    site.answers["/images_002.tar.gz"] = [slow]
    command = [sys.executable, "-m", "tools.download", "--output_dir", str(folder), "--links", str(links)]
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    # A background job of a shell ignores Ctrl-C, and so do its child processes.
    accept_ctrl_c = functools.partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(command, cwd=ROOT, text=True, preexec_fn=accept_ctrl_c, **pipes)
    partial = folder / "images_002.tar.gz.partial"
    deadline = time.monotonic() + 30
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(how)
    stderr = process.communicate(timeout=30)[1]
    assert stderr.endswith(said)
    assert process.returncode == (1 if said else -signal.SIGKILL)
    present = partial.stat().st_size
    assert 0 < present <= 300_000
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, (folder / "images_002.tar.gz").read_bytes()) == (0, data)
    assert site.ranges == [None, None, None, f"bytes={present}-"]


def test_kaggle_gives_one_zip_and_nih_the_small_files(run, folder, kaggle, capsys):
    kaggle(
        "assert sys.argv[1:5] == ['datasets', 'download', 'nih-chest-xrays/data', '--path'], sys.argv\n"
        "pathlib.Path(sys.argv[5]).mkdir()\n"
        "zipfile.ZipFile(sys.argv[5] + '/data.zip', 'w').close()"
    )
    run("--source", "kaggle")
    assert {path.name for path in folder.iterdir()} - {".lock"} == {
        "Data_Entry_2017_v2020.csv",
        "SHA256SUMS",
        "data.zip",
    }
    assert capsys.readouterr().out.startswith("to download: 45.10 GB; free")
    kaggle("sys.exit('called again')")
    run("--source", "kaggle")
    assert zipfile.is_zipfile(folder / "data.zip")


@pytest.mark.parametrize(
    ("script", "text"),
    [
        ("sys.exit(1)", "Kaggle's client failed, see above. Run the same command again"),
        (
            "pathlib.Path(sys.argv[5]).mkdir(); pathlib.Path(sys.argv[5], 'data.zip').write_text('<html>')",
            "Kaggle's client left an incomplete zip (File is not a zip file). Delete",
        ),
    ],
)
def test_a_failing_kaggle_client_is_one_line(run, folder, kaggle, script, text):
    kaggle(script)
    with pytest.raises(SystemExit) as caught:
        run("--source", "kaggle")
    assert caught.value.code.startswith(f"error: {text}")
    assert not (folder / "data.zip").exists()


def test_without_kaggles_client_the_error_says_how_to_get_it(run, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit, match=r"needs Kaggle's client\. Run: pip install -r requirements/download\.txt$"):
        run("--source", "kaggle224")


def test_parts_of_kaggle_exit_with_2(run, capsys):
    with pytest.raises(SystemExit) as caught:
        run("--source", "kaggle", "--parts", "1")
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("error: --parts are NIH's; Kaggle has one zip")
