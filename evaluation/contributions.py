"""The contributions of rows to the sums that metrics are computed from; see `eigencam.evaluation.sums`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Counted:
    """The contributions of N rows, of which some may not count.

    Attributes:
        numbers: (N, K).
        present: (N,) whether the row counts; the numbers of all others are 0.
    """

    numbers: NDArray[Any]
    present: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ByClass:
    """The contributions of rows to sums per class.

    Attributes:
        row: (M,) the contributing row.
        label: (M,) the class, from 0.
        numbers: by name (M,) the contributions.
    """

    row: NDArray[np.int64]
    label: NDArray[np.int64]
    numbers: Mapping[str, NDArray[Any]]


Part = NDArray[Any] | Counted | ByClass | str
"""(N,) floats are one value per row, NaN without a value; (N,) or (N, K) other numbers are counts; a text is the same
for all rows."""

Totals = Mapping[str, NDArray[Any]]
"""Sums (C, ...) over all rows by name; C may be larger for other rows."""
