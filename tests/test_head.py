"""Fitted classifiers: the layer they replace, the network a file fits, and evaluation on the images of the fit."""

import hashlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from torch import nn
from toys import network, random_activations

from eigencam.datasets.scenes import Scenes
from eigencam.evaluation.tables import render, tables
from eigencam.methods.cam import CAM, find_pooled_classifier
from eigencam.networks import fitted
from eigencam.networks.classifier import LastLayer, find_last_layer, put
from eigencam.networks.network import load_network
from eigencam.reporting.collect import collect
from eigencam.running.prepare import prepare
from eigencam.running.run import run

SCENES = {
    "name": "scenes_resnet",
    "_target_": "eigencam.networks.scenes.ScenesResNet",
    "args": {},
    "weights": "eigencam:scenes_resnet.safetensors",
    "layer": "layer3",
    "classes": "scenes",
    "preprocess": {"size": 112},
}


def stored(path: Path, whole: bool = False, ids: tuple[str, ...] = (), classes: int = 3, **about: Any) -> str:
    """A file as `eigencam fit fit=classifier` writes it, for `scenes_resnet`."""
    base = load_network(SCENES)
    weight, bias = random_activations(classes, 128), random_activations(classes, seed=1)
    tensors = {"fc.weight": weight, "fc.bias": bias}
    if whole:
        state = {name: x + 1 if x.is_floating_point() else x for name, x in base.module.state_dict().items()}
        tensors = {**state, **tensors}
    head = {"rectifier": None, "class_space": "things", "classes": list("abc"), "whole": whole}
    head |= {"fitted_on": list(ids), "held_out": []}
    told: dict[str, Any] = {"kind": "classifier", "network": base.identity, "layers": ["fc"], "head": head}
    fitted.write(path, tensors, told | {"dataset": {"name": "scenes"}} | about)
    return str(path)


# Where it goes


