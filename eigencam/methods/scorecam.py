r"""Score-CAM, SS-CAM and IS-CAM: channels weighted by the network's output for the image under each channel's mask.

f is the network's output for the class and X the normalised image, so 0 is the mean colour; $M_k = s(U(A_k))$ is
channel k of the activations, enlarged bilinearly to the image and scaled to 0..1.

* Score-CAM (Wang et al., CVPR Workshops 2020): $\alpha = \operatorname{softmax}_k\, [f(X \odot M_k) - f(0)]$ with f the
  logit, $L = \operatorname{ReLU}(\sum_k \alpha_k A_k)$. The public codes weight with the softmax probability of the
  class instead, with no softmax over channels: `weights: probability`.
* SS-CAM (Wang et al. 2020, arXiv 2006.14255): the mean of f over `samples` masks $M_k + \text{noise}$, with noise of
  standard deviation `sigma`, the same for all channels, so that they are compared under equal conditions. The paper's
  text could not be read: noise, its size and the number of samples are torchcam's. A summary of the paper has 10
  samples.
* IS-CAM (Naidu et al. 2020, arXiv 2010.03023): the mean of f over the masks $\frac{i}{n} M_k$, i = 1..n. The paper's
  text could not be read; torchcam's factors are the cumulative sums of these, so its masks exceed 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.methods.gradcam import weighted_sum
from eigencam.methods.parameter_checks import at_least, one_of
from eigencam.methods.randomness import normal
from eigencam.passes.forward import Forward

Score = Literal["logit", "probability"]


SCORES: tuple[Score, ...] = ("logit", "probability")


@dataclass(frozen=True, slots=True)
class ScoreCAM:
    """Score-CAM; `channels`: use only this many, those with the largest sum of absolute values (None: all)."""

    weights: Score = "logit"
    channels: int | None = None
    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Wang et al., CVPR Workshops 2020"
    needs: ClassVar[str] = "C + 1 forwards"

    def __post_init__(self) -> None:
        one_of(self, "weights", SCORES)
        at_least(self, 1, "channels", null=True)

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        activations = strongest(forward.activations(self.layer), self.channels)
        scores = masked_scores(forward, targets, activations, lambda masks, _of: masks, 1, self.weights)
        if self.weights == "logit":
            black = forward.predict(1, lambda _part: torch.zeros_like(forward.images[:1]))
            scores = (scores - black[0, targets][:, None]).softmax(1)
        return weighted_sum(scores, activations).relu()


@dataclass(frozen=True, slots=True)
class SSCAM:
    """SS-CAM with `samples` noisy masks per channel."""

    samples: int = 35
    sigma: float = 2.0
    weights: Score = "logit"
    seed: int = 0
    channels: int | None = None
    layer: str | None = None

    version = 2
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Wang et al., arXiv 2020"
    caveat: ClassVar[str] = "the paper's text could not be read; noise, sigma and samples are torchcam's"
    needs: ClassVar[str] = "S C + 1 forwards"

    def __post_init__(self) -> None:
        one_of(self, "weights", SCORES)
        at_least(self, 1, "channels", null=True)
        at_least(self, 1, "samples")
        at_least(self, 0, "sigma")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        activations = strongest(forward.activations(self.layer), self.channels)
        index, size = forward.seeds, tuple(forward.images.shape[2:])
        noise = self.sigma * normal(index, (self.samples, *size), self.seed)  # the same for all channels of an image

        def noisy(masks: Tensor, places: Tensor) -> Tensor:
            return masks + noise[places[0], places[1] // activations.shape[1]]

        scores = masked_scores(forward, targets, activations, noisy, self.samples, self.weights)
        return weighted_sum(scores.softmax(1) if self.weights == "logit" else scores, activations).relu()


@dataclass(frozen=True, slots=True)
class ISCAM:
    """IS-CAM with `samples` steps from a dark to the whole mask."""

    samples: int = 10
    weights: Score = "logit"
    channels: int | None = None
    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Naidu et al., arXiv 2020"
    caveat: ClassVar[str] = "the paper's text could not be read; masks are dimmed by i / n, which torchcam sums up"
    needs: ClassVar[str] = "S C + 1 forwards"

    def __post_init__(self) -> None:
        one_of(self, "weights", SCORES)
        at_least(self, 1, "channels", null=True)
        at_least(self, 1, "samples")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        activations = strongest(forward.activations(self.layer), self.channels)

        def dimmed(masks: Tensor, places: Tensor) -> Tensor:
            step = places[1] // activations.shape[1] + 1
            return masks * (step / self.samples)[:, None, None]

        scores = masked_scores(forward, targets, activations, dimmed, self.samples, self.weights)
        return weighted_sum(scores.softmax(1) if self.weights == "logit" else scores, activations).relu()


def masked_scores(
    forward: Forward,
    targets: Tensor,
    activations: Tensor,
    change: Callable[[Tensor, Tensor], Tensor],
    samples: int,
    score: Score,
    *,
    corners: bool = False,
) -> Tensor:
    """(N, C) mean score of the image under each channel's mask, over `samples` changes of the mask.

    Args:
        forward: the pass.
        targets: (N,) classes.
        activations: (N, C, h, w).
        change: (masks (B, H, W), places (2, B)) -> (B, H, W); `places` holds image and sample * C + channel of each.
        samples: number of changes per mask.
        score: `logit` or `probability`.
        corners: whether masks are enlarged from corner to corner, not from edge to edge.
    """
    images = forward.images
    (n, c), size = activations.shape[:2], images.shape[2:]

    def masked(part: slice) -> Tensor:
        place = torch.arange(part.start, part.stop, device=images.device)
        image, rest = place // (samples * c), place % (samples * c)
        masks = F.interpolate(activations[image, rest % c][:, None], size, mode="bilinear", align_corners=corners)
        masks = change(unit(masks[:, 0]), torch.stack([image, rest]))
        return images[image] * masks[:, None].to(images.dtype)

    logits = forward.predict(n * samples * c, masked)
    answers = logits if score == "logit" else logits.softmax(1)
    classes = targets.repeat_interleave(samples * c)
    return answers.gather(1, classes[:, None]).view(n, samples, c).mean(1)


def strongest(activations: Tensor, channels: int | None) -> Tensor:
    """(N, min(C, channels), h, w): each image's channels with the largest sum of absolute values."""
    if channels is None or channels >= activations.shape[1]:
        return activations
    kept = activations.abs().sum((2, 3)).topk(channels, dim=1).indices
    return activations[torch.arange(len(activations), device=kept.device)[:, None], kept]


def unit(masks: Tensor) -> Tensor:
    """(B, H, W) scaled to 0..1; a constant mask is 0."""
    low, high = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
    return torch.where(high > low, (masks - low) / torch.where(high > low, high - low, 1.0), 0.0)
