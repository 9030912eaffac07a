"""The backgrounds of the generated scenes: eight textures between two random colours, from noise and simple waves.

A texture is a function from a random generator and a size (height, width) to an (H, W) plane of about [0, 1].
"""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.scenes_drawing import Colour, hsv

Plane = NDArray[np.floating]


@cache
def _between(n: int, cells: int) -> tuple[NDArray[np.intp], Plane]:
    """For each of n pixels under `cells` lattice cells: (n,) the point before it, (n,) the weight of the next."""
    at = (np.arange(n) + 0.5) / n * cells
    before = np.floor(at).astype(np.intp)
    t = at - before
    return before, (t * t * (3 - 2 * t)).astype(np.float32)


def noise(rng: np.random.Generator, size: tuple[int, int], cells: int, octaves: int, stretch: float = 1.0) -> Plane:
    """(H, W) fractal noise in [0, 1], mean about 0.5; `stretch` > 1 makes it streaky along the rows."""
    total, weight, plane = 0.0, 1.0, np.zeros(size, np.float32)
    for _ in range(octaves):
        across = max(int(cells / stretch), 1)
        lattice = rng.random((cells + 2, across + 2), np.float32)
        # not two matrix products, although shorter: a threaded BLAS makes them many times slower on a busy machine
        i, t = _between(size[0], cells)
        rows = lattice[i] + t[:, None] * (lattice[i + 1] - lattice[i])
        j, t = _between(size[1], across)
        left = rows[:, j]
        plane += weight * (left + t * (rows[:, j + 1] - left))
        total, weight, cells = total + weight, weight * 0.55, cells * 2
    return plane / total


def ramp(rng: np.random.Generator, size: tuple[int, int]) -> Plane:
    """(H, W) linear ramp in [0, 1] in a random direction."""
    slope_y, slope_x = 2 * rng.random(2) - 1
    ramp = slope_y * np.linspace(-1, 1, size[0])[:, None] + slope_x * np.linspace(-1, 1, size[1])[None]
    return (ramp / (2 * abs(slope_x) + 2 * abs(slope_y)) + 0.5).astype(np.float32)


def _grid(size: tuple[int, int]) -> tuple[Plane, Plane]:
    """Ordinate (H, 1) and abscissa (1, W) in units of a hundred pixels."""
    return (np.arange(size[0], dtype=np.float32) / 100)[:, None], (np.arange(size[1], dtype=np.float32) / 100)[None]


def _clouds(rng: np.random.Generator, size: tuple[int, int]) -> Plane:
    return 2.2 * (noise(rng, size, 3, 5) - 0.5) + 0.5


def _grass(rng: np.random.Generator, size: tuple[int, int]) -> Plane:
    blades = noise(rng, (size[1], size[0]), 40, 2, stretch=6).T
    return 1.5 * (blades - 0.5) + 0.5 * (noise(rng, size, 4, 2) - 0.5) + 0.5


def _wood(rng: np.random.Generator, size: tuple[int, int]) -> Plane:
    y, _ = _grid(size)
    y = y + 0.05 * noise(rng, size, 2, 2)
    plank = 0.3 + 0.25 * rng.random()
    board = np.floor(y / plank)
    rings = (y * 9 + 5 * noise(rng, size, 3, 2, stretch=3) + 3.7 * board) % 1
    seam = np.minimum(y / plank - board, 1 - (y / plank - board)) * plank
    tone = (board * 0.618) % 1
    return (0.25 + 0.35 * rings + 0.3 * tone) * np.clip(seam * 60, 0.15, 1)


def _plaid(rng: np.random.Generator, size: tuple[int, int]) -> Plane:
    y, x = _grid(size)
    slope = 0.6 * (rng.random() - 0.5)
    y, x = y + slope * x, x - slope * y
    pitch = 0.2 + 0.25 * rng.random()
    bands = (
        ((y / pitch) % 1 < 0.45).astype(np.float32) + ((x / pitch) % 1 < 0.45) + 0.5 * ((x / pitch + 0.3) % 1 < 0.08)
    )
    weave = 0.12 * (((y + x) * 25) % 1)
    return 0.35 * bands + weave + 0.3 * noise(rng, size, 5, 3)


