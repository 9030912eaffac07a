"""Digests of images: each row of a result has one, so that a changed image is detected.

    file:1c0b6d2a90e1f3b7                of the encoded bytes: a dataset with one file per image
    generated:scenes-1-test-0-17         generator, its version, and its arguments
    pixels:77aa0b3f5e6d1c20-375x500x3    of the decoded pixels, with their shape: a dataset without digests
    pair:file:...+file:...               of two images

The first word is the kind, and only digests of the same kind are compared. The hash, of 8 bytes, is fast (9 us for a
JPEG of 110 KB, 37 us for the pixels of an image of 500 x 375, for which SHA-256 takes 200 and 840 us) and not
cryptographic: it detects changes, but not deliberate forgery.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eigencam.files import regular

_WORDS = 8192
"""64-bit words in a block."""

_FACTORS = np.random.PCG64(0).random_raw(_WORDS) | np.uint64(1)
_STEP = 0x9E3779B97F4A7C15  # combines one block with the next; odd, so no information is lost
_MASK = 2**64 - 1


def hash64(content: bytes | bytearray | memoryview) -> str:
    """Return 16 hexadecimal digits for some bytes.

    The words of each block are multiplied by fixed odd numbers and summed modulo 2^64; the blocks' sums are chained.

    >>> hash64(b"abc") == hash64(b"abc") != hash64(b"abd")
    True
    """
    words = np.frombuffer(content, np.dtype("<u8"), len(content) // 8)
    blocks = (words[start : start + _WORDS] for start in range(0, len(words), _WORDS))
    sums = [int(np.dot(block, _FACTORS[: len(block)])) for block in blocks]
    found = len(content)
    for number in (*sums, int.from_bytes(content[8 * len(words) :], "little")):
        found = ((found ^ found >> 29) * _STEP + number) & _MASK
    return f"{(found ^ found >> 32) * _STEP & _MASK:016x}"


def file_digest(path: Path | str) -> str:
    """Return the digest of an image's encoded bytes."""
    return bytes_digest(regular(Path(path)).read_bytes())


def bytes_digest(content: bytes) -> str:
    """Return the digest of an image's encoded bytes, from memory."""
    return f"file:{hash64(content)}"


def pixel_digest(image: NDArray[np.uint8]) -> str:
    """Return the digest of decoded pixels, of any shape."""
    shape = "x".join(map(str, image.shape))
    return f"pixels:{hash64(np.ascontiguousarray(image).data.cast('B'))}-{shape}"


def generated_digest(generator: str, version: int, *asked: object) -> str:
    """Return the digest of a generated image: the generator's name and version, and its arguments."""
    return f"generated:{'-'.join(map(str, (generator, version, *asked)))}"


def pair_digest(digests: Sequence[str]) -> str:
    """Return the digest of an image made of several images."""
    return f"pair:{'+'.join(digests)}"


def digest_of(dataset: Any, i: int, image: NDArray[np.uint8] | None = None) -> str:
    """Return the digest of a dataset's image `i`: the dataset's own, else one of the image's pixels.

    Args:
        dataset: an `eigencam.datasets.base.Dataset`.
        i: position.
        image: the decoded image, if available.

    Raises:
        ValueError: the dataset's digest is not a text with a kind.
        BadImageError: the image cannot be read.
    """
    if not hasattr(dataset, "digest"):
        return pixel_digest(dataset.image(i) if image is None else image)
    said = dataset.digest(i)
    if not isinstance(said, str) or ":" not in said:
        raise ValueError(f"digest({i}) of dataset {dataset.name} is {said!r}; allowed: a text, KIND:DIGITS")
    return said


def is_changed(before: str | None, now: str | None) -> bool:
    """Whether two digests of one image are of the same kind and differ.

    >>> is_changed("file:1", "file:2"), is_changed("file:1", "pixels:2"), is_changed(None, "file:1")
    (True, False, False)
    """
    return bool(before and now) and before != now and str(before).split(":")[0] == str(now).split(":")[0]
