"""Maps of networks that are no classifiers: class-agnostic methods, and targets that read the network's output."""

from collections import namedtuple
from pathlib import Path
from typing import Any

import detectors
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eigencam import Explainer, targets
from eigencam.commands.target import parsed
from eigencam.methods.eigencam import EigenCAM
from eigencam.networks.classes import class_number
from eigencam.networks.network import Preprocess
from eigencam.passes.layer_items import items, replaced
from eigencam.targets import ScoredNetwork, View, placed

PLAIN = Preprocess(size=detectors.SIDE, mean=(0, 0, 0), std=(1, 1, 1))
IMAGE = np.random.default_rng(0).integers(0, 256, (48, 80, 3), np.uint8)
IMAGE[8:30, 10:40] = 250, 30, 30
NAMES = list(detectors.BUILDERS)
BOXES = ("faster_rcnn", "retinanet", "ssd")


@pytest.fixture(scope="module")
def explainers() -> dict[str, Explainer]:
    return {name: Explainer(detectors.built(name), detectors.LAYERS[name], preprocess=PLAIN) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_methods_of_no_class_never_look_at_the_output(explainers: dict[str, Explainer], name: str) -> None:
    explain = explainers[name]
    explain.network.module.train()
    found = explain(IMAGE, "eigencam")
    assert explain.network.module.training
    explain.network.module.eval()
    assert (found.target, found.logits.size, found["eigencam"].target) == (None, 0, None)
    seen: list[Tensor] = []
    layer = explain.network.module.get_submodule(detectors.LAYERS[name])
    hook = layer.register_forward_hook(lambda _m, _x, out: seen.append(out.detach()))
    explain.output(IMAGE)
    hook.remove()
    a = seen[0][0].flatten(1).T.double()
    vector = torch.linalg.svd(a, full_matrices=False).Vh[0]
    expected = (a @ vector).reshape(seen[0].shape[2:])
    expected = expected * expected.sum().sign()
    np.testing.assert_allclose(found["eigencam"].raw, expected.numpy(), atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("name", NAMES)
def test_methods_of_a_class_ask_for_a_target(explainers: dict[str, Explainer], name: str) -> None:
    with pytest.raises(ValueError, match=r"the network returns .*a target that reads this output"):
        explainers[name](IMAGE, "gradcam")
    found = explainers[name](IMAGE, ["eigencam", "gradcam"])
    assert list(found) == ["eigencam"]
    assert "a target that reads this output" in found.refused["gradcam"]


def gradient(module: nn.Module, layer: str, score: Any) -> tuple[np.ndarray, np.ndarray]:
    """The layer's output and the gradient of `score(output)` with respect to it, by autograd alone."""
    kept: list[Tensor] = []

    def keep(_m: nn.Module, _x: Any, out: Tensor) -> Tensor:
        kept.append(out.detach().requires_grad_())
        return kept[0].clone()

    hook = module.get_submodule(layer).register_forward_hook(keep)
    output = module(PLAIN.normalize(torch.from_numpy(PLAIN(IMAGE)[0])[None]))
    hook.remove()
    (found,) = torch.autograd.grad(score(output), kept[0])
    return kept[0].detach()[0].numpy(), found[0].numpy()


@pytest.mark.parametrize("name", BOXES)
def test_a_boxs_map_is_that_of_its_score_and_changes_with_the_box(explainers: dict[str, Explainer], name: str) -> None:
    explain, layer = explainers[name], detectors.LAYERS[name]
    (found,) = explain.output(IMAGE)
    boxes = found["boxes"]
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    other = int((centres - centres[0]).norm(dim=1).argmax())
    maps = explain(IMAGE, ["hirescam", "gradcam", "eigencam"], target=[targets.box_score(0), targets.box_score(other)])
    for k, made in zip((0, other), maps, strict=True):
        values, slope = gradient(explain.network.module, layer, lambda out, k=k: out[0]["scores"][k])
        expected = np.maximum((values * slope).sum(0), 0)
        np.testing.assert_allclose(made["hirescam"].raw, expected, atol=1e-4 * expected.max())
        assert made.score == pytest.approx(float(found["scores"][k]))
        assert made.label == made["gradcam"].label == f"box {k}"
        assert made.prediction is not None
        assert made.prediction.label == found["labels"][k]
        size = np.array([IMAGE.shape[1], IMAGE.shape[0]] * 2)
        assert made.prediction.box == pytest.approx(boxes[k].numpy() * size / detectors.SIDE, rel=1e-5)
        assert made.line().box == made.prediction.box
    first, second = (m["hirescam"].normalised for m in maps)
    assert np.abs(first - second).max() > 0.3
    np.testing.assert_array_equal(maps[0]["eigencam"].raw, maps[1]["eigencam"].raw)
    # The same box, given by its corners in the image's pixels.
    scale = np.array([IMAGE.shape[1], IMAGE.shape[0]] * 2) / detectors.SIDE
    corners = targets.box_score((boxes[other].numpy() * scale).tolist(), int(found["labels"][other]))
    np.testing.assert_allclose(explain(IMAGE, "hirescam", target=corners)["hirescam"].raw, maps[1]["hirescam"].raw)


def test_a_box_on_another_input_is_the_one_that_overlaps_it(explainers: dict[str, Explainer]) -> None:
    def found(boxes: list[list[float]], labels: list[int], scores: list[float]) -> Any:
        return [{"boxes": torch.tensor(boxes), "labels": torch.tensor(labels), "scores": torch.tensor(scores)}]

    here = found([[0, 0, 10, 10], [20, 20, 40, 40]], [1, 2], [0.9, 0.8])
    view = View((64, 64), (0, 0, 64, 64))
    second = placed(targets.box_score(1), here, view)
    assert second(here).tolist() == pytest.approx([0.8])
    there = found([[20, 20, 40, 40], [21, 21, 41, 41], [0, 0, 10, 10]], [3, 2, 2], [0.7, 0.6, 0.5])
    assert second(there).tolist() == pytest.approx([0.6])
    assert second([*here, *there]).tolist() == pytest.approx([0.8, 0.6])
    assert second(found([[0, 0, 10, 10]], [2], [0.5])).tolist() == [0]
    nothing = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.long), "scores": torch.zeros(0)}]
    assert second(nothing).tolist() == [0]
    twice = View((64, 64), (0, 0, 128, 128))  # the input shows the image at half its size
    assert placed(targets.box_score((40, 40, 80, 80)), here, twice)(here).tolist() == pytest.approx([0.8])
    cut = View((64, 64), (10, 0, 74, 64))  # a crop that begins at column 10
    assert placed(targets.box_score((30, 20, 50, 40)), here, cut)(here).tolist() == pytest.approx([0.8])
    assert placed(targets.box_score(0, label=2), here, view)(here).tolist() == pytest.approx([0.8])


