"""Which detections are correct, and their average precision, by PASCAL VOC's rules.

Within an image and class the detections are ordered by descending score. Each is compared with the object of its class
that it overlaps most (inclusive IoU). With an IoU of at least 0.5 it is a hit, unless a detection with a higher score
has hit that object already; otherwise it is false. An object flagged difficult is neither found nor missed, and a
detection of it does not count. Average precision is that of `eigencam.evaluation.average_precision`, where missed
objects count in the recall's denominator; its mean is over the classes that have an object.

Reference: M. Everingham et al., "The PASCAL Visual Object Classes Challenge", IJCV 2010, section 4.4; VOCdevkit's
`VOCevaldet.m`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import Truth
from eigencam.datasets.boxes import Boxes, iou
from eigencam.evaluation.average_precision import average_precision

LEAST = 0.5
"""Smallest overlap of a hit."""


@dataclass(frozen=True, slots=True)
class Detected:
    """The detections of one image.

    Attributes:
        scores: (K,) in descending order.
        labels: (K,) index into the dataset's classes.
        states: (K,) 1 hit, 0 false, -1 ignored.
        objects: labels of the objects that count.
    """

    scores: NDArray[np.float64]
    labels: NDArray[np.int64]
    states: NDArray[np.int64]
    objects: NDArray[np.int64]


def detected(boxes: Boxes, scores: NDArray[np.float64], labels: NDArray[np.int64], truth: Truth) -> Detected:
    """Compare detections with the truth of their image.

    Args:
        boxes: (K, 4) inclusive pixels of the original image, in any order.
        scores: (K,) finite.
        labels: (K,) index into the dataset's classes.
        truth: truth of the image.
    """
    order = np.argsort(-scores, kind="stable")
    boxes, scores, labels = boxes[order], scores[order], labels[order]
    overlaps = iou(boxes, truth.boxes)
    states, taken = np.zeros(len(boxes), np.int64), np.zeros(len(truth.boxes), bool)
    for k, label in enumerate(labels.tolist()):
        own = np.flatnonzero(truth.box_labels == label)
        if not len(own):
            continue
        best = int(own[overlaps[k, own].argmax()])
        if overlaps[k, best] < LEAST:
            continue
        if truth.difficult[best]:
            states[k] = -1
        elif not taken[best]:
            states[k], taken[best] = 1, True
    return Detected(scores, labels, states, truth.box_labels[~truth.difficult])


def mean_average_precision(detections: Sequence[Detected], classes: int) -> tuple[float, dict[int, float]]:
    """(mean over classes, by class) of the area under the precision-recall curve, in 0..1.

    Args:
        detections: the detections of all images.
        classes: number of the dataset's classes; those without an object that counts are left out.
    """
    scores = np.concatenate([one.scores for one in detections])
    labels = np.concatenate([one.labels for one in detections])
    states = np.concatenate([one.states for one in detections])
    counts = np.bincount(np.concatenate([one.objects for one in detections]), minlength=classes)
    by_class = {
        label: average_precision(scores[of_label], states[of_label], int(counts[label]))[0]
        for label in range(classes)
        if counts[label] and (of_label := (labels == label) & (states >= 0)) is not None
    }
    return float(np.mean([*by_class.values()])) if by_class else float("nan"), by_class
