"""An image in any of the usual forms: a file, a Pillow image, an array, a tensor; or several of them.

>>> pixels_of(np.zeros((4, 6), np.uint16)).shape, pixels_of(torch.ones(4, 5, 6), 4).shape
((4, 6, 3), (5, 6, 4))
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from eigencam.datasets.base import BadImageError
from eigencam.datasets.decoding import DEPTHS, decode, eight_bits, rgb_of, upright
from eigencam.datasets.names import SUFFIXES
from eigencam.datasets.reading import expand, files_in

ImageLike = str | Path | Image.Image | NDArray[Any] | Tensor
"""A file; a Pillow image of any mode; an array (H, W) or (H, W, C); a tensor (H, W) or (C, H, W). C is 1, 3 or 4, or
the network's own number of channels; values are uint8, uint16, bool, or floats in 0..1; colours are RGB or RGBA."""

FORMS = "a file, a Pillow image, an array (H, W) or (H, W, 1/3/4), or a tensor (H, W) or (1/3/4, H, W)"


def opened(image: ImageLike) -> Image.Image | NDArray[np.uint8]:
    """The decoded image: a Pillow image if it comes from a file, else 8-bit values (H, W, C).

    Raises:
        BadImageError: the file cannot be decoded, or the values are not those of an image.
        FileNotFoundError: there is no such file.
        ValueError: it has another form, such as a batch.
    """
    if isinstance(image, Image.Image):
        return image
    if isinstance(image, str | Path):
        return decode(expand(image))
    if not isinstance(image, np.ndarray | Tensor):
        raise ValueError(f"an image as {type(image).__name__}; allowed: {FORMS}")
    shape, kind = tuple(image.shape), type(image).__name__
    if len(shape) == 4 and shape[0] != 1:
        raise ValueError(f"a batch of {shape[0]} images {shape}; `explain.each(images)` gives the maps of each")
    if len(shape) not in (2, 3, 4) or 0 in shape:
        raise ValueError(f"an image as {kind} of {shape}; allowed: {FORMS}")
    values = _array(image[0] if len(shape) == 4 else image)
    if np.ma.isMaskedArray(values):
        raise ValueError("an image as a masked array; fill in the masked values first")
    if values.dtype == np.uint16 and 0 < values.max() < 256:
        raise BadImageError(
            kind, f"values from {values.min()} to {values.max()} of type uint16: 8 bits or 16? {DEPTHS}"
        )
    return np.ascontiguousarray(eight_bits(values[..., None] if values.ndim == 2 else values, kind))


def _array(image: NDArray[Any] | Tensor) -> NDArray[Any]:
    """(H, W) or (H, W, C)."""
    if isinstance(image, np.ndarray):
        return image
    if image.layout != torch.strided or image.is_quantized or image.is_meta:
        kind = "quantised" if image.is_quantized else "meta" if image.is_meta else "sparse"
        raise ValueError(f"an image as a {kind} tensor; allowed: a dense tensor of numbers")
    values = image.detach().cpu()
    values = values.float() if values.dtype == torch.bfloat16 else values
    return (values.permute(1, 2, 0) if values.ndim == 3 else values).numpy()


def pixels_of(
    image: ImageLike | NDArray[np.uint8], channels: int = 3, *, turn: bool = False, name: str | Path = ""
) -> NDArray[np.uint8]:
    """The image with the network's number of channels.

    Grey is repeated for colours, and colours become grey by Pillow's weights. Alpha is dropped; for a network of four
    channels, an image without alpha gets 255.

    Args:
        image: an image of any form.
        channels: number of channels of the network's input.
        turn: whether the EXIF orientation is applied.
        name: name of the image, for messages; None: its file's.

    Returns:
        (H, W, channels) uint8, contiguous.

    Raises:
        BadImageError: the file cannot be decoded, or the values are not those of an image.
        FileNotFoundError: there is no such file.
        ValueError: it has another form, or another number of channels.
    """
    made = opened(image)
    if isinstance(made, Image.Image):
        made = upright(made) if turn else made
        name = name or (image if isinstance(image, str | Path) else "image")
        values = rgb_of(made, name)
        if channels == 4 and made.has_transparency_data:
            values = np.dstack([values, np.asarray(made.convert("RGBA"))[..., 3]])
    else:
        values = made
    count = values.shape[2]
    if count == channels:
        return values
    if count not in (1, 3, 4) or channels not in (1, 3, 4):
        order = f"; a tensor is (C, H, W), an array (H, W, C), here of shape {values.shape}" if count > 4 else ""
        raise ValueError(f"an image of {count} channels for a network of {channels}; allowed: {FORMS}{order}")
    colours = np.repeat(values, 3, axis=2) if count == 1 else values[..., :3]
    if channels == 1:
        return np.asarray(Image.fromarray(np.ascontiguousarray(colours)).convert("L"))[..., None]
    if channels == 4:
        colours = np.dstack([colours, np.full(colours.shape[:2], 255, np.uint8)])
    return np.ascontiguousarray(colours)


def shown(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W, 3) from a network's (H, W, C): grey is repeated; of more than three channels, the first three."""
    return np.ascontiguousarray(np.repeat(values[..., :1], 3, axis=2) if values.shape[2] < 3 else values[..., :3])


def each_image(images: ImageLike | Iterable[ImageLike]) -> Iterator[ImageLike]:
    """One image after the other.

    Args:
        images: one image; a folder, whose image files are taken in the order of their names; a batch, as an array
            (N, H, W, C) or a tensor (N, C, H, W); a list or any other iterable, such as the frames of a video.

    Raises:
        FileNotFoundError: there is no such file or folder, or no image file in the folder.
    """
    if isinstance(images, str | Path):
        path = expand(images)
        yield from image_files(path) if path.is_dir() else [path]
    elif isinstance(images, Image.Image) or (isinstance(images, np.ndarray | Tensor) and images.ndim < 4):
        yield images
    elif isinstance(images, Iterable) and not isinstance(images, Mapping | bytes):
        yield from images
    else:
        raise ValueError(f"images as {type(images).__name__}; allowed: a folder, a batch, a list or other iterable")


def image_files(folder: Path) -> list[Path]:
    """A folder's image files, by name; hidden files and subfolders are ignored. FileNotFoundError if there are none."""
    found = list(files_in(folder, SUFFIXES))
    if not found:
        raise FileNotFoundError(f"{folder}: no image files; looked for {', '.join(SUFFIXES)}")
    return found
