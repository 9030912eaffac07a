"""Trained methods: losses and regressions compared with closed forms; the command, its checkpoints and its faults."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from toys import make, network, random_activations

import eigencam.fitting.sgd
from eigencam.datasets.base import BadImageError, Truth
from eigencam.datasets.scenes import Scenes
from eigencam.fitting.broadcam import BroadCAMFit
from eigencam.fitting.job import fit, prepare
from eigencam.fitting.lcam import LCAMFit
from eigencam.fitting.training_images import augmented, multi_hot, widened
from eigencam.methods.broadcam import BroadCAM, broad_weights, enhancement, ridge
from eigencam.methods.lcam import LCAM, Loss, attention_logits, masked_image, variation
from eigencam.networks import fitted
from eigencam.networks.network import Preprocess
from eigencam.passes.forward import forward_pass
from eigencam.running.prepare import prepare as prepare_run

SMALL = ["dataset.count=12", "fit.batch_size=5", "workers=0", "device=cpu"]


def config(results: Path, *overrides: str) -> DictConfig:
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        return compose("fit", [*SMALL, f"paths.results={results}", *overrides])


def run_config(results: Path, *overrides: str) -> DictConfig:
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        fixed = ["dataset.count=4", "workers=0", "device=cpu", "evaluator=[localization]"]
        return compose("run", [*fixed, f"paths.results={results}", *overrides])


def quiet(_line: str) -> None:
    pass


def stored(path: Path, kind: str, layers: list[str], **tensors: Tensor) -> str:
    fitted.write(path, tensors, {"kind": kind, "layers": layers, "network": {"name": "toy", "sha256": "ab"}})
    return str(path)


# The methods


def test_lcam_is_the_linear_map_of_the_class_before_the_sigmoid(tmp_path: Path) -> None:
    forward = make(network("gap"))
    weight, bias, targets = random_activations(4, 6), random_activations(4, seed=1), torch.tensor([3, 0, 1, 1, 2])
    method = LCAM(stored(tmp_path / "a.safetensors", "lcam_fm", ["conv"], weight=weight, bias=bias))
    every = F.conv2d(forward.activations(), weight[:, :, None, None], bias)
    maps = method(forward, targets)
    torch.testing.assert_close(maps, every[torch.arange(5), targets])
    assert maps.min() < 0 < maps.max()


def test_broadcam_sums_weighted_rectified_layers_at_the_largest_size(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Conv2d(4, 2, 2, 2), torch.nn.Flatten(1))
    net.append(torch.nn.Linear(2 * 9, 3))
    forward = forward_pass(net, random_activations(2, 3, 6, 6), "1", layers=["0"])
    weight, targets = random_activations(3, 6), torch.tensor([2, 0])
    method = BroadCAM(stored(tmp_path / "b.safetensors", "broadcam", ["0", "1"], weight=weight), layers=["0", "1"])
    large = F.interpolate(forward.activations("1").relu(), (6, 6), mode="bilinear")
    every = F.conv2d(torch.cat([forward.activations("0").relu(), large], 1), weight[:, :, None, None]).relu()
    torch.testing.assert_close(method(forward, targets), every[torch.arange(2), targets])


def test_files_that_do_not_fit_say_why(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    stored(path, "lcam_img", ["layer3"], weight=torch.ones(2, 2), bias=torch.ones(2))
    with pytest.raises(ValueError, match="holds lcam_img; allowed: broadcam"):
        BroadCAM(str(path))
    job = prepare(config(tmp_path))
    assert "was fitted for toy with the weights ab" in LCAM(str(path)).unsupported(job.network)
    assert "made by: eigencam fit model=scenes_resnet" in LCAM([]).unsupported(job.network)
    packaged = LCAM("eigencam:lcam_fm-scenes_resnet.safetensors")
    assert packaged.unsupported(job.network) == ""
    other = LCAM("eigencam:lcam_fm-scenes_resnet.safetensors", layer="layer2")
    assert "was fitted for layer3 of scenes_resnet, not for layer2" in other.unsupported(job.network)
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match="no file of fitted weights"):
        LCAM(str(path))


def test_a_results_key_changes_with_the_files_content_and_not_with_its_name(tmp_path: Path) -> None:
    def folders(*overrides: str) -> set[str]:
        job = prepare_run(run_config(tmp_path, "method=[lcam_fm]", *overrides))
        return {result.folder.name for result in job.results.values()}

    packaged = folders()
    own = tmp_path / "own.safetensors"
    own.write_bytes(
        (Path(eigencam.networks.__file__).parent / "weights/lcam_fm-scenes_resnet.safetensors").read_bytes()
    )
    assert folders(f"method.lcam_fm.file={own}") == packaged
    read = fitted.read(own)
    fitted.write(own, {**read.tensors, "bias": read.tensors["bias"] + 1}, read.about)
    assert folders(f"method.lcam_fm.file={own}") != packaged


# L-CAM's parts


def test_the_loss_is_the_sum_that_can_be_done_by_hand() -> None:
    masks = torch.full((2, 1, 3, 3), 0.5)
    terms = Loss()(torch.zeros(2, 4), torch.tensor([0, 3]), masks)
    assert math.isclose(terms["ce"], 1.5 * math.log(4), rel_tol=1e-6)
    assert math.isclose(terms["area"], 2 * 0.5005**0.3, rel_tol=1e-6)
    assert math.isclose(terms["variation"], 0.01 * 0.3 * 12 * 0.25 / 2, rel_tol=1e-6)  # 2 images of 12 / (2 B)
    step = torch.tensor([[0.0, 1.0]]).expand(1, 1, 2, 2)  # two differences of 1, and borders of 2 + 1 + 1
    assert math.isclose(variation(step, 0.3), (2 + 0.3 * 4) / 2, rel_tol=1e-6)


def test_a_masked_image_is_the_mask_times_the_image_before_its_normalisation() -> None:
    preprocess = Preprocess(size=6, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), bgr=True)
    images = (random_activations(2, 3, 6, 6).sigmoid() * 255).to(torch.uint8)
    masks = random_activations(2, 3, 3, seed=1).sigmoid()
    black = preprocess.normalize(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))[0]
    large = F.interpolate(masks[:, None], (6, 6), mode="bilinear")
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (preprocess.mean, preprocess.std))
    expected = ((large * images / 255 - mean) / std).flip(1)
    torch.testing.assert_close(masked_image(preprocess.normalize(images), masks, black), expected)


def test_crops_are_a_function_of_seed_and_position_alone() -> None:
    images = torch.arange(4 * 3 * 8 * 8).view(4, 3, 8, 8)
    index = torch.tensor([7, 3, 900, 0])
    whole = augmented(images, index, (7, 7), seed=5)
    assert whole.shape == (4, 3, 7, 7)
    for i in range(4):
        assert torch.equal(augmented(images[i : i + 1], index[i : i + 1], (7, 7), seed=5)[0], whole[i])
        crops = [images[i, :, y : y + 7, x : x + 7] for y in (0, 1) for x in (0, 1)]
        assert any(torch.equal(whole[i], c) for crop in crops for c in (crop, crop.flip(2)))
    assert not torch.equal(augmented(images, index, (7, 7), seed=6), whole)
    mirrored = augmented(torch.arange(8.0).expand(400, 3, 8, 8), torch.arange(400), (7, 7), seed=0)[:, 0, 0].diff() < 0
    assert 150 < mirrored.all(1).sum() < 250
    assert widened(Preprocess()).size == 256
    assert widened(Preprocess(resize="crop")).size == 256


@pytest.mark.parametrize("masked", ["features", "image"])
def test_a_step_descends_the_gradient_of_the_formula(tmp_path: Path, masked: str) -> None:
    kind = "lcam_fm" if masked == "features" else "lcam_img"
    job = prepare(config(tmp_path, f"fit={kind}", "dataset.count=3", "fit.batch_size=3", "fit.epochs=1",
                         "fit.augment=false", "fit.lr=0.5", "fit.weight_decay=0.01"))  # fmt: skip
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(
        128, 12, 1
    ).double()  # the initial weights; everything in float64, by autograd through a convolution
    module: Any = job.network.module
    images = torch.stack([torch.from_numpy(job.network.preprocess(job.dataset.image(i))[0]) for i in range(3)])
    x = images.double() / 255
    module.double().requires_grad_(False)

    def front(image: Tensor) -> Tensor:
        y = module.relu(module.bn1(module.conv1((image - 0.5) / 0.25)))
        return module.layer3(module.layer2(module.layer1(y)))

    features = front(x)
    labels = module.fc(features.mean((2, 3))).argmax(1)
    a = conv(features).sigmoid()[torch.arange(3), labels][:, None]
    large = F.interpolate(a, (112, 112), mode="bilinear")
    again = a * features if masked == "features" else front(large * x)
    loss = 1.5 * F.cross_entropy(module.fc(again.mean((2, 3))), labels) + 2 * ((a + 0.0005) ** 0.3).mean()
    squares = (a[:, :, 1:] - a[:, :, :-1]).square().sum() + (a[..., 1:] - a[..., :-1]).square().sum()
    border = sum(a[..., i, :].square().sum() + a[..., i].square().sum() for i in (0, -1))
    (loss + 0.01 * (squares + 0.3 * border) / 6).backward()
    module.float()
    tensors, log = job.fitter.fit(job)
    assert job.listed == job.dataset.ids
    for name, p, lr in (("weight", conv.weight, 0.5), ("bias", conv.bias, 1.0)):
        assert p is not None
        assert p.grad is not None
        first = p.detach() - lr * 1.9 * (p.grad + 0.01 * p.detach())  # Nesterov's first step is g + momentum g
        torch.testing.assert_close(tensors[name].detach().double(), first.view_as(tensors[name]), rtol=1e-3, atol=1e-5)
    assert math.isclose(log[0]["loss"], (loss + 0.01 * (squares + 0.3 * border) / 6).item(), rel_tol=1e-4)


def test_the_rate_falls_as_told() -> None:
    vgg, resnet = LCAMFit("f", lr=1e-2, decay=0.75), LCAMFit("f", lr=1e-4, decay=0.95, decay_until=12)
    assert [round(vgg.rate(e), 6) for e in (0, 1, 2)] == [0.01, 0.0075, 0.005625]
    assert resnet.rate(12) == resnet.rate(25) == 1e-4 * 0.95**12


# BroadCAM's parts


def data(n: int = 60, d: int = 14, classes: int = 3) -> tuple[Tensor, Tensor]:
    features = random_activations(n, d).abs() * torch.linspace(0.1, 5, d) + 2
    return features.double(), (random_activations(n, classes, seed=1) > 0.5).double()


def normalising_ridge(x: Any, y: Any, alpha: float) -> Any:
    """What scikit-learn's `Ridge(normalize=True)` was."""
    norm = np.linalg.norm(x - x.mean(0), axis=0)
    return Ridge(alpha=alpha, solver="cholesky").fit((x - x.mean(0)) / norm, y).coef_ / norm


