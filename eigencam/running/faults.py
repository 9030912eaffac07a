"""Errors raised while results are computed: in which part, on which images, at which line of whose code."""

import sysconfig
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from eigencam import datasets, evaluation

NAMED = 3
"""Maximum number of images named in an error; beyond it only their number is given."""


class PartError(Exception):
    """A method or evaluator raised; its results fail, the others do not."""


class PartlyFailedError(ValueError):
    """Some results of a run failed; the others are complete."""

    status = 1


class KilledError(ChildProcessError):
    """A process that makes rows was killed."""

    status = 1

    def __init__(self) -> None:
        super().__init__(
            "a process that makes rows was killed, most likely because memory ran out; rows_in=threads needs less of "
            "it, and the same command continues"
        )


class SharedChangedError(ValueError):
    """A method modified in place what all methods read, so the rest of the pass is invalid."""

    def __init__(self, method: str) -> None:
        super().__init__(f"method {method} changes in place what all methods share; let it work on a copy (.clone())")
        self.method = method


class NetworkChangedError(ValueError):
    """A method changed the network itself, so all later numbers of the run would be of another network."""

    def __init__(self, method: str, what: Literal["weights or buffers", "hooks"] = "weights or buffers") -> None:
        mend = "let the method "
        if what == "hooks":
            mend += "remove those that it adds (`finally: handle.remove()`), or "
        super().__init__(
            f"method {method} changes the network's {what}, so the run stops; {mend}work on a copy of the network "
            "(copy.deepcopy)"
        )
        self.method = method


def is_stop(error: BaseException) -> bool:
    """Whether an error stops the run, as a scheduler's signal does; `sys.exit` in your own code does not."""
    frames = traceback.extract_tb(error.__traceback__)
    return isinstance(error, SystemExit) and (not frames or _is_library(frames[-1].filename))


def blame(part: str, error: BaseException, images: Sequence[str] = ()) -> PartError:
    """Return the error that names the part, the images and the line, with the original as its cause.

    Args:
        part: `method NAME`, `evaluator NAME of method NAME`.
        error: what it raised.
        images: ids of the images that it was given.
    """
    kind, text = type(error).__name__, str(error)
    if not isinstance(error, ValueError) or not text.strip():
        text = f"{kind}: {text}" if text.strip() else kind
    if not text.startswith(f"{part} "):
        text = f"{part}: {text}"
    shown = ", ".join(images[:NAMED]) + (f", ... ({len(images)} images)" if len(images) > NAMED else "")
    made = PartError(f"{text}{where(error)}{f'; images: {shown}' if images else ''}")
    made.__cause__ = error
    return made


def where(error: BaseException) -> str:
    """Return ` (FILE, line N)`: the innermost line of the user's code, else of this package's, else of any; or "".

    >>> where(ValueError())
    ''
    """
    frames = traceback.extract_tb(error.__traceback__)
    inside = [frame for frame in frames if not _is_library(frame.filename)]
    persons = [frame for frame in inside if not _is_ours(frame.filename)]
    for frame in reversed(persons or inside or frames):
        return f" ({frame.filename}, line {frame.lineno})"
    return ""


def _is_library(file: str) -> bool:
    folders = (sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"))
    return file.startswith(("<", *folders)) or "site-packages" in Path(file).parts


def _is_ours(file: str) -> bool:
    tops = [Path(__file__).parents[1], *(Path(top.__path__[0]) for top in (evaluation, datasets))]
    return any(Path(file).is_relative_to(top.resolve()) for top in tops)
