"""The papers' commands at full size, on generated images: the cost of runs that take days, and their faults.

    python scripts/rehearsal.py DIR --ilsvrc TRUTH --voc2007 test.json --voc2012 val.json train.json \
        --voc2012-ids val.txt --out results/rehearsal.csv
    python scripts/rehearsal.py DIR --ilsvrc TRUTH --only cam2016 --images 40 --minutes 30

Lists, names and sizes are the official ones, the images are generated and the weights are random
(`rehearsal_data.py`), so the numbers in the tables mean nothing; time, memory and files do. Each command is the one in
the header of its experiment, word for word. It is killed twice: when a job has begun, and when it has written rows. The
same command of this script resumes where the last session ended, by `--minutes`, Ctrl-C or a crash.

Inputs: TRUTH, the folder of wsolevaluation's `localization.txt`, `class_labels.txt` and `image_sizes.txt`; lists of
VOC's images in COCO's JSON format; and the ids of the segmentation set. `--weights` names a folder of real weights
files, which are used if they have the requested name. TorchRay's command has methods with thousands of passes per
image: it gets `--costly N` images.

The table has a line for each experiment: seconds of all sessions, CPU seconds, the largest memory of all its processes
together (proportional set size, sampled once per second), files per result, bytes per row, and faults. The papers'
tables are in DIR/tables.
"""

import argparse
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import measuring
import pyarrow.parquet as pq
import rehearsal_data as data

from eigencam.files import write_text
from eigencam.store.reader import read_all
from eigencam.store.schema import PARTS, ROWS

PAPERS = Path(__file__).parents[1] / "configs/experiment/paper"
PROGRAM = Path(sys.executable).with_name("eigencam")
EXPERIMENTS = (
    "eigencam2021_segmentation",
    "eigencam2021_proposals",
    "cam2016",
    "gradcam2017",
    "wsolevaluation2020_ilsvrc",
    "eigencam2021_localization",
    "torchray2019_voc07",
)
COSTLY = "torchray2019_voc07"
FIT = "fit -m fit=classifier model=vgg16,resnet50 dataset=voc2007 dataset.image_set=trainval paths.voc=FOLDER"
"""Arguments that make the classifiers named in TorchRay's command; the images are those of the test set."""
KILLS = 2
POLL = 0.05
"""Seconds between two checks of the results."""
SAMPLE = 1.0
"""Seconds between two checks of the memory."""


@dataclass(slots=True)
class State:
    """The state of an experiment, kept in a file.

    Attributes:
        seconds: of all attempts.
        cpu: CPU seconds of the attempts' main processes and of those they waited for.
        peak: largest memory in bytes.
        kills: number of kills.
        sittings: number of attempts, killed ones included.
        ended: whether the command has finished.
        broke: a line for each fault.
        line: of the table, once it has ended.
        results: names of the folders that it has added.
    """

    seconds: float = 0.0
    cpu: float = 0.0
    peak: int = 0
    kills: int = 0
    sittings: int = 0
    ended: bool = False
    broke: list[str] = field(default_factory=list)
    line: list[Any] = field(default_factory=list)
    results: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Rehearsal:
    """Folders and settings of one."""

    root: Path
    args: argparse.Namespace
    until: float

    @property
    def results(self) -> Path:
        """Folder of all experiments' results."""
        return self.root / "results"

    def environment(self) -> dict[str, str]:
        """Environment variables for the folders of weights and results."""
        places = {"TORCH_HOME": self.root / "torch", "EIGENCAM_WEIGHTS": self.root / "weights"}
        return {**os.environ, **{key: str(path) for key, path in places.items()}, "EIGENCAM_RESULTS": str(self.results)}

    def state(self, name: str) -> State:
        """The state of an experiment."""
        file = self.root / "state" / f"{name}.json"
        return State(**json.loads(file.read_text())) if file.is_file() else State()

    def keep(self, name: str, state: State) -> None:
        """Store the state of an experiment."""
        write_text(self.root / "state" / f"{name}.json", json.dumps(asdict(state), indent=1) + "\n")

    def command(self, name: str) -> list[str]:
        """The experiment's arguments, and those of `--set`."""
        text = re.sub(r"\\\n#\s*", "", _header(name))
        (line,) = re.findall(r"^# eigencam (run experiment=.*)$", text, re.MULTILINE)
        return [*shlex.split(line.replace("FOLDER", str(self.folder(name)))), *self.args.set]

    def folder(self, name: str) -> Path:
        """The folder of an experiment's images."""
        if name == COSTLY:
            return self.root / "costly"
        return self.root / ("ILSVRC" if "paths.ilsvrc" in _header(name) else "VOCdevkit")


def _header(name: str) -> str:
    """The comment that an experiment begins with."""
    return (PAPERS / f"{name}.yaml").read_text().split("\ndefaults:")[0]


