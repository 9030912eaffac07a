"""The two passes of VDNet: a detector's results on whole images and on images masked by the ventral map.

    eigencam fit fit=detector model=scenes_detector dataset=scenes_train dataset.count=2000
    python scripts/ventral_dorsal.py --images 200 --out results/ventral_dorsal.csv \
        --weights results/runs/fitted/detector-scenes_detector.safetensors dataset=scenes
    python scripts/ventral_dorsal.py --model vgg16 --detector torchvision.models.detection.fasterrcnn_resnet50_fpn \
        --arguments '{"weights": "DEFAULT"}' --labels coco.txt --images 4952 dataset=voc2007 paths.voc=FOLDER

The ventral network makes the map (`method=ventral_reading`). Pixels below `threshold` times the map's mean are set to
black, and the detector, of torchvision's form, gets the result (M. Ebrahimpour et al., WACV 2019). The paper's
threshold was not accessible: several are tried, and 0 keeps the whole image. The detector is the same for all, and was
not trained on masked images; the paper does not say whether it should be.

Columns: mean average precision at an IoU of 0.5 (VOC's, all points), over `classes` classes. For the detections, and
for the region proposals if the detector has any: the fraction of objects found by one of the first k (`recall50_k`) and
the average recall. The last column is the fraction of pixels that remains visible. `--labels` names the detector's
labels from 1 on, one per line, by the dataset's names; other detections are left out.
"""

import argparse
import csv
import json
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

from eigencam.configuring.compose import compose
from eigencam.datasets.base import Truth
from eigencam.datasets.boxes import clip, from_half_open
from eigencam.datasets.reading import read_lines
from eigencam.evaluation.detection import Detected, detected, mean_average_precision
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.proposals import Proposals
from eigencam.files import replacing
from eigencam.methods.base import maps_of
from eigencam.methods.ventral import Ventral
from eigencam.networks.network import Network
from eigencam.networks.weights import load_weights, weight_file
from eigencam.passes.precision import float32_precision
from eigencam.running.prepare import Job, prepare
from eigencam.store.build import find
from eigencam.store.environment import git

SCENES = "eigencam.networks.detectors.scenes_detector"
RECALL = Proposals(budgets=(1, 10, 100), max_boxes=100)
METRICS = ("recall50_1", "recall50_10", "recall50_100", "ar_10", "ar_100")
COLUMNS = ["network", "detector", "dataset", "images", "threshold", "variance", "pixels_left", "classes", "map50"]
COLUMNS += [f"{of}_{metric}" for of in ("detections", "proposals") for metric in METRICS]


@dataclass(slots=True)
class Tally:
    """Results of one threshold so far."""

    found: list[Detected] = field(default_factory=list)
    detections: list[dict[str, Any]] = field(default_factory=list)
    proposals: list[dict[str, Any]] = field(default_factory=list)
    left: list[float] = field(default_factory=list)


