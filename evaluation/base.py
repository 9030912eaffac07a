"""The contract of evaluators: a pure function of (map, truth) to a row, and one of rows to a summary.

Rows are mergeable: shards, resumed runs, confidence intervals and paired tests all come from them. There is one row per
image or, with `target=each`, one for each class among the image's objects. The evaluator then gets the map for that
class, and the truth with that class as its `label`; rows are unique by (`image`, `label`). Classes whose objects
are all difficult are included. An image without objects has one row, for its own label. An evaluator that needs the
maps of all these classes at once has `joint_row` in place of `row`; one that runs the network has `rows`, which also
gets a `Probe`. An evaluator never imports a method or a network.
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
"""What a metric declares besides its numbers; defaults are omitted in `metrics.json`."""

Row = dict[str, Any]
"""Column name to value: bool, int, float, str, or a 1-d array (stored as a Parquet list)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The row-by-row values behind a metric, from which two methods are compared in pairs.

    Which images are left out may depend only on the truth, so that the samples of two methods have the same images.

    Attributes:
        parts: (N,) one value per row whose mean is the metric, NaN without a value; or (N, K) contributions to the K
            sums that the metric is a statistic of, sparse if K is large.
        statistic: (R, K) sums -> (R,) the metric; None for a mean.
        rows: (M,) which of the summarised rows the N parts belong to, in order; None: all of them.
        hits: whether the parts (N, 2) are numbers of hit objects, and of objects.
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
        value: in `unit`; NaN if it is not defined.
        low: lower end of the 95 % interval, same unit.
        high: upper end.
        n: the denominator: number of images or objects, or of the images whose pixels are counted.
        unit: `%`, or "" for a plain number.
        threshold: the threshold of the value, with its rule, e.g. `0.15 max`; "" without one.
        better: `lower` or `higher`; "" if neither is better.
        note: what a reader must know besides the number: a class count, degenerate maps, why it is not defined.
        sample: the values per image, or contributions to sums, as fractions if `unit` is `%`; None if methods cannot be
            compared in this metric. Not stored, since rows are.
        about: what the number is about: the `method`, the `network` (its predictions are the same for all methods), or
            `both`. Methods are not compared in metrics of the network alone.
        hit: whether the value of each row is a hit or a miss.
        undefined: whether the rows do not define it; `note` says why, `value` is NaN.
        win: name of the metric that `eigencam table --win` adds, the share of images in which a method's drop of the
            probability is the smallest; "" if this metric is not such a drop.
        kept: with `win`, name of the rows' column that holds the changed image's probability; the column `confidence`
            holds the original's.
        caution: why there is no interval, or that few images of a class bias the value; "" if neither applies.
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
        """Return the attributes stored in `metrics.json`; those in `SAID` only if they differ from the default."""
        kept = {f.name: (getattr(self, f.name), f.default) for f in fields(self) if f.name != "sample"}
        return {name: value for name, (value, default) in kept.items() if name not in SAID or value != default}


@dataclass(frozen=True, slots=True)
class Curve:
    """One line of a plot: values of one result's rows along a threshold, an overlap or a number of boxes.

    Attributes:
        name: name of the plot, stable; curves of several methods with the same name share a plot.
        x: meaning of `xs`, e.g. `overlap (IoU)`.
        y: meaning of `ys`, with the unit: `recall %`.
        xs: (K,) in the order of the line.
        ys: (K,).
        mark: the point at which a metric of the summary is read, if there is one.
        log: whether the x axis is logarithmic.
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

    An evaluator is of one of three kinds: `Evaluator`, `JointEvaluator` or `NetworkEvaluator`. Everything else that it
    may declare is optional: its versions (see `PackagedEvaluator`), the methods by which rows are summed in blocks (see
    `eigencam.evaluation.sums`), and the following, which the functions at the end of this module look up:

        headline        names of the metrics that a table shows by default; `a|b` means b if a is not
                        defined
        row_of_boxes    see `BoxEvaluator`
        sources         `sources(dataset)` returns the SHA-256 of the files that its parameters name, by parameter, for
                        the result's identity. It is called before an image is read, and raises ValueError if a file
                        does not fit the dataset
        curves          `curves(rows) -> list[Curve]`, for plots; a pure function of the rows that `summary` takes, and
                        empty if these define no curve
        weights         a weights file for the network; see `Probe.reweighted`
    """

    def summary(self, rows: pd.DataFrame) -> list[Metric]:
        """Return the metrics of many rows.

        Besides the evaluator's own columns the frame has `image`, `label` (int, index in the dataset's classes, -1
        unknown), `top5` (list of int, the network's classes by descending logit; empty if the network's classes
        are not the dataset's) and `target` (int, the class of each map, -1 unknown). A run also has `digest`,
        `answer_state` and `constant_by_design`; `eigencam score` has only `image` and `label`. A run also has `digest`,
        `answer_state` and `constant_by_design`; `eigencam score` has only `image` and `label`.
        """
        ...

    def protocol(self) -> Mapping[str, object]:
        """Return the protocol in words and numbers, for footnotes and JSON."""
        ...


