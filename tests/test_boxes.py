import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from eigencam.datasets import boxes as bx

coordinates = st.integers(-3, 12)


@st.composite
def box_arrays(draw: st.DrawFn, least: int = 0) -> np.ndarray:
    n = draw(st.integers(least, 6))
    corners = draw(arrays(np.int64, (n, 4), elements=coordinates))
    return np.concatenate(
        [np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1
    ).astype(float)


def pixels(box: np.ndarray) -> set[tuple[int, int]]:
    x1, y1, x2, y2 = box.astype(int)
    return {(x, y) for x in range(x1, x2 + 1) for y in range(y1, y2 + 1)}


@settings(derandomize=True, deadline=None)
@given(box_arrays(), box_arrays())
def test_iou_counts_pixels(a: np.ndarray, b: np.ndarray) -> None:
    brute = [[len(pixels(p) & pixels(q)) / len(pixels(p) | pixels(q)) for q in b] for p in a]
    np.testing.assert_array_equal(bx.iou(a, b), np.reshape(brute, (len(a), len(b))))


@settings(derandomize=True, deadline=None)
@given(box_arrays(least=1), box_arrays(least=1))
def test_iou_properties(a: np.ndarray, b: np.ndarray) -> None:
    overlap = bx.iou(a, b)
    np.testing.assert_array_equal(overlap, bx.iou(b, a).T)
    assert ((overlap >= 0) & (overlap <= 1)).all()
    np.testing.assert_array_equal(np.diag(bx.iou(a, a)), 1)
    np.testing.assert_allclose(bx.iou(a + 7, b + 7), overlap)


@settings(derandomize=True, deadline=None)
@given(box_arrays())
def test_conversions_invert_each_other(a: np.ndarray) -> None:
    np.testing.assert_array_equal(bx.from_half_open(bx.to_half_open(a)), a)
    np.testing.assert_array_equal(bx.from_xywh(bx.to_xywh(a)), a)
    np.testing.assert_array_equal(bx.to_xywh(a)[:, 2] * bx.to_xywh(a)[:, 3], bx.area(a))


@settings(derandomize=True, deadline=None)
@given(st.lists(box_arrays(), max_size=5), st.integers(0, 99))
def test_best_iou_is_the_best_of_each_image(owned: list[np.ndarray], seed: int) -> None:
    corners = np.random.default_rng(seed).integers(0, 12, (len(owned), 4)).astype(float)
    predictions = np.concatenate([corners[:, :2], corners[:, :2] + corners[:, 2:]], 1)
    offsets = np.cumsum([0, *(len(o) for o in owned)])
    flat = np.concatenate([np.zeros((0, 4)), *owned])
    expected = [bx.iou(p[None], o).max(initial=0) for p, o in zip(predictions, owned, strict=True)]
    np.testing.assert_array_equal(bx.best_iou(predictions, flat, offsets), expected)


def test_iou_is_that_of_coco() -> None:
    mask = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 50, (2, 40, 4)).astype(float)
    a, b = np.concatenate([corners[..., :2], corners[..., :2] + corners[..., 2:]], -1)
    np.testing.assert_allclose(bx.iou(a, b), mask.iou(bx.to_xywh(a), bx.to_xywh(b), [0] * len(b)), atol=1e-12)


@pytest.mark.parametrize(
    ("box", "size", "expected"),
    [
        ([-5, -5, 3, 3], (10, 20), [0, 0, 3, 3]),
        ([15, 5, 40, 40], (10, 20), [15, 5, 19, 9]),
        ([0, 0, 0, 0], (1, 1), [0, 0, 0, 0]),
    ],
)
def test_clip(box: list[int], size: tuple[int, int], expected: list[int]) -> None:
    np.testing.assert_array_equal(bx.clip(np.array(box, float), size), expected)


def test_empty_boxes_overlap_nothing() -> None:
    full = np.array([[0.0, 0, 9, 9]])
    for box in (bx.NO_BOX, [5.0, 5, 3, 8], bx.clip(np.array([30.0, 0, 40, 9]), (10, 10))):
        empty = np.array([box])
        assert bx.area(empty)[0] == 0
        assert bx.iou(empty, full)[0, 0] == 0
        assert bx.iou(empty, empty)[0, 0] == 0


def test_one_pixel_and_half_a_box() -> None:
    assert bx.area(np.zeros((1, 4)))[0] == 1
    assert bx.iou(np.array([[0.0, 0, 9, 4]]), np.array([[0.0, 0, 9, 9]]))[0, 0] == 0.5


def test_as_boxes() -> None:
    assert bx.as_boxes([]).shape == (0, 4)
    assert bx.as_boxes([1, 2, 3, 4]).shape == (1, 4)
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        bx.as_boxes(np.zeros((2, 3)))
