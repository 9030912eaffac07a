r"""The published centre baselines from the ground truth alone, by our evaluators: no image is read, no network runs.

    python scripts/anchors.py --ilsvrc FOLDER --cub FOLDER --voc FOLDER --difficult FILE \
        --out results/published/anchors.csv

Datasets that are not given are left out. `--ilsvrc` and `--cub` are wsolevaluation's `metadata/ILSVRC/test` and
`metadata/CUB/test`. `--voc` is a VOCdevkit; VOC 2007's annotations and the list `ImageSets/Main/test.txt` suffice.
`--difficult` is TorchRay's `pointing_game_ebp_voc07_difficult.txt`.

wsolevaluation (Choe et al., CVPR 2020) reports a "center baseline", an isotropic Gaussian, whose code is not published.
At any threshold its box is a centred square in the network's input, so its width does not matter. Its published
numbers, 52.5 on ILSVRC and 59.7 on CUB, are listed under MaxBoxAccV2. But MaxBoxAccV2 of a
centred square is 53.39 and 56.83, while MaxBoxAcc at IoU 0.5 with only the first listed box of each image reproduces
both numbers. The table has both.

TorchRay's centre is in its `examples/attribution_benchmark.py`: the point (w / 2, h / 2) of the original image.

Columns: `value` in percent, `n` images, or pairs of image and class; `rule` says what was computed.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eigencam.datasets import ilsvrc_sources
from eigencam.datasets.base import Truth
from eigencam.datasets.reading import read_lines
from eigencam.datasets.voc import read_annotation
from eigencam.datasets.wsol_metadata import read_metadata
from eigencam.evaluation import escaping
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.maxboxacc import MaxBoxAcc
from eigencam.evaluation.pointing import Pointing
from eigencam.files import write_text
from eigencam.store.environment import git

SIDE = 224
COLUMNS = ("paper", "table", "dataset", "method", "metric", "value", "n", "rule")


class Anchor(NamedTuple):
    """One row: the position of a published number in `published.csv`, and the value computed from the ground truth."""

    paper: str
    table: str
    dataset: str
    method: str
    metric: str
    value: float
    n: int
    rule: str


@dataclass(frozen=True, slots=True)
class Centre:
    """One interpretation of wsolevaluation's centre.

    Attributes:
        evaluator: the metric.
        at: the centre, in pixels of the input; 111.5 is the middle of 224.
        first: whether only the first box of each image counts.
        rule: in words.
    """

    evaluator: MaxBoxAcc
    at: float
    first: bool
    rule: str


V2 = MaxBoxAcc("all", (0.3, 0.5, 0.7))
CENTRES = (
    Centre(V2, 111.5, False, "MaxBoxAccV2 as for the methods, any box of the image"),
    Centre(
        MaxBoxAcc(),
        112,
        True,
        "MaxBoxAcc at IoU 0.5 with the first listed box of each image alone, centre on pixel 112",
    ),
)


PUBLISHED = (
    ("wsolevaluation2020", "ilsvrc_val", "maxboxaccv2"),
    ("wsolevaluation2020", "cub_test", "maxboxaccv2"),
    ("fcam2022", "cub_test", "maxboxacc"),
)
"""(paper, dataset, metric) under which the centre is published."""


def gaussian(at: float, sigma: float = 56.0) -> NDArray[np.float32]:
    """(SIDE, SIDE): a Gaussian around a point on the diagonal."""
    offset = np.arange(SIDE) - at
    return np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * sigma**2)).astype(np.float32)


def first_box(truth: Truth) -> Truth:
    """The ground truth with only its first box."""
    return replace(truth, boxes=truth.boxes[:1], box_labels=truth.box_labels[:1], difficult=truth.difficult[:1])


def centres(truths: Sequence[Truth], dataset: str) -> Iterator[Anchor]:
    """The centre's accuracy on the images, for each paper that publishes it."""
    for centre in CENTRES:
        score_map = ScoreMap(gaussian(centre.at), (SIDE, SIDE))  # the same for every image
        rows = [centre.evaluator.row(score_map, first_box(t) if centre.first else t) for t in truths]
        metric = centre.evaluator.summary(pd.DataFrame(rows).assign(image=[t.image_id for t in truths]))[0]
        for paper, of, name in PUBLISHED:
            if of == dataset and (name == "maxboxaccv2" or centre.first):
                yield Anchor(paper, "wsol", dataset, "center_gaussian", name, metric.value, metric.n, centre.rule)


