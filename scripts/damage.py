"""Damage result folders at random, by bit flips and truncation, and check that no wrong number is shown.

    python scripts/damage.py --flips 500 --cuts 100

The folder has complete and unfinished results: stubs as in the tests, and results of small real runs. In each round one
file of every result is damaged. Then

* `status`, `table`, `table --by prediction`, `report` and `compare --no-run` end without a traceback, and every line
  that they print for a result is also printed for the undamaged folder, or the result is named and left out;
* a reader that checks hashes names the damaged file;
* the next run repairs every result: identity, config, rows and summary have the bytes of the undamaged ones.

Prints the counts; exits with 1 if anything was wrong.
"""

import argparse
import contextlib
import io
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from runs import config
from stored import finished, half

from eigencam.commands.main import main as eigencam
from eigencam.commands.status import states
from eigencam.reporting.collect import collect
from eigencam.running.run import run
from eigencam.store.reader import read_all
from eigencam.store.schema import CONFIG, CURVES, DAMAGED, IDENTITY, ROWS, SUMMARY

REAL = ["dataset.count=12", "timing=false", "evaluator=[localization]", "flush_s=0", "batch_size=4"]
COMPLETE = [*REAL, "method=[eigencam,gradcam]"]
UNFINISHED = [*REAL, "method=[gradcam,center_box]", "target=predicted"]
KEPT = (IDENTITY, CONFIG, ROWS, SUMMARY, CURVES)
STUBS = 12
SAME = ["dataset.count=12", "timing=false", "flush_s=0", "batch_size=4", "workers=0", "device=cpu"]
SHOWN = (
    ["table", "--format", "csv"],
    ["table", "--format", "csv", "--by", "prediction"],
    ["compare", "eigencam", "gradcam", "--evaluator", "localization", "--no-run", "--format", "json", *SAME],
)


def stubs(root: Path) -> None:
    """Make the missing stub results."""
    for k in range(STUBS):
        finished(root, iou=0.1 * (k + 1), method={"name": f"Method{k}", "version": 1})
        half(root, method={"name": f"Half{k}", "version": 1})


def runs(root: Path, *, whole: bool) -> None:
    """Run the missing results; the second half of the unfinished ones only if `whole`."""
    with contextlib.redirect_stderr(io.StringIO()):
        run(config(root, *COMPLETE), say=lambda _line: None)
        run(config(root, *UNFINISHED, *([] if whole else ["shard=1/2"])), say=lambda _line: None)


def damaged(root: Path, rng: random.Random, cut: Iterator[bool]) -> dict[str, Path]:
    """Damage one file in each result; the file by result."""
    done = {}
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    spared = next(folder for folder in folders if (folder / SUMMARY).exists())  # everything undamaged stays unchanged
    for folder in folders:
        if folder == spared:
            continue
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)
        path = rng.choice([file for file in files if DAMAGED not in file.parts])
        content = bytearray(path.read_bytes())
        try:
            truncates = next(cut)
        except StopIteration:
            break
        if truncates:
            del content[rng.randrange(len(content)) :]
        else:
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        done[folder.name] = path
    return done


def printed(root: Path, command: list[str]) -> tuple[set[str], str]:
    """The lines of a command's output, and everything that it wrote."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        eigencam([*command, "--results", str(root)])
    lines = {line.rpartition(",localization,")[2] for line in out.getvalue().splitlines()}  # without names
    return lines, out.getvalue() + err.getvalue()


def seen(root: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The data of `table` and `status`, by folder."""
    with contextlib.redirect_stderr(io.StringIO()):
        return collect(root).set_index("folder"), states(root)


def plain(states: pd.DataFrame) -> pd.DataFrame:
    """States as texts, without those that report damage."""
    shown = states[states["state"] != "damaged"].drop(columns=["error", "left_s"])
    return shown.assign(pictures=shown["pictures"].astype(float)).astype(str)


def contents(root: Path) -> dict[str, bytes]:
    """The bytes of everything that is equal in all runs."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name in KEPT and DAMAGED not in path.parts
    }


def check(label: str, wrong: Counter[str], test: Callable[[], bool], what: object) -> None:
    """Count and name anything that is wrong."""
    try:
        fine = test()
    except Exception as error:
        fine, what = False, f"{what}: {type(error).__name__}: {error}"
    if not fine:
        wrong[label] += 1
        print(f"{label}: {what}", flush=True)


def one_round(root: Path, whole: Path, files: dict[str, Path], wrong: Counter[str]) -> None:
    """Compare the output for a damaged folder with that for the undamaged one."""
    by_name = {stored.folder.name: stored for stored in read_all(root, hashed=True)}
    for name, path in files.items():
        faults = "\n".join(by_name[name].faults) if name in by_name else ""
        check("not named", wrong, lambda: path.name in faults, path)  # noqa: B023
    for name in by_name.keys() - files.keys():
        check("named without damage", wrong, lambda: not by_name[name].faults, name)  # noqa: B023
    (long, states_now), (want, states_then) = seen(root), seen(whole)
    kept = want.loc[want.index.isin(long.index)]
    columns = ["metric", "value", "low", "high", "n", "cost"]
    check("a number changed", wrong, lambda: long[columns].equals(kept[columns]), "table")
    then, now = (set(map(tuple, plain(frame).to_numpy().tolist())) for frame in (states_then, states_now))
    check("a state changed", wrong, lambda: now <= then, sorted(now - then))
    for command in SHOWN:
        lines_then, _ = printed(whole, command)
        lines_now, everything = printed(root, command)
        check("traceback", wrong, lambda: "Traceback" not in everything, command)  # noqa: B023
        new = lines_now - lines_then
        check("a line changed", wrong, lambda: not new, (command, sorted(new)[:2]))  # noqa: B023
    page = root.parent / "page.html"
    _, everything = printed(root, ["report", "--no-images", "--out", str(page)])
    check("report", wrong, lambda: page.exists() and "Traceback" not in everything, everything[-200:])
    page.unlink(missing_ok=True)


def main() -> int:
    """Damage, check and repair until all is done; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--cuts", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    order = [True] * args.cuts + [False] * args.flips
    rng.shuffle(order)
    cut = iter(order)
    wrong: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        whole, root = Path(folder) / "whole", Path(folder) / "runs"
        stubs(root)
        runs(root, whole=False)
        shutil.copytree(root, whole)
        runs(root, whole=True)
        want = contents(root)
        while sum(kinds.values()) < len(order):
            shutil.rmtree(root, ignore_errors=True)
            shutil.copytree(whole, root)
            files = damaged(root, rng, cut)
            kinds.update(path.suffix + (" part" if path.parent.name == "parts" else "") for path in files.values())
            one_round(root, whole, files, wrong)
            stubs(root)
            runs(root, whole=True)
            found = contents(root)
            for name in want.keys() | found.keys():
                check("not repaired", wrong, lambda: want.get(name) == found.get(name), name)  # noqa: B023
            check("still damaged", wrong, lambda: not any(s.faults for s in read_all(root, hashed=True)), "")
            print(f"{sum(kinds.values())} of {len(order)} damaged, {sum(wrong.values())} wrong", flush=True)
    print(f"{args.flips} flips and {args.cuts} truncations: {dict(sorted(kinds.items()))}; wrong: {dict(wrong) or 0}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
