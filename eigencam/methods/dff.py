r"""DFF, deep feature factorisation: the concept of an image with the highest probability of the class.

Deep feature factorisation (Collins et al., ECCV 2018): the activations of an image, a matrix A of C channels and $h w$
positions, are $A \approx W H$ with W (C x k) and H (k x hw) not negative and $\lVert A - W H\rVert_F$ small. A row of H
is the map of a concept, a column of W its embedding. As in pytorch-grad-cam, each channel's minimum over the positions
is subtracted from A before and added to W after, so activations may be negative. W and H begin with absolute values of
normal noise times $\sqrt{\operatorname{mean} A / k}$; `steps` rounds of coordinate descent, as in scikit-learn, then
improve them, for each image alone. The noise decides in which of several minima the descent ends.

The map for a class is that of one concept: the one whose embedding, placed at every position of the layer, has the
highest probability of the class. pytorch-grad-cam labels concepts in the same way, by the classifier behind the pooled
layer.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from eigencam.methods.randomness import normal
from eigencam.methods.refusal import uncut
from eigencam.passes.forward import Forward

if TYPE_CHECKING:
    from eigencam.networks.network import Network


@dataclass(frozen=True, slots=True)
class DFF:
    """Deep feature factorisation into `concepts`, by `steps` rounds of coordinate descent."""

    concepts: int = 5
    steps: int = 200
    seed: int = 0
    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Collins et al., ECCV 2018"
    needs: ClassVar[str] = "1 forward; K times what lies behind the layer for K concepts"
    networks: ClassVar[str] = "that `torch.fx` can trace"

    def __post_init__(self) -> None:
        if self.concepts < 1 or self.steps < 1:
            raise ValueError(f"concepts={self.concepts}, steps={self.steps}; allowed: 1 or more, 1 or more")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        embeddings, maps = self.factors(forward)
        n, count, h, w = maps.shape
        spread = embeddings.flatten(0, 1)[:, :, None, None]

        def everywhere(part: slice) -> Tensor:
            return spread[part].expand(-1, -1, h, w)

        answers = forward.predict(n * count, everywhere, self.layer or forward.layer).softmax(1)
        answers = answers.gather(1, targets.repeat_interleave(count)[:, None]).view(n, count)
        return maps[torch.arange(n, device=maps.device), answers.argmax(1)]

    def factors(self, forward: Forward) -> tuple[Tensor, Tensor]:
        """(N, K, C) embeddings and (N, K, h, w) maps of the concepts, float32."""
        activations = forward.activations(self.layer)
        a = activations.flatten(2)
        offset = a.amin(2, keepdim=True)
        w, h = self.start(a - offset, forward.seeds)
        w, h = descend(a - offset, w, h, self.steps)
        return (w + offset).mT, h.view(len(a), -1, *activations.shape[2:])

    def start(self, a: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, K) and (N, K, P): the starting point of the descent for (N, C, P)."""
        scale = (a.mean((1, 2), keepdim=True) / self.concepts).sqrt()
        drawn = (normal(index, (side, self.concepts), 2 * self.seed + k) for k, side in enumerate(a.shape[1:]))
        w, h = (scale * noise.abs().to(a.dtype) for noise in drawn)
        return w, h.mT

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        return uncut(network, self.layer)


def descend(a: Tensor, w: Tensor, h: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """Return non-negative (N, C, K) and (N, K, P) for (N, C, P) after rounds of coordinate descent from `w` and `h`."""
    for _ in range(steps):
        w = _improved(w, h @ h.mT, a @ h.mT)
        h = _improved(h.mT, w.mT @ w, a.mT @ w).mT
    return w, h


def _improved(w: Tensor, gram: Tensor, product: Tensor) -> Tensor:
    """(N, C, K): each component in turn set to its best value, given the others."""
    parts = list(w.unbind(2))
    for k in range(len(parts)):
        slope = (torch.stack(parts, 2) @ gram[:, :, k, None])[:, :, 0] - product[:, :, k]
        bend = gram[:, k, k, None]
        parts[k] = (parts[k] - torch.where(bend > 0, slope / torch.where(bend > 0, bend, 1.0), 0.0)).clamp(min=0)
    return torch.stack(parts, 2)
