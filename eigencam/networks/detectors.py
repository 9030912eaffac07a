"""Networks that normalise their input themselves: torchvision's detectors take values in 0..1."""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from eigencam.networks.preprocess import Preprocess


def own_preprocess(module: nn.Module) -> dict[str, Any]:
    """The fields of a `Preprocess` for a network that normalises its input itself; {} for any other.

    The input has values in 0..1 and the size that the network would resize to.
    """
    detection: Any = sys.modules.get("torchvision.models.detection.transform")  # not imported: there is no detector
    transform: Any = getattr(module, "transform", None)
    if detection is None or not isinstance(transform, detection.GeneralizedRCNNTransform):
        return {}
    sides: Sequence[int] = tuple(transform.min_size)  # torchvision turns a number into a tuple
    width, height = transform.fixed_size or (sides[-1], sides[-1])
    return {"size": (height, width), "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def check_normalised_once(module: nn.Module, preprocess: Preprocess, name: str) -> None:
    """ValueError if an input would be normalised both here and in the network."""
    own = own_preprocess(module)
    if own and (preprocess.mean, preprocess.std) != (own["mean"], own["std"]):
        raise ValueError(
            f"{name}: the network normalises its input by itself, and preprocess.mean={list(preprocess.mean)} would do "
            "so before; leave it out, or set model.preprocess.mean=[0,0,0] model.preprocess.std=[1,1,1]"
        )


class ScenesBody(nn.Module):
    """The trunk of `scenes_resnet` with its packaged weights, stride 8: the backbone of the scenes' detector."""

    out_channels = 128

    def __init__(self) -> None:
        from eigencam.networks.scenes import ScenesResNet
        from eigencam.networks.weights import load_weights, weight_file

        super().__init__()
        network = ScenesResNet()
        load_weights(network, weight_file("eigencam:scenes_resnet.safetensors"))
        named = ("conv1", "bn1", "relu", "layer1", "layer2", "layer3")
        self.layers = nn.Sequential(*(network.get_submodule(name) for name in named))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 128, H / 8, W / 8) of (N, 3, H, W)."""
        return self.layers(x)


def scenes_detector() -> nn.Module:
    """A small torchvision Faster R-CNN for the scenes' twelve classes; its heads have random weights.

    Inputs are in 0..1, with 112 pixels on the shorter side. `eigencam fit fit=detector model=scenes_detector` trains
    it.
    """
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
    from torchvision.ops import MultiScaleRoIAlign

    from eigencam.networks.scenes import NUM_CLASSES

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FasterRCNN(
            ScenesBody(),
            rpn_anchor_generator=AnchorGenerator(((16, 32, 56, 84),), ((0.5, 1.0, 2.0),)),
            box_roi_pool=MultiScaleRoIAlign(["0"], 5, 2),
            box_head=TwoMLPHead(ScenesBody.out_channels * 25, 128),
            box_predictor=FastRCNNPredictor(128, 1 + NUM_CLASSES),
            min_size=112,
            max_size=224,
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.25, 0.25, 0.25],
            rpn_pre_nms_top_n_train=400,
            rpn_post_nms_top_n_train=200,
            rpn_pre_nms_top_n_test=400,
            rpn_post_nms_top_n_test=100,
        )


scenes_detector.version = 1  # type: ignore[attr-defined]
