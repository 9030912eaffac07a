"""ACoL and SPG of wsolevaluation's training: maps and targets by hand, forms of networks, resuming, refusals."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_module
from torch import Tensor
from torchvision import models
from toys import ConvNet, TrainedNet, random_activations
from training import config, fitted_by, killed

from eigencam.fitting.job import prepare
from eigencam.fitting.spg import SPG, SideHeads, SideLoss, target, taught
from eigencam.fitting.whole_network import BESIDE
from eigencam.methods.acol import ACoL
from eigencam.methods.cam import CAM
from eigencam.methods.refusal import refusal
from eigencam.networks import acol
from eigencam.networks.network import Network, Preprocess, load_network
from eigencam.networks.wsol import WSOLVGG16SPG
from eigencam.passes.forward import forward_pass
from eigencam.running.batch_maps import compute_maps

WSOL = ["fit=wsol", "fit.validation.count=6"]
TINY_ACOL = [
    "model=acol",
    "model.args.base={_target_: toys.TrainedNet}",
    "model.args.pretrained=null",
    "model.args.layer=relu",
    "model.args.width=8",
    "model.preprocess.size=28",
]
TINY_SPG = ["fit.method=spg", "fit.spg.layers=[conv,bn]", "fit.spg.width=8"]


def tiny_acol(threshold: float = 0.7) -> acol.ACoL:
    torch.manual_seed(0)
    return acol.acol(TrainedNet(), "relu", classes=5, width=8, threshold=threshold).eval()


def by_hand(net: acol.ACoL, x: Tensor, label: int) -> tuple[Tensor, Tensor]:
    """The scaled maps of both classifiers for one image, by the paper's formula."""

    def stretched(m: Tensor) -> Tensor:
        return (m - m.min()) / (m.max() - m.min())

    features = net.features(x[None])
    first = stretched(net.classifier_A(features)[0, label])
    second = net.classifier_B(features * (first < net.threshold))[0, label]
    return first, stretched(second)


@torch.no_grad()
def test_the_map_is_the_larger_of_two_and_the_second_classifier_sees_what_the_first_leaves() -> None:
    net, x, y = tiny_acol(), random_activations(3, 3, 28, 28), torch.tensor([4, 0, 2])
    forward = forward_pass(net, x, acol.CAM_LAYER, layers=["features", "classifier_A"])
    made = ACoL()(forward, y)
    for n in range(3):
        first, second = by_hand(net, x[n], int(y[n]))
        torch.testing.assert_close(made[n], torch.maximum(first, second))
        assert not torch.allclose(made[n], first)
    torch.testing.assert_close(
        CAM()(forward, y).flatten(1).argmax(1), net.classifier_A(net.features(x))[range(3), y].flatten(1).argmax(1)
    )
    logits, second = net.both(x, y)
    torch.testing.assert_close(logits, net(x))
    assert not torch.allclose(second, net.classifier_B(net.features(x)).mean((2, 3)))
    everything = tiny_acol(threshold=1.1)  # above any value: nothing is erased
    torch.testing.assert_close(everything.both(x, y)[1], everything.classifier_B(everything.features(x)).mean((2, 3)))
    nothing = tiny_acol(threshold=0.0)
    torch.testing.assert_close(nothing.both(x, y)[1], nothing.classifier_B(torch.zeros(3, 6, 7, 7)).mean((2, 3)))


def test_constant_maps_become_zero_and_erase_nothing() -> None:
    maps = torch.stack([torch.full((2, 2), 3.0), torch.tensor([[1.0, 2.0], [3.0, 5.0]])])
    assert torch.equal(acol.scaled(maps), torch.stack([torch.zeros(2, 2), torch.tensor([[0.0, 0.25], [0.5, 1.0]])]))


def test_no_gradient_reaches_the_first_classifier_through_what_it_erases() -> None:
    net, x = tiny_acol().train(), random_activations(2, 3, 28, 28)
    net.both(x, torch.tensor([1, 2]))[1].sum().backward()
    assert all(p.grad is None for p in net.classifier_A.parameters())
    assert all(p.grad is not None for p in net.classifier_B.parameters())


