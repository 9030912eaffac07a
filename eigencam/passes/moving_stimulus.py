"""Tests whether the response in a layer's output follows a stimulus that moves over the input.

A patch of noise is placed at eight positions of a noise image, no two in the same row or column. (On a constant image,
normalisation would make every response global.) The change in the output for each position is correlated with a bump at
that position, over rows, over columns and over all cells; the smallest of the three correlations is a reading's score.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eigencam.passes.readings import Reading

COLUMN_OF_ROW = (3, 6, 1, 4, 7, 2, 5, 0)
SHARE = 0.22
"""Side of the patch as a share of the image's sides."""
CONTRAST = 2.0
"""Amplitude of the patch in standard deviations of the image."""
ENOUGH = {2: 0.4, 1: 0.5}
"""Smallest accepted score of a reading, by its number of axes: tokens have many more candidate readings."""
CLEARLY = 0.2
"""Margin by which another reading must be better to contradict one."""
SPARING = 0.05
"""A reading with fewer extra tokens is preferred if its score is lower by at most this."""
MOST_EXTRA = 16
"""Numbers of extra tokens that are tried if the operations do not decide."""
SMALLEST = 3
"""Smallest side of a grid for which a score is meaningful."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ScoredReading:
    """A reading with its score; `order` says how its cells must be rearranged to follow the stimulus."""

    score: float
    reading: Reading
    order: str = ""

    def __str__(self) -> str:
        return f"{self.reading}{', ' if self.order else ''}{self.order}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of the test: the reading that follows, or why none does; neither if the test does not decide."""

    reading: Reading | None = None
    score: float = float("nan")
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Stimulus:
    """A batch of inputs and the positions of its patches.

    Attributes:
        batch: (9, C, H, W) float32, the image without a patch first.
        centres: (8, 2) y and x of the patches, as shares of the sides.
    """

    batch: Tensor
    centres: Floats

    @classmethod
    def make(cls, channels: int, size: tuple[int, int], seed: int = 0) -> "Stimulus":
        """Make noise of mean 0 and deviation 1, as normalised images have.

        Args:
            channels: number of channels of the input.
            size: (height, width) of the input.
            seed: seed of the noise.
        """
        random = torch.Generator().manual_seed(seed)
        high, wide = (max(1, round(side * SHARE)) for side in size)
        image = torch.randn(channels, *size, generator=random)
        patch = torch.randn(channels, high, wide, generator=random) * CONTRAST
        places = len(COLUMN_OF_ROW)
        batch = image.repeat(1 + places, 1, 1, 1)
        centres = np.empty((places, 2))
        for row, column in enumerate(COLUMN_OF_ROW):
            y, x = round((size[0] - high) * row / (places - 1)), round((size[1] - wide) * column / (places - 1))
            batch[1 + row, :, y : y + high, x : x + wide] = patch
            centres[row] = (y + high / 2) / size[0], (x + wide / 2) / size[1]
        return cls(batch, centres)

    def response(self, out: Tensor) -> Tensor | None:
        """(8, ...) float64, squared changes of an output (9, ...) by the patches; None if zero or not finite."""
        values = out.detach().float()
        change = (values[1:] - values[:1]).square_()
        total = change.flatten(1).sum(1, dtype=torch.float64).sqrt()
        if not bool(torch.isfinite(total).all()) or bool(total.min() <= 1e-6 * values[0].double().norm()):
            return None
        return change

    def score(self, amplitude: Floats) -> Floats:
        """(K,) scores of (K, 8, h, w) responses, at most 1."""
        seen = (_centred(amplitude.mean(3)), _centred(amplitude.mean(2)), _centred(amplitude))
        best = np.full(len(amplitude), -1.0)
        for width in (0.5, 1.0, 2.0):  # of the bump, in patch sides: receptive fields differ
            y, x = (self._bump(axis, n, width) for axis, n in enumerate(amplitude.shape[2:]))
            bumps = (_centred(y[None]), _centred(x[None]), _centred((y[:, :, None] * x[:, None])[None]))
            each = [_correlation(a, b[0]) for a, b in zip(seen, bumps, strict=True)]
            best = np.maximum(best, np.min(each, axis=0))
        return best

    def _bump(self, axis: int, n: int, width: float) -> Floats:
        far = (np.arange(n) + 0.5) / n - self.centres[:, axis, None]
        return np.exp(-0.5 * (far / (width * max(SHARE, 1 / n))) ** 2)


