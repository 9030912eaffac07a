from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.stats
from scipy import sparse

from eigencam.evaluation import intervals, statistics
from eigencam.evaluation.intervals import MeanRatio


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (1, 1), (5, 10), (22388, 50_000)])
def test_wilson_is_that_of_scipy(k: int, n: int) -> None:
    expected = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(intervals.wilson(k, n), (expected.low, expected.high), atol=1e-12)


def test_nothing_has_no_interval() -> None:
    assert np.isnan(intervals.wilson(0, 0)).all()
    assert np.isnan(intervals.of_mean([])).all()
    assert np.isnan(intervals.of_pooled_rate(np.zeros(0), np.zeros(0))).all()
    assert np.isnan(intervals.of_statistic(np.zeros((0, 2)), MeanRatio())).all()


def test_metrics() -> None:
    metric = statistics.rate("error", [True, False, False, False], better="lower", threshold="0.15 max")
    assert (metric.value, metric.n, metric.unit, metric.better) == (25, 4, "%", "lower")
    assert (metric.low, metric.high) == pytest.approx([100 * end for end in intervals.exact(1, 4)])
    metric = statistics.mean("mean_iou", [0.5, np.nan, 1.0])
    assert (metric.value, metric.n) == (75, 2)
    assert np.isnan(statistics.mean("mean_iou", []).value)
    assert statistics.undefined("x", 3, "why").note == "why"


def test_an_image_s_rows_count_as_one_image() -> None:
    rng = np.random.default_rng(5)
    images, values = np.repeat(np.arange(40), rng.integers(1, 6, 40)), rng.random(40)
    rows = pd.DataFrame({"image": images, "value": values[images] + 0.01 * rng.random(len(images))})
    rows.loc[::7, "value"] = np.nan
    [metric] = statistics.by_image([statistics.mean("m", rows["value"])], rows)
    by = rows.groupby("image")["value"]
    sums, counts = by.sum().to_numpy(), by.count().to_numpy()
    expected = scipy.stats.bootstrap(
        (sums, counts),
        lambda s, c, axis=-1: s.sum(axis) / c.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=20000,
        method="BCa",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (metric.low / 100, metric.high / 100) == pytest.approx(tuple(expected), abs=0.02)
    assert metric.n == rows["value"].count()
    before = statistics.mean("m", rows["value"])
    assert metric.high - metric.low > 1.3 * (before.high - before.low)
    assert statistics.by_image([before], rows.assign(image=range(len(rows)))) == [before]
    some = pd.DataFrame({"image": list("aabb")})
    [metric] = statistics.by_image([statistics.mean("m", [0.1, 0.3, np.nan, np.nan])], some)  # b has no value
    assert metric.sample is not None
    np.testing.assert_allclose(np.asarray(metric.sample.parts), [[0.4, 2]])


def test_rows_that_are_left_out_are_told() -> None:
    rows = pd.DataFrame({"image": list("aabbc"), "value": [0.1, 0.2, 0.3, 0.4, 0.5]})
    kept = [True, True, False, False, True]
    short = statistics.mean("m", [0.1, 0.2, 0.5])
    [told], [untold] = (statistics.by_image(m, rows) for m in (statistics.of_rows([short], kept), [short]))
    assert told.sample is not None
    np.testing.assert_allclose(np.asarray(told.sample.parts), [[0.3, 2], [0.5, 1]])
    assert untold is short
    [other] = statistics.of_rows([statistics.mean("m", rows["value"])], kept)  # of all rows: it stays
    assert other.sample is not None
    assert other.sample.rows is None


@pytest.mark.parametrize("hit", [0, 1])
def test_a_rate_of_nothing_or_all_has_an_interval_over_images(hit: int) -> None:
    rows = pd.DataFrame({"image": list("aabbccdd"), "hit": float(hit)})
    [metric] = statistics.by_image([statistics.rate("r", rows["hit"])], rows)
    assert (metric.value, metric.n) == (100 * hit, 8)
    effective = float(
        4 * (intervals.Z95 / scipy.stats.t.ppf(0.975, 3)) ** 2
    )  # four images, however many rows they have
    assert (metric.low / 100, metric.high / 100) == pytest.approx(intervals.exact(effective * hit, effective))
    assert metric.high > metric.low


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (1, 1), (5, 10), (3, 19)])
def test_few_have_the_exact_interval(k: int, n: int) -> None:
    expected = scipy.stats.binomtest(k, n).proportion_ci(method="exact")
    np.testing.assert_allclose(intervals.of_rate(k, n), (expected.low, expected.high), atol=1e-12)


