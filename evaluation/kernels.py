"""Loops over the pixels of an enlarged map, or over boxes, for which NumPy would need several passes.

They give the results of those passes to the last bit: sums of floats are reordered only where the result of a
comparison cannot depend on it. Importing this module imports numba, so it is imported where a row is computed.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Ints = NDArray[np.int64]

_BUCKETS = 4096


@njit(cache=True, nogil=True)
def interpolate(lines: Floats, before: Ints, behind: Ints, weight: Floats) -> Floats:
    """(h, W) -> (H, W): linear between the lines before and behind each of H; exact where both are equal."""
    width = lines.shape[1]
    out = np.empty((len(before), width), np.float32)
    for y in range(len(before)):
        a, b, w, to = lines[before[y]], lines[behind[y]], weight[y], out[y]
        for x in range(width):
            to[x] = a[x] + (b[x] - a[x]) * w
    return out


@njit(cache=True, nogil=True)
def levels_of(full: Floats, cuts: Floats) -> Bytes:
    """Number of cuts (at most 255) that each of (H, W) values exceeds, padded as by `row_segments.padded`."""
    height, width = full.shape
    out = np.empty((height, (width + 7) // 8 * 8), np.uint8)
    for y in range(height):
        row, to = full[y], out[y]
        to[:] = 0
        for cut in cuts:
            for x in range(width):
                to[x] += np.uint8(row[x] > cut)
        to[width:] = to[width - 1]
    return out


@njit(cache=True, nogil=True)
def boxes_around(rows: Floats, columns: Floats, cuts: Floats) -> Doubles:
    """(T, 4) inclusive: tight box above each cut, from the maxima of rows and columns; the whole image if empty."""
    out = np.empty((len(cuts), 4))
    for t in range(len(cuts)):
        cut = cuts[t]
        x1, y1, x2, y2 = 0, 0, len(columns) - 1, len(rows) - 1
        while x1 <= x2 and not columns[x1] > cut:
            x1 += 1
        if x1 > x2:
            x1 = 0
        else:
            while not columns[x2] > cut:
                x2 -= 1
            while not rows[y1] > cut:
                y1 += 1
            while not rows[y2] > cut:
                y2 -= 1
        out[t, 0], out[t, 1], out[t, 2], out[t, 3] = x1, y1, x2, y2
    return out


@njit(cache=True, nogil=True)
def _bucketed(flat: Floats, peak: np.float32) -> tuple[NDArray[np.uint16], Doubles]:
    """(n,) bucket of each value, negative ones in the first, and (4097,) sum of positive values from each on."""
    scale = np.float32(_BUCKETS - 1) / peak
    buckets, sums = np.empty(len(flat), np.uint16), np.zeros((4, _BUCKETS))
    for i in range(len(flat)):
        buckets[i] = np.uint16(np.int32(max(flat[i], np.float32(0)) * scale))
    for i in range(len(flat)):  # neighbours often share a bucket: four sums avoid waiting for the previous one
        sums[i & 3, buckets[i]] += np.float64(max(flat[i], np.float32(0)))
    above = np.zeros(_BUCKETS + 1)
    for b in range(_BUCKETS - 1, -1, -1):
        above[b] = above[b + 1] + (sums[0, b] + sums[1, b] + sums[2, b] + sums[3, b])
    return buckets, above


@njit(cache=True, nogil=True)
def _lowest(values: Floats, mass: float, target: float, unsure: float) -> np.float32:
    """The value down to which ascending values, summed from the top onto `mass`, reach the target; NaN if uncertain."""
    i = len(values)
    while i > 0 and mass <= target - unsure:
        value, before = values[i - 1], mass
        while i > 0 and values[i - 1] == value:
            i -= 1
            mass += np.float64(value)
        if mass >= target + unsure and before < target - unsure and value > 0:
            return value
    return np.float32(np.nan)


@njit(cache=True, nogil=True)
def lowest_of_shares(full: Floats, peak: np.float32, shares: Doubles) -> Floats:
    """(T,): the lowest of the highest values that together hold each share of the sum of positive values.

    The values are summed in buckets, and only buckets in which a share ends are sorted. The result is NaN where summing
    one value after the other might decide differently.
    """
    flat = full.ravel()
    buckets, above = _bucketed(flat, peak)
    found = np.empty(len(shares), np.float32)
    ends, kinds, kind_of = np.empty(len(shares), np.int64), 0, np.full(_BUCKETS, -1, np.int16)
    for t in range(len(shares)):
        ends[t] = np.searchsorted(-above, -shares[t] * above[0], side="right") - 1  # the last with enough above it
        if kind_of[ends[t]] < 0:
            kind_of[ends[t]] = kinds
            kinds += 1
    picked, count = np.empty(len(flat), np.int32), 0
    for i in range(len(flat)):
        picked[count] = i
        count += kind_of[buckets[i]] >= 0
    stops = np.zeros(kinds + 1, np.int64)
    for i in picked[:count]:
        stops[kind_of[buckets[i]] + 1] += 1
    stops = np.cumsum(stops)
    values, place = np.empty(count, np.float32), stops.copy()
    for i in picked[:count]:
        k = kind_of[buckets[i]]
        values[place[k]] = flat[i]
        place[k] += 1
    for k in range(kinds):
        values[stops[k] : stops[k + 1]].sort()
    unsure = 4 * len(flat) * 1.2e-16 * above[0]
    for t in range(len(shares)):
        k = kind_of[ends[t]]
        found[t] = _lowest(values[stops[k] : stops[k + 1]], float(above[ends[t] + 1]), shares[t] * above[0], unsure)
    return found


@njit(cache=True, nogil=True)
def above_inside(
    full: Floats, low: np.float32, span: np.float32, inside: NDArray[np.bool_], deltas: Floats
) -> tuple[Floats, Ints]:
    """The map scaled to 0..1, (H, W), and pixels above each delta, (D, 2): all, and those inside."""
    height, width = full.shape
    scaled, counts = np.empty((height, width), np.float32), np.zeros((len(deltas), 2), np.int64)
    for y in range(height):
        row, to, mask = full[y], scaled[y], inside[y]
        for x in range(width):
            to[x] = (row[x] - low) / span
        for d in range(len(deltas)):
            everywhere, within = np.int32(0), np.int32(0)
            for x in range(width):
                above = np.int32(to[x] > deltas[d])
                everywhere += above
                within += above & np.int32(mask[x])
            counts[d, 0] += everywhere
            counts[d, 1] += within
    return scaled, counts


@njit(cache=True, nogil=True)
def levels_by_kind(full: Floats, mask: Bytes, kinds: Bytes, cut: np.float32, peak: np.float32) -> NDArray[np.int32]:
    """(2, 4, 256) pixels by whether above the cut, kind of truth, and level: 255ths of the peak, or 0 if it is <= 0.

    Args:
        full: (H, W) values.
        mask: (H, W) truth.
        kinds: (256,) kind of each value of the mask, 0..3.
        cut: threshold of the foreground.
        peak: the largest value.
    """
    height, width = full.shape
    counts = np.zeros((4, 2048), np.int32)  # neighbours are often alike: four counts avoid waiting for the previous one
    codes = np.zeros(width, np.uint16)
    for y in range(height):
        row, truth = full[y], mask[y]
        for x in range(width):
            share = row[x] / peak if peak > 0 else np.float32(0)
            share = min(max(share, np.float32(0)), np.float32(1))
            codes[x] = np.uint16(np.int32(share * np.float32(255))) + np.uint16(1024) * np.uint16(row[x] > cut)
        for x in range(width):
            counts[x & 3, codes[x] + 256 * np.uint16(kinds[truth[x]])] += 1
    return (counts[0] + counts[1] + counts[2] + counts[3]).reshape(2, 4, 256)


@njit(cache=True, nogil=True)
def bins_by_kind(values: Doubles, kinds: Bytes, edges: Doubles, step: float) -> NDArray[np.int32]:
    """(3, K) pixels by kind, 0..2, and by the last edge not above the value, which a division estimates."""
    height, width = values.shape
    last = len(edges) - 1
    counts, bins = np.zeros((2, 3, last + 1), np.int32), np.empty(width, np.int32)
    for y in range(height):
        row, kind = values[y], kinds[y]
        for x in range(width):
            bins[x] = min(np.int32(row[x] / step), last)
        for x in range(width):
            b = bins[x]
            b -= edges[b] > row[x]
            b += b < last and edges[min(b + 1, last)] <= row[x]
            counts[x & 1, kind[x], b] += 1
    return counts[0] + counts[1]


@njit(cache=True, nogil=True)
def precision_terms(keys: NDArray[np.uint32]) -> Doubles:
    """Gained hits times precision per distinct value, descending, from ascending keys (bits of value, then hit)."""
    n = len(keys)
    terms = np.empty(n)
    count = hits = counted = 0
    for i in range(n - 1, -1, -1):
        hits += np.int64(keys[i] & np.uint32(1))
        terms[count] = (hits - counted) * (hits / (n - i))
        last = i == 0 or keys[i] >> np.uint32(1) != keys[max(i - 1, 0)] >> np.uint32(1)
        count += last
        counted = hits if last else counted
    return terms[:count]


@njit(cache=True, nogil=True)
def positive_strips(full: Floats, starts: Ints) -> Doubles:
    """(K, W) sums of positive values from each of the lines `starts` to the next, line after line."""
    height, width = full.shape
    out = np.zeros((len(starts), width))
    for k in range(len(starts)):
        to = out[k]
        for y in range(starts[k], starts[k + 1] if k + 1 < len(starts) else height):
            row = full[y]
            for x in range(width):
                to[x] += np.float64(max(row[x], np.float32(0)))
    return out
