"""Components of the activations compared with pytorch-grad-cam and scikit-learn; FAM with closed forms."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_grad_cam import SegEigenCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from sklearn.decomposition import KernelPCA
from torch import Tensor, nn
from toys import make, network, random_activations

from eigencam.methods import eigencam_variants
from eigencam.methods.eigencam import EigenCAM, first_component
from eigencam.methods.eigencam_variants import KERNELS, KPCACAM, EigenGradCAM, Kernel
from eigencam.methods.fam import FAM, SIMILARITIES, Similarity, contributions
from eigencam.methods.peers import PytorchGradCAM
from eigencam.passes.calls import evaluating
from eigencam.passes.forward import Forward, forward_pass

TARGETS = torch.tensor([3, 2, 1, 0, 1])


def scaled(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-30)


def pass_of(activations: Tensor) -> Forward:
    return forward_pass(nn.Identity(), activations, "", classifier=False)


def test_eigengradcam_is_the_component_of_the_product() -> None:
    forward = make(network("rectified"), gradients=True)
    product = forward.activations() * forward.gradients(TARGETS)
    expected = first_component(product, center=True, sign="energy")
    torch.testing.assert_close(EigenGradCAM(clip=False)(forward, TARGETS), expected)
    theirs = PytorchGradCAM("EigenGradCAM")(forward, TARGETS)
    for ours, flipped, their in zip(scaled(expected.relu()), scaled((-expected).relu()), theirs, strict=True):
        distance = min((ours - their).abs().max(), (flipped - their).abs().max())
        assert distance < 1e-3


def test_seg_eigencam_is_pytorch_grad_cams() -> None:
    forward = make(network("rectified"), gradients=True)
    with (
        evaluating(forward.module),
        torch.enable_grad(),
        SegEigenCAM(forward.module, [forward.module.get_submodule("conv")]) as cam,
    ):
        of: list[Any] = [ClassifierOutputTarget(t) for t in TARGETS.tolist()]
        theirs = cam(forward.images.clone().requires_grad_(), of)
    found = EigenGradCAM(absolute=True, sign="extreme")(forward, TARGETS)
    torch.testing.assert_close(scaled(found), torch.from_numpy(theirs), atol=1e-3, rtol=0)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_sign_is_the_one_known_on_paper_and_pytorch_grad_cams_eigencam_is_lapacks(mirrored: bool) -> None:
    """Rank one: channels c_k m of gradients g_k have the component (m - mean m) ‖g c‖, mirrored with the image.

    The energy is largest at m's peak, which is therefore positive. LAPACK's sign follows the first pixel: mirroring
    flips it.
    """
    m = torch.tensor([[8, 2, 0, 0], [2, 1, 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    m = m.flip(1) if mirrored else m
    c, g = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in ((3, -2, 6), (1, 2, -2)))
    known = (m - m.mean()) * (g * c).norm()
    net = nn.Sequential(nn.Identity(), nn.Flatten(), nn.Linear(36, 1, bias=False)).double()
    with torch.no_grad():
        net.get_parameter("2.weight").copy_(g.expand(3, 3, 4).reshape(1, 36))
    forward, target = forward_pass(net, (c * m)[None], "0", gradients=True), torch.zeros(1, dtype=torch.long)
    ours = [EigenGradCAM(clip=False), EigenGradCAM(clip=False, absolute=True, sign="extreme")]
    for method in ours:
        torch.testing.assert_close(method(forward, target)[0].double(), known, atol=1e-5, rtol=1e-6)
    plain = EigenCAM(center=True, sign="energy")(forward, target)[0].double()
    torch.testing.assert_close(plain, (m - m.mean()) * c.norm(), atol=1e-5, rtol=1e-6)
    for name, right in (("SegEigenCAM", True), ("EigenGradCAM", mirrored), ("EigenCAM", mirrored)):
        theirs = PytorchGradCAM(name)(forward, target).double()
        expected = (known if right else -known).relu()[None]
        torch.testing.assert_close(theirs, scaled(expected), atol=1e-6, rtol=0)


@pytest.mark.parametrize("kernel", KERNELS)
def test_kpcacam_is_scikit_learns_kernel_pca_up_to_its_sign(kernel: Kernel) -> None:
    forward = pass_of(random_activations(3, 12, 6, 7).relu())
    found = KPCACAM(kernel, clip=False)(forward, TARGETS[:3])
    for ours, activations in zip(found, forward.activations(), strict=True):
        x = activations.flatten(1).T.double()
        pca = KernelPCA(1, kernel=kernel, gamma=1 / 12, degree=3, coef0=1)
        theirs = torch.from_numpy(pca.fit_transform((x - x.mean(0)).numpy())).view(6, 7)
        theirs *= torch.sign((theirs * ours).sum())
        torch.testing.assert_close(ours.double(), theirs, atol=1e-4 * float(theirs.abs().max()), rtol=0)


def test_linear_kpcacam_is_centred_eigencam() -> None:
    forward = pass_of(random_activations(4, 30, 5, 5))
    expected = first_component(forward.activations(), center=True, sign="energy")
    torch.testing.assert_close(KPCACAM("linear", clip=False)(forward, TARGETS[:4]), expected, atol=1e-3, rtol=1e-3)


def test_kpcacam_of_constant_and_nonfinite_activations() -> None:
    activations = random_activations(3, 8, 4, 4)
    activations[1] = 7
    activations[2, 0, 0, 0] = torch.inf
    found = KPCACAM()(pass_of(activations), TARGETS[:3])
    assert (found[1] == 0).all()
    assert found[2].isnan().all()


def test_kpcacam_of_a_kernel_that_overflows_has_no_map_for_this_image_alone() -> None:
    activations = random_activations(2, 8, 4, 4)
    activations[1] *= 1e6
    found = KPCACAM("poly", degree=60)(pass_of(activations), TARGETS[:2])
    assert found[0].isfinite().all()
    assert found[1].isnan().all()


def test_kpcacam_of_a_kernel_that_is_not_positive_takes_the_largest_eigenvalue_of_all() -> None:
    """With coef0 = -1 some sigmoid matrices have their largest absolute eigenvalue below 0."""
    activations = random_activations(3, 12, 5, 5) * 3
    for ours, one in zip(
        KPCACAM(coef0=-1, gamma=2, clip=False)(pass_of(activations), TARGETS), activations, strict=True
    ):
        x = one.flatten(1).T.double()
        x = x - x.mean(0)
        kernel = torch.tanh(2 * x @ x.T - 1)
        h = torch.eye(25, dtype=torch.float64) - 1 / 25
        values = torch.linalg.eigvalsh(h @ kernel @ h)
        v = ours.double().flatten()
        torch.testing.assert_close(v @ v, values[-1], atol=0, rtol=1e-4)
        torch.testing.assert_close(h @ kernel @ h @ v, values[-1] * v, atol=1e-4 * float(values[-1]), rtol=0)


def test_an_rbf_kernel_that_sees_every_position_alone_has_no_first_component() -> None:
    small = random_activations(2, 12, 6, 7)
    large = pass_of(1e4 * small)
    assert KPCACAM("rbf")(large, TARGETS[:2]).isnan().all()  # the kernel is the identity
    found = KPCACAM("rbf", width=1.0, clip=False)(large, TARGETS[:2])
    for ours, one in zip(found, small, strict=True):  # with `width`, the data's scale does not matter
        x = one.flatten(1).T.double().numpy()
        theirs = KernelPCA(1, kernel="rbf", gamma=1 / (2 * x.var(0).sum())).fit_transform(x).ravel()
        assert abs(np.corrcoef(theirs, ours.flatten())[0, 1]) > 1 - 1e-6


def test_two_directions_that_are_equal_in_energy_have_no_first_component() -> None:
    """Two channels with equally strong patterns: any mixture is as good as any other."""
    two = torch.zeros(1, 40, 6, 7)
    two[0, 0, :3], two[0, 1, 3:] = 1, 1
    assert EigenCAM()(pass_of(two), TARGETS[:1]).isnan().all()
    two[0, 1, 3:] = 1.01
    found = EigenCAM()(pass_of(two), TARGETS[:1])
    torch.testing.assert_close(found, two[:, 1], atol=1e-5, rtol=0)
    flat = pass_of(torch.full((1, 40, 6, 7), 0.1))
    assert (EigenCAM(center=True, sign="energy")(flat, TARGETS[:1]) == 0).all()  # independent of the rounding of a mean


def test_kpcacam_in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = pass_of(random_activations(5, 8, 4, 4).relu())
    whole = KPCACAM()(forward, TARGETS)
    monkeypatch.setattr(eigencam_variants, "CELLS", 2 * 16**2)
    torch.testing.assert_close(KPCACAM()(forward, TARGETS), whole)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_fams_weights_are_shares_of_the_similarity(similarity: Similarity) -> None:
    e, r = random_activations(4, 9).double(), random_activations(4, 9, seed=1).double()
    weights = contributions(e, r, similarity)
    torch.testing.assert_close(weights.abs().sum(1), torch.ones(4).double())
    if similarity == "cosine":
        total = torch.cosine_similarity(e, r)
        parts = e * r / (e.norm(dim=1) * r.norm(dim=1))[:, None]
    else:
        total = r.square().sum(1) - (e - r).square().sum(1)
        parts = r.square() - (e - r).square()
    torch.testing.assert_close(parts.sum(1), total)
    torch.testing.assert_close(weights, parts / parts.abs().sum(1, keepdim=True))


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_fam_to_the_image_itself_weights_channels_with_their_squared_means(similarity: Similarity) -> None:
    activations = random_activations(3, 7, 5, 4)
    squares = activations.mean((2, 3)).square()
    expected = torch.einsum("nc,nchw->nhw", squares / squares.sum(1, keepdim=True), activations)
    torch.testing.assert_close(FAM(similarity)(pass_of(activations), TARGETS[:3]), expected)


def test_fam_to_a_reference(tmp_path: Path) -> None:
    """A reference with one channel: the map is that channel, with its mean's sign."""
    np.save(tmp_path / "one.npy", np.eye(6)[2] * 5)
    method = FAM(reference=str(tmp_path / "one.npy"))
    activations = random_activations(3, 6, 4, 4)
    expected = activations[:, 2] * activations[:, 2].mean((1, 2)).sign()[:, None, None]
    torch.testing.assert_close(method(pass_of(activations), TARGETS[:3]), expected)
    np.save(tmp_path / "other.npy", np.eye(6)[3])
    other = FAM(reference=str(tmp_path / "other.npy"))
    assert method.identity() != other.identity()
    assert FAM().identity() == {}
    with pytest.raises(ValueError, match="6 numbers; allowed here: 8"):
        method(pass_of(random_activations(1, 8, 4, 4)), TARGETS[:1])
    for bad in (np.ones((2, 6)), np.full(6, np.nan), np.array(["a"])):
        np.save(tmp_path / "bad.npy", bad)
        with pytest.raises(ValueError, match="finite numbers"):
            FAM(reference=str(tmp_path / "bad.npy"))
    with pytest.raises(ValueError, match="cosine, euclidean"):
        FAM("dot")  # type: ignore[arg-type]


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_fam_at_any_scale_and_of_silent_channels(scale: float) -> None:
    activations = random_activations(2, 7, 4, 4).relu()
    activations[1] = 0
    expected = FAM()(pass_of(activations), TARGETS[:2])
    found = FAM()(pass_of(activations * scale), TARGETS[:2]) / scale
    torch.testing.assert_close(found, expected)
    assert (found[1] == 0).all()


