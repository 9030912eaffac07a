"""The Parquet files of a split, on disk or from the Hugging Face hub."""

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from eigencam.datasets.completeness import some
from eigencam.datasets.reading import expand, files_in

_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHARD = re.compile(r"(.+)-(\d+)-of-(\d+)(-[0-9a-f]+)?\.parquet", re.IGNORECASE)


def find_files(path: str | Path, split: str, revision: str | None, allow_missing: bool = False) -> list[Path]:
    """Return the Parquet files of a split, sorted; for the arguments see `eigencam.datasets.parquet.read_parquet`.

    Raises:
        FileNotFoundError: there is none, one that the others' names imply (`-of-00014`) is missing, or they cannot be
            downloaded.
        ValueError: a revision is missing, or is given for files on disk.
    """
    top = expand(path)
    if not top.exists() and _HUB.fullmatch(str(path)):
        top = _downloaded(str(path), split, revision)
    elif revision is not None:
        raise ValueError(f"revision={revision}: it is of a dataset of the hub, and {path} is on disk; allowed: null")
    if top.is_file():
        return [top]
    every = list(files_in(top, (".parquet",), depth=-1))
    files = sorted(file for file in every if _is_of_split(file.relative_to(top), split))
    if not files:
        others = f"; there are {some([file.relative_to(top) for file in every])}" if every else ""
        raise FileNotFoundError(f"{top}: no Parquet file of the split {split!r} in it{others}")
    if not allow_missing and (missing := _missing(files)):
        raise FileNotFoundError(
            f"{len(missing)} Parquet files are missing beside the {len(files)} that are there, e.g. {some(missing)}; "
            "dataset.allow_missing=true evaluates those that are there"
        )
    return files


def _is_of_split(path: Path, split: str) -> bool:
    """Whether a file, or a folder of its path, is named after the split: `validation-00000-of-00014.parquet`."""
    return not split or any(part == split or re.match(rf"{re.escape(split)}[-_.]", part) for part in path.parts)


def _missing(files: Sequence[Path]) -> list[Path]:
    """The missing files that names such as `validation-00000-of-00014.parquet` imply."""
    numbers: dict[tuple[Path, str, str], set[int]] = defaultdict(set)
    for file in files:
        if match := _SHARD.fullmatch(file.name):
            numbers[file.parent, match[1], match[3]].add(int(match[2]))
    return [
        folder / f"{name}-{k:0{len(total)}}-of-{total}.parquet"
        for (folder, name, total), found in numbers.items()
        for k in range(min(int(total), 100_000))
        if k not in found
    ]


def _downloaded(name: str, split: str, revision: str | None) -> Path:
    """The folder of a hub dataset, with the files of one split."""
    if revision is None or not _COMMIT.fullmatch(revision):
        raise ValueError(
            f"revision={revision}; allowed with {name}, which is no folder here, is a commit of the hub's dataset, 40 "
            "hexadecimal digits (its page, Files and versions, History)"
        )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise ValueError("datasets of the hub need huggingface_hub: pip install 'eigencam-bench[hub]'") from error
    patterns = [f"*{split}[-_.]*parquet", f"*{split}/*.parquet"] if split else ["*.parquet"]
    try:
        return Path(snapshot_download(name, repo_type="dataset", revision=revision, allow_patterns=patterns))
    except Exception as error:  # network, hub or disk may raise anything
        reason = " ".join(str(error).split())[:300]
        raise FileNotFoundError(
            f"{name} at {revision} could not be downloaded: {reason}. Its Parquet files may also lie in a folder that "
            "dataset.path names; gated datasets need `hf auth login`"
        ) from error
