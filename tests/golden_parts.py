"""The golden numbers of shared parts (the modules with `VERSIONS`), of networks, attacks and the scenes."""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from golden_evaluators import boxes, probe, samples, score_map
from golden_file import Case, Entry, numbers
from golden_methods import LABELS, Cases, entry, inputs, network, nodes, originals
from PIL import Image
from torch import Tensor, nn

from eigencam.datasets import base, decoding
from eigencam.datasets import boxes as box
from eigencam.datasets.base import Dataset
from eigencam.datasets.planted import Planted
from eigencam.datasets.scenes import Scenes
from eigencam.datasets.scenes_fine import ScenesFine
from eigencam.datasets.scenes_grid import ScenesGrid
from eigencam.evaluation import bicubic, component_tree, intervals, proposal_matching, similarity, statistics
from eigencam.evaluation import maps as score_maps
from eigencam.methods import blur, felzenszwalb, randomness
from eigencam.networks.network import Preprocess
from eigencam.passes import ablation, backward, forward, tail, tape
from eigencam.passes.readings import CHANNELS_LAST
from eigencam.store.build import find, instantiate

WITHOUT = ("acol", "alexnet_bvlc", "dual_cross", "dual_cross_small", "efficientnet_lite0", "scenes_detector")
"""Networks without golden numbers: wrappers, other inputs, large untrained ones, another package's, without logits."""

RULES: tuple[tuple[score_maps.Rule, float], ...] = (("max", 0.3), ("range", 0.4), ("mean", 1.5), ("energy", 0.6))


def _score_map() -> Case:
    case: Case = {}
    for k, (score, _) in enumerate(samples()[:6]):
        case[f"full {k}"] = numbers(score.full)
        for rule, t in RULES:
            case[f"cut {k} {rule}"] = numbers(score_maps.cut(score, rule, t))
            found = score_maps.components(score_maps.foreground(score, rule, t)[None])
            case[f"components {k} {rule}"] = [*numbers(found.boxes), *numbers(found.pixels)]
            each = [score_maps.box_of(score, rule, t, component) for component in ("largest", "all")]
            case[f"box {k} {rule}"] = numbers(np.stack(each))
        case[f"box of mask {k}"] = numbers(score_maps.box_of_mask(score.full > 0.4))
    return case


def _boxes() -> Case:
    a, b = boxes(2), boxes(3)[:, [1, 0, 3, 2]] + 0.5
    offsets = np.array([0, 2, 2, 5, 7, 8, 9, 10, 11, 12, 13, 16])
    made = {"from_half_open": box.from_half_open, "to_half_open": box.to_half_open, "from_xywh": box.from_xywh}
    made |= {"to_xywh": box.to_xywh, "clip": partial(box.clip, size=(30, 25)), "area": box.area}
    case = {name: numbers(function(a)) for name, function in made.items()}
    return case | {"iou": numbers(box.iou(a, b)), "best": numbers(box.best_iou(a, b, offsets))}


def _matching() -> Case:
    overlap = box.iou(boxes(3), boxes(2))
    case = {f"{n} proposals": numbers(proposal_matching.match_best_pairs(overlap[:n])) for n in (4, 16)}
    case["coco"] = numbers(np.stack(proposal_matching.match_coco(overlap, (1, 5, 16))))
    case["integral"] = numbers(proposal_matching.recall_integral(np.array([0.2, 0.5, 0.61, 0.749, 0.75, 0.999, 1.0])))
    fractions = np.concatenate([boxes(2) + 0.4, boxes(2) + 0.6, boxes(2) - 0.3])
    return case | {"first": numbers(proposal_matching.first_of_equal(fractions))}


def _similarity() -> Case:
    a, b = (np.stack([score_map(k + d, 24, 30) for k in range(4)]) for d in (0, 2))
    a[3] = 1.0
    measures = (similarity.rank_correlation, similarity.cosine, similarity.ssim, similarity.hog)
    case = {measure.__name__: numbers(measure(a, b - 0.1)) for measure in measures}
    return case | {"absolute": numbers(similarity.rank_correlation(a - 0.3, b - 0.2, absolute=True))}


