"""Segmentation by a score map: the pixels above a threshold, compared with the image's mask.

The truth has three kinds of pixels: of the image's class ("label"), of other classes ("other") and background; void
pixels are not counted. The foreground is "label", or "label" and "other" if `Truth.foreground` is `any`; the remaining
pixels are the rest. TP, FP and FN are the numbers of foreground pixels above the threshold, of pixels of the rest above
it, and of foreground pixels below it:

    fg_iou           TP / (TP + FP + FN) of each image, then the mean over images that have foreground
    miou             VOC's: a pixel above the threshold is predicted as the image's class, else as background. TP, FP
                     and FN of every class are summed over the dataset, and the IoUs of the classes that occur in the
                     truth, background included, are averaged. In an image without a label, a pixel above the threshold
                     is predicted as no class. There is an interval if each of these classes occurs in 3 images or more
    miou_binary      the same with two classes, foreground and the rest, whatever the image's class
    pixel_precision  TP / (TP + FP), summed over the set;     pixel_recall  TP / (TP + FN), summed over the set
    precision_eer    pixel precision where it equals recall, on the precision-recall curve summed over the set: the
                     Graz-02 protocol (M. Marszalek, C. Schmid, CVPR 2007). The two are equal where as many pixels are
                     predicted as are foreground; between two levels TP is interpolated linearly
    fg_iou_best, miou_best   the largest value over all 256 thresholds. The threshold is chosen with the truth,
                     so these are bounds (oracles), not results; their intervals are those at the chosen threshold
    fg_iou_tuned, miou_tuned   with `tune`: at the threshold that is best on a part of the images; all metrics then
                     cover the others (`evaluation/tuning.py`)

The sweep is over the value as a fraction of the map's maximum, in 256 levels, floor(255 clip(m / max m, 0, 1)); at
threshold v, the pixels whose level is at least v are predicted as foreground. All levels are 0 if the maximum is not
positive. Images without a mask are not counted. An image without a foreground pixel has no `fg_iou`, but counts in the
sums.

An image whose map is constant or not finite is wrong at every pixel: its foreground is missed, and everything else is
predicted. Only a constant map that a baseline returns on purpose is thresholded like any other.

Reference: M. Everingham et al., "The PASCAL Visual Object Classes Challenge", IJCV 2010, section 4.3.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.datasets.base import VOID, Dataset, Truth
from eigencam.evaluation import states, statistics
from eigencam.evaluation.base import Curve, Metric, Row
from eigencam.evaluation.intervals import MeanRatio
from eigencam.evaluation.maps import Rule, ScoreMap, check_rule, cut
from eigencam.evaluation.pxap import equal_error_rate, precision_recall
from eigencam.evaluation.sums import ByClass, Counted, Part, Sums, Totals, flattened, summed
from eigencam.evaluation.tuning import Tune, check_tune, choice_note, tune_column, tune_sources, tuned_rows

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
_TUNED = ("fg_iou_tuned", "miou_tuned")

ORACLE = "oracle: threshold chosen with the truth"

Counts = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Segmentation:
    """Evaluator of segmentation; see the module.

    Attributes:
        rule: thresholding rule of a map for the fixed threshold, see `evaluation/maps.py`.
        threshold: the rule's parameter; the default is CAM's.
        tune: the images that the thresholds of `fg_iou_tuned` and `miou_tuned` are chosen on, a share or a file, see
            `evaluation/tuning.py`; None: there are no such metrics.
    """

    rule: Rule = "max"
    threshold: float = 0.2
    tune: Tune = None

    version = 1
    summary_version = 2

    def __post_init__(self) -> None:
        check_rule(self.rule, self.threshold)
        check_tune(self.tune)

    @property
    def headline(self) -> tuple[str, ...]:
        """`fg_iou` and `miou` (with `tune`: the tuned ones), pixel precision and recall, and `precision_eer`."""
        ious = ("fg_iou", "miou") if self.tune is None else _TUNED
        return (*ious, "pixel_precision", "pixel_recall", "precision_eer")

    def sources(self, dataset: Dataset) -> dict[str, str]:
        """SHA-256 of the file that says on which images the thresholds are chosen."""
        return tune_sources(self.tune, dataset)

    def row(self, score_map: ScoreMap, truth: Truth) -> Row:
        """Count the pixels of one image; zeros and `has_mask` False if it has no mask.

        Returns:
            `has_mask` (bool); `any_foreground` (bool): whether `Truth.foreground` is `any`; `above` (3,) uint32, pixels
            above the fixed threshold by kind of truth: label, other, background; `hist_label`, `hist_other`,
            `hist_background` (256,) uint32, all pixels by level; `class_pixels` (C,) uint32, pixels of the truth,
            background first, up to the last class that occurs; `fg_iou` at the fixed threshold, in [0, 1], NaN
            without foreground in the truth; `map_state`; with `tune` also `in_tune`: whether the
            thresholds are chosen on the image.
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
            **tune_column(self.tune, truth.image_id),
        }

    def _count(
        self, score_map: ScoreMap, truth: Truth, mask: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
        """Pixels (below or above the fixed threshold, kind of truth, level), and by class of the truth."""
        if mask.shape != score_map.size:
            raise ValueError(
                f"{truth.image_id}: mask of {mask.shape}, image of {score_map.size}; allowed are equal ones"
            )
        from eigencam.evaluation import kernels  # importing numba takes time

        by_value = score_map.of_image("by_value", lambda: np.bincount(mask.ravel(), minlength=VOID)[:VOID])
        kinds = np.ones(VOID + 1, np.uint8)  # 1: other
        kinds[0], kinds[VOID] = 2, 3
        if truth.label >= 0:
            kinds[1 + truth.label] = 0
        level = cut(score_map, self.rule, self.threshold)
        counts = kernels.levels_by_kind(score_map.full, mask, kinds, level, np.float32(score_map.peak))
        classes = 1 + int(np.flatnonzero(by_value).max(initial=0))
        return counts[:, :3].astype(np.uint32), by_value[:classes].astype(np.uint32)

    def totals(self, rows: pd.DataFrame) -> dict[str, NDArray[Any]]:
        """Return, at each level, sums over all images with a mask: pixels by class, foreground and rest; `fg_iou`.

        With `tune` the sums are over the reported images; those over the other images are called `tune NAME`.
        """
        masked, tuned = rows["has_mask"].to_numpy(bool), tuned_rows(self.tune, rows)
        made = _totals(rows.loc[masked & ~tuned])
        if self.tune is None:
            return made
        return made | {f"tune {name}": values for name, values in _totals(rows.loc[masked & tuned]).items()}

    def choose(self, totals: Totals) -> "_AtLevels":
        """Return the evaluator with the levels at which `fg_iou` and the mean IoU are largest."""
        if self.tune is None:
            return _AtLevels(self, *_best_levels(totals))
        chosen = {name: totals[f"tune {name}"] for name in ("ious", "right", "predicted", "truth")}
        images = int(totals["tune images"][0])
        return _AtLevels(self, *_best_levels(totals), _best_levels(chosen), images)

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def curves(self, rows: pd.DataFrame) -> list[Curve]:
        """Pixel precision against recall; `fg_iou` at all thresholds, marked where it is largest."""
        return self.drawn(self.totals(rows))

    def drawn(self, totals: Totals) -> list[Curve]:
        """The curves of the totals of all rows."""
        made = precision_recall(totals["wanted"], totals["rest"])
        if n := int(totals["n"][0]):
            at, values = np.arange(LEVELS) / 255, 100 * totals["ious"] / n
            best = int(values.argmax())
            mark = float(at[best]), float(values[best])
            made.append(Curve("foreground IoU against threshold", "threshold (max)", "fg_iou %", at, values, mark))
        return made

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rules in words."""
        words = "void ignored, original pixels; fg_iou: mean over images; all others: pixels summed over the set"
        return {
            "evaluator": "segmentation",
            **{name: value for name, value in asdict(self).items() if name != "tune" or value is not None},
            "sweep": "256 levels of the map's maximum",
            "counts": words,
            "undefined": "map constant or not finite: wrong at every pixel",
        }


@dataclass(frozen=True, slots=True)
class _AtLevels:
    """The metrics of the module's docstring, with the levels of `fg_iou_best` and `miou_best` chosen from all rows.

    With `tune` there are two more, at the levels `tuned`, chosen on the masks of `tuned_on` images.
    """

    evaluator: Segmentation
    fg_iou: int
    miou: int
    tuned: tuple[int, int] = (0, 0)
    tuned_on: int = 0

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each reported row with a mask."""
        masked = rows["has_mask"].to_numpy(bool) & ~tuned_rows(self.evaluator.tune, rows)
        own = states.at_worst(rows.loc[masked], fg_iou=0.0)
        kinds, above, wanted, rest = _by_level(own)
        hit, found = above[:, 0] + own["any_foreground"].to_numpy(bool) * above[:, 1], above.sum(axis=1)
        total, both, classes = wanted.sum(axis=1), kinds.sum(axis=(1, 2)), _Classes.of(own)
        right = [both - total - found + hit, hit]
        binary = np.stack([*right, both - found, found, both - total, total], axis=1)

        def spread(values: NDArray[Any], none: float = 0) -> NDArray[Any]:
            everyone = np.full((len(rows), *values.shape[1:]), none, values.dtype)
            everyone[masked] = values
            return everyone

        counts = {"pixels": np.stack([hit, found, total], axis=1), "binary": binary}
        counts["levels"] = np.concatenate([wanted, rest], axis=1)
        levels = {"best": (self.fg_iou, self.miou)} | ({} if self.evaluator.tune is None else {"tuned": self.tuned})
        above_each, ious, place = _from_above(kinds), _ious(wanted, rest), np.flatnonzero(masked)
        return {
            "map_state": states.flags(rows) & masked[:, None],
            "fg_iou": spread(own["fg_iou"].to_numpy(np.float64), np.nan),
            **{f"fg_iou_{name}": spread(ious[:, at], np.nan) for name, (at, _) in levels.items()},
            **{name: Counted(spread(values.astype(np.int64)), masked) for name, values in counts.items()},
            "miou": classes.part(above, place),
            **{f"miou_{name}": classes.part(above_each[:, :, at], place) for name, (_, at) in levels.items()},
        }

    def metrics(self, sums: Sums) -> list[Metric]:
        """The metrics of the module's docstring, with intervals over images."""
        at, n = f"{self.evaluator.threshold:g} {self.evaluator.rule}", sums.count("pixels")
        if n == 0:
            tuned = () if self.evaluator.tune is None else _TUNED
            why = "no image is left to report on" if self.tuned_on else "no image has a mask"
            return [statistics.undefined(name, 0, f"not defined: {why}") for name in (*_NAMES, *tuned)]
        pixels, best = sums["pixels"].astype(np.float64), _level(self.miou)
        classes = f"{sums.class_count('miou')} classes occur, with background"
        maps = states.counted(sums.total("map_state"), n, "maps")
        binary = sums["binary"].astype(np.float64)
        occurs = binary[:, 4:].sum(axis=0) > 0
        unions = np.concatenate([binary[:, :2], binary[:, 2:4] + binary[:, 4:] - binary[:, :2]], axis=1)
        two, few = MeanRatio(int(occurs.sum())), np.tile(occurs, 2)
        return [
            sums.among("pixels", sums.mean("fg_iou", "fg_iou", threshold=at, note=maps)),
            sums.class_ious("miou", "miou", "pixels", threshold=at, note=classes),
            sums.pooled("miou_binary", unions[:, few], two, "pixels", threshold=at),
            sums.pooled("pixel_precision", pixels[:, [0, 1]], MeanRatio(), "pixels", threshold=at),
            sums.pooled("pixel_recall", pixels[:, [0, 2]], MeanRatio(), "pixels", threshold=at),
            sums.pooled(
                "precision_eer",
                sums["levels"].astype(np.float64),
                equal_error_rate,
                "pixels",
                threshold="precision = recall",
            ),
            sums.among("pixels", sums.mean("fg_iou_best", "fg_iou_best", threshold=_level(self.fg_iou), note=ORACLE)),
            sums.class_ious("miou_best", "miou_best", "pixels", threshold=best, note=f"{ORACLE}; {classes}"),
            *(self._tuned(sums, classes, maps) if self.evaluator.tune is not None else ()),
        ]

    def _tuned(self, sums: Sums, classes: str, maps: str) -> list[Metric]:
        """The two metrics at the levels that were chosen on other images."""
        if not self.tuned_on:
            why = "not defined: no image is left to choose the threshold on"
            return [statistics.undefined(name, 0, why) for name in _TUNED]
        fg_iou, miou = (_level(at) for at in self.tuned)
        how = choice_note(self.evaluator.tune, None, self.tuned_on)
        notes = ["; ".join(part for part in (how, more) if part) for more in (maps, classes)]
        return [
            sums.among("pixels", sums.mean(_TUNED[0], _TUNED[0], threshold=fg_iou, note=notes[0])),
            sums.class_ious(_TUNED[1], _TUNED[1], "pixels", threshold=miou, note=notes[1]),
        ]


@dataclass(frozen=True, slots=True)
class _Classes:
    """What the pooled mean IoU needs from each image: its class and the pixels of every class in its truth."""

    image_class: NDArray[np.int64]  # (N,) class of the image's label, background 0; 0 without a label
    row: NDArray[np.int64]  # (M,) image of each entry: one entry per class in an image
    label: NDArray[np.int64]  # (M,)
    truth: Counts  # (M,) pixels

    @classmethod
    def of(cls, rows: pd.DataFrame) -> "_Classes":
        own = np.maximum(rows["label"].to_numpy(np.int64) + 1, 0)
        truth, lengths = flattened(rows["class_pixels"])
        row = np.repeat(np.arange(len(rows)), lengths)
        label = np.arange(len(truth)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        return cls(own, row, label, truth.astype(np.float64))

    def part(self, above: Counts, place: NDArray[np.int64]) -> ByClass:
        """By class: truth, right and predicted pixels of the images `place`; `above` (N, 3): pixels above, by kind."""
        found, labelled, background = above.sum(axis=1), self.image_class > 0, self.label == 0
        right, predicted = np.zeros_like(self.truth), np.zeros_like(self.truth)
        behind, whole = self.row[background], np.bincount(self.row, self.truth, len(self.image_class))
        right[background] = self.truth[background] - above[behind, 2]
        predicted[background] = (whole - found)[behind]
        numbers = {
            "truth": np.append(self.truth, np.zeros(labelled.sum())),
            "right": np.append(right, above[labelled, 0]),
            "predicted": np.append(predicted, found[labelled]),
        }
        row, label = np.append(self.row, np.flatnonzero(labelled)), np.append(self.label, self.image_class[labelled])
        return ByClass(place[row], label, {name: values.astype(np.int64) for name, values in numbers.items()})

    def by_level(self, kinds: Counts) -> dict[str, NDArray[Any]]:
        """`truth` (C,), `right` and `predicted` (C, 256) of all images; `kinds` (N, 3, 256) pixels by level."""
        above, classes = _from_above(kinds), 1 + max(self.image_class.max(initial=0), self.label.max(initial=0))
        right, predicted = np.zeros((classes, LEVELS)), np.zeros((classes, LEVELS))
        np.add.at(right, self.image_class, above[:, 0])
        np.add.at(predicted, self.image_class, above.sum(axis=1))
        truth = np.bincount(self.label, self.truth, classes)
        right[0] = truth[0] - above[:, 2].sum(axis=0)
        predicted[0] = truth.sum() - above.sum(axis=(0, 1))
        return {"truth": truth, "right": right, "predicted": predicted}


def _totals(rows: pd.DataFrame) -> dict[str, NDArray[Any]]:
    """For rows with a mask: pixels and sums of IoU at each level; numbers of images, and of images with foreground."""
    kinds, _, wanted, rest = _by_level(rows)
    ious = _ious(wanted, rest)
    some = ~np.isnan(ious[:, 0])
    totals = {"wanted": wanted.sum(axis=0), "rest": rest.sum(axis=0), "ious": ious[some].sum(axis=0)}
    return totals | {"n": np.array([some.sum()]), "images": np.array([len(rows)])} | _Classes.of(rows).by_level(kinds)


def _best_levels(totals: Totals) -> tuple[int, int]:
    """The levels at which `fg_iou`, and the mean IoU, are largest."""
    parts = [totals[name].T for name in ("right", "predicted")]
    sums = np.concatenate([*parts, np.broadcast_to(totals["truth"], parts[0].shape)], axis=1)
    return int(totals["ious"].argmax()), int(mean_iou(sums).argmax()) if sums.size else 0


def mean_iou(sums: Counts) -> Counts:
    """Pixels (R, 3 C) right, predicted and true -> (R,): mean IoU over the classes that occur in the truth."""
    right, predicted, truth = np.split(sums, 3, axis=1)
    occurs = truth > 0
    ious = np.where(occurs, right, 0) / np.where(occurs, predicted + truth - right, 1)
    return _ratio(ious.sum(axis=1), occurs.sum(axis=1).astype(np.float64))


def _by_level(rows: pd.DataFrame) -> tuple[Counts, Counts, Counts, Counts]:
    """Pixel counts of each image; wrong at every pixel if the map is undefined.

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
    """(N, 256) IoU of the foreground at each level; NaN for an image without foreground."""
    tp, fp = _from_above(wanted), _from_above(rest)
    some = wanted.sum(axis=1, keepdims=True) > 0  # tp[:, 0]: all foreground pixels, at level 0 and above
    return np.divide(tp, tp[:, :1] + fp, out=np.full_like(tp, np.nan), where=some)


def _stack(rows: pd.DataFrame, column: str) -> Counts:
    """(N, K): a column of lists of K numbers."""
    lists = rows[column].tolist()
    return np.stack(lists).astype(np.float64) if lists else np.zeros((0, 3 if column == "above" else LEVELS))


def _from_above(histograms: Counts) -> Counts:
    """(..., 256) pixels by level -> (..., 256) pixels of at least that level."""
    return np.cumsum(histograms[..., ::-1], axis=-1)[..., ::-1]


def _ratio(a: Counts, b: Counts) -> Counts:
    return np.divide(a, b, out=np.full(np.shape(a), np.nan), where=b > 0)


def _level(v: int) -> str:
    return f">= {v}/255 max"
