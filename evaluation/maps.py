"""From a raw, low-resolution score map to foreground, connected components and boxes.

A score map says how strongly each position of the image supports a class. A method returns it at the resolution of the
network: small (14 x 14), unnormalised, possibly signed. Here it is enlarged to its image, once for all
evaluators, and thresholded by one of the rules of the field:

    max     m > t max(m)                          CAM (t = 0.2), Grad-CAM (t = 0.15)
    range   m > min(m) + t (max(m) - min(m))      minimum-maximum normalisation, as in wsolevaluation
    mean    m > t mean(max(m, 0))                 alpha times the mean
    energy  the smallest set of highest pixels that holds the fraction t of the sum of max(m, 0), as in CNN-Fixations;
            pixels that tie with the last one are all included

A map whose maximum is not positive has no foreground under `max`, `mean` and `energy`; a constant positive map is all
foreground under `max` and `energy` (and under `mean` for t < 1), and has none under `range`. How an image with a
constant or non-finite map counts is the evaluators' rule, see `evaluation/states.py`.

>>> score_map = ScoreMap(np.array([[0.0, 0.0], [0.0, 1.0]]), size=(4, 4))
>>> box_of(score_map, "max", 0.5)
array([2., 2., 3., 3.])
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.boxes import NO_BOX
from eigencam.evaluation.states import State, count

VERSIONS = {"score_map": 1}
"""The version is raised when a change here alters results; see `eigencam.store.versions`."""

Rule = Literal["max", "range", "mean", "energy"]
ComponentRule = Literal["largest", "all"]
Floats = NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class ScoreMap:
    """A raw score map and the image it belongs to.

    Attributes:
        values: (h, w) float, any range, finite if it is to count; any resolution, up to that of the image. Kept as a
            float32 copy, read-only, since several evaluators read it.
        size: (height, width) of the original image, pixels.
        region: (x0, y0, x1, y1) half-open, in pixels of the original image: the part of it that the map covers, e.g.
            a centre crop; it may reach beyond the image. None: the whole image.
        image_memo: cache of values that depend only on image, region and truth, shared by the maps for which these
            three are the same; None: such values are computed anew for each map, since the truth may differ.
    """

    values: NDArray[Any]
    size: tuple[int, int]
    region: tuple[float, float, float, float] | None = None
    image_memo: dict[Hashable, Any] | None = field(default=None, repr=False)
    _memo: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        values = np.asarray(self.values)
        if values.ndim != 2 or values.size == 0 or values.dtype.kind not in "fiub":
            raise ValueError(
                f"a score map of shape {values.shape} and type {values.dtype}: allowed is a real (h, w) with h, w >= 1"
            )
        if min(self.size) < 1:
            raise ValueError(f"an image of size {self.size}: allowed are (height, width) >= 1")
        if self.region is not None and not (self.region[2] > self.region[0] and self.region[3] > self.region[1]):
            raise ValueError(f"a region of {self.region}: allowed is x0 y0 x1 y1 with x0 < x1 and y0 < y1")
        with np.errstate(over="ignore"):  # values beyond float32 become infinite, which is handled below
            own = values.astype(np.float32)
        own.flags.writeable = False
        object.__setattr__(self, "values", own)

    @property
    def state(self) -> State:
        """`nonfinite` if a value, or the range of the values, is not finite as float32; `constant` if all are equal."""
        if "state" not in self._memo:
            low, high = self.values.min(), self.values.max()
            with np.errstate(over="ignore", invalid="ignore"):
                finite = np.isfinite(high - low)
            self._memo["state"] = "nonfinite" if not finite else "constant" if low == high else "ok"
        return self._memo["state"]

    @property
    def full(self) -> Floats:
        """(H, W) float32: the map at the size of the image, read-only.

        Bilinear between the centres of the map's cells and constant beyond the outermost centres, like torch's
        `interpolate(mode="bilinear", align_corners=False)`. Outside `region` it is `min(0, min(values))`. A map that
        is not finite is zero everywhere, that is, has no foreground.
        """
        if "full" not in self._memo:
            full = np.ascontiguousarray(self._resized())
            full.flags.writeable = False
            self._memo["full"] = full
        return self._memo["full"]

    @property
    def peak(self) -> float:
        """The maximum of `full`."""
        return self.shared("peak", lambda: float(self.row_peaks.max()))

    @property
    def low(self) -> float:
        """The minimum of `full`."""
        return self.shared("low", lambda: float(self.full.min()))

    @property
    def row_peaks(self) -> Floats:
        """(H,) the maximum of each row of `full`."""
        return self.shared("row_peaks", lambda: self.full.max(axis=1))

    @property
    def column_peaks(self) -> Floats:
        """(W,) the maximum of each column of `full`."""
        return self.shared("column_peaks", lambda: self.full.max(axis=0))

    @property
    def positive_sum(self) -> float:
        """The sum of the positive values of `full`."""

        def make() -> float:
            positive = self.full if self.low >= 0 else np.maximum(self.full, 0)
            return float(positive.sum(dtype=np.float64))

        return self.shared("positive_sum", make)

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return `make()`, computed once: a value that several evaluators need of this map, and none modifies."""
        if key not in self._memo:
            self._memo[key] = make()
        return self._memo[key]

    def of_image(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return `make()`, computed once for maps that share `image_memo`; it depends on image, region and truth."""
        if self.image_memo is None:
            return make()
        if key not in self.image_memo:
            self.image_memo[key] = make()
        return self.image_memo[key]

    def _resized(self) -> Floats:
        height, width = self.size
        if self.state == "nonfinite":
            return np.zeros(self.size, np.float32)
        if self.region is None and self.values.shape == self.size:
            return self.values.copy()
        x0, y0, x1, y1 = self.region or (0.0, 0.0, float(width), float(height))
        # Along x while the map is small, then along y. Not by a matrix product: a multi-threaded BLAS under contention
        # takes 20 ms for this, and leaves rounding noise on plateaus.
        from eigencam.evaluation import kernels  # importing numba takes time

        before, behind, weight = _positions(self.values.shape[1], width, x0, x1)
        lines, step = self.values.take(before, 1), self.values.take(behind, 1)
        lines += (step - lines) * weight
        full = kernels.interpolate(lines, *_positions(self.values.shape[0], height, y0, y1))
        if self.region is not None:
            outside = min(0.0, float(self.values.min()))
            full[_outside(height, y0, y1)] = outside
            full[:, _outside(width, x0, x1)] = outside
        return full


Positions = tuple[NDArray[np.int64], NDArray[np.int64], Floats]


@lru_cache(maxsize=4096)
def _positions(n_in: int, n_out: int, start: float, stop: float) -> Positions:
    """Positions of the pixels 0 .. n_out - 1 among `n_in` cells over [start, stop): cell before, behind, weight."""
    position = (np.arange(n_out) + 0.5 - start) / (stop - start) * n_in - 0.5
    position = np.clip(position, 0, n_in - 1)
    before = np.floor(position).astype(np.int64)
    return before, np.minimum(before + 1, n_in - 1), (position - before).astype(np.float32)


def _outside(n: int, start: float, stop: float) -> NDArray[np.bool_]:
    """(n,): pixels whose centre is outside [start, stop)."""
    centres = np.arange(n) + 0.5
    return (centres < start) | (centres >= stop)


def check_rule(rule: str, threshold: float, component: str = "largest") -> None:
    """Raise a ValueError that names the allowed values, unless the three are valid."""
    if rule not in get_args(Rule):
        raise ValueError(f"rule {rule!r}: allowed are {', '.join(get_args(Rule))}")
    if component not in get_args(ComponentRule):
        raise ValueError(f"component {component!r}: allowed are {', '.join(get_args(ComponentRule))}")
    ranges = {"max": (0, 1, "0 <= t < 1"), "range": (0, 1, "0 <= t < 1"), "mean": (0, np.inf, "t >= 0")}
    low, high, words = ranges.get(rule, (0, 1, "0 < t <= 1"))
    if not (0 < threshold <= 1 if rule == "energy" else low <= threshold < high):
        raise ValueError(f"threshold {threshold} for the rule {rule!r}: allowed is {words}")


def cut(score_map: ScoreMap, rule: Rule, threshold: float) -> np.float32:
    """The value above which (strictly) a pixel of `score_map.full` is foreground.

    It is infinite if no value is positive, except under `range`.
    """
    return cuts(score_map, rule, (threshold,))[0]


def cuts(score_map: ScoreMap, rule: Rule, thresholds: Sequence[float]) -> Floats:
    """(T,) float32: `cut` at several thresholds at once."""
    full, peak = score_map.full, score_map.peak
    t = np.asarray(thresholds, np.float64)
    if rule == "range":
        return _below(score_map.low + t * (peak - score_map.low))
    if peak <= 0:
        return np.full(len(t), np.inf, np.float32)
    if rule == "max":
        return _below(t * peak)
    if rule == "mean":
        return _below(t * (score_map.positive_sum / full.size))
    from eigencam.evaluation import kernels  # importing numba takes time

    last = kernels.lowest_of_shares(full, np.float32(peak), t)
    if not np.isnan(last).any():
        return np.nextafter(last, np.float32(-np.inf))
    positive = np.sort(full[full > 0])[::-1]
    mass = np.cumsum(positive, dtype=np.float64)
    last = positive[np.searchsorted(mass, t * mass[-1])]
    return np.nextafter(last, np.float32(-np.inf))


def _below(values: NDArray[np.float64]) -> Floats:
    """The largest float32 not above `values`, so that comparing in float32 decides as in float64."""
    rounded = values.astype(np.float32)
    return np.where(rounded > values, np.nextafter(rounded, np.float32(-np.inf)), rounded)


def foreground(score_map: ScoreMap, rule: Rule, threshold: float) -> NDArray[np.bool_]:
    """(H, W) bool: the foreground pixels of the image."""
    return score_map.full > cut(score_map, rule, threshold)


@dataclass(frozen=True, slots=True)
class Components:
    """Connected components of one or several masks, ordered by mask and then by their first pixel in raster order.

    Attributes:
        boxes: (C, 4) float64 inclusive.
        pixels: (C,) int64, number of pixels.
        mask: (C,) int64, index of the mask the component is in.
    """

    boxes: NDArray[np.float64]
    pixels: NDArray[np.int64]
    mask: NDArray[np.int64]


def components(masks: NDArray[np.bool_]) -> Components:
    """8-connected components of masks (K, H, W) bool."""
    from eigencam.evaluation import smooth_component_tree as tree  # importing numba takes time
    from eigencam.evaluation.row_segments import padded

    nodes = [tree.nodes_of(padded(mask.astype(np.uint8)), masks.shape[2]) for mask in masks]
    nodes = [found[np.argsort(found[:, tree.FIRST])] for found in nodes]
    every = np.concatenate([np.zeros((0, 10), np.int32), *nodes])
    mask = np.repeat(np.arange(len(nodes)), [len(found) for found in nodes])
    boxes = every[:, tree.X1 : tree.Y2 + 1].astype(np.float64)
    return Components(boxes, every[:, tree.PIXELS].astype(np.int64), mask)


def components_above(full: Floats, cuts: NDArray[np.float32]) -> NDArray[np.int32]:
    """The 8-connected components of (H, W) values above any cut, (K, 10) as in `smooth_component_tree`.

    The finite cuts are taken in ascending order, 255 at a time. Within these, a component that is the same above
    several cuts occurs once, and its thresholds (`LOW`, `HIGH`) count the cuts.
    """
    from eigencam.evaluation import kernels, smooth_component_tree  # importing numba takes time

    rising = np.array(sorted({c for c in cuts.tolist() if c < np.inf}), np.float32)
    parts = [rising[i : i + 255] for i in range(0, len(rising), 255)]
    nodes = [smooth_component_tree.nodes_of(kernels.levels_of(full, part), full.shape[1]) for part in parts]
    return np.concatenate([np.zeros((0, 10), np.int32), *nodes])


def box_of_mask(mask: NDArray[np.bool_], component: ComponentRule = "largest") -> NDArray[np.float64]:
    """The box (4,) inclusive of a mask (H, W) bool; NaNs if it is empty.

    Args:
        mask: foreground.
        component: `largest`: the box of the 8-connected component with most pixels, among ties the first in raster
            order; `all`: the box of all pixels.
    """
    return box_of(ScoreMap(mask, (mask.shape[0], mask.shape[1])), "max", 0.5, component)


def box_of(
    score_map: ScoreMap, rule: Rule, threshold: float, component: ComponentRule = "largest"
) -> NDArray[np.float64]:
    """The box (4,) inclusive of a score map's foreground, in pixels of the image; NaNs without foreground.

    Args:
        score_map: the map.
        rule: thresholding rule.
        threshold: the rule's parameter.
        component: `largest`: the box of the 8-connected component with most pixels, among ties the first in raster
            order; `all`: the box of all pixels.
    """
    level = cut(score_map, rule, threshold)
    if not score_map.peak > level:
        return NO_BOX.copy()
    if component == "all":
        rows, columns = np.flatnonzero(score_map.row_peaks > level), np.flatnonzero(score_map.column_peaks > level)
        return np.array([columns[0], rows[0], columns[-1], rows[-1]], np.float64)
    from eigencam.evaluation import smooth_component_tree as tree  # importing numba takes time

    nodes = components_above(score_map.full, np.array([level]))
    best = np.lexsort((nodes[:, tree.FIRST], -nodes[:, tree.PIXELS]))[0]
    return nodes[best, tree.X1 : tree.Y2 + 1].astype(np.float64)


def degenerate(states: Iterable[str]) -> str:
    """Footnote on maps that are not `ok`: `2 constant, 1 nonfinite of 50 maps`; empty if there are none."""
    return count(states, "maps")
