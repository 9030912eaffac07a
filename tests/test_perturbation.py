"""Perturbation methods compared with closed forms, plain loops, pytorch-grad-cam, torchcam and Captum."""

from inspect import signature
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from skimage.transform import resize
from torch import Tensor, nn
from torchcam import methods as torchcam
from toys import make, network, random_activations

from eigencam.methods.ablationcam import AblationCAM
from eigencam.methods.cam import CAM
from eigencam.methods.occlusion import Occlusion
from eigencam.methods.peers import Captum, PytorchGradCAM
from eigencam.methods.randomness import normal, uniform
from eigencam.methods.rise import RISE
from eigencam.methods.scorecam import ISCAM, SSCAM, ScoreCAM
from eigencam.methods.shapcam import ShapCAM
from eigencam.passes import ablation
from eigencam.passes.forward import Forward, forward_pass

TARGETS = torch.tensor([3, 2, 1, 0, 1])
by_columns = ablation._by_columns


def unit(x: Tensor) -> Tensor:
    return (x - x.min()) / (x.max() - x.min()) if x.max() > x.min() else torch.zeros_like(x)


def answers(forward: Forward, image: int, mask: Tensor) -> Tensor:
    with torch.no_grad():
        return forward.module.eval()(forward.images[image : image + 1] * mask)[0].double()


@pytest.mark.parametrize("weights", ["logit", "probability"])
def test_scorecam_is_the_papers_loop(weights: Any) -> None:
    forward = make(network("rectified"))
    found = ScoreCAM(weights)(forward, TARGETS)
    for n, target in enumerate(TARGETS):
        a = forward.activations()[n]
        masks = [unit(F.interpolate(k[None, None], (6, 7), mode="bilinear")[0, 0]) for k in a]
        scores = torch.stack([answers(forward, n, m) for m in masks])
        if weights == "logit":
            alpha = (scores[:, target] - answers(forward, n, torch.zeros(1))[target]).softmax(0)
        else:
            alpha = scores.softmax(1)[:, target]
        expected = torch.einsum("c,chw->hw", alpha, a.double()).relu()
        torch.testing.assert_close(found[n].double(), expected, atol=1e-5, rtol=1e-4)


def test_iscam_is_the_mean_over_dimmed_masks() -> None:
    forward = make(network("rectified"))
    found = ISCAM(samples=3, weights="probability")(forward, TARGETS)
    a = forward.activations()[1]
    masks = [unit(k) for k in a]
    scores = [sum(answers(forward, 1, m * i / 3).softmax(0)[TARGETS[1]] for i in (1, 2, 3)) / 3 for m in masks]
    expected = sum(s * k.double() for s, k in zip(scores, a, strict=True))
    torch.testing.assert_close(found[1].double(), torch.as_tensor(expected).relu(), atol=1e-5, rtol=1e-4)


def test_sscam_is_torchcams_under_the_same_noise() -> None:
    net, x = network("rectified"), random_activations(1, 3, 14, 12)
    forward = forward_pass(net, x, "conv")
    noise = iter(2.0 * normal(torch.zeros(1, dtype=torch.long), (4, 14, 12), 0)[0])
    with torchcam.SSCAM(net, "conv", num_samples=4) as theirs:
        theirs._distrib.sample = lambda size: next(noise).expand(size)  # type: ignore[method-assign]
        net(x)
        expected = theirs(1, normalized=False)[0]
    found = SSCAM(samples=4)(forward, torch.tensor([1]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    defaults = signature(torchcam.SSCAM).parameters
    assert (SSCAM().samples, SSCAM().sigma) == (defaults["num_samples"].default, defaults["std"].default)


def test_without_noise_sscam_is_scorecam() -> None:
    forward = make(network("rectified"))
    plain = SSCAM(samples=2, sigma=0, weights="probability")(forward, TARGETS)
    torch.testing.assert_close(plain, ScoreCAM("probability")(forward, TARGETS))
    noisy = SSCAM(samples=2, weights="probability")(forward, TARGETS)
    assert not torch.allclose(noisy, plain)
    torch.testing.assert_close(SSCAM(samples=2, weights="probability")(forward, TARGETS), noisy)


def test_only_the_strongest_channels_are_asked() -> None:
    forward = make(network("rectified"))
    told: list[int] = []
    forward.progress = told.append
    ScoreCAM(channels=2)(forward, TARGETS)
    assert sum(told) == 5 * 2 + 1
    torch.testing.assert_close(ScoreCAM(channels=99)(forward, TARGETS), ScoreCAM()(forward, TARGETS))


def test_ablationcam_behind_a_linear_head_is_known_and_pytorch_grad_cams() -> None:
    net = network("gap")
    forward = make(net)
    a, w = forward.activations(), next(net.get_submodule("fc").parameters()).detach()
    drop = a.mean((2, 3)) * w[TARGETS]
    expected = torch.einsum("nc,nchw->nhw", drop / forward.logits.gather(1, TARGETS[:, None]), a).relu()
    torch.testing.assert_close(AblationCAM()(forward, TARGETS), expected, atol=1e-5, rtol=1e-4)


def test_ablationcam_is_pytorch_grad_cams_where_activations_are_not_negative() -> None:
    """For signed activations it sets a channel to -1e7, not to zero."""
    torch.manual_seed(0)
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4))
    net = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), *head)
    forward = forward_pass(net, random_activations(5, 3, 6, 7), "1")
    ours = AblationCAM()(forward, TARGETS)
    lows, peaks = ours.amin((1, 2), keepdim=True), ours.amax((1, 2), keepdim=True)
    theirs = PytorchGradCAM("AblationCAM")(forward, TARGETS)
    torch.testing.assert_close((ours - lows) / (peaks - lows).clamp(min=1e-12), theirs, atol=1e-3, rtol=0)


