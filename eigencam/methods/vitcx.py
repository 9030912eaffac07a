r"""ViT-CX (Xie et al., Causality-Guided Explanations for Vision Transformers, IJCAI 2023).

Masks are made from the channels of the target layer (the last block's first norm), enlarged to the image and each
scaled to 0..1. Channels with a cosine distance below `distance` to all others of a group (complete linkage) are summed,
and the sum is scaled to 0..1. With M_i these masks, X the normalised image, p the class's probability and Z_i noise of
standard deviation `sigma`, in normalised values and different for each mask:

$$s_i = p(X \odot M_i + Z_i \odot (1 - M_i)) - p(X + Z_i \odot (1 - M_i)) + p(X), \qquad
  S = \frac{1}{n} \sum_i \frac{s_i M_i}{\sum_j M_j}$$

The second term removes the effect of the noise itself; dividing by the masks' sum corrects for positions that many of
them show.

Algorithm, defaults and formulas are those of the authors' code (vaynexie/CausalX-ViT@a120d99). There, a constant
channel is NaN, and so is the whole map; a position that no mask shows is NaN, too. Here a constant channel gives no
mask, and such a position is 0. Noise is a function of the seed and the image's position. Groups depend on rounding
where a distance is close to the limit.

Attention is not needed: any layer that can be read as a map will do.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from torch import Tensor

from eigencam.methods.parameter_checks import above_zero, at_least
from eigencam.methods.randomness import normal
from eigencam.methods.scorecam import unit
from eigencam.passes.forward import Forward
from eigencam.transfer import to_device, to_host


@dataclass(frozen=True, slots=True)
class ViTCX:
    """ViT-CX.

    Attributes:
        distance: cosine distance below which masks are merged.
        sigma: standard deviation of the noise.
        seed: seed of the noise.
        layer: the layer whose channels become masks; None: the target layer.

    Raises:
        ValueError: `distance` is not in 0..1, or `sigma` is below 0.
    """

    distance: float = 0.1
    sigma: float = 0.1
    seed: int = 0
    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Xie et al., IJCAI 2023"
    needs: ClassVar[str] = "2 M + 1 forwards, M masks, at most C"

    def __post_init__(self) -> None:
        above_zero(self, "distance", most=1)
        at_least(self, 0, "sigma")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32."""
        activations = forward.activations(self.layer)
        size = (forward.images.shape[2], forward.images.shape[3])
        (distances,) = to_host(torch.stack([distances_of(enlarged(a, size)) for a in activations]))()
        groups = [grouped(one.numpy(), self.distance) for one in distances]
        (labels,) = to_device(activations.device, torch.from_numpy(np.stack(groups)))
        p = forward.logits.softmax(1).gather(1, targets[:, None])[:, 0]
        maps = []
        for n, (a, group) in enumerate(zip(activations, groups, strict=True)):
            sums = a.new_zeros(int(group.max()) + 1, *size).index_add_(0, labels[n], enlarged(a, size))
            masks = unit(sums)[1:]  # group 0: constant channels
            scores = self._scores(forward, n, targets[n : n + 1], masks) + p[n]
            shown = masks.sum(0)
            total = torch.einsum("m,mhw->hw", scores, masks) / max(len(masks), 1)
            maps.append(torch.where(shown > 0, total / torch.where(shown > 0, shown, 1.0), 0.0))
        return torch.stack(maps)

    def _scores(self, forward: Forward, n: int, target: Tensor, masks: Tensor) -> Tensor:
        """(M,) probability with a mask and noise outside of it, minus that with the noise only."""
        image, index, count = forward.images[n].float(), forward.seeds[n : n + 1], len(masks)

        def inputs(part: slice) -> Tensor:
            made = []
            for k in range(part.start, part.stop):
                mask, shown = masks[k // 2], image if k % 2 else image * masks[k // 2]
                noise = self.sigma * normal(index, tuple(image.shape), self.seed * MOST_MASKS + k // 2)[0]
                made.append(shown + noise * (1 - mask))
            return torch.stack(made)

        if not count:
            return masks.new_zeros(0)
        answers = forward.predict(2 * count, inputs).softmax(1).gather(1, target.expand(2 * count)[:, None])
        with_mask, without = answers.view(count, 2).unbind(1)
        return with_mask - without


MOST_MASKS = 2**20
"""Keeps the seeds of one run's masks distinct from those of the next seed."""


def enlarged(activations: Tensor, size: tuple[int, int]) -> Tensor:
    """(C, H, W) float32: channels (C, h, w) at the image's size, each scaled to 0..1; a constant one is 0."""
    masks = unit(F.interpolate(activations[None], size, mode="bilinear", align_corners=False)[0])
    varies = (activations != activations[:, :1, :1]).any(2).any(1)  # an enlarged constant varies by rounding
    return torch.where(varies[:, None, None], masks, 0.0)


def distances_of(masks: Tensor) -> Tensor:
    """(C, C) cosine distances of (C, H, W); NaN on the diagonal of a constant mask."""
    flat = masks.flatten(1)
    norms = flat.norm(dim=1)
    unit = flat / torch.where(norms > 0, norms, 1.0)[:, None]
    distances = 1 - unit @ unit.T
    return distances.masked_fill_(torch.diag_embed(norms == 0), torch.nan)


def grouped(distances: NDArray[np.floating], limit: float) -> NDArray[np.int64]:
    """(C,) int64 groups by complete linkage, with all distances in a group below the limit; 0: constant masks.

    Groups are counted from 1 in the order of their first channels.
    """
    varies = np.flatnonzero(~np.isnan(np.diag(distances)))
    labels = np.zeros(len(distances), np.int64)
    if len(varies) < 2:
        labels[varies] = 1
        return labels
    apart = distances[np.ix_(varies, varies)].astype(np.float64)
    pairs = squareform(np.maximum(apart, 0), checks=False)  # rounding makes some distances of parallel masks negative
    found = fcluster(linkage(pairs, "complete"), np.nextafter(limit, 0), "distance")
    _, first, group = np.unique(found, return_index=True, return_inverse=True)
    labels[varies] = 1 + first.argsort().argsort()[group]
    return labels
