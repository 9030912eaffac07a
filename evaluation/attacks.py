r"""Adversarial noise: a small change of an image that changes the network's prediction.

* DeepFool (S.-M. Moosavi-Dezfooli, A. Fawzi, P. Frossard, CVPR 2016) treats the network as affine, and steps to the
  nearest boundary between the predicted class k0 and another of the `num_classes` likeliest ones until the prediction
  changes. With w_k = ∇f_k - ∇f_k0 and f_k = f_k(x) - f_k0(x),

  $$l = \arg\min_k |f_k| / \|w_k\|_2, \qquad r_i = (|f_l| / \|w_l\|_2 + 10^{-4})\, w_l / \|w_l\|_2,$$

  and the image is x + (1 + overshoot) Σ r_i. The authors' code does this on the normalised image without clipping to
  the range of pixels, and so do the defaults here.
* FGSM (I. Goodfellow, J. Shlens, C. Szegedy, ICLR 2015): x + eps sign(∇ loss); the loss is the cross entropy of a
  class.
* PGD (A. Madry et al., ICLR 2018): steps of `step` in that direction, each followed by a projection on the box of
  half side eps around x, from a random start in it.

The functions take a differentiable network and a batch; each image is changed independently of the others.

>>> import torch
>>> weights = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
>>> found = deepfool(lambda x: x.flatten(1) @ weights, torch.tensor([[2.0, 1.0]]), overshoot=0.0)
>>> found.images, found.iterations
(tensor([[1.4999, 1.5001]]), tensor([1]))
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor


Logits = Callable[["Tensor"], "Tensor"]
"""(B, ...) float32 images to (B, K) logits, differentiable; the logits of an image depend on no other."""

Space = Literal["network", "pixels"]


@dataclass(frozen=True, slots=True)
class Attacked:
    """The result of an attack.

    Attributes:
        images: with the shape and unit of the original images.
        iterations: (N,) int64, steps taken.
    """

    images: Tensor
    iterations: Tensor


class Attack(Protocol):
    """An attack with its parameters; hashable, so that its result can be shared."""

    def __call__(self, logits: Logits, images: Tensor, scale: Tensor, names: Sequence[str]) -> Attacked:
        """Return the attacked images.

        Args:
            logits: function from images in the unit of `images` to logits.
            images: (N, C, H, W) float32, before normalisation, 0 black and 1 white.
            scale: (C, 1, 1), white minus black in the normalised image.
            names: N image names, which seed random numbers.
        """
        ...


def deepfool(
    logits: Logits,
    images: Tensor,
    *,
    num_classes: int = 10,
    overshoot: float = 0.02,
    max_iter: int = 50,
    clip: tuple[Tensor, Tensor] | None = None,
) -> Attacked:
    """DeepFool; an image whose prediction has changed, or that no step can change, leaves the loop.

    Args:
        logits: the network.
        images: (N, ...) float32.
        num_classes: number of likeliest classes considered, including the predicted one.
        overshoot: share by which the sum of the steps is lengthened.
        max_iter: maximum number of steps.
        clip: lowest and highest allowed values, to which the image is clipped after each step; None: no limits.
    """
    import torch

    from eigencam.transfer import to_device, to_host

    with torch.no_grad():
        first = logits(images)
        order = first.topk(min(num_classes, first.shape[1]), dim=1).indices
    total, changed = torch.zeros_like(images), images.clone()
    iterations = torch.zeros(len(images), dtype=torch.long, device=images.device)
    stuck = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    left, active = torch.arange(len(images)), torch.arange(len(images), device=images.device)
    for _ in range(max_iter):
        with torch.no_grad():  # a separate pass, so that images that are done need no backward pass
            same = logits(changed[active]).argmax(1) == order[active, 0]
        (going_on,) = to_host(same & ~stuck[active])()  # the only wait per step
        left = left[going_on]
        if not len(left):
            break
        (active,) = to_device(images.device, left)
        scores, gradients = _class_gradients(logits, changed[active], order[active])
        f = scores.gather(1, order[active])
        f = (f[:, 1:] - f[:, :1]).T  # (num_classes - 1, B)
        w = (gradients[1:] - gradients[:1]).flatten(2)
        norm = w.norm(dim=2)
        distance = torch.where(norm > 0, f.abs() / norm.clamp(min=torch.finfo(norm.dtype).tiny), torch.inf)
        nearest = distance.argmin(0)
        own = torch.arange(len(active), device=images.device)
        length, direction = distance[nearest, own], w[nearest, own]
        reachable = length.isfinite()  # otherwise no difference of logits depends on the image, or one is NaN: no step
        stuck[active] = ~reachable
        step = (length + 1e-4)[:, None] * direction / direction.norm(dim=1, keepdim=True)
        step = torch.where(reachable[:, None], step, 0.0)
        total[active] += step.view_as(total[active])
        iterations[active] += reachable.long()
        moved = images[active] + (1 + overshoot) * total[active]
        if clip:
            moved = torch.minimum(torch.maximum(moved, clip[0]), clip[1])
        changed[active] = moved
    return Attacked(changed, iterations)


def pgd(
    logits: Logits,
    images: Tensor,
    labels: Tensor,
    *,
    eps: float,
    step: float,
    steps: int,
    start: Tensor | None = None,
    low: float = 0.0,
    high: float = 1.0,
) -> Attacked:
    """PGD away from `labels`; FGSM is one step of `eps` without a random start.

    Args:
        logits: the network.
        images: (N, ...) float32 in low..high.
        labels: (N,) int64.
        eps: largest change of a value.
        step: change of a value in one step.
        steps: number of steps.
        start: the initial change, of the images' shape, within eps; None: no change.
        low: lowest allowed value.
        high: highest allowed value.
    """
    import torch
    import torch.nn.functional as F

    changed = images if start is None else (images + start).clamp(low, high)
    for _ in range(steps):
        with torch.enable_grad():
            x = changed.detach().requires_grad_()
            loss = F.cross_entropy(logits(x), labels, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
        moved = changed + step * gradient.sign()
        changed = torch.minimum(torch.maximum(moved, images - eps), images + eps).clamp(low, high)
    return Attacked(changed, torch.full((len(images),), steps, device=images.device))


def _class_gradients(logits: Logits, images: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, K), and gradients (C, B, ...) for each image's `classes` (B, C): one forward, C backward passes."""
    import torch

    with torch.enable_grad():
        x = images.detach().requires_grad_()
        scores = logits(x)
        chosen = scores.gather(1, classes).sum(0)
        last = len(chosen) - 1
        gradients = [torch.autograd.grad(chosen[c], x, retain_graph=c < last)[0] for c in range(len(chosen))]
    return scores.detach(), torch.stack(gradients)


