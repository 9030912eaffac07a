"""D-RISE on detectors; gScoreCAM; maps for the similarity to embeddings read from files."""

import importlib.util
from pathlib import Path
from typing import Any

import detectors
import numpy as np
import pytest
import torch
from golden_methods import Spots
from safetensors.numpy import save_file
from torch import Tensor, nn
from toys import make, network

from eigencam import Explainer, targets
from eigencam.commands.target import parsed
from eigencam.methods.drise import DRISE
from eigencam.methods.gradcam import GradCAM, weighted_sum
from eigencam.methods.gscore import GScoreCAM
from eigencam.methods.scorecam import unit
from eigencam.networks.network import Preprocess
from eigencam.passes.calls import TargetError
from eigencam.passes.forward import forward_pass

PLAIN = Preprocess(size=detectors.SIDE, mean=(0, 0, 0), std=(1, 1, 1))
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
IMAGE[8:30, 10:40] = 250, 30, 30
TARGETS = torch.tensor([3, 2, 1, 0, 1])


def covariance(explain: Explainer, box: Tensor, label: int, method: DRISE) -> np.ndarray:
    """D-RISE mask by mask, from what the detector returns: Microsoft's sums, divided by the number of masks."""
    x = PLAIN.normalize(torch.from_numpy(PLAIN(IMAGE)[0])[None])
    masks = method.source().make(0, method.masks, (64, 64), x.device)
    scores = []
    for mask in masks:
        with torch.no_grad():
            (found,) = explain.network.module(x * mask)
        best = 0.0
        for b, score, one in zip(found["boxes"], found["scores"], found["labels"], strict=True):
            corners = torch.stack([torch.maximum(b[:2], box[:2]), torch.minimum(b[2:], box[2:])])
            shared = (corners[1] - corners[0]).clamp(min=0).prod()
            union = sum((r[2] - r[0]) * (r[3] - r[1]) for r in (b, box)) - shared
            best = max(best, float(shared / union * score) * (int(one) == label))
        scores.append(best)
    weighted = sum(s * mask for s, mask in zip(scores, masks, strict=True))
    return np.asarray(weighted - float(np.mean(scores)) * masks.sum(0)) / len(masks)


@pytest.mark.parametrize("name", ["faster_rcnn", "retinanet", "ssd"])
def test_drise_is_the_covariance_of_similarity_and_mask(name: str) -> None:
    explain = Explainer(detectors.built(name), detectors.LAYERS[name], preprocess=PLAIN)
    (found,) = explain.output(IMAGE)
    method = DRISE(12, 8)
    made = explain(IMAGE, {"m": method}, target=[targets.box_score(k) for k in range(2)])
    for k in range(2):
        expected = covariance(explain, found["boxes"][k], int(found["labels"][k]), method)
        np.testing.assert_allclose(made[k]["m"].raw, expected, atol=1e-3 * np.abs(expected).max())


def test_drise_finds_what_a_detection_depends_on() -> None:
    """A detector whose box is certain if its own place is red."""
    explain = Explainer(Spots(), "red", preprocess=PLAIN)
    image = np.full((64, 64, 3), 128, np.uint8)
    image[16:50, 8:40, 0] = 255
    raw = explain(image, {"m": DRISE(400, 8)}, target=targets.box_score(0))["m"].raw
    inside = np.zeros((64, 64), bool)
    inside[16:50, 8:40] = True
    assert raw[inside].mean() > 4 * np.abs(raw[~inside].mean())


