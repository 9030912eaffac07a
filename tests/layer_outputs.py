"""Layers whose outputs are maps, in every layout, and layers whose outputs are no maps."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eigencam.passes.readings import CHANNELS_FIRST, CHANNELS_LAST, Reading

Layer = Callable[[Tensor], Tensor]
SIZES = [(64, 64), (64, 96)]
STRIDE = 8


def tokens(x: Tensor) -> Tensor:
    return x.flatten(2).mT


def with_extra(x: Tensor, front: int, behind: int) -> Tensor:
    """Extra tokens that hold the image's mean, as class tokens do."""
    cells = tokens(x)
    mean = cells.mean(1, keepdim=True)
    return torch.cat([mean.expand(-1, front, -1), cells, mean.expand(-1, behind, -1)], 1)


def attention(x: Tensor) -> Tensor:
    cells = tokens(x)
    return (cells @ cells.mT / 8).softmax(-1)


def windows(x: Tensor) -> Tensor:
    """(N, C, h, w) to (N, h / 2, w / 2, 2, 2, C)."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1)


def shifted(x: Tensor) -> Tensor:
    """Windows of a rolled map and back, as in Swin."""
    n, c, h, w = x.shape
    parts = windows(x.roll((-1, -1), (2, 3))).reshape(-1, 4, c)
    back = parts.reshape(n, h // 2, w // 2, 2, 2, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)
    return x + back.roll((1, 1), (2, 3))


def grid(x: Tensor) -> tuple[int, int]:
    return x.shape[2], x.shape[3]


MAPS: dict[str, tuple[Layer, Callable[[tuple[int, int]], Reading]]] = {
    "chw": (lambda x: x, lambda _g: CHANNELS_FIRST),
    "one channel": (lambda x: x[:, :1], lambda _g: CHANNELS_FIRST),
    "no channel": (lambda x: x.mean(1), lambda _g: CHANNELS_LAST),
    "hwc": (lambda x: x.permute(0, 2, 3, 1), lambda _g: CHANNELS_LAST),
    "tokens": (tokens, lambda g: Reading((1,), g)),
    "channels of tokens": (lambda x: x.flatten(2), lambda g: Reading((2,), g)),
    "class token": (lambda x: with_extra(x, 1, 0), lambda g: Reading((1,), g, 1)),
    "class token behind": (lambda x: with_extra(x, 0, 1), lambda g: Reading((1,), g, 0, 1)),
    "registers": (lambda x: with_extra(x, 5, 0), lambda g: Reading((1,), g, 5)),
    "both": (lambda x: with_extra(x, 1, 1), lambda g: Reading((1,), g, 1, 1)),
    "normalised": (lambda x: F.layer_norm(with_extra(x, 1, 0), x.shape[1:2]), lambda g: Reading((1,), g, 1)),
    "attended": (lambda x: tokens(x) + attention(x) @ tokens(x), lambda g: Reading((1,), g)),
    "squeezed": (lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), lambda _g: CHANNELS_FIRST),
    "shifted windows and back": (shifted, lambda _g: CHANNELS_FIRST),
    "finer": (lambda x: F.pixel_shuffle(x, 2), lambda _g: CHANNELS_FIRST),
    "enlarged": (lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), lambda _g: CHANNELS_FIRST),
    "merged": (lambda x: windows(x).flatten(3), lambda _g: CHANNELS_LAST),
    "of another aspect": (lambda x: tokens(F.adaptive_avg_pool2d(x, (4, 8))), lambda _g: Reading((1,), (4, 8))),
    "of the aspect turned": (lambda x: tokens(F.adaptive_avg_pool2d(x, (8, 4))), lambda _g: Reading((1,), (8, 4))),
}
NO_MAPS: dict[str, tuple[Layer, str]] = {
    "column by column": (lambda x: tokens(x.mT), "column by column"),
    "transposed": (lambda x: x.mT, "columns come before its rows"),
    "mirrored": (lambda x: x.flip(3), "columns run backwards"),
    "upside down": (lambda x: x.flip(2), "rows run backwards"),
    "rolled": (lambda x: x.roll(3, 3), "columns are rolled"),
    "tokens mixed": (lambda x: tokens(x)[:, torch.randperm(x.shape[2] * x.shape[3])], "another order"),
    "window by window": (lambda x: windows(x).flatten(3, 4).flatten(1, 3), "another order"),
    "windows and places": (lambda x: windows(x).flatten(3, 4).flatten(1, 2), "windows and places in a window"),
    "windows as images": (lambda x: windows(x).reshape(-1, 4, x.shape[1]), "first axis"),
    "heads": (lambda x: tokens(x).unflatten(2, (4, -1)).transpose(1, 2), "heads"),
    "heads behind": (lambda x: tokens(x).unflatten(2, (4, -1)), "heads"),
    "attention": (attention, "attention of positions to positions"),
    "attention of heads": (lambda x: attention(x)[:, None].repeat(1, 3, 1, 1), "attention of positions to positions"),
    "attention of channels": (lambda x: x.flatten(2) @ tokens(x), "pooled"),
    "pooled": (lambda x: x.mean((2, 3), keepdim=True), "pooled"),
    "pooled and spread": (lambda x: x.mean((2, 3), keepdim=True).expand_as(x).clone(), "pooled"),
    "features as a map": (lambda x: x.amax((2, 3)).reshape(len(x), -1, 4, 4), "pooled"),
    "gate": (lambda x: x.mean((2, 3), keepdim=True).sigmoid(), "pooled"),
    "rows only": (lambda x: x.mean(3, keepdim=True).expand_as(x).clone(), "only rows are left"),
    "class token alone": (lambda x: with_extra(x, 1, 0)[:, :1], "pooled"),
    "tokens of no position between": (lambda x: torch.cat([tokens(x)[:, :9], with_extra(x, 1, 0)], 1), "order|between"),
    "positions first": (lambda x: tokens(x).transpose(0, 1), "first axis|axis 1 counts the images"),
    "a quarter": (lambda x: x[:, :, : x.shape[2] // 2], "rows cover only"),
    "of no image": (lambda x: torch.ones_like(x), "parameters alone"),
}
OPAQUE = ("chw", "hwc", "tokens", "class token", "class token behind", "registers", "squeezed")
"""Maps that only the stimulus can find."""
OPAQUE_NO_MAPS = (
    "column by column",
    "mirrored",
    "upside down",
    "tokens mixed",
    "window by window",
    "attention",
    "pooled",
)


def opaque(x: Tensor) -> Tensor:
    """The same values, by an operation without a rule."""
    return torch.fft.ifft(torch.fft.fft(x, dim=-1), dim=-1).real


class Outputs(nn.Module):
    """A convolutional trunk, and a module that returns each of some functions of its map."""

    def __init__(self, functions: dict[str, Layer]) -> None:
        super().__init__()
        self.trunk = nn.Conv2d(3, 32, STRIDE, STRIDE)
        self.mix = nn.Conv2d(32, 32, 3, padding=1)
        self.functions = functions
        self.out = nn.ModuleDict({name: nn.Identity() for name in functions})

    def forward(self, x: Tensor) -> Tensor:
        x = self.trunk(x)
        x = x + self.mix(x).relu()
        for name, function in self.functions.items():
            self.out[name](function(x))
        return x.mean((2, 3))


def outputs(functions: dict[str, Layer], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Outputs(functions).eval()
