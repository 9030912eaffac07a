"""`eigencam fit fit=pseudo_boxes`: one box per image in place of the ground truth, made without annotated boxes.

Selective search proposes regions (`eigencam.methods.selective_search`). The network classifies each of the first
`count` proposals, cropped and resized as an image of its own. The image's box is the proposal with the highest
probability of the image's label; of equal ones, the first. The boxes are also written as `path,x0,y0,x1,y1` to a list
beside `file`, with the suffix `.txt`. An evaluator's option `pseudo` reads the list, to choose a threshold without
ground-truth boxes.

    eigencam fit fit=pseudo_boxes model=resnet50 dataset=ilsvrc paths.ilsvrc=/data/ILSVRC
    eigencam run model=resnet50 dataset=ilsvrc evaluator=[maxboxacc] evaluator.maxboxacc.pseudo=FILE.txt

Reference: S. Murtaza et al., "A realistic protocol for evaluation of weakly supervised object localization", WACV 2025.
They choose thresholds and models with boxes of selective search, among others, and publish one box per image. Neither
the paper nor the code says which proposal is taken; the rule above is ours.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from eigencam.datasets.base import Dataset
from eigencam.datasets.boxes import Boxes
from eigencam.datasets.completeness import some
from eigencam.files import write_text
from eigencam.fitting.job import FitJob
from eigencam.methods.selective_search import SelectiveSearch, enlarged, reduced
from eigencam.networks.network import Network
from eigencam.transfer import to_host

KIND = "pseudo_boxes"
_WRITTEN_EVERY = 64
"""Images between two checkpoints."""


@dataclass(frozen=True, slots=True)
class PseudoBoxFit:
    """Chooses a proposal for each image that has a label; see the module.

    Attributes:
        file: where the boxes go; the list is beside it.
        count: proposals of each image that the network classifies.
        search: makes the proposals.
        batch_size: proposals per batch.
        side: a larger image is reduced to this longest side for the search, whose memory grows with the pixels (R-CNN
            reduces to a width of 500, too); the network sees the image itself.
    """

    file: str
    count: int = 50
    search: SelectiveSearch = field(default_factory=SelectiveSearch)
    batch_size: int = 50
    side: int = 500

    version = 1

    def __post_init__(self) -> None:
        for name in ("count", "batch_size", "side"):
            if getattr(self, name) < 1:
                raise ValueError(f"fit.{name}={getattr(self, name)}; allowed: 1 or more")

    @property
    def kind(self) -> str:
        """`pseudo_boxes`."""
        return KIND

    def layers_of(self, network: Network) -> list[str]:
        """No layers."""
        return []

    def faults(self, network: Network, dataset: Dataset) -> Iterator[str]:
        """Yield faults: labels that are not the network's classes, ids that cannot be written to the list."""
        if network.classes != dataset.class_space:
            yield (
                f"fit: the classes of {dataset.name} ({dataset.class_space}) are not those of {network.name} "
                f"({network.classes}), so it cannot say which proposal is of an image's class"
            )
        if odd := [name for name in dataset.ids if "," in name or "\n" in name]:
            yield f"fit: {len(odd)} ids of {dataset.name} contain a comma, e.g. {some(odd)}; a list cannot hold them"

    def fit(self, job: FitJob) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Choose a box for each image, resuming from the checkpoint; write the list as well."""
        boxes = _kept(job)
        grid = [[i] for i in range(len(job.dataset.ids)) if i not in boxes]
        with tqdm(total=len(grid), desc=f"{KIND} by {job.network.name}", unit="img") as bar:
            for n, batch in enumerate(job.batches(grid, job.network.preprocess), 1):
                (i,), (truth,) = batch.index, batch.truths
                boxes[i] = np.zeros((0, 4))
                if truth.label >= 0:
                    boxes[i] = self.chosen(job.network, job.dataset.image(i), truth.label, i)
                if n % _WRITTEN_EVERY == 0:
                    write_text(job.checkpoint, "".join(f"{k} {_words(box, ' ')}\n" for k, box in boxes.items()))
                bar.update()
        found = {i: boxes[i] for i in sorted(boxes) if len(boxes[i])}
        if not found:
            raise ValueError(f"no image of {job.dataset.name} has both a label and a proposal")
        lines = [f"{job.dataset.ids[i]}.jpg,{_words(box, ',')}\n" for i, box in found.items()]
        write_text(job.file.with_suffix(".txt"), "".join(lines))
        tensors = {"position": torch.tensor(list(found)), "box": torch.from_numpy(np.concatenate(list(found.values())))}
        return tensors, [{"images": len(found), "without": len(job.dataset.ids) - len(found)}]

    def chosen(self, network: Network, image: NDArray[np.uint8], label: int, position: int) -> Boxes:
        """(1, 4) inclusive: the proposal with the highest probability of the class; (0, 4) without proposals.

        Args:
            network: classifies the proposals.
            image: (H, W, 3) uint8 RGB.
            label: the image's class.
            position: position of the image in the dataset, which is the seed of the proposals' order.
        """
        searched, scale = reduced(image, self.side)
        proposals = self.search.proposals(searched, torch.tensor([position]))[: self.count, :4]
        proposals = enlarged(proposals, scale)
        crops = [_cut(network, image, box) for box in proposals]
        if not crops:
            return np.zeros((0, 4))
        shares = [
            network.forward(torch.stack(crops[k : k + self.batch_size])).logits.softmax(1)[:, label]
            for k in range(0, len(crops), self.batch_size)
        ]
        (found,) = to_host(torch.cat(shares))()
        return proposals[[int(found.nan_to_num(-1).argmax())]]


def _cut(network: Network, image: NDArray[np.uint8], box: NDArray[np.float64]) -> Tensor:
    """(3, h, w) uint8: the inside of a box as the network's input."""
    x0, y0, x1, y1 = box.astype(int)
    return torch.from_numpy(network.preprocess(np.ascontiguousarray(image[y0 : y1 + 1, x0 : x1 + 1]))[0])


def _words(boxes: Boxes, between: str) -> str:
    """The corners of the one box; "" without one."""
    return between.join(f"{corner:g}" for corner in boxes.ravel())


def _kept(job: FitJob) -> dict[int, Boxes]:
    """The boxes in the checkpoint of an interrupted process, by position."""
    if not job.checkpoint.is_file():
        return {}
    lines = [line.split() for line in job.checkpoint.read_text().splitlines()]
    return {int(position): np.array(corners, np.float64).reshape(-1, 4) for position, *corners in lines}
