"""Maps of a batch: one forward pass, every method, ready for the evaluators."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eigencam.evaluation.states import DEGENERATE
from eigencam.methods.base import Method, gives_boxes, is_class_specific, needs_gradient, tapped
from eigencam.networks.network import Network
from eigencam.networks.preprocess import Region
from eigencam.passes.forward import Forward, Picked
from eigencam.passes.hooks import Hooks
from eigencam.passes.prediction_states import ANSWERS, answer_codes
from eigencam.running.faults import NetworkChangedError, SharedChangedError, is_stop
from eigencam.transfer import to_device, to_host


@dataclass(frozen=True, slots=True)
class Arrived:
    """What the host receives from a forward pass; see `Maps`."""

    maps: dict[str, NDArray[np.float32]]
    boxes: dict[str, list[NDArray[np.float64]]]
    targets: list[int]
    top5: list[list[int]]
    answers: list[str]


@dataclass(slots=True)
class Maps:
    """The results of one forward pass. The device may still be computing: the first access to a result waits for it.

    Attributes:
        forward: the pass that the maps were read from, of length M.
        asked: `targets` on the device: one tensor, so that methods share a backward pass.
        seconds: with `clock`: time of the forward pass (under "") and of each method alone.
    """

    forward: Forward
    asked: Tensor
    seconds: dict[str, float]
    _arrive: Callable[[], Arrived]
    _arrived: Arrived | None = None

    def arrived(self) -> Arrived:
        """Wait for the device's results."""
        if self._arrived is None:
            self._arrived = self._arrive()
        return self._arrived

    @property
    def maps(self) -> dict[str, NDArray[np.float32]]:
        """(M, h, w) float32 raw score maps on the CPU, by method; M = N unless `compute_maps(rows=...)` is used."""
        return self.arrived().maps

    @property
    def boxes(self) -> dict[str, list[NDArray[np.float64]]]:
        """For each method that returns boxes, M arrays (K, 5) float64 `x1 y1 x2 y2 score`, best first."""
        return self.arrived().boxes

    @property
    def targets(self) -> list[int]:
        """(M,) the classes that class-specific maps are for."""
        return self.arrived().targets

    @property
    def top5(self) -> list[list[int]]:
        """(M,) the network's top five classes; empty without a classifier, or without finite logits for the image."""
        return self.arrived().top5

    @property
    def answers(self) -> list[str]:
        """(M,) states of the logits; see `answer_states`."""
        return self.arrived().answers


