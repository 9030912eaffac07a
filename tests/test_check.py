"""`eigencam check`: it shows users what is wrong with their own folder."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from dataset_files import lines, write_image
from PIL import Image

from eigencam.commands.main import main
from eigencam.datasets.folder import Folder
from eigencam.reporting.census import census
from eigencam.reporting.census import lines as census_lines


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Sixty images of 60 x 80, each with one box in pixels counted from 0."""
    rows = []
    for k in range(60):
        write_image(tmp_path / f"photos/{k:02}.png", (60, 80), k)
        rows.append((f"{k:02}.png", k % 20, k % 30, k % 20 + 59, k % 30 + 30))
    lines(tmp_path / "boxes.csv", *(",".join(map(str, row)) for row in rows))
    return tmp_path / "photos"


def asked(photos: Path, *more: str) -> list[str]:
    boxes = f"dataset.boxes={photos.parent / 'boxes.csv'}"
    return ["check", "dataset=folder", f"dataset.root={photos}", boxes, "--out", str(photos.parent / "out"), *more]


INCLUSIVE = ["dataset.box_format=xyxy", "dataset.box_origin=0", "dataset.box_end=inclusive"]


def test_a_right_folder_is_counted_and_drawn(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(asked(photos, *INCLUSIVE, "--show", "3")) == 0
    printed = capsys.readouterr().out
    assert "folder: 60 images, 60 with a valid truth" in printed
    assert "sizes: 80 x 60 to 80 x 60 pixels (width x height), 1 different" in printed
    assert "boxes: 60, 1 per image, 0 images without one; most: object 60" in printed
    assert "closest to the border: 0, 0, 1, 0 pixels" in printed
    with Image.open(photos.parent / "out/folder.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    green = (np.abs(pixels - (40, 220, 90)).sum(2) < 60).sum()
    assert green > 3 * 2 * (59 + 30)  # three boxes, with thick lines


@pytest.mark.full
def test_boxes_of_another_form_show(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["dataset.box_format=xywh", "dataset.box_origin=0"]
    assert main(asked(photos, *wrong)) == 1
    printed = capsys.readouterr().out
    assert "have an invalid truth" in printed
    assert "folder: 60 images, 60" not in printed


def far_from_0(row: list[int]) -> list[int]:
    return [value + 1 for value in row]


def small(row: list[int]) -> list[int]:
    return [row[0], row[1], row[0] + 1, row[1] + 1]


@pytest.mark.parametrize(
    ("change", "words"),
    [(far_from_0, "are they counted from 1?"), (small, "are they in pixels of the original?")],
)
def test_what_is_seldom_meant_is_noted(photos: Path, change: Callable[[list[int]], list[int]], words: str) -> None:
    changed = []
    for row in (photos.parent / "boxes.csv").read_text().splitlines():
        name, *box = row.split(",")
        changed.append([name, *change([int(value) for value in box])])
    fitting = [row for row in changed if row[3] < 80 and row[4] < 60]
    lines(photos.parent / "boxes.csv", *(",".join(map(str, row)) for row in fitting))
    boxes = photos.parent / "boxes.csv"
    data = Folder(photos, boxes=boxes, box_format="xyxy", box_origin=0, box_end="inclusive", allow_missing=True)
    assert words in "\n".join(census_lines(data, census(data)))


@pytest.mark.full
def test_masks_of_nothing_but_void_are_refused(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (photos.parent / "masks").mkdir()
    for k in range(60):
        pixels = np.zeros((60, 80), np.uint8)
        pixels[5:20, 5:30] = 255
        Image.fromarray(pixels).save(photos.parent / f"masks/{k:02}.png")
    masks = [f"dataset.masks={photos.parent / 'masks'}", "dataset.mask_values=palette"]
    assert main(asked(photos, *INCLUSIVE, *masks)) == 1
    printed = capsys.readouterr().out
    assert "no mask has a pixel of a target object" in printed
    assert "dataset.mask_values={object: 255}" in printed
    assert main(asked(photos, *INCLUSIVE, masks[0], "dataset.mask_values={object:255}")) == 0


@pytest.mark.full
def test_an_image_that_cannot_be_decoded_is_named(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = photos / "59.png"
    path.write_bytes(path.read_bytes()[:200])
    assert main(asked(photos, *INCLUSIVE)) == 0  # its header is whole
    assert main(asked(photos, *INCLUSIVE, "--decode")) == 1
    assert "59.png" in capsys.readouterr().out


def test_what_is_no_setting_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "folder"]) == 2
    assert "allowed are settings such as" in capsys.readouterr().err
