"""The Python API: the same maps as in a run, for every form of image; the network is unchanged afterwards."""

import gc
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import eigencam
from eigencam import Explainer
from eigencam.networks.network import Preprocess

SMALL = Preprocess(size=16)
IMAGE = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, 2), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, 4),
    )  # fmt: skip


def test_the_map_is_the_formulas_and_the_network_is_as_before() -> None:
    module = net().train()
    module[5].weight.grad = torch.ones(4, 6)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    found = Explainer(module, "1", preprocess=SMALL)(IMAGE, ["gradcam", "eigencam"], target=2)
    assert module.training
    assert module[1].training
    assert all(p.requires_grad for p in module.parameters())
    assert torch.equal(module[5].weight.grad, torch.ones(4, 6))
    assert not any(m._forward_hooks for m in module.modules())
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())

    module.eval()
    x = SMALL.normalize(torch.from_numpy(SMALL(IMAGE)[0])[None])
    a = module[:2](x).detach().requires_grad_()
    logits = module[2:](a.clone())
    (gradient,) = torch.autograd.grad(logits[0, 2], a)
    expected = (gradient.mean((2, 3), keepdim=True) * a).sum(1).clamp(min=0)[0].detach()
    np.testing.assert_allclose(found["gradcam"].raw, expected, atol=1e-6)
    np.testing.assert_allclose(found.logits, logits[0].detach(), atol=1e-5)
    assert (found.target, found["eigencam"].target) == (2, 2)
    assert list(found) == ["gradcam", "eigencam"]


def fail(forward, targets):
    raise RuntimeError("mine")


def test_the_block_lets_the_network_go_also_where_it_fails() -> None:
    module = net()
    alive = weakref.ref(module)
    with Explainer(module, "1", preprocess=SMALL) as explain:
        found = explain(IMAGE)
    with pytest.raises(RuntimeError, match="mine"), Explainer(module, "1", preprocess=SMALL) as failing:
        failing(IMAGE, [fail])
    with pytest.raises(ValueError, match="block of this Explainer has been left"):
        explain(IMAGE)
    assert not any(m._forward_hooks or m._backward_hooks for m in module.modules())
    del module
    gc.collect()
    assert alive() is None
    assert found["gradcam"].overlay().size == (30, 20)


def test_maps_of_a_folder_are_found_by_the_images_name(tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    theirs = np.random.default_rng(1).random((16, 16), np.float32)
    np.save(tmp_path / "maps/photo.npy", theirs)
    Image.fromarray(IMAGE).save(tmp_path / "photo.png")
    explain = Explainer(net(), preprocess=SMALL)
    found = explain(tmp_path / "photo.png", [f"{tmp_path}/maps/"])
    np.testing.assert_allclose(found["maps"].raw, theirs, atol=1e-6)
    assert list(explain(IMAGE, [f"{tmp_path}/maps/"], name="photo")) == ["maps"]
    with pytest.raises(ValueError, match="no map for 1 images"):
        explain(IMAGE, [f"{tmp_path}/maps/"])


def test_sizes_boxes_overlays(tmp_path: Path) -> None:
    def left(forward, targets):
        half = torch.zeros(len(forward), 8, 8)
        half[:, :, :4] = 1
        return half

    found = Explainer(net(), preprocess=SMALL)(IMAGE, [left])
    assert found["left"].map.shape == (20, 30)
    x1, y1, x2, y2 = found["left"].box(0.5) or (0, 0, 0, 0)
    assert (x1, y1, y2) == (0, 0, 19)
    assert 13 <= x2 <= 15
    assert found["left"].overlay().size == (30, 20)
    plain, boxed = (np.asarray(found["left"].overlay(box=b)) for b in (False, True))
    assert (plain != boxed).any()
    assert found["left"].save(tmp_path / "a/b.png").is_file()
    assert found.grid("words").width > 300
    assert Explainer(net(), preprocess=SMALL)(IMAGE, {"zero": lambda f, t: torch.zeros(1, 2, 2)})["zero"].box() is None


def test_without_a_layer_it_is_the_last_that_makes_maps() -> None:
    module = net()
    assert Explainer(module, preprocess=SMALL).network.layer == "2"
    assert not any(m._forward_hooks for m in module.modules())
    with pytest.raises(ValueError, match=r"set model.layer"):
        Explainer(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), preprocess=SMALL)


