"""Methods that return boxes: on images with known boxes, and compared with plain loops."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from numpy.typing import NDArray
from torch import nn

from eigencam.datasets.boxes import iou
from eigencam.methods.edge_windows import Contours, EdgeWindows, edges
from eigencam.methods.felzenszwalb import SPACES, boxes_of, segments
from eigencam.methods.selective_search import SelectiveSearch, _directions, binned_texture, describe, group
from eigencam.methods.self_taught import SelfTaught, Tree, crops, to_original
from eigencam.methods.windows import CenterWindows, RandomWindows, SlidingWindows, sliding
from eigencam.passes.forward import Forward, forward_pass
from eigencam.running.run import run

RGB = NDArray[np.uint8]


def two_squares() -> RGB:
    """90 x 120: a red and a green square on grey."""
    original = np.full((90, 120, 3), 128, np.uint8)
    original[20:50, 15:45], original[40:80, 70:110] = (220, 30, 30), (30, 200, 40)
    return original


SQUARES = np.array([[15.0, 20, 44, 49], [70, 40, 109, 79]])


class Red(nn.Module):
    """Class 0 responds to red, class 1 to green; the layer's output is the image."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 40 * self.layer(x).clamp(min=0).mean((2, 3))[:, :2]


def seen(originals: list[RGB], region: bool = True) -> Forward:
    """A pass of whole images of one size; 0 is grey."""
    images = torch.from_numpy(np.stack(originals)).permute(0, 3, 1, 2).float() / 128 - 1
    forward = forward_pass(Red(), images, "layer")
    forward.black, forward.white = torch.full((3, 1, 1), -1.0), torch.full((3, 1, 1), 255 / 128 - 1)
    forward.original = originals.__getitem__
    height, width = originals[0].shape[:2]
    forward.regions = ((0.0, 0.0, float(width), float(height)),) * len(originals) if region else ()
    return forward


ALL = [
    SlidingWindows(), RandomWindows(count=200), CenterWindows(), SelectiveSearch(), EdgeWindows(), SelfTaught(),
    SelfTaught("target"),
]  # fmt: skip


@pytest.mark.parametrize("method", ALL, ids=lambda m: type(m).__name__)
def test_boxes_lie_in_the_image_best_first_and_do_not_depend_on_the_batch(method: SelectiveSearch) -> None:
    rng = np.random.default_rng(0)
    originals = [two_squares(), two_squares()[:, ::-1].copy(), rng.integers(0, 256, (90, 120, 3)).astype(np.uint8)]
    forward = seen(originals)
    found = method(forward, torch.zeros(3, dtype=torch.long))
    for n, boxes in enumerate(found):
        assert boxes.shape[1] == 5
        assert len(boxes) > 0
        assert (np.diff(boxes[:, 4]) <= 0).all()
        assert (boxes[:, :2] >= -1e-9).all()
        assert (boxes[:, 2:4] <= [119 + 1e-9, 89 + 1e-9]).all()
        assert (boxes[:, 2:4] >= boxes[:, :2]).all()
        alone = seen([originals[n]])
        alone.index = torch.tensor([n])
        np.testing.assert_allclose(method(alone, torch.zeros(1, dtype=torch.long))[0], boxes, atol=1e-5)


def test_images_of_no_dataset_are_refused() -> None:
    forward = forward_pass(Red(), torch.zeros(1, 3, 8, 8), "layer")
    for method in ALL[:5]:
        with pytest.raises(ValueError, match="original"):
            method(forward, torch.zeros(1, dtype=torch.long))


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 300), (300, 1), (20, 20)])
def test_images_of_any_size(height: int, width: int) -> None:
    forward = seen([np.full((height, width, 3), 77, np.uint8)])
    for method in ALL:
        (boxes,) = method(forward, torch.zeros(1, dtype=torch.long))
        assert (boxes[:, 2:4] <= [width - 1, height - 1]).all()


def test_sliding_windows_step_as_their_overlap_says() -> None:
    boxes = sliding((200, 300), 0.65, 1000, 3)
    assert len(np.unique(boxes, axis=0)) == len(boxes)
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    assert sides.prod(axis=1).min() > 1000 * 0.9
    assert (sides.max(axis=1) / sides.min(axis=1)).max() < 3.2
    # Neighbours of one size overlap by about alpha, and every box in the range is well covered by a window.
    same = boxes[(sides == sides[0]).all(axis=1)]
    assert 0.6 < iou(same[:1], same[1:2])[0, 0] < 0.75
    rng = np.random.default_rng(0)
    for _ in range(30):
        w, h = rng.uniform(50, 120, 2)
        x, y = rng.uniform(0, 300 - w), rng.uniform(0, 200 - h)
        assert iou(np.array([[x, y, x + w - 1, y + h - 1]]), boxes).max() > 0.6
    first = SlidingWindows()(seen([two_squares()]), torch.zeros(1))[0][:2]
    assert first[0, 2:4].prod() >= first[1, 2:4].prod() * 0.5


