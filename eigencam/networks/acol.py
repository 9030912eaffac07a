r"""ACoL (Zhang et al., CVPR 2018): two classifiers on a network's features; the second one sees a part of them.

    F               features of a trunk (N, C, h, w)
    A, B            conv 3 x 3, ReLU, conv 3 x 3, ReLU, conv 1 x 1: a map for each class
    s               A's map of the image's class, scaled from minimum and maximum to 0..1, without gradient
    logits          mean of A(F)
    second logits   mean of B(F [s < t]), in training only

`eigencam fit fit=wsol wsol.method=acol` trains both, with the sum of their cross-entropies; `method=acol` is their
common map, and any other method explains A alone, whose CAM is read from `classifier_A.3`.

    wsol_vgg16_acol          VGG-16 with poolings of 3 x 3, the last of stride 1 (for 28 x 28 the fourth, too), then an
                             average of 3 x 3
    wsol_resnet50_acol       ResNet-50 with layer4 (for 28 x 28 layer3, too) of stride 1
    wsol_inception_v3_acol   Inception-v3 up to Mixed_6e
    acol                     any network whose modules run one after another up to `layer`; others are refused

References: X. Zhang et al., "Adversarial complementary learning for weakly supervised object localization", CVPR 2018
(t 0.6: xiaomengyc/ACoL@8b59d00); the form is that of clovaai/wsolevaluation@96f4b88, whose t is 0.7 by default. A
constant map erases nothing: here it is scaled to 0; in that code to 0 / 0 = NaN, which is not at least t.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torchvision import models

from eigencam.networks.weights import load_weights, weight_file
from eigencam.networks.wsol import WIDTH, InceptionTrunk, drawn, pretrained_network, wsol_resnet50
from eigencam.passes.calls import evaluating, network_logits, random_images

CAM_LAYER = "classifier_A.3"
"""The layer of whose output the first classifier's maps are a linear function."""


class ACoL(nn.Module):
    """A trunk and two classifiers on it; see the module.

    Args:
        features: the trunk.
        channels: number of channels of the trunk's output.
        classes: number of classes of both classifiers.
        width: width of their two convolutions.
        threshold: t; positions where the scaled map of A is at least t are erased.
        start: how the classifiers' weights are drawn; None: as torch does.
        new_layers: prefixes of the parameters with the larger rate.
    """

    version = 1
    further_heads = ("classifier_B.4",)

    def __init__(
        self,
        features: nn.Module,
        channels: int,
        classes: int = 1000,
        width: int = WIDTH,
        threshold: float = 0.7,
        start: Literal["xavier", "he"] | None = "xavier",
        new_layers: Sequence[str] = ("classifier_A", "classifier_B"),
    ) -> None:
        super().__init__()
        self.features, self.threshold, self.new_layers = features, threshold, tuple(new_layers)
        self.classifier_B = _classifier(channels, width, classes, start)
        # registered last, since `eigencam.methods.cam` takes the last linear or convolutional layer for the head
        self.classifier_A = _classifier(channels, width, classes, start)
        self.avgpool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, H, W) normalised images to (N, classes) logits of the first classifier."""
        return torch.flatten(self.avgpool(self.classifier_A(self.features(x))), 1)

    def both(self, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(N, classes) logits of the first and of the second classifier; `labels` (N,) are the images' classes."""
        features = self.features(x)
        maps = self.classifier_A(features)
        first = maps.detach()[torch.arange(len(maps), device=maps.device), labels]
        return maps.mean((2, 3)), self.second(features, first).mean((2, 3))

    def second(self, features: Tensor, first: Tensor) -> Tensor:
        """(N, classes, h, w) maps of the second classifier.

        Args:
            features: (N, C, h, w).
            first: (N, h, w) maps of the first classifier; where they are at least t after scaling, features are erased.
        """
        return self.classifier_B(features * (scaled(first) < self.threshold)[:, None])


def scaled(maps: Tensor) -> Tensor:
    """Maps (N, h, w), each scaled to 0..1 from its minimum and maximum; constant ones become 0."""
    least, most = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    span = most - least
    return torch.where(span > 0, (maps - least) / torch.where(span > 0, span, 1), 0)


def _classifier(channels: int, width: int, classes: int, start: str | None) -> nn.Sequential:
    made = nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, classes, 1),
    )
    if start is not None:
        drawn(made, xavier=start == "xavier")
    return made


