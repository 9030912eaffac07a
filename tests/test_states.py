"""Undefined maps and outputs, in every packaged evaluator: they are stated, counted, and never the best."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from numpy.typing import NDArray
from omegaconf import OmegaConf
from scipy import ndimage
from torch import Tensor

import eigencam.passes.calls
from eigencam.datasets.base import Truth
from eigencam.evaluation.base import Again, Metric
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.states import UNANSWERED, at_worst, no_answer, no_map
from eigencam.evaluation.tables import tables
from eigencam.passes.prediction_states import answer_states
from eigencam.reporting.collect import collect
from eigencam.reporting.derived import by_prediction, with_wins
from eigencam.running.run import run
from eigencam.store.build import instantiate
from tests.runs import config

N, SIDE, BROKEN = 8, 16, 3
Maps = NDArray[np.float32]


def packaged() -> dict[str, Any]:
    """Every evaluator of the configs."""
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        names = GlobalHydra.instance().config_loader().get_group_options("evaluator")
        chosen: Any = OmegaConf.to_container(compose("run", [f"evaluator=[{','.join(names)}]"]).evaluator)
    return {name: instantiate(chosen[name]) for name in names}


EVALUATORS = packaged()
ASKING = {name: evaluator for name, evaluator in EVALUATORS.items() if hasattr(evaluator, "rows")}
ANSWERED = {"average_drop", "insertion_deletion", "road", "adcc"}
"""The evaluators whose metrics all depend on the network's output."""


def truth_of(n: int) -> Truth:
    mask = np.zeros((SIDE, SIDE), np.uint8)
    x, y = 1 + n % 4, 2 + n % 3
    mask[y : y + 7, x : x + 8] = 1
    box = np.array([[x, y, x + 7, y + 6]], np.float64)
    return Truth(str(n), (SIDE, SIDE), 0, box, np.zeros(1, np.int64), mask=mask)


TRUTHS = [truth_of(n) for n in range(N)]


def good_maps() -> Maps:
    """Maps that find the object, with distinct values."""
    noise = np.random.default_rng(0).random((N, SIDE, SIDE))
    masks = np.stack([ndimage.gaussian_filter((t.mask == 1).astype(float), 0.5) for t in TRUTHS])  # type: ignore[union-attr]
    return (masks + 0.01 * noise).astype(np.float32)


@dataclass
class Toy:
    """A probe on a network of three classes; for the first images (third channel above 5) the output is `spoilt`."""

    broken: int = 0
    spoilt: list[list[float]] = field(default_factory=lambda: [[0.0, 0.0, 0.0]])

    def __post_init__(self) -> None:
        self.images = torch.zeros(N, 3, SIDE, SIDE)
        self.images[:, :2] = torch.from_numpy(good_maps())[:, None]
        self.images[: self.broken, 2] = 100.0 + 100 * torch.arange(self.broken)[:, None, None]
        self.black, self.white = torch.full((3, 1, 1), -0.5), torch.full((3, 1, 1), 1.5)
        self.targets = torch.zeros(N, dtype=torch.long)
        self.truths = TRUTHS
        self.score_maps: list[ScoreMap] = []
        self.logits = self.differentiable(self.images).detach()

    def differentiable(self, images: Tensor) -> Tensor:
        seen = images[:, 0].mean((1, 2))
        logits = torch.stack([8 * seen, 1 - 2 * images[:, 1].mean((1, 2)), 0.5 * seen - 1], 1)
        marks = images[:, 2].mean((1, 2)).detach()
        answers = torch.tensor(self.spoilt)[(marks / 100).round().long().clamp(min=1) % len(self.spoilt)]
        return torch.where(marks[:, None] > 5, answers + 0 * logits, logits)

    def predict(self, count: int, inputs: Callable[[slice], Tensor]) -> Tensor:
        return self.differentiable(inputs(slice(0, count))).detach()

    def shared(self, key: object, make: Callable[[], Any]) -> Any:
        return make()

    def explain(self, images: Tensor) -> Tensor:
        return images[:, 0]

    def explain_classes(self, classes: Tensor) -> Tensor:
        return self.images[:, 0] * (1 + classes[:, None, None])

    def again(self, key: object, images: Tensor) -> Again:
        return Again(images[:, 0].numpy(), self.differentiable(images).detach())

    def randomised(self, order: str, stages: int, seed: int) -> list[tuple[str, Maps]]:
        return [(f"layer{k}", self.reweighted(str(k))) for k in range(stages)]

    def reweighted(self, weights: str) -> Maps:
        return good_maps() + np.random.default_rng(len(weights)).random((N, SIDE, SIDE)).astype(np.float32)


