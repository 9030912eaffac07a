r"""Shap-CAM (Zheng et al., ECCV 2022, arXiv 2208.03608): Shapley values of the activations' positions.

Only the abstract could be read. The Shapley value of each *position* of the activations A is estimated over sampled
permutations: positions are added in random order to the empty activation map, and each gets the change of the class's
logit f. A permutation and its reverse form a pair, which lowers the variance. The values of an image sum exactly to
f(A) - f(0). The map ends with a ReLU, as in the paper's diagram; `signed` omits it.
"""

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from eigencam.methods.parameter_checks import at_least
from eigencam.methods.randomness import uniform
from eigencam.methods.refusal import uncut
from eigencam.passes.forward import Forward

if TYPE_CHECKING:
    from eigencam.networks.network import Network


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
    needs: ClassVar[str] = "1 forward; P h w times what lies behind the layer"
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
