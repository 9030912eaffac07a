"""All connected components of an image of levels, over all 255 thresholds, in one pass.

In an image of levels f in 0..255, the foreground at threshold v is f > v. As v decreases, 8-connected components of the
foreground appear, grow and merge. They are the nodes of a tree, and each node exists for an interval of thresholds
[low, high). As v increases, so do the 4-connected components of the background; those that do not touch the frame are
the holes of the foreground. Every question about the components at a threshold is answered by the nodes that exist
there.

The tree is flooded from one pixel: the next pixel is always the highest within reach, and a stack holds the unfinished
components (D. Nister, H. Stewenius, "Linear time maximally stable extremal regions", ECCV 2008; there for MSER).
A pixel is finished after all its higher neighbours, so its contribution to its component follows from which of its
eight neighbours are finished: area and Euler number by S. B. Gray, "Local properties of binary images in two
dimensions", IEEE Trans. Computers 1971, as sums over the four 2 x 2 squares that contain the pixel.

The area of a component is that of the polygon through the centres of its outermost pixels, with its holes filled; a
square with three pixels of the component contributes 1/2, one with four contributes 1. These sums leave out the area of
holes, so where it matters the polygon is followed. All areas are doubled, to be integers.

Importing this module imports numba.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from eigencam.evaluation.smooth_component_tree import (
    AREA,
    FIRST,
    GAINS,
    HIGH,
    HOLES,
    LOW,
    PIXELS,
    RING,
    X1,
    X2,
    Y1,
    Y2,
    Levels,
    Nodes,
    grow,
    nodes_if_smooth,
)

VERSIONS = {"component_tree": 1}
"""The version is raised when a change here alters results; see `eigencam.store.versions`."""

LEVELS = 255
"""Number of thresholds: v = 0 .. 254."""

SEGMENTS = 12
"""Mean number of segments per row above which an image counts as rough and is flooded."""


def outer(levels: Levels, segments: int = SEGMENTS) -> Nodes:
    """The 8-connected components of (H, W) levels > v for v = 0 .. 254: (K, 10), as in `smooth_component_tree`.

    Args:
        levels: the image.
        segments: mean number per row above which the image is flooded; this gives the same nodes in another order.
    """
    nodes = nodes_if_smooth(levels, segments * len(levels), areas=True)
    return _flooded(levels) if nodes is None else nodes


def holes(levels: Levels, segments: int = SEGMENTS) -> Nodes:
    """The 4-connected components of (H, W) levels <= v that do not touch the frame: (K, 10), LOW to PIXELS are set."""
    above = 255 - levels
    nodes = nodes_if_smooth(above, segments * len(levels), holes=True)
    nodes = _flooded(above, four=True) if nodes is None else nodes
    low, high = 255 - nodes[:, HIGH], 255 - nodes[:, LOW]
    nodes[:, LOW], nodes[:, HIGH] = low, high
    return nodes


def _flooded(levels: Levels, *, four: bool = False) -> Nodes:
    stride = levels.shape[1] + 2
    return _flood(_padded(levels), stride, np.array([dy * stride + dx for dy, dx in RING if not (four and dy and dx)]))


def _padded(levels: Levels) -> Levels:
    padded = np.zeros((levels.shape[0] + 2, levels.shape[1] + 2), np.uint8)
    padded[1:-1, 1:-1] = levels
    return padded.ravel()


@njit(cache=True, nogil=True)
def _flood(levels: Levels, stride: int, reach: NDArray[np.int64]) -> Nodes:
    """The tree of (n,) padded levels; 8-connected with all nodes, or 4-connected with only those off the frame."""
    n, near = len(levels), len(reach)
    height, width = n // stride - 2, stride - 2
    eight = near == 8
    state = np.zeros(n, np.uint8)  # 0 not seen, 1 seen, 2 finished; the padding counts as seen
    state[:stride], state[-stride:], state[::stride], state[stride - 1 :: stride] = 1, 1, 1, 1
    behind = np.empty(n, np.int32)  # the pixels seen but not finished: a linked list per level
    head = np.full(256, -1, np.int32)
    done = np.zeros(n, np.uint8)  # number of neighbours visited so far
    nodes = np.empty((height * width, 10), np.int32)
    count = 0
    stack = np.empty((257, 10), np.int32)  # unfinished components; HIGH is their level
    top = 0
    magic = (1 << 40) // stride + 1  # p // stride is p * magic >> 40 for p * stride < 2^40

    pixel = stride + 1
    state[pixel] = 1
    level = int(levels[pixel])
    _open(stack[0], level, height, width)
    while True:
        higher = _higher(levels, pixel, reach, state, done, behind, head)
        if higher >= 0:
            behind[pixel] = head[level]
            head[level] = pixel
            pixel, level = higher, int(levels[higher])
            top += 1
            _open(stack[top], level, height, width)
            continue

        state[pixel] = 2
        row = pixel * magic >> 40
        _add(stack[top], pixel - row * stride - 1, row - 1, width)
        if eight:
            _sum(stack[top], state, pixel, reach)

        following = level
        while following >= 0 and head[following] < 0:
            following -= 1
        if following < level:
            count = _close(stack, top, following, nodes, count, eight, height, width)
            while top > 0 and stack[top, HIGH] < 0:
                top -= 1
        if following < 0:
            break
        pixel = int(head[following])
        head[following] = behind[pixel]
        level = following
    return nodes[:count].copy()


@njit(cache=True, nogil=True)
def _higher(
    levels: Levels,
    pixel: int,
    reach: NDArray[np.int64],
    state: NDArray[np.uint8],
    done: NDArray[np.uint8],
    behind: NDArray[np.int32],
    head: NDArray[np.int32],
) -> int:
    """The next unseen neighbour above `pixel`, or -1; the unseen ones before it go into the list of their level."""
    for i in range(done[pixel], len(reach)):
        other = pixel + reach[i]
        if state[other] == 0:
            state[other] = 1
            level = int(levels[other])
            if level > levels[pixel]:
                done[pixel] = i + 1
                return other
            behind[other] = head[level]
            head[level] = other
    return -1


@njit(cache=True, nogil=True)
def _open(component: Nodes, level: int, height: int, width: int) -> None:
    """Initialise an empty component."""
    component[:] = 0
    component[HIGH] = level
    component[X1], component[Y1], component[X2], component[Y2] = width, height, -1, -1
    component[FIRST] = height * width


@njit(cache=True, nogil=True)
def _add(component: Nodes, x: int, y: int, width: int) -> None:
    """Add one pixel."""
    component[X1], component[X2] = min(component[X1], x), max(component[X2], x)
    component[Y1], component[Y2] = min(component[Y1], y), max(component[Y2], y)
    component[PIXELS] += 1
    component[FIRST] = min(component[FIRST], y * width + x)


@njit(cache=True, nogil=True)
def _sum(component: Nodes, state: NDArray[np.uint8], pixel: int, reach: NDArray[np.int64]) -> None:
    """What the pixel adds to area and Euler number."""
    code = 0
    for i in range(8):
        code |= (state[pixel + reach[i]] >> 1) << i
    component[AREA] += GAINS[code, 0]
    component[HOLES] += GAINS[code, 1]


@njit(cache=True, nogil=True)
def _close(stack: Nodes, top: int, level: int, nodes: Nodes, count: int, eight: bool, height: int, width: int) -> int:
    """Store all components above `level` in `nodes`, and merge them into those below. Merged ones get HIGH = -1."""
    while stack[top, HIGH] > level:
        component = stack[top]
        below = max(level, 0)
        if top > 0:
            below = max(below, int(stack[top - 1, HIGH]))
        inside = component[X1] > 0 and component[Y1] > 0 and component[X2] < width - 1 and component[Y2] < height - 1
        if (eight or inside) and component[HIGH] > below:
            nodes[count] = component
            nodes[count, LOW] = below
            nodes[count, HOLES] = 1 - component[HOLES]
            count += 1
        if top == 0 or stack[top - 1, HIGH] < level:
            component[HIGH] = level
            break
        parent = stack[top - 1]
        grow(parent, component)
        component[HIGH] = -1
        top -= 1
    return count


@njit(cache=True, nogil=True)
def overlaps_of_all(nodes: Nodes, grow: int, size: tuple[int, int], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """The best overlap of any node's box with any of the boxes, at each threshold.

    Args:
        nodes: (K, 10).
        grow: extension of a node's box: 0 none; 1 one pixel to the right and below; 2 one pixel on every side
            (a hole, with its border) and then as 1. The right and lower ends are clipped to the image's last pixel.
        size: (height, width) of the image.
        boxes: (B, 4) half-open.

    Returns:
        (255,) in [0, 1]; -1 at thresholds without a node.
    """
    best = np.full(LEVELS, -1.0)
    for k in range(len(nodes)):
        value = overlap(nodes[k], grow, size, boxes)
        for v in range(nodes[k, LOW], nodes[k, HIGH]):
            if value > best[v]:
                best[v] = value
    return best


@njit(cache=True, nogil=True)
def overlap(node: NDArray[np.int32], grow: int, size: tuple[int, int], boxes: NDArray[np.float64]) -> float:
    """The best overlap of one node's box with any of the boxes; see `overlaps_of_all`."""
    around, beyond = grow // 2, (grow + 1) // 2
    x1, y1 = node[X1] - around, node[Y1] - around
    x2, y2 = min(node[X2] + around + beyond, size[1] - 1) + 1, min(node[Y2] + around + beyond, size[0] - 1) + 1
    best = 0.0
    for b in range(len(boxes)):
        width, height = min(boxes[b, 2], x2) - max(boxes[b, 0], x1), min(boxes[b, 3], y2) - max(boxes[b, 1], y1)
        if width > 0 and height > 0:
            common = width * height
            own = float((x2 - x1) * (y2 - y1))
            value = common / (own + (boxes[b, 2] - boxes[b, 0]) * (boxes[b, 3] - boxes[b, 1]) - common)
            best = max(best, value)
    return best


