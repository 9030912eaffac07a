r"""Windows scored by the complete contours that they contain, after EdgeBoxes (Zitnick and Dollar, ECCV 2014).

A window probably contains an object if it contains contours that do not leave it. Edge pixels of magnitude m are
grouped, and a group that crosses the border of the window does not count:

$$s(b) = \frac{\sum_{g \text{ inside } b} m_g - \sum_{p \in b^{in}} m_p}{2 (w + h)^\kappa}$$

m_g is the sum of a group's magnitudes. $b^{in}$ is the window of half the width and height with the same centre, whose
edges say little about the outline; $\kappa = 1.5$. A group is inside if its mean position is inside and none of its
pixels is on the border. The windows are those of a sliding window (`eigencam.methods.windows.sliding`, alpha = 0.65).

The best windows are refined: each side is moved if that raises the score, first by half the step of the sliding
window, then by half of that, down to a pixel. Then windows that overlap a better one by more than 0.75 are dropped.

It is simpler than the authors' method in three ways, so their numbers cannot be expected. Edges are the gradient of the
smoothed image (the largest of the three channels), thinned along its direction, not structured forests learnt from
drawn contours. Groups are 8-connected pixels whose directions fall into the same of 8 bins; EdgeBoxes links pixels
until they turn by 90 degrees. Here a group across the border simply does not count; EdgeBoxes also lowers the weights
of the groups connected with it, by the affinity of their directions.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from eigencam.evaluation.proposals import suppress
from eigencam.methods.windows import check_windows, originals, sliding
from eigencam.passes.forward import Forward

Floats = NDArray[np.float64]
Groups = NDArray[np.int32]
BINS = 8


@dataclass(frozen=True, slots=True)
class EdgeWindows:
    """The `limit` best sliding windows by their contours.

    Attributes:
        alpha: overlap of neighbouring windows.
        beta: windows that overlap a better one by more than this are dropped.
        kappa: exponent of the window's size.
        sigma: smoothing before the derivatives, in pixels.
        low: gradients below this share of the largest are not edges.
        min_area: smallest area of a window, in pixels.
        max_aspect: largest ratio of a window's sides.
        limit: maximum number of windows.
    """

    alpha: float = 0.65
    beta: float = 0.75
    kappa: float = 1.5
    sigma: float = 1.5
    low: float = 0.1
    min_area: float = 1000.0
    max_aspect: float = 3.0
    limit: int = 1000

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = False
    gives_boxes: ClassVar[bool] = True
    paper: ClassVar[str] = "after Zitnick & Dollar, ECCV 2014"
    needs: ClassVar[str] = "the image; no network"

    def __post_init__(self) -> None:
        check_windows(self.alpha, self.min_area, self.max_aspect, self.limit)
        if not (0 <= self.beta <= 1 and self.sigma > 0 and 0 <= self.low < 1):
            raise ValueError(
                f"beta={self.beta}, sigma={self.sigma}, low={self.low}; allowed: 0 to 1, more than 0, and 0 <= low < 1"
            )

    def __call__(self, forward: Forward, targets: Tensor) -> list[Floats]:
        """N of (K, 5) `x1 y1 x2 y2 score`."""
        return [self._search(image) for image in originals(forward)]

    def _search(self, image: NDArray[np.uint8]) -> Floats:
        contours = Contours.of(*edges(image / 255.0, self.sigma, self.low))
        boxes = sliding((image.shape[0], image.shape[1]), self.alpha, self.min_area, self.max_aspect).astype(np.int64)
        best = np.argsort(-contours.scores(boxes, self.kappa), kind="stable")[: 5 * self.limit]
        boxes, score = contours.refined(boxes[best], self.kappa, (1 - self.alpha) / (1 + self.alpha) / 2)
        order = np.argsort(-score, kind="stable")
        kept = suppress(
            np.concatenate([boxes.astype(np.float64), score[:, None]], axis=1)[order], self.beta, self.limit
        )
        return kept[kept[:, 4] > 0]


def edges(image: Floats, sigma: float, low: float) -> tuple[Floats, Groups]:
    """Thinned edges of (H, W, 3): (H, W) magnitudes in 0..1 and (H, W) groups from 1; both 0 off the edges."""
    y, x = (
        ndimage.gaussian_filter1d(ndimage.gaussian_filter1d(image, sigma, axis=1, order=a), sigma, axis=0, order=1 - a)
        for a in (0, 1)
    )
    channel = np.hypot(x, y).argmax(axis=2)[..., None]
    x, y = (np.take_along_axis(v, channel, axis=2)[..., 0] for v in (x, y))
    size = np.hypot(x, y)
    # Thinning: a pixel stays if no neighbour along its gradient, rounded to 45 degrees, is larger.
    angle = np.arctan2(y, x) % np.pi
    sector = np.rint(angle / (np.pi / 4)).astype(np.int64) % 4
    padded = np.pad(size, 1)
    stays = np.zeros(size.shape, bool)
    for s, (dy, dx) in enumerate(((0, 1), (1, 1), (1, 0), (1, -1))):
        ahead = padded[1 + dy : padded.shape[0] - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx]
        behind = padded[1 - dy : padded.shape[0] - 1 - dy, 1 - dx : padded.shape[1] - 1 - dx]
        stays |= (sector == s) & (size >= ahead) & (size > behind)
    stays &= size > low * size.max()
    strength = np.where(stays, size / max(size.max(), 1e-12), 0.0)
    return strength, _groups(stays, np.minimum((angle * (BINS / np.pi)).astype(np.int64), BINS - 1))


def _groups(stays: NDArray[np.bool_], bins: NDArray[np.int64]) -> Groups:
    groups, count = np.zeros(stays.shape, np.int32), 0
    for k in range(BINS):
        labels = np.asarray(ndimage.label(stays & (bins == k), np.ones((3, 3)))[0])  # type: ignore[index]
        groups += np.where(labels > 0, labels + count, 0).astype(np.int32)
        count += int(labels.max())
    return groups


@dataclass(frozen=True, slots=True)
class Contours:
    """Groups of an image's edges, by which windows are scored.

    Attributes:
        groups: (H, W), 0 off the edges.
        total: (G,) sum of the magnitudes of each group.
        middle: (2, G) y and x of its mean position.
        of_groups: (H + 1, W + 1) integral of `total` at these positions.
        of_pixels: (H + 1, W + 1) integral of the magnitudes.
    """

    groups: Groups
    total: Floats
    middle: NDArray[np.int64]
    of_groups: Floats
    of_pixels: Floats

    @classmethod
    def of(cls, strength: Floats, groups: Groups) -> "Contours":
        """Make it from (H, W) magnitudes and groups of `edges`."""
        total = np.bincount(groups.ravel(), strength.ravel()).astype(np.float64)
        total[0] = 0
        y, x = np.indices(groups.shape)
        pixels = np.maximum(np.bincount(groups.ravel()), 1)
        middle = np.stack([np.rint(np.bincount(groups.ravel(), v.ravel()) / pixels) for v in (y, x)]).astype(np.int64)
        at_middle = np.zeros(strength.shape)
        np.add.at(at_middle, tuple(middle), total)
        sums = [np.pad(v.cumsum(0).cumsum(1), ((1, 0), (1, 0))) for v in (at_middle, strength)]
        return cls(groups, total, middle, *sums)

    def scores(self, boxes: NDArray[np.int64], kappa: float) -> Floats:
        """(K,) scores of (K, 4) inclusive boxes inside the image."""
        return _refine(self.groups, self.total, self.middle, self.of_groups, self.of_pixels, boxes.copy(), kappa, 0.0)

    def refined(self, boxes: NDArray[np.int64], kappa: float, step: float) -> tuple[NDArray[np.int64], Floats]:
        """The boxes with sides moved if that raises the score, first by the share `step` of a side; their scores."""
        boxes = boxes.copy()
        return boxes, _refine(self.groups, self.total, self.middle, self.of_groups, self.of_pixels, boxes, kappa, step)


@njit(cache=True, nogil=True)
def _refine(
    groups: Groups, total: Floats, middle: NDArray[np.int64], of_groups: Floats, of_pixels: Floats,
    boxes: NDArray[np.int64], kappa: float, step: float,
) -> Floats:  # fmt: skip
    """Scores of the boxes, which are modified in place."""
    found = np.zeros(len(boxes))
    seen, stamp = np.full(len(total), -1), 0  # the last box on whose border a group was met
    last = np.array([groups.shape[1] - 1, groups.shape[0] - 1])
    for k in range(len(boxes)):
        box = boxes[k]
        found[k] = _score(groups, total, middle, of_groups, of_pixels, box, kappa, seen, stamp)
        stamp += 1
        steps = np.array([int((box[2] - box[0] + 1) * step), int((box[3] - box[1] + 1) * step)])
        while steps.max() >= 1:
            for side in range(4):
                for sign in (-1, 1):
                    before = box[side]
                    box[side] = min(max(before + sign * steps[side % 2], 0), last[side % 2])
                    better = -np.inf
                    if box[2] > box[0] and box[3] > box[1]:
                        better = _score(groups, total, middle, of_groups, of_pixels, box, kappa, seen, stamp)
                        stamp += 1
                    if better > found[k]:
                        found[k] = better
                    else:
                        box[side] = before
            steps //= 2
    return found


@njit(cache=True, nogil=True)
def _score(
    groups: Groups, total: Floats, middle: NDArray[np.int64], of_groups: Floats, of_pixels: Floats,
    box: NDArray[np.int64], kappa: float, seen: NDArray[np.int64], stamp: int,
) -> float:  # fmt: skip
    x1, y1, x2, y2 = box
    width, height = x2 - x1 + 1, y2 - y1 + 1
    score = _inside(of_groups, x1, y1, x2 + 1, y2 + 1)
    for i in range(2 * (width + height)):
        if i < 2 * width:
            y, x = (y1, x1 + i) if i < width else (y2, x1 + i - width)
        else:
            j = i - 2 * width
            y, x = (y1 + j, x1) if j < height else (y1 + j - height, x2)
        g = groups[y, x]
        if g > 0 and seen[g] != stamp:
            seen[g] = stamp
            if y1 <= middle[0, g] <= y2 and x1 <= middle[1, g] <= x2:
                score -= total[g]
    dx, dy = width // 4, height // 4
    score -= _inside(of_pixels, x1 + dx, y1 + dy, x2 + 1 - dx, y2 + 1 - dy)
    return score / (2 * (width + height) ** kappa)


@njit(cache=True, nogil=True)
def _inside(sums: Floats, x1: int, y1: int, x2: int, y2: int) -> float:
    return sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]
