"""Every reader of foreign files, with a minimal valid set of files that tests then damage."""

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dataset_files as files
import ilsvrc_files as ilsvrc
import numpy as np
import packed_files as packed
from PIL import Image
from scipy.io import savemat
from scored_files import voc

from eigencam.datasets.coco import Coco
from eigencam.datasets.cub import read_cub
from eigencam.datasets.folder import Folder
from eigencam.datasets.graz02 import Ig02
from eigencam.datasets.ilsvrc import Ilsvrc
from eigencam.datasets.imagenet_segmentation import ImageNetSegmentation
from eigencam.datasets.imagenette import read_imagenette
from eigencam.datasets.imagenetv2 import read_imagenetv2
from eigencam.datasets.openimages import OpenImages
from eigencam.datasets.voc import Voc
from eigencam.evaluation.pointing import read_flags
from eigencam.evaluation.predictions import find_maps, maps_of, read_coco_boxes, read_coco_truth, read_devkit, read_map
from eigencam.evaluation.proposal_files import read_mat, read_txt

IDS = ["a", "q/b"]
Duplicate = Callable[[Path], tuple[str, str]]


@dataclass(frozen=True)
class Reader:
    """How to write files below a folder, read all of them, and duplicate an id.

    Attributes:
        read: returns the files' whole content in a comparable form.
        duplicate: changes the files so that two images, maps or lines have one id; returns the two names.
        texts: globs of text files.
        binaries: globs of images, masks, maps and the like.
        respelt: globs of the files whose suffix may be in capitals.
        may_be_missing: names of optional files, or of files whose absence is reported for something else.
        may_be_empty: likewise.
    """

    write: Callable[[Path], object]
    read: Callable[[Path], Any]
    duplicate: Duplicate
    texts: tuple[str, ...] = ()
    binaries: tuple[str, ...] = ()
    respelt: tuple[str, ...] = ()
    may_be_missing: tuple[str, ...] = ()
    may_be_empty: tuple[str, ...] = ()


def everything(data: Any) -> list[Any]:
    """Ids, truth and pixels of a dataset."""
    found: list[Any] = [data.ids, data.classes]
    for i in range(len(data.ids)):
        t = data.truth(i)
        mask = None if t.mask is None else t.mask.tolist()
        found.append([t.image_id, t.size, t.label, t.boxes.tolist(), t.box_labels.tolist(), mask])
        found.append(data.image(i).tolist())
    return found


def line_twice(glob: str, line: int = 0) -> Duplicate:
    """Repeat a line of a text file at its end."""

    def duplicate(root: Path) -> tuple[str, str]:
        path = next(root.rglob(glob))
        text = path.read_text().splitlines()
        path.write_text("\n".join([*text, text[line]]) + "\n")
        return f"{path.name}, line {len(text) + 1}", f"line {line + 1}"

    return duplicate


def copied(glob: str, rename: Callable[[Path], Path]) -> Duplicate:
    """Copy a file to a second name."""

    def duplicate(root: Path) -> tuple[str, str]:
        path = sorted(root.rglob(glob))[0]
        other = rename(path)
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_bytes(path.read_bytes())
        return str(path.name), str(other.name)

    return duplicate


def image_twice(root: Path) -> tuple[str, str]:
    path = next(root.rglob("instances_*.json"))
    data = json.loads(path.read_text())
    data["images"].append({**data["images"][0], "file_name": "other.jpg"})
    path.write_text(json.dumps(data))
    return str(data["images"][0]["file_name"]), "other.jpg"


def ambiguous(root: Path) -> tuple[str, str]:
    (root / "results.json").write_text('[{"image_id": 1, "bbox": [0, 0, 2, 3], "score": 1}]')
    return "train_0001", "val_0001"


def number_twice(root: Path) -> tuple[str, str]:
    """Give one image two of CUB's numbers."""
    path, (first, second, _) = root / "CUB_200_2011/images.txt", files.CUB
    path.write_text(path.read_text().replace(second, first))
    return "number 1", "number 2"


