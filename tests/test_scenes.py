import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from safetensors import safe_open
from torch import nn

from eigencam.datasets import scenes as module
from eigencam.datasets.base import Dataset, Truth
from eigencam.datasets.scenes import Scenes
from eigencam.networks import scenes as nets
from eigencam.networks.network import load_network
from eigencam.networks.weights import weight_file

N = 300


@pytest.fixture(scope="module")
def scenes() -> Scenes:
    return Scenes(N)


@pytest.fixture(scope="module")
def truths(scenes: Scenes) -> list[Truth]:
    return [scenes.truth(i) for i in range(N)]


def area(box: np.ndarray) -> float:
    return float(max(box[2] - box[0] + 1, 0) * max(box[3] - box[1] + 1, 0))


def iou(a: np.ndarray, b: np.ndarray) -> float:
    inter = area(np.concatenate([np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])]))
    return inter / (area(a) + area(b) - inter)


def hull(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [int(columns[0]), int(rows[0]), int(columns[-1]), int(rows[-1])]


def test_contract(scenes: Scenes) -> None:
    assert isinstance(scenes, Dataset)
    assert scenes.ids[123] == "scenes-test-000123"
    assert len(scenes.ids) == len(set(scenes.ids)) == len(scenes) == N
    assert len(scenes.classes) == nets.NUM_CLASSES >= 10
    image, truth = scenes.image(3), scenes.truth(3)
    assert image.dtype == np.uint8
    assert image.shape == (*truth.size, 3)
    assert image.flags.writeable
    assert image.flags.c_contiguous
    assert truth.image_id == scenes.ids[3]
    assert truth.foreground == "label"
    assert (truth.sought() == (truth.box_labels == truth.label)).all()


def test_a_scene_depends_on_seed_split_and_index_alone() -> None:
    first = Scenes(10, seed=4).image(7)
    module.made_scene.cache_clear()
    many = Scenes(20, seed=4)
    for i in (9, 0, 8):
        many.image(i)
    assert (many.image(7) == first).all()
    for other in (Scenes(10, seed=5), Scenes(10, seed=4, split="train")):
        again = other.image(7)
        assert again.shape != first.shape or (again != first).any()


def test_what_is_returned_is_the_callers_own(scenes: Scenes) -> None:
    scenes.image(0)[:] = 0
    truth = scenes.truth(0)
    assert truth.mask is not None
    for array in (truth.mask, truth.boxes):
        with pytest.raises(ValueError, match="read-only"):
            array[:] = 0
    assert scenes.image(0).any()
    assert scenes.truth(0).boxes.any()
    mask = scenes.truth(0).mask
    assert mask is not None
    assert mask.any()


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="train, test"):
        Scenes(split="val")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="count=0"):
        Scenes(0)
    with pytest.raises(IndexError, match="scene 5 of 5"):
        Scenes(5).image(5)


def test_masks_and_boxes_agree_exactly(truths: list[Truth]) -> None:
    for truth in truths:
        assert truth.mask is not None
        assert truth.mask.shape == truth.size
        assert set(np.unique(truth.mask)) == {0, *(truth.box_labels + 1)}
        for label in np.unique(truth.box_labels):
            boxes = truth.boxes[truth.box_labels == label]
            expected = [*boxes[:, :2].min(0), *boxes[:, 2:].max(0)]
            assert hull(truth.mask == label + 1) == expected


def test_the_label_is_the_class_of_the_largest_object(truths: list[Truth]) -> None:
    for truth in truths:
        assert truth.mask is not None
        pixels = np.bincount(truth.mask.ravel(), minlength=nets.NUM_CLASSES + 1)[1:]
        objects = np.bincount(truth.box_labels, minlength=nets.NUM_CLASSES)
        mean_area = pixels / np.maximum(objects, 1)
        if objects[truth.label] == 1:
            assert (np.delete(mean_area, truth.label) * 1.5 <= mean_area[truth.label]).all()
        else:  # the larger of two has at least the mean
            assert objects[truth.label] == 2
            assert (np.delete(mean_area, truth.label) * 1.5 <= pixels[truth.label]).all()


