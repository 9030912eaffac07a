r"""FullGrad (Srinivas & Fleuret, NeurIPS 2019): gradients of the image and of all biases, which add up to the logit.

A network is exactly

$$f(x) = x \cdot \nabla_x f + \sum_l b_l \cdot \nabla_{b_l} f$$

where b includes the implicit biases of batch norms, beta - mean gamma / sigma, and of nonlinear operations, y - J z for
the output y, the input z and the derivative J: 0 for a ReLU and a max-pool. The map is $\psi(x \odot \nabla_x f) +
\sum_{l,c} \psi(b_l \odot \nabla_{b_l} f)_c$ over convolutions and batch norms, where psi is the absolute value, scaled
from minimum and maximum to 0..1 and enlarged bilinearly. `rescale: layer` is the authors' code: one scale per layer,
with aligned corners (`align_corners`). `channel` is pytorch-grad-cam's: one scale per channel, without aligned corners,
as everywhere else here; `align_corners` overrides either. Other biases, such as the offset of a saturated bounded
activation, count in the sum and are not in the map.
"""

import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from eigencam.methods.parameter_checks import one_of
from eigencam.methods.refusal import probe
from eigencam.passes.backward import ANY, NO_GRADIENT, Rule, chunked, relevance_rules
from eigencam.passes.calls import differentiate, evaluating, network_logits
from eigencam.passes.forward import Forward
from eigencam.passes.operation_kinds import LEAKY, MAXIMA
from eigencam.passes.precision import is_coarse

if TYPE_CHECKING:
    from eigencam.networks.network import Network


Rescale = Literal["layer", "channel"]


RESCALES: tuple[Rescale, ...] = ("layer", "channel")


@dataclass(frozen=True, slots=True)
class FullGrad:
    """FullGrad.

    Attributes:
        rescale: the unit that psi scales to 0..1 as a whole.
        align_corners: how maps are enlarged, as in `torch.nn.functional.interpolate`; None: as in the code that
            `rescale` refers to.
    """

    rescale: Rescale = "layer"
    align_corners: bool | None = None

    version = 2
    needs_gradient: ClassVar[bool] = False  # not of a layer
    class_specific: ClassVar[bool] = True
    paper: ClassVar[str] = "Srinivas & Fleuret, NeurIPS 2019"
    needs: ClassVar[str] = "2 forwards, 1 backward"
    networks: ClassVar[str] = "differentiable"
    differentiates: ClassVar[str] = "image"

    def __post_init__(self) -> None:
        one_of(self, "rescale", RESCALES)

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32, non-negative."""

        def make(x: Tensor, y: Tensor) -> Tensor:
            of_input, of_maps, _ = full_gradients(forward.module, x, y)
            total = self._psi(of_input, x.shape)
            for part in of_maps:
                total += self._psi(part, x.shape)
            return total

        return chunked(make, forward.images, targets, forward.chunk, forward.progress)

    def unsupported(self, network: "Network") -> str:
        """Why the parts do not add up to the logit; "" if they do, on a noise image."""
        images, target = probe(network), torch.zeros(1, dtype=torch.long, device=network.device)
        try:
            of_input, maps, rest = full_gradients(network.module, images, target)
        except (ValueError, NotImplementedError) as error:
            return f"its parts cannot be computed: {' '.join(str(error).split())[:200]}"
        if several := next((len(part) for part in maps if len(part) != len(images)), 0):
            return f"a convolution gives {several} maps for one image: where these lie in it is not known"
        total = sum((part.sum() for part in (of_input, *maps, *rest)), torch.zeros((), device=network.device))
        with evaluating(network.module), torch.no_grad():
            logit = network_logits(network.module, images)[0, 0].to(total.dtype)
        scale = max(part.abs().sum() for part in (of_input, *maps, *rest))
        tolerance = (5e-2 if is_coarse(network.dtype) else 1e-4) * scale
        if abs(total - logit) <= tolerance:
            return ""
        return f"its parts add up to {total:.4g} where the logit is {logit:.4g}: an operation has a gradient of its own"

    def _psi(self, x: Tensor, shape: torch.Size) -> Tensor:
        """(N, H, W), the sum over channels of psi; enlarging is linear, so the sum comes first."""
        x, dims = x.abs(), (1, 2, 3) if self.rescale == "layer" else (2, 3)
        low = x.amin(dims, keepdim=True)
        span = x.amax(dims, keepdim=True) - low
        scaled = torch.where(span > 0, (x - low) / torch.where(span > 0, span, 1.0), 0.0).sum(1, keepdim=True)
        aligned = self.rescale == "layer" if self.align_corners is None else self.align_corners
        return F.interpolate(scaled, shape[2:], mode="bilinear", align_corners=aligned)[:, 0]


def full_gradients(module: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The parts of each image's class logit, which add up to it.

    Returns:
        In float32, or float64 for such a network: x times its gradient (N, 3, H, W); bias times its gradient for each
        call of a convolution or batch norm, (N, C, h, w); the same for linear layers and for the implicit biases
        y - J z of nonlinear operations, in the form of their output.
    """
    _load_forward_derivatives()
    biases = _Biases()
    with ExitStack() as stack:
        stack.enter_context(evaluating(module))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        x = images.detach().clone().requires_grad_()
        with relevance_rules(biases.rules(), x):
            score = network_logits(module, x).gather(1, targets[:, None].clone())
        of_input, *found = differentiate(score, [x, *(out for out, _, _ in biases.kept)])
    if of_input is None:
        raise ValueError(NO_GRADIENT.format("the image"))
    maps: list[Tensor] = []
    rest: list[Tensor] = []
    for (_, bias, is_map), grad in zip(biases.kept, found, strict=True):
        if grad is not None:
            (maps if is_map else rest).append(_wide(grad) * _wide(bias))
    return _wide(x.detach()) * _wide(of_input), maps, rest


