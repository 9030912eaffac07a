"""The steps of published evaluators as in their authors' code; `benchmark_evaluators.py` compares them with ours."""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import average_precision_score, f1_score, jaccard_score, precision_recall_curve

from eigencam.datasets.base import Truth
from eigencam.datasets.boxes import to_xywh
from eigencam.evaluation.changed_images import is_gone, points_gone, ranks_of
from eigencam.evaluation.faithfulness import ROAD_SHARES
from eigencam.evaluation.imputation import impute
from eigencam.evaluation.maps import ScoreMap
from eigencam.evaluation.proposals import Proposals

Values = NDArray[np.float32]
SIZE = (375, 500)
IOUS = (0.3, 0.5, 0.7)
HOSANG = Proposals(max_boxes=10000, difficult=True, budgets=(1, 3, 10, 32, 100, 316, 1000, 3162, 10000), unique=True)


def normalised(score_map: ScoreMap) -> NDArray[np.float64]:
    full = cv2.resize(score_map.values.astype(np.float64), (224, 224), interpolation=cv2.INTER_CUBIC)
    full -= full.min()
    full /= full.max()
    return full


def ious(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.float64]:
    a, b = a[:, None], b[None]
    sides = np.maximum(0, np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1)
    common = sides[..., 0] * sides[..., 1]
    area_a, area_b = ((box[..., 2] - box[..., 0] + 1) * (box[..., 3] - box[..., 1] + 1) for box in (a, b))
    return common / (area_a + area_b - common)


def max_box_acc(step: float, every: bool, lean: bool = False) -> Callable[[ScoreMap, Truth], object]:
    """The steps of wsolevaluation for one image."""
    thresholds = list(np.arange(0, 1, step))

    def boxes_at(image: NDArray[np.uint8], threshold: int) -> list[list[int]]:
        binary = cv2.threshold(image, threshold, 255, cv2.THRESH_BINARY)[1]
        contours = cv2.findContours(binary, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]
        if not contours:
            return [[0, 0, 0, 0]]
        found = contours if every else [max(contours, key=cv2.contourArea)]
        return [[x, y, min(x + w, 223), min(y + h, 223)] for x, y, w, h in map(cv2.boundingRect, found)]

    def call(score_map: ScoreMap, truth: Truth) -> object:
        image = (normalised(score_map) * 255).astype(np.uint8)[:, :, None]
        wanted = (truth.boxes[truth.sought()] * 224.0 / np.array(truth.size[::-1] * 2)).astype(np.int64)
        found = [boxes_at(image, int(t * (255 if lean else np.max(image)))) for t in thresholds]
        overlap = ious(np.array([box for boxes in found for box in boxes]), wanted)
        ends = np.cumsum([len(boxes) for boxes in found])
        if lean:
            best = np.maximum.reduceat(overlap.max(1), np.append(0, ends[:-1]))
        else:
            best = np.array([max(overlap.max(1)[end - len(b) : end]) for end, b in zip(ends, found, strict=True)])
        return [best >= iou for iou in IOUS]

    return call


def pxap(score_map: ScoreMap, truth: Truth) -> object:
    """The steps of wsolevaluation for one image, whose mask is decoded already."""
    assert truth.mask is not None
    edges = np.append(np.arange(0, 1, 0.001), [1.0, 2.0, 3.0])
    mask = cv2.resize(truth.mask, (224, 224), interpolation=cv2.INTER_NEAREST)
    full = normalised(score_map)
    return [np.histogram(full[mask == value], bins=edges)[0] for value in (4, 0)]


def two_channels(score_map: ScoreMap, truth: Truth) -> object:
    """The steps of Chefer et al. for one image, with scikit-learn's scores."""
    assert truth.mask is not None
    target = np.asarray(Image.fromarray(truth.mask).resize((224, 224), Image.Resampling.NEAREST)) == 4
    full = F.interpolate(torch.from_numpy(score_map.values)[None, None], (224, 224), mode="bilinear")[0, 0].numpy()
    full = (full - full.min()) / (full.max() - full.min())
    found = full > full.mean()
    values, hot = np.stack([1 - full, full]).ravel(), np.stack([~target, target]).ravel()
    return average_precision_score(hot, values), f1_score(target.ravel(), found.ravel()), (found == target).sum()


def enlarged(score_map: ScoreMap) -> Values:
    return cv2.resize(score_map.values, (SIZE[1], SIZE[0]), interpolation=cv2.INTER_LINEAR).astype(
        np.float32, copy=False
    )


