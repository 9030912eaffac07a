"""The contract of methods: what one is, what it may say of itself, and the only place that reads what it says.

A method is any callable `(forward, targets)`; a plain function is one. Everything that it may say besides is optional,
and what it does not say has the default that the function below gives. Methods of this package say all that
`FixedMethod` or `ChosenMethod` lists; pyright checks them against it (`tests/test_contracts.py`).
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
    """A callable that gives a map, or boxes, for each image of a batch."""

    def __call__(self, forward: Forward, targets: Tensor, /) -> Tensor | Sequence[NDArray[np.float64]]:
        """Return the maps or boxes of one batch.

        Args:
            forward: the pass that all methods read from, of N images.
            targets: (N,) int64 classes that the maps are for.

        Returns:
            (N, h, w) float32 raw score maps of any resolution, on the device; of a method that gives boxes N times
            (K, 5) `x1 y1 x2 y2 score`, best first, in inclusive pixels of the original image.
        """
        ...


class PackagedMethod(Method, Protocol):
    """What every method of this package says of itself.

    Attributes:
        version: raised when a change moves a number or a default (`eigencam.versions`).
        needs: the cost of an image, in words: "1 forward, 1 backward".
        needs_gradient: whether it asks `forward.gradients`.
    """

    @property
    def version(self) -> int: ...  # noqa: D102

    needs: ClassVar[str]
    needs_gradient: ClassVar[bool]


class FixedMethod(PackagedMethod, Protocol):
    """A method whose map depends on `targets`, or does not, whatever its parameters are.

    Attributes:
        class_specific: whether it does; such a method needs a network with a classifier.
    """

    class_specific: ClassVar[bool]


class ChosenMethod(PackagedMethod, Protocol):
    """A method of which the parameters decide whether its map depends on `targets`."""

    @property
    def class_specific(self) -> bool:
        """Whether it does; it then needs a network with a classifier."""
        ...


@runtime_checkable
class Choosy(Protocol):
    """A method that some networks cannot be explained by."""

    def unsupported(self, network: "Network") -> str:
        """Return why it cannot run on the network, "" if it can."""
        ...


@runtime_checkable
class Prepared(Protocol):
    """A method that has maps or boxes of some images only."""

    def lacking(self, ids: Iterable[str]) -> str:
        """Return what it lacks for these images, "" if nothing."""
        ...


@runtime_checkable
class FromFiles(Protocol):
    """A method that reads files besides its parameters."""

    def identity(self) -> dict[str, Any]:
        """Return what changes its maps besides its parameters: checksums of the files, by parameter."""
        ...


class WrappingMethod(Method, Choosy, Prepared, FromFiles, Protocol):
    """A method that runs another, which says what it needs; see `eigencam.methods.wrapping`."""

    needs: ClassVar[str]

    @property
    def method(self) -> Method:
        """The method that is run."""
        ...

    @property
    def version(self) -> int: ...  # noqa: D102

    @property
    def needs_gradient(self) -> bool:
        """Whether `forward.gradients` is asked."""
        ...

    @property
    def class_specific(self) -> bool:
        """Whether the map depends on `targets`."""
        ...


def tapped(method: Method) -> list[str]:
    """Return the layers that a method reads (`layer`, `layers`) besides the network's target layer."""
    return [layer for layer in (getattr(method, "layer", None), *getattr(method, "layers", ())) if layer]


def needs_gradient(method: Method) -> bool:
    """Whether a method asks `forward.gradients`; a method that does not say is taken to."""
    return getattr(method, "needs_gradient", True)


def gives_boxes(method: Method) -> bool:
    """Whether a method returns boxes, not maps; only one that says so does."""
    return getattr(method, "gives_boxes", False)


def is_class_specific(method: Method) -> bool:
    """Whether a method's map depends on the class; a method that does not say is taken to."""
    return getattr(method, "class_specific", True)


def follows(method: Method) -> frozenset[str] | None:
    """Return the kinds of operations that a method has rules for (`follows`); None where none needs a rule."""
    return getattr(method, "follows", None)


def differentiates(method: Method) -> str:
    """Return what a method differentiates the logits by: `image`, `layer` or, where it says nothing, ""."""
    return getattr(method, "differentiates", "") or ("layer" if getattr(method, "needs_gradient", False) else "")


def needs_smooth(method: Method) -> bool:
    """Whether the gradient has to tell a method how the logits follow the image, without a cut or jump."""
    return getattr(method, "needs_smooth", False)


def is_baseline(method: Method) -> bool:
    """Whether a method is there to be compared with (`baseline`): a centred box, noise; only one that says so is."""
    return bool(getattr(method, "baseline", False))


def caveat_of(method: Method) -> str:
    """Return what has to stand below every table with the method (`caveat`): what of its paper is not known."""
    return getattr(method, "caveat", "")


def is_constant_by_design(method: Method) -> bool:
    """Whether a method means the constant maps that it gives (`constant_by_design`)."""
    return bool(getattr(method, "constant_by_design", False))


def stated_refusal(method: Method, network: "Network") -> str:
    """Return why a method says that it cannot run on a network; "" where it says nothing."""
    return method.unsupported(network) if isinstance(method, Choosy) else ""


def lack_of(method: Method, ids: Iterable[str]) -> str:
    """Return what a method lacks for images; "" where it says nothing."""
    return method.lacking(ids) if isinstance(method, Prepared) else ""


def content_of(method: Method) -> dict[str, Any]:
    """Return what changes a method's maps besides its parameters; {} where it says nothing."""
    return method.identity() if isinstance(method, FromFiles) else {}


def maps_of(method: Method, forward: Forward, targets: Tensor) -> Tensor:
    """Return a method's maps (N, h, w), without a graph. ValueError where it gives something else."""
    with torch.no_grad():
        made = method(forward, targets)
    if not isinstance(made, Tensor):
        raise ValueError(f"{type(method).__name__} gives {type(made).__name__}; maps are needed, a tensor (N, h, w)")
    return made
