"""Whether a network's accuracy is the one that is known of its weights: a check of weights and preprocessing.

Whoever loads other weights than he thinks, or normalises otherwise than they were trained, still gets maps. The share
of ILSVRC's validation images that are classified rightly shows it: libraries report it for their weights.
"""

import pandas as pd

from eigencam.evaluation.intervals import exact
from eigencam.running.prepare import Job

ENOUGH = 100
"""Images from which on the shares are compared."""
TAIL = 0.005
"""On either side of the interval around our share: one network in a hundred is named wrongly."""


def accuracy_line(job: Job) -> str:
    """Compare the network's top-1 with the reported one; "" where none is known, or images are too few or others."""
    known = job.network.top1
    if known is None or not job.comparable or job.dataset.class_space != "imagenet":
        return ""
    done = next((result for result in job.results.values() if result.complete), None)
    return "" if done is None else compared(job.network.name, known, done.rows(), job.network.preprocess.resize)


def compared(name: str, known: float, rows: pd.DataFrame, resize: str = "crop") -> str:
    """A sentence on our share and the reported one.

    Args:
        name: of the network.
        known: the reported top-1, %.
        rows: of one result, with columns `image`, `label` and `top5`.
        resize: of the preprocessing.
    """
    once = rows.drop_duplicates("image")
    answered = [(top, label) for top, label in zip(once["top5"], once["label"], strict=True) if label >= 0 and len(top)]
    if (n := len(answered)) < ENOUGH:
        return ""
    right = sum(top[0] == label for top, label in answered)
    low, high = (100 * end for end in exact(right, n, TAIL))
    said = f"{name}: top-1 {100 * right / n:.1f} % of {n} images [{low:.1f}, {high:.1f}], reported {known:.1f} %"
    if low <= known <= high:
        return f"{said}: it fits"
    whole = (
        "" if resize == "crop" else f" (reported for the centre of the image; here model.preprocess.resize={resize})"
    )
    return f"{said}: it does not fit; are these the weights, and is the preprocessing theirs{whole}?"
