"""Localization with a threshold that is tuned on other images than those evaluated.

Protocol of Zhang et al. (ECCV 2016) and Fong & Vedaldi ("Interpretable explanations of black boxes by meaningful
perturbation", ICCV 2017): the class is given; the box is the tightest around *all* foreground pixels, or the whole
image without foreground; an error is an inclusive IoU below 0.5 with every box of the object. Their threshold was
chosen on 5,000 annotated training images. They have three rules: a share of the map's range (`range`), the smallest set
of top pixels that holds a share of the sum (`energy`), and a multiple of the mean (`mean`).

Here every image's IoU at every threshold is in its row, and the threshold is chosen by two-fold cross-fitting: the
images are halved by a hash of their ids, and each half is evaluated at the threshold that is best on the other. `error`
is the mean of the two halves. The best threshold on the evaluated images gives `error_best`, an oracle's number;
`best_threshold` is that threshold, for use on another split by `localization`.

With `tune` the threshold of `error` is chosen on a part of the images, and all three metrics cover the rest; with
`pseudo` it is chosen with other boxes than the truth's (`evaluation/tuning.py`).

An image whose map is constant or not finite is an error at every threshold, even without foreground, where the whole
image would be a hit if the object is large.

The boxes at all thresholds come from the maxima of the map's rows and columns, without masks.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.datasets.base import Dataset, Truth
from eigencam.datasets.boxes import Boxes, iou
from eigencam.evaluation import states, statistics
from eigencam.evaluation.base import Curve, Metric, Row
from eigencam.evaluation.contributions import Totals
from eigencam.evaluation.maps import Rule, ScoreMap, check_rule, cuts
from eigencam.evaluation.sums import Counted, Part, Sums, summed
from eigencam.evaluation.tuning import (
    Tune,
    check_tune,
    choice_note,
    pseudo_sources,
    stand_in,
    tune_column,
    tune_sources,
    tuned_rows,
)

DEFAULT: Mapping[str, tuple[float, ...]] = {
    "range": tuple(np.arange(0, 1, 0.05).round(2).tolist()),
    "max": tuple(np.arange(0, 1, 0.05).round(2).tolist()),
    "energy": tuple(np.arange(0.05, 1, 0.05).round(2).tolist()),
    "mean": tuple(np.arange(0, 10.1, 0.5).tolist()),
}
"""Fong & Vedaldi's grids."""


_HALVES = ("first", "second")


