r"""Foreground against background, by the protocol of the vision transformers' papers on ImageNet-Segmentation.

Map and mask are resized to 224 x 224: the map bilinearly and scaled to 0..1, R; the mask by nearest pixels. TP, FP, FN,
TN are the pixels above the mean of R or not, and of the object or not:

    pixel_accuracy   (TP + TN) / all, pixels summed over the set
    miou             mean over {background, object} of the IoU, pixels summed over the set
    mean_ap          average precision of the 2 x 224 x 224 values [1 - R, R] together, for the targets [background,
                     object]; mean over images
    mean_f1          2 TP / (2 TP + FP + FN) of each image, 0 for 0/0; mean over images

So `mean_ap` of an image is 50 % for an uninformative map, and counts the background as much as the object. A map
that is constant or not finite is 0/0 in the authors' code, which then sets R and 1 - R to zero: all is background,
which is right at most pixels if objects are small, and the average precision is that of chance, 50 %. Here only the
constant map that a baseline returns on purpose counts so; any other such map is wrong at every pixel, with an average
precision and F1 of 0. Void pixels are not counted; no metric has a threshold to choose.

Reference: H. Chefer, S. Gur, L. Wolf, "Transformer interpretability beyond attention visualization", CVPR 2021, and
their code. The average precision is exact, from one sort of 32-bit keys that hold value and truth.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.datasets.base import VOID, Truth
from eigencam.evaluation import states, statistics
from eigencam.evaluation.base import Metric, Row
from eigencam.evaluation.intervals import MeanRatio
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.pxap import Region, nearest
from eigencam.evaluation.sums import Counted, Part, Sums, summed

Counts = NDArray[np.float64]
_PIXELS = ("tp", "fp", "fn", "tn")


@dataclass(frozen=True, slots=True)
class Foreground:
    """Evaluator; see the module.

    Attributes:
        size: height and width that maps and masks are resized to, in pixels.
    """

    size: int = 224

    version = 1
    summary_version = 2
    headline = ("pixel_accuracy", "miou", "mean_ap", "mean_f1")

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size={self.size}; allowed: at least 1")

    def row(self, score_map: ScoreMap, truth: Truth) -> Row:
        """Return pixel counts and scores of one image.

        Returns:
            `has_mask`; `tp`, `fp`, `fn`, `tn`, pixels; `ap` and `f1` in [0, 1], NaN without a mask; `map_state`.
        """
        if truth.mask is None:
            nothing = {**dict.fromkeys(_PIXELS, 0), "ap": float("nan"), "f1": float("nan")}
            return {"has_mask": False, **nothing, "map_state": score_map.state}
        key = ("foreground", self.size, truth.label, truth.foreground)
        counted, wanted = score_map.of_image(key, lambda: self._counted(truth, score_map.region))
        scaled, found = self._scaled(score_map)
        scaled, found = scaled[counted], found[counted]
        both = int(np.count_nonzero(wanted & found))
        tp, fp, fn = both, int(np.count_nonzero(found)) - both, int(np.count_nonzero(wanted)) - both
        errors = 2 * tp + fp + fn
        return {
            "has_mask": True,
            **dict(zip(_PIXELS, (tp, fp, fn, len(wanted) - tp - fp - fn), strict=True)),
            "ap": two_channel_ap(scaled, wanted, score_map.state == "ok"),
            "f1": 2 * tp / errors if errors else 0.0,
            "map_state": score_map.state,
        }

    def _counted(self, truth: Truth, region: Region | None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(size, size): the pixels that are not void; among these (P,): those of the target object."""
        assert truth.mask is not None
        mask = nearest(truth, truth.mask, region, self.size, middles)
        counted = mask != VOID
        return counted, truth.sought_pixels(mask)[counted]

    def _scaled(self, score_map: ScoreMap) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """(size, size): R as float32, and where it is above its mean."""
        if score_map.state != "ok":
            return np.zeros((self.size, self.size), np.float32), np.zeros((self.size, self.size), bool)
        # Enlarged over the region of the map, which is what the network saw.
        full = ScoreMap(score_map.values, (self.size, self.size)).full
        scaled = (full - full.min()) / (full.max() - full.min())
        return scaled, scaled > np.float32(scaled.mean(dtype=np.float64))

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each row with a mask: right and wrong pixels, average precision and F1."""
        masked, worst = rows["has_mask"].to_numpy(bool), _at_worst(rows)
        pixels = np.where(masked[:, None], worst[list(_PIXELS)].to_numpy(np.int64), 0)
        means = {name: np.where(masked, worst[name].to_numpy(np.float64), np.nan) for name in ("ap", "f1")}
        return {"pixels": Counted(pixels, masked), **means, "map_state": states.flags(rows) & masked[:, None]}

    def metrics(self, sums: Sums) -> list[Metric]:
        """The four metrics, with intervals over images."""
        n = sums.count("pixels")
        if not n:
            return [statistics.undefined(name, 0, "not defined: no image has a mask") for name in self.headline]
        left_out = f"{sums.rows - n} images without a mask left out" if n < sums.rows else ""
        maps = states.counted(sums.total("map_state"), n, "maps")
        note = "; ".join(part for part in (maps, left_out) if part)
        pixels = sums["pixels"].astype(np.float64)
        right = np.stack([pixels[:, 0] + pixels[:, 3], pixels.sum(axis=1)], axis=1)
        return [
            statistics.pooled("pixel_accuracy", right, MeanRatio(), n=n, threshold="> mean", note=note),
            statistics.pooled("miou", pixels, _mean_iou, n=n, threshold="> mean"),
            sums.mean("mean_ap", "ap", threshold="none"),
            sums.mean("mean_f1", "f1", threshold="> mean"),
        ]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rules in words."""
        words = "map bilinear, minimum to maximum, object where above its mean; mask nearest; void left out"
        pooled = "pixel_accuracy, miou: pixels of all images; mean_ap, mean_f1: means over images"
        rule = "map constant or not finite: wrong at every pixel"
        return {"evaluator": "foreground", **asdict(self), "pixels": words, "sums": pooled, "undefined": rule}


