"""Vision transformers and vision graph networks: layers as maps, attention rollout, VS-CAM."""

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import resnet18
from torchvision.models.vision_transformer import VisionTransformer
from toys import random_activations

from eigencam.methods.cam import CAM, find_pooled_classifier
from eigencam.methods.eigencam import EigenCAM
from eigencam.methods.gradcam import GradCAM, GradCAMPlusPlus
from eigencam.methods.peers import PytorchGradCAM
from eigencam.methods.rollout import HEAD_FUSIONS, AttentionRollout, HeadFusion, step
from eigencam.methods.vscam import VSCAM, aggregate
from eigencam.networks.network import Network, load_network
from eigencam.networks.scenes_transformers import SIDE, KnnGraph, MaxRelative, ScenesViG
from eigencam.passes.forward import Forward, forward_pass
from eigencam.passes.readings import CHANNELS_LAST, Reading
from eigencam.passes.tail import fault

TARGETS = torch.tensor([4, 0, 2])
LN = "encoder.layers.encoder_layer_1.ln_1"
TOKENS = Reading((1,), (4, 4), front=1)


def vit(scale: float = 1.0) -> VisionTransformer:
    """Two blocks, 16 tokens and a class token; the head is random, whereas torchvision initialises it with zeros."""
    torch.manual_seed(0)
    net = VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=5)
    head = net.get_submodule("heads.head")
    assert isinstance(head, nn.Linear)
    nn.init.normal_(head.weight, std=scale)
    return net.eval()


def vit_pass(net: nn.Module, n: int = 3, gradients: bool = True, **options: Any) -> Forward:
    images = random_activations(n, 3, 32, 32, seed=1)
    return forward_pass(net, images, LN, gradients=gradients, readings={LN: TOKENS}, **options)


def described(name: str, *changes: str) -> Network:
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        return load_network(compose("run", [f"model={name}", "model.weights=null", *changes]).model)


def as_theirs(maps: Tensor, size: int) -> Tensor:
    """Rectified, scaled to 0..1 and resized, as in pytorch-grad-cam."""

    def scaled(x: NDArray[Any]) -> NDArray[Any]:
        x = x - x.min()
        return x / (1e-7 + x.max())

    return torch.tensor(np.stack([scaled(cv2.resize(scaled(m), (size, size))) for m in maps.relu().numpy()]))


@pytest.mark.parametrize("method", [GradCAM(), GradCAMPlusPlus()], ids=lambda m: type(m).__name__)
def test_a_vision_transformers_maps_agree_with_pytorch_grad_cam(method: Any) -> None:
    forward = vit_pass(vit(scale=100))  # large gradients: their epsilon then changes nothing
    theirs = PytorchGradCAM(type(method).__name__, {"reshape_transform": TOKENS.maps})
    found = as_theirs(method(forward, TARGETS), 32)
    torch.testing.assert_close(found, theirs(forward, TARGETS), atol=1e-4, rtol=0)
    assert found.amax((1, 2)).min() > 0.99


def test_centred_eigencam_of_tokens_agrees_with_pytorch_grad_cam_up_to_the_sign() -> None:
    forward = vit_pass(vit())
    theirs = PytorchGradCAM("EigenCAM", {"reshape_transform": TOKENS.maps})(forward, TARGETS)
    ours = EigenCAM(center=True, sign="energy")(forward, TARGETS)
    both = torch.stack([as_theirs(ours, 32), as_theirs(-ours, 32)])
    torch.testing.assert_close((both - theirs).abs().amax((2, 3)).amin(0), torch.zeros(3), atol=1e-3, rtol=0)