def test_shapley_values_behind_a_linear_head_are_the_cam() -> None:
    forward = make(network("gap"))
    found = ShapCAM(permutations=3, signed=True)(forward, TARGETS)
    torch.testing.assert_close(found * 42, CAM()(forward, TARGETS), atol=1e-4, rtol=1e-4)
    assert found.min() < 0
    torch.testing.assert_close(ShapCAM(permutations=3)(forward, TARGETS), found.relu())


def test_shapley_values_add_up_and_are_those_of_all_permutations() -> None:
    net = network("conv")  # a ReLU at each position: still additive over positions, but not linear
    forward = forward_pass(net, random_activations(5, 3, 6, 7), "conv")
    found = ShapCAM(permutations=4, signed=True)(forward, TARGETS)
    nothing = forward.predict(1, lambda _: torch.zeros_like(forward.activations()[:1]), "conv")
    gain = forward.logits.gather(1, TARGETS[:, None])[:, 0] - nothing[0, TARGETS]
    torch.testing.assert_close(found.sum((1, 2)), gain, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "layer", "short"),
    [
        ("alexnet", "features.11", True),
        ("resnet18", "layer4", True),
        ("densenet121", "features.denseblock4", False),  # with a batch norm between
        ("mobilenet_v2", "features.18", True),
        ("squeezenet1_1", "features", False),  # a convolution
        ("resnet18", "layer3", False),
    ],
)
def test_ablation_by_columns_of_the_classifier_is_ablation_of_channels(
    name: str, layer: str, short: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    net = getattr(torchvision.models, name)()
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.bias)
    forward = forward_pass(net, random_activations(2, 3, 64, 64), layer)
    activations = forward.activations()
    used: list[object] = []
    monkeypatch.setattr(ablation, "_by_columns", lambda *given: used.append(given) or by_columns(*given))
    found = ablation.logits_without(forward, layer)
    assert bool(used) == short
    assert forward.module.training
    for k in (0, 7, activations.shape[1] - 1):
        without = activations.clone()
        without[:, k] = 0
        expected = forward.predict(2, lambda part, x=without: x[part], layer)
        torch.testing.assert_close(found[:, k], expected, atol=1e-5, rtol=1e-4)


def test_ablation_by_passes_is_chunked_and_agrees() -> None:
    forward, told = make(network("gap")), []
    forward.chunk, forward.progress = 4, told.append
    found = ablation._by_passes(forward, forward.activations(), "conv")
    torch.testing.assert_close(found, ablation.logits_without(make(network("gap")), "conv"), atol=1e-5, rtol=1e-4)
    assert told == [4] * 7 + [2]