def metrics_of(evaluator: Any, maps: Maps, toy: Toy | None = None, *, by_design: bool = False) -> dict[str, Metric]:
    """The metrics of one evaluator, with the columns that a run adds."""
    toy = toy or Toy()
    score_maps = [ScoreMap(values, (SIDE, SIDE)) for values in maps]
    if hasattr(evaluator, "rows"):
        toy.score_maps = score_maps
        with torch.no_grad():
            rows = evaluator.rows(maps, toy)
    elif hasattr(evaluator, "joint_row"):
        rows = [evaluator.joint_row([m], [t]) for m, t in zip(score_maps, TRUTHS, strict=True)]
    else:
        rows = [evaluator.row(m, t) for m, t in zip(score_maps, TRUTHS, strict=True)]
    shared = {"label": 0, "target": 0, "constant_by_design": by_design}
    answers = answer_states(toy.logits)
    tops = [{"answer_state": state, "top5": [0, 1, 2] if state == "ok" else []} for state in answers]
    starts = [{"image": str(n), **shared, **top} for n, top in enumerate(tops)]
    frame = pd.DataFrame([{**start, **row} for start, row in zip(starts, rows, strict=True)])
    assert isinstance(evaluator.curves(frame) if hasattr(evaluator, "curves") else [], list)
    return {metric.name: metric for metric in evaluator.summary(frame)}


def better(one: Metric, other: Metric) -> bool:
    """Whether a table marks `one` as better than `other`."""
    sense = {"lower": -1, "higher": 1}.get(one.better, math.nan)
    return one.n >= other.n and sense * (one.value - other.value) > 1e-6


SPOILT_MAPS: dict[str, Callable[[Maps], Maps]] = {
    "nonfinite": lambda m: np.where(m > 0.5, np.array([np.nan, np.inf, -np.inf, np.nan] * 2)[: len(m), None, None], m),
    "zero": lambda m: 0 * m,
    "one": lambda m: 0 * m + 1,
}


@pytest.mark.parametrize("name", EVALUATORS)
def test_maps_without_a_value_are_stated_counted_and_never_the_best(name: str) -> None:
    evaluator, maps = EVALUATORS[name], good_maps()
    assert "map" in str(evaluator.protocol()["undefined"])
    good, inverted = metrics_of(evaluator, maps), metrics_of(evaluator, (maps < 0.5).astype(np.float32))
    for kind, spoil in SPOILT_MAPS.items():
        for count in (BROKEN, N):
            spoilt = maps.copy()
            spoilt[:count] = spoil(spoilt[:count])
            found = metrics_of(evaluator, spoilt)
            said = f"{count} {'nonfinite' if kind == 'nonfinite' else 'constant'} of {N} maps"
            assert any(said in metric.note for metric in found.values())
            for metric in found:
                assert not better(found[metric], good[metric]), (metric, kind, count)
                assert count < N or not better(found[metric], inverted[metric]), (metric, kind)


NAN, INF = math.nan, math.inf
SPOILT_ANSWERS: dict[str, tuple[list[list[float]], str]] = {
    "nonfinite": ([[NAN, NAN, NAN], [0, NAN, 0], [INF, 0, 0], [-INF, 0, 0]], "nonfinite"),
    "constant": ([[0, 0, 0]], "constant"),
    "probability 0": ([[-1e4, 0, 1]], "ok"),
}
"""The outputs for broken images, in order, and their states."""


@pytest.mark.parametrize("name", ASKING)
def test_answers_without_a_value_are_stated_counted_and_never_the_best(name: str) -> None:
    evaluator, maps = ASKING[name], good_maps()
    good = metrics_of(evaluator, maps)
    for kind, (spoilt, state) in SPOILT_ANSWERS.items():
        some, every = (metrics_of(evaluator, maps, Toy(count, spoilt)) for count in (BROKEN, N))
        for metric in good if kind != "probability 0" or name in ("average_drop", "adcc") else ():
            assert not better(some[metric], good[metric]), (metric, kind)
            assert not better(every[metric], good[metric]), (metric, kind)
        if name not in ANSWERED:
            continue
        assert "answer" in str(evaluator.protocol()["undefined"])
        assert all(metric.n == N for metric in some.values())  # the same images for every method
        if state != "ok":
            assert any(f"{BROKEN} {state} of {N} answers" in metric.note for metric in some.values())
            assert all(math.isnan(metric.value) and metric.note.startswith(UNANSWERED) for metric in every.values())
        elif name == "average_drop":
            assert f"{BROKEN} images of probability 0 to begin with" in some["drop_100"].note
            assert math.isnan(every["drop_100"].value)
            assert every["increase_100"].value >= 0  # it is defined


