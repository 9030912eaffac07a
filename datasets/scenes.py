"""Scenes: generated images with exact ground truth, so that nothing has to be downloaded.

An image is a function of (seed, split, index) alone. It shows one object of its class, sometimes two, anywhere on a
textured and cluttered background. An object covers 5 to 60 % of the image, and clutter, objects of other classes or the
border may occlude part of it. Most images also have objects of other classes. These are always smaller, so the label,
the class of the largest object, is unambiguous. Boxes and masks are those of the *visible* pixels.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from eigencam.datasets.base import Truth, checksum
from eigencam.datasets.digest import generated_digest
from eigencam.datasets.scenes_backgrounds import Ground, Plane, noise, ramp
from eigencam.datasets.scenes_drawing import Kinds, Layer, Palette, Sketch, hsv, window_of
from eigencam.datasets.scenes_objects import CLASSES, OBJECTS

VERSION = 1
"""Version of the generator, raised whenever a change alters an image or its truth."""

Split = Literal["train", "test"]
SPLITS: dict[str, int] = {"train": 0, "test": 1}
_SIZES = ((120, 160), (160, 120), (144, 144), (128, 192), (192, 128), (112, 168), (168, 112), (150, 180))
"""Height and width of the images."""

_SMALLEST, _LARGEST = 0.045, 0.62  # the main object's visible box, as a fraction of the image
_LEAST_VISIBLE = 0.6  # smallest visible share of an object's silhouette
_DOMINANCE = 1.6  # smallest ratio of the main object's visible area to that of any object of another class

Pixels = NDArray[np.bool_]


class Scene(NamedTuple):
    """An image (H, W, 3) uint8, its mask (H, W) uint8, boxes (B, 4) and labels (B,), the main object first."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]


class Scenes:
    """The generated dataset.

    Args:
        count: number of images.
        seed: another seed gives other images.
        split: `train` and `test` share no image.
    """

    version = 1
    name = "scenes"
    class_space = "scenes"
    classes = CLASSES
    generator = VERSION

    def __init__(self, count: int = 400, seed: int = 0, split: Split = "test") -> None:
        if count < 1 or seed < 0:
            raise ValueError(f"scenes need count >= 1 and seed >= 0, not count={count}, seed={seed}")
        if split not in SPLITS:
            raise ValueError(f"split {split!r} of scenes is not one of {', '.join(SPLITS)}")
        self.count, self.seed, self.split = count, seed, split
        self.ids = [f"{self.name.replace('_', '-')}-{split}-{i:06d}" for i in range(count)]

    def __len__(self) -> int:
        return self.count

    def image(self, i: int) -> NDArray[np.uint8]:
        """Image `i`: (H, W, 3) uint8 RGB."""
        return self._scene(i).image.copy()

    def digest(self, i: int) -> str:
        """Return what image `i` is made from (`eigencam.datasets.digest`)."""
        return generated_digest(self.name, self.generator, self.split, self.seed, i)

    def truth(self, i: int) -> Truth:
        """The ground truth of image `i`: all objects have a box; target objects are of the largest object's class."""
        scene = self._scene(i)
        height, width = scene.mask.shape
        label = int(scene.labels[0])
        return Truth(
            self.ids[i], (height, width), label, scene.boxes.copy(), scene.labels.copy(), mask=scene.mask.copy()
        )

    def identity(self) -> dict[str, object]:
        """Version, split, seed, n, and a checksum of the ids and of the ground truth of the first scenes.

        The other scenes come from the same code; a checksum of all of them would take as long as a run.
        """
        return {
            "name": self.name,
            "version": self.generator,
            "split": self.split,
            "seed": self.seed,
            "n": self.count,
            "checksum": checksum([*self.ids, *self._facts(min(self.count, 8))]),
        }

    def _facts(self, n: int) -> Iterator[object]:
        for scene in map(self._scene, range(n)):
            counts = np.bincount(scene.mask.ravel(), minlength=len(self.classes) + 1)
            yield [scene.mask.shape, scene.boxes.tolist(), scene.labels.tolist(), counts.tolist()]

    def _scene(self, i: int) -> Scene:
        if not 0 <= i < self.count:
            raise IndexError(f"scene {i} of {self.count}")
        return made_scene(self.seed, self.split, i)


@lru_cache(maxsize=16)
def made_scene(seed: int, split: Split, index: int) -> Scene:
    """The scene with this index, independent of the dataset's size."""
    return draw_scene((seed, SPLITS[split], index))


