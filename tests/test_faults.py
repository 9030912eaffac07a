"""One fault costs one result: the part that raises is named and left out, and the other results are complete."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from runs import config, tables

from eigencam.commands.main import main
from eigencam.datasets.base import BadImageError
from eigencam.datasets.decoding import image_size, read_rgb
from eigencam.evaluation.predictions import read_map
from eigencam.passes.calls import NetworkError
from eigencam.running.faults import PartlyFailedError, blame
from eigencam.running.run import run

SMALL = ["dataset.count=12", "batch_size=4", "flush_s=1000", "timing=false", "method=[random,center_box]"]
MINE = '''"""Parts that raise."""
import torch

from eigencam.evaluation.localization import Localization


class Method:
    def __init__(self, passes=1, how="raise"):
        self.passes, self.how, self.calls = passes, how, 0

    def __call__(self, forward, targets):
        self.calls += 1
        if self.calls > self.passes:
            if self.how == "in place":
                forward.activations().zero_()
            if self.how == "memory":
                raise torch.OutOfMemoryError("CUDA out of memory")
            return {}["no such layer"]  # line 18
        return torch.zeros(len(forward), 4, 4)


class Rows(Localization):
    def row(self, score_map, truth):
        if truth.image_id.endswith("5"):
            raise KeyError("iou")  # line 25
        return super().row(score_map, truth)


class Summary(Localization):
    def summary(self, rows):
        raise RuntimeError("no summary")


class Asks(Localization):
    def rows(self, maps, probe):
        raise ZeroDivisionError
'''


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "raising.py").write_text(MINE)
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("raising", None)  # another test's
    yield folder / "raising.py"
    sys.modules.pop("raising", None)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("undisturbed")
    run(config(root, *SMALL, "evaluator=[localization]"))
    return tables(root)


def failing(root: Path, *overrides: str) -> str:
    """The message of a run in which some results fail."""
    with pytest.raises(PartlyFailedError) as raised:
        run(config(root, *SMALL, "evaluator=[localization]", *overrides))
    return str(raised.value)


def errors(root: Path) -> dict[str, Any]:
    return {path.parent.name: json.loads(path.read_text()) for path in sorted(root.glob("*/error*.json"))}


def test_a_method_that_raises_is_named_and_costs_its_own_result(
    mine: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    root = tmp_path / "r"
    text = failing(root, "+method.boom={_target_: raising.Method}")
    assert "1 results failed" in text
    assert f"method boom: KeyError: 'no such layer' ({mine}, line 18); images: " in text
    assert "(4 images)" in text
    assert undisturbed == tables(root)
    ((name, error),) = errors(root).items()
    assert "-boom-localization-" in name
    assert error["error"].startswith("method boom: KeyError")
    assert "line 18" in error["traceback"]
    rows = pd.concat([pd.read_parquet(path) for path in (root / name / "parts").glob("*.parquet")])
    assert len(rows) == 4  # the batch before


@pytest.mark.full
def test_a_method_that_raises_at_once_stops_nothing_else(mine: Path, tmp_path: Path, undisturbed: Any) -> None:
    failing(tmp_path / "r", "+method.boom={_target_: raising.Method, passes: 0}")
    assert undisturbed == tables(tmp_path / "r")


@pytest.mark.full
def test_maps_made_from_what_a_method_spoilt_are_made_again(mine: Path, tmp_path: Path) -> None:
    methods = ["method=[eigencam]", "+method.boom={_target_: raising.Method, passes: 1, how: in place}"]
    text = failing(tmp_path / "r", *methods, "+method.later={_target_: eigencam.methods.cam.CAM}")
    assert "method boom changes in place what all methods share" in text
    run(config(tmp_path / "alone", *SMALL, "evaluator=[localization]", "method=[eigencam]"))
    assert tables(tmp_path / "alone").items() <= tables(tmp_path / "r").items()
    assert len(tables(tmp_path / "r")) == 2


@pytest.mark.full
def test_where_one_method_alone_runs_out_of_memory_the_others_finish(
    mine: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    boom = "+method.boom={_target_: raising.Method, passes: 0, how: memory}"
    assert "method boom: OutOfMemoryError" in failing(tmp_path / "r", boom, "chunk=1")
    assert undisturbed.keys() == tables(tmp_path / "r").keys()


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("Rows", ["KeyError: 'iou' (", "raising.py, line 25); images: "]),
        ("Summary", ["RuntimeError: no summary"]),
        ("Asks", ["ZeroDivisionError"]),
    ],
)
def test_an_evaluator_that_raises_is_named_and_costs_its_own_results(
    kind: str, said: list[str], mine: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    root = tmp_path / "r"
    text = failing(root, f"+evaluator.boom={{_target_: raising.{kind}}}")
    for part in ["evaluator boom, of method random: ", "evaluator boom, of method center_box: ", *said]:
        assert part in text
    assert undisturbed == tables(root)
    assert len(errors(root)) == 2


@pytest.mark.full
def test_a_fault_of_the_shared_pass_keeps_the_batches_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    original, calls = torch.nn.Conv2d.forward, []

    def third(self: Any, x: torch.Tensor) -> torch.Tensor:
        if self.in_channels == 3 and len(x) == 4:  # a batch; earlier checks of the network use other sizes
            calls.append(len(x))
        if len(calls) > 2:
            raise RuntimeError("device lost")
        return original(self, x)

    with monkeypatch.context() as patch:
        patch.setattr(torch.nn.Conv2d, "forward", third)
        with pytest.raises(NetworkError, match="RuntimeError: device lost"):
            run(config(tmp_path, *SMALL, "evaluator=[localization]"))
    assert [len(pd.read_parquet(path)) for path in tmp_path.glob("*/parts/*.parquet")] == [8, 8]
    assert len(errors(tmp_path)) == 2
    run(config(tmp_path, *SMALL, "evaluator=[localization]"))
    assert tables(tmp_path) == undisturbed
    assert not errors(tmp_path)


@pytest.mark.full
def test_results_without_any_image_that_can_be_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bad(_self: Any, i: int) -> Any:
        raise BadImageError(f"image-{i}", "truncated")

    monkeypatch.setattr("eigencam.datasets.scenes.Scenes.image", bad)
    root = tmp_path / "r"
    with pytest.raises(
        ValueError, match=r"no image of the dataset can be scored: all 3 are left out; image-0: truncated"
    ):
        run(config(root, *SMALL, "dataset.count=3", "evaluator=[localization,pointing]"))
    assert not list(root.glob("*/metrics.json"))
    for command in (["table"], ["report", "--no-images", "--out", str(tmp_path / "page.html")]):
        assert main([*command, "--results", str(root)]) == 2
    assert main(["status", "--results", str(root)]) in (0, 1)
    capsys.readouterr()
    settings = ["random", "center_box", "dataset.count=3", "device=cpu", "workers=0", "batch_size=4", "timing=false"]
    assert main(["compare", *settings, "--results", str(root), "--no-run", "--evaluator", "localization"]) == 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataset_that_raises_is_named_with_the_image(
    workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(_self: Any, _i: int) -> Any:
        return {}["boxes"]

    monkeypatch.setattr("eigencam.datasets.scenes.Scenes.truth", lost)
    with pytest.raises(ValueError, match=r"dataset scenes: KeyError: 'boxes' \(.*test_faults.py, line \d+\); images: "):
        run(config(tmp_path, *SMALL, f"workers={workers}", "evaluator=[localization]"))


def test_only_regular_files_are_images_and_maps(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe.npy")
    for read in (read_rgb, image_size):
        for path in (tmp_path / "pipe.jpg", tmp_path, Path("/dev/zero")):
            with pytest.raises(BadImageError, match="not a regular file"):
                read(path)
    with pytest.raises(ValueError, match=r"pipe\.npy: no regular file"):
        read_map(tmp_path / "pipe.npy")


@pytest.mark.full
def test_output_that_nobody_reads_stops_nothing_and_the_status_says_what_failed(mine: Path, tmp_path: Path) -> None:
    configs = tmp_path / "configs" / "method"
    configs.mkdir(parents=True)
    (configs / "nan.yaml").write_text("nan:\n  _target_: eigencam.methods.baselines.CenterBox\n")
    program = f"{sys.executable} -m eigencam"
    run_them = (
        f"{program} run --config-dir {tmp_path}/configs model=scenes_resnet dataset.count=4 workers=0 device=cpu "
    )
    run_them += "method=[random,nan] evaluator=[localization] '+method.boom={_target_: raising.Method, passes: 0}' "
    lines = [
        f"{run_them} paths.results={tmp_path}/r 2> {tmp_path}/said",
        f"{program} --help",
        f"{program} status --help",
    ]
    states = []
    for line in [*lines, f"{program} status --results {tmp_path}/r"]:
        done = subprocess.run(["bash", "-o", "pipefail", "-c", f"{line} | true"], cwd=mine.parent, check=False)
        states.append(done.returncode)
    assert states == [1, 0, 0, 1]  # one result failed
    said = (tmp_path / "said").read_text()
    assert f"method boom: KeyError: 'no such layer' ({mine}, line 18)" in said
    assert "Traceback" not in said
    assert len(tables(tmp_path / "r")) == 2
    assert len(errors(tmp_path / "r")) == 1


def test_a_message_of_ones_own_stands_as_it_is() -> None:
    assert str(blame("method a", ValueError("method a returned (1, 2)"))) == "method a returned (1, 2)"
    assert str(blame("method a", KeyError())) == "method a: KeyError"
    assert str(blame("method a", ValueError("b"), list("12345"))) == "method a: b; images: 1, 2, 3, ... (5 images)"
