"""Names of images: which file a name refers to, and the id of an image.

An image's id is its path below the image folder, without the suffix: `n01440764/a.v2` for `n01440764/a.v2.JPEG`. If a
dataset's file has ids of its own, these are used. Ids are unique within a dataset, since results are keyed by them.

Paths in an annotation file must stay inside the image folder: one that is absolute, or leaves the folder by `..`, is
refused unless `allow_outside` is true. Symbolic links are followed: they were made by the owner of the data, who often
keeps a folder of links into a store, and cannot be made by the author of an annotation file.
"""

import os
import posixpath
from collections import defaultdict
from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from eigencam.datasets.reading import files_in, hidden, paths_in

JPEG = (".jpg", ".jpeg", ".jpe")
PNG = (".png",)
FAMILIES = (JPEG, PNG, (".tif", ".tiff"), (".bmp",), (".gif",), (".webp",), (".ppm",), (".pgm",))
"""Suffixes of the same kind of file: an annotation that names `a.jpg` also matches `a.JPG` and `a.jpeg`."""
SUFFIXES = tuple(suffix for family in FAMILIES for suffix in family)


def image_id(path: str) -> str:
    """The id of an image's path. Only a known image suffix is removed; other dots belong to the name.

    >>> image_id("val/a.v2.JPEG"), image_id("./val//a.v2")
    ('val/a.v2', 'val/a.v2')
    """
    stem, suffix = posixpath.splitext(posixpath.normpath(path))
    return stem if suffix.lower() in SUFFIXES else stem + suffix


def unique(ids: Sequence[str], sources: Sequence[object], what: str = "images") -> list[str]:
    """Check that ids are unique, and return them in order.

    Args:
        ids: the ids.
        sources: source of each id: a file, or a position in one.
        what: noun for the owners of the ids, in the plural.

    Raises:
        ValueError: two have the same id; both sources are named.
    """
    if repeated(ids):
        first: dict[str, int] = {}
        for i, name in enumerate(ids):
            if (k := first.setdefault(name, i)) != i:
                raise ValueError(f"two {what} are called {name!r}: {sources[k]} and {sources[i]}; remove or rename one")
    return list(ids)


def repeated(ids: Iterable[str]) -> bool:
    """Whether two of the texts are equal; takes a third of the memory of a set."""
    packed = pa.array((text.encode("utf-8", "surrogatepass") for text in ids), pa.large_binary())
    return len(packed.unique()) < len(packed)


def checked_ids(ids: object, name: str) -> None:
    """Raise a ValueError unless these are valid ids: texts, at least one, all different.

    Args:
        ids: a dataset's ids.
        name: the dataset's name, for the message.
    """
    if isinstance(ids, str) or not isinstance(ids, Collection) or not ids:
        raise ValueError(f"{name}.ids: {type(ids).__name__} of no image; expected: a list of at least one id")
    for i, one in enumerate(ids):
        if not isinstance(one, str) or not one:
            raise ValueError(f"{name}.ids: image {i} has {one!r}, {type(one).__name__}; expected: a text, not empty")
        if not one.isascii() and any("\ud800" <= letter <= "\udfff" for letter in one):
            raise ValueError(f"{name}.ids: image {i} has {one!r}, which is not UTF-8; rename the file")
    if repeated(ids):
        unique(list(ids), range(len(ids)), f"images of {name}")


def once(seen: dict[str, str], name: str, place: str) -> str:
    """Record the name with its position, and return it. Raises a ValueError if it was recorded before."""
    if (before := seen.setdefault(name, place)) != place:
        raise ValueError(f"{name} occurs here a second time, after {before}")
    return name


def inside(name: object, allow_outside: bool = False) -> str:
    """The relative path of a file that an annotation names.

    Raises:
        ValueError: the name is not a text, is empty, or leads out of the folder.
    """
    path = posixpath.normpath(name) if isinstance(name, str) else ""
    if path in ("", ".", "..") or "\0" in path:
        raise ValueError(f"{name!r} is no file's name")
    if not allow_outside and (path.startswith("../") or Path(path).is_absolute()):
        raise ValueError(f"{name!r} leads out of the dataset's folder; dataset.allow_outside=true follows such paths")
    return path


