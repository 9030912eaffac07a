"""How close a run comes to the limits set by decoding and by the network, measured alternately in one process.

    python scripts/benchmark_run.py --generate 600 --model googlenet --out results/speed_of_runs.csv
    python scripts/benchmark_run.py --images /data/ILSVRC --model resnet50 --evaluators localization --out FILE
    python scripts/benchmark_run.py --scenes 10000 --model scenes_resnet --methods eigencam,gradcam --repeats 1

The following alternate `--repeats` times. *decode*: the loader alone (read, decode, resize, hand over; the run's own
workers). *forward*: the network alone on prepared batches, under inference mode. *maps*: loader, network and all
methods, without evaluators. *run*: `eigencam run` from JPEG files to summaries, in an empty folder. It prints the
images per second of each, and the ratio of the run's rate to its limit. On a CPU, where both share the cores, the limit
is 1 / (1 / decode + 1 / forward); on a GPU it is the slower of the two.

The table of `--out` gets a row for each command. `--generate N` writes N JPEGs in the layout of ILSVRC, on all cores:
random textures of 500 x 375, or of the sizes in `--sizes`, a file with `name,width,height` per line. `--keep FOLDER`
keeps them for the next command. With `--resume`, nothing is measured if the file of `--out` already has a row of the
same command. Memory: by how much the main process's largest resident size exceeds that of the first tenth of the run.
`outside`: seconds of the run before the first batch and after the last (checks and summaries), which do not grow with
the images.
"""

import argparse
import csv
import random
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from pathlib import Path

import measuring
import numpy as np
import torch
from omegaconf import DictConfig
from PIL import Image
from rehearsal_data import texture

from eigencam.configuring.compose import compose
from eigencam.running.batch_maps import compute_maps
from eigencam.running.loading import Batch, InputImages, load
from eigencam.running.prepare import Job, prepare
from eigencam.running.run import run
from eigencam.store.environment import git, keep_freed_memory
from eigencam.store.records import Result
from eigencam.store.schema import Run

TEXTURES: list[Image.Image] = []
METHODS = "eigencam,gradcam,gradcampp,xgradcam,layercam"
XML = """<annotation><filename>{name}</filename><size><width>{w}</width><height>{h}</height><depth>3</depth></size>
<object><name>{wnid}</name><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>
</annotation>
"""


def generate(root: Path, count: int, sizes: Path | None) -> None:
    """Images and boxes in the layout of ILSVRC's validation set."""
    from torchvision.models import ResNet50_Weights

    names = [f"ILSVRC2012_val_{i + 1:08d}" for i in range(count)]
    shapes = [(500, 375)] * count
    if sizes:
        lines = [line.split(",") for line in sizes.read_text().split()]
        shapes = [(int(w), int(h)) for _, w, h in (lines[k % len(lines)] for k in range(count))]
    for folder in (*_folders(root), root / "ImageSets/CLS-LOC"):
        folder.mkdir(parents=True, exist_ok=True)
    wnids = [f"n{k:08d}" for k in range(len(ResNet50_Weights.DEFAULT.meta["categories"]))]
    (root / "LOC_synset_mapping.txt").write_text("".join(f"{wnid} class\n" for wnid in wnids))
    draw = np.random.default_rng(0)
    TEXTURES.extend(texture(draw) for _ in range(16))
    jobs = [(root, k, name, shape, wnids) for k, (name, shape) in enumerate(zip(names, shapes, strict=True))]
    with ProcessPoolExecutor(mp_context=get_context("fork")) as pool:
        list(pool.map(_write, jobs, chunksize=64))
    (root / "ImageSets/CLS-LOC/val.txt").write_text("".join(f"{name} {i + 1}\n" for i, name in enumerate(names)))


def _folders(root: Path) -> tuple[Path, Path]:
    """The folders of images and boxes."""
    return root / "Data/CLS-LOC/val", root / "Annotations/CLS-LOC/val"


