"""What an evaluator is: a pure function of (map, truth) to a row, and one of rows to a summary.

Rows are mergeable: shards, resumed runs, confidence intervals and paired tests all come from them. There is one a
picture, or, with `target=each`, one for each class among the image's objects: the evaluator is then given the map for
that class, and the truth with that class as its `label`; rows are unique by (`image`, `label`). Classes whose objects
are all difficult are among them. An image without objects has one row, of its own label. An evaluator that needs the
maps of all these classes at once has `joint_row` in place of `row`. An evaluator never imports a method or a network.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeGuard, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.datasets.base import Truth
from eigencam.evaluation.maps import ScoreMap

if TYPE_CHECKING:
    from scipy import sparse
    from torch import Tensor

T = TypeVar("T")
About = Literal["method", "network", "both"]
SAID = ("about", "hit", "undefined", "win", "kept", "caution")
"""What a metric says of itself besides its numbers; absent in `metrics.json` where it is the default."""

Row = dict[str, Any]
"""Column name to value: bool, int, float, str, or a 1-d array (stored as a Parquet list)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a metric is made of, row by row: from it two methods are compared in pairs.

    Which images are left out may depend on the truth only, so that the samples of two methods are of the same ones.

    Attributes:
        parts: (N,) a value of each row whose mean is the metric, NaN where it has none; or (N, K) what each adds to
            the K sums that the metric is a statistic of, sparse where K is large.
        statistic: (R, K) sums -> (R,) the metric; None for a mean.
        rows: (M,) which of the rows summed up the N parts are of, in their order; None: of all of them.
        hits: whether the parts (N, 2) are objects that are hit, and objects.
    """

    parts: "NDArray[np.float64] | sparse.csr_array"
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]] | None = None
    rows: NDArray[np.bool_] | None = None
    hits: bool = False


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
        sample: a value of each image, or what each adds to sums, both as fractions where `unit` is `%`; None where
            methods cannot be compared in it. Not stored: rows are.
        about: what the number is about: the `method`, the `network`, whose answers are the same for all its methods, or
            `both`. Methods are not compared in what is about the network alone.
        hit: whether the value of each row is hit or miss.
        undefined: whether the rows do not define it; `note` says why, `value` is NaN.
        win: of a drop of the class's probability: name of the share of images in which a method's drop is the
            smallest, which `eigencam table --win` adds; "" for any other metric.
        kept: with `win`, the column of rows that has what a changed image keeps of the column `confidence`.
        caution: why there is no interval, and whether few images of a class bias the value; "" where neither is so.
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
    sample: Sample | None = field(default=None, repr=False, compare=False)
    about: About = "method"
    hit: bool = False
    undefined: bool = False
    win: str = ""
    kept: str = ""
    caution: str = ""

    def stored(self) -> dict[str, Any]:
        """The attributes that are kept in `metrics.json`; of those in `SAID` the ones that are not the default."""
        kept = {f.name: (getattr(self, f.name), f.default) for f in fields(self) if f.name != "sample"}
        return {name: value for name, (value, default) in kept.items() if name not in SAID or value != default}


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a plot: what the rows of one result say along a threshold, an overlap, a number of boxes.

    Attributes:
        name: of the plot, stable: curves of the same name, of several methods, share one.
        x: what `xs` are, e.g. `overlap (IoU)`.
        y: what `ys` are, with the unit: `recall %`.
        xs: (K,) in the order of the line.
        ys: (K,).
        mark: the point at which a metric of the summary is read off, if there is one.
        log: whether x is shown by its logarithm.
    """

    name: str
    x: str
    y: str
    xs: NDArray[np.float64]
    ys: NDArray[np.float64]
    mark: tuple[float, float] | None = None
    log: bool = False


class Summing(Protocol):
    """What all kinds of evaluators have in common: a summary of rows.

    An evaluator is one of three kinds: `Evaluator`, `JointEvaluator` or `NetworkEvaluator`. What it may say of itself
    besides is optional, and read by the functions at the end of this module only:

        headline        names of the metrics that a table shows unless others are asked for; `a|b` is b where a is not
                        defined
        row_of_boxes    see `BoxEvaluator`
        sources         `sources(dataset)` gives the SHA-256 of the files that its parameters name, by parameter, for
                        the result's identity, and raises ValueError where one is not of the dataset, before an image is
                        read
        curves          `curves(rows) -> list[Curve]`, of the rows that `summary` takes, is what plots are made of: a
                        pure function, too; no curve where the rows do not define it
        weights         a file of weights for the network; see `Probe.reweighted`
    """

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


class PackagedEvaluator(Summing, Protocol):
    """What every evaluator of this package says of itself; pyright checks them (`tests/test_contracts.py`).

    Attributes:
        version: raised when a change moves a number in a row, or a default (`eigencam.versions`).
        summary_version: raised when a change moves what `summary` makes of the same rows.
        headline: see `Summing`.
    """

    @property
    def version(self) -> int: ...  # noqa: D102

    @property
    def summary_version(self) -> int: ...  # noqa: D102

    @property
    def headline(self) -> tuple[str, ...]: ...  # noqa: D102


class Evaluator(Summing, Protocol):
    """The contract of `evaluation/localization.py` and most others: one map, one truth, one row."""

    def row(self, score_map: ScoreMap, truth: Truth) -> Row:
        """The row of one image. Columns are the same for every image."""
        ...


