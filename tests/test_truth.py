"""The truth of a user's own dataset: each truth is validated, and so are the dataset's masks together."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eigencam.datasets.base import VOID, BadTruthError, Dataset, Truth
from eigencam.datasets.checks import checked_truth, truth_faults
from eigencam.reporting.draw import with_truth


@dataclass
class Own:
    """A user's dataset: three images of 8 x 10 pixels, with five classes."""

    change: dict[str, Any]
    name = "own"
    class_space = "own"
    classes: tuple[str, ...] = tuple("abcde")

    def __post_init__(self) -> None:
        self.ids = ["p", "q", "r"]

    def image(self, i: int) -> NDArray[np.uint8]:
        return np.zeros((8, 10, 3), np.uint8)

    def truth(self, i: int) -> Truth:
        mask = np.zeros((8, 10), np.uint8)
        mask[2:4] = 3
        given: dict[str, Any] = {
            "size": (8, 10),
            "label": 2,
            "boxes": np.array([[0, 2, 9, 3.0]]),
            "box_labels": np.array([2]),
        }
        given |= {"mask": mask} | (self.change if i == 0 else {})
        return Truth(self.ids[i], **given)

    def identity(self) -> dict[str, object]:
        return {}


OWN: dict[str, tuple[dict[str, Any], str]] = {
    **{
        what: ({"boxes": np.array([box], float)}, "p: box 1 of 1 is .*allowed in 10 x 8 pixels: 0 <= x1 <= x2 <= 9")
        for what, box in {
            "outside": (20, 2, 30, 5),
            "inverted": (9, 2, 2, 5),
            "zero": (5, 2, 4, 5),
            "nan": (np.nan, 2, 4, 5),
            "infinite": (0, 2, np.inf, 5),
            "1-based": (1, 1, 10, 8),
            "huge": (0, 0, 1e300, 5),
            "negative": (-1, 0, 5, 5),
        }.items()
    },
    "boxes dtype": ({"boxes": np.array([["a"] * 4])}, r"p: boxes \(1, 4\) of <U1; allowed are \(B, 4\) numbers"),
    "boxes shape": ({"boxes": np.zeros((1, 5))}, r"p: boxes \(1, 5\) of float64; allowed"),
    "one box alone": ({"boxes": np.zeros(4)}, r"p: boxes \(4,\) of float64; allowed"),
    "label": ({"label": 5}, "p: label 5; allowed are 0 to 4"),
    "label -2": ({"label": -2}, "p: label -2; allowed"),
    "label 65.7": ({"label": 65.7}, r"p: label 65\.7; allowed are whole numbers"),
    "label None": ({"label": None}, "p: label None; allowed"),
    "label bool": ({"label": True}, "p: label True; allowed"),
    "label of a box": ({"box_labels": np.array([7])}, "p: label of a box 7; allowed are 0 to 4"),
    "label of a box -1": ({"box_labels": np.array([-1])}, "p: label -1 of box 1 of 1; allowed"),
    "labels dtype": ({"box_labels": np.array([2.0])}, r"p: box_labels \(1,\) of float64; allowed is \(1,\) int64"),
    "labels shape": ({"box_labels": np.array([2, 2])}, r"p: box_labels \(2,\).*allowed is \(1,\) int64"),
    "difficult dtype": ({"difficult": np.array([1])}, r"p: difficult \(1,\) of int64; allowed is \(1,\) bool"),
    "difficult shape": ({"difficult": np.array([True, False])}, r"p: difficult \(2,\) of bool; allowed is \(1,\)"),
    "size": ({"size": (8, 0)}, r"p: size \(8, 0\); allowed are two whole numbers"),
    "size fractions": ({"size": (8.0, 10.5)}, "p: size .*allowed are two whole numbers"),
    "size of three": ({"size": (8, 10, 3)}, "p: size .*allowed are two whole numbers"),
    "foreground": ({"foreground": "all"}, "p: foreground 'all'; allowed are 'label' and 'any'"),
    "mask size": (
        {"mask": np.ones((10, 8), np.uint8)},
        r"p: a mask of \(10, 8\); allowed is the image's size, \(8, 10\)",
    ),
    "mask of three axes": ({"mask": np.ones((8, 10, 3), np.uint8)}, r"p: a mask of \(8, 10, 3\); allowed"),
    "mask bool": ({"mask": np.ones((8, 10), bool)}, "p: a mask of bool; allowed is uint8: .*np.where"),
    "mask int64": ({"mask": np.ones((8, 10), np.int64)}, "p: a mask of int64; allowed is uint8"),
    "mask float": ({"mask": np.full((8, 10), 0.5)}, "p: a mask of float64; allowed is uint8"),
    "mask list": ({"mask": [[0] * 10] * 8}, "p: a mask of list; allowed is uint8"),
    "mask values": ({"mask": np.full((8, 10), 6, np.uint8)}, "p: 6 in the mask; allowed are 0 to 5 and 255"),
    "mask void": ({"mask": np.full((8, 10), VOID, np.uint8)}, "p: all pixels of the mask are 255, void; allowed"),
    "id": ({"image_id": "x"}, "x: image_id 'x'; allowed is that of the dataset's ids, 'p'"),
    "id number": ({"image_id": 7}, "7: image_id 7; allowed is a text"),
}


