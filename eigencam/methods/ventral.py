r"""Ventral map of VDNet (Ebrahimpour et al., "Ventral-Dorsal Neural Networks", WACV 2019; arXiv 2005.09727).

The features of a classifier show where objects are, without any class. With A the activations of the last convolution
(N, C, h, w) and x the input, the Gestalt total and its sensitivity are

$$\mathrm{GT}(x) = \sum_k \sum_{i,j} A_{kij}, \qquad S = \frac{\partial\, \mathrm{GT}}{\partial x}$$

S is reduced to one number per pixel, and smoothed by a Gaussian with a variance of `variance` squared pixels of the
input; the authors recommend 25 to 35 for PASCAL VOC. The map is class-agnostic: the authors prefer GT to a logit for
the sake of unknown classes and of images with several objects.

The first author's repository (mkebrahimpour/VDNET@9888fbe) holds poster, slides and pieces of the paper, and no code.
It gives GT, S and the variance, but neither the two rules by which the paper combines the colours nor the threshold of
its mask. So `colors` is our reading: `max` or `mean` of the absolute values. Beyond the border the image is mirrored.

Example: for a linear convolution without padding, S is the same in every pixel away from the border: the sum of all its
kernels.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor, nn

from eigencam.methods.blur import gaussian_blur
from eigencam.methods.parameter_checks import at_least, one_of
from eigencam.methods.refusal import probe
from eigencam.passes.calls import differentiate, evaluating, run_network
from eigencam.passes.forward import Forward
from eigencam.passes.layer_items import hook_output
from eigencam.passes.readings import Reading

if TYPE_CHECKING:
    from eigencam.networks.network import Network

Colors = Literal["max", "mean"]
COLORS: tuple[Colors, ...] = ("max", "mean")


@dataclass(frozen=True, slots=True)
class Ventral:
    """The ventral map; see the module. `variance` in squared pixels of the network's input; 0: not smoothed."""

    variance: float = 30.0
    colors: Colors = "max"
    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False  # not of a layer
    class_specific: ClassVar[bool] = False
    paper: ClassVar[str] = "Ebrahimpour et al., WACV 2019"
    caveat: ClassVar[str] = "a reading: the paper's rule that joins the colours could not be read"
    needs: ClassVar[str] = "2 forwards, 1 backward"

    def __post_init__(self) -> None:
        at_least(self, 0, "variance")
        one_of(self, "colors", COLORS)

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32, not negative."""
        layer = self.layer or forward.layer
        parts = []
        for images in forward.images.split(forward.chunk):
            gradient = sensitivity(forward.module, images, layer, forward.reading(layer))
            if gradient is None:
                raise ValueError(_uncut(layer))
            parts.append(gradient)
            forward.progress(len(images))
        gradient = torch.cat(parts).abs()
        joined = gradient.amax(1) if self.colors == "max" else gradient.mean(1)
        return gaussian_blur(joined, self.variance**0.5, "reflect")

    def unsupported(self, network: "Network") -> str:
        """Why the layer has no sensitivity; "" if it has one."""
        layer = self.layer or network.layer
        found = sensitivity(network.module, probe(network), layer, network.reading(layer))
        return "" if found is not None else _uncut(layer)


def _uncut(layer: str) -> str:
    return f"no gradient of the sum of {layer} reaches the image: the network's own forward pass cuts the graph"


def sensitivity(module: nn.Module, images: Tensor, layer: str, reading: Reading) -> Tensor | None:
    """(N, 3, H, W) float32 gradient of the Gestalt total with respect to the images; None where none arrives.

    Args:
        module: the network; its state is as before when this returns.
        images: (N, 3, H, W), normalised.
        layer: the layer whose activations are summed.
        reading: how they become a map; tokens that are no positions do not count.
    """
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: object, out: Tensor) -> Tensor:
        kept[:] = [reading.maps(out)]
        return out.clone()  # what follows may work in place

    with evaluating(module), torch.inference_mode(False), torch.enable_grad():
        x = images.detach().clone().requires_grad_()
        handle = hook_output(module, layer, keep)
        try:
            run_network(module, x.clone())
        finally:
            handle.remove()
        (gradient,) = differentiate(kept[-1].float().sum((1, 2, 3)), [x])
    return None if gradient is None else gradient.float()
