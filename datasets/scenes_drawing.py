"""How objects of generated scenes are drawn: colours, sketches of signed distances, poses, lit layers.

An object is drawn in its own frame: `u` to the right, `v` downwards, the object within about [-1, 1]. A part is given
by a signed distance `d` (negative inside), so that silhouettes are exact and edges anti-aliased at any scale. Geometry
is float64: no platform's rounding of a sine moves a pixel of a mask.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Colour = NDArray[np.floating]


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """(3,) float32 RGB in [0, 1] of a colour; `hue` is periodic with period 1."""
    k = (np.array([5.0, 3.0, 1.0]) + 6 * hue) % 6
    return (value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))).astype(np.float32)


class Palette(NamedTuple):
    """The colours of one object, each (3,) float32 in [0, 1]."""

    base: Colour
    second: Colour
    dark: Colour
    light: Colour

    @classmethod
    def random(cls, rng: np.random.Generator, away_from: Colour) -> "Palette":
        """A random palette whose base stands out from the colour `away_from`."""
        tries = 6
        while True:
            hue, saturation, value = rng.random(), 0.45 + 0.5 * rng.random(), 0.45 + 0.5 * rng.random()
            base = hsv(hue, saturation, value)
            tries -= 1
            if not tries or np.abs(base - away_from).sum() > 0.75:
                break
        step = (0.09, 0.2, 0.45, 0.6)[rng.integers(4)]
        lift = 0.35 if value < 0.7 else -0.35
        second = hsv(hue + step, saturation * 0.8, value + lift)
        return cls(base, second, hsv(hue, saturation * 0.7, 0.16), hsv(hue + 0.5, 0.08, 0.97))


class Sketch:
    """One object while it is drawn.

    Attributes:
        u: (h, w) float64, abscissa in the object's frame.
        v: (h, w) float64, ordinate in the object's frame, downwards.
        px: size of an image's pixel in the units of the frame.
        d: (h, w) float64, signed distance to the silhouette so far.
        rgb: (3, h, w) float32 in [0, 1].
    """

    def __init__(self, u: Array, v: Array, px: float, base: Colour) -> None:
        self.u, self.v, self.px = u, v, px
        self.d = np.full(u.shape, 9.0)
        self.rgb = np.empty((3, *u.shape), np.float32)
        self.rgb[:] = base[:, None, None]

    def part(self, d: Array, colour: Colour) -> Array:
        """Adds a part to the silhouette and paints it; returns `d`."""
        np.minimum(self.d, d, out=self.d)
        self.paint(d - self.px / 2, colour)
        return d

    def paint(self, d: Array, colour: Colour, opacity: float = 1.0) -> None:
        """Paints where `d` is negative, without changing the silhouette."""
        cover = np.clip((0.5 - d / self.px) * opacity, 0, opacity).astype(np.float32)
        for plane, value in zip(self.rgb, colour, strict=True):
            plane += cover * (value - plane)

    def cut(self, d: Array) -> None:
        """Cuts a hole into the silhouette."""
        np.maximum(self.d, -d, out=self.d)

    def ellipse(self, x: float, y: float, rx: float, ry: float, turn: float = 0.0) -> Array:
        """Distance to an ellipse, turned clockwise by `turn` radians."""
        u, v = self.u - x, self.v - y
        if turn:
            u, v = u * np.cos(turn) + v * np.sin(turn), v * np.cos(turn) - u * np.sin(turn)
        return (np.sqrt((u / rx) ** 2 + (v / ry) ** 2) - 1) * min(rx, ry)

    def box(self, x: float, y: float, half_width: float, half_height: float, round_by: float = 0.02) -> Array:
        """Distance to a rectangle with rounded corners."""
        a, b = np.abs(self.u - x) - half_width + round_by, np.abs(self.v - y) - half_height + round_by
        return np.sqrt(np.maximum(a, 0) ** 2 + np.maximum(b, 0) ** 2) + np.minimum(np.maximum(a, b), 0) - round_by

    def line(self, x0: float, y0: float, x1: float, y1: float, radius: float, end: float | None = None) -> Array:
        """Distance to a stroke with round ends, its radius going from `radius` to `end`."""
        dx, dy = x1 - x0, y1 - y0
        t = np.clip(((self.u - x0) * dx + (self.v - y0) * dy) / (dx * dx + dy * dy), 0, 1)
        width = radius if end is None else radius + (end - radius) * t
        return np.sqrt((self.u - x0 - t * dx) ** 2 + (self.v - y0 - t * dy) ** 2) - width

    def polar(self, x: float = 0.0, y: float = 0.0) -> tuple[Array, Array]:
        """Radius and angle about a point."""
        return np.sqrt((self.u - x) ** 2 + (self.v - y) ** 2), np.arctan2(self.v - y, self.u - x)


def wave(t: Array) -> Array:
    """Triangle wave of period 1: 0 at integers, 0.5 half-way."""
    return np.abs(t - np.floor(t + 0.5))


class Layer(NamedTuple):
    """A drawn object, on the window of the image that it touches.

    Attributes:
        label: number of its class, or -1 for clutter that is no object.
        window: rows and columns of the image.
        alpha: (h, w) float32 in [0, 1]; a pixel belongs to the object where it is >= 0.5.
        solid: (h, w) bool, where `alpha` is >= 0.5.
        rgb: (3, h, w) float32 in [0, 1].
        area: area of the whole silhouette within the image, in pixels.
    """

    label: int
    window: tuple[slice, slice]
    alpha: NDArray[np.floating]
    solid: NDArray[np.bool_]
    rgb: NDArray[np.floating]
    area: int


class Pose(NamedTuple):
    """Where and how an object lies: centre and scale in pixels, the turn in radians, mirror, stretch and bend."""

    x: float
    y: float
    scale: float
    turn: float
    mirror: float
    stretch: float
    bend: float

    @classmethod
    def random(cls, upright: bool, rng: np.random.Generator) -> "Pose":
        """A random pose at the origin with scale 1; things that stand keep nearly upright."""
        turn = (2 * rng.random() - 1) * (0.35 if upright else 0.9)
        mirror = 1.0 if rng.random() < 0.5 else -1.0
        return cls(0.0, 0.0, 1.0, turn, mirror, 0.85 + 0.3 * rng.random(), 0.24 * (rng.random() - 0.5))


def window_of(x: float, y: float, reach: float, size: tuple[int, int]) -> tuple[slice, slice]:
    """Rows and columns of an image of `size` (height, width) within `reach` pixels of (x, y); may be empty."""
    top, left = max(int(y - reach), 0), max(int(x - reach), 0)
    bottom, right = min(int(y + reach) + 2, size[0]), min(int(x + reach) + 2, size[1])
    return slice(top, max(bottom, top)), slice(left, max(right, left))


Drawing = Callable[[Sketch, Palette, np.random.Generator], None]
"""Draws an object of a palette's colours into a sketch."""