def pointing(truths: Iterable[Truth], difficult: str | None) -> Iterator[Anchor]:
    """The pointing game with the point (w / 2, h / 2), every class of an image."""
    evaluator, rows = Pointing(difficult=difficult), []
    for truth in truths:
        height, width = truth.size
        for label in truth.objects():
            one = replace(truth, label=label, foreground="label")
            row = evaluator.row_of_points([width / 2], [height / 2], one)
            rows.append({"image": truth.image_id, "label": label, **row})
    metrics = {metric.name: metric for metric in evaluator.summary(pd.DataFrame(rows))}
    rule = "the point (w / 2, h / 2), as TorchRay's code has it"
    for name, ours in (("pointing_all", "pointing_accuracy"), ("pointing_difficult", "pointing_accuracy_difficult")):
        if ours in metrics:
            metric = metrics[ours]
            yield Anchor("torchray2019", "pointing", "voc07_test", "center", name, metric.value, metric.n, rule)


def of_ilsvrc(root: Path) -> list[Truth]:
    """The ground truth of ILSVRC's validation images, boxes in the order of wsolevaluation's list."""
    found = ilsvrc_sources.read("text", ilsvrc_sources.find("text", root), ilsvrc_sources.find_classes(root))
    made = []
    for name, label in sorted(found.labels.items()):
        boxes = np.array(found.boxes[name], np.float64)
        made.append(Truth(name, found.sizes[name], label, boxes, np.full(len(boxes), label)))
    return made


def of_cub(folder: Path) -> list[Truth]:
    """The ground truth of CUB's test images, in wsolevaluation's form."""
    found = read_metadata(folder, "CUB", "test", 200)
    columns = zip(found.paths, found.sizes.tolist(), found.labels.tolist(), found.boxes, strict=True)
    return [Truth(path, tuple(size), label, boxes, np.full(len(boxes), label)) for path, size, label, boxes in columns]


def of_voc(devkit: Path) -> Iterator[Truth]:
    """The ground truth of VOC 2007's test images, from the annotations alone."""
    folder = devkit / "VOC2007"
    for name in read_lines(folder / "ImageSets/Main/test.txt"):
        found = read_annotation(folder / "Annotations" / f"{name}.xml")
        yield Truth(name, found.size or (0, 0), -1, found.boxes, found.labels, found.difficult, foreground="any")


def main() -> None:
    """Compute and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("ilsvrc", "cub", "voc"):
        parser.add_argument(f"--{name}", type=Path, metavar="FOLDER")
    parser.add_argument("--difficult", metavar="FILE")
    parser.add_argument("--source", action="append", default=[], metavar="TEXT", help="where the truth is from")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    args = parser.parse_args()
    anchors: list[Anchor] = []
    if args.ilsvrc:
        anchors += centres(of_ilsvrc(args.ilsvrc), "ilsvrc_val")
    if args.cub:
        anchors += centres(of_cub(args.cub), "cub_test")
    if args.voc:
        anchors += pointing(of_voc(args.voc), args.difficult)
    given = ("--ilsvrc FOLDER", "--cub FOLDER", "--voc FOLDER", "--difficult FILE")
    given = [option for option in given if getattr(args, option.split()[0].removeprefix("--"))]
    command = " ".join(["python scripts/anchors.py", *given, f"--out {args.out}"])
    sources = "".join(f"# {escaping.one_line(text)}\n" for text in args.source)
    lines = escaping.csv_table([COLUMNS, *((*a[:5], f"{a.value:.2f}", *a[6:]) for a in anchors)])
    write_text(args.out, f"# command: {command}\n{sources}# code {git()['git_commit']}\n{lines}")
    print(lines)


if __name__ == "__main__":
    main()
