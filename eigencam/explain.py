"""`eigencam explain`: draw methods' maps over a person's own pictures, or over a dataset's."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from eigencam import draw
from eigencam.datasets.base import Truth
from eigencam.datasets.images import read_rgb
from eigencam.evaluation.maps import ScoreMap, box_of
from eigencam.maps import compute_maps, gives_boxes
from eigencam.prepare import Job, prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `eigencam explain`."""
    parser.add_argument(
        "inputs", nargs="*", metavar="PHOTO|key=value", help="picture files; settings (model.layer=layer3)"
    )
    parser.add_argument(
        "--model",
        default="resnet50",
        metavar="NAME",
        help="an option of `model`, or my_module.build with model.layer=...",
    )
    parser.add_argument("--method", default="eigencam,gradcam", metavar="A,B", help="methods of the `method` group")
    parser.add_argument(
        "--class", dest="label", type=int, metavar="K", help="class the maps are for; else the predicted"
    )
    parser.add_argument("--dataset", default="scenes", metavar="NAME", help="where pictures come from without a PHOTO")
    parser.add_argument("--pictures", type=int, default=6, metavar="N", help="how many of the dataset, spread over it")
    parser.add_argument("--out", type=Path, default=Path("explained"), metavar="DIR", help="where the pictures go")


def main(args: argparse.Namespace) -> int:
    """Write a grid, and for a person's own pictures each overlay; returns 0."""
    from hydra import compose, initialize_config_module

    photos = [Path(item) for item in args.inputs if "=" not in item]
    if missing := [str(path) for path in photos if not path.is_file()]:
        raise FileNotFoundError(f"no such picture: {', '.join(missing)}")
    chosen = [*_model(args.model), f"dataset={args.dataset}", f"method=[{args.method}]"]
    settings = ["target=predicted", "on_unsupported=skip", *(item for item in args.inputs if "=" in item)]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        job = prepare(compose("run", chosen + settings))
    if boxy := [name for name, method in job.methods.items() if gives_boxes(method)]:
        raise ValueError(f"--method {','.join(boxy)}: gives boxes; allowed are methods that give maps")
    if args.label is not None and not job.network.classes:
        raise ValueError(f"--class {args.label}: {job.network.name} has no classifier")
    for name, reason in job.unsupported.items():
        print(f"{name} left out: {reason}")
    if photos:
        named = [(path.stem, read_rgb(path), None) for path in photos]
    else:
        picked = spread(len(job.dataset.ids), args.pictures)
        named = [(job.dataset.ids[i], job.dataset.image(i), job.dataset.truth(i)) for i in picked]
    lines = [_line(job, name, image, truth, args.label) for name, image, truth in named]
    title = photos[0].stem if len(photos) == 1 else "grid" if photos else job.dataset.name
    for (name, _, _), line in zip(named, lines, strict=True):
        for method, score_map in line.maps.items() if photos else ():
            found = box_of(score_map, "max", 0.15)
            shown = draw.with_boxes(draw.overlay(line.image, score_map), found, draw.BLUE)
            path = draw.save(shown, args.out / f"{name}-{job.network.name}-{method}.png")
            box = [round(x) for x in found.tolist() if x == x]
            print(f"{path}  {line.caption}, box {box}")
    print(draw.save(draw.grid(lines), args.out / f"{title}-{job.network.name}.jpg"))
    return 0


def _model(name: str) -> list[str]:
    """Overrides for a network of the group, or of a person's own by dotted name; its classes have no names."""
    if "." not in name:
        return [f"model={name}"]
    short = name.rsplit(".", 1)[-1]
    return ["model=custom", f"model._target_={name}", f"model.name={short}", "model.classes=own"]


def class_names(job: Job) -> Sequence[str]:
    """Names of the network's classes, in order; none where they are not known."""
    if job.comparable:
        return job.dataset.classes
    if job.network.classes == "imagenet":
        from torchvision.models import ResNet50_Weights

        return ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    return ()


def spread(n: int, k: int) -> list[int]:
    """At most `k` of 0..n-1, evenly spread.

    >>> spread(10, 3)
    [1, 5, 8]
    """
    k = min(k, n)
    return [(2 * i + 1) * n // (2 * k) for i in range(k)]


def _line(job: Job, name: str, image: NDArray[np.uint8], truth: Truth | None, label: int | None) -> draw.Line:
    """One picture's maps of every method that can run, with what the network says in words."""
    resized, region = job.network.preprocess(image)
    methods = {m: method for m, method in job.methods.items() if m not in job.unsupported}
    labels = None if label is None else [label]
    found = compute_maps(job.network, methods, torch.from_numpy(resized)[None], labels=labels)
    size = (image.shape[0], image.shape[1])
    maps = {m: ScoreMap(values[0], size, region) for m, values in found.maps.items()}
    known = class_names(job)
    words = [known[k] if k < len(known) else f"class {k}" for k in found.top5[0][:1]]
    if truth and truth.label >= 0:
        words = [f"{job.dataset.classes[truth.label]}", *(f"predicted {w}" for w in words)]
    return draw.Line(image, truth, maps, ", ".join([name, *words]))
