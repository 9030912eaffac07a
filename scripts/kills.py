"""Kill commands at random moments; what they leave is whole, and the next run ends in the bytes of an undisturbed one.

    python scripts/kills.py --kills 20

Each kill (SIGKILL, SIGTERM, SIGINT in turn) hits `run`, a multirun, `fit`, `table --out` or `report --out`. Afterwards
every result can be read and none is damaged, tables and pages are as they were or new, the next run completes what is
missing, and identity, config, rows, summary and fitted weights have the bytes of an undisturbed run. While a run writes
a part after each batch, a reader hashes all that is there, over and over, and finds nothing damaged.

Prints the counts; exits with 1 where something was wrong.
"""

import argparse
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from eigencam.store.reader import read_all
from eigencam.store.schema import CONFIG, IDENTITY, ROWS, SUMMARY

PROGRAM = Path(sys.executable).with_name("eigencam")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SMALL = ["dataset.count=48", "timing=false", "workers=0", "device=cpu", "batch_size=4", "flush_s=0"]
RUN = ["run", *SMALL, "model=scenes_resnet", "method=[eigencam,gradcam]", "evaluator=[localization,segmentation]"]
SWEEP = ["run", "-m", *SMALL, "model=scenes_resnet,scenes_vgg", "method=[eigencam]", "evaluator=[localization]"]
FIT = [
    "fit",
    "fit=broadcam",
    "model=scenes_resnet",
    "dataset=scenes_train",
    "dataset.count=48",
    "workers=0",
    "device=cpu",
]
KEPT = (IDENTITY, CONFIG, ROWS, SUMMARY)


def started(words: list[str], root: Path) -> "subprocess.Popen[bytes]":
    """A command, begun."""
    place = [f"paths.results={root / 'runs'}"] if words[0] in ("run", "fit") else []
    quiet = subprocess.DEVNULL
    return subprocess.Popen([PROGRAM, *words, *place], cwd=root, stdout=quiet, stderr=quiet)


def contents(root: Path) -> dict[str, bytes]:
    """The bytes of all that stays the same from run to run, and no half-written file."""
    found = {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted((root / "runs").rglob("*"))
        if path.is_file() and (path.name in KEPT or path.suffix == ".safetensors" or path.parent.name == "parts")
    }
    left = {str(path): b"" for path in root.rglob(".writing-*")}
    return found | left


def watched(process: "subprocess.Popen[bytes]", root: Path) -> Iterator[str]:
    """What a reader finds damaged while a process writes."""
    while process.poll() is None:
        if (root / "runs").is_dir():
            yield ""
            for stored in read_all(root / "runs", hashed=True):
                yield from stored.faults
        time.sleep(0.02)


def main() -> int:
    """Kill, look, run again; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    wrong: list[str] = []
    counts: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "at"  # the same place each time: configs name it
        spans: dict[str, float] = {}
        whole: dict[str, dict[str, bytes]] = {}
        pages = ["table", "--results", "runs", "--out", "tables"], ["report", "--no-pictures", "--results", "runs"]
        jobs = {"run": RUN, "multirun": SWEEP, "fit": FIT, "table": pages[0], "report": pages[1]}
        for name, words in jobs.items():
            if name in ("run", "multirun", "fit"):
                shutil.rmtree(root, ignore_errors=True)
                root.mkdir()
            begun = time.monotonic()
            process = started(words, root)
            found = list(watched(process, root)) if name == "run" else []
            wrong += [f"while a run wrote: {fault}" for fault in found if fault]
            counts["readings"] += found.count("")
            if process.wait():
                wrong.append(f"{name}: exit status {process.returncode}")
            spans[name], whole[name] = time.monotonic() - begun, contents(root)
            if name == "fit":  # tables and reports are of the run's results
                shutil.rmtree(root)
                root.mkdir()
                started(RUN, root).wait()
        files = {path: path.read_bytes() for path in (root / "report.html", *sorted((root / "tables").iterdir()))}
        kept = Path(folder) / "kept"
        root.rename(kept)
        for k in range(args.kills):
            name = list(jobs)[k % len(jobs)]
            shutil.rmtree(root, ignore_errors=True)
            if name in ("table", "report"):
                shutil.copytree(kept, root)
            else:
                root.mkdir()
            process = started(jobs[name], root)
            time.sleep(spans[name] * rng.uniform(0.3, 1.0))
            counts[f"{name}, ended before" if process.poll() is not None else name] += 1
            process.send_signal(SIGNALS[k % len(SIGNALS)])
            process.wait()
            if (root / "runs").is_dir():
                wrong += [f"after {name}: {f}" for s in read_all(root / "runs", hashed=True) for f in s.faults]
            if name in ("table", "report"):
                wrong += [f"{path.name} is not whole" for path in files if path.read_bytes() != files[path]]
                continue
            if started(jobs[name], root).wait():
                wrong.append(f"{name} again: failed")
            if (now := contents(root)) != whole[name]:
                changed = [n for n in now.keys() | whole[name].keys() if now.get(n) != whole[name].get(n)]
                wrong.append(f"{name}: other bytes than undisturbed: {sorted(changed)}")
            print(f"{k + 1} of {args.kills} killed, {len(wrong)} wrong", flush=True)
    print("\n".join(wrong))
    print(f"{args.kills} kills: {dict(counts)}; wrong: {len(wrong)}")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
