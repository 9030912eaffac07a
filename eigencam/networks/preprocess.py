"""From an image to a network's input: resizing, cropping, normalising."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from eigencam.networks.image_inputs import pixels_of
from eigencam.transfer import constant

Region = tuple[float, float, float, float]
"""x0 y0 x1 y1, half-open, in pixels of the original image: the part that the network sees; with padding it extends
beyond the image."""
Resize = Literal["squash", "crop", "squash_crop", "pad"]
RESIZES: tuple[Resize, ...] = ("squash", "crop", "squash_crop", "pad")
WHOLE: tuple[Resize, ...] = ("squash", "pad")
"""The ways of resizing that show the whole image to the network."""
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
FILTERS: dict[Interpolation, Image.Resampling] = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
"""Pillow's filters by name; all but `nearest` average when they downsample."""
SHORT_SIDE = 256


@dataclass(frozen=True, slots=True)
class Preprocess:
    """From an image to the network's input.

    Attributes:
        size: side of the square input in pixels, or (height, width).
        resize: `squash`: the whole image to `size`, so that a map covers all of it (localization); `crop`: the short
            side to `short_side`, then the centre (classification, as torchvision and timm do it); `squash_crop`: the
            whole image to (`short_side`, `short_side`), then the centre; `pad`: the whole image, with its aspect ratio,
            as large as fits, centred on a border of the mean (timm's `border`).
        short_side: length of the short side before a crop; if `size` is a pair, it is enlarged until its shorter side
            has this length, and before a `crop` the image just covers the enlarged rectangle.
        mean: per channel, of values in 0..1; as many numbers as the input has channels.
        std: per channel.
        bgr: whether the network takes BGR, as Caffe's do.
        interpolation: the filter for resizing, one of `FILTERS`.
    """

    size: int | tuple[int, int] = 224
    resize: Resize = "squash"
    short_side: int = SHORT_SIDE
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    bgr: bool = False
    interpolation: Interpolation = "bilinear"

    version = 1

    def __post_init__(self) -> None:
        if self.resize not in RESIZES:
            raise ValueError(f"preprocess.resize={self.resize!r}; allowed: {', '.join(RESIZES)}")
        if self.interpolation not in FILTERS:
            raise ValueError(f"preprocess.interpolation={self.interpolation!r}; allowed: {', '.join(FILTERS)}")
        object.__setattr__(self, "size", _sides(self.size))
        if self.resize not in WHOLE and not (_is_count(self.short_side) and self.short_side >= min(self.shape)):
            raise ValueError(
                f"preprocess.size={self.size}, short_side={self.short_side}: a crop must fit into the short side"
            )
        for name in ("mean", "std"):
            object.__setattr__(self, name, _numbers(name, getattr(self, name)))
        if len(self.mean) != len(self.std) or min(self.std) <= 0:
            raise ValueError(
                f"preprocess.mean={self.mean}, std={self.std}; a number per channel is needed in each, std above 0"
            )
        if self.bgr and self.channels != 3:
            raise ValueError(f"preprocess.bgr=true, and the mean has {self.channels} numbers; it is for 3 channels")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the input."""
        return (self.size, self.size) if isinstance(self.size, int) else self.size

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of the input."""
        return self.channels, *self.shape

    @property
    def channels(self) -> int:
        """Number of the input's channels."""
        return len(self.mean)

    def __call__(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Region]:
        """Resize one image with one of Pillow's filters.

        Args:
            image: (H, W, 3) uint8 RGB, or (H, W, C) of the network's own C channels.

        Returns:
            (C, height, width) uint8, and the part of the image that it shows.

        Raises:
            ValueError: the image has another number of channels, unless it has 3 and the network takes 1.
        """
        image = image if image.shape[2:] == (self.channels,) else pixels_of(image, self.channels)
        (h, w), (high, wide) = image.shape[:2], self.shape
        region, left, top = (0.0, 0.0, float(w), float(h)), 0, 0
        if self.resize == "pad":
            return self._padded(image)
        if self.resize == "squash":
            size = (wide, high)
        else:
            size = self._before_crop(h, w)
            left, top = round((size[0] - wide) / 2), round((size[1] - high) / 2)
            fx, fy = w / size[0], h / size[1]
            region = (left * fx, top * fy, (left + wide) * fx, (top + high) * fy)
        planes = [image] if image.shape[2] == 3 else [image[:, :, c] for c in range(image.shape[2])]
        resized = [self._resized(plane, size)[top : top + high, left : left + wide] for plane in planes]
        made = resized[0].transpose(2, 0, 1) if image.shape[2] == 3 else np.stack(resized)
        return np.ascontiguousarray(made), region

    def _padded(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.uint8], Region]:
        """(C, height, width) uint8, the image centred in a border; rounded as in timm."""
        (h, w), (high, wide) = image.shape[:2], self.shape
        ratio = max(h / high, w / wide)
        rows, columns = max(round(h / ratio), 1), max(round(w / ratio), 1)
        top, left = (high - rows) // 2, (wide - columns) // 2
        made = np.empty((self.channels, high, wide), np.uint8)
        for c, mean in enumerate(self.mean):
            made[c] = round(255 * mean)
            made[c, top : top + rows, left : left + columns] = self._resized(image[:, :, c], (columns, rows))
        x, y = w / columns, h / rows
        return made, (-left * x, -top * y, (wide - left) * x, (high - top) * y)

    def _before_crop(self, h: int, w: int) -> tuple[int, int]:
        """(width, height) of the resized image before the centre crop; rounded as in torchvision."""
        high, wide = self.shape
        enlarged = self.short_side / min(high, wide)
        if self.resize == "squash_crop":
            return max(int(wide * enlarged + 1e-9), wide), max(int(high * enlarged + 1e-9), high)
        scale = max(high * enlarged / h, wide * enlarged / w)
        return max(int(w * scale + 1e-9), wide), max(int(h * scale + 1e-9), high)

    def _resized(self, plane: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        image = Image.fromarray(plane)
        return np.asarray(image if image.size == size else image.resize(size, FILTERS[self.interpolation]))

    def normalize(self, images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Normalise (N, C, H, W) uint8 to the network's input, on the tensor's device."""
        mean, std = constant((self.mean, self.std), images.device)[..., None, None]
        x = ((images.float() / 255 - mean) / std).to(dtype)
        return x.flip(1) if self.bgr else x

    def ends(self, device: torch.device, dtype: torch.dtype) -> Tensor:
        """(2, C, 1, 1): the normalised values of a black and of a white pixel."""
        ends = constant(((0.0,) * self.channels, (255.0,) * self.channels), device)
        return self.normalize(ends[..., None, None], dtype)

    def __str__(self) -> str:
        sides = " x ".join(map(str, self.shape))
        cut = {
            "squash": "the whole image",
            "crop": f"the centre of the short side at {self.short_side}",
            "pad": "the whole image in a border",
        }
        shown = cut.get(self.resize, f"the centre of {self.short_side} x {self.short_side}")
        prefix = f"{self.channels} channels, " if self.channels != 3 else ""
        return f"{sides}, {prefix}{self.interpolation}, {shown}, mean {_shown(self.mean)}, std {_shown(self.std)}"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _sides(size: Any) -> int | tuple[int, int]:
    """One number if both sides are equal."""
    sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
    if len(sides) != 2 or not all(map(_is_count, sides)):
        raise ValueError(f"preprocess.size={size}; allowed: 1, 2, ... pixels, or [height, width]")
    return sides[0] if sides[0] == sides[1] else (sides[0], sides[1])


def _numbers(name: str, values: Any) -> tuple[float, ...]:
    try:
        found = tuple(float(v) for v in values)
    except (TypeError, ValueError):
        found = ()
    if not found:
        raise ValueError(f"preprocess.{name}={values}; a list with a number per channel is needed")
    return found


def _shown(values: tuple[float, ...]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else ", ".join(f"{v:g}" for v in values)