def test_a_segments_map_is_that_of_its_mean_logit(explainers: dict[str, Explainer]) -> None:
    explain, layer = explainers["deeplab"], detectors.LAYERS["deeplab"]
    logits = explain.output(IMAGE)["out"]
    assert logits.shape[2:] == (detectors.SIDE, detectors.SIDE)
    label = int(logits[0].argmax(0).flatten().mode().values)
    mask = np.zeros(IMAGE.shape[:2], bool)
    mask[:12, :20] = True
    inside = torch.zeros(detectors.SIDE, detectors.SIDE, dtype=torch.bool)
    inside[:16, :16] = True  # 12 of 48 rows, 20 of 80 columns
    one, other = targets.segment(label), targets.segment(2, mask)
    wanted = [one, other, targets.difference(one, other)]
    made = explain(IMAGE, ["hirescam"], target=wanted)
    scores = [
        lambda out: out["out"][0, label][logits[0].argmax(0) == label].mean(),
        lambda out: out["out"][0, 2][inside].mean(),
    ]
    for found, score in zip(made[:2], scores, strict=True):
        values, slope = gradient(explain.network.module, layer, score)
        expected = np.maximum((values * slope).sum(0), 0)
        np.testing.assert_allclose(found["hirescam"].raw, expected, atol=1e-4 * expected.max())
        assert found.score == pytest.approx(float(score({"out": logits})), rel=1e-4)
    assert made[2].score == pytest.approx(made[0].score - made[1].score, rel=1e-4)
    assert made[2].label == f"segment {label} minus segment 2"


