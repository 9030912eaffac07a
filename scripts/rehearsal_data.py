"""Generated datasets of the real size: official lists, names and sizes, generated JPEGs, masks and weights.

An image's file has the listed size and one of `CONTENTS` contents; files with the same content are hard links, so that
50,000 images take about a gigabyte. Boxes and labels are the real ones. VOC's masks are drawn: an ellipse in each box,
with a border of void pixels. Weights are random, and stored in half precision under the names that the real files have.
"""

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from eigencam.datasets.base import VOID
from eigencam.datasets.voc import CLASSES
from eigencam.files import write_text

CONTENTS = 4
"""Different images of one size."""
SIDE = 1024
"""Side of a texture in pixels."""
TRUTH = ("class_labels.txt", "image_sizes.txt", "localization.txt")
"""ILSVRC's, in wsolevaluation's text form."""
XML = """<annotation><filename>{name}.jpg</filename><size><width>{w}</width><height>{h}</height><depth>3</depth></size>
{objects}</annotation>
"""
OBJECT = """<object><name>{name}</name><difficult>{difficult}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>\
<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>
"""
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Listed:
    """An image of a list: its id, (width, height), and the class and `x y w h`, counted from 0, of each object."""

    name: str
    size: Size
    objects: tuple[tuple[str, tuple[float, float, float, float]], ...] = ()


def texture(draw: np.random.Generator, side: int = SIDE) -> Image.Image:
    """A square with the spectrum of a photograph: amplitude falls as 1 / frequency."""
    f = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side))
    f[0, 0] = np.inf
    grey = np.fft.irfft2(draw.normal(size=(4, *f.shape)) * np.exp(2j * np.pi * draw.random((4, *f.shape))) / f)
    rgb = grey[0] + 0.4 * grey[1:]
    return Image.fromarray((128 + 48 * rgb / rgb.std()).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))


@dataclass(slots=True)
class Jpegs:
    """Writes images of any size; images of one size share a few contents.

    Attributes:
        textures: the images are cut from these.
        first: by size, the first file of each content; later files link to it.
        counts: images written of each size.
    """

    textures: list[Image.Image] = field(default_factory=list)
    first: dict[tuple[Size, int], Path] = field(default_factory=dict)
    counts: Counter[Size] = field(default_factory=Counter)

    def write(self, path: Path, size: Size) -> None:
        """Write an image of (width, height) pixels; an existing file is replaced."""
        if not self.textures:
            draw = np.random.default_rng(0)
            self.textures = [texture(draw) for _ in range(CONTENTS)]
        k = self.counts[size] % CONTENTS
        self.counts[size] += 1
        path.unlink(missing_ok=True)
        if (size, k) in self.first:
            os.link(self.first[size, k], path)
            return
        whole, (w, h) = self.textures[k], size
        scale = max(w, h) / SIDE
        if scale <= 1:
            image = whole.crop((SIDE - w, SIDE - h, SIDE, SIDE))
        else:
            image = whole.resize((w, h), Image.Resampling.BILINEAR, (0, 0, w / scale, h / scale))
        image.save(path, quality=85)
        self.first[size, k] = path


def make_ilsvrc(root: Path, truth: Path, jpegs: Jpegs, n: int | None) -> int:
    """Write validation images and their truth.

    Args:
        root: folder to write.
        truth: folder of the three files of `TRUTH`, plain or `.gz`.
        jpegs: writes the images.
        n: number of images, the first ones; None: all.

    Returns:
        Number of images.
    """
    lines = {name: _lines(truth, name) for name in TRUTH}
    kept = [line.rpartition(",")[0] for line in lines["class_labels.txt"]][:n]
    chosen = set(kept)
    folder = root / "val"
    folder.mkdir(parents=True, exist_ok=True)
    for line in lines["image_sizes.txt"]:
        path, width, height = line.split(",")
        if path in chosen:
            jpegs.write(folder / path.rsplit("/", 1)[-1], (int(width), int(height)))
    for name in TRUTH:
        write_text(root / name, "".join(f"{line}\n" for line in lines[name] if line.split(",", 1)[0] in chosen))
    return len(kept)


def _lines(folder: Path, name: str) -> list[str]:
    plain, packed = folder / name, folder / f"{name}.gz"
    if not plain.is_file() and not packed.is_file():
        raise FileNotFoundError(f"{folder} has neither {name} nor {name}.gz; wsolevaluation's metadata/ILSVRC/test has")
    content = plain.read_bytes() if plain.is_file() else gzip.decompress(packed.read_bytes())
    return content.decode().split()


