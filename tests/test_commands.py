"""Every command in a comment of a config, on a page or at the head of a script is valid.

Nothing is run. A Hydra command is composed, and every value of a sweep has to be an option of its group. The arguments
of other subcommands are parsed, and papers and experiments are looked up. A script must have the options. Words in
capitals and dots are placeholders.
"""

import argparse
import ast
import contextlib
import importlib
import io
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from eigencam.commands.main import HYDRA, SUBCOMMANDS
from eigencam.configuring.compose import compose, groups, options
from eigencam.configuring.overrides import accepted
from eigencam.networks.libraries import LIBRARIES
from eigencam.reporting.published import papers

ROOT = Path(__file__).parents[1]
PAGES = ["README.md", "CONTRIBUTING.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
SOURCES = ["configs", "scripts", "eigencam", "evaluation", "datasets", "results/published"]
COMMAND = r"(?:\.venv/bin/)?(?:eigencam [a-z]+(?![\w:-])|python scripts/\w+\.py)"
ENVIRONMENT = r"(?:[A-Z_0-9]+=\S+ )*"
LINE = re.compile(rf"\s*(?:#\s*)?{ENVIRONMENT}(?:nice )?(?P<command>{COMMAND}.*)")
"""A line with a command, optionally after environment variables, and with a remark after three spaces or a sign."""
QUOTED = re.compile(rf"`{ENVIRONMENT}(?P<command>{COMMAND}[^`\n]*)`")
SAID = re.compile(rf"(?:\(|Then: |: )(?P<command>{COMMAND}[^()\n]*)")
"""A command inside a comment's sentence."""
STAND_IN = re.compile(r"\.\.\.|…")
ONE_S_OWN = ("my_", "birds", "channel_norm")
"""Names that the page defines above the command."""


class Written(NamedTuple):
    """A command, its position, and whether it is a line of its own."""

    place: str
    words: tuple[str, ...]
    whole: bool


def texts() -> Iterator[tuple[str, str]]:
    """The texts with commands, by file; for Python files, the docstring."""
    for name in PAGES:
        yield name, (ROOT / name).read_text()
    for folder in SOURCES:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".yaml", ".sh"):
                yield str(path.relative_to(ROOT)), path.read_text()
            elif path.suffix == ".py":
                yield str(path.relative_to(ROOT)), ast.get_docstring(ast.parse(path.read_text()), clean=False) or ""


