"""Benchmark and reproducibility harness for class-activation maps: Eigen-CAM and the methods around it."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from eigencam import moved

if TYPE_CHECKING:
    from eigencam import targets as targets
    from eigencam.explainer import Explained as Explained
    from eigencam.explainer import Explainer as Explainer
    from eigencam.explainer import Explanation as Explanation

__all__ = ["Explained", "Explainer", "Explanation", "targets"]

moved.install()


def __getattr__(name: str) -> Any:
    """Import what needs torch only when it is asked for."""
    if name == "targets":
        return import_module("eigencam.targets")
    if name in __all__:
        from eigencam import explainer

        return getattr(explainer, name)
    raise AttributeError(f"module 'eigencam' has no attribute {name!r}")
