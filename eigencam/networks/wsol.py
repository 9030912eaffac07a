"""The networks of wsolevaluation (Choe et al., CVPR 2020) in their form with class activation maps.

Each is a torchvision network with a last feature map of 14 x 14, or of 28 x 28 if `large`, for an input of 224:

    wsol_vgg16         without the last pooling (28: nor the fourth), conv6 3x3 to 1024, ReLU, average, linear
    wsol_resnet50      layer4 (28: also layer3) with stride 1, average, linear
    wsol_inception_v3  up to Mixed_6e, whose reduction 6a has stride 1; two 3x3 convolutions to 1024, each after dropout
                       0.5; a 1x1 convolution to the classes; average; 28: without the pooling before 6a

Weights are torchvision's ImageNet weights (`pretrained`: the name of a set, a file of one, or null); those of the new
layers are initialised as the authors do. `new_layers` are the prefixes of the parameters that the authors train with
ten times the learning rate, and `adl_layers` the layers that ADL follows in their code.

Reference: clovaai/wsolevaluation@96f4b88, `wsol/{vgg,resnet,inception}.py`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from eigencam.networks.libraries import is_file_name
from eigencam.networks.weights import load_weights, weight_file

WIDTH = 1024


def _pretrained(make: Callable[..., nn.Module], pretrained: str | None, **args: Any) -> Any:
    """A torchvision network with its weights."""
    if pretrained is None or not is_file_name(pretrained):
        return make(weights=pretrained, **args)
    module = make(weights=None, **args)
    load_weights(module, weight_file(pretrained))
    return module


def _drawn(module: nn.Module, xavier: bool) -> None:
    """Initialise a new layer's weights: convolutions by Glorot or He, linear layers with standard deviation 0.01."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and xavier:
            nn.init.xavier_uniform_(layer.weight)
        elif isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0, 0.01)
        if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
            nn.init.zeros_(layer.bias)


class WSOLVGG16(nn.Module):
    """VGG-16 with conv6 and a global average; the target layer is `relu`."""

    version = 1
    new_layers = ("conv6", "fc")

    def __init__(self, classes: int = 1000, large: bool = False, pretrained: str | None = None) -> None:
        super().__init__()
        left_out = (23, 30) if large else (30,)  # poolings of torchvision's layout
        layers = _pretrained(models.vgg16, pretrained).features
        self.features = nn.Sequential(*(layer for k, layer in enumerate(layers) if k not in left_out))
        self.adl_layers = ("features.16", "features.22", f"features.{28 if large else 29}")
        self.conv6 = nn.Conv2d(512, WIDTH, 3, padding=1)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(WIDTH, classes)
        for layer in (self.conv6, self.fc):
            _drawn(layer, xavier=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images to (N, classes) logits."""
        return self.fc(torch.flatten(self.avgpool(self.relu(self.conv6(self.features(x)))), 1))


class WSOLInceptionV3(nn.Module):
    """Inception-v3 up to Mixed_6e with a convolutional classifier; the target layer is `SPG_A3_2b`."""

    version = 1
    new_layers = ("SPG_A3_1b", "SPG_A3_2b", "SPG_A4")
    adl_layers = ("Mixed_5d", "Mixed_6e", "SPG_A3_2b")

    def __init__(self, classes: int = 1000, large: bool = False, pretrained: str | None = None) -> None:
        super().__init__()
        base = _pretrained(models.inception_v3, pretrained, **({} if pretrained else {"init_weights": False}))
        base.Conv2d_1a_3x3.conv.padding = (1, 1)
        for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"):
            self.add_module(name, base.get_submodule(name))
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            self.add_module(name, base.get_submodule(name))
        self.pool = nn.Identity() if large else nn.MaxPool2d(3, 2, ceil_mode=True)
        self.Mixed_6a = _Mixed6a(base.Mixed_6a)
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            self.add_module(name, base.get_submodule(name))
        self.SPG_A3_1b = nn.Sequential(nn.Conv2d(768, WIDTH, 3, padding=1), nn.ReLU(inplace=True))
        self.SPG_A3_2b = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU(inplace=True))
        self.SPG_A4 = nn.Conv2d(WIDTH, classes, 1)
        self.dropout = nn.Dropout(0.5)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        for layer in (self.SPG_A3_1b, self.SPG_A3_2b, self.SPG_A4):
            _drawn(layer, xavier=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images to (N, classes) logits."""
        named = dict(self.named_children())
        for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"):
            x = named[name](x)
        x = F.max_pool2d(x, 3, 2, padding=1, ceil_mode=True)
        x = named["Conv2d_4a_3x3"](named["Conv2d_3b_1x1"](x))
        x = F.max_pool2d(x, 3, 2, padding=1, ceil_mode=True)
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d", "pool", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d"):
            x = named[name](x)
        x = self.SPG_A3_1b(self.dropout(named["Mixed_6e"](x)))
        x = self.dropout(self.SPG_A3_2b(self.dropout(x)))
        return torch.flatten(self.avgpool(self.SPG_A4(x)), 1)


class _Mixed6a(nn.Module):
    """Inception's first reduction with stride 1."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.branch3x3 = block.branch3x3
        self.branch3x3dbl_1, self.branch3x3dbl_2 = block.branch3x3dbl_1, block.branch3x3dbl_2
        self.branch3x3dbl_3 = block.branch3x3dbl_3
        for conv in (block.branch3x3.conv, block.branch3x3dbl_3.conv):
            conv.stride, conv.padding = (1, 1), (1, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 288, h, w) to (N, 768, h, w)."""
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, 1, padding=1)], 1)


def wsol_resnet50(classes: int = 1000, large: bool = False, pretrained: str | None = None) -> nn.Module:
    """ResNet-50 with stride 1 in its last stage, or in its last two; the target layer is `layer4`."""
    module = _pretrained(models.resnet50, pretrained)
    for name in ("layer3", "layer4") if large else ("layer4",):
        first = module.get_submodule(f"{name}.0")
        first.conv2.stride = first.downsample[0].stride = (1, 1)
    module.fc = nn.Linear(module.fc.in_features, classes)
    _drawn(module.fc, xavier=True)
    module.new_layers, module.adl_layers = ("layer4", "fc"), ("layer3.0", "layer4.0", "layer4.2")
    return module


wsol_resnet50.version = 1  # type: ignore[attr-defined]
