"""Images with planted evidence: coloured marks on grey backgrounds, for a network that responds to nothing else.

Each image shows a few marks, each in one of six pure hues, on a textured background with clutter in muted colours. For
every pixel outside the marks of a hue, that hue's response in `eigencam.networks.planted` is exactly 0. So the logit of
a class is a sum over the pixels of its mark, and the mask gives exactly these pixels. The label is the hue with the
largest response, larger by at least a third. The other marks are evidence for other classes. The clutter, with strong
edges and the brightest and darkest pixels, is evidence for none.

An image is a function of (seed, index) alone.
"""

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import Truth, checksum
from eigencam.datasets.digest import generated_digest
from eigencam.datasets.scenes_backgrounds import Ground

VERSION = 1
"""Version of the generator, raised whenever a change alters an image or its truth."""

HUES = {
    "red": (1, 0, 0),
    "yellow": (1, 1, 0),
    "green": (0, 1, 0),
    "cyan": (0, 1, 1),
    "blue": (0, 0, 1),
    "magenta": (1, 0, 1),
}
"""The RGB components of each hue."""

SIDE = 112
_MUTED = 0.3  # largest difference between two channels of a pixel outside the marks; below 0.5 no hue responds
_LARGEST, _STEP = 14.0, 0.75  # radius of the first mark in pixels, and ratio of each further radius to the one before


class _Image(NamedTuple):
    """An image (H, W, 3) uint8, its mask (H, W) uint8, boxes (B, 4) and labels (B,), the label's mark first."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]


class Planted:
    """The generated dataset.

    Args:
        count: number of images.
        seed: another seed gives other images.
        marks: number of marks in each image, all of different hues.
    """

    version = 1
    name = "planted"
    class_space = "planted"
    classes = tuple(HUES)

    def __init__(self, count: int = 200, seed: int = 0, marks: int = 3) -> None:
        if count < 1 or seed < 0 or not 1 <= marks <= len(HUES):
            raise ValueError(
                f"planted needs count >= 1, seed >= 0 and 1 to {len(HUES)} marks, not count={count}, seed={seed}, "
                f"marks={marks}"
            )
        self.count, self.seed, self.marks = count, seed, marks
        self.ids = [f"planted-{i:06d}" for i in range(count)]

    def __len__(self) -> int:
        return self.count

    def image(self, i: int) -> NDArray[np.uint8]:
        """Image `i`: (112, 112, 3) uint8 RGB."""
        return self._image(i).image.copy()

    def digest(self, i: int) -> str:
        """Return the digest of what image `i` is made from (`eigencam.datasets.digest`)."""
        return generated_digest(self.name, VERSION, self.seed, self.marks, i)

    def truth(self, i: int) -> Truth:
        """The ground truth of image `i`: a box for each mark, and its pixels in the mask."""
        made = self._image(i)
        mask, boxes, labels = made.mask.copy(), made.boxes.copy(), made.labels.copy()
        return Truth(self.ids[i], (SIDE, SIDE), int(labels[0]), boxes, labels, mask=mask)

    def identity(self) -> dict[str, object]:
        """Version, options, n, and a checksum of the ids and of the first images with their truth."""
        return {
            "name": self.name,
            "version": VERSION,
            "seed": self.seed,
            "marks": self.marks,
            "n": self.count,
            "checksum": checksum([*self.ids, *self._facts(min(self.count, 8))]),
        }

    def _facts(self, n: int) -> Iterator[object]:
        for i in range(n):
            made = self._image(i)
            yield [made.boxes.tolist(), made.labels.tolist(), int(made.image.sum(dtype=np.int64))]

    def _image(self, i: int) -> _Image:
        if not 0 <= i < self.count:
            raise IndexError(f"image {i} of {self.count}")
        return _image(self.seed, self.marks, i)


@lru_cache(maxsize=16)
def _image(seed: int, marks: int, index: int) -> _Image:
    rng = np.random.default_rng([seed, index])
    pixels = _muted(Ground.random(rng).paint(rng, (SIDE, SIDE)))
    for _ in range(rng.integers(6, 12)):
        grey = 0.02 if rng.random() < 0.5 else 0.98
        pixels[_shape(rng, 3 + 6 * rng.random())] = grey
    labels, shapes = rng.permutation(len(HUES))[:marks], list[NDArray[np.bool_]]()
    sizes = _LARGEST * _STEP ** np.arange(marks) * (0.9 + 0.1 * rng.random())
    taken = np.zeros((SIDE, SIDE), bool)
    while len(shapes) < marks:
        shape = _shape(rng, float(sizes[len(shapes)]))
        if not (shape & taken).any():
            taken |= shape
            shapes.append(shape)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for label, shape in zip(labels, shapes, strict=True):
        value, share = 0.84 + 0.14 * rng.random((2, SIDE, SIDE))
        low = (1 - share) * value
        hue = np.array(tuple(HUES.values())[label])
        pixels[shape] = (low[..., None] + (value - low)[..., None] * hue)[shape]
        mask[shape] = label + 1
    boxes = np.array([_box(shape) for shape in shapes], np.float64)
    image = (255 * pixels + 0.5).astype(np.uint8)
    return _Image(image, mask, boxes, labels.astype(np.int64))


def _muted(image: NDArray[np.floating]) -> NDArray[np.float64]:
    """(3, H, W) -> (H, W, 3) in 0..1: no two channels of a pixel differ by more than `_MUTED`."""
    pixels = np.clip(image, 0, 1).astype(np.float64).transpose(1, 2, 0)
    grey = pixels.mean(axis=-1, keepdims=True)
    return grey + _MUTED * (pixels - grey)


def _shape(rng: np.random.Generator, reach: float) -> NDArray[np.bool_]:
    """(H, W) bool: a disc, a square or a ring within `reach` pixels of its centre, entirely in the image."""
    y, x = rng.uniform(reach, SIDE - reach, 2)
    dy, dx = np.mgrid[:SIDE, :SIDE] + 0.5 - np.array([y, x])[:, None, None]
    kind, far = rng.integers(3), np.hypot(dy, dx)
    if kind == 1:
        return np.maximum(abs(dy), abs(dx)) <= 0.886 * reach  # the same area as the disc
    return (far <= reach) & (far >= (0.35 * reach if kind == 2 else 0))


def _box(shape: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    """The tight box of a mark, 0-based inclusive."""
    lines, columns = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
    return int(columns[0]), int(lines[0]), int(columns[-1]), int(lines[-1])
