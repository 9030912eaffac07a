"""`eigencam explain`: draw methods' maps over a person's own pictures, or over a dataset's."""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from eigencam.configuring import named
from eigencam.datasets.base import BadImageError, BadTruthError, Dataset, Truth
from eigencam.datasets.checks import checked_truth
from eigencam.datasets.images import read_rgb
from eigencam.datasets.reading import expand
from eigencam.explainer import Explainer, Explanation
from eigencam.passes.forward import answer_states
from eigencam.reporting import draw
from eigencam.reporting.shown import class_names, spread
from eigencam.running.prepare import Job, prepare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `eigencam explain`."""
    parser.add_argument(
        "inputs", nargs="*", metavar="PHOTO|key=value", help="picture files; settings (model.layer=layer3)"
    )
    parser.add_argument(
        "--model",
        default="resnet50",
        metavar="NAME",
        help="an option of `model`, timm/NAME, torchvision/NAME, or my_module.build",
    )
    parser.add_argument(
        "--weights", default="", metavar="FILE", help=".safetensors or .pth file for it, or a name of torchvision's"
    )
    parser.add_argument(
        "--method",
        default="eigencam,gradcam",
        metavar="A,B",
        help="options of `method`, a dotted name, a .py or .yaml file, a folder of maps",
    )
    parser.add_argument(
        "--class", dest="label", type=int, metavar="K", help="class the maps are for; else the predicted"
    )
    parser.add_argument("--dataset", default="scenes", metavar="NAME", help="where pictures come from without a PHOTO")
    parser.add_argument("--pictures", type=int, default=6, metavar="N", help="how many of the dataset, spread over it")
    parser.add_argument("--out", type=Path, default=Path("explained"), metavar="DIR", help="where the pictures go")


def main(args: argparse.Namespace) -> int:
    """Write a grid, and for a person's own pictures each overlay; returns 0."""
    from eigencam.configuring.compose import compose

    if args.pictures < 1:
        raise ValueError(f"--pictures {args.pictures}; allowed: 1 or more")
    photos = [expand(item) for item in args.inputs if "=" not in item]
    if missing := [str(path) for path in photos if not path.is_file()]:
        raise FileNotFoundError(f"no such picture: {', '.join(missing)}")
    options, nodes, _ = named.split(args.method.split(","))
    chosen = [
        *named.model_overrides(args.model, args.weights),
        f"dataset={args.dataset}",
        f"method=[{','.join(options)}]",
    ]
    settings = [
        "target=predicted",
        "on_unsupported=skip",
        "on_bad_truth=skip",
        *(item for item in args.inputs if "=" in item),
    ]
    job = prepare(named.with_methods(compose("run", named.quoted(chosen + settings)), nodes))
    if args.label is not None and not job.network.classes:
        raise ValueError(f"--class {args.label}: {job.network.name} has no classifier")
    if job.network.untrained:
        print(f"{job.network.name}: {job.network.untrained}; its maps say nothing of a trained network")
    for name, reason in job.unsupported.items():
        print(f"{name} left out: {reason}")
    if photos:
        pictures = [(name, read_rgb(path), None) for name, path in zip(distinct(photos), photos, strict=True)]
    else:
        pictures = list(_readable(job.dataset, spread(len(job.dataset.ids), args.pictures)))
    methods = {name: method for name, method in job.methods.items() if name not in job.unsupported}
    if not methods:
        raise ValueError(f"none of the methods can run on {job.network.name}")
    lines = []
    with Explainer(job.network, tf32=(asked := job.config.dtype) == "tf32", autocast=asked == "autocast") as explain:
        for name, image, truth in pictures:
            found = explain(image, methods, target=args.label, name=name)
            caption = _caption(job, name, truth, found)
            lines.append(found.line(caption, truth))
            for method, made in found.items() if photos else ():
                box = made.box()
                path = made.save(args.out / f"{name}-{job.network.name}-{method}.png")
                print(f"{path}  {caption}, box {[round(x) for x in box] if box else 'none'}")
    title = photos[0].stem if len(photos) == 1 else "grid" if photos else job.dataset.name
    print(draw.save(draw.grid(lines), args.out / f"{title}-{job.network.name}.jpg"))
    return 0


def _readable(dataset: Dataset, picked: Iterable[int]) -> Iterator[tuple[str, NDArray[np.uint8], Truth | None]]:
    """Id, image and truth of those that are right; the others are named."""
    for i in picked:
        try:
            yield dataset.ids[i], dataset.image(i), checked_truth(dataset, i)
        except (BadImageError, BadTruthError) as error:
            print(f"left out: {error}")


def distinct(photos: Sequence[Path]) -> list[str]:
    """The files' names without folder and suffix; numbered where they would be the same.

    >>> distinct([Path("a/cat.jpg"), Path("b/cat.jpg")])
    ['cat', 'cat-2']
    """
    names: list[str] = []
    for path in photos:
        again = (f"{path.stem}-{k}" for k in range(2, len(photos) + 2))
        names.append(next(name for name in (path.stem, *again) if name not in names))
    return names


def _caption(job: Job, name: str, truth: Truth | None, found: Explanation) -> str:
    """What the picture is, and what the network says it is."""
    known = class_names(job)
    answered = answer_states(torch.from_numpy(found.logits)[None])[0] == "ok"
    first = found.logits.argsort()[:-2:-1].tolist() if answered else []
    words = [str(known[k]) if k < len(known) else f"class {k}" for k in first]
    if truth and truth.label >= 0:
        words = [job.dataset.classes[truth.label], *(f"predicted {w}" for w in words)]
    return ", ".join([name, *words])
