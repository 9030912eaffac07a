"""The meaning of the values, or colours, of a user's masks.

    MaskValues({"object": 255})                           # 0 is background
    MaskValues({"cat": 1, "dog": [2, 3], "void": 255})
    MaskValues({"background": "#000000", "cat": "#800000", "void": "#e0e0c0"})
    MaskValues("palette")                                 # 0 background, 1 + class an object, 255 void, as VOC's

`object` is the class of the image's label, or the only class. A value without a meaning is an error.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eigencam.datasets.base import LAST_CLASS, VOID, BadTruthError, whole
from eigencam.datasets.decoding import read_values

BACKGROUND, OBJECT, VOID_NAME = "background", "object", "void"
PALETTE = "palette"
_COLOUR = re.compile(r"#([0-9a-fA-F]{6})")
_UNKNOWN = VOID - 1  # no class has this value
_SHOWN = 5
_ALLOWED = (
    "allowed: palette, or what each value stands for, as {object: 255} or {background: '#000000', cat: '#800000'}: "
    "numbers 0 to 65535, lists of them, or colours '#rrggbb'"
)


class MaskValues:
    """Converts stored values to a mask in the form of `Truth.mask`.

    Attributes:
        names: the classes that are named, without `object`.
        has_object: whether `object` is named.
        as_written: the values as given, for the identity.
    """

    def __init__(self, values: str | Mapping[str, object]) -> None:
        """Check the values.

        Raises:
            ValueError: a value is not allowed or has two meanings, or no value means an object.
        """
        self.as_written = values if isinstance(values, str) else dict(values)
        self._codes: dict[int, str] = {}
        self._colours = False
        self.names: tuple[str, ...] = ()
        self.has_object = False
        if values == PALETTE:
            return
        if not isinstance(values, Mapping) or not values:
            raise ValueError(f"mask_values={values!r}; {_ALLOWED}")
        listed = [(str(name), one) for name, given in values.items() for one in _listed(given)]
        colours = {isinstance(one, str) for _, one in listed}
        if len(colours) > 1:
            raise ValueError(f"mask_values={dict(values)}: numbers beside colours; {_ALLOWED}")
        self._colours = colours.pop()
        for name, one in listed:
            code = _code(name, one)
            if (before := self._codes.setdefault(code, name)) != name:
                raise ValueError(f"mask_values: {one} stands for {before} and for {name}; allowed is one of them")
        if not self._colours and BACKGROUND not in values:
            self._codes.setdefault(0, BACKGROUND)
        self.names = tuple(name for name in map(str, values) if name not in (BACKGROUND, OBJECT, VOID_NAME))
        self.has_object = OBJECT in values
        if not self.names and not self.has_object:
            raise ValueError(f"mask_values={dict(values)}: nothing stands for an object; {_ALLOWED}")

    def read(self, path: Path, classes: Sequence[str], label: int) -> NDArray[np.uint8]:
        """Read a mask.

        Args:
            path: the file.
            classes: the dataset's classes.
            label: the image's label, which is the class of `object`; -1 if it has none.

        Returns:
            (H, W) uint8: 0 background, 1 + class an object, 255 void.

        Raises:
            BadImageError: the file cannot be decoded.
            BadTruthError: it has values without a meaning.
        """
        stored = read_values(path, colours=self._colours)
        if not self._codes:
            return self._palette(path, stored, len(classes))
        if self._colours:
            colours = stored if stored.ndim == 3 else np.repeat(stored[..., None], 3, axis=2)
            stored = colours.astype(np.int64) @ np.array([65536, 256, 1])
        elif stored.ndim == 3:
            raise BadTruthError(f"{path}: a mask in colours; dataset.mask_values names them as '#rrggbb'")
        targets = {name: k + 1 for k, name in enumerate(classes)} | {BACKGROUND: 0, VOID_NAME: VOID}
        if self.has_object:
            if label < 0:
                raise BadTruthError(
                    f"{path}: `object` takes the class of the image's label, but this image has no label"
                )
            if label > LAST_CLASS:
                raise BadTruthError(f"{path}: label {label}; a mask of bytes has room for {LAST_CLASS + 1} classes")
            targets[OBJECT] = label + 1
        codes = np.array(sorted(self._codes))
        place = np.searchsorted(codes, stored).clip(max=len(codes) - 1)
        meant = np.array([targets[self._codes[code]] for code in codes.tolist()], np.uint8)
        mask = np.where(codes[place] == stored, meant[place], np.uint8(_UNKNOWN))
        if (unknown := mask == _UNKNOWN).any():
            raise BadTruthError(self._said(path, stored, unknown))
        return mask

    def _said(self, path: Path, stored: NDArray[np.integer], unknown: NDArray[np.bool_]) -> str:
        found = np.unique(stored[unknown]).tolist()
        show = (lambda code: f"#{code:06x}") if self._colours else str
        known = ", ".join(f"{show(code)} ({name})" for code, name in sorted(self._codes.items()))
        return (
            f"{path}: {', '.join(map(show, found[:_SHOWN]))}{' ...' if len(found) > _SHOWN else ''} in the mask; "
            f"allowed by dataset.mask_values are {known}"
        )

    @staticmethod
    def _palette(path: Path, stored: NDArray[np.integer], n: int) -> NDArray[np.uint8]:
        if stored.ndim == 3:
            raise BadTruthError(f"{path}: a mask in colours; dataset.mask_values names them as '#rrggbb'")
        wrong = np.unique(stored[(stored > n) & (stored != VOID)]).tolist()
        if wrong:
            raise BadTruthError(
                f"{path}: {wrong[:_SHOWN]} in the mask; allowed with mask_values=palette are 0 (background), 1 to {n} "
                f"(1 + class) and {VOID} (void)"
            )
        return stored.astype(np.uint8)


def _listed(given: object) -> list[object]:
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str) else [given]


def _code(name: str, one: object) -> int:
    """The number of a value or colour."""
    if isinstance(one, str) and (found := _COLOUR.fullmatch(one)):
        return int(found[1], 16)
    if (number := whole(one)) is not None and 0 <= number <= 65535:
        return number
    raise ValueError(f"mask_values: {name}: {one!r}; {_ALLOWED}")