def test_a_function_of_ones_own_and_an_embedding(explainers: dict[str, Explainer]) -> None:
    def objectness(output: Any) -> Tensor:
        return -output[0][:, :, 4].amax(1)

    explain = explainers["yolo"]
    found = explain(IMAGE, ["gradcam", "scorecam"], target=objectness)
    assert found.label == "objectness"
    assert found.score == pytest.approx(-float(explain.output(IMAGE)[0][0, :, 4].max()))
    values, slope = gradient(explain.network.module, "stem.2", lambda out: -out[0][0, :, 4].max())
    expected = (values * slope.mean((1, 2), keepdims=True)).sum(0)
    largest = np.abs(expected).max()
    assert largest > 1e-6
    np.testing.assert_allclose(found["gradcam"].raw, np.maximum(expected, 0), atol=1e-3 * largest)
    assert found["scorecam"].raw.shape == (8, 8)
    features = nn.Sequential(detectors.stem(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    similar = Explainer(features, "0.2", preprocess=PLAIN)
    same = similar(IMAGE, "gradcam", target=targets.embedding(similar.output(IMAGE)))
    assert same.score == pytest.approx(1)
    with pytest.raises(ValueError, match="a reference of 3 numbers; the network gives 16"):
        similar(IMAGE, "gradcam", target=targets.embedding(torch.ones(3)))


def test_a_yolos_map_moves_with_the_box(explainers: dict[str, Explainer]) -> None:
    """Each prediction of the first head belongs to one cell of an 8 x 8 grid; only this cell has a gradient."""

    def signed(forward: Any, chosen: Tensor) -> Tensor:
        return (forward.activations() * forward.gradients(chosen)).sum(1)

    def objectness(cell: int) -> Any:
        return lambda output: output[0][:, cell, 4]

    explain, cells = explainers["yolo"], (10, 53)
    made = explain(IMAGE, {"signed": signed, "eigencam": EigenCAM()}, target=[objectness(cell) for cell in cells])
    for cell, found in zip(cells, made, strict=True):
        values, slope = gradient(explain.network.module, "stem.2", lambda out, cell=cell: out[0][0, cell, 4])
        np.testing.assert_allclose(found["signed"].raw, (values * slope).sum(0), atol=1e-7)
        assert np.flatnonzero(found["signed"].raw).tolist() == [cell]
        assert found.score == pytest.approx(float(explain.output(IMAGE)[0][0, cell, 4]))
    np.testing.assert_array_equal(made[0]["eigencam"].raw, made[1]["eigencam"].raw)


def classifier() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(detectors.stem(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))


@pytest.mark.parametrize("method", ["gradcam", "gradcampp", "layercam", "scorecam", "integrated_gradients"])
def test_a_class_as_a_target_gives_the_map_of_the_class(method: str) -> None:
    explain = Explainer(classifier(), "0.2", preprocess=PLAIN)
    whole = explain(IMAGE, method, target=3)
    both = explain(IMAGE, method, target=[targets.class_score(3), 1])
    np.testing.assert_allclose(both[0][method].raw, whole[method].raw, atol=1e-5 * np.abs(whole[method].raw).max())
    assert both[0].score == pytest.approx(whole.score, rel=1e-5)
    assert (both[0].label, both[1].label) == ("class 3", "class 1")


def test_several_classes_from_one_pass() -> None:
    module = classifier()
    explain = Explainer(module, "0.2", preprocess=PLAIN, classes=["ant", "Bee", "cat", "dog", "eel"])
    passes: list[int] = []
    hook = module.register_forward_hook(lambda _m, x, _out: passes.append(len(x[0])))
    explain(IMAGE, ["layercam", "eigencam"])  # what is determined once per network
    passes.clear()
    found = explain(IMAGE, ["layercam", "eigencam"], target=[3, "bee"])
    assert passes == [1]
    hook.remove()
    assert [f.target for f in found] == [3, 1]
    assert [f.label for f in found] == ["dog", "Bee"]
    for one in found:
        alone = explain(IMAGE, "layercam", target=one.target)
        np.testing.assert_array_equal(one["layercam"].raw, alone["layercam"].raw)
        np.testing.assert_array_equal(one.logits, alone.logits)
    predicted = explain(IMAGE, "layercam")
    assert [f.target for f in explain(IMAGE, "layercam", target=[None, 2])] == [predicted.target, 2]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (True, "target=True: a truth value"),
        (np.bool_(False), "a truth value"),
        (torch.tensor(True), "a truth value"),
        (2.0, "target=2.0: float; allowed: .*did you mean 2"),
        (2.5, r"target=2.5: float; allowed: a class's number \(0, 1, ...\), its name, or a function"),
        ("3", "target='3' is a text, and no class's name; the number would be 3"),
        ("bea", "target='bea': no class of this name; near: Bee"),
        ("og", "near: .*dog"),
        ("zzzzzz", "no class of this name; there are 5, such as ant"),
        ("twin", "names the classes 3, 4; give the number"),
        (9, "class 9 was requested of Sequential; it has 0 to 4"),
        (-1, "class -1 was requested"),
        ({3}, "set; allowed: a class"),
        ([], "an empty list of targets"),
        ([1, True], "a truth value"),
        (targets.class_score(7), "class 7 was requested; the network has 0 to 4"),
        (targets.box_score(0), "the target is a box, and the network returns Tensor"),
        (targets.segment(0), r"the target is a segment, and the network returns Tensor of shape \(1, 5\)"),
        (lambda output: output, r": \(1, 5\) torch.float32 for 1 images; needed: a float tensor \(1,\)"),
        (lambda output: output["boxes"], "target <lambda> fails: "),
        (lambda output: 3.0, ": float for 1 images"),
    ],
)
def test_targets_that_are_none(target: Any, message: str) -> None:
    explain = Explainer(classifier(), "0.2", preprocess=PLAIN, classes=["ant", "Bee", "dog", "twin", "twin"])
    with pytest.raises(ValueError, match=message):
        explain(IMAGE, "gradcam", target=target)