def _pebbles(rng: np.random.Generator, size: tuple[int, int]) -> Plane:
    """Cells around jittered lattice points: pebbles of random tones, darker away from the point, with dark joints."""
    pitch = 0.14 + 0.12 * rng.random()
    y, x = (axis / np.float32(pitch) for axis in _grid(size))
    row, column = np.floor(y).astype(int), np.floor(x).astype(int)
    points = rng.random((3, row.max() + 3, column.max() + 3), np.float32)
    first, second = np.full(size, 9, np.float32), np.full(size, 9, np.float32)
    tone = np.zeros(size, np.float32)
    for i in (0, 1, 2):
        for j in (0, 1, 2):
            at = row + i, column + j
            distance = (y - row + 1 - i - points[0][at]) ** 2 + (x - column + 1 - j - points[1][at]) ** 2
            nearer = distance < first
            second = np.where(nearer, first, np.minimum(second, distance))
            tone = np.where(nearer, points[2][at], tone)
            first = np.where(nearer, distance, first)
    joint = np.clip((np.sqrt(second) - np.sqrt(first)) * 4, 0, 1)
    return joint * (0.35 + 0.6 * tone - 0.35 * first)


def _hills(rng: np.random.Generator, size: tuple[int, int]) -> Plane:
    y = np.linspace(0, 1, size[0], dtype=np.float32)[:, None]
    plane = 0.95 - 0.25 * y + 0.25 * (noise(rng, size, 3, 3, stretch=0.7) - 0.5)
    for k in range(3):
        ridge = 0.3 + 0.2 * k + 0.35 * (noise(rng, (1, size[1]), 3, 4) - 0.5)
        cover = np.clip((y - ridge) * 60, 0, 1)
        plane += cover * (0.62 - 0.22 * k + 0.5 * (noise(rng, size, 14, 3) - 0.5) - plane)
    return plane


def _waves(rng: np.random.Generator, size: tuple[int, int]) -> Plane:
    y, _ = _grid(size)
    phase = y * (7 + 6 * rng.random()) + 2.2 * noise(rng, size, 3, 3)
    crest = np.abs(phase % 1 - 0.5) * 2
    return 0.15 + 0.8 * crest * crest + 0.2 * (noise(rng, size, 10, 2) - 0.5)


def _bricks(rng: np.random.Generator, size: tuple[int, int]) -> Plane:
    high = 0.13 + 0.1 * rng.random()
    y, x = _grid(size)
    row = np.floor(y / high)
    column = x / (2.1 * high) + 0.5 * (row % 2)
    edge = np.minimum(np.abs(y / high - row - 0.5) * -2 + 1, (np.abs(column % 1 - 0.5) * -2 + 1) * 2.1)
    tone = (np.floor(column) * 0.618 + row * 0.382) % 1
    return np.clip(edge * 6, 0.1, 1) * (0.35 + 0.3 * tone + 0.6 * (noise(rng, size, 8, 3) - 0.3))


_TEXTURES: tuple[Callable[[np.random.Generator, tuple[int, int]], Plane], ...] = (
    _clouds,
    _grass,
    _wood,
    _plaid,
    _pebbles,
    _hills,
    _waves,
    _bricks,
)


class Ground(NamedTuple):
    """A background before it is painted: its texture and the texture's two colours."""

    texture: Callable[[np.random.Generator, tuple[int, int]], Plane]
    dark: Colour
    light: Colour

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Ground":
        """A random texture in two shades of about one hue."""
        hue, saturation, value = rng.random(), 0.12 + 0.4 * rng.random(), 0.62 + 0.38 * rng.random()
        dark = hsv(hue + 0.2 * (rng.random() - 0.5), saturation + 0.1, value * 0.55)
        return cls(_TEXTURES[rng.integers(len(_TEXTURES))], dark, hsv(hue, saturation, value))

    @property
    def mean(self) -> Colour:
        """(3,) the mean of the two colours."""
        return (self.dark + self.light) / 2

    def paint(self, rng: np.random.Generator, size: tuple[int, int]) -> Plane:
        """(3, H, W) float32 in about [0, 1]."""
        texture = np.clip(self.texture(rng, size), 0, 1).astype(np.float32)
        step = (self.light - self.dark)[:, None, None]
        return self.dark[:, None, None] + step * texture