def as_stored(paths: Sequence[Path]) -> list[Path]:
    """Each file as spelt on the disk: itself, or the one that differs only in the suffix's spelling.

    A path without such a file is returned unchanged.

    Raises:
        ValueError: several files differ from a missing one only in the suffix's spelling.
    """
    folders: dict[Path, dict[str, list[Path]]] = {}
    return [path if os.path.isfile(path) else _respelt(path, folders) for path in paths]  # noqa: PTH113


def _respelt(path: Path, folders: dict[Path, dict[str, list[Path]]]) -> Path:
    family = next((family for family in FAMILIES if path.suffix.lower() in family), ())
    if not family or hidden(path.name):
        return path
    if path.parent not in folders:
        by_stem = folders[path.parent] = defaultdict(list)
        for file in files_in(path.parent, SUFFIXES):
            by_stem[file.stem].append(file)
    found = [file for file in folders[path.parent].get(path.stem, ()) if file.suffix.lower() in family]
    if len(found) > 1:
        raise ValueError(f"two files for {path}: {found[0]} and {found[1]}; remove or rename one")
    return found[0] if found else path


def by_stem(folder: Path, families: Sequence[Sequence[str]], depth: int = 0) -> dict[str, str]:
    """The files of a folder by their name without the suffix.

    Args:
        folder: where to look.
        families: groups of suffixes, in order of preference: a later group is used only if no file of an earlier one
            exists.
        depth: levels of subfolders to search as well.

    Raises:
        ValueError: two files of one family have the same name.
    """
    found: dict[str, str] = {}
    for family in families:
        of_family: dict[str, str] = {}
        for file in paths_in(folder, family, depth):
            stem = file[file.rfind(os.sep) + 1 : file.rindex(".")]
            if (other := of_family.setdefault(stem, file)) is not file:
                raise ValueError(f"two files for {stem}: {other} and {file}; remove or rename one")
        found = of_family | found
    return found


class Ids(list[str]):
    """Ids of a dataset whose annotation file has ids of its own; `aliases` maps the file names to them.

    Files of predictions may use either.
    """

    def __init__(self, ids: Iterable[str] = (), aliases: Mapping[str, str] | None = None) -> None:
        super().__init__(ids)
        self.aliases = dict(aliases or {})


def match(ids: Iterable[str], keys: Iterable[str], source: Callable[[str], object], what: str) -> dict[str, str]:
    """Find each image's key, the name of a file or of a line in one.

    A key means an image if the shorter of key and id is the end of the longer: `1` and `run/q/1` both mean the image
    `q/1`, unless an image has that very name. A key of no image is ignored.

    Args:
        ids: the images' ids; those of `Ids` may be named by their aliases.
        keys: names without a file's suffix, `/` between folders.
        source: gives the origin of a key, for messages.
        what: noun for what the keys name, in the plural.

    Returns:
        The key of each image that has one.

    Raises:
        ValueError: two keys mean the same image, or one is ambiguous.
    """
    aliases: Mapping[str, str] = getattr(ids, "aliases", {})
    names, found = set(ids), dict[str, str]()
    ends: dict[str, list[str]] = defaultdict(list)
    for name in names:
        ends[posixpath.basename(name)].append(name)
    for key in sorted(set(keys), key=lambda key: (key not in names, key)):
        meant = _meant(key, names, ends) or _meant(image_id(key), names, ends) or [*filter(None, [aliases.get(key)])]
        if len(meant) > 1:
            raise ValueError(f"{source(key)} could be of {meant[0]} and of {meant[1]}; name it by the whole id")
        for name in meant:
            if name in found:
                raise ValueError(f"two {what} for {name}: {source(found[name])} and {source(key)}; remove one")
            found[name] = key
    return found


def _meant(key: str, names: Container[str], ends: Mapping[str, list[str]]) -> list[str]:
    """The ids that a key may mean, sorted: itself if it is an id, else those where one is the end of the other."""
    if key in names:
        return [key]
    return sorted(name for name in ends.get(posixpath.basename(key), ()) if _tail(name, key))


def _tail(a: str, b: str) -> bool:
    """Whether the shorter of two paths is the end of the longer."""
    return f"/{a}".endswith(f"/{b}") or f"/{b}".endswith(f"/{a}")
