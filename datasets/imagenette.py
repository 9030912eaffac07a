"""Imagenette: ten ImageNet classes that are easy to tell apart, with labels only; no account is needed.

    imagenette2/val/n01440764/n01440764_10042.JPEG, ...     3,925 images for validation, 9,469 for training

Labels are those of a network for ImageNet's 1000 classes. There are no boxes: only evaluators that need none apply,
such as average drop and insertion.

Source: github.com/fastai/imagenette (Apache 2.0; the images are ImageNet's), the version `imagenette2`.
"""

import re
from pathlib import Path
from typing import Literal

from eigencam.datasets.completeness import Expect, check_count
from eigencam.datasets.folder import FOLDERS, Folder
from eigencam.datasets.reading import expand

CLASSES = {
    0: "n01440764 tench",
    217: "n02102040 English springer",
    482: "n02979186 cassette player",
    491: "n03000684 chain saw",
    497: "n03028079 church",
    566: "n03394916 French horn",
    569: "n03417042 garbage truck",
    571: "n03425413 gas pump",
    574: "n03445777 golf ball",
    701: "n03888257 parachute",
}
"""The ten classes by their index among the sorted WordNet ids of ILSVRC."""

_SYNSET = re.compile(r"(n\d{8})_")  # begins the name of an image of ILSVRC's training set
FULL = {"val": 3_925, "train": 9_469}
SIZES = {"full": "imagenette2", "320px": "imagenette2-320", "160px": "imagenette2-160"}
"""The archive's folder, by torchvision's name of the images' size (length of the shorter side)."""
HOW_TO_GET = (
    "imagenette2.tgz is at github.com/fastai/imagenette; dataset.download=true lets torchvision fetch it; unpack it, "
    "and name the folder that it is in by paths.imagenette or EIGENCAM_IMAGENETTE"
)


def read_imagenette(
    root: str | Path,
    split: Literal["val", "train"] = "val",
    size: Literal["full", "320px", "160px"] = "full",
    expect: Expect | None = None,
    download: bool = False,
) -> Folder:
    """Find the images of a split.

    Args:
        root: the folder that the archive was unpacked in, or `imagenette2` itself.
        split: `val` or `train`.
        size: size of the archive's images.
        expect: `full`: raise an error unless all images of the split are there.
        download: let torchvision download the archive into `root` unless the split is there already.

    Raises:
        FileNotFoundError: the folder is missing, or cannot be downloaded.
        ValueError: an option has a value that is not allowed.
    """
    for option, value, allowed in (("split", split, FULL), ("size", size, SIZES)):
        if value not in allowed:
            raise ValueError(f"{option}={value}; allowed: {', '.join(allowed)}")
    top = expand(root)
    places = [top / SIZES[size] / split, top / split]
    if download and not any(place.is_dir() for place in places):
        _download(top, split, size)
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        raise FileNotFoundError(f"no {places[0]} and no {places[1]}. {HOW_TO_GET}")
    names = [CLASSES.get(k, str(k)) for k in range(1000)]
    found = Folder(folder, labels=FOLDERS, classes=names, class_space="imagenet", name="imagenette")
    wnids = sorted(name.split()[0] for name in CLASSES.values())
    for one in found.ids:
        wnid, name = one.split("/", 1)
        if wnid not in wnids:
            found.faults[one] = f"{folder / wnid}: allowed are the folders {', '.join(wnids)}"
        elif (match := _SYNSET.match(name)) and match[1] != wnid:
            found.faults[one] = f"{folder / one}: an image of {match[1]}; allowed in this folder: {wnid}"
    check_count(f"Imagenette {split}", len(found.ids), FULL[split], expect)
    return found


read_imagenette.version = 1  # type: ignore[attr-defined]


def _download(root: Path, split: str, size: str) -> None:
    from torchvision.datasets import Imagenette

    root.mkdir(parents=True, exist_ok=True)
    try:
        Imagenette(str(root), split=split, size=size, download=True)
    except Exception as error:  # network, disk or archive may raise anything
        raise FileNotFoundError(f"Imagenette could not be downloaded to {root}: {error}. {HOW_TO_GET}") from error
