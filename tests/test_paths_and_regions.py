"""Guided IG, XRAI, Augmented Grad-CAM and deep feature factorisation in closed forms."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.ndimage import binary_dilation
from skimage.morphology import disk
from sklearn.decomposition import NMF
from torch import Tensor, nn
from toys import colored, make, network, random_activations

from eigencam.methods.augmented import AugmentedGradCAM, _turns, taps_of
from eigencam.methods.dff import DFF
from eigencam.methods.gradcam import GradCAM
from eigencam.methods.guided_ig import GuidedIG
from eigencam.methods.input_gradients import image_gradients
from eigencam.methods.xrai import GAIN, XRAI, _widened, regions, segments_of
from eigencam.passes.forward import Forward, forward_pass

TARGETS = torch.tensor([3, 2, 1, 0, 1])


def difference(forward: Forward) -> Tensor:
    """(N,) the logit minus that of the mean colour."""
    with torch.no_grad():
        start = forward.module(torch.zeros_like(forward.images[:1]))[0, TARGETS]
    return forward.logits.gather(1, TARGETS[:, None])[:, 0] - start


def test_guided_ig_of_a_linear_network_is_weight_times_input() -> None:
    forward = make(network("gap"))
    expected = (image_gradients(forward, TARGETS) * forward.images).sum(1)
    for method in (GuidedIG(7), GuidedIG(5, 1.0), GuidedIG(5, 0.1, 1.0)):
        torch.testing.assert_close(method(forward, TARGETS), expected, atol=1e-5, rtol=1e-4)


def test_guided_ig_without_distance_is_integrated_gradients_by_left_sums() -> None:
    forward = make(network("rectified"))
    left = torch.stack([image_gradients(forward, TARGETS, i / 4 * forward.images) for i in range(4)]).mean(0)
    found = GuidedIG(4, max_distance=0.0)(forward, TARGETS)
    torch.testing.assert_close(found, (left * forward.images).sum(1), atol=1e-6, rtol=1e-4)


def test_guided_ig_goes_where_the_gradient_is_small_and_adds_up() -> None:
    """The colour without a gradient changes first, as far as it may."""
    net = nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), Squares())
    net[0].weight.data = torch.tensor([[1.0, 0, 0], [0, 3, 0]])[:, :, None, None]  # type: ignore[union-attr]
    forward = forward_pass(net.eval(), torch.tensor([1.0, 1, 0]).view(1, 3, 1, 1), "0")
    found = GuidedIG(2, 0.5, 1.0, reduce="l2")(forward, torch.zeros(1, dtype=torch.long))
    # At the start their gradients are equal: both go half of the way. There the second is steeper, and changes last.
    start = torch.tensor([0.0, 0])
    middle = torch.tensor([2 * 0.5, 2 * 9 * 0.5]) * 0.5
    torch.testing.assert_close(found[0, 0, 0], (start + middle).norm())
    forward = make(network("rectified"))
    missed = [(GuidedIG(n)(forward, TARGETS).sum((1, 2)) - difference(forward)).abs().max() for n in (4, 200)]
    assert missed[1] < 0.05 * difference(forward).abs().max()
    assert missed[1] < 0.5 * missed[0]


class Squares(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square().sum(1, keepdim=True)


def test_xrai_takes_the_segment_that_adds_the_highest_mean() -> None:
    attribution = np.zeros((20, 30))
    attribution[:, :10], attribution[:, 10:20] = 3, 1
    masks = np.zeros((4, 20, 30), bool)
    masks[0, :, :20] = True  # mean 2; 1 after the third was taken
    masks[1, :10, 20:] = True  # mean 0
    masks[2, :, :10] = True  # mean 3
    masks[3, :4, 20:30], masks[3, 10:12, 20:30] = True, True  # 60 pixels, 20 of which are new after the second
    found = regions(attribution, masks)
    assert (found[:, :10] == 3).all()
    assert (found[:, 10:20] == 1).all()
    assert (found[:, 20:] == 0).all()
    attribution[10:12, 20:30] = 7  # 20 pixels: fewer than a segment must add
    assert GAIN > 20
    assert found[11, 25] != regions(attribution, masks)[11, 25] == 20 * 7 / 60
    assert np.isnan(regions(np.full((3, 3), np.nan), np.ones((1, 3, 3), bool))).all()


def test_segments_cover_the_image_and_are_widened() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[:, 32:] = 255
    assert segments_of(image).any(0).all()
    assert not len(segments_of(image[:, :32]))
    np.testing.assert_allclose(regions(np.arange(6.0).reshape(2, 3), np.zeros((0, 2, 3), bool)), np.full((2, 3), 2.5))
    labels = np.zeros((20, 30), np.int64)
    labels[4:9, 3:], labels[15:, 20:] = 2, 3
    found = _widened(labels)
    assert len(found) == 4
    for label, mask in enumerate(found):
        np.testing.assert_array_equal(mask, binary_dilation(labels == label, disk(5)))


def test_xrai_begins_with_integrated_gradients_from_black_and_white() -> None:
    forward = colored(make(network("gap")))
    slope = image_gradients(forward, TARGETS)
    expected = (slope * (forward.images + 3) + slope * (forward.images - 3)).div(2).amax(1)
    torch.testing.assert_close(XRAI(5).attributions(forward, TARGETS), expected, atol=1e-5, rtol=1e-4)


def test_augmented_grad_cam_reads_a_map_as_a_turned_and_shrunk_one() -> None:
    size, cells = (20, 33), (4, 5)
    turns, taps = _turns(4, size, 0), taps_of(size, cells, torch.device("cpu"))
    g = random_activations(2, 1, *size).double()
    read = F.grid_sample(g, taps.points(turns).expand(2, -1, -1, -1), align_corners=False)[:, 0]
    torch.testing.assert_close(g[:, 0, taps.rows][:, :, taps.columns], read[:, : len(taps.rows)])
    for i, turn in enumerate(turns):
        turned = F.grid_sample(g, F.affine_grid(turn.expand(2, -1, -1), [2, 1, *size], False), align_corners=False)
        expected = F.interpolate(turned, cells, mode="bilinear", align_corners=False)[:, 0]
        torch.testing.assert_close(taps.shrunk(read)[:, i], expected)


def test_a_turn_is_a_rotation_of_square_pixels_and_then_a_shift() -> None:
    size, (first, turn) = (40, 60), _turns(2, (40, 60), 0)
    assert torch.equal(first, torch.eye(2, 3, dtype=torch.float64))
    turn = turn.float()
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(60.0), indexing="ij")
    image = torch.stack([x, y])[None] + 1  # 0 is outside
    moved = F.grid_sample(image, F.affine_grid(turn[None], [1, 2, *size], False), align_corners=False)[
        0, :, 15:25, 25:35
    ]
    down, right = moved[:, 1:] - moved[:, :-1], moved[:, :, 1:] - moved[:, :, :-1]
    cosine = right[0].mean()
    assert 0.8 < cosine < 1
    torch.testing.assert_close(right.norm(dim=0), torch.ones(10, 9), atol=1e-4, rtol=0)
    torch.testing.assert_close(right[0].mean(), down[1].mean(), atol=1e-4, rtol=0)
    torch.testing.assert_close(right[1].mean(), -down[0].mean(), atol=1e-4, rtol=0)


def test_augmented_grad_cam_of_the_image_alone_climbs_where_it_is_read() -> None:
    """The first step of Adam has the rate's length along the sign; after many steps the map, reduced, is Grad-CAM."""
    forward = forward_pass(strided(), random_activations(2, 3, 8, 8), "0", gradients=True)
    cam = GradCAM()(forward, TARGETS[:2])
    assert cam.amax((1, 2)).min() > 0
    read = torch.zeros(8, 8, dtype=torch.bool)
    read[1::4, 1::4] = read[1::4, 2::4] = read[2::4, 1::4] = read[2::4, 2::4] = True
    positive = F.interpolate(cam[:, None], (8, 8), mode="nearest")[:, 0] > 0
    first = AugmentedGradCAM(1, 1, 0.25)(forward, TARGETS[:2])
    torch.testing.assert_close(first, torch.where(read & positive, 0.25, 0.0), atol=1e-6, rtol=0)
    last = AugmentedGradCAM(1, 400, 0.01)(forward, TARGETS[:2])
    shrunk = F.interpolate(last[:, None], (2, 2), mode="bilinear", align_corners=False)[:, 0]
    torch.testing.assert_close(shrunk, cam / cam.amax((1, 2), keepdim=True), atol=0.02, rtol=0)


