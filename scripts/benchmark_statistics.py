"""What the statistics of a comparison cost, beside scipy's for the same, in one run.

    python scripts/benchmark_statistics.py --out results/speed_of_statistics.csv

Each line: paired differences of so many pictures, one metric, 9,999 resamples. Times are CPU times of one thread; both
sides take turns on the same numbers, and the ratio is what counts. scipy's resamples are drawn in batches of 100, which
bounds its memory at 40 MB for 50,000 pictures; with `--most` it gets fewer resamples where pictures x resamples are
more than that, and its time is scaled up by the quotient (column `reference_resamples`). The columns own and
reference have what came out: the ends of the interval, or the p-value.
"""

import argparse
import csv
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import scipy.stats
from numpy.typing import NDArray

from eigencam.evaluation.base import Sample
from eigencam.evaluation.paired import RESAMPLES, difference, interval, mcnemar, sign_flips
from eigencam.files import replacing
from eigencam.store.environment import git, processor

Floats = NDArray[np.float64]
KINDS: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "overlaps": lambda rng, n: np.clip(rng.beta(2, 1.5, n) + rng.normal(0.004, 0.2, n), 0, 1) - rng.beta(2, 1.5, n),
    "hits": lambda rng, n: rng.choice([-1.0, 0, 1], n, p=[0.1, 0.795, 0.105]),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One line: of which numbers, our call, scipy's call with a number of resamples."""

    name: str
    kind: str
    own: Callable[[Floats], object]
    reference_name: str
    reference: Callable[[Floats, int], object]


def bootstrap(change: Floats, resamples: int) -> object:
    rng = np.random.default_rng(0)
    found = scipy.stats.bootstrap((change,), np.mean, n_resamples=resamples, method="percentile", batch=100, rng=rng)
    return tuple(found.confidence_interval)


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
    ends: Any = bootstrap(change, resamples)
    return (*ends, permutation(change, resamples))


CASES = (
    Case("interval", "overlaps", interval, "bootstrap", bootstrap),
    Case("interval", "hits", lambda change: interval(change, hits=True), "bootstrap", bootstrap),
    Case("sign flips", "overlaps", sign_flips, "permutation_test", permutation),
    Case("McNemar", "hits", exact, "permutation_test", permutation),
    Case("a line of compare", "overlaps", whole, "both", both),
)


def measure(case: Case, n: int, repeats: int, most: int) -> list[str]:
    change = KINDS[case.kind](np.random.default_rng(n), n)
    resamples = min(RESAMPLES, max(99, most // n))
    own = case.own(change)  # also what is computed once a process
    best, theirs, found = float("inf"), float("inf"), None
    for turn in range(repeats):
        start = time.process_time()
        case.own(change)
        best = min(best, time.process_time() - start)
        if turn == 0 or theirs < 1:
            start = time.process_time()
            found = case.reference(change, resamples)
            theirs = min(theirs, time.process_time() - start)
    theirs *= RESAMPLES / resamples
    times = [f"{1000 * best:.2f}", f"{1000 * theirs:.0f}", f"{theirs / best:.0f}"]
    return [case.name, case.kind, str(n), *times, case.reference_name, str(resamples), shown(own), shown(found)]


def shown(found: object) -> str:
    return " ".join(f"{value:.5f}" for value in np.atleast_1d(np.asarray(found, np.float64)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", default="500,5000,50000", help="numbers of pictures")
    parser.add_argument("--repeats", type=int, default=5, help="calls, of which the fastest counts")
    parser.add_argument("--most", type=float, default=1e8, help="pictures x resamples of scipy's")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    names = ["what", "numbers", "pictures", "own_ms", "scipy_ms", "ratio", "scipy", "reference_resamples"]
    names += ["own", "reference"]
    lines = []
    for case in CASES:
        for n in map(int, args.pictures.split(",")):
            lines.append(measure(case, n, args.repeats, int(args.most)))
            print(
                "  ".join(f"{cell:>{w}}" for cell, w in zip(lines[-1], (17, 8, 5, 7, 6, 5, 16, 4, 8, 8), strict=True))
            )
            sys.stdout.flush()
    if args.out:
        with replacing(args.out) as beside, beside.open("w", newline="") as file:
            file.write(f"# command: python {' '.join(sys.argv)}\n")
            file.write(f"# {processor()}, {os.cpu_count()} cores, one thread, CPU time, fastest of {args.repeats}, ")
            file.write(f"numpy {np.__version__}, scipy {scipy.__version__}, code {git()['git_commit']}; ")
            file.write(f"{RESAMPLES} resamples; ratio: scipy / own\n")
            csv.writer(file).writerows([names, *lines])


if __name__ == "__main__":
    main()
