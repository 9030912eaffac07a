"""Completeness of a dataset's copy: the number of images in a full copy, and missing files."""

import logging
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Literal

from eigencam.datasets.names import as_stored
from eigencam.datasets.reading import is_file

Expect = Literal["full"]
_LONGEST = 300  # characters of a name; those in annotations may have any length
LOG = logging.getLogger(__name__)


def check_count(what: str, n: int, full: int | None, expect: Expect | None) -> None:
    """Report an incomplete copy: a warning in the log, or an error if `expect` is `full`.

    Args:
        what: the dataset and its part, for the message.
        n: images that are there.
        full: images of a full copy; None if not known.
        expect: `full`, or None to accept any number.

    Raises:
        ValueError: `expect` is something else, or it is `full` and the copy is incomplete.
    """
    if expect not in (None, "full"):
        raise ValueError(f"expect={expect!r}: allowed are null (whatever is there) and full")
    if full is None or n == full:
        return
    words = f"{what}: {n} images, where a full copy has {full}"
    if expect == "full":
        raise ValueError(f"{words}; dataset.expect=null evaluates what is there")
    LOG.warning("%s", words)


def present(files: Sequence[Path], what: str, how_to_get: str, allow_missing: bool) -> list[int]:
    """The indices of the files that are there.

    Raises:
        FileNotFoundError: all files are missing, or some are and `allow_missing` is false.
    """
    existing = [i for i, path in enumerate(files) if is_file(path)]
    if len(existing) == len(files) and files:
        return existing
    missing = [path for path in files if not is_file(path)]
    if allow_missing and existing:
        return existing
    proceed = f"; dataset.allow_missing=true evaluates the {len(existing)} that are there" if existing else ""
    raise FileNotFoundError(
        f"{len(missing)} of {len(files)} files of {what} are missing, e.g. {some(missing)}. {how_to_get}{proceed}"
    )


def first_folder(folders: Iterable[Path], file: str) -> Path | None:
    """The first folder that has the file."""
    return next((folder for folder in folders if is_file(folder / file)), None)


def images_folder(folders: Sequence[Path], paths: Sequence[str]) -> Path | None:
    """The first folder that has any of the images, spelt as listed or, failing that, with another suffix spelling."""
    paths = [path for path in paths if not path.startswith(("/", "../"))]  # these do not depend on the folder
    exact = (folder for folder in folders if any(is_file(folder / path) for path in paths))
    respelt = (folder for folder in folders if any(map(is_file, as_stored([folder / path for path in paths]))))
    return next(chain(exact, respelt), None)


def some(names: Iterable[object], n: int = 3) -> str:
    """The first `n` names, for messages."""
    return ", ".join(str(name)[:_LONGEST] for name in list(names)[:n])
