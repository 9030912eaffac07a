"""Average precision of detections by hand, and the two passes of VDNet on generated scenes."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from safetensors.torch import load_file
from torch import Tensor, nn

from eigencam.datasets.base import Truth
from eigencam.datasets.scenes import Scenes
from eigencam.evaluation.detection import detected, mean_average_precision
from eigencam.fitting import sgd
from eigencam.fitting.detector import DetectorFit, _target
from eigencam.fitting.job import fit, prepare
from eigencam.networks.detectors import scenes_detector
from eigencam.networks.network import load_network
from eigencam.targets import View

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

import ventral_dorsal

BOXES = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [0, 20, 9, 29]], float)


def truth(labels: list[int], difficult: list[bool] | None = None) -> Truth:
    flags = np.array(difficult or [False] * len(labels))
    return Truth("a", (40, 40), labels[0], BOXES[: len(labels)], np.array(labels), flags)


def test_each_object_is_found_once_and_by_its_class() -> None:
    boxes = BOXES[[0, 0, 1, 2, 2]] + [[0, 0, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [7, 0, 7, 0]]
    scores = np.array([0.5, 0.9, 0.8, 0.7, 0.6])
    found = detected(boxes, scores, np.array([0, 0, 0, 1, 1]), truth([0, 1, 1]))
    assert found.scores.tolist() == sorted(scores, reverse=True)
    # shifted by one: hit; another class: false; hit; too far away: false; already detected: false
    assert found.states.tolist() == [1, 0, 1, 0, 0]
    difficult = detected(boxes, scores, np.array([0, 0, 0, 1, 1]), truth([0, 1, 1], [True, False, False]))
    assert difficult.states.tolist() == [-1, 0, 1, 0, -1]
    assert difficult.objects.tolist() == [1, 1]


def test_average_precision_by_hand() -> None:
    """Precision 1, 1/2, 2/3 at recall 1/3, 1/3, 2/3; the third object is never detected."""
    one = detected(BOXES[[0, 0, 1]], np.array([0.9, 0.8, 0.7]), np.array([0, 0, 0]), truth([0, 0, 0]))
    value, by_class = mean_average_precision([one], 3)
    assert by_class == {0: pytest.approx(1 / 3 + 2 / 9)}
    assert value == by_class[0]
    nothing = detected(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), truth([1, 2]))
    value, by_class = mean_average_precision([one, nothing], 3)
    assert by_class == {0: pytest.approx(5 / 9), 1: 0.0, 2: 0.0}
    assert value == pytest.approx(5 / 27)
    assert np.isnan(mean_average_precision([detected(BOXES, np.ones(3), np.zeros(3, int), truth([0], [True]))], 3)[0])


def test_below_the_threshold_an_image_is_black() -> None:
    image = np.full((4, 6, 3), 200, np.uint8)
    values = np.tile(np.arange(6, dtype=np.float32), (4, 1))  # mean 2.5
    assert (ventral_dorsal.masked(image, values, 0) == image).all()
    assert ventral_dorsal.masked(image, values, 1)[0, :, 0].tolist() == [0, 0, 0, 200, 200, 200]
    assert ventral_dorsal.masked(image, values, 0.8)[0, :, 0].tolist() == [0, 0, 200, 200, 200, 200]


class Found(nn.Module):
    """A detector that returns the box around all non-black pixels, with label 2."""

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        (image,) = images
        rows, columns = image.sum(0).nonzero().T
        box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        scores, labels = torch.tensor([0.2, 0.9]), torch.tensor([1, 2])
        return [{"boxes": torch.stack([torch.stack(box).float()] * 2), "scores": scores, "labels": labels}]


def test_a_detector_sees_what_is_left_and_its_labels_become_classes(tmp_path: Path) -> None:
    image = np.zeros((10, 12, 3), np.uint8)
    image[2:5, 3:9] = 7
    boxes, scores, classes = ventral_dorsal.detections(Found(), image, [-1, 5, 3])
    assert boxes.tolist() == [[3, 2, 8, 4]] * 2
    assert (scores.tolist(), classes.tolist()) == ([pytest.approx(0.9), pytest.approx(0.2)], [3, 5])
    (tmp_path / "labels.txt").write_text("boat\ncat\n")
    labels = ventral_dorsal.classes_of(tmp_path / "labels.txt", ("bird", "cat"))
    assert labels == [-1, -1, 1]
    assert ventral_dorsal.detections(Found(), image, labels)[2].tolist() == [1]
    assert ventral_dorsal.region_proposals(Found(), image).shape == (0, 4)


@pytest.mark.full
def test_the_two_passes_on_scenes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["x", "--images", "2", "--thresholds", "0,1", "--out", str(tmp_path / "t.csv")]
    monkeypatch.setattr(
        sys, "argv", [*words, "dataset=scenes", "dataset.count=2", "device=cpu", f"paths.results={tmp_path}"]
    )
    ventral_dorsal.main()
    text = (tmp_path / "t.csv").read_text().splitlines()
    header, whole, part = (dict(zip(text[2].split(","), row.split(","), strict=True)) for row in text[2:])
    assert header == dict.fromkeys(ventral_dorsal.COLUMNS, "") | {name: name for name in ventral_dorsal.COLUMNS}
    assert (whole["threshold"], whole["pixels_left"], whole["images"]) == ("0", "100.0", "2")
    assert 20 < float(part["pixels_left"]) < 80
    assert 0 <= float(whole["proposals_recall50_100"]) <= 100
    assert "recall50_100" in capsys.readouterr().out


# The training


def config(results: Path, *overrides: str) -> DictConfig:
    words = [
        "fit=detector",
        "model=scenes_detector",
        "dataset.count=4",
        "fit.epochs=2",
        "fit.batch_size=2",
        "workers=0",
    ]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        return compose("fit", [*words, "device=cpu", f"paths.results={results}", *overrides])


@pytest.mark.full
def test_a_training_that_was_stopped_ends_in_the_same_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fit(config(tmp_path / "one"), say=lambda _line: None)
    monkeypatch.setattr(sgd, "SAVE_S", -1.0)  # a checkpoint after each step
    real, steps = sgd._step, [0]

    def stopping(*args: Any) -> Any:
        if steps[0] == 3:
            raise KeyboardInterrupt
        steps[0] += 1
        return real(*args)

    monkeypatch.setattr(sgd, "_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        fit(config(tmp_path / "two"), say=lambda _line: None)
    monkeypatch.setattr(sgd, "_step", real)
    other = fit(config(tmp_path / "two"), say=lambda _line: None)
    first, second = load_file(path), load_file(other)
    assert first.keys() == second.keys() == scenes_detector().state_dict().keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    before = scenes_detector().state_dict()
    assert torch.equal(first["backbone.layers.1.running_mean"], before["backbone.layers.1.running_mean"])
    assert not torch.equal(first["rpn.head.cls_logits.weight"], before["rpn.head.cls_logits.weight"])
    ventral_dorsal.build(ventral_dorsal.SCENES, {}, path)  # its weights fit


def test_boxes_go_to_the_input_and_difficult_ones_are_left_out() -> None:
    data = truth([0, 4, 2], [False, True, False])
    made = _target(data, View((80, 20), (0, 0, 40, 40)), torch.device("cpu"))
    assert made["boxes"].tolist() == [[0, 0, 5, 20], [0, 40, 5, 60]]
    assert made["labels"].tolist() == [1, 3]


def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"scenes_resnet gives no losses of a detector \(.*torchvision.models.detection"
    ):
        prepare(config(tmp_path, "model=scenes_resnet"))
    with pytest.raises(ValueError, match=r"fit\.epochs=0; allowed: 1 or more"):
        DetectorFit("", epochs=0)
    other = replace(load_network(compose_model()), classes="other", name="toy")
    assert list(DetectorFit("").faults(other, Scenes(2))) == [
        "fit: the classes of scenes are scenes, those of toy other"
    ]


def compose_model() -> Any:
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        return compose("fit", ["model=scenes_detector"]).model
