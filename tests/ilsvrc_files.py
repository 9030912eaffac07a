"""Tiny valid copies of ILSVRC's truth in each of its forms, shared by the tests of the readers."""

import gzip
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from eigencam.datasets.ilsvrc_truth import IlsvrcTruth

SHARED = os.environ.get("EIGENCAM_SHARED", "")
needs_shared = pytest.mark.skipif(
    not SHARED, reason="EIGENCAM_SHARED is not set: real images and reference files are not here"
)

RNG = np.random.default_rng(0)
WNIDS = [f"n{1_000_000 + 7 * k:08d}" for k in range(1000)]
DEVKIT_IDS = [int(i) for i in RNG.permutation(1000) + 1]
IDS = [f"ILSVRC2012_val_{k:08d}" for k in range(1, 7)]
LABELS = [65, 999, 0, 5, 65, 500]
SIZES = [(50, 40), (30, 60), (40, 40), (40, 40), (25, 35), (64, 64)]  # height, width
BOXES = [
    [(3, 4, 30, 49)],
    [(10, 0, 59, 20), (0, 5, 9, 29)],
    [(0, 0, 39, 39)],
    [(1, 2, 3, 4), (1, 2, 3, 3), (0, 7, 12, 12)],
    [(5, 5, 5, 5)],
    [(20, 10, 50, 63)],
]


def write_mapping(root: Path) -> None:
    names = [f"{wnid} word{k % 999}, synonym" for k, wnid in enumerate(WNIDS)]
    (root / "LOC_synset_mapping.txt").write_text("\n".join(names) + "\n")


def write_text(root: Path, zipped: bool = False) -> None:
    rows = {
        "class_labels.txt": [f"val/{name}.JPEG,{label}" for name, label in zip(IDS, LABELS, strict=True)],
        "image_sizes.txt": [f"val/{name}.JPEG,{w},{h}" for name, (h, w) in zip(IDS, SIZES, strict=True)],
        "localization.txt": [
            f"val/{name}.JPEG,{','.join(map(str, box))}" for name, of in zip(IDS, BOXES, strict=True) for box in of
        ],
    }
    for name, lines in rows.items():
        content = "\n".join(lines) + "\n"
        if zipped:
            (root / f"{name}.gz").write_bytes(gzip.compress(content.encode()))
        else:
            (root / name).write_text(content)


def xml(label: int, size: tuple[int, int], boxes: list[tuple[int, int, int, int]]) -> str:
    objects = "".join(
        f"<object><name>{WNIDS[label]}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax>"
        f"<ymax>{y2}</ymax></bndbox></object>"
        for x1, y1, x2, y2 in boxes
    )
    return f"<annotation><size><width>{size[1]}</width><height>{size[0]}</height></size>{objects}</annotation>"


def write_xml(root: Path, below: str = "ILSVRC/Annotations/CLS-LOC/val", class_folders: bool = False) -> None:
    write_mapping(root)
    for name, label, size, boxes in zip(IDS, LABELS, SIZES, BOXES, strict=True):
        folder = root / below / (WNIDS[label] if class_folders else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.xml").write_text(xml(label, size, boxes))


def write_csv(root: Path) -> None:
    write_mapping(root)
    rows = [
        f"{name}," + "".join(f"{WNIDS[label]} {x1} {y1} {x2} {y2} " for x1, y1, x2, y2 in boxes)
        for name, label, boxes in zip(IDS, LABELS, BOXES, strict=True)
    ]
    (root / "LOC_val_solution.csv").write_text("\n".join(["ImageId,PredictionString", *reversed(rows)]) + "\n")


def struct(rows: Sequence[Mapping[str, object]]) -> np.ndarray:
    array = np.empty((len(rows), 1), [(name, object) for name in rows[0]])
    for k, row in enumerate(rows):
        array[k, 0] = tuple(row.values())
    return array


def write_meta(folder: Path, field: str = "ILSVRC2012_ID", wnids: list[str] = WNIDS) -> None:
    inner = [(1001, "n09999999", "entity"), (1002, "n09999998", "object")]
    leaves = [(i, wnid, f"word{k % 999}, synonym") for k, (i, wnid) in enumerate(zip(DEVKIT_IDS, wnids, strict=True))]
    rows = [{field: i, "WNID": wnid, "words": words} for i, wnid, words in sorted(leaves) + inner]
    savemat(folder / "meta.mat", {"synsets": struct(rows)})


def write_cache(folder: Path, labels: list[int]) -> None:
    records = [
        {"objects": struct([{"label": label, "bbox": np.array(box, float)} for box in boxes])}
        for label, boxes in zip(labels, BOXES, strict=True)
    ]
    savemat(folder / "cache_groundtruth.mat", {"rec": struct(records)}, do_compression=True)


def write_list(folder: Path, labels: list[int]) -> None:
    (folder / "ILSVRC2012_validation_ground_truth.txt").write_text("\n".join(map(str, labels)) + "\n")


def write_devkit(root: Path) -> Path:
    folder = root / "ILSVRC2012_devkit_t12" / "data"
    folder.mkdir(parents=True)
    labels = [DEVKIT_IDS[label] for label in LABELS]
    write_meta(folder)
    write_cache(folder, labels)
    write_list(folder, labels)
    return folder


WRITERS: dict[str, Callable[[Path], object]] = {
    "text": write_text,
    "xml": write_xml,
    "csv": write_csv,
    "devkit": write_devkit,
}


def write_images(folder: Path, class_folders: bool = False, suffix: str = ".JPEG") -> None:
    for name, label, (height, width) in zip(IDS, LABELS, SIZES, strict=True):
        path = folder / (WNIDS[label] if class_folders else "") / f"{name}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height), "green").save(path)


def expected(truth: IlsvrcTruth) -> None:
    assert truth.ids == IDS
    assert truth.labels.tolist() == LABELS
    assert [truth.boxes_of(i).tolist() for i in range(6)] == [sorted(map(list, boxes)) for boxes in BOXES]
    np.testing.assert_array_equal(truth.owner(), [0, 1, 1, 2, 3, 3, 3, 4, 5])
    assert (truth.labels.dtype, truth.boxes.dtype, truth.offsets.dtype) == (np.int64, np.float64, np.int64)


# --- truth ---------------------------------------------------------------------------------------------------------