def test_the_worst_value_of_each_faithfulness_metric() -> None:
    """One of two images has no valid output: the result is the mean of the other's value and the worst one."""
    worst = {"drop": 100, "increase": 0, "deletion": 100, "insertion": 0, "road": -50, "road_morf": 100, "road_lerf": 0}
    worst |= {"adcc": 0, "coherency": 0, "complexity": 100, "average_drop": 100}
    for name in ANSWERED:
        maps = good_maps()
        good = metrics_of(ASKING[name], maps)
        toy = Toy(N - 1, SPOILT_ANSWERS["nonfinite"][0])
        for metric, found in metrics_of(ASKING[name], maps, toy).items():
            key = metric if metric in worst else metric.split("_")[0]
            assert found.value == pytest.approx(worst[key], abs=101 / N), metric
            assert good[metric].n == found.n


def test_a_map_constant_by_design_is_compared_with_the_truth_and_with_nothing_else() -> None:
    ones = np.ones((N, SIDE, SIDE), np.float32)
    found = metrics_of(EVALUATORS["segmentation"], ones, by_design=True)
    assert found["pixel_recall"].value == 100
    assert metrics_of(EVALUATORS["average_drop"], ones, by_design=True)["drop_100"].value == 100
    nan = metrics_of(EVALUATORS["segmentation"], ones * np.nan, by_design=True)
    assert nan["pixel_recall"].value == 0


def test_states_of_answers() -> None:
    logits = torch.tensor([[0.0, 1.0], [2.0, 2.0], [torch.nan, 1.0], [torch.inf, 1.0], [0.0, -torch.inf]])
    assert answer_states(logits) == ["ok", "constant", *["nonfinite"] * 3]
    assert answer_states(logits[:, :1]) == [
        "ok",
        "ok",
        "nonfinite",
        "nonfinite",
        "ok",
    ]  # a single class is always preferred
    assert answer_states(logits[:, :0]) == ["none"] * 5


def test_worst_values_take_the_place_of_those_without_a_map() -> None:
    rows = pd.DataFrame(
        {
            "map_state": ["ok", "constant", "nonfinite", "constant"],
            "constant_by_design": [False, False, True, True],
            "iou": [0.5, 0.6, 0.7, np.nan],
            "ious": [[0.1, 0.2], [0.3, np.nan], [], [1.0]],
        }
    )
    assert no_map(rows).tolist() == [False, True, True, False]
    assert no_map(rows, meant=False).tolist() == [False, True, True, True]
    assert no_answer(rows).tolist() == [False] * 4
    found = at_worst(rows, iou=0.0, ious=0.0)
    assert found["iou"].tolist()[:3] == [0.5, 0, 0]
    assert [np.asarray(v).tolist() for v in found["ious"]][2:] == [[], [1.0]]
    assert np.isnan(found["iou"].iloc[3])
    assert rows["iou"].tolist()[:3] == [0.5, 0.6, 0.7]


# ---------------------------------------------------------------------------------------------- through the run loop

METHODS = ("eigencam", "gradcam", "whole_picture")


