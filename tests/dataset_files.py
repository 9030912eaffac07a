"""Tiny valid copies of the datasets other than ILSVRC and VOC, in the structure of their archives."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from PIL import Image

RED, GREEN = (255, 0, 0), (0, 255, 0)


def write_image(path: Path, size: tuple[int, int], seed: int = 0) -> Path:
    """Write an image of noise, (height, width), as JPEG or PNG by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(path, "PNG" if path.suffix == ".png" else "JPEG")
    return path


def lines(path: Path, *rows: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(str, rows)) + "\n")


CUB = {  # path: size, class from 0, box x y w h, in training
    "001.Black_footed_Albatross/Black_Footed_Albatross_0046_18.jpg": ((30, 50), 0, (6.0, 2.0, 32.0, 27.0), False),
    "002.Laysan_Albatross/Laysan_Albatross_0001_545.jpg": ((40, 40), 1, (0.0, 1.0, 39.0, 38.0), True),
    "200.Common_Yellowthroat/Common_Yellowthroat_0003_190.jpg": ((25, 30), 199, (3.0, 4.0, 5.0, 6.0), False),
}


def write_cub(root: Path, images: bool = True) -> Path:
    """The archive's layout; returns its folder."""
    top = root / "CUB_200_2011"
    rows = list(enumerate(CUB.items(), start=1))
    lines(top / "images.txt", *(f"{k} {path}" for k, (path, _) in rows))
    lines(top / "image_class_labels.txt", *(f"{k} {label + 1}" for k, (_, (_, label, _, _)) in rows))
    lines(top / "train_test_split.txt", *(f"{k} {int(train)}" for k, (_, (*_, train)) in rows))
    lines(top / "bounding_boxes.txt", *(f"{k} {' '.join(map(str, box))}" for k, (_, (_, _, box, _)) in rows))
    for path, (size, *_) in CUB.items() if images else ():
        write_image(top / "images" / path, size)
    return top


def write_wsol_cub(root: Path) -> Path:
    """wsolevaluation's layout of the same images."""
    for split, training in (("test", False), ("train", True)):
        folder = root / "metadata/CUB" / split
        chosen = [(path, *row[:3]) for path, row in reversed(CUB.items()) if row[3] == training]
        lines(folder / "image_ids.txt", *(path for path, *_ in chosen))
        lines(folder / "class_labels.txt", *(f"{path},{label}" for path, _, label, _ in chosen))
        lines(folder / "image_sizes.txt", *(f"{path},{w},{h}" for path, (h, w), _, _ in chosen))
        corners = [(path, *map(int, (x, y, x + w, y + h))) for path, _, _, (x, y, w, h) in chosen]
        lines(folder / "localization.txt", *(",".join(map(str, row)) for row in corners))
    for path, (size, *_) in CUB.items():
        write_image(root / "dataset/CUB" / path, size)
    return root


V2 = {  # path: size, class, boxes
    "val2/0/0.jpeg": ((20, 30), 0, [(1, 2, 29, 19)]),
    "val2/10/3.jpeg": ((25, 25), 10, [(0, 0, 5, 5), (7, 8, 20, 24)]),
    "val2/2/1.jpeg": ((25, 20), 2, [(3, 3, 4, 4)]),
}


def write_imagenetv2(root: Path, images: str = "dataset/ILSVRC") -> Path:
    folder = root / "metadata/ILSVRC/val"
    lines(folder / "image_ids.txt", *V2)
    lines(folder / "class_labels.txt", *(f"{path},{label}" for path, (_, label, _) in V2.items()))
    lines(folder / "image_sizes.txt", *(f"{path},{w},{h}" for path, ((h, w), _, _) in V2.items()))
    rows = [",".join(map(str, (path, *box))) for path, (_, _, boxes) in V2.items() for box in boxes]
    lines(folder / "localization.txt", *rows)
    for path, (size, *_) in V2.items():
        write_image(root / images / path, size)
    return root


OPENIMAGES = {  # path: size of the image, size of the masks, class
    "test/01226z/7af766bd43da900b.jpg": ((30, 40), (45, 60), 0),
    "test/0138tl/973645e9516726b3.jpg": ((24, 36), (24, 36), 1),
}


def openimages_masks(path: str) -> tuple[list[NDArray[np.bool_]], NDArray[np.bool_]]:
    """Two objects that overlap, and an ignored region that overlaps the second."""
    height, width = OPENIMAGES[path][1]
    parts = np.zeros((3, height, width), bool)
    parts[0, 3:12, 4:20] = True
    parts[1, 10:18, 15:30] = True
    parts[2, 14 : height - 2, 20 : width - 3] = True
    return [parts[0], parts[1]], parts[2]


