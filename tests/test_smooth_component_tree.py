"""The tree from row segments compared with flooding, components above cuts with scipy, kernels with numpy."""

import subprocess
import sys
from collections.abc import Hashable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from eigencam.evaluation import component_tree as tree
from eigencam.evaluation import kernels
from eigencam.evaluation.maps import ScoreMap, components_above, cuts
from eigencam.evaluation.smooth_component_tree import nodes_if_smooth

KINDS = ("two", "few", "noise", "smooth", "wide")


def image(kind: str, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Levels with ties, rings, plateaus, a single row or column, and widths that are or are not multiples of eight."""
    height, width = rng.integers(1, 14, 2)
    if kind == "wide":
        height, width = rng.integers(20, 70, 2)
    if kind in ("smooth", "wide"):
        noise = ndimage.gaussian_filter(rng.normal(size=(height, width)), 1 if kind == "smooth" else 6)
        return np.clip(noise * (400 if kind == "smooth" else 2000) + 128, 0, 255).astype(np.uint8)
    values = {"two": 2, "few": 5, "noise": 256}[kind]
    return (rng.integers(0, values, (height, width)) * (255 // (values - 1))).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_nodes_are_those_of_flooding(kind: str) -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        levels = image(kind, rng)
        for nodes_of, columns in ((tree.outer, 10), (tree.holes, 7)):
            nodes, flooded = (nodes_of(levels, segments)[:, :columns] for segments in (levels.size, 0))
            assert sorted(nodes.tolist()) == sorted(flooded.tolist())


def test_rough_images_are_flooded() -> None:
    rng = np.random.default_rng(0)
    rough, smooth = rng.integers(0, 256, (30, 90)).astype(np.uint8), np.zeros((30, 90), np.uint8)
    smooth[3:9, 5:70] = 9
    assert nodes_if_smooth(rough, tree.SEGMENTS * 30) is None
    assert nodes_if_smooth(smooth, tree.SEGMENTS * 30) is not None
    np.testing.assert_array_equal(tree.outer(rough), tree.outer(rough, 0))  # in the order of flooding


@pytest.mark.parametrize("count", [0, 1, 9, 300])
def test_components_above_cuts_are_scipys(count: int) -> None:
    rng = np.random.default_rng(count)
    full = ndimage.gaussian_filter(rng.normal(size=(41, 53)), 3).astype(np.float32)
    levels = np.append(np.quantile(full, rng.random(count)), np.inf).astype(np.float32)
    expected = set()
    for level in levels:
        label = np.zeros(full.shape, np.int32)
        ndimage.label(full > level, np.ones((3, 3)), output=label)
        expected |= {(x.start, y.start, x.stop - 1, y.stop - 1) for y, x in ndimage.find_objects(label)}
    assert {tuple(box) for box in components_above(full, levels)[:, 2:6].tolist()} == expected


def shares_by_sorting(full: NDArray[np.float32], shares: NDArray[np.float64]) -> NDArray[np.float32]:
    positive = np.sort(full[full > 0])[::-1]
    mass = np.cumsum(positive, dtype=np.float64)
    return positive[np.searchsorted(mass, shares * mass[-1])]


@pytest.mark.full
@pytest.mark.parametrize("kind", ["smooth", "noise", "plateaus", "sparse", "negative"])
def test_the_lowest_values_of_shares_are_those_of_sorting(kind: str) -> None:
    rng, shares = np.random.default_rng(0), np.arange(0.05, 1, 0.05)
    for _ in range(20):
        full = rng.normal(size=(40, 60))
        full = {
            "smooth": ndimage.gaussian_filter(full, 5),
            "noise": full,
            "plateaus": np.round(full, 1),
            "sparse": full * (rng.random(full.shape) < 0.02),
            "negative": full - 2,
        }[kind].astype(np.float32)
        found = kernels.lowest_of_shares(full, full.max(), shares)
        certain = ~np.isnan(found)
        assert certain.mean() > 0.9
        np.testing.assert_array_equal(found[certain], shares_by_sorting(full, shares)[certain])


def test_where_the_order_of_a_sum_may_decide_the_values_are_sorted() -> None:
    full = np.repeat(np.array([[4, 3, 2, 1]], np.float32), 5, axis=0)
    assert np.isnan(kernels.lowest_of_shares(full, full.max(), np.array([0.4, 0.7, 1.0]))).all()
    score_map = ScoreMap(full, (5, 4))
    below = np.nextafter(shares_by_sorting(full, np.array([0.4, 0.7, 1.0])), np.float32(-np.inf))
    assert cuts(score_map, "energy", (0.4, 0.7, 1.0)).tolist() == below.tolist()


def test_what_is_of_the_image_is_made_once_for_the_maps_that_share_it() -> None:
    made: list[int] = []

    def make() -> int:
        made.append(1)
        return len(made)

    memo: dict[Hashable, Any] = {}
    together = [ScoreMap(np.eye(2), (4, 4), None, memo) for _ in range(3)]
    assert [score_map.of_image("a", make) for score_map in together] == [1, 1, 1]
    assert together[0].of_image("b", make) == 2
    alone = ScoreMap(np.eye(2), (4, 4))
    assert [alone.of_image("a", make) for _ in range(2)] == [3, 4]  # the truth may have changed by then


@pytest.mark.full
def test_numba_is_imported_where_the_first_row_is_made() -> None:
    program = """if True:
        import sys
        import numpy as np
        from eigencam.evaluation import foreground, localization, localization_tuned, maps, maxboxacc
        from eigencam.evaluation import pointing, proposal_matching, proposals, pxap, segmentation
        from eigencam.running import rows
        assert "numba" not in sys.modules
        maps.box_of(maps.ScoreMap(np.eye(3), (9, 9)), "max", 0.5)
        assert "numba" in sys.modules
    """
    subprocess.run([sys.executable, "-c", program], check=True)