def test_ridge_agrees_with_scikit_learn() -> None:
    x, y = data()
    np.testing.assert_allclose(ridge(x, y, 50.0).T, normalising_ridge(x.numpy(), y.numpy(), 50.0), rtol=1e-9)
    constant = torch.cat([x, torch.ones(len(x), 1)], 1)
    assert ridge(constant, y, 50.0)[-1].abs().max() == 0


def test_enhancement_nodes_are_groups_of_the_largest_weights() -> None:
    weights = torch.tensor([[3.0, 0.1], [1.0, 0.4], [4.0, 0.2], [2.0, 0.3], [-1.0, -9.0]])
    nodes = enhancement(weights, 2)
    expected = torch.zeros(5, 4)
    expected[[2, 0], 0] = torch.tensor([2.0, 1.5])
    expected[[3, 1], 1] = torch.tensor([1.0, 0.5])
    expected[[1, 3], 2] = torch.tensor([0.2, 0.15])
    expected[[2, 0], 3] = torch.tensor([0.1, 0.05])
    torch.testing.assert_close(nodes, expected)
    assert enhancement(weights, 5).shape == (5, 0)


@pytest.mark.parametrize("step", [2, 256])
def test_the_collapsed_matrix_predicts_what_both_regressions_do(step: int) -> None:
    features, labels = data()
    x, y = features.numpy(), labels.numpy()
    scaler: Any = StandardScaler().fit(x)
    z: Any = scaler.transform(x)
    first = normalising_ridge(z, y, 5.0).T / scaler.scale_[:, None]
    columns = []
    for k in range(3):
        order = np.argsort(-first[:, k])
        for j in range((first > 0).sum(0).min() // step):
            group = order[j * step : (j + 1) * step]
            columns.append((z[:, group] * first[group, k]).mean(1))
    assert bool(columns) == (step == 2)
    h = [(c - c.min()) / c.max() for c in columns]
    both: Any = np.column_stack([z, *h])
    predicted = both @ normalising_ridge(both, y, 5.0).T
    collapsed = x @ broad_weights(features, labels, 5.0, step).T.numpy()
    np.testing.assert_allclose(collapsed - collapsed.mean(0), predicted - predicted.mean(0), atol=1e-6)


def test_labels_and_shares() -> None:
    truth = Truth("x", (4, 4), 1, np.zeros((3, 4)), np.array([2, 2, 0]))
    assert multi_hot(truth, 4).tolist() == [0, 1, 0, 0]
    assert multi_hot(Truth("x", (4, 4), 1, np.zeros((3, 4)), np.array([2, 2, 0]), foreground="any"), 4).tolist() == [
        1, 0, 1, 0,
    ]  # fmt: skip
    some, more = (set(BroadCAMFit("f", share=share).chosen(Scenes(100))) for share in (0.1, 0.5))
    assert (len(some), len(more)) == (10, 50)
    assert some < more


# The command


@pytest.mark.parametrize("kind", ["lcam_fm", "lcam_img", "broadcam"])
def test_weights_are_made_once_and_found_by_the_networks_name(tmp_path: Path, kind: str) -> None:
    few = ["fit.epochs=1"] if kind != "broadcam" else ["fit.layers=[layer2,layer3]"]
    lines: list[str] = []
    path = fit(config(tmp_path, f"fit={kind}", *few), say=lines.append)
    assert path == tmp_path / "fitted" / f"{kind}-scenes_resnet.safetensors"
    assert "nothing to do" not in lines[-1]
    before = path.read_bytes()
    fit(config(tmp_path, f"fit={kind}", *few), say=lines.append)
    assert "nothing to do" in lines[-1]
    assert path.read_bytes() == before
    assert not list(path.parent.glob("*.checkpoint"))
    assert path.with_suffix(".txt").is_file() == (kind != "broadcam")
    layers = ["method.broadcam.layers=[layer2,layer3]"] if kind == "broadcam" else []
    job = prepare_run(run_config(tmp_path, f"method=[{kind}]", *layers))
    assert job.methods[kind].weights.path == path  # type: ignore[attr-defined]
    if layers:
        with pytest.raises(ValueError, match="was fitted for layer2, layer3 of scenes_resnet, not for layer3"):
            prepare_run(run_config(tmp_path, f"method=[{kind}]"))


@pytest.mark.full
def test_a_stopped_training_goes_on_to_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = fitted.read(fit(config(tmp_path / "whole", "fit.epochs=2", "fit.lr=0.1"), say=quiet))
    steps, original = 0, LCAMFit.terms

    def stopped(*args: Any) -> dict[str, Tensor]:
        nonlocal steps
        steps += 1
        if steps == 5:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(LCAMFit, "terms", stopped)
    monkeypatch.setattr(
        eigencam.fitting.sgd, "SAVE_S", 0.0
    )  # a checkpoint after every step; the 5th is in the 2nd epoch
    with pytest.raises(KeyboardInterrupt):
        fit(config(tmp_path, "fit.epochs=2", "fit.lr=0.1"), say=quiet)
    assert len(list((tmp_path / "fitted").glob("*.checkpoint"))) == 1
    lines: list[str] = []
    again = fitted.read(fit(config(tmp_path, "fit.epochs=2", "fit.lr=0.1"), say=lines.append))
    assert "epoch 2, step 2 of 3" in lines[0]
    assert steps == 7
    for name, tensor in whole.tensors.items():
        assert torch.equal(again.tensors[name], tensor)
    assert again.about == whole.about


@pytest.mark.full
def test_the_network_and_the_global_generator_are_left_as_they_were(tmp_path: Path) -> None:
    job = prepare(config(tmp_path, "fit=lcam_img", "fit.epochs=1", "dataset.count=4"))
    before = {name: tensor.clone() for name, tensor in job.network.module.state_dict().items()}
    state = torch.get_rng_state()
    job.fitter.fit(job)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, before[name]) for name, tensor in job.network.module.state_dict().items())
    assert all(p.grad is None for p in job.network.module.parameters())


