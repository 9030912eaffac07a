"""Every reader with its files named, encoded or broken in every way: read, or refused in one line."""

import os
import random
from contextlib import suppress
from pathlib import Path

import pytest
from readers import READERS, Reader, zipped

CASES = [
    (name, kind, glob)
    for name, reader in READERS.items()
    for kind, globs in (("text", reader.texts), ("binary", reader.binaries))
    for glob in globs
]
TEXTS = [(name, glob) for name, kind, glob in CASES if kind == "text"]
ANY = [(name, glob) for name, _, glob in CASES]
REFUSED = (ValueError, FileNotFoundError)


def made(name: str, root: Path) -> tuple[Reader, object]:
    reader = READERS[name]
    reader.write(root)
    return reader, reader.read(root)


def files(root: Path, glob: str) -> list[Path]:
    found = sorted(root.glob(glob))
    assert found, glob
    return found


def refused(reader: Reader, root: Path, *names: str) -> None:
    """Reading ends with one line that contains the names."""
    with pytest.raises(REFUSED) as caught:
        reader.read(root)
    text = str(caught.value)
    assert "\n" not in text
    for name in names:
        assert name in text


@pytest.mark.parametrize("encoding", ["bom", "crlf", "cr", "utf-16", "gzip"])
@pytest.mark.parametrize(("name", "glob"), TEXTS)
def test_text_is_read_however_it_is_stored(name: str, glob: str, encoding: str, tmp_path: Path) -> None:
    reader, before = made(name, tmp_path)
    for path in files(tmp_path, glob):
        text = path.read_text(encoding="utf-8")
        if encoding == "gzip":
            zipped(path)
        elif encoding == "crlf":
            path.write_bytes(text.replace("\n", "\r\n").encode())
        elif encoding == "cr":
            path.write_bytes(text.replace("\n", "\r").encode())
        else:
            path.write_text(text, encoding="utf-8-sig" if encoding == "bom" else "utf-16")
    assert reader.read(tmp_path) == before


@pytest.mark.parametrize(("name", "glob"), TEXTS)
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16-le"])
def test_text_of_an_unknown_encoding_is_refused(name: str, glob: str, encoding: str, tmp_path: Path) -> None:
    reader, _ = made(name, tmp_path)
    path = files(tmp_path, glob)[0]
    text = path.read_text(encoding="utf-8").encode("ascii", "ignore").decode()
    path.write_text(text.replace(text[len(text) // 2], "é", 1) if encoding == "latin-1" else text, encoding=encoding)
    if path.suffix == ".xml" and encoding == "utf-16-le":  # an XML file is recognised by its first character
        assert reader.read(tmp_path)
        return
    refused(reader, tmp_path, path.name)


@pytest.mark.parametrize(("name", "glob"), ANY)
@pytest.mark.parametrize("fault", ["empty", "folder", "missing", "dangling link", "endless link"])
def test_a_file_that_is_none_is_named(name: str, glob: str, fault: str, tmp_path: Path) -> None:
    reader, before = made(name, tmp_path)
    path = files(tmp_path, glob)[0]
    path.unlink()
    if fault == "empty":
        path.touch()
    elif fault == "folder":
        path.mkdir()
    elif fault.endswith("link"):
        path.symlink_to(path if fault == "endless link" else tmp_path / "nowhere")
    if path.name in (reader.may_be_empty if fault == "empty" else reader.may_be_missing):
        with suppress(*REFUSED):
            assert reader.read(tmp_path) != before or path.suffix == ".txt"
        return
    refused(reader, tmp_path, path.stem)


@pytest.mark.parametrize(("name", "glob"), ANY)
def test_a_truncated_file_is_named_or_a_shorter_one(name: str, glob: str, tmp_path: Path) -> None:
    reader, _ = made(name, tmp_path)
    path = files(tmp_path, glob)[0]
    content = path.read_bytes()
    for length in (1, 3, len(content) // 3, len(content) - 5):
        path.write_bytes(content[:length])
        broken(reader, tmp_path)


@pytest.mark.parametrize(("name", "glob"), TEXTS)
def test_a_truncated_archive_is_named(name: str, glob: str, tmp_path: Path) -> None:
    reader, _ = made(name, tmp_path)
    path = files(tmp_path, glob)[0]
    zipped(path)
    packed = path.read_bytes()
    for content in (packed[:-9], packed[:12], packed[:2], packed + b"more", packed[:-8] + bytes(8)):
        path.write_bytes(content)
        refused(reader, tmp_path, path.name)


def broken(reader: Reader, root: Path) -> None:
    """Reading succeeds, or ends with one line that names a file below the root."""
    try:
        reader.read(root)
    except REFUSED as error:
        assert str(root) in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


@pytest.mark.parametrize(("name", "glob"), ANY)
def test_random_bytes_are_named(name: str, glob: str, tmp_path: Path) -> None:
    reader, _ = made(name, tmp_path)
    path, rng = files(tmp_path, glob)[0], random.Random(0)
    content = path.read_bytes()
    for _ in range(int(os.environ.get("EIGENCAM_FUZZ", "2"))):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 3, 20))):
            changed[rng.randrange(len(changed))] = rng.choice((rng.randrange(256), *b"09-.e,{}[]\"' <>/\n"))
        path.write_bytes(changed)
        broken(reader, tmp_path)


@pytest.mark.parametrize("name", READERS)
def test_hidden_files_are_passed_over(name: str, tmp_path: Path) -> None:
    reader, before = made(name, tmp_path)
    for path in [path for path in tmp_path.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\26\7")
        for folder in (".trash", "__MACOSX"):
            (path.parent / folder).mkdir(exist_ok=True)
            (path.parent / folder / path.name).write_bytes(b"\0\5\26\7")
    assert reader.read(tmp_path) == before


RESPELT = [name for name, reader in READERS.items() if reader.respelt]


@pytest.mark.parametrize("name", RESPELT)
def test_suffixes_may_be_in_capitals(name: str, tmp_path: Path) -> None:
    reader, before = made(name, tmp_path)
    for glob in reader.respelt:
        for path in files(tmp_path, glob):
            path.rename(path.with_suffix(path.suffix.upper() if path.suffix.islower() else path.suffix.lower()))
    assert reader.read(tmp_path) == before


NAMED = [name for name in READERS if name not in ("imagenet segmentation", "devkit's boxes")]


@pytest.mark.parametrize("name", NAMED)
def test_two_of_one_id_are_refused_and_named(name: str, tmp_path: Path) -> None:
    reader, _ = made(name, tmp_path)
    refused(reader, tmp_path, *reader.duplicate(tmp_path))