def test_random_windows_are_uniform_and_belong_to_the_image() -> None:
    (boxes,) = RandomWindows(5000)(seen([np.zeros((400, 600, 3), np.uint8)]), torch.zeros(1))
    whole = boxes[(boxes[:, :2] > 0).all(axis=1) & (boxes[:, 2] < 599) & (boxes[:, 3] < 399)]
    center = (whole[:, 0] + whole[:, 2]) / 2
    assert abs(center.mean() - 300) < 10
    (other,) = RandomWindows(5000, seed=1)(seen([np.zeros((400, 600, 3), np.uint8)]), torch.zeros(1))
    assert (boxes[:, :4] != other[:, :4]).any()


def test_center_windows_start_with_the_whole_image() -> None:
    (boxes,) = CenterWindows(3, 0.5)(seen([np.zeros((80, 160, 3), np.uint8)]), torch.zeros(1))
    assert boxes[:, :4].tolist() == [[0, 0, 159, 79], [40, 20, 119, 59], [60, 30, 99, 49]]


def test_segments_and_their_boxes() -> None:
    labels = segments(SPACES["hsv"](two_squares() / 255.0), 50, sigma=0.2)
    assert labels.max() == 2
    for box in SQUARES:
        assert iou(boxes_of(labels).astype(float), box[None]).max() > 0.95
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 6, (9, 11))
    for k, box in enumerate(boxes_of(labels)):
        y, x = np.nonzero(labels == k)
        assert box.tolist() == [x.min(), y.min(), x.max(), y.max()]


