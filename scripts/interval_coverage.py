"""How often the 95 % intervals contain the true value, by simulation.

    python scripts/interval_coverage.py --out results/coverage.csv     (1.5 minutes of one core: 2,000 samples per row)
    python scripts/interval_coverage.py --samples 300 --sizes 30,100

It covers every kind of metric, 5 to 5,000 images, rates close to 0 and to 1, and several objects per image. Rates of
independent images are not simulated: the binomial distribution is summed, over 999 rates from 0.001 to 0.999. For these
`coverage` is the mean and `least` the minimum, and `misses_low` and `misses_high` are the worst tails. For everything
else `coverage` is the fraction of intervals that contain the true value, and `misses_low` the fraction that lie below
it. Both are fractions of the intervals that are not NaN; `printed` is how many of all samples have one.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from scipy import special, stats

from eigencam.evaluation import intervals
from eigencam.evaluation.intervals import Floats, Interval, MeanRatio
from eigencam.evaluation.paired import interval as of_change
from eigencam.evaluation.pxap import average_precision
from eigencam.files import write_text
from eigencam.store.environment import git

SIZES = (5, 8, 16, 19, 30, 60, 122, 326, 1000, 5000)
COLUMNS = ("kind", "data", "n", "samples", "printed", "coverage", "misses_low", "misses_high", "least")
CLASSES = 20


class Line(NamedTuple):
    """One line of the table, shares in percent."""

    kind: str
    data: str
    n: int
    samples: int
    printed: float
    coverage: float
    misses_low: float
    misses_high: float
    least: float = float("nan")


@dataclass(frozen=True, slots=True)
class Case:
    """A kind of metric on one kind of data.

    Attributes:
        kind: of metric.
        data: in words.
        truth: the value that intervals should contain.
        draw: (generator, number of images) -> an interval.
    """

    kind: str
    data: str
    truth: float
    draw: Callable[[Generator, int], Interval]


def values(name: str, rng: Generator, n: int) -> Floats:
    """(N,) values as metrics have them."""
    made = {
        "uniform": lambda: rng.random(n),
        "two ends": lambda: rng.beta(0.5, 0.5, n),
        "overlaps": lambda: np.where(rng.random(n) < 0.2, 0.0, rng.beta(4, 2, n)),
        "skewed": lambda: rng.beta(1, 8, n),
        "very skewed": lambda: rng.beta(0.3, 2, n),
        "exponential": lambda: rng.exponential(1, n),
        "lognormal": lambda: rng.lognormal(0, 1, n),
        "80 % zeros": lambda: np.where(rng.random(n) < 0.8, 0.0, rng.random(n)),
        "changes": lambda: rng.normal(0.02, 0.1, n),
        "changes, heavy tails": lambda: rng.standard_t(3, n),
        "changes, 70 % zeros": lambda: np.where(rng.random(n) < 0.7, 0.0, rng.normal(0, 0.2, n)),
    }
    return made[name]()


MEANS = {
    "uniform": 0.5,
    "two ends": 0.5,
    "overlaps": 0.8 * 2 / 3,
    "skewed": 1 / 9,
    "very skewed": 0.3 / 2.3,
    "exponential": 1.0,
    "lognormal": float(np.exp(0.5)),
    "80 % zeros": 0.1,
}
CHANGES = {"changes": 0.02, "changes, heavy tails": 0.0, "changes, 70 % zeros": 0.0}


def cases() -> Iterator[Case]:
    """All kinds except rates of independent images."""
    for name, truth in MEANS.items():
        yield Case("mean", name, truth, lambda rng, n, name=name: intervals.of_mean(values(name, rng, n)))
    for name, truth in CHANGES.items():
        yield Case("paired change of a mean", name, truth, lambda rng, n, name=name: of_change(values(name, rng, n)))
    for gained, lost in ((0.015, 0.015), (0.03, 0.0), (0.05, 0.05), (0.2, 0.05), (0.3, 0.3), (0.9, 0.05)):
        what = f"{100 * gained:g} % gained, {100 * lost:g} % lost"
        yield Case(
            "paired change of hit or miss", what, gained - lost, lambda rng, n, g=gained, o=lost: paired(rng, n, g, o)
        )
    for p in (0.01, 0.03, 0.1, 0.5, 0.9, 0.97):
        for alike in (0.0, 0.2, 0.5):
            what = f"p = {p:g}, 1 to 6 objects an image, correlation {alike:g}"
            yield Case("pooled rate", what, p, lambda rng, n, p=p, alike=alike: pooled(rng, n, p, alike))
    yield Case("ratio of sums", "overlaps of 1 to 6 objects an image", MEANS["overlaps"], ratio)
    rates = np.clip(np.random.default_rng(7).beta(2, 1.2, CLASSES), 0.03, 0.97)
    for skew in (0.0, 0.5, 1.0):
        truth, words = float(rates.mean()), f"{CLASSES} classes, of size 1 / rank^{skew:g}"
        yield Case("mean over classes of hits", words, truth, lambda rng, n, s=skew: classes(rng, n, rates, s, "hits"))
        yield Case("mean IoU", words, truth, lambda rng, n, s=skew: classes(rng, n, rates, s, "pixels"))
    yield Case("area under a curve", "pixels of 16 levels", pooled_area(), area)


def paired(rng: Generator, n: int, gained: float, lost: float) -> Interval:
    """Interval of paired hits that are gained and lost."""
    found = rng.multinomial(n, [gained, lost, 1 - gained - lost])
    return intervals.of_paired_hits(int(found[0]), int(found[1]), n)


def pooled(rng: Generator, n: int, p: float, alike: float) -> Interval:
    """Interval of the rate of found objects, correlated within an image."""
    objects = rng.integers(1, 7, n).astype(np.float64)
    own = rng.beta(p * (1 - alike) / alike, (1 - p) * (1 - alike) / alike, n) if alike else np.full(n, p)
    return intervals.of_pooled_rate(rng.binomial(objects.astype(int), own).astype(np.float64), objects)


def ratio(rng: Generator, n: int) -> Interval:
    """Interval of the mean over objects, correlated within an image."""
    objects = rng.integers(1, 7, n).astype(np.float64)
    return intervals.of_statistic(np.stack([values("overlaps", rng, n) * objects, objects], axis=1), MeanRatio())


def classes(rng: Generator, n: int, rates: Floats, skew: float, of: str) -> Interval:
    """Interval of the mean over classes of different frequency, of hits or of correct pixels."""
    share = np.arange(1.0, CLASSES + 1) ** -skew
    label = rng.choice(CLASSES, n, p=share / share.sum())
    size = np.ones(n) if of == "hits" else rng.lognormal(0, 1, n)
    own = rates[label]
    right = rng.random(n) < own if of == "hits" else rng.beta(4 * own, 4 * (1 - own))
    parts = np.zeros((n, 2 * CLASSES))
    parts[np.arange(n), label], parts[np.arange(n), CLASSES + label] = right * size, size
    occurs = parts[:, CLASSES:].any(axis=0)
    return intervals.of_statistic(parts[:, np.concatenate([occurs, occurs])], MeanRatio(int(occurs.sum())))


def pixels(rng: Generator, n: int) -> Floats:
    """(N, 32), 16 levels: pixels of the object, and other pixels."""
    good, size = rng.beta(3, 2, n), rng.lognormal(5, 0.7, n)
    levels = np.arange(16)
    wanted, rest = (special.softmax(c * good[:, None] * (levels - 8) / 8, axis=1) for c in (3.0, -3.0))
    return np.concatenate([wanted * size[:, None], 3 * rest * size[:, None]], axis=1)


def pooled_area() -> float:
    """Average precision for very many images."""
    rng, sums = np.random.default_rng(11), np.zeros(32)
    for _ in range(20):
        sums += pixels(rng, 50_000).sum(axis=0)
    return float(average_precision(sums[None])[0])


def area(rng: Generator, n: int) -> Interval:
    """Interval of the average precision over all images' pixels."""
    return intervals.of_statistic(pixels(rng, n), average_precision)