def one_box(score_map: ScoreMap, truth: Truth) -> object:
    full = enlarged(score_map)
    stats = cv2.connectedComponentsWithStats((full > 0.15 * full.max()).astype(np.uint8))[2][1:]
    x, y, w, h, _ = stats[stats[:, cv2.CC_STAT_AREA].argmax()].tolist()
    return ious(np.array([[x, y, x + w - 1, y + h - 1]]), truth.boxes.astype(np.int64)).max()


def boxes_of_a_grid(score_map: ScoreMap, truth: Truth) -> object:
    full = enlarged(score_map)
    low, high = float(full.min()), float(full.max())
    rects = [cv2.boundingRect((full > low + t * (high - low)).astype(np.uint8)) for t in np.arange(0, 1, 0.05)]
    return ious(np.array([[x, y, x + w - 1, y + h - 1] for x, y, w, h in rects]), truth.boxes.astype(np.int64))


def curve(score_map: ScoreMap, truth: Truth) -> object:
    assert truth.mask is not None
    full, wanted = enlarged(score_map).ravel(), truth.mask.ravel() == 4
    return precision_recall_curve(wanted, full), jaccard_score(wanted, full > 0.2 * full.max())


def coco(score_map: ScoreMap, truth: Truth) -> object:
    """Boxes of the components at nine thresholds, and COCO's evaluation of them."""
    full = enlarged(score_map)
    cuts = [full > t * full.max() for t in np.arange(0.1, 1, 0.1)]
    boxes = [cv2.connectedComponentsWithStats(cut.astype(np.uint8))[2][1:, :4] for cut in cuts]
    found = np.unique(np.concatenate(boxes), axis=0)[:100].tolist()
    wanted = to_xywh(truth.boxes).tolist()
    with contextlib.redirect_stdout(io.StringIO()):
        gt: Any = COCO()
        base = {"image_id": 1, "category_id": 1}
        annotations = [
            {**base, "id": i + 1, "iscrowd": 0, "bbox": b, "area": b[2] * b[3]} for i, b in enumerate(wanted)
        ]
        gt.dataset = {"images": [{"id": 1}], "annotations": annotations, "categories": [{"id": 1}], "info": {}}
        gt.createIndex()
        results = gt.loadRes([{**base, "bbox": b, "score": 1 - i / 1000} for i, b in enumerate(found)])
        evaluation = COCOeval(gt, results, "bbox")
        evaluation.params.useCats = 0
        evaluation.evaluate()
    return evaluation.evalImgs


