"""The contract of methods: what a method is, what it may declare, and functions that read these declarations.

A method is any callable `(forward, targets)`, including a plain function. All declarations are optional; the default
of each is in the function below that reads it. Methods of this package declare everything in `FixedMethod` or
`ChosenMethod`, which pyright checks (`tests/test_contracts.py`).
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eigencam.passes.forward import Forward

if TYPE_CHECKING:
    from eigencam.networks.network import Network


class Method(Protocol):
    """A callable that returns a map, or boxes, for each image of a batch."""

    def __call__(self, forward: Forward, targets: Tensor, /) -> Tensor | Sequence[NDArray[np.float64]]:
        """Return the maps or boxes of one batch.

        Args:
            forward: the pass that all methods read from, of N images.
            targets: (N,) int64 classes that the maps are for.

        Returns:
            (N, h, w) float32 raw score maps at any resolution, on the device; for a method that returns boxes, N
            arrays (K, 5) `x1 y1 x2 y2 score`, best first, in inclusive pixels of the original image.
        """
        ...


class PackagedMethod(Method, Protocol):
    """What every method of this package declares.

    Attributes:
        version: raised when a change alters a number or a default (`eigencam.store.versions`).
        needs: the cost per image, in words: "1 forward, 1 backward".
        needs_gradient: whether it calls `forward.gradients`.

    Some declare `baseline = True`, or a `caveat`: the footnote of every table with a method whose paper could not be
    read.
    """

    @property
    def version(self) -> int: ...  # noqa: D102

    needs: ClassVar[str]
    needs_gradient: ClassVar[bool]


class FixedMethod(PackagedMethod, Protocol):
    """A method whose parameters have no influence on whether its map depends on `targets`.

    Attributes:
        class_specific: whether the map depends on `targets`; the method then needs a network with a classifier.
    """

    class_specific: ClassVar[bool]


class ChosenMethod(PackagedMethod, Protocol):
    """A method whose parameters decide whether its map depends on `targets`."""

    @property
    def class_specific(self) -> bool:
        """Whether the map depends on `targets`; the method then needs a network with a classifier."""
        ...


@runtime_checkable
class Choosy(Protocol):
    """A method that cannot run on some networks."""

    def unsupported(self, network: "Network") -> str:
        """Return why it cannot run on the network, "" if it can."""
        ...


@runtime_checkable
class Prepared(Protocol):
    """A method that has maps or boxes only for some images."""

    def lacking(self, ids: Iterable[str]) -> str:
        """Return what is missing for these images, "" if nothing."""
        ...


@runtime_checkable
class FromFiles(Protocol):
    """A method that reads files named by its parameters."""

    def identity(self) -> dict[str, Any]:
        """Return what changes its maps besides its parameters: for example checksums of the files."""
        ...


class WrappingMethod(Method, Choosy, Prepared, FromFiles, Protocol):
    """A method that runs another one and takes its declarations from it; see `eigencam.methods.wrapping`."""

    needs: ClassVar[str]

    @property
    def method(self) -> Method:
        """The inner method."""
        ...

    @property
    def version(self) -> int: ...  # noqa: D102

    @property
    def needs_gradient(self) -> bool:
        """Whether `forward.gradients` is called."""
        ...

    @property
    def class_specific(self) -> bool:
        """Whether the map depends on `targets`."""
        ...


def tapped(method: Method) -> list[str]:
    """Return the layers that a method reads (`layer`, `layers`) besides the network's target layer."""
    return [layer for layer in (getattr(method, "layer", None), *getattr(method, "layers", ())) if layer]


def layers_of_a_form(method: Method) -> bool:
    """Whether the layers that a method reads by default exist only in one kind of network (`layers_of_a_form`)."""
    return bool(getattr(method, "layers_of_a_form", False))


def needs_gradient(method: Method) -> bool:
    """Whether a method calls `forward.gradients`; default: True."""
    return getattr(method, "needs_gradient", True)


def gives_boxes(method: Method) -> bool:
    """Whether a method returns boxes instead of maps; default: False."""
    return getattr(method, "gives_boxes", False)


def is_class_specific(method: Method) -> bool:
    """Whether a method's map depends on the class; default: True."""
    return getattr(method, "class_specific", True)


def follows(method: Method) -> frozenset[str] | None:
    """Return the kinds of operations that a method has rules for (`follows`); None if no operation needs a rule."""
    return getattr(method, "follows", None)


def differentiates(method: Method) -> str:
    """Return what a method differentiates the logits with respect to: `image`, `layer` or "" (nothing).

    Default: `layer` if the method declares `needs_gradient = True`, else "".
    """
    return getattr(method, "differentiates", "") or ("layer" if getattr(method, "needs_gradient", False) else "")


def needs_smooth(method: Method) -> bool:
    """Whether a method needs a gradient that describes how the logits follow the image, without cuts or jumps."""
    return getattr(method, "needs_smooth", False)


def draws_references(method: Method) -> bool:
    """Whether a method draws reference images from the dataset (`draws_references`); default: False."""
    return bool(getattr(method, "draws_references", False))


def is_baseline(method: Method) -> bool:
    """Whether a method is a baseline (`baseline`), such as a centred box or noise; default: False."""
    return bool(getattr(method, "baseline", False))


def caveat_of(method: Method) -> str:
    """Return the note below every table with the method (`caveat`): what is not known about its paper."""
    return getattr(method, "caveat", "")


def is_constant_by_design(method: Method) -> bool:
    """Whether a method returns constant maps on purpose (`constant_by_design`)."""
    return bool(getattr(method, "constant_by_design", False))


def stated_refusal(method: Method, network: "Network") -> str:
    """Return the method's own reason why it cannot run on a network; "" by default."""
    return method.unsupported(network) if isinstance(method, Choosy) else ""


def lack_of(method: Method, ids: Iterable[str]) -> str:
    """Return what a method is missing for images; "" by default."""
    return method.lacking(ids) if isinstance(method, Prepared) else ""


def content_of(method: Method) -> dict[str, Any]:
    """Return what changes a method's maps besides its parameters; {} by default."""
    return method.identity() if isinstance(method, FromFiles) else {}


def maps_of(method: Method, forward: Forward, targets: Tensor) -> Tensor:
    """Return a method's maps (N, h, w), without a graph. ValueError if it returns something else."""
    with torch.no_grad():
        made = method(forward, targets)
    if not isinstance(made, Tensor):
        raise ValueError(f"{type(method).__name__} gives {type(made).__name__}; maps are needed, a tensor (N, h, w)")
    return made
