"""Kill commands at random moments, and check that the results are intact and that the next run completes them.

    python scripts/kills.py --kills 20

Each kill (SIGKILL, SIGTERM, SIGINT in turn) hits `run`, a multirun, `fit`, a training, `merge`, `table --out` or
`report --out`. Afterwards every result must be readable and undamaged, and tables and pages must be as before or new.
The same command must complete what is missing, so that identity, config, rows, summary and fitted weights have the
bytes of an undisturbed run. Rows and summaries of a merge of four shards must have the bytes of the run's. While a run
writes a part after each batch, a reader repeatedly hashes all files and must find no damage.

Prints the counts; exits with 1 if anything was wrong.
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
from dataclasses import dataclass, field
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
TRAIN = [word for word in FIT if not word.startswith("fit=")] + ["fit=cam_loss", "fit.epochs=3"]
SHARDS = [f"machine{k}" for k in range(1, 5)]
MERGE = ["merge", *SHARDS, "--into", "runs"]
READERS = ("table", "report")
JOBS = {
    "run": RUN,
    "multirun": SWEEP,
    "fit": FIT,
    "training": TRAIN,
    "merge": MERGE,
    "table": ["table", "--results", "runs", "--out", "tables"],
    "report": ["report", "--no-images", "--results", "runs"],
}
KEPT = (IDENTITY, CONFIG, ROWS, SUMMARY)


def started(words: list[str], root: Path, results: str = "runs") -> "subprocess.Popen[bytes]":
    """Start a command."""
    place = [f"paths.results={root / results}"] if words[0] in ("run", "fit") else []
    quiet = subprocess.DEVNULL
    return subprocess.Popen([PROGRAM, *words, *place], cwd=root, stdout=quiet, stderr=quiet)


def contents(root: Path) -> dict[str, bytes]:
    """The bytes of everything that is equal in all runs, without half-written files."""
    found = {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted((root / "runs").rglob("*"))
        if path.is_file() and (path.name in KEPT or path.suffix == ".safetensors" or path.parent.name == "parts")
    }
    left = {str(path): b"" for path in root.rglob(".writing-*")}
    return found | left


def results_of(found: dict[str, bytes]) -> dict[str, bytes]:
    """The common files of a merge and a run: all but the configs, which name shards and folders."""
    return {name: content for name, content in found.items() if not name.endswith(CONFIG)}


def watched(process: "subprocess.Popen[bytes]", root: Path) -> Iterator[str]:
    """Damage found by a reader while a process writes."""
    while process.poll() is None:
        if (root / "runs").is_dir():
            yield ""
            for stored in read_all(root / "runs", hashed=True):
                yield from stored.faults
        time.sleep(0.02)


@dataclass(slots=True)
class Trial:
    """Commands, their results when undisturbed, and the findings.

    Attributes:
        root: where commands run; always the same folder, since configs contain it.
        kept: a copy of the input of merges, tables and reports.
        spans: duration of each command in seconds.
        whole: result of each command.
        wrong: one line for each fault.
    """

    root: Path
    kept: Path
    spans: dict[str, float] = field(default_factory=dict)
    whole: dict[str, dict[str, bytes]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def undisturbed(self, name: str) -> None:
        """Run a command to its end."""
        if name not in READERS:
            shutil.rmtree(self.root, ignore_errors=True)
            self.root.mkdir()
        for k, shard in enumerate(SHARDS if name == "merge" else (), 1):
            started([*RUN, f"shard={k}/{len(SHARDS)}"], self.root, shard).wait()
        begun = time.monotonic()
        process = started(JOBS[name], self.root)
        found = list(watched(process, self.root)) if name == "run" else []
        self.wrong += [f"while a run wrote: {fault}" for fault in found if fault]
        self.counts["readings"] += found.count("")
        if process.wait():
            self.wrong.append(f"{name}: exit status {process.returncode}")
        self.spans[name], self.whole[name] = time.monotonic() - begun, contents(self.root)
        if name == "merge" and results_of(self.whole[name]) != results_of(self.whole["run"]):
            self.wrong.append("merge: other bytes than those of the run")

    def killed(self, name: str, how: signal.Signals, part: float, files: dict[Path, bytes]) -> None:
        """Kill a command after a part of its duration, check, and run it again."""
        root = self.root
        shutil.rmtree(root, ignore_errors=True)
        if name in ("merge", *READERS):
            shutil.copytree(self.kept, root)
            if name == "merge":
                shutil.rmtree(root / "runs")
        else:
            root.mkdir()
        process = started(JOBS[name], root)
        time.sleep(self.spans[name] * part)
        self.counts[f"{name}, ended before" if process.poll() is not None else name] += 1
        process.send_signal(how)
        process.wait()
        if (root / "runs").is_dir():
            self.wrong += [f"after {name}: {f}" for s in read_all(root / "runs", hashed=True) for f in s.faults]
        if name in READERS:
            self.wrong += [f"{path.name} is not whole" for path in files if path.read_bytes() != files[path]]
            return
        if started(JOBS[name], root).wait():
            self.wrong.append(f"{name} again: failed")
        now, whole = contents(root), self.whole[name]
        if changed := [n for n in now.keys() | whole.keys() if now.get(n) != whole.get(n)]:
            self.wrong.append(f"{name}: other bytes than undisturbed: {sorted(changed)}")


def main() -> int:
    """Kill, check, run again; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        trial = Trial(root := Path(folder) / "at", Path(folder) / "kept")
        for name in JOBS:
            trial.undisturbed(name)
        files = {path: path.read_bytes() for path in (root / "report.html", *sorted((root / "tables").iterdir()))}
        root.rename(trial.kept)
        for k in range(args.kills):
            name = list(JOBS)[k % len(JOBS)]
            trial.killed(name, SIGNALS[(k + k // len(JOBS)) % len(SIGNALS)], rng.uniform(0.3, 1.0), files)
            print(f"{k + 1} of {args.kills} killed, {len(trial.wrong)} wrong", flush=True)
    print("\n".join(trial.wrong))
    print(f"{args.kills} kills: {dict(trial.counts)}; wrong: {len(trial.wrong)}")
    return int(bool(trial.wrong))


if __name__ == "__main__":
    sys.exit(main())