def prepare(rehearsal: Rehearsal, names: list[str]) -> dict[str, Any]:
    """Make images, truth and weights once; return what was made."""
    args, file = rehearsal.args, rehearsal.root / "made.json"
    asked = {"images": args.images, "costly": args.costly, "experiments": names, "set": args.set}
    made: dict[str, Any] = json.loads(file.read_text()) if file.is_file() else {}
    if made and made["asked"] != asked:
        raise ValueError(f"{rehearsal.root} was made with {made['asked']}; give {asked} another folder")
    if made:
        return made
    jpegs, counts, start = data.Jpegs(), dict[str, Any](), time.monotonic()
    if any(rehearsal.folder(name).name == "ILSVRC" for name in names):
        counts["ilsvrc"] = data.make_ilsvrc(rehearsal.root / "ILSVRC", _given(args, "ilsvrc"), jpegs, args.images)
    if {"eigencam2021_proposals", COSTLY} & set(names):
        images = list(data.listed(_given(args, "voc2007")).values())
        counts["voc2007"] = data.make_voc(
            rehearsal.root / "VOCdevkit", 2007, "Main", "test", images[: args.images], jpegs
        )
        few = images[: args.costly]
        for image_set in ("test", "trainval") if COSTLY in names else ():
            counts["costly"] = data.make_voc(rehearsal.root / "costly", 2007, "Main", image_set, few, jpegs)
    if "eigencam2021_segmentation" in names:
        images, unknown = data.chosen(data.listed(_given(args, "voc2012")), args.voc2012_ids)
        counts["voc2012"] = data.make_voc(
            rehearsal.root / "VOCdevkit", 2012, "Segmentation", "val", images[: args.images], jpegs
        )
        counts["of unknown size"] = unknown
    hub = rehearsal.root / "torch/hub/checkpoints"
    counts["untrained"] = sorted(set(data.make_weights(models(rehearsal, names), hub, args.weights)))
    made = {"asked": asked, "counts": counts, "seconds": round(time.monotonic() - start, 1)}
    write_text(file, json.dumps(made, indent=1) + "\n")
    return made


def _given(args: argparse.Namespace, name: str) -> Any:
    if not (value := getattr(args, name)):
        raise ValueError(f"--{name} is needed for these experiments; --help says what it is")
    return value


def models(rehearsal: Rehearsal, names: list[str]) -> Iterator[Mapping[str, Any]]:
    """The `model` nodes of all jobs."""
    from omegaconf import OmegaConf

    from eigencam.running.sweep import jobs

    os.environ.update(rehearsal.environment())
    for name in names:
        for _, config in jobs(rehearsal.command(name)[1:]):
            yield OmegaConf.to_container(config.model, resolve=True)  # type: ignore[misc]


