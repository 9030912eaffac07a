r"""Zoom-CAM: the evidence of all layers at each position, including the finest.

Zoom-CAM (Shi et al., ICPR 2020, arXiv 2010.08644): each layer's map, with g the gradient of the class's logit with
respect to the layer's output A,

$$L_l = \operatorname{ReLU}\Big(\sum_k g_k \odot A_k\Big) / \max$$

is fused with those of the other layers by the larger value at each pixel, from the deepest, coarsest layer to the
finest. The fused map is enlarged bilinearly to the next layer's size before the two are compared. A layer's map is
scaled with its minimum, as in the published code: (L - min) / max.

`layers` are all convolutions of the network, as VGG-16's 13 in the paper, or the named ones. The published code
(X-Shi/Zoom-CAM@c01edb1) does not run: the loop that fuses uses an undefined name. So only the formula can be
compared; for one layer it is HiResCAM.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eigencam.methods.gradient_weighted import HiResCAM
from eigencam.methods.stages import layers_of
from eigencam.passes.forward import Forward
from eigencam.passes.readings import Reading

if TYPE_CHECKING:
    from eigencam.networks.network import Network


@dataclass(frozen=True, slots=True)
class ZoomCAM:
    """Zoom-CAM over `layers`, in the order of the pass; empty: over all convolutions."""

    layers: Sequence[str] = ()

    version = 1
    needs_gradient: ClassVar[bool] = False  # it reads other layers
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Shi et al., ICPR 2020"
    needs: ClassVar[str] = "2 forwards, 1 backward"
    networks: ClassVar[str] = "with convolutions, or layers that are named"
    differentiates: ClassVar[str] = "layer"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32 in 0..1, at the first layer's size."""
        layers = self.layers or self.convolutions(forward)
        current = forward.repeat(forward.images, layers, gradients=True)
        current.seeds = forward.seeds
        fused: Tensor | None = None
        for layer in reversed(tuple(layers)):
            cam = scaled(HiResCAM(layer=layer)(current, targets))
            if fused is not None:
                size = tuple(cam.shape[1:])
                cam = torch.maximum(
                    cam, F.interpolate(fused[:, None], size, mode="bilinear", align_corners=False)[:, 0]
                )
            fused = cam
        assert fused is not None  # there is at least one layer
        return fused

    def convolutions(self, forward: Forward) -> Mapping[str, Reading]:
        """The convolutions that are maps, before or behind the target layer, in execution order."""
        return layers_of(forward, nn.Conv2d)

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        named = dict(network.module.named_modules())
        findings = network.examined().findings
        if self.layers or any(isinstance(named.get(n), nn.Conv2d) and f.reading for n, f in findings.items()):
            return ""
        return "it fuses the maps of convolutions, and none of the network's is a map; name layers (layers=[...])"


def scaled(maps: Tensor) -> Tensor:
    """(N, h, w) of non-negative maps: minus the minimum, divided by the maximum; 0 if that is 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / torch.where(high > 0, high, 1.0)
