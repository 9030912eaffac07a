"""Networks that prepare their input by themselves: torchvision's detectors take values in 0..1 and normalise them."""

from collections.abc import Sequence
from typing import Any

from torch import nn

from eigencam.networks.preprocess import Preprocess


def own_preprocess(module: nn.Module) -> dict[str, Any]:
    """The fields of a `Preprocess` for a network that normalises its input by itself; {} for any other.

    Values in 0..1, of the side that the network would resize to.
    """
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    transform = getattr(module, "transform", None)
    if not isinstance(transform, GeneralizedRCNNTransform):
        return {}
    sides: Sequence[int] = tuple(transform.min_size)  # type: ignore[arg-type]  # torchvision makes a number a tuple
    width, height = transform.fixed_size or (sides[-1], sides[-1])
    return {"size": (height, width), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def check_normalised_once(module: nn.Module, preprocess: Preprocess, name: str) -> None:
    """ValueError where an input would be normalised here and in the network."""
    own = own_preprocess(module)
    if own and (preprocess.mean, preprocess.std) != (own["mean"], own["std"]):
        raise ValueError(
            f"{name}: the network normalises its input by itself, and preprocess.mean={list(preprocess.mean)} would do "
            "so before; leave it out, or set model.preprocess.mean=[0,0,0] model.preprocess.std=[1,1,1]"
        )
