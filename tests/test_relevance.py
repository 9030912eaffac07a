"""Input gradients and relevance: conservation, closed forms, and Captum."""

import copy
import warnings
from typing import Any

import captum.attr
import pytest
import torch
import torch.nn.functional as F
import torchvision
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule
from relevance_networks import TARGETS, logit, plain, read, squeezed
from torch import Tensor, nn
from toys import network, random_activations

from eigencam.methods.input_gradients import Gradient, GuidedBackprop, GuidedGradCAM, IntegratedGradients, SmoothGrad
from eigencam.methods.refusal import refusal
from eigencam.methods.relevance import LRP, RULES, DeepLIFT, ExcitationBackprop, LrpRule
from eigencam.networks.caffe import googlenet
from eigencam.networks.network import Network, Preprocess
from eigencam.passes.backward import gradients
from eigencam.passes.forward import Forward, forward_pass


@pytest.mark.parametrize("inplace", [False, True])
def test_gradients_are_captums(inplace: bool) -> None:
    forward, net = read(plain(inplace=inplace)), plain()
    x = forward.images.requires_grad_(True)
    saliency = captum.attr.Saliency(net).attribute(x, target=TARGETS, abs=False)
    torch.testing.assert_close(Gradient("sum")(forward, TARGETS), saliency.sum(1))
    torch.testing.assert_close(Gradient()(forward, TARGETS), saliency.abs().amax(1))
    for ours, theirs in (
        (GuidedBackprop(), captum.attr.GuidedBackprop),
        (GuidedBackprop(True), captum.attr.Deconvolution),
    ):
        with pytest.warns(UserWarning, match="backward hooks"):
            expected = theirs(plain()).attribute(x, target=TARGETS)
        torch.testing.assert_close(ours(forward, TARGETS), expected.abs().amax(1))
    with pytest.warns(UserWarning, match="backward hooks"):
        expected = captum.attr.GuidedGradCam(net, net[3]).attribute(x, target=TARGETS, interpolate_mode="bilinear")
    torch.testing.assert_close(GuidedGradCAM()(forward, TARGETS), expected.abs().amax(1), atol=1e-6, rtol=1e-4)


def test_integrated_gradients_add_up_and_are_captums() -> None:
    forward = read(plain())
    nothing = forward.predict(1, lambda _: torch.zeros_like(forward.images[:1]))[0, TARGETS]
    found = IntegratedGradients(200)(forward, TARGETS)
    torch.testing.assert_close(found.sum((1, 2)), logit(forward) - nothing, atol=2e-3, rtol=0)
    theirs = captum.attr.IntegratedGradients(plain()).attribute(forward.images, target=TARGETS, n_steps=200)
    torch.testing.assert_close(found, theirs.float().sum(1), atol=1e-4, rtol=1e-3)


def test_integrated_gradients_take_the_nodes_that_their_sum_asks_for() -> None:
    forward, seen = read(plain()), list[int]()
    forward.progress = seen.append
    nothing = forward.predict(1, lambda _: torch.zeros_like(forward.images[:1]))[0, TARGETS]
    difference = logit(forward) - nothing
    allowed = 0.01 * torch.maximum(difference.abs(), forward.logits.std(1, correction=0))
    fixed, found = (IntegratedGradients(2, tolerance)(forward, TARGETS).sum((1, 2)) for tolerance in (None, 0.01))
    assert ((fixed - difference).abs() > allowed).any()
    assert ((found - difference).abs() <= allowed).all()
    short = IntegratedGradients(2, 0.01, max_steps=2)(forward, TARGETS).isnan().flatten(1)
    assert torch.equal(short.all(1), (fixed - difference).abs() > allowed)
    assert torch.equal(short.any(1), short.all(1))


def test_smoothgrad_without_noise_is_the_gradient() -> None:
    forward = read(plain())
    torch.testing.assert_close(SmoothGrad(2, sigma=0)(forward, TARGETS), Gradient()(forward, TARGETS))
    noisy = SmoothGrad(3)(forward, TARGETS)
    torch.testing.assert_close(SmoothGrad(3)(forward, TARGETS), noisy)


