"""Commands written by somebody else, as in the header of a table: parsed and composed as data, never run in a shell.

    foreign = Foreign(paths={"voc": "/data/VOC"}, results=Path("again"))
    for job in foreign.jobs("eigencam run experiment=real_voc"): ...

A line is `eigencam run`, `fit` or `compare`; `eigencam table` computes nothing. Keys that a stranger must not set
are refused: `_target_` and the like, `hydra.*` except the parameters of a sweep, `--config-dir` and all other options
except `-m`, interpolations, and paths that this command line did not give. The composed config uses this package alone,
calls no loggers and downloads nothing.
"""

import argparse
import math
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eigencam.datasets.reading import expand
from eigencam.running.sweep import jobs
from eigencam.store.trust import PACKAGED

RUNS = ("run", "fit", "compare")
"""Subcommands that compute."""

SWEEP = "hydra.sweeper.params."
LARGEST_LINE = 20_000
"""Maximum number of characters of a command."""

MOST_JOBS = 1000
"""Maximum number of jobs in a command's sweep."""

_RESERVED = re.compile(r"(?<!\w)_(target|partial|args|convert|recursive)_(?!\w)")
_OPTION = re.compile(r"[\w.-]+(/[\w.-]+)*")
_UNUSED = ("paths.results", "launcher", "shard", "device", "own_folder", "logger", "workers", "rows_in")
"""Keys that describe the other machine; they are dropped."""


class ForeignError(ValueError):
    """A command that is refused because of what it asks for."""


@dataclass(frozen=True, slots=True)
class Foreign:
    """What this command line grants to other people's commands.

    Attributes:
        paths: folders by name, those of `paths.NAME=FOLDER`.
        results: folder of the new results.
        machine: `device` and `workers`.
    """

    paths: Mapping[str, str]
    results: Path
    machine: Mapping[str, Any]

    def jobs(self, line: str) -> Iterator[tuple[str, str, Any]]:
        """Yield the computing subcommand (`run` or `fit`), the job's name and its composed config.

        Args:
            line: a command as in a header; `eigencam table` yields nothing.

        Raises:
            ForeignError: it is not a command of this program, or asks for something that a stranger must not.
            HydraException: an unknown group, option or key.
        """
        name, overrides = self.parsed(line)
        if name is None:
            return
        for chosen, config in jobs(overrides, name):
            yield name, chosen, self._confined(config)

    def parsed(self, line: str) -> tuple[str | None, list[str]]:
        """Return the subcommand and the allowed overrides; None if it computes nothing."""
        try:
            words = shlex.split(line[:LARGEST_LINE])
        except ValueError as error:
            raise ForeignError(f"{line[:80]}: {error}") from None
        words = [*words[0].split(" "), *words[1:]] if words else []
        if len(words) < 2 or words[0] != "eigencam" or words[1] not in (*RUNS, "table"):
            raise ForeignError(f"{line[:80]}: no `eigencam {'|'.join(RUNS)}`: nothing else is run")
        name, rest = words[1], words[2:]
        if name == "table" or (name == "run" and "--retry-failed" in rest):
            return None, []
        if name == "compare":
            name, rest = "run", _of_compare(rest)
        options = [word for word in rest if word.startswith("-") and word not in ("-m", "--multirun")]
        if options:
            raise ForeignError(f"{line[:80]}: {options[0]} is refused; a table's command may have -m and key=value")
        kept = [word for word in rest if not word.startswith("-") and self._allowed(word)]
        if math.prod(map(_choices, kept)) > MOST_JOBS:
            raise ForeignError(f"{line[:80]}: more than {MOST_JOBS} jobs")
        return name, kept

    def _allowed(self, word: str) -> bool:
        """Whether to use an override, unless this command line sets its key. Raises ForeignError if it is refused."""
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from hydra.errors import HydraException

        if _RESERVED.search(word) or "${" in word:
            raise ForeignError(f"{word[:80]}: refused; a table's command names no code and no interpolation")
        try:
            override = OverridesParser.create().parse_override(word)
        except (HydraException, RecursionError) as error:
            raise ForeignError(f"{word[:80]}: {' '.join(str(error).split())[:200]}") from None
        key = override.key_or_group.removeprefix(SWEEP)
        if re.split(r"[./]", key)[0] == "hydra":
            raise ForeignError(f"{word[:80]}: refused; of hydra.* a table's command may set {SWEEP}* alone")
        if key in _UNUSED or (key.startswith("paths.") and key.removeprefix("paths.") in self.paths):
            return False
        for text in _texts(override.value()):
            self._check_path(key, text, word)
        return True

    def _check_path(self, key: str, text: str, word: str) -> None:
        """Raise ForeignError for a path that this command line did not give."""
        parts = text.replace("\\", "/").split("/")
        if "." not in key and key != "images" and _OPTION.fullmatch(text) and ".." not in parts:
            return  # a group's option, which is looked up in this package only
        if len(parts) == 1 and text[:1] not in ("~", ".") and not key.startswith("paths.") and not _exists(text):
            return
        given = [expand(folder).resolve() for folder in self.paths.values()]
        if key.startswith("paths.") or not any(expand(text).resolve().is_relative_to(folder) for folder in given):
            hint = f"give {key}=FOLDER" if key.startswith("paths.") else "give paths.NAME=FOLDER with a folder above it"
            raise ForeignError(f"{word[:80]}: a path that this command line did not give; {hint}")

    def _confined(self, config: Any) -> Any:
        """Return the config with this machine's folders, if it uses only this package."""
        from omegaconf import OmegaConf, open_dict

        with open_dict(config):
            config.paths = {**config.paths, **self.paths, "results": str(self.results)}
            for key, value in self.machine.items():
                config[key] = value
        content: Any = OmegaConf.to_container(config, resolve=True)
        return OmegaConf.create(PACKAGED.confined(content, "its config"))


