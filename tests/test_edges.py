"""Every evaluator of maps in edge cases: the value of each metric, worked out by hand.

Constant maps here are constant on purpose, like a baseline's; `test_states.py` has all other ones.

The image has 224 x 224 pixels, so that no map or mask is resized, except in the two cases about resizing.
"""

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from numpy.typing import NDArray
from omegaconf import OmegaConf

from eigencam.datasets.base import Truth
from eigencam.evaluation.maps import ScoreMap
from eigencam.store.build import instantiate

NAN = math.nan
N = 224 * 224


@dataclass(frozen=True)
class Edge:
    """A map, the boxes of the object, (x1, y1, x2, y2) inclusive, and the expected state of the map."""

    values: NDArray[np.float64]
    boxes: list[tuple[int, int, int, int]]
    state: str = "ok"

    def pair(self) -> tuple[ScoreMap, Truth]:
        size = (self.values.shape[0], self.values.shape[1])
        mask = np.zeros(size, np.uint8)
        for x1, y1, x2, y2 in self.boxes:
            mask[y1 : y2 + 1, x1 : x2 + 1] = 1
        boxes = np.array(self.boxes, np.float64).reshape(-1, 4)
        return ScoreMap(self.values, size), Truth("a", size, 0, boxes, np.zeros(len(boxes), np.int64), mask=mask)


def high(*boxes: tuple[int, int, int, int], size: tuple[int, int] = (224, 224)) -> NDArray[np.float64]:
    """1 in the boxes, 0 elsewhere."""
    values = np.zeros(size)
    for x1, y1, x2, y2 in boxes:
        values[y1 : y2 + 1, x1 : x2 + 1] = 1
    return values


LEFT, CORNER, PIXEL = (0, 0, 111, 223), (200, 190, 223, 223), (100, 50, 100, 50)
FIRST, SECOND = (0, 0, 9, 9), (214, 0, 223, 9)
BROKEN = high(LEFT)
BROKEN[100, 150] = NAN

EDGES = {
    "no object": Edge(high(LEFT), []),
    "all object": Edge(high(LEFT), [(0, 0, 223, 223)]),
    "constant map": Edge(np.full((224, 224), 0.5), [LEFT], "constant"),
    "a NaN": Edge(BROKEN, [LEFT], "nonfinite"),
    "image of one pixel": Edge(np.full((1, 1), 0.7), [(0, 0, 0, 0)], "constant"),
    "object of one pixel": Edge(high(PIXEL), [PIXEL]),
    "ties": Edge(high(FIRST, SECOND), [FIRST]),
    "box at the border": Edge(high(CORNER), [CORNER]),
    "one pixel high": Edge(high((20, 0, 39, 0), size=(1, 40)), [(20, 0, 39, 0)]),
}

Values = dict[str, dict[str, float]]


def table(metric: str, *values: float) -> Values:
    """The values of a metric, in the order of `EDGES`."""
    return {edge: {metric: value} for edge, value in zip(EDGES, values, strict=True)}


def joined(*tables: Values) -> Values:
    return {edge: {name: value for part in tables for name, value in part[edge].items()} for edge in EDGES}


# A box of half the image has an overlap of exactly 1/2 with the whole image, which is a hit.
BOXED = joined(
    table("box_error", NAN, 0, 0, 100, 0, 0, 0, 0, 0), table("mean_iou", NAN, 50, 50, 0, 100, 100, 100, 100, 100)
)
# Without foreground the box is the whole image (except for NaN); with ties it encloses both maxima.
AROUND = joined(table("error", NAN, 0, 0, 100, 0, 0, 100, 0, 0), table("error_best", NAN, 0, 0, 100, 0, 0, 100, 0, 0))
PROPOSED = joined(
    table("recall50_1", NAN, 100, 100, 0, 100, 100, 100, 100, 100),
    table("abo", NAN, 50, 50, 0, 100, 100, 100, 100, 100),
    table("mabo", NAN, 50, 50, 0, 100, 100, 100, 100, 100),
    table("boxes", 1, 1, 1, 0, 1, 1, 2, 1, 1),
)
SURE = (N - 100) / N  # share of right pixels among the highest, if 100 pixels too many are included

SHARE = [0.5, 0.5, 1, 1, 1, 1 / N, 200 / N, 816 / N, 0.5]  # share of the image where the map is high, or is undefined
PIXELS = np.array([N, N, N, N, 1, N, N, N, 40])
NATS = np.log(PIXELS * SHARE)
INSIDE = joined(
    table("mass_inside", NAN, 100, 50, 0, 100, 100, 50, 100, 100),
    table("rank_inside", NAN, 100, 50, 0, 100, 100, 50, 100, 100),
)