@dataclass(frozen=True, slots=True)
class DeepFool:
    """`deepfool` with the defaults of its authors' code.

    Attributes:
        num_classes: see `deepfool`.
        overshoot: see `deepfool`.
        max_iter: see `deepfool`.
        space: where norms are measured: in the `network`'s normalised input, as the authors do, or in `pixels`.
        clip: whether pixels are clipped to black and white; the authors do not clip.
    """

    num_classes: int = 10
    overshoot: float = 0.02
    max_iter: int = 50
    space: Space = "network"
    clip: bool = False

    version = 1

    def __post_init__(self) -> None:
        if self.num_classes < 2 or self.max_iter < 1 or self.overshoot < 0:
            seen = f"num_classes={self.num_classes}, max_iter={self.max_iter}, overshoot={self.overshoot}"
            raise ValueError(f"{seen}; allowed: num_classes >= 2, max_iter >= 1, overshoot >= 0")
        if self.space not in ("network", "pixels"):
            raise ValueError(f"space={self.space!r}; allowed: network, pixels")

    def __call__(self, logits: Logits, images: Tensor, scale: Tensor, names: Sequence[str]) -> Attacked:
        """See `Attack`; nothing is random."""
        import torch

        unit = scale if self.space == "network" else torch.ones_like(scale)
        found = deepfool(
            lambda z: logits(z / unit),
            images * unit,
            num_classes=self.num_classes,
            overshoot=self.overshoot,
            max_iter=self.max_iter,
            clip=(torch.zeros_like(unit), unit) if self.clip else None,
        )
        return Attacked(found.images / unit, found.iterations)


@dataclass(frozen=True, slots=True)
class FGSM:
    """One step away from the predicted class. `eps`: change of a pixel, on a scale of 0..1."""

    eps: float = 8 / 255

    version = 1

    def __post_init__(self) -> None:
        _check_eps(self.eps)

    def __call__(self, logits: Logits, images: Tensor, scale: Tensor, names: Sequence[str]) -> Attacked:
        """See `Attack`; nothing is random."""
        return pgd(logits, images, _predicted(logits, images), eps=self.eps, step=self.eps, steps=1)


@dataclass(frozen=True, slots=True)
class PGD:
    """Projected steps away from the predicted class.

    Attributes:
        eps: largest change of a pixel, on a scale of 0..1.
        step: change of a pixel per step.
        steps: number of steps.
        random_start: whether to begin at a random point of the box.
        seed: seed of that point, together with the image's name.
    """

    eps: float = 8 / 255
    step: float = 2 / 255
    steps: int = 10
    random_start: bool = True
    seed: int = 0

    version = 1

    def __post_init__(self) -> None:
        _check_eps(self.eps)
        if not (self.step > 0 and self.steps >= 1):
            raise ValueError(f"step={self.step}, steps={self.steps}; allowed: step > 0, steps >= 1")

    def __call__(self, logits: Logits, images: Tensor, scale: Tensor, names: Sequence[str]) -> Attacked:
        """See `Attack`."""
        import torch

        from eigencam.transfer import to_device

        start = None
        if self.random_start:
            seeds = [zlib.crc32(f"{self.seed} {name}".encode()) for name in names]
            drawn = [torch.rand(images.shape[1:], generator=torch.Generator().manual_seed(s)) for s in seeds]
            (shift,) = to_device(images.device, torch.stack(drawn))
            start = self.eps * (2 * shift - 1)
        labels = _predicted(logits, images)
        return pgd(logits, images, labels, eps=self.eps, step=self.step, steps=self.steps, start=start)


def _check_eps(eps: float) -> None:
    if not 0 < eps <= 1:
        raise ValueError(f"eps={eps}; allowed: 0 < eps <= 1, a share of the range of pixels (8/255 = 0.0314)")


def _predicted(logits: Logits, images: Tensor) -> Tensor:
    import torch

    with torch.no_grad():
        return logits(images).argmax(1)
