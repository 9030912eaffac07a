r"""Results in one file, for another group: rows, identities, seals and cards of one or several results.

    pack([folder, …], Path("ours.zip"), cards)
    with unpacked(Path("ours.zip")) as root: read_all(root)

A bundle is a ZIP file whose `bundle.json` lists every other file with its size and checksum. It may come from anybody:
only files with the names of result files are extracted, each with the stated size, and never a link. Extracted results
are marked as claimed (`eigencam.store.claim`).
"""

import platform
import re
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from eigencam.files import replacing, visible
from eigencam.store.claim import Claim
from eigencam.store.reader import is_result
from eigencam.store.schema import CONFIG, CURVES, IDENTITY, ROWS, RUNS, SUMMARY
from eigencam.store.seal import LARGEST, DamagedError, digest, file_digest, read_json, write_json

FORMAT = 1
MANIFEST, CARD, MAPS = "bundle.json", "card.txt", "maps"
SUFFIX = ".zip"

LARGEST_FILE = 2**31
"""Largest size of one file in a bundle, in bytes."""

MOST_FILES = 200_000

_NAME = re.compile(
    rf"(?P<folder>[^/\\]+)/(?:{IDENTITY}|{CONFIG}|{SUMMARY}|{CURVES}|{re.escape(ROWS)}|{re.escape(CARD)}|{RUNS}/[^/\\]+\.json"
    rf"|{MAPS}/(?:[^/\\]+/)*[^/\\]+\.npy)"
)
_TIME = (1980, 1, 1, 0, 0, 0)
"""Time stamp of every entry, so that the same results give the same bundle except for its manifest."""


class BundleError(ValueError):
    """A file that is not a bundle, or has changed since it was written."""


@dataclass(frozen=True, slots=True)
class Entry:
    """Size and checksum of a file in a bundle."""

    bytes: int
    blake2b: str


def pack(folders: Sequence[Path], out: Path, cards: Mapping[str, str], maps: Mapping[str, Path] | None = None) -> int:
    """Write complete results into one file.

    Args:
        folders: folders of complete and undamaged results.
        out: the file.
        cards: the provenance page of each result, by folder name.
        maps: a folder of `.npy` files that belong to the result, by folder name.

    Returns:
        The number of files in it, without the manifest.
    """
    contents: dict[str, Path | bytes] = {}
    for folder in sorted(folders):
        paths = [folder / name for name in (IDENTITY, CONFIG, SUMMARY, ROWS, CURVES)] + visible(folder / RUNS, "*.json")
        contents |= {f"{folder.name}/{path.relative_to(folder)}": path for path in paths if path.is_file()}
        contents[f"{folder.name}/{CARD}"] = cards[folder.name].encode()
        if maps and (own := maps.get(folder.name)):
            contents |= {f"{folder.name}/{MAPS}/{path.relative_to(own)}": path for path in sorted(own.rglob("*.npy"))}
    files = {
        name: {"bytes": len(_bytes(content)), "blake2b": digest(_bytes(content))} for name, content in contents.items()
    }
    about = {
        "format": FORMAT,
        "made": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "host": platform.node(),
        "files": files,
    }
    with tempfile.TemporaryDirectory() as made, replacing(out) as beside:
        write_json(Path(made) / MANIFEST, about)
        with zipfile.ZipFile(beside, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in {MANIFEST: Path(made) / MANIFEST, **contents}.items():
                info = zipfile.ZipInfo(name, _TIME)
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, _bytes(content))
    return len(files)


