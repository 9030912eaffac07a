"""Gradient-weighted methods and components: on paper, and against pytorch-grad-cam, torchcam and scikit-learn."""

from typing import Any

import pytest
import pytorch_grad_cam
import torch
import torchcam.methods
from sklearn.decomposition import KernelPCA
from torch import Tensor, nn
from toys import make, network, random_activations

from eigencam.forward import forward_pass
from eigencam.methods.cam import CAM
from eigencam.methods.components import KERNELS, KPCACAM, EigenGradCAM, Kernel
from eigencam.methods.eigencam import first_component
from eigencam.methods.gradcam import GradCAMPlusPlus
from eigencam.methods.gradient_weighted import HiResCAM, LayerCAM, ShapleyCAM, SmoothGradCAMPlusPlus, XGradCAM
from eigencam.methods.peers import PytorchGradCAM, TorchCAM

TARGETS = torch.tensor([3, 2, 1, 0, 1])


def scaled(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-30)


@pytest.mark.parametrize("method", [XGradCAM(), HiResCAM(), LayerCAM()], ids=lambda m: type(m).__name__)
def test_agrees_with_pytorch_grad_cam(method: Any) -> None:
    forward = make(network("rectified"), gradients=True)
    theirs = PytorchGradCAM(type(method).__name__)(forward, TARGETS)
    torch.testing.assert_close(scaled(method(forward, TARGETS)), theirs, atol=2e-5, rtol=0)


@pytest.mark.parametrize("method", [XGradCAM(), LayerCAM()], ids=lambda m: type(m).__name__)
def test_agrees_with_torchcam(method: Any) -> None:
    forward = make(network("rectified"), gradients=True)
    assert hasattr(torchcam.methods, type(method).__name__)
    theirs = TorchCAM(type(method).__name__)(forward, TARGETS)
    torch.testing.assert_close(method(forward, TARGETS), theirs.relu(), atol=1e-6, rtol=1e-4)


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


def test_shapleycams_weights_are_the_second_order_taylor_term() -> None:
    """With logits W·mean(A), the derivatives of log softmax are known: W_y - Σp W, and -Σ p (W - Wbar)(W - Wbar)ᵀ."""
    net = network("gap")
    forward = make(net)
    a, w = forward.activations().double(), next(net.get_submodule("fc").parameters()).detach().double()
    p = forward.logits.double().softmax(1)
    mean = p @ w  # (N, C)
    gradient = (w[TARGETS] - mean) / 42
    pooled = a.mean((2, 3))
    spread = w[None] - mean[:, None]  # (N, K, C)
    curvature = -torch.einsum("nk,nkc,nkd,nd->nc", p, spread, spread, pooled) / 42
    expected = torch.einsum("nc,nchw->nhw", gradient - curvature / 2, a).relu()
    torch.testing.assert_close(ShapleyCAM()(forward, TARGETS).double(), expected, atol=1e-6, rtol=1e-3)


def test_eigengradcam_is_the_component_of_the_product() -> None:
    forward = make(network("rectified"), gradients=True)
    product = forward.activations() * forward.gradients(TARGETS)
    expected = first_component(product, center=True, sign="energy")
    torch.testing.assert_close(EigenGradCAM(clip=False)(forward, TARGETS), expected)
    theirs = PytorchGradCAM("EigenGradCAM")(forward, TARGETS)
    for ours, flipped, their in zip(scaled(expected.relu()), scaled((-expected).relu()), theirs, strict=True):
        distance = min((ours - their).abs().max(), (flipped - their).abs().max())
        assert distance < 1e-3
    assert EigenGradCAM(absolute=True, sign="extreme")(forward, TARGETS).min() >= 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_kpcacam_is_scikit_learns_kernel_pca_up_to_its_sign(kernel: Kernel) -> None:
    forward = forward_pass(nn.Identity(), random_activations(3, 12, 6, 7).relu(), "", classifier=False)
    found = KPCACAM(kernel, clip=False)(forward, TARGETS[:3])
    for ours, activations in zip(found, forward.activations(), strict=True):
        x = activations.flatten(1).T.double()
        pca = KernelPCA(1, kernel=kernel, gamma=1 / 12, degree=3, coef0=1)
        theirs = torch.from_numpy(pca.fit_transform((x - x.mean(0)).numpy())).view(6, 7)
        theirs *= torch.sign((theirs * ours).sum())
        torch.testing.assert_close(ours.double(), theirs, atol=1e-4 * float(theirs.abs().max()), rtol=0)


def test_linear_kpcacam_is_centred_eigencam() -> None:
    forward = forward_pass(nn.Identity(), random_activations(4, 30, 5, 5), "", classifier=False)
    expected = first_component(forward.activations(), center=True, sign="energy")
    torch.testing.assert_close(KPCACAM("linear", clip=False)(forward, TARGETS[:4]), expected, atol=1e-3, rtol=1e-3)


def test_kpcacam_of_constant_and_nonfinite_activations() -> None:
    activations = random_activations(3, 8, 4, 4)
    activations[1] = 7
    activations[2, 0, 0, 0] = torch.inf
    found = KPCACAM()(forward_pass(nn.Identity(), activations, "", classifier=False), TARGETS[:3])
    assert found[1].abs().max() < 1e-6
    assert found[2].isnan().all()


METHODS = [XGradCAM(), HiResCAM(), LayerCAM(), SmoothGradCAMPlusPlus(2), ShapleyCAM(), EigenGradCAM(), KPCACAM()]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_batch_equals_batches_of_one_and_half_precision_gives_float32(method: Any) -> None:
    net, x = network("rectified"), random_activations(4, 3, 6, 7)
    together = method(forward_pass(net, x, "conv", gradients=True), TARGETS[:4])
    for i in range(4):
        one = forward_pass(net, x[i : i + 1], "conv", gradients=True, index=torch.tensor([i]))
        torch.testing.assert_close(method(one, TARGETS[i : i + 1])[0], together[i], atol=1e-5, rtol=1e-3)
    half = forward_pass(net.bfloat16(), x.bfloat16(), "conv", gradients=True)
    assert method(half, TARGETS[:4]).dtype == torch.float32


def test_options_are_checked_and_the_libraries_still_have_the_names() -> None:
    assert hasattr(pytorch_grad_cam, "KPCA_CAM")
    with pytest.raises(ValueError, match="sigmoid, rbf, poly, linear"):
        KPCACAM("cosine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="energy, extreme"):
        EigenGradCAM(sign="sum")
    with pytest.raises(ValueError, match="more than 0"):
        LayerCAM(gamma=0)
    with pytest.raises(ValueError, match="allowed"):
        SmoothGradCAMPlusPlus(samples=0)
