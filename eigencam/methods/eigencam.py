r"""Eigen-CAM (Muhammad & Yeasin, IJCNN 2020; SN Computer Science 2, 47, 2021).

$$O = U \Sigma V^\top, \qquad L = O\, v_1$$

O (hw x C) holds the activations of the last convolutional layer, one column per channel; v_1 is the first right
singular vector. No gradient, no class. Six different algorithms have this name, so their differences are explicit
options here:

* `center`: subtract each channel's mean first. The paper does not; pytorch-grad-cam and its many copies do.
* `sign`: v_1 is defined up to sign. `sum` makes the map's sum positive: for non-negative activations (after a ReLU)
  v_1 has entries of one sign (Perron-Frobenius), so the whole map is then non-negative. A centred map sums to zero,
  so its sign must come from elsewhere: `energy` makes the map agree with the positions' energy (the sum over
  channels of the squared entries), `extreme` makes the largest absolute value positive (the rule of Seg-Eigen-CAM,
  Appl. Sci. 15(13) 7562, eq. 13).
* `clip`: negative values to zero, as pytorch-grad-cam does; with `center` it discards the cells below the mean.

O itself is not decomposed: L = sigma_1 u_1, and u_1 (or v_1) is the first eigenvector of the smaller Gram matrix.
For the *first* vector this loses nothing against an SVD in float32, since the error is set by the gap sigma_2/sigma_1;
each matrix is divided by its largest entry, because squares exceed float32 outside about 1e-18..1e18. If the two
singular values are equal up to rounding, no component is the first, and the map is NaN.

>>> import torch
>>> rank1 = torch.tensor([[0.0, 1.0], [2.0, 3.0]])[None, None] * torch.tensor([3.0, 4.0])[None, :, None, None]
>>> torch.allclose(first_component(rank1), 5 * torch.tensor([[[0.0, 1.0], [2.0, 3.0]]]))
True
"""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from eigencam.methods.parameter_checks import one_of
from eigencam.passes.forward import Forward

Sign = Literal["sum", "energy", "extreme"]
SIGNS: tuple[Sign, ...] = ("sum", "energy", "extreme")

LANCZOS_STEPS = 16
LANCZOS_FROM = 2 * LANCZOS_STEPS
"""Gram matrices with more rows than this use Lanczos."""
SQUARINGS = 20
SQUARED_TO = 256
"""Number of rows above which, on a GPU, squaring a Gram matrix costs more than a wait of the host."""
ROUNDING = 2.0**-20
"""A gap below this share of the first eigenvalue, or a deviation below this share of the largest entry, is rounding."""
ANGLE = 1e-5
"""Largest angle (rad) between an accepted Lanczos vector and the true one."""


