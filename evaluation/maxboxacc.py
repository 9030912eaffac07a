"""MaxBoxAcc and MaxBoxAccV2, the measures of weakly supervised localization at the best threshold.

The map is enlarged to 224 x 224 (bicubic), scaled to 0..1 by its minimum and maximum and cut into 256 levels. At each
threshold v = 0 .. 254 the pixels above it have contours, and each contour a box. With delta the required overlap,

    max_box_acc       max over v of the share of images where the box of the largest contour has an overlap of at
                      least delta = 0.5 with any box of the target object
    max_box_acc_v2    the same where the box of any contour counts; the mean over delta = 0.3, 0.5, 0.7, each at its own
                      best threshold

The class is given. The threshold is chosen on the evaluated images themselves (an oracle). With `tune` it is chosen on
a part of the images, and the metric covers the rest; with `pseudo` it is chosen with other boxes than the truth's. It
is reported as `> v/255`, the lowest of equally good ones. The interval is for the chosen thresholds.

The form `reference` gives the numbers of the authors' code to the last bit, with its peculiarities. Boxes of the truth
are scaled to 224 and truncated to whole pixels. A contour's box is one pixel too wide and too high, unless it ends at
the image's last pixel. `all` includes the contours of holes, one pixel around the hole. The largest contour is the one
whose polygon through the centres of its pixels, with holes filled, has the largest area; among equal ones, the first
that OpenCV lists. Without any contour the box is the first pixel. The form `plain` has none of this: exact boxes of the
truth, tight boxes of 8-connected components, the component with most pixels (among equal ones the first in raster
order), and no box without a component.

Instead of a search for contours at each of 1000 thresholds there is one tree of components for all (`component_tree`);
`step` picks the thresholds that a step of the authors' code visits, floor(255 t) for t = 0, step, 2 step, ... Their
default 0.001 visits all 255. Maps of 224 x 224 are taken as they are. Both forms differ from the code in one point: a
constant map has no foreground, whereas the code scales up the rounding of its enlargement, unless the constant is 0. An
image whose map is constant or not finite is not localized at any threshold, not even if the first pixel is the object.

References: J. Choe et al., "Evaluating weakly supervised object localization methods right", CVPR 2020; J. Choe et al.,
"Evaluation for weakly supervised object localization: protocol, metrics, and datasets", PAMI 2022.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.datasets.base import Dataset, Truth
from eigencam.datasets.boxes import Boxes, to_half_open
from eigencam.evaluation import states, statistics
from eigencam.evaluation.base import Curve, Metric, Row
from eigencam.evaluation.contributions import Totals
from eigencam.evaluation.maps import ScoreMap
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

Contours = Literal["largest", "all"]
Form = Literal["reference", "plain"]

ORACLE = "oracle: threshold chosen on these images"


@dataclass(frozen=True, slots=True)
class MaxBoxAcc:
    """Evaluator; see the module.

    Attributes:
        contours: whose boxes count, `largest` or `all`.
        ious: required overlaps, each in (0, 1].
        form: `reference` or `plain`.
        step: step of the thresholds, in (0, 1].
        size: height and width that maps are enlarged to, pixels.
        tune: the images that the threshold is chosen on, a share or a file, see `evaluation/tuning.py`; None: all.
        pseudo: file of boxes that replace the truth's in the choice of the threshold; see `evaluation/tuning.py`.
    """

    contours: Contours = "largest"
    ious: Sequence[float] = (0.5,)
    form: Form = "reference"
    step: float = 0.001
    size: int = 224
    tune: Tune = None
    pseudo: str | None = None

    version = 1
    summary_version = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "ious", tuple(self.ious))
        if self.contours not in get_args(Contours):
            raise ValueError(f"contours={self.contours!r}; allowed: {', '.join(get_args(Contours))}")
        if self.form not in get_args(Form):
            raise ValueError(f"form={self.form!r}; allowed: {', '.join(get_args(Form))}")
        if not self.ious or not all(0 < iou <= 1 for iou in self.ious):
            raise ValueError(f"ious={list(self.ious)}; allowed: at least one, each 0 < iou <= 1")
        if not 0 < self.step <= 1:
            raise ValueError(f"step={self.step}; allowed: 0 < step <= 1")
        if self.size < 1:
            raise ValueError(f"size={self.size}; allowed: at least 1")
        check_tune(self.tune)

    def sources(self, dataset: Dataset) -> dict[str, str]:
        """SHA-256 of the files that say on which images, and by which boxes, the threshold is chosen."""
        return tune_sources(self.tune, dataset) | pseudo_sources(self.pseudo, dataset)

    @property
    def name(self) -> str:
        """Name of the metric."""
        return "max_box_acc" + "_v2" * (self.contours == "all") + "_plain" * (self.form == "plain")

    @property
    def headline(self) -> tuple[str, ...]:
        """The metric; the values at each overlap are shown on request."""
        return (self.name,)

    def row(self, score_map: ScoreMap, truth: Truth) -> Row:
        """Whether the image is localized at each threshold.

        Returns:
            `hits_D` for each overlap D in percent: 255 bits, v = 0 first, as 32 uint8; empty without a box of a
            target object. `map_state`; with `tune` also `in_tune`: whether the threshold is chosen on the image; with
            `pseudo` also `pseudo_D`: the same with the boxes of the file.
        """
        row = {**self._hits("hits", score_map, truth), "map_state": score_map.state}
        row |= tune_column(self.tune, truth.image_id)
        if self.pseudo is not None:
            row |= self._hits("pseudo", score_map, stand_in(self.pseudo, truth))
        return row

    def _hits(self, kind: str, score_map: ScoreMap, truth: Truth) -> Row:
        boxes = truth_boxes(truth, score_map.region, self.size, self.form)
        if not len(boxes):
            return {_column(iou, kind): np.zeros(0, np.uint8) for iou in self.ious}
        image = levels(score_map, self.size)
        nodes = score_map.shared(("wsol.outer", self.size), lambda: outer(image))
        best = overlaps(image, boxes, self.contours, self.form, nodes)
        return {_column(iou, kind): np.packbits(best >= iou) for iou in self.ious}

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each row: for each overlap the hits at 255 thresholds, of rows with a box.

        With `tune` only reported rows contribute. With `tune` or `pseudo`, the parts `choose_D` hold the hits by which
        the threshold is chosen, for the rows that it is chosen on.
        """
        tuned = tuned_rows(self.tune, rows)
        parts: dict[str, Part] = {"map_state": states.flags(rows), "boxless": ~self._boxed(rows)}
        for iou in self.ious:
            parts[_column(iou)] = self._counts(rows, _column(iou), ~tuned)
            if self._chooses:
                column = _column(iou, "hits" if self.pseudo is None else "pseudo")
                chosen = tuned if self.tune is not None else ~tuned
                parts[_column(iou, "choose")] = self._counts(rows, column, chosen)
        return parts

    @property
    def _chooses(self) -> bool:
        """Whether the threshold is chosen on other images, or with other boxes, than the reported ones."""
        return self.tune is not None or self.pseudo is not None

    def _counts(self, rows: pd.DataFrame, column: str, wanted: NDArray[np.bool_]) -> Counted:
        """The hits (N, 255) of the wanted rows that have a box; no hits if the map is undefined."""
        boxed = wanted & (rows[column].map(len) > 0).to_numpy(bool)
        hits = np.zeros((len(rows), 255), np.uint8)
        if boxed.any():
            counted = states.at_worst(rows[boxed], **{column: 0.0})
            packed = np.stack(counted[column].tolist()).astype(np.uint8)
            hits[boxed] = np.unpackbits(packed, axis=1, count=255)
        return Counted(hits, boxed)

    def metrics(self, sums: Sums) -> list[Metric]:
        """The metric and, if there are several overlaps, its value at each of them, `NAME_30`."""
        columns = [_column(iou) for iou in self.ious]
        names = [f"{self.name}_{100 * iou:g}" for iou in self.ious if len(self.ious) > 1]
        n = sums.count(columns[0])
        sources = [_column(iou, "choose") for iou in self.ious] if self._chooses else columns
        on = sums.count(sources[0])
        if n == 0 or on == 0:
            why = "not defined: no image has a box of an object sought"
            if n or on:
                why = f"not defined: no image is left to {'choose the threshold on' if n else 'report on'}"
            return [statistics.undefined(name, 0, why) for name in [self.name, *names]]
        visited = np.unique((np.arange(0, 1, self.step) * 255).astype(np.int64))
        at = [int(visited[sums.total(column)[visited].argmax()]) for column in sources]
        bare = int(sums.total("boxless")[0])
        left_out = f"{bare} images without a box left out" if bare else ""
        chosen = choice_note(self.tune, self.pseudo, on) if self._chooses else ORACLE
        note = "; ".join(part for part in (chosen, states.noted(sums), left_out) if part)
        if not names:
            return [sums.rate(self.name, columns[0], at[0], threshold=_level(at[0]), note=note)]
        single = [
            sums.rate(name, column, v, threshold=_level(v), note=chosen)
            for name, column, v in zip(names, columns, at, strict=True)
        ]
        words = ", ".join(f"{_level(v)} for {iou:g}" for v, iou in zip(at, self.ious, strict=True))
        sums.combine(self.name, zip(columns, at, strict=True), columns[:1], len(columns))
        mean = sums.mean(self.name, self.name, threshold=words, note=note)
        return [replace(mean, value=float(np.average([metric.value for metric in single]))), *single]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def _counted(self, rows: pd.DataFrame) -> pd.DataFrame:
        """The rows with a box to find; without a hit if the map is undefined."""
        return states.at_worst(rows[self._boxed(rows)], **{_column(i): 0.0 for i in self.ious})

    def _boxed(self, rows: pd.DataFrame) -> NDArray[np.bool_]:
        return (rows[_column(self.ious[0])].map(len) > 0).to_numpy(bool)

    def curves(self, rows: pd.DataFrame) -> list[Curve]:
        """For each overlap the accuracy over the reported images at all 255 thresholds; marked where it is largest."""
        return self.drawn(self.totals(rows))

    def totals(self, rows: pd.DataFrame) -> dict[str, NDArray[np.int64]]:
        """Number of images with a box; for each overlap, the number of hits at all 255 thresholds."""
        counted = self._counted(rows[~tuned_rows(self.tune, rows)])
        totals = {"n": np.array([len(counted)])}
        for iou in self.ious if len(counted) else ():
            packed = np.stack(counted[_column(iou)].tolist()).astype(np.uint8)
            totals[_column(iou)] = np.unpackbits(packed, axis=1, count=255).sum(axis=0, dtype=np.int64)
        return totals

    def drawn(self, totals: Totals) -> list[Curve]:
        """The curves of the totals of all rows."""
        at, made, n = np.arange(255) / 255, list[Curve](), int(totals["n"][0])
        for iou in self.ious if n else ():
            accuracy = 100 * totals[_column(iou)] / n
            best = int(accuracy.argmax())
            name, mark = f"accuracy at IoU {iou:g} against threshold", (float(at[best]), float(accuracy[best]))
            made.append(Curve(name, "threshold (range)", "images localized %", at, accuracy, mark))
        return made

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rules in words."""
        what = "the box of the largest contour" if self.contours == "largest" else "the box of any contour"
        overlap = "as in the authors' code" if self.form == "reference" else "exact half-open boxes"
        where = "these images" if self.tune is None else "other images"
        where += "" if self.pseudo is None else ", by boxes in place of the truth's"
        return {
            "evaluator": self.name,
            **asdict(self),
            "ious": list(self.ious),
            "hit": f"{what} overlaps any box of the object sought; class given; {overlap}",
            "undefined": "map constant or not finite: not localized",
            "threshold": f"of 255 levels the best on {where}, for each IoU its own",
        }


def scaled(score_map: ScoreMap, size: int) -> NDArray[np.float64]:
    """(size, size) float64: the map enlarged and scaled to 0..1; zeros if it is constant or not finite."""
    from eigencam.evaluation.bicubic import resize  # importing numba takes time

    def make() -> NDArray[np.float64]:
        if score_map.state != "ok":
            return np.zeros((size, size))
        full = resize(score_map.values, size)
        full -= full.min()
        high = full.max()
        if high > 0:
            full /= high
        return full

    return score_map.shared(("wsol.scaled", size), make)


def levels(score_map: ScoreMap, size: int) -> NDArray[np.uint8]:
    """(size, size): the levels of a map, 0 its minimum and 255 its maximum."""
    return score_map.shared(("wsol.levels", size), lambda: (scaled(score_map, size) * 255).astype(np.uint8))


def outer(image: NDArray[np.uint8]) -> NDArray[np.int32]:
    """The tree of components of (H, W) levels; see `component_tree`."""
    from eigencam.evaluation import component_tree as tree  # importing numba takes time

    return tree.outer(image)


def truth_boxes(
    truth: Truth, region: tuple[float, float, float, float] | None, size: int, form: Form = "reference"
) -> Boxes:
    """(B, 4) half-open: the boxes of the target object in the map's pixels, not clipped to the map's region."""
    x0, y0, x1, y1 = region or (0.0, 0.0, float(truth.size[1]), float(truth.size[0]))
    boxes = truth.boxes[truth.sought()]
    origin, extent = np.array([x0, y0, x0, y0]), np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0])
    if form == "plain":
        return (to_half_open(boxes) - origin) * float(size) / extent
    return to_half_open(np.trunc((boxes - origin) * float(size) / extent))


def overlaps(
    image: NDArray[np.uint8],
    boxes: Boxes,
    contours: Contours = "largest",
    form: Form = "reference",
    nodes: NDArray[np.int32] | None = None,
) -> NDArray[np.float64]:
    """The best overlap at each threshold.

    Args:
        image: (H, W) levels.
        boxes: (B, 4) of the truth, half-open, in pixels of `image`.
        contours: whose boxes count.
        form: how boxes are made.
        nodes: `outer(image)`, if the caller has computed it.

    Returns:
        (255,) in [0, 1], v = 0 first.
    """
    from eigencam.evaluation import component_tree as tree  # importing numba takes time

    size = (image.shape[0], image.shape[1])
    nodes, grow = outer(image) if nodes is None else nodes, int(form == "reference")
    if contours == "all":
        best = tree.overlaps_of_all(nodes, grow, size, boxes)
        if form == "reference":
            best = np.maximum(best, tree.overlaps_of_all(tree.holes(image), 2, size, boxes))
    else:
        chosen = tree.largest_by_area(nodes, image) if form == "reference" else tree.largest_by_pixels(nodes)
        best = tree.overlaps_of_chosen(nodes, chosen, grow, size, boxes)
    nothing = np.zeros((1, 10), np.int32)
    without = tree.overlap(nothing[0], 0, size, boxes) if form == "reference" else 0.0
    return np.where(best < 0, without, best)


def _column(iou: float, kind: str = "hits") -> str:
    return f"{kind}_{100 * iou:g}"


def _level(v: int) -> str:
    return f"> {v}/255"