@pytest.mark.full
def test_images_that_cannot_be_decoded_are_left_out_and_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Scenes.image

    def image(self: Scenes, i: int) -> Any:
        if i == 3:
            raise BadImageError("three.jpg", "truncated")
        return original(self, i)

    monkeypatch.setattr(Scenes, "image", image)
    lines: list[str] = []
    about = fitted.read(fit(config(tmp_path, "fit=broadcam"), say=lines.append)).about
    assert any("three.jpg: truncated" in line for line in lines)
    assert about["bad_images"] == 1
    assert about["log"][0]["pictures"] == 11


def test_all_faults_are_told_at_once_and_test_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for evaluation") as error:
        prepare(config(tmp_path, "dataset=scenes", "fit.lr=-1", "workers=-1", "model._target_=null"))
    for part in ("dataset.split=test", "fit.lr=-1", "workers=-1", "model._target_: missing"):
        assert part in str(error.value)
    for wrong, message in (
        (["fit.layer=layer9"], "no layer 'layer9'"),
        (["model.classes=null"], "no classifier"),
        (["fit=broadcam", "model.classes=imagenet"], "are not those of"),
        (["fit.masked=both"], "allowed: features, image"),
        (["+fit.loss.colour=1"], "fit.loss.colour: unknown"),
        (["fit=broadcam", "fit.share=0"], "fit.share=0"),
        (["fit.layer=layer2.0.conv1"], "cannot be cut"),
        (["+colour=red"], "unknown key"),
    ):
        with pytest.raises(ValueError, match=message):
            prepare(config(tmp_path, *wrong))


