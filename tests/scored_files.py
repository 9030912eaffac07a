"""Small files and folders of ground truth, as `eigencam score` and other commands read them."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from eigencam.commands import score

SHARED = os.environ.get("EIGENCAM_SHARED")
WORDS = "EIGENCAM_SHARED is not set: it names the folder with the published reference files"
DEVKIT_IDS = np.roll(np.arange(1, 1001), 1)  # sorted index 0 is devkit id 1000, 1 is 1, ...


def ilsvrc(folder: Path) -> Path:
    """Three images of 40 x 30: the second has two boxes."""
    names = [f"val/ILSVRC2012_val_{k:08d}.JPEG" for k in (1, 2, 3)]
    boxes = [(0, "0,0,9,9"), (1, "0,0,4,4"), (1, "20,10,39,29"), (2, "5,5,14,14")]
    files = {
        "localization.txt": [f"{names[k]},{box}" for k, box in boxes],
        "class_labels.txt": [f"{name},{label}" for name, label in zip(names, (7, 8, 9), strict=True)],
        "image_sizes.txt": [f"{name},40,30" for name in names],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        (folder / name).write_text("\n".join(lines) + "\n")
    (folder / "devkit_id_by_sorted_index.json").write_text(json.dumps(DEVKIT_IDS.tolist()))
    return folder


def annotated(name: str, difficult: int, box: tuple[int, ...]) -> str:
    corners = "".join(f"<{c}>{x}</{c}>" for c, x in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{corners}</bndbox></object>"


def voc(root: Path) -> Path:
    """Two images of 40 x 30: an object of class 0 in each, a difficult one of class 1 in the second."""
    folder = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "Annotations", "SegmentationClass", "ImageSets/Main", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    for k, name in enumerate(("2008_000001", "2008_000002")):
        Image.new("RGB", (40, 30)).save(folder / "JPEGImages" / f"{name}.jpg")
        things = annotated("aeroplane", 0, (1, 1, 20, 10)) + (annotated("bicycle", 1, (31, 21, 40, 30)) if k else "")
        size = "<size><width>40</width><height>30</height><depth>3</depth></size>"
        (folder / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{things}</annotation>")
        mask = np.zeros((30, 40), np.uint8)
        mask[:10, :20], mask[10, :20] = 1, 255
        Image.fromarray(mask).save(folder / "SegmentationClass" / f"{name}.png")
    for task in ("Main", "Segmentation"):
        (folder / "ImageSets" / task / "val.txt").write_text("2008_000001\n2008_000002\n")
    return root / "VOCdevkit"


def run(capsys: pytest.CaptureFixture[str], *argv: object) -> dict[str, Any]:
    parser = argparse.ArgumentParser()
    score.add_arguments(parser)
    assert score.main(parser.parse_args([str(word) for word in argv] + ["--json"])) == 0
    return json.loads(capsys.readouterr().out)