def _write(job: tuple[Path, int, str, tuple[int, int], list[str]]) -> None:
    """One image with its box."""
    root, k, name, (w, h), wnids = job
    images, boxes = _folders(root)
    draw = random.Random(k)
    x1, y1 = draw.randrange(w // 2), draw.randrange(h // 2)
    content = XML.format(name=name, w=w, h=h, wnid=draw.choice(wnids), x1=x1, y1=y1, x2=x1 + w // 2, y2=y1 + h // 2)
    (boxes / f"{name}.xml").write_text(content)
    whole = draw.choice(TEXTURES)
    if max(w, h) > 1024:
        image = whole.resize((w, h), Image.Resampling.BILINEAR)
    else:
        x, y = draw.randrange(1025 - w), draw.randrange(1025 - h)
        image = whole.crop((x, y, x + w, y + h))
    image.save(images / f"{name}.JPEG", quality=90)


def composed(args: argparse.Namespace, root: str, results: Path) -> DictConfig:
    dataset = ["dataset=scenes", f"dataset.count={args.scenes}"] if args.scenes else ["dataset=ilsvrc"]
    overrides = [f"model={args.model}", *dataset, f"paths.ilsvrc={root}", f"paths.results={results}"]
    overrides += [f"method=[{args.methods}]", f"evaluator=[{args.evaluators}]", f"batch_size={args.batch_size}"]
    overrides += [f"device={args.device}", "timing=false", *args.settings]
    return compose("run", overrides)


def decode(job: Job) -> float:
    start = time.perf_counter()
    for _ in loaded(job):
        pass
    return len(job.dataset.ids) / (time.perf_counter() - start)


def loaded(job: Job) -> Iterator[Batch]:
    size, n = job.config.batch_size, len(job.dataset.ids)
    batches = [list(range(start, min(start + size, n))) for start in range(0, n, size)]
    return load(InputImages(job.dataset, job.network.preprocess), batches, workers=job.config.workers)


def forward(job: Job) -> float:
    network, size, n = job.network, job.config.batch_size, len(job.dataset.ids)
    images = torch.randint(0, 256, (size, 3, *network.preprocess.shape), dtype=torch.uint8)
    with torch.inference_mode():
        network.module(network.preprocess.normalize(images.to(network.device), network.dtype))
        start, done = time.perf_counter(), 0
        while done < n:
            network.module(network.preprocess.normalize(images.to(network.device), network.dtype))
            done += size
        if network.device.type == "cuda":
            torch.cuda.synchronize()
    return done / (time.perf_counter() - start)


def maps(job: Job) -> float:
    start = time.perf_counter()
    for batch in loaded(job):
        labels = [max(truth.label, 0) for truth in batch.truths] if job.comparable else None
        ids = [truth.image_id for truth in batch.truths]
        found = compute_maps(job.network, job.methods, batch.images, labels=labels, index=batch.index, ids=ids)
        assert len(found.maps) == len(job.methods)
    return len(job.dataset.ids) / (time.perf_counter() - start)


@contextmanager
def watched() -> Iterator[list[int]]:
    """The main process's resident size in bytes, ten times a second."""
    seen: list[int] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            seen.append(4096 * int(Path("/proc/self/statm").read_text().split()[1]))

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield seen
    stop.set()
    thread.join()


def _rows(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return list(csv.reader(line for line in file if not line.startswith("#")))


def main() -> None:
    args = arguments()
    command = " ".join(arg for arg in sys.argv[1:] if arg != "--anyway")
    if args.resume and args.out and args.out.is_file() and any(command in row for row in _rows(args.out)):
        print(f"there already: {command}")
        return
    faults = measuring.faults(args)
    keep_freed_memory()  # as a run does, so that the bare passes have it, too
    with tempfile.TemporaryDirectory() as folder:
        root = args.images or str(args.keep or f"{folder}/ilsvrc")
        if args.generate and not Path(root, "ImageSets/CLS-LOC/val.txt").is_file():  # written last
            generate(Path(root), args.generate, args.sizes)
        job = prepare(composed(args, root, Path(folder, "none")))
        rates, tenths = repeated(args, job, root, Path(folder))
    n, memory, gpu = len(job.dataset.ids), max(tenths) / tenths[0] - 1, job.network.device.type == "cuda"
    limits = [min(d, f) if gpu else 1 / (1 / d + 1 / f) for d, f, *_ in rates]
    ratios = [r / limit for (_, _, _, r, _), limit in zip(rates, limits, strict=True)]
    print(f"run over its limit: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}), n = {n}")
    print(f"resident memory: {100 * memory:+.1f} % from the first tenth on; MiB at most in each tenth:", end=" ")
    print(*(f"{most:.0f}" for most in tenths))
    if args.out:
        columns = [measuring.spread(column, 1) for column in zip(*rates, strict=True)]
        said = f"CPU, {torch.get_num_threads()} threads" if not gpu else torch.cuda.get_device_name()
        line = [said, command, git()["git_commit"], n, args.repeats, *(cell for found in columns for cell in found)]
        line += [*measuring.spread(ratios, 3), f"{memory:+.3f}", "; ".join(faults)]
        before = _rows(args.out)[1:] if args.out.is_file() else []
        about = "images per second of decoding, network, all before the evaluators, and run; `outside`: seconds of a "
        about += "run outside its batches; `ratio`: rate/limit; `memory`: growth after the first tenth"
        measuring.write(args.out, [], about, HEADER, [*before, line])


def arguments() -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--images", "--pictures", metavar="ROOT", help="ILSVRC folders, A:B")
    source.add_argument("--generate", type=int, metavar="N")
    source.add_argument("--scenes", type=int, metavar="N", help="generated scenes, drawn instead of decoded")
    parser.add_argument("--sizes", type=Path, metavar="FILE")
    parser.add_argument("--model", default="googlenet")
    parser.add_argument("--methods", default=METHODS, metavar="A,B")
    parser.add_argument("--evaluators", default="localization", metavar="A,B")
    parser.add_argument("--batch-size", default="16", help="a number, or auto")
    parser.add_argument("--device", default="auto")
    measuring.add_arguments(parser)
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="where generated images stay")
    parser.add_argument("--resume", action="store_true", help="skip a command whose row --out already has")
    parser.add_argument("settings", nargs="*", metavar="key=value", help="of eigencam run: workers=8 dtype=bfloat16")
    return parser.parse_args()


def repeated(
    args: argparse.Namespace, job: Job, root: str, folder: Path
) -> tuple[list[tuple[float, ...]], list[float]]:
    """Images per second of `decode`, `forward`, `maps` and run, and the run's seconds outside its batches, by repeat.

    Also the largest MiB in each tenth of the last run.
    """
    n, rates, tenths = len(job.dataset.ids), [], [0.0]
    for repeat in range(args.repeats):
        alone = decode(job), forward(job), maps(job)
        with watched() as seen:
            start = time.perf_counter()
            done = run(composed(args, root, folder / str(repeat)), say=lambda _: None)
            taken = time.perf_counter() - start
        rates.append((*alone, n / taken, taken - max(map(_in_batches, done.results.values()))))
        tenths = [max(part) / 2**20 for part in np.array_split(seen, min(10, len(seen)))]
        text = "images per second: decode {:.1f}, forward {:.1f}, maps {:.1f}, run {:.1f}, {:.1f} s outside the batches"
        print(text.format(*rates[-1]), flush=True)
    return rates, tenths


def _in_batches(result: Result) -> float:
    """Seconds that a run spent in its batches, as it recorded them."""
    return sum(Run.read(path).seconds for path in (result.folder / "runs").glob("*.json"))


HEADER = [
    *("machine", "command", "code", "images", "n"),
    *(
        f"{what}{end}"
        for what in ("decode", "forward", "maps", "run", "outside", "ratio")
        for end in ("", "_min", "_max")
    ),
    *("memory", "not_to_be_compared"),
]


if __name__ == "__main__":
    main()