def test_drise_needs_a_box() -> None:
    explain = Explainer(detectors.built("ssd"), detectors.LAYERS["ssd"], preprocess=PLAIN)
    with pytest.raises(ValueError, match="it explains a detection, and the target is no box"):
        explain(IMAGE, "drise", target=lambda output: output[0]["scores"][:1])
    with pytest.raises(ValueError, match="masks=0"):
        DRISE(0)
    empty = [{"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.long)}]
    alike = targets.similarity(targets.box_score((0, 0, 9, 9)))
    assert alike is not None
    assert alike(empty).tolist() == [0]
    assert targets.similarity(targets.class_score(1)) is None


def test_gscorecam_of_all_channels_is_scorecam_by_the_softmax_of_logits() -> None:
    forward = make(network("rectified"), gradients=True)
    a = forward.activations()
    masks = torch.nn.functional.interpolate(a, (6, 7), mode="bilinear", align_corners=True)
    logits = []
    for k in range(6):
        shown = forward.images * unit(masks[:, k])[:, None]
        logits.append(forward.predict(5, lambda _part, shown=shown: shown).gather(1, TARGETS[:, None])[:, 0])
    scores = torch.stack(logits, 1)
    torch.testing.assert_close(GScoreCAM()(forward, TARGETS), weighted_sum(scores.softmax(1), a).relu())
    blank = forward_pass(nn.Sequential(nn.Conv2d(3, 6, 3), Nothing()), forward.images, "0", gradients=True)
    assert not GScoreCAM()(blank, TARGETS).any()
    strongest = forward.gradients(TARGETS).mean((2, 3)).topk(2, 1).indices
    chosen = torch.zeros_like(scores).scatter(1, strongest, scores.gather(1, strongest))
    torch.testing.assert_close(GScoreCAM(2)(forward, TARGETS), weighted_sum(chosen.softmax(1), a).relu())


class Nothing(nn.Module):
    """An output whose gradient is 0."""

    def forward(self, x: Tensor) -> Tensor:
        return 0 * x.mean((2, 3)) + 1


def similar() -> Explainer:
    """A network of embeddings."""
    module = nn.Sequential(detectors.stem(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    return Explainer(module, "0.2", preprocess=PLAIN)


def test_embeddings_are_read_from_both_kinds_of_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    explain, words = similar(), np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    np.save(tmp_path / "words.npy", words)
    save_file({"words": words, "other": words}, tmp_path / "two.safetensors")
    save_file({"words": words}, tmp_path / "words.safetensors")
    save_file({"word": words[1:2]}, tmp_path / "word.safetensors")
    e = torch.as_tensor(np.asarray(explain.output(IMAGE)))[0]
    cosines = nn.functional.cosine_similarity(e[None], torch.from_numpy(words), dim=1)
    spoken = {
        "embedding:word.safetensors": cosines[1],
        "embedding:100:word.safetensors": 100 * cosines[1],
        "prompt:2:words.npy": (100 * cosines).softmax(0)[2],
        "prompt:0:words.safetensors": (100 * cosines).softmax(0)[0],
    }
    for text, expected in spoken.items():
        kind, _, file = text.rpartition(":")
        found = explain(IMAGE, ["gradcam", "gscorecam"], target=parsed(f"{kind}:{tmp_path / file}"))
        assert found.score == pytest.approx(float(expected), rel=1e-4)
        assert np.isfinite(found["gscorecam"].raw).all()
    for file, message in (("two.safetensors", "tensors other, words; allowed: one"), ("words.npy", r"\(1, D\)")):
        with pytest.raises(ValueError, match=message):
            parsed(f"embedding:{tmp_path / file}")
    with pytest.raises(ValueError, match="prompt 3; allowed: 0 to 2"):
        parsed(f"prompt:3:{tmp_path / 'words.npy'}")
    with pytest.raises(ValueError, match=r"prompt:FILE; allowed: class:K.* prompt:K:FILE"):
        parsed("prompt:FILE")
    (tmp_path / "broken.safetensors").write_text("no tensors")
    with pytest.raises(ValueError, match=r"broken\.safetensors: no \.safetensors file of numbers"):
        parsed(f"embedding:{tmp_path / 'broken.safetensors'}")


def test_a_function_of_one_s_own_is_a_target_by_its_dotted_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_targets.py").write_text("K = 3\n\n\ndef first(output):\n    return output[:, 0]\n")
    monkeypatch.syspath_prepend(tmp_path)
    target = parsed("my_targets.first")
    assert callable(target)
    assert target(torch.tensor([[1.0, 2.0]])).tolist() == [1.0]
    for name, message in (
        ("my_targets.second", "--target my_targets.second: .*second"),
        ("my_targets.K", "--target my_targets.K: int; allowed: a function of the network's output"),
        ("nowhere_at_all.first", "--target nowhere_at_all.first: .*nowhere_at_all"),
    ):
        with pytest.raises(ValueError, match=message):
            parsed(name)


def test_the_map_for_a_text_is_that_of_its_cosine() -> None:
    torch.manual_seed(0)
    explain, words = similar(), torch.randn(16)
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, out: Tensor) -> Tensor:
        kept.append(out.detach().requires_grad_())
        return kept[0].clone()

    hook = explain.network.module.get_submodule("0.2").register_forward_hook(keep)
    features = explain.network.module(PLAIN.normalize(torch.from_numpy(PLAIN(IMAGE)[0])[None]))[0]
    hook.remove()
    (slope,) = torch.autograd.grad(features @ words / features.norm() / words.norm(), kept[0])
    expected = (slope.mean((2, 3), keepdim=True) * kept[0]).sum(1).relu()[0].detach().numpy()
    found = explain(IMAGE, "gradcam", target=targets.embedding(words))["gradcam"].raw
    assert expected.max() > 0
    np.testing.assert_allclose(found, expected, atol=1e-4 * expected.max())


def test_targets_of_embeddings_check_what_they_are_given() -> None:
    with pytest.raises(ValueError, match=r"references of shape \(4,\); allowed: \(K, D\)"):
        targets.prompt(torch.ones(4), 0)
    with pytest.raises(TargetError, match="a reference of 3 numbers; the network gives 16"):
        similar()(IMAGE, "gradcam", target=targets.prompt(torch.ones(2, 3), 1))
    assert targets.words(targets.prompt(torch.ones(2, 3), 1)) == "prompt 1"


@pytest.mark.skipif(importlib.util.find_spec("open_clip") is None, reason="open_clip is not installed")
@pytest.mark.parametrize(("name", "layer"), [("RN50", "layer4"), ("ViT-B-32", "transformer.resblocks.10")])
def test_towers_of_open_clip(name: str, layer: str) -> None:
    import open_clip  # pyright: ignore[reportMissingImports]

    torch.manual_seed(0)
    tower = open_clip.create_model(name, pretrained=None).visual
    explain = Explainer(tower, layer, preprocess=Preprocess(size=224))
    words = torch.randn(explain.output(IMAGE).shape[1])
    methods = {"gradcam": GradCAM(), "gscorecam": GScoreCAM(4)}
    found = explain(IMAGE, methods, target=targets.embedding(words, scale=100))
    assert found["gradcam"].raw.shape == (7, 7)
    assert found["gscorecam"].raw.max() > 0
