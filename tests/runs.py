"""Runs of a small network on generated scenes, shared by several tests."""

import copy
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd
from hydra import compose, initialize_config_module
from omegaconf import DictConfig

BASE = ["model=scenes_resnet", "dataset.count=20", "workers=0", "batch_size=8", "device=cpu"]


def config(results: Path, *overrides: str) -> DictConfig:
    made = copy.deepcopy(_composed(overrides))
    made.paths.results = str(results)
    return made


@lru_cache(maxsize=64)
def _composed(overrides: tuple[str, ...]) -> DictConfig:
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        return compose("run", [*BASE, "paths.results=results", *overrides])


def tables(results: Path) -> dict[str, Any]:
    """Rows and metrics of every result, by folder name."""
    found: dict[str, Any] = {}
    for folder in sorted(results.glob("*/")):
        if (folder / "metrics.json").is_file():
            rows = pd.read_parquet(folder / "rows.parquet") if (folder / "rows.parquet").is_file() else None
            found[folder.name] = (None if rows is None else rows.to_json(), (folder / "metrics.json").read_text())
    return found
