r"""Linear support vector machines, one for each class against the others, to their minimum.

$$\min_{w_k, b_k}\; \tfrac12 \|w_k\|^2 + C \sum_i \max(0, 1 - y_{ik} (w_k x_i + b_k))^2$$

with y = 1 for the images of class k and -1 for all others. The squared hinge is smooth, so L-BFGS finds the unique
minimum in float64, from zero and without a seed. Features are centred and divided by one number, only for conditioning.
"""

import torch
from torch import Tensor

ITERATIONS = 1000
GRADIENT = 1e-6
"""Largest entry of the gradient, per unit of C and image, at which the search ends."""


def linear_svm(features: Tensor, labels: Tensor, classes: int, penalty: float) -> tuple[Tensor, Tensor]:
    """Return weights (K, D) and biases (K,), float64.

    Args:
        features: (n, D).
        labels: (n,) classes.
        classes: their number K.
        penalty: C.
    """
    x = features.double()
    mean = x.mean(0)
    scale = (x - mean).square().mean().sqrt().clamp(min=1e-12)
    z = (x - mean) / scale
    signs = 2 * torch.nn.functional.one_hot(labels, classes).double() - 1
    w, b = z.new_zeros(classes, z.shape[1]).requires_grad_(), z.new_zeros(classes).requires_grad_()
    search = torch.optim.LBFGS(
        [w, b], max_iter=ITERATIONS, max_eval=2 * ITERATIONS, tolerance_grad=GRADIENT, tolerance_change=0.0,
        history_size=20, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def objective() -> Tensor:
        search.zero_grad()
        hinge = (1 - signs * (z @ w.T + b)).clamp(min=0).square().sum()
        value = (0.5 * w.square().sum() / scale**2 + penalty * hinge) / (penalty * len(z))
        value.backward()
        return value

    with torch.enable_grad():
        search.step(objective)  # type: ignore[arg-type]
    weight = w.detach() / scale
    return weight, b.detach() - weight @ mean