def plain_grouping(image: NDArray[np.float64], labels: NDArray[np.int64], colour: bool) -> list[list[int]]:
    """The paper's algorithm on masks: features are recomputed for every region, all pairs are searched at each step."""
    directions = np.stack([*_directions(image)], axis=-1)
    masks = [labels == k for k in range(labels.max() + 1)]

    def histogram(values: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
        columns = values.reshape(len(values), -1).T
        counts = np.concatenate([np.histogram(np.clip(c, 0, 1), bins, (0, 1))[0] for c in columns])
        return counts / counts.sum()

    def box(mask: NDArray[np.bool_]) -> list[int]:
        y, x = np.nonzero(mask)
        return [int(x.min()), int(y.min()), int(x.max()), int(y.max())]

    def touch(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> bool:
        return bool((a[1:] & b[:-1] | a[:-1] & b[1:]).any() or (a[:, 1:] & b[:, :-1] | a[:, :-1] & b[:, 1:]).any())

    def alike(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
        both = a.sum() + b.sum()
        x1, y1, x2, y2 = box(a | b)
        value = np.minimum(histogram(directions[a], 10), histogram(directions[b], 10)).sum()
        if colour:
            value += np.minimum(histogram(image[a], 25), histogram(image[b], 25)).sum()
        return float(value + 1 - both / labels.size + 1 - ((x2 - x1 + 1) * (y2 - y1 + 1) - both) / labels.size)

    alive, found = list(range(len(masks))), [box(mask) for mask in masks]
    while len(alive) > 1:
        pairs = [
            (alike(masks[i], masks[j]), i, j) for i, j in itertools.combinations(alive, 2) if touch(masks[i], masks[j])
        ]
        _, i, j = max(pairs, key=lambda pair: pair[0])
        masks.append(masks[i] | masks[j])
        found.append(box(masks[-1]))
        alive = [k for k in alive if k not in (i, j)] + [len(masks) - 1]
    return found


@pytest.mark.full
@pytest.mark.parametrize("colour", [True, False])
def test_grouping_in_plain_loops(colour: bool) -> None:
    rng = np.random.default_rng(1)
    image = np.kron(rng.random((5, 6, 3)), np.ones((8, 8, 1))) * 0.9 + 0.1 * rng.random((40, 48, 3))
    labels = segments(image, 30)
    assert 8 < labels.max() < 60
    found = group(*describe(image, binned_texture(image), labels), colour, labels.size)
    assert found.tolist() == plain_grouping(image, labels, colour)


def test_selective_search_finds_the_squares() -> None:
    (boxes,) = SelectiveSearch()(seen([two_squares()]), torch.zeros(1))
    assert (iou(boxes[:, :4], SQUARES).max(axis=0) > 0.9).all()
    assert len(np.unique(boxes[:, :4], axis=0)) == len(boxes)
    assert (boxes[:, 2:4] - boxes[:, :2] >= 19).all()


def test_selective_search_of_a_reduced_image() -> None:
    image = np.kron(two_squares(), np.ones((3, 3, 1), np.uint8))
    (boxes,) = SelectiveSearch(side=120)(seen([image]), torch.zeros(1))
    assert (iou(boxes[:, :4], SQUARES * 3 + [0, 0, 2, 2]).max(axis=0) > 0.9).all()
    (whole,) = SelectiveSearch(side=360)(seen([image]), torch.zeros(1))
    (as_it_is,) = SelectiveSearch()(seen([image]), torch.zeros(1))
    assert whole.tolist() == as_it_is.tolist()
    with pytest.raises(ValueError, match=r"4001 x 5000 pixels; allowed: up to 20,000,000 pixels.*side=1000"):
        SelectiveSearch().proposals(np.zeros((5000, 4001, 3), np.uint8), torch.tensor([0]))


def test_bins_of_texture_are_those_of_its_values() -> None:
    image = np.random.default_rng(0).random((20, 30, 2))
    assert (binned_texture(image) == np.minimum(np.stack([*_directions(image)], axis=-1) * 10, 9).astype(int)).all()


def test_scores_of_windows_in_plain_loops() -> None:
    rng = np.random.default_rng(0)
    original = rng.integers(0, 256, (40, 50, 3)) / 255.0
    strength, groups = edges(original, 1.5, 0.1)
    assert ((strength > 0) == (groups > 0)).all()
    boxes = sliding((40, 50), 0.65, 100, 3).astype(np.int64)[::97]
    wanted = []
    for x1, y1, x2, y2 in boxes.tolist():
        border = np.zeros(groups.shape, bool)
        border[[y1, y2], x1 : x2 + 1] = border[y1 : y2 + 1, [x1, x2]] = True
        total = 0.0
        for g in range(1, groups.max() + 1):
            y, x = np.nonzero(groups == g)
            middle_y, middle_x = np.rint(y.mean()), np.rint(x.mean())
            if y1 <= middle_y <= y2 and x1 <= middle_x <= x2 and not (border & (groups == g)).any():
                total += strength[groups == g].sum()
        w, h = x2 - x1 + 1, y2 - y1 + 1
        total -= strength[y1 + h // 4 : y2 + 1 - h // 4, x1 + w // 4 : x2 + 1 - w // 4].sum()
        wanted.append(total / (2 * (w + h) ** 1.5))
    contours = Contours.of(strength, groups)
    np.testing.assert_allclose(contours.scores(boxes, 1.5), wanted, atol=1e-9)
    moved, score = contours.refined(boxes, 1.5, 0.1)
    np.testing.assert_allclose(contours.scores(moved, 1.5), score, atol=1e-9)
    assert (score >= np.array(wanted) - 1e-9).all()
    assert (score > np.array(wanted) + 1e-6).any()


def test_edge_windows_find_an_outline() -> None:
    original = np.full((120, 160, 3), 100, np.uint8)
    original[30:90, 40:120] = 200
    (boxes,) = EdgeWindows()(seen([original]), torch.zeros(1))
    assert iou(boxes[:1, :4], np.array([[40.0, 30, 119, 89]]))[0, 0] > 0.9
    overlap = np.triu(iou(boxes[:, :4], boxes[:, :4]), 1)
    assert overlap.max() <= 0.75


def test_self_taught_ranks_by_what_the_network_needs() -> None:
    """Class 0 is red: without the red square its probability falls, without the green one it rises."""
    forward = seen([two_squares()] * 2)
    red, green = SelfTaught("target", ("lab",), (50,))(forward, torch.tensor([0, 1]))
    for boxes, square in ((red, SQUARES[0]), (green, SQUARES[1])):
        assert np.abs(boxes[0, :4] - square).max() <= 3  # the segments are of a smoothed image
        assert boxes[0, 4] > 0.1
        assert boxes[0, 4] == boxes[:, 4].max()
    x1, y1, x2, y2 = red[0, :4].round().astype(int)
    without = forward.images[:1].clone()
    without[:, :, y1 : y2 + 1, x1 : x2 + 1] = 0
    drop = (forward.logits[0].softmax(0)[0] - Red()(without)[0].softmax(0)[0]).item()
    assert red[0, 4] == pytest.approx(drop, abs=1e-6)


def test_hierarchy_in_plain_loops() -> None:
    """All pairs are compared, and the paper's four terms are recomputed at each step."""
    rng = np.random.default_rng(0)
    labels = np.kron(np.arange(12).reshape(3, 4), np.ones((9, 8), int))
    features, drops = rng.random((23, 5)), rng.random(23)
    features /= features.sum(axis=1, keepdims=True)
    tree = Tree(0, labels, 5)
    tree.measured(0, drops[:12], features[:12])
    while tree.merge():
        tree.measured(tree.count - 1, drops[tree.count - 1 : tree.count], features[tree.count - 1 : tree.count])
    masks, alive = [labels == k for k in range(12)], list(range(12))

    def box(mask: NDArray[np.bool_]) -> list[int]:
        y, x = np.nonzero(mask)
        return [int(x.min()), int(y.min()), int(x.max()), int(y.max())]

    def alike(i: int, j: int) -> float:
        c = 1 - drops
        obfuscation = 1 - max(c[i], c[j]) * abs(c[i] - c[j])
        both, (x1, y1, x2, y2) = masks[i].sum() + masks[j].sum(), box(masks[i] | masks[j])
        fill = 1 - ((x2 - x1 + 1) * (y2 - y1 + 1) - both) / labels.size
        return float(obfuscation + 1 - both / labels.size + fill + np.minimum(features[i], features[j]).sum()) / 4

    while len(alive) > 1:
        i, j = max(itertools.combinations(alive, 2), key=lambda pair: alike(*pair))
        masks.append(masks[i] | masks[j])
        alive = [k for k in alive if k not in (i, j)] + [len(masks) - 1]
    assert tree.boxes[: tree.count].tolist() == [box(mask) for mask in masks]


def test_boxes_of_a_crop_stand_in_the_original_image() -> None:
    forward = seen([np.zeros((20, 40, 3), np.uint8)])
    forward.regions = ((100.0, 10.0, 180.0, 50.0),)
    assert to_original(np.array([[0.0, 0, 39, 19], [10, 5, 10, 5]]), forward, 0).tolist() == [
        [100, 10, 179, 49],
        [120, 20, 121, 21],
    ]
    cut = crops(forward.images, np.array([0]), np.array([[3, 4, 3, 4]]))
    assert cut.shape == (1, 3, 20, 40)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: SlidingWindows(alpha=1), "alpha"),
        (lambda: RandomWindows(0), "count"),
        (lambda: CenterWindows(shrink=1), "shrink"),
        (lambda: SelectiveSearch(spaces=("rgb",)), "spaces"),
        (lambda: SelectiveSearch(scales=()), "scales"),
        (lambda: SelectiveSearch(side=0), "side"),
        (lambda: EdgeWindows(beta=2), "beta"),
        (lambda: SelfTaught("best"), "classes"),  # type: ignore[arg-type]
        (lambda: SelfTaught(nms=-1), "nms"),
    ],
)
def test_faults_are_named(make: object, word: str) -> None:
    with pytest.raises(ValueError, match=rf"{word}=.*allowed"):
        make()  # type: ignore[operator]


@pytest.mark.full
def test_maps_and_boxes_stand_in_one_table(tmp_path: Path) -> None:
    overrides = [
        "experiment=proposals_scenes",
        "hydra.mode=RUN",
        f"paths.results={tmp_path}",
        "workers=0",
        "device=cpu",
    ]
    chosen = ["method=[eigencam,selective_search,stl_wl,center_windows]", "dataset.count=3", "batch_size=2"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        composed = compose("run", [*overrides, *chosen])
        faulty = compose("run", [*overrides, *chosen, "evaluator=[proposals,segmentation,insertion_deletion]"])
    job = run(composed)
    assert len(job.results) == 8
    for (method, _), result in job.results.items():
        rows = result.rows()
        assert list(rows["image"]) == job.dataset.ids
        assert set(rows["map_state"]) == ({"ok"} if method == "eigencam" else {"box"})
        assert result.summary is not None
        values = pd.DataFrame(result.summary.metrics).set_index("name")["value"]
        assert values.between(0, 100).drop("boxes").all()
    again = run(composed, say=(said := []).append)
    assert len(again.results) == 8
    assert "nothing to compute" in said[0]
    with pytest.raises(ValueError, match="selective_search returns boxes") as error:
        run(faulty)
    assert str(error.value).count("returns boxes") == 6
