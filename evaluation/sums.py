"""Sums of a result's rows: the same for all rows at once and for blocks of them, as they are read.

A `Streaming` evaluator returns each row's contribution (`parts`), and computes its metrics from the sums (`metrics`).
Rows can then be summed in blocks of the dataset's order, whose size is fixed, so that a result's numbers do not depend
on how it was read; counts are integers. For intervals over images, each image's sums are kept; above 10,000 images,
the images are divided into 1,000 groups by a hash of their ids, and each group's sums are kept. A `Choosing` evaluator
reads its metrics at a threshold chosen from all rows, so the rows are read twice.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, TypeGuard, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from eigencam.evaluation import intervals, statistics
from eigencam.evaluation.base import About, Metric, Sample, Summing
from eigencam.evaluation.contributions import ByClass, Counted, Part, Totals
from eigencam.evaluation.intervals import Floats, Interval, MeanRatio

BLOCK = 2**13
"""Number of rows that are summed at a time."""


class Reading(Protocol):
    """An object that summarises rows in blocks."""

    def parts(self, rows: pd.DataFrame) -> Mapping[str, Part]:
        """Return the contribution of each row of a block to named sums, independent of other rows."""
        ...

    def metrics(self, sums: "Sums") -> list[Metric]:
        """Return the metrics from the sums of all rows."""
        ...


class Streaming(Summing, Reading, Protocol):
    """An evaluator whose rows can be summed in blocks."""


class Choosing(Summing, Protocol):
    """An evaluator whose threshold is chosen from all rows."""

    def totals(self, rows: pd.DataFrame) -> Totals:
        """Return the contribution of a block's rows to the sums that the choice is based on."""
        ...

    def choose(self, totals: Totals) -> Reading:
        """Return what summarises the rows, chosen from the totals of all of them."""
        ...


def is_streaming(evaluator: object) -> TypeGuard[Streaming | Choosing]:
    """Whether an evaluator's rows can be summed in blocks."""
    return any(stands(evaluator, name, "summary") for name in ("metrics", "choose"))


def stands(evaluator: object, name: str, simpler: str) -> bool:
    """Whether an evaluator has the method `name`, and no subclass of the user's overrides only the `simpler` one."""
    defines = next((vars(kind) for kind in type(evaluator).__mro__ if {simpler, name} & vars(kind).keys()), {})
    return hasattr(evaluator, name) and (name in defines or simpler not in defines)


def added(blocks: Iterable[Totals]) -> dict[str, NDArray[Any]]:
    """Return the totals of all blocks."""
    kept: dict[str, NDArray[Any]] = {}
    for block in blocks:
        for name, values in block.items():
            short, long = sorted((kept.get(name, values[:0]), values), key=len)
            kept[name] = long.copy()
            kept[name][: len(short)] += short
    return kept


def settled(evaluator: Streaming | Choosing, blocks: Iterable[pd.DataFrame]) -> Reading:
    """Return what summarises the rows of some blocks: the evaluator, or what it chooses from them."""
    if not hasattr(evaluator, "choose"):
        return cast(Streaming, evaluator)
    choosing = cast(Choosing, evaluator)
    return choosing.choose(added(choosing.totals(rows) for rows in of_size(blocks, BLOCK)))


@dataclass(slots=True)
class _Sum:
    """One named sum per unit, with the number of rows that count and the range of single values."""

    units: Any
    present: NDArray[np.int64]
    low: float = 0.0
    high: float = 0.0
    whole: bool = True
    up: int = 0
    down: int = 0
    single: bool = False


