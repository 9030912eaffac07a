"""Compares a network's accuracy with the one reported for its weights: a check of weights and preprocessing.

Wrong weights, or a normalisation other than the one they were trained with, still give maps. The top-1 accuracy on
ILSVRC's validation images shows the mistake: libraries report it for their weights.
"""

from collections.abc import Iterable

import pandas as pd

from eigencam.evaluation.intervals import exact
from eigencam.running.prepare import Job
from eigencam.store.row_file import RowFile
from eigencam.store.schema import ROWS

ENOUGH = 100
"""Smallest number of images for which the accuracies are compared."""
TAIL = 0.005
"""Probability beyond either end of the interval of our accuracy: one correct network in 100 is reported as wrong."""


def accuracy_line(job: Job) -> str:
    """Compare the network's top-1 with the reported one; "" if none is known, or images are too few or different."""
    known = job.network.top1
    if known is None or not job.comparable or job.dataset.class_space != "imagenet":
        return ""
    done = next((result for result in job.results.values() if result.complete), None)
    if done is None:
        return ""
    return compared(job.network.name, known, RowFile(done.folder / ROWS, 0).blocks(), job.network.preprocess.resize)


def right_of(blocks: Iterable[pd.DataFrame]) -> tuple[int, int]:
    """Number of correctly classified images, and of images with a label and a prediction.

    Args:
        blocks: rows in which those of one image are consecutive.
    """
    right = n = 0
    last = None
    for rows in blocks:
        images = rows["image"].tolist()
        once = rows[[image != before for image, before in zip(images, [last, *images], strict=False)]]
        last = images[-1] if images else last
        answered = [top[0] == k for top, k in zip(once["top5"], once["label"], strict=True) if k >= 0 and len(top)]
        right, n = right + sum(answered), n + len(answered)
    return right, n


def compared(name: str, known: float, rows: pd.DataFrame | Iterable[pd.DataFrame], resize: str = "crop") -> str:
    """A sentence that compares our accuracy with the reported one.

    Args:
        name: name of the network.
        known: the reported top-1, %.
        rows: rows of one result, with columns `image`, `label` and `top5`; or blocks of them in the dataset's order.
        resize: how the preprocessing resizes.
    """
    right, n = right_of([rows.drop_duplicates("image")] if isinstance(rows, pd.DataFrame) else rows)
    if n < ENOUGH:
        return ""
    low, high = (100 * end for end in exact(right, n, TAIL))
    said = f"{name}: top-1 {100 * right / n:.1f} % of {n} images [{low:.1f}, {high:.1f}], reported {known:.1f} %"
    if low <= known <= high:
        return f"{said}: they agree"
    whole = (
        "" if resize == "crop" else f" (reported for the centre of the image; here model.preprocess.resize={resize})"
    )
    return f"{said}: they do not agree; are these the weights, and is the preprocessing theirs{whole}?"