def compute_maps(
    network: Network,
    methods: Mapping[str, Method],
    images: Tensor,
    *,
    labels: Iterable[int] | None = None,
    rows: Sequence[int] | None = None,
    index: Iterable[int] | None = None,
    ids: Iterable[str] = (),
    original: Callable[[int], NDArray[np.uint8]] | None = None,
    regions: Iterable[Region] = (),
    population: tuple[int, Callable[[int], NDArray[np.uint8]]] | None = None,
    chunk: int | None = None,
    progress: Callable[[str, int], None] = lambda _method, _count: None,
    clock: bool = False,
    failed: Callable[[str, BaseException], None] | None = None,
) -> Maps:
    """Run all methods on one batch, with one copy to the device and one back; return without waiting for the results.

    Args:
        network: the network.
        methods: the methods by name.
        images: (N, 3, H, W) uint8 RGB at the network's input size, on any device.
        labels: N classes that the maps are for; None: the predicted classes (0 without a classifier). An image without
            valid logits has no predicted class: maps that depend on one are NaN, and boxes are empty.
        rows: M positions in the batch, for maps for several classes of an image; `labels` then has M entries. All
            come from one forward pass; a class-agnostic method's map is computed once per image.
        index: N positions in the dataset, which seed random numbers; None: 0..N-1.
        ids: N names in the dataset, for methods that look up a map by name.
        original: decodes the n-th image as stored in the dataset, for methods that start from files.
        regions: N parts of the original images that the network sees.
        population: the dataset's size and its images as the network sees them, for methods that draw references.
        chunk: number of inputs per pass in methods that need passes of their own; None: as the device suggests.
        progress: called with the method and the number of inputs after each such pass.
        clock: whether to time every method alone; no backward pass is then shared.
        failed: called with a method that raised and its error; its maps are left out. None: the error is raised.

    Raises:
        SharedChangedError: a method modified in place what all methods share.
        NetworkChangedError: a method changed the network's weights or buffers, or left hooks on it, which are removed.
        ValueError: a class that the network does not have; or a method that does not return one map for each image, or
            the boxes of each image if it declares boxes.
    """
    start = _now(network) if clock else 0.0
    positions = torch.arange(len(images)) if index is None else torch.tensor(list(index), dtype=torch.long)
    chosen = None if rows is None or list(rows) == list(range(len(images))) else list(rows)
    asked = None if labels is None else list(labels)
    rows_here, nth_here = Picked.on_host(chosen or [])
    on_device, seeds, classes_there, rows_there, nth = to_device(
        network.device, images, positions, torch.tensor(asked or [], dtype=torch.long), rows_here, nth_here
    )
    forward = network.forward(
        on_device,
        layers=[layer for m in methods.values() for layer in tapped(m)],
        gradients=any(needs_gradient(m) for m in methods.values()),
        index=positions,
        chunk=chunk,
    )
    seconds = {"": _now(network) - start} if clock else {}
    forward.ids, forward.original, forward.regions, forward.seeds = tuple(ids), original, tuple(regions), seeds
    forward.population = population
    whole, classes = forward, forward.logits.shape[1]
    if chosen is not None:
        forward = forward.pick(rows_here, Picked(rows_there, nth, Picked.count(chosen)))
    if asked and classes and not 0 <= min(asked) <= max(asked) < classes:
        wrong = next(label for label in asked if not 0 <= label < classes)
        raise ValueError(f"a map for class {wrong} was requested of {network.name}; it has 0 to {classes - 1}")
    top5 = forward.logits.topk(min(5, classes)).indices
    predicted = top5[:, 0] if classes else top5.new_zeros(len(forward))
    targets = predicted if asked is None else classes_there
    results = _results(network, methods, forward, whole, targets, progress, failed, seconds if clock else None)
    repeated = {name for name in results if forward is not whole and not is_class_specific(methods[name])}
    losing = {name for name in results if asked is None and is_class_specific(methods[name])}
    arrive = _sent(results, targets, top5, forward.logits, chosen or [], repeated, losing)
    whole.forget_shared()
    forward.forget_shared()
    return Maps(forward, targets, seconds, arrive)


def _results(
    network: Network,
    methods: Mapping[str, Method],
    forward: Forward,
    whole: Forward,
    targets: Tensor,
    progress: Callable[[str, int], None],
    failed: Callable[[str, BaseException], None] | None,
    seconds: dict[str, float] | None,
) -> dict[str, Tensor | list[NDArray[np.float64]]]:
    """What each method returns: from the pass of every row or, for class-agnostic methods, from that of every image.

    Args:
        network: the network.
        methods: the methods by name.
        forward: the pass of M rows.
        whole: the pass of N images.
        targets: (M,) the requested classes.
        progress: see `compute_maps`; also for `failed`.
        failed: called with a method that raises.
        seconds: receives the time of every method; None: nothing is timed.
    """
    results: dict[str, Tensor | list[NDArray[np.float64]]] = {}
    hooks, before = Hooks(network.module), network.versions()
    for name, method in methods.items():
        source = forward if is_class_specific(method) else whole
        source.progress = partial(progress, name)
        start = 0.0
        if seconds is not None:
            source.forget_gradients()
            start = _now(network)
        asked = targets if source is forward else targets.new_zeros(len(source))
        try:
            result = _called(name, method, source, asked, failed)
        finally:  # an error in the middle of a pass may leave hooks, too
            left = hooks.restore()
        if network.versions() != before:
            raise NetworkChangedError(name)
        if result is None:
            continue
        if left:
            raise NetworkChangedError(name, "hooks")
        if seconds is not None:
            seconds[name] = _now(network) - start
        results[name] = result
    return results


