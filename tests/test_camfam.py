"""FEM, Finer-CAM, RefineCAM, Recipro-CAM, Group-CAM and wrappers of methods: closed forms, image by image, refusals."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toys import make, network, random_activations

from eigencam.configuring import method_names
from eigencam.configuring.compose import compose
from eigencam.configuring.wrapped_methods import wrapped
from eigencam.methods.baselines import CenterBox
from eigencam.methods.cam import CAM
from eigencam.methods.eigencam_variants import EigenGradCAM
from eigencam.methods.fem import FEM, k_sigma
from eigencam.methods.finer import FinerCAM
from eigencam.methods.gradcam import GradCAM, GradCAMPlusPlus
from eigencam.methods.gradient_weighted import HiResCAM, LayerCAM, XGradCAM
from eigencam.methods.group import GroupCAM, truncated_blur
from eigencam.methods.recipro import ReciproCAM
from eigencam.methods.refine import RefineCAM
from eigencam.methods.scorecam import ScoreCAM, unit
from eigencam.methods.smoothing import AugSmooth, EigenSmooth, Smooth
from eigencam.methods.windows import SlidingWindows
from eigencam.networks.layers import examine
from eigencam.passes.finer_score import nearest
from eigencam.passes.forward import Forward, forward_pass
from eigencam.passes.other_scores import rescored
from eigencam.store.build import instantiate
from eigencam.targets import finer

TARGETS = torch.tensor([3, 2, 1, 0, 1])


def weights(forward: Forward) -> Tensor:
    return next(forward.module.get_submodule("fc").parameters()).detach()


def staged() -> nn.Module:
    """Three sizes of maps, the last one before the classifier."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Conv2d(5, 6, 1), nn.Flatten(), nn.Linear(24, 4)).eval()


def staged_pass(**more: Any) -> Forward:
    return forward_pass(staged(), random_activations(2, 3, 8, 8), "6", gradients=True, **more)


def test_fem_adds_the_means_of_the_channels_that_stand_out() -> None:
    """Channel 0 has one peak; channel 1 has two values, none of which is two deviations above the mean of 9."""
    a = torch.zeros(1, 2, 3, 3)
    a[0, 0, 1, 2], a[0, 1, :, 0] = 9, 3
    found = k_sigma(a, 2.0, "mean")[0]
    assert found[1, 2] == 1
    assert found.sum() == 1
    share = k_sigma(a, 2.0, "share")[0]
    assert share[1, 2] == pytest.approx(9 / 9)
    assert share.sum() == pytest.approx(1)


