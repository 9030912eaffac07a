"""What an evaluator is: a pure function of (map, truth) to a row, and one of rows to a summary.

Rows are one per image and mergeable: shards, resumed runs, confidence intervals and paired tests all come from them.
An evaluator never imports a method or a network.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.datasets.base import Truth
from eigencam.evaluation.maps import ScoreMap

if TYPE_CHECKING:
    from torch import Tensor

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

    An evaluator that also takes boxes, of methods that give these in place of maps, has `row_of_boxes(boxes, truth)`,
    boxes (K, 4) inclusive pixels of the original picture, best first.

    An optional attribute `headline` names the metrics that a table shows unless others are asked for; `a|b` is b
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


class Probe(Protocol):
    """What an evaluator may ask of the network: that of one batch and one method.

    Attributes:
        images: (N, 3, H, W), normalised.
        black: (3, 1, 1), a black pixel, normalised.
        logits: (N, K) float32 of the images.
        targets: (N,) int64, the classes the maps are for.
    """

    @property
    def images(self) -> "Tensor": ...  # noqa: D102

    @property
    def black(self) -> "Tensor": ...  # noqa: D102

    @property
    def logits(self) -> "Tensor": ...  # noqa: D102

    @property
    def targets(self) -> "Tensor": ...  # noqa: D102

    def predict(self, count: int, inputs: "Callable[[slice], Tensor]") -> "Tensor":
        """(count, K) float32 logits of further inputs, made and run a chunk at a time."""
        ...

    def explain(self, images: "Tensor") -> "Tensor":
        """(N, h, w) maps of the same method for other pictures, the same classes."""
        ...


class NetworkEvaluator(Protocol):
    """An evaluator that puts changed pictures through the network: `rows` of a batch in place of `row`."""

    def rows(self, maps: NDArray[np.float32], probe: Probe) -> list[Row]:
        """The rows of N pictures from their raw maps (N, h, w)."""
        ...

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """As `Evaluator.summary`."""
        ...

    def protocol(self) -> Mapping[str, object]:
        """As `Evaluator.protocol`."""
        ...