def is_bundle(path: Path) -> bool:
    """Whether a path is a file: results are folders."""
    return path.is_file()


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """Extract the results of a bundle into a folder that is removed afterwards; each is marked as claimed.

    Raises:
        FileNotFoundError: there is no such file.
        BundleError: it is no bundle, or a file in it does not match its manifest.
    """
    with tempfile.TemporaryDirectory(prefix="eigencam-bundle-") as made:
        root = Path(made)
        try:
            with zipfile.ZipFile(path) as archive:
                about, files = _manifest(path, archive, root)
                _check_names(path, archive, files)
                for name, entry in files.items():
                    _take_out(path, archive, name, entry, root)
        except (zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            raise BundleError(f"{path}: no bundle: {error}; `eigencam bundle` writes one") from None
        claim = Claim(file_digest(path), about["host"], about["made"])
        for folder in {name.split("/", 1)[0] for name in files}:
            claim.write(root / folder)
        yield root


def _bytes(content: Path | bytes) -> bytes:
    return content.read_bytes() if isinstance(content, Path) else content


def _manifest(path: Path, archive: zipfile.ZipFile, root: Path) -> tuple[dict[str, str], dict[str, Entry]]:
    """Return the bundle's metadata, and the entry of each file."""
    try:
        info = archive.getinfo(MANIFEST)
    except KeyError:
        raise BundleError(f"{path}: no {MANIFEST} in it, so it is no bundle; `eigencam bundle` writes one") from None
    (root / MANIFEST).write_bytes(_content(path, archive, info, LARGEST))
    try:
        about = read_json(root / MANIFEST)
    except DamagedError as error:
        raise BundleError(f"{path}: {MANIFEST}: {error.reason}") from None
    if about.get("format") != FORMAT:
        raise BundleError(f"{path}: a bundle of format {about.get('format')}; this program reads format {FORMAT}")
    files = about.get("files")
    if not isinstance(files, dict) or not 0 < len(files) <= MOST_FILES:
        raise BundleError(f"{path}: {MANIFEST}: no list of files")
    texts = {key: str(about.get(key, ""))[:200] for key in ("host", "made")}
    return texts, {name: _entry(path, name, content) for name, content in files.items()}


def _entry(path: Path, name: str, content: Any) -> Entry:
    match = _NAME.fullmatch(name)
    if not match or not is_result(match["folder"]) or ".." in name.split("/"):
        raise BundleError(f"{path}: {MANIFEST}: {name!r} is no file of a result")
    size, checksum = (content.get("bytes"), content.get("blake2b")) if isinstance(content, dict) else (None, None)
    if type(size) is not int or not 0 <= size <= LARGEST_FILE or not isinstance(checksum, str):
        raise BundleError(f"{path}: {MANIFEST}: no size and checksum of {name}")
    return Entry(size, checksum)


def _check_names(path: Path, archive: zipfile.ZipFile, files: Mapping[str, Entry]) -> None:
    """Raise BundleError if the files differ from the manifest's, or one is contained twice."""
    names = [info.filename for info in archive.infolist() if info.filename != MANIFEST]
    if twice := sorted({name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else ()):
        raise BundleError(f"{path}: {twice[0]} is in it twice")
    if extra := sorted(set(names) - set(files)):
        raise BundleError(f"{path}: {extra[0]} is in it, and {MANIFEST} does not name it")
    if missing := sorted(set(files) - set(names)):
        raise BundleError(f"{path}: {missing[0]} is missing")


def _take_out(path: Path, archive: zipfile.ZipFile, name: str, entry: Entry, root: Path) -> None:
    content = _content(path, archive, archive.getinfo(name), entry.bytes)
    if len(content) != entry.bytes or digest(content) != entry.blake2b:
        raise BundleError(f"{path}: {name}: its content is not the one that {MANIFEST} names")
    place = root / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)


def _content(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, most: int) -> bytes:
    """Return a file's bytes. Raises BundleError if there are more than `most`, whatever the file's header says."""
    try:
        with archive.open(info) as file:
            content = file.read(most + 1)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise BundleError(f"{path}: {info.filename}: damaged: {error}") from None
    if len(content) > most:
        raise BundleError(f"{path}: {info.filename}: more than the {most} bytes allowed")
    return content
