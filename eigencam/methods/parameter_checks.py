"""Checks of parameters, for methods and fits: each error is of one form, `samples=0; allowed: 1 or more`.

>>> from types import SimpleNamespace
>>> at_least(SimpleNamespace(samples=0), 1, "samples")
Traceback (most recent call last):
ValueError: samples=0; allowed: 1 or more
"""

from collections.abc import Iterable


def at_least(thing: object, limit: float, *names: str, null: bool = False, prefix: str = "") -> None:
    """Raise ValueError where a parameter of `thing` is below the limit, NaN, or None where `null` does not allow it."""
    for name in names:
        value = getattr(thing, name)
        if not (null if value is None else value >= limit):
            end = ", or null" if null else ""
            raise ValueError(f"{prefix}{name}={value}; allowed: {limit} or more{end}")


def above_zero(thing: object, *names: str, most: float | None = None, prefix: str = "") -> None:
    """Raise ValueError where a parameter of `thing` is not above 0, is NaN, or is more than `most`."""
    for name in names:
        value = getattr(thing, name)
        if not value > 0 or (most is not None and value > most):
            end = "" if most is None else f", up to {most}"
            raise ValueError(f"{prefix}{name}={value}; allowed: above 0{end}")


def one_of(thing: object, name: str, allowed: Iterable[str], prefix: str = "") -> None:
    """Raise ValueError where a parameter of `thing` is not among the words allowed."""
    words = tuple(allowed)
    value = getattr(thing, name)
    if value not in words:
        raise ValueError(f"{prefix}{name}={value!r}; allowed: {', '.join(words)}")
