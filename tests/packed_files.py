"""Small Parquet files, tar shards, class folders of Imagenette and pairs, and the faults that one can make in them."""

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import dataset_files as files
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from eigencam.datasets.pairs import Lfw
from eigencam.datasets.parquet import read_parquet
from eigencam.datasets.tars import read_webdataset

Damage = Callable[[Path], object]
Cases = dict[str, tuple[Damage, str]]
NAMES = ["cat", "dog", "bird"]
FORM = {"box_format": "xyxy", "box_origin": 0, "box_end": "inclusive"}
FIRST, SECOND = (f"validation-0000{k}-of-00002.parquet" for k in (0, 1))


def png(k: int = 0) -> bytes:
    """An image of 8 x 6 pixels."""
    made = io.BytesIO()
    Image.fromarray(np.random.default_rng(k).integers(0, 256, (6, 8, 3)).astype(np.uint8)).save(made, "PNG")
    return made.getvalue()


# --- Parquet -------------------------------------------------------------------------------------------------------


def write_table(path: Path, names: list[str] | None = NAMES, **columns: Any) -> None:
    """Write a file, with the names of the classes as the library `datasets` notes them."""
    table = pa.table(columns)
    if names is not None:
        noted = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(noted)})
    path.parent.mkdir(exist_ok=True)
    pq.write_table(table, path)


def rows(first: int = 0) -> dict[str, list[Any]]:
    """Two rows; the image of each is named after its number."""
    return {
        "image": [{"bytes": png(k), "path": f"{k}.png"} for k in (first, first + 1)],
        "label": [first, 1],
        "box": [[[0.0, 1.0, 4.0, 5.0], [1.0, 1.0, 7.0, 5.0]], []],
        "box_label": [[0, 2], []],
    }


def write_hub(root: Path) -> None:
    write_table(root / "data" / FIRST, **rows())
    write_table(root / "data" / SECOND, **rows(2))


def read_hub(root: Path) -> Any:
    return read_parquet(root / "data", boxes="box", box_labels="box_label", **FORM)  # type: ignore[arg-type]


def second(names: list[str] | None = NAMES, **columns: Any) -> Damage:
    """Write the second file with other columns."""
    return lambda root: write_table(root / "data" / SECOND, names, **rows(2) | columns)


def beyond(label: int, kind: pa.DataType) -> Damage:
    """Give an image another label."""

    def change(root: Path) -> None:
        write_table(root / "data" / FIRST, **rows() | {"label": pa.array([0, 1], kind)})
        write_table(root / "data" / SECOND, **rows(2) | {"label": pa.array([label, 1], kind)})

    return change


def boxed(*box: float) -> Damage:
    return second(box=[[[0.0, 1.0, 4.0, 5.0], list(box)], []])


PLACE = rf"{SECOND}, row 0: 2: "
HUB: Cases = {
    **{
        what: (boxed(*box), PLACE + r"box .*allowed")
        for what, box in {
            "outside": (20, 0, 30, 5),
            "inverted": (6, 0, 2, 5),
            "zero": (6, 0, 5, 5),
            "nan": (np.nan, 0, 5, 5),
            "1-based": (1, 1, 8, 6),
            "huge": (0, 0, 1e12, 5),
            "negative": (-3, 0, 5, 5),
        }.items()
    },
    **{
        f"label {label}": (beyond(label, kind), PLACE + "label .*allowed are 0 to 2, and -1 for none")
        for label, kind in ((3, pa.int64()), (-2, pa.int64()), (10**12, pa.int64()), (2**64 - 1, pa.uint64()))
    },
    "label of a box": (second(box_label=[[0, 3], []]), PLACE + "label of a box 3; allowed are 0 to 2"),
}
HUB_REFUSED: Cases = {
    "a file missing": (lambda root: (root / "data" / SECOND).unlink(), f"1 Parquet files are missing .*{SECOND}"),
    "other totals": (
        lambda root: (root / "data" / SECOND).rename(root / "data/validation-00001-of-00003.parquet"),
        "3 Parquet files are missing beside the 2",
    ),
    "other names": (second(["cat", "bird", "dog"]), f"{SECOND}: other class names than in .*{FIRST}"),
    "names twice": (
        lambda root: (
            [second(["cat", "cat", "bird"])(root), (root / "data" / FIRST).unlink()]
            and (root / "data" / SECOND).rename(root / "data/validation.parquet")
        ),
        "two classes are called 'cat'",
    ),
    "names that are no list": (second({"cat": 0}), f"{SECOND}: the class names of 'label' are .*a list"),  # type: ignore[arg-type]
    "labels of two types": (second(label=["cat", "dog"]), f"{SECOND}: labels of type string; in .* they are int64"),
    "paths as images": (second(image=["2.png", "3.png"]), f"{SECOND}: column 'image' of string; allowed are bytes"),
    "path twice": (
        second(image=[{"bytes": png(), "path": "0.jpg"}, {"bytes": png(), "path": "3.png"}]),
        f"two images are called '0': .*{FIRST}, row 0 and .*{SECOND}, row 0",
    ),
    "boxes of other images": (second(box_label=[[0], [2]]), f"{SECOND}, row 0: 2 boxes and 1 labels of boxes"),
    "a box without a label": (second(box_label=[[0, None], []]), f"{SECOND}: a box without a label"),
    "boxes as texts": (second(box=["[]", "[]"]), f"{SECOND}: a column of string; expected: lists of boxes"),
    "three numbers": (second(box=[[[0.0, 1, 2]] * 2, []]), f"{SECOND}: a box that is not of four numbers"),
    "a list of structs": (second(box=[[{"x": 0.0}] * 2, []]), f"{SECOND}: a column of .*; expected: lists of boxes"),
}

