"""The rows of a smooth image of levels, as segments that rise and then fall, and the levels up to which segments touch.

A map that was enlarged from 7 x 7 rises and falls a few times per row. Each row is cut into runs of equal level, and
these into segments that rise and then fall: at any threshold a segment is one run of pixels. Two segments that touch
are connected up to the highest level at which pixels of both touch. Since one falls where the other rises, that level
is found by bisection between their peaks.

Importing this module imports numba.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Levels = NDArray[np.uint8]
Ints = NDArray[np.int32]

_EIGHT_TIMES = np.uint64(0x0101010101010101)


class Segments(NamedTuple):
    """The rows of an image as runs of equal level, and as segments of runs that rise and then fall.

    Attributes:
        x: (R,) first pixel of each run; each row ends with one more entry, the width.
        level: (R,) level of each run.
        start: (S,) first run of each segment.
        stop: (S,) the run after its last one.
        peak: (S,) its highest run.
        row: (H + 1,) first segment of each row.
    """

    x: Ints
    level: Levels
    start: Ints
    stop: Ints
    peak: Ints
    row: Ints


def padded(levels: Levels) -> Levels:
    """(H, W) levels with each row padded to a multiple of eight pixels by repeating its last one."""
    missing = -levels.shape[1] % 8
    return np.pad(levels, ((0, 0), (0, missing)), mode="edge") if missing else np.ascontiguousarray(levels)


@njit(cache=True, nogil=True)
def segments_of(levels: Levels, width: int) -> Segments:
    """The segments of `padded` levels. Eight pixels are skipped in one step if all have the level before them."""
    height, words = len(levels), levels.view(np.uint64)
    x_of, level_of = np.empty(height * (width + 1), np.int32), np.empty(height * (width + 1), np.uint8)
    start, stop, peak_of = np.empty((3, height * (width // 2 + 1)), np.int32)
    row = np.empty(height + 1, np.int32)
    runs = count = 0
    for y in range(height):
        line, eights, before = levels[y], words[y], levels[y, 0]
        alike, falling = np.uint64(before) * _EIGHT_TIMES, False
        row[y], start[count], peak = count, runs, runs
        x_of[runs], level_of[runs] = 0, before
        runs += 1
        for i in range(len(eights)):
            if eights[i] == alike:
                continue
            for x in range(8 * i, 8 * i + 8):  # few branches, since a change of level cannot be predicted
                level = line[x]
                up, down = level > before, level < before
                if up and falling:
                    stop[count], peak_of[count] = runs, peak
                    count += 1
                    start[count] = runs
                falling = (falling | down) & (not up)
                x_of[runs], level_of[runs] = x, level
                peak = runs if up else peak
                runs += up | down
                before = level
            alike = np.uint64(before) * _EIGHT_TIMES
        stop[count], peak_of[count] = runs, peak
        x_of[runs] = width
        runs += 1
        count += 1
    row[height] = count
    return Segments(x_of, level_of, start[:count], stop[:count], peak_of[:count], row)


@njit(cache=True, nogil=True)
def _meeting(falling: Levels, rising: Levels, low: int, high: int, reach: int) -> int:
    """The largest level at which pixels low .. high of a falling row touch those of the next row, which rises."""
    first, stop = low, high + 1  # the first pixel from which the other row is as high
    while first < stop:
        middle = (first + stop) >> 1
        if rising[middle + reach] >= falling[middle]:
            stop = middle
        else:
            first = middle + 1
    level = int(falling[first]) if first <= high else 0
    return max(level, int(rising[first - 1 + reach])) if first > low else level


@njit(cache=True, nogil=True)
def edges_of(levels: Levels, segments: Segments, reach: int) -> tuple[Ints, Ints, Levels]:
    """Pairs of segments that touch, and the level up to which they do, if that is more than 0."""
    x, level_of, start, stop, peak, row = segments
    a, b = np.empty((2, 6 * len(start)), np.int32)
    up_to = np.empty(6 * len(start), np.uint8)
    count = 0
    for y in range(len(levels)):
        for s in range(row[y], row[y + 1] - 1):
            a[count], b[count], up_to[count] = s, s + 1, level_of[stop[s] - 1]
            count += up_to[count] > 0
        if y + 1 == len(levels):
            break
        upper, lower, behind = levels[y], levels[y + 1], row[y + 1]
        for s in range(row[y], row[y + 1]):
            s1, s2, p1, p2 = x[start[s]], x[stop[s]] - 1, x[peak[s]], x[peak[s] + 1] - 1
            while x[stop[behind]] - 1 < s1 - reach:
                behind += 1
            t = behind
            while t < row[y + 2] and x[start[t]] <= s2 + reach:
                t1, t2, q1, q2 = x[start[t]], x[stop[t]] - 1, x[peak[t]], x[peak[t] + 1] - 1
                if p2 + reach < q1:
                    level = _meeting(upper, lower, max(p2, t1 - reach), min(s2, q1 - reach), reach)
                elif q2 + reach < p1:
                    level = _meeting(lower, upper, max(q2, s1 - reach), min(t2, p1 - reach), reach)
                else:
                    level = int(min(upper[p1], lower[q1]))
                a[count], b[count], up_to[count] = s, t, level
                count += level > 0
                t += 1
    return a[:count], b[:count], up_to[:count]