@pytest.mark.parametrize(
    ("make", "layer", "channels"),
    [
        (lambda: models.resnet18(weights=None), "layer3", 256),
        (lambda: models.vgg11(weights=None), "features.10", 256),
        (lambda: models.mobilenet_v3_small(weights=None), "features", 576),
        (lambda: models.densenet121(weights=None).eval(), "features", 1024),
    ],
)
def test_a_trunk_gives_what_the_network_gives(make: Any, layer: str, channels: int) -> None:
    net = make().eval()
    seen: list[Tensor] = []
    net.get_submodule(layer).register_forward_hook(lambda _m, _a, out: seen.append(out.clone()))
    cut, found = acol.trunk(net, layer)
    x = random_activations(1, 3, 64, 64)
    with torch.no_grad():
        net(x)
        assert torch.equal(cut(x), seen[-1])
    assert found == channels
    assert not any(name.startswith(("fc.", "classifier.")) for name, _ in cut.named_parameters())


@pytest.mark.parametrize(
    ("base", "layer", "message"),
    [
        (lambda: models.resnet18(weights=None), "layer9", "has no such module"),
        (
            lambda: models.googlenet(weights=None, transform_input=True, init_weights=False),
            "inception4e",
            "give another output",
        ),
        (lambda: models.resnet18(weights=None), "fc", "do not run so"),
    ],
)
def test_networks_that_cannot_be_cut_are_refused(base: Any, layer: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"ACoL needs the features.*{message}"):
        acol.acol(base().eval(), layer)


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize(
    ("make", "parameters", "cells"),
    [
        (acol.wsol_vgg16_acol, 14_714_688 + 2 * 14_164_999, (4, 8)),
        (acol.wsol_resnet50_acol, 23_508_032 + 2 * 28_320_775, (4, 8)),
        (acol.wsol_inception_v3_acol, 8_965_856 + 2 * 16_524_295, (4, 8)),
    ],
)
def test_forms_of_acol(make: Any, parameters: int, cells: tuple[int, int], large: bool) -> None:
    with torch.device("meta"):  # shapes alone
        net = make(7, large).eval()
        features = net.features(torch.zeros(1, 3, 64, 64))
    assert sum(p.numel() for p in net.parameters()) == parameters
    assert features.shape[2] == cells[large]
    names = [name for name, _ in net.named_parameters()]
    assert all(any(name.startswith(f"{prefix}.") for name in names) for prefix in net.new_layers)


def test_vgg_for_spg_has_a_cam_and_its_side_heads_read_it() -> None:
    with torch.device("meta"):
        large = WSOLVGG16SPG(7, large=True)
        assert large.SPG_A_2(large.pool(large.SPG_A_1(large.features(torch.zeros(1, 3, 64, 64))))).shape[2:] == (8, 8)
    net = WSOLVGG16SPG(7).eval()
    network = Network("wsol_vgg16_spg", net, "SPG_A_3", "cub", "", Preprocess(size=64))
    heads = SideHeads(network, SPG())
    assert [p.shape[0] for p in heads.first.parameters()] == [512, 512]
    assert CAM().unsupported(network) == ""
    x = random_activations(1, 3, 64, 64)
    forward = forward_pass(net, x, "SPG_A_3")
    made = CAM()(forward, torch.tensor([3]))
    assert made.shape[1] == 4
    with torch.no_grad():
        maps = net.SPG_A_4(forward.activations())[:, 3]
    torch.testing.assert_close(made, maps - net.SPG_A_4.bias[3])  # type: ignore[index]


def test_targets_of_side_heads_by_hand() -> None:
    teacher = torch.zeros(2, 1, 8, 10)
    teacher[0, 0, :4] = 0.9  # 40 pixels above 0.7
    teacher[0, 0, 4, :5] = 0.5
    teacher[1, 0, 0, :3] = torch.tensor([1.0, 0.8, 0.75])  # fewer than 30: above 0.7 of the maximum
    teacher[1, 0, 1] = 0.3
    found = target(teacher, 0.7, 0.2)
    assert (found[0, 0, :4] == 1).all()
    assert found[0, 0, 4].tolist() == [255] * 5 + [0] * 5
    assert found[1, 0, 0].tolist() == [1, 1, 1] + [0] * 7
    assert (found[1, 0, 1] == 255).all()
    both = target(teacher, 0.1, 0.95)  # background wins
    assert (both[0] == 0).all()
    logits = torch.randn(2, 1, 8, 10, generator=torch.Generator().manual_seed(0), requires_grad=True)
    sure = found < 255
    expected = F.binary_cross_entropy_with_logits(logits[sure], found[sure])
    torch.testing.assert_close(taught(logits, teacher, 0.7, 0.2), expected)
    assert taught(logits, torch.full_like(teacher, torch.nan), 0.7, 0.2).item() == 0


