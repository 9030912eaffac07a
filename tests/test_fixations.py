"""CNN-Fixations compared with its rules point by point in NumPy, and with closed forms."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
import torch
import torchvision
from numpy.typing import NDArray
from torch import Tensor, nn
from toys import GapNet, random_activations

from eigencam.methods.fixations import CNNFixations, blurred, boxed, crowded, fixations
from eigencam.networks import caffe
from eigencam.networks.network import Network, Preprocess
from eigencam.networks.scenes import ScenesResNet, ScenesVGG
from eigencam.networks.scenes_transformers import ScenesViT
from eigencam.passes.forward import Forward, forward_pass
from eigencam.passes.tape import record

Point = tuple[int, int, int]
Array = NDArray[np.float32]


class Chain(nn.Module):
    """AlexNet's form: corner convolution, LRN, groups, linear layer on a map, linear layer on a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 5, stride=2)
        self.norm = nn.LocalResponseNorm(3, alpha=0.5)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=2)
        self.fc1, self.fc2 = nn.Linear(8 * 2 * 3, 12), nn.Linear(12, 5)
        self.pool, self.relu, self.drop = nn.MaxPool2d(3, 2), nn.ReLU(inplace=True), nn.Dropout(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.norm(self.relu(self.conv(x))))
        x = nn.functional.max_pool2d(self.relu(self.grouped(x)), 2)
        return self.fc2(self.drop(self.relu(self.fc1(self.drop(x.flatten(1))))))


class Branches(nn.Module):
    """A convolution, an inception block, a residual block of stride 2, average pooling and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.one, self.reduce, self.three, self.project = (
            nn.Conv2d(6, 3, 1), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 5, 3, padding=1), nn.Conv2d(6, 4, 1),
        )  # fmt: skip
        self.a, self.b, self.c = nn.Conv2d(12, 6, 1, 2), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 10, 1)
        self.shortcut = nn.Conv2d(12, 10, 1, 2)
        self.fc = nn.Linear(10, 4)
        self.kept: dict[str, Array] = {}

    def forward(self, x: Tensor) -> Tensor:
        kept = {"image": x, "x": (x := self.conv(x).relu())}
        kept["pooled"] = nn.functional.max_pool2d(x, 3, 1, 1)
        kept["reduced"] = self.reduce(x).relu()
        parts = [self.one(x).relu(), self.three(kept["reduced"]).relu(), self.project(kept["pooled"]).relu()]
        kept["joined"] = torch.cat(parts, 1)
        kept["a"] = self.a(kept["joined"]).relu()
        kept["b"] = self.b(kept["a"]).relu()
        kept["c"] = self.c(kept["b"])
        kept["skip"] = self.shortcut(kept["joined"])
        out = kept["c"].clone()
        out += kept["skip"]
        kept["out"] = torch.relu_(out)
        kept["mean"] = kept["out"].mean((2, 3))
        self.kept = {name: value.numpy(force=True) for name, value in kept.items()}
        return self.fc(kept["mean"])


def made(kind: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return kind().eval()


def passed(net: nn.Module, images: Tensor, layer: str = "conv", chunk: int = 64) -> Forward:
    return forward_pass(net, images, layer, chunk=chunk)


def weight(layer: nn.Module) -> Array:
    return layer.weight.numpy(force=True)  # type: ignore[union-attr, operator]


def window(values: Array, i: int, j: int, k: int, pad: int) -> Array:
    return np.pad(values, ((0, 0), (pad, pad), (pad, pad)))[:, i : i + k, j : j + k]


def by_channel(values: Array, w: Array, i: int, j: int, stride: int = 1, pad: int = 0) -> int:
    """The channel that contributes most to a convolution's output at (i, j)."""
    return int((window(values, i * stride, j * stride, w.shape[-1], pad) * w).sum((1, 2)).argmax())


def by_pool(values: Array, point: Point, k: int, stride: int) -> Point:
    c, i, j = point
    part = values[c, i * stride : i * stride + k, j * stride : j * stride + k]
    di, dj = np.unravel_index(part.argmax(), part.shape)
    return c, int(i * stride + di), int(j * stride + dj)


