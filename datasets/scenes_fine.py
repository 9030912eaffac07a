"""Fine-grained scenes of vases in eight textures: the classes differ in the texture only.

Otherwise the images are like those of `eigencam.datasets.scenes`: the same backgrounds, clutter, poses, occlusions and
limits of visibility. The colours and the shape of every vase are random, and so are the period and the phase of its
texture. The other vases of an image have other textures and are smaller. The main vase has a larger minimum size than
the objects of the scenes, so that its texture can be seen.
"""

from collections.abc import Callable
from functools import lru_cache, partial

import numpy as np

from eigencam.datasets.scenes import SPLITS, Scene, Scenes, Split, draw_scene
from eigencam.datasets.scenes_drawing import Array, Kinds, Palette, Sketch, wave

VERSION = 1
"""Version of the generator, raised whenever a change alters an image or its truth."""

Texture = Callable[[Array, Array], Array]
"""Textures as functions of abscissa and ordinate in periods: negative where the second colour is."""


def _cell(t: Array) -> Array:
    """Distance from the middle of a period, -0.5 to 0.5."""
    return t - np.floor(t) - 0.5


def _scales(u: Array, v: Array) -> Array:
    row = np.floor(v)
    return np.abs(np.hypot(_cell(u + 0.5 * (row % 2)), v - row) - 0.5) - 0.13


TEXTURES: dict[str, Texture] = {
    "bands": lambda u, v: wave(v) - 0.25,
    "stripes": lambda u, v: wave(u) - 0.25,
    "slanted": lambda u, v: wave((u + v) / np.sqrt(2)) - 0.25,
    "checks": lambda u, v: 4 * (wave(u * 0.8) - 0.25) * (wave(v * 0.8) - 0.25),
    "dots": lambda u, v: np.hypot(_cell(u), _cell(v)) - 0.32,
    "grid": lambda u, v: np.minimum(np.abs(_cell(u)), np.abs(_cell(v))) - 0.14,
    "zigzag": lambda u, v: wave(v + 1.2 * wave(u)) - 0.25,
    "scales": _scales,
}


def vase(texture: Texture, s: Sketch, c: Palette, rng: np.random.Generator) -> None:
    """A vase whose body and neck have a texture."""
    belly, neck = 0.62 + 0.12 * rng.random(), 0.2 + 0.1 * rng.random()
    s.part(s.box(0, 0.9, 0.3 + 0.12 * rng.random(), 0.07), c.dark)
    body = np.minimum(s.ellipse(0, 0.22, belly, 0.68), s.box(0, -0.5, neck, 0.36))
    s.part(body, c.base)
    period, phase = 0.3 + 0.08 * rng.random(), rng.random(2)
    pattern = texture(s.u / period + phase[0], s.v / period + phase[1]) * period
    s.paint(np.maximum(pattern, body + 0.03), c.second)
    s.part(s.ellipse(0, -0.86, neck + 0.13, 0.1), c.base)
    s.paint(s.ellipse(0, -0.87, neck + 0.06, 0.055), c.dark)


VASES = Kinds(
    {name: partial(vase, texture) for name, texture in TEXTURES.items()}, upright=frozenset(TEXTURES), shares=(0.2, 0.4)
)


class ScenesFine(Scenes):
    """The generated dataset; its arguments are those of `Scenes`."""

    version = 1
    name = "scenes_fine"
    class_space = "scenes_fine"
    classes = VASES.classes
    generator = VERSION

    def _scene(self, i: int) -> Scene:
        if not 0 <= i < self.count:
            raise IndexError(f"scene {i} of {self.count}")
        return _made(self.seed, self.split, i)


@lru_cache(maxsize=16)
def _made(seed: int, split: Split, index: int) -> Scene:
    return draw_scene((seed, SPLITS[split], index), kinds=VASES)
