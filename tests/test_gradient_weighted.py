"""Gradient-weighted methods compared with closed forms, float64, pytorch-grad-cam and torchcam."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models
from pytorch_grad_cam import ShapleyCAM as TheirShapleyCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputReST
from torch import Tensor, nn
from toys import make, network, random_activations

from eigencam.methods.cam import CAM
from eigencam.methods.fullgrad import FullGrad, full_gradients
from eigencam.methods.gradcam import GradCAM, GradCAMPlusPlus
from eigencam.methods.gradient_weighted import HiResCAM, LayerCAM, SmoothGradCAMPlusPlus, XGradCAM
from eigencam.methods.peers import PytorchGradCAM, TorchCAM
from eigencam.methods.randomness import normal
from eigencam.methods.shapleycam import ShapleyCAM
from eigencam.passes.calls import evaluating
from eigencam.passes.forward import Forward, forward_pass
from eigencam.passes.readings import Reading

TARGETS = torch.tensor([3, 2, 1, 0, 1])


def scaled(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-30)


def resnet(images: int = 3, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tensor]:
    """A ResNet-18 with running statistics and biases that are not 0 and 1, and images for it."""
    torch.manual_seed(0)
    net = torchvision.models.resnet18(weights=None, num_classes=10).eval()
    for i, norm in enumerate(m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        for j, t in enumerate((norm.running_mean, norm.running_var, norm.weight, norm.bias)):
            assert t is not None
            noise = random_activations(*t.shape, seed=100 * i + j)
            t.data.copy_(1 + 0.2 * noise.clamp(-2, 2) if j in (1, 2) else 0.1 * noise)
    return net.to(dtype), random_activations(images, 3, 64, 64, seed=9).to(dtype)


def enlarged(maps: Tensor, size: tuple[int, int] = (64, 64)) -> Tensor:
    return scaled(F.interpolate(scaled(maps)[:, None], size, mode="bilinear", align_corners=False)[:, 0])


@pytest.mark.parametrize("layer", ["layer2", "layer4"])
@pytest.mark.parametrize("method", [XGradCAM(), HiResCAM(), LayerCAM()], ids=lambda m: type(m).__name__)
def test_agrees_with_pytorch_grad_cam(method: Any, layer: str) -> None:
    net, x = resnet()
    targets = torch.tensor([3, 7, 9])
    forward = forward_pass(net, x, layer, gradients=True)
    theirs = PytorchGradCAM(type(method).__name__)(forward, targets)
    torch.testing.assert_close(enlarged(method(forward, targets)), theirs, atol=1e-5, rtol=0)


@pytest.mark.parametrize("layer", ["layer2", "layer4"])
@pytest.mark.parametrize("method", [XGradCAM(), LayerCAM()], ids=lambda m: type(m).__name__)
def test_agrees_with_torchcam(method: Any, layer: str) -> None:
    net, x = resnet()
    targets = torch.tensor([3, 7, 9])
    forward = forward_pass(net, x, layer, gradients=True)
    theirs = TorchCAM(type(method).__name__)(forward, targets)
    torch.testing.assert_close(scaled(method(forward, targets)), scaled(theirs.relu()), atol=1e-5, rtol=0)


def test_behind_global_average_pooling_hirescam_and_xgradcam_are_the_rectified_cam() -> None:
    forward = make(network("gap"), gradients=True)
    expected = CAM()(forward, TARGETS)
    torch.testing.assert_close(HiResCAM()(forward, TARGETS) * 42, expected.relu())
    torch.testing.assert_close(HiResCAM(relu=False)(forward, TARGETS) * 42, expected)
    torch.testing.assert_close(XGradCAM()(forward, TARGETS) * 42, expected.relu(), atol=1e-4, rtol=1e-3)


def test_layercam_fuses_layers_at_the_finest_resolution() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 1), nn.Flatten(), nn.LazyLinear(4)
    )
    net(torch.zeros(1, 3, 10, 10))
    forward = forward_pass(net, random_activations(2, 3, 10, 10), "3", layers=["0"], gradients=True)
    one, other = (LayerCAM([name])(forward, TARGETS[:2]) for name in ("0", "3"))
    fused = LayerCAM(["0", "3"])(forward, TARGETS[:2])
    assert fused.shape == one.shape == (2, 8, 8)
    assert (fused >= one).all()
    up = nn.functional.interpolate(other[:, None], (8, 8), mode="bilinear")[:, 0]
    torch.testing.assert_close(fused, torch.maximum(one, up))


def test_without_noise_smooth_gradcam_plus_plus_is_gradcam_plus_plus() -> None:
    forward = make(network("rectified"), gradients=True)
    smooth = SmoothGradCAMPlusPlus(samples=2, sigma=0)(forward, TARGETS)
    torch.testing.assert_close(smooth, GradCAMPlusPlus()(forward, TARGETS), atol=1e-5, rtol=1e-3)
    noisy = SmoothGradCAMPlusPlus(samples=3)(forward, TARGETS)
    assert not torch.allclose(noisy, smooth)
    torch.testing.assert_close(SmoothGradCAMPlusPlus(samples=3)(forward, TARGETS), noisy)


def test_smooth_gradcam_plus_plus_follows_its_equation_in_float64() -> None:
    net, samples, sigma = network("rectified"), 3, 0.2
    forward = make(net)
    x = forward.images
    spread = sigma * (x.amax((1, 2, 3)) - x.amin((1, 2, 3)))[:, None, None, None]
    grads = []
    for m in range(samples):
        noisy = x + spread * normal(forward.index, (3, 6, 7), 5 * samples + m)
        grads.append(forward_pass(net, noisy, "conv", gradients=True).gradients(TARGETS).double())
    d1, d2, d3 = (torch.stack([g**p for g in grads]).mean(0) for p in (1, 2, 3))
    a = forward.activations().double()
    denominator = 2 * d2 + a.sum((2, 3), keepdim=True) * d3
    alpha = torch.where(denominator == 0, 0, d2 / denominator)
    expected = torch.einsum("nc,nchw->nhw", (alpha * d1.relu()).sum((2, 3)), a).relu()
    for chunk in (2, 7, 64):  # images separately, samples separately, all at once
        forward.chunk = chunk
        found = SmoothGradCAMPlusPlus(samples, sigma, seed=5)(forward, TARGETS)
        torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-4)


def test_shapleycam_takes_the_second_order_taylor_term() -> None:
    """With logits W·mean(A), the derivatives of ReST are known: 2 W_y - Σp W, and -Σ p (W - Wbar)(W - Wbar)ᵀ."""
    net = network("gap")
    forward = make(net)
    a, w = forward.activations().double(), next(net.get_submodule("fc").parameters()).detach().double()
    p = forward.logits.double().softmax(1)
    mean = p @ w  # (N, C)
    gradient = (2 * w[TARGETS] - mean) / 42
    pooled = a.mean((2, 3))
    spread = w[None] - mean[:, None]  # (N, K, C)
    curvature = -torch.einsum("nk,nkc,nkd,nd->nc", p, spread, spread, pooled) / 42
    expected = torch.einsum("nc,nchw->nhw", gradient - curvature / 2, a).relu()
    torch.testing.assert_close(ShapleyCAM()(forward, TARGETS).double(), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kind", ["gap", "rectified", "conv"])
def test_shapleycam_of_the_logit_of_a_piecewise_linear_network_is_gradcam(kind: str) -> None:
    forward = make(network(kind), gradients=True)
    torch.testing.assert_close(ShapleyCAM("logit")(forward, TARGETS), GradCAM()(forward, TARGETS))


@pytest.mark.parametrize("layer", ["layer2", "layer4"])
def test_shapleycam_agrees_with_pytorch_grad_cam(layer: str) -> None:
    net, x = resnet()
    targets = torch.tensor([3, 7, 9])
    forward = forward_pass(net, x, layer)
    with (
        evaluating(net),
        torch.enable_grad(),
        TheirShapleyCAM(net, [net.get_submodule(layer)]) as cam,
    ):
        of: list[Any] = [ClassifierOutputReST(t) for t in targets.tolist()]
        theirs = torch.from_numpy(cam(x.clone(), of))
    torch.testing.assert_close(enlarged(ShapleyCAM()(forward, targets)), theirs, atol=1e-4, rtol=0)
    forward.chunk = 2
    torch.testing.assert_close(enlarged(ShapleyCAM()(forward, targets)), theirs, atol=1e-4, rtol=0)


def test_shapleycam_reads_tokens_and_attention() -> None:
    torch.manual_seed(0)
    net = torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5).eval()
    nn.init.normal_(net.get_submodule("heads.head").weight)  # type: ignore[arg-type]
    x, layer = random_activations(2, 3, 32, 32), "encoder.layers.encoder_layer_0"
    forward = forward_pass(net, x, layer, gradients=True, readings={layer: Reading((1,), (4, 4), front=1)})
    found, first = ShapleyCAM()(forward, TARGETS[:2]), ShapleyCAM("logit")(forward, TARGETS[:2])
    assert found.shape == (2, 4, 4)
    assert found.isfinite().all()
    assert not torch.allclose(first, GradCAM()(forward, TARGETS[:2]))  # attention and GELU have a second derivative


@pytest.mark.parametrize("kind", ["resnet", "gap", "rectified", "conv"])
def test_full_gradients_add_up_to_the_logit(kind: str) -> None:
    """In float64 to 1e-10, batch norms' implicit biases and in-place operations included."""
    if kind == "resnet":
        net, x = resnet(dtype=torch.float64)
    else:
        net, x = network(kind).double(), random_activations(3, 3, 6, 7).double()
    targets = torch.tensor([0, 3, 2])
    of_input, maps, rest = full_gradients(net, x, targets)
    total = sum(part.flatten(1).sum(1) for part in (of_input, *maps, *rest))
    assert isinstance(total, Tensor)
    with torch.no_grad():
        torch.testing.assert_close(total, net(x).gather(1, targets[:, None])[:, 0], atol=1e-10, rtol=1e-10)
    assert len(maps) == {"resnet": 20, "conv": 2}.get(kind, 1)


