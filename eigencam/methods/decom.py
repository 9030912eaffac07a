r"""DecomCAM: principal components of the weighted channels, scored by the image regions that they show.

DecomCAM (Yang et al., Neurocomputing 2024) takes the `channels` with the largest mean gradient $\alpha_k$ of the
class's logit with respect to the activations A, and the first `components` principal components of their $\alpha_k A_k$
over the positions (channels centred). Each component is rectified, enlarged bicubically and scaled to 0..1 as a mask M.
With f the logit of the image under it, and B the image blurred by 10 pixels,

$$s_i = f_c\big(\max(X \odot M_i,\ B \odot (1 - M_i))\big), \qquad
  L = \sum_i \frac{s_i}{\max_j s_j}\, U(\operatorname{ReLU}(C_i)) \ \text{ over the } s_i \ge 0.001$$

as in the authors' code (CapricornGuang/DecomCAM@898a94d): the maximum is over normalised values, 500 channels, 10
components. A component's sign is scikit-learn's: its largest channel weight is positive. If no score is
positive the map is 0, where theirs divides by a value that is not positive.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.methods.blur import gaussian_blur
from eigencam.methods.parameter_checks import at_least
from eigencam.passes.forward import Forward

SIGMA = 10.0
"""Standard deviation of the blur, in pixels."""
LEAST = 0.001
"""Score below which a component is left out."""


@dataclass(frozen=True, slots=True)
class DecomCAM:
    """DecomCAM with `components` components of `channels` channels."""

    components: int = 10
    channels: int = 500
    layer: str | None = None

    version = 2
    needs_gradient: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Yang et al., Neurocomputing 2024"
    needs: ClassVar[str] = "11 forwards, 1 backward"

    def __post_init__(self) -> None:
        at_least(self, 1, "components", "channels")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32; at the input's size, since the components are enlarged by a rule of their own."""
        activations, images = forward.activations(self.layer), forward.images
        weights = forward.gradients(targets, self.layer).mean((2, 3))
        chosen = weights.argsort(dim=1, descending=True, stable=True)[:, : self.channels, None, None]
        weighted = (weights[:, :, None, None] * activations).gather(1, chosen.expand(-1, -1, *activations.shape[2:]))
        found = principal(weighted, self.components).relu()
        maps = F.interpolate(found, images.shape[2:], mode="bicubic", align_corners=False)  # (N, K, H, W)
        low = maps.amin((2, 3), keepdim=True)
        high = (maps - low).amax((2, 3), keepdim=True)
        masks = (maps - low) / torch.where(high > 0, high, 1.0)
        blurred = gaussian_blur(images.float(), SIGMA, "reflect")
        n, count = masks.shape[:2]

        def shown(part: slice) -> Tensor:
            place = torch.arange(part.start, part.stop, device=images.device)
            image, mask = place // count, masks[place // count, place % count][:, None]
            return torch.maximum(images[image] * mask, blurred[image] * (1 - mask)).to(images.dtype)

        classes = targets.repeat_interleave(count)[:, None]
        scores = forward.predict(n * count, shown).gather(1, classes).view(n, count)
        best = scores.amax(1, keepdim=True)
        shares = torch.where(scores >= LEAST, scores / torch.where(best > 0, best, 1.0), 0.0)
        return torch.einsum("nk,nkhw->nhw", shares, maps)


def principal(weighted: Tensor, count: int) -> Tensor:
    """(N, K, h, w): the positions' scores of the first principal components of (N, C, h, w), K <= `count`."""
    n, c, h, w = weighted.shape
    x = weighted.flatten(2)
    x = x - x.mean(2, keepdim=True)
    u, s, v = torch.linalg.svd(x.double() if x.device.type != "mps" else x, full_matrices=False)  # (N, C, r), (N, r)
    kept = max(min(count, c, h * w - 1), 1)  # centred positions span one dimension less; the rest is rounding noise
    signs = u.gather(1, u.abs().argmax(1, keepdim=True)).sign()  # of the largest weight of a channel
    found = (s[:, :, None] * v * signs.mT)[:, :kept]
    return found.to(weighted.dtype).reshape(n, kept, h, w)
