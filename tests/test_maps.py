import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from eigencam.evaluation.maps import Rule, ScoreMap, box_of, box_of_mask, components, degenerate, foreground

RULES: list[tuple[Rule, float]] = [("max", 0.5), ("range", 0.5), ("mean", 0.5), ("energy", 0.5)]


def native(values: object) -> ScoreMap:
    """A map that already has its image's size."""
    array = np.asarray(values, np.float64)
    return ScoreMap(array, (array.shape[0], array.shape[1]))


def labelled(mask: np.ndarray) -> np.ndarray:
    """8-connected components by scipy: (H, W), 0 the background."""
    label = np.zeros(mask.shape, np.int32)
    ndimage.label(mask, np.ones((3, 3)), output=label)
    return label


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((14, 14), (375, 500)),
        ((7, 7), (224, 224)),
        ((1, 1), (5, 9)),
        ((1, 7), (1, 50)),
        ((13, 9), (4, 3)),
        ((28, 2), (1, 1)),
    ],
)
def test_full_is_torchs_bilinear(shape: tuple[int, int], size: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(0).normal(size=shape)  # float64: torch's float32 positions are off by 4e-6 here
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    full = ScoreMap(values, size).full
    assert full.dtype == np.float32
    np.testing.assert_allclose(full, expected, atol=1e-6)


def test_region_is_pasted_into_the_image() -> None:
    values = np.random.default_rng(0).normal(size=(7, 7))
    full = ScoreMap(values, (40, 60), region=(10, 5, 50, 35)).full
    np.testing.assert_allclose(full[5:35, 10:50], ScoreMap(values, (30, 40)).full, atol=1e-6)
    outside = np.ones((40, 60), bool)
    outside[5:35, 10:50] = False
    assert (full[outside] == np.float32(values.min())).all()
    assert (ScoreMap(values + 9, (40, 60), region=(10, 5, 50, 35)).full[outside] == 0).all()


def test_region_beyond_the_image_is_cropped() -> None:
    values = np.random.default_rng(0).normal(size=(7, 7))
    whole = ScoreMap(values, (50, 60)).full
    np.testing.assert_allclose(ScoreMap(values, (40, 60), region=(0, -4, 60, 46)).full, whole[4:44], atol=1e-6)


def test_plateaus_stay_flat() -> None:
    values = np.full((14, 14), 0.1)
    values[7, 7] = 5
    full = ScoreMap(values, (375, 500)).full
    assert set(full[:150].ravel().tolist()) == {float(np.float32(0.1))}


def test_one_upsampling_for_all() -> None:
    score_map = ScoreMap(np.eye(3), (30, 30))
    assert score_map.full is score_map.full
    assert not score_map.full.flags.writeable


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300, -3.4e38])
@pytest.mark.parametrize(("rule", "threshold"), RULES)
def test_nonfinite_maps_have_no_foreground(bad: float, rule: Rule, threshold: float) -> None:
    values = np.full((3, 3), 1e38)
    values[1, 1] = bad
    score_map = ScoreMap(values, (30, 30))
    assert score_map.state == "nonfinite"
    assert (score_map.full == 0).all()
    assert np.isnan(box_of(score_map, rule, threshold)).all()


@pytest.mark.parametrize(("value", "filled"), [(0.7, {"max", "mean", "energy"}), (0.0, set()), (-0.7, set())])
@pytest.mark.parametrize(("rule", "threshold"), RULES)
def test_constant_maps(value: float, filled: set[str], rule: Rule, threshold: float) -> None:
    score_map = ScoreMap(np.full((7, 7), value), (33, 50))
    assert score_map.state == "constant"
    box = box_of(score_map, rule, threshold)
    np.testing.assert_array_equal(box, [0, 0, 49, 32] if rule in filled else [np.nan] * 4)


def test_rules_by_hand() -> None:
    values = [[-1.0, 0, 1, 2, 4]]
    expected: dict[tuple[Rule, float], list[int]] = {
        ("max", 0.5): [0, 0, 0, 0, 1],
        ("max", 0.0): [0, 0, 1, 1, 1],
        ("range", 0.5): [0, 0, 0, 1, 1],
        ("range", 0.0): [0, 1, 1, 1, 1],
        ("mean", 1.0): [0, 0, 0, 1, 1],  # mean of 0 0 1 2 4 is 1.4
        ("energy", 0.5): [0, 0, 0, 0, 1],  # 4 of 7
        ("energy", 0.58): [0, 0, 0, 1, 1],
        ("energy", 1.0): [0, 0, 1, 1, 1],
    }
    for (rule, threshold), mask in expected.items():
        np.testing.assert_array_equal(foreground(native(values), rule, threshold)[0], np.array(mask, bool))