def attempt(rehearsal: Rehearsal, state: State, words: list[str], *, kill: bool) -> int | None:
    """Run a command until it ends, is killed, or the session is over; return its exit status, or None."""
    log = rehearsal.root / "log.txt"
    before, start, sampled, cpu = _progress(rehearsal.results), time.monotonic(), 0.0, 0.0
    with log.open("w") as output:
        process = subprocess.Popen(
            [PROGRAM, *words],
            env=rehearsal.environment(),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        while process.poll() is None:
            if time.monotonic() > sampled + SAMPLE:
                sampled, cpu = time.monotonic(), _cpu(process.pid)
                state.peak = max(state.peak, sum(map(_bytes, _family(process.pid))))
            if time.monotonic() > rehearsal.until:
                os.killpg(process.pid, signal.SIGTERM)
                break
            if kill and state.kills < KILLS and _progress(rehearsal.results)[state.kills] != before[state.kills]:
                os.killpg(process.pid, signal.SIGKILL)
                state.kills += 1
                break
            time.sleep(POLL)
        stopped = process.returncode is None
        status = process.wait()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        state.seconds += time.monotonic() - start
        state.cpu += cpu
        state.sittings += 1
    return None if stopped else status


def _progress(results: Path) -> tuple[int, int]:
    """Number of results begun, and of files with rows, finished or not."""
    begun = rows = 0
    for folder in results.glob("*/") if results.is_dir() else ():
        begun += 1
        rows += (folder / ROWS).is_file()
        with suppress(FileNotFoundError):
            rows += sum(1 for _ in (folder / PARTS).iterdir())
    return begun, rows


def _family(pid: int) -> Iterator[int]:
    """A process and all its descendants."""
    yield pid
    with suppress(FileNotFoundError, ProcessLookupError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            for child in (thread / "children").read_text().split():
                yield from _family(int(child))


def _bytes(pid: int) -> int:
    """Memory of a process; shared memory is divided among the processes that share it."""
    with suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    return 0


def _cpu(pid: int) -> float:
    """CPU seconds of a process and its descendants, including those that have ended."""
    ticks = 0
    for one in _family(pid):
        with suppress(FileNotFoundError, ProcessLookupError):
            ticks += sum(map(int, Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")


def rehearse(rehearsal: Rehearsal, name: str) -> State:
    """Run an experiment's command to its end, or to the end of the session."""
    state = rehearsal.state(name)
    while not state.ended and time.monotonic() < rehearsal.until:
        heads = rehearsal.results / "fitted"
        fit = name == COSTLY and not list(heads.glob("*.safetensors"))
        words = shlex.split(FIT.replace("FOLDER", str(rehearsal.folder(name)))) if fit else rehearsal.command(name)
        status = attempt(rehearsal, state, words, kill=not fit)
        if status is not None and (status or not fit):
            state.ended = True
            state.broke += [f"exit status {status}: {_last(rehearsal.root / 'log.txt')}"] if status else []
        rehearsal.keep(name, state)
        print(f"{name}: {state.seconds:.0f} s, killed {state.kills} times, exit status {status}", flush=True)
    return state


def _last(log: Path) -> str:
    return next(iter(log.read_text(errors="replace").strip().splitlines()[-1:]), "no output")


def looked_at(rehearsal: Rehearsal, name: str) -> list[str]:
    """Print the paper's tables into DIR/tables, and verify; a line for each fault."""
    paper, broke = name.split("_")[0], []
    places = ["--results", str(rehearsal.results)]
    for words in (["table", "--paper", paper, *places, "--out", str(rehearsal.root / "tables")],
                  ["verify", str(rehearsal.results)]):  # fmt: skip
        done = subprocess.run(
            [PROGRAM, *words], env=rehearsal.environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            broke.append(f"{words[0]}: {(done.stderr or done.stdout).strip().splitlines()[0]}")
    return broke


def summed_up(rehearsal: Rehearsal, name: str, state: State, before: set[str]) -> None:
    """Make the line of the table, from the results that this experiment has added."""
    stored = [one for one in read_all(rehearsal.results) if one.folder.name not in before]
    files, size, rows = list[int](), 0, 0
    for one in stored:
        files.append(sum(path.is_file() for path in one.folder.rglob("*")))
        if (whole := one.folder / ROWS).is_file():
            size, rows = size + whole.stat().st_size, rows + pq.read_metadata(whole).num_rows
    wrong = [f"{one.folder.name}: {fault}" for one in stored for fault in (*one.errors(), *one.faults)]
    state.results = [one.folder.name for one in stored]
    state.line = [
        name,
        " ".join(["eigencam", *rehearsal.command(name)]).replace(str(rehearsal.root), "DIR"),
        len(stored),
        sum(one.state == "done" for one in stored),
        state.kills,
        state.sittings,
        f"{state.seconds:.0f}",
        f"{state.cpu:.0f}",
        f"{state.peak / 2**20:.0f}",
        median(files) if files else 0,
        f"{size / rows:.1f}" if rows else "",
        "; ".join([*state.broke, *wrong, *looked_at(rehearsal, name)]),
    ]
    rehearsal.keep(name, state)


HEADER = [
    *("experiment", "command", "results", "done", "kills", "sittings", "seconds", "cpu_seconds", "peak_mib"),
    *("files_a_result", "bytes_a_row", "broke"),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="DIR", help="of images, weights, results and tables; kept")
    parser.add_argument("--ilsvrc", type=Path, metavar="TRUTH")
    parser.add_argument("--voc2007", type=Path, nargs="+", metavar="JSON")
    parser.add_argument("--voc2012", type=Path, nargs="+", metavar="JSON")
    parser.add_argument("--voc2012-ids", type=Path, metavar="FILE", help="ids of the segmentation set, one per line")
    parser.add_argument("--weights", type=Path, metavar="FOLDER", help="of real weight files")
    parser.add_argument("--images", type=int, metavar="N", help="only N images of each set")
    parser.add_argument("--costly", type=int, default=1, metavar="N", help="number of images of TorchRay's experiment")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="length of this session")
    parser.add_argument("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), metavar="EXPERIMENT")
    parser.add_argument("--set", nargs="+", default=[], metavar="key=value", help="added to each command")
    measuring.add_arguments(parser, repeats=1)
    args = parser.parse_args()
    rehearsal = Rehearsal(args.root.resolve(), args, time.monotonic() + 60 * args.minutes)
    faults, names = measuring.faults(args), [name for name in EXPERIMENTS if name in args.only]
    made, lines = prepare(rehearsal, names), []
    before: set[str] = set()
    for name in names:
        state = rehearse(rehearsal, name)
        if not state.ended:
            print("this session is over; the same command resumes")
            return
        if not state.line:
            summed_up(rehearsal, name, state, before)
        before |= set(state.results)
        lines.append(state.line)
        print(*lines[-1], sep="  ", flush=True)
    if args.out:
        about = f"generated images, random weights; made: {json.dumps(made['counts'])} in {made['seconds']} s"
        measuring.write(args.out, faults, about, HEADER, lines)


if __name__ == "__main__":
    main()
