"""The classes of data without a list of classes: those that occur in the labels."""

import re
from collections.abc import Iterable

ONLY_CLASS = "object"
"""Name of the only class if the data names none."""
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")
MOST_CLASSES = 1 << 20
"""Labels from this number on are taken for errors, since a name for each would fill the memory."""


def numbered(largest: int) -> tuple[str, ...]:
    """The names `0` to `largest`.

    >>> numbered(2), numbered(-1)
    (('0', '1', '2'), ())
    """
    return tuple(map(str, range(largest + 1)))


def occurring(labels: Iterable[str]) -> tuple[str, ...]:
    """The classes of labels: whole numbers from 0 up to the largest, or names sorted.

    If all labels are numbers, only those written with digits alone give classes. If these have zeros in front, and all
    the same number of digits, so have the names.

    >>> occurring({"10", "2"}) == numbered(10), occurring({"dog", "2"})
    (True, ('2', 'dog'))
    >>> occurring({"-1", "0", "1"}), occurring({"1.0", "0.0"})
    (('0', '1'), ())
    >>> occurring({"000", "002"}), occurring({"00", "1"})
    (('000', '001', '002'), ('0', '1'))
    """
    names = set(labels)
    if not all(map(_NUMBER.fullmatch, names)):
        return tuple(sorted(names))
    digits = [name for name in names if name.isdecimal()]
    written = (name.lstrip("0") or "0" for name in digits)
    numbers = (int(name) for name in written if len(name) <= len(str(MOST_CLASSES)))
    largest = max((number for number in numbers if number < MOST_CLASSES), default=-1)
    padded = len(set(map(len, digits))) == 1 and any(name[0] == "0" for name in digits)
    return tuple(name.zfill(len(digits[0]) if padded else 0) for name in numbered(largest))
