"""COCO's instances: images with masks and boxes of objects of 80 classes; most images have several objects.

    data = Coco("coco")     # annotations/instances_val2014.json, val2014/COCO_val2014_000000000042.jpg

The 80 categories have ids from 1 to 90 with gaps; classes are counted 0 ... 79 in the order of the ids. A mask assigns
each pixel to one class: where objects overlap, the smaller is on top, since a small object is usually in front of a
large one. Crowds have no individual objects: their pixels are void where no object is, and their boxes `difficult`.

All objects are target objects (`foreground="any"`). The label is the class with the largest area (the first of equal
ones), or -1 without an object. With `target=each`, every class of an image has a row.

Reference: T.-Y. Lin et al., "Microsoft COCO: common objects in context", ECCV 2014.
"""

from pathlib import Path

import numpy as np

from eigencam.datasets.base import LAST_CLASS, VOID, BadTruthError, Truth, checksum
from eigencam.datasets.boxes import from_xywh
from eigencam.datasets.coco_annotations import Instances, paint, read_instances
from eigencam.datasets.completeness import Expect, check_count, present
from eigencam.datasets.decoding import image_size
from eigencam.datasets.image_per_file import ImageFiles
from eigencam.datasets.names import Ids, as_stored, image_id, inside, unique
from eigencam.datasets.reading import Reading, expand

FULL = {"val2014": 40_504, "train2014": 82_783, "val2017": 5_000, "train2017": 118_287}
HOW_TO_GET = (
    "val2014.zip and annotations_trainval2014.zip are at cocodataset.org (Download); unpack both into one folder and "
    "name it by paths.coco or EIGENCAM_COCO"
)


class Coco(ImageFiles):
    """Images of one split and their objects; an `eigencam.datasets.base.Dataset`."""

    version = 1

    class_space = "coco"

    def __init__(
        self,
        root: str | Path,
        split: str = "val2014",
        annotations: str | Path | None = None,
        images: str | Path | None = None,
        expect: Expect | None = None,
        allow_missing: bool = False,
        allow_outside: bool = False,
    ) -> None:
        """Read the annotations and find the images.

        Args:
            root: folder with `annotations` and the folder of the split's images.
            split: val2014, val2017, ... of `annotations/instances_<split>.json`.
            annotations: that file; by default the one below `root`.
            images: folder of the images, by default `root/<split>`.
            expect: `full`: raise an error unless all images of the split are there.
            allow_missing: use only the images that are there.
            allow_outside: follow file names that lead outside the image folder.

        Raises:
            FileNotFoundError: annotations or images are missing.
            ValueError: the file is not COCO's, or pycocotools is not installed.
        """
        try:
            import pycocotools.mask  # noqa: F401
        except ImportError as error:
            raise ValueError("COCO's polygons need pycocotools: pip install 'eigencam-bench[datasets]'") from error
        top = expand(root)
        path = expand(annotations) if annotations else top / "annotations" / f"instances_{split}.json"
        if not path.exists():
            splits = sorted(one.stem.removeprefix("instances_") for one in path.parent.glob("instances_*.json"))
            others = f"; the splits there are {', '.join(splits)}" if splits else ""
            raise FileNotFoundError(f"{path}: no such file{others}. {HOW_TO_GET}")
        self.name, self.split = f"coco_{split}", split
        found, names = _read(path, allow_outside)
        listed, self.classes = found.images, found.classes
        folder = expand(images) if images else top / split
        files = as_stored([folder / name for name in names])
        kept = present(files, f"COCO {split}", HOW_TO_GET, allow_missing)
        check_count(f"COCO {split}", len(kept), FULL.get(split), expect)
        self.files = [files[i] for i in kept]
        ids = unique([image_id(names[i]) for i in kept], self.files)
        self.ids: list[str] = Ids(ids, {str(listed[i]["id"]): name for i, name in zip(kept, ids, strict=True)})
        self._sizes = [found.sizes[i] for i in kept]
        self._objects = [found.objects[i] for i in kept]
        self.faults = {name: found.faults[i] for name, i in zip(self.ids, kept, strict=True) if found.faults[i]}

    def truth(self, i: int) -> Truth:
        """The ground truth of image `i`.

        Raises:
            BadTruthError: an annotation is wrong, or the image's size differs from that of its annotations.
        """
        if fault := self.faults.get(self.ids[i]):
            raise BadTruthError(fault)
        size, objects = self._sizes[i], self._objects[i]
        if (found := image_size(self.files[i])) != size:
            raise BadTruthError(f"{self.files[i]} has {found[::-1]} pixels, its objects are for {size[::-1]}")
        mask = paint(objects, size)
        areas = np.bincount(mask.ravel(), minlength=VOID + 1)[1 : len(self.classes) + 1]
        label = int(areas.argmax()) if areas.any() else -1
        boxes = from_xywh(np.array([one["bbox"] for one in objects], np.float64).reshape(-1, 4))
        labels = np.array([one["class"] for one in objects], np.int64)
        crowds = np.array([one["crowd"] for one in objects], bool)
        return Truth(self.ids[i], size, label, boxes, labels, crowds, mask, "any", source=str(self.files[i]))

    def identity(self) -> dict[str, object]:
        """Split, n, and checksums of ground truth and image files."""
        return {
            "name": self.name,
            "split": self.split,
            "n": len(self.ids),
            "truth": checksum(zip(self.ids, self._sizes, self._objects, strict=True)),
            "pictures": self.file_sizes(),
        }


def _read(path: Path, allow_outside: bool) -> tuple[Instances, list[str]]:
    """The file's images, sorted by file name, and the names."""
    found = read_instances(path, order=lambda image: image["file_name"])
    with Reading(path) as file:
        names = [inside(image["file_name"], allow_outside) for image in file.each("image", found.images)]
    if len(found.classes) > LAST_CLASS + 1:
        raise ValueError(f"{path}: {len(found.classes)} categories; a mask of bytes has room for {LAST_CLASS + 1}")
    return found, names