@pytest.mark.full
def test_the_command_refuses_in_one_piece(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eigencam", "fit", f"paths.results={tmp_path}", "fit=nothing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    kinds = ["broadcam", "cam_loss", "classifier", "cross_entropy", "detector", "flim", "lcam_fm", "lcam_img"]
    assert f"fit is one of: {', '.join([*kinds, 'pseudo_boxes', 'support', 'wsol'])}" in done.stderr


def test_the_quirk_takes_the_maps_of_all_labels(tmp_path: Path) -> None:
    job = prepare(config(tmp_path, "fit.quirk=true", "dataset.count=3"))
    assert isinstance(job.fitter, LCAMFit)
    state = job.fitter.first(job)
    weight, bias = state.tensors["weight"], state.tensors["bias"]
    (batch,) = job.batches([range(3)], job.network.preprocess)
    forward = job.network.forward(batch.images)
    labels = torch.tensor([4, 1, 9])
    terms = job.fitter._terms(job, forward, state, labels)
    every = F.conv2d(forward.activations(), weight[:, :, None, None], bias).sigmoid()[:, labels]
    assert every.shape[:2] == (3, 3)
    torch.testing.assert_close(terms["area"], 2 * ((every + 0.0005) ** 0.3).mean())
    torch.testing.assert_close(terms["variation"], 0.01 * variation(every, 0.3))
    own = attention_logits(forward.activations(), weight, bias, labels).sigmoid()[:, None]
    torch.testing.assert_close(every[[0, 1, 2], [0, 1, 2]], own[:, 0])
    assert variation(every, 0.3) > 2 * variation(own, 0.3)
