"""Images and masks from files to arrays: the only module that decodes.

Boxes of ILSVRC and VOC refer to the stored pixel grid, so decoding never applies the EXIF orientation (only
`upright` does, on request) and never reduces the scale. The content determines a file's format, not its name: a PNG
named `.JPEG` is read as a PNG.
"""

import io
import threading
import warnings
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from eigencam.datasets.base import BadImageError, BadTruthError
from eigencam.files import regular

VERSIONS = {"decoding": 1}
"""The version is raised when a change here alters results; see `eigencam.store.versions`."""

DEPTHS = "allowed are 8 bits (uint8), 16 bits (uint16), floats from 0 to 1"

_TURNS = {  # the EXIF tag's eight values
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WARNING = threading.RLock()  # `warnings.catch_warnings` changes the state of the whole process


def read_rgb(path: Path | str) -> NDArray[np.uint8]:
    """Decode an image as RGB.

    Grey is repeated; CMYK and palettes are converted by Pillow's formulas, without colour profiles. The upper eight of
    16 bits per channel are kept; floating-point pixels must lie in 0..1. Transparency, by an alpha channel or
    by a transparent colour, is ignored: the stored colours are used, without blending. The first of several frames is
    used.

    Args:
        path: image in any format that Pillow reads.

    Returns:
        (H, W, 3) uint8, RGB, writable, H and W as stored.

    Raises:
        BadImageError: the file is empty, truncated, corrupt, not an image, no regular file, or suspiciously large (a
            decompression bomb), or its pixels cannot be converted (see `rgb_of`).
        FileNotFoundError: there is no such file (other errors of the file system are raised as well).
    """
    return rgb_of(decode(path), path)


def rgb_of(image: Image.Image, name: Path | str = "image") -> NDArray[np.uint8]:
    """The pixels of an opened image as RGB, by the same rules as for a file; see `read_rgb`.

    Args:
        image: an image of any mode; it is not changed.
        name: its name, for messages.

    Returns:
        (H, W, 3) uint8, RGB, writable.

    Raises:
        BadImageError: the pixels cannot be read or converted to RGB, floating-point pixels lie outside 0..1, or
            integers are not clearly of 16 bits.
    """
    try:
        image.load()
    except (OSError, SyntaxError, ValueError, EOFError) as error:  # after the header: truncated or closed
        raise BadImageError(name, _reason(error)) from error
    if image.mode == "F" or image.mode.startswith("I"):
        image = Image.fromarray(eight_bits(np.asarray(image), name))
    if image.mode in ("RGBa", "La"):  # premultiplied alpha, which Pillow converts only in two steps
        image = image.convert(image.mode.upper())
    if "transparency" in image.info:  # Pillow would warn and blend it into the colours
        image = image.copy()
        image.info.pop("transparency")
    try:
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError as error:
        raise BadImageError(name, f"no conversion from mode {image.mode!r} to RGB: {error}") from error


def rgb_of_bytes(data: bytes, name: Path | str) -> NDArray[np.uint8]:
    """Decode the content of an image file as RGB; see `read_rgb`.

    Args:
        data: the content.
        name: the file's name, for messages.
    """
    return rgb_of(_decoded(data, name), name)


def size_of_bytes(data: bytes, name: Path | str) -> tuple[int, int]:
    """(height, width) of the content of an image file, from its header alone; see `image_size`."""
    with _open(name, io.BytesIO(data)) as image:
        return image.height, image.width


def eight_bits(values: NDArray[Any], name: Path | str = "image") -> NDArray[np.uint8]:
    """Pixel values of any type as 8 bits: floats times 255, the upper eight of 16 bits, True as 255.

    Args:
        values: bool, uint8, uint16, floats in 0..1, or wider integers that hold 16 bits, as Pillow's mode "I".
        name: the image's name, for messages.

    Returns:
        uint8, of the same shape.

    Raises:
        BadImageError: another type or range.

    >>> eight_bits(np.array([0.0, 0.5, 1.0])), eight_bits(np.array([0, 255, 65535], np.uint16))
    (array([  0, 128, 255], dtype=uint8), array([  0,   0, 255], dtype=uint8))
    """
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return values
    if kind not in "bfiu":
        raise BadImageError(name, f"values of type {values.dtype}; {DEPTHS}")
    if not values.size:
        raise BadImageError(name, f"no pixels, shape {values.shape}")
    low, high = values.min(), values.max()
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind == "f":
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise BadImageError(name, f"floating-point values from {low:.9g} to {high:.9g}; {DEPTHS}")
        return np.rint(values.astype(np.float64) * 255).astype(np.uint8)
    if low < 0 or high > 65535:
        raise BadImageError(name, f"values from {low} to {high}; {DEPTHS}")
    if (kind, values.itemsize) != ("u", 2) and 0 < high < 256:
        raise BadImageError(name, f"values from {low} to {high} of type {values.dtype}: 8 bits or 16? {DEPTHS}")
    return (values >> 8).astype(np.uint8)


def orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image, 1 to 8; 1, unchanged, if there is none.

    It is also 1 if the tag is damaged, since the pixels may still be valid.
    """
    with _WARNING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            tag = image.getexif().get(ExifTags.Base.Orientation, 1)
        except Exception:  # the reader of a damaged tag may raise anything
            return 1
    return tag if tag in _TURNS else 1


def upright(image: Image.Image) -> Image.Image:
    """The image with its EXIF orientation applied."""
    turn = _TURNS[orientation(image)]
    return image if turn is None else image.transpose(turn)


def image_size(path: Path | str) -> tuple[int, int]:
    """(height, width) of an image in pixels as stored, from its header alone.

    Raises:
        BadImageError: the header is not that of an image.
        FileNotFoundError: there is no such file.
    """
    with _regular(path).open("rb") as file, _open(path, file) as image:
        return image.height, image.width


def read_mask(path: Path | str) -> NDArray[np.uint8]:
    """Decode a segmentation mask: the palette's indices, not its colours.

    Args:
        path: palette PNG as in VOC's `SegmentationClass`, or a grey image whose values are the indices.

    Returns:
        (H, W) uint8.

    Raises:
        BadImageError: the file cannot be decoded.
        BadTruthError: it is an image of another kind, such as a mask painted in RGB.
        FileNotFoundError: there is no such file.
    """
    image = decode(path)
    if image.mode not in ("P", "L"):
        raise BadTruthError(
            f"{path}: a mask of mode {image.mode!r}; the modes read are 'P' (palette, as VOC ships it) and 'L' (grey, "
            "value = index): a mask painted in colours has lost its indices, use the original PNG"
        )
    return np.array(image)


def read_object(path: Path | str) -> NDArray[np.bool_]:
    """Decode the mask of one object, of any kind: 1 bit, grey, RGB, RGBA, a palette.

    Returns:
        (H, W) bool: where the grey value is not 0.

    Raises:
        BadImageError: the file cannot be decoded.
        BadTruthError: it has grey values other than 0 and one more, or more than 8 bits per channel.
        FileNotFoundError: there is no such file.
    """
    image = decode(path)
    if image.mode[:1] in ("I", "F"):
        raise BadTruthError(f"{path}: a mask of mode {image.mode!r}; allowed are 1 bit and 8 bits per channel")
    image.info.pop("transparency", None)
    grey = np.asarray(image if image.mode == "L" else image.convert("L"))
    top = grey.max()
    if not ((grey == 0) | (grey == top)).all():
        seen = np.flatnonzero(np.bincount(grey.ravel())).tolist()
        raise BadTruthError(f"{path}: {len(seen)} grey values, {seen[:4]} ...; allowed are 0 and one other, the object")
    return grey > 0


def read_values(path: Path | str, colours: bool = False) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Decode a mask of any kind to its stored numbers.

    Args:
        path: an image of 1 bit (0 and 1), grey of 8 or 16 bits, a palette, or RGB; alpha is dropped.
        colours: whether a palette is read as its colours rather than its indices.

    Returns:
        (H, W) uint8 or uint16; (H, W, 3) uint8 if the three channels differ in any pixel.

    Raises:
        BadImageError: the file cannot be decoded.
        BadTruthError: it is an image of another kind, or only its alpha shows a shape.
        FileNotFoundError: there is no such file.
    """
    image = decode(path)
    if image.mode == "1":
        return np.asarray(image, np.uint8)
    if image.mode == "L" or (image.mode == "P" and not colours):
        return np.array(image)
    if image.mode.startswith("I"):
        wide = np.asarray(image)
        if wide.min() >= 0 and wide.max() <= 65535:
            return wide.astype(np.uint16)
    elif image.mode in ("P", "LA", "RGB", "RGBA"):
        image.info.pop("transparency", None)
        rgb = np.array(image.convert("RGB"))
        if image.mode in ("LA", "RGBA") and len(set(image.getchannel("A").getextrema())) == 2 and _is_plain(rgb):
            raise BadTruthError(
                f"{path}: one colour, and the shape is in the alpha channel; allowed are masks in colours"
            )
        return rgb[..., 0] if (rgb == rgb[..., :1]).all() else rgb
    raise BadTruthError(
        f"{path}: a mask of mode {image.mode!r}; allowed: '1', 'L', 'I' (0..65535), 'I;16', 'P', 'LA', 'RGB', 'RGBA'"
    )


def _is_plain(rgb: NDArray[np.uint8]) -> bool:
    """Whether all pixels, (H, W, 3), have the same colour."""
    return bool((rgb == rgb[0, 0]).all())


def decode(path: Path | str) -> Image.Image:
    """Open a file and decode its pixels; see `read_rgb` for the errors."""
    return _decoded(_regular(path).read_bytes(), path)  # separate, so that a disk error is not reported as a bad image


def _decoded(data: bytes, path: Path | str) -> Image.Image:
    if not data:
        raise BadImageError(path, "the file is empty")
    with _open(path, io.BytesIO(data)) as image:
        try:
            image.load()
        except MemoryError:
            raise
        except Exception as error:  # decoders raise OSError, SyntaxError, IndexError, struct.error, ...
            raise BadImageError(path, _reason(error)) from error
        return image


def _regular(path: Path | str) -> Path:
    """The path, unless it is a pipe, on which a read would block, or a device, which never ends."""
    try:
        return regular(Path(path))
    except ValueError as error:
        raise BadImageError(path, str(error).removeprefix(f"{path}: ")) from None


def _open(path: Path | str, file: IO[bytes]) -> Image.Image:
    """Read the header. Pillow's warning about damaged EXIF is suppressed: the pixels may still be valid."""
    with _WARNING, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Image.open(file)
        except MemoryError:
            raise
        except Exception as error:
            raise BadImageError(path, _reason(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image in any known format"
    return str(error) or type(error).__name__
