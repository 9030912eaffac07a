"""The component tree of a smooth image of levels, computed from segments of its rows instead of its pixels.

The segments of `row_segments`, joined in the order of descending levels (J. B. Kruskal, "On the shortest spanning
subtree of a graph", Proc. AMS 1956), give the *branches* of the tree: a branch is a component from the level at which
it appears down to the level at which it meets another. Each run of pixels is then added to its segment's branch at the
run's level.

The nodes are those that flooding the image pixel by pixel gives (`component_tree`), in another order. Time grows with
the number of runs, and memory with branches times levels, so for noise with many levels flooding is better.

Importing this module imports numba.
"""

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from eigencam.evaluation.row_segments import Ints, Levels, Segments, edges_of, padded, segments_of

LOW, HIGH, X1, Y1, X2, Y2, PIXELS, AREA, HOLES, FIRST = range(10)
"""Columns of nodes: thresholds low <= v < high; inclusive box; pixels; doubled area minus that of the holes; number
of holes; first pixel in raster order, y * width + x."""

Nodes = NDArray[np.int32]

RING = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
"""The neighbours of a pixel (y, x): bit i of a code stands for neighbour i."""

_SQUARES = ((0, 1, 3), (2, 1, 4), (5, 3, 6), (7, 4, 6))  # the diagonal neighbour first


def _gains() -> NDArray[np.int64]:
    """(256, 2): doubled area and Euler number that a pixel adds, by the code of its neighbours added before it."""
    table = np.zeros((256, 2), np.int64)
    for code in range(256):
        area, euler = 0, 0
        for diagonal, *sides in _SQUARES:
            far, near = code >> diagonal & 1, [code >> side & 1 for side in sides]
            others = far + sum(near)
            area += others >= 2
            # Gray: 4 E = squares with one pixel - with three - 2 with two on a diagonal.
            before = (0, 1, -2 if all(near) else 0, -1)[others]
            after = (1, -2 if far else 0, -1, 0)[others]
            euler += after - before
        table[code] = area, euler // 4
    return table


GAINS = _gains()
_PACKED = GAINS[:, 0] + (GAINS[:, 1] << 32)


class Cells(NamedTuple):
    """Sums over the runs of a branch and level, by cell: boxes, first pixel, pixels, gains; and the image's width."""

    x1: Ints
    y1: Ints
    x2: Ints
    y2: Ints
    first: Ints
    pixels: Ints
    gains: NDArray[np.int64]
    width: int


class Branches(NamedTuple):
    """Components between the levels at which they merge.

    Attributes:
        of: (S,) branch of each segment at the level of its peak, or one further up the tree.
        low: (B,) a branch exists at levels above this one; -1 for a branch that meets no other.
        high: (B,) the highest level at which it exists.
        parent: (B,) the branch that it merges into at the level `low`; larger than its own number; -1: none.
    """

    of: Ints
    low: Ints
    high: Ints
    parent: Ints


@njit(cache=True, nogil=True)
def _falling(levels: Levels) -> Ints:
    """The order of (N,) levels from largest to smallest."""
    place = np.zeros(256, np.int32)
    for level in levels:
        place[level] += 1
    total = 0
    for level in range(255, -1, -1):
        place[level], total = total, total + place[level]
    order = np.empty(len(levels), np.int32)
    for i in range(len(levels)):
        order[place[levels[i]]] = i
        place[levels[i]] += 1
    return order


@njit(cache=True, nogil=True)
def _find(parent: Ints, i: int) -> int:
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True, nogil=True)
def _branches(segments: Segments, a: Ints, b: Ints, up_to: Levels) -> Branches:
    """Join segments in the order of descending levels."""
    n = len(segments.start)
    root, branch_of = np.arange(n, dtype=np.int32), np.arange(n)  # the branch of a root's component
    same_as = np.arange(2 * n, dtype=np.int32)  # branches that meet at a level where one of them appears are one
    low, high, parent = np.full(2 * n, -1), np.empty(2 * n, np.int64), np.full(2 * n, -1)
    for s in range(n):
        high[s] = segments.level[segments.peak[s]]
    count = n
    for i in _falling(up_to):
        level = int(up_to[i])
        r, t = _find(root, int(a[i])), _find(root, int(b[i]))
        if r == t:
            continue
        root[t] = r
        one, other = branch_of[r], branch_of[t]
        if high[one] > level and high[other] > level:
            low[one] = low[other] = high[count] = level
            parent[one] = parent[other] = branch_of[r] = count
            count += 1
            continue
        if high[other] > level or (high[one] == level and one < n):
            one, other = other, one
        # Now `other` appears at this level, and it is a single segment if one of the two is.
        if high[one] > level and other >= n:
            low[one], parent[one], branch_of[r] = level, other, other
        else:
            same_as[other] = branch_of[r] = one
    number, alive = np.empty(count, np.int32), 0
    for k in range(count):
        if same_as[k] == k:
            low[alive], high[alive], number[k] = low[k], high[k], alive
            parent[alive] = parent[k]
            alive += 1
    branch, into = np.empty(n, np.int32), np.empty(alive, np.int32)
    for s in range(n):
        branch[s] = number[_find(same_as, s)]
    for k in range(alive):
        into[k] = number[_find(same_as, int(parent[k]))] if parent[k] >= 0 else -1
    return Branches(branch, low[:alive].astype(np.int32), high[:alive].astype(np.int32), into)