@pytest.mark.full
def test_vit_b_16_as_described() -> None:
    network = described("vit_b_16")
    nn.init.normal_(next(network.module.get_submodule("heads").parameters()), std=1.0)
    images = torch.randint(0, 256, (1, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    forward = network.forward(images, gradients=True)
    target = torch.tensor([7])
    theirs = PytorchGradCAM("GradCAM", {"reshape_transform": forward.reading().maps})(forward, target)
    torch.testing.assert_close(as_theirs(GradCAM()(forward, target), 224), theirs, atol=1e-3, rtol=0)
    for method in (EigenCAM(sign="energy"), GradCAMPlusPlus(), AttentionRollout()):
        found = method(forward, target)
        assert found.shape == (1, 14, 14)
        assert found.isfinite().all()
        assert found.std() > 0
    assert "CAM needs global average pooling" in CAM().unsupported(network)


@pytest.mark.full
def test_swin_as_described_has_cam_at_its_last_norm() -> None:
    network = described("swin_t", "model.preprocess.size=128")
    images = torch.randint(0, 256, (2, 3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    forward, targets = network.forward(images, gradients=True), torch.tensor([3, 999])
    assert CAM().unsupported(network) == ""
    cam = CAM()(forward, targets)
    assert cam.shape == (2, 4, 4)
    torch.testing.assert_close(GradCAM(relu=False)(forward, targets) * 16, cam, atol=1e-5, rtol=1e-4)
    theirs = PytorchGradCAM("GradCAM", {"reshape_transform": CHANNELS_LAST.maps})
    torch.testing.assert_close(as_theirs(cam, 128), theirs(forward, targets), atol=1e-4, rtol=0)
    assert EigenCAM()(forward, targets).shape == (2, 4, 4)
    norm2 = network.forward(images, layers=["features.7.1.norm2"], gradients=True)
    assert norm2.gradients(targets, "features.7.1.norm2").abs().amax((1, 2, 3)).min() > 0
    assert "its attention is within windows, for which no source has a rule" in AttentionRollout().unsupported(network)


def test_cam_of_a_layer_that_no_linear_head_reads_says_so() -> None:
    with pytest.raises(ValueError, match="CAM needs global average pooling and one linear layer behind"):
        find_pooled_classifier(vit(), LN, (32, 32), TOKENS)


def naive_rollout(net: VisionTransformer, images: Tensor, fusion: str, discard: float) -> NDArray[np.float64]:
    """From the blocks' inputs and projection matrices, for each image, head and row."""
    inputs: list[Tensor] = []
    blocks = [m for m in net.modules() if isinstance(m, nn.MultiheadAttention)]
    handles = [m.register_forward_pre_hook(lambda _m, args: inputs.append(args[0])) for m in blocks]
    with torch.no_grad():
        net(images)
    for handle in handles:
        handle.remove()
    maps = []
    for n in range(len(images)):
        rolled = np.eye(17)
        for block, x in zip(blocks, inputs, strict=True):
            assert block.in_proj_weight is not None
            w, b = block.in_proj_weight.detach().double().numpy(), block.in_proj_bias.detach().double().numpy()
            q, k, _ = np.split(x[n].double().numpy() @ w.T + b, 3, axis=1)
            heads = []
            for h in (slice(0, 8), slice(8, 16)):
                logits = q[:, h] @ k[:, h].T / 8**0.5
                weights = np.exp(logits - logits.max(1, keepdims=True))
                heads.append(weights / weights.sum(1, keepdims=True))
            fused = getattr(np, fusion)(np.stack(heads), axis=0)
            fused.flat[np.argsort(fused.ravel())[: int(discard * fused.size)]] = 0
            mixed = np.zeros((17, 17))
            for row in range(17):
                mixed[row] = (fused[row] + np.eye(17)[row]) / 2
                mixed[row] /= mixed[row].sum()
            rolled = mixed @ rolled
        maps.append(rolled[0, 1:].reshape(4, 4))
    return np.stack(maps)


@pytest.mark.parametrize("fusion", HEAD_FUSIONS)
@pytest.mark.parametrize("discard", [0.0, 0.4])
def test_rollout_agrees_with_a_naive_loop(fusion: HeadFusion, discard: float) -> None:
    net = vit()
    forward = vit_pass(net, gradients=False)
    found = AttentionRollout(fusion, discard)(forward, TARGETS)
    expected = torch.tensor(naive_rollout(net, forward.images, fusion, discard))
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


def test_rollout_of_uniform_attention_is_constant() -> None:
    """U has entries 1/T, U² = U, so R = ((U + I)/2)² = (3U + I)/4: 3/(4T) at every position of the image."""
    net = vit()
    for block in net.modules():
        if isinstance(block, nn.MultiheadAttention):
            assert block.in_proj_weight is not None
            nn.init.zeros_(block.in_proj_weight)
    found = AttentionRollout()(vit_pass(net, gradients=False), TARGETS)
    torch.testing.assert_close(found, torch.full((3, 4, 4), 3 / (4 * 17)))


def test_rollout_of_two_layers_by_hand() -> None:
    first, second = torch.tensor([[[0.5, 0.5], [0.0, 1.0]]]), torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    rolled = step(second, step(first, None))
    torch.testing.assert_close(rolled, torch.tensor([[[0.375, 0.625], [0.375, 0.625]]]))
    torch.testing.assert_close(step(torch.eye(2)[None], rolled), rolled)
    torch.testing.assert_close(step(4 * torch.ones(1, 2, 2), None), torch.tensor([[[5.0, 4.0], [4.0, 5.0]]]) / 9)


class Pooled(nn.Module):
    """Sequence-first attention without a class token, and the mean of the tokens; with `other`, half as many keys."""

    def __init__(self, other: bool = False) -> None:
        super().__init__()
        self.patches, self.fc, self.other = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 5), other
        self.attention = nn.MultiheadAttention(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patches(x).flatten(2).permute(2, 0, 1)
        keys = tokens[::2] if self.other else tokens
        return self.fc(self.attention(tokens, keys, keys, None, False)[0].mean(0))


def test_rollout_without_a_class_token_is_the_mean_over_the_rows() -> None:
    torch.manual_seed(0)
    net = Pooled().eval()
    forward = forward_pass(net, random_activations(3, 3, 32, 32), "patches")
    found = AttentionRollout()(forward, TARGETS)
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(3))
    tokens = net.patches(forward.images).flatten(2).permute(2, 0, 1)
    weights = net.attention(tokens, tokens, tokens)[1].detach()
    torch.testing.assert_close(found.flatten(1), (weights + torch.eye(16)).mean(1) / 2)


def test_rollout_says_what_it_cannot_do() -> None:
    for wrong, message in (({"head_fusion": "sum"}, "mean, max, min"), ({"discard": 1.0}, "discard=1.0; allowed")):
        with pytest.raises(ValueError, match=message):
            AttentionRollout(**wrong)  # type: ignore[arg-type]
    forward = forward_pass(resnet18().eval(), random_activations(1, 3, 64, 64), "layer4")
    with pytest.raises(ValueError, match="the network has none"):
        AttentionRollout()(forward, TARGETS[:1])
    with pytest.raises(ValueError, match=r"\(16, 8\).*square ones"):
        AttentionRollout()(forward_pass(Pooled(other=True), random_activations(1, 3, 32, 32), "patches"), TARGETS[:1])


def interrupt(_count: int) -> None:
    raise KeyboardInterrupt


def hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) for m in net.modules())


@pytest.mark.parametrize("chunk", [1, 2, 64])
@pytest.mark.parametrize("kind", ["rollout", "vscam"])
def test_passes_are_chunked_alone_or_together_and_leave_no_trace(kind: str, chunk: int) -> None:
    method: Any = AttentionRollout() if kind == "rollout" else VSCAM()
    net = (vit() if kind == "rollout" else vig(layers=2, k=4)).train()
    run = vit_pass if kind == "rollout" else vig_pass
    forward = run(net, chunk=chunk)
    told: list[int] = []
    forward.progress = told.append
    with torch.no_grad():
        found = method(forward, TARGETS)
    assert sum(told) == 3
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    for n in range(3):
        alone = forward_pass(net, forward.images[n : n + 1], forward.layer, gradients=True, readings=forward.readings)
        torch.testing.assert_close(method(alone, TARGETS[n : n + 1]), found[n : n + 1], atol=1e-6, rtol=1e-4)
    forward.progress = interrupt
    with pytest.raises(KeyboardInterrupt):
        method(forward, TARGETS)
    assert net.training
    net.bfloat16()
    low = method(
        forward_pass(net, forward.images.bfloat16(), forward.layer, gradients=True, readings=forward.readings), TARGETS
    )
    assert low.dtype == torch.float32
    assert low.isfinite().all()
    assert hooks(net) == 0


def vig(layers: int, k: int) -> ScenesViG:
    torch.manual_seed(0)
    net = ScenesViG(width=16, layers=layers, k=k)
    nn.init.normal_(net.position)
    return net.eval()


def vig_pass(net: nn.Module, n: int = 3, **options: Any) -> Forward:
    return forward_pass(net, random_activations(n, 3, 112, 112, seed=1), "blocks", gradients=True, **options)


def test_graph_and_max_relative_convolution_agree_with_a_naive_loop() -> None:
    x = random_activations(2, 16, 3, 3).double()
    torch.manual_seed(0)
    layer = MaxRelative(16, 4).double().eval()
    edges = layer.graph(x)
    assert edges.shape == (2, 2, 9, 4)
    relative = torch.zeros_like(x)
    for n in range(2):
        points = x[n].flatten(1).T
        unit = points / points.norm(dim=1, keepdim=True)
        for v in range(9):
            nearest = (unit - unit[v]).norm(dim=1).argsort()[:4]
            assert set(edges[0, n, v].tolist()) == set(nearest.tolist())
            assert v in nearest
            assert (edges[1, n, v] == v).all()
            relative[n, :, v // 3, v % 3] = (points[nearest] - points[v]).amax(0)
    expected = layer.mix(torch.stack([x, relative], 2).flatten(1, 2))
    torch.testing.assert_close(layer(x), expected)


def test_a_vision_graph_network_has_cam_and_can_be_cut() -> None:
    net = vig(layers=2, k=4)
    forward = vig_pass(net)
    expected = CAM()(forward, TARGETS)
    torch.testing.assert_close(GradCAM(relu=False)(forward, TARGETS) * SIDE**2, expected, atol=1e-5, rtol=1e-4)
    assert fault(net, "blocks", (112, 112)) == ""


def test_vscam_of_a_graph_without_neighbours_is_the_rectified_cam() -> None:
    forward = vig_pass(vig(layers=2, k=1))  # a vertex's nearest is itself: each probe is its own vertex
    expected = CAM()(forward, TARGETS).relu() / SIDE**2
    torch.testing.assert_close(VSCAM()(forward, TARGETS), expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("count", [None, 10])
def test_vscam_agrees_with_a_naive_loop(count: int | None) -> None:
    net = vig(layers=2, k=4)
    edges: list[Any] = []
    graphs = [m for m in net.modules() if isinstance(m, KnnGraph)]
    handles = [m.register_forward_hook(lambda _m, _a, out: edges.append(out)) for m in graphs]
    forward = vig_pass(net)
    for handle in handles:
        handle.remove()
    base = CAM()(forward, TARGETS).double().flatten(1).numpy() / SIDE**2
    found = VSCAM(count)(forward, TARGETS)
    for n in range(3):
        rolled = np.eye(SIDE**2)
        for layer in edges:
            adjacency = np.zeros_like(rolled)
            for v in range(SIDE**2):
                for p in layer[0, n, v]:
                    adjacency[v, p] += 1 / 4
            rolled = (adjacency + np.eye(SIDE**2)) / 2 @ rolled
        score = [sum(rolled[v, p] * max(base[n, p], 0) for p in range(SIDE**2)) for v in range(SIDE**2)]
        kept = np.argsort(score)[::-1][:count]
        expected = sum(score[v] * rolled[v] for v in kept)
        torch.testing.assert_close(found[n].double().flatten(), torch.tensor(expected), atol=1e-7, rtol=1e-3)


def test_vscam_by_hand() -> None:
    """Probe 1 weights both vertices equally: it detects the mean of 4 and (rectified) 0; probe 0 sees only itself."""
    probes = torch.tensor([[[1.0, 0.0], [0.5, 0.5]]])
    torch.testing.assert_close(aggregate(probes, torch.tensor([[4.0, -6.0]])), torch.tensor([[5.0, 1.0]]))
    torch.testing.assert_close(aggregate(probes, torch.tensor([[4.0, -6.0]]), 1), torch.tensor([[4.0, 0.0]]))


def test_vscam_says_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match="probes=0; allowed: 1 or more, or null"):
        VSCAM(probes=0)
    assert "no module returns edges" in VSCAM().unsupported(described("scenes_resnet"))
    forward = forward_pass(vig(1, 4), random_activations(1, 3, 112, 112), "stem.2", gradients=True)
    with pytest.raises(ValueError, match="3136 positions and the graphs 196 vertices"):
        VSCAM()(forward, TARGETS[:1])


def test_described_networks_of_the_scenes() -> None:
    for name, method in (("scenes_vit", AttentionRollout()), ("scenes_vig", VSCAM())):
        network = described(name)
        assert method.unsupported(network) == ""
        forward = network.forward(torch.zeros(1, 3, 112, 112, dtype=torch.uint8))
        assert forward.activations().shape[2:] == (SIDE, SIDE)
        assert forward.logits.shape == (1, 12)
