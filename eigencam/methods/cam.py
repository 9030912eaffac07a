r"""CAM (Zhou et al., Learning Deep Features for Discriminative Localization, CVPR 2016).

$$M_c(x, y) = \sum_k w_k^c\, A_k(x, y)$$

A_k is channel k of the last convolutional layer and w_k^c the weight of class c on its global average. It exists only
for networks whose logits are that linear function. This is tested numerically, not by name: on a probe the mean of
the maps plus the bias must be the logits. The test also finds a ReLU between the layer and the pooling (DenseNet)
and a 1x1 convolution as classifier (SqueezeNet). The latter's class maps M_c, with their bias, are rectified before the
pooling, unless a head of other classes replaces them (`eigencam.networks.classifier`).

On other networks the map is signed and without the bias, as in the paper; nothing is rectified after the sum.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from eigencam.passes.calls import any_tensor, random_images
from eigencam.passes.forward import Forward, forward_pass
from eigencam.passes.precision import is_coarse
from eigencam.passes.readings import CHANNELS_FIRST, Reading

if TYPE_CHECKING:
    from eigencam.networks.network import Network


@dataclass(frozen=True, slots=True)
class CAM:
    """Class activation map; needs global average pooling and one linear layer behind the target layer."""

    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Zhou et al., CVPR 2016"
    needs: ClassVar[str] = "1 forward"
    networks: ClassVar[str] = "global average pooling and one linear layer behind the target layer"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32 map of each image's target class."""
        head = find_pooled_classifier(
            forward.module, self.layer or forward.layer, tuple(forward.images.shape[2:]), forward.reading(self.layer)
        )
        activations = forward.activations(self.layer)
        weight = head.classifier.weight.detach().flatten(1)[targets].float()
        maps = torch.einsum("nc,nchw->nhw", weight, activations.relu() if head.rectified else activations)
        if head.positive:
            bias = head.classifier.bias
            maps = (maps if bias is None else maps + bias.detach().float()[targets, None, None]).relu()
        return maps

    def unsupported(self, network: "Network") -> str:
        """Why the network has no CAM at this layer; "" if it has one."""
        try:
            layer = self.layer or network.layer
            find_pooled_classifier(network.module, layer, network.preprocess.shape, network.reading(layer))
        except ValueError as error:
            return str(error)
        return ""


class PooledClassifier(NamedTuple):
    """The classifier on the pooled activations; whether these, or the class maps, are rectified before the pooling."""

    classifier: nn.Linear | nn.Conv2d
    rectified: bool
    positive: bool = False


@lru_cache(maxsize=1)
def find_pooled_classifier(
    module: nn.Module, layer: str, shape: tuple[int, int], reading: Reading = CHANNELS_FIRST
) -> PooledClassifier:
    """The head that reproduces the network's logits from the layer's output, tested on a seeded probe.

    Args:
        module: the network.
        layer: path of the layer.
        shape: (height, width) of an input.
        reading: how its output becomes a map.

    Raises:
        ValueError: there is no such head.
    """
    weights = any_tensor(module)
    probe = random_images(module, shape)
    forward = forward_pass(module, probe, layer, readings={layer: reading})
    activations = forward.activations()
    linear = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    # half precision rounds each of the sums; a wrong head misses by the size of the logits
    tolerance = (5e-2 if is_coarse(weights.dtype) else 1e-3) * forward.logits.abs().max()
    for classifier in linear[-1:]:
        if classifier.weight.flatten(1).shape[1] != activations.shape[1]:
            continue
        forms = [PooledClassifier(classifier, False), PooledClassifier(classifier, True)]
        forms += [PooledClassifier(classifier, False, True)] if isinstance(classifier, nn.Conv2d) else []
        for head in forms:
            logits = _logits(head, activations)
            if logits.shape == forward.logits.shape and bool((logits - forward.logits).abs().max() <= tolerance):
                return head
    raise ValueError(
        f"CAM needs global average pooling and one linear layer behind {layer!r}; the logits are no such function of it"
    )


def _logits(head: PooledClassifier, activations: Tensor) -> Tensor:
    """(N, K) logits of a linear layer on the means, or of a rectified 1x1 convolution averaged over the positions."""
    classifier = head.classifier
    weight = classifier.weight.detach().flatten(1).float()
    bias = (
        torch.zeros(len(weight), device=weight.device) if classifier.bias is None else classifier.bias.detach().float()
    )
    if head.positive:
        return (torch.einsum("kc,nchw->nkhw", weight, activations) + bias[:, None, None]).relu().mean((2, 3))
    return (activations.relu() if head.rectified else activations).mean((2, 3)) @ weight.T + bias
