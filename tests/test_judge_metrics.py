"""How metrics are judged: the statistics compared with SciPy's, and a table of few images."""

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import kendalltau

from eigencam.evaluation.base import Sample
from eigencam.evaluation.intervals import MeanRatio

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import rank_agreement
from judge_metrics import main
from metrics_page import verdict
from rank_agreement import halves, mean_defined, resampled, tau, values_of

pytestmark = pytest.mark.full


def scipys(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    found: Any = kendalltau(a, b)
    return found.statistic


def test_tau_is_scipy_s_and_near_values_tie() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 6, (20, 9)).astype(float), rng.integers(0, 6, (20, 9)).astype(float)
    expected = [scipys(a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(tau(x, y), expected)
    np.testing.assert_allclose(tau(x + 1e-6 * rng.random(x.shape), y), expected)
    np.testing.assert_allclose(tau(x, -y), np.negative(expected))
    x[0, 3] = np.nan
    assert tau(x, y)[0] == pytest.approx(scipys(np.delete(x[0], 3), np.delete(y[0], 3)))
    assert np.isnan(tau(np.ones((1, 4)), y[:1, :4])).all()


def test_values_of_resampled_images() -> None:
    parts = np.array([1.0, np.nan, 3.0, 8.0])
    weights = np.array([[1.0, 1, 1, 1], [2, 5, 0, 1], [0, 4, 0, 0]])
    np.testing.assert_allclose(values_of(Sample(parts), weights), [4, 10 / 3, np.nan])
    ratio = Sample(np.array([[1.0, 2], [3, 4], [0, 2]]), MeanRatio(), rows=np.array([True, False, True, True]))
    np.testing.assert_allclose(values_of(ratio, weights[:2]), [4 / 8, 2 / 6])
    drawn = resampled(5, 0)
    assert (drawn.sum(axis=1) == 5).all()
    assert (drawn[0] == 1).all()
    one, other = halves(7, 0)
    assert ((one + other) == 1).all()
    assert (one.sum(axis=1) == 3).all()


def test_a_mean_of_what_is_defined() -> None:
    np.testing.assert_equal(
        mean_defined([np.array([1.0, np.nan, np.nan]), np.array([3.0, 5.0, np.nan])]), [2, 5, np.nan]
    )
    assert mean_defined([np.nan, 4.0]) == 4


def test_verdicts() -> None:
    nothing, above, over, below = (np.nan, np.nan, np.nan), (0.5, 0.2, 0.7), (0.1, -0.2, 0.4), (-0.5, -0.7, -0.2)
    assert verdict({"a": above, "b": nothing}, 90) == "follows the truth"
    assert verdict({"a": above, "b": over}, 90) == "follows 1 of 2"
    assert verdict({"a": over, "b": below}, 90) == "against 1 of 2"
    assert verdict({"a": above, "b": below, "c": over}, 90) == "follows 1 of 3, against 1 of 3"
    assert verdict({"a": over, "b": over}, 90) == "undecided"
    assert verdict({"a": above}, 50) == "blind to the place"
    assert verdict({"a": above}, np.nan) == "follows the truth"


def test_a_table_of_few_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rank_agreement, "RESAMPLES", 50)
    few = ["--images", "2", "--settings", "planted", "--evaluators", "infidelity,max_sensitivity,sparseness,energy"]
    files = ["--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "t.csv"), "--page", str(tmp_path / "t.md")]
    main([*few, *files, "--methods", "gradcam,gradient,eigencam", "--mirrored", "gradient"])
    lines = (tmp_path / "t.csv").read_text().splitlines()
    assert "--runs FOLDER" in lines[0]
    assert "planted 4;" in lines[1]
    rows = {row["metric"]: row for row in csv.DictReader(lines[2:])}
    share, gini = rows["infidelity_share"], rows["gini"]
    assert float(share["tau_planted"]) > 0.5
    assert float(share["tau_planted_low"]) <= float(share["tau_planted"]) <= float(share["tau_planted_high"])
    assert (share["passes_each"], share["passes_once"], gini["passes_each"]) == ("0", "49", "0")
    assert rows["max_sensitivity"]["passes_each"] == "4"
    assert -1 <= float(share["stable_filling"]) <= 1
    assert -1 <= float(rows["max_sensitivity"]["stable_seed"]) <= 1
    assert gini["stable_seed"] == gini["tau_wired"] == ""
    assert float(rows["energy_inside"]["tau"]) > 0.5
    assert (gini["mirror"], gini["verdict"]) == (
        "50",
        "blind to the place",
    )  # a map and its mirror image are equally sparse
    assert (share["mirror"], rows["energy_inside"]["mirror"]) == ("100", "100")
    assert float(rows["gradient"]["planted"]) > 95 > 20 > float(rows["mirrored_gradient"]["planted"])
    page = (tmp_path / "t.md").read_text()
    assert f"| `infidelity_share` | network | {share['tau_planted']} [" in page
    assert "| `mirrored_gradient` |" in page
    assert "**wired**" not in page
