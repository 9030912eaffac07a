"""Scripts that measure how evaluators scale, and which parts are slower than their references."""

import csv
import subprocess
import sys
from pathlib import Path

import benchmark_compile
import benchmark_evaluators
import benchmark_methods
import benchmark_scaling
import measuring
import pytest
import torch
from torch import nn

from eigencam.store.environment import cores

ROOT = Path(__file__).parents[1]


@pytest.mark.full
def test_threads_and_processes_make_the_same_number_of_rows(tmp_path: Path) -> None:
    script, out = Path(benchmark_scaling.__file__), tmp_path / "scaling.csv"
    words = ["--images", "3", "--workers", "2", "--repeats", "1", "--anyway", "--out", str(out)]
    done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(line for line in out.read_text().splitlines() if not line.startswith("#")))
    assert [(row["kind"], row["workers"]) for row in rows] == [
        (kind, n) for n in "12" for kind in ("threads", "processes")
    ]
    assert {row["cores"] for row in rows} == {str(cores())}
    assert all(float(row["images_a_second"]) > 0 for row in rows)


@pytest.mark.full
def test_commands_that_read_results_are_measured_over_all_of_them(tmp_path: Path) -> None:
    script, out = Path(benchmark_scaling.__file__).with_name("benchmark_reading.py"), tmp_path / "reading.csv"
    words = ["--networks", "1", "--methods", "2", "--images", "3", "--repeats", "1", "--anyway", "--out", str(out)]
    done = subprocess.run([sys.executable, str(script), *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(line for line in out.read_text().splitlines() if not line.startswith("#")))
    names = [row["command"] for row in rows]
    assert names[:4] == ["status", "table", "report", "report, curves from rows"]
    assert names[4].endswith(" --help")
    assert names[5] == "run with nothing to do"
    assert [(row["results"], row["rows"]) for row in rows] == [("10", "3")] * 4 + [("", "")] * 2
    assert all(float(row["median_s"]) > 0 for row in rows)


def test_every_evaluator_that_does_not_run_the_network_has_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {case.name for case in benchmark_evaluators.cases()}
    packaged = {path.stem for path in (ROOT / "configs/evaluator").glob("*.yaml")}
    assert packaged - names == {
        "adcc", "adversarial_deepfool", "average_drop", "fgsm", "infidelity", "label_randomization",
        "max_sensitivity", "part_scores", "pgd", "randomization", "randomization_independent",
    }  # fmt: skip
    out = tmp_path / "speed.csv"
    words = ["--only", "class_segmentation", "--maps", "1", "--repeats", "1", "--anyway", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["benchmark_evaluators.py", *words])
    monkeypatch.setattr(measuring, "busy_cores", lambda: 2.0)
    monkeypatch.setattr(benchmark_evaluators, "keep_freed_memory", lambda: None)
    benchmark_evaluators.main()
    (row,) = csv.DictReader(line for line in out.read_text().splitlines() if not line.startswith("#"))
    assert (row["evaluator"], row["n"], row["reference"]) == ("class_segmentation", "1", "")
    assert float(row["median_ms"]) > 0
    assert "not to be compared: 2.0 cores were busy" in out.read_text()


def test_efficiency_is_over_the_cores_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark_scaling, "cores", lambda: 2)
    rates = {1: 10.0, 2: 18.0, 8: 19.0}
    lines = benchmark_scaling.table(["threads"], [1, 2, 8], 3, lambda _kind, n: rates[n])
    assert [line[:2] for line in lines] == [["threads", 1], ["threads", 2], ["threads", 8]]
    assert [(line[7], line[-1]) for line in lines] == [("1.00", "1.00"), ("1.80", "0.90"), ("1.90", "0.95")]


def test_methods_that_are_slower_than_another_library_s_are_named() -> None:
    lines = [
        ["net", "this", "scorecam", "forwards", "1.100", "", "", ""],
        ["net", "this", "gradcam", "pass", "1.000", "", "", ""],
        ["net", "torchcam", "scorecam", "forwards", "1.050", "", "", ""],
        ["net", "torchcam", "gradcam", "pass", "1.010", "", "", ""],
        ["net", "torchcam", "gradcampp", "pass", "0.500", "", "", ""],
    ]
    assert list(benchmark_methods.slower(lines)) == ["scorecam on net (1.10, torchcam 1.05)"]


@pytest.mark.full
def test_a_compiled_pass_does_not_call_the_hooks_that_methods_read_through() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU()).eval()
    images, compiled = torch.rand(2, 3), torch.compile(module, backend="eager")
    with torch.no_grad():
        compiled(images)
    assert benchmark_compile.hook_arrives(module[0], module, images)
    assert not benchmark_compile.hook_arrives(module[0], compiled, images)