def write_voc(root: Path) -> None:
    voc(root)
    for path in root.rglob("*.xml"):  # characters outside of Latin-1
        path.write_text(path.read_text().replace("<annotation>", "<annotation><source>Zoë, 象</source>"))


def write_ilsvrc(source: str) -> Callable[[Path], None]:
    def write(root: Path) -> None:
        ilsvrc.WRITERS[source](root)
        ilsvrc.write_images(root / "ILSVRC/Data/CLS-LOC/val")

    return write


def write_maps(root: Path) -> None:
    (root / "q").mkdir()
    np.save(root / "a.npy", np.arange(6.0).reshape(2, 3))
    Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3)).save(root / "q" / "b.png")


def write_mat(root: Path) -> None:
    (root / "q").mkdir()
    for name in IDS:
        savemat(root / f"{name}.mat", {"boxes": np.array([[1.0, 1, 4, 5], [2, 3, 4, 5]]), "scores": np.array([1.0, 2])})


def write_folder(root: Path) -> None:
    """A folder of two images with labels, boxes in CSV and masks."""
    for k, name in enumerate(IDS):
        files.write_image(root / f"photos/{name}.jpg", (6, 8), k)
        (root / f"masks/{name}").parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.eye(6, 8, dtype=np.uint8) * 255).save(root / f"masks/{name}.png")
    files.lines(root / "labels.csv", "a.jpg,Zoë", "q/b.jpg,cat")
    files.lines(root / "boxes.csv", "a.jpg,0,1,4,5,Zoë", "q/b.jpg,1,1,7,5,cat", "a.jpg,2,2,2,2,cat")


def read_folder(root: Path) -> Folder:
    form = {"box_format": "xyxy", "box_origin": 0, "box_end": "inclusive"}
    return Folder(
        root / "photos",
        labels=root / "labels.csv",
        boxes=root / "boxes.csv",
        masks=root / "masks",
        mask_values={"object": 255},
        **form,  # type: ignore[arg-type]
    )


def write_txt(root: Path) -> None:
    (root / "q").mkdir()
    for name in IDS:
        (root / f"{name}.txt").write_text("1 1 4 5 0.5\n2 3 4 5 0.75\n")


