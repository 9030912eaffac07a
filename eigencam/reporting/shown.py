"""What an explanation shows of a dataset: names of classes, and a spread of its images."""

from collections.abc import Sequence

from eigencam.running.prepare import Job


def class_names(job: Job) -> Sequence[str]:
    """Names of the network's classes, in order; none where they are not known."""
    if job.comparable:
        return job.dataset.classes
    if job.network.classes == "imagenet":
        from torchvision.models import ResNet50_Weights

        return ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    return ()


def spread(n: int, k: int) -> list[int]:
    """At most `k` of 0..n-1, evenly spread.

    >>> spread(10, 3)
    [1, 5, 8]
    """
    k = min(k, n)
    return [(2 * i + 1) * n // (2 * k) for i in range(k)]
