"""From the rows of finished batches to those of a complete result: by any process of a run, or by `eigencam merge`.

What the result says beside the values of its rows is kept with the parts, so that rows of machines that share no disk
are put together and summed up without data, weights or torch: each row has its image's position in the dataset, the run
that made it and whether the network's classifier was fitted on its image, in columns that the result drops; the number
of images stands in `parts/plan.json`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.datasets.digest import is_changed
from eigencam.store.schema import Bad

POSITION, RUN, FITTED = "_position", "_run", "_fitted"
"""Columns of parts: the image's position in the dataset, the run, whether the classifier was fitted on the image."""

DIGEST = "digest"
"""Column of rows: what the image is (`eigencam.datasets.digest`)."""

KEY = ["image", "label"]
"""Columns that a row is known by."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run knows of a result before its first row.

    Attributes:
        order: position of each image of the dataset by its id.
        fitted_on: images that the network's classifier was fitted on.
        baseline: whether the method is one, as it says of itself.
        caveat: what has to stand below every table with the method, as it says of itself.
    """

    order: Mapping[str, int]
    fitted_on: frozenset[str] = frozenset()
    baseline: bool = False
    caveat: str = ""

    @classmethod
    def of(cls, ids: Sequence[str], fitted_on: frozenset[str] = frozenset(), *, baseline: bool = False) -> Self:
        """Return the plan for a dataset's images, in their order."""
        return cls({image: k for k, image in enumerate(ids)}, fitted_on, baseline)

    def placed(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return rows with the columns that say what is known of their images."""
        images = rows["image"]
        return rows.assign(**{POSITION: images.map(self.order), FITTED: images.isin(self.fitted_on)})

    def stored(self) -> dict[str, Any]:
        """Return what `parts/plan.json` holds."""
        return {"images": len(self.order), "baseline": self.baseline, "caveat": self.caveat}


@dataclass(frozen=True, slots=True)
class Gathered:
    """All that a result is made of.

    Attributes:
        rows: of every image, in the dataset's order.
        facts: the fields of `Summary` that are no metrics.
        made_by: numbers of the first and last of the rows that each run made, in stretches.
    """

    rows: pd.DataFrame
    facts: dict[str, Any]
    made_by: dict[str, list[list[int]]]


def gather(
    rows: pd.DataFrame, bad: Mapping[Bad, Mapping[str, str]], plan: Mapping[str, Any], target: str
) -> Gathered | None:
    """Return what a result is made of; None where images are missing.

    Args:
        rows: of all parts, with the columns that those have.
        bad: images that were left out, with the reason.
        plan: as `Plan.stored` gives it.
        target: the class that maps are for.

    Raises:
        ValueError: every image was left out, or rows do not say where they belong.
    """
    there = set(rows["image"])
    left_out = {kind: {i: reasons[i] for i in sorted(reasons) if i not in there} for kind, reasons in bad.items()}
    if len(there) + len(frozenset[str]().union(*left_out.values())) < plan["images"]:
        return None
    if not there:
        reason = next((reason for reasons in left_out.values() for reason in reasons.values()), "it has none")
        raise ValueError(f"no image of the dataset can be scored: all {plan['images']} are left out; {reason}")
    rows = _in_order(rows)
    fitted = rows.loc[rows.get(FITTED, pd.Series(False, rows.index)).eq(True), "image"].nunique()
    said = {"baseline": plan["baseline"], "caveat": plan.get("caveat", "")}
    facts = {"n": len(there), **left_out, "target": target, "fitted_on": fitted, **said}
    runs = rows[RUN] if RUN in rows else pd.Series(None, rows.index, object)
    made_by = {str(run): _stretches((runs == run).to_numpy()) for run in runs.dropna().unique()}
    return Gathered(rows.drop(columns=[POSITION, RUN, FITTED], errors="ignore"), facts, made_by)


def _in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows, once each, in the dataset's order."""
    if POSITION not in rows or rows[POSITION].isna().any():
        raise ValueError("rows of an older version of this program, without the images' order; a run completes them")
    rows = rows.sort_values([POSITION, "label"], kind="stable", ignore_index=True)
    return rows.drop_duplicates(KEY, ignore_index=True)


def _stretches(chosen: NDArray[np.bool_]) -> list[list[int]]:
    """First and last number of each stretch of what is chosen.

    >>> _stretches(np.array([True, True, False, True]))
    [[0, 1], [3, 3]]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    return [[int(first), int(end) - 1] for first, end in edges.reshape(-1, 2)]


def first_difference(mine: pd.DataFrame, other: pd.DataFrame) -> str:
    """Return how two frames contradict each other: an image of both, with other rows; "" where none does.

    Columns that parts have besides are not compared; two numbers that are not defined are equal; digests are compared
    where they are of one kind.
    """
    both = set(mine["image"]) & set(other["image"])
    if not both:
        return ""
    a, b = (_keyed(frame, both) for frame in (mine, other))
    if not a.index.equals(b.index):
        image = next(iter(a.index.symmetric_difference(b.index)))[0]
        return f"image {image}: rows of other classes"
    if DIGEST in a and DIGEST in b:
        for (image, _), before, now in zip(a.index, a[DIGEST], b[DIGEST], strict=True):
            if is_changed(before, now):
                return f"image {image} is another one: {before} and {now}"
    a, b = (frame.drop(columns=DIGEST, errors="ignore") for frame in (a, b))
    if set(a.columns) != set(b.columns):
        return f"columns {', '.join(sorted(set(a.columns) ^ set(b.columns)))} in one of them only"
    for column in a.columns:
        differs = ~_same(a[column], b[column])
        if differs.any():
            k = int(differs.argmax())
            values = " and ".join(_shown(frame[column].iloc[k]) for frame in (a, b))
            return f"image {a.index[k][0]}: {column} {values}"
    return ""


def _keyed(rows: pd.DataFrame, images: Iterable[str]) -> pd.DataFrame:
    """The rows of some images by image and label, without the columns that only parts have."""
    kept = rows.drop(columns=[POSITION, RUN, FITTED], errors="ignore")
    kept = kept[kept["image"].isin(list(images))].drop_duplicates(KEY)
    return kept.set_index(KEY).sort_index()


def _same(a: "pd.Series[Any]", b: "pd.Series[Any]") -> NDArray[np.bool_]:
    """Whether two columns hold the same, value by value."""
    if a.dtype == b.dtype and a.dtype != object:
        return ((a == b) | (a.isna() & b.isna())).to_numpy(bool)
    return np.array([_shown(x) == _shown(y) for x, y in zip(a, b, strict=True)], bool)


def _shown(value: Any) -> str:
    """A value as text, all its digits."""
    if value is None or (isinstance(value, float) and value != value):
        return "none"
    if isinstance(value, np.ndarray | list):
        return f"[{', '.join(map(_shown, value))}]"
    return repr(float(value)) if isinstance(value, int | float | np.number) else str(value)
