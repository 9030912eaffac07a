"""Effect of each choice in a localization rule, on published boxes of all 50,000 ILSVRC validation images.

    python scripts/choices.py --ilsvrc FOLDER --boxes vgg16.txt.gz --out results/choices.csv

`--ilsvrc` is wsolevaluation's `metadata/ILSVRC/test` with `devkit_id_by_sorted_index.json` or a devkit beside it.
`--boxes` is a file of `bounding_box/` in val-iisc/cnn-fixations. The table has the top-1 localization error in percent
for the devkit's rule and for rules that differ from it in one choice; "first" is the first listed box.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets import ilsvrc_sources
from eigencam.datasets.boxes import area, iou_paired
from eigencam.evaluation import escaping
from eigencam.evaluation.predictions import read_devkit
from eigencam.files import write_text
from eigencam.store.environment import git

Floats = NDArray[np.float64]
CROP = 224 / 256
"""Side of the central crop as a fraction of the short side."""


def read(folder: Path) -> tuple[Floats, NDArray[np.int64], Floats, NDArray[np.int64]]:
    """Boxes (B, 4) as listed, the image of each (B,), sizes (N, 2) as (width, height), and devkit labels (N,)."""
    synsets = ilsvrc_sources.find_classes(folder)
    found = ilsvrc_sources.read("text", ilsvrc_sources.find("text", folder), synsets)
    ids = sorted(found.labels)
    boxes = np.array([box for name in ids for box in found.boxes[name]], np.float64)
    owner = np.repeat(np.arange(len(ids)), [len(found.boxes[name]) for name in ids])
    sizes = np.array([found.sizes[name][::-1] for name in ids], np.float64)
    index = synsets.index_by_devkit_id()
    devkit = np.argsort(index[1:]) + 1
    return boxes, owner, sizes, devkit[[found.labels[name] for name in ids]]


def scaled(boxes: Floats, sizes: Floats) -> Floats:
    """Boxes at 224 x 224 pixels, truncated."""
    return np.trunc(boxes * 224 / np.tile(sizes, 2))


def cropped(boxes: Floats, sizes: Floats) -> Floats:
    """The part of boxes (B, 4) in the central crop; NaN if there is none."""
    side = sizes.min(axis=1, keepdims=True) * CROP
    low, high = (sizes - side) / 2, (sizes + side) / 2 - 1
    cut = np.concatenate([np.maximum(boxes[:, :2], low), np.minimum(boxes[:, 2:], high)], axis=1)
    return np.where((cut[:, 2:] < cut[:, :2]).any(axis=1, keepdims=True), np.nan, cut)


def rules(boxes: Floats, owner: NDArray[np.int64], sizes: Floats, found: Floats) -> Iterator[tuple[str, Floats]]:
    """Each choice in words, with the best IoU (N,) of the predicted boxes (N, 4) under it."""
    first = np.flatnonzero(np.diff(owner, prepend=-1))

    def best(overlap: Floats) -> Floats:
        return np.maximum.reduceat(np.nan_to_num(overlap), first)

    mine, of = found[owner], sizes[owner]
    largest = np.lexsort((-area(boxes), owner))[first]
    ends = (np.minimum.reduceat(boxes[:, :2], first), np.maximum.reduceat(boxes[:, 2:], first))
    half_open = np.array([0.0, 0.0, 1.0, 1.0])
    yield (
        "devkit: inclusive IoU, any box of the image, original pixels, no blacklist (ours)",
        best(iou_paired(mine, boxes)),
    )
    yield "IoU without the added pixel", best(iou_paired(mine - half_open, boxes - half_open))
    yield "boxes scaled to 224 pixels and truncated", best(iou_paired(scaled(mine, of), scaled(boxes, of)))
    yield "only the largest box of the image", iou_paired(found, boxes[largest])
    yield "only the first", iou_paired(found, boxes[first])
    yield "the union of all", iou_paired(found, np.concatenate(ends, axis=1))
    yield "seen in the central 224-pixel crop, boxes cut off", best(iou_paired(cropped(mine, of), cropped(boxes, of)))


def main() -> None:
    """Compute and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ilsvrc", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--boxes", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    boxes, owner, sizes, labels = read(args.ilsvrc)
    guesses = read_devkit(args.boxes)
    right = guesses.labels[:, 0] == labels
    lines = [
        (rule, f"{100 * (1 - (right & (overlap >= 0.5)).mean()):.2f}", len(labels))
        for rule, overlap in rules(boxes, owner, sizes, guesses.boxes[:, 0])
    ]
    text = escaping.csv_table([("choice", "top1_loc_error", "n"), *lines])
    command = f"python scripts/choices.py --ilsvrc FOLDER --boxes {args.boxes.name} --out {args.out}"
    write_text(args.out, f"# command: {command}\n# boxes of val-iisc/cnn-fixations; code {git()['git_commit']}\n{text}")
    print(text)


if __name__ == "__main__":
    main()
