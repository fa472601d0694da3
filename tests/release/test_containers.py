"""The bytes of a dataset do not depend on the containers of its images."""

import functools
import io
import json
import pickle
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

import build_dataset
from cxr.engines import local

FLAGS = ["--shard_size", 7, "--max_rejected", 0.5]


class Trap:
    """An object whose pickle raises an exception when it is loaded."""

    def __reduce__(self):
        return (exec, ("raise RuntimeError('a pickle of an archive was loaded')",))


def encoded(pixels, form="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, **options)
    return buffer.getvalue()


def odd_images():
    """Unusual and invalid image files, by their kind."""
    noise = functools.partial(np.random.default_rng(0).integers, dtype=np.uint8)
    grey, colour = noise(0, 256, (48, 48)), noise(0, 256, (50, 50, 4))
    return {
        "html": b"<html>404</html>",
        "empty": b"",
        "tiny": encoded(grey[:16, :16]),
        "cut off": encoded(grey)[:900],
        "16 bits": encoded((grey.astype(np.uint16) << 8) + 77),
        "transparent": encoded(colour),
        "JPEG": encoded(colour[..., :3], "JPEG"),
        "wide": encoded(noise(0, 256, (33, 90))),
        "1 bit": encoded(grey > 127),
    }


@pytest.fixture(scope="module")
def odd_release(tmp_path_factory, write_release):
    """A release of 24 images of 48 px, nine of them odd, as a folder."""
    release = write_release(tmp_path_factory.mktemp("odd") / "folder", patients=12, images_each=2)
    for path, data in zip(sorted((release / "images").iterdir()), odd_images().values(), strict=False):
        path.write_bytes(data)
    (release / "images" / "stray.png").write_bytes(b"no row names it")
    return release


def pack_tar(path, files, mode="w"):
    with tarfile.open(path, mode, compresslevel=1) if ":" in mode else tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def pack_zip(path, files, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def as_webdataset(files):
    pairs = [(name, data, name.rsplit(".", 1)[0] + ".pyd") for name, data in files.items()]
    return {key: value for name, data, label in pairs for key, value in ((name, data), (label, pickle.dumps(Trap())))}


def halves(files):
    return [dict(list(files.items())[start::2]) for start in (0, 1)]


def pack(release, target, kind):
    """Copy a release and put its images into containers of one kind, or into a mix of all kinds."""
    shutil.copytree(release, target, ignore=shutil.ignore_patterns("images"))
    files = {f"images/{path.name}": path.read_bytes() for path in sorted((release / "images").iterdir())}
    first, second = halves(files)
    if kind == "tar":
        pack_tar(target / "images.tar", files)
    elif kind == "tar.gz":
        pack_tar(target / "images_001.tar.gz", first, "w:gz")
        pack_tar(target / "images_002.tgz", second, "w:gz")
    elif kind == "zip":
        pack_zip(target / "images.zip", files)
    elif kind == "WebDataset":
        pack_tar(target / "train_000.tar", as_webdataset(first))
        pack_tar(target / "test_000.tar.gz", as_webdataset(second), "w:gz")
    else:  # mixed, some images in more than one place
        (one, two), (three, four) = halves(first), halves(second)
        (target / "here").mkdir()
        for name, data in one.items():
            (target / "here" / name.rsplit("/", 1)[1]).write_bytes(data)
        pack_tar(target / "1.tar.gz", two | one, "w:gz")
        pack_tar(target / "deep.tgz", three | two, "w:gz")
        pack_zip(target / "here" / "x.zip", four, zipfile.ZIP_STORED)
        pack_tar(target / "z.tar", dict(list((one | two | three | four).items())[::3]))
    return target


def result_of(folder):
    """(the files of a dataset, dataset.json without the names of containers)."""
    files = {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".tfrecord", ".csv")}
    info = json.loads((folder / "dataset.json").read_text())
    del info["source"]["containers"]
    return files, info


@pytest.fixture(scope="module")
def expected(odd_release, tmp_path_factory, build):
    """expected(size, encoding): the result from the folder, built once."""

    @functools.cache
    def from_folder(*options):
        output = tmp_path_factory.mktemp("expected")
        build(odd_release, output, *FLAGS, "--image_size", options[0], "--encoding", options[1])
        return result_of(output)

    return from_folder


KINDS = ["tar", "tar.gz", "zip", "WebDataset", "mixed"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "encoding"), [(48, "png"), (32, "png"), (64, "jpeg"), (40, "raw")])
def test_every_container_gives_the_same_bytes(odd_release, expected, tmp_path, build, kind, size, encoding):
    release = pack(odd_release, tmp_path / "release", kind)
    build(release, tmp_path / "records", *FLAGS, "--image_size", size, "--encoding", encoding)
    files, info = result_of(tmp_path / "records")
    assert info["rejected"] == 4  # html, empty, tiny, cut off
    if kind != "mixed":  # where the stray image is counted more than once
        assert info["unlisted"] == 1
    assert (files, info | {"unlisted": 1}) == expected(size, encoding)
    assert [path.name for path in (tmp_path / "records" / "manifest").rglob("*.spool")] == []


