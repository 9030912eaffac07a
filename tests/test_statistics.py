import time

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from eigencam.evaluation import statistics


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (1, 1), (5, 10), (22388, 50_000)])
def test_wilson_is_that_of_scipy(k: int, n: int) -> None:
    expected = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(statistics.wilson(k, n), (expected.low, expected.high), atol=1e-12)


def test_nothing_has_no_interval() -> None:
    assert np.isnan(statistics.wilson(0, 0)).all()
    assert np.isnan(statistics.bootstrap_mean([])).all()
    assert np.isnan(statistics.bootstrap_mean([np.nan])).all()
    low, high = statistics.bootstrap_pooled(np.zeros((0, 2)), lambda sums: sums[:, 0] / 1)
    assert np.isnan(low)
    assert np.isnan(high)


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).integers(0, 2, 60).astype(float),  # two values: exact
        np.random.default_rng(1).random(80),  # few values: exact
        np.random.default_rng(2).exponential(size=700),  # in groups
        np.concatenate([np.random.default_rng(3).random(600) / 100, [50.0]]),  # one outlier decides
    ],
)
def test_mean_is_that_of_scipy(values: np.ndarray) -> None:
    resamples = 20_000
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=resamples, method="percentile", batch=200, rng=np.random.default_rng(9)
    ).confidence_interval
    # The Monte Carlo error of a 2.5 % quantile of 20,000 is about 0.02 standard errors.
    tolerance = 0.08 * values.std() / np.sqrt(len(values))
    np.testing.assert_allclose(statistics.bootstrap_mean(values, resamples), expected, rtol=0, atol=tolerance)


def test_pooled_is_that_of_scipy() -> None:
    rng = np.random.default_rng(0)
    total = rng.integers(1, 100, 50).astype(float)
    hits = rng.binomial(total.astype(int), 0.3).astype(float)
    expected = scipy.stats.bootstrap(
        (hits, total),
        lambda h, t, axis: h.sum(axis) / t.sum(axis),
        paired=True,
        n_resamples=20_000,
        batch=200,
        method="percentile",
        rng=np.random.default_rng(9),
    )
    low, high = statistics.bootstrap_pooled(np.stack([hits, total], 1), lambda sums: sums[:, 0] / sums[:, 1], 20_000)
    np.testing.assert_allclose((low, high), expected.confidence_interval, rtol=0, atol=0.002)


def test_pooled_takes_several_statistics_and_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.random.default_rng(0).random((20, 3))
    whole = statistics.bootstrap_pooled(counts, lambda sums: sums[:, 1:] / sums[:, :1])
    monkeypatch.setattr(statistics, "_WEIGHTS", 70)
    pieces = statistics.bootstrap_pooled(counts, lambda sums: sums[:, 1:] / sums[:, :1])
    assert whole[0].shape == (2,)
    np.testing.assert_allclose(whole, pieces)


def test_undefined_resamples_are_left_out() -> None:
    counts = np.array([[1.0, 1.0], [0.0, 0.0]])

    def ratio(sums: np.ndarray) -> np.ndarray:
        return np.divide(sums[:, 0], sums[:, 1], out=np.full(len(sums), np.nan), where=sums[:, 1] > 0)

    assert statistics.bootstrap_pooled(counts, ratio) == (1, 1)
    assert np.isnan(statistics.bootstrap_pooled(counts[1:], ratio)).all()


def test_deterministic_and_fast() -> None:
    values = np.random.default_rng(0).random(50_000)
    first = statistics.bootstrap_mean(values)
    start = time.perf_counter()
    assert statistics.bootstrap_mean(values) == first
    assert time.perf_counter() - start < 1  # 0.03 s; scipy takes 5 s
    assert statistics.bootstrap_mean(values, seed=1) != first
    assert first[0] < values.mean() < first[1]


def test_metrics() -> None:
    metric = statistics.rate("error", [True, False, False, False], better="lower", threshold="0.15 max")
    assert (metric.value, metric.n, metric.unit, metric.better) == (25, 4, "%", "lower")
    assert (metric.low, metric.high) == pytest.approx([100 * end for end in statistics.wilson(1, 4)])
    metric = statistics.mean("mean_iou", [0.5, np.nan, 1.0])
    assert (metric.value, metric.n) == (75, 2)
    assert np.isnan(statistics.mean("mean_iou", []).value)
    assert statistics.undefined("x", 3, "why").note == "why"


def test_a_picture_s_rows_count_as_one_picture() -> None:
    rng = np.random.default_rng(5)
    images, values = np.repeat(np.arange(40), rng.integers(1, 6, 40)), rng.random(40)
    rows = pd.DataFrame({"image": images, "value": values[images] + 0.01 * rng.random(len(images))})
    rows.loc[::7, "value"] = np.nan
    [metric] = statistics.by_picture([statistics.mean("m", rows["value"])], rows)
    by = rows.groupby("image")["value"]
    sums, counts = by.sum().to_numpy(), by.count().to_numpy()
    expected = scipy.stats.bootstrap(
        (sums, counts),
        lambda s, c, axis=-1: s.sum(axis) / c.sum(axis),
        paired=True,
        vectorized=True,
        n_resamples=20000,
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (metric.low / 100, metric.high / 100) == pytest.approx(tuple(expected), abs=0.012)
    assert metric.n == rows["value"].count()
    before = statistics.mean("m", rows["value"])
    assert metric.high - metric.low > 1.3 * (before.high - before.low)
    assert statistics.by_picture([before], rows.assign(image=range(len(rows)))) == [before]
    some = pd.DataFrame({"image": list("aabb")})
    [metric] = statistics.by_picture([statistics.mean("m", [0.1, 0.3, np.nan, np.nan])], some)  # b has no value
    assert metric.sample is not None
    np.testing.assert_allclose(np.asarray(metric.sample.parts), [[0.4, 2]])


def test_rows_that_are_left_out_are_told() -> None:
    rows = pd.DataFrame({"image": list("aabbc"), "value": [0.1, 0.2, 0.3, 0.4, 0.5]})
    kept = [True, True, False, False, True]
    short = statistics.mean("m", [0.1, 0.2, 0.5])
    [told], [untold] = (statistics.by_picture(m, rows) for m in (statistics.of_rows([short], kept), [short]))
    assert told.sample is not None
    np.testing.assert_allclose(np.asarray(told.sample.parts), [[0.3, 2], [0.5, 1]])
    assert untold is short
    [other] = statistics.of_rows([statistics.mean("m", rows["value"])], kept)  # of all rows: it stays
    assert other.sample is not None
    assert other.sample.rows is None


@pytest.mark.parametrize("hit", [0, 1])
def test_a_rate_of_nothing_or_all_has_an_interval_over_pictures(hit: int) -> None:
    rows = pd.DataFrame({"image": list("aabbccdd"), "hit": float(hit)})
    [metric] = statistics.by_picture([statistics.rate("r", rows["hit"])], rows)
    assert (metric.value, metric.n) == (100 * hit, 8)
    assert (metric.low / 100, metric.high / 100) == pytest.approx(statistics.wilson(4 * hit, 4))