def test_energy_takes_ties_all_together() -> None:
    np.testing.assert_array_equal(foreground(native([[3.0, 1, 1, 1, 0]]), "energy", 0.6)[0], [1, 1, 1, 1, 0])


def test_comparison_is_that_of_float64() -> None:
    # 0.1 * 3 is 0.30000000000000004; as float32 it would round up or down past a pixel of the same value.
    values = np.arange(1, 2001, dtype=np.float32).reshape(40, 50) * np.float32(0.1)
    score_map = native(values)
    for threshold in np.linspace(0.0, 0.99, 100):
        exact = values.astype(np.float64) > threshold * float(values.max())
        np.testing.assert_array_equal(foreground(score_map, "max", float(threshold)), exact)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))))
def test_components_are_those_of_scipy(masks: np.ndarray) -> None:
    found = components(masks)
    boxes, pixels, owner = [], [], []
    for k, mask in enumerate(masks):
        label = labelled(mask)
        for i, (rows, columns) in enumerate(ndimage.find_objects(label), 1):
            boxes.append([columns.start, rows.start, columns.stop - 1, rows.stop - 1])
            pixels.append((label == i).sum())
            owner.append(k)
    np.testing.assert_array_equal(found.boxes, np.reshape(boxes, (-1, 4)))
    np.testing.assert_array_equal(found.pixels, pixels)
    np.testing.assert_array_equal(found.mask, owner)


def test_components_of_large_noise() -> None:
    mask = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(300, 400)), 2) > 0
    label = labelled(mask)
    found = components(mask[None])
    np.testing.assert_array_equal(found.pixels, np.bincount(label.ravel())[1:])
    assert label.max() > 50


def test_largest_component_and_ties() -> None:
    mask = np.zeros((6, 9), bool)
    mask[4:6, 0:2] = mask[1:3, 6:8] = True
    np.testing.assert_array_equal(box_of_mask(mask), [6, 1, 7, 2])  # equally large, but first in raster order
    np.testing.assert_array_equal(box_of_mask(mask, "all"), [0, 1, 7, 5])
    mask[4, 2] = True
    np.testing.assert_array_equal(box_of_mask(mask), [0, 4, 2, 5])


def test_diagonal_neighbours_are_connected() -> None:
    np.testing.assert_array_equal(box_of_mask(np.eye(5, dtype=bool)), [0, 0, 4, 4])


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1)])
def test_one_pixel_and_thin_images(size: tuple[int, int]) -> None:
    mask = np.zeros(size, bool)
    assert np.isnan(box_of_mask(mask)).all()
    mask[-1, -1] = True
    np.testing.assert_array_equal(box_of_mask(mask), [size[1] - 1, size[0] - 1] * 2)
    assert len(components(np.zeros((2, *size), bool)).boxes) == 0


def test_faults_are_named() -> None:
    for values, words in [
        (np.zeros(3), r"\(3,\)"),
        (np.zeros((0, 3)), r"\(0, 3\)"),
        (np.zeros((2, 2), complex), "complex"),
    ]:
        with pytest.raises(ValueError, match=words):
            ScoreMap(values, (3, 3))
    with pytest.raises(ValueError, match=r"size \(0, 3\)"):
        ScoreMap(np.zeros((2, 2)), (0, 3))
    with pytest.raises(ValueError, match="region"):
        ScoreMap(np.zeros((2, 2)), (3, 3), (2, 0, 2, 3))


def test_degenerate() -> None:
    assert degenerate(["ok", "ok"]) == ""
    assert degenerate(["ok", "constant", "nonfinite", "constant"]) == "2 constant, 1 nonfinite of 4 maps"


def test_what_evaluators_share_is_computed_once_a_map() -> None:
    made: list[int] = []
    score_map = ScoreMap(np.eye(3), (6, 6))
    assert [score_map.shared("key", lambda: made.append(1) or len(made)) for _ in range(3)] == [1, 1, 1]
    assert score_map.shared("other", lambda: 7) == 7
    assert ScoreMap(np.eye(3), (6, 6)).shared("key", lambda: 5) == 5