EXPECTED: dict[str, Values] = {
    "localization": BOXED,
    "localization_cam": BOXED,
    "localization_fong_range": AROUND,
    "localization_fong_mean": AROUND,
    "localization_fong_energy": AROUND,
    # In the authors' form, no contour gives the box of the first pixel, which is also the truth of one pixel. A box is
    # one # pixel too wide, so one pixel overlaps by 1/4. A truth one pixel high is one of 224 rows.
    "maxboxacc": table("max_box_acc", NAN, 100, 0, 0, 100, 0, 0, 100, 0),
    "maxboxacc_v2": joined(
        table("max_box_acc_v2_30", NAN, 100, 0, 0, 100, 0, 100, 100, 0),
        table("max_box_acc_v2_50", NAN, 100, 0, 0, 100, 0, 100, 100, 0),
        table("max_box_acc_v2_70", NAN, 0, 0, 0, 100, 0, 100, 100, 0),
        table("max_box_acc_v2", NAN, 200 / 3, 0, 0, 100, 0, 100, 100, 0),
    ),
    "maxboxacc_plain": table("max_box_acc_plain", NAN, 100, 0, 0, 0, 100, 100, 100, 100),
    "pointing": joined(
        # For a constant map: the 112 columns of the object and the 14 that are less than 15 px away. For two peaks: one
        # of them.
        table("pointing_hits", NAN, 100, 100 * 126 / 224, 0, 100, 100, 50, 100, 100),
        table("pointing_accuracy", NAN, 100, 100 * 126 / 224, 0, 100, 100, 50, 100, 100),
    ),
    "energy": joined(
        table("energy_inside", NAN, 100, 0, 0, 0, 100, 50, 100, 100),
        table("overlap_0", NAN, 50, 0, 0, 0, 100, 50, 100, 100),
        table("overlap_0.5", NAN, 50, 0, 0, 0, 100, 50, 100, 100),
    ),
    "evidence": INSIDE,
    "grid_pointing": INSIDE,
    "sparseness": joined(
        table("gini", *(100 * (1 - np.array(SHARE)))),
        table("entropy", *NATS),
        table("evenness", *(100 * np.where(PIXELS > 1, NATS / np.log(np.maximum(PIXELS, 2)), 1))),
    ),
    "proposals": PROPOSED,
    "proposals_hosang": PROPOSED,
    "proposals_stl": joined(
        table("mean_recall50_1", NAN, 100, 100, 0, 100, 100, 100, 100, 100),
        table("mabo", NAN, 50, 50, 0, 100, 100, 100, 100, 100),
    ),
    # If all pixels are in one bin: the share of the object.
    "pxap": table("pxap", NAN, 100, 50, 0, 100, 100, 50, 100, 100),
    "segmentation": joined(
        table("fg_iou", NAN, 50, 50, 0, 100, 100, 50, 100, 100),
        table("pixel_precision", 0, 100, 50, 0, 100, 100, 50, 100, 100),
        table("pixel_recall", NAN, 50, 100, 0, 100, 100, 100, 100, 100),
        table("precision_eer", NAN, 100, 50, 0, 100, 100, 50, 100, 100),
        table("fg_iou_best", NAN, 100, 50, 50, 100, 100, 50, 100, 100),
        # Over the classes that occur in the truth: if the object fills the image, there is no background.
        table("miou_binary", 50, 50, 25, 0, 100, 100, 25 + 50 * (N - 200) / (N - 100), 100, 100),
    ),
    "foreground": joined(
        table("pixel_accuracy", 50, 50, 50, 0, 0, 100, 100 * SURE, 100, 100),
        # Always over both classes.
        table("miou", 25, 25, 25, 0, 0, 100, 25 + 50 * (N - 200) / (N - 100), 100, 100),
        table("mean_ap", 50, 50, 50, 0, 50, 100, 100 * (SURE * SURE + (1 - SURE) / 2), 100, 100),
        table("mean_f1", 0, 200 / 3, 0, 0, 0, 100, 200 / 3, 100, 100),
    ),
}


def row_evaluators() -> dict[str, Any]:
    """The presets that make a row from a map."""
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        names = GlobalHydra.instance().config_loader().get_group_options("evaluator")
        config: Any = OmegaConf.to_container(compose("run", [f"evaluator=[{','.join(names)}]"]).evaluator)
    return {name: built for name in names if hasattr(built := instantiate(config[name]), "row")}


EVALUATORS = row_evaluators()


def test_every_evaluator_of_maps_is_here() -> None:
    assert EVALUATORS.keys() == EXPECTED.keys(), "state in EXPECTED what a new evaluator gives at each edge"


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize("name", EVALUATORS)
def test_the_metrics_at_an_edge_are_those_stated(name: str, edge: str) -> None:
    evaluator, (score_map, truth) = EVALUATORS[name], EDGES[edge].pair()
    row = evaluator.row(score_map, truth)
    assert row["map_state"] == EDGES[edge].state
    start = {"image": "a", "label": 0, "target": 0, "top5": [0], "constant_by_design": True}
    metrics = {metric.name: metric for metric in evaluator.summary(pd.DataFrame([{**start, **row}]))}
    found = {metric: metrics[metric].value for metric in EXPECTED[name][edge]}
    assert found == pytest.approx(EXPECTED[name][edge], nan_ok=True)
    for metric in metrics.values():
        if math.isnan(metric.value) or metric.unit != "%":
            continue
        if math.isnan(metric.low):
            assert metric.caution  # the reason why there is no interval
        else:
            assert 0 <= metric.low <= metric.high <= 100 + 1e-9
    if EDGES[edge].state != "ok" and not all(math.isnan(metric.value) for metric in metrics.values()):
        assert any(f"1 {EDGES[edge].state} of 1 maps" in metric.note for metric in metrics.values())


@pytest.mark.parametrize("name", EVALUATORS)
def test_columns_are_the_same_at_every_edge_and_rows_merge(name: str) -> None:
    rows = [EVALUATORS[name].row(*edge.pair()) for edge in EDGES.values()]
    assert len({tuple(row) for row in rows}) == 1
    many = [
        {"image": str(i), "label": 0, "target": 0, "top5": [0], "constant_by_design": True, **row}
        for i, row in enumerate(rows)
    ]
    for metric in EVALUATORS[name].summary(pd.DataFrame(many)):
        assert metric.n > 0
        assert not math.isnan(metric.value), metric.name


def test_of_equal_contours_opencv_lists_the_later_first() -> None:
    """Why the tie is a miss in the authors' form of MaxBoxAcc."""
    image = (high(FIRST, SECOND) * 255).astype(np.uint8)
    contours = cv2.findContours(image, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
    assert [cv2.boundingRect(contour)[:2] for contour in contours] == [SECOND[:2], FIRST[:2]]
