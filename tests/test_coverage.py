"""Whether intervals have the stated coverage; `scripts/interval_coverage.py` is the full simulation."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

from interval_coverage import Case, cases, exact, simulated

pytestmark = pytest.mark.full

CASES = {(case.kind, case.data): case for case in cases()}
SAMPLES = 400
"""The standard error of a coverage of 95 % is then 1.1 %."""


@pytest.mark.parametrize("n", [5, 19, 20, 60, 326])
def test_rates_cover_on_average_and_the_exact_ones_everywhere(n: int) -> None:
    line = exact(n)
    assert 94 <= line.coverage <= (97.5 if n >= 20 else 99.5)
    assert line.least >= (83 if n >= 20 else 95)


@pytest.mark.parametrize(
    ("kind", "data", "n"),
    [
        ("mean", "overlaps", 30),
        ("mean", "exponential", 60),
        ("mean", "very skewed", 122),
        ("paired change of a mean", "changes, heavy tails", 30),
        ("paired change of hit or miss", "20 % gained, 5 % lost", 60),
        ("pooled rate", "p = 0.1, 1 to 6 objects an image, correlation 0.2", 19),
        ("pooled rate", "p = 0.03, 1 to 6 objects an image, correlation 0", 19),
        ("ratio of sums", "overlaps of 1 to 6 objects an image", 30),
        ("mean over classes of hits", "20 classes, of size 1 / rank^0.5", 326),
        ("mean IoU", "20 classes, of size 1 / rank^0.5", 326),
        ("area under a curve", "pixels of 16 levels", 60),
    ],
)
def test_intervals_cover(kind: str, data: str, n: int) -> None:
    line = simulated(CASES[kind, data], n, SAMPLES)
    assert line.printed > 90
    assert 91.5 <= line.coverage <= 99
    assert max(line.misses_low, line.misses_high) < 7


def test_few_discordant_pairs_have_an_interval_that_covers() -> None:
    line = simulated(CASES["paired change of hit or miss", "1.5 % gained, 1.5 % lost"], 32, SAMPLES)
    assert line.printed == 100
    assert line.coverage > 93


@pytest.mark.parametrize("n", [5, 29])
@pytest.mark.parametrize("key", [key for key in CASES if "rate" not in key[0] and "hit or miss" not in key[0]])
def test_where_too_few_images_are_no_interval_is_printed(key: tuple[str, str], n: int) -> None:
    assert simulated(CASES[key], n, 3).printed == 0


def test_a_simulation_finds_intervals_that_are_too_short() -> None:
    def short(rng: np.random.Generator, n: int) -> tuple[float, float]:
        mean = rng.normal(0, 1 / np.sqrt(n))
        return mean - 1.5 / np.sqrt(n), mean + 1.5 / np.sqrt(n)

    assert simulated(Case("mean", "normal", 0.0, short), 20, 1000).coverage == pytest.approx(86.6, abs=4)