class LastIsNotLast(nn.Module):
    """Its logits come from `first`, though `second` is called later and defined last."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x.mean((2, 3)))
        self.second(y)
        return y


class InsideIsNotLast(nn.Module):
    """Linear layers on the channels of each position, and a convolution in groups, before the last layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.of_positions = nn.Conv2d(3, 3, 1), nn.Linear(3, 4)
        self.grouped, self.last = nn.Conv2d(4, 4, 1, groups=2), nn.Linear(4, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.of_positions(self.first(x).movedim(1, 3)).movedim(3, 1)
        return self.last(self.grouped(x).mean((2, 3)))


class OnPositions(nn.Module):
    """Its only layer works on the channels of each position."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.movedim(1, 3)).mean((1, 2))


class Twisted(nn.Module):
    """No linear function of any layer's input."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean((2, 3))).square()


def test_the_last_layer_is_found_by_numbers() -> None:
    assert find_last_layer(network("gap"), (6, 7)) == LastLayer("fc")
    assert find_last_layer(network("conv"), (6, 7)) == LastLayer("classifier.0", "classifier.1")
    torch.manual_seed(0)
    assert find_last_layer(LastIsNotLast(), (4, 4)) == LastLayer("first")
    assert find_last_layer(InsideIsNotLast(), (4, 5)) == LastLayer("last")
    with pytest.raises(ValueError, match="OnPositions are no linear function"):
        find_last_layer(OnPositions(), (4, 5))
    with pytest.raises(ValueError, match="Twisted are no linear function"):
        find_last_layer(Twisted(), (4, 4))


@pytest.mark.parametrize("kind", ["gap", "conv"])
def test_the_logits_are_linear_in_the_layers_pooled_input_once_a_head_is_in(kind: str) -> None:
    module, x = network(kind), random_activations(5, 3, 6, 7, seed=3)
    place = find_last_layer(module, (6, 7))
    weight, bias = random_activations(2, 6), random_activations(2, seed=1) - 5
    state = torch.get_rng_state()
    put(module, place, weight, bias)
    assert torch.equal(torch.get_rng_state(), state)
    expected = module.get_submodule("conv")(x).mean((2, 3)) @ weight.T + bias
    torch.testing.assert_close(module(x), expected)
    assert module(x).max() < 0  # SqueezeNet's ReLU would have made it 0
    assert find_last_layer(module, (6, 7)) == LastLayer(place.layer)
    with pytest.raises(ValueError, match=r"\(2, 5\) for .*, which has 6 inputs"):
        put(module, place, weight[:, :5], bias)


def test_cam_takes_the_unrectified_convolution_for_what_it_is() -> None:
    module = network("conv")
    assert find_pooled_classifier(module, "conv", (6, 7)).positive
    weight, bias = random_activations(3, 6), random_activations(3, seed=1)
    put(module, find_last_layer(module, (6, 7)), weight, bias)
    find_pooled_classifier.cache_clear()
    head = find_pooled_classifier(module, "conv", (6, 7))
    assert (head.rectified, head.positive) == (False, False)
    from eigencam.passes.forward import forward_pass

    forward = forward_pass(module, random_activations(5, 3, 6, 7, seed=3), "conv")
    targets = torch.tensor([2, 0, 1, 1, 0])
    maps = CAM()(forward, targets)
    torch.testing.assert_close(maps, torch.einsum("nc,nchw->nhw", weight[targets], forward.activations()))
    own = forward.logits.gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(maps.mean((1, 2)) + bias[targets], own)
    assert maps.min() < 0


# Files


def test_a_head_replaces_layer_and_classes_and_both_checksums_count(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.safetensors")
    base, loaded = load_network(SCENES), load_network(SCENES | {"head": path})
    assert (loaded.classes, loaded.identity["classes"]) == ("things", "things")
    file = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert loaded.sha256 == loaded.identity["sha256"] == hashlib.sha256(f"{base.sha256} {file}".encode()).hexdigest()
    images = torch.randint(0, 255, (2, 3, 112, 112), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before, after = base.forward(images), loaded.forward(images)
    torch.testing.assert_close(before.activations(), after.activations())
    expected = before.activations().mean((2, 3)) @ random_activations(3, 128).T + random_activations(3, seed=1)
    torch.testing.assert_close(after.logits, expected)
    assert "head" not in loaded.identity
    assert tmp_path.name not in str(loaded.identity)


def test_a_whole_network_needs_no_other_weights(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.safetensors", whole=True)
    loaded = load_network(SCENES | {"head": path, "weights": "/nowhere/w.safetensors"})
    assert loaded.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()
    base = load_network(SCENES).module.state_dict()
    torch.testing.assert_close(loaded.module.state_dict()["conv1.weight"], base["conv1.weight"] + 1)
    job = prepare(config(tmp_path, path, "model.weights=/nowhere/w.safetensors", "target=predicted"))
    assert job.network.sha256 == loaded.sha256


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path / "a.safetensors")
    with pytest.raises(
        ValueError, match=r"was fitted for scenes_resnet with the weights \w{10}; this is \w{10}; eigen"
    ):
        load_network(SCENES | {"head": path, "weights": None})
    vgg = {"name": "v", "_target_": "eigencam.networks.scenes.ScenesVGG", "layer": "features.18", "weights": None}
    with pytest.raises(ValueError, match=r"fitted for scenes_resnet \(.*ScenesResNet.*\); this is v \(.*ScenesVGG.*\)"):
        load_network(SCENES | vgg | {"head": path})


def test_what_is_no_head_is_a_fault_among_the_others(tmp_path: Path) -> None:
    nothing = tmp_path / "b.safetensors"
    nothing.write_bytes(b"nothing")
    other = "eigencam/networks/weights/lcam_fm-scenes_resnet.safetensors"
    for file, message in (
        (tmp_path / "no.safetensors", "model.head: .*no.safetensors: no such file; made by: eigencam fit"),
        (nothing, "no file of fitted weights"),
        (Path(__file__).parents[1] / other, "holds lcam_fm; allowed: classifier"),
    ):
        with pytest.raises(ValueError, match=message) as error:
            prepare(config(tmp_path, str(file), "model._target_=null"))
        assert "model._target_: missing" in str(error.value)


# Runs


def config(results: Path, head: str, *overrides: str) -> DictConfig:
    fixed = ["dataset.count=4", "workers=0", "device=cpu", "evaluator=[localization]", "method=[cam]"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        return compose("run", [*fixed, f"model.head={head}", f"paths.results={results}/runs", *overrides])


@pytest.mark.full
def test_a_run_says_on_how_many_of_its_images_the_head_was_fitted(tmp_path: Path) -> None:
    ids = (*Scenes(4, split="test").ids[:3], "elsewhere")
    lines: list[str] = []
    run(config(tmp_path, stored(tmp_path / "a.safetensors", ids=ids), "target=predicted"), say=lines.append)
    assert "4 images, on 3 of which the classifier was fitted" in lines[0]
    frame: pd.DataFrame = collect(tmp_path / "runs")
    assert set(frame["fitted_on"]) == {3}
    assert "the classifier was fitted on 3 of these images" in render(tables(frame)[0], "terminal")
    fresh = stored(tmp_path / "b.safetensors", ids=("elsewhere",))
    run(config(tmp_path / "b", fresh, "target=predicted"), say=lines.append)
    assert "classifier" not in lines[-1]
    assert "classifier" not in render(tables(collect(tmp_path / "b/runs"))[0], "terminal")


def test_ids_of_another_dataset_are_not_these_images(tmp_path: Path) -> None:
    ids = tuple(Scenes(4, split="test").ids)
    path = stored(tmp_path / "a.safetensors", ids=ids, dataset={"name": "others"})
    head = load_network(SCENES | {"head": path}).head
    assert head
    assert head.seen(Scenes(4, split="test")) == frozenset()