def draw_scene(
    seed: Sequence[int], label: int | None = None, without: frozenset[int] = frozenset(), kinds: Kinds = OBJECTS
) -> Scene:
    """Draw a scene.

    Args:
        seed: seed of all random numbers.
        label: class of the main object; None: any.
        without: classes that no other object may have.
        kinds: the classes that can be drawn.
    """
    rng = np.random.default_rng(list(seed))
    size = _SIZES[rng.integers(len(_SIZES))]
    ground = Ground.random(rng)
    layers, visible = _arrange(rng, size, ground, kinds, label, without)
    canvas = ground.paint(rng, size)
    grain = 1 + 0.22 * (noise(rng, size, 24, 2) - 0.5)
    for layer in layers:
        _composite(canvas, layer, grain)
    canvas *= 1.08 - 0.25 * ramp(rng, size)
    canvas += 0.035 * (rng.random(size, np.float32) - 0.5)
    image = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0)

    mask = np.zeros(size, np.uint8)
    objects = [(layer, seen) for layer, seen in zip(layers, visible, strict=True) if layer.label >= 0]
    objects.sort(key=lambda pair: -int(pair[1].sum()))
    for layer, seen in objects:
        mask[layer.window][seen] = layer.label + 1
    boxes = np.array([_box(layer, seen) for layer, seen in objects], np.float64)
    return Scene(np.ascontiguousarray(image), mask, boxes, np.array([layer.label for layer, _ in objects], np.int64))


def _box(layer: Layer, seen: Pixels) -> tuple[int, int, int, int]:
    """Tight box of an object's visible pixels: 0-based inclusive `x1 y1 x2 y2`."""
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    top, left = layer.window[0].start, layer.window[1].start
    return int(left + columns[0]), int(top + rows[0]), int(left + columns[-1]), int(top + rows[-1])


def _arrange(
    rng: np.random.Generator,
    size: tuple[int, int],
    ground: Ground,
    kinds: Kinds,
    chosen: int | None,
    without: frozenset[int],
) -> tuple[list[Layer], list[Pixels]]:
    """Objects and clutter from back to front, and the visible pixels of each on its window.

    An arrangement is drawn again until the main object's size and visible part are within the limits; objects of other
    classes that are too large or hardly visible are removed.
    """
    count, (least, more) = len(kinds.classes), kinds.shares
    for _ in range(100):
        drawn = int(rng.integers(count))
        label = drawn if chosen is None else chosen
        share = least + more * rng.random() ** 1.2
        palette = Palette.random(rng, ground.mean)
        main = _place(rng, kinds, label, palette, size, share)
        others: list[Layer] = []
        if rng.random() < 0.2:
            twin = palette if rng.random() < 0.5 else Palette.random(rng, ground.mean)
            others.append(_place(rng, kinds, label, twin, size, share * (0.6 + 0.35 * rng.random())))
        for _ in range((0, 1, 1, 2, 2, 3)[rng.integers(6)]):
            other = int((label + rng.integers(1, count)) % count)
            part = main.area * (0.15 + 0.4 * rng.random()) / (size[0] * size[1])
            half_width, half_height, area = kinds.extent(other)
            part *= 4 * half_width * half_height / area
            placed = _place(rng, kinds, other, Palette.random(rng, ground.mean), size, part)
            others += [] if other in without else [placed]
        layers = [_clutter(rng, size, behind=True) for _ in range(rng.integers(6, 20))]
        objects = [main, *others]
        layers += [objects[k] for k in rng.permutation(len(objects))]
        layers += [_clutter(rng, size, behind=False) for _ in range(rng.integers(0, 4))]
        kept = _keep(layers, main, size)
        if kept is not None:
            return kept
    raise RuntimeError(f"no arrangement found for an image of {size}")  # pragma: no cover


def _place(
    rng: np.random.Generator, kinds: Kinds, label: int, palette: Palette, size: tuple[int, int], share: float
) -> Layer:
    """An object whose box takes about `share` of the image, more often near the border than with a uniform position."""
    height, width = size
    pose = kinds.pose(label, rng)
    half_width, half_height, _ = kinds.extent(label)
    cosine, sine = abs(np.cos(pose.turn)), abs(np.sin(pose.turn))
    reach_x, reach_y = half_width * cosine + half_height * sine, half_width * sine + half_height * cosine
    scale = float(np.sqrt(share * height * width / (4 * reach_x * reach_y)))
    scale = min(scale, 0.6 * width / reach_x, 0.6 * height / reach_y)
    spread = 2 * rng.random(2) - 1
    spread = np.sign(spread) * np.abs(spread) ** 0.6
    room_x, room_y = max(width / 2 - 0.85 * scale * reach_x, 0), max(height / 2 - 0.85 * scale * reach_y, 0)
    pose = pose._replace(x=width / 2 + spread[0] * room_x, y=height / 2 + spread[1] * room_y, scale=scale)
    return kinds.draw(label, pose, palette, size, rng)