@pytest.mark.parametrize("picked", [False, True])
def test_finer_cam_is_the_cam_of_the_difference_of_weights(picked: bool) -> None:
    """With an average and a linear layer behind: for one image, and for several classes of one image."""
    forward, targets = make(network("gap"), gradients=True), TARGETS
    if picked:
        rows = torch.tensor([0, 0, 4, 0])
        forward, targets = forward.pick(rows), torch.tensor([1, 2, 3, 0])
    w, y = weights(forward), forward.logits
    base = HiResCAM(relu=False)
    expected = {
        "equal": [w[t] - 0.6 * w[[k for k in range(4) if k != t]].mean(0) for t in targets.tolist()],
        "probability": [],
    }
    for row, t in zip(y, targets.tolist(), strict=True):
        compared = [k for k in range(4) if k != t]
        p = row[compared].softmax(0)
        share = p * (
            1 + row[compared] - (p * row[compared]).sum()
        )  # derivative of the weighted mean with respect to each logit
        expected["probability"].append(w[t] - (share[:, None] * w[compared]).sum(0))
    for kind, alpha in (("equal", 0.6), ("probability", 1.0)):
        cam = torch.einsum("nc,nchw->nhw", torch.stack(expected[kind]), forward.activations()) / 42
        found = FinerCAM(base, alpha, 3, kind)(forward, targets)  # type: ignore[arg-type]
        torch.testing.assert_close(found, cam, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(FinerCAM(base, 0)(forward, targets), base(forward, targets))
    one = FinerCAM(base, 1, 1)(forward, targets)
    other = nearest(y, targets, 1)[:, 0]
    torch.testing.assert_close(one, base(forward, targets) - base(forward, other), atol=1e-6, rtol=1e-4)


def test_methods_of_one_score_share_its_backward_pass() -> None:
    forward, count = make(network("rectified"), gradients=True), list[Tensor]()
    kept = forward.backward_of
    forward.backward_of = lambda seed: count.append(seed) or kept(seed)  # type: ignore[method-assign]
    for method in (GradCAM(), LayerCAM(), HiResCAM()):
        FinerCAM(method)(forward, TARGETS)
    assert len(count) == 1
    other = TARGETS.flip(0)
    FinerCAM(GradCAM())(forward, other)
    assert len(count) == 2
    torch.testing.assert_close(
        FinerCAM(GradCAM())(forward, other), FinerCAM(GradCAM())(make(forward.module, True), other)
    )


def test_the_classes_compared_are_the_nearest_without_the_class_itself() -> None:
    logits = torch.tensor([[1.0, 4.0, 4.0, 3.5], [0.0, 0.0, 0.0, 9.0]])
    assert nearest(logits, torch.tensor([1, 3]), 2).tolist() == [[2, 3], [0, 1]]
    assert nearest(logits, torch.tensor([1, 3]), 9).shape == (2, 3)


def test_finer_cam_is_a_target_of_any_method() -> None:
    """The compared classes are those of the explained image, whatever inputs a method makes."""
    logits, changed = torch.tensor([[5.0, 1.0, 4.0, 3.0]]), torch.tensor([[5.0, 4.5, 0.0, 1.0]])
    target: Any = finer(0, alpha=0.5, references=2, weights="equal")
    assert target(changed).item() == 5 - 0.5 * (4.5 + 1) / 2
    assert target.on(logits, None)(changed).item() == 5 - 0.5 * (0 + 1) / 2
    assert str(target) == "class 0 compared"
    with pytest.raises(ValueError, match="class 7 is to be compared; the network has 0 to 3"):
        finer(7)(logits)


def test_a_rescored_pass_has_the_gradients_of_its_scores() -> None:
    forward = make(network("conv"), gradients=True)
    changed = rescored(forward, lambda logits: logits.square() - logits[:, :1])
    torch.testing.assert_close(changed.logits, forward.logits.square() - forward.logits[:, :1])
    two = torch.full_like(TARGETS, 2)
    value = forward.logits[:, 2, None, None, None]
    first = forward.gradients(torch.zeros_like(TARGETS))
    torch.testing.assert_close(changed.gradients(two), 2 * value * forward.gradients(two) - first)


def test_refine_cam_multiplies_the_maps_of_the_stages() -> None:
    forward = staged_pass(layers=["1", "4"])
    maps = [unit(LayerCAM(layer=name)(forward, TARGETS[:2])) for name in ("1", "4", "6")]
    up = [F.interpolate(m[:, None], (8, 8), mode="bilinear")[:, 0] for m in maps]
    torch.testing.assert_close(RefineCAM(LayerCAM())(forward, TARGETS[:2]), up[0] * up[1] * up[2])
    found = RefineCAM(LayerCAM(), ["4", "6"])(forward, TARGETS[:2])
    torch.testing.assert_close(found, maps[1] * F.interpolate(maps[2][:, None], (4, 4), mode="bilinear")[:, 0])
    found = RefineCAM(LayerCAM(), ["4", "6"], "input")(forward, TARGETS[:2])
    torch.testing.assert_close(found, unit(up[1]) * unit(up[2]))
    torch.testing.assert_close(RefineCAM(LayerCAM(), ["4", "4"])(forward, TARGETS[:2]), maps[1] ** 2)


def test_recipro_cam_of_logits_is_cam_and_the_bias() -> None:
    forward = make(network("gap"))
    bias = forward.module.get_submodule("fc").bias
    assert isinstance(bias, Tensor)
    found = ReciproCAM("logit", scaled=False)(forward, TARGETS)
    expected = CAM()(forward, TARGETS) / 42 + bias.detach()[TARGETS][:, None, None]
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close((found - bias.detach()[TARGETS][:, None, None]).sum((1, 2)), 0 * found[:, 0, 0] + (
        forward.logits.gather(1, TARGETS[:, None])[:, 0] - bias.detach()[TARGETS]
    ))  # fmt: skip
    spread = ReciproCAM("logit", spread=True, scaled=False)(forward, TARGETS) - bias.detach()[TARGETS][:, None, None]
    inside = (expected - bias.detach()[TARGETS][:, None, None])[:, 1:-1, 1:-1]
    torch.testing.assert_close(spread[:, 1:-1, 1:-1], inside, atol=1e-6, rtol=1e-4)  # the kernel's sum is 1
    torch.testing.assert_close(ReciproCAM("logit")(forward, TARGETS), unit(found))
    torch.testing.assert_close(spread[:, 0, 0], 9 / 16 * (expected - bias.detach()[TARGETS][:, None, None])[:, 0, 0])


def test_one_group_is_grad_cam_times_a_number() -> None:
    forward = make(network("rectified"), gradients=True)
    found, base = GroupCAM(1)(forward, TARGETS), GradCAM()(forward, TARGETS)
    blurred = truncated_blur(forward.images, 50, 25)
    masks = F.interpolate(unit(base)[:, None], (6, 7), mode="bilinear")
    with torch.no_grad():
        shown, hidden = (forward.module(x).softmax(1) for x in (torch.lerp(blurred, forward.images, masks), blurred))
    gain = (shown - hidden).gather(1, TARGETS[:, None]).relu()
    torch.testing.assert_close(found, gain[:, :, None] * base, atol=1e-7, rtol=1e-4)
    assert (gain > 0).any()


def test_the_blur_mirrors_about_the_outermost_pixels() -> None:
    x = random_activations(1, 2, 9, 12)
    line = torch.exp(-0.5 * (torch.arange(-3, 4) / 2.0) ** 2)
    kernel = (line[:, None] * line / line.sum() ** 2)[None, None].expand(2, 1, -1, -1)
    expected = F.conv2d(F.pad(x, (3, 3, 3, 3), mode="reflect"), kernel, groups=2)
    torch.testing.assert_close(truncated_blur(x, 2.0, 3), expected)
    torch.testing.assert_close(truncated_blur(torch.ones(1, 1, 4, 1), 50, 25), torch.ones(1, 1, 4, 1))


def test_copies_that_change_nothing_leave_the_map() -> None:
    """A network without a bias of 1 x 1 convolutions: mirrored and scaled with its input."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    forward = forward_pass(net, random_activations(3, 3, 5, 6), "0", gradients=True)
    for method in (GradCAM(), HiResCAM(), EigenGradCAM()):
        found = AugSmooth(method)(forward, TARGETS[:3])
        torch.testing.assert_close(found, unit(method(forward, TARGETS[:3]).relu()), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(Smooth(method, 2, 0)(forward, TARGETS[:3]), method(forward, TARGETS[:3]))


def test_eigen_smooth_of_hirescam_is_eigen_grad_cam() -> None:
    forward = make(network("rectified"), gradients=True)
    assert torch.equal(EigenSmooth(HiResCAM())(forward, TARGETS), EigenGradCAM()(forward, TARGETS))
    gap = make(network("gap"), gradients=True)  # gradients there are the same at all positions
    torch.testing.assert_close(EigenSmooth(GradCAM())(gap, TARGETS), EigenSmooth(HiResCAM())(gap, TARGETS))


METHODS = [
    FEM(),
    FEM(weights="share"),
    FinerCAM(GradCAMPlusPlus()),
    FinerCAM(LayerCAM(), 0.6, weights="equal"),
    RefineCAM(GradCAM(), ["conv", "conv"]),
    ReciproCAM(),
    GroupCAM(4),
    AugSmooth(ScoreCAM()),
    Smooth(XGradCAM(), 2),
    EigenSmooth(GradCAMPlusPlus()),
]


@pytest.mark.parametrize("method", METHODS, ids=lambda m: f"{type(m).__name__}")
def test_a_batch_equals_batches_of_one_and_half_precision_gives_float32(method: Any) -> None:
    net, x = network("rectified"), random_activations(4, 3, 6, 7)
    forward = forward_pass(net, x, "conv", gradients=True)
    forward.chunk = 7
    together = method(forward, TARGETS[:4])
    for i in range(4):
        one = forward_pass(net, x[i : i + 1], "conv", gradients=True, index=torch.tensor([i]))
        torch.testing.assert_close(method(one, TARGETS[i : i + 1])[0], together[i], atol=1e-6, rtol=1e-3)
    half = forward_pass(net.bfloat16(), x.bfloat16(), "conv", gradients=True)
    assert method(half, TARGETS[:4]).dtype == torch.float32


def test_any_option_stands_in_a_wrapper() -> None:
    chosen = "method=[gradcam,smooth/layercam,aug_smooth/finercam/layercam]"
    config = compose("run", [chosen, "method.smooth_layercam.samples=2"])
    assert list(config.method) == ["gradcam", "smooth_layercam", "aug_smooth_finercam_layercam"]
    assert instantiate(config.method.smooth_layercam) == Smooth(LayerCAM([]), 2)
    assert instantiate(config.method.aug_smooth_finercam_layercam) == AugSmooth(FinerCAM(LayerCAM([]), 1))
    assert method_names.split(["smooth/layercam", "captum/occlusion"])[2] == ["smooth_layercam", "captum_occlusion"]
    assert wrapped("smooth/nothing") is None
    assert wrapped("gradcam/layercam") is None


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: FinerCAM(ScoreCAM()), "GradCAM, GradCAMPlusPlus, .* give `target="),
        (lambda: FinerCAM(GradCAM(), references=0), "1 or more"),
        (lambda: FinerCAM(GradCAM(), weights="x"), "probability, equal"),  # type: ignore[arg-type]
        (lambda: EigenSmooth(ScoreCAM()), "sums over the channels of one layer"),
        (lambda: EigenSmooth(LayerCAM(["a", "b"])), "sums over the channels of one layer"),
        (lambda: RefineCAM(CenterBox()), "a method that has a `layer`"),
        (lambda: RefineCAM(GradCAM(), ["a"]), "two or more"),
        (lambda: RefineCAM(GradCAM(), grid="x"), "finest, input"),  # type: ignore[arg-type]
        (lambda: Smooth(GradCAM(), 0), "1 or more"),
        (lambda: GroupCAM(0), "1 or more"),
        (lambda: FEM(k=-1), "0 or more"),
        (lambda: FEM(weights="x"), "mean, share"),  # type: ignore[arg-type]
        (lambda: ReciproCAM("x"), "logit, probability"),  # type: ignore[arg-type]
    ],
)
def test_options_are_checked(make_it: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_it()


def test_what_runs_a_method_refuses_what_it_refuses() -> None:
    assert AugSmooth(SlidingWindows()).unsupported(None) == "it takes maps, and its method gives boxes"  # type: ignore[arg-type]
    assert not AugSmooth(FEM()).class_specific
    assert AugSmooth(GradCAM(layer="a")).layers == ("a",)
    single = nn.Sequential(nn.Conv2d(3, 1, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="one output"):
        FinerCAM(GradCAM())(forward_pass(single, torch.ones(1, 3, 4, 4), "0", gradients=True), torch.tensor([0]))


def test_stages_are_found_where_everything_passes() -> None:
    """No stage is inside a residual block."""
    import torchvision

    from eigencam.methods.stages import stages_of

    net = torchvision.models.resnet18(weights=None).eval()
    assert list(stages_of(examine(net, (64, 64)), "layer4")) == ["relu", "layer1", "layer2", "layer3", "layer4"]
    assert list(stages_of(examine(staged(), (8, 8)), "6")) == ["1", "4", "6"]
