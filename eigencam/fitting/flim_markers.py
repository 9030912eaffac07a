"""Markers of FLIM: files in the authors' text format, and markers made from the ground truth.

A file belongs to one image. Its first line is `n width height`; then follow n lines `column row marker label`, counted
from 0. The third field, a marker's number, may be -1. FLIM's labels count from 1, pyflim's from 0 (`first`). In this
code a label image is (H, W) int64, 0 where nothing is marked.

Markers from the ground truth are discs. One is around the deepest pixel of the target objects: the one farthest from
the nearest pixel outside them or outside the image, of several the first in raster order. It is clipped to the objects
and has the label 2 + class. The other is around the deepest pixel of the background, clipped to the background, with
the label 1. An image without background has no such disc.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from eigencam.datasets.base import Truth
from eigencam.datasets.reading import Reading
from eigencam.files import write_text

Labels = NDArray[np.int64]
BACKGROUND = 1
SUFFIXES = ("-seeds.txt", ".txt")
"""Suffixes of a marker file's name after the image's id: pyflim's, FLIM's."""
FORM = "a first line `n width height`, then n lines `column row marker label`"


def read_markers(path: Path, first: int) -> Labels:
    """Return the label image of a file.

    Args:
        path: the file.
        first: the smallest label of a marker in it, 0 or 1.

    Raises:
        ValueError: the format is wrong, a marked pixel is outside the image, or a label is below `first`.
    """
    with Reading(path, FORM) as file:
        lines = [line.split() for line in file.text().splitlines() if line.strip()]
        try:
            numbers = [[int(field) for field in line] for line in lines]
            count, width, height = numbers[0]
            places = np.array([[row, column, label] for column, row, _, label in numbers[1:]]).reshape(-1, 3)
        except (IndexError, ValueError):
            raise ValueError("not markers of an image") from None
        if len(places) != count:
            raise ValueError(f"{len(places)} markers, but the first line says {count}")
        image = np.zeros((height, width), np.int64)
        if len(places) and not (
            (places >= (0, 0, first)).all() and (places[:, 0] < height).all() and (places[:, 1] < width).all()
        ):
            raise ValueError(f"a pixel outside {width} x {height}, or a label below {first}")
        image[places[:, 0], places[:, 1]] = places[:, 2] + 1 - first
    return image


def write_markers(path: Path, labels: Labels, first: int) -> None:
    """Write a label image; `first` is as in `read_markers`."""
    rows, columns = labels.nonzero()
    marked = zip(columns.tolist(), rows.tolist(), labels[rows, columns].tolist(), strict=True)
    lines = [f"{column} {row} -1 {label - 1 + first}" for column, row, label in marked]
    write_text(path, "\n".join([f"{len(lines)} {labels.shape[1]} {labels.shape[0]}", *lines, ""]))


def marker_file(folder: Path, image_id: str) -> Path | None:
    """Return an image's file in a folder; None if there is none."""
    names = (folder / f"{Path(image_id).with_suffix('')}{ending}" for ending in SUFFIXES)
    return next((path for path in names if path.is_file()), None)


def drawn(truth: Truth, radius: float) -> Labels:
    """Return markers by the module's rule; `radius` is the discs' radius in pixels of the image."""
    if truth.mask is None:
        raise ValueError(f"image {truth.image_id}: markers from the truth need a mask")
    made = np.zeros(truth.size, np.int64)
    for region, label in ((truth.sought_pixels(), 2 + truth.label), (truth.mask == 0, BACKGROUND)):
        if region.any():
            made[_disc(region, radius) & region] = label
    return made


def _disc(region: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """A disc around the deepest pixel of a region; pixels beyond the image's border count as outside."""
    depth = distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]  # type: ignore[index]
    row, column = np.unravel_index(int(np.argmax(depth)), region.shape)
    rows, columns = np.ogrid[: region.shape[0], : region.shape[1]]
    return (rows - row) ** 2 + (columns - column) ** 2 <= radius**2


def resized(labels: Labels, size: Sequence[int]) -> Labels:
    """Return a label image of another size: each marked pixel goes to the pixel that contains its centre.

    If several go to the same pixel, the last in raster order counts.
    """
    made = np.zeros(tuple(size), np.int64)
    rows, columns = labels.nonzero()
    at = [((2 * k + 1) * new // (2 * old)) for k, new, old in zip((rows, columns), size, labels.shape, strict=True)]
    for row, column, label in zip(*at, labels[rows, columns], strict=True):
        made[row, column] = label
    return made
