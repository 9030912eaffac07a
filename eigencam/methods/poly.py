r"""Poly-CAM: a deep layer's map, refined step by step by the maps of earlier layers.

Poly-CAM (Englebert et al., ICPR 2022, arXiv 2204.13359). For each of several layers, from the deepest to the finest,

$$L_l = \operatorname{ReLU}\Big(\sum_k w_k A_k\Big), \qquad
  P_l = \frac{L_l}{U(D(L_l))} \odot U(P_{l+1}), \qquad P_\text{deepest} = L_\text{deepest}$$

where D resizes $L_l$ to the deeper map's size and U back, both bilinearly: the fraction keeps the variation inside the
deeper map's cells. With M_k the channel as a mask (below), p the class's probability and X the normalised image, so
0 is the mean colour,

| `weights` | w_k |
|---|---|
| `plus` | $p(X \odot M_k)$ |
| `minus` | $\operatorname{ReLU}(p(X) - p(X \odot (1 - M_k)))$ |
| `both` | $\operatorname{ReLU}(p(X \odot M_k) + p(X) - p(X \odot (1 - M_k)))$ |

$M_k$ is the channel minus its 0.1 percentile, divided by its 99.9 percentile (not by the range), clipped to 0..1, then
enlarged, as in the authors' code (andralex8/polycam@8003dc6). `layers` are the network's stages
(`eigencam.methods.stages`) or the named layers, in the order of the pass. For VGG-16 the stages are the authors'
layers; for ResNets the authors' search ends inside the next block.

`channels` limits the cost: in each layer only this many are used, those with the largest sum.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.methods.gradcam import weighted_sum
from eigencam.methods.parameter_checks import at_least, one_of
from eigencam.methods.scorecam import strongest
from eigencam.methods.stages import stages
from eigencam.passes.forward import Forward

Weights = Literal["plus", "minus", "both"]
WEIGHTS: tuple[Weights, ...] = ("plus", "minus", "both")
OUTLIERS = 0.001
"""Share of a channel's values at either end that is ignored for a mask's scale."""


@dataclass(frozen=True, slots=True)
class PolyCAM:
    """Poly-CAM over `layers`; empty: over the network's stages."""

    weights: Weights = "both"
    layers: Sequence[str] = ()
    channels: int | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Englebert et al., ICPR 2022"
    needs: ClassVar[str] = "C + 2 forwards for the C channels of all layers; weights both: twice"

    def __post_init__(self) -> None:
        one_of(self, "weights", WEIGHTS)
        at_least(self, 1, "channels", null=True)

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative, at the first layer's size."""
        names, current = tuple(self.layers), forward
        if not names:
            found = stages(forward)
            names, current = tuple(found), forward.repeat(forward.images, found, gradients=False)
        refined: Tensor | None = None
        for name in reversed(names):
            activations = strongest(current.activations(name), self.channels)
            cam = weighted_sum(self._weights(forward, targets, activations), activations).relu()[:, None]
            if refined is not None:
                cam = cam / _sized(_sized(cam, refined), cam).clamp(min=1e-12) * _sized(refined, cam)
            refined = cam
        assert refined is not None  # there is at least one layer
        return refined[:, 0]

    def _weights(self, forward: Forward, targets: Tensor, activations: Tensor) -> Tensor:
        """(N, C) float32."""
        masks = channel_masks(activations)
        whole = forward.logits.softmax(1).gather(1, targets[:, None])
        kept = self._scores(forward, targets, masks, hide=False) if self.weights != "minus" else 0.0
        lost = whole - self._scores(forward, targets, masks, hide=True) if self.weights != "plus" else 0.0
        weights = torch.as_tensor(kept + lost)
        return weights if self.weights == "plus" else weights.relu()

    def _scores(self, forward: Forward, targets: Tensor, masks: Tensor, *, hide: bool) -> Tensor:
        """(N, C) probabilities of the image under each mask or, with `hide`, without the part that it shows."""
        (n, c), images = masks.shape[:2], forward.images

        def masked(part: slice) -> Tensor:
            place = torch.arange(part.start, part.stop, device=images.device)
            mask = masks[place // c, place % c][:, None]
            shown = F.interpolate(mask, images.shape[2:], mode="bilinear", align_corners=False)
            return images[place // c] * (1 - shown if hide else shown).to(images.dtype)

        answers = forward.predict(n * c, masked).softmax(1)
        return answers.gather(1, targets.repeat_interleave(c)[:, None]).view(n, c)


def channel_masks(activations: Tensor) -> Tensor:
    """(N, C, h, w) in 0..1 of (N, C, h, w) activations."""
    ordered = activations.flatten(2).sort(dim=2).values
    low, high = (_percentile(ordered, share)[..., None, None] for share in (OUTLIERS, 1 - OUTLIERS))
    return ((activations - low) / high.clamp(min=1e-12)).clamp(0, 1)


def _percentile(ordered: Tensor, share: float) -> Tensor:
    """(N, C) percentiles of (N, C, P) values in ascending order, interpolated."""
    place = share * (ordered.shape[2] - 1)
    below = int(place)
    above = min(below + 1, ordered.shape[2] - 1)
    return torch.lerp(ordered[..., below], ordered[..., above], place - below)


def _sized(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, like.shape[2:], mode="bilinear", align_corners=False)
