"""Valid parts of one result that contradict each other: different rows for the same image.

They come from copied folders, or from two shards on machines that do not compute alike. Neither row is believed: a run
sets both parts aside, keeps their rows of other images, and computes the image again.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from eigencam.store.bounded_parquet import read_batches
from eigencam.store.finish import differences
from eigencam.store.ordered_rows import POSITION, MisplacedError, places
from eigencam.store.parts import Parts, set_aside, while_merged
from eigencam.store.row_file import frame_of
from eigencam.store.seal import DamagedError

HELD = 2**18
"""Number of images whose rows are compared at a time."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two parts with different rows for some images.

    Attributes:
        first: the part whose name comes first.
        second: the other one.
        images: each image's first difference in words.
    """

    first: Path
    second: Path
    images: dict[str, str]

    def __str__(self) -> str:
        return f"{self.first} and {self.second.name} contradict each other: {self.what}"

    @property
    def what(self) -> str:
        """The first image's difference, and the number of further ones."""
        more = len(self.images) - 1
        return f"{next(iter(self.images.values()))}{f' (and {more} more images)' if more else ''}"


def intact(parts: Parts) -> tuple[list[Path], list[str]]:
    """Return the files of valid parts without contradictions, and a line for each file that was set aside."""
    said: list[str] = []

    def compared(files: list[Path]) -> tuple[list[Path], list[Contradiction]]:
        return files, list(contradictions(parts, files))

    files, found = while_merged(partial(_valid, parts, said), compared)
    if not found:
        return files, said
    images = pa.array(sorted({image for one in found for image in one.images}))
    reasons: dict[Path, str] = {}
    for one in found:
        reasons.setdefault(one.first, f"it contradicts {one.second.name}: {one.what}; its other rows are kept")
        reasons.setdefault(one.second, f"it contradicts {one.first.name}: {one.what}; its other rows are kept")
    compute: Any = pc  # its functions are created at import
    for path, table in parts.read()[0].items():
        apart = compute.is_in(table["image"], images)
        if path in reasons:
            said += set_aside(DamagedError(path, reasons[path]))
        if path in reasons or compute.any(apart).as_py():
            parts.replace([path], table.filter(compute.invert(apart)))
    return _valid(parts, said), said


def _valid(parts: Parts, said: list[str]) -> list[Path]:
    """The files of valid parts; others are set aside, with a line in `said`."""
    files, errors = parts.checked()
    said += [line for error in errors for line in set_aside(error)]
    return files


def contradictions(parts: Parts, files: Sequence[Path]) -> Iterator[Contradiction]:
    """Yield the contradictions between a result's valid parts; nothing is moved.

    Parts without their images' positions in the dataset, of an older version of this program, are not compared.

    Raises:
        FileNotFoundError: a part has been merged by its shard meanwhile.
    """
    try:
        images = parts.plan()["images"]
    except (FileNotFoundError, DamagedError):
        return
    try:
        twice = _repeated(files, images)
    except MisplacedError:
        return
    pieces = -(-int(twice.sum()) // HELD)
    for piece in range(pieces):
        chosen = np.zeros_like(twice)
        chosen[np.flatnonzero(twice)[piece::pieces]] = True
        frames = [(path, _rows(path, chosen)) for path in files]
        for (first, mine), (second, other) in combinations(frames, 2):
            if found := differences(mine, other):
                yield Contradiction(first, second, found)


def _repeated(files: Sequence[Path], images: int) -> NDArray[np.bool_]:
    """(images,): which images have rows in more than one part."""
    seen, twice = np.zeros(images, bool), np.zeros(images, bool)
    for path in files:
        own = np.zeros(images, bool)
        for batch in read_batches(path, [POSITION]):
            own[places(path, batch, images)] = True
        twice |= seen & own
        seen |= own
    return twice


def _rows(path: Path, chosen: NDArray[np.bool_]) -> pd.DataFrame:
    """The rows of the chosen images in a part."""
    found = []
    for batch in read_batches(path):
        kept = chosen[places(path, batch, len(chosen))]
        found.append(pa.Table.from_batches([batch]).filter(pa.array(kept)))
    return frame_of(found)