@pytest.mark.parametrize(
    ("gained", "lost", "n"), [(0, 0, 32), (1, 0, 32), (9, 2, 50), (0, 12, 44), (30, 3, 40), (5, 0, 5)]
)
def test_tango_s_ends_are_where_the_score_test_is_just_passed(gained: int, lost: int, n: int) -> None:
    low, high = intervals.of_paired_hits(gained, lost, n)
    assert low < (gained - lost) / n < high or abs(gained - lost) == n
    for end in (low, high):
        if abs(end) > 1 - 1e-6:
            continue

        def likelihood(q: float, end: float = end) -> float:  # q: probability of a loss; end + q: of a gain
            kept = max(1 - 2 * q - end, 1e-300)
            return -(gained * np.log(end + q) + lost * np.log(q) + (n - gained - lost) * np.log(kept))

        least, most = max(0, -end) + 1e-12, (1 - end) / 2 - 1e-12
        options = {"xatol": 1e-12}
        best: Any = scipy.optimize.minimize_scalar(likelihood, bounds=(least, most), method="bounded", options=options)
        q = float(best.x)
        score = (gained - lost - n * end) / np.sqrt(n * (2 * q + end - end**2))
        assert abs(score) == pytest.approx(intervals.Z95, abs=2e-4)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("classes", [1, 4])
def test_influences_are_those_of_leaving_each_image_out(form: type, classes: int) -> None:
    rng = np.random.default_rng(3)
    label, n = rng.integers(0, classes, 40), 40
    parts = np.zeros((n, 2 * classes))
    parts[np.arange(n), label], parts[np.arange(n), classes + label] = rng.random(n), rng.random(n) + 1
    statistic = MeanRatio(classes)
    value, found = intervals.influences(form(parts), statistic)
    without = np.array([statistic(np.delete(parts, k, axis=0).sum(axis=0)[None])[0] for k in range(n)])
    np.testing.assert_allclose(found, value - without, atol=1e-14)
    np.testing.assert_allclose(intervals.influences(form(parts), lambda sums: statistic(sums))[1], found, atol=1e-14)


def test_a_class_of_few_images_leaves_no_interval_and_is_named() -> None:
    label = np.repeat([0, 1, 2], [40, 20, 2])
    parts = np.zeros((62, 6))
    parts[np.arange(62), label], parts[np.arange(62), 3 + label] = np.linspace(0, 1, 62), 1
    metric = statistics.pooled("m", parts, MeanRatio(3), note="3 classes")
    assert np.isnan([metric.low, metric.high]).all()
    assert metric.note == "3 classes"
    assert metric.caution == (
        "biased by rare classes: 1 of 3 in fewer than 10 images; no interval unless each class is in 3 images"
    )
    assert statistics.pooled("m", parts[:60, [0, 1, 3, 4]], MeanRatio(2)).high > 0


@pytest.mark.parametrize("values", [np.zeros(62), np.ones(24), np.full(40, 0.3), np.zeros(5)])
def test_no_interval_is_without_a_width(values: np.ndarray) -> None:
    metrics = [statistics.mean("m", values), statistics.plain_mean("p", values), statistics.rate("r", values > 0.5)]
    counts = np.stack([values, np.ones_like(values)], axis=1)
    metrics += [statistics.pooled("s", counts, MeanRatio(), hits=hits) for hits in (False, True)]
    for metric in metrics:
        assert np.isnan(metric.low) or metric.high - metric.low > 1e-3, metric.name


def test_many_images_are_summed_in_groups_and_the_interval_stays() -> None:
    rng = np.random.default_rng(0)
    rows = pd.DataFrame({"image": [f"{k:07d}" for k in range(12_000)], "value": rng.beta(2, 5, 12_000)})
    before = statistics.mean("m", rows["value"])
    [after] = statistics.by_image([before], rows)
    assert after.sample is not None
    parts: Any = after.sample.parts
    assert parts.shape == (1000, 2)
    assert (after.value, after.n) == (before.value, before.n)
    assert (after.low, after.high) == pytest.approx((before.low, before.high), abs=0.1 * (before.high - before.low))
