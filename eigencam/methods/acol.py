r"""ACoL's map (Zhang et al., CVPR 2018): the maximum of two classifiers' maps.

With F the features, A and B the classifiers, s min-max normalization to 0..1, and t the network's threshold:

$$S_A = A(F)_c, \qquad S_B = B\big(F \odot [s(S_A) < t]\big)_c, \qquad M_c = \max\big(s(S_A), s(S_B)\big)$$

B was trained on features without the positions where A is high, so M covers more of an object. It needs a network with
both classifiers: `model=wsol_vgg16_acol`, `wsol_resnet50_acol`, `wsol_inception_v3_acol` or `acol`, trained by
`eigencam fit fit=wsol wsol.method=acol`.

For a constant S, s(S) is 0 (in the authors' code 0/0, which makes the maximum NaN as well).

Reference: clovaai/wsolevaluation@96f4b88, `wsol/method/acol.py`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from eigencam.networks.acol import ACoL as Form
from eigencam.networks.acol import scaled
from eigencam.passes.calls import evaluating
from eigencam.passes.forward import Forward

if TYPE_CHECKING:
    from eigencam.networks.network import Network


@dataclass(frozen=True, slots=True)
class ACoL:
    """The maximum of the two classifiers' maps."""

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    layers: ClassVar[tuple[str, ...]] = ("features", "classifier_A")
    layers_of_a_form: ClassVar[bool] = True
    paper: ClassVar[str] = "Zhang et al., CVPR 2018"
    needs: ClassVar[str] = "1 forward, the second classifier; training"
    networks: ClassVar[str] = "with two classifiers, as model=acol"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32 in 0..1."""
        module = forward.module
        if not isinstance(module, Form):
            raise ValueError(_refused(type(module).__name__))
        features, first = forward.activations("features"), forward.activations("classifier_A")
        chosen = torch.arange(len(first), device=first.device)
        first = first[chosen, targets]
        with evaluating(module), torch.no_grad():
            second = module.second(features.to(forward.images.dtype), first)[chosen, targets].float()
        return torch.maximum(scaled(first), scaled(second))

    def unsupported(self, network: "Network") -> str:
        """Why the network has no such map; "" if it has one."""
        module = network.module
        if not isinstance(module, Form):
            return _refused(network.name)
        outputs = [part[-1].out_channels for part in (module.classifier_A, module.classifier_B)]
        if outputs[0] != outputs[1]:
            return (
                f"its classifiers are for {outputs[0]} and {outputs[1]} classes; fit=wsol wsol.method=acol trains both"
            )
        return ""


def _refused(name: str) -> str:
    return f"ACoL's map is of two classifiers on the same features, and {name} has one; model=acol has two"
