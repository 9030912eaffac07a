r"""Components of the activations: Eigen-Grad-CAM, Seg-Eigen-CAM and KPCA-CAM.

* Eigen-Grad-CAM (pytorch-grad-cam): the first component of $g \odot A$, channels centred, with g the gradient of the
  class's logit with respect to the activations A.
* Seg-Eigen-CAM (Applied Sciences 15(13) 7562, 2025, eq. 13): the same for $|g| \odot A$, with the largest absolute
  value made positive.
* KPCA-CAM (Karmani et al., MMSP 2024, arXiv 2410.00267; computed as pytorch-grad-cam does): X (hw x C)
  holds the positions' centred activations. The kernel matrix K between positions is centred in feature space, and the
  map is $\sqrt{\lambda_1}\, u_1$, with the first eigenvalue and eigenvector of this matrix. The kernels are:

  | kernel | K(x, y) |
  |---|---|
  | sigmoid | tanh(gamma x.y + coef0) |
  | rbf | exp(-gamma ‖x - y‖^2) |
  | poly | (gamma x.y + coef0)^degree |
  | linear | x.y: centred Eigen-CAM |

  gamma is 1 / C by default, as in pytorch-grad-cam, whose code the paper's page names (the text of the
  paper could not be read). With `width` w, gamma follows from the data instead: it is $1 / (2 w^2 V)$, where V is the
  sum of the channels' variances over the positions, so an rbf kernel is w times as wide as the spread of the positions.
  A sigmoid kernel need not be positive semidefinite: if even the largest eigenvalue is not positive, or not above
  rounding, the map is zero.

  The component is the one with the largest eigenvalue. If the relative gap to the second is below `GAP`, noise
  decides which direction comes first, and the map is NaN. This happens where activations are large and an rbf
  kernel of gamma 1 / C isolates every position. On SqueezeNet's last layer the median kernel between two positions is
  below 1e-27, and the gap is 0.3 to 0.8 % on four of eight real images. There, one grey level of noise turned the first
  vector by up to 66 degrees; with a gap of 8 % or more, by up to 14 degrees (five networks, three kernels, 8 images
  each).

The sign of a component is arbitrary; `sign` and `clip` are as in `eigencam.methods.eigencam`, but `sum` is not allowed,
since a centred map sums to zero.
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from eigencam.methods.eigencam import SIGNS, Sign, first_component, sign_of
from eigencam.methods.parameter_checks import one_of
from eigencam.passes.forward import Forward

Kernel = Literal["sigmoid", "rbf", "poly", "linear"]
KERNELS: tuple[Kernel, ...] = ("sigmoid", "rbf", "poly", "linear")

GAP = 0.01
"""Smallest relative gap between the first two eigenvalues for which the first component is meaningful."""

CELLS = 1 << 24
"""Number of kernel matrix entries computed at once: 128 MiB."""


@dataclass(frozen=True, slots=True)
class EigenGradCAM:
    """Eigen-Grad-CAM, or with `absolute` Seg-Eigen-CAM."""

    absolute: bool = False
    sign: Sign = "energy"
    clip: bool = True
    layer: str | None = None

    version = 2
    needs_gradient: ClassVar[bool] = True
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "pytorch-grad-cam; Seg-Eigen-CAM: Applied Sciences 2025"
    needs: ClassVar[str] = "1 forward, 1 backward"

    def __post_init__(self) -> None:
        _check_sign(self.sign)

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32."""
        gradients = forward.gradients(targets, self.layer)
        gradients = gradients.abs() if self.absolute else gradients
        score_map = first_component(gradients * forward.activations(self.layer), center=True, sign=self.sign)
        return score_map.clamp(min=0) if self.clip else score_map


