r"""Feature explanation by a k-sigma rule (FEM): which positions are outliers in which channels. No class, no gradient.

With A the activations, $\mu_k$ and $\sigma_k$ the mean and standard deviation of channel k over its positions:

* FEM (Fuad et al., IPTA 2020; as in Xplique, whose code follows the paper):
  $L = \sum_k \mu_k\, [A_k \ge \mu_k + 2 \sigma_k]$.
* `fem_share` is what pytorch-grad-cam calls FEM (`weights: share`): with $s_k$ the share of the positions where
  $A_k > \mu_k + 2 \sigma_k$, $L = \sum_k s_k A_k$. It weights the activations themselves, so the map contains the
  values that the k-sigma rule should exclude: another method, with another name.

The deviation is the population one (divided by the number of positions), as in both codes.

    >>> import torch
    >>> binary = torch.tensor([[0.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 0.0]])  # mean 1, deviation 2.83
    >>> k_sigma(binary[None, None], 2.0, "mean")[0, 1].tolist()
    [0.0, 1.0, 0.0]
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from eigencam.methods.parameter_checks import at_least, one_of
from eigencam.passes.forward import Forward

Weights = Literal["mean", "share"]
WEIGHTS: tuple[Weights, ...] = ("mean", "share")


@dataclass(frozen=True, slots=True)
class FEM:
    """FEM with a threshold `k` deviations above the mean; `weights: share` is pytorch-grad-cam's variant."""

    k: float = 2.0
    weights: Weights = "mean"
    layer: str | None = None

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = False
    paper: ClassVar[str] = "Fuad et al., IPTA 2020"
    needs: ClassVar[str] = "1 forward"

    def __post_init__(self) -> None:
        one_of(self, "weights", WEIGHTS)
        at_least(self, 0, "k")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative for non-negative activations."""
        return k_sigma(forward.activations(self.layer), self.k, self.weights)


def k_sigma(activations: Tensor, k: float, weights: Weights) -> Tensor:
    """(N, h, w) of (N, C, h, w) activations."""
    mean = activations.mean((2, 3), keepdim=True)
    limit = mean + k * activations.std((2, 3), correction=0, keepdim=True)
    if weights == "mean":
        return ((activations >= limit) * mean).sum(1)
    return ((activations > limit).float().mean((2, 3), keepdim=True) * activations).sum(1)
