"""Shards of a run, in parallel or in sequence, killed or not, give the tables of the whole run."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from PIL import Image

from eigencam.datasets.base import BadImageError
from eigencam.datasets.scenes import Scenes
from eigencam.running.run import run
from eigencam.store import contradictions, records
from eigencam.store.image_positions import Positions
from eigencam.store.parts import Parts
from eigencam.store.records import Result
from eigencam.store.shards import Shard

BASE = ["dataset.count=40", "workers=0", "batch_size=4", "device=cpu", "flush_s=0", "method=[gradcam,random]"]
BASE += ["evaluator=[localization,pointing]"]


def config(results: Path, *overrides: str) -> DictConfig:
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        return compose("run", [*BASE, f"paths.results={results}", *overrides])


def tables(results: Path) -> dict[str, Any]:
    """Rows and metrics of every complete result, by folder name."""
    return {
        path.parent.name: (pd.read_parquet(path.parent / "rows.parquet").to_json(), path.read_text())
        for path in sorted(results.glob("*/metrics.json"))
    }


@pytest.mark.parametrize("n", [1, 3, 7, 16])
@pytest.mark.parametrize("batches", [0, 1, 16, 23])
def test_shards_are_contiguous_and_together_the_whole(n: int, batches: int) -> None:
    whole = list(range(batches))
    parts = [Shard(k, n).pick(whole) for k in range(1, n + 1)]
    assert [batch for part in parts for batch in part] == whole
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["3", "0/4", "5/4", "a/b", "1/0", "-1/4", "1/4/2"])
def test_a_shard_that_is_none_is_refused_before_the_run(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"shard=.*; allowed: 1/1, or k/n with 1 <= k <= n"):
        run(config(tmp_path, f"shard='{text}'"))


@pytest.mark.full
def test_four_shards_at_a_time_one_killed_and_run_again_give_the_table_of_the_whole(tmp_path: Path) -> None:
    run(config(tmp_path / "whole"))
    shared = tmp_path / "shards"

    def start(k: int) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "eigencam", "run", *BASE, f"paths.results={shared}", f"shard={k}/4"]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    first = start(2)
    while first.poll() is None and not list(shared.glob("*/parts/*.parquet")):
        time.sleep(0.001)
    first.send_signal(signal.SIGKILL)
    first.wait()
    others = [start(k) for k in (1, 3, 4)]
    for process in others:
        assert process.wait() == 0
    assert not tables(shared)
    assert start(2).wait() == 0
    assert tables(shared) == tables(tmp_path / "whole")
    assert len(tables(shared)) == 4
    for folder in shared.glob("*/metrics.json"):
        assert not (folder.parent / "parts").exists()
        assert len(list((folder.parent / "runs").iterdir())) == 5


@pytest.mark.full
def test_any_shard_finishes_what_a_killed_one_left_unfinished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(config(tmp_path / "whole", "dataset.count=20"))
    said: list[str] = []
    run(config(tmp_path / "r", "dataset.count=20", "shard=1/2"), say=said.append)
    assert any("4 results wait for the other shards" in line for line in said)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Result, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            run(config(tmp_path / "r", "dataset.count=20", "shard=2/2"))
    assert not tables(tmp_path / "r")
    run(config(tmp_path / "r", "dataset.count=20", "shard=1/2"))
    assert tables(tmp_path / "r") == tables(tmp_path / "whole")


@pytest.mark.full
def test_what_another_shard_could_not_decode_is_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    job = run(config(tmp_path / "scenes", "dataset.count=8", "method=[random]", "evaluator=[localization]"))
    lines = ["ImageId,PredictionString"]
    (tmp_path / "val").mkdir()
    for k in range(8):
        name = f"ILSVRC2012_val_{k + 1:08d}"
        Image.fromarray(job.dataset.image(k)).save(tmp_path / "val" / f"{name}.JPEG")
        lines.append(f"{name},n{k:08d} 1 1 60 50 ")
    (tmp_path / "LOC_val_solution.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "LOC_synset_mapping.txt").write_text("\n".join(f"n{k:08d} thing {k}" for k in range(1000)) + "\n")
    broken = tmp_path / "val" / "ILSVRC2012_val_00000002.JPEG"
    broken.write_bytes(broken.read_bytes()[:700])
    own = ["dataset=ilsvrc", "dataset.count=null", f"paths.ilsvrc={tmp_path}", "target=predicted", "batch_size=2"]
    for k in (1, 2):
        result = run(config(tmp_path / "r", *own, f"shard={k}/2")).results["random", "localization"]
    assert result.summary
    assert result.summary.n == 7
    assert list(result.summary.bad_images) == ["ILSVRC2012_val_00000002"]


@pytest.mark.full
@pytest.mark.parametrize("shards", [1, 2])
def test_a_result_of_no_image_at_all_is_never_complete(
    shards: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def torn(_self: Scenes, i: int) -> None:
        raise BadImageError(f"{i}.png", "torn")

    options = ["dataset.count=4", "batch_size=2", "method=[random]", "evaluator=[pointing]", "timing=false"]
    with monkeypatch.context() as patch:
        patch.setattr(Scenes, "image", torn)
        for k in range(1, shards):
            run(config(tmp_path, *options, f"shard={k}/{shards}"))
        with pytest.raises(ValueError, match=r"all 4 are left out; 0\.png: torn"):
            run(config(tmp_path, *options, f"shard={shards}/{shards}"))
    assert not tables(tmp_path)
    for k in range(1, shards + 1):
        run(config(tmp_path, *options, f"shard={k}/{shards}"))
    assert len(tables(tmp_path)) == 1


@pytest.mark.full
def test_where_memory_runs_out_batches_and_chunks_are_halved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ["dataset.count=9", "batch_size=8", "timing=false", "method=[gradcam,scorecam]", "evaluator=[pointing]"]
    alone = run(config(tmp_path / "two", *whole, "batch_size=2", "chunk=16"))
    original = torch.nn.Conv2d.forward

    def small(self: Any, x: torch.Tensor) -> torch.Tensor:
        if len(x) > (2 if torch.is_grad_enabled() else 16):  # the pass shared by all; Score-CAM's own passes
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(self, x)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", small)
    said: list[str] = []
    job = run(config(tmp_path / "r", *whole, "chunk=64"), say=said.append)
    assert [line for line in said if "out of memory" in line] == [
        "out of memory; continuing with batch_size=2 chunk=16"
    ]
    for key, result in alone.results.items():
        assert job.results[key].rows()["image"].tolist() == job.dataset.ids
        pd.testing.assert_frame_equal(job.results[key].rows(), result.rows())


@pytest.mark.full
def test_an_image_that_alone_does_not_fit_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(_self: Any, _x: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    from eigencam.running.prepare import prepare

    job = prepare(config(tmp_path, "dataset.count=4"))
    monkeypatch.setattr("eigencam.running.run.prepare", lambda _config: job)
    monkeypatch.setattr(torch.nn.Conv2d, "forward", never)
    with pytest.raises(torch.OutOfMemoryError):
        run(config(tmp_path, "dataset.count=4"))


def merged_by_its_shard(result: Result) -> Callable[[list[Path]], None]:
    """Return a function that, once, puts a result's parts into one, as their shard would."""
    left = [0]

    def move(files: list[Path]) -> None:
        if left:
            left.pop()
            tables, _ = result.parts.tables()
            result.parts.replace(files, pa.concat_tables(tables))

    return move