METHODS = [
    EigenGradCAM(),
    EigenGradCAM(absolute=True, sign="extreme"),
    KPCACAM(),
    KPCACAM("rbf"),
    FAM(),
    FAM("euclidean"),
]


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_batch_equals_batches_of_one_and_half_precision_gives_float32(method: Any) -> None:
    net, x = network("rectified"), random_activations(4, 3, 6, 7)
    together = method(forward_pass(net, x, "conv", gradients=True), TARGETS[:4])
    for i in range(4):
        one = forward_pass(net, x[i : i + 1], "conv", gradients=True, index=torch.tensor([i]))
        torch.testing.assert_close(method(one, TARGETS[i : i + 1])[0], together[i], atol=1e-5, rtol=1e-3)
    half = forward_pass(net.bfloat16(), x.bfloat16(), "conv", gradients=True)
    assert method(half, TARGETS[:4]).dtype == torch.float32


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="sigmoid, rbf, poly, linear"):
        KPCACAM("cosine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="energy, extreme"):
        EigenGradCAM(sign="sum")
    with pytest.raises(ValueError, match="more than 0"):
        KPCACAM(gamma=0)
    with pytest.raises(ValueError, match="one of them null"):
        KPCACAM(gamma=1, width=1)
    with pytest.raises(ValueError, match="1, 2, 3"):
        KPCACAM("poly", degree=2.5)
