"""FunnyBirds' part scores compared with a loop over the authors' rules, where the parts that decide are known."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from golden_methods import nodes
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from scipy.stats import spearmanr
from torch import Tensor

from eigencam.datasets.base import Truth
from eigencam.datasets.planted import Planted
from eigencam.datasets.scenes_grid import ScenesGrid
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.part_scores import THRESHOLDS, PartScores, _pixels_of, _spearman
from eigencam.methods.base import Method
from eigencam.methods.input_gradients import Gradient
from eigencam.networks.network import Network, load_network
from eigencam.passes.forward import Forward
from eigencam.running.batch_maps import compute_maps
from eigencam.running.probe import BatchProbe


@lru_cache(maxsize=2)
def network(name: str) -> Network:
    return load_network(nodes("model")[name])


def probed(name: str, dataset: Any, method: Method, count: int, labels: list[int] | None = None) -> BatchProbe:
    """What evaluators may ask, for the first images of a dataset."""
    truths = [dataset.truth(i) for i in range(count)]
    if labels:
        truths = [replace(truth, label=label) for truth, label in zip(truths, labels, strict=True)]
    images = torch.from_numpy(np.stack([dataset.image(i) for i in range(count)]).transpose(0, 3, 1, 2).copy())
    found = compute_maps(network(name), {"m": method}, images, labels=[truth.label for truth in truths])
    maps = [ScoreMap(m, truth.size) for m, truth in zip(found.maps["m"], truths, strict=True)]
    return BatchProbe(found.forward, method, found.asked, maps, truths, (method,))


def rows(evaluator: PartScores, probe: BatchProbe) -> pd.DataFrame:
    maps = np.stack([np.asarray(score_map.values) for score_map in probe.score_maps])
    found = evaluator.rows(maps, probe)
    return pd.DataFrame([{"image": str(n), "label": 0, "answer_state": "ok", **row} for n, row in enumerate(found)])


def metrics(evaluator: PartScores, found: pd.DataFrame) -> dict[str, float]:
    return {metric.name: metric.value for metric in evaluator.summary(found)}


def noise(forward: Forward, targets: Tensor) -> Tensor:
    """Signed maps that differ from class to class, of a positive sum."""
    drawn = [torch.randn(14, 14, generator=torch.Generator().manual_seed(int(t))) + 0.3 for t in targets]
    return torch.stack(drawn) * torch.arange(1, len(targets) + 1)[:, None, None]


noise.needs_gradient = False  # type: ignore[attr-defined]


def by_the_authors(used: Network, images: Tensor, truth: Truth, label: int, maps: dict[int, Tensor]) -> dict[str, Any]:
    """Return one image's scores: part by part and threshold by threshold, on images with grey in place of parts."""
    classes = truth.objects()
    assert truth.mask is not None
    pixels = {k: truth.mask == k + 1 for k in classes}
    side = tuple(images.shape[2:])
    full = {
        k: torch.nn.functional.interpolate(m[None, None], side, mode="bilinear")[0, 0].numpy() for k, m in maps.items()
    }

    def logits(gone: list[int]) -> NDArray[np.float64]:
        changed = images.clone()
        for k in gone:
            changed[0, :, torch.from_numpy(pixels[k])] = 0
        with torch.no_grad():
            return used.module(changed)[0].double().numpy()

    def importance(k: int) -> dict[int, float]:
        return {p: float((full[k] * maximum_filter(pixels[p], 5)).sum()) for p in classes}

    whole, mine = logits([]), importance(label)
    drops = {p: whole[label] - logits([p])[label] for p in classes}
    irrelevant = [p for p in classes if abs(drops[p]) < 0.05 * abs(whole[label]) or drops[p] < 0]
    found: dict[str, Any] = {name: [] for name in ("csdc", "preserved", "deleted", "undistracted")}
    for t in THRESHOLDS:
        important = [p for p in classes if mine[p] > t * full[label].sum()]
        found["csdc"].append(float(label in important))
        found["preserved"].append(float(logits([p for p in classes if p not in important]).argmax() == whole.argmax()))
        found["deleted"].append(float(logits(important).argmax() != whole.argmax()))
        found["undistracted"].append(1 - len(set(important) & set(irrelevant)) / len(irrelevant))
    correlation: Any = spearmanr([mine[p] for p in classes], [drops[p] for p in classes])
    found["deletion"] = (1 + correlation.statistic) / 2
    other = _largest_other(replace(truth, label=label))
    theirs = importance(other)
    found["sensitive"] = float(np.mean([mine[label] > theirs[label], theirs[other] > mine[other]]))
    return found


