"""`eigencam check`: draw a dataset's first images with their truth, and count its contents.

    eigencam check dataset=folder dataset.root=photos dataset.boxes=boxes.csv dataset.box_format=xyxy ...
    eigencam check dataset=voc2012 limit=100

Boxes that are in fact x y width height, or masks with other meanings, are easy to see on the sheet.
"""

import argparse
from collections.abc import Iterator
from dataclasses import fields
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from eigencam.configuring import method_names
from eigencam.datasets.base import BadImageError, BadTruthError, Dataset
from eigencam.datasets.checks import checked_truth, truth_faults
from eigencam.reporting import draw
from eigencam.reporting.census import census, lines


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `eigencam check`."""
    add = parser.add_argument
    add("settings", nargs="*", metavar="key=value", help="dataset=NAME and its keys; limit, seed, images")
    add("--show", type=int, default=16, metavar="N", help="number of images to draw")
    add("--decode", action="store_true", help="decode every image, not only the headers")
    add("--out", type=Path, default=Path("checked"), metavar="DIR", help="folder of the sheet")


def main(args: argparse.Namespace) -> int:
    """Print the census and write the sheet; returns 0 if every truth is valid, else 1."""
    from omegaconf import OmegaConf

    from eigencam.configuring.compose import compose
    from eigencam.running.prepare import attempt, build_dataset, stop
    from eigencam.running.run_config import DataConfig, typed

    if strange := [item for item in args.settings if "=" not in item]:
        raise ValueError(f"{' '.join(strange)}: allowed are settings such as dataset=folder dataset.root=photos")
    composed = compose("run", method_names.quoted(args.settings))
    faults: list[str] = []
    config = typed(OmegaConf.masked_copy(composed, [f.name for f in fields(DataConfig)]), DataConfig, faults)
    stop(faults)
    dataset: Dataset = attempt("dataset", faults, build_dataset, config)
    stop(faults)
    with tqdm(total=len(dataset.ids), unit="img", disable=None, leave=False) as bar:
        found = census(dataset, decode=args.decode, seen=lambda: bar.update())
    cells = list(islice(_cells(dataset, found.undecodable), max(args.show, 0)))
    whole = list(truth_faults(dataset, skip=True))
    print("\n".join([*lines(dataset, found), *whole]))
    if cells:
        print(draw.save(draw.sheet(cells), args.out / f"{dataset.name}.png"))
    return 1 if found.refused or found.undecodable or whole else 0


def _cells(dataset: Dataset, undecodable: dict[str, str]) -> Iterator[tuple[draw.RGB, str]]:
    """Images with their truth, in order, and the caption of each; undecodable ones are recorded."""
    for i, one in enumerate(dataset.ids):
        try:
            image = dataset.image(i)
        except BadImageError as error:
            undecodable[one] = str(error)
            continue
        try:
            truth = checked_truth(dataset, i)
        except (BadTruthError, BadImageError):
            yield image, f"{one}: refused"
            continue
        label = dataset.classes[truth.label] if 0 <= truth.label < len(dataset.classes) else ""
        yield draw.with_all_truth(image, truth), f"{one}: {label}" if label else one