def test_losses_of_side_heads_reach_the_heads_alone_and_constant_maps_teach_nothing() -> None:
    draws = torch.Generator().manual_seed(0)
    b1, b2, c = (torch.randn(2, 1, 7, 7, generator=draws).requires_grad_() for _ in range(3))
    maps = torch.randn(2, 7, 7, generator=draws).requires_grad_()
    terms = SideLoss()(b1, b2, c, maps)
    assert list(terms) == ["b2", "b1", "c"]
    for name, own in (("b2", b2), ("b1", b1), ("c", c)):
        reached = torch.autograd.grad(terms[name], (b1, b2, c, maps), retain_graph=True, allow_unused=True)
        assert [other is own for other, grad in zip((b1, b2, c, maps), reached, strict=True) if grad is not None] == [
            True
        ]
    assert SideLoss()(b1, b2, c, torch.ones(2, 7, 7))["b2"].item() == 0


@pytest.mark.parametrize("chosen", [["fit.method=acol", *TINY_ACOL], TINY_SPG])
def test_a_killed_training_ends_in_the_same_weights(tmp_path: Path, chosen: list[str]) -> None:
    words = [*WSOL, *chosen, "fit.select=best", "fit.lr=0.05"]
    if "model=acol" in words:
        words = [word for word in words if not word.startswith("model.name")]
    whole, again = fitted_by(tmp_path / "whole", *words), killed(tmp_path / "killed", 5, *words)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in whole.tensors.items())
    assert again.about == whole.about
    assert not any(name.startswith(BESIDE) for name in whole.tensors)
    assert whole.about["head"]["label"] == ("ACoL" if "model=acol" in words else "SPG")


def test_a_trained_acol_is_loaded_and_mapped_by_its_own_rule(tmp_path: Path) -> None:
    words = ["fit=wsol", "fit.validation=null", "fit.method=acol", *TINY_ACOL, "fit.epochs=1", "model.args.classes=7"]
    made = fitted_by(tmp_path, *words, "model.classes=other")  # other classes: both last layers are new
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        network = load_network(compose("run", [*TINY_ACOL, "model.args.classes=7", f"model.head={made.path}"]).model)
    module: Any = network.module
    assert module.classifier_A[-1].out_channels == module.classifier_B[-1].out_channels == 12
    assert not torch.equal(module.classifier_A[-1].weight, module.classifier_B[-1].weight)
    assert all(torch.equal(module.state_dict()[name], tensor) for name, tensor in made.tensors.items())
    assert refusal(ACoL(), network) == refusal(CAM(), network) == ""
    images = torch.randint(0, 256, (2, 3, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = compute_maps(network, {"acol": ACoL(), "cam": CAM()}, images, labels=[3, 5])
    first, second = by_hand(module, network.preprocess.normalize(images)[1], 5)
    assert found.maps["acol"][1] == pytest.approx(torch.maximum(first, second).detach().numpy(), abs=1e-6)


def test_other_networks_have_no_such_map() -> None:
    network = Network("conv", ConvNet().eval(), "relu", "scenes", "", Preprocess(size=32))
    assert "ACoL's map is of two classifiers" in refusal(ACoL(), network)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["fit.method=acol"], "ACoL's map is of two classifiers"),
        (["fit.method=has", *TINY_ACOL], "leaves the second classifier of acol untrained"),
        (["fit.method=spg"], r"set fit\.spg\.layers=\[FIRST,SECOND\]"),
        (["fit.method=spg", "fit.spg.layers=[conv,nothing]"], r"fit\.spg\.layers: no layer 'nothing'"),
        (["fit.method=spg", "fit.spg.layers=[conv,fc]"], "the output of fc is no map"),
        (["fit.method=spg", "fit.spg.layers=[conv]"], "two layers, or none"),
        (["fit.spg.thresholds=[[0.1,0.2],[0.5,0.1],[0.5,0.1]]"], "low not above high"),
        (["+fit.spg.colour=1"], r"fit\.spg\.colour: unknown"),
    ],
)
def test_faults_are_reported_before_training(tmp_path: Path, wrong: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        prepare(config(tmp_path, *WSOL, *wrong))
