"""Maps under an attack: rows and summary by hand, one attack for all methods, the class requested afterwards."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from scipy.stats import spearmanr
from torch import Tensor, nn

from eigencam.datasets.base import Truth
from eigencam.evaluation.adversarial import Adversarial
from eigencam.evaluation.attacks import FGSM, PGD, Attacked, DeepFool
from eigencam.evaluation.maps import ScoreMap
from eigencam.methods.base import Method, maps_of
from eigencam.passes.forward import Forward, forward_pass
from eigencam.running.probe import BatchProbe
from eigencam.running.run import run

SIDE = 8


class Nets(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.fc = nn.Conv2d(3, 4, 3, padding=1), nn.Linear(4, 3)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.act(self.conv(x)).mean((2, 3)))


def colour(forward: Forward, targets: Tensor) -> Tensor:
    return forward.images[:, 0]


def asked(forward: Forward, targets: Tensor) -> Tensor:
    return targets[:, None, None].float() + torch.arange(4.0).view(1, 2, 2)


def gradient(forward: Forward, targets: Tensor) -> Tensor:
    return forward.gradients(targets).sum(1)


gradient.needs_gradient = True  # type: ignore[attr-defined]


def probe(method: Method, follows: bool = False) -> BatchProbe:
    images = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    images[:, :, 2:5, 2:6] += 1
    images = images / 2
    forward = forward_pass(Nets(), 4 * images - 2, "conv", gradients=True)
    forward.black, forward.white = torch.full((3, 1, 1), -2.0), torch.full((3, 1, 1), 2.0)
    boxes = np.array([[2.0, 2.0, 5.0, 4.0]])
    truths = [Truth(f"{n}", (SIDE, SIDE), 0, boxes[: n < 2], np.zeros(int(n < 2), np.int64)) for n in range(3)]
    targets = forward.logits.argmax(1)
    with torch.no_grad():
        maps = maps_of(method, forward, targets)
    score_maps = [ScoreMap(m.numpy(), (SIDE, SIDE)) for m in maps]
    return BatchProbe(forward, method, targets, score_maps, truths, (colour, asked, gradient), follows)


def rows(p: BatchProbe, evaluator: Adversarial) -> list[dict[str, object]]:
    with torch.no_grad():
        return evaluator.rows(maps_of(p.method, p.forward, p.targets).numpy(), p)


@pytest.mark.parametrize("attack", [DeepFool(), FGSM(0.02), PGD(0.02, 0.01, 3)], ids=lambda a: type(a).__name__)
def test_rows_are_by_hand(attack: DeepFool | FGSM | PGD) -> None:
    p = probe(colour)
    found = rows(p, Adversarial(attack, "max", 0.6))
    plain = (p.images + 2) / 4
    made = attack(lambda x: p.forward.module(4 * x - 2), plain, torch.full((3, 1, 1), 4.0), ["0", "1", "2"])
    for n, row in enumerate(found):
        noise = (made.images - plain)[n]
        assert row["l2"] == pytest.approx(noise.norm().item(), rel=1e-4)
        assert row["linf"] == pytest.approx(noise.abs().max().item(), rel=1e-4)
        assert row["relative_l2"] == pytest.approx((noise.norm() / plain[n].norm()).item(), rel=1e-4)
        logits = p.forward.module(4 * made.images - 2)
        assert row["prediction_after"] == logits[n].argmax()
        assert row["fooled"] == (logits[n].argmax() != p.logits[n].argmax())
        after = (4 * made.images - 2)[n, 0]
        assert row["rank_correlation"] == pytest.approx(spearmanr(p.images[n, 0].ravel(), after.ravel())[0], abs=1e-4)
        assert row["cosine"] == pytest.approx(torch.cosine_similarity(p.images[n, 0].ravel(), after.ravel(), 0).item())
        assert row["iterations"] == made.iterations[n]
        assert np.isnan(row["iou_before"]) == np.isnan(row["iou_after"]) == (n == 2)  # type: ignore[call-overload]
    if isinstance(attack, DeepFool):
        assert all(row["fooled"] for row in found)


def test_the_class_asked_for_stays_or_follows_the_prediction() -> None:
    far = Adversarial(DeepFool())
    for follows in (False, True):
        p = probe(asked, follows)
        again = p.again("x", p.images.flip(0) * 3)
        expected = again.logits.argmax(1) if follows else p.targets
        assert again.maps[:, 0, 0].tolist() == expected.tolist()
    kept = rows(probe(asked), far)
    assert all(row["cosine"] == pytest.approx(1) for row in kept)
    moved = rows(probe(asked, follows=True), far)
    assert any(row["cosine"] < 0.999 for row in moved)  # type: ignore[operator]


def test_one_attack_and_one_pass_serve_all_methods(monkeypatch: pytest.MonkeyPatch) -> None:
    attacks, passes = 0, 0
    call, repeat = DeepFool.__call__, Forward.repeat

    def attacked(self, *args) -> Attacked:  # type: ignore[no-untyped-def]
        nonlocal attacks
        attacks += 1
        return call(self, *args)

    def repeated(self, *args, **kwargs) -> Forward:  # type: ignore[no-untyped-def]
        nonlocal passes
        passes += 1
        return repeat(self, *args, **kwargs)

    monkeypatch.setattr(DeepFool, "__call__", attacked)
    monkeypatch.setattr(Forward, "repeat", repeated)
    first = probe(colour)
    for method in (colour, asked, gradient):
        own = probe(method)
        rows(
            BatchProbe(first.forward, method, first.targets, own.score_maps, own.truths, first.beside),
            Adversarial(DeepFool()),
        )
    assert (attacks, passes) == (1, 1)


def test_the_summary_is_by_hand() -> None:
    frame = pd.DataFrame(
        {
            "iou_before": [0.9, 0.9, 0.2, np.nan],
            "iou_after": [0.9, 0.1, 0.8, np.nan],
            "fooled": [False, True, True, True],
            "rank_correlation": [1.0, 0.5, np.nan, 0.0],
            "cosine": [1.0, 1.0, 1.0, 0.0],
            "l2": [1.0, 2.0, 3.0, 2.0],
            "linf": [1 / 255] * 4,
            "relative_l2": [0.01] * 4,
            "iterations": [1, 2, 3, 2],
            "map_state": "ok",
            "map_state_after": ["ok", "ok", "ok", "constant"],
        }
    )
    found = {metric.name: metric for metric in Adversarial(DeepFool()).summary(frame)}
    assert found["box_error_before"].value == found["box_error_after"].value == pytest.approx(100 / 3)
    assert found["box_error_before"].n == found["box_error_change"].n == 3
    assert found["box_error_change"].value == 0
    assert found["box_error_before_fooled"].n == 2
    assert found["box_error_change_fooled"].value == 0
    assert -100 < found["box_error_change_fooled"].low == -found["box_error_change_fooled"].high < -80  # Tango's, n = 2
    assert found["fooling_rate"].value == 75
    assert found["rank_correlation"].value == 0.75  # no similarity if either map is constant
    assert found["rank_correlation"].n == 2
    assert found["linf"].value == pytest.approx(1)
    assert found["relative_l2"].value == pytest.approx(1)
    assert found["iterations"].value == 2
    assert found["box_error_before"].note == "attacked: 1 constant of 4 maps"


def test_bad_rules_are_refused_and_nothing_fooled_is_not_defined() -> None:
    with pytest.raises(ValueError, match="iou 2"):
        Adversarial(DeepFool(), iou=2)
    p = probe(colour)
    frame = pd.DataFrame(rows(p, Adversarial(FGSM(1e-9))))
    found = {metric.name: metric for metric in Adversarial(FGSM(1e-9)).summary(frame)}
    assert found["fooling_rate"].value == 0
    assert np.isnan(found["box_error_change_fooled"].value)
    assert found["rank_correlation"].value == pytest.approx(1, abs=1e-3)


@pytest.mark.full
@pytest.mark.parametrize("target", ["ground_truth", "predicted"])
def test_a_run_with_every_attack(tmp_path: Path, target: str) -> None:
    overrides = ["model=scenes_resnet", "dataset.count=3", "workers=0", f"paths.results={tmp_path}", "device=cpu"]
    overrides += ["method=[eigencam,gradcam]", "evaluator=[adversarial_deepfool,fgsm,randomization]"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        job = run(compose("run", [*overrides, f"target={target}", "evaluator.randomization.stages=2"]))
    one, other = (job.results[m, "adversarial_deepfool"].rows() for m in ("eigencam", "gradcam"))
    for column in ("l2", "linf", "prediction_after", "iterations"):
        assert one[column].tolist() == other[column].tolist()
    assert one["fooled"].all()
    assert (one["rank_correlation"] > 0.3).all()
