r"""Segmentation by the maps of all classes that a picture has: each pixel goes to the class of the highest map.

The picture's classes are given (`target=each`), not predicted. The map $m_c$ of each is scaled by its own maximum,
enlarged to the picture; the background has the score t everywhere:

$$\hat y = \arg\max_c\ s_c, \qquad s_c = \max(m_c, 0) / \max m_c, \quad s_\text{background} = t$$

so a class has a pixel only where it is above t. Of equal classes the first in the order of labels has it, as argmax
does in the authors' code; a method that knows no classes has equal maps everywhere, and with two classes in a picture
says nothing about the second. The note counts such pixels. A map without a positive value finds nothing.

A picture of which the map of one class is constant or not finite is wrong at every pixel: nothing is right, and each
class, background included, is found in all pixels that are not its own. Only a baseline's constant map that is meant
counts as any other.

    class_miou            VOC's mean IoU at a fixed t: pixels right, predicted and of the truth are summed over the set,
                          IoU of each class, mean over the classes, background included, that occur in the truth (the
                          interval: of these classes, each in 3 images or more)
    class_miou_tuned      the same where each half of the pictures, by a hash of their ids, is read at the t that is
                          best on the other half
    class_miou_best       at the best t on the pictures themselves: an oracle's number
    class_best_threshold  that t

Void pixels count nowhere. Pictures without a mask are left out; one without a class is all background.

Reference: the evaluation of class activation maps as seeds of weakly supervised segmentation: J. Ahn, S. Cho, S. Kwak,
"Weakly supervised learning of instance segmentation with inter-pixel relations", CVPR 2019, with t = 0.15 in its code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.datasets.base import VOID, Truth
from eigencam.evaluation import states, statistics
from eigencam.evaluation.base import Curve, Metric, Row
from eigencam.evaluation.localization_tuned import halves
from eigencam.evaluation.maps import Floats, ScoreMap
from eigencam.evaluation.segmentation import ORACLE, Counts, class_ious, mean_iou


@dataclass(frozen=True, slots=True)
class ClassSegmentation:
    """Evaluator; see the module.

    Attributes:
        threshold: t of `class_miou`, a share of each map's maximum.
        step: between the thresholds, from 0 on, among which the others choose.
    """

    threshold: float = 0.15
    step: float = 0.01

    version = 1
    summary_version = 2
    headline = ("class_miou", "class_miou_tuned", "class_miou_best", "class_best_threshold")

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold={self.threshold}; allowed: 0 <= threshold < 1")
        if not 0.001 <= self.step <= 1:
            raise ValueError(f"step={self.step}; allowed: 0.001 to 1")

    @property
    def grid(self) -> Floats:
        """(T,) float32 ascending: the thresholds, the fixed one among them."""
        steps = np.arange(0, 1, self.step).round(6)
        return np.unique(np.append(steps, self.threshold).astype(np.float32))

    def joint_row(self, score_maps: Sequence[ScoreMap], truths: Sequence[Truth]) -> Row:
        """Pixels of one picture by the number of thresholds that their score is above.

        Returns:
            `has_mask`; `classes` (K,) uint8, those of the maps and of the mask ascending, background 0; `right` and
            `predicted` (K (T + 1),) uint32, pixels for which a class has the highest score, by that score's level; of
            the background those that it would have; `truth` (K,) uint32, its pixels; `tied`, pixels above the fixed
            threshold at which classes tie; `maps`, `constant`, `nonfinite`, numbers of maps.
        """
        truth = truths[0]
        seen = [score_map.state for score_map in score_maps]
        counts = {"maps": len(seen), "constant": seen.count("constant"), "nonfinite": seen.count("nonfinite")}
        if (mask := truth.mask) is None:
            none = np.zeros(0, np.uint32)
            return {"has_mask": False, "classes": none.astype(np.uint8), "right": none, "predicted": none} | {
                "truth": none,
                "tied": 0,
                **counts,
            }
        if mask.shape != truth.size:
            raise ValueError(f"{truth.image_id}: mask of {mask.shape}, picture of {truth.size}; allowed are equal ones")
        grid = self.grid
        score, winner, tied = _highest(score_maps, truths)
        own = np.bincount(mask.ravel(), minlength=VOID + 1)[:VOID]
        classes = np.union1d(np.flatnonzero(own), [0, *(t.label + 1 for t in truths)])
        kinds, levels = len(classes), len(grid) + 1
        place = np.full(VOID + 1, kinds, np.intp)  # void: one more column
        place[classes] = np.arange(kinds)
        code = (place * ((kinds + 1) * levels))[winner]
        code += (place * levels)[mask]
        code += np.searchsorted(grid, score.ravel()).reshape(score.shape)
        pixels = np.bincount(code.ravel(), minlength=kinds * (kinds + 1) * levels)
        pixels = pixels.reshape(kinds, kinds + 1, levels)[:, :kinds]  # (class found, class of the truth, level)
        right, predicted = pixels[np.arange(kinds), np.arange(kinds)], pixels.sum(axis=1)
        right[0], predicted[0] = pixels[:, 0].sum(axis=0), predicted.sum(axis=0)
        return {
            "has_mask": True,
            "classes": classes.astype(np.uint8),
            "right": right.ravel().astype(np.uint32),
            "predicted": predicted.ravel().astype(np.uint32),
            "truth": own[classes].astype(np.uint32),
            "tied": int(np.count_nonzero(tied & (score > np.float32(self.threshold)) & (mask != VOID))),
            **counts,
        }

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of the module's docstring, with intervals over images."""
        masked = rows["has_mask"].to_numpy(bool)
        rows, n = rows[masked], int(masked.sum())
        if n == 0:
            return [statistics.undefined(name, 0, "not defined: no picture has a mask") for name in self.headline]
        grid, pixels = self.grid, _Pixels.of(rows, len(self.grid))
        if not pixels.truth.any():
            return [statistics.undefined(name, n, "not defined: all pixels are void") for name in self.headline]
        half, everyone = halves(rows["image"]), np.ones(n, bool)
        fixed = int(np.searchsorted(grid, np.float32(self.threshold)))
        best = pixels.best(everyone)
        counts = pixels.at(np.full(n, fixed))
        note = "; ".join(part for part in (_maps(rows), pixels.note, _ties(rows, counts)) if part)
        metrics = [class_ious("class_miou", counts, f"{self.threshold:g} max", note)]
        if half.all() or not half.any():
            metrics.append(statistics.undefined("class_miou_tuned", n, "not defined: one half is empty"))
        else:
            chosen = np.where(half, pixels.best(~half), pixels.best(half))
            at = " / ".join(f"{grid[k]:g}" for k in np.unique(chosen)) + " max"
            metrics.append(class_ious("class_miou_tuned", pixels.at(chosen), at))
        value = float(f"{grid[best]:g}")
        oracle = class_ious("class_miou_best", pixels.at(np.full(n, best)), f"{value:g} max", ORACLE)
        metrics += [oracle, Metric("class_best_threshold", value, np.nan, np.nan, n, "", better="")]
        return statistics.of_rows(metrics, masked)

    def curves(self, rows: pd.DataFrame) -> list[Curve]:
        """The mean IoU at every threshold; marked where it is largest."""
        rows = rows[rows["has_mask"].to_numpy(bool)]
        if not len(rows):
            return []
        at = self.grid.astype(np.float64)
        values = 100 * mean_iou(_Pixels.of(rows, len(at)).total(np.ones(len(rows), bool)))
        if np.isnan(values).any():
            return []
        best = int(values.argmax())
        mark = float(at[best]), float(values[best])
        return [Curve("mean IoU against background", "score of the background", "class_miou %", at, values, mark)]

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rules in words."""
        words = "the picture's classes are given; each map over its maximum; the highest above the background's score"
        counts = "void ignored, original pixels, summed over the set; mean over the classes that occur"
        rule = "a class's map constant or not finite: the picture is wrong at every pixel"
        return {"evaluator": "class_segmentation", **asdict(self), "pixel": words, "counts": counts, "undefined": rule}


def _highest(
    score_maps: Sequence[ScoreMap], truths: Sequence[Truth]
) -> tuple[Floats, NDArray[np.uint8], NDArray[np.bool_]]:
    """(H, W) each: the highest of the scaled maps, 1 + its class (0 where none is positive), whether classes tie."""
    score = np.zeros(truths[0].size, np.float32)
    winner, tied = np.zeros(score.shape, np.uint8), np.zeros(score.shape, bool)
    for score_map, truth in sorted(zip(score_maps, truths, strict=True), key=lambda pair: pair[1].label):
        if truth.label < 0 or not score_map.peak > 0:
            continue
        own = score_map.full / np.float32(score_map.peak)
        above = own > score
        tied = (tied & ~above) | ((own == score) & (own > 0))
        winner[above] = truth.label + 1
        np.maximum(score, own, out=score)
    return score, winner, tied


@dataclass(frozen=True, slots=True)
class _Pixels:
    """Pixels of every class of every picture at every threshold: E pairs, of N pictures and C classes.

    Attributes:
        picture: (E,) in 0 .. N - 1.
        label: (E,) class, background 0.
        right: (E, T) of the class and found to be.
        predicted: (E, T) found to be.
        truth: (E,).
        note: what occurs.
    """

    picture: NDArray[np.int64]
    label: NDArray[np.int64]
    right: Counts
    predicted: Counts
    truth: Counts
    note: str

    @classmethod
    def of(cls, rows: pd.DataFrame, thresholds: int) -> "_Pixels":
        picture = np.repeat(np.arange(len(rows)), rows["classes"].map(len))
        label, truth, right, predicted = (
            np.concatenate(rows[name].tolist()) for name in ("classes", "truth", "right", "predicted")
        )
        # Level l is above the first l thresholds: a class has what is above threshold k, the background the rest.
        background = (label == 0)[:, None]
        right, predicted = (
            np.cumsum(levels.reshape(len(label), thresholds + 1), axis=1, dtype=np.float64)
            for levels in (right, predicted)
        )
        right, predicted = (np.where(background, upto, upto[:, -1:] - upto)[:, :-1] for upto in (right, predicted))
        wrong = _without_map(rows)[picture]
        pixels = np.bincount(picture, truth, len(rows))
        right[wrong], predicted[wrong] = 0, (pixels[picture] - truth)[wrong, None]
        occur, given = set(label[truth > 0].tolist()), set(label.tolist()) - {0}
        note = f"{len(occur)} classes occur, with background"
        if absent := given - occur:
            note += f"; {len(absent)} given without a pixel left out"
        return cls(picture, label.astype(np.int64), right, predicted, truth.astype(np.float64), note)

    @property
    def _classes(self) -> int:
        return int(self.label.max()) + 1

    def at(self, chosen: NDArray[np.int64]) -> Counts:
        """(N, 3 C) right, predicted and of the truth, each picture at the threshold chosen for it (N,)."""
        sums = np.zeros((len(chosen), 3, self._classes))
        pair, k = np.arange(len(self.label)), chosen[self.picture]
        for kind, values in enumerate((self.right[pair, k], self.predicted[pair, k], self.truth)):
            sums[self.picture, kind, self.label] = values
        return sums.reshape(len(chosen), -1)

    def total(self, chosen: NDArray[np.bool_]) -> Counts:
        """(T, 3 C) of all pictures chosen (N,), at each threshold."""
        kept = chosen[self.picture]
        thresholds = self.right.shape[1]
        sums = np.zeros((3, self._classes, thresholds))
        truth = np.broadcast_to(self.truth[:, None], self.right.shape)
        for own, values in zip(sums, (self.right, self.predicted, truth), strict=True):
            np.add.at(own, self.label[kept], values[kept])
        return sums.reshape(-1, thresholds).T

    def best(self, chosen: NDArray[np.bool_]) -> int:
        """The first threshold with the largest mean IoU of the pictures chosen."""
        return int(np.argmax(mean_iou(self.total(chosen))))


def _without_map(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """(N,): the images with a class whose map has no value; a baseline's constant map that is meant has one."""
    bad = rows["nonfinite"].to_numpy(np.int64) + rows["constant"].to_numpy(np.int64)
    if "constant_by_design" in rows:
        bad = np.where(rows["constant_by_design"].to_numpy(bool), rows["nonfinite"].to_numpy(np.int64), bad)
    return (bad > 0) & np.array([max(classes) > 0 for classes in rows["classes"]])  # of no class, no map is needed


def _maps(rows: pd.DataFrame) -> str:
    constant, nonfinite, maps = (int(rows[name].sum()) for name in ("constant", "nonfinite", "maps"))
    seen = ["constant"] * constant + ["nonfinite"] * nonfinite + ["ok"] * (maps - constant - nonfinite)
    return states.count(seen, "maps")


def _ties(rows: pd.DataFrame, counts: Counts) -> str:
    """The share of the pixels found that classes tie for."""
    found = np.split(counts, 3, axis=1)[1][:, 1:].sum()
    percent = 100 * rows["tied"].sum() / found if found else 0.0
    return f"{percent:.1f} % of the pixels found are a tie, the first class's" if percent >= 0.05 else ""