@dataclass(frozen=True, slots=True)
class KPCACAM:
    """KPCA-CAM; `gamma` None: 1 / number of channels, or derived from `width`."""

    kernel: Kernel = "sigmoid"
    gamma: float | None = None
    degree: float = 3
    coef0: float = 1
    sign: Sign = "energy"
    clip: bool = True
    layer: str | None = None
    width: float | None = None

    version = 2
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = False
    paper: ClassVar[str] = "Karmani et al., MMSP 2024"
    caveat: ClassVar[str] = "the paper's text could not be read; kernel and gamma are pytorch-grad-cam's"
    needs: ClassVar[str] = "1 forward"

    def __post_init__(self) -> None:
        one_of(self, "kernel", KERNELS)
        if self.gamma is not None and not self.gamma > 0:
            raise ValueError(f"gamma={self.gamma}; allowed: null, more than 0")
        if self.width is not None and (not self.width > 0 or self.gamma is not None):
            raise ValueError(f"width={self.width}, gamma={self.gamma}; allowed: one of them null, the other above 0")
        if self.kernel == "poly" and (self.degree < 1 or self.degree % 1):  # a negative number has no fractional power
            raise ValueError(f"degree={self.degree}; allowed: 1, 2, 3, ...")
        _check_sign(self.sign)

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32; NaN for an image whose activations are not finite or have no first component."""
        activations = forward.activations(self.layer)
        positions = activations.shape[2] * activations.shape[3]
        return torch.cat([self._maps(part) for part in activations.split(max(1, CELLS // positions**2))])

    def _maps(self, activations: Tensor) -> Tensor:
        n, _, h, w = activations.shape
        wide = torch.float32 if activations.device.type == "mps" else torch.float64  # MPS has no float64
        x = activations.flatten(2).mT.to(wide)  # (N, hw, C)
        finite = x.isfinite().all(2).all(1)
        x = torch.where(finite[:, None, None], x, 0.0)
        x = x - x.mean(1, keepdim=True)
        kernel = self._kernel(x, self._gamma(x))
        finite &= kernel.isfinite().all(2).all(1)  # a polynomial may overflow
        kernel = torch.where(finite[:, None, None], kernel, 0.0)
        rows = kernel.mean(2, keepdim=True)
        centred = kernel - rows - rows.mT + rows.mean(1, keepdim=True)
        values, vectors = torch.linalg.eigh(centred)
        rounding = torch.finfo(wide).eps * kernel.abs().amax((1, 2)) * (h * w)
        top = torch.where(values[:, -1] > rounding, values[:, -1], 0.0)
        decided = (top == 0) | (values[:, -1] - values[:, -2:-1].sum(1) >= GAP * top)
        cam = vectors[:, :, -1] * top.sqrt()[:, None]
        cam = cam * sign_of(cam, x.mT, self.sign)[:, None]
        cam = torch.where((finite & decided)[:, None], cam.float(), torch.nan).view(n, h, w)
        return cam.clamp(min=0) if self.clip else cam

    def _gamma(self, x: Tensor) -> float | Tensor:
        """The kernel's gamma for centred positions (N, hw, C); (N, 1, 1) if it depends on them."""
        if self.width is None:
            return 1 / x.shape[2] if self.gamma is None else self.gamma
        spread = x.square().sum(2).mean(1)[:, None, None]
        return torch.where(spread > 0, 1 / (2 * self.width**2 * torch.where(spread > 0, spread, 1.0)), 0.0)

    def _kernel(self, x: Tensor, gamma: float | Tensor) -> Tensor:
        """(N, hw, hw) of (N, hw, C)."""
        products = x @ x.mT
        if self.kernel == "linear":
            return products
        if self.kernel == "sigmoid":
            return torch.tanh(gamma * products + self.coef0)
        if self.kernel == "poly":
            return (gamma * products + self.coef0) ** self.degree
        squares = products.diagonal(dim1=1, dim2=2)
        return torch.exp(-gamma * (squares[:, :, None] + squares[:, None] - 2 * products).clamp(min=0))


def _check_sign(sign: str) -> None:
    if sign not in SIGNS[1:]:
        raise ValueError(f"sign={sign!r}; allowed for a centred map: {', '.join(SIGNS[1:])}")