class BoxEvaluator(Summing, Protocol):
    """An evaluator that also takes boxes, of methods that give these in place of maps."""

    def row_of_boxes(self, boxes: NDArray[np.float64], truth: Truth) -> Row:
        """The row of boxes (K, 4), inclusive pixels of the original image, best first."""
        ...


class JointEvaluator(Summing, Protocol):
    """An evaluator that needs the maps of all of an image's classes at once: `joint_row` in place of `row`.

    In what `summary` is given, `label` is the image's own, `target` -1.
    """

    def joint_row(self, score_maps: Sequence[ScoreMap], truths: Sequence[Truth]) -> Row:
        """The row of one image, from a map and a truth (of that `label`) for each class; of one without `each`."""
        ...


class Probe(Protocol):
    """What an evaluator may ask of the network: that of one batch and one method.

    With `target=each` an image occurs as often as it has classes, and N counts these.

    Attributes:
        images: (N, 3, H, W), normalised.
        black: (3, 1, 1), a black pixel, normalised.
        white: (3, 1, 1), a white one.
        logits: (N, K) float32 of the images.
        targets: (N,) int64, the classes the maps are for.
        score_maps: N, of the images' size.
        truths: N, with the class that a row is for as `label`.
    """

    @property
    def images(self) -> "Tensor": ...  # noqa: D102

    @property
    def black(self) -> "Tensor": ...  # noqa: D102

    @property
    def white(self) -> "Tensor": ...  # noqa: D102

    @property
    def logits(self) -> "Tensor": ...  # noqa: D102

    @property
    def targets(self) -> "Tensor": ...  # noqa: D102

    @property
    def score_maps(self) -> Sequence[ScoreMap]: ...  # noqa: D102

    @property
    def truths(self) -> Sequence[Truth]: ...  # noqa: D102

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()`, computed once for all methods and evaluators of these images, as their attacked versions are.

        Args:
            key: names what is made, with all its parameters; never a method.
            make: makes it; it must not depend on maps or targets.
        """
        ...

    def predict(self, count: int, inputs: "Callable[[slice], Tensor]") -> "Tensor":
        """(count, K) float32 logits of further inputs, made and run a chunk at a time."""
        ...

    def explain(self, images: "Tensor") -> "Tensor":
        """(N, h, w) maps of the same method for other images, the same classes."""
        ...

    def differentiable(self, images: "Tensor") -> "Tensor":
        """(B, K) float32 logits of further inputs, differentiable by them."""
        ...

    def again(self, key: Hashable, images: "Tensor") -> "Again":
        """The same method on changed versions of all N images, in one pass that serves all methods.

        The classes asked for follow the run's rule: the same ones, or with `target=predicted` those predicted now.

        Args:
            key: names the images, as in `shared`.
            images: (N, 3, H, W), normalised.
        """
        ...

    def randomised(self, order: str, stages: int, seed: int) -> "Sequence[tuple[str, NDArray[np.float32]]]":
        """The same method on the same images and classes, in networks with layers initialised anew.

        Args:
            order: `cascading`: of the layers from the output on, more and more; `independent`: one stage's at a time.
            stages: groups of layers, the output layer alone the first; 0: every layer a stage.
            seed: of the weights.

        Returns:
            For each stage the layer nearest to the input that it reaches, and the maps (N, h, w).
        """
        ...

    def reweighted(self, weights: str) -> NDArray[np.float32]:
        """(N, h, w) maps of the same method for the same images and classes, with the weights of another file."""
        ...


@dataclass(frozen=True, slots=True)
class Again:
    """What a method shows of other images.

    Attributes:
        maps: (N, h, w) float32, raw.
        logits: (N, K) float32.
    """

    maps: NDArray[np.float32]
    logits: "Tensor"


class NetworkEvaluator(Summing, Protocol):
    """An evaluator that puts changed images through the network: `rows` of a batch in place of `row`."""

    def rows(self, maps: NDArray[np.float32], probe: Probe) -> list[Row]:
        """The rows of N images from their raw maps (N, h, w)."""
        ...


def asks_network(evaluator: object) -> TypeGuard[NetworkEvaluator]:
    """Whether an evaluator puts changed images through the network."""
    return hasattr(evaluator, "rows")


def is_joint(evaluator: object) -> TypeGuard[JointEvaluator]:
    """Whether an evaluator needs the maps of all of an image's classes at once."""
    return hasattr(evaluator, "joint_row")


def takes_boxes(evaluator: object) -> TypeGuard[BoxEvaluator]:
    """Whether an evaluator takes boxes in place of a map."""
    return hasattr(evaluator, "row_of_boxes")


def headline_of(evaluator: object) -> tuple[str, ...]:
    """Return the metrics that a table shows unless others are asked for; () where the evaluator names none."""
    return tuple(getattr(evaluator, "headline", ()))


def curves_of(evaluator: Any, rows: pd.DataFrame) -> list[Curve]:
    """Return an evaluator's curves of rows; none where it draws none."""
    return evaluator.curves(rows) if hasattr(evaluator, "curves") else []


def sources_of(evaluator: Any, dataset: object) -> dict[str, str]:
    """Return the checksums of the files that an evaluator's parameters name, by parameter."""
    return evaluator.sources(dataset) if hasattr(evaluator, "sources") else {}


def weights_of(evaluator: object) -> str | None:
    """Return the file of weights that an evaluator asks for in place of the network's; None where it asks for none."""
    return getattr(evaluator, "weights", None)
