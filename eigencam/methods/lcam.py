r"""L-CAM-Fm and L-CAM-Img (Gkartzonika, Gkalelis, Mezaris, ECCVW 2022): an attention that is trained for a network.

A 1x1 convolution with bias computes a map for each class y from the frozen network's activations F. It is trained by
`eigencam fit fit=lcam_fm` (or `lcam_img`), and only its weights are stored:

$$c_y = \sum_k w_{yk} F_k + b_y, \qquad a_y = \sigma(c_y)$$

In training, the attention for the network's own prediction y masks the activations (Fm) or, enlarged bilinearly, the
image x in [0, 1] before its normalisation (Img). The rest of the network, or all of it, then runs again:

$$z = \operatorname{rest}(a_y \odot F) \quad\text{or}\quad z = \operatorname{network}(a_y \odot x)$$

$$L = 1.5\, \operatorname{CE}(z, y) + 2 \operatorname{mean}\big((a_y + 0.0005)^{0.3}\big)
  + \frac{0.01}{2B} \sum\Big(|\partial_x a_y|^2 + |\partial_y a_y|^2 + 0.3 \sum_{\text{border}} a_y^2\Big)$$

for a batch of B images; a corner is in two borders and counts twice. The map is the class's $c_y$ before the sigmoid,
signed, as in the authors' evaluation, which scales it from its minimum and maximum. A rule that thresholds at a share
of the maximum (`localization`) is applied to $c_y$ itself. A run costs one forward pass and no gradient.

Choices. The network is in evaluation mode throughout; the authors' script for VGG-16 trains with dropout switched
on. The area and variation terms are over an image's own map; `quirk: true` takes them over each image's maps for all
labels in the batch, as the authors' indexing `a[:, labels]` does. Their labels are a list of the network's predictions,
one per image; here the network predicts the augmented image.

`file` may also be a checkpoint of the authors (`.pth.tar`), or of the L-CAM in T-TAME (`.ckpt`), whose backbone is
compared with the network's weights; no published one could be opened (`eigencam.networks.authors_weights`).

The packaged file for `scenes_resnet` was made in 2 minutes on one core by
`eigencam fit model=scenes_resnet fit=lcam_fm dataset.count=1500 fit.epochs=5`; its numbers are in
`results/all_methods/tables.md`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.networks import fitted
from eigencam.networks.fitted import Fitted
from eigencam.passes.forward import Forward
from eigencam.transfer import resident

if TYPE_CHECKING:
    from eigencam.networks.network import Network

KINDS = ("lcam_fm", "lcam_img")


@dataclass(frozen=True, slots=True)
class LCAM:
    """The logits of a trained attention.

    Attributes:
        file: file of the weights; if several, the first one that exists.
        layer: the layer that they were trained for; None: the network's target layer.
        weights: the file's content; None without a file.
    """

    file: str | Sequence[str]
    layer: str | None = None
    weights: Fitted | None = field(init=False, repr=False, compare=False)

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Gkartzonika et al., ECCVW 2022"
    needs: ClassVar[str] = "1 forward; training"
    networks: ClassVar[str] = "those it was trained for"

    def __post_init__(self) -> None:
        object.__setattr__(self, "weights", fitted.read_first(self.file, (*KINDS, fitted.LCAM)))

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, signed."""
        if self.weights is None:
            raise FileNotFoundError(f"no fitted weights: {self.file}")
        activations = forward.activations(self.layer)
        weight, bias = (
            resident(self.weights.tensors[name], activations.device, activations.dtype) for name in ("weight", "bias")
        )
        return attention_logits(activations, weight, bias, targets)

    def unsupported(self, network: "Network") -> str:
        """Why the weights are not for the network; "" if they are."""
        if self.weights is None:
            return fitted.missing(self.file, KINDS, network)
        return self.weights.fault(network, [self.layer or network.layer])

    def identity(self) -> dict[str, Any]:
        """The weights' checksum in place of their file's name."""
        return {"file": self.weights and self.weights.sha256}


def attention_logits(activations: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
    """(N, h, w): the 1x1 convolution's channel of each image's class; weight (K, C), bias (K,)."""
    return torch.einsum("nc,nchw->nhw", weight[targets], activations) + bias[targets, None, None]


def masked_image(images: Tensor, masks: Tensor, black: Tensor) -> Tensor:
    """Images times masks, for normalised images.

    Args:
        images: (N, 3, H, W), normalised.
        masks: (N, h, w) in 0..1, enlarged bilinearly.
        black: (3, 1, 1), a black pixel after normalisation.
    """
    large = F.interpolate(masks[:, None], list(images.shape[2:]), mode="bilinear")
    return black + large * (images - black)


@dataclass(frozen=True, slots=True)
class Loss:
    """The factors of L-CAM's loss."""

    ce: float = 1.5
    area: float = 2.0
    power: float = 0.3
    variation: float = 0.01
    border: float = 0.3

    def __call__(self, logits: Tensor, labels: Tensor, masks: Tensor) -> dict[str, Tensor]:
        """The three terms.

        Args:
            logits: (B, K) of the masked images.
            labels: (B,) classes that the masks are for.
            masks: (B, M, h, w) in 0..1; M maps per image: one, except with the authors' quirk.
        """
        return {
            "ce": self.ce * F.cross_entropy(logits, labels),
            "area": self.area * (masks + 0.0005).pow(self.power).mean(),
            "variation": self.variation * variation(masks, self.border),
        }


def variation(masks: Tensor, border: float) -> Tensor:
    """(D + `border` E) / 2 per image: D sums squared differences of neighbours, E squared values of the four borders.

    >>> variation(torch.ones(2, 1, 2, 2), border=0.3)
    tensor(1.2000)
    """
    down, right = masks.diff(dim=2).square().sum(), masks.diff(dim=3).square().sum()
    edges = (masks[:, :, 0], masks[:, :, -1], masks[:, :, :, 0], masks[:, :, :, -1])
    around = torch.stack([edge.square().sum() for edge in edges]).sum()
    return (down + right + border * around) / (2 * len(masks))
