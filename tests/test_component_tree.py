"""The component tree compared with OpenCV's contours at every threshold."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from eigencam.evaluation import component_tree as tree
from eigencam.evaluation.maps import box_of_mask, components

Levels = NDArray[np.uint8]
Box = tuple[int, int, int, int]


def contours(levels: Levels, v: int) -> tuple[list[Box], Box | None]:
    """Inclusive boxes of all contours above v, and the box of the first largest one."""
    above = cv2.threshold(levels, v, 255, cv2.THRESH_BINARY)[1]
    found = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    boxes = [(x, y, x + w - 1, y + h - 1) for x, y, w, h in map(cv2.boundingRect, found)]
    return sorted(boxes), boxes[int(np.argmax([cv2.contourArea(c) for c in found]))] if found else None


def box(node: NDArray[np.int32], around: int = 0) -> Box:
    x1, y1, x2, y2 = node[tree.X1 : tree.Y2 + 1].tolist()
    return x1 - around, y1 - around, x2 + around, y2 + around


def there(nodes: NDArray[np.int32], v: int) -> NDArray[np.int32]:
    return nodes[(nodes[:, tree.LOW] <= v) & (v < nodes[:, tree.HIGH])]


def check(levels: Levels, thresholds: list[int] | range = range(255)) -> None:
    outer, holes = tree.outer(levels), tree.holes(levels)
    chosen, most = tree.largest_by_area(outer, levels), tree.largest_by_pixels(outer)
    for v in thresholds:
        boxes, largest = contours(levels, v)
        assert sorted([*map(box, there(outer, v)), *(box(node, 1) for node in there(holes, v))]) == boxes
        assert (box(outer[chosen[v]]) if chosen[v] >= 0 else None) == largest
        pixels = box_of_mask(levels > v)
        assert (chosen[v] < 0) == (most[v] < 0) == bool(np.isnan(pixels).any())
        assert most[v] < 0 or box(outer[most[v]]) == tuple(pixels)


def small(kind: str, rng: np.random.Generator) -> Levels:
    height, width = rng.integers(1, 14, 2)
    if kind == "smooth":
        noise = ndimage.gaussian_filter(rng.normal(size=(height, width)), 1)
        return np.clip(noise * 400 + 128, 0, 255).astype(np.uint8)
    values = {"two": 2, "few": 5, "noise": 256}[kind]
    return (rng.integers(0, values, (height, width)) * (255 // (values - 1))).astype(np.uint8)


@pytest.mark.parametrize("kind", ["two", "few", "noise", "smooth"])
def test_small_images(kind: str) -> None:
    """These include ties, rings, islands in holes, contours at the border, and images of one row."""
    rng = np.random.default_rng(0)
    for _ in range(40):
        levels = small(kind, rng)
        check(
            levels, sorted({0, 254, *np.unique(levels).tolist(), *(np.unique(levels[levels > 0]) - 1).tolist()} - {255})
        )


@pytest.mark.parametrize("sigma", [0, 1, 4, 12])
def test_large_images(sigma: float) -> None:
    rng = np.random.default_rng(0)
    noise = ndimage.gaussian_filter(rng.normal(size=(150, 190)), sigma)
    levels = ((noise - noise.min()) / (noise.max() - noise.min()) * 255).astype(np.uint8)
    check(levels, range(0, 255, 7) if sigma else range(3, 255, 30))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (5, 7)])
@pytest.mark.parametrize("value", [0, 1, 200, 255])
def test_constant_images(size: tuple[int, int], value: int) -> None:
    levels = np.full(size, value, np.uint8)
    check(levels)
    assert len(tree.outer(levels)) == (value > 0)
    assert len(tree.holes(levels)) == 0


def test_nodes_on_paper() -> None:
    ring = np.array([[0, 5, 0, 0], [5, 0, 5, 0], [0, 5, 0, 9]], np.uint8)
    outer = {tuple(node) for node in tree.outer(ring).tolist()}
    #                v = 0..4: a ring around one pixel, and the 9, which touches it by a corner; first pixel: (1, 0)
    assert outer == {(0, 5, 0, 0, 3, 2, 5, 0, 1, 1), (5, 9, 3, 2, 3, 2, 1, 0, 0, 11)}
    holes = tree.holes(ring)
    assert holes[:, : tree.AREA].tolist() == [[0, 5, 1, 1, 1, 1, 1]]
    assert tree.largest_by_area(tree.outer(ring), ring)[:9].tolist() == [1] * 5 + [0] * 4


def test_area_and_holes_are_those_of_the_mask() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        levels = rng.integers(0, 4, (12, 15)).astype(np.uint8)
        for v in range(3):
            found = sorted(node[tree.PIXELS] for node in there(tree.outer(levels), v))
            assert found == sorted(components((levels > v)[None]).pixels)
            holes = sum(node[tree.HOLES] for node in there(tree.outer(levels), v))
            assert holes == len(there(tree.holes(levels), v))


def test_of_equal_areas_the_last_in_raster_order_is_taken() -> None:
    levels = np.zeros((9, 20), np.uint8)
    levels[1:4, 1:4] = levels[3:6, 10:13] = levels[2:5, 15:18] = 7
    outer = tree.outer(levels)
    assert box(outer[tree.largest_by_area(outer, levels)[0]]) == contours(levels, 0)[1] == (10, 3, 12, 5)
    assert box(outer[tree.largest_by_pixels(outer)[0]]) == (1, 1, 3, 3)


def test_a_filled_ring_is_larger_than_a_block_of_more_pixels() -> None:
    levels = np.zeros((30, 60), np.uint8)
    levels[2:22, 2:22], levels[3:21, 3:21] = 9, 0
    levels[5:9, 5:9] = 3  # an island in the hole
    levels[4:16, 30:42] = 5
    check(levels, range(10))
    outer = tree.outer(levels)
    assert box(outer[tree.largest_by_area(outer, levels)[0]]) == (2, 2, 21, 21)
    assert box(outer[tree.largest_by_pixels(outer)[0]]) == (30, 4, 41, 15)
