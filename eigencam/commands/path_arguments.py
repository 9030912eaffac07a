"""The arguments of commands that take both paths and settings."""

from collections.abc import Iterable
from pathlib import Path

from eigencam.datasets.reading import expand


def settings_and_paths(inputs: Iterable[str]) -> tuple[list[str], dict[str, Path]]:
    """Return the settings, `key=value`; and the paths, by the argument as typed.

    An argument with a `=` that is the name of a file is a path.
    """
    inputs = list(inputs)
    settings = [item for item in inputs if "=" in item and not Path(item).exists()]
    return settings, {item: expand(item) for item in inputs if item not in settings}
