r"""Attention rollout (Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020).

$$A_l = \tfrac{1}{2}\,(W_l + I), \qquad R = A_L \cdots A_2 A_1$$

W_l is block l's attention, the mean over its heads; the identity represents the shortcut around it. The map is the
class token's row of R at the image's positions. No gradient, no class.

Our choices, where the paper says nothing:

* Rows of A_l are divided by their sum. For the mean of the heads that sum is already 1; for `max` and `min` (offered by
  public codes for vision transformers) and `discard` it is not.
* `discard`: this share of a block's fused attentions, the smallest ones, is set to zero; 0 is the paper's.
* A network without a class token pools its tokens: the map is then the mean over the rows.

Tokens are read like the target layer's (`eigencam.passes.readings`); the class token comes first.

The weights are read from the operations of a pass, whatever module or function computes them
(`eigencam.passes.attention`): from a pass that another method has recorded, or from a separate pass, in which each
block's matrix is multiplied into the product and then discarded.
"""

from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch import Tensor

from eigencam.methods.parameter_checks import one_of
from eigencam.methods.refusal import attention
from eigencam.passes.attention import NO_ATTENTION, WEIGHTS, show_attention
from eigencam.passes.forward import Forward
from eigencam.passes.readings import Reading

if TYPE_CHECKING:
    from eigencam.networks.network import Network

HeadFusion = Literal["mean", "max", "min"]
HEAD_FUSIONS: tuple[HeadFusion, ...] = ("mean", "max", "min")


@dataclass(frozen=True, slots=True)
class AttentionRollout:
    """Attention rollout; the paper's by default.

    Raises:
        ValueError: an unknown `head_fusion`, or a `discard` outside 0..1.
    """

    head_fusion: HeadFusion = "mean"
    discard: float = 0.0

    version = 1
    needs_gradient: ClassVar[bool] = False
    class_specific: ClassVar[bool] = False
    paper: ClassVar[str] = "Abnar & Zuidema, ACL 2020"
    needs: ClassVar[str] = "2 forwards"
    networks: ClassVar[str] = "transformers whose attention is over all positions"

    def __post_init__(self) -> None:
        one_of(self, "head_fusion", HEAD_FUSIONS)
        if not 0 <= self.discard < 1:
            raise ValueError(f"discard={self.discard}; allowed: 0 to below 1")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""
        mixed = torch.cat([self._rolled(forward, images) for images in forward.images.split(forward.chunk)])
        reading = tokens_of(forward.reading(), mixed.shape[1])
        row = mixed[:, 0] if reading.front else mixed.mean(1)
        return row[:, reading.front : reading.front + reading.cells].unflatten(1, reading.grid)

    def _rolled(self, forward: Forward, images: Tensor) -> Tensor:
        """(N, T, T) product of the blocks' matrices. ValueError if there are none, or they are not square."""
        product: Tensor | None = None

        def see(weights: Tensor) -> None:
            nonlocal product
            product = step(self.fuse(weights), product)

        if isinstance(known := forward.known(WEIGHTS), list):
            for weights in known:
                see(weights.detach())
        else:
            show_attention(forward.module, images, see)
            forward.progress(len(images))
        if product is None:
            raise ValueError(NO_ATTENTION)
        return product

    def fuse(self, attention: Tensor) -> Tensor:
        """(N, T, T) float32 from the heads' (N, heads, T, T)."""
        heads = attention.float()
        fused = heads.mean(1) if self.head_fusion == "mean" else getattr(heads, f"a{self.head_fusion}")(1)
        if count := int(self.discard * fused[0].numel()):
            threshold = fused.flatten(1).kthvalue(count + 1).values  # ties stay, whatever their order
            fused = torch.where(fused < threshold[:, None, None], 0.0, fused)
        return fused

    def unsupported(self, network: "Network") -> str:
        """Why there is no rollout for the network; "" if there is."""
        return attention(network).fault


def tokens_of(reading: Reading, count: int) -> Reading:
    """The target layer's reading if it fits these tokens; else a square grid's, the class token first."""
    if reading.grid and reading.front + reading.cells + reading.behind == count:
        return reading
    side = isqrt(count)
    return Reading((1,), (side, side), front=count - side**2)


def step(matrix: Tensor, product: Tensor | None) -> Tensor:
    """The product extended by one more layer's (N, T, T) matrix."""
    if matrix.shape[1] != matrix.shape[2] or (product is not None and product.shape != matrix.shape):
        before = "" if product is None else f" after {tuple(product.shape[1:])}"
        raise ValueError(
            f"a layer mixes positions by a matrix {tuple(matrix.shape[1:])}{before}; "
            "a product over layers needs square ones of one size"
        )
    matrix = (matrix + torch.eye(matrix.shape[1], device=matrix.device)) / 2
    matrix = matrix / matrix.sum(2, keepdim=True)
    return matrix if product is None else matrix @ product