def _sent(
    results: Mapping[str, Tensor | list[NDArray[np.float64]]],
    targets: Tensor,
    top5: Tensor,
    logits: Tensor,
    rows: Sequence[int],
    repeated: Collection[str],
    losing: Collection[str],
) -> Callable[[], Arrived]:
    """Start the copies of everything the host needs; return the function that waits for them.

    Args:
        results: maps or boxes by method.
        targets: (M,).
        top5: (M, 5).
        logits: (M, K).
        rows: M positions in the batch, for the methods in `repeated`, which have one result per image.
        repeated: see `rows`.
        losing: methods without a map for images without valid logits.
    """
    on_device = {name: result.detach().float() for name, result in results.items() if isinstance(result, Tensor)}
    wait = to_host(targets, top5, answer_codes(logits), *on_device.values())

    def arrive() -> Arrived:
        of_targets, first, codes, *arrived = wait()
        maps = {name: m.numpy() for name, m in zip(on_device, arrived, strict=True)}
        boxes = {name: result for name, result in results.items() if not isinstance(result, Tensor)}
        for name in repeated:
            if name in maps:
                maps[name] = maps[name][list(rows)]
            else:
                boxes[name] = [boxes[name][n] for n in rows]
        answers = [ANSWERS[code] for code in codes.tolist()]
        lost = [n for n, state in enumerate(answers) if state in DEGENERATE]
        _lose(losing, maps, boxes, lost)
        shown = [[] if n in lost else top for n, top in enumerate(first.tolist())]
        return Arrived(maps, boxes, of_targets.tolist(), shown, answers)

    return arrive


def _lose(
    names: Iterable[str],
    maps: dict[str, NDArray[np.float32]],
    boxes: dict[str, list[NDArray[np.float64]]],
    lost: Sequence[int],
) -> None:
    """Set these methods' maps to NaN, and remove their boxes, at the positions `lost`."""
    for name in names if lost else ():
        if name in boxes:
            boxes[name] = [found[:0] if n in lost else found for n, found in enumerate(boxes[name])]
        elif name in maps:  # absent if the method has failed
            maps[name] = maps[name].copy()  # it may be the very tensor that the method returned
            maps[name][lost] = np.nan


def _called(
    name: str, method: Method, forward: Forward, targets: Tensor, failed: Callable[[str, BaseException], None] | None
) -> Tensor | list[NDArray[np.float64]] | None:
    """What a method returns, checked; None if it raised and `failed` was called."""
    try:
        return _checked(name, method, forward, targets)
    except SharedChangedError:
        raise
    except (Exception, SystemExit) as error:  # a method may raise anything
        if failed is None or is_stop(error):
            raise
        failed(name, error)
        return None


def _checked(name: str, method: Method, forward: Forward, targets: Tensor) -> Tensor | list[NDArray[np.float64]]:
    """What a method returns: maps (N, h, w), or N arrays of boxes (K, 5)."""
    before = forward.versions()
    try:
        with torch.no_grad():
            result = method(forward, targets)
    finally:  # whether it returned or raised
        if forward.versions()[: len(before)] != before:
            raise SharedChangedError(name)
    if gives_boxes(method):
        found = [np.asarray(boxes, np.float64) for boxes in result]
        if shapes := [boxes.shape for boxes in found if boxes.ndim != 2 or boxes.shape[1] != 5]:
            raise ValueError(f"method {name} returned boxes of shape {shapes[0]}; needed: (K, 5) for each image")
        if not all(np.isfinite(boxes[:, :4]).all() for boxes in found):
            raise ValueError(f"method {name} returned a box with a corner that is no finite number")
        return found
    is_dense = isinstance(result, Tensor) and not result.is_complex() and result.layout is torch.strided
    if isinstance(result, Tensor) and is_dense and result.ndim == 3 and len(result) == len(forward) and result.numel():
        return result
    form = str(tuple(result.shape)) if isinstance(result, Tensor) else type(result).__name__
    form += " of complex numbers" if isinstance(result, Tensor) and result.is_complex() else ""
    form += f", {result.layout}" if isinstance(result, Tensor) and result.layout is not torch.strided else ""
    raise ValueError(f"method {name} returned {form}; needed: a tensor ({len(forward)}, h, w), one map per image")


def _now(network: Network) -> float:
    """Current time in seconds, after the device has finished all work."""
    if network.device.type == "cuda":
        torch.cuda.synchronize(network.device)
    return time.perf_counter()