def test_a_persons_truth_checks_itself() -> None:
    assert isinstance(Own({}), Dataset)
    assert [checked_truth(Own({}), i).image_id for i in range(3)] == ["p", "q", "r"]
    assert list(truth_faults(Own({}))) == []


@pytest.mark.parametrize("what", OWN)
def test_a_persons_wrong_truth_is_named(what: str) -> None:
    change, words = OWN[what]
    data = OwnId(change) if "image_id" in change else Own(change)
    with pytest.raises(BadTruthError, match=words):
        checked_truth(data, 0)
    assert any("on_bad_truth=skip" in fault for fault in truth_faults(data))
    assert list(truth_faults(data, skip=True)) == []
    assert checked_truth(data, 1).label == 2


class OwnId(Own):
    """A dataset whose truth has another id."""

    def truth(self, i: int) -> Truth:
        right = Own({}).truth(i)
        return replace(right, **self.change) if i == 0 else right


class Masks(Own):
    """Images whose masks all have these two values, one in each half."""

    def __init__(self, *values: int, foreground: str = "label", label: int = 2) -> None:
        super().__init__({})
        self.values, self.foreground, self.label = values, foreground, label
        self.ids = [f"i{k}" for k in range(200)]

    def truth(self, i: int) -> Truth:
        mask = np.repeat(np.array(self.values, np.uint8), 8).reshape(-1, 8)
        none = np.zeros((0, 4)), np.zeros(0, np.int64)
        return Truth(self.ids[i], mask.shape, self.label, *none, mask=mask, foreground=self.foreground)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (Masks(0, VOID), "none of the 67 masks looked at .*1 [+] label: they have 0, 255; .*np.where"),
        (Masks(0, VOID, foreground="any"), "none of the 67 masks .*1 and more: they have 0, 255"),
        (Masks(0, 1), "none of the 67 masks .*they have 0, 1; 0 is background, 1 [+] class"),
        (Masks(0, 0), "they have 0;"),
        (Masks(VOID, VOID), "all pixels of the mask are 255, void; allowed"),
    ],
)
@pytest.mark.parametrize("skip", [False, True])
def test_masks_of_other_values_than_ours_are_refused(data: Masks, words: str, skip: bool) -> None:
    with pytest.raises(ValueError, match=words):
        raise ValueError("\n".join(truth_faults(data, skip)))


def test_masks_are_looked_at_until_one_is_right() -> None:
    data = Masks(0, VOID)
    right = Masks(0, 3).truth(0)
    data.truth = lambda i: replace(right, image_id=data.ids[i]) if i > 150 else Masks.truth(data, i)  # type: ignore[method-assign]
    assert list(truth_faults(data)) == []


@pytest.mark.parametrize("foreground", ["label", "any"])
@pytest.mark.parametrize("label", [-1, 2])
def test_void_is_never_of_the_object_sought(foreground: str, label: int) -> None:
    mask = np.array([[0, 3, 5, VOID]], np.uint8)
    truth = Truth("a", (1, 4), label, np.zeros((0, 4)), np.zeros(0, np.int64), mask=mask, foreground=foreground)  # type: ignore[arg-type]
    expected = [False, True, True, False] if foreground == "any" else [False, label == 2, False, False]
    assert truth.sought_pixels().tolist() == [expected]
    assert truth.sought_pixels(mask[:, ::-1]).tolist() == [expected[::-1]]
    with pytest.raises(ValueError, match="a: the truth has no mask"):
        replace(truth, mask=None).sought_pixels()


@pytest.mark.parametrize("scale", [1, 3])
def test_a_drawing_leaves_the_object_alone_bright(scale: int) -> None:
    """Also for a mask of another resolution than its image; void pixels are dimmed."""
    mask = np.array([[0, 3], [5, VOID]], np.uint8).repeat(2, 0).repeat(2, 1)
    size = (4 * scale, 4 * scale)
    none = np.zeros((0, 4)), np.zeros(0, np.int64)
    truth = Truth("a", size, 2, *none, mask=mask, own_resolution=True)
    drawn = with_truth(np.full((*size, 3), 200, np.uint8), truth)
    expected = np.where(mask == 3, 200, 70).repeat(scale, 0).repeat(scale, 1)
    np.testing.assert_array_equal(drawn, np.repeat(expected[..., None], 3, 2))
