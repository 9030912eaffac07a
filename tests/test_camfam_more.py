"""Expected Gradients, LIFT-CAM, Relevance-CAM, Poly-CAM, Opti-CAM, Zoom-CAM, SESS and others: closed forms."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import gaussian_filter
from sklearn.decomposition import PCA
from torch import Tensor, nn
from toys import colored, make, network, random_activations

from eigencam.methods.augmented import AugmentedGradCAM
from eigencam.methods.blur_ig import BlurIG
from eigencam.methods.decom import DecomCAM, principal
from eigencam.methods.dff import DFF
from eigencam.methods.drise import DRISE
from eigencam.methods.expected import ExpectedGradients
from eigencam.methods.fem import FEM
from eigencam.methods.gradcam import GradCAM, weighted_sum
from eigencam.methods.gradient_weighted import HiResCAM
from eigencam.methods.group import truncated_blur
from eigencam.methods.gscore import GScoreCAM
from eigencam.methods.guided_ig import GuidedIG
from eigencam.methods.integrated_gradcam import IntegratedGradCAM
from eigencam.methods.lift import LIFTCAM
from eigencam.methods.opti import OptiCAM
from eigencam.methods.poly import PolyCAM, channel_masks
from eigencam.methods.relevance_cam import RelevanceCAM
from eigencam.methods.scorecam import unit
from eigencam.methods.sensitivity_indices import HSICAttribution, SobolAttribution, hsic, jansen
from eigencam.methods.sess import SESS, windows
from eigencam.methods.xrai import XRAI
from eigencam.methods.zoom import ZoomCAM, scaled
from eigencam.passes.forward import Forward, forward_pass

TARGETS = torch.tensor([3, 2, 1, 0, 1])
PIXELS = np.random.default_rng(0).integers(0, 256, (7, 3, 6, 7), np.uint8)


def weights(forward: Forward) -> Tensor:
    return next(forward.module.get_submodule("fc").parameters()).detach()


def populated(forward: Forward) -> Forward:
    forward.population = len(PIXELS), lambda k: PIXELS[k]
    return colored(forward)


def two_sizes() -> Forward:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU()]
    net = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)).eval()
    return forward_pass(net, random_activations(2, 3, 8, 8), "4", layers=["1", "3"], gradients=True)


def test_expected_gradients_of_a_linear_network_are_the_difference_from_the_mean_reference() -> None:
    forward = populated(make(network("gap")))
    background = ExpectedGradients(references=5).background(forward)
    assert len(background) == 5
    torch.testing.assert_close(background[0].amin(), torch.tensor(-3.0), atol=0.3, rtol=0)  # black and white are -3, 3
    gradient = torch.autograd.functional.jacobian(forward.module, forward.images)
    gradient = torch.stack([gradient[n, t, n] for n, t in enumerate(TARGETS.tolist())])
    expected = (gradient * (forward.images - background.mean(0))).sum(1)
    torch.testing.assert_close(ExpectedGradients(references=5)(forward, TARGETS), expected, atol=1e-6, rtol=1e-4)
    found = ExpectedGradients(references=5).completeness(forward, TARGETS)
    torch.testing.assert_close(found.sums, found.differences, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(found.sums, expected.sum((1, 2)), atol=1e-5, rtol=1e-4)


def test_expected_gradients_miss_completeness_by_their_standard_error() -> None:
    forward = populated(make(network("conv")))
    found = ExpectedGradients(references=7).completeness(forward, TARGETS)
    assert (found.errors > 0).all()
    assert ((found.sums - found.differences).abs() < 4 * found.errors + 1e-4).all()
    assert not torch.equal(
        ExpectedGradients(sigma=0.2)(forward, TARGETS), ExpectedGradients()(forward, TARGETS)
    )  # GradientSHAP's noise
    with pytest.raises(ValueError, match="draws its references from the dataset, and there is none here"):
        ExpectedGradients()(make(network("gap")), TARGETS)


def test_lift_cam_weights_by_what_a_channel_adds() -> None:
    forward = make(network("gap"))
    expected = weights(forward)[TARGETS] * forward.activations().mean((2, 3))
    torch.testing.assert_close(LIFTCAM().weights(forward, TARGETS), expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(LIFTCAM()(forward, TARGETS), weighted_sum(expected, forward.activations()).relu())
    forward = make(network("conv"))
    empty = forward.predict(1, lambda _part: torch.zeros(1, 6, 6, 7), "conv")[0, TARGETS]
    difference = forward.logits.gather(1, TARGETS[:, None])[:, 0] - empty
    torch.testing.assert_close(LIFTCAM().weights(forward, TARGETS).sum(1), difference, atol=1e-6, rtol=1e-4)


def test_relevance_cam_shares_the_contrast_by_what_is_positive() -> None:
    forward = forward_pass(network("rectified"), random_activations(5, 3, 6, 7, seed=3), "conv")
    a = forward.activations().relu()
    parts = a.mean((2, 3))[:, None] * weights(forward).clamp(min=0)  # (N, K, C)
    start = torch.full((5, 4), -1 / 4).scatter(1, TARGETS[:, None], 1.0)
    relevance = (start[:, :, None] * parts / parts.sum(2, keepdim=True)).sum(1) / 42
    found = RelevanceCAM()(forward, TARGETS)
    torch.testing.assert_close(found, weighted_sum(relevance, forward.activations()), atol=1e-6, rtol=1e-4)
    assert (found < 0).any()


def test_integrated_grad_cam_of_one_step_is_of_the_black_image() -> None:
    forward = colored(make(network("rectified")))
    black = forward_pass(forward.module, torch.full_like(forward.images, -3), "conv", gradients=True)
    torch.testing.assert_close(IntegratedGradCAM(1)(forward, TARGETS), GradCAM()(black, TARGETS))
    half = forward_pass(forward.module, (forward.images - 3) / 2, "conv", gradients=True)
    both = (GradCAM()(black, TARGETS) + GradCAM()(half, TARGETS)) / 2
    torch.testing.assert_close(IntegratedGradCAM(2)(forward, TARGETS), both, atol=1e-6, rtol=1e-4)


def test_zoom_cam_takes_the_larger_value_of_all_layers() -> None:
    forward = two_sizes()
    fine, coarse = (scaled(HiResCAM(layer=name)(forward, TARGETS[:2])) for name in ("1", "4"))
    up = F.interpolate(coarse[:, None], (8, 8), mode="bilinear")[:, 0]
    torch.testing.assert_close(ZoomCAM(["1", "4"])(forward, TARGETS[:2]), torch.maximum(fine, up))
    torch.testing.assert_close(ZoomCAM(["4"])(forward, TARGETS[:2]), coarse)
    torch.testing.assert_close(ZoomCAM()(forward, TARGETS[:2]), ZoomCAM(["0", "3"])(forward, TARGETS[:2]))


def test_opti_cam_climbs_from_equal_weights() -> None:
    forward = colored(make(network("gap")))
    a = forward.activations().relu()
    still = OptiCAM(1, 0)(forward, TARGETS)
    torch.testing.assert_close(still, a.mean(1))

    def score(maps: Tensor) -> Tensor:
        shown = -3 + unit(maps)[:, None] * (forward.images + 3)
        with torch.no_grad():
            return forward.module(shown).gather(1, TARGETS[:, None])[:, 0]

    assert (score(OptiCAM(20)(forward, TARGETS)) > score(still)).all()


def probabilities(forward: Forward, masks: Tensor) -> Tensor:
    """(2, C): scores of the first two targets under masks (2, C, H, W)."""
    images, of = forward.images, TARGETS[:2, None]
    made = [forward.predict(2, lambda _part, mask=mask: images * mask[:, None]) for mask in masks.unbind(1)]
    return torch.cat([logits.softmax(1).gather(1, of) for logits in made], 1)


def test_poly_cam_refines_the_deep_map_by_the_shallow_one() -> None:
    forward = two_sizes()
    p = forward.logits.softmax(1).gather(1, TARGETS[:2, None])
    cams = {}
    for name in ("1", "4"):
        a = forward.activations(name)
        masks = F.interpolate(channel_masks(a), (8, 8), mode="bilinear")
        kept, lost = (probabilities(forward, of) for of in (masks, 1 - masks))
        for kind, w in (("plus", kept), ("minus", (p - lost).relu()), ("both", (kept + p - lost).relu())):
            cams[name, kind] = weighted_sum(w, a).relu()[:, None]
    for kind in ("plus", "minus", "both"):
        fine, coarse = cams["1", kind], cams["4", kind]
        smooth = F.interpolate(F.interpolate(fine, (4, 4), mode="bilinear"), (8, 8), mode="bilinear").clamp(min=1e-12)
        expected = (fine / smooth * F.interpolate(coarse, (8, 8), mode="bilinear"))[:, 0]
        found = PolyCAM(kind)(forward, TARGETS[:2])  # type: ignore[arg-type]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-3)
        torch.testing.assert_close(PolyCAM(kind, ["4"])(forward, TARGETS[:2]), coarse[:, 0])  # type: ignore[arg-type]


def test_masks_are_cut_at_percentiles_and_divided_by_the_upper_one() -> None:
    a = random_activations(2, 3, 9, 8)
    low, high = np.percentile(a.numpy(), [0.1, 99.9], axis=(2, 3))
    expected = ((a.numpy() - low[..., None, None]) / high[..., None, None]).clip(0, 1)
    torch.testing.assert_close(channel_masks(a).numpy(), expected.astype(np.float32), check_dtype=False)


def test_sess_at_one_scale_is_the_map_smoothed() -> None:
    forward = two_sizes()
    base = F.interpolate(GradCAM()(forward, TARGETS[:2])[:, None], (8, 8), mode="bilinear")[:, 0]
    torch.testing.assert_close(SESS(GradCAM(), 1)(forward, TARGETS[:2]), truncated_blur(unit(base), 5, 5))
    assert sum(len(list(windows((side, side), (224, 224)))) for side in range(224, 929, 64)) == 122
    assert SESS(FEM()).class_specific
    assert SESS(FEM(), 2)(forward, TARGETS[:2]).shape == (2, 8, 8)


def test_components_are_scikit_learns() -> None:
    x = random_activations(2, 6, 4, 5)
    found = principal(x, 3)
    for n in range(2):
        expected = PCA(3).fit_transform(x[n].flatten(1).T.numpy()).T.reshape(3, 4, 5)
        np.testing.assert_allclose(found[n], expected, atol=1e-5)


def test_blur_ig_adds_up_to_the_difference_from_the_blurred_image() -> None:
    """The sum converges with the number of steps; for a linear network the path does not matter."""
    forward = make(network("gap"))
    blurred = gaussian_filter(forward.images.numpy(), (0, 0, 3, 3), mode="constant")
    with torch.no_grad():
        difference = forward.logits - forward.module(torch.from_numpy(blurred))
    expected = difference.gather(1, TARGETS[:, None])[:, 0]
    found = [BlurIG(steps, 3)(forward, TARGETS).sum((1, 2)) for steps in (20, 400)]
    assert (found[1] - expected).abs().max() < 0.25 * (found[0] - expected).abs().max()
    torch.testing.assert_close(found[1], expected, atol=2e-3, rtol=2e-2)


def test_sobol_indices_of_a_sum_are_the_shares_of_the_squares() -> None:
    a = torch.tensor([3.0, 1.0, 0.0, 2.0])
    points = torch.quasirandom.SobolEngine(8).draw(4096)
    under_c = [torch.where(torch.arange(4) == i, points[:, 4:], points[:, :4]) @ a for i in range(4)]
    found = jansen((points[:, :4] @ a)[:, None], torch.stack(under_c)[:, :, None])[:, 0]
    torch.testing.assert_close(found, a.square() / a.square().sum(), atol=5e-3, rtol=0)
    assert not jansen(torch.ones(4, 2), torch.rand(3, 4, 2)).any()


def test_hsic_is_the_product_of_centred_kernels() -> None:
    """One cell decides the logit, and the others do not."""
    generator = torch.Generator().manual_seed(0)
    z = (torch.rand(200, 3, generator=generator) < 0.5).double()
    y = 1 + 2 * z[:, :1] + 0.01 * torch.rand(200, 2, generator=generator).double()
    centre = torch.eye(200, dtype=torch.float64) - 1 / 200
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for image in range(2):
        away = y[:, image, None] - y[:, image]
        output = torch.exp(-away.square() / (2 * np.median(y[:, image]) ** 2))
        for cell in range(3):
            k = 1.5 - (z[:, cell, None] - z[:, cell]).square()
            expected[image, cell] = ((centre @ k @ centre) * (centre @ output @ centre)).sum() / 200
    found = hsic(z, y)
    torch.testing.assert_close(found, expected)
    assert (found[:, 0] > 50 * found[:, 1:].amax(1)).all()


METHODS: list[Any] = [
    BlurIG(4, 3),
    SobolAttribution(2, 2),
    HSICAttribution(8, 2),
    ExpectedGradients(3),
    ExpectedGradients(3, 0.1, "max"),
    LIFTCAM(),
    RelevanceCAM(),
    IntegratedGradCAM(2),
    ZoomCAM(),
    OptiCAM(3),
    PolyCAM("both", ["conv"]),
    SESS(GradCAM(), 2),
    DecomCAM(3),
    DFF(3, 20),
    GScoreCAM(4),
    GuidedIG(3),
    XRAI(3),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_a_batch_equals_batches_of_one_and_half_precision_gives_float32(method: Any) -> None:
    net, x = network("rectified"), random_activations(4, 3, 6, 7)
    forward = populated(forward_pass(net, x, "conv", gradients=True))
    forward.chunk = 7
    together = method(forward, TARGETS[:4])
    assert together.isfinite().all()
    for i in range(4):
        one = populated(forward_pass(net, x[i : i + 1], "conv", gradients=True, index=torch.tensor([i])))
        torch.testing.assert_close(method(one, TARGETS[i : i + 1])[0], together[i], atol=1e-6, rtol=2e-3)
    half = populated(forward_pass(net.bfloat16(), x.bfloat16(), "conv", gradients=True))
    assert method(half, TARGETS[:4]).dtype == torch.float32


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: ExpectedGradients(0), "1 or more"),
        (lambda: ExpectedGradients(reduce="x"), "max, sum, l2"),  # type: ignore[arg-type]
        (lambda: IntegratedGradCAM(0), "1 or more"),
        (lambda: OptiCAM(0), "1 or more"),
        (lambda: PolyCAM("x"), "plus, minus, both"),  # type: ignore[arg-type]
        (lambda: PolyCAM(channels=0), "1 or more, or null"),
        (lambda: SESS(GradCAM(), 0), "1 or more"),
        (lambda: DecomCAM(0), "1 or more"),
        (lambda: BlurIG(0), "1 or more"),
        (lambda: SobolAttribution(3), "a power of 2"),
        (lambda: HSICAttribution(1), "2 or more"),
        (lambda: AugmentedGradCAM(0), "1 or more"),
        (lambda: DFF(0), "1 or more"),
        (lambda: GuidedIG(fraction=2), "0 to 1"),
        (lambda: XRAI(1), "2 or more"),
        (lambda: GScoreCAM(0), "1 or more"),
        (lambda: DRISE(0), "1 or more"),
    ],
)
def test_options_are_checked(make_it: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_it()