def dataset(make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    return lambda root: everything(make(root))


JPEG_TWICE = copied("*.JPEG", lambda path: path.with_suffix(".png"))
VOC, TRUTH = "VOCdevkit/VOC2012", "ILSVRC/Data/CLS-LOC/val/*.JPEG"
LISTS = ("image_ids.txt", "class_labels.txt", "image_sizes.txt", "localization.txt")
META = tuple(f"metadata/*/*/{name}" for name in LISTS)

READERS: dict[str, Reader] = {
    "voc": Reader(
        write_voc,
        dataset(lambda root: Voc(root, 2012, "val")),
        line_twice("Main/val.txt"),
        (f"{VOC}/ImageSets/Main/val.txt", f"{VOC}/Annotations/*.xml"),
        (f"{VOC}/JPEGImages/*.jpg",),
        (f"{VOC}/JPEGImages/*.jpg", f"{VOC}/Annotations/*.xml"),
    ),
    "voc masks": Reader(
        write_voc,
        dataset(lambda root: Voc(root, 2012, "val", task="Segmentation")),
        copied("SegmentationClass/*.png", lambda path: path.with_suffix(".PNG")),
        (f"{VOC}/ImageSets/Segmentation/val.txt",),
        (f"{VOC}/SegmentationClass/*.png",),
        (f"{VOC}/SegmentationClass/*.png",),
    ),
    "ilsvrc text": Reader(
        write_ilsvrc("text"),
        dataset(Ilsvrc),
        line_twice("class_labels.txt"),
        LISTS[1:],
        (TRUTH,),
        (TRUTH,),
        ("image_sizes.txt",),
    ),
    "ilsvrc xml": Reader(
        write_ilsvrc("xml"),
        dataset(Ilsvrc),
        copied("ILSVRC2012_val_00000001.xml", lambda path: path.parent / "n00000007" / path.name),
        ("LOC_synset_mapping.txt", "ILSVRC/Annotations/CLS-LOC/val/*1.xml"),
        (),
        ("ILSVRC/Annotations/CLS-LOC/val/*.xml", TRUTH),
    ),
    "ilsvrc csv": Reader(
        write_ilsvrc("csv"),
        dataset(Ilsvrc),
        line_twice("LOC_val_solution.csv", 3),
        ("LOC_val_solution.csv", "LOC_synset_mapping.txt"),
    ),
    "ilsvrc devkit": Reader(
        write_ilsvrc("devkit"),
        dataset(Ilsvrc),
        JPEG_TWICE,
        ("ILSVRC2012_devkit_t12/data/*_ground_truth.txt",),
        ("ILSVRC2012_devkit_t12/data/*.mat",),
        may_be_missing=("ILSVRC2012_validation_ground_truth.txt", "cache_groundtruth.mat"),
    ),
    "cub": Reader(
        files.write_cub,
        dataset(read_cub),
        number_twice,
        ("CUB_200_2011/*.txt",),
        ("CUB_200_2011/images/001*/*.jpg",),
        ("CUB_200_2011/images/*/*.jpg",),
    ),
    "cub by wsolevaluation": Reader(
        files.write_wsol_cub,
        dataset(read_cub),
        line_twice("test/image_ids.txt"),
        tuple(f"metadata/CUB/test/{name}" for name in LISTS),
        ("dataset/CUB/200*/*.jpg",),
        ("dataset/CUB/*/*.jpg",),
        LISTS[:1] + LISTS[2:3],
    ),
    "imagenetv2": Reader(
        files.write_imagenetv2,
        dataset(read_imagenetv2),
        line_twice("class_labels.txt"),
        META,
        ("dataset/ILSVRC/val2/2/*.jpeg",),
        ("dataset/ILSVRC/val2/*/*.jpeg",),
        LISTS[:1] + LISTS[2:3],
    ),
    "openimages": Reader(
        files.write_openimages,
        dataset(OpenImages),
        line_twice("localization.txt"),
        tuple(glob for glob in META if "sizes" not in glob),  # image_sizes.txt is empty there
        ("dataset/OpenImages/test/*/*.jpg", "dataset/OpenImages/test/*/*.png"),
        ("dataset/OpenImages/test/*/*.jpg", "dataset/OpenImages/test/*/*.png"),
        LISTS[:1],
    ),
    "ig02": Reader(
        files.write_ig02,
        dataset(lambda root: Ig02(root, "bikes")),
        line_twice("bikes_test.txt"),
        ("bikes_test.txt",),
        ("bikes/*_001.image.png", "bikes/*_001.mask.0.png"),
        ("bikes/*.png",),
        ("bike_001.mask.0.png",),
    ),
    "coco": Reader(
        files.write_coco,
        dataset(Coco),
        image_twice,
        ("annotations/*.json",),
        ("val2014/*.jpg",),
        ("val2014/*.jpg",),
    ),
    "folder": Reader(
        write_folder,
        dataset(read_folder),
        line_twice("labels.csv"),
        ("labels.csv", "boxes.csv"),
        ("photos/*.jpg", "masks/*.png"),
        ("photos/*.jpg", "photos/q/*.jpg", "masks/*.png"),
    ),
    "hf": Reader(
        packed.write_hub,
        dataset(packed.read_hub),
        copied("*.parquet", lambda path: path.with_name("validation-copy.parquet")),
        binaries=("data/*.parquet",),
        respelt=("data/*.parquet",),
    ),
    "webdataset": Reader(
        packed.write_tars,
        dataset(packed.read_tars),
        copied("*.tar", lambda path: path.with_name("val-1.tar")),
        binaries=("shards/*.tar",),
    ),
    "imagenette": Reader(
        packed.write_imagenette,
        dataset(read_imagenette),
        copied("*.JPEG", lambda path: path.with_suffix(".png")),
        binaries=("imagenette2/val/n01440764/*.JPEG",),
        respelt=("imagenette2/val/*/*.JPEG",),
        may_be_missing=("n01440764_0.JPEG",),
    ),
    "pairs": Reader(
        packed.write_pairs,
        dataset(packed.read_pairs),
        line_twice("pairs.txt", 1),
        ("pairs.txt",),
        ("Ada/*.jpg",),
        ("*/*.jpg",),
    ),
    "imagenet segmentation": Reader(
        lambda root: files.write_imagenet_segmentation(
            root / "gtsegs_ijcv.mat", [np.eye(9, 12, dtype=np.uint8), np.ones((5, 6), np.uint8)]
        ),
        dataset(ImageNetSegmentation),
        lambda root: ("", ""),  # images have no names
        binaries=("*.mat",),
    ),
    "devkit's boxes": Reader(
        lambda root: (root / "boxes.txt").write_text("7 0 0 9 9\n8 1 1 3 4 9 0 0 2 2\n"),
        lambda root: [str((found := read_devkit(root / "boxes.txt")).labels.tolist()), str(found.boxes.tolist())],
        lambda root: ("", ""),  # lines have no names
        ("boxes.txt",),
    ),
    "coco's results": Reader(
        lambda root: (root / "results.json").write_text('[{"image_id": "b", "bbox": [0, 1, 2, 3], "score": 0.5}]'),
        lambda root: {
            name: boxes.tolist()
            for name, boxes in read_coco_boxes(root / "results.json", ["b", "train_0001", "val_0001"]).items()
        },
        ambiguous,
        ("results.json",),
    ),
    "coco's truth": Reader(
        files.write_coco,
        lambda root: [
            [truth.image_id, truth.size, truth.boxes.tolist(), truth.box_labels.tolist()]
            for truth in read_coco_truth(root / "annotations/instances_val2014.json")
        ],
        image_twice,
        ("annotations/*.json",),
    ),
    "maps": Reader(
        write_maps,
        lambda root: {name: read_map(path).tolist() for name, path in sorted(maps_of(IDS, find_maps(root)).items())},
        copied("a.npy", lambda path: path.parent / "other" / "a.jpg.npy"),
        (),
        ("*.npy", "q/*.png"),
        ("*.npy", "q/*.png"),
        ("a.npy", "b.png"),
    ),
    "mat": Reader(
        write_mat,
        lambda root: {name: boxes.tolist() for name, boxes in read_mat(root, IDS).items()},
        copied("a.mat", lambda path: path.parent / "other" / "a.mat"),
        (),
        ("*.mat", "q/*.mat"),
        ("*.mat", "q/*.mat"),
        ("a.mat", "b.mat"),
    ),
    "folder of txt": Reader(
        write_txt,
        lambda root: {name: boxes.tolist() for name, boxes in read_txt(root, IDS).items()},
        copied("a.txt", lambda path: path.parent / "other" / "a.txt"),
        ("*.txt",),
        (),
        ("*.txt", "q/*.txt"),
        ("a.txt",),
        ("a.txt",),
    ),
    "txt": Reader(
        lambda root: (root / "boxes.txt").write_text("a 1 1 4 5 0.5\nq/b 2 3 4 5 0.75\na 1 2 3 4 0.7\n"),
        lambda root: {name: boxes.tolist() for name, boxes in read_txt(root / "boxes.txt", IDS).items()},
        lambda root: ("b", str((root / "boxes.txt").write_text("b 1 1 4 5\nq/b 2 3 4 5\n") and "q/b")),
        ("boxes.txt",),
        may_be_empty=("boxes.txt",),
    ),
    "flags": Reader(
        lambda root: (root / "flags.txt").write_text("a\t0\t1\nb\t1\t1\n"),
        lambda root: {name: flags.tolist() for name, flags in read_flags.__wrapped__(str(root / "flags.txt")).items()},
        line_twice("flags.txt"),
        ("flags.txt",),
    ),
}


def zipped(path: Path) -> None:
    path.write_bytes(gzip.compress(path.read_bytes()))