def test_scores_are_those_of_a_loop_of_the_authors_rules() -> None:
    dataset, count = Planted(6, marks=4), 6
    labels = [dataset.truth(i).objects()[i % 4] for i in range(count)]
    probe = probed("planted", dataset, noise, count, labels)
    found = rows(PartScores(), probe)
    classes = torch.tensor([_largest_other(truth) for truth in probe.truths])
    others = noise(probe.forward, classes)
    for n, truth in enumerate(probe.truths):
        maps = {truth.label: torch.tensor(probe.score_maps[n].values), int(classes[n]): others[n]}
        expected = by_the_authors(network("planted"), probe.images[n : n + 1], truth, truth.label, maps)
        for name, value in expected.items():
            np.testing.assert_allclose(found[name][n], value, atol=1e-6, err_msg=f"{name} of image {n}")
    assert (found["parts"] == 4).all()
    assert found["predicted"].tolist() == [
        truth.label == int(dataset.truth(n).label) for n, truth in enumerate(probe.truths)
    ]


def _largest_other(truth: Truth) -> int:
    mask = truth.mask
    assert mask is not None
    areas = {k: int(np.count_nonzero(mask == k + 1)) for k in truth.objects() if k != truth.label}
    return max(areas, key=lambda k: areas[k])


def test_without_a_mark_the_logits_are_the_same_whatever_is_filled_in_that_has_no_hue() -> None:
    probe = probed("planted", Planted(4), Gradient(), 4)
    black, grey = (rows(PartScores(fill), probe) for fill in ("black", "mean"))
    for name in ("deletion", "sensitive", "csdc", "preserved", "deleted", "undistracted"):
        np.testing.assert_array_equal(np.stack(black[name].to_list()), np.stack(grey[name].to_list()))


@pytest.mark.parametrize(
    ("model", "dataset"), [("planted", Planted(5)), ("scenes_vgg_cells", ScenesGrid(3, heads=True))]
)
def test_of_a_network_that_depends_on_known_parts_its_gradient_has_full_scores(model: str, dataset: Any) -> None:
    probe = probed(model, dataset, Gradient(), len(dataset))
    found = rows(PartScores(), probe)
    made = metrics(PartScores(), found)
    assert made["target_sensitivity"] == made["distractibility"] == 100
    assert (np.stack(found["csdc"].to_list()) == 1).all()
    assert (np.stack(found["deletion"].to_list()) > 0.75).all()  # four cells, of which the own is first: 0.89


def test_numbers_that_differ_by_rounding_are_tied() -> None:
    a = torch.tensor([[0.3, 0.1, 0.2, 9.0], [0.3, 0.3 + 1e-8, 0.1, 9.0]])
    b = torch.tensor([[2.0, 1.0, 1.0 + 1e-6, -5.0], [2.0, 1.0, 1.0, -5.0]])
    present = torch.tensor([[True, True, True, False]] * 2)
    expected: list[Any] = [spearmanr([0.3, 0.1, 0.2], [2, 1, 1]), spearmanr([0.3, 0.3, 0.1], [2, 1, 1])]
    found = _spearman(a.double(), b.double(), present, torch.ones(2, 1))
    assert found.tolist() == pytest.approx([rho.statistic for rho in expected])
    tiny = _spearman(a.double(), b.double() * 1e-7, present, torch.ones(2, 1))  # of a logit of 1
    assert tiny.isnan().all()


