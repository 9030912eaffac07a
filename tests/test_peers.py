"""Other libraries' methods as methods of ours."""

import pytest
import torch
from hydra import compose, initialize_config_module
from torch import nn
from toys import ConvNet, network, random_activations

from eigencam.methods.gradcam import GradCAM, GradCAMPlusPlus
from eigencam.methods.peers import Captum, PytorchGradCAM, TorchCAM
from eigencam.networks.network import Network, Preprocess
from eigencam.passes.forward import forward_pass
from eigencam.store.build import signature_errors

TARGETS = torch.tensor([0, 1, 2, 3, 0])


def scaled(maps: torch.Tensor) -> torch.Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-12)


@pytest.mark.parametrize(
    "method", [PytorchGradCAM(), TorchCAM(), Captum("LayerGradCam")], ids=lambda m: type(m).__name__
)
def test_their_gradcam_is_ours_and_the_network_is_as_before(method: PytorchGradCAM) -> None:
    net = network("rectified")
    forward = forward_pass(net, random_activations(5, 3, 6, 7), "conv", gradients=True)
    ours = GradCAM()(forward, TARGETS)
    with torch.no_grad():
        theirs = method(forward, TARGETS)
    torch.testing.assert_close(scaled(theirs.relu()), scaled(ours), atol=1e-4, rtol=0)
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert not any(m._forward_hooks or m._backward_hooks for m in net.modules())


@pytest.mark.parametrize("scale", [1.0, 1e-2, 1e-3])
def test_gradcam_plus_plus_of_small_gradients_is_float64s_and_not_pytorch_grad_cams(scale: float) -> None:
    """It adds 1e-6 to its denominator, which is negligible only for large gradients."""
    net = network("gap")
    with torch.no_grad():
        net.get_parameter("fc.weight").mul_(scale)
    forward = forward_pass(net, random_activations(5, 3, 6, 7, seed=3), "conv", gradients=True)
    a, g = forward.activations().double(), forward.gradients(TARGETS).double()
    alpha = torch.where(g != 0, g**2 / (2 * g**2 + a.sum((2, 3), keepdim=True) * g**3), 0.0)
    exact = scaled(torch.einsum("nc,nchw->nhw", (alpha * g.relu()).sum((2, 3)), a).relu())
    ours = scaled(GradCAMPlusPlus()(forward, TARGETS)).double()
    torch.testing.assert_close(ours, exact, atol=1e-5, rtol=0)
    theirs = PytorchGradCAM("GradCAMPlusPlus")(forward, TARGETS)
    assert (scaled(theirs).double() - exact).abs().max() > 0.02


def test_behind_an_inplace_relu_gradcam_is_float64s_and_not_pytorch_grad_cams() -> None:
    """It keeps the tensor that the ReLU overwrites afterwards."""
    torch.manual_seed(0)
    conv, fc = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 4)
    net = nn.Sequential(conv, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), fc)
    images = random_activations(5, 3, 6, 7, seed=3)
    forward = forward_pass(net, images, "0", gradients=True)
    a = nn.functional.conv2d(images.double(), conv.weight.double(), conv.bias.double(), padding=1)  # type: ignore[union-attr]
    weights = fc.weight.double()[TARGETS] * (a > 0).double().mean((2, 3)) / 42
    exact = torch.einsum("nc,nchw->nhw", weights, a).relu().detach()
    torch.testing.assert_close(GradCAM()(forward, TARGETS).double(), exact, atol=1e-6, rtol=1e-4)
    theirs = PytorchGradCAM()(forward, TARGETS)
    assert (scaled(theirs).double() - scaled(exact)).abs().max() > 0.05


def test_captums_occlusion_takes_lists_for_tuples() -> None:
    forward = forward_pass(network("conv"), random_activations(5, 3, 6, 7), "conv")
    options = {"sliding_window_shapes": [3, 2, 2], "strides": [3, 2, 2]}
    assert Captum("Occlusion", options)(forward, TARGETS).shape == (5, 6, 7)


@pytest.mark.parametrize("method", [PytorchGradCAM("GardCAM"), TorchCAM("GardCAM"), Captum("GardCAM")], ids=repr)
def test_an_unknown_class_is_refused_with_the_known_ones(method: Captum) -> None:
    net = Network("toy", ConvNet(), "conv", "toys", "", Preprocess(size=6))
    assert "has no class GardCAM" in method.unsupported(net)


def test_a_library_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eigencam.methods.peers.find_spec", lambda _name: None)
    net = Network("toy", nn.Identity(), "", "toys", "", Preprocess(size=6))
    assert Captum().unsupported(net) == "captum is not installed; install eigencam-bench[peers]"


@pytest.mark.parametrize("name", ["captum/occlusion", "captum/any", "torchcam/any", "pytorch_grad_cam/any"])
def test_their_configs_compose(name: str) -> None:
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        config = compose("run", [f"method=[{name},eigencam]"])
    assert len(config.method) == 2
    assert not [e for key, node in config.method.items() for e in signature_errors(node, str(key))]