def test_an_image_s_fit_is_what_it_is_in_a_batch() -> None:
    net, images = network("rectified"), random_activations(3, 3, 12, 14)
    method = AugmentedGradCAM(3, 60)
    together = method(colored(forward_pass(net, images, "conv", gradients=True)), TARGETS[:3])
    for n in range(3):
        one = colored(forward_pass(net, images[n : n + 1], "conv", gradients=True))
        torch.testing.assert_close(method(one, TARGETS[n : n + 1])[0], together[n], atol=1e-6, rtol=0)
    half = colored(forward_pass(net.bfloat16(), images.bfloat16(), "conv", gradients=True))
    assert method(half, TARGETS[:3]).dtype == torch.float32


def strided() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Conv2d(3, 5, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4)).eval()


def test_a_single_concept_of_rank_one_is_the_map_itself() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)).eval()
    shape = random_activations(2, 1, 5, 6).abs()
    net[0].weight.data = torch.tensor([1.0, 2, 3, 4]).view(4, 1, 1, 1) * torch.ones(1, 3, 1, 1)
    forward = forward_pass(net, shape * torch.tensor([1.0, 0.5, 2]).view(1, 3, 1, 1), "0")
    found, expected = DFF(1, 50)(forward, TARGETS[:2]), (shape - shape.amin((2, 3), keepdim=True))[:, 0]
    scale = found.amax((1, 2), keepdim=True) / expected.amax((1, 2), keepdim=True)
    torch.testing.assert_close(found, scale * expected, atol=1e-5, rtol=1e-3)


def test_concepts_are_scikit_learns() -> None:
    forward, method = make(network("conv")), DFF(3, 40)
    embeddings, maps = method.factors(forward)
    a = forward.activations().flatten(2)
    offset = a.amin(2, keepdim=True)
    w, h = method.start(a - offset, forward.seeds)
    options: dict[str, Any] = {"n_components": 3, "init": "custom", "tol": 0, "max_iter": 40}
    for n in range(5):
        library = NMF(**options)
        expected = library.fit_transform(
            (a - offset)[n].double().numpy(), W=w[n].double().numpy(), H=h[n].double().numpy()
        )
        np.testing.assert_allclose(maps[n].flatten(1), library.components_, atol=1e-4)
        np.testing.assert_allclose(embeddings[n].T, expected + offset[n].numpy(), atol=1e-4)


def test_the_concept_is_the_one_that_the_head_takes_for_the_class() -> None:
    forward, method = make(network("gap")), DFF(3, 40)
    embeddings, maps = method.factors(forward)
    with torch.no_grad():
        labelled = forward.module.get_submodule("fc")(embeddings).softmax(2)
    chosen = labelled[torch.arange(5), :, TARGETS].argmax(1)
    assert len(chosen.unique()) > 1
    torch.testing.assert_close(method(forward, TARGETS), maps[torch.arange(5), chosen])