@pytest.mark.full
@pytest.mark.parametrize("when", ["images", "contradictions", "gather"])
def test_a_part_that_its_shard_merges_while_another_reads_is_read_where_it_is_now(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    run(config(tmp_path / "r", "dataset.count=12", "shard=1/2"))
    job = run(config(tmp_path / "r", "dataset.count=12", "shard=1/2"))
    result = next(iter(job.results.values()))
    positions = Positions(job.dataset.ids)
    before = result.lacking(positions)
    result.parts.replace([], result.parts.tables()[0][0].slice(0, 1))  # a second part, of rows that the first has
    assert len(result.parts.checked()[0]) == 2
    move = merged_by_its_shard(result)
    place: Any = {"images": Parts, "contradictions": contradictions, "gather": records}[when]
    name = {"images": "images", "contradictions": "_repeated", "gather": "gather"}[when]
    original = getattr(place, name)

    def moved_first(*args: Any) -> Any:
        move(result.parts.checked()[0])
        return original(*args)

    monkeypatch.setattr(place, name, moved_first)
    if when == "gather":
        with result.finishing():
            assert result.gathered() is None  # the other shard's images are missing
    else:
        np.testing.assert_array_equal(result.lacking(positions), before)
    assert len(result.parts.checked()[0]) == 1
