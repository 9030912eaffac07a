r"""Group-CAM: masks from groups of channels with Grad-CAM's weights, scored by what they show of a blurred image.

Group-CAM (Zhang et al., arXiv 2103.13859), with $\alpha_k$ the weights of Grad-CAM, A the activations, X the image,
B the blurred image, U the bilinear enlargement and s the scaling to 0..1:

$$G_g = \operatorname{ReLU}\Big(\sum_{k \in g} \alpha_k A_k\Big), \quad M_g = s(U(G_g)), \quad
  \beta_g = \operatorname{ReLU}\big(p_c(X \odot M_g + B \odot (1 - M_g)) - p_c(B)\big), \quad
  L = \sum_g \beta_g\, G_g$$

Groups consist of consecutive channels, ceil(C / `groups`) each, as in the authors' code (wofmanaf/Group-CAM@ffd807b).
The blur is a Gaussian of standard deviation 50, cut off 25 pixels away, with the image mirrored beyond its border. A
group without activation hides everything and has weight 0; theirs divides 0 by 0. The paper's threshold on the
activations is not in the code, and is not here.

With one group it is Grad-CAM up to a factor.
"""

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.methods.parameter_checks import above_zero, at_least
from eigencam.methods.scorecam import unit
from eigencam.passes.forward import Forward
from eigencam.transfer import made


@dataclass(frozen=True, slots=True)
class GroupCAM:
    """Group-CAM of `groups` groups; `sigma` and `reach` of the blur in pixels."""

    groups: int = 32
    sigma: float = 50.0
    reach: int = 25
    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Zhang et al., arXiv 2021"
    needs: ClassVar[str] = "G + 2 forwards, 1 backward"

    def __post_init__(self) -> None:
        at_least(self, 1, "groups")
        above_zero(self, "sigma")
        at_least(self, 0, "reach")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        activations, images = forward.activations(self.layer), forward.images
        weighted = forward.gradients(targets, self.layer).mean((2, 3), keepdim=True) * activations
        size = ceil(weighted.shape[1] / self.groups)
        groups = torch.stack([part.sum(1) for part in weighted.split(size, 1)], 1).relu()  # (N, G, h, w)
        blurred = truncated_blur(images.float(), self.sigma, self.reach).to(images.dtype)
        (n, count), (h, w) = groups.shape[:2], images.shape[2:]

        def shown(part: slice) -> Tensor:
            place = torch.arange(part.start, part.stop, device=images.device)
            image, group = place // count, place % count
            masks = F.interpolate(groups[image, group][:, None], (h, w), mode="bilinear", align_corners=False)
            return torch.lerp(blurred[image], images[image], unit(masks[:, 0])[:, None].to(images.dtype))

        classes = targets.repeat_interleave(count)[:, None]
        scores = forward.predict(n * count, shown).softmax(1).gather(1, classes).view(n, count)
        hidden = forward.predict(n, lambda part: blurred[part]).softmax(1).gather(1, targets[:, None])
        return torch.einsum("ng,nghw->nhw", (scores - hidden).relu(), groups)


def truncated_blur(x: Tensor, sigma: float, reach: int) -> Tensor:
    """(..., H, W) smoothed by a Gaussian of `2 reach + 1` pixels, the image mirrored about its outermost pixels."""
    down, right = (made(_line, (side, sigma, reach), x.device, x.dtype) for side in x.shape[-2:])
    return down @ x @ right.mT


def _line(side: int, sigma: float, reach: int) -> Tensor:
    """(side, side) float32: smooths a line of pixels."""
    away = torch.arange(-reach, reach + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (away / sigma) ** 2)
    place = torch.arange(side)[:, None] + torch.arange(-reach, reach + 1)
    period = max(2 * (side - 1), 1)
    inside = side - 1 - (place % period - (side - 1)).abs() if side > 1 else torch.zeros_like(place)
    matrix = torch.zeros(side, side, dtype=torch.float64)
    return matrix.scatter_add_(1, inside, (kernel / kernel.sum()).expand(side, -1)).float()
