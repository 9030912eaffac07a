"""What an evaluator is: a pure function of (map, truth) to a row, and one of rows to a summary.

Rows are one per image and mergeable: shards, resumed runs, confidence intervals and paired tests all come from them.
An evaluator never imports a method or a network.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from eigencam.datasets.base import Truth
from eigencam.evaluation.maps import ScoreMap

Row = dict[str, Any]
"""Column name to value: bool, int, float, str, or a 1-d array (stored as a Parquet list)."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One number of a summary.

    Attributes:
        name: e.g. `gt_known_error`; stable, used as a column name.
        value: in `unit`; NaN where it is not defined.
        low: lower end of the 95 % interval, same unit.
        high: upper end.
        n: the denominator: images, objects or pixels' images that the value is over.
        unit: `%`, or "" for a plain number.
        threshold: the threshold the value was obtained at, with its rule, e.g. `0.15 max`; "" where there is none.
        better: `lower` or `higher`; "" for a number that is neither.
        note: what a reader must know beside the number: a class count, degenerate maps, why it is not defined.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    unit: str = "%"
    threshold: str = ""
    better: str = "higher"
    note: str = ""


class Evaluator(Protocol):
    """The contract of `evaluation/localization.py` and its siblings.

    An optional class attribute `headline` names the metrics that a table shows unless others are asked for; `a|b` is b
    where a is not defined.
    """

    def row(self, score_map: ScoreMap, truth: Truth) -> Row:
        """The row of one picture. Columns are the same for every picture."""
        ...

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """Metrics of many rows.

        Besides the evaluator's own columns the frame has `image`, `label` (int, index in the dataset's classes, -1
        unknown), `top5` (list of int, the network's classes by falling logit; empty where the network's classes
        are not the dataset's) and `target` (int, the class each map is for, -1 unknown).
        """
        ...

    def protocol(self) -> Mapping[str, object]:
        """The protocol in words and numbers, for footnotes and JSON."""
        ...