@dataclass(slots=True)
class Sums:
    """Sums of rows by unit: rows, images, or groups of images.

    Attributes:
        size: number of units.
        alone: whether each row belongs to a different image.
        rows: number of rows so far.
    """

    size: int
    alone: bool
    rows: int = 0
    _sums: dict[str, _Sum] = field(default_factory=dict)
    _classes: dict[str, dict[str, Any]] = field(default_factory=dict)
    _texts: dict[str, str] = field(default_factory=dict)

    def add(self, parts: Mapping[str, Part], unit: NDArray[np.int64]) -> None:
        """Add the contributions of N rows, which belong to the units (N,)."""
        self.rows += len(unit)
        member = sparse.csr_array((np.ones(len(unit), np.int64), (unit, np.arange(len(unit)))), (self.size, len(unit)))
        for name, part in parts.items():
            if isinstance(part, str):
                self._texts.setdefault(name, part)
            elif isinstance(part, ByClass):
                self._add_classes(name, part, unit)
            else:
                self._add(name, part, member)

    def _add(self, name: str, part: NDArray[Any] | Counted, member: Any) -> None:
        single = isinstance(part, np.ndarray) and part.ndim == 1 and part.dtype.kind == "f"
        values: NDArray[Any] = part.numbers if isinstance(part, Counted) else part
        present = part.present if isinstance(part, Counted) else np.ones(len(values), bool)
        if single:
            present = ~np.isnan(values)
            values = np.where(present, values, 0.0)
        values = values if values.ndim == 2 else values[:, None]
        values = values.astype(np.float64 if values.dtype.kind == "f" else np.int64)
        units, counts = member @ values, member @ present.astype(np.int64)
        found = self._sums.get(name)
        if found is None:
            found = self._sums[name] = _Sum(units, counts, single=single)
        else:
            found.units, found.present = found.units + units, found.present + counts
        if single:
            found.low, found.high = (
                min(found.low, float(values.min(initial=0))),
                max(found.high, float(values.max(initial=0))),
            )
            found.whole &= bool(np.isin(values, (-1, 0, 1)).all())
            found.up, found.down = found.up + int((values > 0).sum()), found.down + int((values < 0).sum())

    def _add_classes(self, name: str, part: ByClass, unit: NDArray[np.int64]) -> None:
        kept = self._classes.setdefault(name, {})
        shape = self.size, int(part.label.max(initial=-1)) + 1
        for key, values in part.numbers.items():
            kind = np.float64 if values.dtype.kind == "f" else np.int64
            made: Any = sparse.csr_array((values.astype(kind), (unit[part.row], part.label)), shape)
            if key in kept:
                width = max(kept[key].shape[1], shape[1])
                for matrix in (made, kept[key]):
                    matrix.resize((self.size, width))
                made = kept[key] + made
            kept[key] = made

    def __contains__(self, name: str) -> bool:
        return name in self._sums

    def __getitem__(self, name: str) -> NDArray[Any]:
        """(U, K): the sum of each unit; 0 for units without a counted row."""
        return self._sums[name].units

    def total(self, name: str) -> NDArray[Any]:
        """(K,): the sum over all units."""
        return self._sums[name].units.sum(axis=0)

    def count(self, name: str) -> int:
        """Number of rows that count."""
        return int(self._sums[name].present.sum())

    def text(self, name: str) -> str:
        """Return a text that is the same for all rows."""
        return self._texts[name]

    def classes(self, name: str) -> dict[str, sparse.csr_array]:
        """Return the sums per class (U, C) by name, over the classes that occur in the first of them."""
        kept = self._classes[name]
        first = next(iter(kept.values()))
        occurs = np.flatnonzero(np.asarray(first.sum(axis=0)).ravel() > 0)
        return {key: sparse.csr_array(matrix[:, occurs]) for key, matrix in kept.items()}

    def class_count(self, name: str) -> int:
        """Number of classes that occur in the first of the sums per class."""
        return cast(tuple[int, int], next(iter(self.classes(name).values())).shape)[1]

    def combine(self, name: str, columns: Iterable[tuple[str, int]], among: Iterable[str], divisor: int = 1) -> None:
        """Make a new part with one value per row: the sum of columns of parts, divided by `divisor`.

        Args:
            name: name of the new part.
            columns: parts and their columns.
            among: parts whose rows count, no row in two of them.
            divisor: number of columns in which a row has a value.
        """
        units = sum(self._sums[part].units[:, column] for part, column in columns) / divisor
        present = sum(self._sums[part].present for part in among)
        self._sums[name] = _Sum(np.asarray(units)[:, None], np.asarray(present), 0.0, 1.0, whole=False, single=True)

    def rate(
        self,
        name: str,
        part: str,
        column: int = 0,
        *,
        note: str = "",
        threshold: str = "",
        better: str = "higher",
        about: About = "method",
    ) -> Metric:
        """The metric `name`: percentage of the counted rows that are 1 in a column of a part."""
        hits, counts = self._sums[part].units[:, column], self._sums[part].present
        k, n = round(float(hits.sum())), int(counts.sum())
        ends = (
            intervals.of_rate(k, n)
            if self.alone
            else intervals.of_pooled_rate(hits.astype(np.float64), counts.astype(np.float64))
        )
        value = 100 * k / n if n else float("nan")
        metric = Metric(name, value, *statistics.scaled(ends), n, "%", threshold, better, note, about=about, hit=True)
        return statistics.noted(metric, self._sample(hits, counts, hits=True))

    def mean(
        self,
        name: str,
        part: str,
        *,
        note: str = "",
        threshold: str = "",
        better: str = "higher",
        scale: float = 100,
        change: bool = False,
    ) -> Metric:
        """The metric `name`: the mean of a part with one value per row, in percent, or as a plain number.

        With `change` the values are changes between hit and miss: -1, 0 or 1.
        """
        found = self._sums[part]
        values, counts = found.units[:, 0], found.present
        n = int(counts.sum())
        value = float(values.sum()) / n if n else float("nan")
        unit = "%" if scale == 100 else ""
        ends = statistics.scaled(self._of_mean(found, n, change), scale)
        metric = Metric(name, scale * value, *ends, n, unit, threshold, better, note)
        return statistics.noted(metric, self._sample(values, counts, hits=False))

    def pooled(
        self,
        name: str,
        parts: Any,
        statistic: Callable[[Floats], Floats],
        among: str,
        *,
        note: str = "",
        threshold: str = "",
    ) -> Metric:
        """The metric `name`: 100 times a statistic of the sums of `parts` (U, K), over rows that count in `among`."""
        present = self._sums[among].present
        has = present > 0
        metric = statistics.pooled(name, parts[has], statistic, n=int(present.sum()), threshold=threshold, note=note)
        return statistics.of_rows([metric], has)[0] if self.size == self.rows else metric

    def among(self, part: str, metric: Metric) -> Metric:
        """The metric with a sample of only the rows that count in a part."""
        sample, has = metric.sample, self._sums[part].present > 0
        if sample is None or sample.statistic is not None or has.all():
            return metric
        parts: Any = sample.parts
        return replace(metric, sample=Sample(parts[has], rows=has))

    def class_ious(self, name: str, part: str, among: str, *, note: str = "", threshold: str = "") -> Metric:
        """The metric `name`: mean IoU over the classes that occur, from the counts `truth`, `right` and `predicted`."""
        found = self.classes(part)
        truth, right, predicted = (found[key] for key in ("truth", "right", "predicted"))
        union: Any = predicted + truth - right
        parts = sparse.csr_array(sparse.hstack([right, union], dtype=np.float64))
        statistic = MeanRatio(cast(tuple[int, int], right.shape)[1])
        return self.pooled(name, parts, statistic, among, note=note, threshold=threshold)

    def _of_mean(self, total: _Sum, n: int, change: bool) -> Interval:
        if self.alone and change:
            return intervals.of_paired_hits(total.up, total.down, n)
        if self.alone and total.whole and total.up + total.down and max(total.up, total.down) < n:
            return (
                intervals.of_rate(total.up, n) if total.down == 0 else intervals.of_paired_hits(total.up, total.down, n)
            )
        within = (0.0, 1.0) if total.low >= 0 and total.high <= 1 else (-np.inf, np.inf)
        parts = np.stack([total.units[:, 0], total.present], axis=1).astype(np.float64)
        return intervals.of_statistic(parts[total.present > 0], MeanRatio(), within)

    def _sample(self, values: NDArray[Any], counts: NDArray[np.int64], hits: bool) -> Sample:
        """A value per row if rows are the units, else the contribution of each unit."""
        if self.size == self.rows and counts.max(initial=0) <= 1:
            return Sample(np.where(counts > 0, values.astype(np.float64), np.nan))
        return Sample(np.stack([values, counts], axis=1).astype(np.float64)[counts > 0], MeanRatio(), hits=hits)