def of_chain(net: Chain, x: Tensor, target: int) -> set[Point]:
    """The points that reach the image, for one image."""
    relu1 = net.conv(x[None]).relu()
    pool1 = net.pool(
        net.norm(relu1)
    )  # its windows are judged by the values before the LRN, the layers behind it by their own values
    relu2 = net.grouped(pool1).relu()
    pool2 = nn.functional.max_pool2d(relu2, 2)
    hidden = net.fc1(pool2.flatten(1)).relu()[0].numpy(force=True)
    maps = [t[0].numpy(force=True) for t in (relu1, pool1, relu2, pool2)]
    units = np.flatnonzero(weight(net.fc2)[target] * hidden > 0)
    top = [np.unravel_index((weight(net.fc1)[u] * maps[3].ravel()).argmax(), maps[3].shape) for u in units]
    points = {by_pool(maps[2], tuple(map(int, p)), 2, 2) for p in top}  # type: ignore[arg-type]
    found = set()
    for c, i, j in points:
        half = slice(0, 4) if c < 4 else slice(4, 8)
        found.add((by_channel(maps[1][half], weight(net.grouped)[c], i, j, pad=1) + half.start, i, j))
    points = {by_pool(maps[0], p, 3, 2) for p in found}
    image = x.numpy()
    return {(by_channel(image, weight(net.conv)[c], i, j, stride=2), 2 * i, 2 * j) for c, i, j in points}


def of_branches(net: Branches, n: int, target: int) -> set[Point]:
    """The points that reach the image, for image `n`."""
    v = {name: value[n] for name, value in net.kept.items()}
    channels = np.flatnonzero(weight(net.fc)[target] * v["mean"] > 0)
    side = v["out"].shape[1:]
    best = {int(c): np.unravel_index(v["out"][c].argmax(), side) for c in channels}
    points = {(c, int(i), int(j)) for c, (i, j) in best.items()}
    found = {block(net, v, p) for p in points}
    points = {inception(net, v, p) for p in found}
    return {(by_channel(v["image"], weight(net.conv)[c], i, j, pad=1), i, j) for c, i, j in points}


def block(net: Branches, v: dict[str, Array], point: Point) -> Point:
    c, i, j = point
    if v["skip"][c, i, j] >= v["c"][c, i, j]:
        return by_channel(v["joined"], weight(net.shortcut)[c], i, j, stride=2), 2 * i, 2 * j
    c = by_channel(v["b"], weight(net.c)[c], i, j)
    c = by_channel(v["a"], weight(net.b)[c], i, j, pad=1)
    near = [(i + di, j + dj) for di in (-1, 0, 1) for dj in (-1, 0, 1)]
    near = [(a, b) for a, b in near if 0 <= a < v["a"].shape[1] and 0 <= b < v["a"].shape[2]]
    i, j = max(near, key=lambda place: v["a"][c, *place])
    return by_channel(v["joined"], weight(net.a)[c], i, j, stride=2), 2 * i, 2 * j


def inception(net: Branches, v: dict[str, Array], point: Point) -> Point:
    c, i, j = point
    if c < 3:
        return by_channel(v["x"], weight(net.one)[c], i, j), i, j
    if c < 8:
        c = by_channel(v["reduced"], weight(net.three)[c - 3], i, j, pad=1)
        return by_channel(v["x"], weight(net.reduce)[c], i, j), i, j
    c = by_channel(v["pooled"], weight(net.project)[c - 8], i, j)
    near = [(i + di, j + dj) for di in (-1, 0, 1) for dj in (-1, 0, 1)]
    near = [(a, b) for a, b in near if 0 <= a < v["x"].shape[1] and 0 <= b < v["x"].shape[2]]
    i, j = max(near, key=lambda place: v["x"][c, *place])
    return c, i, j


@pytest.mark.parametrize("chunk", [3, 64])
def test_a_chain_with_groups_lrn_and_linear_layers_follows_the_rules(chunk: int) -> None:
    net, x = made(Chain), random_activations(16, 3, 25, 31)
    targets = torch.arange(16) % 5
    found = fixations(passed(net, x, chunk=chunk), targets)
    for one, image, target in zip(found, x, targets.tolist(), strict=True):
        expected = sorted((i, j) for _, i, j in of_chain(net, image, target))  # type: ignore[arg-type]
        assert sorted(map(tuple, one.tolist())) == expected
    assert sum(len(one) for one in found) > 20


