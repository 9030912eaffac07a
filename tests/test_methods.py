"""Each method compared with a closed form, and Eigen-CAM with a float64 SVD."""

import pytest
import torch
from torch import Tensor, nn
from toys import GapNet, make, network, random_activations

from eigencam.methods.baselines import CenterBox, CenterGaussian, RandomMap, WholePicture
from eigencam.methods.cam import CAM, find_pooled_classifier
from eigencam.methods.eigencam import LANCZOS_FROM, EigenCAM, first_component, top_eigenvector
from eigencam.methods.gradcam import GradCAM, GradCAMPlusPlus, plus_plus_weights
from eigencam.passes.forward import forward_pass

METHODS = [EigenCAM(), EigenCAM(center=True, sign="energy"), CAM(), GradCAM(), GradCAMPlusPlus(), RandomMap()]


def svd_map(activations: Tensor, center: bool = False) -> Tensor:
    """O v_1 in float64; its sum determines the sign (if centred: its energy)."""
    o = activations.double().flatten(2).mT
    if center:
        o = o - o.mean(1, keepdim=True)
    v1 = torch.linalg.svd(o, full_matrices=False)[2][:, 0]
    cam = torch.einsum("npc,nc->np", o, v1)
    energy = o.square().sum(2)
    measure = (cam * (energy - energy.mean(1, keepdim=True))).sum(1) if center else cam.sum(1)
    return (cam * torch.where(measure < 0, -1.0, 1.0)[:, None]).view(len(o), *activations.shape[2:])


@pytest.mark.parametrize("shape", [(4, 16, 7, 7), (3, 512, 14, 14), (2, 40, 28, 28), (2, 300, 5, 5), (2, 200, 20, 20)])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_eigencam_is_the_first_singular_component(shape: tuple[int, ...], center: bool, relu: bool) -> None:
    activations = random_activations(*shape)
    activations = activations.relu() if relu else activations + 0.3
    found = first_component(activations, center=center, sign="energy" if center else "sum")
    expected = svd_map(activations, center)
    scale = expected.abs().amax((1, 2), keepdim=True)
    torch.testing.assert_close(found.double() / scale, expected / scale, atol=2e-4, rtol=0)


def test_eigencam_of_rank_one_activations_gives_back_the_map() -> None:
    base, weights = torch.rand(2, 1, 14, 14), torch.rand(2, 300, 1, 1)
    found = first_component(base * weights)
    torch.testing.assert_close(found, base[:, 0] * weights.flatten(1).norm(dim=1)[:, None, None])


def test_eigencam_of_rectified_activations_is_not_negative() -> None:
    assert (first_component(random_activations(16, 64, 14, 14).relu()) >= 0).all()


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1.0, 1e12, 1e30])
def test_eigencam_keeps_its_shape_at_any_scale(scale: float) -> None:
    activations = random_activations(2, 600, 14, 14).relu()
    torch.testing.assert_close(first_component(activations * scale) / scale, first_component(activations))


def test_eigencam_of_zero_constant_and_nonfinite_activations() -> None:
    activations = random_activations(5, 8, 4, 4).relu()
    alone = first_component(activations[:1])
    activations[1] = 0
    activations[2] = 7
    activations[3, 0, 0, 0] = torch.nan
    activations[4, 0, 0, 0] = torch.inf
    found = first_component(activations)
    torch.testing.assert_close(found[0], alone[0])
    assert (found[1] == 0).all()
    torch.testing.assert_close(found[2], torch.full((4, 4), 7 * 8**0.5))
    assert found[3:].isnan().all()


def test_centred_eigencam_survives_a_large_offset_and_a_permutation_of_channels() -> None:
    activations = random_activations(2, 64, 9, 9) + 1e3
    found = first_component(activations, center=True, sign="energy")
    expected = svd_map(activations, center=True)
    torch.testing.assert_close(found.double(), expected, atol=1e-2, rtol=1e-2)
    permuted = first_component(activations[:, torch.randperm(64)], center=True, sign="energy")
    torch.testing.assert_close(permuted, found, atol=1e-2, rtol=1e-2)


def test_sign_and_clip() -> None:
    activations = -torch.rand(3, 8, 4, 4)
    assert (first_component(activations).sum((1, 2)) > 0).all()
    extreme = first_component(random_activations(5, 8, 4, 4), center=True, sign="extreme")
    assert (extreme.amax((1, 2)) >= -extreme.amin((1, 2))).all()
    forward = forward_pass(nn.Identity(), random_activations(2, 8, 4, 4), "", classifier=False)
    assert (EigenCAM(center=True, sign="energy", clip=True)(forward, torch.zeros(2)) >= 0).all()
    with pytest.raises(ValueError, match="sum, energy, extreme"):
        EigenCAM(sign="largest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sums to zero"):
        EigenCAM(center=True)


@pytest.mark.parametrize("ratio", [0.5, 0.9, 0.99, 0.9999, 1.0])
def test_lanczos_is_proven_or_replaced(ratio: float) -> None:
    """For prescribed gaps between the first eigenvalues, the accepted vector has the largest Rayleigh quotient."""
    n = LANCZOS_FROM + 40
    q = torch.linalg.qr(random_activations(3, n, n))[0]
    values = torch.cat([torch.tensor([1.0, ratio]), torch.rand(n - 2) * 0.3])
    gram = (q * values) @ q.mT
    vector = top_eigenvector((gram + gram.mT) / 2)
    quotient = torch.einsum("ni,nij,nj->n", vector, gram, vector)
    torch.testing.assert_close(quotient, torch.ones(3), atol=2e-5, rtol=0)
    torch.testing.assert_close(vector.norm(dim=1), torch.ones(3))


