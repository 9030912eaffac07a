r"""Finer-CAM: a map of what distinguishes a class from the classes that the network confuses it with.

Finer-CAM (Zhang et al., CVPR 2025, arXiv 2501.11309) explains the following score instead of the logit $y_c$, by any
method that reads activations and gradients:

$$s = y_c - \alpha \sum_{i \in R} w_i\, y_i, \qquad w_i = p_i / \sum_{j \in R} p_j$$

with R the `references` classes whose logits are nearest to $y_c$, and p the softmax of all logits. The gradient is
taken through the weights, too, as in the authors' code (Imageomics/Finer-CAM@564ad2c, adopted by pytorch-grad-cam),
which has three references and $\alpha = 1$. With one reference the weight is 1.

`finercam_mean` is what torchcam calls Finer-CAM: equal weights, $s = y_c - \gamma\, \operatorname{mean}_i y_i$ with
$\gamma = 0.6$ (`weights: equal`, `alpha: 0.6`).

The references are chosen by the logits of the image itself; the class is never its own reference. `method` explains the
score: Grad-CAM, or `method=finercam/layercam` and so on. `eigencam.targets.finer` is the same score as a target, which
every class-specific method can explain, including those with passes of their own.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from eigencam.methods.base import Method, maps_of
from eigencam.methods.eigencam_variants import EigenGradCAM
from eigencam.methods.gradcam import GradCAM, GradCAMPlusPlus
from eigencam.methods.gradient_weighted import HiResCAM, LayerCAM, XGradCAM
from eigencam.methods.parameter_checks import at_least, one_of
from eigencam.methods.wrapping import Wrapping
from eigencam.passes.finer_score import WEIGHTS, Weights, contrasted, nearest
from eigencam.passes.forward import Forward
from eigencam.passes.other_scores import rescored

if TYPE_CHECKING:
    from eigencam.networks.network import Network

BASES = (GradCAM, GradCAMPlusPlus, XGradCAM, HiResCAM, LayerCAM, EigenGradCAM)
"""Methods that read only activations and gradients of the shared pass."""


@dataclass(frozen=True, slots=True)
class FinerCAM(Wrapping):
    """Finer-CAM with an inner `method`; `weights: equal` is torchcam's variant.

    Attributes:
        method: explains the score.
        alpha: factor of the references.
        references: their number; all other classes if the network has fewer.
        weights: `probability` or `equal`.
    """

    method: Method
    alpha: float = 1.0
    references: int = 3
    weights: Weights = "probability"

    version = 1
    paper: ClassVar[str] = "Zhang et al., CVPR 2025"
    needs: ClassVar[str] = "1 forward, 1 backward"

    def __post_init__(self) -> None:
        one_of(self, "weights", WEIGHTS)
        at_least(self, 1, "references")
        at_least(self, 0, "alpha")
        if not isinstance(self.method, BASES):
            allowed = ", ".join(base.__name__ for base in BASES)
            raise ValueError(
                f"method={type(self.method).__name__}; allowed for Finer-CAM, which changes the score of the shared "
                f"pass: {allowed}; for others give `target=eigencam.targets.finer(label)` in Python"
            )

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32 maps of `method`."""
        if forward.logits.shape[1] < 2:
            raise ValueError("Finer-CAM compares classes, and the network has one output")
        key = ("finer", self.alpha, self.references, self.weights, id(targets))
        contrast, first, _ = forward.shared(key, lambda: self._contrast(forward, targets))
        return maps_of(self.method, contrast, first)

    def _contrast(self, forward: Forward, targets: Tensor) -> tuple[Forward, Tensor, Tensor]:
        """The pass with the score as its only output, its index, and the classes: shared by all methods."""
        compared = nearest(forward.logits, targets, self.references)

        def score(logits: Tensor) -> Tensor:
            return contrasted(logits, targets, compared, self.alpha, self.weights)[:, None]

        return rescored(forward, score), torch.zeros_like(targets), targets

    def unsupported(self, network: "Network") -> str:
        """Why it cannot run on this network; "" if it can."""
        black = torch.zeros(1, *network.preprocess.input_shape, dtype=torch.uint8)
        if network.forward(black).logits.shape[1] < 2:
            return "it compares classes, and the network has one output"
        return self.refusal_within(network)
