"""Mosaics of scenes for grid pointing: n x n cells, each a scene of another class.

Each scene is squashed to a square cell (bilinear, antialiased), as the networks of the scenes receive a single scene.
The boxes of the ground truth are the cells, each labelled with the class of its scene. With `target=each`, every cell's
class has a map. The image's own label is the class of one cell: for image i, cell i modulo n x n. No scene is in two
mosaics.

With `heads`, the classes are those of networks with one output per cell and class (`eigencam.networks.scenes_cells`):
class `k` of cell `j` is number `12 j + k`.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eigencam.datasets.base import Truth, checksum
from eigencam.datasets.digest import generated_digest
from eigencam.datasets.scenes import SPLITS, Split, made_scene
from eigencam.datasets.scenes_objects import CLASSES

VERSION = 1
"""Version of the generator, raised whenever a change alters an image or its truth."""

_APART = 1000  # number of scenes reserved for each mosaic


class _Mosaic(NamedTuple):
    """An image (n S, n S, 3) uint8, and the class of each cell in raster order."""

    image: NDArray[np.uint8]
    labels: tuple[int, ...]


class ScenesGrid:
    """The generated dataset.

    Args:
        count: number of mosaics.
        seed: seed of the scenes.
        split: split of the scenes.
        cells: n, number of cells along each side.
        side: side of a cell in pixels.
        heads: whether each cell has classes of its own.
    """

    version = 1
    name = "scenes_grid"

    def __init__(
        self,
        count: int = 200,
        seed: int = 0,
        split: Split = "test",
        cells: int = 2,
        side: int = 112,
        heads: bool = False,
    ) -> None:
        if count < 1 or seed < 0 or side < 1 or cells not in (2, 3):
            raise ValueError(
                f"scenes_grid needs count >= 1, seed >= 0, side >= 1 and cells of 2 or 3, not count={count}, "
                f"seed={seed}, side={side}, cells={cells}: the {len(CLASSES)} classes must differ from cell to cell"
            )
        if split not in SPLITS:
            raise ValueError(f"split {split!r} of scenes_grid is not one of {', '.join(SPLITS)}")
        self.count, self.seed, self.split = count, seed, split
        self.cells, self.side, self.heads = cells, side, heads
        self.class_space = f"scenes_{cells}x{cells}" if heads else "scenes"
        self.classes = tuple(f"{name} in cell {k}" for k in range(cells**2) for name in CLASSES) if heads else CLASSES
        self.ids = [f"scenes-grid-{split}-{i:06d}" for i in range(count)]

    def __len__(self) -> int:
        return self.count

    def image(self, i: int) -> NDArray[np.uint8]:
        """Mosaic `i`: (H, W, 3) uint8 RGB."""
        return self._mosaic(i).image.copy()

    def digest(self, i: int) -> str:
        """Return the digest of what mosaic `i` is made from (`eigencam.datasets.digest`)."""
        return generated_digest(self.name, VERSION, self.split, self.seed, self.cells, self.side, i)

    def truth(self, i: int) -> Truth:
        """The ground truth of mosaic `i`: a box for each cell."""
        n, side = self.cells, self.side
        line, column = np.divmod(np.arange(n * n), n)
        corners = side * np.stack([column, line, column + 1, line + 1], axis=1).astype(np.float64)
        labels = np.array(self._mosaic(i).labels, np.int64)
        labels += len(CLASSES) * np.arange(n * n) if self.heads else 0
        return Truth(self.ids[i], (n * side, n * side), int(labels[i % n**2]), corners - [0, 0, 1, 1], labels)

    def identity(self) -> dict[str, object]:
        """Version, options, n, and a checksum of the ids and of the truth of the first mosaics."""
        return {
            "name": self.name,
            "version": VERSION,
            "split": self.split,
            "seed": self.seed,
            "cells": self.cells,
            "side": self.side,
            "heads": self.heads,
            "n": self.count,
            "checksum": checksum([*self.ids, *self._facts(min(self.count, 4))]),
        }

    def _facts(self, n: int) -> Iterator[object]:
        for i in range(n):
            mosaic = self._mosaic(i)
            yield [mosaic.labels, mosaic.image.shape, int(mosaic.image.sum(dtype=np.int64))]

    def _mosaic(self, i: int) -> _Mosaic:
        if not 0 <= i < self.count:
            raise IndexError(f"mosaic {i} of {self.count}")
        return _mosaic(self.seed, self.split, self.cells, self.side, i)


@lru_cache(maxsize=16)
def _mosaic(seed: int, split: Split, cells: int, side: int, index: int) -> _Mosaic:
    chosen: dict[int, NDArray[np.uint8]] = {}
    for j in range(index * _APART, (index + 1) * _APART):
        scene = made_scene(seed, split, j)
        chosen.setdefault(int(scene.labels[0]), scene.image)
        if len(chosen) == cells * cells:
            break
    image = np.empty((cells * side, cells * side, 3), np.uint8)
    for cell, scene_image in enumerate(chosen.values()):
        line, column = side * (cell // cells), side * (cell % cells)
        squashed = Image.fromarray(scene_image).resize((side, side), Image.Resampling.BILINEAR)
        image[line : line + side, column : column + side] = np.asarray(squashed)
    return _Mosaic(image, tuple(chosen))
