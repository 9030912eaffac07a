"""A pass with other scores in place of its logits; activations, graph and images are shared.

`rescored(forward, lambda logits: logits[:, :1] - logits[:, 1:2]).gradients(zeros)` are the gradients of a difference
of two logits with respect to the layers tapped in `forward`, at the cost of one more backward pass.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from eigencam.passes.forward import Forward, Gradients

Scores = Callable[[Tensor], Tensor]
"""Differentiable function from (N, K) logits to (N, K') scores; each row depends on its own image only."""


class Rescored(Forward):
    """See `rescored`."""

    def __init__(self, forward: Forward, scores: Scores) -> None:
        super().__init__(
            forward.module,
            forward.images,
            forward.index,
            forward.layer,
            scores(forward.logits),
            forward._taps,
            with_graph=forward._with_graph,
            readings=forward.readings,
            chunk=forward.chunk,
            progress=forward.progress,
        )
        self._of, self._scores = forward, scores
        self.ids, self.original, self.regions = forward.ids, forward.original, forward.regions
        self.black, self.white, self.preprocess = forward.black, forward.white, forward.preprocess
        self.population = forward.population
        self._pixels, self._seeds = forward._pixels, forward._seeds

    def _backward(self, targets: Tensor) -> Gradients:
        """The gradients of the targets' scores: first with respect to the logits, then through the network."""
        with torch.inference_mode(False), torch.enable_grad():
            logits = self._of.logits.clone().requires_grad_()
            score = self._scores(logits).gather(1, targets[:, None].clone())
            (seed,) = torch.autograd.grad(score.sum(), logits)
        return self._of.backward_of(seed)


def rescored(forward: Forward, scores: Scores) -> Forward:
    """Return the pass with `scores` in place of its logits; for methods that make no passes of their own.

    Args:
        forward: made with gradients if they are needed.
        scores: see `Scores`.
    """
    with torch.no_grad():
        return Rescored(forward, scores)
