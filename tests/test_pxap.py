"""PxAP compared with the protocol's steps: histograms of the pixels of all images."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from covering import covers
from numpy.typing import NDArray
from scipy import ndimage
from wsol_maps import (
    Floats,
    cam,
    examples,
    frame,
    oracle_map,
    square,
    truth_224,
)

from eigencam.datasets.base import Truth
from eigencam.evaluation.base import Metric
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.pxap import PxAP


def oracle_pxap(data: list[tuple[ScoreMap, Truth]], step: float) -> tuple[Metric | float, list[tuple[Floats, Floats]]]:
    """The protocol's steps: histograms of the pixels of all images, then the sum over its bins.

    A map with a NaN, which is zero in the histograms, counts as the worst one: its object is never found.
    """
    edges = np.append(list(np.arange(0, 1, step)), [1.0, 2.0, 3.0])
    histograms = []
    for score_map, truth in data:
        assert truth.mask is not None
        full = oracle_map(score_map.values)
        kinds = (truth.mask == 4, truth.mask == 255)
        wanted, void = (
            cv2.resize(k.astype(np.float32), (224, 224), interpolation=cv2.INTER_NEAREST) > 0.5 for k in kinds
        )
        rest = ~wanted & ~void
        histograms.append(tuple(np.histogram(full[k], bins=edges)[0].astype(float) for k in (wanted, rest)))
    lost = 0.0
    summed = [tuple(h.copy() for h in pair) for pair in histograms]
    for (score_map, _), (wanted, rest) in zip(data, summed, strict=True):
        if np.isnan(score_map.values).any():
            rest[-2], rest[0] = rest[0], 0  # all are in the bin of the largest value
            lost += wanted.sum()
            wanted[:] = 0
    positive, negative = (np.sum([h[k] for h in summed], axis=0) for k in (0, 1))
    tp, fp = positive[::-1].cumsum(), negative[::-1].cumsum()
    there = tp + fp != 0
    with np.errstate(invalid="ignore"):
        precision, recall = tp / (tp + fp), tp / positive.sum() * (positive.sum() / (positive.sum() + lost))
    return (precision[1:] * np.diff(recall))[there[1:]].sum() * 100, histograms


def masked(n: int) -> list[tuple[ScoreMap, Truth]]:
    rng = np.random.default_rng(3)
    data = []
    for i in range(n):
        score_map, truth = examples(n)[i]
        smooth = ndimage.gaussian_filter(rng.normal(size=truth.size), 20)
        mask = np.select([smooth > 0.02, smooth > 0.01, smooth < -0.03], [4, 255, 7], 0).astype(np.uint8)
        data.append((score_map, dataclasses.replace(truth, mask=mask)))
    constant = ScoreMap(np.full((7, 7), 0.3), data[0][1].size)
    return [*data, (constant, data[0][1]), (ScoreMap(np.full((7, 7), np.nan), data[1][1].size), data[1][1])]


@pytest.mark.parametrize("step", [0.001, 0.01, 0.3])
def test_pxap_is_the_protocols(step: float) -> None:
    data = masked(8)
    evaluator = PxAP(step)
    rows = frame([evaluator.row(*pair) for pair in data]).assign(constant_by_design=True)
    wanted, histograms = oracle_pxap(data, step)
    for kind, column in enumerate(("hist_object", "hist_background")):
        for histogram, counts in zip(histograms, rows[column], strict=True):
            assert [*counts, 0] == histogram[kind].tolist()  # no value is in [2, 3)
    metric = evaluator.summary(rows)[0]
    assert metric.value == pytest.approx(wanted, rel=1e-12)
    assert covers(metric)
    assert metric.note == "1 constant, 1 nonfinite of 10 maps"


def test_pxap_of_masks_of_all_sizes() -> None:
    rng = np.random.default_rng(0)
    for _ in range(60):
        height, width = rng.integers(1, 700, 2).tolist()
        mask = rng.integers(0, 2, (height, width)).astype(np.uint8) * 4
        truth = truth_224(size=(height, width), mask=mask)
        row = PxAP().row(ScoreMap(cam(rng, 14), truth.size), truth)
        nearest = cv2.resize(mask, (224, 224), interpolation=cv2.INTER_NEAREST)
        assert row["hist_object"].sum(dtype=int) == (nearest == 4).sum()


def test_pxap_on_paper() -> None:
    mask = np.zeros((224, 224), np.uint8)
    mask[:, :112] = 4
    truth = truth_224(mask=mask)

    def pxap(*maps: NDArray[np.float64], meant: bool = True) -> Metric:
        rows = frame([PxAP().row(ScoreMap(m, truth.size), truth) for m in maps])
        return PxAP().summary(rows.assign(constant_by_design=meant))[0]

    assert pxap((mask == 4).astype(float)).value == 100
    assert pxap((mask == 0).astype(float)).value == 50  # all objects are found at once, together with all other pixels
    assert pxap(np.zeros((7, 7))).value == 50
    # One map is right, one is 0 everywhere: half of the object's pixels are found at precision 1, the rest at 1/2.
    assert pxap((mask == 4).astype(float), np.zeros((7, 7))).value == 75
    # The other object is never found, and its background ranks first: half of the pixels are found at precision 1/2.
    assert pxap((mask == 4).astype(float), np.zeros((7, 7)), meant=False).value == 25
    void = dataclasses.replace(truth, mask=np.where(mask == 0, 255, 4).astype(np.uint8))
    rows = frame([PxAP().row(ScoreMap(np.zeros((7, 7)), truth.size), void)]).assign(constant_by_design=True)
    assert PxAP().summary(rows)[0].value == 100


def test_pxap_that_is_not_defined() -> None:
    without, empty = truth_224(), truth_224(mask=np.zeros((224, 224), np.uint8))
    rows = [PxAP().row(square(0, 0, 9, 9), truth) for truth in (without, empty)]
    assert rows[0].keys() == rows[1].keys()
    for chosen in (rows[:1], rows):
        metric = PxAP().summary(frame(chosen))[0]
        assert np.isnan(metric.value)
        assert "not defined" in metric.note
    with pytest.raises(ValueError, match="allowed"):
        PxAP(0)
    with pytest.raises(ValueError, match="allowed"):
        PxAP(size=0)


def test_pxap_rows_come_back_from_disk(tmp_path: Path) -> None:
    data = [*masked(8), (square(0, 0, 9, 9), truth_224())]
    rows = frame([PxAP().row(*pair) for pair in data])
    rows.to_parquet(tmp_path / "rows.parquet", compression="zstd")
    assert PxAP().summary(pd.read_parquet(tmp_path / "rows.parquet")) == PxAP().summary(rows)