@njit(cache=True, nogil=True)
def _floor(segments: Segments, branches: Branches) -> Ints:
    """(B,) the highest level at which each branch touches the frame."""
    _, level_of, start, stop, peak, row = segments
    branch, low, high, parent = branches
    floor = np.zeros(len(low), np.int32)
    for y in range(len(row) - 1):
        for s in range(row[y], row[y + 1]):
            if y == 0 or y == len(row) - 2:
                level = level_of[peak[s]]
            else:
                level = level_of[start[s]] if s == row[y] else np.uint8(0)
                level = max(level, level_of[stop[s] - 1]) if s == row[y + 1] - 1 else level
            k = branch[s]
            while level <= low[k]:
                k = parent[k]
            floor[k] = max(floor[k], level)
    for k in range(len(low)):
        if floor[k] > 0 and parent[k] >= 0:
            floor[parent[k]] = high[parent[k]]
    return floor


@njit(cache=True, nogil=True)
def _codes(levels: Levels, width: int) -> Levels:
    """(H, width): bit i is set if neighbour i is added before the pixel: higher, or as high and earlier in `RING`."""
    height = len(levels)
    padded = np.zeros((height + 2, width + 2), np.uint8)
    padded[1:-1, 1:-1] = levels[:, :width]
    codes = np.empty((height, width), np.uint8)
    for y in range(height):
        above, same, below, code = padded[y], padded[y + 1], padded[y + 2], codes[y]
        for x in range(width):
            own = same[x + 1]
            bits = np.uint8(above[x] >= own) | np.uint8(above[x + 1] >= own) << np.uint8(1)
            bits |= np.uint8(above[x + 2] >= own) << np.uint8(2) | np.uint8(same[x] >= own) << np.uint8(3)
            bits |= np.uint8(same[x + 2] > own) << np.uint8(4) | np.uint8(below[x] > own) << np.uint8(5)
            code[x] = bits | np.uint8(below[x + 1] > own) << np.uint8(6) | np.uint8(below[x + 2] > own) << np.uint8(7)
    return codes


@njit(cache=True, nogil=True)
def empty_nodes(count: int, height: int, width: int) -> Nodes:
    """(count, 10) nodes without pixels."""
    nodes = np.zeros((count, 10), np.int32)
    nodes[:, X1], nodes[:, Y1], nodes[:, FIRST] = width, height, height * width
    nodes[:, X2], nodes[:, Y2] = -1, -1
    return nodes


@njit(cache=True, nogil=True)
def grow(node: Ints, part: Ints) -> None:
    """Add the pixels of one node (10,) to another; meanwhile `HOLES` holds the Euler number."""
    for i in (X1, Y1, FIRST):
        node[i] = min(node[i], part[i])
    for i in (X2, Y2):
        node[i] = max(node[i], part[i])
    for i in (PIXELS, AREA, HOLES):
        node[i] += part[i]


