"""Every reader with one fault in one image: the image is named with its file, and the others are read as before.

The faults are those of `damage.py` and `damaged_masks.py`. Faults in a reader's lists are known before the first batch;
all others are in `Reader.unlisted`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import damage as boxes
import damaged_masks as masks
import dataset_files as files
import ilsvrc_files
import numpy as np
import packed_files as packed
import pytest
from damage import FIRST, Cases, Damage, cached, empty, write_ilsvrc, write_voc
from readers import read_folder, write_folder

from eigencam.datasets.base import BadTruthError, Dataset
from eigencam.datasets.checks import checked_truth, known_faults, truth_faults
from eigencam.datasets.coco import Coco
from eigencam.datasets.cub import read_cub
from eigencam.datasets.graz02 import Ig02
from eigencam.datasets.ilsvrc import Ilsvrc
from eigencam.datasets.imagenet_segmentation import ImageNetSegmentation
from eigencam.datasets.imagenetv2 import read_imagenetv2
from eigencam.datasets.openimages import OpenImages
from eigencam.datasets.scenes import Scenes
from eigencam.datasets.voc import Voc


@dataclass(frozen=True)
class Reader:
    """Functions that write valid files and read them, the id of the damaged image, and the faults.

    Attributes:
        unlisted: the faults that only the image's own file or mask shows.
    """

    write: Damage
    read: Callable[[Path], Dataset]
    image: str
    cases: Cases
    unlisted: tuple[str, ...] = ()


READERS = {
    "voc": Reader(write_voc, Voc, "2008_000001", boxes.VOC, ("size",)),
    "voc_seg": Reader(
        write_voc, lambda root: Voc(root, task="Segmentation"), "2008_000001", boxes.VOC_MASKS, tuple(boxes.VOC_MASKS)
    ),
    "ilsvrc_text": Reader(write_ilsvrc("text"), Ilsvrc, FIRST, boxes.ILSVRC_TEXT),
    "ilsvrc_xml": Reader(write_ilsvrc("xml"), Ilsvrc, FIRST, boxes.ILSVRC_XML),
    "ilsvrc_csv": Reader(write_ilsvrc("csv"), Ilsvrc, FIRST, boxes.ILSVRC_CSV),
    "ilsvrc_devkit": Reader(write_ilsvrc("devkit"), Ilsvrc, FIRST, boxes.ILSVRC_DEVKIT),
    "cub": Reader(
        files.write_cub,
        read_cub,
        "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18",
        boxes.CUB,
        ("outside", "1-based"),
    ),
    "cub_wsol": Reader(
        files.write_wsol_cub,
        read_cub,
        "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18",
        boxes.CUB_WSOL,
        ("size",),
    ),
    "imagenetv2": Reader(files.write_imagenetv2, read_imagenetv2, "0/0", boxes.V2),
    "openimages": Reader(
        files.write_openimages,
        OpenImages,
        "test/01226z/7af766bd43da900b",
        masks.OPENIMAGES,
        tuple(w for w in masks.OPENIMAGES if "label" not in w),
    ),
    "graz02": Reader(
        files.write_ig02,
        lambda root: Ig02(root, "all", occluded="void"),
        "cars/carsgraz_001",
        masks.IG02_CASES,
        tuple(masks.IG02_CASES),
    ),
    "imagenet_segmentation": Reader(
        masks.write_segmentation,
        ImageNetSegmentation,
        "00000",
        masks.IMAGENET_SEGMENTATION,
        tuple(w for w in masks.IMAGENET_SEGMENTATION if w not in ("mask size", "mask shape")),
    ),
    "coco": Reader(files.write_coco, Coco, "COCO_val2014_000000000042", masks.COCO),
    "folder": Reader(
        write_folder,
        read_folder,
        "q/b",
        boxes.FOLDER | masks.FOLDER,
        ("outside", "1-based", *(w for w in masks.FOLDER if "mask" in w)),
    ),
    "hf": Reader(packed.write_hub, packed.read_hub, "2", packed.HUB, ("outside", "1-based", "label of a box")),
    "webdataset": Reader(packed.write_tars, packed.read_tars, "2", packed.TARS),
}
TABLE = [(reader, what) for reader, row in READERS.items() for what in row.cases]


@pytest.mark.parametrize("reader", READERS)
def test_valid_files_have_no_fault(tmp_path: Path, reader: str) -> None:
    READERS[reader].write(tmp_path)
    data = READERS[reader].read(tmp_path)
    assert list(truth_faults(data)) == []
    assert [checked_truth(data, i).image_id for i in range(len(data.ids))] == list(data.ids)


@pytest.mark.parametrize(("reader", "what"), TABLE)
def test_one_wrong_truth_is_named_and_the_others_are_read(tmp_path: Path, reader: str, what: str) -> None:
    row = READERS[reader]
    damage, words = row.cases[what]
    row.write(tmp_path)
    before = row.read(tmp_path)
    ids = list(before.ids)
    expected = {name: checked_truth(before, i) for i, name in enumerate(ids)}
    del before  # HDF5 does not open a file for writing twice
    damage(tmp_path)
    data = row.read(tmp_path)
    assert list(data.ids) == ids
    for i, name in enumerate(data.ids):
        if name == row.image:
            with pytest.raises(BadTruthError, match=words):
                checked_truth(data, i)
        else:
            truth = checked_truth(data, i)
            np.testing.assert_array_equal(truth.boxes, expected[name].boxes)
            assert truth.label == expected[name].label
    assert set(known_faults(data)) == (set() if what in row.unlisted else {row.image})
    if what not in row.unlisted:
        assert "on_bad_truth=skip" in list(truth_faults(data))[-1]
    assert list(truth_faults(data, skip=True)) == []


@pytest.mark.parametrize(
    ("reader", "file", "words"),
    [
        ("cub_wsol", "**/test/localization.txt", "has no box"),
        ("imagenetv2", "**/localization.txt", "has no box"),
        ("ilsvrc_text", "localization.txt", "6 of 6 images have a label but no box"),
        ("openimages", "**/localization.txt", "no mask for 2 images"),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_an_empty_list_is_refused_whatever_the_policy(
    tmp_path: Path, reader: str, file: str, words: str, skip: bool
) -> None:
    READERS[reader].write(tmp_path)
    empty(file)(tmp_path)
    with pytest.raises(ValueError, match=words):
        raise ValueError("\n".join(truth_faults(READERS[reader].read(tmp_path), skip)))


def test_a_list_counted_from_1_is_no_rounding(tmp_path: Path) -> None:
    """Images resized to one size: some boxes are rounded beyond the border, and some begin at 0."""
    names = [f"val/{name}.JPEG" for name in ilsvrc_files.IDS[:2]]
    files.lines(tmp_path / "class_labels.txt", *(f"{name},3" for name in names))
    files.lines(tmp_path / "image_sizes.txt", *(f"{name},20,20" for name in names))
    for first, wrong in (("0,3,20,9", set()), ("1,3,20,9", {ilsvrc_files.IDS[0]})):
        files.lines(tmp_path / "localization.txt", f"{names[0]},{first}", f"{names[1]},2,2,5,5")
        assert set(Ilsvrc(tmp_path, images=False).faults) == wrong


def test_the_scenes_are_right() -> None:
    assert all(checked_truth(Scenes(count=12), i).mask is not None for i in range(12))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cached(3, 4, 30, 49, label=65.7), r"mat, image 1: the labels \[65\.7\]; exactly one .* whole number"),
        (cached(3, 4, 30, 49, label=np.nan), r"mat, image 1: the labels \[nan\]"),
        (cached(3, 4, 30), r"mat, image 1: the boxes .*x1 y1 x2 y2 is expected"),
    ],
)
def test_what_is_wrong_with_the_kits_file_is_named(tmp_path: Path, damage: Damage, words: str) -> None:
    write_ilsvrc("devkit")(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=words):
        Ilsvrc(tmp_path)
