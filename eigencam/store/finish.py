"""From the rows of finished batches to a complete result: by any process of a run, or by `eigencam merge`.

Everything that the summary needs besides the rows' values is stored with the parts. Rows from machines that share no
disk can therefore be merged and summarised without data, weights or torch. Each row has its image's position in the
dataset, the run that computed it and whether the network's classifier was fitted on its image, in columns that the
complete result drops; the number of images is in `parts/plan.json`.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.datasets.digest import is_changed
from eigencam.store.image_positions import Positions
from eigencam.store.ordered_rows import FITTED, POSITION, RUN, Windows, write_rows
from eigencam.store.row_file import RowFile
from eigencam.store.schema import Bad

DIGEST = "digest"
"""Column with the image's digest (`eigencam.datasets.digest`)."""

KEY = ["image", "label"]
"""Columns that identify a row."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run knows about a result before its first row.

    Attributes:
        positions: positions of the dataset's images.
        fitted_on: images that the network's classifier was fitted on.
        baseline: whether the method is a baseline, as it declares.
        caveat: the note below every table with the method, as it declares.
    """

    positions: Positions
    fitted_on: frozenset[str] = frozenset()
    baseline: bool = False
    caveat: str = ""

    @classmethod
    def of(cls, ids: Sequence[str], fitted_on: frozenset[str] = frozenset(), *, baseline: bool = False) -> Self:
        """Return the plan for a dataset's images, in their order."""
        return cls(Positions(ids), fitted_on, baseline)

    def placed(self, rows: pd.DataFrame) -> pd.DataFrame:
        """Return rows with further columns: position, run, and whether the classifier was fitted on the image."""
        images = rows["image"]
        place = self.positions.of(images.tolist())
        if (place < 0).any():
            raise ValueError(f"image {images[place < 0].iloc[0]}: not in the dataset")
        return rows.assign(**{POSITION: place, FITTED: images.isin(self.fitted_on)})

    def stored(self) -> dict[str, Any]:
        """Return what `parts/plan.json` holds."""
        return {"images": len(self.positions), "baseline": self.baseline, "caveat": self.caveat}


@dataclass(frozen=True, slots=True)
class Gathered:
    """Everything that a complete result is made from.

    Attributes:
        rows: the rows of every image, in the dataset's order, in a file that is not published yet.
        facts: the fields of `Summary` other than metrics.
        made_by: for each run, the ranges of rows that it computed, as (first, last).
    """

    rows: RowFile
    facts: dict[str, Any]
    made_by: dict[str, list[list[int]]]


def gather(
    files: Sequence[Path],
    bad: Mapping[Bad, Mapping[str, str]],
    plan: Mapping[str, Any],
    target: str,
    staged: Path,
    positions: Positions | None = None,
) -> Gathered | None:
    """Return everything that a complete result is made from; None if images are missing.

    Args:
        files: all parts.
        bad: images that were left out, with the reason.
        plan: the plan, as `Plan.stored` gives it.
        target: the class that maps are for.
        staged: the file that the rows are written to.
        positions: positions of the dataset's images, if the data are known.

    Raises:
        ValueError: every image was left out, or rows do not say to which image they belong.
    """
    asked = frozenset[str]().union(*bad.values())
    found = Windows.of(files, plan["images"], positions, asked)
    left_out = {kind: {i: reasons[i] for i in sorted(reasons) if i not in found.named} for kind, reasons in bad.items()}
    n = int(found.seen.sum())
    if n + len(asked - found.named) < plan["images"]:
        return None
    if not n:
        reason = next((reason for reasons in left_out.values() for reason in reasons.values()), "it has none")
        raise ValueError(f"no image of the dataset can be scored: all {plan['images']} are left out; {reason}")
    made_by = write_rows(found.tables(), staged)
    said = {"baseline": plan["baseline"], "caveat": plan.get("caveat", "")}
    facts = {"n": n, **left_out, "target": target, "fitted_on": int(found.fitted.sum()), **said}
    return Gathered(RowFile(staged, n), facts, made_by)


def first_difference(mine: pd.DataFrame, other: pd.DataFrame) -> str:
    """Return the first contradiction of two frames: an image of both with different rows; "" if there is none."""
    return next(iter(differences(mine, other).values()), "")


def differences(mine: pd.DataFrame, other: pd.DataFrame) -> dict[str, str]:
    """Return the images that have different rows in two frames, each with its first difference in words.

    Columns that only parts have are not compared. Two undefined numbers are equal. Digests are compared
    if they are of the same kind.
    """
    both = set(mine["image"]) & set(other["image"])
    if not both:
        return {}
    a, b = (_keyed(frame, both) for frame in (mine, other))
    found: dict[str, str] = {}
    for image, _ in a.index.symmetric_difference(b.index):
        found.setdefault(image, f"image {image}: rows of other classes")
    if found:
        a, b = (frame[~frame.index.get_level_values("image").isin(list(found))] for frame in (a, b))
    if DIGEST in a and DIGEST in b:
        for (image, _), before, now in zip(a.index, a[DIGEST], b[DIGEST], strict=True):
            if is_changed(before, now):
                found.setdefault(image, f"image {image} is another one: {before} and {now}")
    a, b = (frame.drop(columns=DIGEST, errors="ignore") for frame in (a, b))
    if only := sorted(set(a.columns) ^ set(b.columns)):
        return found | {i: f"columns {', '.join(only)} in one of them only" for i in sorted(both - found.keys())}
    for column in a.columns:
        for k in np.flatnonzero(~_same(a[column], b[column])).tolist():
            image, values = a.index[k][0], " and ".join(_shown(frame[column].iloc[k]) for frame in (a, b))
            found.setdefault(image, f"image {image}: {column} {values}")
    return found


def _keyed(rows: pd.DataFrame, images: Iterable[str]) -> pd.DataFrame:
    """The rows of some images by image and label, without the columns that only parts have."""
    kept = rows.drop(columns=[POSITION, RUN, FITTED], errors="ignore")
    kept = kept[kept["image"].isin(list(images))].drop_duplicates(KEY)
    return kept.set_index(KEY).sort_index()


def _same(a: "pd.Series[Any]", b: "pd.Series[Any]") -> NDArray[np.bool_]:
    """Whether two columns hold equal values, element by element."""
    if a.dtype == b.dtype and a.dtype != object:
        return ((a == b) | (a.isna() & b.isna())).to_numpy(bool)
    return np.array([_shown(x) == _shown(y) for x, y in zip(a, b, strict=True)], bool)


def _shown(value: Any) -> str:
    """A value as text with all its digits."""
    if value is None or (isinstance(value, float) and value != value):
        return "none"
    if isinstance(value, np.ndarray | list):
        return f"[{', '.join(map(_shown, value))}]"
    return repr(float(value)) if isinstance(value, int | float | np.number) else str(value)
