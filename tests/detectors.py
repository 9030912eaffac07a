"""Small networks of torchvision's detection and segmentation code, with random weights, and a YOLO-style one."""

from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torchvision.models import detection
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.retinanet import RetinaNet
from torchvision.models.detection.ssd import SSD
from torchvision.models.segmentation.deeplabv3 import DeepLabHead, DeepLabV3
from torchvision.ops import MultiScaleRoIAlign

SIDE = 64
LABELS = 4


def stem() -> nn.Sequential:
    """A backbone of stride 8."""
    widths = (3, 8, 12, 16)
    return nn.Sequential(
        *(nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in pairwise(widths))
    )


def pyramid() -> BackboneWithFPN:
    """Maps `0`, `1` and `pool`, each with half the side of the previous one."""
    return BackboneWithFPN(stem(), {"1": "0", "2": "1"}, [12, 16], 8)


def anchors() -> AnchorGenerator:
    return AnchorGenerator(((12,), (24,), (48,)), ((0.5, 1.0, 2.0),) * 3)


def faster_rcnn() -> FasterRCNN:
    return FasterRCNN(
        pyramid(), rpn_anchor_generator=anchors(), box_roi_pool=MultiScaleRoIAlign(["0", "1"], 5, 2),
        box_head=TwoMLPHead(8 * 25, 32), box_predictor=FastRCNNPredictor(32, LABELS), min_size=SIDE, max_size=SIDE,
        box_score_thresh=0.0, box_detections_per_img=20, rpn_post_nms_top_n_test=30,
    )  # fmt: skip


def retinanet() -> RetinaNet:
    made = RetinaNet(
        pyramid(), LABELS, anchor_generator=anchors(), min_size=SIDE, max_size=SIDE, score_thresh=0.0,
        topk_candidates=40,
    )  # fmt: skip
    nn.init.normal_(made.head.classification_head.cls_logits.weight, std=1.0)
    return made


class TwoMaps(nn.Module):
    """SSD takes a backbone that returns maps by name."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.more = stem(), nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.ReLU())
        self.out_channels = [16, 16]

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        x = self.body(x)
        return OrderedDict([("0", x), ("1", self.more(x))])


def ssd() -> SSD:
    head = detection.ssd.SSDHead([16, 16], [4, 4], LABELS)
    boxes = DefaultBoxGenerator([[2], [2]])
    return SSD(TwoMaps(), boxes, (SIDE, SIDE), LABELS, head=head, score_thresh=0.0, detections_per_img=20)


def deeplab() -> DeepLabV3:
    made = DeepLabV3(IntermediateLayerGetter(stem(), {"2": "out"}), DeepLabHead(16, LABELS))
    nn.init.normal_(list(made.classifier.parameters())[-2], std=1.0)
    return made


class Yolo(nn.Module):
    """A user's own network with three heads; returns (predictions (N, boxes, 5 + K), the heads' maps)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = stem()
        self.down = nn.ModuleList(nn.Sequential(nn.Conv2d(16, 16, 3, 2, 1), nn.SiLU()) for _ in range(2))
        self.heads = nn.ModuleList(nn.Conv2d(16, 5 + LABELS, 1) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        scales = [self.stem(x)]
        for down in self.down:
            scales.append(down(scales[-1]))
        maps = tuple(head(scale) for head, scale in zip(self.heads, scales, strict=True))
        return torch.cat([m.flatten(2).transpose(1, 2) for m in maps], 1).sigmoid(), maps


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "faster_rcnn": faster_rcnn, "retinanet": retinanet, "ssd": ssd, "deeplab": deeplab, "yolo": Yolo,
}  # fmt: skip
LAYERS = {
    "faster_rcnn": "backbone.body.2", "retinanet": "backbone.body.2", "ssd": "backbone.body.2",
    "deeplab": "backbone.2", "yolo": "stem.2",
}  # fmt: skip


def built(name: str) -> nn.Module:
    """Build one of them from a fixed seed, with batch-norm statistics from noise."""
    torch.manual_seed(0)
    module = BUILDERS[name]()
    norms = [m for m in module.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean = torch.randn(norm.num_features) * 0.2
    return module.eval()