@njit(cache=True, nogil=True)
def _add_runs(cells: Cells, base: Ints, segments: Segments, branches: Branches, floor: Ints, codes: Levels) -> None:
    """Add the pixels of each run to the cell of its branch and level, `base[branch] + level`."""
    x, level_of, start, stop, peak, row = segments
    x1, y1, x2, y2, first, pixels, gains, width = cells
    branch, low, _, parent = branches
    sums = np.zeros(width + 1, np.int64)
    for y in range(len(row) - 1):
        if len(codes):
            for i in range(width):
                sums[i + 1] = sums[i] + _PACKED[codes[y, i]]
        for s in range(row[y], row[y + 1]):
            for step in (-1, 1):  # from the peak to the left end, then from the next run to the right end
                run, end = (peak[s], start[s] - 1) if step < 0 else (peak[s] + 1, stop[s])
                k, bottom, offset = branch[s], 255, 0
                while run != end:
                    here = np.uintp(run)
                    level = int(level_of[here])
                    if level <= bottom:
                        while level <= low[k]:
                            k = parent[k]
                        bottom, offset = max(low[k], floor[k]), base[k]
                        if level <= bottom:
                            break
                    at, start_x, stop_x = np.uintp(offset + level), x[here], x[here + np.uintp(1)]
                    pixels[at] += stop_x - start_x
                    if step < 0:
                        x1[at] = min(x1[at], start_x)
                        first[at] = min(first[at], y * width + start_x)
                    else:
                        x2[at] = max(x2[at], stop_x - 1)
                    if run == peak[s]:
                        x2[at], y1[at], y2[at] = max(x2[at], stop_x - 1), min(y1[at], y), y
                    gains[at] += sums[stop_x] - sums[start_x]
                    run += step


@njit(cache=True, nogil=True)
def _nodes(cells: Cells, base: Ints, branches: Branches, floor: Ints, height: int) -> Nodes:
    """One node for each interval of levels over which a branch does not change."""
    _, low, high, parent = branches
    nodes, count = np.empty((len(cells.x1), 10), np.int32), 0
    totals = empty_nodes(len(low) + 1, height, cells.width)
    part = totals[len(low)]
    for k in range(len(low)):
        total, end, appeared = totals[k], max(low[k], floor[k]), 0
        for level in range(high[k], end - 1, -1):
            at = base[k] + level
            changes = level == end or cells.pixels[at] > 0
            if changes and appeared:
                nodes[count] = total
                nodes[count, LOW], nodes[count, HIGH], nodes[count, HOLES] = level, appeared, 1 - total[HOLES]
                count += 1
            if changes and level > end:
                part[X1], part[Y1], part[X2], part[Y2] = cells.x1[at], cells.y1[at], cells.x2[at], cells.y2[at]
                part[FIRST], part[PIXELS] = cells.first[at], cells.pixels[at]
                part[AREA], part[HOLES] = cells.gains[at] & 0xFFFFFFFF, cells.gains[at] >> 32
                grow(total, part)
                appeared = level
        if parent[k] >= 0:
            grow(totals[parent[k]], total)
    return nodes[:count].copy()


@njit(cache=True, nogil=True)
def _tree(levels: Levels, width: int, holes: bool, areas: bool, most: int) -> tuple[Nodes, bool]:
    height, segments = len(levels), segments_of(levels, width)
    if len(segments.start) > most:
        return np.empty((0, 10), np.int32), False
    reach = 0 if holes else 1
    branches = _branches(segments, *edges_of(levels, segments, reach))
    floor = _floor(segments, branches) if holes else np.zeros(len(branches.low), np.int32)
    base, count = np.empty(len(floor), np.int32), 0
    for k in range(len(floor)):
        bottom = max(branches.low[k], floor[k])
        base[k] = count - bottom - 1
        count += max(branches.high[k] - bottom, 0)
    x1, y1, x2, y2, first, pixels = np.empty((6, count), np.int32)
    x1[:], y1[:], first[:] = width, height, height * width
    x2[:], y2[:], pixels[:] = -1, -1, 0
    cells = Cells(x1, y1, x2, y2, first, pixels, np.zeros(count, np.int64), width)
    codes = _codes(levels, width) if areas else np.empty((0, 0), np.uint8)
    _add_runs(cells, base, segments, branches, floor, codes)
    return _nodes(cells, base, branches, floor, height), True


def nodes_of(levels: Levels, width: int) -> Nodes:
    """The 8-connected components of `padded` levels > v for all v: (K, 10), columns as above except AREA and HOLES."""
    return _tree(levels, width, False, False, levels.size)[0]


def nodes_if_smooth(levels: Levels, most: int, *, holes: bool = False, areas: bool = False) -> Nodes | None:
    """The 8-connected components of (H, W) levels > v for all v: (K, 10), columns as above.

    Args:
        levels: the image.
        most: maximum number of segments.
        holes: whether to return the 4-connected components that do not touch the frame instead.
        areas: whether to set the columns AREA and HOLES, which are otherwise undefined.

    Returns:
        The nodes; None if the image has more segments.
    """
    nodes, smooth = _tree(padded(levels), levels.shape[1], holes, areas, most)
    return nodes if smooth else None
