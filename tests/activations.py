"""Small networks with an activation of any kind, and the methods that have a rule for it."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eigencam.methods.blur_ig import BlurIG
from eigencam.methods.expected import ExpectedGradients
from eigencam.methods.fixations import CNNFixations
from eigencam.methods.fullgrad import FullGrad
from eigencam.methods.guided_ig import GuidedIG
from eigencam.methods.input_gradients import GuidedBackprop, GuidedGradCAM, IntegratedGradients
from eigencam.methods.lift import LIFTCAM
from eigencam.methods.relevance import LRP, DeepLIFT, ExcitationBackprop
from eigencam.methods.relevance_cam import RelevanceCAM
from eigencam.methods.xrai import XRAI
from eigencam.networks.network import Network, Preprocess
from eigencam.passes.forward import forward_pass

Function = Callable[[Tensor], Tensor]
SIDE = 12


class Call(nn.Module):
    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


FORMS: dict[str, tuple[Callable[[], nn.Module], Function, Function]] = {
    "ReLU": (nn.ReLU, F.relu, lambda x: x.clamp(min=0)),
    "ReLU6": (nn.ReLU6, F.relu6, lambda x: x.clamp(0, 6)),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.2), lambda x: F.leaky_relu(x, 0.2), lambda x: torch.where(x > 0, x, 0.2 * x)),
    "PReLU": (
        nn.PReLU,
        lambda x: F.prelu(x, torch.tensor([0.25])),
        lambda x: x.clamp(min=0) - 0.25 * (-x).clamp(min=0),
    ),
    "ELU": (nn.ELU, F.elu, lambda x: torch.where(x > 0, x, x.exp() - 1)),
    "RReLU": (nn.RReLU, lambda x: F.rrelu(x, training=False), lambda x: F.rrelu(x)),
    "Hardtanh": (lambda: nn.Hardtanh(-0.5, 0.4), lambda x: F.hardtanh(x, -0.5, 0.4), lambda x: x.clamp(-0.5, 0.4)),
    "Hardsigmoid": (nn.Hardsigmoid, F.hardsigmoid, lambda x: (x + 3).clamp(0, 6) / 6),
    "Tanh": (nn.Tanh, F.tanh, lambda x: x.tanh()),
    "Softsign": (nn.Softsign, F.softsign, lambda x: x / (1 + x.abs())),
    "GELU": (nn.GELU, F.gelu, lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5))),
    "SiLU": (nn.SiLU, F.silu, lambda x: x * torch.sigmoid(x)),
    "Hardswish": (nn.Hardswish, F.hardswish, lambda x: x * (x + 3).clamp(0, 6) / 6),
    "Sigmoid": (nn.Sigmoid, torch.sigmoid, lambda x: 1 / (1 + (-x).exp())),
    "Softplus": (nn.Softplus, F.softplus, lambda x: (1 + x.exp()).log()),
    "Threshold": (
        lambda: nn.Threshold(0.1, 0.0),
        lambda x: F.threshold(x, 0.1, 0.0),
        lambda x: torch.where(x > 0.1, x, 0.0),
    ),
}
SIGN_KEEPING = ("LeakyReLU", "PReLU", "RReLU", "ELU", "Hardtanh", "Tanh", "Softsign")
RULED: dict[str, Any] = {
    "guided_backprop": GuidedBackprop(),
    "deconvnet": GuidedBackprop(deconvnet=True),
    "guided_gradcam": GuidedGradCAM(),
    **{f"lrp_{rule}": LRP(rule, epsilon=1e-9) for rule in ("epsilon", "zplus", "alphabeta", "gamma", "composite")},
    "deeplift": DeepLIFT(),
    "mwp": ExcitationBackprop(),
    "cmwp": ExcitationBackprop(contrastive=True),
    "cnn_fixations": CNNFixations(sigma=2.0),
    "liftcam": LIFTCAM(),
    "relevance_cam": RelevanceCAM(),
    "integrated_gradients": IntegratedGradients(steps=128),
    "blur_ig": BlurIG(steps=2),
    "expected_gradients": ExpectedGradients(references=2),
    "guided_ig": GuidedIG(),
    "xrai": XRAI(),
    "fullgrad": FullGrad(),
}
LRPS = {name for name in RULED if name.startswith("lrp")}
RELUS = {"guided_backprop", "deconvnet", "guided_gradcam", "mwp", "cmwp", "cnn_fixations", "relevance_cam", *LRPS}


def activation(name: str, form: str) -> nn.Module:
    module, function, inline = FORMS[name]
    return module() if form == "module" else Call(function if form == "function" else inline)


def small(make: Callable[[], nn.Module], *, bias: bool = True) -> nn.Sequential:
    torch.manual_seed(3)
    layers = [nn.Conv2d(3, 8, 3, 2, 1, bias=bias), nn.Conv2d(8, 16, 3, 2, 1, bias=bias), nn.Linear(16, 5, bias=bias)]
    first, second, last = layers
    return nn.Sequential(first, make(), second, make(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()


def network(module: nn.Module, layer: str = "3") -> Network:
    return Network("small", module, layer, "own", "", Preprocess(size=SIDE))


def maps(method: Any, module: nn.Module, images: Tensor, layer: str = "3") -> Tensor:
    with torch.no_grad():
        forward = forward_pass(module, images, layer, gradients=True)
        return method(forward, torch.tensor([1, 2]))


def images() -> Tensor:
    return torch.randn(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
