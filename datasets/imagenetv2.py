"""ImageNetV2 with wsolevaluation's boxes: 10,000 images of ImageNet's 1000 classes, for tuning thresholds.

    data = read_imagenetv2("wsolevaluation")     # metadata/ILSVRC/val and dataset/ILSVRC/val2/<class>/<k>.jpeg

The folders' *numbers* are the classes, indices of the sorted WordNet ids. An image-folder loader sorts them as texts
(0, 1, 10, 100, ...) and so gives other classes. Here the label is read from class_labels.txt, and must equal the
folder's number.

Reference: B. Recht et al., "Do ImageNet classifiers generalize to ImageNet?", ICML 2019; boxes: J. Choe et al., CVPR
2020. The images are those of the set `threshold-0.7`.
"""

from pathlib import Path

from eigencam.datasets.boxed import Boxed
from eigencam.datasets.completeness import Expect, check_count, images_folder, present
from eigencam.datasets.devkit import N_CLASSES, find_synsets
from eigencam.datasets.names import as_stored, image_id, unique
from eigencam.datasets.reading import expand
from eigencam.datasets.wsol_metadata import find_metadata, read_metadata

FULL = 10_000
IMAGES = ("dataset/ILSVRC", "ILSVRC", ".")
UNPACKED = ("imagenetv2-threshold0.7", "imagenetv2-threshold0.7-format-val", "val2", ".")
HOW_TO_GET = (
    "The images are imagenetv2-threshold0.7.tar.gz of github.com/modestyachts/ImageNetV2, the metadata "
    "metadata/ILSVRC/val of github.com/clovaai/wsolevaluation; name the folder by paths.imagenetv2 or "
    "EIGENCAM_IMAGENETV2"
)


def read_imagenetv2(
    root: str | Path,
    images: str | Path | None = None,
    expect: Expect | None = None,
    allow_missing: bool = False,
    allow_outside: bool = False,
) -> Boxed:
    """Read the truth and find the images.

    Args:
        root: folder with `metadata/ILSVRC/val` (or those files themselves) and the images.
        images: folder of the class folders 0 ... 999; by default searched below `root`.
        expect: `full`: raise an error unless all 10,000 are there and localization.txt is wsolevaluation's.
        allow_missing: use only the images that are there.
        allow_outside: follow listed paths that lead outside the image folder.

    Raises:
        FileNotFoundError: ground truth or images are missing.
        ValueError: a file is wrong, or a folder's number is not its class.
    """
    top = expand(root)
    metadata = find_metadata(top, "ILSVRC", "val")
    if metadata is None:
        raise FileNotFoundError(f"{top} has no metadata/ILSVRC/val/class_labels.txt. {HOW_TO_GET}")
    found = read_metadata(metadata, "ILSVRC", "val", N_CLASSES, expect, allow_outside)
    for path, label in zip(found.paths, found.labels.tolist(), strict=True):
        if path not in found.faults and Path(path).parent.name != str(label):
            raise ValueError(
                f"{metadata / 'class_labels.txt'}: {path} has the class {label}; allowed is its folder's number"
            )
    paths = [_inside(path) for path in found.paths]
    places = [top / place / unpacked for place in IMAGES for unpacked in UNPACKED]
    folder = expand(images) if images else images_folder(places, paths) or top / "val2"
    files = as_stored([folder / path for path in paths])
    kept = present(files, "ImageNetV2", HOW_TO_GET, allow_missing)
    check_count("ImageNetV2", len(kept), FULL, expect)
    synsets = find_synsets([top, metadata])
    return Boxed(
        "imagenetv2",
        "imagenet",
        synsets.words or synsets.wnids or tuple(map(str, range(N_CLASSES))),
        unique([image_id(paths[i]) for i in kept], [found.paths[i] for i in kept]),
        "threshold-0.7",
        [files[i] for i in kept],
        found.labels[kept],
        [found.boxes[i] for i in kept],
        found.sizes[kept],
        metadata / "localization.txt",
        {image_id(_inside(path)): fault for path, fault in found.faults.items()},
    )


read_imagenetv2.version = 1  # type: ignore[attr-defined]


def _inside(path: str) -> str:
    """`val2/7/3.jpeg` -> `7/3.jpeg`."""
    return "/".join(path.split("/")[-2:])
