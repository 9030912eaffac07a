"""Networks that prepare their input by themselves: torchvision's detectors take values in 0..1 and normalise them."""

from torch import nn

from eigencam.networks.preprocess import Preprocess


def own_preprocess(module: nn.Module) -> Preprocess | None:
    """What a network takes that normalises its input by itself, as torchvision's detectors; None of any other.

    Values in 0..1, of the side that it would resize to.
    """
    from torchvision.models.detection.transform import GeneralizedRCNNTransform

    transform = getattr(module, "transform", None)
    if not isinstance(transform, GeneralizedRCNNTransform):
        return None
    side = transform.fixed_size[0] if transform.fixed_size else transform.min_size[-1]
    return Preprocess(size=side, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def check_normalised_once(module: nn.Module, preprocess: Preprocess, name: str) -> None:
    """ValueError where an input would be normalised here and in the network."""
    own = own_preprocess(module)
    if own and (preprocess.mean, preprocess.std) != (own.mean, own.std):
        raise ValueError(
            f"{name}: the network normalises its input by itself, and preprocess.mean={list(preprocess.mean)} would do "
            "so before; set model.preprocess.mean=[0,0,0] model.preprocess.std=[1,1,1]"
        )
