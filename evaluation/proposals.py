"""Class-agnostic object proposals from a score map or made elsewhere, and their recall.

Proposals are the boxes of the 8-connected components of the map's foreground at several thresholds, duplicates removed.
They are ranked by a score computed from two fractions of the positive map p = max(m, 0) inside the box:

    share = sum of p in the box / sum of p        how much of the map is in the box
    mean  = mean of p in the box / max p          how high the map is in the box
    f1    = 2 share mean / (share + mean)         (default) both; `mean` alone prefers the smallest peak

Ties (to 6 decimals) go to the larger area, then to the first upper left corner in raster order. All objects of the
image are sought, whatever their class. With o the overlap (inclusive IoU) of a proposal with an object, over
`objects`:

    recall50_k, recall70_k   share of the objects that one of the first k proposals matches with o >= 0.5, 0.7
    ar_k       average recall of Hosang et al.: 2 * integral of the recall over o from 0.5 to 1, by trapezoids of 0.001
    ar_coco_k  average recall of COCO: mean of the recall at o = 0.5, 0.55, ..., 0.95, by COCO's own matching
    abo, mabo  best overlap of any of the proposals with each object, without matching (one proposal may serve several
               objects): mean over objects; mean over classes of the mean over the class's objects (Uijlings et al.)
    boxes      mean number of proposals per image

and over `classes`, as in Bazzani et al.:

    mean_recall50_k, mean_recall70_k   for each class the share of its objects with which any of the first k proposals
               has o >= 0.5, 0.7, without matching; the mean over the classes that occur

A proposal matches one object. `recall`, `ar`: as in Hosang's code, the pair with the largest overlap is matched, then
the largest of the rest, and so on; the matching uses neither a threshold nor the order of the proposals. COCO goes
through the proposals by score, separately at each threshold, and gives each the best free object above the threshold;
its recall can be lower, if a proposal takes an object that a later one fits better.

Objects flagged `difficult` are removed before the matching by default: they are neither found nor missed, and a
proposal on one is an ordinary proposal that matches nothing but counts among the k. (COCO's ignored objects
give the same recall, since a proposal prefers an object that counts.) All objects are missed in an image without
proposals, and in one whose map is constant or not finite.

Presets: `proposals_hosang`, the protocol of detection-proposals on VOC 2007 test (budgets 1 to 10,000 in half decades,
difficult objects included: 14,976 objects in 4,952 images, duplicate boxes once), and `proposals_stl`, mean recall over
classes at 1, 5, 10, 100 and 1,000 boxes. The counting code of the latter is not public: that it has no matching and
leaves out difficult objects is an assumption.

References: J. Hosang et al., "What makes for effective detection proposals?", PAMI 2016; T.-Y. Lin et al., ECCV 2014;
J. Uijlings et al., "Selective search for object recognition", IJCV 2013; L. Bazzani et al., "Self-taught object
localization with deep networks", WACV 2016.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from eigencam.datasets.base import Truth
from eigencam.datasets.boxes import Boxes, area, as_boxes, iou
from eigencam.evaluation import states, statistics
from eigencam.evaluation.base import Curve, Metric, Row
from eigencam.evaluation.contributions import Totals
from eigencam.evaluation.intervals import MeanRatio
from eigencam.evaluation.maps import Rule, ScoreMap, check_rule, components_above, cuts
from eigencam.evaluation.proposal_matching import IOUS, first_of_equal, match_best_pairs, match_coco, recall_integral
from eigencam.evaluation.sums import ByClass, Part, Sums, flattened, summed

Score = Literal["f1", "mean"]
Over = Literal["objects", "classes"]
Floats = NDArray[np.float64]


_KINDS = ("recall50", "recall70", "ar", "ar_coco")


_ASKED = np.append(np.linspace(0.5, 1, 51), [0.5, 0.7])
"""Overlaps of the curves."""


@dataclass(frozen=True, slots=True)
class Proposals:
    """Evaluator of object proposals; see the module.

    Attributes:
        thresholds: the values of the rule's parameter.
        rule: thresholding rule of a map, see `evaluation/maps.py`.
        score: the score that ranks the boxes, `f1` or `mean`.
        max_boxes: maximum number of proposals per image.
        difficult: whether objects flagged `difficult` count.
        nms: drop a box that overlaps a better one by more than this; None: keep all.
        budgets: the numbers k of proposals, ascending.
        over: what recall is a mean over, `objects` or `classes`.
        unique: count duplicate boxes (equal to the pixel) once; boxes from a map are always unique.
    """

    thresholds: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    rule: Rule = "max"
    score: Score = "f1"
    max_boxes: int = 100
    difficult: bool = False
    nms: float | None = None
    budgets: Sequence[int] = (1, 10, 100)
    over: Over = "objects"
    unique: bool = False

    version = 1
    summary_version = 2

    def __post_init__(self) -> None:
        object.__setattr__(self, "thresholds", tuple(self.thresholds))
        object.__setattr__(self, "budgets", tuple(self.budgets))
        if not self.thresholds:
            raise ValueError("thresholds (): allowed is at least one")
        for threshold in self.thresholds:
            check_rule(self.rule, threshold)
        if self.score not in get_args(Score):
            raise ValueError(f"score {self.score!r}: allowed are {', '.join(get_args(Score))}")
        if self.max_boxes < 1:
            raise ValueError(f"max_boxes {self.max_boxes}: allowed is >= 1")
        if self.nms is not None and not 0 <= self.nms <= 1:
            raise ValueError(f"nms {self.nms}: allowed are None and 0 <= nms <= 1")
        if not self.budgets or any(a >= b for a, b in pairwise((0, *self.budgets))):
            raise ValueError(f"budgets {list(self.budgets)}: allowed are rising numbers from 1")
        if self.over not in get_args(Over):
            raise ValueError(f"over {self.over!r}: allowed are {', '.join(get_args(Over))}")

    @property
    def headline(self) -> tuple[str, ...]:
        """Names of the main metrics.

        With `over="classes"`, the mean recall at every budget; else the recalls at all powers of ten but the largest,
        or at every budget if at most one is a power of ten. Then the best overlap and the number of boxes.
        """
        if self.over == "classes":
            return *(f"mean_recall50_{k}" for k in self.budgets), "mabo", "boxes"
        decades = [k for k in self.budgets if k in (1, 10, 100, 1000, 10000)][:-1] or self.budgets
        return *(f"{name}_{k}" for name in ("recall50", "ar") for k in decades), "abo", "boxes"

    def propose(self, score_map: ScoreMap) -> Boxes:
        """(P, 4) boxes, best first, P <= max_boxes, in inclusive pixels; none if the map has no foreground."""
        key = ("proposals", self.rule, self.thresholds, self.score, self.nms, self.nms and self.max_boxes)
        return score_map.shared(key, lambda: self._ranked(score_map))[: self.max_boxes]

    def _ranked(self, score_map: ScoreMap) -> Boxes:
        """All proposals, or the first `max_boxes` that are not suppressed."""
        nodes = components_above(score_map.full, cuts(score_map, self.rule, self.thresholds))
        boxes = nodes[:, 2:6].astype(np.float64)
        if len(boxes) == 0:
            return boxes
        height, width = score_map.size
        key = np.ravel_multi_index(boxes.astype(np.int64).T, (width, height, width, height))
        boxes = boxes[np.unique(key, return_index=True)[1]]
        score = np.round(self._score(score_map, boxes), 6)
        boxes = boxes[np.lexsort((boxes[:, 0], boxes[:, 1], -area(boxes), -score))]
        if self.nms is not None:
            boxes = suppress(boxes, self.nms, self.max_boxes)
        return boxes

    def _score(self, score_map: ScoreMap, boxes: Boxes) -> Floats:
        inside, total = positive_inside(score_map.full, boxes), score_map.positive_sum
        if total == 0:  # `range` finds foreground even in a negative map
            return np.zeros(len(boxes))
        mean, share = inside / (area(boxes) * score_map.peak), inside / total
        return mean if self.score == "mean" else 2 * mean * share / np.maximum(mean + share, 1e-30)

    def row(self, score_map: ScoreMap, truth: Truth) -> Row:
        """Return the row of the proposals from a map."""
        return {**self.row_of_boxes(self.propose(score_map), truth), "map_state": score_map.state}

    def row_of_boxes(self, boxes: Boxes, truth: Truth) -> Row:
        """Return the row for proposals (P, 4), best first, from any source.

        Returns:
            `n_boxes`, `n_objects`; lists over the objects: `object_class`, `best` (overlap with any proposal), over
            classes `best_k` (with any of the first k), over objects `matched_k` (with the one of the first k that is
            matched to it, 0 for none) and `coco_k` (10,) objects found at each of COCO's thresholds by the first k;
            `map_state` `box`.
        """
        boxes = as_boxes(boxes)
        if self.unique:
            boxes = boxes[first_of_equal(boxes)]
        boxes = boxes[: self.max_boxes]
        keep = np.ones(len(truth.boxes), bool) if self.difficult else ~truth.difficult
        overlap = iou(boxes, truth.boxes[keep])
        row: Row = {
            "n_boxes": len(boxes),
            "n_objects": int(keep.sum()),
            "object_class": truth.box_labels[keep].astype(np.int64),
            "best": overlap.max(axis=0, initial=0.0),
        }
        if self.over == "classes":
            row |= {f"best_{k}": overlap[:k].max(axis=0, initial=0.0) for k in self.budgets}
        else:
            matched = {n: match_best_pairs(overlap[:n]) for n in {min(k, len(boxes)) for k in self.budgets}}
            row |= {f"matched_{k}": matched[min(k, len(boxes))] for k in self.budgets}
            coco = match_coco(overlap, tuple(self.budgets))
            row |= {f"coco_{k}": hits for k, hits in zip(self.budgets, coco, strict=True)}
        return {**row, "map_state": "box"}

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each row: objects, found objects, best overlaps, by class too, and boxes."""
        rows = _missed(rows)
        best, objects = flattened(rows["best"])
        row, label = np.repeat(np.arange(len(rows)), objects), flattened(rows["object_class"])[0].astype(np.int64)
        by_class: dict[str, NDArray[Any]] = {"objects": np.ones(len(row), np.int64)}
        parts: dict[str, Part] = {"map_state": states.flags(rows), "objects": objects}
        if self.over == "classes":
            for k in self.budgets:
                reached = flattened(rows[f"best_{k}"])[0]
                by_class[f"mean_recall50_{k}"] = (reached >= 0.5).astype(np.int64)
                by_class[f"mean_recall70_{k}"] = (reached >= 0.7).astype(np.int64)
        else:
            for k in self.budgets:
                matched = flattened(rows[f"matched_{k}"])[0].astype(np.float64)
                parts[f"recall50_{k}"] = np.bincount(row[matched >= 0.5], minlength=len(rows))
                parts[f"recall70_{k}"] = np.bincount(row[matched >= 0.7], minlength=len(rows))
                parts[f"ar_{k}"] = _column(np.bincount(row, recall_integral(matched), len(rows)))
                parts[f"ar_coco_{k}"] = _column([np.mean(hits) for hits in rows[f"coco_{k}"]])
            parts["abo"] = _column(np.bincount(row, best, len(rows)))
        by_class["mabo"] = best.astype(np.float64)
        return {**parts, "classes": ByClass(row, label, by_class), "boxes": rows["n_boxes"].to_numpy(np.float64)}

    def metrics(self, sums: Sums) -> list[Metric]:
        """The metrics of the module's docstring in percent, with intervals over images."""
        note, n = states.counted(sums.total("map_state"), sums.rows, "maps"), int(sums.total("objects")[0])
        names = [] if self.over == "classes" else [f"{kind}_{k}" for k in self.budgets for kind in _KINDS] + ["abo"]
        metrics = [
            statistics.pooled(
                name,
                np.concatenate([sums[name], sums["objects"]], axis=1).astype(np.float64),
                MeanRatio(),
                n=n,
                hits=name.startswith("recall"),
                note=note * (name == "abo"),
            )
            for name in names
        ]
        (_, objects), *found = sums.classes("classes").items()
        of_objects: Any = objects
        classes = of_objects.shape[1]
        for name, own in found:
            counts = sparse.csr_array(sparse.hstack([own, objects], dtype=np.float64))
            notes = "; ".join(part for part in (f"{classes} classes", note * (not names and name == "mabo")) if part)
            metrics.append(statistics.pooled(name, counts, MeanRatio(classes), n=n, note=notes))
        return [*metrics, replace(sums.mean("boxes", "boxes", scale=1), better="")]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def curves(self, rows: pd.DataFrame) -> list[Curve]:
        """Recall against overlap for each number of boxes; recall at two overlaps against the number of boxes."""
        return self.drawn(self.totals(rows))

    def totals(self, rows: pd.DataFrame) -> dict[str, NDArray[np.int64]]:
        """Numbers of objects, and of those found per overlap and number of boxes; by class for `over` classes."""
        rows = _missed(rows)
        classes = flattened(rows["object_class"])[0].astype(np.int64)
        classes = classes if self.over == "classes" else np.zeros_like(classes)
        column, count = "best" if self.over == "classes" else "matched", int(classes.max(initial=-1)) + 1
        found = np.zeros((count, len(self.budgets), len(_ASKED)), np.int64)
        for k, budget in enumerate(self.budgets):
            reached = flattened(rows[f"{column}_{budget}"])[0]
            np.add.at(found[:, k], classes, reached[:, None] >= _ASKED)
        return {"found": found, "objects": np.bincount(classes, minlength=count)}

    def drawn(self, totals: Totals) -> list[Curve]:
        """The curves of the totals of all rows."""
        some = totals["objects"] > 0
        if not some.any():
            return []
        recall = 100 * (totals["found"][some] / totals["objects"][some, None, None]).mean(axis=0)
        name, made = "mean recall" if self.over == "classes" else "recall", list[Curve]()
        for k, values in zip(self.budgets, recall[:, :-2], strict=True):
            made.append(Curve(f"{name} of the first {k}", "overlap (IoU) asked for", f"{name} %", _ASKED[:-2], values))
        boxes = np.array(self.budgets, np.float64)
        for iou_asked, values in zip((0.5, 0.7), recall[:, -2:].T, strict=True) if len(boxes) > 1 else ():
            title = f"{name} at IoU {iou_asked:g} against boxes"
            made.append(Curve(title, "boxes", f"{name} %", boxes, values, log=True))
        return made

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rules in words."""
        return {
            "evaluator": "proposals",
            **asdict(self),
            "overlap": "inclusive IoU, original pixels, all objects of the image, class-agnostic",
            "budgets": list(self.budgets),
            "undefined": "map constant or not finite: all objects missed",
            "matching": "none: any of the first k boxes"
            if self.over == "classes"
            else "greedy one-to-one, best pair first (recall, ar); COCO's (ar_coco); none (abo, mabo)",
        }


def _missed(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, with all objects missed if the map is undefined."""
    found = [str(name) for name in rows if name == "best" or str(name).startswith(("best_", "matched_", "coco_"))]
    return states.at_worst(rows, **dict.fromkeys(found, 0.0))


