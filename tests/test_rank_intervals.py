"""Which method is first, compared with plain resampling."""

import numpy as np
import pytest

from eigencam.evaluation import statistics
from eigencam.evaluation.base import Sample
from eigencam.evaluation.intervals import MeanRatio
from eigencam.evaluation.rank_intervals import placings


def test_first_is_the_share_of_plain_resamples_that_a_method_wins() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((3, 60)) + np.array([[0.0], [0.04], [0.05]])
    found = placings({name: Sample(own) for name, own in zip("abc", values, strict=True)}, "higher")
    drawn = rng.integers(0, 60, (4000, 60))
    winners = values[:, drawn].mean(axis=2).argmax(axis=0)
    for k, name in enumerate("abc"):
        assert found[name].first == pytest.approx((winners == k).mean(), abs=0.05)
        assert found[name].low <= found[name].rank <= found[name].high
    assert sum(placing.first for placing in found.values()) == pytest.approx(1)
    assert [found[name].rank for name in "abc"] == (3 - values.mean(axis=1).argsort().argsort()).tolist()
    lower = placings({name: Sample(own) for name, own in zip("abc", values, strict=True)}, "lower")
    assert [lower[name].rank for name in "abc"] == [4 - found[name].rank for name in "abc"]


def test_equal_methods_share_the_first_place_and_a_clear_one_has_it() -> None:
    rng = np.random.default_rng(1)
    values = rng.random(50)
    found = placings({"a": Sample(values), "b": Sample(values), "c": Sample(values - 1)}, "higher")
    assert (found["a"].first, found["b"].first, found["c"].first) == (0.5, 0.5, 0)
    assert (found["a"].rank, found["c"].rank) == (1.5, 3)
    assert (found["c"].low, found["c"].high) == (3, 3)


def test_ratios_are_placed_as_means_where_all_denominators_are_one() -> None:
    rng = np.random.default_rng(2)
    values = rng.random((2, 80))
    means = placings({name: Sample(own) for name, own in zip("ab", values, strict=True)}, "higher")
    ratios = placings(
        {name: Sample(np.stack([own, np.ones(80)], 1), MeanRatio()) for name, own in zip("ab", values, strict=True)},
        "higher",
    )
    assert ratios["a"].first == pytest.approx(means["a"].first, abs=0.01)


def test_images_without_a_value_in_one_of_them_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random((2, 40))
    holes = np.append(b, [np.nan, np.nan])
    found = placings({"a": Sample(np.append(a, [9.0, 9.0])), "b": Sample(holes)}, "higher")
    assert found == placings({"a": Sample(a), "b": Sample(b)}, "higher")
    assert placings({"a": Sample(np.full(3, np.nan)), "b": Sample(np.ones(3))}, "higher") == {}
    monkeypatch.setattr(statistics, "MOST_IMAGES", 20)
    monkeypatch.setattr(statistics, "GROUPS", 10)
    grouped = placings({"a": Sample(a), "b": Sample(b)}, "higher")
    assert grouped["a"].first == pytest.approx(found["a"].first, abs=0.2)