class Product(torch.nn.Module):
    """Logit 0 is the product of two positions; the Shapley value of each is half of it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Identity()
        self.bias = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return torch.stack([x[:, 0, 0, 0] * x[:, 0, 1, 1] + self.bias, x.sum((1, 2, 3))], 1)


def test_an_interaction_is_shared_equally() -> None:
    images = torch.full((1, 3, 2, 2), 3.0)
    found = ShapCAM(permutations=2)(forward_pass(Product(), images, "conv"), torch.tensor([0]))
    torch.testing.assert_close(found[0], torch.tensor([[4.5, 0.0], [0.0, 4.5]]))


def test_rise_weights_masks_with_probabilities() -> None:
    forward = make(network("rectified"))
    method = RISE(masks=30, cells=3)
    masks = torch.cat([method.make(i, i + 1, (6, 7), torch.device("cpu")) for i in range(30)])
    torch.testing.assert_close(method.make(0, 30, (6, 7), torch.device("cpu")), masks)
    assert masks.min() >= 0
    assert masks.max() <= 1
    scores = torch.stack([answers(forward, 2, m).softmax(0)[TARGETS[2]] for m in masks])
    expected = torch.einsum("m,mhw->hw", scores, masks.double()) / (30 * 0.5)
    torch.testing.assert_close(method(forward, TARGETS)[2].double(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("cells", "size"), [(7, (56, 70)), (2, (9, 12)), (1, (5, 4))])
def test_rises_masks_are_the_authors(cells: int, size: tuple[int, int]) -> None:
    """skimage's `resize` with `reflect`, cut at the offset; the border is not the edge's value repeated."""
    masks, index = RISE(cells=cells).make(0, 6, size, torch.device("cpu")), torch.arange(6)
    grid = (uniform(index, (cells, cells), 0) < 0.5).double().numpy()
    cell = [-(-side // cells) for side in size]
    offset = (uniform(index, (2,), 1).numpy() * cell).astype(int)
    for mask, one, (top, left) in zip(masks, grid, offset, strict=True):
        fine = resize(one, [(cells + 1) * side for side in cell], order=1, mode="reflect", anti_aliasing=False)
        expected = fine[top : top + size[0], left : left + size[1]]
        torch.testing.assert_close(mask.double(), torch.from_numpy(expected), atol=1e-6, rtol=0)


def test_rises_masks_are_half_open_on_average() -> None:
    masks = RISE().make(0, 2000, (56, 70), torch.device("cpu"))
    torch.testing.assert_close(masks.mean(0), torch.full((56, 70), 0.5), atol=0.05, rtol=0)


def test_occlusion_is_captums() -> None:
    forward = make(network("rectified"))
    found = Occlusion(window=2, stride=2, score="logit")(forward, TARGETS)
    theirs = Captum("Occlusion", {"sliding_window_shapes": [3, 2, 2], "strides": [3, 2, 2]})(forward, TARGETS) / 3
    torch.testing.assert_close(found, theirs, atol=1e-5, rtol=1e-4)


def test_occlusion_of_a_sum_is_the_images_own_values() -> None:
    class Total(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = torch.nn.Conv2d(3, 1, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).sum((2, 3))

    net, x = Total(), random_activations(2, 3, 5, 6)
    found = Occlusion(window=1, stride=1, score="logit")(forward_pass(net, x, "conv"), torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(found, net.conv(x)[:, 0].detach(), atol=1e-5, rtol=1e-4)


METHODS = [ScoreCAM(), SSCAM(2), ISCAM(2), AblationCAM(), ShapCAM(3), RISE(9), Occlusion(3, 2)]


@pytest.mark.parametrize("chunk", [3, 64])
@pytest.mark.parametrize("method", METHODS, ids=lambda m: type(m).__name__)
def test_batches_and_chunks_do_not_matter(method: Any, chunk: int) -> None:
    net, x = network("rectified"), random_activations(3, 3, 6, 7)
    together = method(forward_pass(net, x, "conv"), TARGETS[:3])
    for i in range(3):
        told: list[int] = []
        one = forward_pass(net, x[i : i + 1], "conv", index=torch.tensor([i]), chunk=chunk)
        one.progress = told.append
        torch.testing.assert_close(method(one, TARGETS[i : i + 1])[0], together[i], atol=1e-4, rtol=1e-3)
        # here Ablation-CAM's inputs are vectors for the classifier, and as many as fill a chunk of images run together
        assert max(told) <= (chunk * x[i].numel() // 4 if isinstance(method, AblationCAM) else chunk)
    half = forward_pass(net.bfloat16(), x.bfloat16(), "conv")
    assert method(half, TARGETS[:3]).dtype == torch.float32


def test_options_are_checked() -> None:
    with pytest.raises(ValueError, match="logit, probability"):
        ScoreCAM("softmax")  # type: ignore[arg-type]
    for make_one in (lambda: ScoreCAM(channels=0), lambda: RISE(p=1), lambda: Occlusion(0), lambda: ShapCAM(0)):
        with pytest.raises(ValueError, match="allowed: 1 or more"):
            make_one()
    with pytest.raises(ValueError, match="a stride up to the window"):
        Occlusion(window=8, stride=9)
    with pytest.raises(ValueError, match="0 or more"):
        SSCAM(sigma=-1)
