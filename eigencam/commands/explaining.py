"""The work of `eigencam explain`: methods' maps drawn over your own images, or over a dataset's."""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eigencam.commands.target import parsed
from eigencam.configuring import method_names
from eigencam.datasets.base import BadImageError, BadTruthError, Dataset, Truth
from eigencam.datasets.checks import checked_truth
from eigencam.datasets.names import SUFFIXES
from eigencam.datasets.reading import expand
from eigencam.explainer import Explainer, Explanation
from eigencam.methods.base import Method
from eigencam.networks.classes import class_number
from eigencam.networks.image_inputs import image_files
from eigencam.passes.prediction_states import answer_states
from eigencam.reporting import draw
from eigencam.reporting.explained_dataset import class_names, spread
from eigencam.running.prepare import Job, prepare
from eigencam.targets import Target

IN_A_GRID = 40
"""Maximum number of images in one grid; a folder may have thousands."""


def explain(args: argparse.Namespace) -> int:
    """Write a grid and, for your own images, each overlay; returns 0."""
    from eigencam.configuring.compose import compose

    if args.images < 1:
        raise ValueError(f"--images {args.images}; allowed: 1 or more")
    target = None if args.target is None else parsed(args.target)
    photos, settings = told_apart(args.inputs)
    options, nodes, _ = method_names.split(args.method.split(","))
    chosen = [*method_names.model_overrides(args.model, args.weights), f"dataset={args.dataset}"]
    chosen += [f"method=[{','.join(options)}]", "target=predicted", "on_unsupported=skip", "on_bad_truth=skip"]
    job = prepare(method_names.with_methods(compose("run", method_names.quoted(chosen + settings)), nodes))
    if job.network.untrained:
        print(f"{job.network.name}: {job.network.untrained}; its maps say nothing about a trained network")
    names = class_names(job)
    if args.label is not None and not job.network.classes:
        raise ValueError(f"--class {args.label}: {job.network.name} has no classifier")
    if args.label is not None:
        number = args.label.isdecimal() and args.label not in names
        target = class_number(int(args.label) if number else args.label, names)
    methods = dict(job.methods) if callable(target) else _able(job)
    lines: list[draw.Line] = []
    dtype = job.config.dtype
    with Explainer(
        job.network,
        classes=names,
        upright=args.upright,
        tf32=dtype == "tf32",
        autocast=dtype == "autocast",
        references=() if photos else _DatasetImages(job.dataset),
    ) as explainer:
        for found, truth in _explained(job, explainer, photos, methods, target, args.images):
            caption = _caption(job, found, truth)
            if len(lines) < IN_A_GRID:
                lines.append(found.line(caption, truth))
            for method, made in found.items() if photos else ():
                box = made.box()
                asked = f"-{found.label}".replace(" ", "_").replace(",", "") if callable(target) else ""
                path = made.save(args.out / f"{found.name}-{job.network.name}-{method}{asked}.png")
                print(f"{path}  {caption}, box of the map {[round(x) for x in box] if box else 'none'}")
    if not lines:
        raise ValueError("none of the images can be read")
    title = photos[0].stem if len(photos) == 1 else "grid" if photos else job.dataset.name
    few = f"  (the first {IN_A_GRID} images)" if len(photos) > IN_A_GRID else ""
    print(f"{draw.save(draw.grid(lines), args.out / f'{title}-{job.network.name}.jpg')}{few}")
    return 0


class _DatasetImages(Sequence[Any]):
    """A dataset's images, decoded when one is asked for."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def __len__(self) -> int:
        return len(self._dataset.ids)

    def __getitem__(self, k: Any) -> NDArray[np.uint8]:  # type: ignore[override]  # of one image, no slice
        return self._dataset.image(k)


def told_apart(inputs: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Separate image files (those in folders included) from settings; a file whose name has `=` is a file.

    Raises:
        FileNotFoundError: there is no such file, or no image in a folder.
    """
    photos: list[Path] = []
    settings: list[str] = []
    missing: list[str] = []
    for item in inputs:
        path = Path(item) if Path(item).exists() else expand(item)
        if path.is_dir():
            photos += image_files(path)
        elif path.is_file():
            photos.append(path)
        elif "=" in item and not path.name.lower().endswith(SUFFIXES):
            settings.append(item)
        else:
            missing.append(item)
    if missing:
        raise FileNotFoundError(f"no such image: {', '.join(missing)}")
    return photos, settings


def _able(job: Job) -> dict[str, Method]:
    """The methods that can run on the network; the others are printed with the reason."""
    for name, reason in job.unsupported.items():
        print(f"{name} left out: {reason}")
    methods = {name: method for name, method in job.methods.items() if name not in job.unsupported}
    if not methods:
        raise ValueError(f"none of the methods can run on {job.network.name}")
    return methods


def _explained(
    job: Job,
    explainer: Explainer,
    photos: Sequence[Path],
    methods: Mapping[str, Method],
    target: int | Target | None,
    images: int,
) -> Iterator[tuple[Explanation, Truth | None]]:
    """The maps and ground truth of the photos, or of some of the dataset's images; bad images are printed."""
    for name, path in zip(distinct(photos), photos, strict=True):
        try:
            yield explainer(path, methods, target=target, name=name), None
        except BadImageError as error:
            if len(photos) == 1:
                raise
            print(f"left out: {error}")
    for name, image, truth in [] if photos else _readable(job.dataset, spread(len(job.dataset.ids), images)):
        yield explainer(image, methods, target=target, name=name), truth


def _readable(dataset: Dataset, picked: Iterable[int]) -> Iterator[tuple[str, NDArray[np.uint8], Truth | None]]:
    """Id, image and truth of the valid ones; the others are printed."""
    for i in picked:
        try:
            yield dataset.ids[i], dataset.image(i), checked_truth(dataset, i)
        except (BadImageError, BadTruthError) as error:
            print(f"left out: {error}")


def distinct(photos: Sequence[Path]) -> list[str]:
    """The file names without folder and suffix, numbered where they coincide.

    >>> distinct([Path("a/cat.jpg"), Path("b/cat.jpg")])
    ['cat', 'cat-2']
    """
    names: list[str] = []
    for path in photos:
        again = (f"{path.stem}-{k}" for k in range(2, len(photos) + 2))
        names.append(next(name for name in (path.stem, *again) if name not in names))
    return names


def _caption(job: Job, explanation: Explanation, truth: Truth | None) -> str:
    """The image's label and the network's prediction."""
    known = class_names(job)
    answered = answer_states(torch.from_numpy(explanation.logits)[None])[0] == "ok"
    first = explanation.logits.argsort()[:-2:-1].tolist() if answered else []
    words = [str(known[k]) if k < len(known) else f"class {k}" for k in first]
    if truth and truth.label >= 0:
        words = [job.dataset.classes[truth.label], *(f"predicted {w}" for w in words)]
    if callable(explanation.target):
        predicted = f", {explanation.prediction}" if explanation.prediction else ""
        words.append(f"{explanation.label}: {explanation.score:.3g}{predicted}")
    return ", ".join([explanation.name, *words])