def _choices(word: str) -> int:
    """Number of values that an override sweeps over; above the limit if it is not a list of choices."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    override = OverridesParser.create().parse_override(word.removeprefix(SWEEP))
    if not override.is_sweep_override():
        return 1
    return len(override.value().list) if override.is_choice_sweep() else MOST_JOBS + 1  # type: ignore[union-attr]


def _of_compare(words: Sequence[str]) -> list[str]:
    """The overrides of the run that `eigencam compare` would start."""
    parser = argparse.ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_argument("inputs", nargs="*")
    for name, default in (
        ("dataset", "scenes"),
        ("model", "scenes_resnet"),
        ("evaluator", "localization,segmentation"),
    ):
        parser.add_argument(f"--{name}", default=default)
    for name in ("metrics", "format", "results", "out"):
        parser.add_argument(f"--{name}")
    for name in ("all-pairs", "no-run"):
        parser.add_argument(f"--{name}", action="store_true")
    try:
        args, left = parser.parse_known_intermixed_args(list(words))
    except argparse.ArgumentError as error:
        raise ForeignError(f"compare: {error}") from None
    if left:
        raise ForeignError(f"compare {left[0]}: refused")
    methods = [word for word in args.inputs if "=" not in word]
    if odd := [word for word in methods if not _OPTION.fullmatch(word) or "." in word]:
        raise ForeignError(f"compare {odd[0]}: refused; allowed are methods of this package by name")
    overrides = [f"method=[{','.join(methods)}]", f"evaluator=[{args.evaluator}]", "on_unsupported=skip"]
    return [f"model={args.model}", f"dataset={args.dataset}", *overrides, *(w for w in args.inputs if "=" in w)]


def _texts(value: Any) -> Iterator[str]:
    """The texts in a value parsed by Hydra."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
    elif hasattr(value, "list"):  # a sweep over choices
        yield from _texts(value.list)
    elif hasattr(value, "text"):  # a text in quotes
        yield value.text


def _exists(text: str) -> bool:
    """Whether a relative path leads to a file or folder."""
    try:
        return bool(text) and Path(text).exists()
    except (OSError, ValueError):  # too long, or with NUL
        return False
