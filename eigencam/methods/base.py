"""The contract of methods."""

from collections.abc import Callable
from typing import Any

Method = Callable[..., Any]
"""`(forward, targets) -> (N, h, w)`, or boxes; see `eigencam.methods`."""


def tapped(method: Method) -> list[str]:
    """The layers that a method reads besides the network's target layer."""
    return [layer for layer in (getattr(method, "layer", None), *getattr(method, "layers", ())) if layer]


def needs_gradient(method: Method) -> bool:
    """Whether a method asks `forward.gradients`; a method that does not say is taken to."""
    return getattr(method, "needs_gradient", True)


def gives_boxes(method: Method) -> bool:
    """Whether a method returns boxes, not maps."""
    return getattr(method, "gives_boxes", False)


def is_class_specific(method: Method) -> bool:
    """Whether a method's map depends on the class; a method that does not say is taken to."""
    return getattr(method, "class_specific", True)