def test_two_processes_give_the_same_bytes_from_compressed_tars(odd_release, expected, tmp_path):
    release = pack(odd_release, tmp_path / "release", "tar.gz")
    flags = ["--data_dir", release, "--output_dir", tmp_path / "records", *FLAGS, "--image_size", 48, "--workers", 2]
    build_dataset.main([str(flag) for flag in flags])
    assert result_of(tmp_path / "records") == expected(48, "png")


def dicom_of(pixels):
    """A DICOM file of 12 stored bits, inverted (MONOCHROME1)."""
    pydicom = pytest.importorskip("pydicom")
    file = pydicom.Dataset()
    file.file_meta = pydicom.dataset.FileMetaDataset()
    file.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    file.SOPClassUID = file.file_meta.MediaStorageSOPClassUID = pydicom.uid.ComputedRadiographyImageStorage
    file.SOPInstanceUID = file.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    file.Rows, file.Columns = pixels.shape
    file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME1"
    file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 12, 11, 0
    file.PixelData = pixels.tobytes()
    buffer = io.BytesIO()
    pydicom.dcmwrite(buffer, file, enforce_file_format=True)
    return buffer.getvalue()


def test_dicom_files_with_and_without_ending_give_the_same_bytes_in_every_container(tiny_release, tmp_path, build):
    release = tiny_release(patients=6)
    for number, path in enumerate(sorted((release / "images").iterdir())):
        pixels = np.random.default_rng(number).integers(0, 4096, (40, 60), np.uint16)
        path.with_suffix(".dcm").write_bytes(dicom_of(pixels)[: None if number else 400])  # the first is cut off
        path.unlink()
    bare = {f"DICOM/{path.stem}": path.read_bytes() for path in sorted((release / "images").iterdir())}
    results = []
    for kind, write in {"tar": pack_tar, "tar.gz": functools.partial(pack_tar, mode="w:gz"), "zip": pack_zip}.items():
        packed = shutil.copytree(release, tmp_path / kind, ignore=shutil.ignore_patterns("images"))
        write(packed / f"x.{kind}", bare)
        results.append(build(packed, tmp_path / f"records {kind}", *FLAGS))
    info = build(release, tmp_path / "records", *FLAGS)
    assert (info["rejected"], [sum(s["images"] for s in result["splits"].values()) for result in results]) == (
        1,
        [17] * 3,
    )
    for kind in ("tar", "tar.gz", "zip"):
        assert result_of(tmp_path / f"records {kind}") == result_of(tmp_path / "records")


def line_of(data_dir, output_dir, *flags):
    """The single error line of a failing build."""
    with pytest.raises(SystemExit) as exit_:
        build_dataset.main(["--data_dir", str(data_dir), "--output_dir", str(output_dir), *map(str, flags)])
    assert "\n" not in exit_.value.code
    return exit_.value.code