def test_numbers_of_other_libraries_and_unknown_names() -> None:
    explain = Explainer(classifier(), "0.2", preprocess=PLAIN)
    for three in (np.int64(3), torch.tensor(3), np.uint8(3)):
        assert explain(IMAGE, "gradcam", target=three).target == 3
    with pytest.raises(ValueError, match="names of the classes are not known; give its number, or `classes=`"):
        explain(IMAGE, "gradcam", target="dog")


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("faster_rcnn", targets.box_score(500), "box 500 was requested; the network finds "),
        ("faster_rcnn", targets.box_score(0, label=77), "box 0 of label 77 was requested; the network finds 0"),
        ("ssd", targets.box_score((0, 0, 0.5, 0.5)), "has an IoU of at least 50%"),
        ("ssd", targets.segment(1), "the target is a segment, and the network returns list"),
        ("deeplab", targets.segment(77), "class 77 was requested"),
        ("deeplab", targets.segment(0, np.zeros((48, 80))), "segment 0: empty mask"),
        ("yolo", targets.class_score(0), "the network returns a tuple"),
        ("yolo", targets.box_score(0), "for other outputs write your own function"),
    ],
)
def test_what_the_output_does_not_have(explainers: dict[str, Explainer], name: str, target: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explainers[name](IMAGE, "gradcam", target=target)


@pytest.mark.parametrize("label", ["cat", 1.5, True, None])
def test_what_is_no_number_of_a_class(label: Any) -> None:
    for make in (targets.class_score, targets.segment):
        with pytest.raises(
            ValueError, match=rf"{make.__name__}\({label!r}\): {type(label).__name__}; allowed: a class"
        ):
            make(label)
    assert str(targets.class_score(np.int64(3))) == "class 3"
    with pytest.raises(ValueError, match="no network has so many classes"):
        class_number(10**30)


@pytest.mark.parametrize("box", [(3, 3, 1, 5), (1, 2, 3), True, 2.5])
def test_what_is_no_box(box: Any) -> None:
    with pytest.raises(ValueError, match="box_score"):
        targets.box_score(box)


def test_a_scored_network_has_the_networks_modules() -> None:
    module = classifier()
    scored = ScoredNetwork(module, [targets.class_score(2)])
    assert [n for n, _ in scored.named_modules()] == [n for n, _ in module.named_modules()]
    assert [n for n, _ in scored.named_parameters()] == [n for n, _ in module.named_parameters()]
    x = torch.rand(2, 3, 64, 64)
    module.train()
    with torch.no_grad():
        scored(x)
    assert module.training
    torch.testing.assert_close(scored(x)[:, 0], module.eval()(x)[:, 2])


def test_a_layer_that_returns_several_maps(explainers: dict[str, Explainer]) -> None:
    module = explainers["retinanet"].network.module
    named = [Explainer(module, layer, preprocess=PLAIN) for layer in ("backbone:0", "backbone.fpn:0")]
    kept: list[Any] = []
    hook = module.get_submodule("backbone").register_forward_hook(lambda _m, _x, out: kept.append(out["0"].detach()))
    explainers["retinanet"].output(IMAGE)
    hook.remove()
    a = kept[0][0].flatten(1).T.double()
    expected = (a @ torch.linalg.svd(a, full_matrices=False).Vh[0]).reshape(kept[0].shape[2:]).abs()
    for explain in named:
        found = explain(IMAGE, ["eigencam", "gradcam", "shapleycam"], target=targets.box_score(0))
        assert not found.refused
        np.testing.assert_allclose(np.abs(found["eigencam"].raw), expected, atol=1e-3 * float(expected.max()))
    for layer, message in [
        ("backbone", "name one of backbone:0, backbone:1, backbone:pool"),
        ("backbone:7", "does not call 'backbone:7'"),
        ("nothing:0", "no layer 'nothing:0'; near matches"),
    ]:
        with pytest.raises(ValueError, match=message):
            Explainer(module, layer, preprocess=PLAIN)
    with pytest.raises(ValueError, match="set layer, such as one of backbone:0, backbone:1"):
        Explainer(module, preprocess=PLAIN)


def test_an_item_of_an_output_is_replaced_where_it_stands() -> None:
    pair = namedtuple("pair", "first second")
    one, two = torch.zeros(1), torch.ones(1)
    output = pair({"a": one}, [two, None])
    assert [name for name, _ in items(output, "n")] == ["n:0:a", "n:1:0"]
    assert replaced(output, "n", lambda _name, _tensor: None) is output
    changed = replaced(output, "n", lambda name, tensor: tensor + 5 if name == "n:1:0" else None)
    assert isinstance(changed, pair)
    assert changed.first is output.first
    assert changed.second[0].item() == 6
    assert changed.second[1] is None


def test_what_normalises_by_itself_is_not_normalised_twice() -> None:
    detector = detectors.built("ssd")
    assert Explainer(detector, "backbone:0").network.preprocess == Preprocess(
        size=(64, 64), mean=(0, 0, 0), std=(1, 1, 1)
    )
    with pytest.raises(ValueError, match=r"normalises its input by itself, and preprocess.mean=\[0.485"):
        Explainer(detector, "backbone:0", preprocess=Preprocess(size=64))


def test_an_embedding_is_read_from_a_file(tmp_path: Path) -> None:
    features = nn.Sequential(detectors.stem(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    similar = Explainer(features, "0.2", preprocess=PLAIN)
    reference = np.asarray(similar.output(IMAGE))[0] + np.float32(0.5)
    np.save(tmp_path / "words.npy", reference[None])
    target = parsed(f"embedding:{tmp_path / 'words.npy'}")
    found = similar(IMAGE, "gradcam", target=target)
    expected = similar(IMAGE, "gradcam", target=targets.embedding(reference))
    assert found.score == expected.score < 1
    np.testing.assert_array_equal(found["gradcam"].raw, expected["gradcam"].raw)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.ones((2, 3)), r"float64 \(2, 3\); allowed: numbers of shape \(D,\) or \(1, D\)"),
        (np.array(["a", "b"]), "allowed: numbers of shape"),
        (np.array([1.0, np.nan]), "not finite, or all 0"),
        (np.zeros(4), "not finite, or all 0"),
    ],
)
def test_a_file_of_something_else_is_refused(values: Any, words: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(ValueError, match=words):
        parsed(f"embedding:{tmp_path / 'x.npy'}")
    (tmp_path / "y.npy").write_text("no array")
    with pytest.raises(ValueError, match=r"y\.npy: no \.npy file of numbers"):
        parsed(f"embedding:{tmp_path / 'y.npy'}")
    with pytest.raises(FileNotFoundError):
        parsed(f"embedding:{tmp_path / 'z.npy'}")
