r"""The pointing game, the energy pointing game and Grad-CAM++'s overlap of map and box.

Pointing game (Zhang et al., "Top-down neural attention by excitation backprop", ECCV 2016; protocol of TorchRay): a hit
if a pixel of a target object is less than 15 px from the map's maximum, at the image's original size. An
image whose target objects are all flagged difficult is left out; otherwise difficult objects count as well. The
accuracy is hits / (hits + misses) of each class, averaged over the classes with a counted image. Objects are
filled boxes, or the mask. Several maxima count with equal shares, whereas TorchRay takes the one that argmax finds. So
a map that a baseline makes constant on purpose scores by chance and not by its upper left corner; any other map that is
constant or not finite is a miss. Distances are strictly below the tolerance, as in TorchRay's code.

The difficult subset is a list of the paper's authors. TorchRay has copies for VOC and COCO, the files
`pointing_game_ebp_{voc07,coco}_difficult.txt`: an image's id and a 0 or 1 for each class, separated by tabs. A pair of
image and class with flag 0 is left out; an image that is not listed stays with all its classes.

Energy pointing game (Wang et al., "Score-CAM", CVPR Workshops 2020): the share of the map's sum inside the boxes.

Overlap (Chattopadhay et al., "Grad-CAM++", WACV 2018): for a map m scaled to 0..1,

$$\mathrm{Loc}(\delta) = \frac{\mathrm{Area}(m > \delta\ \text{inside})}{\mathrm{Area}(\text{box}) +
\mathrm{Area}(m > \delta\ \text{outside})}$$

with all boxes of the target object together. A map that is constant or not finite has energy 0 and overlap 0.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from eigencam.datasets.base import Dataset, Truth
from eigencam.datasets.boxes import Boxes
from eigencam.datasets.names import once
from eigencam.datasets.reading import Reading, expand
from eigencam.evaluation import states, statistics
from eigencam.evaluation.base import Curve, Metric, Row
from eigencam.evaluation.contributions import Totals
from eigencam.evaluation.intervals import MeanRatio
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.sums import ByClass, Part, Sums, summed

Objects = Literal["boxes", "mask"]


@dataclass(frozen=True, slots=True)
class Pointing:
    """Evaluator of the pointing game; see the module.

    Attributes:
        tolerance: largest distance of a hit (exclusive), in pixels of the original image.
        objects: `boxes`, or `mask` if the dataset has masks.
        difficult: file of the difficult subset, which then has metrics of its own; None: no subset.
    """

    tolerance: float = 15.0
    objects: Objects = "boxes"
    difficult: str | None = None

    version = 1
    summary_version = 2
    headline = ("pointing_accuracy", "pointing_hits", "pointing_accuracy_difficult")

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise ValueError(f"tolerance={self.tolerance}; allowed: more than 0 pixels")
        if self.objects not in ("boxes", "mask"):
            raise ValueError(f"objects={self.objects!r}; allowed: boxes, mask")

    def sources(self, dataset: Dataset) -> dict[str, str]:
        """SHA-256 of the list, if there is one. Raises a ValueError if it does not fit this dataset."""
        if self.difficult is None:
            return {}
        flags, n = read_flags(self.difficult), len(dataset.classes)
        if wrong := next((name for name, own in flags.items() if len(own) != n), None):
            raise ValueError(
                f"difficult={self.difficult}: {len(flags[wrong])} flags for {wrong}; allowed is one for each of the "
                f"{n} classes of {dataset.name}"
            )
        if not flags.keys() & set(dataset.ids):
            raise ValueError(
                f"difficult={self.difficult}: lists none of the images of {dataset.name}, e.g. {dataset.ids[0]}, but "
                f"{', '.join(list(flags)[:3])}"
            )
        return {"difficult": hashlib.sha256(expand(self.difficult).read_bytes()).hexdigest()}

    def row(self, score_map: ScoreMap, truth: Truth) -> Row:
        """Return the values that the metrics are computed from.

        Returns:
            `x`, `y`, the mean position of the maxima; `hit`, the share of the maxima that hit, NaN if left out;
            `map_state`; with a list also `in_difficult`, whether the pair is in the difficult subset.
        """
        lines = np.flatnonzero(score_map.row_peaks == score_map.peak)
        line, x = np.nonzero(score_map.full[lines] == score_map.peak)
        return self.row_of_points(x, lines[line], truth, score_map.state)

    def row_of_points(self, x: ArrayLike, y: ArrayLike, truth: Truth, state: str = "ok") -> Row:
        """Return the row for points instead of a map's maxima, in pixels of the original image.

        Args:
            x: (P,); whole pixels with `objects: mask`.
            y: (P,), likewise.
            truth: truth of the image.
            state: state of the map that the points come from.
        """
        x, y = np.asarray(x), np.asarray(y)
        sought = truth.sought()
        if self.objects == "mask" and truth.mask is None:
            raise ValueError(f"{truth.image_id}: the dataset has no masks; set objects=boxes")
        if not sought.any() or truth.difficult[sought].all():
            hit = float("nan")
        elif state == "nonfinite":
            hit = 0.0
        elif self.objects == "boxes":
            hit = float((_distance(x, y, truth.boxes[sought]) < self.tolerance).mean())
        else:
            hit = float(_near(x, y, truth.sought_pixels(), self.tolerance).mean())
        row: Row = {"x": float(x.mean()), "y": float(y.mean()), "hit": hit, "map_state": state}
        if self.difficult is not None:
            flags = read_flags(self.difficult).get(truth.image_id)
            row["in_difficult"] = flags is None or truth.label < 0 or bool(flags[truth.label])
        return row

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return each row's contribution: its hits, per class and in total, and in the difficult subset if given."""
        hit, label = states.at_worst(rows, hit=0.0)["hit"].to_numpy(np.float64), rows["label"].to_numpy(np.int64)
        parts: dict[str, Part] = {}
        for suffix in self._subsets:
            chosen = rows["in_difficult"].to_numpy(bool) if suffix else np.ones(len(rows), bool)
            own = np.flatnonzero(chosen & ~np.isnan(hit))
            values = {"pairs": np.ones(len(own), np.int64), "hits": hit[own]}
            parts[f"classes{suffix}"] = ByClass(own, label[own] + 1, values)  # rows without a label come first
            parts[f"hit{suffix}"] = np.where(chosen, hit, np.nan)
            parts[f"chosen{suffix}"] = chosen
            parts[f"map_state{suffix}"] = states.flags(rows) & chosen[:, None]
        return parts

    @property
    def _subsets(self) -> tuple[str, ...]:
        return ("",) if self.difficult is None else ("", "_difficult")

    def metrics(self, sums: Sums) -> list[Metric]:
        """`pointing_accuracy`, the mean over classes; `pointing_hits`, over images.

        With a list, also `pointing_accuracy_difficult` and `pointing_hits_difficult` on the difficult subset.
        """
        return [metric for suffix in self._subsets for metric in _accuracies(sums, suffix)]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rule in words."""
        words = f"an object's pixel less than {self.tolerance:g} px from the highest point, original size; ties share"
        return {
            "evaluator": "pointing",
            **asdict(self),
            "hit": words,
            "undefined": "map constant or not finite: a miss",
        }


@dataclass(frozen=True, slots=True)
class Energy:
    """Evaluator of the energy pointing game and of Grad-CAM++'s overlap; see the module.

    Attributes:
        deltas: thresholds of the overlap, of the map scaled to 0..1.
    """

    deltas: Sequence[float] = (0.0, 0.25, 0.5)

    version = 1
    summary_version = 1
    headline = ("energy_inside", "overlap_0", "overlap_0.25", "overlap_0.5")

    def __post_init__(self) -> None:
        if not all(0 <= delta < 1 for delta in self.deltas):
            raise ValueError(f"deltas={list(self.deltas)}; allowed: 0 <= delta < 1")

    def row(self, score_map: ScoreMap, truth: Truth) -> Row:
        """`energy`, 0..1: share of the scaled map's sum inside; `overlap_D` for each delta. NaN without a box."""
        names = [f"overlap_{delta:g}" for delta in self.deltas]
        boxes = truth.boxes[truth.sought()]
        if not len(boxes):
            return {"energy": np.nan, **dict.fromkeys(names, np.nan), "map_state": score_map.state}
        key = ("inside", truth.label, truth.foreground)
        inside = score_map.of_image(key, lambda: Inside.of(boxes, truth.size))
        span = score_map.peak - score_map.low
        if not (score_map.state == "ok" and span > 0):
            return {"energy": 0.0, **dict.fromkeys(names, 0 / inside.pixels), "map_state": score_map.state}
        from eigencam.evaluation import kernels  # importing numba takes time

        ends, deltas = (np.float32(score_map.low), np.float32(span)), np.array(self.deltas, np.float32)
        scaled, counts = kernels.above_inside(score_map.full, *ends, inside.mask, deltas)
        total = float(scaled.sum(dtype=np.float64))
        row: Row = {"energy": float(inside.of_values(scaled).sum(dtype=np.float64)) / total if total > 0 else 0.0}
        for name, (above, within) in zip(names, counts.tolist(), strict=True):
            row[name] = within / (inside.pixels + above - within)
        return {**row, "map_state": score_map.state}

    def parts(self, rows: pd.DataFrame) -> dict[str, Part]:
        """Return the contribution of each row: energy and overlaps."""
        names = ["energy", *(f"overlap_{delta:g}" for delta in self.deltas)]
        return {name: rows[name].to_numpy(np.float64) for name in names} | {"map_state": states.flags(rows)}

    def metrics(self, sums: Sums) -> list[Metric]:
        """`energy_inside` and `overlap_D`, means over images in percent."""
        maps = states.counted(sums.total("map_state"), sums.rows, "maps")
        names = {f"overlap_{delta:g}": f"{delta:g} range" for delta in self.deltas}
        overlaps = (sums.mean(name, name, threshold=at) for name, at in names.items())
        return [sums.mean("energy_inside", "energy", note=maps), *overlaps]

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """The metrics of rows in memory."""
        return summed(self, rows)

    def curves(self, rows: pd.DataFrame) -> list[Curve]:
        """The overlap at each delta."""
        return self.drawn(self.totals(rows))

    def totals(self, rows: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
        """The sum of the overlaps at each delta, and the number of images."""
        values = rows[[f"overlap_{delta:g}" for delta in sorted(self.deltas)]].to_numpy(np.float64)
        return {"overlap": np.nansum(values, axis=0), "n": (~np.isnan(values)).sum(axis=0).astype(np.float64)}

    def drawn(self, totals: Totals) -> list[Curve]:
        """The curve of the totals of all rows."""
        at = sorted(self.deltas)
        if len(at) < 2 or not (totals["n"] > 0).all():
            return []
        values = 100 * totals["overlap"] / totals["n"]
        return [Curve("overlap against threshold", "threshold (range)", "overlap %", np.array(at), values)]

    def protocol(self) -> Mapping[str, object]:
        """Parameters and the rule in words."""
        words, rule = (
            "map scaled from its minimum and maximum to 0..1",
            "map constant or not finite: no energy, no overlap",
        )
        return {"evaluator": "energy", "deltas": list(self.deltas), "map": words, "undefined": rule}


@lru_cache(maxsize=4)
def read_flags(file: str) -> Mapping[str, NDArray[np.bool_]]:
    """Read the list of a difficult subset: (C,) flags by image, in the order of the classes.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not an id and flags of 0 or 1, separated by tabs.
    """
    flags: dict[str, NDArray[np.bool_]] = {}
    seen: dict[str, str] = {}
    with Reading(
        expand(file),
        "a line for each image, its id and flags 0 or 1, tabs between: pointing_game_ebp_voc07_difficult.txt or "
        "pointing_game_ebp_coco_difficult.txt of TorchRay's torchray/benchmark",
    ) as lines:
        for line in lines.lines():
            name, *values = line.split("\t")
            if not values or not set(values) <= {"0", "1"}:
                raise ValueError(f"{line[:60]!r}")
            flags[once(seen, name, lines.place)] = np.array(values) == "1"
        if not flags:
            raise ValueError("no image is listed")
    return flags


def _accuracies(sums: Sums, suffix: str) -> list[Metric]:
    """The mean over classes and the share of hits, for all rows or a subset."""
    names, chosen = (f"pointing_accuracy{suffix}", f"pointing_hits{suffix}"), int(sums.total(f"chosen{suffix}")[0])
    subset = f"the {chosen} of {sums.rows} in the difficult subset" if suffix else ""
    missing = chosen - sums.count(f"hit{suffix}")
    left_out = f"{missing} images without an object to hit left out" if missing else ""
    parts = (subset, states.counted(sums.total(f"map_state{suffix}"), chosen, "maps"), left_out)
    note = "; ".join(part for part in parts if part)
    if chosen == missing:
        return [statistics.undefined(name, 0, note or "no image") for name in names]
    found = sums.classes(f"classes{suffix}")
    counts = sparse.csr_array(sparse.hstack([found["hits"], found["pairs"]]))
    pairs: Any = found["pairs"]
    statistic = MeanRatio(pairs.shape[1])
    of_classes = statistics.pooled(names[0], counts, statistic, n=chosen - missing, note=note)
    return [of_classes, sums.mean(names[1], f"hit{suffix}")]


@dataclass(frozen=True, slots=True)
class Inside:
    """The pixels in any of some boxes.

    Attributes:
        mask: (H, W) bool, True at these pixels.
        pixels: their number.
        around: the ranges of rows and columns that contain them.
        alone: whether they fill these ranges, as for a single box.
    """

    mask: NDArray[np.bool_]
    pixels: int
    around: tuple[slice, slice]
    alone: bool

    @classmethod
    def of(cls, boxes: Boxes, size: tuple[int, int]) -> "Inside":
        """Make it from (B, 4) inclusive boxes in an image of `size`, height and width."""
        mask = fill(boxes, size)
        around = _extent(mask, 1), _extent(mask, 0)
        return cls(mask, int(np.count_nonzero(mask)), around, bool(mask[around].all()))

    def of_values(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(P,) `values[mask]`."""
        part = values[self.around]
        return part.ravel() if self.alone else part[self.mask[self.around]]


def fill(boxes: Boxes, size: tuple[int, int]) -> NDArray[np.bool_]:
    """(H, W) bool: the pixels in any of the boxes (B, 4) inclusive, whose corners are rounded to whole pixels."""
    inside = np.zeros(size, bool)
    for x1, y1, x2, y2 in np.rint(boxes).astype(int):
        inside[max(y1, 0) : y2 + 1, max(x1, 0) : x2 + 1] = True
    return inside


def _extent(mask: NDArray[np.bool_], axis: int) -> slice:
    """Range from the first to the last row (`axis` 1) or column (`axis` 0) of (H, W) that has a pixel."""
    where = np.flatnonzero(mask.any(axis=axis)).tolist()
    return slice(where[0], where[-1] + 1) if where else slice(0)


def _distance(x: NDArray[Any], y: NDArray[Any], boxes: Boxes) -> NDArray[np.float64]:
    """(P,): distance of each point from the nearest pixel of any box (B, 4) inclusive; 0 on a pixel inside."""
    dx = x[:, None] - np.clip(np.rint(x)[:, None], boxes[:, 0], boxes[:, 2])
    dy = y[:, None] - np.clip(np.rint(y)[:, None], boxes[:, 1], boxes[:, 3])
    return np.hypot(dx, dy).min(axis=1)


def _near(x: NDArray[np.int64], y: NDArray[np.int64], mask: NDArray[np.bool_], tolerance: float) -> NDArray[np.bool_]:
    """(P,): whether a pixel of the mask (H, W) is closer than the tolerance."""
    if len(x) == 1:
        reach = int(np.ceil(tolerance))
        y0, x0 = max(int(y[0]) - reach, 0), max(int(x[0]) - reach, 0)
        dy, dx = np.nonzero(mask[y0 : y[0] + reach + 1, x0 : x[0] + reach + 1])
        return np.array([bool((np.hypot(dy + y0 - y[0], dx + x0 - x[0]) < tolerance).any())])
    from scipy.ndimage import distance_transform_edt

    if not mask.any():
        return np.zeros(len(x), bool)
    return np.asarray(distance_transform_edt(~mask))[y, x] < tolerance
