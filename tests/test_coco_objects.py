"""COCO's polygons and run lengths: valid ones are decoded as by COCO's code, invalid ones are refused."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pycocotools import mask as cocos

from eigencam.datasets.coco_annotations import LONGEST_OUTLINE, decode, segmentation_fault, unpacked
from eigencam.evaluation.predictions import read_coco_truth

theirs: Any = cocos  # its annotation is narrower than what it accepts
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")

SIZES = st.tuples(st.integers(1, 30), st.integers(1, 30))
FEW = settings(max_examples=60, deadline=None)


@st.composite
def masks(draw: st.DrawFn) -> NDArray[np.uint8]:
    size = draw(SIZES)
    bits = draw(st.lists(st.booleans(), min_size=size[0] * size[1], max_size=size[0] * size[1]))
    return np.asfortranarray(np.array(bits, np.uint8).reshape(size))


@FEW
@given(masks())
def test_packed_run_lengths_are_decoded_as_by_cocos_code(mask: NDArray[np.uint8]) -> None:
    packed = theirs.encode(mask)
    text = packed["counts"].decode()
    np.testing.assert_array_equal(decode({"size": list(mask.shape), "counts": text}, mask.shape), mask == 1)
    counts = unpacked(text)
    assert sum(counts) == mask.size
    np.testing.assert_array_equal(decode({"size": list(mask.shape), "counts": counts}, mask.shape), mask == 1)
    assert theirs.frPyObjects({"size": list(mask.shape), "counts": counts}, *mask.shape)["counts"].decode() == text


def test_long_runs_are_unpacked() -> None:
    mask = np.zeros((2000, 3000), np.uint8, order="F")
    mask[5:1990, 7:2900] = 1
    packed = theirs.encode(mask)
    np.testing.assert_array_equal(
        decode({"size": [2000, 3000], "counts": packed["counts"].decode()}, (2000, 3000)), mask
    )


@st.composite
def polygons(draw: st.DrawFn) -> tuple[list[list[float]], tuple[int, int]]:
    height, width = draw(SIZES)
    point = st.tuples(st.floats(0, width), st.floats(0, height))
    parts = draw(st.lists(st.lists(point, min_size=3, max_size=8), min_size=1, max_size=3))
    return [[round(x, 2) for xy in part for x in xy] for part in parts], (height, width)


@FEW
@given(polygons())
def test_polygons_are_decoded_as_by_cocos_code(drawn: tuple[list[list[float]], tuple[int, int]]) -> None:
    parts, size = drawn
    assert not segmentation_fault(parts, size)
    expected = theirs.decode(theirs.merge(theirs.frPyObjects(parts, *size)))
    np.testing.assert_array_equal(decode(parts, size), expected == 1)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.sampled_from(["size", "counts", "x"]), inner),
    max_leaves=20,
)


@example([[False, None, -2, None, False, None]])
@settings(max_examples=120, deadline=None)
@given(JSON | st.lists(st.lists(st.floats(-3, 25) | st.integers(-2, 25), min_size=4, max_size=9), max_size=3))
def test_anything_is_decoded_or_named(segmentation: Any) -> None:
    size = (20, 24)
    if fault := segmentation_fault(segmentation, size):
        assert "allowed" in fault
        with pytest.raises(ValueError, match="allowed"):
            decode(segmentation, size)
    else:
        assert decode(segmentation, size).shape == size


@settings(max_examples=120, deadline=None)
@given(st.text(alphabet=[chr(48 + k) for k in range(64)], max_size=20))
def test_any_packed_text_is_unpacked_or_named(text: str) -> None:
    fault = segmentation_fault({"size": [4, 5], "counts": text}, (4, 5))
    try:
        counts = unpacked(text)
    except ValueError:
        assert "packed by COCO's code" in fault
    else:
        assert len(counts) <= len(text)
        assert bool(fault) == (min(counts, default=0) < 0 or sum(counts) != 20)


@pytest.mark.parametrize(
    "segmentation",
    [
        [[0, 0, 1e12, 0, 5, 5]],
        [[0, 0, 5, 0, 1e300, 1e300]],
        [[k % 2 * 2000 for k in range(10_000)] + [k % 3 * 1000 for k in range(10_000)]],
        {"size": [2000, 2000], "counts": [10**15]},
        {"size": [2000, 2000], "counts": [0, 4_000_001]},
        {"size": [10**9, 10**9], "counts": [0, 10**18]},
        {"size": [2000, 2000], "counts": "o" * 100_000},
    ],
)
def test_what_is_too_large_takes_no_memory(segmentation: Any) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match="allowed"):
        decode(segmentation, (2000, 2000))
    assert tracemalloc.get_traced_memory()[1] < 3e6
    tracemalloc.stop()


def test_an_outline_of_ordinary_length_is_filled() -> None:
    """A comb through 2000 x 2000 pixels: long, but within the bound."""
    comb = [x for k in range(900) for x in (k * 2, 0, k * 2, 1990, k * 2 + 1, 1990, k * 2 + 1, 0)]
    assert LONGEST_OUTLINE > 900 * 2 * 1990
    np.testing.assert_array_equal(
        decode([comb], (2000, 2000)), theirs.decode(theirs.frPyObjects([comb], 2000, 2000))[..., 0] == 1
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bbox": [40, 30, -30, 20]}, r"truth\.json: annotation 7 of image 1: bbox \[40, 30, -30, 20\].*allowed"),
        ({"bbox": [10, 10, 0, 5]}, "annotation 7 of image 1: bbox"),
        ({"bbox": [float("nan"), 10, 1, 5]}, "annotation 7 of image 1: bbox"),
        ({"bbox": []}, "annotation 7 of image 1: bbox"),
        ({"category_id": 4}, "annotation 7 of image 1: category_id 4; allowed are 1"),
        ({"segmentation": None}, ""),  # scoring boxes does not need it
    ],
)
def test_a_truth_to_score_against_is_checked_likewise(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    one = {"id": 7, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]} | change
    data = {
        "images": [{"id": 1, "width": 80, "height": 48}],
        "annotations": [one],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "truth.json").write_text(json.dumps(data))
    if not words:
        assert read_coco_truth(tmp_path / "truth.json")[0].boxes.tolist() == [[1, 2, 3, 5]]
        return
    with pytest.raises(ValueError, match=words):
        read_coco_truth(tmp_path / "truth.json")


@pytest.mark.parametrize("side", [0, -3, 1.5, "80", None, 10**9])
def test_a_size_that_is_none_is_named(tmp_path: Path, side: Any) -> None:
    data = {"images": [{"id": 1, "width": side, "height": 48}], "annotations": [], "categories": []}
    (tmp_path / "truth.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"truth\.json: image 1: width .*allowed are whole numbers, 1 to"):
        read_coco_truth(tmp_path / "truth.json")
