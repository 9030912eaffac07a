"""Weakly supervised localization by the rule of the ILSVRC development kit.

An image is localized when the box made from its map overlaps any box of the target object with an intersection over
union of at least 0.5, counted in inclusive pixels of the original image. The errors, in percent of all images:

    top1_loc_error   the top-1 class or the box is wrong
    top5_loc_error   none of the top-5 classes is right, or the box for the right one is wrong
    gt_known_error   the box is wrong, whatever the network predicts: maps for the true class
    box_error        the box is wrong, for maps for any class

One map per image is enough for all of them. By the kit's rule only a guess with the right label can count, and the
map that belongs to that guess *is* the map for the true class. So maps for the true class (`target == label`) give all
four. Maps for the predicted class give `top1_loc_error` exactly, since a right top-1 class is the true class. They give
`top5_loc_error` and `gt_known_error` only if no needed map is missing. A metric whose maps are missing is NaN, and its
note says why; nothing is approximated. An image whose ground truth has no box of a target object (VOC
has masks for images without boxes) is left out of every metric that needs one, and counted in the note.

An image whose map is constant or not finite counts as a miss, whatever box the threshold would give. Only the constant
map that a baseline returns on purpose gives its box, the whole image. If the network's logits are constant or not
finite, there is no top-1 class, and the label is wrong. Both are counted in the note. For a network without any
predictions, no error that needs them is defined.

Reference: `eval_localization_flat.m` of the ILSVRC2014 development kit; O. Russakovsky et al., "ImageNet Large Scale
Visual Recognition Challenge", IJCV 2015, section 4.2. The default threshold is Grad-CAM's (R. R. Selvaraju et al., ICCV
2017: 15 % of the maximum, the single largest segment); CAM's is 0.2 (B. Zhou et al., CVPR 2016).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.datasets.base import Truth
from eigencam.datasets.boxes import NO_BOX, Boxes, as_boxes, iou
from eigencam.evaluation import states, statistics
from eigencam.evaluation.base import About, Curve, Metric, Row
from eigencam.evaluation.contributions import Totals
from eigencam.evaluation.maps import ComponentRule, Rule, ScoreMap, box_of, check_rule
from eigencam.evaluation.sums import Part, Sums, flattened, summed

RANKS = (1, 5)
_OVERLAPS = np.linspace(0, 1, 51)
_CLASSES = "class prediction in the dataset's classes"


@dataclass(frozen=True, slots=True)
class Localization:
    """Evaluator of localization; see the module.

    Attributes:
        rule: thresholding rule of a map, see `evaluation/maps.py`.
        threshold: the rule's parameter.
        component: `largest` connected component of the foreground, or `all` of it.
        iou: smallest overlap at which a box is right, in (0, 1].
    """

    rule: Rule = "max"
    threshold: float = 0.15
    component: ComponentRule = "largest"
    iou: float = 0.5

    version = 1
    summary_version = 2
    headline = (
        "top1_loc_error",
        "top5_loc_error",
        "gt_known_error|box_error",
        "mean_iou",
        "top1_cls_error",
        "top5_cls_error",
    )

    def __post_init__(self) -> None:
        check_rule(self.rule, self.threshold, self.component)
        if not 0 < self.iou <= 1:
            raise ValueError(f"iou {self.iou}: allowed is 0 < iou <= 1")

    def row(self, score_map: ScoreMap, truth: Truth) -> Row:
        """Return the row of one image.

        Returns:
            `x1 y1 x2 y2`, NaN without foreground; `iou`, the best with any box of a target object, in [0, 1], NaN
            without such a box; `map_state`.
        """
        box = box_of(score_map, self.rule, self.threshold, self.component)
        return _row(box, truth, score_map.state)

    def row_of_boxes(self, boxes: Boxes, truth: Truth) -> Row:
        """Return the row for boxes (K, 4), best first: that of the first one."""
        return row_of_boxes(boxes, truth)

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return each row's contribution: wrong box, wrong label, and missing map or prediction."""
        boxed = rows["iou"].notna().to_numpy()
        iou = states.at_worst(rows, iou=0.0)["iou"].to_numpy(np.float64)
        wrong_box, label = iou < self.iou, rows["label"].to_numpy(np.int64)
        known = (label >= 0) & (rows["target"].to_numpy(np.int64) == label) if "target" in rows else label < -1
        ranks, unanswered = _rank_of_label(rows), states.no_answer(rows) & (label >= 0)
        ranked = ranks >= 0
        ranks[unanswered] = 0  # without valid logits there is no top-1 class
        parts: dict[str, Part] = {
            "iou": iou,
            "wrong_box": np.where(boxed, wrong_box, np.nan),
            "boxed": boxed,
            "unknown": boxed & ~known,
            "map_state": states.flags(rows),
            "answer_state": states.flags(rows, "answer_state"),
        }
        for whose, mask in (("boxed", boxed), ("all", np.ones(len(rows), bool))):
            parts |= {
                f"ranked_{whose}": mask & ranked,
                f"unranked_{whose}": mask & (ranks < 0),
                f"unanswered_{whose}": mask & unanswered,
                f"no_answer_{whose}": mask & states.no_answer(rows),
            }
        for k in RANKS:
            right = (ranks >= 1) & (ranks <= k)
            parts[f"other_map_{k}"] = boxed & right & ~known
            parts[f"wrong_{k}"] = np.where(boxed, ~right | wrong_box, np.nan)
            parts[f"wrong_label_{k}"] = (~right).astype(np.float64)
        return parts

    def metrics(self, sums: Sums) -> list[Metric]:
        """The errors of the module's docstring, `top1_cls_error`, `top5_cls_error` and `mean_iou`."""
        at, boxed = f"{self.threshold:g} {self.rule}", int(sums.total("boxed")[0])

        def error(name: str, part: str, missing: int, what: str, about: About = "method") -> Metric:
            whose, n, threshold = ("all", sums.rows, "") if about == "network" else ("boxed", boxed, at)
            undefined = partial(statistics.undefined, threshold=threshold, better="lower", about=about)
            if about != "method" and n and sums.total(f"no_answer_{whose}")[0] == n:
                return undefined(name, 0, states.UNANSWERED)
            if missing:
                return undefined(name, n - missing, f"not defined: {missing} of {n} images have no {what}")
            return sums.rate(name, part, threshold=threshold, better="lower", about=about)

        def unranked(whose: str) -> int:
            # Without valid logits the label counts as wrong if other images can be ranked, else as not comparable.
            lost = 0 if sums.total(f"ranked_{whose}")[0] else sums.total(f"unanswered_{whose}")[0]
            return int(sums.total(f"unranked_{whose}")[0] + lost)

        boxless = f"{sums.rows - boxed} images without a box left out" if boxed < sums.rows else ""
        note = "; ".join(part for part in (states.noted(sums), boxless) if part)
        metrics = [
            sums.rate("box_error", "wrong_box", note=note, threshold=at, better="lower"),
            error("gt_known_error", "wrong_box", int(sums.total("unknown")[0]), "map for the true class"),
        ]
        for k in RANKS:
            missing, what = unranked("boxed"), _CLASSES
            if not missing:
                missing, what = (
                    int(sums.total(f"other_map_{k}")[0]),
                    f"map for their true class, which is in the top {k}",
                )
            metrics.append(error(f"top{k}_loc_error", f"wrong_{k}", missing, what, "both"))
        for k in RANKS:
            metrics += [error(f"top{k}_cls_error", f"wrong_label_{k}", unranked("all"), _CLASSES, "network")]
        return [*metrics, sums.mean("mean_iou", "iou", threshold=at)]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """Return the metrics of rows in memory. NaN for those that the rows do not define."""
        return summed(self, rows)

    def curves(self, rows: pd.DataFrame) -> list[Curve]:
        """The share of images whose box overlaps the object by at least x; marked at the required overlap."""
        return self.drawn(self.totals(rows))

    def totals(self, rows: pd.DataFrame) -> dict[str, NDArray[np.int64]]:
        """Number of images with a box (`n`), and of those whose box reaches each overlap, the required one last."""
        ious = states.at_worst(rows, iou=0.0)["iou"].dropna().to_numpy(np.float64)
        at = np.append(_OVERLAPS, self.iou)
        return {"hits": (ious >= at[:, None]).sum(axis=1), "n": np.array([len(ious)])}

    def drawn(self, totals: Totals) -> list[Curve]:
        """The curve of the totals of all rows."""
        if not (n := int(totals["n"][0])):
            return []
        *hits, at_mark = (100 * totals["hits"] / n).tolist()
        words = ("localized against overlap", "overlap (IoU) asked for", "images localized %")
        return [Curve(*words, _OVERLAPS, np.array(hits), (self.iou, at_mark))]

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rule in words."""
        words = f"inclusive IoU >= {self.iou:g} with any box of the object sought, original pixels, no blacklist"
        rule = "map constant or not finite: a miss; answer constant or not finite: a wrong label"
        return {"evaluator": "localization", **asdict(self), "hit": words, "undefined": rule}


def row_of_boxes(boxes: NDArray[np.float64], truth: Truth) -> Row:
    """Return the row of an image whose boxes were made elsewhere: that of the first, best box.

    Args:
        boxes: (K, 4) inclusive pixels of the original image, best first; empty: a miss.
        truth: truth of the image.

    Returns:
        The columns of `Localization.row`, with `map_state` `box`.
    """
    boxes = as_boxes(boxes)
    return _row(boxes[0] if len(boxes) else NO_BOX, truth, "box")


def _row(box: NDArray[np.float64], truth: Truth, state: str) -> Row:
    sought = truth.boxes[truth.sought()]
    best = float(iou(box[None], sought).max()) if len(sought) else float("nan")
    x1, y1, x2, y2 = box.tolist()
    return {"x1": x1, "y1": y1, "x2": x2, "y2": y2, "iou": best, "map_state": state}


def _rank_of_label(rows: pd.DataFrame) -> NDArray[np.int64]:
    """(N,): rank of the label in the row's `top5`, from 1; 0 if it is not there, -1 if it cannot be compared."""
    ranks = np.full(len(rows), -1)
    if "top5" not in rows:
        return ranks
    label, (flat, lengths) = rows["label"].to_numpy(np.int64), flattened(rows["top5"])
    row = np.repeat(np.arange(len(rows)), lengths)
    ranks[(label >= 0) & (lengths > 0)] = 0
    place = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    hit = (flat == label[row]) & (label[row] >= 0)
    ranks[row[hit][::-1]] = place[hit][::-1] + 1  # the first among several
    return ranks