def recall_curve(rows: pd.DataFrame, budget: int) -> pd.DataFrame:
    """Recall of the first `budget` proposals against overlap: columns `iou` (0.5, 0.55, ... 1), `recall` in [0, 1]."""
    if f"matched_{budget}" not in rows:
        sizes = [name.removeprefix("matched_") for name in map(str, rows) if name.startswith("matched_")]
        raise ValueError(f"budget {budget}: allowed are {', '.join(sizes)}")
    matched = _flat(_missed(rows)[f"matched_{budget}"])
    ious = np.round(np.append(IOUS, 1.0), 2)
    return pd.DataFrame({"iou": ious, "recall": [(matched >= o).mean() if len(matched) else np.nan for o in ious]})


def positive_inside(values: NDArray[np.float32], boxes: Boxes) -> Floats:
    """Sum of the positive part of `values` (H, W) inside each of `boxes` (B, 4), B >= 1, in float64.

    Uses an integral image on the grid of the boxes' edges: a few dozen lines instead of all of the image's.
    """
    corners = boxes.astype(np.int64)
    xs, x = np.unique(np.concatenate([[0], corners[:, 0], corners[:, 2] + 1]), return_inverse=True)
    ys, y = np.unique(np.concatenate([[0], corners[:, 1], corners[:, 3] + 1]), return_inverse=True)
    height, width = values.shape
    # An edge at the right or lower border starts no cell; `integral` begins with a row and a column of zeros.
    from eigencam.evaluation import kernels  # importing numba takes time

    cells = kernels.positive_strips(values, ys[ys < height])
    cells = np.add.reduceat(cells, xs[xs < width], axis=1)
    integral = np.pad(cells.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
    n = len(boxes)
    x1, x2, y1, y2 = x[1 : n + 1], x[n + 1 :], y[1 : n + 1], y[n + 1 :]
    return integral[y2, x2] - integral[y1, x2] - integral[y2, x1] + integral[y1, x1]


def suppress(boxes: Boxes, overlap: float, limit: int) -> Boxes:
    """Greedy non-maximum suppression of `boxes` (P, 4 or more columns), best first.

    A box is dropped if its IoU with a better box that is kept exceeds `overlap`; at most `limit` boxes are kept.
    """
    kept: list[int] = []
    alive = np.ones(len(boxes), bool)
    while alive.any() and len(kept) < limit:
        i = int(np.argmax(alive))
        kept.append(i)
        alive[i] = False
        alive &= iou(boxes[i : i + 1], boxes)[0] <= overlap
    return boxes[kept]


def _column(values: ArrayLike) -> Floats:
    """(N, 1): sums over each image's objects; 0 for an image without objects."""
    return np.asarray(values, np.float64).reshape(-1, 1)


def _flat(column: "pd.Series") -> Floats:
    """A column of lists of numbers, one list per image, as one array."""
    return np.concatenate([np.zeros(0), *column]).astype(np.float64)