def simulated(case: Case, n: int, samples: int) -> Line:
    """One line of the table."""
    rng = np.random.default_rng([n, *case.data.encode(), *case.kind.encode()])
    ends = np.array([case.draw(rng, n) for _ in range(samples)])
    ends = ends[~np.isnan(ends[:, 0])]
    low, high = (
        float(np.mean(miss)) if len(ends) else np.nan for miss in (ends[:, 1] < case.truth, ends[:, 0] > case.truth)
    )
    printed = 100 * len(ends) / samples
    return Line(case.kind, case.data, n, samples, printed, 100 * (1 - low - high), 100 * low, 100 * high)


def exact(n: int) -> Line:
    """Row of the rate of independent images, whose distribution is known."""
    p, k = np.arange(1, 1000)[:, None] / 1000, np.arange(n + 1)
    low, high = np.array([intervals.of_rate(int(i), n) for i in k]).T
    chance = stats.binom.pmf(k, n, p)
    below, above = ((chance * miss).sum(axis=1) for miss in (high < p, low > p))
    inside = 100 * (1 - below - above)
    worst = 100 * float(below.max()), 100 * float(above.max())
    return Line("rate", "p from 0.001 to 0.999", n, 999, 100.0, float(inside.mean()), *worst, float(inside.min()))


def main() -> None:
    """Write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the table, CSV")
    parser.add_argument("--samples", type=int, default=2000)
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of images")
    args = parser.parse_args()
    sizes, lines = [int(n) for n in args.sizes.split(",")], [",".join(COLUMNS)]
    for made in _lines(sizes, args.samples):
        fields = [
            f"{field:.1f}" if isinstance(field, float) else f'"{field}"' if "," in str(field) else str(field)
            for field in made
        ]
        lines.append(",".join(fields).replace("nan", ""))
        print(lines[-1], flush=True)
    if args.out:
        said = f"# printed by: python scripts/interval_coverage.py --samples {args.samples}; shares in percent; "
        said += f"code {git()['git_commit']}\n"
        write_text(args.out, said + "\n".join(lines) + "\n")


def _lines(sizes: list[int], samples: int) -> Iterator[Line]:
    yield from (exact(n) for n in sizes)
    for case in cases():
        for n in sizes:
            yield simulated(case, n, samples)


if __name__ == "__main__":
    main()