def _at_worst(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, wrong at every pixel if the map is undefined."""
    bad = states.no_map(rows)
    tp, fp, fn, tn = (rows[name].to_numpy(np.int64) for name in _PIXELS)
    wrong = {"tp": np.where(bad, 0, tp), "fp": fp + bad * tn, "fn": fn + bad * tp, "tn": np.where(bad, 0, tn)}
    return states.at_worst(rows, ap=0.0, f1=0.0).assign(**wrong)


def middles(start: float, stop: float, n: int) -> Counts:
    """(n,): centres of n equal parts, with Pillow's rounding, which accumulates step by step."""
    step = (stop - start) / n
    return np.cumsum(np.concatenate([[start + step * 0.5], np.full(n - 1, step)]))


def two_channel_ap(scaled: NDArray[np.float32], wanted: NDArray[np.bool_], usable: bool = True) -> float:
    """Average precision of the values [1 - R, R] against [not wanted, wanted].

    Args:
        scaled: (P,) float32 in 0..1, R.
        wanted: (P,) bool.
        usable: False: treat all values as equal, whatever R is.

    Returns:
        In [0, 1]: the sum over the distinct values of precision times gain in recall; NaN without pixels.
    """
    if not len(scaled):
        return float("nan")
    if not usable:
        return 0.5
    # Floats in 0..1 are ordered like their bits, which leave two bits free: the lowest becomes the truth.
    values = np.concatenate([np.float32(1) - scaled, scaled])
    keys: NDArray[np.uint32] = (values.view(np.uint32) << np.uint32(1)) | np.concatenate([~wanted, wanted])
    keys.sort()
    from eigencam.evaluation import kernels  # importing numba takes time

    return float(kernels.precision_terms(keys).sum() / len(scaled))


def _mean_iou(sums: Counts) -> Counts:
    """(R, 4) tp, fp, fn, tn -> (R,); a class neither present nor predicted has IoU 0, as in the authors' code."""
    tp, fp, fn, tn = sums.T
    ious = [np.divide(a, a + fp + fn, out=np.zeros_like(a), where=a + fp + fn > 0) for a in (tp, tn)]
    return np.where(sums.sum(axis=1) > 0, np.mean(ious, axis=0), np.nan)
