"""Excitation Backprop: winning probabilities compared with the paper's example and recursion."""

import copy
import functools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
import torchvision
from relevance_networks import TARGETS, plain, read
from torch import Tensor, nn
from torchvision.models.googlenet import BasicConv2d, Inception
from toys import random_activations

from eigencam.methods.relevance import ExcitationBackprop, saliency_layer
from eigencam.networks.caffe import googlenet
from eigencam.passes.forward import forward_pass

Back = Callable[[Tensor], Tensor]


def test_winning_probabilities_add_up_to_one_and_follow_the_positive_weights() -> None:
    forward = read(plain(bias=False))
    found = ExcitationBackprop(layer="4")(forward, TARGETS)
    assert (found >= 0).all()
    total = found.sum((1, 2))  # 0 if no active unit is evidence for the class
    torch.testing.assert_close(total, total.round(), atol=1e-4, rtol=0)
    assert total.max() > 0.99
    net = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        next(net.parameters()).copy_(torch.tensor([[1.0, 2.0, -1.0], [0.0, -1.0, 4.0]]))
    x = torch.tensor([2.0, 1.0, 1.0]).view(1, 1, 1, 3)
    tapped = forward_pass(net, x, "0")
    zero = torch.tensor([0])
    torch.testing.assert_close(ExcitationBackprop(layer="0")(tapped, zero), torch.tensor([[[0.5, 0.5, 0.0]]]))
    contrast = ExcitationBackprop(contrastive=True, layer="0")(tapped, zero)
    torch.testing.assert_close(contrast, torch.tensor([[[0.5, 0.5, 0.0]]]))
    other = ExcitationBackprop(contrastive=True, layer="0")(tapped, torch.tensor([1]))
    torch.testing.assert_close(other, torch.tensor([[[0.0, 0.0, 1.0]]]))


def excited(module: nn.Module, a: Tensor) -> tuple[Tensor, Back]:
    """A module's output, and the function from its winning probabilities P to its input's: a (W+)^T (P / W+ a)."""
    if isinstance(module, nn.Sequential):
        return chained(list(module), a)
    if isinstance(module, BasicConv2d):
        return chained([torch.nn.utils.fuse_conv_bn_eval(module.conv, module.bn), nn.ReLU()], a)
    if isinstance(module, Inception):
        branches = [excited(b, a) for b in (module.branch1, module.branch2, module.branch3, module.branch4)]
        sizes = [out.shape[1] for out, _ in branches]
        joined = torch.cat([out for out, _ in branches], 1)
        return joined, lambda p: sum((b(q) for (_, b), q in zip(branches, p.split(sizes, 1), strict=True)), 0 * a)
    out = module(a)
    if isinstance(module, nn.Conv2d | nn.Linear | nn.AdaptiveAvgPool2d | nn.MaxPool2d):
        positive = copy.deepcopy(module)
        with torch.no_grad():
            for name, parameter in positive.named_parameters():
                parameter.copy_(parameter.clamp(min=0) if name == "weight" else torch.zeros_like(parameter))

        def back(p: Tensor) -> Tensor:
            z, through, *_ = torch.func.vjp(positive, a)
            return a * through(torch.where(z > 0, p / z, 0.0))[0]

        return out, back
    return out, lambda p: p.view_as(a)  # ReLU, flattening, dropout, local response normalisation


def chained(modules: list[nn.Module], a: Tensor) -> tuple[Tensor, Back]:
    backs: list[Back] = []
    for module in modules:
        a, back = excited(module, a)
        backs.insert(0, back)
    return a, lambda p: functools.reduce(lambda q, back: back(q), backs, p)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["plain", "googlenet_bvlc"])
def test_winning_probabilities_are_those_of_the_papers_recursion_in_float64(kind: str) -> None:
    """Contrastive: subtracted at the classifier's input, as in the paper, and carried on from there."""
    torch.manual_seed(0)
    small = kind == "plain"
    net: nn.Module = plain() if small else googlenet(4)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight, -0.5), (module.bias, -0.2), (module.running_var, 0.5)):
                nn.init.uniform_(tensor, low, 1)  # type: ignore[arg-type]
    net = net.double().eval().requires_grad_(False)
    modules = [m for m in net.children() if not isinstance(m, nn.Dropout)]
    if not small:
        modules.insert(-1, nn.Flatten())
    (layer, salient), side = (("2", 2) if small else ("maxpool2", 4)), 6 if small else 64
    images, targets = random_activations(3, 3, side, side, seed=5).double(), TARGETS[:3]
    start = nn.Sequential(*modules[: salient + 1])(images)
    x, back = chained(modules[salient + 1 : -1], start)
    of, contrast = F.one_hot(targets, 4).double(), copy.deepcopy(modules[-1])
    with torch.no_grad():
        contrast.get_parameter("weight").neg_()
    winner, loser = (excited(classifier, x)[1](of) for classifier in (modules[-1], contrast))
    forward = forward_pass(net, images, layer)
    for contrastive, expected in ((False, back(winner)), (True, back(winner - loser))):
        found = ExcitationBackprop(contrastive, layer)(forward, targets).double()
        by_paper = expected.sum(1).clamp(min=0)
        assert (by_paper.amax((1, 2)) > 0).any()
        # ours is rounded to float32 before the subtraction: errors of 6e-8 for probabilities up to 0.3
        torch.testing.assert_close(found, by_paper, atol=2e-8, rtol=1e-4)


@pytest.mark.parametrize("contrastive", [False, True])
@pytest.mark.parametrize("layer", ["0", "1"])
def test_a_classifier_before_the_average_excites_as_the_same_one_behind_it(contrastive: bool, layer: str) -> None:
    torch.manual_seed(3)
    shared = [nn.Conv2d(3, 6, 3), nn.ReLU()]
    before, pool = nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1)
    behind = nn.Linear(6, 4)
    with torch.no_grad():
        behind.weight.copy_(before.weight[:, :, 0, 0])
        behind.bias.copy_(before.bias)  # type: ignore[arg-type]
    nets = [nn.Sequential(*shared, *rest) for rest in ([before, pool, nn.Flatten()], [pool, nn.Flatten(), behind])]
    images = random_activations(len(TARGETS), 3, 9, 9, seed=2)
    first, second = (
        ExcitationBackprop(contrastive, layer)(forward_pass(net.eval(), images, layer), TARGETS) for net in nets
    )
    assert (second.amax((1, 2)) > 1e-3).all()
    torch.testing.assert_close(first, second, atol=1e-7, rtol=1e-4)


def test_saliency_layers_are_the_papers() -> None:
    assert saliency_layer(torchvision.models.resnet18()) == "layer3"
    assert saliency_layer(googlenet()) == "maxpool2"
    assert saliency_layer(torchvision.models.vgg11()) is None
    assert saliency_layer(plain()) is None