def test_fullgrad_agrees_with_pytorch_grad_cam() -> None:
    """For large logits: it adds 1e-7 to each channel's maximum, and those are small."""
    net, x = resnet()
    net.get_submodule("fc").requires_grad_(False).weight.mul_(1e5)  # type: ignore[operator, union-attr]
    targets = torch.tensor([3, 7, 9])
    forward = forward_pass(net, x, "layer4")
    theirs = their_fullgrad(forward, targets)
    torch.testing.assert_close(scaled(FullGrad("channel")(forward, targets)), theirs, atol=1e-4, rtol=0)
    forward.chunk = 2
    torch.testing.assert_close(scaled(FullGrad("channel")(forward, targets)), theirs, atol=1e-4, rtol=0)


def their_fullgrad(forward: Forward, targets: Tensor) -> Tensor:
    from pytorch_grad_cam import FullGrad as Their
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    with evaluating(forward.module), torch.enable_grad(), Their(forward.module, []) as cam:
        of: list[Any] = [ClassifierOutputTarget(t) for t in targets.tolist()]
        return torch.from_numpy(cam(forward.images.clone().requires_grad_(), of))


def test_fullgrad_scales_a_layer_at_once() -> None:
    """For one 1x1 convolution with pooling, both parts are known."""
    conv = nn.Conv2d(3, 2, 1)
    net = nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    x, targets = random_activations(2, 3, 4, 4), torch.tensor([0, 1])
    part = (x * conv.weight.detach()[targets, :, :, 0, None]).abs() / 16
    low, high = part.amin((1, 2, 3), keepdim=True), part.amax((1, 2, 3), keepdim=True)
    expected = ((part - low) / (high - low)).sum(1)
    expected = expected + 1  # the bias's gradient: 1 for the class's channel, 0 for the other
    torch.testing.assert_close(FullGrad()(forward_pass(net, x, "0"), targets), expected)
    found = FullGrad("channel")(forward_pass(net, x, "0"), targets)
    low, high = part.amin((2, 3), keepdim=True), part.amax((2, 3), keepdim=True)
    torch.testing.assert_close(found, ((part - low) / (high - low)).sum(1))  # each bias channel is constant