@pytest.mark.parametrize("seed", range(3))
def test_inception_and_residual_blocks_follow_the_rules(seed: int) -> None:
    net, x = made(Branches, seed), random_activations(12, 3, 12, 14, seed=seed)
    targets = torch.arange(12) % 4
    found = fixations(passed(net, x), targets)
    for n, (one, target) in enumerate(zip(found, targets.tolist(), strict=True)):
        expected = sorted((i, j) for _, i, j in of_branches(net, n, target))  # type: ignore[arg-type]
        assert sorted(map(tuple, one.tolist())) == expected


def test_a_single_bright_pixel_is_the_fixation_of_every_class_that_it_speaks_for() -> None:
    net = made(GapNet)
    with torch.no_grad():
        net.conv.weight.zero_()  # type: ignore[union-attr, operator]
        net.conv.weight[0, 2, 1, 1] = 1  # type: ignore[union-attr, index]
        net.conv.bias.zero_()  # type: ignore[union-attr, operator]
        net.fc.weight.copy_(torch.tensor([[1.0, -1, 1, -1]]).T.expand(4, 6))  # type: ignore[union-attr, operator]
    x = torch.zeros(4, 3, 9, 11)
    x[:, 2, 4, 7] = 5
    found = fixations(passed(net, x), torch.arange(4))
    assert [one.tolist() for one in found] == [[[4, 7]], [], [[4, 7]], []]
    maps = CNNFixations(map="box")(passed(net, x), torch.arange(4))
    assert maps.sum((1, 2)).tolist() == [1, 0, 1, 0]
    assert maps[0, 4, 7] == 1