class _Biases:
    """The biases of a pass: each output with its bias, and whether it is the map of a convolution or batch norm."""

    def __init__(self) -> None:
        self.kept: list[tuple[Tensor, Tensor, bool]] = []

    def rules(self) -> dict[str, Rule]:
        """What runs in place of each operation. Not kept: it refers to this object, whose outputs would outlive it."""
        rules: dict[str, Rule] = {"conv2d": self._conv2d, "linear": self._linear, "batch_norm": self._batch_norm}
        without = dict.fromkeys(("relu", *LEAKY, *MAXIMA), lambda original, *rest: original(*rest))
        return rules | without | {ANY: self._implicit}

    def _keep(self, out: Tensor, bias: Tensor, is_map: bool) -> Tensor:
        self.kept.append((out, bias.detach(), is_map))
        return out.clone()

    def _conv2d(self, original: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *geometry: Any) -> Tensor:
        out = original(x, weight, bias, *geometry)
        return out if bias is None else self._keep(out, bias[:, None, None], True)

    def _linear(self, original: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        out = original(x, weight, bias)
        return out if bias is None else self._keep(out, bias, False)

    def _batch_norm(self, original: Any, x: Tensor, mean: Tensor, var: Tensor, *options: Any) -> Tensor:
        gamma, beta, _training, _momentum, eps = options
        shift = -_wide(mean) * (_wide(var) + eps).rsqrt()
        shift = shift if gamma is None else shift * gamma
        shift = shift if beta is None else shift + beta
        out = original(x, mean, var, *options)
        return self._keep(out, shift.view(-1, *[1] * (out.ndim - 2)), out.ndim == 4)

    def _implicit(self, original: Any, *values: Tensor) -> Any:
        out = original(*values)
        if type(out) is tuple:  # attention returns its output and its weights
            return tuple(
                self._implicit(lambda *new, k=k: original(*new)[k], *values) if isinstance(one, Tensor) else one
                for k, one in enumerate(out)
            )
        if not isinstance(out, Tensor) or not out.is_floating_point():
            return out
        at = tuple(value.detach() for value in values if value.is_floating_point())

        def of_numbers(*numbers: Tensor) -> Tensor:
            new = iter(numbers)
            return original(*(next(new) if value.is_floating_point() else value for value in values))

        with sdpa_kernel(SDPBackend.MATH):  # the others have no forward derivative
            made = torch.func.jvp(of_numbers, at, at)
        return self._keep(out, made[0] - made[1], False)


@cache
def _load_forward_derivatives() -> None:
    """Make torch load its forward derivatives now, without its warning about a deprecated function of its own."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        torch.func.jvp(torch.exp, (torch.zeros(()),), (torch.zeros(()),))


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