def joined(text: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers; a backslash at the end joins the next line, without its comment sign."""
    before, first = "", 1
    for number, line in enumerate(text.splitlines(), 1):
        first = first if before else number
        whole = before + (re.sub(r"^[ #]*", "", line) if before else line)
        before = whole.rstrip().removesuffix("\\") if line.rstrip().endswith("\\") else ""
        if not before:
            yield first, whole


def commands() -> Iterator[Written]:
    """Every command."""
    for name, text in texts():
        for number, line in joined(text):
            place = f"{name}:{number}"
            if found := LINE.fullmatch(line):
                yield Written(place, arguments(found["command"]), whole=True)
                continue
            for found in QUOTED.finditer(line):
                yield Written(place, arguments(found["command"]), whole=False)
            for found in SAID.finditer(line) if name.endswith(".yaml") else ():
                words = [word.rstrip(".,;:") for word in arguments(found["command"])]
                ends = (k for k, word in enumerate(words) if k > 1 and not re.search(r"=|^-", words[k - 1] + word))
                yield Written(place, tuple(words[: next(ends, None)]), whole=False)


def arguments(text: str) -> tuple[str, ...]:
    """The words of a command, without optional parts such as `[--check]` and without a remark behind it."""
    text = re.sub(r" \[[^\]]*\]", "", re.split(r" {3,}|\s# |; |\t| [|>] |, then", text)[0])
    words = shlex.split(text.removeprefix(".venv/bin/"))
    return tuple(word for word in words if not STAND_IN.search(word))


ALL = list(dict.fromkeys(commands()))


def place(words: tuple[str, ...]) -> str:
    return next(written.place for written in ALL if written.words[1:] == words)


def alone(words: tuple[str, ...]) -> bool:
    """Whether the command occurs as a line of its own, and not only in a sentence."""
    return any(written.whole for written in ALL if written.words[1:] == words)


def test_there_are_commands_to_check() -> None:
    where = {written.place.split(":")[0] for written in ALL}
    assert {"README.md", "docs/sweeps.md", "configs/run.yaml", "scripts/anchors.py"} <= where
    experiments = {str(path.relative_to(ROOT)) for path in (ROOT / "configs/experiment").rglob("*.yaml")}
    assert experiments <= where


HYDRAS = sorted({w.words[1:] for w in ALL if w.words[0] == "eigencam" and w.words[1] in HYDRA})


def known(group: str, name: str) -> bool:
    """Whether a name is an option of a group, a network of a library, or a name defined on the page."""
    return name in options(group) or name.split("/")[0] in LIBRARIES or name.startswith(ONE_S_OWN)


def one_of_each(words: list[str]) -> Iterator[str]:
    """Overrides of one job: the first one of a sweep over a group's options, after checking that all are options."""
    there = groups()
    for word in words:
        key, _, value = word.partition("=")
        if key in there and value[:1] != "[":
            names = [name for name in value.split(",") if not name.isupper()]
            for name in names:
                assert known(key, name), f"{key}={name}: there are {', '.join(options(key))}"
            value = names[0] if names else "scenes_resnet"
        elif "," in value and value[0] not in "[{\"'" and "${" not in value:
            value = value.split(",")[0]
        yield f"{key}={value}"


@pytest.mark.parametrize("words", HYDRAS, ids=place)
def test_a_command_of_hydra_s_composes(words: tuple[str, ...]) -> None:
    flags = {word for word in words if word.startswith("-")}
    assert flags <= {"-m", "--retry-failed", "--help", "--config-dir"}
    if len(words) == 2 and words[1].startswith("experiment="):  # composed by another test
        assert (ROOT / f"configs/experiment/{words[1].partition('=')[2]}.yaml").is_file()
    elif not flags - {
        "-m"
    }:  # otherwise the page's own configs, which the tests of the pages run, or nothing to compose
        compose(words[0], list(one_of_each([word for word in accepted(list(words[1:])) if word != "-m"])))


OTHERS = sorted({w.words[1:] for w in ALL if w.words[0] == "eigencam" and w.words[1] not in HYDRA})


@pytest.mark.parametrize("words", OTHERS, ids=place)
def test_the_arguments_of_a_subcommand_are_parsed(words: tuple[str, ...]) -> None:
    name, *rest = words
    assert name in SUBCOMMANDS
    parser = argparse.ArgumentParser(prog=f"eigencam {name}")
    importlib.import_module(f"eigencam.commands.{name}").add_arguments(parser)
    with contextlib.redirect_stderr(io.StringIO()) as said:
        try:
            args = parser.parse_intermixed_args(rest)
        except SystemExit:
            assert not alone(words), said.getvalue()
            assert re.search("are required|expected (one|at least one) argument", said.getvalue()), said.getvalue()
            return
    paper = getattr(args, "paper", None)
    assert paper is None or paper.isupper() or paper in papers(), f"--paper {paper}: there are {', '.join(papers())}"
    for setting in rest:
        if setting.startswith("experiment="):
            compose("run", [setting])


SCRIPTS = sorted({w.words[1:] for w in ALL if w.words[0] == "python"})


@pytest.mark.parametrize("words", SCRIPTS, ids=place)
def test_a_script_is_there_and_has_the_options(words: tuple[str, ...]) -> None:
    source = (ROOT / words[0]).read_text()
    shared = (ROOT / f"scripts/{name}.py" for name in re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE))
    source += "".join(path.read_text() for path in shared if path.is_file())
    for option in (word.split("=")[0] for word in words[1:] if word.startswith("--")):
        made = 'f"--{name}"' in source and f'"{option.removeprefix("--")}"' in source
        assert f'"{option}"' in source or made, f"{words[0]} has no {option}"