def test_scenes_vary_as_promised(truths: list[Truth]) -> None:
    share = np.array([area(t.boxes[0]) / (t.size[0] * t.size[1]) for t in truths])
    assert 0.04 <= share.min() < 0.06
    assert 0.5 < share.max() <= 0.63
    assert {t.label for t in truths} == set(range(nets.NUM_CLASSES))
    assert len({t.size for t in truths}) >= 6
    assert 0.05 < np.mean([t.sought().sum() > 1 for t in truths]) < 0.3
    assert np.mean([not t.sought().all() for t in truths]) > 0.5
    at_border = [min(t.boxes[0, :2]) == 0 or t.boxes[0, 2] == t.size[1] - 1 for t in truths]
    assert 0.05 < np.mean(at_border) < 0.6


def test_whole_image_and_centre_box_seldom_hit(truths: list[Truth]) -> None:
    def hits(side: float) -> float:
        count = 0
        for truth in truths:
            size = np.array(truth.size[::-1])
            box = np.concatenate([size * (1 - side) / 2, size * (1 + side) / 2 - 1])
            count += any(iou(box, true) >= 0.5 for true in truth.boxes[truth.sought()])
        return count / len(truths)

    assert hits(1.0) < 0.1
    assert hits(0.5**0.5) < 0.25


def test_the_generator_has_not_changed() -> None:
    """A change here needs a new `VERSION`, and the networks trained again."""
    scenes = Scenes(8)
    assert scenes.identity() == {
        "name": "scenes",
        "version": 1,
        "split": "test",
        "seed": 0,
        "n": 8,
        "checksum": "0aaf8d23d949df40",
    }
    means = [scenes.image(i).mean() for i in range(4)]
    assert means == pytest.approx([125.2, 136.4, 90.2, 149.9], abs=0.5)


@pytest.mark.full
@pytest.mark.parametrize("name", ["scenes_vgg", "scenes_resnet"])
def test_networks_know_held_out_scenes(scenes: Scenes, truths: list[Truth], name: str) -> None:
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        network = load_network(compose("run", [f"model={name}"]).model)
    assert network.preprocess == nets.PREPROCESS
    batch = torch.from_numpy(np.stack([network.preprocess(scenes.image(i))[0] for i in range(100)]))
    forward = network.forward(batch)
    labels = torch.tensor([t.label for t in truths[:100]])
    assert (forward.logits.argmax(1) == labels).float().mean().item() >= 0.9
    assert forward.activations().shape[-2:] == (14, 14)


@pytest.mark.parametrize("name", ["scenes_vgg", "scenes_resnet"])
def test_weight_files_are_small_and_say_what_they_are(name: str) -> None:
    file = weight_file(f"eigencam:{name}.safetensors")
    assert file.stat().st_size <= 2_000_000
    with safe_open(file, "pt") as opened:  # pyright: ignore[reportNoOverloadImplementation]
        metadata = opened.metadata()
    assert float(metadata["top1_percent"]) >= 95
    assert int(metadata["n"]) >= 2000
    assert metadata["scenes_version"] == str(module.VERSION)
    assert metadata["command"].startswith(f"python scripts/train_scenes.py {name}")


def test_kinds_of_network() -> None:
    vgg, resnet = nets.ScenesVGG(), nets.ScenesResNet()
    assert not any(isinstance(m, nn.BatchNorm2d) for m in vgg.modules())
    assert all(m.inplace for m in vgg.modules() if isinstance(m, nn.ReLU))
    assert sum(isinstance(m, nn.Linear) for m in vgg.classifier) >= 2
    assert any(isinstance(m, nn.BatchNorm2d) for m in resnet.modules())
    assert isinstance(resnet.fc, nn.Linear)