class PackagedEvaluator(Summing, Protocol):
    """What every evaluator of this package declares; checked by pyright (`tests/test_contracts.py`).

    Attributes:
        version: raised when a change moves a number in a row, or a default (`eigencam.store.versions`).
        summary_version: raised when a change moves the result of `summary` for the same rows.
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
        """Return the row of one image. All images have the same columns."""
        ...


class BoxEvaluator(Summing, Protocol):
    """An evaluator that also takes boxes, from methods that return boxes instead of maps."""

    def row_of_boxes(self, boxes: NDArray[np.float64], truth: Truth) -> Row:
        """Return the row for boxes (K, 4), inclusive pixels of the original image, best first."""
        ...


class JointEvaluator(Summing, Protocol):
    """An evaluator that needs the maps for all of an image's classes at once: `joint_row` in place of `row`.

    In the rows that `summary` gets, `label` is the image's own and `target` is -1.
    """

    def joint_row(self, score_maps: Sequence[ScoreMap], truths: Sequence[Truth]) -> Row:
        """Return the row of one image from one map and one truth per class; the class is the truth's `label`.

        Without `target=each`, there is one map and one truth.
        """
        ...


class Probe(Protocol):
    """What an evaluator may request from the network, for one batch and one method.

    With `target=each` an image occurs once per class, and N counts these occurrences.

    Attributes:
        images: (N, 3, H, W), normalised.
        black: (3, 1, 1), a black pixel, normalised.
        white: (3, 1, 1), a white one.
        logits: (N, K) float32 of the images.
        targets: (N,) int64, the classes of the maps.
        score_maps: N, at the images' sizes.
        truths: N, with the class of the row as `label`.
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
        """Return `make()`, for example attacked images, computed once per batch for all methods and evaluators.

        Args:
            key: names the result with all its parameters; never a method.
            make: computes it; must not depend on maps or targets.
        """
        ...

    def predict(self, count: int, inputs: "Callable[[slice], Tensor]") -> "Tensor":
        """(count, K) float32 logits of further inputs, made and run `chunk` at a time."""
        ...

    def explain(self, images: "Tensor") -> "Tensor":
        """(N, h, w) maps of the same method for other images, for the same classes."""
        ...

    def explain_classes(self, classes: "Tensor") -> "Tensor":
        """(N, h, w) maps of the same method and images for other classes (N,) int64, from the same pass."""
        ...

    def differentiable(self, images: "Tensor") -> "Tensor":
        """(B, K) float32 logits of further inputs, differentiable with respect to them."""
        ...

    def again(self, key: Hashable, images: "Tensor") -> "Again":
        """Run the same method on changed versions of all N images, in one pass for all methods.

        The requested classes follow the run's rule: the same ones or, with `target=predicted`, the new predictions.

        Args:
            key: names the images, as in `shared`.
            images: (N, 3, H, W), normalised.
        """
        ...

    def randomised(self, order: str, stages: int, seed: int) -> "Sequence[tuple[str, NDArray[np.float32]]]":
        """Run the same method on the same images and classes, in networks with reinitialised layers.

        Args:
            order: `cascading`: more and more layers, from the output on; `independent`: one stage at a time.
            stages: number of groups of layers, of which the first is the output layer; 0: every layer is a stage.
            seed: seed of the new weights.

        Returns:
            For each stage, the randomised layer nearest to the input, and the maps (N, h, w).
        """
        ...

    def reweighted(self, weights: str) -> NDArray[np.float32]:
        """(N, h, w) maps of the same method for the same images and classes, with the weights of another file."""
        ...


@dataclass(frozen=True, slots=True)
class Again:
    """A method's maps of other images.

    Attributes:
        maps: (N, h, w) float32, raw.
        logits: (N, K) float32.
    """

    maps: NDArray[np.float32]
    logits: "Tensor"


class NetworkEvaluator(Summing, Protocol):
    """An evaluator that runs the network on changed images: `rows` for a batch in place of `row`."""

    def rows(self, maps: NDArray[np.float32], probe: Probe) -> list[Row]:
        """Return the rows of N images from their raw maps (N, h, w)."""
        ...


def asks_network(evaluator: object) -> TypeGuard[NetworkEvaluator]:
    """Whether an evaluator runs the network on changed images."""
    return hasattr(evaluator, "rows")


def is_joint(evaluator: object) -> TypeGuard[JointEvaluator]:
    """Whether an evaluator needs the maps for all of an image's classes at once."""
    return hasattr(evaluator, "joint_row")


def takes_boxes(evaluator: object) -> TypeGuard[BoxEvaluator]:
    """Whether an evaluator accepts boxes in place of a map."""
    return hasattr(evaluator, "row_of_boxes")


def headline_of(evaluator: object) -> tuple[str, ...]:
    """Return the metrics that a table shows by default; () if the evaluator names none."""
    return tuple(getattr(evaluator, "headline", ()))


def draws(evaluator: object) -> bool:
    """Whether an evaluator has curves."""
    return hasattr(evaluator, "curves") or hasattr(evaluator, "drawn")


def curves_of(evaluator: Any, rows: pd.DataFrame) -> list[Curve]:
    """Return an evaluator's curves for rows; empty if it draws none."""
    return evaluator.curves(rows) if hasattr(evaluator, "curves") else []


def sources_of(evaluator: Any, dataset: object) -> dict[str, str]:
    """Return the checksums of the files that an evaluator's parameters name, by parameter."""
    return evaluator.sources(dataset) if hasattr(evaluator, "sources") else {}


def weights_of(evaluator: object) -> str | None:
    """Return the weights file that an evaluator requests in place of the network's; None if it requests none."""
    return getattr(evaluator, "weights", None)
