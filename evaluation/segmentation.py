"""Segmentation by a score map: the pixels above a threshold against the picture's mask.

The truth has three kinds of pixels: of the picture's class ("label"), of other classes ("other") and background; void
pixels count nowhere. The foreground is "label", or "label" and "other" where `Truth.foreground` is `any`. With TP, FP,
FN the numbers of foreground pixels above the threshold, of other pixels above it, and of foreground pixels below:

    fg_iou           TP / (TP + FP + FN) of each picture, then the mean over pictures that have foreground
    miou             VOC's: a pixel above the threshold is predicted to be of the picture's class, else background;
                     TP, FP, FN of every class summed over the set, IoU of each class, mean over the classes (with the
                     background) whose pixels occur in the truth. A picture without a label predicts no class
                     (the interval: of these classes, each in 3 images or more)
    miou_binary      the same with two classes, foreground and the rest, whatever the picture's class is called
    pixel_precision  TP / (TP + FP), summed over the set;     pixel_recall  TP / (TP + FN), summed over the set
    precision_eer    pixel precision where it equals recall, on the precision-recall curve summed over the set: the
                     Graz-02 protocol (M. Marszalek, C. Schmid, CVPR 2007). The two are equal where as many pixels are
                     predicted as are foreground; between two levels TP is interpolated linearly
    fg_iou_best, miou_best   the largest value over all 256 thresholds. The threshold is chosen with the truth at hand,
                     so these are bounds (oracles), no results; their intervals are those at the threshold chosen

The sweep is over the value as a fraction of the map's maximum, in 256 levels, floor(255 clip(m / max m, 0, 1)), with
a pixel foreground if its level is at least v; all levels are 0 where the maximum is not positive. Pictures without a
mask are not counted. A picture without a foreground pixel has no `fg_iou`, and counts in the sums.

A picture whose map is constant or not finite is wrong at every pixel: its foreground is not found, all else is. Only a
baseline's constant map that is meant is cut as any other.

Reference: M. Everingham et al., "The PASCAL Visual Object Classes Challenge", IJCV 2010, section 4.3.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.datasets.base import VOID, Truth
from eigencam.evaluation import states, statistics
from eigencam.evaluation.base import Curve, Metric, Row
from eigencam.evaluation.intervals import MeanRatio
from eigencam.evaluation.maps import Rule, ScoreMap, check_rule, cut
from eigencam.evaluation.pxap import precision_recall

LEVELS = 256
_KINDS = ("label", "other", "background")
_NAMES = (
    "fg_iou",
    "miou",
    "miou_binary",
    "pixel_precision",
    "pixel_recall",
    "precision_eer",
    "fg_iou_best",
    "miou_best",
)

ORACLE = "oracle: threshold chosen with the truth"

Counts = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Evaluator of segmentation; see the module.

    Attributes:
        rule: how a map is cut for the fixed threshold, see `evaluation/maps.py`.
        threshold: the rule's parameter; the default is CAM's.
    """

    rule: Rule = "max"
    threshold: float = 0.2

    version = 1
    summary_version = 2
    headline = ("fg_iou", "miou", "pixel_precision", "pixel_recall", "precision_eer")

    def __post_init__(self) -> None:
        check_rule(self.rule, self.threshold)

    def row(self, score_map: ScoreMap, truth: Truth) -> Row:
        """Pixel counts of one picture; zeros and `has_mask` False where it has no mask.

        Returns:
            `has_mask` and `any_foreground` (bool); `above` (3,) uint32, pixels above the fixed threshold by kind of
            truth: label, other, background; `hist_label`, `hist_other`, `hist_background` (256,) uint32, all pixels by
            level; `class_pixels` (C,) uint32, pixels of the truth, background first, up to the last class that
            occurs; `fg_iou` at the fixed threshold, in [0, 1], NaN without foreground in the truth; `map_state`.
        """
        whole = truth.foreground == "any"
        counts = np.zeros((2, 3, LEVELS), np.uint32)
        class_pixels = np.zeros(1, np.uint32)
        if truth.mask is not None:
            counts, class_pixels = self._count(score_map, truth, truth.mask)
        above, total = counts[1].sum(axis=1), counts.sum(axis=(0, 2))
        hit, wanted = (above[:2].sum(), total[:2].sum()) if whole else (above[0], total[0])
        union = float(wanted) + float(above.sum()) - float(hit)
        histograms = counts.sum(axis=0, dtype=np.uint32)
        return {
            "has_mask": truth.mask is not None,
            "any_foreground": whole,
            "above": above.astype(np.uint32),
            **{f"hist_{kind}": histograms[i] for i, kind in enumerate(_KINDS)},
            "class_pixels": class_pixels,
            "fg_iou": float(hit) / union if wanted else float("nan"),
            "map_state": score_map.state,
        }

    def _count(
        self, score_map: ScoreMap, truth: Truth, mask: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Pixels (below or above the fixed threshold, kind of truth, level), and by class of the truth."""
        if mask.shape != score_map.size:
            raise ValueError(
                f"{truth.image_id}: mask of {mask.shape}, picture of {score_map.size}; allowed are equal ones"
            )
        from eigencam.evaluation import kernels  # numba takes its time to import

        by_value = score_map.of_image("by_value", lambda: np.bincount(mask.ravel(), minlength=VOID)[:VOID])
        kinds = np.ones(VOID + 1, np.uint8)  # 1: other
        kinds[0], kinds[VOID] = 2, 3
        if truth.label >= 0:
            kinds[1 + truth.label] = 0
        level = cut(score_map, self.rule, self.threshold)
        counts = kernels.levels_by_kind(score_map.full, mask, kinds, level, np.float32(score_map.peak))
        classes = 1 + int(np.flatnonzero(by_value).max(initial=0))
        return counts[:, :3].astype(np.uint32), by_value[:classes].astype(np.uint32)

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of the module's docstring, with intervals over images."""
        at = f"{self.threshold:g} {self.rule}"
        masked = rows["has_mask"].to_numpy(bool)
        rows = states.at_worst(rows.loc[masked], fg_iou=0.0)
        n = len(rows)
        if n == 0:
            return [statistics.undefined(name, 0, "not defined: no picture has a mask") for name in _NAMES]
        histograms, above, wanted, rest = _by_level(rows)
        hit, found = above[:, 0] + rows["any_foreground"].to_numpy(bool) * above[:, 1], above.sum(axis=1)
        classes = _Classes.of(rows)

        total, both = wanted.sum(axis=1), histograms.sum(axis=(1, 2))
        right = [both - total - found + hit, hit]
        binary = np.stack([*right, both - found, found, both - total, total], axis=1)
        pixels = np.stack([hit, found, total], axis=1)
        metrics = [
            statistics.mean("fg_iou", rows["fg_iou"], threshold=at, note=states.count(rows["map_state"], "maps")),
            class_ious("miou", classes.counts(above), at, classes.note),
            class_ious("miou_binary", binary, at),
            statistics.pooled("pixel_precision", pixels[:, [0, 1]], MeanRatio(), threshold=at),
            statistics.pooled("pixel_recall", pixels[:, [0, 2]], MeanRatio(), threshold=at),
            statistics.pooled(
                "precision_eer",
                np.concatenate([wanted, rest], axis=1),
                equal_error_rate,
                threshold="precision = recall",
            ),
            *_sweep(wanted, rest, histograms, classes),
        ]
        return statistics.of_rows(metrics, masked)

    def curves(self, rows: pd.DataFrame) -> list[Curve]:
        """Pixel precision against recall; `fg_iou` at all thresholds, marked where it is largest."""
        rows = rows.loc[rows["has_mask"].to_numpy(bool)]
        if not len(rows):
            return []
        _, _, wanted, rest = _by_level(rows)
        made, ious = precision_recall(wanted.sum(axis=0), rest.sum(axis=0)), _ious(wanted, rest)
        if len(ious := ious[~np.isnan(ious[:, 0])]):
            at, values = np.arange(LEVELS) / 255, 100 * ious.mean(axis=0)
            best = int(values.argmax())
            mark = float(at[best]), float(values[best])
            made.append(Curve("foreground IoU against threshold", "threshold (max)", "fg_iou %", at, values, mark))
        return made

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rules in words."""
        words = "void ignored, original pixels; fg_iou: mean over pictures; all others: pixels summed over the set"
        return {
            "evaluator": "segmentation",
            **asdict(self),
            "sweep": "256 levels of the map's maximum",
            "counts": words,
            "undefined": "map constant or not finite: wrong at every pixel",
        }


@dataclass(frozen=True, slots=True)
class _Classes:
    """What the pooled mean IoU needs of each picture: its class and the pixels of every class in its truth."""

    own: NDArray[np.int64]  # (N,) class of the picture's label, background 0; 0 without a label
    truth: Counts  # (N, C)
    note: str

    @classmethod
    def of(cls, rows: pd.DataFrame) -> "_Classes":
        own = np.maximum(rows["label"].to_numpy(np.int64) + 1, 0)
        width = max(int(own.max()) + 1, *map(len, rows["class_pixels"]))
        pixels = np.zeros((len(rows), width))
        for line, counted in zip(pixels, rows["class_pixels"], strict=True):
            line[: len(counted)] = counted
        return cls(own, pixels, f"{int((pixels.sum(axis=0) > 0).sum())} classes occur, with background")

    def counts(self, above: Counts) -> Counts:
        """(N, 3 C): pixels right, predicted and of the truth, by class; `above` (N, 3): pixels found, by kind."""
        right, predicted = np.zeros_like(self.truth), np.zeros_like(self.truth)
        pictures = np.flatnonzero(self.own > 0)
        right[pictures, self.own[pictures]] = above[pictures, 0]
        predicted[pictures, self.own[pictures]] = above[pictures].sum(axis=1)
        right[:, 0] = self.truth[:, 0] - above[:, 2]
        predicted[:, 0] = self.truth.sum(axis=1) - above.sum(axis=1)
        return np.concatenate([right, predicted, self.truth], axis=1)


def mean_iou(sums: Counts) -> Counts:
    """Pixels (R, 3 C) right, predicted and of the truth -> (R,): mean IoU over the classes that occur in the truth."""
    right, predicted, truth = np.split(sums, 3, axis=1)
    occurs = truth > 0
    ious = np.where(occurs, right, 0) / np.where(occurs, predicted + truth - right, 1)
    return _ratio(ious.sum(axis=1), occurs.sum(axis=1).astype(np.float64))


def _sweep(wanted: Counts, rest: Counts, kinds: Counts, classes: _Classes) -> list[Metric]:
    """`fg_iou_best`, `miou_best` from pixels by level: foreground and rest (N, 256), all by kind (N, 3, 256)."""
    above, some = _from_above(kinds), _ious(wanted, rest)
    there = ~np.isnan(some[:, 0])
    best = int(np.argmax(some[there].mean(axis=0))) if there.any() else 0
    fg_iou = statistics.mean("fg_iou_best", some[:, best], threshold=_level(best), note=ORACLE)
    sums = [classes.counts(above[:, :, v]).sum(axis=0) for v in range(LEVELS)]
    best = int(np.argmax(mean_iou(np.stack(sums))))
    counts = classes.counts(above[:, :, best])
    return [fg_iou, class_ious("miou_best", counts, _level(best), f"{ORACLE}; {classes.note}")]


def _by_level(rows: pd.DataFrame) -> tuple[Counts, Counts, Counts, Counts]:
    """Pixels of each image; wrong at every one where the map has no value.

    Returns:
        By kind and level (N, 3, 256); by kind, above the fixed threshold (N, 3); foreground, and the rest, by level
        (N, 256).
    """
    kinds, above = np.stack([_stack(rows, f"hist_{kind}") for kind in _KINDS], axis=1), _stack(rows, "above")
    whole, bad = rows["any_foreground"].to_numpy(bool), states.no_map(rows)
    rest_kinds = np.stack([np.zeros(len(rows), bool), ~whole, np.ones(len(rows), bool)], axis=1)
    totals = kinds[bad].sum(axis=2)
    kinds[bad] = 0
    kinds[bad, :, 0], kinds[bad, :, -1] = totals * ~rest_kinds[bad], totals * rest_kinds[bad]
    above[bad] = totals * rest_kinds[bad]
    wanted = kinds[:, 0] + whole[:, None] * kinds[:, 1]
    return kinds, above, wanted, kinds.sum(axis=1) - wanted


def _ious(wanted: Counts, rest: Counts) -> Counts:
    """(N, 256) IoU of the foreground at each level; NaN for a picture that has none."""
    tp, fp = _from_above(wanted), _from_above(rest)
    some = wanted.sum(axis=1, keepdims=True) > 0  # tp[:, 0]: all foreground, found or not
    return np.divide(tp, tp[:, :1] + fp, out=np.full_like(tp, np.nan), where=some)


def equal_error_rate(histograms: Counts) -> Counts:
    """Precision where it equals recall: (R, 512) pixels by level, foreground's 256 first -> (R,) in [0, 1].

    As many pixels are then predicted as are foreground, P; between two levels the numbers of predicted and of right
    pixels both grow linearly, as if the pixels of one level came in random order. NaN for P = 0.
    """
    wanted, rest = histograms[:, :LEVELS], histograms[:, LEVELS:]
    tp = np.pad(np.cumsum(wanted[:, ::-1], axis=1), ((0, 0), (1, 0)))
    predicted = tp + np.pad(np.cumsum(rest[:, ::-1], axis=1), ((0, 0), (1, 0)))
    foreground_pixels = tp[:, -1]
    after = np.argmax(predicted >= foreground_pixels[:, None], axis=1)
    pictures, before = np.arange(len(tp)), np.maximum(after - 1, 0)
    step = predicted[pictures, after] - predicted[pictures, before]
    share = _ratio(foreground_pixels - predicted[pictures, before], step)
    return _ratio(tp[pictures, before] + share * (tp[pictures, after] - tp[pictures, before]), foreground_pixels)


def class_ious(name: str, counts: Counts, threshold: str, note: str = "") -> Metric:
    """The metric `name`: mean IoU over the classes that occur, of pixels (N, 3 C) right, predicted, of the truth."""
    occurs = counts[:, 2 * counts.shape[1] // 3 :].sum(axis=0) > 0
    right, predicted, truth = (part[:, occurs] for part in np.split(counts, 3, axis=1))
    parts = np.concatenate([right, predicted + truth - right], axis=1)
    return statistics.pooled(name, parts, MeanRatio(right.shape[1]), threshold=threshold, note=note)


def _stack(rows: pd.DataFrame, column: str) -> Counts:
    """(N, K): a column of lists of K numbers."""
    return np.stack(rows[column].tolist()).astype(np.float64)


def _from_above(histograms: Counts) -> Counts:
    """(..., 256) pixels by level -> (..., 256) pixels of at least that level."""
    return np.cumsum(histograms[..., ::-1], axis=-1)[..., ::-1]


def _ratio(a: Counts, b: Counts) -> Counts:
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)


def _level(v: int) -> str:
    return f">= {v}/255 max"
