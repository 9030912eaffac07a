r"""Logistic regression with an l2 penalty, to its minimum: one binary problem per class, or one softmax.

With z the standardised features of n images, weights W (K, D) and an unpenalised bias b:

$$\min_{W, b}\; \sum_k \frac{1}{n_k} \sum_i \log(1 + e^{-y_{ik} (W_k z_i + b_k)}) + \frac{\lambda}{2} \|W\|^2$$

over the $n_k$ images that count for class k (y = 1 or -1). For exclusive classes the first term is the mean
cross-entropy. The minimum is unique, up to a constant added to all biases of a softmax. L-BFGS finds it in float64
starting from zero, so the result does not depend on a seed. scikit-learn's `C` is $1 / (n \lambda)$. The
standardisation is folded back into the weights: those returned are for the original features.

A class without a positive or without a negative image has no minimum: its weights are 0, and its bias is the log-odds
of (positives + 0.5) among (n + 1).
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

ITERATIONS = 2000
GRADIENT = 1e-7
"""Largest entry of the gradient at which the search ends."""


class Regression(NamedTuple):
    """Result of the fit.

    Attributes:
        weight: (K, D) float64.
        bias: (K,) float64.
        fitted: (K,) bool: the classes that could be fitted.
        loss: the objective.
        gradient: its largest entry.
        evaluations: how often loss and gradient were computed.
    """

    weight: Tensor
    bias: Tensor
    fitted: Tensor
    loss: float
    gradient: float
    evaluations: int


def regress(features: Tensor, labels: Tensor, l2: float, exclusive: bool) -> Regression:
    """Fit all classes.

    Args:
        features: (n, D).
        labels: (n, K) int64: 1, 0, or -1 if an image does not count for a class; if exclusive, one 1 per row.
        l2: the factor lambda.
        exclusive: whether an image belongs to exactly one class.
    """
    x = features.double()
    mean, scale = x.mean(0), x.std(0, correction=0)
    scale = torch.where(scale > 0, scale, 1.0)
    z = (x - mean) / scale
    positives, negatives = ((labels == value).sum(0).double() for value in (1, 0))
    bias = ((positives + 0.5) / (negatives + 0.5)).log()
    fitted = (positives > 0) & (negatives > 0)
    weight = z.new_zeros(labels.shape[1], z.shape[1])
    w, b = weight[fitted].requires_grad_(), bias[fitted].requires_grad_()
    chosen = labels[:, fitted]
    search = torch.optim.LBFGS(
        [w, b],
        max_iter=ITERATIONS,
        max_eval=2 * ITERATIONS,
        tolerance_grad=GRADIENT,
        tolerance_change=0.0,
        history_size=20,
        line_search_fn="strong_wolfe",
    )
    evaluations = 0

    def objective() -> Tensor:
        nonlocal evaluations
        evaluations += 1
        search.zero_grad()
        value = loss(z @ w.T + b, chosen, exclusive) + l2 / 2 * w.square().sum()
        value.backward()
        return value

    value = torch.tensor(0.0)
    if len(chosen.T):
        with torch.enable_grad():
            search.step(objective)  # type: ignore[arg-type]
            value = objective()
    gradient = max([g.abs().max().item() for g in (w.grad, b.grad) if g is not None], default=0.0)
    weight[fitted], bias[fitted] = w.detach(), b.detach()
    weight = weight / scale
    return Regression(weight, bias - weight @ mean, fitted, value.item(), gradient, evaluations)


def loss(logits: Tensor, labels: Tensor, exclusive: bool) -> Tensor:
    """Mean cross-entropy over the images; for classes that are not exclusive, its sum over the classes.

    Args:
        logits: (n, K).
        labels: (n, K) int64, see `regress`.
        exclusive: whether an image belongs to exactly one class.
    """
    if exclusive:
        return F.cross_entropy(logits, labels.argmax(1))
    counts = labels >= 0
    each = F.binary_cross_entropy_with_logits(logits, labels.clamp(min=0).to(logits), reduction="none")
    return ((each * counts).sum(0) / counts.sum(0).clamp(min=1)).sum()