def test_lrp_by_hand() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        for parameter, values in zip(net.parameters(), ([[1.0, -1.0], [2.0, 1.0]], [[1.0, 3.0]]), strict=True):
            parameter.copy_(torch.tensor(values))
    x = torch.tensor([3.0, 1.0]).view(1, 1, 1, 2)  # hidden 2, 7; logit 23 = 2 + 21
    expected = {"epsilon": [2 * 3 / 2 + 21 * 6 / 7, 2 * -1 / 2 + 21 / 7], "zplus": [2 + 21 * 6 / 7, 21 / 7]}
    for rule, relevance in expected.items():
        layers = LRP(rule, epsilon=0)  # type: ignore[arg-type]
        forward = Forward(net, x, torch.zeros(1), "", net(x), {})
        torch.testing.assert_close(layers(forward, torch.tensor([0])), torch.tensor([[relevance]]))
    alpha_beta = LRP("alphabeta", alpha=2)(Forward(net, x, torch.zeros(1), "", net(x), {}), torch.tensor([0]))
    # z1 = 3 - 1, z2 = 6 + 1: positive parts 3 and 6, 1; negative parts -1 and none
    out = [2 * 2, 2 * 21]  # the last layer has only positive parts, so beta has no effect
    by_hand = [2 * out[0] + 2 * out[1] * 6 / 7, 2 * out[1] / 7 - out[0]]
    torch.testing.assert_close(alpha_beta, torch.tensor([[by_hand]]))


@pytest.mark.parametrize("rule", RULES)
def test_without_biases_relevance_is_conserved(rule: LrpRule) -> None:
    forward = read(plain(bias=False))
    found = LRP(rule, epsilon=0, alpha=1)(forward, TARGETS)
    torch.testing.assert_close(found.sum((1, 2)), logit(forward), atol=1e-4, rtol=1e-3)


def test_lrp_is_captums() -> None:
    forward = read(plain())
    for rule, theirs in (("epsilon", EpsilonRule(1e-9)), ("zplus", Alpha1_Beta0_Rule(set_bias_to_zero=True))):
        net = plain()
        for module in net:
            if isinstance(
                module, nn.Conv2d | nn.Linear | nn.Flatten
            ):  # without biases, flattening passes relevance unchanged
                rule_of = EpsilonRule(1e-9) if isinstance(module, nn.Flatten) else copy.copy(theirs)
                module.rule = rule_of  # type: ignore[assignment]
        images = forward.images.abs() if rule == "zplus" else forward.images
        expected = captum.attr.LRP(net).attribute(images.requires_grad_(), target=TARGETS).detach().sum(1)
        again = forward_pass(plain(), images.detach(), "3")
        found = LRP(rule, epsilon=1e-9, bias="drop" if rule == "zplus" else "keep")(again, TARGETS)  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_without_their_share_biases_take_no_relevance() -> None:
    """For a network of convolutions with inputs and outputs of either sign; no denominator of gamma is nearly 0."""
    forward = read(squeezed(False), (10, 10))
    kept, dropped = (LRP("gamma", bias=bias)(forward, TARGETS) for bias in ("keep", "drop"))
    torch.testing.assert_close(dropped.sum((1, 2)), logit(forward), atol=1e-5, rtol=1e-4)
    assert ((kept.sum((1, 2)) - logit(forward)).abs() > 1e-3).all()


@pytest.mark.parametrize("rectified", [False, True])
def test_the_preset_of_lrp_is_captums_where_the_classifier_is_a_convolution(rectified: bool) -> None:
    """In float64; between black and white that are both 0, z^B of a convolution without bias is epsilon."""
    net = squeezed(rectified).double()
    of = {0: EpsilonRule(1e-9), 3: Alpha1_Beta0_Rule(), 5: EpsilonRule(1e-6)}
    for i, module in enumerate(net):
        if isinstance(module, nn.Conv2d | nn.Flatten):
            module.rule = of.get(i, EpsilonRule(1e-9))  # type: ignore[assignment]
    images = random_activations(5, 3, 10, 10, seed=5).double()
    expected = captum.attr.LRP(net).attribute(images.requires_grad_(), target=TARGETS).detach().sum(1)
    forward = forward_pass(squeezed(rectified).double(), images.detach(), "4")
    forward.black = forward.white = torch.zeros(3, 1, 1)
    found = LRP()(forward, TARGETS)
    assert (logit(forward) < 0).any() != rectified
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