@njit(cache=True, nogil=True)
def overlaps_of_chosen(
    nodes: Nodes, chosen: NDArray[np.int64], grow: int, size: tuple[int, int], boxes: NDArray[np.float64]
) -> NDArray[np.float64]:
    """(255,): the best overlap of the node chosen at each threshold; -1 if there is none (chosen: -1)."""
    best = np.full(LEVELS, -1.0)
    for v in range(LEVELS):
        if chosen[v] >= 0:
            repeated = v > 0 and chosen[v] == chosen[v - 1]
            best[v] = best[v - 1] if repeated else overlap(nodes[chosen[v]], grow, size, boxes)
    return best


@njit(cache=True, nogil=True)
def largest_by_pixels(nodes: Nodes) -> NDArray[np.int64]:
    """(255,): at each threshold the node with most pixels, among ties the first in raster order; -1 without nodes."""
    chosen = np.full(LEVELS, -1)
    for k in range(len(nodes)):
        for v in range(nodes[k, LOW], nodes[k, HIGH]):
            c = chosen[v]
            if c < 0 or (nodes[k, PIXELS], -nodes[k, FIRST]) > (nodes[c, PIXELS], -nodes[c, FIRST]):
                chosen[v] = k
    return chosen


def largest_by_area(nodes: Nodes, levels: Levels) -> NDArray[np.int64]:
    """(255,): at each threshold the outer node of largest area, holes filled; -1 without nodes.

    Among ties it is the one whose first pixel is the last in raster order: OpenCV lists the contours of the outermost
    components from the last to the first, and the first of the largest is taken. A component inside another's hole is
    smaller than that other.

    Args:
        nodes: (K, 10) of `outer(levels)`.
        levels: (H, W) uint8.
    """
    return _largest(nodes, _padded(levels), levels.shape[1])