def _statistics() -> Case:
    values = np.sin(np.arange(40.0)) ** 2
    many = np.sin(np.arange(900.0)) ** 2
    counts = np.stack([values, 1 + values[::-1]], axis=1)
    case: Case = {f"wilson {k}": numbers(intervals.wilson(k, 20)) for k in (0, 7, 20)}
    case |= {f"exact {k}": numbers(intervals.exact(k, 12)) for k in (0, 7, 12)}
    case |= {"paired": numbers(intervals.of_paired_hits(7, 2, 40))}
    case |= {"mean": numbers(intervals.of_mean(values)), "many": numbers(intervals.of_mean(many))}
    case |= {"ratio": numbers(intervals.of_statistic(counts, intervals.MeanRatio()))}
    case |= {"area": numbers(intervals.of_statistic(counts, lambda sums: sums[:, 0] ** 2 / sums[:, 1] ** 2))}
    case |= {"pooled": numbers(intervals.of_pooled_rate(np.arange(40.0) % 3, np.full(40, 4.0)))}
    metrics = [statistics.mean("m", values), statistics.rate("r", values > 0.4), statistics.rate("all", values >= 0)]
    metrics += [statistics.change("change", np.round(2 * values - 1)), statistics.plain_mean("plain", values)]
    import pandas as pd

    rows = pd.DataFrame({"image": np.arange(40) // 3})
    for metric in (*metrics, *statistics.by_image(metrics, rows)):
        case.setdefault(metric.name, []).extend(numbers(np.array([metric.value, metric.low, metric.high, metric.n])))
    return case


def _bicubic() -> Case:
    return {f"size {size}": numbers(bicubic.resize(score_map(1, 9, 7), size)) for size in (7, 20, 33)}


def _component_tree() -> Case:
    case: Case = {}
    for k in range(2):
        levels = (np.clip(score_map(k, 20, 26), 0, 1) * 255).astype(np.uint8)
        levels[4:9, 5:12], levels[6, 7:10] = 200, 20
        nodes, inner = component_tree.outer(levels, segments=0), component_tree.holes(levels, segments=0)
        targets = np.array([[3.0, 4, 12, 14], [10, 2, 22, 19]])
        case[f"outer {k}"], case[f"holes {k}"] = numbers(nodes), numbers(inner[:, :7])
        assert sorted(component_tree.outer(levels).tolist()) == sorted(nodes.tolist())
        assert sorted(component_tree.holes(levels)[:, :7].tolist()) == sorted(inner[:, :7].tolist())
        for name, chosen in (
            ("pixels", component_tree.largest_by_pixels(nodes)),
            ("area", component_tree.largest_by_area(nodes, levels)),
        ):
            case[f"largest {name} {k}"] = numbers(chosen)
            for grow in (0, 1):
                found = component_tree.overlaps_of_chosen(nodes, chosen, grow, (20, 26), targets)
                case[f"chosen {name} {k} {grow}"] = numbers(found)
        for grow in (0, 1, 2):
            case[f"all {k} {grow}"] = numbers(component_tree.overlaps_of_all(nodes, grow, (20, 26), targets))
    return case


def _randomness() -> Case:
    index = torch.tensor([0, 1, 70000])
    return {
        f"{draw.__name__} {seed}": numbers(draw(index, (3, 5), seed))
        for draw in (randomness.uniform, randomness.normal)
        for seed in (0, 3)
    }


def _regions() -> Case:
    image = originals()[0] / 255.0
    case: Case = {}
    for name, convert in felzenszwalb.SPACES.items():
        space = convert(image)
        labels = felzenszwalb.segments(space, 40)
        case[name] = numbers(space)
        case[f"boxes {name}"] = numbers(felzenszwalb.boxes_of(labels))
    return case


def _forward() -> Case:
    case: Case = {}
    for name in ("scenes_vgg", "scenes_vit"):
        used, targets = network(name), torch.tensor(LABELS[name])
        made = used.forward(inputs(used.preprocess.shape[0]), gradients=True)
        case |= {f"{name} logits": numbers(made.logits), f"{name} black": numbers(made.black)}
        case |= {f"{name} activations": numbers(made.activations())}
        case |= {f"{name} gradients": numbers(made.gradients(targets))}
        picked = made.pick(torch.tensor([1, 0, 1]))
        case |= {f"{name} picked": numbers(picked.gradients(torch.tensor([3, 0, 7])))}
    made = network("scenes_vgg").forward(inputs(64))
    plain = forward.forward_pass(made.module, made.images, made.layer)
    plain.black, plain.white = made.black, made.white
    case |= {"pixels": numbers(plain.pixels), "normalized": numbers(plain.normalized(inputs(32)))}
    channels_last = CHANNELS_LAST.maps(torch.arange(24.0).view(1, 2, 3, 4))
    return case | {"channels_last": numbers(channels_last)}


def _backward() -> Case:
    """The gradient under each rule, and relevance distributed by a plain one."""
    case: Case = {}
    for name in ("scenes_vgg", "scenes_resnet"):
        module, targets = network(name).module, torch.tensor(LABELS[name])
        batch = network(name).forward(inputs(64)).images
        shared = backward.LinearRules(
            lambda kind, first: (
                lambda op, x, w, b: backward.like(
                    op(x, w, b),
                    op(x.abs(), w.abs(), None) + (0.5 if first else 0.0) + (0.1 if kind == "linear" else 0.0),
                )
            )
        )
        for what, rules in (
            ("plain", None),
            ("guided", {"relu": backward.guided_relu}),
            ("deconvnet", {"relu": backward.deconvnet_relu}),
            ("shared", shared.rules),
        ):
            for normalize in (False, True):
                found = backward.gradients(module, batch, targets, rules=rules, normalize=normalize)[1]
                case[f"{name} {what}{' normalized' if normalize else ''}"] = numbers(found)
        layer = network(name).layer
        case[f"{name} layer"] = numbers(backward.gradients(module, batch, targets, layer=layer)[1])
        case[f"{name} entering"] = numbers(backward.entering(module, batch).detach())
    factors = [torch.linspace(-1, 2, 24, dtype=torch.float64).view(4, 6).add(k).requires_grad_() for k in (0, 1)]
    for name, product in (("halved", backward.halved), ("rescaled", backward.rescaled_product)):
        slopes = torch.autograd.grad(product(torch.mul, *factors).square().sum(), factors)
        case[f"product {name}"] = numbers(torch.stack(slopes))
    normed = nn.LocalResponseNorm(3, alpha=0.5, beta=0.6)
    x = torch.linspace(-1, 2, 36, dtype=torch.float64).view(1, 4, 3, 3).requires_grad_()
    with backward.relevance_rules({"local_response_norm": backward.passed}, x):
        out = normed(x)
    return case | {"normalization": numbers(torch.autograd.grad(out.square().sum(), x)[0])}


def _tape() -> Case:
    case: Case = {}
    for name in ("scenes_vgg", "scenes_resnet"):
        kept = tape.record(network(name).module, network(name).forward(inputs(64)).images)
        for n, step in enumerate(kept.steps):
            case[f"{name} {n} {step.operation}"] = [str(step.sources), *map(float, step.shape)]
            case[f"{name} {n} {step.operation}"] += [float(x.double().mean()) for x in step.inputs]
        case[f"{name} ancestors"] = [str(sets) for sets in kept.ancestors()]
    padded = tape.record(_Odd(), torch.ones(1, 3, 8, 8))
    case["odd"] = [f"{step.operation} {_options(step.options)}" for step in padded.steps]
    return case


class _Odd(nn.Module):
    """Operations that the scenes' networks do not have."""

    def forward(self, x: Tensor) -> Tensor:
        """Padding, a strided and dilated convolution, pools, a concatenation, a mean."""
        x = nn.functional.pad(x, (1, 2, 3, 0))
        x = nn.functional.conv2d(x, torch.ones(4, 3, 3, 3), stride=(2, 1), padding=1, dilation=(1, 2))
        y = nn.functional.max_pool2d(x, 3, 1, 1)
        z = nn.functional.avg_pool2d(x, 3, 1, 1)
        return nn.functional.conv2d(torch.cat([y, z], 1), torch.ones(6, 4, 1, 1), padding="same", groups=2).mean((2, 3))


def _options(options: dict[str, Any]) -> str:
    return str({key: tuple(v.shape) if isinstance(v, Tensor) else v for key, v in options.items()})


def _tail() -> Case:
    case: Case = {}
    for name in ("scenes_vgg", "scenes_resnet"):
        used = network(name)
        activations = used.forward(inputs(64)).activations().double()
        cut = tail.tail(used.module, used.layer, (64, 64))
        case[name] = numbers(cut(1.1 * activations).detach())
    return case


def _ablation() -> Case:
    case: Case = {}
    for name in ("scenes_vgg", "scenes_resnet"):
        made, layer = network(name).forward(inputs(64), chunk=16), network(name).layer
        case[name] = numbers(ablation.logits_without(made, layer))
        case[f"{name}, by passes"] = numbers(ablation._by_passes(made, made.activations(layer), layer))
    return case


def _smooth_masks() -> Case:
    masks = blur.SmoothMax((40, 33), 8, 5.0, torch.zeros(1))
    height, width = (cells + masks.window - 1 - 2 * masks.padding for cells in masks.cells)
    parameters = torch.linspace(0, 1, height * width).view(1, height, width).requires_grad_()
    made = masks(parameters)
    (slope,) = torch.autograd.grad(made.square().sum(), parameters)
    case = {"masks": numbers(made.detach()), "slope": numbers(slope), "margin": [float(masks.margin)]}
    image = torch.linspace(0, 1, 20 * 30).view(20, 30).square()
    for edge in ("zero", "reflect"):
        case[edge] = numbers(blur.gaussian_blur(image, 2.5, edge))
    case["pillow"] = numbers(blur.pillow_blur(image[None], 2.5))
    return case


def _decoding() -> Case:
    """Decoded files of lossless formats."""
    case: Case = {}
    colours = Image.fromarray(originals()[0])
    wide = Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 109)
    kinds = {"RGB": colours, "L": colours.convert("L"), "P": colours.quantize(16), "wide": wide}
    kinds |= {"RGBA": colours.convert("RGBA"), "LA": colours.convert("LA"), "1": colours.convert("1")}
    with tempfile.TemporaryDirectory() as folder:
        for kind, image in kinds.items():
            path = Path(folder) / f"{kind}.png"
            image.save(path)
            case[kind] = numbers(decoding.read_rgb(path))
            case[f"{kind} size"] = numbers(np.array(decoding.image_size(path)))
            if kind in ("P", "L"):
                case[f"{kind} mask"] = numbers(decoding.read_mask(path))
    return case


def _truth() -> Case:
    case: Case = {}
    for k, (_, truth) in enumerate(samples()):
        case[str(k)] = [*map(float, truth.objects()), "sought", *map(float, truth.sought())]
    case["checksum"] = [base.checksum([1, "a", [2.5]])]
    return case


PARTS: tuple[tuple[ModuleType, Callable[[], Case]], ...] = (
    (score_maps, _score_map),
    (box, _boxes),
    (proposal_matching, _matching),
    (similarity, _similarity),
    (bicubic, _bicubic),
    (component_tree, _component_tree),
    (randomness, _randomness),
    (felzenszwalb, _regions),
    (forward, _forward),
    (backward, _backward),
    (tape, _tape),
    (tail, _tail),
    (ablation, _ablation),
    (blur, _smooth_masks),
    (decoding, _decoding),
    (base, _truth),
    (statistics, _statistics),
)


def _logits(name: str) -> Case:
    used = network(name)
    return {"logits": numbers(used.forward(inputs(used.preprocess.shape[0])).logits)}


def _waves(name: str) -> Case:
    """Logits of networks whose weights are not in the package, with waves as weights."""
    node = nodes("model")[name]
    module = instantiate({"_target_": node["_target_"]}).eval()
    with torch.no_grad():
        for k, tensor in enumerate(t for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()):
            flat = torch.arange(tensor.numel())
            spread = 1.0 if tensor.ndim == 1 else (2.0 / tensor[0].numel()) ** 0.5
            tensor.copy_(spread * (torch.cos((flat % 1009) + k) + (1.1 if tensor.ndim == 1 else 0.0)).view_as(tensor))
        size = node.get("preprocess", {}).get("size", 224)
        out = module((inputs(size).float() / 255 - 0.5).to(next(module.parameters()).dtype))
    return {"output": numbers(out / out.abs().max())}


def _preprocess() -> Case:
    case: Case = {}
    for name, options in (
        ("squash", {}),
        ("crop", {"resize": "crop", "short_side": 64}),
        ("bgr", {"bgr": True, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.25)}),
    ):
        for n, image in enumerate((originals()[0], originals()[1].transpose(1, 0, 2))):
            small, region = Preprocess(size=48, **options)(image)
            normalized = Preprocess(size=48, **options).normalize(torch.from_numpy(small)[None], torch.float64)
            case |= {f"{name} {n}": numbers(small), f"{name} {n} region": numbers(np.array(region))}
            case |= {f"{name} {n} normalized": numbers(normalized)}
    return case


