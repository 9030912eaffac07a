"""Maps made elsewhere: a folder of `<picture id>.npy` or `.png` files as a method of its own.

A map covers what the network sees of the picture (all of it with `resize: squash`), in any resolution; a .npy file
holds (h, w) numbers, a .png file 8 or 16 bit grey levels. So a method in another language, or one too slow to run
again, is a row of the same table. Boxes made elsewhere: `eigencam score`.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from eigencam.evaluation.predictions import find_maps, read_map
from eigencam.forward import Forward


@dataclass(frozen=True, slots=True)
class MapFiles:
    """The maps of a folder.

    Attributes:
        folder: where the files lie, or lie below.
        class_specific: whether the maps are for the class that the run asks for.
        files: found there, by picture.

    Raises:
        FileNotFoundError: no maps there.
    """

    folder: str
    class_specific: bool = True
    files: Mapping[str, Path] = field(init=False, repr=False, compare=False)

    needs_gradient: ClassVar[bool] = False
    paper: ClassVar[str] = ""
    needs: ClassVar[str] = "a folder of maps"

    def __post_init__(self) -> None:
        object.__setattr__(self, "files", find_maps(Path(self.folder).expanduser()))

    def __call__(self, forward: Forward, targets: Tensor) -> Tensor:
        """(N, H, W) float32 of the input's size; maps of other sizes are resized bilinearly."""
        size, maps = tuple(forward.images.shape[2:]), []
        for name in forward.ids:
            score_map = torch.from_numpy(read_map(self.files[name]).astype(np.float32))[None, None]
            maps.append(F.interpolate(score_map, size, mode="bilinear", antialias=True)[0, 0])
        return torch.stack(maps).to(forward.images.device)

    def lacking(self, ids: Iterable[str]) -> str:
        """Which of the dataset's pictures have no map; "" if all have one."""
        missing = [name for name in ids if name not in self.files]
        return f"{self.folder}: no map for {len(missing)} pictures, e.g. {missing[0]}" if missing else ""

    def identity(self) -> dict[str, str]:
        """A checksum of the files' names, sizes and times: other maps are another result."""
        digest = hashlib.sha256()
        for name, path in sorted(self.files.items()):
            digest.update(f"{name} {path.stat().st_size} {path.stat().st_mtime_ns}\n".encode())
        return {"files": digest.hexdigest()}
