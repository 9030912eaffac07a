"""Similarities of maps compared with scipy and scikit-image, one pair at a time."""

import numpy as np
import pytest
from scipy.stats import spearmanr
from skimage.metrics import structural_similarity

from eigencam.evaluation.similarity import cosine, hog, rank_correlation, ssim


def maps(seed: int, h: int = 24, w: int = 17) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(5, h, w)).astype(np.float32)


def test_rank_correlation_is_scipys_with_ties() -> None:
    a, b = np.round(2 * maps(0)), np.round(2 * (maps(0) + maps(1)))
    for absolute in (False, True):
        found = rank_correlation(a, b, absolute=absolute)
        for n in range(5):
            x, y = (np.abs(v[n].ravel()) if absolute else v[n].ravel() for v in (a, b))
            assert found[n] == pytest.approx(spearmanr(x, y)[0])
    assert 0.3 < rank_correlation(a, b)[0] < 0.95


def test_cosine_is_numpys_and_does_not_overflow() -> None:
    a, b = maps(2), maps(3)
    expected = [np.vdot(x, y) / np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(cosine(a, b), expected, rtol=1e-4)
    np.testing.assert_allclose(cosine(1e300 * a.astype(float), 1e-300 * b.astype(float)), expected, rtol=1e-4)


def test_ssim_is_scikit_images() -> None:
    a, b = maps(4), maps(4) + 0.3 * maps(5)
    for n, found in enumerate(ssim(a, b)):
        x, y = ((v[n] - v[n].min()) / np.ptp(v[n]) for v in (a.astype(float), b.astype(float)))
        assert found == pytest.approx(structural_similarity(x, y, data_range=1), rel=1e-6)


@pytest.mark.parametrize("measure", [rank_correlation, cosine, ssim, hog])
def test_a_map_is_like_itself_and_the_order_of_the_pair_does_not_matter(measure) -> None:  # type: ignore[no-untyped-def]
    a, b = maps(6), maps(7)
    np.testing.assert_allclose(measure(a, a), 1)
    np.testing.assert_allclose(measure(a, b), measure(b, a))
    assert (measure(a, b) < 0.9).all()


@pytest.mark.parametrize("measure", [rank_correlation, cosine, ssim, hog])
def test_a_pair_without_variation_or_with_nan_has_none(measure) -> None:  # type: ignore[no-untyped-def]
    a, b = maps(8), maps(9)
    a[0], b[1], a[2, 3, 3] = 0, 0, np.nan
    found = measure(a, b)
    assert np.isnan(found).tolist() == [True, True, True, False, False]


def test_small_maps() -> None:
    one = np.ones((2, 1, 1), np.float32)
    assert np.isnan(rank_correlation(one, one)).all()
    assert cosine(one, -one).tolist() == [-1, -1]
    assert np.isnan(ssim(maps(0, 6, 9), maps(1, 6, 9))).all()
    assert np.isnan(hog(maps(0, 7, 9), maps(1, 7, 9))).all()
    row = maps(0, 1, 9)
    np.testing.assert_allclose(rank_correlation(row, 2 * row), 1)


def test_different_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="equal shapes"):
        cosine(maps(0), maps(0, 9, 9))