@dataclass(frozen=True, slots=True)
class EigenCAM:
    """The paper's map by default; see the module for the options.

    Raises:
        ValueError: `sign` is unknown, or `sum` is requested for a centred map (which sums to zero).
    """

    center: bool = False
    sign: Sign = "sum"
    clip: bool = False
    layer: str | None = None

    version = 2
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = False
    paper: ClassVar[str] = "Muhammad & Yeasin, IJCNN 2020"
    needs: ClassVar[str] = "1 forward"

    def __post_init__(self) -> None:
        one_of(self, "sign", SIGNS)
        if self.center and self.sign == "sum":
            raise ValueError(
                "a centred map sums to zero, so sign='sum' says nothing; allowed with center: energy, extreme"
            )

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32; zero for zero activations, NaN if they are not finite or no component is the first."""
        score_map = first_component(forward.activations(self.layer), center=self.center, sign=self.sign)
        return score_map.clamp(min=0) if self.clip else score_map


def first_component(activations: Tensor, *, center: bool = False, sign: Sign = "sum") -> Tensor:
    """Return O v_1 for each image's activations.

    Args:
        activations: (N, C, h, w), any float dtype; computed in float32.
        center: subtract each channel's mean over the positions first.
        sign: see the module.

    Returns:
        (N, h, w) float32.
    """
    n, _, h, w = activations.shape
    o = activations.float().flatten(2)  # (N, C, hw): the transpose of the paper's O
    scale = o.abs().amax((1, 2)).clamp(min=torch.finfo(torch.float32).tiny)
    finite = scale.isfinite()  # a NaN anywhere makes the maximum NaN
    o = torch.where(finite[:, None, None], o / scale[:, None, None], 0.0)
    if center:
        o = o - o.mean(
            2, keepdim=True
        )  # before the product, since centring the Gram matrix loses all precision at a large offset
        o = torch.where((o.abs().amax((1, 2)) > ROUNDING)[:, None, None], o, 0.0)
    if o.shape[1] <= o.shape[2]:
        vector, gap = _top(o @ o.mT)
        cam = torch.einsum("nc,ncp->np", vector, o)
    else:
        vector, gap = _top(o.mT @ o)
        cam = vector * torch.einsum("np,ncp->nc", vector, o).norm(dim=1, keepdim=True)
    cam = cam * sign_of(cam, o, sign)[:, None] * scale[:, None]
    return torch.where((finite & (gap > ROUNDING))[:, None], cam, torch.nan).view(n, h, w)


def sign_of(cam: Tensor, o: Tensor, sign: Sign) -> Tensor:
    """(N,) of -1 or 1, the factor for the (N, hw) map."""
    if sign == "sum":
        measure = cam.sum(1)
    elif sign == "energy":
        energy = o.square().sum(1)
        measure = (cam * (energy - energy.mean(1, keepdim=True))).sum(1)
    else:
        measure = cam.amax(1) + cam.amin(1)
    return torch.where(measure < 0, -1.0, 1.0)


def top_eigenvector(gram: Tensor) -> Tensor:
    """Unit eigenvector of the largest eigenvalue of each symmetric positive semi-definite matrix.

    Lanczos with full reorthogonalisation, `LANCZOS_STEPS` products; a result is accepted only with a proof. With Ritz
    value theta, residual r = ||G x - theta x|| and F the Frobenius norm, every other eigenvalue is at most
    m = sqrt(F^2 - theta^2); if m < theta, x is the top vector within an angle of r / (theta - m) (Davis & Kahan 1970).
    Without a proof, `torch.linalg.eigh` is used.

    Args:
        gram: (N, n, n) float32, finite.

    Returns:
        (N, n) float32, sign arbitrary; any vector of the space if the largest eigenvalue is not unique.
    """
    return _top(gram)[0]


def _top(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors of `top_eigenvector`, and (N,) a lower bound of the relative gap of the first two eigenvalues."""
    n = gram.shape[1]
    if gram.is_cuda and n <= SQUARED_TO:
        return squared(gram)
    if n <= LANCZOS_FROM:
        return _decomposed(gram)
    # The sum of the rows points towards v_1 for non-negative entries; the fixed perturbation keeps the start from being
    # orthogonal to it (a centred Gram matrix has the ones vector in its null space).
    start = gram.sum(2) + gram.diagonal(dim1=1, dim2=2) * torch.arange(n, device=gram.device).cos().add(1.5)
    basis, alphas, betas = [_unit(start)], [], []
    for _ in range(LANCZOS_STEPS):
        product = torch.einsum("nij,nj->ni", gram, basis[-1])
        alphas.append((product * basis[-1]).sum(1))
        q = torch.stack(basis, 1)  # (N, k, n)
        for _twice in range(2):
            product = product - torch.einsum("nki,nk->ni", q, torch.einsum("nki,ni->nk", q, product))
        betas.append(product.norm(dim=1))
        basis.append(_unit(product))
    off = torch.stack(betas[:-1], 1)
    tridiagonal = torch.diag_embed(torch.stack(alphas, 1)) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1)
    ritz = torch.linalg.eigh(tridiagonal)[1][:, :, -1]
    vector = _unit(torch.einsum("nk,nki->ni", ritz, torch.stack(basis[:-1], 1)))
    product = torch.einsum("nij,nj->ni", gram, vector)
    theta = (product * vector).sum(1)
    residual = (product - theta[:, None] * vector).norm(dim=1)
    rest = (gram.square().sum((1, 2)) - theta.square()).clamp(min=0).sqrt()
    gap = (theta - rest) / theta
    proven = (residual <= ANGLE * (theta - rest)) & (gap > ROUNDING)
    if not bool(proven.all()):
        vector[~proven], gap[~proven] = _decomposed(gram[~proven])
    return vector, gap


def _decomposed(gram: Tensor) -> tuple[Tensor, Tensor]:
    """As `_top`, by `torch.linalg.eigh`; a zero matrix has gap 0, whichever vector it gets."""
    values, vectors = torch.linalg.eigh(gram)
    first, second = values[:, -1], values[:, -2] if gram.shape[1] > 1 else torch.zeros_like(values[:, -1])
    return vectors[:, :, -1], torch.where(first > 0, (first - second) / first.clamp(min=1e-38), torch.inf)


def squared(gram: Tensor) -> tuple[Tensor, Tensor]:
    """As `_top`, for a GPU: no decision depends on a number for which the host would have to wait.

    G^(2^k) tends to v_1 v_1^T, up to a factor; `SQUARINGS` squarings separate eigenvalues whose gap exceeds
    rounding. The second eigenvalue is the first one of the matrix without v_1.
    """
    first, vector = _dominant(gram)
    second, _ = _dominant(gram - first[:, None, None] * vector[:, :, None] * vector[:, None])
    return vector, torch.where(first > 0, (first - second.clamp(min=0)) / first.clamp(min=1e-38), torch.inf)


def _dominant(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The eigenvalue (N,) of largest absolute value and its unit vector (N, n)."""
    power = gram
    for _ in range(SQUARINGS):
        power = power / power.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        power = power @ power
    column = power.diagonal(dim1=1, dim2=2).argmax(1)
    vector = _unit(power.gather(2, column[:, None, None].expand(-1, power.shape[1], 1))[:, :, 0])
    return (torch.einsum("nij,nj->ni", gram, vector) * vector).sum(1), vector


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