@pytest.mark.parametrize(
    ("methods", "target", "message"),
    [
        (["gradcam", "gradcam"], None, "named twice: gradcam"),
        (["center_windows"], None, "center_windows: gives boxes"),
        (["gradcan"], None, "allowed: .*gradcam"),
        (["gradcam"], 9, "it has 0 to 3"),
        (["no.where"], None, "no.where"),
    ],
)
def test_faults_are_told(methods: list[str], target: int | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Explainer(net(), "0", preprocess=SMALL)(IMAGE, methods, target=target)


@pytest.mark.parametrize(
    ("settings", "methods", "message"),
    [
        ({}, [], r"methods=\[\]; allowed: a name"),
        ({}, None, r"methods=None; allowed: a name"),
        ({}, {"mine": "gradcam"}, r"method 'gradcam': str, which cannot be called"),
        ({}, ["gradcam", 3], r"method 3: int, which cannot be called"),
        ({"classes": {0: "cat"}}, "gradcam", "classes as dict; allowed: a list of names"),
        ({"classes": "cat"}, "gradcam", "classes as str"),
        ({"preprocess": torch.nn.Identity()}, "gradcam", r"preprocess as Identity; allowed: eigencam\.networks"),
    ],
)
def test_arguments_of_another_form(settings: dict[str, Any], methods: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Explainer(net(), "0", **{"preprocess": SMALL, **settings})(IMAGE, methods)


def test_what_is_no_map_and_no_threshold() -> None:
    explain = Explainer(net(), "0", preprocess=SMALL)
    wrong: list[tuple[Any, str]] = [
        (torch.ones(1, 2, 2) * 1j, r"\(1, 2, 2\) of complex numbers"),
        (np.ones((1, 2, 2)), "ndarray"),
    ]
    for made, form in wrong:
        with pytest.raises(ValueError, match=rf"method mine returned {form}; needed: a tensor \(1, h, w\)"):
            explain(IMAGE, {"mine": lambda _forward, _targets, made=made: made})
    with pytest.raises(ValueError, match="threshold='half'; allowed: 0 to 1"):
        explain(IMAGE, "gradcam")["gradcam"].box("half")  # type: ignore[arg-type]


def test_a_loaded_network_has_its_own_layer() -> None:
    loaded = Explainer(net(), "0", preprocess=SMALL).network
    with pytest.raises(ValueError, match="a Network has its own"):
        Explainer(loaded, "2")
    with pytest.raises(ValueError, match="a map for class -1 was requested"):
        Explainer(loaded)(IMAGE, "gradcam", target=[2, -1])


def test_a_callable_alone_is_a_method() -> None:
    def norm(forward: Any, _targets: object) -> torch.Tensor:
        return forward.activations().square().sum(1)

    assert list(Explainer(net(), "0", preprocess=SMALL)(IMAGE, norm)) == ["norm"]


def test_a_method_sees_the_image_as_it_came() -> None:
    def norm(forward: Any, _targets: object) -> torch.Tensor:
        seen.append(forward.original(0))
        assert forward.pixels.shape == (1, 3, 16, 16)
        return forward.activations().square().sum(1)

    seen: list[np.ndarray] = []
    Explainer(net(), "0", preprocess=SMALL)(IMAGE, norm)
    np.testing.assert_array_equal(seen[0], IMAGE)


def test_an_unknown_layer_names_near_ones() -> None:
    with pytest.raises(ValueError, match="no layer 'conv'"):
        Explainer(net(), "conv")


def test_the_package_has_the_explainer_and_nothing_else_by_itself() -> None:
    assert eigencam.Explainer is Explainer
    with pytest.raises(AttributeError, match="nothing"):
        eigencam.nothing  # noqa: B018
