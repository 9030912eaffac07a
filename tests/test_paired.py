"""Paired comparisons compared with scipy, sums over all sign vectors, and a loop over multinomial weights."""

from math import comb
from typing import Any

import numpy as np
import pytest
import scipy.stats
from scipy import sparse

from eigencam.evaluation import statistics
from eigencam.evaluation.base import Sample
from eigencam.evaluation.paired import _from_the_end, difference, holm, mcnemar, sign_flips


@pytest.mark.parametrize(("b", "c"), [(0, 0), (1, 0), (5, 5), (9, 1), (2, 17), (300, 250)])
def test_mcnemar_is_the_sum_of_the_binomial_tails(b: int, c: int) -> None:
    tail = sum(comb(b + c, k) for k in range(min(b, c) + 1)) / 2 ** (b + c)
    assert mcnemar(b, c) == pytest.approx(min(1, 2 * tail), rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 10, 13])
@pytest.mark.parametrize("seed", range(3))
def test_sign_flips_of_few_are_those_of_scipy(n: int, seed: int) -> None:
    values = np.random.default_rng(seed).normal(0.3, 1, n).round(1)
    if n == 1:
        assert sign_flips(values) == 1
        return
    expected = scipy.stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=10_000)
    assert sign_flips(values) == pytest.approx(expected.pvalue)


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.1])
@pytest.mark.parametrize("form", ["ties", "normal", "heavy"])
def test_sign_flips_of_many_are_those_of_scipy(form: str, shift: float) -> None:
    rng = np.random.default_rng(4)
    drawn = {"ties": rng.integers(-2, 3, 600) / 2, "normal": rng.normal(0, 1, 600), "heavy": rng.standard_t(2, 600)}
    values = drawn[form] + shift * np.abs(drawn[form])
    resamples = 20_000
    expected = scipy.stats.permutation_test(
        (values,),
        lambda x, axis: x.sum(axis),
        permutation_type="samples",
        n_resamples=resamples,
        vectorized=True,
        batch=2000,
        rng=np.random.default_rng(1),
    ).pvalue
    error = np.sqrt(2 * expected * (1 - expected) / resamples)
    assert sign_flips(values, resamples) == pytest.approx(expected, abs=float(5 * error + 2e-4))


def test_no_difference_is_no_evidence() -> None:
    assert sign_flips([]) == sign_flips([0.0, 0.0]) == 1
    assert sign_flips([np.float64(1), -1]) == 1


def test_the_change_of_means_has_the_interval_of_the_changes() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.random(400), rng.random(400) + 0.1
    found = difference(Sample(a), Sample(b))
    expected = scipy.stats.ttest_1samp(b - a, 0).confidence_interval()
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=2e-4)  # hardly skewed
    assert found.value == pytest.approx((b - a).mean())
    assert (found.a, found.b, found.n) == (a.mean(), b.mean(), 400)
    assert (found.larger, found.smaller) == ((b > a).sum(), (b < a).sum())
    assert found.test == "sign flips"
    few = difference(Sample(a[:29]), Sample(b[:29]))
    assert np.isnan([few.low, few.high]).all()


def test_equal_methods_differ_by_an_interval_that_has_a_width() -> None:
    hits = np.repeat([0.0, 1.0], 20)
    found = difference(Sample(hits), Sample(hits))
    assert found.low == pytest.approx(-found.high)
    assert found.high > 0.05


def test_equal_sums_count_as_equal_whatever_the_rounding() -> None:
    values = np.repeat([0.1, -0.1, 0.3, -0.3], [101, 100, 50, 50])
    assert sign_flips(values) == 1  # no sign vector's sum is smaller than the observed 0.1


def test_what_is_cut_covers_all_values() -> None:
    for n in range(65, 400):
        starts = n - _from_the_end(n)[:0:-1]
        assert starts[0] >= 0
        assert (np.diff(starts) > 0).all()
        assert starts[-1] == n - 1


