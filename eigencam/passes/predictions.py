"""What a detector or a segmentation network returns, read and checked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, arange

from eigencam.passes.calls import TargetError


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the network predicts where a target points: a detection, or a class at some pixels.

    Attributes:
        label: number of the predicted class.
        box: x1 y1 x2 y2 of the detection, continuous, in pixels of the image; None for pixels.
        share: share of the pixels of the network's output that belong to the segment, 0..1; None for a detection.
        name: name of the class; "" if it is not known.
    """

    label: int
    box: tuple[float, float, float, float] | None = None
    share: float | None = None
    name: str = ""

    def __str__(self) -> str:
        name = f" ({self.name})" if self.name else ""
        at = "at " + " ".join(f"{v:.1f}" for v in self.box) if self.box else f"at {self.share:.1%} of the pixels"
        return f"label {self.label}{name} {at}"


def detections(output: Any) -> Sequence[Mapping[str, Tensor]]:
    """Return the detections of a detector, one mapping per image."""
    whole = isinstance(output, list | tuple) and bool(output)
    if not whole or not all(isinstance(f, Mapping) and {"boxes", "scores", "labels"} <= f.keys() for f in output):
        raise TargetError(
            f"the target is a box, and the network returns {type(output).__name__}; needed: for each image a dict with "
            "`boxes`, `scores` and `labels`; for other outputs write your own function as target"
        )
    return output


def with_label(found: Mapping[str, Tensor], label: int | None) -> Tensor:
    """Indices of the detections with the label, or of all for None, best first as the network lists them."""
    labels = found["labels"]
    return arange(len(labels), device=labels.device) if label is None else (labels == label).nonzero()[:, 0]


def overlaps_with(boxes: Tensor, box: Sequence[float]) -> Tensor:
    """(K,) intersection over union of (K, 4) boxes with one, all in continuous coordinates."""
    x1, y1, x2, y2 = boxes.double().unbind(1)
    width = (x2.clamp(max=box[2]) - x1.clamp(min=box[0])).clamp(min=0)
    height = (y2.clamp(max=box[3]) - y1.clamp(min=box[1])).clamp(min=0)
    shared = width * height
    return shared / ((x2 - x1) * (y2 - y1) + (box[2] - box[0]) * (box[3] - box[1]) - shared).clamp(min=1e-12)


def dense_logits(output: Any) -> Tensor:
    """(N, K, h, w) logits of a segmentation network: what is called `out` or `logits`, or the output itself."""
    named = (
        next((output[key] for key in ("out", "logits") if key in output), None)
        if isinstance(output, Mapping)
        else output
    )
    maps = getattr(named, "logits", named)
    if not isinstance(maps, Tensor) or maps.ndim != 4:
        shape = f" of shape {tuple(maps.shape)}" if isinstance(maps, Tensor) else ""
        raise TargetError(
            f"the target is a segment, and the network returns {type(output).__name__}{shape}; needed: (N, K, h, w) "
            "logits, alone or as `out`; for other outputs write your own function as target"
        )
    return maps