@pytest.fixture
def broken_network(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A network that returns NaN for images that it classifies as one of the listed classes."""
    classes: list[int] = []
    plain = eigencam.passes.calls.logits_of

    def spoilt(output: object, count: int | None = None) -> Tensor:
        logits = plain(output, count)
        lost = torch.isin(logits.argmax(1), torch.tensor(classes, dtype=torch.long))
        return torch.where(lost[:, None], torch.nan, logits)

    monkeypatch.setattr(eigencam.passes.calls, "logits_of", spoilt)
    return classes


def results(root: Path, *overrides: str) -> pd.DataFrame:
    few = ["evaluator=[localization,average_drop]", "timing=false", "dataset.count=10"]
    run(config(root, f"method=[{','.join(METHODS)}]", *few, *overrides))
    return collect(root)


def value(long: pd.DataFrame, method: str, metric: str) -> Any:
    (at,) = np.flatnonzero((long["method"] == method) & (long["metric"] == metric))
    return long.iloc[at]


def test_a_network_without_some_answers(tmp_path: Path, broken_network: list[int]) -> None:
    whole = results(tmp_path / "whole")
    broken_network += [3, 4, 5, 6]
    long = results(tmp_path / "broken")
    rows = pd.read_parquet(next((tmp_path / "broken").glob("*-eigencam-localization-*/rows.parquet")))
    lost = (rows["answer_state"] == "nonfinite").to_numpy()
    assert 0 < lost.sum() < 10
    assert [len(top) for top in rows["top5"][lost]] == [0] * lost.sum()
    for method in METHODS[:2]:
        for metric, of in (("drop_100", 1), ("increase_15", -1), ("top1_cls_error", 1)):
            one, other = value(whole, method, metric), value(long, method, metric)
            assert one["n"] == other["n"] == 10
            assert of * (other["value"] - one["value"]) >= (metric != "increase_15")
        assert value(long, method, "top5_cls_error")["value"] >= 100 * lost.mean()
        assert value(long, method, "mean_iou")["value"] == value(whole, method, "mean_iou")["value"] or (
            method == "gradcam"  # its gradient passes through the output
        )
    made = tables(long)
    notes = "\n".join(note for table in made for note in table.notes)
    assert f"{lost.sum()} nonfinite of 10 answers" in notes
    drop = next(t for t in made if "average_drop" in t.title)
    assert not drop.best[drop.frame["method"] == "whole_picture"].to_numpy().any()
    wins = with_wins(tmp_path / "broken", long)
    assert value(wins, "eigencam", "win_100")["value"] + value(wins, "gradcam", "win_100")["value"] <= 200 * (
        1 - lost.mean()
    )
    assert value(wins, "whole_picture", "win_100")["value"] == 0
    assert value(by_prediction(tmp_path / "broken", long), "eigencam", "mean_iou_wrong")["n"] >= lost.sum()


@pytest.mark.full
def test_a_network_without_any_answer(tmp_path: Path, broken_network: list[int]) -> None:
    broken_network += range(1000)
    long = results(tmp_path, "dataset.count=3")
    for metric in ("drop_100", "increase_100", "top1_cls_error", "top5_cls_error"):
        line = value(long, "eigencam", metric)
        assert math.isnan(line["value"]), metric
        assert UNANSWERED in line["note"]
    assert math.isnan(value(with_wins(tmp_path, long), "eigencam", "win_100")["value"])
    assert "not defined: the network has no usable answer" in "\n".join(n for t in tables(long) for n in t.notes)


@pytest.mark.full
def test_without_an_answer_there_is_no_predicted_class_and_no_map_for_it(
    tmp_path: Path, broken_network: list[int]
) -> None:
    broken_network += [3, 4, 5, 6]
    results(tmp_path, "target=predicted", "evaluator=[localization]")
    for method, states in (("gradcam", "nonfinite"), ("eigencam", "ok")):
        rows = pd.read_parquet(next(tmp_path.glob(f"*-{method}-localization-*/rows.parquet")))
        lost = rows["answer_state"] == "nonfinite"
        assert lost.any()
        assert set(rows["map_state"][lost]) == {states}
        assert set(rows["map_state"][~lost]) <= {"ok", "constant"}
        assert method == "eigencam" or set(rows["target"][lost]) == {-1}


@pytest.mark.full
def test_a_method_over_fewer_images_is_named_and_not_marked_as_best(tmp_path: Path) -> None:
    run(config(tmp_path, "method=[eigencam,random]", "evaluator=[localization]", "timing=false", "dataset.count=4"))
    long = collect(tmp_path)
    fewer = (long["method"] == "random") & (long["metric"] == "mean_iou")
    long.loc[fewer, ["value", "n"]] = [99.0, 3]
    (table,) = tables(long)
    assert table.best["mean_iou %"].tolist() == [True, False]
    assert "over fewer images, not marked as best: mean_iou: scenes_resnet/random 3 of 4" in table.notes


def test_class_segmentation_of_several_classes_is_wrong_where_one_has_no_map() -> None:
    truths = [replace(TRUTHS[0], label=label) for label in (0, 1)]
    mask = TRUTHS[0].mask
    assert mask is not None
    maps = [ScoreMap((mask == 1).astype(float), mask.shape), ScoreMap(np.full((2, 2), np.nan), mask.shape)]
    row = EVALUATORS["class_segmentation"].joint_row(maps, truths)
    assert EVALUATORS["class_segmentation"].summary(pd.DataFrame([{"image": "0", **row}]))[0].value == 0