def check(stimulus: Stimulus, out: Tensor, proposed: Reading) -> Verdict:
    """Test whether the response follows in the reading that the operations propose.

    Returns:
        The reading if the response follows in it; a reason if it clearly follows in another one; otherwise neither,
        with the score.
    """
    change, shape = stimulus.response(out), tuple(out.shape)
    if change is None or min(proposed.size(shape)) < SMALLEST:
        return Verdict()
    tables = _Tables(change)
    own = float(stimulus.score(tables.of(proposed)[None])[0])
    if own >= ENOUGH[len(proposed.axes)]:
        return Verdict(proposed, own)
    alike = [r for r in readings(shape) if r.front + r.behind == proposed.front + proposed.behind and r != proposed]
    best = max((*_plain(stimulus, tables, alike), *_turned(stimulus, tables, proposed)), key=lambda s: s.score)
    if best.score < max(own + CLEARLY, ENOUGH[len(best.reading.axes)]):
        return Verdict(score=own)
    return Verdict(score=own, reason=f"its operations say {proposed}, but a moved stimulus moves as in {best}")


def search(stimulus: Stimulus, out: Tensor, aspect: float) -> Verdict:
    """Find the reading in which the response follows, among all that the output's shape allows.

    Args:
        stimulus: the input.
        out: (9, ...) the output.
        aspect: height / width of the input; grids of tokens differ from it by less than a factor of 2.
    """
    change, shape = stimulus.response(out), tuple(out.shape)
    if change is None:
        return Verdict(reason="a stimulus in the image does not change it")
    tables, possible = _Tables(change), [r for r in readings(shape, aspect) if min(r.size(shape)) >= SMALLEST]
    scored = list(_plain(stimulus, tables, possible))
    if not scored:
        return Verdict(reason="no two of its axes, and no axis of tokens, can be rows and columns")
    best = max(s.score for s in scored)
    near = [s for s in scored if s.score >= best - SPARING]
    taken = min(near, key=lambda s: (s.reading.front + s.reading.behind, -s.score))
    if taken.score >= ENOUGH[len(taken.reading.axes)]:
        rival = _rival(taken, scored)
        reason = f"two readings follow: {taken}; {rival}" if rival else ""
        return Verdict(None if rival else taken.reading, taken.score, reason)
    reason = "a moved stimulus moves in none of its readings"
    whole = [r for r in possible if not r.front + r.behind]
    turned = max((s for r in whole for s in _turned(stimulus, tables, r)), key=lambda s: s.score, default=None)
    if turned and turned.score >= ENOUGH[len(turned.reading.axes)]:
        reason = f"a moved stimulus moves as in {turned}"
    return Verdict(score=taken.score, reason=reason)


def _rival(taken: ScoredReading, scored: Sequence[ScoredReading]) -> ScoredReading | None:
    """Another reading that cannot be distinguished: with other axes, or with the extra tokens as one more row."""
    extra = taken.reading.front + taken.reading.behind
    for s in scored:
        row_more = s.reading.front + s.reading.behind < extra and extra >= min(taken.reading.grid)
        if (s.reading.axes != taken.reading.axes or row_more) and s.score >= max(
            taken.score - CLEARLY, ENOUGH[len(s.reading.axes)]
        ):
            return s
    return None


