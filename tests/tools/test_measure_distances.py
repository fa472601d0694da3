"""The table of tools.measure_distances: other images, and changed ones, against val."""

import numpy as np
import pytest
from PIL import Image
from support.ready import make_experiment, write_distances

from cxr.evaluation import out_of_distribution
from cxr.images.appearance import appearance_of
from cxr.records.appearances import read_pixels
from cxr.records.dataset import open_dataset
from tools import measure_distances

LEVEL = np.add.outer(np.arange(40), np.arange(50)).astype(np.uint8)  # a smooth ramp; val is noise


@pytest.fixture
def model_dir(built_dataset, tmp_path):
    """Distances are the norm of the appearance; those of val, by hand, lie on both sides of the threshold."""
    folder = make_experiment(tmp_path / "tiny", built_dataset)
    norms = sorted(np.linalg.norm(appearance_of(pixels)) for pixels in read_pixels(open_dataset(built_dataset), "val"))
    write_distances(folder, threshold=float(norms[11] + norms[12]) / 2)  # three of 15 are beyond
    return folder


def run(capsys, *flags: object) -> tuple[list[str], dict[str, list[str]], str]:
    """The first line, the cells of every row by its first, and standard error."""
    measure_distances.main([str(flag) for flag in flags])
    printed = capsys.readouterr()
    first, _, *rows = printed.out.splitlines()
    cells = [row.replace(" %", "%").rsplit(maxsplit=5) for row in rows]
    return first, {name: values for name, *values in cells}, printed.err


def test_folders_and_changed_images_are_compared_with_val(capsys, model_dir, built_dataset, tmp_path):
    folder = tmp_path / "others"
    folder.mkdir()
    Image.fromarray(LEVEL).save(folder / "ramp.png")
    Image.fromarray(np.full((40, 50), 9, np.uint8)).save(folder / "blank.png")
    (folder / "broken.png").write_bytes(b"no image")
    first, rows, errors = run(capsys, "--model_dir", model_dir, "--data_dir", built_dataset, "--images", folder)
    assert first.startswith("15 val images, threshold ")
    assert first.endswith(", 20.00 % of them beyond it")
    assert errors.startswith(f"left out: {folder}/broken.png: not a PNG")
    fitted = out_of_distribution.read(model_dir, "best")
    val = [np.linalg.norm(appearance_of(pixels)) for pixels in read_pixels(open_dataset(built_dataset), "val")]
    # The ramp has almost no texture and the blank image none, whose logarithm is far below 0; noise has much.
    ramp, blank = (np.linalg.norm(appearance_of(pixels)) for pixels in (LEVEL, np.full((8, 8), 9, np.uint8)))
    assert min(ramp, blank) > max(val)
    assert min(ramp, blank) > fitted.threshold
    assert rows[str(folder)] == ["2", "1.000", "100.0%", "50.0%", "100.0%"]  # blank fails a check
    assert len(rows) == 11
    for name in ("inverted", "mirrored", "turned by 90 degrees", "turned by 180 degrees", "turned by 270 degrees"):
        number, auroc, beyond, by_check, _ = rows[f"val, {name}"]
        assert (number, beyond, by_check) == ("15", "20.0%", "0.0%")  # the norm of the appearance does not change
        assert float(auroc) == pytest.approx(0.5, abs=1 / 30)  # each of 15 ties may break either way, of 225 pairs


def test_fewer_images_can_be_changed(capsys, model_dir, built_dataset):
    _, rows, _ = run(capsys, "--model_dir", model_dir, "--data_dir", built_dataset, "--changed", 4)
    assert {row[0] for row in rows.values()} == {"4"}


def test_what_cannot_be_measured(capsys, model_dir, built_dataset, build, tiny_release, tmp_path):
    flags = ["--model_dir", str(model_dir), "--data_dir"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty/x.png").write_bytes(b"")
    build(tiny_release(patients=6), tmp_path / "records")
    for more, text in (
        ([str(built_dataset), "--images", str(tmp_path / "empty")], f"no readable image below {tmp_path / 'empty'}"),
        ([str(tmp_path / "records")], f"{tmp_path / 'records'} is not the dataset that {model_dir} was trained on"),
    ):
        with pytest.raises(SystemExit, match=f"^error: {text}"):
            measure_distances.main([*flags, *more])
    out_of_distribution.path_of(model_dir).unlink()
    with pytest.raises(SystemExit, match=r"distances are not fitted: .* Run: python evaluate.py .* --split val"):
        measure_distances.main([*flags, str(built_dataset)])
    with pytest.raises(SystemExit):
        measure_distances.parse_args([*flags, "x", "--changed", "0"])
    assert capsys.readouterr().err.endswith("error: --changed 0: expected at least 1\n")
