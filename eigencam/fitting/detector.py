"""`eigencam fit fit=detector`: train all weights of a torchvision detector on a dataset's boxes.

The detector is the config's network: any module that in train mode returns a dict of losses, given images in 0..1 and
for each a dict of `boxes` and `labels`. Label 0 is the background, and 1 + class an object; objects flagged difficult
are left out. Batch normalisation keeps its statistics. What torchvision samples at random in a step (anchors and boxes)
depends on seed and step alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from eigencam.datasets.base import Dataset, Truth
from eigencam.datasets.boxes import to_half_open
from eigencam.fitting.job import FitJob
from eigencam.fitting.sgd import Descent, descend
from eigencam.fitting.training_images import seed_of
from eigencam.methods.parameter_checks import above_zero, at_least
from eigencam.networks.network import Network
from eigencam.passes.calls import RefusedError
from eigencam.running.loading import Batch
from eigencam.targets import View

KIND = "detector"


@dataclass(frozen=True, slots=True)
class DetectorFit:
    """Trains a detector by stochastic gradient descent (momentum 0.9).

    Attributes:
        file: where the weights go.
        epochs: passes over the images.
        batch_size: images per step.
        lr: learning rate.
        decay: factor of the learning rate, per epoch.
        weight_decay: weight decay of all weights.
        seed: seed of the order of the images, and of what torchvision samples.
    """

    file: str
    epochs: int = 8
    batch_size: int = 8
    lr: float = 0.01
    decay: float = 0.75
    weight_decay: float = 1e-4
    seed: int = 0

    version = 1

    def __post_init__(self) -> None:
        at_least(self, 1, "epochs", "batch_size", prefix="fit.")
        above_zero(self, "lr", prefix="fit.")
        above_zero(self, "decay", most=1, prefix="fit.")

    @property
    def kind(self) -> str:
        """`detector`."""
        return KIND

    @property
    def augment(self) -> bool:
        """False: images are not cropped or mirrored, since the boxes would have to change with them."""
        return False

    def layers_of(self, network: Network) -> list[str]:
        """No layers: the whole network is trained."""
        return []

    def faults(self, network: Network, dataset: Dataset) -> Iterator[str]:
        """Yield faults: a network that is not a detector, or labels that are not its classes."""
        if network.classes != dataset.class_space:
            own = f"those of {network.name} {network.classes}"
            yield f"fit: the classes of {dataset.name} are {dataset.class_space}, {own}"
        blank = torch.zeros(1, *network.preprocess.input_shape, device=network.device)
        try:
            self._losses(network.module, {}, list(blank), [_target(None, None, network.device)], 0)
        except Exception as error:  # any network may raise anything
            words = " ".join(str(error).split())[:200]
            yield (
                f"fit=detector: {network.name} gives no losses of a detector ({type(error).__name__}: {words}); "
                "needed: one of torchvision.models.detection"
            )

    def rate(self, epoch: int) -> float:
        """The learning rate of an epoch, counted from 0."""
        return self.lr * self.decay**epoch

    def fit(self, job: FitJob) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
        """Train, resuming from the last checkpoint."""
        module = job.network.module
        tensors = {name: p.detach().clone().requires_grad_() for name, p in module.named_parameters()}
        groups = [{"params": list(tensors.values()), "factor": 1}]
        optimizer = torch.optim.SGD(groups, self.lr, momentum=0.9, weight_decay=self.weight_decay)
        state = Descent(tensors, optimizer)
        descend(job, self, state)
        buffers = {name: b.detach().clone() for name, b in module.named_buffers() if name in module.state_dict()}
        return {**buffers, **state.tensors}, state.log

    def terms(self, job: FitJob, state: Descent, pixels: Tensor, batch: Batch) -> dict[str, Tensor]:
        """The detector's losses."""
        device, size = job.network.device, job.network.preprocess.shape
        images = job.network.preprocess.normalize(pixels.to(device), job.network.dtype)
        views = [View(size, region) for region in batch.regions]
        targets = [_target(truth, view, device) for truth, view in zip(batch.truths, views, strict=True)]
        return self._losses(job.network.module, state.tensors, list(images), targets, state.step)

    def _losses(
        self,
        module: nn.Module,
        tensors: dict[str, Tensor],
        images: list[Tensor],
        targets: list[dict[str, Tensor]],
        step: int,
    ) -> dict[str, Tensor]:
        """The losses in train mode; batch normalisation stays in eval mode."""
        modes = [(m, m.training) for m in module.modules()]
        try:
            for m, _ in modes:
                m.training = not isinstance(m, nn.modules.batchnorm._BatchNorm)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed_of(self.seed, step, "boxes") % 2**63)
                made = functional_call(module, tensors, (images, targets))
        finally:
            for m, mode in modes:
                m.training = mode
        losses = list(made.values()) if isinstance(made, dict) else []
        if not losses or not all(isinstance(loss, Tensor) and not loss.ndim for loss in losses):
            raise RefusedError(f"it returns {type(made).__name__} in train mode, not a dict of losses")
        return dict(sorted(made.items()))


def _target(truth: Truth | None, view: View | None, device: torch.device) -> dict[str, Tensor]:
    """Half-open boxes in pixels of the input, and their labels, from 1; empty without ground truth."""
    if truth is None or view is None:
        return {"boxes": torch.zeros(0, 4, device=device), "labels": torch.zeros(0, dtype=torch.int64, device=device)}
    kept = ~truth.difficult
    boxes = [view.box(box) for box in to_half_open(truth.boxes[kept]).tolist()]
    height, width = view.size
    placed = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    placed = torch.stack([placed[:, k].clamp(0, (width, height)[k % 2]) for k in range(4)], 1)
    inside = (placed[:, 2] > placed[:, 0]) & (placed[:, 3] > placed[:, 1])
    labels = torch.from_numpy(truth.box_labels[kept] + 1)
    return {"boxes": placed[inside].to(device), "labels": labels[inside].to(device)}