# --- tars ----------------------------------------------------------------------------------------------------------


def write_tar(path: Path, members: Mapping[str, bytes | str]) -> None:
    """Write files, and links to the members that a text names."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as made:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            if isinstance(content, str):
                about.type, about.linkname = tarfile.LNKTYPE, content
                made.addfile(about)
            else:
                about.size = len(content)
                made.addfile(about, io.BytesIO(content))


def samples(first: int, **more: bytes | str) -> dict[str, bytes | str]:
    """Two samples, and further members with `_` for the dot."""
    made: dict[str, bytes | str] = {}
    for k in (first, first + 1):
        made |= {f"{k}.png": png(k), f"{k}.cls": str(k % 3).encode()}
    return made | {name.replace("_", "."): content for name, content in more.items()}


def write_tars(root: Path) -> None:
    write_tar(root / "shards/val-0.tar", samples(0))
    write_tar(root / "shards/val-1.tar", samples(2))


def read_tars(root: Path) -> Any:
    return read_webdataset(root / "shards/val-{0..1}.tar", classes=NAMES)


def resealed(change: Callable[[bytes], bytes]) -> Damage:
    """Change the bytes of the second tar."""

    def write(root: Path) -> None:
        path = root / "shards/val-1.tar"
        path.write_bytes(change(path.read_bytes()))

    return write


def added(**more: bytes | str) -> Damage:
    return lambda root: write_tar(root / "shards/val-1.tar", samples(2, **more))


def members_end(content: bytes) -> int:
    """Where the last member ends: four members of two samples."""
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return max(one.offset_data for one in tar.getmembers()) + 512


TARS: Cases = {
    f"label {label}": (
        lambda root, label=label: write_tar(root / "shards/val-1.tar", samples(2) | {"2.cls": label.encode()}),
        rf"val-1\.tar, byte 512: 2: label {label}; allowed are 0 to 2, and -1 for none",
    )
    for label in ("3", "2147483647")
}
TARS_REFUSED: Cases = {
    "cut between members": (
        resealed(lambda content: content[: members_end(content)]),
        r"val-1\.tar: it ends at byte \d+ without the end of a tar: truncated",
    ),
    "damaged between members": (
        resealed(lambda content: content[: members_end(content)] + b"\x55" * 9000),
        r"val-1\.tar: its members end at byte \d+, and data follows at \d+: damaged, or two tars",
    ),
    "two in one": (resealed(lambda content: content * 2), "data follows at 10240: damaged, or two tars"),
    "cut in a member": (
        resealed(lambda content: content[:700]),
        r"val-1\.tar.*(unexpected end of data|truncated)",
    ),
    "no image": (lambda root: write_tar(root / "shards/val-1.tar", {}), r"val-1\.tar: no image in it"),
    "a label without an image": (added(z_cls=b"1"), r"val-1\.tar, z\.cls: no image beside it; there are cls"),
    "an unknown suffix": (added(z_jp2=b"1", z_cls=b"1"), r"val-1\.tar, z\.cls: no image beside it; there are jp2, cls"),
    "a link": (added(z_png="2.png", z_cls=b"1"), r"val-1\.tar, z\.png: a link to 2\.png; allowed are files"),
    "a second image": (added(**{"2_jpg": png()}), r"2\.jpg: no member 'cls' beside it|two images are called '2'"),
    "label with a separator": (added(z_png=png(), z_cls=b"1_0"), r"z\.cls: '1_0' is no whole number"),
    "label in UTF-16": (added(z_png=png(), z_cls="1".encode("utf-16")), r"z\.cls: .*utf-8"),
    "one id in two tars": (
        lambda root: write_tar(root / "shards/val-1.tar", samples(1)),
        r"two images are called '1': .*val-0\.tar and .*val-1\.tar",
    ),
}

# --- Imagenette and pairs --------------------------------------------------------------------------------------------

WNIDS = ("n01440764", "n02102040")


def write_imagenette(root: Path) -> None:
    for wnid in WNIDS:
        for k in range(2):
            files.write_image(root / f"imagenette2/val/{wnid}/{wnid}_{k}.JPEG", (6, 8), k)


def moved(name: str) -> Damage:
    """Move the second image of the first class."""

    def change(root: Path) -> None:
        top = root / "imagenette2/val"
        (top / name).parent.mkdir(exist_ok=True)
        (top / "n01440764/n01440764_1.JPEG").rename(top / name)

    return change


IMAGENETTE: Cases = {
    name: (moved(name), words)
    for name, words in {
        "n02102040/n01440764_1.JPEG": "n02102040/n01440764_1: an image of n01440764; allowed in this folder: n02102040",
        "0/0.JPEG": "val/0: allowed are the folders n01440764, n02102040",
        "n99999999/a.JPEG": "val/n99999999: allowed are the folders n01440764, n02102040",
        "tench/a.JPEG": "val/tench: allowed are the folders n01440764, n02102040",
    }.items()
}
PAIRS = "1\t2\nAda\t1\t2\nZoë\t1\t2\nAda\t1\tZoë\t1\nAda\t2\tZoë\t2\n"


def write_pairs(root: Path) -> None:
    for name in ("Ada", "Zoë"):
        for k in (1, 2):
            files.write_image(root / f"{name}/{name}_000{k}.jpg", (6, 8), k)
    (root / "pairs.txt").write_text(PAIRS, encoding="utf-8")


def listed(old: str, new: str) -> Damage:
    return lambda root: (root / "pairs.txt").write_text(PAIRS.replace(old, new), encoding="utf-8")


def read_pairs(root: Path) -> Lfw:
    return Lfw(root, matching=None)


TWICE = r"pairs\.txt, line 3: Ada_0001 with Ada_0002 occurs here a second time, after line 2"
PAIRS_REFUSED: Cases = {
    "pair twice": (listed("Zoë\t1\t2", "Ada\t1\t2"), TWICE),
    "pair twice, reversed": (listed("Zoë\t1\t2", "Ada\t02\t01"), TWICE),
    "itself": (listed("Ada\t1\t2", "Ada\t01\t1"), r"pairs\.txt, line 2: an image with itself"),
    "numbers of pairs": (listed("Ada\t1\tZoë\t1", "Zoë\t2\t3"), "fold 1: 3 of 4 pairs match; expected: 2, by line 1"),
    "order of folds": (listed("1\t2\n", "2\t1\n"), "fold 1: 2 of 2 pairs match; expected: 1"),
    "header with a separator": (listed("1\t2\n", "1_0\t2\n"), "line 1: '1_0' is no whole number"),
    "header of many digits": (listed("1\t2\n", "9" * 6000 + "\n"), r"line 1: '9+ \.\.\.; expected"),
    "number with a separator": (listed("Ada\t1\t2", "Ada\t1_0\t2"), "line 2: '1_0' is no whole number"),
    "number of another script": (listed("Ada\t1\t2", "Ada\t\uff11\t2"), "line 2: '\uff11' is no whole number"),
    "number below 0": (listed("Ada\t1\t2", "Ada\t-1\t2"), "line 2: image -1 of Ada; allowed are whole numbers from 0"),
    "a person missing": (listed("Ada\t1\t2", "Bo\t1\t2"), r"2 images of pairs\.txt are missing: .*Bo/Bo_0001\.jpg"),
}
