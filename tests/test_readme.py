"""What the README tells a reader to type works as written."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def block(language: str, containing: str) -> str:
    """The one fenced block of this language that contains a text."""
    found = [b for b in re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL) if containing in b]
    assert len(found) == 1
    return found[0]


def test_the_ten_line_method_runs_as_told(tmp_path: Path) -> None:
    (tmp_path / "my_methods.py").write_text(block("python", "ChannelNorm"))
    configs = tmp_path / "my_configs" / "method"
    configs.mkdir(parents=True)
    (configs / "channel_norm.yaml").write_text(block("yaml", "channel_norm"))
    command = block("sh", "--config-dir my_configs").split()
    assert command[0] == ".venv/bin/eigencam"
    small = ["dataset.count=4", "workers=0", "device=cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "eigencam", *command[1:], *small],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = pd.read_parquet(next(tmp_path.glob("results/runs/*channel_norm-localization*/rows.parquet")))
    assert len(rows) == 4


def test_files_that_the_readme_shows_are_there() -> None:
    for target in re.findall(r"\]\(((?!http)[^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_make_targets_of_the_readme_exist() -> None:
    assert shutil.which("make")
    for target in re.findall(r"^make ([a-z]+)", README, re.MULTILINE):
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def squeezed(line: str) -> str:
    return " | ".join(cell.strip() for cell in line.strip("|").split("|"))


def test_the_numbers_that_the_readme_quotes_are_those_of_the_committed_tables() -> None:
    committed = {squeezed(line) for path in ROOT.glob("results/*/tables.md") for line in path.read_text().splitlines()}
    quoted = [squeezed(line) for line in README.splitlines() if re.match(r"\| \w+ \| \w+ \| .*\[", line)]
    assert len(quoted) > 20
    assert set(quoted) <= committed
