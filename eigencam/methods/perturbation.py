r"""Methods that measure changes of the score: Score-CAM and its relatives, Ablation-CAM, Shap-CAM, RISE, occlusion.

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
* Ablation-CAM (Ramaswamy & Desai, WACV 2020): $\alpha_k = (f - f_{\setminus k}) / f$ with channel k set to zero; only
  the layers behind the tapped one run again, and even less before a classifier of linear layers
  (`eigencam.passes.ablation`): on VGG-16 or ResNet-50 a map costs about two forward passes in all.
* Shap-CAM (Zheng et al., ECCV 2022, arXiv 2208.03608; only its abstract could be read): the Shapley value of each
  *position* of the activations, estimated over sampled permutations: positions are added in random order to the empty
  activation map, and each gets the change of the logit. A permutation and its reverse form a pair, which lowers the
  variance. The values of an image sum exactly to f(A) - f(0). The map ends with a ReLU, as in the paper's diagram;
  `signed` omits it.
* RISE (Petsiuk et al., BMVC 2018): $S = \frac{1}{N p} \sum_i f(X \odot M_i)\, M_i$ with f the probability and random
  masks: an s x s grid of Bernoulli(p) values, enlarged bilinearly to (s + 1) cells and cropped at a random offset.
  Beyond the grid's outermost values it is mirrored about them, as in the authors' code (eclique/RISE@d91ea00).
* Occlusion (Zeiler & Fergus, ECCV 2014): the drop of f under a window of mean colour, averaged over the windows that
  cover a pixel.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.methods.gradcam import weighted_sum
from eigencam.methods.parameter_checks import at_least, one_of
from eigencam.methods.randomness import normal, uniform
from eigencam.passes.ablation import logits_without
from eigencam.passes.forward import Forward
from eigencam.transfer import constant, made

if TYPE_CHECKING:
    from eigencam.networks.network import Network

Score = Literal["logit", "probability"]
SCORES: tuple[Score, ...] = ("logit", "probability")


@dataclass(frozen=True, slots=True)
class ScoreCAM:
    """Score-CAM; `channels`: use only this many, those with the largest sum (None: all)."""

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


@dataclass(frozen=True, slots=True)
class AblationCAM:
    """Ablation-CAM."""

    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Ramaswamy & Desai, WACV 2020"
    needs: ClassVar[str] = "1 forward, C times what lies behind the layer"
    networks: ClassVar[str] = "that `torch.fx` can trace"

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        activations = forward.activations(self.layer)
        left = logits_without(forward, self.layer or forward.layer)  # (N, C, K)
        left = left.gather(2, targets[:, None, None].expand(-1, left.shape[1], 1))[:, :, 0]
        full = forward.logits.gather(1, targets[:, None])
        weights = torch.where(full != 0, (full - left) / torch.where(full != 0, full, 1.0), 0.0)
        return weighted_sum(weights, activations).relu()

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        return uncut(network, self.layer)


@dataclass(frozen=True, slots=True)
class ShapCAM:
    """Shap-CAM with `permutations` permutations of the positions, in pairs of one and its reverse."""

    permutations: int = 10
    seed: int = 0
    signed: bool = False
    layer: str | None = None

    version = 2
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Zheng et al., ECCV 2022"
    caveat: ClassVar[str] = "a reading of the paper's abstract and diagram; its formulas were not at hand"
    needs: ClassVar[str] = "1 forward, P h w times what lies behind the layer"
    networks: ClassVar[str] = "that `torch.fx` can trace"

    def __post_init__(self) -> None:
        at_least(self, 1, "permutations")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32; with `signed` it sums to the logit minus that of an empty activation map."""
        activations = forward.activations(self.layer)
        n, _, h, w = activations.shape
        positions, count = h * w, self.permutations
        keys = uniform(forward.seeds, (ceil(count / 2), positions), self.seed)
        order = keys.argsort(dim=2, stable=True)  # (N, P / 2, hw)
        order = torch.stack([order, order.flip(2)], 2).flatten(1, 2)[:, :count]
        rank = torch.empty_like(order).scatter_(2, order, torch.arange(positions, device=order.device).expand_as(order))
        steps = positions + 1  # coalitions along a permutation, from none to all

        def coalition(part: slice) -> Tensor:
            place = torch.arange(part.start, part.stop, device=activations.device)
            image, permutation, size = place // (count * steps), place // steps % count, place % steps
            present = rank[image, permutation] < size[:, None]
            return activations[image] * present.view(-1, 1, h, w)

        logits = forward.predict(n * count * steps, coalition, self.layer or forward.layer)
        classes = targets.repeat_interleave(count * steps)
        values = logits.gather(1, classes[:, None]).view(n, count, steps).diff(dim=2)  # by place in the permutation
        found = values.gather(2, rank).mean(1).view(n, h, w)
        return found if self.signed else found.relu()

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        return uncut(network, self.layer)


