r"""Segmentation by the maps for all classes of an image: each pixel gets the class of the highest map.

The image's classes are given (`target=each`), not predicted. The map $m_c$ of each is divided by its own maximum and
enlarged to the image; the background has the score t everywhere:

$$\hat y = \arg\max_c\ s_c, \qquad s_c = \max(m_c, 0) / \max m_c, \quad s_\text{background} = t$$

so a class gets a pixel only if it is above t there. Among equal classes the first in the order of labels wins, as with
argmax in the authors' code. A class-agnostic method has equal maps everywhere, so with two classes in an image it says
nothing about the second; the note counts such pixels. A map without a positive value predicts no pixel.

An image in which the map of one class is constant or not finite is wrong at every pixel: nothing is right, and each
class, background included, is predicted in all pixels that are not its own. Only a constant map that a baseline returns
on purpose counts like any other map.

    class_miou            VOC's mean IoU at a fixed t: right, predicted and true pixels are summed over the dataset, and
                          the IoUs of the classes that occur in the truth, background included, are averaged. It has an
                          interval if each of these classes occurs in 3 images or more
    class_miou_tuned      the same, where each half of the images, by a hash of their ids, uses the t that is
                          best on the other half; with `tune` all metrics cover only a part of the images, and this one
                          uses the t that is best on the rest (`evaluation/tuning.py`)
    class_miou_best       at the best t on the evaluated images: an oracle's number
    class_best_threshold  that t

Void pixels are not counted. Images without a mask are left out; one without a class is all background.

Reference: the evaluation of class activation maps as seeds of weakly supervised segmentation: J. Ahn, S. Cho, S. Kwak,
"Weakly supervised learning of instance segmentation with inter-pixel relations", CVPR 2019, with t = 0.15 in its code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.datasets.base import VOID, Dataset, Truth
from eigencam.evaluation import states, statistics
from eigencam.evaluation.base import Curve, Metric, Row
from eigencam.evaluation.localization_tuned import halves
from eigencam.evaluation.maps import Floats, ScoreMap
from eigencam.evaluation.segmentation import ORACLE, Counts, mean_iou
from eigencam.evaluation.sums import ByClass, Counted, Part, Sums, Totals, flattened, summed
from eigencam.evaluation.tuning import Tune, check_tune, choice_note, tune_column, tune_sources, tuned_rows

_HALVES = ("first half", "second half")
_KINDS = ("truth", "right", "predicted")


@dataclass(frozen=True, slots=True)
class ClassSegmentation:
    """Evaluator; see the module.

    Attributes:
        threshold: t of `class_miou`, a share of each map's maximum.
        step: step of the grid of thresholds, from 0 on, for the other metrics.
        tune: the images that `class_miou_tuned` chooses on, a share or a file, see `evaluation/tuning.py`; None: for
            each half, the other half.
    """

    threshold: float = 0.15
    step: float = 0.01
    tune: Tune = None

    version = 1
    summary_version = 2
    headline = ("class_miou", "class_miou_tuned", "class_miou_best", "class_best_threshold")

    def __post_init__(self) -> None:
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold={self.threshold}; allowed: 0 <= threshold < 1")
        if not 0.001 <= self.step <= 1:
            raise ValueError(f"step={self.step}; allowed: 0.001 to 1")
        check_tune(self.tune)

    def sources(self, dataset: Dataset) -> dict[str, str]:
        """SHA-256 of the file that says on which images the threshold is chosen."""
        return tune_sources(self.tune, dataset)

    @property
    def grid(self) -> Floats:
        """(T,) float32 ascending: the thresholds, including the fixed one."""
        steps = np.arange(0, 1, self.step).round(6)
        return np.unique(np.append(steps, self.threshold).astype(np.float32))

    def joint_row(self, score_maps: Sequence[ScoreMap], truths: Sequence[Truth]) -> Row:
        """Count the pixels of one image by the number of thresholds that their score exceeds.

        Returns:
            `has_mask`; `classes` (K,) uint8, those of the maps and of the mask ascending, background 0; `right` and
            `predicted` (K (T + 1),) uint32, for each class the pixels where it has the highest score, by the number of
            thresholds that this score exceeds (for the background, the pixels of all classes); `truth` (K,) uint32, the
            true pixels of each class; `tied`, the pixels above the fixed threshold at which classes tie; `maps`,
            `constant`, `nonfinite`, numbers of maps; with `tune` whether the threshold is chosen on the image,
            `in_tune`.
        """
        truth = truths[0]
        seen = [score_map.state for score_map in score_maps]
        counts = {"maps": len(seen), "constant": seen.count("constant"), "nonfinite": seen.count("nonfinite")}
        counts |= tune_column(self.tune, truth.image_id)
        if (mask := truth.mask) is None:
            none = np.zeros(0, np.uint32)
            return {"has_mask": False, "classes": none.astype(np.uint8), "right": none, "predicted": none} | {
                "truth": none,
                "tied": 0,
                **counts,
            }
        if mask.shape != truth.size:
            raise ValueError(f"{truth.image_id}: mask of {mask.shape}, image of {truth.size}; allowed are equal ones")
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
        pixels = pixels.reshape(kinds, kinds + 1, levels)[:, :kinds]  # (predicted class, true class, level)
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

    def totals(self, rows: pd.DataFrame) -> dict[str, NDArray[Any]]:
        """Return the sums over all images with a mask, by class and threshold, for either half.

        With `tune` the threshold is chosen on the first half, and the second is reported.
        """
        rows = rows[rows["has_mask"].to_numpy(bool)]
        pixels, half = _Pixels.of(rows, len(self.grid)), self._half(rows)
        reported = (half if self.tune is not None else np.ones(len(rows), bool))[pixels.image]
        made: dict[str, NDArray[Any]] = {"given": np.bincount(pixels.label[reported])}
        for side, chosen in zip(_HALVES, (~half, half), strict=True):
            found = pixels.total(chosen)
            made |= {f"{side} n": np.array([chosen.sum()])} | {
                f"{side} {kind}": values for kind, values in found.items()
            }
        return made

    def choose(self, totals: Totals) -> "_AtThresholds":
        """Return the evaluator with the thresholds that are best on all reported images, and on either half."""
        whole = self._reported(totals)
        each = [{kind: totals[f"{side} {kind}"] for kind in _KINDS} for side in _HALVES]
        best, first, second = (int(_mean_ious(counts).argmax()) for counts in (whole, *each))
        fixed = int(np.searchsorted(self.grid, np.float32(self.threshold)))
        halved = all(totals[f"{side} n"][0] for side in _HALVES)
        given = np.flatnonzero(totals["given"])
        absent = int((whole["truth"][given[given > 0]] == 0).sum())
        tuned_on = int(totals[f"{_HALVES[0]} n"][0]) if self.tune is not None else 0
        return _AtThresholds(self, fixed, best, (second, first), halved, absent, tuned_on)

    def _half(self, rows: pd.DataFrame) -> NDArray[np.bool_]:
        """(N,): the half of each image; with `tune`: whether the image is reported on."""
        return halves(rows["image"]) if self.tune is None else ~tuned_rows(self.tune, rows)

    def _reported(self, totals: Totals) -> dict[str, NDArray[Any]]:
        """The sums over all reported images, from the totals of the two halves."""
        sides = _HALVES if self.tune is None else _HALVES[1:]
        return {kind: np.sum([totals[f"{side} {kind}"] for side in sides], axis=0) for kind in _KINDS}

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def curves(self, rows: pd.DataFrame) -> list[Curve]:
        """The mean IoU at every threshold; marked where it is largest."""
        return self.drawn(self.totals(rows))

    def drawn(self, totals: Totals) -> list[Curve]:
        """The curve of the totals of all rows."""
        at = self.grid.astype(np.float64)
        values = 100 * _mean_ious(self._reported(totals))
        if np.isnan(values).any():
            return []
        best = int(values.argmax())
        mark = float(at[best]), float(values[best])
        return [Curve("mean IoU against background", "score of the background", "class_miou %", at, values, mark)]

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rules in words."""
        words = "the image's classes are given; each map over its maximum; the highest above the background's score"
        counts = "void ignored, original pixels, summed over the set; mean over the classes that occur"
        rule = "a class's map constant or not finite: the image is wrong at every pixel"
        own = {name: value for name, value in asdict(self).items() if name != "tune" or value is not None}
        return {"evaluator": "class_segmentation", **own, "pixel": words, "counts": counts, "undefined": rule}