@dataclass(frozen=True, eq=False)
class Kinds:
    """Classes of objects that can be drawn.

    Attributes:
        drawings: drawing function of each class, by name.
        upright: classes of things that stand.
        shares: smallest share of an image that a main object's box takes, and the most that is added to it.
    """

    drawings: Mapping[str, Drawing]
    upright: frozenset[str] = frozenset()
    shares: tuple[float, float] = (0.055, 0.62)

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes' names, in order."""
        return tuple(self.drawings)

    def pose(self, label: int, rng: np.random.Generator) -> Pose:
        """A random pose of a class's object."""
        return Pose.random(self.classes[label] in self.upright, rng)

    def draw(self, label: int, pose: Pose, palette: Palette, size: tuple[int, int], rng: np.random.Generator) -> Layer:
        """The object of class `label`, lit from the upper left, on an image of `size` (height, width)."""
        rows, columns = window_of(pose.x, pose.y, 1.36 * pose.scale, size)
        y = (np.arange(rows.start, rows.stop, dtype=np.float64)[:, None] - pose.y) / pose.scale
        x = (np.arange(columns.start, columns.stop, dtype=np.float64)[None] - pose.x) / pose.scale
        cosine, sine = np.cos(pose.turn), np.sin(pose.turn)
        u = pose.mirror * (x * cosine + y * sine) / pose.stretch
        v = (y * cosine - x * sine) * pose.stretch
        u = u + pose.bend * (v * v - 0.3)
        sketch = Sketch(u, v, 1 / pose.scale, palette.base)
        self.drawings[self.classes[label]](sketch, palette, rng)
        depth = np.clip(-sketch.d, 0, 0.3).astype(np.float32)
        rim = np.minimum(depth / 0.2, 1)
        light = 0.64 + 0.36 * rim * (2 - rim) - 0.22 * (x + y).astype(np.float32)
        light += 0.3 / (1 + 14 * ((x + 0.3) ** 2 + (y + 0.35) ** 2)).astype(np.float32)
        light *= 1 - 0.45 * np.clip(1 - depth / 0.035, 0, 1)
        solid = sketch.d <= 0
        alpha = np.clip(0.5 - sketch.d * pose.scale, 0, 1).astype(np.float32)
        return Layer(label, (rows, columns), alpha, solid, np.clip(sketch.rgb * light, 0, 1), int(solid.sum()))

    @cache  # noqa: B019 - there are few of them, and they live as long as the program
    def extent(self, label: int) -> tuple[float, float, float]:
        """Half width, half height and area of a class's silhouette, unturned, in units of its scale."""
        scale = 40.0
        grey = hsv(0, 0, 0.5)
        pose = Pose(60.0, 60.0, scale, 0.0, 1.0, 1.0, 0.0)
        layer = self.draw(label, pose, Palette(grey, grey, grey, grey), (121, 121), np.random.default_rng(0))
        rows, columns = np.flatnonzero(layer.solid.any(1)), np.flatnonzero(layer.solid.any(0))
        return (columns[-1] - columns[0] + 1) / 2 / scale, (rows[-1] - rows[0] + 1) / 2 / scale, layer.area / scale**2
