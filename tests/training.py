"""Fits of a tiny network on a few scenes, and a training that is killed before its end."""

import multiprocessing
import os
import signal
from pathlib import Path

from hydra import compose, initialize_config_module
from omegaconf import DictConfig

import eigencam.fitting.sgd
from eigencam.fitting.job import fit
from eigencam.networks import fitted
from eigencam.networks.fitted import Fitted

TINY = [
    "model=custom",
    "model.name=tiny",
    "model._target_=toys.TrainedNet",
    "model.layer=relu",
    "model.classes=scenes",
    "model.preprocess.size=28",
    "dataset.count=12",
    "fit.batch_size=5",
    "fit.epochs=2",
    "workers=0",
    "device=cpu",
]


def config(results: Path, *overrides: str, name: str = "fit") -> DictConfig:
    small = [word for word in TINY if name == "fit" or not word.startswith("fit.")]
    if any(word.startswith("model=") for word in overrides):
        small = [word for word in small if not word.startswith("model")]
    if "fit=flim" in overrides:
        small = [word for word in small if not word.startswith("fit.epochs")]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        return compose(name, [*small, f"paths.results={results}", *overrides])


def quiet(_line: str) -> None:
    pass


def fitted_by(results: Path, *overrides: str) -> Fitted:
    """Run a fit, and read its file."""
    return fitted.read(fit(config(results, *overrides), say=quiet))


def killed(results: Path, step: int, *overrides: str) -> Fitted:
    """Kill (SIGKILL) a fit before one of its steps, each of which makes a checkpoint; the same command finishes it."""

    def until_killed() -> None:
        original, steps = eigencam.fitting.sgd._step, 0

        def stopped(*args: object) -> dict[str, float]:
            nonlocal steps
            steps += 1
            if steps == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args)  # type: ignore[arg-type]

        eigencam.fitting.sgd._step, eigencam.fitting.sgd.SAVE_S = stopped, -1.0
        fit(config(results, *overrides), say=quiet)

    process = multiprocessing.get_context("fork").Process(target=until_killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list((results / "fitted").glob("*.checkpoint"))) == 1
    lines: list[str] = []
    path = fit(config(results, *overrides), say=lines.append)
    assert lines[0].startswith("  resuming from epoch")
    return fitted.read(path)