METHODS = [XGradCAM(), HiResCAM(), LayerCAM(), SmoothGradCAMPlusPlus(2), ShapleyCAM(), FullGrad()]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_batch_equals_batches_of_one_and_half_precision_gives_float32(method: Any) -> None:
    net, x = network("rectified"), random_activations(4, 3, 6, 7)
    together = method(forward_pass(net, x, "conv", gradients=True), TARGETS[:4])
    for i in range(4):
        one = forward_pass(net, x[i : i + 1], "conv", gradients=True, index=torch.tensor([i]))
        torch.testing.assert_close(method(one, TARGETS[i : i + 1])[0], together[i], atol=1e-5, rtol=1e-3)
    half = forward_pass(net.bfloat16(), x.bfloat16(), "conv", gradients=True)
    assert method(half, TARGETS[:4]).dtype == torch.float32


@pytest.mark.parametrize("method", [SmoothGradCAMPlusPlus(2), ShapleyCAM(), FullGrad()], ids=lambda m: type(m).__name__)
def test_own_passes_leave_the_network_as_it_was(method: Any) -> None:
    net = network("conv").train()
    forward = make(net)
    progress: list[int] = []
    forward.progress, forward.chunk = progress.append, 2
    with torch.inference_mode():
        assert method(forward, TARGETS).isfinite().all()
    assert max(progress) <= 2
    with pytest.raises(RuntimeError):
        method(forward, TARGETS + 7)  # no such classes
    assert all(m.training and not m._forward_hooks for m in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="more than 0"):
        LayerCAM(gamma=0)
    with pytest.raises(ValueError, match="allowed"):
        SmoothGradCAMPlusPlus(samples=0)
    with pytest.raises(ValueError, match="rest, logit"):
        ShapleyCAM("softmax")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layer, channel"):
        FullGrad("picture")  # type: ignore[arg-type]
