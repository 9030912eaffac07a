import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats

from eigencam.evaluation.ranks import Ranking, cliques, critical_difference, draw, ranking


def test_friedman_is_that_of_scipy_and_ties_share_ranks() -> None:
    values = np.random.default_rng(0).integers(0, 5, (6, 4)).astype(float)
    found = ranking("error", list("abcd"), values, "lower")
    assert found.p == pytest.approx(scipy.stats.friedmanchisquare(*values.T).pvalue)
    expected = scipy.stats.rankdata(values, axis=1).mean(axis=0)
    assert dict(zip(found.methods, found.ranks, strict=True)) == pytest.approx(dict(zip("abcd", expected, strict=True)))
    assert list(found.ranks) == sorted(found.ranks)
    higher = ranking("hits", list("abcd"), -values, "higher")
    assert higher.ranks == found.ranks


@pytest.mark.parametrize(("methods", "q"), [(2, 1.960), (3, 2.343), (5, 2.728), (10, 3.164)])
def test_the_critical_difference_has_the_papers_q(methods: int, q: float) -> None:
    # q of the Nemenyi test at 0.05: Demsar (2006), table 5a.
    expected = q * np.sqrt(methods * (methods + 1) / (6 * 14))
    assert critical_difference(methods, 14) == pytest.approx(expected, rel=5e-4)


def test_too_little_to_test() -> None:
    assert np.isnan(ranking("m", ["a", "b", "c"], np.array([[1.0, 2, 3]]), "lower").critical)
    assert np.isnan(ranking("m", ["a", "b"], np.array([[1.0, 2], [1, 2]]), "lower").p)
    assert np.isnan(ranking("m", list("abc"), np.ones((4, 3)), "lower").p)


def test_cliques_are_the_widest_runs() -> None:
    assert cliques([1, 2, 3], 0.5) == []
    assert cliques([1, 2, 3], 5) == [(0, 2)]
    assert cliques([1, 2, 2.5, 4], 1.5) == [(0, 2), (2, 3)]


def test_the_image_names_all_methods_and_is_the_same_each_time(tmp_path: Path) -> None:
    found = Ranking("error", ("eigencam", "gradcam", "mine"), (1.2, 2.0, 2.8), 5, 0.02, 1.48)
    text = draw(found, tmp_path / "a.svg").read_text()
    assert set(re.findall("eigencam|gradcam|mine", text)) == set(found.methods)
    assert draw(found, tmp_path / "b.svg").read_text() == text
    assert draw(found, tmp_path / "a.pdf").read_bytes()[:4] == b"%PDF"
    assert draw(found, tmp_path / "a.png").stat().st_size > 1000
