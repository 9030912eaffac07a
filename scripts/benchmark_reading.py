"""CPU time of `status`, `table` and `report` over many results, of every `--help`, and of a run with nothing to do.

    python scripts/benchmark_reading.py --out results/speed_of_reading.csv

The results are made once, in a temporary folder or `--keep`: every network with every method and five evaluators. The
evaluators compute the rows from random maps and truths; all networks share the same tables. Each command runs in a
process of its own, `--repeats` times, in turn; the time is the process's user and system time, start included. `report`
has no images. It is measured with the curves that are kept beside the rows and, unless `--keep` is given, again
at the end, after the files of these curves have been deleted. Of the subcommands, the table has the one whose `--help`
takes longest, by medians. The run is of embedded scenes whose results are there.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import measuring
import numpy as np
import pandas as pd
from benchmark_evaluators import KINDS, SIZE, truth_of
from omegaconf import OmegaConf

from eigencam.commands.main import SUBCOMMANDS
from eigencam.configuring.compose import compose
from eigencam.evaluation.localization import Localization
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.maxboxacc import MaxBoxAcc
from eigencam.evaluation.pointing import Energy, Pointing
from eigencam.evaluation.segmentation import Segmentation
from eigencam.store.canonical import plain
from eigencam.store.environment import environment
from eigencam.store.identity import describe
from eigencam.store.records import Result
from eigencam.store.schema import CURVES, FORMAT
from eigencam.store.summing import summed_up

EVALUATORS: dict[str, Any] = {
    "localization": Localization(),
    "pointing": Pointing(),
    "energy": Energy(),
    "segmentation": Segmentation(),
    "maxboxacc": MaxBoxAcc(),
}
VARIANTS = 5
"""Number of different tables of rows for each evaluator; methods take them in turn."""
DONE = ["run", "model=scenes_resnet", "dataset=scenes", "dataset.count=16", "method=[eigencam,gradcam]"]


def tables(images: int) -> dict[str, list[pd.DataFrame]]:
    """By evaluator, the rows of `images` images for each variant of the maps."""
    rng = np.random.default_rng(0)
    made: dict[str, list[pd.DataFrame]] = {name: [] for name in EVALUATORS}
    truths = [truth_of(rng) for _ in range(images)]
    for _ in range(VARIANTS):
        maps = [ScoreMap(KINDS["blobs 7"](rng), SIZE) for _ in truths]
        for name, evaluator in EVALUATORS.items():
            rows = [
                {"image": f"{k:04d}", "label": truth.label, "target": truth.label, "top5": [truth.label]}
                | evaluator.row(score_map, truth)
                for k, (score_map, truth) in enumerate(zip(maps, truths, strict=True))
            ]
            made[name].append(pd.DataFrame(rows))
    return made


def make(root: Path, networks: int, methods: int, images: int) -> None:
    """Write the results."""
    config = OmegaConf.to_yaml(compose("run", ["model=scenes_resnet", "dataset=scenes"]), resolve=False)
    where = environment("cpu") | {"command": ["eigencam", "run"]}
    for name, frames in tables(images).items():
        evaluator = EVALUATORS[name]
        described = plain(describe({"_target_": f"{type(evaluator).__module__}.{type(evaluator).__qualname__}"}))
        summaries = [summed_up(evaluator, frame)[0] for frame in frames]
        for k in range(networks * methods):
            network, method = f"net{k // methods}", f"method{k % methods}"
            identity = {
                "format": FORMAT,
                "network": {"name": network, "constructor": {"name": network, "version": 1}, "layer": "layer4"},
                "dataset": {"name": "random", "reader": {"name": "Random", "version": 1}, "n": images},
                "evaluator": described,
                "method": {"name": method, "version": 1},
                "target": "ground_truth",
                "dtype": "float32",
            }
            result = Result(root, ("random", network, method, name), identity, alone=True)
            result.open(config, where)
            summary = {"n": images, "target": "ground_truth", **summaries[k % VARIANTS]}
            result.finish(frames[k % VARIANTS], summary)
            result.keep_curves(evaluator)
            result.close()


def seconds(*words: str, bytecode: Path) -> float:
    """Return the user and system time of a command; the folder `bytecode` caches its compiled modules."""
    variables = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    variables["PYTHONPYCACHEPREFIX"] = str(bytecode)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "eigencam", *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=variables)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=int, default=20)
    parser.add_argument("--methods", type=int, default=20)
    parser.add_argument("--images", type=int, default=100, help="rows of a result")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="make the results there, or use those that are there")
    measuring.add_arguments(parser)
    args = parser.parse_args()
    faults, lines = measuring.faults(args), list[list[object]]()
    with tempfile.TemporaryDirectory() as made:
        root = args.keep or Path(made) / "results"
        if not root.exists():
            make(root, args.networks, args.methods, args.images)
        count, place = sum(path.is_dir() for path in root.iterdir()), ["--results", str(root)]
        report = ["report", "--no-images", "--out", str(Path(made) / "report.html"), *place]
        commands = {"status": ["status", *place], "table": ["table", *place], "report": report}
        measure = partial(seconds, bytecode=Path(made) / "bytecode")
        measure(*report)
        measure(*commands["table"])
        times = {name: [0.0] * args.repeats for name in commands}
        for k in range(args.repeats):
            for name, words in commands.items():
                times[name][k] = measure(*words)
        helps = {f"{name} --help": [measure(name, "--help") for _ in range(args.repeats)] for name in SUBCOMMANDS}
        slowest = max(helps, key=lambda name: statistics.median(helps[name]))
        done = [*DONE, f"paths.results={made}/done", "evaluator=localization"]
        measure(*done)
        started = {slowest: helps[slowest], "run with nothing to do": [measure(*done) for _ in range(args.repeats)]}
        if not args.keep:
            for path in root.glob(f"*/{CURVES}"):
                path.unlink()
            times["report, curves from rows"] = [measure(*report) for _ in range(args.repeats)]
    for name, found in (times | started).items():
        of = [count, args.images] if name in times else ["", ""]
        lines.append([name, *of, args.repeats, *measuring.spread(found)])
        print(*lines[-1], sep="  ", flush=True)
    if args.out:
        names = ["command", "results", "rows", "n", "median_s", "min_s", "max_s"]
        measuring.write(args.out, faults, "CPU seconds of the process, user and system", names, lines)


if __name__ == "__main__":
    main()
