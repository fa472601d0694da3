import io
import json

import numpy as np
import pytest
from PIL import Image

from cxr.findings import FINDINGS
from cxr.networks import augment
from cxr.params import Params
from tools import show_augmentation
from tools.show_augmentation import PANEL, augmented_copies, draw_row, draw_rows

BOXES = "Image Index,Finding Label,Bbox [x,y,w,h],,,\n00000003_000.png,Mass,512,512,256,128,,,\n"
BOXES += "00000004_000.png,Nodule,0,0,128,128,,,\n"


@pytest.fixture
def world(tmp_path, tiny_release):
    (tiny_release(patients=4) / "BBox_List_2017.csv").write_text(BOXES)
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "params.json").write_text(json.dumps({"augmentation": "light", "seed": 7}))
    return tmp_path


def run(world, *flags: object) -> np.ndarray:
    fixed = ["--model_dir", world / "experiment", "--data_dir", world / "release", *flags]
    show_augmentation.main([str(flag) for flag in fixed])
    return np.asarray(Image.open(world / "experiment/augmentation.png"))


def extent(image: np.ndarray) -> list[int]:
    """The box around the white pixels."""
    rows, columns = np.nonzero(image > 128)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


@pytest.mark.parametrize("crop_size", [None, 100])
def test_boxes_move_with_their_contents(monkeypatch, crop_size):
    monkeypatch.setattr(augment, "ERASING", 0)  # it could erase part of the box
    square = np.full((128, 128), 20, np.uint8)
    square[50:80, 40:90] = 235
    params = Params(augmentation="strong", horizontal_flip=True, crop_size=crop_size)
    box = np.array([[40, 50, 90, 80]])
    (same, unmoved), *changed = augmented_copies(square, box, params, count=12, seed=(3, 0))
    start = 0 if crop_size is None else 14
    np.testing.assert_array_equal(same, square[start : 128 - start, start : 128 - start])
    assert unmoved[0].tolist() == [40 - start, 50 - start, 90 - start, 80 - start]
    for image, [moved] in changed:
        assert image.shape == same.shape
        assert extent(image) == pytest.approx(moved, abs=2)  # interpolation rounds corners
    assert max(np.abs(moved - unmoved).max() for _, moved in changed) > 8


def test_without_augmentation_every_copy_equals_the_image():
    square = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    for image, boxes in augmented_copies(square, np.array([[1, 2, 3, 4]]), Params(), count=2, seed=(0,)):
        np.testing.assert_array_equal(image, square)
        assert boxes.tolist() == [[1, 2, 3, 4]]


def test_copies_follow_the_seed():
    square, boxes = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64), np.array([[1, 2, 30, 40]])
    first, again, other = (
        augmented_copies(square, boxes, Params(augmentation="light"), count=2, seed=(n,)) for n in (1, 1, 2)
    )
    for (image, its), (same, same_boxes), (different, _) in zip(first[1:], again[1:], other[1:], strict=True):
        np.testing.assert_array_equal(image, same)
        np.testing.assert_array_equal(its, same_boxes)
        assert (image != different).any()


def test_a_row_draws_the_visible_boxes_below_its_caption():
    black = np.zeros((56, 56), np.uint8)
    seen, gone = np.array([[14.0, 14.0, 28.0, 42.0]]), np.array([[0.0, 0.0, 0.0, 9.0]])
    drawn = draw_row([(black, seen), (black, gone)])
    assert drawn.shape == (PANEL, 2 * PANEL + 8)
    scale = PANEL / 56
    assert extent(drawn) == pytest.approx([14 * scale, 14 * scale, 28 * scale, 42 * scale], abs=1)
    picture = np.asarray(Image.open(io.BytesIO(draw_rows([("one", drawn), ("two", drawn)]))))
    assert picture.shape == (2 * (22 + PANEL + 8), 2 * PANEL + 8)
    for top in (0, 22 + PANEL + 8):
        assert picture[top : top + 22].max() == 255  # the caption
        np.testing.assert_array_equal(picture[top + 22 : top + 22 + PANEL], drawn)


def test_the_command_draws_the_first_images_with_boxes(world, capsys):
    picture = run(world, "--images", 9, "--copies", 2, "--image_size", 64)
    assert picture.shape == (2 * (PANEL + 30), 3 * PANEL + 2 * 8)  # two images have boxes
    line = f"written: {world / 'experiment/augmentation.png'}, 2 images of 64 pixels, each with 2 augmented copies\n"
    assert capsys.readouterr().out == line
    side = slice(22, 22 + PANEL)
    box = picture[side, :PANEL][112 : 112 + 28, 112 : 112 + 56]  # 512 of 1024 is half of the panel
    assert (box[0, 4:-4] == 255).all()  # away from the black rims of the other sides
    assert (box[4:-4, 0] == 255).all()
    assert len(run(world, "--images", 1)) == PANEL + 30


def test_the_size_of_the_records_is_that_of_training(world, capsys):
    (world / "experiment/params.json").write_text('{"crop_size": 80}')
    with pytest.raises(
        SystemExit,
        match="has not been trained, so the size of the records is unknown, from which its crop_size 80 is cut; give",
    ):
        run(world)
    info = {"findings": list(FINDINGS), "image_size": 96}
    (world / "experiment/dataset.json").write_text(json.dumps(info))
    run(world)
    assert "2 images of 96 pixels" in capsys.readouterr().out
    with pytest.raises(
        SystemExit, match=r"^error: crop_size 80 is larger than the records, which have 64 pixels per side"
    ):
        run(world, "--image_size", 64)


def test_output_names_the_file(world):
    run(world)
    run(world, "--output", world / "new" / "folder" / "a.png")
    assert (world / "new/folder/a.png").read_bytes() == (world / "experiment/augmentation.png").read_bytes()


def test_an_unreadable_image_is_named_and_left_out(world, capsys):
    (world / "release/images/00000003_000.png").write_text("")
    assert len(run(world)) == PANEL + 30
    assert capsys.readouterr().err.startswith("unreadable: 00000003_000.png: not a PNG, JPEG, WebP or DICOM image")
    (world / "release/images/00000004_000.png").unlink()
    text = "error: none of the 2 images with boxes is below .*release and readable; download them; "
    with pytest.raises(SystemExit, match=text + "00000003_000.png is broken: not a PNG"):
        run(world)


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("experiment/params.json", '{"augmentation": "hard"}', "hard"),
        ("release/BBox_List_2017.csv", BOXES[: BOXES.index("\n") + 1], "has a header and no rows"),
    ],
)
def test_errors_are_one_line(world, name, text, error):
    (world / name).write_text(text)
    with pytest.raises(SystemExit, match=error):
        run(world)


@pytest.mark.parametrize("flags", ["--images 0", "--copies 21", "--image_size 31", "--output a.jpg"])
def test_impossible_values_exit_with_2(capsys, flags):
    with pytest.raises(SystemExit) as caught:
        show_augmentation.parse_args(["--model_dir", "m", "--data_dir", "d", *flags.split()])
    assert caught.value.code == 2
    assert f"{flags}: expected" in capsys.readouterr().err