def _generated(data: Dataset) -> Case:
    case = Case()
    for k in range(4):
        truth = data.truth(k)
        case |= {f"image {k}": numbers(data.image(k)), f"boxes {k}": numbers(truth.boxes)}
        case |= {} if truth.mask is None else {f"mask {k}": numbers(truth.mask)}
        case[f"labels {k}"] = numbers(truth.box_labels)
    return case


def _attack(node: dict[str, Any]) -> Case:
    asked = probe()[1]()
    scale = asked.white.float() - asked.black.float()
    plain = (asked.images.float() - asked.black) / scale
    found = instantiate(node)(lambda x: asked.differentiable(x * scale + asked.black), plain, scale, ["a", "b"])
    return {"images": numbers(found.images - plain), "iterations": numbers(found.iterations)}


def _part_entry(_module: ModuleType, cases: Cases, name: str, version: int) -> Entry:
    return Entry({name: version}, {}, {case: make() for case, make in cases.items()})


def part_entries(more: Mapping[Any, Cases]) -> Iterator[tuple[str, partial[Entry]]]:
    """Name and function of an entry for each shared part, network, attack, reader and fit, with more cases of some."""
    for module, make in PARTS:
        cases = {"numbers": make} | more.get(module, {})
        for constant in ("VERSIONS", "SUMMARY_VERSIONS"):
            for name, version in getattr(module, constant, {}).items():
                yield (
                    f"{name}@{version}",
                    partial(_part_entry, module, cases, name, version),
                )
    yield f"Preprocess@{Preprocess.version}", partial(entry, Preprocess, {"images": _preprocess})
    things: dict[Any, dict[str, Callable[[], Case]]] = {}
    for name, node in nodes("model").items():
        if node["_target_"].startswith("eigencam."):
            make = partial(_logits if name.startswith(("scenes", "planted")) else _waves, name)
            left_out = name in WITHOUT or name.startswith("wsol_")
            things[find(node["_target_"])] = {} if left_out else {name: make}
    for node in nodes("dataset").values():
        things[find(node["_target_"])] = {}
    things[Scenes] = {split: partial(_generated, Scenes(count=4, split=split)) for split in ("test", "train")}
    things[ScenesFine] = {"test": partial(_generated, ScenesFine(count=4))}
    things[ScenesGrid] = {f"heads {heads}": partial(_generated, ScenesGrid(4, heads=heads)) for heads in (False, True)}
    things[Planted] = {"marks": partial(_generated, Planted(4))}
    for node in nodes("fit").values():
        things[find(node["_target_"])] = {}
    for node in nodes("evaluator").values():
        if attack := node.get("attack"):
            few = {"max_iter": 3, "num_classes": 3, "steps": 3}
            made = {key: few.get(key, value) for key, value in attack.items()}
            things[find(attack["_target_"])] = {"packaged": partial(_attack, made)}
    for thing, cases in things.items():
        yield f"{thing.__name__}@{thing.version}", partial(entry, thing, cases | more.get(thing, {}))