@dataclass(frozen=True, slots=True)
class RISE:
    """RISE; the same masks serve all images."""

    masks: int = 4000
    cells: int = 7
    p: float = 0.5
    seed: int = 0

    version = 2
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Petsiuk et al., BMVC 2018"
    needs: ClassVar[str] = "M forwards"

    def __post_init__(self) -> None:
        if self.masks < 1 or self.cells < 1 or not 0 < self.p < 1:
            raise ValueError(
                f"masks={self.masks}, cells={self.cells}, p={self.p}; allowed: 1 or more, 1 or more, 0 < p < 1"
            )

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32, non-negative."""
        images = forward.images
        n, size = len(images), tuple(images.shape[2:])
        total = torch.zeros(n, *size, device=images.device)
        step = max(1, forward.chunk // n)
        for start in range(0, self.masks, step):
            masks = self.make(start, min(start + step, self.masks), size, images.device)

            def masked(part: slice, masks: Tensor = masks) -> Tensor:
                place = torch.arange(part.start, part.stop, device=images.device)
                return images[place % n] * masks[place // n, None].to(images.dtype)

            logits = forward.predict(len(masks) * n, masked)
            scores = logits.softmax(1).gather(1, targets.repeat(len(masks))[:, None]).view(len(masks), n)
            total += torch.einsum("mn,mhw->nhw", scores, masks)
        return total / (self.masks * self.p)

    def make(self, start: int, stop: int, size: tuple[int, ...], device: torch.device) -> Tensor:
        """(stop - start, H, W) float32 masks in 0..1; mask i depends only on (seed, i)."""
        index = torch.arange(start, stop, device=device)
        grid = (uniform(index, (self.cells, self.cells), 2 * self.seed) < self.p).float()
        cell = [ceil(side / self.cells) for side in size]
        down, right = (made(_mirrored, (self.cells, (self.cells + 1) * side), device, torch.float32) for side in cell)
        fine = down @ grid @ right.mT
        offset = (uniform(index, (2,), 2 * self.seed + 1) * constant(tuple(cell), device)).long()
        rows = offset[:, :1] + torch.arange(size[0], device=device)
        columns = offset[:, 1:] + torch.arange(size[1], device=device)
        return fine[torch.arange(len(index), device=device)[:, None, None], rows[:, :, None], columns[:, None]]


@dataclass(frozen=True, slots=True)
class Occlusion:
    """Occlusion by a square `window` that moves by `stride`, both in pixels of the network's input."""

    window: int = 32
    stride: int = 16
    score: Score = "probability"

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Zeiler & Fergus, ECCV 2014"
    needs: ClassVar[str] = "(H / stride)^2 forwards"

    def __post_init__(self) -> None:
        one_of(self, "score", SCORES)
        at_least(self, 1, "window", "stride")
        if self.stride > self.window:  # no window would cover the pixels between
            raise ValueError(f"stride={self.stride}, window={self.window}; allowed: a stride up to the window")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32, signed: positive where hiding lowers the score."""
        images = forward.images
        n, _, h, w = images.shape
        ends = (max(side - self.window, 0) + self.stride for side in (h, w))
        ys, xs = (torch.arange(0, end, self.stride, device=images.device) for end in ends)
        top, left = (corner.flatten() for corner in torch.meshgrid(ys, xs, indexing="ij"))
        rows = torch.arange(h, device=images.device)
        columns = torch.arange(w, device=images.device)
        covered_rows = (rows >= top[:, None]) & (rows < top[:, None] + self.window)  # (M, H)
        covered_columns = (columns >= left[:, None]) & (columns < left[:, None] + self.window)

        def hidden(part: slice) -> Tensor:
            place = torch.arange(part.start, part.stop, device=images.device)
            window = place // n
            covered = covered_rows[window, :, None] & covered_columns[window, None]
            return images[place % n].masked_fill(covered[:, None], 0)

        logits = forward.predict(len(top) * n, hidden)
        before, after = forward.logits, logits
        if self.score == "probability":
            before, after = before.softmax(1), after.softmax(1)
        after = after.gather(1, targets.repeat(len(top))[:, None]).view(-1, n)
        drop = before.gather(1, targets[:, None])[:, 0] - after  # (M, N)
        total = torch.einsum("mn,mh,mw->nhw", drop, covered_rows.float(), covered_columns.float())
        times = torch.einsum("mh,mw->hw", covered_rows.float(), covered_columns.float())
        return total / times.clamp(min=1)


def _mirrored(cells: int, side: int) -> Tensor:
    """(side, cells) float32: enlarges a line of values bilinearly, mirrored about its first and last value."""
    if cells == 1:
        return torch.ones(side, 1)
    place = (((torch.arange(side, dtype=torch.float64) + 0.5) * cells / side) - 0.5).abs()
    place = (cells - 1) - (cells - 1 - place).abs()
    below = place.floor().clamp(max=cells - 2).long()
    share = (place - below)[:, None]
    return ((1 - share) * F.one_hot(below, cells) + share * F.one_hot(below + 1, cells)).float()


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


def uncut(network: "Network", layer: str | None) -> str:
    """Why the network cannot be run from changed outputs of the layer; "" if it can."""
    from eigencam.passes.tail import fault

    reading = network.reading(layer or network.layer)
    if reading.front or reading.behind:
        return "it gives changed activations back to the network, and a map of tokens is without the class token"
    return fault(network.module, layer or network.layer, network.preprocess.shape)
