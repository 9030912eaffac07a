"""zennit's LRP, if it is installed (pip install zennit==0.5.1); because of its licence it is not a dependency.

Its own composites, with 1e-12 instead of 1e-6 as the stabiliser of denominators (except in the rule epsilon). In
MobileNetV2, residual sums and the average over positions are turned into modules, which zennit's canonizers do not do.
A batch norm merged by them still divides by the root of 1 + 1e-5; here it divides by 1.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import torch
from references import Case, Pair
from torch import Tensor, nn
from torchvision.models import MobileNetV2, SqueezeNet
from torchvision.models.mobilenetv2 import InvertedResidual

from eigencam.methods.relevance import LRP, LrpRule
from eigencam.networks.network import Network

STABILIZER = 1e-12


def unfit(network: Network) -> str:
    """Return why zennit cannot run on a network."""
    known = isinstance(network.module, MobileNetV2 | SqueezeNet)
    return "" if known else "zennit needs modules, but its sums and activations are functions"


def prepared(module: nn.Module) -> nn.Module:
    """Return MobileNetV2 with modules where zennit needs them; other networks are unchanged."""
    summed = import_module("zennit.layer").Sum

    class Residual(nn.Module):
        def __init__(self, block: InvertedResidual) -> None:
            super().__init__()
            self.conv, self.sum = block.conv, summed()

        def forward(self, x: Tensor) -> Tensor:
            return self.sum(torch.stack([x, self.conv(x)], -1))

    if not isinstance(module, MobileNetV2):
        return module
    blocks = [
        Residual(block) if isinstance(block, InvertedResidual) and block.use_res_connect else block
        for block in module.features
    ]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), module.classifier)


def composite(rule: str, zero: list[str] | None, ends: tuple[Tensor, Tensor]) -> Any:
    """Return zennit's composite of a rule of ours."""
    composites, rules = import_module("zennit.composites"), import_module("zennit.rules")
    convolution = import_module("zennit.types").Convolution
    epsilon, more = rules.Epsilon(1e-6), {"stabilizer": STABILIZER, "zero_params": zero}
    kinds: dict[str, tuple[Any, Any]] = {
        "composite": (rules.ZPlus(**more), epsilon),
        "gamma": (rules.Gamma(0.25, **more), epsilon),
        "epsilon": (epsilon, epsilon),
        "zplus": (rules.ZPlus(**more), rules.ZPlus(**more)),
        "alphabeta": (rules.AlphaBeta(2, 1, **more), rules.AlphaBeta(2, 1, **more)),
    }
    on_maps, on_vectors = kinds[rule]
    layers = [*composites.layer_map_base(STABILIZER), (convolution, on_maps), (nn.Linear, on_vectors)]
    merging = [import_module("zennit.canonizers").SequentialMergeBatchNorm()]
    if rule not in ("composite", "gamma"):
        return composites.LayerMapComposite(layers, canonizers=merging)
    first = [(convolution, rules.ZBox(*ends, STABILIZER))]
    return composites.SpecialFirstLayerMapComposite(layers, first, canonizers=merging)


def lrp(rule: str, zero: list[str] | None = None) -> Callable[[Case], Tensor]:
    """Return the reference of `LRP(rule)`; `zero`: parameters that count as 0."""
    return partial(_lrp, rule, zero)


def _lrp(rule: str, zero: list[str] | None, case: Case) -> Tensor:
    ends = case.network.preprocess.normalize(torch.tensor([0, 255]).view(2, 1, 1, 1).expand(2, 3, 1, 1), torch.float64)
    x = case.inputs.requires_grad_()
    with composite(rule, zero, (ends[:1], ends[1:])).context(prepared(case.module())) as module:
        for each in module.modules():
            if isinstance(each, nn.BatchNorm2d):
                each.eps = 0.0
        logits = module(x)
        places = case.targets[:, None]
        start = torch.zeros_like(logits).scatter(1, places, logits.detach().gather(1, places))
        (found,) = torch.autograd.grad(logits, x, start)
    return found.sum(1)


NAMED: dict[str, LrpRule] = {
    "lrp": "composite",
    "lrp_epsilon": "epsilon",
    "lrp_zplus": "zplus",
    "lrp_alphabeta": "alphabeta",
    "lrp_gamma": "gamma",
}
ZENNIT = "zennit 0.5.1"
PAIRS = [Pair(name, LRP(rule), ZENNIT, lrp(rule), "zennit", unfit) for name, rule in NAMED.items()]
PAIRS += [
    Pair(f"{name} bias=drop", LRP(NAMED[name], bias="drop"), ZENNIT, lrp(NAMED[name], ["bias"]), "zennit", unfit)
    for name in ("lrp_zplus", "lrp_alphabeta")
]
