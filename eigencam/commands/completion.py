"""`eigencam completion bash`: the script by which a shell completes subcommands, options and settings.

eval "$(eigencam completion bash)"
eigencam completion --query "eigencam run mod"

Examples:
    eigencam completion zsh
    eigencam completion bash
"""

import argparse
import importlib
from collections.abc import Iterable

SHELLS = ("bash", "zsh")
BASH = """_eigencam() {
    local line="${COMP_LINE:0:COMP_POINT}" word cut
    word="${line##*[[:space:]]}"
    mapfile -t COMPREPLY < <("${COMP_WORDS[0]}" completion --query "$line" 2>/dev/null)
    [[ ${#COMPREPLY[@]} = 0 ]] && { compopt -o default 2>/dev/null; return; }
    [[ ${#COMPREPLY[@]} = 1 && ${COMPREPLY[0]} != *[=./,] ]] || compopt -o nospace 2>/dev/null
    if [[ $word == *[=:]* ]]; then  # bash starts a new word after such a sign
        cut="${word%"${word##*[=:]}"}"
        COMPREPLY=("${COMPREPLY[@]#"$cut"}")
    fi
}
complete -F _eigencam eigencam .venv/bin/eigencam
"""
ZSH = """(( $+functions[compdef] )) || { autoload -U compinit && compinit }
_eigencam() {
    local -a found open closed
    found=("${(@f)$("${(Q)words[1]}" completion --query "${(j: :)words[1,CURRENT-1]} ${(Q)PREFIX}" 2>/dev/null)}")
    found=(${found:#})
    (( $#found )) || { _files; return }
    open=(${(M)found:#*[=./,]}) closed=(${found:#*[=./,]})  # no space follows what is open
    compadd -S '' -a open
    compadd -a closed
}
compdef _eigencam eigencam
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `eigencam completion`."""
    parser.add_argument("shell", nargs="?", choices=SHELLS, metavar="SHELL", help=f"one of {', '.join(SHELLS)}")
    parser.add_argument(
        "--query", metavar="LINE", help="print the candidates for the end of a line that is being typed"
    )


def main(args: argparse.Namespace) -> int:
    """Print the script, or the candidates; returns 0."""
    if args.query is not None:
        print("\n".join(candidates(args.query)))
    elif args.shell is None:
        raise ValueError(f"no shell; allowed: {', '.join(SHELLS)}")
    else:
        print(BASH if args.shell == "bash" else ZSH, end="")
    return 0


def candidates(line: str) -> list[str]:
    """Return the candidates for the end of a line that is being typed, `eigencam run mod`.

    Args:
        line: up to the cursor; it may have unclosed quotes.
    """
    from eigencam.commands.main import HYDRA, SUBCOMMANDS

    words = line.split()
    last = "" if line[-1:].isspace() or not words else words[-1]
    before = words[1:] if not last else words[1:-1]
    if not before:
        return [name for name in (*SUBCOMMANDS, "--help", "--version") if name.startswith(last)]
    chosen, *rest = before
    if chosen in HYDRA:
        found = _settings(chosen, last, rest)
    elif chosen in SUBCOMMANDS:
        parser = argparse.ArgumentParser(prog=chosen)
        importlib.import_module(f"eigencam.commands.{chosen}").add_arguments(parser)
        found = _arguments(parser, last, rest)
    else:
        found = []
    return sorted({word for word in found if word.startswith(last) and word != last})


def _arguments(parser: argparse.ArgumentParser, last: str, before: list[str]) -> Iterable[str]:
    """The values of the option before the cursor; else options after a `-`; else values of positional arguments."""
    for action in parser._actions:
        if before and before[-1] in action.option_strings and action.choices:
            return map(str, action.choices)
    positional = [str(c) for action in parser._actions if not action.option_strings for c in action.choices or ()]
    return [o for action in parser._actions for o in action.option_strings] if last.startswith("-") else positional


def _settings(config: str, last: str, before: list[str]) -> Iterable[str]:
    """Groups and keys of a Hydra config, or the options of the group whose value is being typed."""
    from eigencam.configuring.compose import compose, groups, options

    if last.startswith("-"):
        return ["--help", "--multirun", "--config-dir", "--cfg", *(["--retry-failed"] if config == "run" else [])]
    key, equals, value = last.partition("=")
    known = groups()
    if equals and key in known:
        listed = value.rpartition(",")[0]
        start = f"{key}={listed}," if listed else f"{key}=["[: len(key) + 1 + value.startswith("[")]
        return [f"{start}{option}" for option in options(key)]
    if equals:
        return []
    if "." not in key:
        return [*(f"{group}=" for group in known), *_keys(compose(config), "")]
    chosen = [word for word in before if word.partition("=")[0] in known and "," not in word]
    return _keys(compose(config, chosen), key.rpartition(".")[0])


def _keys(node: object, path: str) -> Iterable[str]:
    """The keys of a node of a config; a key with subkeys ends in a dot."""
    from omegaconf import DictConfig, OmegaConf

    inner = OmegaConf.select(node, path) if path and isinstance(node, DictConfig) else node
    if not isinstance(inner, DictConfig):
        return
    start = f"{path}." if path else ""
    for key in inner:
        if not str(key).startswith("_"):
            deeper = OmegaConf.is_dict(inner._get_node(str(key)))
            yield f"{start}{key}{'.' if deeper else '='}"
