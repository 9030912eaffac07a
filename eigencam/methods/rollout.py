r"""Attention rollout (Abnar & Zuidema, Quantifying Attention Flow in Transformers, ACL 2020).

$$A_l = \tfrac{1}{2}\,(W_l + I), \qquad R = A_L \cdots A_2 A_1$$

W_l is block l's attention, the mean over its heads; the identity stands for the shortcut around it. The map is the
class token's row of R at the picture's positions. No gradient, no class.

What the paper does not say, and is chosen here:

* Rows of A_l are divided by their sum. For the mean of the heads that sum is 1 already; for `max` and `min` (which
  public codes for vision transformers offer) and `discard` it is not.
* `discard`: this share of a block's fused attentions, the smallest ones, is set to zero; 0 is the paper's.
* A network without a class token pools its tokens: the map is then the mean over the rows.

Tokens are read as the target layer's are (`eigencam.passes.readings`); the class token comes first.

Networks call their attention without asking for its weights. They are computed by a second call of the same module
with the same arguments, in a pass of the method's own; a block's matrix is multiplied on and forgotten.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isqrt
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from eigencam.methods.base import Method, needs_gradient
from eigencam.passes.forward import Forward
from eigencam.passes.readings import Reading

if TYPE_CHECKING:
    from eigencam.networks.network import Network

HeadFusion = Literal["mean", "max", "min"]
HEAD_FUSIONS: tuple[HeadFusion, ...] = ("mean", "max", "min")

Matrix = Callable[[tuple[Any, ...], dict[str, Any], Any], Tensor | None]
"""From a module's arguments and output to (N, T, T), what each position takes from each; None where it mixes none."""


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
    networks: ClassVar[str] = "transformers whose attention is torch.nn.MultiheadAttention over all positions"

    def __post_init__(self) -> None:
        if self.head_fusion not in HEAD_FUSIONS:
            raise ValueError(f"head_fusion={self.head_fusion!r}; allowed: {', '.join(HEAD_FUSIONS)}")
        if not 0 <= self.discard < 1:
            raise ValueError(f"discard={self.discard}; allowed: 0 to below 1")

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, h, w) float32, non-negative."""

        def attention(module: nn.MultiheadAttention) -> Matrix:
            return lambda args, kwargs, _out: self.fuse(attention_of(module, args, kwargs))

        found = [m for m in forward.module.modules() if isinstance(m, nn.MultiheadAttention)]
        mixed = propagate(forward, {module: attention(module) for module in found}, NO_ATTENTION)
        reading = _tokens(forward.reading(), mixed.shape[1])
        row = mixed[:, 0] if reading.front else mixed.mean(1)
        return row[:, reading.front : reading.front + reading.cells].unflatten(1, reading.grid)

    def fuse(self, attention: Tensor) -> Tensor:
        """(N, T, T) float32 of the heads' (N, heads, T, T)."""
        heads = attention.float()
        fused = heads.mean(1) if self.head_fusion == "mean" else getattr(heads, f"a{self.head_fusion}")(1)
        if count := int(self.discard * fused[0].numel()):
            threshold = fused.flatten(1).kthvalue(count + 1).values  # equal values stay, whatever their order
            fused = torch.where(fused < threshold[:, None, None], 0.0, fused)
        return fused

    def unsupported(self, network: "Network") -> str:
        """Why there is no rollout for the network; "" if there is one."""
        return unseen_attention(network.module) or fault(self, network)


def _tokens(reading: Reading, count: int) -> Reading:
    """The target layer's reading where it is of these tokens; else a square's, the class token first."""
    if reading.grid and reading.front + reading.cells + reading.behind == count:
        return reading
    side = isqrt(count)
    return Reading((1,), (side, side), front=count - side**2)


NO_ATTENTION = (
    "attention rollout multiplies attention weights over all positions, as torch.nn.MultiheadAttention gives them, and "
    "the network has none"
)


def unseen_attention(module: nn.Module) -> str:
    """Why the attention of a network that has some cannot be read; "" where it can, or where there is none.

    Modules are known by their class: torchvision's shifted windows, and attention that a network computes itself.
    """
    kinds = {type(m) for m in module.modules()}
    if nn.MultiheadAttention in kinds:
        return ""
    named = sorted(kind.__name__ for kind in kinds if "attention" in kind.__name__.lower() or kind.__name__ == "Attn")
    if not named:
        return ""
    return (
        f"attention rollout takes attention weights from torch.nn.MultiheadAttention, and the network computes its "
        f"attention in modules of its own ({', '.join(named[:3])}), which do not give them"
    )


def attention_of(module: nn.MultiheadAttention, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """(N, heads, T, T) attention weights of a call that was made with these arguments."""
    bound = inspect.signature(nn.MultiheadAttention.forward).bind(module, *args, **kwargs)
    bound.arguments |= {"need_weights": True, "average_attn_weights": False}
    weights = nn.MultiheadAttention.forward(*bound.args, **bound.kwargs)[1]
    assert weights is not None  # it was asked for
    return weights


def propagate(forward: Forward, matrices: Mapping[nn.Module, Matrix], none: str) -> Tensor:
    """(N, T, T) product of the modules' (M + I) / 2, rows of sum 1, in the order in which the network calls them.

    Args:
        forward: the batch, which goes through the network once more, `forward.chunk` pictures at a time.
        matrices: by module, M of one of its calls.
        none: what to say where no module gives one.

    Raises:
        ValueError: there is no matrix, or they are not square, or not of one size.
    """
    products: list[Tensor | None] = []

    def inputs(part: slice) -> Tensor:
        products.append(None)
        return forward.images[part]

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        if (matrix := matrices[module](args, kwargs, out)) is not None:
            products[-1] = step(matrix, products[-1])

    handles = [module.register_forward_hook(hook, with_kwargs=True) for module in matrices]
    try:
        forward.predict(len(forward), inputs)
    finally:
        for handle in handles:
            handle.remove()
    known = [product for product in products if product is not None]
    if not known:
        raise ValueError(none)
    return torch.cat(known)


def step(matrix: Tensor, product: Tensor | None) -> Tensor:
    """The product with one more layer's (N, T, T) matrix."""
    if matrix.shape[1] != matrix.shape[2] or (product is not None and product.shape != matrix.shape):
        before = "" if product is None else f" after {tuple(product.shape[1:])}"
        raise ValueError(
            f"a layer mixes positions by a matrix {tuple(matrix.shape[1:])}{before}; "
            "the product needs square ones of one size"
        )
    matrix = (matrix + torch.eye(matrix.shape[1], device=matrix.device)) / 2
    matrix = matrix / matrix.sum(2, keepdim=True)
    return matrix if product is None else matrix @ product


def fault(method: Method, network: "Network") -> str:
    """Why a method fails on a black picture; "" if it does not."""
    black = torch.zeros(1, *network.preprocess.input_shape, dtype=torch.uint8)
    try:
        method(
            network.forward(black, gradients=needs_gradient(method)),
            torch.zeros(1, dtype=torch.long, device=network.device),
        )
    except ValueError as error:
        return str(error)
    return ""
