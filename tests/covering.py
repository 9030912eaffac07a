"""A check of intervals: each contains its value, or is missing with a reason."""

import math

from eigencam.evaluation.base import Metric
from eigencam.evaluation.intervals import LEAST_IMAGES


def covers(metric: Metric) -> bool:
    """Whether the interval, within 0 to 100 %, contains the value; none below 30 images, with the reason."""
    if math.isnan(metric.low):
        return math.isnan(metric.high) and "no interval" in metric.caution
    few = f"below {LEAST_IMAGES} images" in metric.caution
    return 0 <= metric.low <= metric.value <= metric.high <= 100 and metric.low < metric.high and not few