def _highest(
    score_maps: Sequence[ScoreMap], truths: Sequence[Truth]
) -> tuple[Floats, NDArray[np.uint8], NDArray[np.bool_]]:
    """(H, W) each: the highest of the scaled maps, 1 + its class (0 if none is positive), whether classes tie."""
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
class _AtThresholds:
    """The metrics of the module's docstring, at thresholds chosen from all rows.

    Attributes:
        evaluator: the evaluator.
        fixed: index of its fixed threshold.
        best: index of the best threshold.
        crossed: for either half, the index of the best threshold on the other half.
        halved: whether there are images in both halves.
        absent: number of requested classes without a pixel.
        tuned_on: with `tune`: number of images on which the threshold is chosen.
    """

    evaluator: ClassSegmentation
    fixed: int
    best: int
    crossed: tuple[int, int]
    halved: bool
    absent: int
    tuned_on: int = 0

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each reported row with a mask."""
        masked = rows["has_mask"].to_numpy(bool) & ~tuned_rows(self.evaluator.tune, rows)
        own, place = rows[masked], np.flatnonzero(masked)
        pixels, half = _Pixels.of(own, len(self.evaluator.grid)), self.evaluator._half(own).astype(np.int64)
        everyone = np.ones(len(own), np.int64)
        at = {"fixed": everyone * self.fixed, "best": everyone * self.best, "tuned": np.array(self.crossed)[half]}
        counts = {name: rows[name].to_numpy(np.int64) * masked for name in ("tied", "maps", "constant", "nonfinite")}
        counts["found"] = np.bincount(place, pixels.foreground(self.fixed), len(rows)).astype(np.int64)
        return {"masked": Counted(masked, masked), **counts} | {
            name: pixels.part(chosen, place) for name, chosen in at.items()
        }

    def metrics(self, sums: Sums) -> list[Metric]:
        """The metrics of the module's docstring, with intervals over images."""
        n, grid, names = sums.count("masked"), self.evaluator.grid, self.evaluator.headline
        tune = self.evaluator.tune
        if n == 0:
            why = "no image is left to report on" if self.tuned_on else "no image has a mask"
            return [statistics.undefined(name, 0, f"not defined: {why}") for name in names]
        if not (classes := sums.class_count("fixed")):
            return [statistics.undefined(name, n, "not defined: all pixels are void") for name in names]
        note = f"{classes} classes occur, with background"
        if self.absent:
            note += f"; {self.absent} given without a pixel left out"
        note = "; ".join(part for part in (_maps(sums), note, self._ties(sums)) if part)
        metrics = [
            sums.class_ious(names[0], "fixed", "masked", threshold=f"{self.evaluator.threshold:g} max", note=note)
        ]
        if self.halved:
            used = set(self.crossed) if tune is None else {self.crossed[1]}
            at = " / ".join(f"{grid[k]:g}" for k in sorted(used)) + " max"
            how = "" if tune is None else choice_note(tune, None, self.tuned_on)
            metrics.append(sums.class_ious(names[1], "tuned", "masked", threshold=at, note=how))
        else:
            why = "one half is empty" if tune is None else "no image is left to choose the threshold on"
            metrics.append(statistics.undefined(names[1], n, f"not defined: {why}"))
        value = float(f"{grid[self.best]:g}")
        oracle = sums.class_ious(names[2], "best", "masked", threshold=f"{value:g} max", note=ORACLE)
        return [*metrics, oracle, Metric(names[3], value, np.nan, np.nan, n, "", better="")]

    def _ties(self, sums: Sums) -> str:
        """The note on the share of the predicted pixels for which classes tie."""
        found = int(sums.total("found")[0])
        percent = 100 * int(sums.total("tied")[0]) / found if found else 0.0
        return f"{percent:.1f} % of the pixels found are a tie, the first class's" if percent >= 0.05 else ""