def acol(
    base: nn.Module,
    layer: str,
    pretrained: str | None = None,
    classes: int = 1000,
    width: int = WIDTH,
    threshold: float = 0.7,
) -> ACoL:
    """Return ACoL on the features of another network.

    Args:
        base: the network.
        layer: the layer whose output is F.
        pretrained: a weight file of the network; None: its own weights.
        classes: number of classes of both classifiers.
        width: width of their convolutions.
        threshold: t.

    Raises:
        FileNotFoundError: no such weight file.
        ValueError: the network's modules do not run one after another up to the layer, or its output is no map.
    """
    if pretrained is not None:
        load_weights(base, weight_file(pretrained))
    cut, channels = trunk(base, layer)
    return ACoL(cut, channels, classes, width, threshold)


acol.version = 1  # type: ignore[attr-defined]


def trunk(module: nn.Module, layer: str) -> tuple[nn.Sequential, int]:
    """Return the part of a network up to a layer, whose modules keep their names, and the layer's number of channels.

    The modules behind the layer are dropped. A probe of noise tests that the remaining ones compute what the network
    computes.

    Raises:
        ValueError: they do not, or the output is no map (N, C, h, w).
    """
    refused = f"model.args.layer={layer}: ACoL needs the features that a network's modules make one after another; "
    if layer not in dict(module.named_modules()):
        raise ValueError(f"{refused}{type(module).__name__} has no such module")
    made, seen = _up_to(module, layer.split(".")), list[Any]()
    probe = random_images(module, (128, 128))
    hook = module.get_submodule(layer).register_forward_hook(lambda _module, _args, out: seen.append(out.clone()))
    try:
        with evaluating(module), torch.no_grad():
            network_logits(module, probe)
            theirs = seen[-1]
            seen.clear()
            ours = made.eval()(probe)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{refused}the modules of {type(module).__name__} do not run so ({' '.join(str(error).split())[:120]})"
        ) from None
    finally:
        hook.remove()
    if not isinstance(theirs, Tensor) or theirs.ndim != 4 or not torch.equal(theirs, ours):
        raise ValueError(f"{refused}run so, the modules of {type(module).__name__} give another output")
    return made.train(module.training), ours.shape[1]


def _up_to(module: nn.Module, path: list[str]) -> nn.Sequential:
    kept: OrderedDict[str, nn.Module] = OrderedDict()
    for name, child in module.named_children():
        inside = name == path[0] and len(path) > 1 and isinstance(child, nn.Sequential)
        kept[name] = _up_to(child, path[1:]) if inside else child
        if name == path[0]:
            break
    return nn.Sequential(kept)


def wsol_vgg16_acol(
    classes: int = 1000, large: bool = False, pretrained: str | None = None, threshold: float = 0.7
) -> ACoL:
    """VGG-16 with overlapping poolings; maps of 14 x 14, or 28 x 28 where `large`, for an input of 224."""
    layers: Any = pretrained_network(models.vgg16, pretrained).features
    for k in (4, 9, 16, 23, 30):  # poolings of torchvision's layout
        layers[k] = nn.MaxPool2d(3, 1 if k == 30 or (large and k == 23) else 2, padding=1)
    layers.append(nn.AvgPool2d(3, 1, padding=1))
    return ACoL(layers, 512, classes, threshold=threshold)


def wsol_resnet50_acol(
    classes: int = 1000, large: bool = False, pretrained: str | None = None, threshold: float = 0.7
) -> ACoL:
    """ResNet-50; as in the authors' code, layer4 has the larger rate, and the new classifiers do not."""
    cut = _up_to(wsol_resnet50(classes, large, pretrained), ["layer4"])
    return ACoL(cut, 2048, classes, threshold=threshold, start="he", new_layers=("features.layer4",))


def wsol_inception_v3_acol(
    classes: int = 1000, large: bool = False, pretrained: str | None = None, threshold: float = 0.7
) -> ACoL:
    """Inception-v3 up to Mixed_6e; the authors leave the classifiers' initial weights to torch."""
    return ACoL(InceptionTrunk(large, pretrained), 768, classes, threshold=threshold, start=None)


for _form in (wsol_vgg16_acol, wsol_resnet50_acol, wsol_inception_v3_acol):
    _form.version = 1  # type: ignore[attr-defined]
