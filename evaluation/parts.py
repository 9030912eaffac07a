"""What rows add to the sums that metrics are made of; see `eigencam.evaluation.sums`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Counted:
    """What each of N rows adds, of those that count at all.

    Attributes:
        numbers: (N, K).
        present: (N,) whether the row counts; the numbers of all others are 0.
    """

    numbers: NDArray[Any]
    present: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class ByClass:
    """What rows add to sums of each class.

    Attributes:
        row: (M,) which row adds it.
        label: (M,) to which class, from 0 on.
        numbers: by name (M,) what it adds.
    """

    row: NDArray[np.int64]
    label: NDArray[np.int64]
    numbers: Mapping[str, NDArray[Any]]


Part = NDArray[Any] | Counted | ByClass | str
"""(N,) floats are one value a row, NaN where it has none; (N,) or (N, K) other numbers are counts; a text is the same
for all rows."""

Totals = Mapping[str, NDArray[Any]]
"""By name (C, ...) sums over all rows; C may be larger for other rows."""
