"""Cost of the statistics in tables and comparisons, compared in the same run with scipy's.

    python scripts/benchmark_statistics.py --out results/speed_of_statistics.csv

Each row is the interval that a table prints for one metric, or the output of `eigencam compare`, for a given number of
images. Times are CPU times of one thread, with their range. Both sides alternate on the same numbers; the relevant
number is the ratio of the medians. scipy's 9,999 resamples are drawn in batches of 100, which bounds its memory. If
images x resamples exceeds `--most`, scipy gets fewer resamples, and its time is scaled up by the quotient
(`scipy_resamples`). The last columns have the results: the ends of the interval, the p-value, or both.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import measuring
import numpy as np
import scipy
import scipy.stats
from numpy.typing import NDArray

from eigencam.evaluation import intervals
from eigencam.evaluation.base import Sample
from eigencam.evaluation.intervals import MeanRatio
from eigencam.evaluation.paired import RESAMPLES, difference, interval, mcnemar, sign_flips

Floats = NDArray[np.float64]
CLASSES = 20
KINDS: dict[str, Callable[[np.random.Generator, int], NDArray[Any]]] = {
    "overlaps": lambda rng, n: np.asarray(rng.beta(2, 1.5, n), np.float64),
    "changes": lambda rng, n: np.clip(rng.beta(2, 1.5, n) + rng.normal(0.004, 0.2, n), 0, 1) - rng.beta(2, 1.5, n),
    "hits": lambda rng, n: (rng.random(n) < 0.4).astype(np.float64),
    "changed hits": lambda rng, n: rng.choice([-1.0, 0, 1], n, p=[0.1, 0.795, 0.105]),
    "objects": lambda rng, n: (lambda of: np.stack([rng.binomial(of, 0.6), of], axis=1))(rng.integers(1, 5, n)) * 1.0,
    "classes": lambda rng, n: _of_classes(rng, n),
}


def _of_classes(rng: np.random.Generator, n: int) -> Floats:
    """(N, 40): numbers of correct and of all pixels, for the one class of 20 that each image has."""
    parts, own, pixels = np.zeros((n, 2, CLASSES)), rng.integers(0, CLASSES, n), rng.integers(100, 9000, n)
    parts[np.arange(n), 1, own] = pixels
    parts[np.arange(n), 0, own] = rng.binomial(pixels, 0.5)
    return parts.reshape(n, -1)


@dataclass(frozen=True, slots=True)
class Case:
    """One row: the kind of numbers, our call, and scipy's call with a number of resamples."""

    name: str
    kind: str
    own: Callable[[Floats], object]
    reference_name: str
    reference: Callable[[Floats, int], object]


def bootstrap(statistic: Callable[[Floats], Floats] | None) -> Callable[[Floats, int], object]:
    """The interval, by scipy, of a statistic of the sums of rows; by default of the mean."""

    def call(values: Floats, resamples: int) -> object:
        rng, lines = np.random.default_rng(0), np.arange(len(values))

        def of_lines(i: Floats, axis: int) -> Any:  # scipy passes it
            return statistic(values[i.astype(int)].sum(axis=1)) if statistic else None

        of, data = (of_lines, lines) if statistic else (np.mean, values)
        found = scipy.stats.bootstrap((data,), of, n_resamples=resamples, method="percentile", batch=100, rng=rng)
        return tuple(found.confidence_interval)

    return call


def wilson(hits: Floats, _resamples: int) -> object:
    found = scipy.stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return found.low, found.high


def permutation(change: Floats, resamples: int) -> object:
    rng: Any = np.random.default_rng(0)
    return scipy.stats.permutation_test(
        (change,),
        lambda x, axis: x.sum(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=resamples,
        batch=100,
        rng=rng,
    ).pvalue


def exact(change: Floats) -> float:
    return mcnemar(int((change > 0).sum()), int((change < 0).sum()))


def whole(change: Floats) -> tuple[float, float, float]:
    found = difference(Sample(np.zeros(len(change))), Sample(change))
    return found.low, found.high, found.p


def both(change: Floats, resamples: int) -> object:
    ends: Any = bootstrap(None)(change, resamples)
    return (*ends, permutation(change, resamples))


def of_objects(parts: Floats) -> object:
    return intervals.of_pooled_rate(parts[:, 0], parts[:, 1])


def of_classes(parts: Floats) -> object:
    return intervals.of_statistic(parts, MeanRatio(CLASSES))


CASES = (
    Case("table: a rate", "hits", intervals.of_mean, "binomtest, Wilson", wilson),
    Case("table: a mean", "overlaps", intervals.of_mean, "bootstrap", bootstrap(None)),
    Case("table: a rate of objects", "objects", of_objects, "bootstrap", bootstrap(MeanRatio())),
    Case("table: a mean over classes", "classes", of_classes, "bootstrap", bootstrap(MeanRatio(CLASSES))),
    Case("compare: interval", "changes", interval, "bootstrap", bootstrap(None)),
    Case("compare: interval", "changed hits", lambda c: interval(c, hits=True), "bootstrap", bootstrap(None)),
    Case("compare: sign flips", "changes", sign_flips, "permutation_test", permutation),
    Case("compare: McNemar", "changed hits", exact, "permutation_test", permutation),
    Case("compare: a line", "changes", whole, "both", both),
)


def measure(case: Case, n: int, repeats: int, most: int) -> list[str]:
    values = KINDS[case.kind](np.random.default_rng(n), n)
    resamples = min(RESAMPLES, max(99, most // n))
    own, found = case.own(values), case.reference(values, 99)  # this includes what is computed once per process
    ours, theirs = list[float](), list[float]()
    for turn in range(repeats):
        start = time.process_time()
        case.own(values)
        ours.append(1000 * (time.process_time() - start))
        if turn == 0 or sum(theirs) < 10_000:  # milliseconds
            start = time.process_time()
            found = case.reference(values, resamples)
            scale = RESAMPLES / resamples if case.reference is not wilson else 1
            theirs.append(1000 * (time.process_time() - start) * scale)
    ratio = f"{np.median(theirs) / max(np.median(ours), 1e-6):.1f}"
    times = [*measuring.spread(ours), str(len(ours)), *measuring.spread(theirs), str(len(theirs)), ratio]
    return [case.name, case.kind, str(n), *times, case.reference_name, str(resamples), shown(own), shown(found)]


def shown(found: object) -> str:
    return " ".join(f"{value:.5f}" for value in np.atleast_1d(np.asarray(found, np.float64)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", default="500,5000,50000", help="numbers of images")
    parser.add_argument("--most", type=float, default=1e8, help="images x resamples of scipy's")
    measuring.add_arguments(parser)
    args = parser.parse_args()
    faults = measuring.faults(args)
    sides = [f"{side}_ms{end}" for side in ("own", "scipy") for end in ("", "_min", "_max", "_n")]
    names = ["what", "numbers", "images", *sides, "ratio", "scipy", "scipy_resamples", "own", "reference"]
    lines = []
    for case in CASES:
        for n in map(int, args.images.split(",")):
            lines.append(measure(case, n, args.repeats, int(args.most)))
            print(*lines[-1], sep="  ", flush=True)
    if args.out:
        about = f"one thread, CPU time, medians; numpy {np.__version__}, scipy {scipy.__version__}; {RESAMPLES} "
        measuring.write(args.out, faults, f"{about}resamples; ratio: scipy / own", names, lines)


if __name__ == "__main__":
    main()
