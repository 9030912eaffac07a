"""Attention read from the operations, and methods that use it: every way to write it, closed forms, sums."""

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import references_transformers
import torch
import torch.nn.functional as F
from references import Case, Pair, case_of, compare
from torch import Tensor, nn
from toys import random_activations

from eigencam.methods.attention_relevance import GAE, LeGrad, TransformerAttribution, rules
from eigencam.methods.attnlrp import AttnLRP
from eigencam.methods.base import Method, maps_of
from eigencam.methods.refusal import refusal
from eigencam.methods.relevance import DeepLIFT, ExcitationBackprop
from eigencam.methods.rollout import AttentionRollout
from eigencam.methods.vitcx import ViTCX, grouped
from eigencam.networks.network import Network, Preprocess
from eigencam.passes.forward import Forward, forward_pass
from eigencam.passes.precision import float32_precision
from eigencam.passes.readings import Reading
from eigencam.passes.recorded_graph import record_graph

METHODS: tuple[Method, ...] = (
    AttentionRollout(), GAE(), TransformerAttribution(), LeGrad(), LeGrad(None), AttnLRP(), AttnLRP("cp"),
    AttnLRP("cp", 0.05, 0.25),
)  # fmt: skip
TARGETS = torch.tensor([4, 0, 2])
IMAGES = random_activations(3, 3, 32, 32, seed=1).double()
WIDTH, HEADS = 24, 2
"""With few inputs a linear unit may have no positive contribution, and transformer attribution then loses relevance."""
TOKENS = Reading((1,), (4, 4), front=1)

BOTH: Any = "both"
Attend = Callable[[Tensor, Tensor, Tensor], Tensor]


