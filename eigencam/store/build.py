"""The only place where a config's `_target_` becomes an object."""

import inspect
import logging
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

RESERVED = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def instantiate(node: Mapping[str, Any]) -> Any:
    """Build what a node with `_target_` describes; lists and mappings are passed as plain Python objects.

    Raises:
        Exception: the error of the target, without Hydra's wrapping.
    """
    import hydra.utils
    from hydra.errors import InstantiationException
    from omegaconf import OmegaConf

    try:
        return hydra.utils.instantiate(OmegaConf.create(dict(node)), _convert_="all")
    except InstantiationException as error:
        raise error.__cause__ or error from None


def find(name: str) -> Any:
    """Return the class or function of a dotted name."""
    import hydra.utils

    log = logging.getLogger("hydra.utils")  # it would print the exception's message, too
    before, log.disabled = log.disabled, True
    try:
        return hydra.utils.get_object(name)
    finally:
        log.disabled = before


def signature_errors(node: Mapping[str, Any], where: str) -> Iterator[str]:
    """Yield one line per fault of a node: a missing target, unknown keys, missing arguments."""
    target = node.get("_target_")
    if not target:
        yield f"{where}: no _target_ (the importable name of a class or function)"
        return
    try:
        found = find(target)
    except Exception as error:  # an import may raise anything; the user sees its message
        yield f"{where}: _target_={target}: {' '.join(str(error).split())}"
        return
    parameters = inspect.signature(found).parameters
    forms = _annotations(found)
    given = set(node) - RESERVED
    taken = {n for n, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in sorted(given - taken):
            yield f"{where}.{key}: unknown; {target} takes: {', '.join(sorted(taken)) or 'nothing'}"
    for key in sorted(given & taken):
        if allowed := _allowed(node[key], forms.get(key)):
            yield f"{where}.{key}={node[key]}; allowed: {allowed}"
        elif not _is_finite(node[key]):
            yield f"{where}.{key}={node[key]}; allowed: finite numbers"
    for key in sorted(taken - given) if not node.get("_partial_") else ():
        if parameters[key].default is inspect.Parameter.empty:
            hint = "" if inspect.isclass(found) else " (a function that is itself the method: _partial_: true)"
            yield f"{where}.{key}: missing; {target} needs it{hint}"


def _is_finite(value: object) -> bool:
    """Whether a parameter has no infinite number and no NaN, also inside lists and mappings."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _annotations(thing: Any) -> dict[str, Any]:
    """Return the parameters' annotations as types; empty if they cannot be resolved."""
    try:
        return typing.get_type_hints(thing.__init__ if inspect.isclass(thing) else thing)
    except Exception:  # names for type checkers only, or no annotations
        return {}


def _allowed(value: object, form: Any) -> str:
    """Return what is allowed if only numbers or lists are accepted and the value is something else, else "".

    >>> _allowed("abc", int | None), _allowed(2.5, int), _allowed(0.1, Sequence[float])
    ('an integer or null', 'an integer', 'a list')
    >>> _allowed("abc", int | str), _allowed(3, int), _allowed(3, float), _allowed([3], Sequence[int])
    ('', '', '', '')
    """
    union = isinstance(form, types.UnionType) or typing.get_origin(form) is typing.Union
    kinds = [typing.get_origin(kind) or kind for kind in (typing.get_args(form) if union else (form,))]
    names = {int: "an integer", float: "a number", bool: "true or false", type(None): "null", Sequence: "a list"}
    if not isinstance(value, str | int | float) or not all(kind in names for kind in kinds):
        return ""
    fits = not isinstance(value, str) and (float in kinds or type(value) in kinds or isinstance(value, bool))
    return "" if fits else " or ".join(names[kind] for kind in kinds)
