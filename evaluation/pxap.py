r"""PxAP: average precision of a map's pixels, pooled over the images.

Map and mask are resized to 224 x 224, the map as in `maxboxacc` (bicubic, scaled to 0..1), the mask by nearest pixels.
Void pixels are left out; pixels of the target object are positive, all others negative. With precision and recall of
the pixels at or above each edge t = 0, step, 2 step, ... over all images together,

$$\mathrm{PxAP} = \sum_t \mathrm{Prec}(t)\,(\mathrm{Rec}(t) - \mathrm{Rec}(t + \mathrm{step}))$$

which is the step rule of the authors' code, to the last bit. The last edge is 1 (only the maximum of a map). No
threshold is chosen. A map that is constant or not finite (0 everywhere in the authors' code) counts as the worst:
all background ranks before the object, which is never found. A constant map that a baseline returns on purpose counts
as 0 everywhere.

Reference: J. Choe et al., "Evaluating weakly supervised object localization methods right", CVPR 2020.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.datasets.base import VOID, Truth
from eigencam.evaluation import states, statistics
from eigencam.evaluation.base import Curve, Metric, Row
from eigencam.evaluation.contributions import Totals
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.maxboxacc import scaled
from eigencam.evaluation.sums import Counted, Part, Sums, summed

Counts = NDArray[np.float64]
Region = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class PxAP:
    """Evaluator; see the module.

    Attributes:
        step: step of the edges, in (0, 1].
        size: height and width that maps and masks are resized to, in pixels.
    """

    step: float = 0.001
    size: int = 224

    version = 1
    summary_version = 2
    headline = ("pxap",)

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            raise ValueError(f"step={self.step}; allowed: 0 < step <= 1")
        if self.size < 1:
            raise ValueError(f"size={self.size}; allowed: at least 1")

    @property
    def edges(self) -> Counts:
        """Lower edges of the bins: 0, step, 2 step, ..., 1."""
        return np.append(np.arange(0, 1, self.step), 1.0)

    def row(self, score_map: ScoreMap, truth: Truth) -> Row:
        """Count pixels by bin.

        Returns:
            `hist_object`, `hist_background`: as many numbers as `edges`; empty if the image has no mask. uint16
            at the default size: 4 KB per image, about half of it in a Parquet file. `map_state`.
        """
        kind = np.uint16 if self.size**2 < 2**16 else np.uint32
        if truth.mask is None:
            none = np.zeros(0, kind)
            return {"hist_object": none, "hist_background": none, "map_state": score_map.state}
        from eigencam.evaluation import kernels  # importing numba takes time

        key = ("pxap", self.size, truth.label, truth.foreground)
        kinds = score_map.of_image(key, lambda: self._kinds(truth, score_map.region))
        counts = kernels.bins_by_kind(scaled(score_map, self.size), kinds, self.edges, self.step).astype(kind)
        return {"hist_object": counts[1], "hist_background": counts[0], "map_state": score_map.state}

    def _kinds(self, truth: Truth, region: Region | None) -> NDArray[np.uint8]:
        """(size, size): 0 background, 1 the target object, 2 void."""
        assert truth.mask is not None
        mask = nearest(truth, truth.mask, region, self.size)
        kinds = truth.sought_pixels(mask).astype(np.uint8)
        kinds[mask == VOID] = 2
        return kinds

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each row: pixels by bin, of rows with a mask."""
        masked = (rows["hist_object"].map(len) > 0).to_numpy(bool)
        counts = np.zeros((len(rows), 2 * len(self.edges) + 1), np.int64)
        if masked.any():
            counts[masked] = np.concatenate(_histograms(rows[masked]), axis=1)
        return {"pixels": Counted(counts, masked), "map_state": states.flags(rows) & masked[:, None]}

    def metrics(self, sums: Sums) -> list[Metric]:
        """`pxap`, with its interval over images."""
        n = sums.count("pixels")
        if not n:
            return [statistics.undefined("pxap", 0, "not defined: no image has a mask")]
        if np.isnan(_share_found(sums.total("pixels")[None].astype(np.float64))[0]):
            return [statistics.undefined("pxap", n, "not defined: no pixel of an object sought")]
        left_out = f"{sums.rows - n} images without a mask left out" if n < sums.rows else ""
        maps = states.counted(sums.total("map_state"), n, "maps")
        note = "; ".join(part for part in (maps, left_out) if part)
        return [statistics.pooled("pxap", sums["pixels"].astype(np.float64), _share_found, n=n, note=note)]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def curves(self, rows: pd.DataFrame) -> list[Curve]:
        """Precision against recall of the pixels of all images, at every edge."""
        return self.drawn(self.totals(rows))

    def totals(self, rows: pd.DataFrame) -> dict[str, Counts]:
        """Pixels of all images by bin."""
        counted = rows[rows["hist_object"].map(len) > 0]
        if counted.empty:
            return {}
        return dict(
            zip(("wanted", "rest", "lost"), (histogram.sum(axis=0) for histogram in _histograms(counted)), strict=True)
        )

    def drawn(self, totals: Totals) -> list[Curve]:
        """The curve of the totals of all rows."""
        return precision_recall(totals["wanted"], totals["rest"], float(totals["lost"][0])) if totals else []

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rules in words."""
        words = "map bicubic, minimum to maximum; mask nearest; void left out; pixels of all images pooled; step rule"
        rule = "map constant or not finite: all else before the object, which is never found"
        return {"evaluator": "pxap", **asdict(self), "pixels": words, "undefined": rule}


def _histograms(rows: pd.DataFrame) -> tuple[Counts, Counts, Counts]:
    """(N, K) pixels by bin of the object and of the background, (N, 1) of object pixels that are never found.

    If the map is undefined, all of the background is in the last bin and the object is not found.
    """
    wanted, rest = (_stack(rows[f"hist_{kind}"]) for kind in ("object", "background"))
    bad = states.no_map(rows)
    lost = np.where(bad, wanted.sum(axis=1), 0)[:, None]
    rest[bad, -1] = rest[bad].sum(axis=1)
    rest[bad, :-1] = wanted[bad] = 0
    return wanted, rest, lost


def _share_found(sums: Counts) -> Counts:
    """(R, 2 K + 1) of `_histograms` -> (R,): `average_precision`, with the recall among all pixels of objects."""
    found, lost = sums[:, : sums.shape[1] // 2].sum(axis=1), sums[:, -1]
    value = average_precision(sums[:, :-1]) * np.divide(found, found + lost, out=np.zeros_like(found), where=found > 0)
    return np.where((found == 0) & (lost > 0), 0.0, value)


def nearest(
    truth: Truth,
    mask: NDArray[np.uint8],
    region: Region | None,
    size: int,
    places: Callable[[float, float, int], Counts] | None = None,
) -> NDArray[np.uint8]:
    """(size, size): the mask over the map's region, void outside the image.

    Args:
        truth: truth of the image.
        mask: (h, w), of the whole image, at any resolution.
        region: the region of the map, in pixels of the image.
        size: height and width of the result.
        places: start, stop, n -> (n,) sampling positions between them; by default each pixel is sampled at its
            upper left corner.
    """
    (height, width), places = mask.shape, places or corners
    x0, y0, x1, y1 = region or (0.0, 0.0, float(truth.size[1]), float(truth.size[0]))
    x, y = (
        np.floor(places(start * inside / whole, stop * inside / whole, size)).astype(np.int64)
        for start, stop, inside, whole in ((x0, x1, width, truth.size[1]), (y0, y1, height, truth.size[0]))
    )
    found = mask.take(y, axis=0, mode="clip").take(x, axis=1, mode="clip")
    if region is not None:
        found[(y < 0) | (y >= height)] = VOID
        found[:, (x < 0) | (x >= width)] = VOID
    return found


def corners(start: float, stop: float, n: int) -> Counts:
    """(n,): left ends of n equal parts, with OpenCV's rounding."""
    return (start + np.arange(n) * (1 / (n / (stop - start)))).astype(np.float64)


