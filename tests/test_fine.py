"""Fine-grained scenes, and the training of a whole network on them: truth, loss of several heads, resuming."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from training import config, fitted_by, killed

from eigencam.datasets.scenes import Scenes
from eigencam.datasets.scenes_drawing import Palette, Pose, hsv
from eigencam.datasets.scenes_fine import TEXTURES, VASES, ScenesFine
from eigencam.fitting.cross_entropy import CrossEntropyFit
from eigencam.fitting.job import prepare
from eigencam.fitting.training_images import shuffled
from eigencam.networks.dual_cross import DualCrossCurrent

SMALL = ["fit=cross_entropy", "dataset=scenes_fine", "dataset.split=train"]
DUAL = [
    "model=dual_cross_small",
    "model.args={num_classes: 8, channels: 8, width: 16, heads: 2, depth: 6, mlp_ratio: 1}",
    "model.preprocess.size=32",
]


def test_the_vases_of_two_classes_differ_in_texture_alone() -> None:
    pose, colours = Pose(40.0, 40.0, 30.0, 0.1, 1.0, 1.0, 0.0), (hsv(0.1, 0.6, 0.8), hsv(0.6, 0.5, 0.5))
    palette = Palette(*colours, hsv(0, 0, 0.1), hsv(0, 0, 0.9))
    layers = [VASES.draw(label, pose, palette, (80, 80), np.random.default_rng(3)) for label in range(8)]
    assert len(VASES.classes) == len(TEXTURES) == 8
    assert all(np.array_equal(layer.alpha, layers[0].alpha) for layer in layers)
    shown = np.stack([layer.rgb for layer in layers])
    apart = np.abs(shown[:, None] - shown[None]).max(2)  # between two classes, at each pixel
    for a in range(8):
        for b in range(a):
            changed = (apart[a, b] > 0.05)[layers[0].solid].mean()
            assert 0.15 < changed < 0.85, (VASES.classes[a], VASES.classes[b])


def test_truth_of_fine_scenes() -> None:
    data = ScenesFine(count=24)
    labels = [data.truth(i).label for i in range(24)]
    assert len(set(labels)) >= 6
    for i in range(6):
        truth, image = data.truth(i), data.image(i)
        assert truth.mask is not None
        assert truth.label == truth.box_labels[0]
        assert (truth.mask == truth.label + 1).any()
        assert image.shape[:2] == truth.mask.shape
    assert data.ids[0] == "scenes-fine-test-000000"
    assert ScenesFine(count=4).identity() != ScenesFine(count=4, split="train").identity()
    assert data.digest(0) != Scenes(count=4).digest(0)
    assert ScenesFine(count=400).digest(3) == data.digest(3)
    with pytest.raises(IndexError):
        data.image(24)


def test_a_killed_training_of_two_streams_ends_in_the_same_weights(tmp_path: Path) -> None:
    chosen = [*SMALL, *DUAL]
    whole, again = fitted_by(tmp_path / "whole", *chosen), killed(tmp_path / "killed", 5, *chosen)
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in whole.tensors.items())
    assert again.about == whole.about
    assert whole.about["layers"] == ["conv_cls_head"]
    job = prepare(config(tmp_path, *SMALL, *DUAL, f"fit.file={tmp_path}/other.safetensors"))
    assert not torch.equal(whole.tensors["cls_token"], job.network.module.state_dict()["cls_token"])


def test_the_loss_is_the_mean_of_both_heads(tmp_path: Path) -> None:
    few = ["fit.epochs=1", "fit.warmup=1", "fit.batch_size=4", "dataset.count=4", "fit.augment=false", "fit.lr=1e-12"]
    job = prepare(config(tmp_path, *SMALL, *DUAL, *few))
    fitter, net = job.fitter, job.network.module
    assert isinstance(fitter, CrossEntropyFit)
    assert isinstance(net, DualCrossCurrent)
    _, log = fitter.fit(job)
    (batch,) = job.batches([shuffled(4, fitter.seed, 0).tolist()], job.network.preprocess)
    labels = torch.tensor([truth.label for truth in batch.truths])
    with torch.no_grad():
        heads = net.train().both(job.network.preprocess.normalize(batch.images))
    losses = [F.cross_entropy(head, labels, label_smoothing=0.1).item() for head in heads]
    assert log[0]["ce"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_the_rate_rises_and_falls() -> None:
    options = CrossEntropyFit("f", epochs=6, warmup=2, lr=1.0)
    assert [round(options.rate(e), 3) for e in range(6)] == [0.5, 1.0, 1.0, 0.854, 0.5, 0.146]
    with pytest.raises(ValueError, match="0 to below 1"):
        CrossEntropyFit("f", smoothing=1.0)
    with pytest.raises(ValueError, match=r"fit\.epochs=0"):
        CrossEntropyFit("f", epochs=0)


def test_other_classes_get_new_last_layers_in_both_heads(tmp_path: Path) -> None:
    made = fitted_by(tmp_path, "fit=cross_entropy", *DUAL, "fit.epochs=1")  # the scenes' twelve classes
    assert made.tensors["conv_cls_head.weight"].shape[0] == made.tensors["trans_cls_head.weight"].shape[0] == 12