@dataclass(frozen=True, slots=True)
class TunedLocalization:
    """Evaluator; see the module.

    Attributes:
        rule: thresholding rule of a map, see `evaluation/maps.py`.
        thresholds: thresholds of the rule; empty: steps of 0.05 (`mean`: of 0.5).
        iou: smallest overlap at which a box is right, in (0, 1].
        tune: the images that the threshold is chosen on, a share or a file, see `evaluation/tuning.py`; None: for each
            half, the other half.
        pseudo: file of boxes that replace the truth's in the choice of the threshold; see `evaluation/tuning.py`.
    """

    rule: Rule = "range"
    thresholds: Sequence[float] = ()
    iou: float = 0.5
    tune: Tune = None
    pseudo: str | None = None

    version = 1
    summary_version = 2
    headline = ("error", "error_best", "best_threshold")

    def __post_init__(self) -> None:
        check_rule(self.rule, 0.5)
        for threshold in self.grid:
            check_rule(self.rule, threshold)
        if not 0 < self.iou <= 1:
            raise ValueError(f"iou {self.iou}: allowed is 0 < iou <= 1")
        check_tune(self.tune)

    def sources(self, dataset: Dataset) -> dict[str, str]:
        """SHA-256 of the files that say on which images, and by which boxes, the threshold is chosen."""
        return tune_sources(self.tune, dataset) | pseudo_sources(self.pseudo, dataset)

    @property
    def grid(self) -> tuple[float, ...]:
        """The thresholds."""
        return tuple(self.thresholds) or DEFAULT[self.rule]

    def row(self, score_map: ScoreMap, truth: Truth) -> Row:
        """The row of one image.

        Returns:
            `ious`: (T,) float32, the best IoU with a box of the target object at each threshold; NaN without a box.
            `map_state`; with `tune` also `in_tune`: whether the threshold is chosen on the image; with `pseudo` also
            `pseudo_ious`: like `ious`, with the boxes of the file.
        """
        boxes = boxes_around(score_map, self.rule, self.grid)
        row = {"ious": _best(boxes, truth), "map_state": score_map.state, **tune_column(self.tune, truth.image_id)}
        return row if self.pseudo is None else {**row, "pseudo_ious": _best(boxes, stand_in(self.pseudo, truth))}

    @property
    def _chooses(self) -> bool:
        """Whether `tune` or `pseudo` decides what the threshold is chosen on, instead of cross-fitting."""
        return self.tune is not None or self.pseudo is not None

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each row: whether its box is wrong at each threshold, by the half of its image.

        With `tune` the second half is reported; with `pseudo` alone all images are. The part `choose` then holds the
        errors by which the threshold is chosen.
        """
        half = np.ones(len(rows), bool) if self._chooses else halves(rows["image"])
        tuned = tuned_rows(self.tune, rows)
        parts: dict[str, Part] = {"map_state": states.flags(rows)}
        for name, side in zip(_HALVES, (~half, half & ~tuned), strict=True):
            parts[name] = self._wrong(rows, "ious", side)
        if self._chooses:
            column, on = "ious" if self.pseudo is None else "pseudo_ious", ~tuned if self.tune is None else tuned
            parts |= {"choose": self._wrong(rows, column, on), "tuned": tuned}
        return parts

    def _wrong(self, rows: pd.DataFrame, column: str, wanted: NDArray[np.bool_]) -> Counted:
        """(N, T): whether a row's box is wrong at each threshold, for the wanted rows that have a box."""
        ious = np.stack(states.at_worst(rows, **{column: 0.0})[column].to_numpy()).astype(np.float64)
        counted = ~np.isnan(ious).any(axis=1) & wanted
        return Counted((ious < self.iou) & counted[:, None], counted)

    def metrics(self, sums: Sums) -> list[Metric]:
        """`error`, `error_best` and `best_threshold`."""
        wrong, n = np.stack([sums.total(name) for name in _HALVES]), [sums.count(name) for name in _HALVES]
        on = sums.count("choose") if self._chooses else sum(n)
        if not sum(n) or not on:
            why = "no image has a box"
            if sum(n) or on:
                why = f"not defined: no image is left to {'choose the threshold on' if sum(n) else 'report on'}"
            return [statistics.undefined(name, 0, why, better="lower") for name in self.headline]
        best = int(wrong.sum(axis=0).argmin())
        chosen = [int(other.argmin()) for other in wrong[::-1]] if all(n) else [best, best]
        if self._chooses:
            chosen = [int(sums.total("choose").argmin())] * 2
        used = sorted({self.grid[i] for i, many in zip(chosen, n, strict=True) if many})
        tuned = int(sums.total("tuned")[0]) if self._chooses else 0
        at, left_out = " / ".join(f"{t:g}" for t in used), sums.rows - tuned - sum(n)
        boxless = f"{left_out} images without a box left out" if left_out else ""
        maps = states.counted(sums.total("map_state"), sums.rows, "maps")
        how = choice_note(self.tune, self.pseudo, on) if self._chooses else ""
        note = "; ".join(part for part in (how, maps, boxless) if part)
        sums.combine("fitted", zip(_HALVES, chosen, strict=True), _HALVES)
        sums.combine("best", zip(_HALVES, (best, best), strict=True), _HALVES)
        low = float(self.grid[best])
        return [
            sums.rate("error", "fitted", threshold=f"{at} {self.rule}", better="lower", note=note),
            sums.rate("error_best", "best", threshold=f"{low:g} {self.rule}", better="lower"),
            Metric("best_threshold", low, np.nan, np.nan, sum(n), "", better=""),
        ]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def curves(self, rows: pd.DataFrame) -> list[Curve]:
        """The error at each threshold; marked where it is smallest."""
        return self.drawn(self.totals(rows))

    def totals(self, rows: pd.DataFrame) -> dict[str, NDArray[np.int64]]:
        """Number of images with a box that are reported on, and of errors at each threshold."""
        wrong = self._wrong(rows, "ious", ~tuned_rows(self.tune, rows))
        return {"errors": wrong.numbers.sum(axis=0), "n": np.array([wrong.present.sum()])}

    def drawn(self, totals: Totals) -> list[Curve]:
        """The curve of the totals of all rows."""
        if not (n := int(totals["n"][0])):
            return []
        at, error = np.array(self.grid), 100 * totals["errors"] / n
        best = int(error.argmin())
        mark = float(at[best]), float(error[best])
        return [Curve("error against threshold", f"threshold ({self.rule})", "error %", at, error, mark)]

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rule in words."""
        given = {"tune": self.tune, "pseudo": self.pseudo}
        where = "two-fold cross-fitted" if self.tune is None else "chosen on other images"
        if self.pseudo is not None:
            where = f"chosen on {'these' if self.tune is None else 'other'} images by boxes in place of the truth's"
        return {
            "evaluator": "localization_tuned",
            "rule": self.rule,
            "thresholds": list(self.grid),
            "hit": f"inclusive IoU >= {self.iou:g} of the box around all foreground with any box of the object sought",
            "undefined": "map constant or not finite: an error",
            "threshold": f"{where}; error_best: chosen on the same images",
            **{name: value for name, value in given.items() if value is not None},
        }


def _best(boxes: Boxes, truth: Truth) -> NDArray[np.float32]:
    """(T,): the best IoU of each of the boxes (T, 4) with one of the target object; NaN if there is none."""
    sought = truth.boxes[truth.sought()]
    best = iou(boxes, sought).max(axis=1) if len(sought) else np.full(len(boxes), np.nan)
    return best.astype(np.float32)


def halves(ids: Iterable[object]) -> NDArray[np.bool_]:
    """(N,) bool: the half of each image, by a hash of its id."""
    return np.array([hashlib.sha256(str(i).encode()).digest()[0] & 1 for i in ids], bool)


def boxes_around(score_map: ScoreMap, rule: Rule, thresholds: Sequence[float]) -> Boxes:
    """(T, 4) inclusive: the tight box around all foreground at each threshold; without foreground, the whole image."""
    from eigencam.evaluation import kernels  # importing numba takes time

    return kernels.boxes_around(score_map.row_peaks, score_map.column_peaks, cuts(score_map, rule, thresholds))