def test_hits_are_tested_by_mcnemar_and_images_without_a_value_left_out() -> None:
    a = np.array([1, 1, 0, 0, 1, np.nan, 0, 1.0])
    b = np.array([1, 0, 1, 1, 1, 1.0, 1, np.nan])
    found = difference(Sample(a), Sample(b))
    assert (found.n, found.larger, found.smaller, found.test) == (6, 3, 1, "mcnemar")
    assert found.p == pytest.approx(mcnemar(3, 1))
    nothing = difference(Sample(np.array([np.nan])), Sample(np.array([1.0])))
    assert nothing.n == 0
    assert np.isnan(nothing.p)


def ratio(sums: np.ndarray) -> np.ndarray:
    return sums[:, 0] / sums[:, 1]


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_array])
def test_metrics_of_sums_with_equal_denominators_are_means(form: type) -> None:
    rng = np.random.default_rng(5)
    a, b = rng.random(9), rng.random(9)
    ones = np.ones(9)
    first, second = (Sample(form(np.stack([x, ones], 1)), ratio) for x in (a, b))
    pooled = difference(first, second)
    plain = difference(Sample(a), Sample(b))
    assert (pooled.a, pooled.b, pooled.value) == pytest.approx((plain.a, plain.b, plain.value))
    assert pooled.p == pytest.approx(plain.p)  # both exact: 512 sign vectors
    assert (pooled.larger, pooled.n) == (-1, 9)


def test_metrics_of_sums_exchange_whole_images() -> None:
    rng = np.random.default_rng(6)
    a, b = rng.integers(1, 9, (8, 2)).astype(float), rng.integers(1, 9, (8, 2)).astype(float)
    observed = abs(ratio(b.sum(0)[None])[0] - ratio(a.sum(0)[None])[0])
    extreme = 0
    for code in range(256):
        swap = np.array([code >> i & 1 for i in range(8)], bool)[:, None]
        x, y = np.where(swap, b, a).sum(0), np.where(swap, a, b).sum(0)
        extreme += abs(y[0] / y[1] - x[0] / x[1]) >= observed - 1e-12
    assert difference(Sample(a, ratio), Sample(b, ratio)).p == pytest.approx(extreme / 256)


def test_the_interval_of_sums_is_that_of_scipy() -> None:
    rng = np.random.default_rng(8)
    total = rng.integers(5, 50, 80).astype(float)
    a, b = (np.stack([rng.binomial(total.astype(int), q), total], 1).astype(float) for q in (0.4, 0.5))
    found = difference(Sample(a, ratio), Sample(b, ratio))
    expected = scipy.stats.bootstrap(
        (a[:, 0], b[:, 0], total),
        lambda x, y, t, axis: (y.sum(axis) - x.sum(axis)) / t.sum(axis),
        paired=True,
        n_resamples=5000,
        method="percentile",
        batch=500,
        rng=rng,
    ).confidence_interval
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=0.004)
    assert found.p == pytest.approx(1e-4, abs=1e-3)


def test_samples_of_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="not the same images"):
        difference(Sample(np.zeros(3)), Sample(np.zeros(4)))


def test_holm_by_hand() -> None:
    found = holm([0.01, np.nan, 0.04, 0.03, 0.005])
    np.testing.assert_allclose(found, [0.03, np.nan, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]).tolist() == [1, 1]
    assert holm([]).tolist() == []


def test_metrics_carry_their_samples_and_do_not_store_them() -> None:
    metric = statistics.mean("mean_iou", [0.5, np.nan, 1.0])
    assert metric.sample
    np.testing.assert_array_equal(np.asarray(metric.sample.parts), [0.5, np.nan, 1.0])
    assert "sample" not in metric.stored()
    rate = statistics.rate("error", [True, False])
    assert rate.sample
    assert np.asarray(rate.sample.parts).tolist() == [1, 0]


def test_the_difference_that_n_images_show_is_found_in_four_of_five_samples() -> None:
    rng, found = np.random.default_rng(0), 0
    sample = rng.normal(0, 1, 100)
    shown = difference(Sample(np.zeros(100)), Sample(sample)).shown
    for _ in range(1000):
        test: Any = scipy.stats.ttest_1samp(rng.normal(shown / sample.std(), 1, 100), 0)
        found += test.pvalue < 0.05
    assert found / 1000 == pytest.approx(0.8, abs=0.05)
    hits = np.repeat([0.0, 1.0], 50)
    assert difference(Sample(hits), Sample(hits)).shown > 0.02  # no observed difference is no proof of precision