def meshgrid(score_map: ScoreMap, truth: Truth) -> object:
    """TorchRay's test: the distance of every pixel of the image, and the mask of filled boxes."""
    full, mask = torch.from_numpy(enlarged(score_map)), torch.zeros(SIZE, dtype=torch.bool)
    for x1, y1, x2, y2 in truth.boxes.astype(np.int64).tolist():
        mask[y1 : y2 + 1, x1 : x2 + 1] = True
    peak = int(full.argmax())
    v, u = torch.meshgrid(*(torch.arange(side) for side in SIZE), indexing="ij")
    return bool((mask & ((u - peak % SIZE[1]) ** 2 + (v - peak // SIZE[1]) ** 2 < 15**2)).any())


def sums_in_masks(score_map: ScoreMap, truth: Truth) -> object:
    full, mask = enlarged(score_map), np.zeros(SIZE, bool)
    for x1, y1, x2, y2 in truth.boxes.astype(np.int64).tolist():
        mask[y1 : y2 + 1, x1 : x2 + 1] = True
    full = (full - full.min()) / (full.max() - full.min())
    cuts = [full > delta for delta in (0, 0.25, 0.5)]
    return full[mask].sum() / full.sum(), [(c & mask).sum() / (mask.sum() + (c & ~mask).sum()) for c in cuts]


def sums_of_classes(score_map: ScoreMap, truth: Truth) -> object:
    """TP, P and T of 21 classes by np.sum, as evaluation code for VOC counts them; no curve."""
    assert truth.mask is not None
    full = enlarged(score_map)
    found, counted = np.where(full > 0.2 * full.max(), 4, 0), truth.mask < 255
    return [
        (np.sum((truth.mask == k) & (found == k) & counted), np.sum((found == k) & counted), np.sum(truth.mask == k))
        for k in range(21)
    ]


def greedy_loops(overlap: NDArray[np.float64]) -> list[float]:
    """detection-proposals' greedy matching of (P, G) overlaps, a loop over the matches."""
    rest, matched = overlap.T.copy(), [0.0] * overlap.shape[1]
    for _ in range(min(rest.shape)):
        row, column = divmod(int(rest.argmax()), rest.shape[1])
        matched[row] = float(rest[row, column])
        rest[row], rest[:, column] = -np.inf, -np.inf
    return matched


def proposals_loops(score_map: ScoreMap, truth: Truth) -> object:
    """Boxes of the components, threshold by threshold; sums, box by box; a greedy matching for each budget."""
    full = enlarged(score_map)
    found = set()
    for t in np.arange(0.1, 1, 0.1):
        stats = cv2.connectedComponentsWithStats((full > t * full.max()).astype(np.uint8))[2][1:, :4]
        found |= {tuple(box) for box in stats.tolist()}
    positive = np.maximum(full, 0)
    total, peak, ranked = positive.sum(), positive.max(), []
    for x, y, w, h in found:
        inside = positive[y : y + h, x : x + w].sum()
        share, mean = inside / total, inside / (w * h * peak)
        ranked.append((2 * share * mean / (share + mean), (x, y, x + w - 1, y + h - 1)))
    boxes = np.array([box for _, box in sorted(ranked, reverse=True)[:100]])
    overlap = ious(boxes, truth.boxes.astype(np.int64))
    return [greedy_loops(overlap[:k]) for k in (1, 10, 100)]


def many_boxes(score_map: ScoreMap) -> NDArray[np.float64]:
    """(3000, 4) random boxes; the seed is from the map, so that a map always has the same."""
    rng = np.random.default_rng(int(1e6 * abs(float(score_map.values.ravel()[0]))))
    x, y = (np.sort(rng.integers(0, end, (3000, 2)), axis=1) for end in (SIZE[1], SIZE[0]))
    return np.stack([x[:, 0], y[:, 0], x[:, 1], y[:, 1]], axis=1).astype(np.float64)


def hosang(score_map: ScoreMap, truth: Truth) -> object:
    """detection-proposals' steps for one image: the overlaps of each object, again for each budget."""
    boxes = many_boxes(score_map)
    _, first = np.unique(boxes, axis=0, return_index=True)
    boxes = boxes[np.sort(first)].astype(np.int64)
    wanted, found = truth.boxes.astype(np.int64), []
    for k in HOSANG.budgets:
        overlap = np.stack([ious(boxes[:k], wanted[g : g + 1])[:, 0] for g in range(len(wanted))], axis=1)
        found.append(greedy_loops(overlap))
    return found


def removed(score_map: ScoreMap, _truth: Truth) -> object:
    """The pixels removed at each of 29 points of an insertion or deletion, by the evaluator."""
    enlarged = torch.nn.functional.interpolate(
        torch.from_numpy(score_map.values)[None, None], (224, 224), mode="bilinear", align_corners=False
    )
    gone = points_gone(ranks_of(enlarged[0]), torch.linspace(0, 224 * 224, 29).round())
    return is_gone(gone, torch.arange(29), torch.zeros(29, dtype=torch.int64))


def removed_step_by_step(score_map: ScoreMap, _truth: Truth) -> object:
    """RISE's steps: argsort; at each point a copy of what is removed so far, then the next pixels are removed."""
    full = cv2.resize(score_map.values, (224, 224), interpolation=cv2.INTER_LINEAR)
    order = np.flip(np.argsort(full.reshape(1, -1), axis=1), axis=-1)
    state, states = np.zeros((1, 224 * 224), bool), []
    for i in range(29):
        states.append(state.copy())
        state[0, order[:, 224 * 8 * i : 224 * 8 * (i + 1)]] = True
    return np.stack(states)


def _gone(score_map: ScoreMap) -> torch.Tensor:
    """(8, 224, 224): the pixels that ROAD removes, the most and the least relevant fractions."""
    enlarged = torch.nn.functional.interpolate(
        torch.from_numpy(score_map.values)[None, None], (224, 224), mode="bilinear", align_corners=False
    )
    ranks, pixels = ranks_of(enlarged[0]), 224 * 224
    removed = (torch.tensor(ROAD_SHARES) * pixels).round()[:, None, None]
    return torch.cat([ranks < removed, ranks >= pixels - removed])


_IMAGE = torch.from_numpy(np.random.default_rng(0).random((3, 224, 224), np.float32))


def filled(score_map: ScoreMap, _truth: Truth) -> object:
    """An image with ROAD's eight sets of pixels filled in by the evaluator."""
    gone = _gone(score_map)
    return impute(_IMAGE.expand(len(gone), -1, -1, -1), gone[:, None], torch.zeros(3, 224, 224))


def filled_by_a_direct_solve(score_map: ScoreMap, _truth: Truth) -> object:
    """The same by the code of ROAD's authors, as in pytorch-grad-cam: a sparse system, solved directly."""
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    fill: Any = NoisyLinearImputer(0.0)
    return torch.stack([fill(_IMAGE, 1 - gone.float()) for gone in _gone(score_map)])