def summed(evaluator: Streaming | Choosing, rows: pd.DataFrame) -> list[Metric]:
    """The metrics of rows, each treated as from a different image, with a sample of every row."""
    reading = settled(evaluator, [rows])
    sums = Sums(len(rows), alone=True)
    sums.add(reading.parts(rows), np.arange(len(rows)))
    return reading.metrics(sums)


def reduced(evaluator: Reading, blocks: Iterable[pd.DataFrame], images: int) -> list[Metric]:
    """The metrics of rows, with intervals over images.

    Args:
        evaluator: summarises the rows.
        blocks: all rows in the dataset's order, so that those of one image are consecutive.
        images: number of images with rows.
    """
    grouped = images > statistics.MOST_IMAGES
    sums = Sums(statistics.GROUPS if grouped else images, alone=True)
    seen, last = 0, None
    for rows in of_size(blocks, BLOCK):
        ids = rows["image"].to_numpy()
        begins = np.append(last is None or ids[0] != last, ids[1:] != ids[:-1])
        sums.alone &= bool(begins.all())
        place = seen - 1 + np.cumsum(begins)
        seen, last = seen + int(begins.sum()), ids[-1]
        if seen > images:
            raise ValueError(f"rows of more than {images} images, or those of {last} are not consecutive")
        begins[0] = True
        unit = statistics.groups_of(ids[begins])[np.cumsum(begins) - 1] if grouped else place
        sums.add(evaluator.parts(rows), unit)
    return evaluator.metrics(sums) if sums.rows else []