def average_precision(histograms: Counts) -> Counts:
    """(R, 2 K) positive, then negative pixels by bin, lowest first -> (R,) in [0, 1]; NaN without a positive one."""
    positive, negative = np.split(histograms, 2, axis=1)
    # One more bin, [2, 3), as in the authors' code: the first point of the curve has a recall of 0.
    tp, fp = (np.pad(np.cumsum(h[:, ::-1], axis=1), ((0, 0), (1, 0))) for h in (positive, negative))
    found, total = tp + fp, tp[:, -1:]
    precision = np.divide(tp, found, out=np.zeros_like(tp), where=found > 0)
    recall = np.divide(tp, total, out=np.full_like(tp, np.nan), where=total > 0)
    some = np.any(found[:, 1:] > 0, axis=0)
    return (precision[:, 1:] * np.diff(recall, axis=1))[:, some].sum(axis=1)


def equal_error_rate(histograms: Counts) -> Counts:
    """Precision where it equals recall: (R, 2 K) pixels by bin, lowest first, positive ones first -> (R,) in [0, 1].

    As many pixels are then predicted as are positive, P; between two bins the numbers of predicted and of right pixels
    both grow linearly, as if the pixels of one bin came in random order. NaN for P = 0.
    """
    wanted, rest = np.split(histograms, 2, axis=1)
    tp = np.pad(np.cumsum(wanted[:, ::-1], axis=1), ((0, 0), (1, 0)))
    predicted = tp + np.pad(np.cumsum(rest[:, ::-1], axis=1), ((0, 0), (1, 0)))
    positive, images = tp[:, -1], np.arange(len(tp))
    after = np.argmax(predicted >= positive[:, None], axis=1)
    before = np.maximum(after - 1, 0)
    step = predicted[images, after] - predicted[images, before]
    share = np.divide(positive - predicted[images, before], step, out=np.full(len(tp), np.nan), where=step > 0)
    right = tp[images, before] + share * (tp[images, after] - tp[images, before])
    return np.divide(right, positive, out=np.full(len(tp), np.nan), where=positive > 0)


def precision_recall(positive: Counts, negative: Counts, lost: float = 0.0) -> list[Curve]:
    """The curve from (K,) positive and (K,) negative pixels by bin, lowest first; empty without a positive pixel.

    `lost` further positive pixels are never found.
    """
    tp, fp = np.cumsum(positive[::-1]), np.cumsum(negative[::-1])
    some = tp + fp > 0
    if not tp[-1]:
        return []
    recall, precision = 100 * tp[some] / (tp[-1] + lost), 100 * tp[some] / (tp + fp)[some]
    return [Curve("precision against recall", "pixel recall %", "pixel precision %", recall, precision)]


def _stack(column: "pd.Series[Any]") -> Counts:
    return np.stack(column.tolist()).astype(np.float64)