def test_a_classifier_is_the_same_before_and_behind_the_average() -> None:
    maps = []
    for averaged_first in (False, True):
        forward = read(squeezed(False, averaged_first, bias=False), (10, 10))
        maps.append(LRP()(forward, TARGETS))
        bias = forward.module.get_parameter("6.bias" if averaged_first else "5.bias")[TARGETS].detach()
        torch.testing.assert_close(maps[-1].sum((1, 2)), logit(forward) - bias, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(*maps, atol=1e-5, rtol=1e-4)


def test_batch_norm_is_merged_into_the_convolution_before_it() -> None:
    torch.manual_seed(0)
    conv, bn = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
    for tensor in (bn.weight, bn.bias, bn.running_mean, bn.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)  # type: ignore[arg-type]
    tail = (nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    merged = torch.nn.utils.fuse_conv_bn_eval(copy.deepcopy(conv).eval(), copy.deepcopy(bn).eval())
    for rule in RULES:
        two = LRP(rule)(read(nn.Sequential(conv, bn, *tail).eval(), layer="0"), TARGETS)
        one = LRP(rule)(read(nn.Sequential(merged, *tail).eval(), layer="0"), TARGETS)
        torch.testing.assert_close(two, one, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("pooled", [False, True])
def test_deeplift_adds_up_and_is_captums(pooled: bool) -> None:
    def net() -> nn.Sequential:
        return plain() if pooled else nn.Sequential(*[m if i != 2 else nn.AvgPool2d(2) for i, m in enumerate(plain())])

    forward = read(net())
    found = DeepLIFT()(forward, TARGETS)
    nothing = forward.predict(1, lambda _: torch.zeros_like(forward.images[:1]))[0, TARGETS]
    torch.testing.assert_close(found.sum((1, 2)), logit(forward) - nothing, atol=1e-4, rtol=1e-3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns about its hooks, and about reading `.grad` of a non-leaf tensor
        theirs = captum.attr.DeepLift(net()).attribute(forward.images, target=TARGETS)
    # for a max-pool with two nearly equal values it gives a little to another pixel
    torch.testing.assert_close(found, theirs.detach().sum(1), atol=1e-2 if pooled else 1e-4, rtol=1e-2)


@pytest.mark.parametrize(
    (
        "name",
        "epsilons",
    ),  # DenseNet-121: the first norms of 58 layers, 3 norms of transitions, and the last one
    [("vgg11_bn", 3), ("resnet18", 1), ("mobilenet_v2", 1), ("densenet121", 1 + 62), ("squeezenet1_1", 1)],
)
def test_the_preset_of_lrp_is_as_its_table_says(name: str, epsilons: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[None] = []
    epsilon = LRP._epsilon
    monkeypatch.setattr(LRP, "_epsilon", lambda self, *args: seen.append(None) or epsilon(self, *args))
    torch.manual_seed(0)
    layer = {"resnet18": "conv1", "densenet121": "features.conv0"}.get(name, "features.0")
    forward = forward_pass(getattr(torchvision.models, name)(), random_activations(1, 3, 64, 64), layer)
    assert LRP()(forward, TARGETS[:1]).isfinite().all()
    assert len(seen) == epsilons


class Entered(nn.Module):
    """Channels normalised again, or a padded image, as in torchvision's GoogLeNet and TensorFlow's networks."""

    def __init__(self, own: bool) -> None:
        super().__init__()
        self.own, self.net = own, plain(bias=False)
        self.scale = nn.Parameter(torch.tensor([0.5, 2.0, 1.0]).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(F.pad(self.scale * x + 0.25, (0, 1, 0, 1)) if self.own else x)


def test_lrp_goes_to_the_pixels_that_the_first_convolution_sees_changed() -> None:
    net = Entered(own=True)
    images, ends = random_activations(5, 3, 5, 5), torch.tensor([-3.0, 3.0])
    forward = forward_pass(net, images, "net.3")
    forward.black, forward.white = (end.expand(3, 1, 1) for end in ends)
    found = LRP()(forward, TARGETS)
    changed = F.pad(net.scale * images + 0.25, (0, 1, 0, 1)).detach()
    same = forward_pass(Entered(own=False), changed, "net.3")
    # the border is the same in all images, so it does not vary between black and white, and gets no relevance
    same.black, same.white = (
        F.pad(net.scale * end + torch.full((3, 5, 5), 0.25), (0, 1, 0, 1)).detach() for end in ends
    )
    expected = LRP()(same, TARGETS)
    torch.testing.assert_close(found, expected[:, :5, :5], atol=1e-5, rtol=1e-4)
    assert not expected[:, 5].any()
    torch.testing.assert_close(found.sum((1, 2)), logit(forward), atol=1e-4, rtol=1e-3)


METHODS: list[Any] = [LRP(rule) for rule in RULES]
METHODS += [DeepLIFT(), ExcitationBackprop(), ExcitationBackprop(True), Gradient(), GuidedBackprop()]


@pytest.mark.full
@pytest.mark.parametrize("name", ["resnet18", "densenet121", "squeezenet1_1", "mobilenet_v2", "googlenet_bvlc"])
def test_they_run_on_networks_of_every_kind(name: str) -> None:
    torch.manual_seed(0)
    net = googlenet() if name == "googlenet_bvlc" else getattr(torchvision.models, name)()
    target = {"resnet18": "layer4", "googlenet_bvlc": "inception5b"}.get(name, "features")
    before = {k: v.clone() for k, v in net.state_dict().items()}
    forward = forward_pass(net, random_activations(2, 3, 64, 64), target, gradients=True)
    for method in METHODS:
        with torch.no_grad():
            found = method(forward, TARGETS[:2])
        assert found.isfinite().all(), method
        assert found.dtype == torch.float32
        assert not found.requires_grad
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert net.training
    assert not any(m._forward_hooks for m in net.modules())


@pytest.mark.parametrize("method", [*METHODS, SmoothGrad(2), IntegratedGradients(2), GuidedGradCAM()], ids=repr)
def test_batches_do_not_matter(method: Any) -> None:
    net, x = network("rectified"), random_activations(3, 3, 6, 7)
    together = method(forward_pass(net, x, "conv", gradients=True), TARGETS[:3])
    for i in range(3):
        one = forward_pass(net, x[i : i + 1], "conv", gradients=True, index=torch.tensor([i]), chunk=1)
        if method in (LRP("composite"), LRP("gamma")):  # its bounds are the network's; here those of the images
            one.black, one.white = x.amin((0, 2, 3))[:, None, None], x.amax((0, 2, 3))[:, None, None]
        torch.testing.assert_close(method(one, TARGETS[i : i + 1])[0], together[i], atol=1e-5, rtol=1e-3)
    half = forward_pass(net.bfloat16(), x.bfloat16(), "conv", gradients=True)
    assert method(half, TARGETS[:3]).dtype == torch.float32


def test_networks_without_rules_are_refused() -> None:
    vit = torchvision.models.VisionTransformer(32, 16, 2, 2, 8, 16, num_classes=5)
    net = Network("vit", vit, "conv_proj", "imagenet", "", Preprocess(size=32))
    assert "gelu, layer_norm, multi_head_attention_forward" in (why := refusal(LRP(), net))
    assert "no rule for" in why
    assert "no rule for gelu" in refusal(GuidedBackprop(), net)
    with pytest.raises(ValueError, match="allowed"):
        LRP("z")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="allowed: keep, drop"):
        LRP(bias="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sums without biases cross 0"):
        LRP("epsilon", bias="drop")
    refused: list[dict[str, Any]] = [{"steps": 0}, {"steps": 9, "max_steps": 8}, {"tolerance": 0}]
    for wrong in refused:
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}=.*allowed"):
            IntegratedGradients(**wrong)
    with pytest.raises(ValueError, match="max, sum, l2"):
        Gradient("mean")  # type: ignore[arg-type]
    value, gradient = gradients(plain(), random_activations(2, 3, 6, 6), TARGETS[:2])
    assert value.shape == gradient.shape