def by_operators(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.matmul(q, k.mT) * q.shape[-1] ** -0.5
    return F.dropout(scores.softmax(-1), 0.5, training=False) @ v


def by_einsum(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    scores = torch.einsum("bhid, bhjd -> bhij", q, k) / q.shape[-1] ** 0.5
    return torch.einsum("bhij,bhjd->bhid", torch.softmax(scores, dim=-1), v)


def by_bmm(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    n, rest = len(q), [x.flatten(0, 1) for x in (q, k, v)]
    weights = F.softmax(torch.bmm(rest[0] * rest[0].shape[-1] ** -0.5, rest[1].transpose(1, 2)), 2)
    return torch.bmm(weights, rest[2]).unflatten(0, (n, -1))


def by_reshaped_weights(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(3).view(-1, q.shape[2], q.shape[2])
    return (weights @ v.reshape(-1, *v.shape[2:])).view_as(v)


WRITTEN: dict[str, Attend] = {
    "fused": F.scaled_dot_product_attention,
    "operators": by_operators,
    "einsum": by_einsum,
    "bmm": by_bmm,
    "weights in another form": by_reshaped_weights,
    "fused, with a mask": lambda q, k, v: F.scaled_dot_product_attention(
        q, k, v, attn_mask=torch.ones(q.shape[2], q.shape[2], dtype=torch.bool)
    ),
}


class Block(nn.Module):
    """Attention and MLP, each with a norm before and a shortcut around it."""

    def __init__(self, attend: Attend, bias: bool = True) -> None:
        super().__init__()
        self.attend = attend
        self.n1, self.n2 = nn.LayerNorm(WIDTH, bias=bias), nn.LayerNorm(WIDTH, bias=bias)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias), nn.Linear(WIDTH, WIDTH, bias)
        self.up, self.down = nn.Linear(WIDTH, 2 * WIDTH, bias), nn.Linear(2 * WIDTH, WIDTH, bias)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.n1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(self.attend(q, k, v).transpose(1, 2).flatten(2))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class Net(nn.Module):
    """A vision transformer with two blocks; the head reads the class token, or the patches' mean."""

    def __init__(self, attend: Attend, bias: bool = True, *, pooled: bool = False, front: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches = nn.Conv2d(3, WIDTH, 8, 8, bias=bias)
        self.front = nn.Parameter(torch.randn(1, front, WIDTH) if bias else torch.zeros(1, front, WIDTH))
        self.blocks = nn.ModuleList(Block(attend, bias) for _ in range(2))
        self.norm, self.head, self.pooled = nn.LayerNorm(WIDTH, bias=bias), nn.Linear(WIDTH, 5, bias), pooled
        for parameter in self.parameters():
            if parameter.ndim > 1 and parameter is not self.front:
                nn.init.normal_(parameter, std=0.5)
        self.double().eval()

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.front.expand(len(x), -1, -1), self.patches(x).flatten(2).mT], 1)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return self.head(x[:, self.front.shape[1] :].mean(1) if self.pooled else x[:, 0])


def forward_of(net: nn.Module, images: Tensor = IMAGES, layer: str = "blocks", **options: Any) -> Forward:
    layer = "blocks.1" if layer == "blocks" else layer
    reading = {layer: TOKENS} if isinstance(net, Net) and net.front.shape[1] == 1 else {}
    return forward_pass(net, images, layer, readings=reading, **options)


def network_of(net: nn.Module, layer: str = "blocks.1") -> Network:
    return Network("net", net.float().eval(), layer, "own", "", Preprocess((32, 32)))


@pytest.mark.parametrize("written", WRITTEN)
def test_maps_do_not_depend_on_how_attention_is_written(written: str) -> None:
    plain, other = forward_of(Net(by_operators)), forward_of(Net(WRITTEN[written]))
    for method in METHODS:
        torch.testing.assert_close(
            maps_of(method, other, TARGETS), maps_of(method, plain, TARGETS), rtol=1e-5, atol=1e-9
        )


def test_a_multi_head_module_is_read_in_either_order_of_axes() -> None:
    class First(nn.Module):
        """torch's own encoder layer, tokens first, as torchvision's network has it with images first."""

        def __init__(self, batch_first: bool) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.patches = nn.Conv2d(3, WIDTH, 8, 8)
            self.blocks = nn.ModuleList(
                nn.TransformerEncoderLayer(WIDTH, HEADS, 16, 0.0, "gelu", norm_first=True, batch_first=batch_first)
                for _ in range(2)
            )
            self.head, self.first = nn.Linear(WIDTH, 5), batch_first
            self.double().eval()

        def forward(self, x: Tensor) -> Tensor:
            x = self.patches(x).flatten(2).mT
            x = x if self.first else x.transpose(0, 1)
            for block in self.blocks:
                x = block(x)
            return self.head(x.mean(1 if self.first else 0))

    ours, theirs = (forward_of(First(first), layer="patches") for first in (True, False))
    for method in METHODS:
        found = maps_of(method, ours, TARGETS)
        assert found.std() > 0
        torch.testing.assert_close(maps_of(method, theirs, TARGETS), found, rtol=1e-4, atol=1e-9)


class Windows(nn.Module):
    """Attention of one kind over a 4 x 4 grid, and a head."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.blocks = kind, nn.Sequential(nn.Conv2d(3, WIDTH, 8, 8), nn.Identity())
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(x)
        n, tokens = len(x), x.flatten(2).mT
        if self.kind == "rows":
            x = x.permute(0, 2, 3, 1)[:, None].flatten(0, 1)[:, None]
            x = F.scaled_dot_product_attention(x.flatten(0, 2), x.flatten(0, 2), x.flatten(0, 2)).view(n, -1, WIDTH)
        elif self.kind == "rows by bmm":
            x = x.permute(0, 2, 3, 1).flatten(0, 1)
            x = torch.bmm(torch.bmm(x, x.mT).softmax(-1), x).view(n, -1, WIDTH)
        elif self.kind == "channels":
            x = (torch.matmul(tokens.mT, tokens).softmax(-1) @ tokens.mT).mT
        elif self.kind == "fewer keys":
            x = F.scaled_dot_product_attention(tokens[:, None], tokens[:, None, ::2], tokens[:, None, ::2])[:, 0]
        elif self.kind == "random":
            x = F.scaled_dot_product_attention(tokens[:, None], tokens[:, None], tokens[:, None], dropout_p=0.5)[:, 0]
        else:
            x = tokens
        return self.head(x.mean(1))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("rows", "within windows, for which no source has a rule"),
        ("rows by bmm", "within windows, for which no source has a rule"),
        ("channels", "is not over the positions of the image"),
        ("fewer keys", r"by a matrix \(16, 8\); a product over layers needs square ones"),
        ("random", "the network has none"),
        ("none", "the network has none"),
    ],
)
def test_attention_that_is_not_of_positions_to_positions_is_refused(kind: str, said: str) -> None:
    network = network_of(Windows(kind), "blocks.0")
    for method in (AttentionRollout(), GAE(), TransformerAttribution(), LeGrad()):
        why = refusal(method, network)
        assert re.search(said, why), why
    assert refusal(AttnLRP(), network)


def test_other_relevance_methods_refuse_transformers() -> None:
    network = network_of(Net(by_operators))
    for method in (DeepLIFT(), ExcitationBackprop()):
        assert "it has no rule for " in (why := refusal(method, network))
        assert "matrix_product" in why


class Hand(nn.Module):
    """One uniform attention and a shortcut; a linear head on the class token, which is 0."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks, self.v = nn.Conv2d(3, WIDTH, 8, 8), nn.Linear(WIDTH, WIDTH, bias=False)
        self.head = nn.Linear(WIDTH, 5, bias=False)
        self.double()

    def tokens(self, x: Tensor) -> Tensor:
        return F.pad(self.blocks(x).flatten(2).mT, (0, 0, 1, 0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens(x)
        weights = (0 * x @ x.mT).softmax(-1)
        return self.head((x + weights @ self.v(x))[:, 0])


def test_gae_and_legrad_by_hand() -> None:
    """A = 1/T, dy/dA = w v_j in the class token's row (GAE), s = head(mean tokens): w v_j / T in all rows (LeGrad)."""
    net = Hand()
    forward = forward_pass(net, IMAGES, "blocks")
    with torch.no_grad():
        evidence = torch.einsum("ntc,nc->nt", net.v(net.tokens(IMAGES)), net.head.weight[TARGETS])[:, 1:]
    expected = (evidence.relu() / 17).float().view(3, 4, 4)
    torch.testing.assert_close(maps_of(GAE(), forward, TARGETS), expected)
    torch.testing.assert_close(maps_of(LeGrad(), forward, TARGETS), expected)
    nn.init.zeros_(net.head.weight)
    for method in METHODS[1:]:
        assert not maps_of(method, forward_pass(net, IMAGES, "blocks"), TARGETS).any()


def test_the_rows_that_the_head_reads_are_found() -> None:
    """With a class token that the head leaves out, the map is the mean over the patches' rows."""
    net = Net(by_operators, pooled=True)
    found = maps_of(GAE(), forward_of(net), TARGETS)
    graph = record_graph(net, IMAGES)
    product = torch.eye(17).double().repeat(3, 1, 1)
    for weights, gradient in zip(graph.weights(), graph.gradients(TARGETS), strict=True):
        product = product + (weights * gradient).detach().relu().mean(1) @ product
    expected = (product - torch.eye(17))[:, 1:, 1:].mean(1).view(3, 4, 4)
    torch.testing.assert_close(found, expected.float())


@pytest.mark.parametrize("bias", [True, False])
def test_transformer_attribution_keeps_the_relevance_of_every_image(bias: bool) -> None:
    graph = record_graph(Net(by_operators, bias), IMAGES)
    scores = graph.scores(TARGETS)
    found = graph.back(scores, graph.streams, rules(3), (1 / scores).detach())
    for stream, gradient in zip(graph.streams, found, strict=True):
        torch.testing.assert_close((stream * gradient).detach().sum((1, 2)), torch.ones(3).double())


def test_cp_lrp_keeps_the_logit_and_attnlrp_does_not() -> None:
    forward = forward_of(Net(by_operators, bias=False))
    logits = forward.logits.gather(1, TARGETS[:, None])[:, 0]
    for method in (AttnLRP("cp"), AttnLRP("cp", gamma_linear=0.1, gamma_conv=0.25)):
        torch.testing.assert_close(maps_of(method, forward, TARGETS).sum((1, 2)), logits, rtol=1e-4, atol=1e-5)
    missed = (maps_of(AttnLRP(), forward, TARGETS).sum((1, 2)) - logits).abs()
    assert (missed > 0.02 * logits.abs()).all()


def test_what_the_softmax_of_attnlrp_loses() -> None:
    """x times the softmax's gradient is the published rule, whose sum differs from the relevance by a known amount."""
    x, relevance = random_activations(4, 2).double().requires_grad_(), random_activations(4, 2, seed=3).double()
    s = x.softmax(-1)
    found = x.detach() * torch.autograd.grad(s, x, relevance / s.detach())[0]
    x, s = x.detach(), s.detach()
    torch.testing.assert_close(found, x * (relevance - s * relevance.sum(-1, keepdim=True)))
    leak = (x * relevance).sum() - ((s * x).sum(-1) * relevance.sum(-1)).sum()
    torch.testing.assert_close(found.sum(), leak)
    assert (leak - relevance.sum()).abs() > 0.1


def test_one_recorded_pass_serves_all_and_changes_nothing() -> None:
    net, calls = Net(F.scaled_dot_product_attention), list[int]()
    alone = [maps_of(method, forward_of(net), TARGETS) for method in METHODS]
    net.register_forward_hook(lambda _m, args, _out: calls.append(len(args[0])))
    forward = forward_of(net)
    together = [maps_of(method, forward, TARGETS) for method in reversed(METHODS)][::-1]
    assert calls == [3, 3]  # the batch's pass, and the recorded one
    for one, other in zip(together, alone, strict=True):
        assert torch.equal(one, other)
    for method, whole in zip(METHODS, alone, strict=True):
        parts = maps_of(method, forward_of(net, chunk=2), TARGETS)
        single = torch.cat([maps_of(method, forward_of(net, IMAGES[n : n + 1]), TARGETS[n : n + 1]) for n in range(3)])
        torch.testing.assert_close(parts, whole)
        torch.testing.assert_close(single, whole)
    net.bfloat16()
    for method in METHODS:
        low = maps_of(method, forward_of(net, IMAGES.bfloat16()), TARGETS)
        assert low.dtype == torch.float32
        assert low.isfinite().all()
    assert all(p.requires_grad and p.grad is None for p in net.parameters())


def test_autocast_is_for_the_network_alone() -> None:
    net = Net(F.scaled_dot_product_attention).float()
    images = IMAGES.float()
    for method in METHODS:
        exact = maps_of(method, forward_of(net, images), TARGETS)
        with float32_precision(autocast=True):
            coarse = maps_of(method, forward_of(net, images), TARGETS)
        assert coarse.dtype == torch.float32
        assert torch.corrcoef(torch.stack([exact.flatten(), coarse.flatten()]))[0, 1] > 0.98


class OneChannel(nn.Module):
    """A bright square, its attention, and two logits."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.head = nn.Conv2d(3, 1, 8, 8), nn.Linear(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(x).mean((2, 3)))


def test_vitcx_of_one_mask_is_its_score_where_it_shows_anything() -> None:
    torch.manual_seed(0)
    net, x, y = OneChannel(), IMAGES[:2].float(), torch.tensor([0, 1])
    forward = forward_pass(net, x, "blocks")
    found = maps_of(ViTCX(sigma=0.0), forward, y)
    mask = F.interpolate(forward.activations(), (32, 32), mode="bilinear")
    mask = (mask - mask.amin((2, 3), keepdim=True)) / (
        mask.amax((2, 3), keepdim=True) - mask.amin((2, 3), keepdim=True)
    )
    with torch.no_grad():
        score = net(x * mask).softmax(1).gather(1, y[:, None])
    torch.testing.assert_close(found, score[:, :, None] * (mask[:, 0] > 0))
    flat = forward_pass(net, torch.zeros_like(x), "blocks")
    assert not maps_of(ViTCX(), flat, y).any()  # a constant channel is no mask


def test_groups_of_masks() -> None:
    nan = torch.nan
    table = [
        [0, nan, 0.05, 0.5, 0.2],
        [nan] * 5,
        [0.05, nan, 0, 0.5, 0.09],
        [0.5, nan, 0.5, 0, 0.5],
        [0.2, nan, 0.09, 0.5, 0],
    ]
    distances = torch.tensor(table).numpy()
    assert grouped(distances, 0.1).tolist() == [1, 0, 1, 2, 3]
    assert grouped(distances, 0.05).tolist() == [1, 0, 2, 3, 4]  # a distance equal to the limit is too large
    assert grouped(distances, 0.3).tolist() == [1, 0, 1, 2, 1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: LeGrad(0), "blocks=0; allowed: 1 or more, or null"),
        (lambda: AttnLRP(BOTH), "attention='both'; allowed: attnlrp, cp"),
        (lambda: AttnLRP(gamma_conv=-1), "gamma_conv=-1; allowed: 0 or more"),
        (lambda: ViTCX(distance=0), "distance=0; allowed: above 0, up to 1"),
    ],
)
def test_wrong_settings_are_refused(wrong: Callable[[], Method], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        wrong()


@cache
def scenes() -> Case:
    return case_of("scenes_vit", 2, ("dataset=scenes",))


@pytest.mark.parametrize("pair", references_transformers.PAIRS, ids=lambda pair: pair.name)
def test_maps_are_those_of_independent_code(pair: Pair) -> None:
    assert not pair.refusal(scenes().network)
    found = compare(pair, scenes())
    assert len(found.rhos) == 2
    assert min(found.rhos) > 0.9999
    assert max(found.differences) < 1e-5