def listed(files: Sequence[Path]) -> dict[str, Listed]:
    """The images of JSON files in COCO's form, by id: `images`, `annotations` with `bbox`, `categories`."""
    found: dict[str, Listed] = {}
    for file in files:
        content: dict[str, Any] = json.loads(file.read_text())
        names = {category["id"]: category["name"] for category in content["categories"]}
        if strange := sorted(set(names.values()) - set(CLASSES)):
            raise ValueError(f"{file}: the category {strange[0]!r}; VOC's are {', '.join(CLASSES)}")
        objects: dict[object, list[tuple[str, tuple[float, float, float, float]]]] = {}
        for one in content["annotations"]:
            x, y, w, h = one["bbox"]
            objects.setdefault(one["image_id"], []).append((names[one["category_id"]], (x, y, w, h)))
        for image in content["images"]:
            name = Path(image["file_name"]).stem
            found[name] = Listed(name, (image["width"], image["height"]), tuple(objects.get(image["id"], ())))
    return found


def chosen(known: Mapping[str, Listed], ids: Path | None) -> tuple[list[Listed], int]:
    """The images of a list of ids, or all, and the number of those of unknown size, which get the commonest size."""
    if ids is None:
        return [known[name] for name in sorted(known)], 0
    usual = Counter(one.size for one in known.values()).most_common(1)[0][0]
    names = ids.read_text().split()
    return [known.get(name) or Listed(name, usual) for name in names], sum(name not in known for name in names)


def make_voc(root: Path, year: int, task: str, image_set: str, images: Sequence[Listed], jpegs: Jpegs) -> int:
    """Write an image set of VOC: list, images, annotations, and for `Segmentation` masks. Returns their number."""
    folder = root / f"VOC{year}"
    for name in ("JPEGImages", "Annotations", "SegmentationClass", f"ImageSets/{task}"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for one in images:
        jpegs.write(folder / "JPEGImages" / f"{one.name}.jpg", one.size)
        write_text(folder / "Annotations" / f"{one.name}.xml", _xml(one))
        if task == "Segmentation":
            _mask(one).save(folder / "SegmentationClass" / f"{one.name}.png")
    write_text(folder / "ImageSets" / task / f"{image_set}.txt", "".join(f"{one.name}\n" for one in images))
    return len(images)


def _corners(one: Listed) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Class, first and last pixel (from 0, inside the image) of each object."""
    width, height = one.size
    for name, (x, y, w, h) in one.objects:
        x1, y1 = min(max(round(x), 0), width - 1), min(max(round(y), 0), height - 1)
        yield name, (x1, y1, min(max(round(x + w), x1), width - 1), min(max(round(y + h), y1), height - 1))


def _xml(one: Listed) -> str:
    """VOC's annotation, which counts from 1."""
    objects = (
        OBJECT.format(name=name, difficult=0, x1=x1 + 1, y1=y1 + 1, x2=x2 + 1, y2=y2 + 1)
        for name, (x1, y1, x2, y2) in _corners(one)
    )
    return XML.format(name=one.name, w=one.size[0], h=one.size[1], objects="".join(objects))


def _mask(one: Listed) -> Image.Image:
    """Classes as palette indices from 1; void pixels around each object. An image without objects gets one."""
    mask = Image.new("P", one.size, 0)
    mask.putpalette(bytes(k // 3 for k in range(3 * 256)))  # without an object the mask has two values
    draw, (width, height) = ImageDraw.Draw(mask), one.size
    whole = [("person", (width // 4, height // 4, 3 * width // 4, 3 * height // 4))]
    for name, (x1, y1, x2, y2) in [*_corners(one)] or whole:
        draw.ellipse((x1, y1, x2, y2), fill=CLASSES.index(name) + 1, outline=VOID, width=3)
    return mask


def make_weights(models: Iterable[Mapping[str, Any]], hub: Path, real: Path | None = None) -> list[str]:
    """Write files of random weights where the networks of a sweep look for their weights.

    Args:
        models: `model` nodes of composed configs.
        hub: folder of torchvision's downloads (`$TORCH_HOME/hub/checkpoints`).
        real: folder of real weights files, used if one has the requested name.

    Returns:
        Names of the networks whose weights are random.
    """
    import torch
    from safetensors.torch import save_file
    from torchvision.models import get_model, get_model_weights

    from eigencam.store.build import instantiate

    random = []
    for model in models:
        name, weights, target = model["name"], model["weights"], model["_target_"]
        if not weights or weights.startswith("eigencam:"):
            continue
        plain = "/" not in weights
        short = target.rsplit(".", 1)[-1]
        path = hub / get_model_weights(short)[weights].url.rsplit("/", 1)[-1] if plain else Path(weights)
        path.parent.mkdir(parents=True, exist_ok=True)
        if real and (real / path.name).is_file():
            path.unlink(missing_ok=True)
            path.symlink_to((real / path.name).resolve())
            continue
        random.append(name)
        if path.exists():
            continue
        torch.manual_seed(0)
        heads = {"init_weights": True} if short == "googlenet" and plain else {}
        module = get_model(short, weights=None, **heads) if plain else instantiate({"_target_": target})
        state = {key: t.half() if t.is_floating_point() else t for key, t in module.state_dict().items()}
        half = {key: tensor.contiguous() for key, tensor in state.items()}
        beside = path.with_name(f".{path.name}")
        torch.save(half, beside) if plain else save_file(half, beside)
        beside.replace(path)
    return random
