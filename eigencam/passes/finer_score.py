"""Finer-CAM's score: by how much a class's logit exceeds the logits nearest to it; see `eigencam.methods.finer`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from eigencam.passes.calls import RefusedError, logits_of

if TYPE_CHECKING:
    from typing import Self

Weights = Literal["probability", "equal"]
WEIGHTS: tuple[Weights, ...] = ("probability", "equal")


def nearest(logits: Tensor, targets: Tensor, count: int) -> Tensor:
    """(N, R) int64: the other classes with the logits (N, K) nearest to the target's; ties go to the first."""
    away = (logits - logits.gather(1, targets[:, None])).abs().scatter(1, targets[:, None], torch.inf)
    return away.argsort(dim=1, stable=True)[:, : min(count, logits.shape[1] - 1)]


def contrasted(logits: Tensor, targets: Tensor, compared: Tensor, alpha: float, weights: Weights) -> Tensor:
    """(N,) the target's logit minus `alpha` times the weighted mean of the logits that it is compared with.

    Args:
        logits: (N, K).
        targets: (N,) classes.
        compared: (N, R) classes.
        alpha: share of the mean.
        weights: the softmax over the compared classes (proportional to that over all), or equal.

    >>> logits = torch.tensor([[5.0, 1.0, 3.0]])
    >>> contrasted(logits, torch.tensor([0]), torch.tensor([[2, 1]]), 0.5, "equal").tolist()
    [4.0]
    """
    others = logits.gather(1, compared)
    mean = others.mean(1) if weights == "equal" else (others.softmax(1) * others).sum(1)
    return logits.gather(1, targets[:, None])[:, 0] - alpha * mean


@dataclass(frozen=True, slots=True)
class Contrast:
    """The score as a target: the compared classes are those nearest on the explained image."""

    label: int
    alpha: float
    references: int
    weights: Weights
    compared: tuple[int, ...] = ()

    def __call__(self, output: Any) -> Tensor:
        """(N,) scores of a network's output."""
        logits = self._logits(output)
        targets = torch.full((len(logits),), self.label, device=logits.device)
        if self.compared:
            compared = torch.tensor([self.compared], device=logits.device).expand(len(logits), -1)
        else:
            compared = nearest(logits, targets, self.references)
        return contrasted(logits, targets, compared, self.alpha, self.weights)

    def on(self, output: Any, view: object) -> "Self":
        """Return the score with the nearest classes on this image."""
        logits = self._logits(output)
        found = nearest(logits, torch.full((len(logits),), self.label, device=logits.device), self.references)
        return type(self)(self.label, self.alpha, self.references, self.weights, tuple(found[0].tolist()))

    def _logits(self, output: Any) -> Tensor:
        logits = logits_of(output)
        if not 0 <= self.label < logits.shape[1] or logits.shape[1] < 2:
            raise RefusedError(f"class {self.label} is to be compared; the network has 0 to {logits.shape[1] - 1}")
        return logits

    def __str__(self) -> str:
        return f"class {self.label} compared"
