r"""gScoreCAM: Score-CAM of the channels with the largest gradients, made for networks of text and images.

gScoreCAM (Chen et al., ACCV 2022), as in the authors' code (anguyen8/gScoreCAM@87c35a1): each of the `channels` with
the largest (signed) mean gradient of the class's logit with respect to the activations A is enlarged to the image and
scaled to 0..1 as a mask $M_k$. Its score is the logit of the image under the mask; the other channels' score is 0:

$$s_k = f_c(X \odot M_k), \quad s_j = 0 \text{ for the rest}, \qquad
  L = \operatorname{ReLU}\Big(\sum_k \operatorname{softmax}(s)_k\, A_k\Big)$$

The softmax is over *all* channels, so channels that are not chosen have the weight of a score of 0. If logits are large
and positive, like CLIP's (100 times a cosine), that weight is negligible; otherwise all channels contribute. If no
channel has a gradient, none is chosen, and the map is 0. Masks are enlarged from corner to corner, as theirs are;
theirs are divided by their range plus 1e-6.

For CLIP the logit is that of a text's embedding: `eigencam.targets.embedding(reference, scale=100)`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eigencam.methods.gradcam import weighted_sum
from eigencam.methods.scorecam import masked_scores
from eigencam.passes.forward import Forward


@dataclass(frozen=True, slots=True)
class GScoreCAM:
    """gScoreCAM of `channels` channels."""

    channels: int = 300
    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Chen et al., ACCV 2022"
    needs: ClassVar[str] = "301 forwards, 1 backward"

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"channels={self.channels}; allowed: 1 or more")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        activations = forward.activations(self.layer)
        importance = forward.gradients(targets, self.layer).mean((2, 3))
        chosen = importance.topk(min(self.channels, importance.shape[1]), dim=1).indices
        taken = activations[torch.arange(len(chosen), device=chosen.device)[:, None], chosen]
        found = masked_scores(forward, targets, taken, lambda masks, _of: masks, 1, "logit", corners=True)
        scores = torch.zeros_like(importance).scatter(1, chosen, found)
        nonzero = importance.ne(0).any(1)[:, None, None]
        return torch.where(nonzero, weighted_sum(scores.softmax(1), activations).relu(), 0.0)
