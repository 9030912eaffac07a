"""Class names and an even selection of images for an explanation of a dataset."""

from collections.abc import Sequence

from eigencam.networks.classes import names_of
from eigencam.running.prepare import Job


def class_names(job: Job) -> Sequence[str]:
    """Return the names of the network's classes, in order; empty if they are not known."""
    return job.dataset.classes if job.comparable else names_of(job.network)


def spread(n: int, k: int) -> list[int]:
    """Return at most `k` of 0..n-1, evenly spread.

    >>> spread(10, 3)
    [1, 5, 8]
    """
    k = min(k, n)
    return [(2 * i + 1) * n // (2 * k) for i in range(k)]
