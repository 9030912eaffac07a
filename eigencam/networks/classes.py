"""Names of a network's classes; a class by its number or name."""

import difflib
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from eigencam.networks.network import Network

MOST = 2**31
"""Larger than the number of any class."""


def names_of(network: Network) -> Sequence[str]:
    """Names of the network's classes, in order; empty if they are not known.

    They are those of a fitted classifier, ImageNet's, or the texts in an attribute `categories` of the network.
    """
    if network.head is not None:
        return network.head.classes
    if network.classes == "imagenet":
        from torchvision.models import ResNet50_Weights

        return ResNet50_Weights.IMAGENET1K_V1.meta["categories"]
    given = getattr(network.module, "categories", ())
    return given if isinstance(given, list | tuple) and all(isinstance(name, str) for name in given) else ()


def class_number(asked: Any, names: Sequence[str] = ()) -> int:
    """The number of a class.

    Args:
        asked: an integer of Python, NumPy or torch, or a name, case-insensitive.
        names: names of the classes, in order; () if they are not known.

    Raises:
        ValueError: another type, an unknown name, or a name of several classes.

    >>> class_number("Tabby", ["cat", "tabby"]), class_number(np.int64(1))
    (1, 1)
    """
    if isinstance(asked, str):
        return _by_name(asked, names)
    allowed = "allowed: a class's number (0, 1, ...), its name, or a function of the network's output"
    if isinstance(asked, bool | np.bool_) or str(getattr(asked, "dtype", "")) == "torch.bool":
        raise ValueError(f"target={asked!r}: a truth value; {allowed}")
    try:
        number = operator.index(asked)
        if abs(number) > MOST:
            raise ValueError(f"target={number}: no network has so many classes; {allowed}")
        return number
    except TypeError:
        meant = f"; did you mean {int(asked)}?" if isinstance(asked, float) and asked.is_integer() else ""
        raise ValueError(f"target={asked!r}: {type(asked).__name__}; {allowed}{meant}") from None


def _by_name(name: str, names: Sequence[str]) -> int:
    same = [k for k, known in enumerate(names) if known == name]
    same = same or [k for k, known in enumerate(names) if known.casefold() == name.strip().casefold()]
    if len(same) == 1:
        return same[0]
    if same:
        raise ValueError(f"target={name!r} names the classes {', '.join(map(str, same))}; give the number")
    if name.strip().isdecimal():
        raise ValueError(f"target={name!r} is a text, and no class's name; the number would be {int(name)}")
    if not names:
        raise ValueError(f"target={name!r}: the names of the classes are not known; give its number, or `classes=`")
    folded = {known.casefold(): known for known in reversed(names)}
    near = difflib.get_close_matches(name.casefold(), list(folded), n=5, cutoff=0.5)
    near += [low for low in folded if name.casefold() in low and low not in near][: 5 - len(near)]
    hint = f"near: {', '.join(folded[n] for n in near)}" if near else f"there are {len(names)}, such as {names[0]}"
    raise ValueError(f"target={name!r}: no class of this name; {hint}")
