"""Loggers are called once for each finished result, and change nothing."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module

from eigencam.evaluation.base import Metric
from eigencam.running.loggers import MLflow, TensorBoard, tell
from eigencam.running.run import run
from eigencam.store.records import Result

NAMES = {"dataset": "scenes", "network": "net", "method": "cam", "evaluator": "pointing"}


class Listener:
    def __init__(self) -> None:
        self.told: list[tuple[str, Mapping[str, str], Mapping[str, float]]] = []

    def log(self, identity: str, names: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        self.told.append((identity, names, metrics))


class Broken:
    def log(self, identity: str, names: Mapping[str, str], metrics: Mapping[str, float]) -> None:
        raise OSError("no server there")


def results(folder: Path, *more: str) -> tuple[list[str], list[str]]:
    """Names of the complete results' folders after a small run, and its output."""
    small = ["method=[whole_picture,random]", "evaluator=[pointing]", "dataset.count=3", "workers=0", "device=cpu"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        config = compose("run", [*small, "timing=false", f"paths.results={folder}", *more])
    said: list[str] = []
    job = run(config, say=said.append)
    assert all(result.complete for result in job.results.values())
    return sorted(result.folder.name for result in job.results.values()), said


@pytest.mark.full
def test_each_result_is_told_once_and_is_the_same_as_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener()
    monkeypatch.setattr(TensorBoard, "log", lambda _self, *told: listener.log(*told))
    plain, _ = results(tmp_path / "a")
    assert not listener.told
    told, _ = results(tmp_path / "b", "logger=tensorboard")
    results(tmp_path / "b", "logger=tensorboard")
    assert plain == told  # a logger is no part of the identity
    assert sorted("-".join([*names.values(), identity]) for identity, names, _ in listener.told) == told
    assert all(0 <= metrics["pointing_accuracy"] <= 100 for _, _, metrics in listener.told)


def test_a_logger_that_fails_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TensorBoard, "log", Broken.log)
    _, said = results(tmp_path, "logger=tensorboard")
    assert sum("logger tensorboard failed (OSError: no server there); the result is in" in line for line in said) == 2


def test_others_are_told_and_only_what_is_defined(tmp_path: Path) -> None:
    nan, listener = float("nan"), Listener()
    metrics = [Metric("iou", 3.0, 2.0, 4.0, 9), Metric("error", nan, nan, nan, 0)]
    result = Result(tmp_path, ("scenes", "net", "cam", "pointing"), {"a": 1})
    tell({"broken": Broken(), "listener": listener}, result, metrics, say=lambda _line: None)
    ((_, names, numbers),) = listener.told
    assert (names, numbers) == (NAMES, {"iou": 3.0})


def test_tensorboard_shows_a_run_for_each_result(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    TensorBoard(str(tmp_path)).log("0123abcdef", NAMES, {"accuracy": 62.5})
    found = EventAccumulator(str(tmp_path / "scenes-net-cam-pointing-0123abcdef"))
    found.Reload()
    (event,) = found.Scalars("pointing/accuracy")
    assert event.value == 62.5


@pytest.mark.full
@pytest.mark.skipif(find_spec("mlflow") is None, reason="needs mlflow-skinny, of the extra `loggers`")
def test_mlflow_has_a_run_for_each_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = MLflow(experiment="mine", uri=tmp_path.as_uri())
    for identity in ("a", "b"):
        logger.log(identity, NAMES, {"iou@0.5": 62.5})
    client = MlflowClient(tmp_path.as_uri())
    experiment = client.get_experiment_by_name("mine")
    assert experiment
    found = client.search_runs([experiment.experiment_id])
    assert {run.data.tags["identity"] for run in found} == {"a", "b"}
    assert all(run.data.metrics == {"iou_0.5": 62.5} for run in found)
    assert found[0].data.tags.items() >= NAMES.items()


@pytest.mark.parametrize("kind", [TensorBoard, MLflow])
def test_a_missing_package_is_told(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eigencam.running.loggers.find_spec", lambda _name: None)
    with pytest.raises(ValueError, match="eigencam-bench\\[loggers\\]"):
        kind("folder")


def test_several_may_be_chosen(tmp_path: Path) -> None:
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        config = compose("run", ["logger=[tensorboard,mlflow]", f"paths.results={tmp_path}"])
    assert list(config.logger) == ["tensorboard", "mlflow"]
    assert config.logger.tensorboard.folder == f"{tmp_path}/.tensorboard"
