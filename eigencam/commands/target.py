"""What `--target` says on a command line."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.reading import expand
from eigencam.files import regular
from eigencam.targets import Target, box_score, embedding, segment


def parsed(text: str) -> Target | int:
    """A target that is written on a command line.

    >>> parsed("class:3"), str(parsed("box:0")), str(parsed("segment:15"))
    (3, 'box 0', 'segment 15')
    """
    kind, _, value = text.partition(":")
    if kind == "embedding" and value:
        return embedding(read_embedding(value))
    try:
        numbers = [float(v) for v in value.split(",")]
        if kind == "box" and len(numbers) == 4:
            return box_score(numbers)
        if len(numbers) == 1 and numbers[0] == int(value) >= 0 and kind in ("class", "box", "segment"):
            number = int(value)
            return number if kind == "class" else box_score(number) if kind == "box" else segment(number)
    except ValueError as error:
        if "box_score" in str(error):
            raise
    allowed = "class:K, box:NUMBER, box:x1,y1,x2,y2 in the image's pixels, segment:K, embedding:FILE.npy"
    raise ValueError(f"--target {text}; allowed: {allowed}")


def read_embedding(file: str | Path) -> NDArray[np.float32]:
    """(D,) numbers of a .npy file: the embedding of an image, or of a text by a network of both.

    Raises:
        ValueError: it holds something else than a finite vector that is not 0.
        FileNotFoundError: there is no such file.
    """
    try:
        vector = np.load(regular(expand(file)), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{file}: no .npy file of numbers ({error})") from None
    vector = vector.squeeze() if isinstance(vector, np.ndarray) and vector.ndim == 2 else vector
    if not isinstance(vector, np.ndarray) or vector.ndim != 1 or vector.dtype.kind not in "fiu":
        form = f"{vector.dtype} {vector.shape}" if isinstance(vector, np.ndarray) else type(vector).__name__
        raise ValueError(f"{file}: {form}; allowed: numbers of shape (D,) or (1, D)")
    if not np.isfinite(vector).all() or not vector.any():
        raise ValueError(f"{file}: values that are not finite, or all 0; allowed: the finite numbers of an embedding")
    return vector.astype(np.float32)
