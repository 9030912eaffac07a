"""Build the wheel, install it into an empty environment outside the clone, together with HF's `datasets`, and run it.

    make wheel
    make dist      also the source distribution, whose tests are collected; both are kept in dist/

A distribution must not install packages called `datasets` or `evaluation`, and must ship every config, weights file and
published number that the clone has. Needs the package index, or uv's cache.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
UV = ROOT / ".venv/bin/uv"
FOLDERS = {"configs/": "eigencam/configs/", "datasets/": "eigencam/datasets/", "evaluation/": "eigencam/evaluation/"}
FOLDERS |= {"results/published/": "eigencam/published/", "eigencam/": "eigencam/"}
INSIDE = """
import datasets, eigencam, eigencam.datasets, eigencam.evaluation, sys
assert hasattr(datasets, "load_dataset"), datasets.__file__
for module in (eigencam, eigencam.datasets, eigencam.evaluation):
    assert module.__file__.startswith(sys.prefix), module.__file__
"""
DEMO = ("method=[eigencam,center_box]", "evaluator=[localization]", "dataset.count=4", "workers=0", "device=cpu")


def expected() -> set[str]:
    """Return the expected content of the wheel, without its metadata, from the files of the clone."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = set()
    for name in listed.splitlines():
        top = next((folder for folder in FOLDERS if name.startswith(folder)), None)
        if top and not name.endswith(".md"):
            found.add(FOLDERS[top] + name.removeprefix(top))
    return found


def check_source(folder: Path, python: Path) -> Path:
    """Build the source distribution, and collect its tests from it; ValueError if it lacks a file of the clone."""
    run(
        UV,
        "build",
        "--quiet",
        "--sdist",
        "--no-build-isolation",
        "--python",
        python,
        "--out-dir",
        folder,
        ROOT,
        cwd=folder,
    )
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder / "source", filter="data")
        held = {name.partition("/")[2] for name in (member.name for member in tar if member.isfile())}
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    if lacking := {name for name in listed.splitlines() if not name.startswith(".typings/")} - held:
        raise ValueError(f"{archive.name} lacks {', '.join(sorted(lacking)[:10])}")
    (source,) = (folder / "source").iterdir()
    run(python, "-m", "pytest", "--collect-only", "--quiet", "--quiet", cwd=source)
    return archive


def run(*words: str | Path, cwd: Path) -> None:
    """Run a command in an environment without the clone."""
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    subprocess.run([str(word) for word in words], cwd=cwd, check=True, env=environment)


def main() -> int:
    """Check the wheel and, with --out, the source distribution; return 1 if the wheel's content differs, else 0."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the wheel, and the source distribution, here")
    out = parser.parse_args().out
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        python = ROOT / ".venv/bin/python"
        shutil.rmtree(ROOT / "build", ignore_errors=True)  # otherwise the wheel would contain modules of earlier builds
        build = (UV, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", python)
        run(*build, "--out-dir", folder, ROOT, cwd=folder)
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            content = {file for file in archive.namelist() if ".dist-info/" not in file}
        if differing := content ^ expected():
            print(f"in the wheel or in the clone only: {', '.join(sorted(differing))}", file=sys.stderr)
            return 1
        inside = folder / "env/bin"
        run(UV, "venv", "--quiet", "--python", python, folder / "env", cwd=folder)
        run(UV, "pip", "install", "--quiet", "--python", inside / "python", wheel, "datasets", cwd=folder)
        run(inside / "python", "-c", INSIDE, cwd=folder)
        run(inside / "eigencam", "run", *DEMO, f"paths.results={folder / 'runs'}", cwd=folder)
        run(inside / "eigencam", "table", "--results", folder / "runs", cwd=folder)
        if out:
            out.mkdir(parents=True, exist_ok=True)
            for made in (wheel, check_source(folder, python)):
                print("written:", shutil.copy(made, out))
    print(f"{wheel.name}: {len(content)} files, installed beside `datasets`, runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