class Blocks(Protocol):
    """Rows that can be read in blocks."""

    @property
    def images(self) -> int:
        """Number of images with rows."""
        ...

    def blocks(self) -> Iterator[pd.DataFrame]:
        """Yield all rows in the dataset's order."""
        ...

    def frame(self) -> pd.DataFrame:
        """Return all rows at once."""
        ...


def summarised(evaluator: Summing, rows: pd.DataFrame | Blocks) -> list[Metric]:
    """The metrics of rows, with intervals over images; empty without rows.

    A user's evaluator with only a `summary` gets all rows at once.
    """
    if not is_streaming(evaluator):
        frame = rows if isinstance(rows, pd.DataFrame) else rows.frame()
        return statistics.by_image(evaluator.summary(frame), frame) if len(frame) else []
    if not isinstance(rows, pd.DataFrame):
        return reduced(settled(evaluator, rows.blocks()), rows.blocks(), rows.images) if rows.images else []
    place, ids = pd.factorize(rows["image"])
    if (np.diff(place) < 0).any():  # rows of one image are not consecutive
        rows = rows.iloc[np.argsort(place, kind="stable")]
    return reduced(settled(evaluator, [rows]), [rows], len(ids)) if len(rows) else []


def flattened(column: "pd.Series[Any]") -> tuple[NDArray[Any], NDArray[np.int64]]:
    """A column of N lists as one array (M,), and their lengths (N,)."""
    lists = column.tolist()
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    return (np.concatenate(lists) if lengths.any() else np.zeros(0)), lengths


def of_size(blocks: Iterable[pd.DataFrame], size: int) -> Iterator[pd.DataFrame]:
    """Split the rows into frames of `size` rows; the last one may be shorter."""
    waiting: list[pd.DataFrame] = []
    have = 0
    for block in blocks:
        waiting, have = [*waiting, block], have + len(block)
        while have >= size:
            rows = pd.concat(waiting, ignore_index=True) if len(waiting) > 1 else waiting[0]
            yield rows.iloc[:size].reset_index(drop=True)
            waiting, have = [rows.iloc[size:]], have - size
    if have:
        yield pd.concat(waiting, ignore_index=True)