def _seen(layers: list[Layer], size: tuple[int, int]) -> list[Pixels]:
    """The pixels of each layer that no later layer covers."""
    covered = np.zeros(size, bool)
    seen = []
    for layer in reversed(layers):
        seen.append(layer.solid & ~covered[layer.window])
        covered[layer.window] |= layer.solid
    return seen[::-1]


def _keep(layers: list[Layer], main: Layer, size: tuple[int, int]) -> tuple[list[Layer], list[Pixels]] | None:
    """Layers without unsuitable objects, and the visible part of each; None if the main object is unsuitable."""
    while True:
        seen = _seen(layers, size)
        areas = [int(pixels.sum()) for pixels in seen]
        mine = next(k for k, layer in enumerate(layers) if layer is main)
        unfit = [
            k
            for k, layer in enumerate(layers)
            if layer.label >= 0
            and k != mine
            and (
                areas[k] < max(_LEAST_VISIBLE * layer.area, 40)
                or areas[k] * (_DOMINANCE if layer.label != main.label else 1) > areas[mine]
            )
        ]
        if not unfit:
            break
        del layers[unfit[-1]]
    x1, y1, x2, y2 = _box(main, seen[mine]) if areas[mine] else (0, 0, -1, -1)
    share = (x2 - x1 + 1) * (y2 - y1 + 1) / (size[0] * size[1])
    if areas[mine] < _LEAST_VISIBLE * main.area or not _SMALLEST <= share <= _LARGEST:
        return None
    return layers, seen


def _clutter(rng: np.random.Generator, size: tuple[int, int], behind: bool) -> Layer:
    """A pebble, chip, stick or ring behind the objects, or a stalk in front of them; none is an object."""
    height, width = size
    x, y = width * rng.random(), height * rng.random()
    kind = int(rng.integers(4)) if behind else 2
    scale = (4 + 7 * rng.random()) if kind != 2 else (12 + 26 * rng.random())
    rows, columns = window_of(x, y, 1.1 * scale, size)
    v = (np.arange(rows.start, rows.stop, dtype=np.float64)[:, None] - y) / scale
    u = (np.arange(columns.start, columns.stop, dtype=np.float64)[None] - x) / scale
    colour = hsv(rng.random(), 0.15 + 0.5 * rng.random(), 0.25 + 0.6 * rng.random())
    u, v = np.broadcast_arrays(u, v)
    sketch = Sketch(u, v, 1 / scale, colour)
    turn = np.pi * rng.random()
    dx, dy = 0.9 * np.cos(turn), 0.9 * np.sin(turn)
    if kind == 0:
        sketch.part(sketch.ellipse(0, 0, 1, 0.45 + 0.5 * rng.random(), turn), colour)
    elif kind == 1:
        sketch.part(np.maximum(np.abs(u * dx + v * dy) - 0.5, np.abs(v * dx - u * dy) - 0.4 * (1 + u)), colour)
    elif kind == 2:
        sketch.part(sketch.line(-dx, -dy, dx, dy, 1.8 / scale, (1.0 + 2 * rng.random()) / scale), colour)
    else:
        sketch.part(np.abs(sketch.ellipse(0, 0, 0.8, 0.8)) - 0.17, colour)
    light = (0.85 - 0.25 * (u + v)).astype(np.float32)
    solid = sketch.d <= 0
    alpha = np.clip(0.5 - sketch.d * scale, 0, 1).astype(np.float32)
    return Layer(-1, (rows, columns), alpha, solid, sketch.rgb * light, int(solid.sum()))


def _composite(image: Plane, layer: Layer, grain: Plane) -> None:
    """Lays a layer with its shadow over the image (3, H, W), in place."""
    height, width = layer.alpha.shape
    if not height or not width:
        return
    target = image[:, *layer.window]
    soft = max(3, min(height, width) // 14) if layer.label >= 0 else 2
    shadow = uniform_filter(layer.alpha, soft, mode="constant")
    shift = max(soft // 2, 1)
    target[:, shift:, shift:] *= 1 - 0.5 * shadow[: -shift or None, : -shift or None]
    target += layer.alpha * (layer.rgb * grain[layer.window] - target)
