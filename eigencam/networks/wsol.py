"""The networks of wsolevaluation (Choe et al., CVPR 2020) in their form with class activation maps.

Each is a torchvision network with a last feature map of 14 x 14, or of 28 x 28 if `large`, for an input of 224:

    wsol_vgg16         without the last pooling (28: nor the fourth), conv6 3x3 to 1024, ReLU, average, linear
    wsol_resnet50      layer4 (28: layer3 too) of stride 1, average, linear
    wsol_inception_v3  up to Mixed_6e, whose reduction 6a has stride 1, two 3x3 convolutions to 1024 with dropout 0.5 in
                       front of each, a 1x1 convolution to the classes, average; 28: without the pooling in front of 6a
    wsol_vgg16_spg     for SPG: the fourth pooling (28: none there) of 3x3 and stride 2, two 3x3 convolutions behind the
                       last ones, a 1x1 convolution to the classes, average

Weights are torchvision's for ImageNet (`pretrained`: a name, a file, or null for random ones); those of the new layers
are drawn as the authors do. `new_layers` are the prefixes of the parameters that the authors train with ten times the
rate, `adl_layers` the layers behind which they put ADL, `spg` their form of SPG. The forms for ACoL are in
`eigencam.networks.acol`.

Reference: clovaai/wsolevaluation@96f4b88, `wsol/{vgg,resnet,inception}.py`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision import models

from eigencam.networks.libraries import is_file_name
from eigencam.networks.weights import load_weights, weight_file

WIDTH = 1024


class SPGForm(NamedTuple):
    """Where the authors put SPG's side heads.

    Attributes:
        layers: the layers whose outputs the first and the second head read.
        width: width of these two heads.
        new_heads: whether the heads are trained with the rate of new layers.
        new_layers: prefixes of the network's parameters with that rate.
    """

    layers: tuple[str, str]
    width: int
    new_heads: bool
    new_layers: tuple[str, ...]


def pretrained_network(make: Callable[..., nn.Module], pretrained: str | None, **args: Any) -> Any:
    """A network of torchvision with its weights."""
    if pretrained is None or not is_file_name(pretrained):
        return make(weights=pretrained, **args)
    module = make(weights=None, **args)
    load_weights(module, weight_file(pretrained))
    return module


def drawn(module: nn.Module, xavier: bool) -> None:
    """Draw a new layer's weights: convolutions by Glorot or He, linear layers with standard deviation 0.01."""
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
        layers = pretrained_network(models.vgg16, pretrained).features
        self.features = nn.Sequential(*(layer for k, layer in enumerate(layers) if k not in left_out))
        self.adl_layers = ("features.16", "features.22", f"features.{28 if large else 29}")
        self.conv6 = nn.Conv2d(512, WIDTH, 3, padding=1)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(WIDTH, classes)
        for layer in (self.conv6, self.fc):
            drawn(layer, xavier=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images to (N, classes) logits."""
        return self.fc(torch.flatten(self.avgpool(self.relu(self.conv6(self.features(x)))), 1))


class WSOLVGG16SPG(nn.Module):
    """VGG-16 for SPG; the target layer is `SPG_A_3`."""

    version = 1
    new_layers = ("SPG_A_1", "SPG_A_2", "SPG_A_3", "SPG_A_4")
    spg = SPGForm(("pool", "SPG_A_2"), 512, new_heads=True, new_layers=new_layers)

    def __init__(self, classes: int = 1000, large: bool = False, pretrained: str | None = None) -> None:
        super().__init__()
        layers = list(pretrained_network(models.vgg16, pretrained).features)
        self.features = nn.Sequential(*layers[:17])
        self.SPG_A_1, self.SPG_A_2 = nn.Sequential(*layers[17:23]), nn.Sequential(*layers[24:30])
        self.pool = nn.Identity() if large else nn.MaxPool2d(3, 2, padding=1)
        self.SPG_A_3 = nn.Sequential(
            nn.Conv2d(512, 512, 3, padding=1), nn.ReLU(), nn.Conv2d(512, 512, 3, padding=1), nn.ReLU()
        )
        self.SPG_A_4 = nn.Conv2d(512, classes, 1)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        for layer in (self.SPG_A_3, self.SPG_A_4):
            drawn(layer, xavier=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images to (N, classes) logits."""
        x = self.SPG_A_2(self.pool(self.SPG_A_1(self.features(x))))
        return torch.flatten(self.avgpool(self.SPG_A_4(self.SPG_A_3(x))), 1)


class InceptionTrunk(nn.Module):
    """Inception-v3 up to Mixed_6e, whose reduction 6a has stride 1."""

    version = 1

    def __init__(self, large: bool = False, pretrained: str | None = None) -> None:
        super().__init__()
        base = pretrained_network(models.inception_v3, pretrained, **({} if pretrained else {"init_weights": False}))
        base.Conv2d_1a_3x3.conv.padding = (1, 1)
        for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "Conv2d_3b_1x1", "Conv2d_4a_3x3"):
            self.add_module(name, base.get_submodule(name))
        for name in ("Mixed_5b", "Mixed_5c", "Mixed_5d"):
            self.add_module(name, base.get_submodule(name))
        self.pool = nn.Identity() if large else nn.MaxPool2d(3, 2, ceil_mode=True)
        self.Mixed_6a = _Mixed6a(base.Mixed_6a)
        for name in ("Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"):
            self.add_module(name, base.get_submodule(name))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images to (N, 768, h, w)."""
        named = dict(self.named_children())
        for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3"):
            x = named[name](x)
        x = F.max_pool2d(x, 3, 2, padding=1, ceil_mode=True)
        x = named["Conv2d_4a_3x3"](named["Conv2d_3b_1x1"](x))
        x = F.max_pool2d(x, 3, 2, padding=1, ceil_mode=True)
        rest = ("Mixed_5b", "Mixed_5c", "Mixed_5d", "pool", "Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e")
        for name in rest:
            x = named[name](x)
        return x


class WSOLInceptionV3(InceptionTrunk):
    """Inception-v3 up to Mixed_6e with a convolutional classifier; the target layer is `SPG_A3_2b`."""

    version = 1
    new_layers = ("SPG_A3_1b", "SPG_A3_2b", "SPG_A4")
    adl_layers = ("Mixed_5d", "Mixed_6e", "SPG_A3_2b")
    spg = SPGForm(("pool", "Mixed_6d"), 512, new_heads=True, new_layers=new_layers)

    def __init__(self, classes: int = 1000, large: bool = False, pretrained: str | None = None) -> None:
        super().__init__(large, pretrained)
        self.SPG_A3_1b = nn.Sequential(nn.Conv2d(768, WIDTH, 3, padding=1), nn.ReLU(inplace=True))
        self.SPG_A3_2b = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU(inplace=True))
        self.SPG_A4 = nn.Conv2d(WIDTH, classes, 1)
        self.dropout = nn.Dropout(0.5)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        for layer in (self.SPG_A3_1b, self.SPG_A3_2b, self.SPG_A4):
            drawn(layer, xavier=True)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images to (N, classes) logits."""
        x = self.SPG_A3_1b(self.dropout(super().forward(x)))
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
    """ResNet-50 whose last block, or last two, have stride 1; the target layer is `layer4`."""
    module = pretrained_network(models.resnet50, pretrained)
    for name in ("layer3", "layer4") if large else ("layer4",):
        first = module.get_submodule(f"{name}.0")
        first.conv2.stride = first.downsample[0].stride = (1, 1)
    module.fc = nn.Linear(module.fc.in_features, classes)
    drawn(module.fc, xavier=True)
    module.new_layers, module.adl_layers = ("layer4", "fc"), ("layer3.0", "layer4.0", "layer4.2")
    module.spg = SPGForm(("layer3.0", "layer3"), WIDTH, new_heads=False, new_layers=("layer4",))
    return module


wsol_resnet50.version = 1  # type: ignore[attr-defined]
