"""`key=value` arguments: `~` is expanded to the home folder, and values that Hydra cannot read are shown in quotes.

Hydra's grammar needs quotes around values with `~`, `=`, brackets and letters beyond ASCII. The shell has to pass
these quotes on: `'paths.voc="/data/Bücher"'`.
"""

import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence

from eigencam.datasets.reading import Reading, expand, files_in

_HOME = re.compile(r"(?P<key>[+\w./@-]+)=(?P<path>~[^,\[\]{}\"']*)")
_CONFIG_DIRS = ("--config-dir", "-cd")
_VALUED = (*_CONFIG_DIRS, "--config-path", "-cp", "--config-name", "-cn", "--package", "-p", "--cfg", "-c")


def accepted(arguments: Sequence[str]) -> list[str]:
    """Return the arguments as Hydra takes them, after checking that the config folders in them are readable.

    Raises:
        ValueError: a file is not in UTF-8, or begins with a byte-order mark.
    """
    if results := os.environ.get("EIGENCAM_RESULTS"):
        os.environ["EIGENCAM_RESULTS"] = str(expand(results))  # Hydra's own folder is inside it
    check_encoding(arguments)
    return expanded(of_fit(arguments))


def expanded(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with a leading `~` of each value expanded, as shells do in assignments.

    >>> expanded(["paths.voc=~/VOC", "~dataset.expect"])[0].startswith("paths.voc=/")
    True
    """
    parse, found = _parser(), []
    for argument in arguments:
        if match := _HOME.fullmatch(argument):
            key, path = match["key"], os.path.expanduser(match["path"])  # noqa: PTH111
            argument = f"{key}={path}" if parse(f"{key}={path}") else f"{key}={_quoted(path)}"
        found.append(argument)
    return found


def of_fit(arguments: Sequence[str]) -> list[str]:
    """Return the arguments, with the prefix `NAME.` replaced by `fit.` if `fit=NAME` is among them.

    >>> of_fit(["-m", "fit=wsol", "wsol.method=has,adl", "model=vgg16"])
    ['-m', 'fit=wsol', 'fit.method=has,adl', 'model=vgg16']
    """
    chosen = [argument.partition("=")[2] for argument in arguments if argument.startswith("fit=")]
    names = "|".join(re.escape(name) for name in ",".join(chosen).split(",") if name)
    return [re.sub(rf"^(\+{{0,2}}|~)({names})\.", r"\1fit.", argument) if names else argument for argument in arguments]


def options_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with options before overrides, in their order: Hydra accepts no options between overrides.

    >>> options_first(["method=cam", "-m", "--config-dir", "mine", "limit=3"])
    ['-m', '--config-dir', 'mine', 'method=cam', 'limit=3']
    """
    options, overrides, rest = list[str](), list[str](), iter(arguments)
    for argument in rest:
        if argument == "--":
            return [*options, argument, *overrides, *rest]
        if not argument.startswith("-"):
            overrides.append(argument)
            continue
        options.append(argument)
        if argument in (*_VALUED, "--experimental-rerun"):
            options += [value for value in (next(rest, None),) if value is not None]
    return [*options, *overrides]


def check_encoding(arguments: Sequence[str]) -> None:
    """Check the files in the folders that `--config-dir` names.

    Raises:
        ValueError: a file begins with a byte-order mark, behind which Hydra finds no `# @package`, or is not UTF-8.
    """
    for folder in _config_dirs(arguments):
        for path in files_in(expand(folder), (".yaml", ".yml"), depth=-1):
            with Reading(path, "YAML as UTF-8 without a byte-order mark") as file:
                file.text()
                if file.raw().startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
                    raise ValueError("begins with a byte-order mark, so that Hydra would not see `# @package`")


def hint(arguments: Sequence[str]) -> str:
    """Return how to quote the first override that Hydra cannot read; "" if it reads all, or no quoting helps."""
    parse, before = _parser(), ""
    sweep = bool({"-m", "--multirun"} & set(arguments))
    for previous, argument in zip(("", *arguments), arguments, strict=False):
        if argument.startswith("-") or previous in _VALUED:
            before = ""
            continue
        key, equals, value = argument.partition("=")
        if equals and parse(argument):
            before = argument
            continue
        if not equals and before:  # the shell has cut a value at a space
            key, equals, start = before.partition("=")
            value = f"{start} {argument}"
        quoted = next(filter(parse, _candidates(key, value, sweep, parse)), "") if equals and key else ""
        return f"Hydra cannot read {argument}; quote it: {shlex.quote(quoted)}" if quoted else ""
    return ""


def _candidates(key: str, value: str, sweep: bool, parse: Callable[[str], bool]) -> Iterator[str]:
    """Ways to quote a value: the parts of a list or sweep that need it, or the whole."""

    def parts(text: str) -> str:
        return ",".join(part if parse(f"{key}={part}") else _quoted(part.strip()) for part in text.split(","))

    if value.startswith("[") and value.endswith("]"):
        yield f"{key}=[{parts(value[1:-1])}]"
    if sweep and "," in value:
        yield f"{key}={parts(value)}"
    yield f"{key}={_quoted(value)}"


def _quoted(value: str) -> str:
    """Quote a value by Hydra's grammar, in which a backslash counts only before a quote.

    >>> _quoted("~/x")
    '"~/x"'
    """
    quote = "'" if '"' in value else '"'
    escaped = re.sub(rf"(\\*)({quote}|$)", lambda found: 2 * found[1] + (found[2] and "\\" + quote), value)
    return f"{quote}{escaped}{quote}"


def _parser() -> Callable[[str], bool]:
    """Return a function that tells whether Hydra's grammar accepts an override."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()

    def parse(override: str) -> bool:
        try:
            parser.parse_override(override)
        except HydraException:
            return False
        return True

    return parse


def _config_dirs(arguments: Sequence[str]) -> Iterator[str]:
    for i, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if name in _CONFIG_DIRS:
            yield value if equals else "".join(arguments[i + 1 : i + 2])