def test_lanczos_whose_start_is_an_eigenvector_of_a_smaller_eigenvalue() -> None:
    gram = torch.zeros(1, 200, 200)
    gram[0, :100, :100] = 1.0  # eigenvalue 100
    gram[0, 100:, 100:] = 1.5  # eigenvalue 150
    vector = top_eigenvector(gram)[0]
    torch.testing.assert_close(vector.abs(), torch.cat([torch.zeros(100), torch.full((100,), 0.1)]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["gap", "rectified", "conv"])
def test_the_mean_of_cam_is_the_logit(kind: str) -> None:
    net = network(kind)
    forward, targets = make(net), torch.tensor([0, 1, 2, 3, 0])
    bias = net.fc.bias[targets] if isinstance(net, GapNet) else 0
    logits = forward.logits[range(5), targets]
    torch.testing.assert_close(CAM()(forward, targets).mean((1, 2)) + bias, logits)


def test_cam_is_refused_where_the_logits_are_no_linear_function_of_the_pooled_layer() -> None:
    with pytest.raises(ValueError, match="global average pooling"):
        find_pooled_classifier(GapNet(hidden=True), "conv", (6, 7))


def test_gradcam_behind_global_average_pooling_is_the_rectified_cam() -> None:
    forward, targets = make(GapNet(), gradients=True), torch.tensor([3, 2, 1, 0, 1])
    torch.testing.assert_close(GradCAM()(forward, targets) * 42, CAM()(forward, targets).relu())
    torch.testing.assert_close(GradCAM(relu=False)(forward, targets) * 42, CAM()(forward, targets))


def test_gradcam_plus_plus_weights_follow_equation_19() -> None:
    a, g = random_activations(2, 5, 4, 4).relu().double(), random_activations(2, 5, 4, 4, seed=1).double() * 1e-6
    alpha = g**2 / (2 * g**2 + a.sum((2, 3), keepdim=True) * g**3)
    torch.testing.assert_close(plus_plus_weights(a, g), (alpha * g.relu()).sum((2, 3)))


def test_gradcam_plus_plus_with_zero_gradients_and_vanishing_denominators_is_finite() -> None:
    a = torch.full((1, 1, 2, 2), -0.25)  # sums to -1
    assert plus_plus_weights(a, torch.zeros(1, 1, 2, 2)).item() == 0
    assert plus_plus_weights(a, torch.full((1, 1, 2, 2), 2.0)).item() == 8  # 2 + 2 * -1 = 0 -> 1


@pytest.mark.parametrize("method", METHODS, ids=repr)
@pytest.mark.parametrize("kind", ["rectified", "conv"])
def test_a_batch_equals_batches_of_one(method: EigenCAM, kind: str) -> None:
    net = network(kind)
    x, targets = random_activations(8, 3, 6, 7), torch.arange(8) % 4
    together = method(forward_pass(net, x, "conv", gradients=True), targets)
    for i in range(8):
        one = forward_pass(net, x[i : i + 1], "conv", gradients=True, index=torch.tensor([i]))
        torch.testing.assert_close(method(one, targets[i : i + 1])[0], together[i], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_half_precision_networks_give_float32_maps(method: EigenCAM) -> None:
    net, x, targets = network("gap"), random_activations(4, 3, 6, 7), torch.arange(4)
    expected = method(forward_pass(net, x, "conv", gradients=True), targets)
    found = method(forward_pass(net.bfloat16(), x.bfloat16(), "conv", gradients=True), targets)
    assert found.dtype == torch.float32
    scale = expected.abs().amax((1, 2), keepdim=True).clamp(min=1e-9)
    torch.testing.assert_close(found / scale, expected / scale, atol=0.1, rtol=0)


def test_baselines() -> None:
    forward, targets = make(GapNet()), torch.zeros(5, dtype=torch.long)
    assert torch.equal(WholePicture()(forward, targets), torch.ones(5, 1, 1))
    wide = forward_pass(GapNet(), torch.zeros(2, 3, 40, 80), "conv")
    box = CenterBox(area=0.25)(wide, targets)[0]
    assert box.sum() == 20 * 40
    assert box[10:30, 20:60].all()
    gaussian = CenterGaussian(sigma=0.5)(wide, targets)[0]
    torch.testing.assert_close(gaussian, gaussian.flip(0).flip(1))
    assert gaussian[19, 39] == gaussian.max()
    torch.testing.assert_close(gaussian[0, 39].log(), torch.tensor(-(0.975**2 + 0.0125**2) / 0.5))
    for bad in (0.0, 1.5):
        with pytest.raises(ValueError, match="area"):
            CenterBox(area=bad)


def test_the_random_map_depends_on_seed_and_position_alone_and_is_uniform() -> None:
    net = nn.Identity()
    big = forward_pass(net, torch.zeros(4, 1, 100, 100), "", classifier=False, index=torch.tensor([5, 6, 7, 8]))
    maps = RandomMap()(big, torch.zeros(4))
    other = forward_pass(net, torch.zeros(1, 1, 100, 100), "", classifier=False, index=torch.tensor([7]))
    assert torch.equal(RandomMap()(other, torch.zeros(1))[0], maps[2])
    assert not torch.equal(RandomMap(seed=1)(other, torch.zeros(1))[0], maps[2])
    counts = torch.histc(maps, 10, 0, 1)
    assert ((counts - 4000).abs() < 4 * (4000 * 0.9) ** 0.5).all()
    correlation = torch.corrcoef(maps.flatten(1)).fill_diagonal_(0).abs().max()
    assert correlation < 0.05
