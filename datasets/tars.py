"""Images in tar shards, as the library `webdataset` writes and reads them.

    WebDataset("imagenet/val-{000000..000049}.tar")      # 000001.jpg, 000001.cls, 000002.jpg, ...
    WebDataset("imagenet", truth="metadata/ILSVRC/test") # every .tar of a folder; boxes from wsolevaluation's lists

The members of a sample share their name up to the first dot after the last slash. This name is the image's id;
folders are left out if all ids are unique without them. The label is a number: the content of a member `cls`, or the
value of a key in a member `json`. The tars are not unpacked: their headers are read once, the positions of the
images are cached (`eigencam.datasets.annotation_cache`), and each image is read in place. The order is that of the
tars' names and of their members, so a shard of a run reads neighbouring tars.
"""

import json
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from eigencam.datasets.annotation_cache import Names, kept
from eigencam.datasets.base import checksum
from eigencam.datasets.class_names import MOST_CLASSES, numbered
from eigencam.datasets.completeness import some
from eigencam.datasets.names import SUFFIXES, repeated, unique
from eigencam.datasets.packed import Packed, with_truth
from eigencam.datasets.reading import Reading, distinct_keys, expand, files_in, hidden, integer

_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_LARGEST_TEXT = 1 << 20  # bytes of a member with a label
_BLOCK = 512  # bytes
_IMAGES = f"members that end in {', '.join(SUFFIXES)} are images"


class Members:
    """Images at positions in tar files; an `eigencam.datasets.packed.Store`. Each process opens the files itself."""

    def __init__(self, files: Sequence[Path], table: pa.Table) -> None:
        """Take the positions from a table with the columns tar, offset and size."""
        self.files = list(files)
        self._tar, self._offset, self._size = (np.asarray(table.column(c)) for c in ("tar", "offset", "size"))
        self._open: tuple[int, int, int] = (-1, -1, -1)  # process, tar, descriptor

    def read(self, i: int) -> bytes:
        """Return the file content of image `i`."""
        process, tar = os.getpid(), int(self._tar[i])
        if self._open[:2] != (process, tar):
            if self._open[0] == process:
                os.close(self._open[2])
            self._open = (-1, -1, -1)
            self._open = (process, tar, os.open(self.files[tar], os.O_RDONLY))
        return os.pread(self._open[2], int(self._size[i]), int(self._offset[i]))

    def place(self, i: int) -> str:
        """Return the tar of image `i`, and the byte where it begins."""
        return f"{self.files[int(self._tar[i])]}, byte {self._offset[i]}"

    def identity(self) -> dict[str, object]:
        """Return a checksum of the sizes of the images."""
        return {"pictures": checksum(self._size.tolist())}

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": (-1, -1, -1)}


def read_webdataset(
    path: str | Path,
    label: str | None = "cls",
    truth: str | Path | None = None,
    classes: Sequence[str] | None = None,
    class_space: str | None = None,
    name: str = "webdataset",
) -> Packed:
    """Find the tars and the images in them.

    Args:
        path: a folder of tars, one tar, or names with a range of numbers in braces, `val-{0000..0049}.tar`.
        label: where a sample has its class number: a member, `cls`; a key of a member, `json:label`; null: nowhere.
        truth: folder, or folders `A:B`, with ILSVRC's ground truth in any of its forms; it is joined by image id.
        classes: names in the order of the labels; by default numbers.
        class_space: the network's name for the same classes: `imagenet`, ...; default: `name`.
        name: short name of the dataset.

    Raises:
        FileNotFoundError: there is no tar, or one of a range is missing.
        ValueError: a file is not a complete tar or has no image, a sample has several images, an image without a
            label, a label without an image, or a label that is not a number, or two images have the same name.
    """
    files = _tars(path)
    kind = re.sub(r"\W", "-", label or "none")
    table = kept(f"webdataset-{kind}", files, lambda: _index(files, label), version=2)
    store, ids = Members(files, table), _short(Names(table.column("id")), files, table)
    labels = np.asarray(table.column("label"))
    names = tuple(map(str, classes or numbered(int(labels.max(initial=0, where=labels < MOST_CLASSES)))))
    unique(names, range(len(names)), "classes")
    made = Packed(name, class_space or name, names, ids, store, labels)
    return made if truth is None else with_truth(made, truth, class_space)


read_webdataset.version = 1  # type: ignore[attr-defined]


def _index(files: Sequence[Path], label: str | None) -> pa.Table:
    """The position, id and label of each image."""
    columns: dict[str, list[Any]] = {"tar": [], "offset": [], "size": [], "label": []}
    ids: list[str] = []
    for k, path in enumerate(files):
        with Reading(path, "a tar of images, each with the members of its sample beside it") as file:
            before = len(ids)
            for key, members in _samples(file):
                image = _image(members)
                if image is None:
                    if label and label.partition(":")[0] in members:
                        raise ValueError(f"no image beside it; there are {', '.join(members)}; {_IMAGES}")
                    continue
                ids.append(key)
                columns["tar"].append(k)
                columns["offset"].append(image.offset_data)
                columns["size"].append(image.size)
                columns["label"].append(_label(path, members, label) if label else -1)
            if len(ids) == before:
                file.place = ""
                raise ValueError(f"no image in it; {_IMAGES}")
    types = {"tar": pa.int32(), "offset": pa.int64(), "size": pa.int32(), "label": pa.int32()}
    made = {name: pa.array(values, types[name]) for name, values in columns.items()}
    return pa.table({"id": Names(ids).texts, **made})