@pytest.mark.parametrize(("place", "kind"), [("images/x.tar", "tar"), ("x.tar.gz", "tar.gz"), ("x.zip", "zip")])
def test_an_image_with_different_bytes_in_two_places_ends_the_build(tiny_release, tmp_path, in_process, place, kind):
    release = tiny_release(patients=4)
    other = {"other/00000003_001.png": (release / "images" / "00000003_000.png").read_bytes()}
    write = {"tar": pack_tar, "tar.gz": functools.partial(pack_tar, mode="w:gz"), "zip": pack_zip}[kind]
    write(release / place, other)
    line = line_of(release, tmp_path / "records")
    assert line.startswith("error: image 00000003_001.png appears twice with different bytes: in ")
    assert "/images/00000003_001.png" in line
    assert place in line
    write(release / place, {"other/00000003_001.png": (release / "images" / "00000003_001.png").read_bytes()})
    build_dataset.main(["--data_dir", str(release), "--output_dir", str(tmp_path / "records"), "--image_size", "32"])


def test_an_image_removed_during_a_build_is_named_and_the_build_can_resume(tiny_release, tmp_path, build, monkeypatch):
    release = tiny_release(patients=6)
    image = release / "images" / "00000005_001.png"
    data = image.read_bytes()

    def remove_and_run(function, jobs, *, workers):
        image.unlink()
        yield from map(function, jobs)

    monkeypatch.setattr(local, "run_local", remove_and_run)
    flags = ["--image_size", 32, "--shard_size", 4]
    line = line_of(release, tmp_path / "records", *flags)
    error = f"error: {image} was removed while it was needed."
    assert line == f"{error} Put it back and run the same command again: finished work is kept"
    assert not (tmp_path / "records" / "dataset.json").exists()
    image.write_bytes(data)
    build(release, tmp_path / "records", "--shard_size", 4)
    build(release, tmp_path / "undisturbed", "--shard_size", 4)
    assert result_of(tmp_path / "records") == result_of(tmp_path / "undisturbed")


@pytest.fixture(scope="module")
def real_release(shared_dir, tmp_path_factory):
    """A release of the 84 originals and their rows, with the images in a folder."""
    release = tmp_path_factory.mktemp("real") / "folder"
    release.mkdir()
    (release / "images").symlink_to(shared_dir / "nih-1024" / "images")
    names = {path.name for path in (release / "images").iterdir()}
    for name in ("Data_Entry_2017.csv", "train_val_list.txt", "test_list.txt"):
        lines = (shared_dir / "nih-1024" / name).read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.split(",")[0].strip() in names | {"Image Index"}]
        (release / name).write_text("".join(kept))
    return release


@pytest.fixture(scope="module")
def real_fingerprint(real_release, tmp_path_factory, build):
    """The fingerprint of the 84 originals, built from their folder in one process."""
    info = build(real_release, tmp_path_factory.mktemp("real"), "--image_size", 64, "--shard_size", 16)
    assert sum(split["images"] for split in info["splits"].values()) == 84
    return info["fingerprint"]


@pytest.mark.parametrize(
    ("kind", "workers"), [("tar", None), ("zip", None), ("WebDataset", None), ("tar.gz", None), ("tar.gz", 2)]
)
def test_the_84_originals_give_one_fingerprint_in_every_container(
    real_release, real_fingerprint, tmp_path, build, kind, workers
):
    release = pack(real_release, tmp_path / "release", kind)
    flags = ["--image_size", 64, "--shard_size", 16]
    if workers:
        flags += ["--data_dir", release, "--output_dir", tmp_path / "records", "--workers", workers]
        build_dataset.main([str(flag) for flag in flags])
    else:
        build(release, tmp_path / "records", *flags)
    _, info = result_of(tmp_path / "records")
    assert info["fingerprint"] == real_fingerprint
