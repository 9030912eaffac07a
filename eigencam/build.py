"""The one place where a config's `_target_` becomes an object."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

RESERVED = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def instantiate(node: Mapping[str, Any]) -> Any:
    """Build what a node with `_target_` describes; lists and mappings arrive as plain Python ones.

    Raises:
        Exception: whatever the target raised, without Hydra's wrapping.
    """
    import hydra.utils
    from hydra.errors import InstantiationException
    from omegaconf import OmegaConf

    try:
        return hydra.utils.instantiate(OmegaConf.create(dict(node)), _convert_="all")
    except InstantiationException as error:
        raise error.__cause__ or error from None


def signature_errors(node: Mapping[str, Any], where: str) -> Iterator[str]:
    """One line for each fault of a node: a target that is not there, keys it does not take, arguments it lacks."""
    import hydra.utils

    target = node.get("_target_")
    if not target:
        yield f"{where}: no _target_ (the importable name of a class or function)"
        return
    try:
        found = hydra.utils.get_object(target)
    except Exception as error:  # whatever an import may raise is the user's message
        yield f"{where}: _target_={target}: {str(error).splitlines()[0]}"
        return
    parameters = inspect.signature(found).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    given = set(node) - RESERVED
    taken = {n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for key in sorted(given - taken):
        yield f"{where}.{key}: unknown; {target} takes: {', '.join(sorted(taken)) or 'nothing'}"
    for key in sorted(taken - given):
        if parameters[key].default is inspect.Parameter.empty:
            yield f"{where}.{key}: missing; {target} needs it"
