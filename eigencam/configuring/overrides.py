"""What a person writes as `key=value`: a home folder's `~` is replaced, and what Hydra cannot read comes back quoted.

Hydra reads values by a grammar of its own, in which `~`, `=`, brackets and letters beyond ASCII stand in quotes, which
the shell has to leave alone: `'paths.voc="/data/Bücher"'`.
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
    """The arguments as Hydra takes them, once the folders of configs that they name are known to be readable.

    Raises:
        ValueError: a file is not in UTF-8, or begins with a byte-order mark.
    """
    if results := os.environ.get("EIGENCAM_RESULTS"):
        os.environ["EIGENCAM_RESULTS"] = str(expand(results))  # Hydra's own folder is in it, too
    check_encoding(arguments)
    return expanded(of_fit(arguments))


def expanded(arguments: Sequence[str]) -> list[str]:
    """The arguments with the `~` that begins a value replaced, as shells do where a variable is set.

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
    """Return the arguments with `fit.` in the place of the name of what is fitted.

    >>> of_fit(["-m", "fit=wsol", "wsol.method=has,adl", "model=vgg16"])
    ['-m', 'fit=wsol', 'fit.method=has,adl', 'model=vgg16']
    """
    chosen = [argument.partition("=")[2] for argument in arguments if argument.startswith("fit=")]
    names = "|".join(re.escape(name) for name in ",".join(chosen).split(",") if name)
    return [re.sub(rf"^(\+{{0,2}}|~)({names})\.", r"\1fit.", argument) if names else argument for argument in arguments]


def options_first(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with options before overrides, in their order: Hydra takes none between overrides.

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
    """Check the files of the folders that `--config-dir` names.

    Raises:
        ValueError: one begins with a byte-order mark, behind which Hydra finds no `# @package`, or is not UTF-8.
    """
    for folder in _config_dirs(arguments):
        for path in files_in(expand(folder), (".yaml", ".yml"), depth=-1):
            with Reading(path, "YAML as UTF-8 without a byte-order mark") as file:
                file.text()
                if file.raw().startswith((b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")):
                    raise ValueError("begins with a byte-order mark, so that Hydra would not see `# @package`")


def hint(arguments: Sequence[str]) -> str:
    """How the first override that Hydra cannot read has to be quoted; "" if it reads all, or no quoting helps."""
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
        return f"Hydra cannot read {argument}; in quotes it can: {shlex.quote(quoted)}" if quoted else ""
    return ""


def _candidates(key: str, value: str, sweep: bool, parse: Callable[[str], bool]) -> Iterator[str]:
    """The ways to quote a value: the parts of a list or of a sweep that need it, or the whole."""

    def parts(text: str) -> str:
        return ",".join(part if parse(f"{key}={part}") else _quoted(part.strip()) for part in text.split(","))

    if value.startswith("[") and value.endswith("]"):
        yield f"{key}=[{parts(value[1:-1])}]"
    if sweep and "," in value:
        yield f"{key}={parts(value)}"
    yield f"{key}={_quoted(value)}"


def _quoted(value: str) -> str:
    """A value in the quotes of Hydra's grammar, in which a backslash counts before a quote alone.

    >>> _quoted("~/x")
    '"~/x"'
    """
    quote = "'" if '"' in value else '"'
    escaped = re.sub(rf"(\\*)({quote}|$)", lambda found: 2 * found[1] + (found[2] and "\\" + quote), value)
    return f"{quote}{escaped}{quote}"


def _parser() -> Callable[[str], bool]:
    """Whether Hydra's grammar takes an override."""
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