def test_the_shortcut_wins_a_tie_and_a_negative_batch_norm_turns_contributions_round() -> None:
    class Tie(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(self.conv(x)).relu()
            shifted = nn.functional.conv2d(x, torch.eye(2)[:, :, None, None])
            return (x + shifted).mean((2, 3))

    net = made(Tie)
    with torch.no_grad():
        net.conv.weight.zero_()  # type: ignore[union-attr, operator]
        net.conv.weight[:, :, 1, 1] = torch.tensor([1.0, -1.0])  # type: ignore[union-attr, index]
        net.norm.weight.fill_(-1)  # type: ignore[union-attr, operator]
    tape = record(net, torch.rand(1, 2, 4, 4))
    (conv, *_) = (step for step in tape.steps if step.operation == "conv2d")
    assert conv.options["negative"].all()
    x = torch.zeros(1, 2, 4, 4)
    x[0, :, 1, 2] = torch.tensor([1.0, 3.0])  # 1 - 3 = -2; the batch norm turns it into 2
    assert fixations(passed(net, x), torch.zeros(1, dtype=torch.long))[0].tolist() == [[1, 2]]


def test_outliers_are_counted_as_in_a_double_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    places = torch.randint(0, 60, (300, 2), generator=generator)
    owner = torch.randint(0, 4, (300,), generator=generator).sort().values
    owner[owner == 2] = 3  # an image without points
    kept = crowded(owner, places, 4, 9.5, 0.08)
    for p in range(300):
        same = [q for q in range(300) if owner[q] == owner[p]]
        near = sum(bool(((places[p] - places[q]) ** 2).sum() < 9.5**2) for q in same)
        assert bool(kept[p]) == (near > 0.08 * len(same))
    assert 0 < kept.sum() < 300
    assert len(crowded(owner[:0], places[:0], 2, 9.5, 0.08)) == 0


@pytest.mark.parametrize("shape", [(40, 61), (61, 40), (33, 33), (1, 5)])
def test_the_blur_is_opencvs(shape: tuple[int, int]) -> None:
    impulses = (random_activations(3, *shape) > 1.5).float() * 2
    k = min(shape) - (min(shape) % 2 == 0)
    for one, found in zip(impulses, blurred(impulses, 7.0), strict=True):
        expected = cv2.GaussianBlur(one.numpy().astype(np.float64), (k, k), 7.0)
        np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


def test_the_box_is_tight() -> None:
    impulses = torch.zeros(2, 6, 7)
    impulses[0, 1, 5], impulses[0, 3, 2] = 1, 2
    assert boxed(impulses)[0].nonzero().tolist() == [[i, j] for i in (1, 2, 3) for j in (2, 3, 4, 5)]
    assert boxed(impulses)[1].sum() == 0


NETWORKS: dict[str, tuple[Callable[[], nn.Module], str, int]] = {
    "scenes_vgg": (ScenesVGG, "features.18", 64),
    "scenes_resnet": (ScenesResNet, "layer3", 64),
    "resnet18": (torchvision.models.resnet18, "layer4", 64),
    "resnet50": (torchvision.models.resnet50, "layer4", 64),
    "densenet121": (torchvision.models.densenet121, "features.norm5", 64),
    "squeezenet": (torchvision.models.squeezenet1_1, "features.12", 64),
    "mobilenet": (caffe.mobilenet_v2_tf, "features.18", 64),
    "googlenet_bvlc": (caffe.googlenet, "inception5b", 64),
    "googlenet": (
        lambda: torchvision.models.googlenet(aux_logits=False, init_weights=False, transform_input=True),
        "inception5b",
        64,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_a_batch_equals_batches_of_one_and_the_network_is_left_as_it_was(name: str) -> None:
    kind, layer, side = NETWORKS[name]
    net = made(kind).train()
    x = random_activations(3, 3, side, side, seed=2)
    state = {key: value.clone() for key, value in net.state_dict().items()}
    forward = passed(net, x, layer)
    targets, before = forward.logits.argmax(1), forward.versions()
    together = CNNFixations()(forward, targets)
    assert together.shape == (3, side, side)
    assert (together.amax((1, 2)) > 0).all()
    points = fixations(forward, targets)
    for n in range(3):
        one = passed(net, x[n : n + 1], layer)
        assert torch.equal(fixations(one, targets[n : n + 1])[0], points[n])
        torch.testing.assert_close(CNNFixations()(one, targets[n : n + 1])[0], together[n])
    assert all(m.training for m in net.modules())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    assert forward.versions() == before


def test_the_pass_that_is_recorded_gives_the_networks_logits() -> None:
    for name in ("resnet18", "densenet121", "mobilenet"):
        kind, layer, side = NETWORKS[name]
        net, x = made(kind), random_activations(2, 3, side, side)
        assert record(net, x).steps[-1].shape == passed(net, x, layer).logits.shape


def test_averaged_class_maps_are_taken_as_pooled_channels_and_a_linear_layer() -> None:
    """The same network with the classifier in front of the pooling or behind it: the same points."""

    class Head(nn.Module):
        def __init__(self, before: bool) -> None:
            super().__init__()
            self.conv, self.classify, self.before = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1), before

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x).relu()
            if self.before:
                return nn.functional.adaptive_avg_pool2d(self.classify(x).relu(), 1).flatten(1)
            return nn.functional.linear(x.mean((2, 3)), self.classify.weight.flatten(1), self.classify.bias)

    nets = [made(lambda before=before: Head(before)) for before in (True, False)]
    x, targets = random_activations(5, 3, 9, 8), torch.tensor([0, 1, 2, 3, 0])
    first, second = (fixations(passed(net, x), targets) for net in nets)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert sum(map(len, first)) > 5


def test_half_precision_inference_mode_and_progress() -> None:
    net, x, targets = made(ScenesResNet), random_activations(4, 3, 64, 64), torch.tensor([1, 2, 3, 4])
    forward = passed(net.bfloat16(), x.bfloat16(), "layer3", chunk=3)
    told: list[int] = []
    forward.progress = told.append
    with torch.inference_mode():
        found = CNNFixations()(forward, targets)
    assert found.dtype == torch.float32
    assert told == [3, 1]
    assert found.isfinite().all()


def test_what_has_no_rule_is_named() -> None:
    def network(module: nn.Module) -> Network:
        return Network("net", module.eval(), "", "scenes", "", Preprocess(size=112))

    assert CNNFixations().unsupported(network(ScenesVGG())) == ""
    assert "gelu" in CNNFixations().unsupported(network(ScenesViT()))

    class Silu(GapNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.silu(self.conv(x))[:, :3])

    assert CNNFixations().unsupported(network(Silu())) == "it has no rule for __getitem__, silu"


@pytest.mark.parametrize("wrong", [{"map": "points"}, {"sigma": 0.0}, {"radius": -1.0}, {"share": 1.0}])
def test_wrong_parameters_say_what_is_allowed(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        CNNFixations(**wrong)  # type: ignore[arg-type]