def ventral_map(network: Network, method: Ventral, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the map (H, W) of an image at its size."""
    resized, region = network.preprocess(image)
    forward = network.forward(torch.from_numpy(resized)[None])
    values = maps_of(method, forward, torch.zeros(1, dtype=torch.long))[0].numpy()
    height, width = image.shape[:2]
    return ScoreMap(values, (height, width), region).full


def masked(image: NDArray[np.uint8], values: NDArray[np.float32], threshold: float) -> NDArray[np.uint8]:
    """Return the image, black where the map is below `threshold` times its mean."""
    kept = values >= threshold * values.mean(dtype=np.float64)
    return np.where(kept[..., None], image, np.uint8(0))


def detections(detector: nn.Module, image: NDArray[np.uint8], labels: Sequence[int]) -> list[NDArray[Any]]:
    """Return inclusive boxes (K, 4), scores (K,) and classes (K,), best first.

    Args:
        detector: of torchvision's form, in eval mode.
        image: (H, W, 3).
        labels: class of the dataset by label of the detector, -1 for none.
    """
    (found,) = detector([_tensor(image)])
    classes = torch.tensor(labels)[found["labels"]].numpy()
    boxes = _inclusive(found["boxes"], image)
    order = np.argsort(-found["scores"].numpy(), kind="stable")
    order = order[classes[order] >= 0]
    return [boxes[order], found["scores"].double().numpy()[order], classes[order]]


def region_proposals(detector: Any, image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the inclusive boxes (K, 4) of the detector's region proposal network, best first; empty without one."""
    if not hasattr(detector, "rpn"):
        return np.zeros((0, 4))
    images, _ = detector.transform([_tensor(image)])
    features = detector.backbone(images.tensors)
    boxes, _ = detector.rpn(images, features if isinstance(features, dict) else {"0": features})
    height, width = images.image_sizes[0]
    factors = torch.tensor([image.shape[1] / width, image.shape[0] / height] * 2)
    return _inclusive(boxes[0] * factors, image)


def _tensor(image: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(image).permute(2, 0, 1).float() / 255


def _inclusive(boxes: Tensor, image: NDArray[np.uint8]) -> NDArray[np.float64]:
    return clip(from_half_open(boxes.double().numpy()), (image.shape[0], image.shape[1]))


def measured(
    job: Job, detector: nn.Module, method: Ventral, thresholds: Sequence[float], labels: Sequence[int], count: int
) -> dict[float, Tally]:
    """Return the results of each threshold on images spread over the dataset."""
    tallies = {threshold: Tally() for threshold in thresholds}
    rows = np.linspace(0, len(job.dataset.ids) - 1, count).astype(int).tolist()
    with torch.no_grad(), float32_precision():
        for i in tqdm(rows, unit="img"):
            image, truth = job.dataset.image(i), job.dataset.truth(i)
            values = ventral_map(job.network, method, image)
            for threshold, tally in tallies.items():
                _note(tally, detector, masked(image, values, threshold), truth, labels)
                tally.left.append(float((values >= threshold * values.mean(dtype=np.float64)).mean()))
    return tallies


def _note(tally: Tally, detector: nn.Module, image: NDArray[np.uint8], truth: Truth, labels: Sequence[int]) -> None:
    boxes, scores, classes = detections(detector, image, labels)
    tally.found.append(detected(boxes, scores, classes, truth))
    shared = {"image": truth.image_id, "label": truth.label, "target": truth.label, "top5": []}
    tally.detections.append({**shared, **RECALL.row_of_boxes(boxes, truth)})
    tally.proposals.append({**shared, **RECALL.row_of_boxes(region_proposals(detector, image), truth)})


def line(job: Job, detector: str, method: Ventral, threshold: float, tally: Tally) -> list[object]:
    """Return a row of the table."""
    value, by_class = mean_average_precision(tally.found, len(job.dataset.classes))
    made: list[object] = [job.network.label, detector.rpartition(".")[2], job.dataset.name, len(tally.found)]
    made += [f"{threshold:g}", f"{method.variance:g}", f"{100 * np.mean(tally.left):.1f}", len(by_class)]
    made.append(f"{100 * value:.2f}")
    for rows in (tally.detections, tally.proposals):
        metrics = {metric.name: metric.value for metric in RECALL.summary(pd.DataFrame(rows))}
        made += [f"{metrics[name]:.2f}" for name in METRICS]
    return made


def build(name: str, arguments: dict[str, Any], weights: Path | None) -> nn.Module:
    """Return the detector in eval mode."""
    detector: nn.Module = find(name)(**arguments)
    if weights:
        load_weights(detector, weight_file(str(weights)))
    return detector.eval()


def classes_of(path: Path | None, names: Sequence[str]) -> list[int]:
    """Return the dataset's class by label of the detector; without a file label k is class k - 1."""
    if path is None:
        return [-1, *range(len(names))]
    return [-1, *(names.index(name) if name in names else -1 for name in read_lines(path))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="scenes_resnet", help="the ventral network, of the model group")
    parser.add_argument("--detector", default=SCENES, help="dotted name of the function that builds the detector")
    parser.add_argument("--arguments", type=json.loads, default={}, help="of that, JSON")
    parser.add_argument("--weights", type=Path, help="of the detector")
    parser.add_argument("--labels", type=Path, help="text file with the names of the detector's labels, from 1 on")
    parser.add_argument("--images", type=int, default=100, help="spread over the dataset")
    parser.add_argument(
        "--thresholds", default="0,0.25,0.5,0.75,1", help="factors of the map's mean, separated by commas"
    )
    parser.add_argument("--variance", type=float, default=30.0, help="of the map's Gaussian")
    parser.add_argument("--out", type=Path, help="CSV; without it the table is printed only")
    args, overrides = parser.parse_known_args()
    words = [f"model={args.model}", "method=[ventral_reading]", "evaluator=[energy]", *overrides]
    job, method = prepare(compose("run", words)), Ventral(args.variance)
    detector = build(args.detector, args.arguments, args.weights)
    thresholds = [float(word) for word in args.thresholds.split(",")]
    labels = classes_of(args.labels, job.dataset.classes)
    tallies = measured(job, detector, method, thresholds, labels, args.images)
    table = [line(job, args.detector, method, threshold, tally) for threshold, tally in tallies.items()]
    csv.writer(sys.stdout).writerows([COLUMNS, *table])
    if args.out:
        command = shlex.join(re.sub(r"(^|=)/\S*/", r"\1FOLDER/", word) for word in sys.argv)
        with replacing(args.out) as beside, beside.open("w", newline="") as file:
            file.write(f"# command: python {command}\n# {platform.machine()}, torch {torch.__version__}, ")
            file.write(f"code {git()['git_commit']}\n")
            csv.writer(file).writerows([COLUMNS, *table])


if __name__ == "__main__":
    main()