def readings(shape: tuple[int, ...], aspect: float | None = None) -> Iterator[Reading]:
    """The readings that a shape allows; with `aspect`, only grids of tokens within a factor of 2 of it."""
    if len(shape) == 4:
        yield from (Reading(axes) for axes in ((2, 3), (1, 2)) if min(shape[a] for a in axes) > 1)
    for axis in (1, 2) if len(shape) == 3 else ():
        for extra in range(min(MOST_EXTRA, shape[axis] - SMALLEST**2) + 1):
            cells = shape[axis] - extra
            if extra > max(5, cells // 2):
                break
            for rows in range(SMALLEST, cells // SMALLEST + 1):
                if cells % rows == 0 and (aspect is None or 0.5 <= rows * rows / cells / aspect <= 2):
                    yield from (Reading((axis,), (rows, cells // rows), k, extra - k) for k in range(extra + 1))


class _Tables:
    """The strength of a response (8, ...) at the cells of a reading."""

    def __init__(self, change: Tensor) -> None:
        self.change = change
        self._summed: dict[tuple[int, ...], Floats] = {}

    def along(self, axes: tuple[int, ...]) -> Floats:
        """(8, ...) root of the sums of squares over all other axes."""
        if axes not in self._summed:
            others = tuple(a for a in range(1, self.change.ndim) if a not in axes)
            summed = self.change.sum(others, dtype=torch.float64) if others else self.change.double()
            self._summed[axes] = summed.sqrt().cpu().numpy()
        return self._summed[axes]

    def of(self, reading: Reading) -> Floats:
        """(8, h, w)."""
        table = self.along(reading.axes)
        if len(reading.axes) == 2:
            return table
        return table[:, reading.front : reading.front + reading.cells].reshape(-1, *reading.grid)


def _plain(stimulus: Stimulus, tables: _Tables, possible: Sequence[Reading]) -> Iterator[ScoredReading]:
    """The scores of readings, computed together for equal grids."""
    for _, same in groupby(possible, key=lambda r: (r.axes, r.grid)):
        group = [r for r in same if not _peaks_outside(tables, r)]
        if group:
            scores = stimulus.score(np.stack([tables.of(r) for r in group]))
            yield from (ScoredReading(float(v), r) for v, r in zip(scores, group, strict=True))


def _peaks_outside(tables: _Tables, reading: Reading) -> bool:
    """Whether a token outside the grid follows the stimulus, so that it belongs to the grid."""
    if not reading.front + reading.behind:
        return False
    table = tables.along(reading.axes)
    peaks = (table - table.mean(0)).argmax(1) - reading.front
    return bool(((peaks < 0) | (peaks >= reading.cells)).any())


def _turned(stimulus: Stimulus, tables: _Tables, reading: Reading) -> Iterator[ScoredReading]:
    """The scores of a reading if its cells were in another order."""
    table = tables.of(reading)
    h, w = table.shape[1:]
    across = table.reshape(-1, w, h).transpose(0, 2, 1) if len(reading.axes) == 1 else table.transpose(0, 2, 1)
    orders = {
        "mirrored left to right": table[:, :, ::-1],
        "mirrored upside down": table[:, ::-1],
        "turned by 180 degrees": table[:, ::-1, ::-1],
        "column by column": across,
    }
    yield from (ScoredReading(float(stimulus.score(t[None])[0]), reading, name) for name, t in orders.items())


def _centred(x: Floats) -> Floats:
    """(K, 8, cells) minus the means over all cells of an input and over all inputs."""
    x = x.reshape(*x.shape[:2], -1)
    return x - x.mean(1, keepdims=True) - x.mean(2, keepdims=True) + x.mean((1, 2), keepdims=True)


def _correlation(a: Floats, b: Floats) -> Floats:
    norm = np.sqrt((a * a).sum((1, 2)) * (b * b).sum())
    return np.divide((a * b).sum((1, 2)), norm, out=np.zeros(len(a)), where=norm > 0)
