r"""Guided IG: gradients integrated along a path that changes what matters least first.

Guided IG (Kapishnikov et al., CVPR 2021): with f the class's logit, x the normalised image and b = 0, the mean colour,
the path goes from b to x in n = `steps` steps of equal length in the L1 norm. Within a step the gradient
$g = \nabla f(z)$ is that of its first point, and the attribution grows by $\Delta z \odot g$. In step s, with
$\alpha = (s + 1) / n$, each feature stays between $b + (\alpha \mp d)(x - b)$, d being `max_distance`:

1. features behind the lower end jump to it;
2. if the distance $\lVert x - z \rVert_1$ is $(1 - \alpha) \lVert x - b \rVert_1$, the step is done;
3. of the features that are not at the upper end, those whose $|g|$ is at most the `fraction` quantile of all move
   towards it: as far as the step requires, or all the way, and then 2. and 3. again.

This is the authors' code (PAIR-code/saliency@7b72b67), in which features at the upper end count as infinite in the
quantile; 200 steps, 0.25 and 0.02 are its settings. With `max_distance` 0 it is integrated gradients by left sums. The
sum tends to $f(x) - f(b)$ as n grows. The choice is greedy, so rounding can change the path; points are
therefore in double precision where the device has it.

`reduce` makes one number of the three channels: `sum` (signed), `max` of the absolute values or `l2`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from eigencam.methods.input_gradients import REDUCES, Reduce, image_gradients, reduced
from eigencam.passes.forward import Forward

CLOSE = 1e-9
"""Tolerance at which two distances count as equal: a share of the larger one, and absolute for distances below 1."""


@dataclass(frozen=True, slots=True)
class GuidedIG:
    """Guided IG in `steps` steps."""

    steps: int = 200
    fraction: float = 0.25
    max_distance: float = 0.02
    reduce: Reduce = "sum"

    version = 1
    needs_gradient: ClassVar[bool] = False  # not of a layer
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Kapishnikov et al., CVPR 2021"
    needs: ClassVar[str] = "S + 1 forwards, S backwards"
    networks: ClassVar[str] = "differentiable, without jumps"
    differentiates: ClassVar[str] = "image"
    needs_smooth: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.steps < 1 or not 0 <= self.fraction <= 1 or not 0 <= self.max_distance <= 1:
            raise ValueError(
                f"steps={self.steps}, fraction={self.fraction}, max_distance={self.max_distance}; "
                "allowed: 1 or more, 0 to 1, 0 to 1"
            )
        if self.reduce not in REDUCES:
            raise ValueError(f"reduce={self.reduce!r}; allowed: {', '.join(REDUCES)}")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32."""
        exact = torch.float32 if forward.images.device.type == "mps" else torch.float64
        x = forward.images.flatten(1).to(exact)
        z, total = torch.zeros_like(x), torch.zeros_like(x)
        for step in range(self.steps):
            g = image_gradients(forward, targets, z.view_as(forward.images)).flatten(1)
            ahead = self._advance(x, z, g.abs(), step)
            total += (ahead - z) * g
            z = ahead
        return reduced(total.float().view_as(forward.images), self.reduce)

    def _advance(self, x: Tensor, z: Tensor, slope: Tensor, step: int) -> Tensor:
        """(N, D) points after a step, from images, points before it and absolute values of the gradient, all (N, D)."""
        alpha = (step + 1) / self.steps
        low, high = x * max(alpha - self.max_distance, 0), x * min(alpha + self.max_distance, 1)
        goal = x.abs().sum(1, keepdim=True) * (1 - alpha)
        rank = 1 + int((x.shape[1] - 1) * self.fraction)
        z = torch.where((x != 0) & (z / x < max(alpha - self.max_distance, 0)), low, z)  # 1; once is enough
        going = torch.ones_like(goal, dtype=torch.bool)
        while True:
            away = (x - z).abs().sum(1, keepdim=True)
            going = going & (away - goal > CLOSE * away.clamp(min=1))  # 2; never below the goal
            if not going.any():  # the only wait for the device in a round
                return z
            free = torch.where(z == high, torch.inf, slope)
            chosen = (free <= free.kthvalue(rank, 1, keepdim=True).values) & free.isfinite() & going  # 3
            length = ((high - z).abs() * chosen).sum(1, keepdim=True)
            share = (away - goal) / torch.where(length > 0, length, 1.0)
            moved = torch.where(share > 1, high, z + share * (high - z))
            going = going & (length > 0) & (share > 1)
            z = torch.where(chosen, moved, z)