def test_a_map_that_is_the_same_for_every_class_is_sensitive_to_none() -> None:
    def agnostic(forward: Forward, _targets: Tensor) -> Tensor:
        return noise(forward, torch.zeros(len(forward.images)))

    agnostic.needs_gradient = False  # type: ignore[attr-defined]
    assert (rows(PartScores(), probed("planted", Planted(3), agnostic, 3))["sensitive"] == 0).all()


def test_a_map_that_says_nothing_has_the_worst_score_and_an_image_of_one_part_none() -> None:
    probe = probed("planted", Planted(3), noise, 3)
    for values in (np.ones((3, 14, 14), np.float32), np.full((3, 14, 14), np.nan, np.float32)):
        silent = replace(probe, score_maps=[ScoreMap(m, (112, 112)) for m in values])
        made = metrics(PartScores(), rows(PartScores(), silent))
        assert all(made[name] == 0 for name in ("single_deletion", "completeness", "distractibility", "csdc"))
    one = probed("planted", Planted(3, marks=1), noise, 3)
    found = PartScores().summary(rows(PartScores(), one))
    assert all(metric.undefined for metric in found)
    assert "two parts" in found[0].note
    with pytest.raises(ValueError, match="black, mean, blur"):
        PartScores("white")  # type: ignore[arg-type]


def test_the_threshold_is_the_one_with_the_largest_sum_of_both() -> None:
    n, rng = 40, np.random.default_rng(0)
    names = ("csdc", "preserved", "deleted", "undistracted")
    found = pd.DataFrame({name: list((rng.random((n, 80)) < 0.5).astype(np.float32)) for name in names})
    found = found.assign(image=[str(k) for k in range(n)], label=0, answer_state="ok", map_state="ok", parts=3)
    found = found.assign(predicted=np.arange(n) % 4 > 0, deletion=0.5, sensitive=1.0)
    each = {name: np.stack(found[name].to_list()) for name in names}
    known = found["predicted"].to_numpy()
    complete = np.mean([each[name][known].mean(axis=0) for name in names[:3]], axis=0)
    at = int((complete + each["undistracted"].mean(axis=0)).argmax())
    made = metrics(PartScores(), found)
    assert made["completeness"] == pytest.approx(100 * complete[at])
    assert made["preservation"] == pytest.approx(100 * each["preserved"][known, at].mean())
    assert made["distractibility"] == pytest.approx(100 * each["undistracted"][:, at].mean())
    thresholds = {metric.name: metric.threshold for metric in PartScores().summary(found)}
    assert thresholds["csdc"] == f"{THRESHOLDS[at]:.3f} of the sum"


def test_parts_lie_where_the_network_sees_them() -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 30:50], mask[30:, :10] = 3, 6
    truth = Truth("a", (40, 60), 2, np.zeros((0, 4)), np.zeros(0, np.int64), mask=mask)
    labels, seen = _pixels_of(ScoreMap(np.eye(4), (40, 60)), truth, (20, 30))
    assert labels == [2, 5]
    assert seen[0].nonzero()[0].tolist() == np.repeat(np.arange(5, 10), 10).tolist()
    labels, seen = _pixels_of(ScoreMap(np.eye(4), (40, 60), (20.0, 0.0, 60.0, 40.0)), truth, (40, 40))
    assert labels == [2]  # the other one is beside the crop
    assert seen[0][10:20, 10:30].all()
    assert seen.sum() == 200
    boxes = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [5, 5, 14, 14]], np.float64)
    truth = Truth("b", (20, 30), 1, boxes, np.array([1, 4, 1]))
    labels, seen = _pixels_of(ScoreMap(np.eye(4), (20, 30)), truth, (20, 30))
    assert labels == [1, 4]
    assert seen.sum((1, 2)).tolist() == [175, 100]
