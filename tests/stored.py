"""Result folders that tests make by hand, without a network."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from eigencam.evaluation.localization import Localization
from eigencam.store.canonical import checksum
from eigencam.store.examine import published
from eigencam.store.finish import Plan
from eigencam.store.identity import describe
from eigencam.store.records import Result
from eigencam.store.schema import IDENTITY as IDENTITY_FILE
from eigencam.store.schema import ROWS, SUMMARY, Summary
from eigencam.store.seal import read_json, write_json
from eigencam.store.summing import publish, summed_up

IDENTITY: dict[str, Any] = {
    "format": 2,
    "network": {"name": "net", "constructor": {"name": "Net", "version": 1}, "layer": "a", "sha256": "0"},
    "dataset": {"name": "data", "reader": {"name": "Data", "version": 1}, "n": 6},
    "evaluator": describe({"_target_": "eigencam.evaluation.localization.Localization"}),
    "method": {"name": "Method", "version": 1},
    "target": "ground_truth",
    "dtype": "float32",
}
ENVIRONMENT = {"packages": {"torch": "2.7"}, "command": ["eigencam", "run"], "git_commit": "a" * 40, "python": "3.11"}


def plan(n: int) -> Plan:
    """A run's plan for `n` images."""
    return Plan.of([f"{k:04d}" for k in range(n)])


def rows(n: int = 6, start: int = 0, iou: float = 0.6) -> pd.DataFrame:
    """Rows in the form of the localization evaluator."""
    box = {"x1": 0.0, "y1": 0.0, "x2": 9.0, "y2": 9.0}
    line = {"label": 0, "target": 0, "top5": [0, 1], **box, "iou": iou, "map_state": "ok"}
    return pd.DataFrame([{"image": f"{k:04d}", **line} for k in range(start, start + n)])


def result(root: Path, **changes: Any) -> Result:
    """A result before anything is written; `changes` go into its identity."""
    identity = {**IDENTITY, **changes}
    return Result(root, ("data", "net", "method", "localization"), identity)


def finished(root: Path, n: int = 6, iou: float = 0.6, **changes: Any) -> Result:
    """A complete result."""
    made = result(root, **changes)
    made.open("a: 1\n", ENVIRONMENT)
    made.add(rows(n, iou=iou).to_dict("records"))  # type: ignore[arg-type]
    made.flush()
    told, _ = summed_up(Localization(), made.rows())
    made.finish(made.rows(), {"n": n, "target": "ground_truth", **told})
    made.close()
    return made


def reseal(folder: Path, frame: pd.DataFrame) -> None:
    """Replace the rows of a complete result, and seal them in its summary."""
    publish(folder, published(folder), frame)


def rows_of(folder: Path) -> pd.DataFrame:
    """The rows of a complete result."""
    return pd.read_parquet(folder / ROWS)


def restated(folder: Path, change: Callable[[dict[str, Any]], object], **summary: Any) -> Path:
    """Move a complete result to the folder of a changed identity, sealed anew; returns the new folder."""
    identity = read_json(folder / IDENTITY_FILE)
    change(identity)
    told = replace(Summary.read(folder / SUMMARY), result=checksum(identity), **summary)
    moved = folder.rename(folder.parent / "-".join([*told.names, checksum(identity)]))
    write_json(moved / IDENTITY_FILE, identity)
    write_json(moved / SUMMARY, told.stored())
    return moved


def half(root: Path, n: int = 6, **changes: Any) -> Result:
    """A result with rows of some of its images, in several parts, and one that could not be decoded."""
    made = result(root, **changes)
    made.open("a: 1\n", ENVIRONMENT)
    done = set(made.rows()["image"])
    for k, start in enumerate((0, n - 3, n - 1)):
        lines = rows(3 - k, start=start).to_dict("records")
        made.add(line for line in lines if line["image"] not in done)  # type: ignore[misc]
        made.flush()
    made.add_bad("bad_images", f"{n:04d}", "no image")
    made.flush()
    made.close()
    return made