def write_openimages(root: Path) -> Path:
    """The real files are of several kinds: masks of 1 bit or RGBA, ignored regions RGB or RGBA."""
    folder, data = root / "metadata/OpenImages/test", root / "dataset/OpenImages"
    rows = []
    for k, (path, (size, _, _)) in enumerate(OPENIMAGES.items()):
        write_image(data / path, size)
        stem, (parts, ignored) = path.removesuffix(".jpg"), openimages_masks(path)
        names = [f"{stem}_m{path.split('/')[1]}_{n:08x}.png" for n in range(2)]
        grey = [np.where(part, np.uint8(255), np.uint8(0)) for part in (*parts, ignored)]
        for name, mask in zip(names, grey, strict=False):
            Image.fromarray(mask).convert("RGBA" if k else "1").save(data / name)
        Image.fromarray(grey[2]).convert("RGBA" if k else "RGB").save(data / f"{stem}_ignore.png")
        rows += [f"{path},{names[0]},{stem}_ignore.png", f"{path},{names[1]},"]
    lines(folder / "image_ids.txt", *OPENIMAGES)
    lines(folder / "class_labels.txt", *(f"{path},{label}" for path, (_, _, label) in OPENIMAGES.items()))
    (folder / "image_sizes.txt").touch()
    lines(folder / "localization.txt", *rows)
    return root


IG02 = {"bikes": ["bike_002", "bike_001"], "cars": ["carsgraz_001"], "people": ["person_007"]}


def write_ig02(root: Path, size: tuple[int, int] = (24, 32)) -> Path:
    """In each image: an object that is partly hidden, the object that hides it, and an empty mask."""
    for category, stems in IG02.items():
        lines(root / f"{category}_test.txt", *stems)
        lines(root / f"{category}_train.txt", *stems[:1])
        for stem in stems:
            write_image(root / category / f"{stem}.image.png", size)
            masks = np.zeros((3, *size, 3), np.uint8)
            masks[0, 2:10, 3:12] = RED
            masks[0, 8:14, 8:16] = GREEN
            masks[1, 12:20, 12:30] = RED
            for k, mask in enumerate(masks):
                Image.fromarray(mask).save(root / category / f"{stem}.mask.{k}.png")
    return root


def write_imagenet_segmentation(path: Path, masks: list[NDArray[Any]]) -> list[NDArray[np.uint8]]:
    """In MATLAB's format 7.3: structs and cells are references into `#refs#`, axes reversed. Returns the images (H, W,
    3)."""
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*mask.shape, 3), np.uint8) for mask in masks]
    with h5py.File(path, "w", userblock_size=512) as file:
        refs = file.create_group("#refs#")
        columns: dict[str, list[Any]] = {"img": [], "gt": []}
        for k, (image, mask) in enumerate(zip(images, masks, strict=True)):
            columns["img"].append(refs.create_dataset(f"i{k}", data=image.T, compression="gzip").ref)
            inner = refs.create_dataset(f"m{k}", data=mask.T, compression="gzip").ref
            cell = refs.create_dataset(f"c{k}", (1, 1), h5py.ref_dtype)
            cell[0, 0] = inner
            columns["gt"].append(cell.ref)
        for name, found in columns.items():
            column = file.create_dataset(f"value/{name}", (len(found), 1), h5py.ref_dtype)
            for k, reference in enumerate(found):
                column[k, 0] = reference
    return images


COCO_SIZE = (40, 50)
COCO_CATEGORIES = [(1, "person"), (13, "stop sign"), (90, "toothbrush")]


def square(x: float, y: float, w: float, h: float) -> list[list[float]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


def write_coco(root: Path, split: str = "val2014") -> Path:
    """Two images: a person with a toothbrush in front and a crowd; and one without objects."""
    crowd = np.zeros(COCO_SIZE, np.uint8)
    crowd[30:40, 0:20] = 1
    flat = crowd.T.ravel()  # column by column
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flat, [0]])))
    counts = np.diff(np.concatenate([[0], edges, [flat.size]])).tolist()
    objects = [
        (42, 90, square(20, 8, 6, 10), [20, 8, 6, 10], 0),
        (42, 1, square(10, 5, 30, 30), [10, 5, 30, 30], 0),
        (42, 1, {"counts": counts, "size": list(COCO_SIZE)}, [0, 30, 20, 10], 1),
    ]
    annotations = [
        {
            "id": k,
            "image_id": image,
            "category_id": category,
            "segmentation": segmentation,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": crowded,
        }
        for k, (image, category, segmentation, box, crowded) in enumerate(objects)
    ]
    names = {k: f"COCO_{split}_{k:012d}.jpg" for k in (73, 42)}
    data = {
        "images": [{"id": k, "file_name": n, "height": COCO_SIZE[0], "width": COCO_SIZE[1]} for k, n in names.items()],
        "annotations": annotations,
        "categories": [{"id": k, "name": name, "supercategory": "x"} for k, name in reversed(COCO_CATEGORIES)],
    }
    (root / "annotations").mkdir(parents=True)
    (root / f"annotations/instances_{split}.json").write_text(json.dumps(data))
    for name in names.values():
        write_image(root / split / name, COCO_SIZE)
    return root