@njit(cache=True, nogil=True)
def _largest(nodes: Nodes, padded: Levels, width: int) -> NDArray[np.int64]:
    """Bounds decide most thresholds; only if several nodes may be the largest are their exact areas computed."""
    most, bound = _bounds(nodes)
    rivals = np.zeros(LEVELS, np.int64)
    chosen = np.full(LEVELS, -1)
    for k in range(len(nodes)):
        for v in range(nodes[k, LOW], nodes[k, HIGH]):
            if most[k] >= bound[v]:
                rivals[v] += 1
                chosen[v] = k
    exact = np.full(LEVELS, -1)
    for k in range(len(nodes) - 1, -1, -1):  # here a component follows the one that it grows into: large ones first
        area = -1
        for v in range(nodes[k, LOW], nodes[k, HIGH]):
            if rivals[v] > 1 and most[k] >= max(bound[v], exact[v]):
                if area < 0:
                    area = _filled(padded, width, nodes[k, FIRST], v) if nodes[k, HOLES] > 0 else nodes[k, AREA]
                if area > exact[v] or (area == exact[v] and nodes[k, FIRST] > nodes[chosen[v], FIRST]):
                    exact[v], chosen[v] = area, k
    return chosen


@njit(cache=True, nogil=True)
def _bounds(nodes: Nodes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(K,) upper bounds of the filled area of each node, and (255,) lower bounds of the largest one's.

    The box bounds the area from above; from below, a hole adds at least 4 half units.
    """
    most, bound = np.empty(len(nodes), np.int64), np.full(LEVELS, -1)
    for k in range(len(nodes)):
        most[k] = nodes[k, AREA]
        if nodes[k, HOLES] > 0:
            most[k] = 2 * (nodes[k, X2] - nodes[k, X1]) * (nodes[k, Y2] - nodes[k, Y1])
        least = nodes[k, AREA] + 4 * nodes[k, HOLES]
        for v in range(nodes[k, LOW], nodes[k, HIGH]):
            bound[v] = max(bound[v], least)
    return most, bound


@njit(cache=True, nogil=True)
def _filled(padded: Levels, width: int, first: int, v: int) -> int:
    """Doubled area of the polygon around the component of `first`, its first pixel in raster order, at threshold v.

    Border following (S. Suzuki, K. Abe, "Topological structural analysis of digitized binary images by border
    following", CVGIP 1985): from each pixel to the next of the component, counterclockwise from the previous one.
    """
    stride = width + 2
    dx = (1, 1, 0, -1, -1, -1, 0, 1)
    dy = (0, -1, -1, -1, 0, 1, 1, 1)
    y, x = first // width, first % width
    place = (y + 1) * stride + x + 1
    back = 4  # direction of the previous pixel; to the left of the first one is background
    while True:
        back = (back - 1) & 7
        if padded[place + dy[back] * stride + dx[back]] > v:
            break
        if back == 4:
            return 0
    start, last = place, place + dy[back] * stride + dx[back]
    area = 0
    while True:
        ahead = (back + 1) & 7
        while padded[place + dy[ahead] * stride + dx[ahead]] <= v:
            ahead = (ahead + 1) & 7
        following = place + dy[ahead] * stride + dx[ahead]
        area += x * dy[ahead] - y * dx[ahead]
        if following == start and place == last:
            return abs(area)
        place, x, y, back = following, x + dx[ahead], y + dy[ahead], (ahead + 4) & 7