def _samples(file: Reading) -> Iterator[tuple[str, dict[str, tarfile.TarInfo]]]:
    """The samples of a tar: name, and members by their suffix."""
    key: str | None = None
    members: dict[str, tarfile.TarInfo] = {}
    with tarfile.open(file.regular(), "r:") as opened:
        tar: Any = opened
        for member in tar:
            tar.members = []  # else tarfile keeps all of them in memory
            parts = member.name.split("/")
            if any(hidden(part) for part in parts if part not in (".", "..")):
                continue
            if (member.issym() or member.islnk()) and member.name.lower().endswith(SUFFIXES):
                file.place = member.name
                raise ValueError(f"a link to {member.linkname}; allowed are files")
            if not member.isfile():
                continue
            folder, _, base = member.name.removeprefix("./").rpartition("/")
            stem, _, suffix = base.partition(".")
            name = f"{folder}/{stem}" if folder else stem
            if name != key:
                if key is not None:
                    yield key, members
                key, members = name, {}
            file.place = member.name
            if suffix.lower() in members:
                raise ValueError("it occurs there a second time")
            members[suffix.lower()] = member
        end = tar.offset
    if key is not None:
        yield key, members
    file.place = ""
    _check_end(file.path, end)


def _check_end(path: Path, end: int) -> None:
    """Raise a ValueError unless a tar has only zeros from byte `end` on, where its last member ends.

    Python's reader stops silently at anything else, and the members behind it would be lost.
    """
    with path.open("rb") as file:
        file.seek(end)
        while block := file.read(_BLOCK << 11):
            if (rest := block.lstrip(b"\0")) != b"":
                place = file.tell() - len(rest)
                raise ValueError(f"its members end at byte {end}, and data follows at {place}: damaged, or two tars")
        if file.tell() < end + _BLOCK:
            raise ValueError(f"it ends at byte {file.tell()} without the end of a tar: truncated")


def _image(members: dict[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """The image of a sample: the one with a plain suffix, if any (`png` rather than `seg.png`)."""
    found = [suffix for suffix in members if f".{suffix.rsplit('.', 1)[-1]}" in SUFFIXES]
    found = [suffix for suffix in found if "." not in suffix] or found
    if len(found) > 1:
        raise ValueError(f"{len(found)} images in one sample, {', '.join(found)}; allowed is one")
    return members[found[0]] if found else None


def _label(path: Path, members: dict[str, tarfile.TarInfo], label: str) -> int:
    suffix, _, key = label.partition(":")
    if (member := members.get(suffix)) is None:
        raise ValueError(f"no member {suffix!r} beside it; there are {', '.join(members)} (dataset.label)")
    if member.size > _LARGEST_TEXT:
        raise ValueError(f"a label of {member.size} bytes")
    with path.open("rb") as file:
        file.seek(member.offset_data)
        text = file.read(member.size).decode()
    value = integer(json.loads(text, object_pairs_hook=distinct_keys)[key] if key else text)
    if not -1 <= value < 2**31:
        raise ValueError(f"label {value}; allowed are whole numbers from 0, and -1 for none")
    return value


def _short(ids: Names, files: Sequence[Path], table: pa.Table) -> Names:
    """The ids without their folders, if they stay unique. Raises a ValueError if two images have the same name."""
    short = Names(name.rsplit("/", 1)[-1] for name in ids)
    if not repeated(short):
        return short
    if repeated(ids):
        unique(list(ids), [str(files[k]) for k in table.column("tar").to_pylist()])
    return ids


def _tars(path: str | Path) -> list[Path]:
    top = expand(path)
    if top.is_dir():
        files = sorted(files_in(top, (".tar",), depth=-1))
        if not files:
            raise FileNotFoundError(f"{top}: no tar in it")
        return files
    files = [Path(name) for name in _expanded(str(top))]
    if missing := [file for file in files if not file.is_file()]:
        raise FileNotFoundError(f"{len(missing)} of {len(files)} tars are missing, e.g. {some(missing)}")
    return files


def _expanded(name: str) -> list[str]:
    """The names that a range in braces expands to."""
    if not (found := _BRACES.search(name)):
        return [name]
    first, last = found[1], found[2]
    if int(last) < int(first):
        raise ValueError(f"{name}: the range {found[0]} ends before it begins")
    made = (f"{name[: found.start()]}{k:0{len(first)}}{name[found.end() :]}" for k in range(int(first), int(last) + 1))
    return [one for each in made for one in _expanded(each)]