@dataclass(frozen=True, slots=True)
class _Pixels:
    """Pixel counts of every class of every image at every threshold: E pairs, from N images and C classes.

    Attributes:
        image: (E,) in 0 .. N - 1.
        label: (E,) class, background 0.
        right: (E, T) pixels of the class that are predicted as it.
        predicted: (E, T) pixels predicted as the class.
        truth: (E,) pixels of the class.
        images: N.
    """

    image: NDArray[np.int64]
    label: NDArray[np.int64]
    right: Counts
    predicted: Counts
    truth: Counts
    images: int

    @classmethod
    def of(cls, rows: pd.DataFrame, thresholds: int) -> "_Pixels":
        label, lengths = flattened(rows["classes"])
        image = np.repeat(np.arange(len(rows)), lengths)
        truth, right, predicted = (flattened(rows[name])[0] for name in _KINDS)
        # Level l is above the first l thresholds: a class gets what is above threshold k, the background the rest.
        background = (label == 0)[:, None]
        right, predicted = (
            np.cumsum(levels.reshape(len(label), thresholds + 1), axis=1, dtype=np.float64)
            for levels in (right, predicted)
        )
        right, predicted = (np.where(background, upto, upto[:, -1:] - upto)[:, :-1] for upto in (right, predicted))
        wrong = _without_map(rows)[image]
        pixels = np.bincount(image, truth, len(rows))
        right[wrong], predicted[wrong] = 0, (pixels[image] - truth)[wrong, None]
        return cls(image, label.astype(np.int64), right, predicted, truth.astype(np.float64), len(rows))

    def part(self, chosen: NDArray[np.int64], place: NDArray[np.int64]) -> ByClass:
        """True, right and predicted pixels of the rows `place`, each at the threshold chosen for it (N,)."""
        pair, k = np.arange(len(self.label)), chosen[self.image]
        numbers = {"truth": self.truth, "right": self.right[pair, k], "predicted": self.predicted[pair, k]}
        counts = {name: values.astype(np.int64) for name, values in numbers.items()}
        return ByClass(place[self.image], self.label, counts)

    def foreground(self, k: int) -> NDArray[np.int64]:
        """(N,): pixels predicted as a class other than the background at a threshold."""
        return np.bincount(self.image, self.predicted[:, k] * (self.label > 0), self.images).astype(np.int64)

    def total(self, chosen: NDArray[np.bool_]) -> dict[str, NDArray[Any]]:
        """`truth` (C,), `right` and `predicted` (C, T) of all images chosen (N,)."""
        kept, classes = chosen[self.image], int(self.label.max(initial=-1)) + 1
        made: dict[str, NDArray[Any]] = {"truth": np.bincount(self.label[kept], self.truth[kept], classes)}
        for name, values in (("right", self.right), ("predicted", self.predicted)):
            made[name] = np.zeros((classes, values.shape[1]))
            np.add.at(made[name], self.label[kept], values[kept])
        return made


def _mean_ious(totals: Totals) -> Counts:
    """(T,): the mean IoU at each threshold."""
    parts = [totals[kind].T for kind in ("right", "predicted")]
    return mean_iou(np.concatenate([*parts, np.broadcast_to(totals["truth"], parts[0].shape)], axis=1))


def _without_map(rows: pd.DataFrame) -> NDArray[np.bool_]:
    """(N,): images with a class whose map is undefined; a baseline's intended constant map is defined."""
    bad = rows["nonfinite"].to_numpy(np.int64) + rows["constant"].to_numpy(np.int64)
    if "constant_by_design" in rows:
        bad = np.where(rows["constant_by_design"].to_numpy(bool), rows["nonfinite"].to_numpy(np.int64), bad)
    return (bad > 0) & np.array(
        [max(classes) > 0 for classes in rows["classes"]], bool
    )  # without classes, no map is needed


def _maps(sums: Sums) -> str:
    constant, nonfinite, maps = (int(sums.total(name)[0]) for name in ("constant", "nonfinite", "maps"))
    return states.counted([constant, nonfinite], maps, "maps")
