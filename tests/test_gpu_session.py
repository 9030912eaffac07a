"""What will be measured on a GPU runs, a little of everything, on a CPU."""

import csv
import os
import subprocess
from pathlib import Path

import pytest

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
def test_a_part_is_measured_once(part: int, name: str, columns: set[str], tmp_path: Path) -> None:
    session(part, tmp_path)
    header, *rows = lines(tmp_path / name)
    assert rows
    assert columns <= set(header)
    session(part, tmp_path)
    assert lines(tmp_path / name) == [header, *rows]


def test_the_tests_that_need_a_gpu_are_found(tmp_path: Path) -> None:
    assert "no CUDA device here" in session(1, tmp_path)
    assert "skipped" in (tmp_path / "tests.txt").read_text()


def test_another_part_is_refused(tmp_path: Path) -> None:
    done = subprocess.run([ROOT / "scripts/gpu_session.sh", "4"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "gpu_session.sh 1" in done.stderr
