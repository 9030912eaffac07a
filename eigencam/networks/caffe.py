"""The original Caffe layouts of GoogLeNet and AlexNet, which the papers used and torchvision does not have.

What differs from torchvision's classes of the same names:

* GoogLeNet (BVLC): local response normalisation after pool1 and conv2, true 5x5 branches (torchvision's are 3x3), no
  batch normalisation but biases, 3x3 pooling before inception 5 (torchvision: 2x2).
* AlexNet (BVLC CaffeNet family): grouped convolutions, local response normalisation, 96-256-384-384-256 channels,
  227x227 input.

torchvision's modules are kept and patched, so layer names are torchvision's (`inception5b`).
"""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import MobileNetV2, mobilenet_v2, resnet18
from torchvision.models.googlenet import GoogLeNet, Inception


def googlenet(num_classes: int = 1000) -> GoogLeNet:
    """BVLC GoogLeNet in torchvision's module names; the biases of the Caffe weights are in the batch norms."""
    net = GoogLeNet(num_classes=num_classes, aux_logits=False, init_weights=False, transform_input=False)
    net.maxpool1 = nn.Sequential(net.maxpool1, _lrn())  # type: ignore[assignment]
    net.conv3 = nn.Sequential(net.conv3, _lrn())  # type: ignore[assignment]
    net.maxpool4 = nn.MaxPool2d(3, 2, ceil_mode=True)
    for module in net.modules():
        if isinstance(module, Inception):
            branch: Any = module.branch3[1]
            branch.conv = nn.Conv2d(branch.conv.in_channels, branch.conv.out_channels, 5, padding=2, bias=False)
    return net


googlenet.version = 1  # type: ignore[attr-defined]


def alexnet(num_classes: int = 1000) -> nn.Module:
    """BVLC AlexNet with its classifier: `features.0..14`, `classifier.0..6`; input 227x227."""
    classifier = nn.Sequential(
        nn.Linear(256 * 6 * 6, 4096), nn.ReLU(inplace=True), nn.Dropout(),
        nn.Linear(4096, 4096), nn.ReLU(inplace=True), nn.Dropout(),
        nn.Linear(4096, num_classes),
    )  # fmt: skip
    return _AlexNet(alexnet_features(), classifier)


alexnet.version = 1  # type: ignore[attr-defined]


def alexnet_features() -> nn.Sequential:
    """BVLC AlexNet conv1..conv5 and pool5: 0 conv1, 4 conv2, 8 conv3, 10 conv4, 12 conv5, 13 its ReLU, 14 pool5."""
    return nn.Sequential(
        nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(), _lrn(), nn.MaxPool2d(3, 2),
        nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(), _lrn(), nn.MaxPool2d(3, 2),
        nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(),
        nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(), nn.MaxPool2d(3, 2),
    )  # fmt: skip


alexnet_features.version = 1  # type: ignore[attr-defined]


def mobilenet_v2_tf(num_classes: int = 1000) -> MobileNetV2:
    """MobileNetV2 with TensorFlow's padding: 3x3 convolutions of stride 2 pad at the bottom and right only."""
    net = mobilenet_v2(num_classes=num_classes)
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.stride == (2, 2) and module.kernel_size == (3, 3):
            module.padding = (0, 0)
            module.register_forward_pre_hook(lambda _m, args: (F.pad(args[0], (0, 1, 0, 1)),))
    return net


mobilenet_v2_tf.version = 1  # type: ignore[attr-defined]


def resnet18_trunk() -> nn.Module:
    """ResNet-18 up to `layer3`, without layer4 and classifier."""
    net = resnet18()
    net.layer4, net.fc = nn.Identity(), nn.Identity()  # type: ignore[assignment]
    return net


resnet18_trunk.version = 1  # type: ignore[attr-defined]


def _lrn() -> nn.LocalResponseNorm:
    return nn.LocalResponseNorm(5, alpha=1e-4, beta=0.75, k=1.0)


class _AlexNet(nn.Module):
    def __init__(self, features: nn.Sequential, classifier: nn.Sequential) -> None:
        super().__init__()
        self.features, self.classifier = features, classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).flatten(1))
