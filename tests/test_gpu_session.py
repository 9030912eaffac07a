"""The measurements meant for a GPU run on a CPU, with a little of everything."""

import csv
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.full

ROOT = Path(__file__).parents[1]


def session(part: int, out: Path) -> str:
    command = [str(ROOT / "scripts/gpu_session.sh"), str(part), "--device", "cpu", "--small", "--out", str(out)]
    environment = {**os.environ, "TMPDIR": str(out)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def lines(path: Path) -> list[list[str]]:
    return list(csv.reader(line for line in path.read_text().splitlines() if not line.startswith("#")))


@pytest.mark.parametrize(
    ("part", "name", "columns"),
    [(2, "cost_of_methods.csv", {"library", "time", "memory"}), (3, "speed_of_runs.csv", {"decode", "run", "memory"})],
)
def test_a_part_is_measured(part: int, name: str, columns: set[str], tmp_path: Path) -> None:
    session(part, tmp_path)
    header, *rows = lines(tmp_path / name)
    assert rows
    assert columns <= set(header)


def test_the_tests_that_need_a_gpu_are_found(tmp_path: Path) -> None:
    assert "no CUDA device here" in session(1, tmp_path)
    assert "skipped" in (tmp_path / "tests.txt").read_text()


def test_another_part_is_refused() -> None:
    done = subprocess.run([ROOT / "scripts/gpu_session.sh", "4"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "gpu_session.sh 1" in done.stderr


def test_nothing_is_measured_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["--generate", "3", "--resume", "--out", str(tmp_path / "runs.csv")]
    (tmp_path / "runs.csv").write_text(f"# told\nmachine,command\nCPU,{' '.join(asked)}\n")
    monkeypatch.setattr(sys, "argv", ["benchmark_run.py", *asked])
    runpy.run_path(str(ROOT / "scripts/benchmark_run.py"), run_name="__main__")
    assert "there already" in capsys.readouterr().out
