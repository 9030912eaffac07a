"""References of methods for transformers: block by block through torchvision's vision transformer, no autograd rules.

Relevance itself is propagated from the logit down, whereas the methods use gradients, so the two computations differ in
more than notation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torchcam.methods
from references import OWN, Case, Pair, one_by_one
from references_cam import activations_of
from sklearn.cluster import AgglomerativeClustering
from torch import Tensor, nn
from torchvision.models.vision_transformer import EncoderBlock, VisionTransformer

from eigencam.methods.attention_relevance import GAE, LeGrad, TransformerAttribution
from eigencam.methods.attnlrp import AttnLRP
from eigencam.methods.randomness import normal
from eigencam.methods.rollout import AttentionRollout
from eigencam.methods.vitcx import ViTCX
from eigencam.networks.network import Network

CHEFER = "hila-chefer/Transformer-Explainability@c3e578f, own loop"
CHEFER_GAE = "hila-chefer/Transformer-MM-Explainability@58eaea8, own loop"
LXT = "rachtibat/LRP-eXplains-Transformers@f043441, own loop without its 1e-6"
VIT_CX = "vaynexie/CausalX-ViT@a120d99, own loop over scikit-learn"


@dataclass(frozen=True, slots=True)
class Block:
    """One image's values in one block: (T, C), except the attention's, which are per head."""

    module: EncoderBlock
    before: Tensor
    normed: Tensor
    q: Tensor
    k: Tensor
    v: Tensor
    weights: Tensor
    mixed: Tensor
    attended: Tensor
    between: Tensor
    normed_again: Tensor
    hidden: Tensor
    active: Tensor
    fed: Tensor
    after: Tensor


def block_of(module: EncoderBlock, x: Tensor) -> Block:
    """Run a block on (T, C) tokens."""
    attention = module.self_attention
    heads, width = attention.num_heads, x.shape[1] // attention.num_heads
    normed = module.ln_1(x)
    projected = normed @ attention.in_proj_weight.T + attention.in_proj_bias
    q, k, v = projected.view(len(x), 3, heads, width).permute(1, 2, 0, 3)
    weights = (torch.einsum("hid,hjd->hij", q, k) / width**0.5).softmax(-1)
    mixed = torch.einsum("hij,hjd->hid", weights, v)
    joined = mixed.transpose(0, 1).flatten(1)
    attended = attention.out_proj(joined)
    between = x + attended
    normed_again = module.ln_2(between)
    hidden = module.mlp[0](normed_again)
    active = F.gelu(hidden)
    fed = module.mlp[3](active)
    return Block(module, x, normed, q, k, v, weights, mixed, attended, between, normed_again, hidden, active, fed,
                 between + fed)  # fmt: skip


def through(module: VisionTransformer, image: Tensor) -> tuple[Tensor, list[Block], Tensor]:
    """Return the tokens (T, C) before the first block, the blocks, and the logits (K,) of an image (3, H, W)."""
    tokens = module._process_input(image[None])[0]
    x = torch.cat([module.class_token[0], tokens]) + module.encoder.pos_embedding[0]
    blocks: list[Block] = []
    for each in module.encoder.layers:
        assert isinstance(each, EncoderBlock)
        blocks.append(block_of(each, x))
        x = blocks[-1].after
    return tokens, blocks, module.heads(module.encoder.ln(x)[0])


def gradients_of(module: nn.Module, image: Tensor, target: Tensor) -> tuple[list[Block], list[Tensor]]:
    """Return the blocks, and the gradients of the target's logit with respect to their weights."""
    assert isinstance(module, VisionTransformer)
    _, blocks, logits = through(module, image)
    return blocks, list(torch.autograd.grad(logits[target], [block.weights for block in blocks]))


def grid(row: Tensor) -> Tensor:
    """Return (1, h, w) from the class token's row (T,), for a square grid of tokens."""
    side = round((len(row) - 1) ** 0.5)
    return row[1:].detach().view(1, side, side)


def rollout(module: nn.Module, x: Tensor, _target: Tensor) -> Tensor:
    """Return the class token's row of the product of the blocks' mean attentions with half an identity."""
    assert isinstance(module, VisionTransformer)
    product = torch.eye(len(through(module, x[0])[1][0].before), dtype=x.dtype)
    for block in through(module, x[0])[1]:
        product = (block.weights.mean(0) + torch.eye(len(product), dtype=x.dtype)) / 2 @ product
    return grid(product[0])


def gae(module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Return the class token's row of R, the sum over the blocks."""
    blocks, gradients = gradients_of(module, x[0], target)
    total = torch.eye(len(blocks[0].before), dtype=x.dtype)
    for block, gradient in zip(blocks, gradients, strict=True):
        total = total + (gradient * block.weights).clamp(min=0).mean(0) @ total
    return grid(total[0])


def divided(a: Tensor, b: Tensor) -> Tensor:
    """Return a / b, 0 where b is 0."""
    return torch.where(b != 0, a / torch.where(b != 0, b, 1.0), 0.0)


def positive(relevance: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Return the relevance of x (T, C) by its positive products with a weight (D, C)."""
    pairs = [(x.clamp(min=0), weight.clamp(min=0)), (x.clamp(max=0), weight.clamp(max=0))]
    share = divided(relevance, pairs[0][0] @ pairs[0][1].T + pairs[1][0] @ pairs[1][1].T)
    return pairs[0][0] * (share @ pairs[0][1]) + pairs[1][0] * (share @ pairs[1][1])


def proportional(relevance: Tensor, x: Tensor, weight: Tensor, out: Tensor) -> Tensor:
    """Return the relevance of x (T, C) in proportion to its products with a weight (D, C), out (T, D)."""
    return x * (divided(relevance, out) @ weight)


def totals(relevance: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the authors' shares for the two values of a sum; their totals have the ratio of the values' totals."""
    first, second = (divided(relevance * part, a + b) for part in (a, b))
    sizes = first.sum().abs(), second.sum().abs()
    whole = relevance.sum() / (sizes[0] + sizes[1])
    return first * sizes[0] * whole / first.sum(), second * sizes[1] * whole / second.sum()


def attribution(module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
    """Return transformer attribution, with relevance propagated block by block."""
    blocks, gradients = gradients_of(module, x[0], target)
    assert isinstance(module, VisionTransformer)
    head = module.heads.head
    assert isinstance(head, nn.Linear)
    with torch.no_grad():
        last = module.encoder.ln(blocks[-1].after)
        relevance = torch.zeros_like(last)
        one = F.one_hot(target, head.out_features).to(x.dtype)
        relevance[:1] = positive(one, last[:1], head.weight)
        found = []
        for block in reversed(blocks):
            relevance, of_weights = down(block, relevance)
            found.append(of_weights)
        product = torch.eye(len(relevance), dtype=x.dtype)
        for of_weights, gradient in zip(reversed(found), gradients, strict=True):
            product = product + (gradient * of_weights).clamp(min=0).mean(0) @ product
    return grid(product[0])


def weights_of(mlp: nn.Sequential) -> tuple[Tensor, Tensor]:
    """Return the weights of an MLP's two linear layers."""
    first, second = (each for each in mlp if isinstance(each, nn.Linear))
    return first.weight, second.weight


def down(block: Block, relevance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the relevance (T, C) before a block and that of its weights (heads, T, T), from the one behind it."""
    attention, (up, back) = block.module.self_attention, weights_of(block.module.mlp)
    kept, fed = totals(relevance, block.between, block.fed)
    fed = positive(positive(fed, block.active, back), block.normed_again, up)
    kept, attended = totals(kept + fed, block.before, block.attended)
    joined = block.mixed.transpose(0, 1).flatten(1)
    mixed = positive(attended, joined, attention.out_proj.weight).view(len(relevance), *_heads(block)).transpose(0, 1)
    share = divided(mixed, block.mixed) / 2
    of_weights = block.weights * torch.einsum("hid,hjd->hij", share, block.v)
    of_v = block.v * torch.einsum("hij,hid->hjd", block.weights, share)
    scores = torch.einsum("hid,hjd->hij", block.q, block.k)
    share = divided(of_weights, scores) / 2
    of_q = block.q * torch.einsum("hij,hjd->hid", share, block.k)
    of_k = block.k * torch.einsum("hij,hid->hjd", share, block.q)
    projected = torch.stack([of_q, of_k, of_v]).permute(2, 0, 1, 3).flatten(1)
    return kept + positive(projected, block.normed, attention.in_proj_weight), of_weights


def _heads(block: Block) -> tuple[int, int]:
    return block.q.shape[0], block.q.shape[2]


def lrp(cp: bool) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Return AttnLRP, or CP-LRP, with relevance propagated to the image."""

    def made(module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        assert isinstance(module, VisionTransformer)
        head = module.heads.head
        assert isinstance(head, nn.Linear)
        with torch.no_grad():
            tokens, blocks, logits = through(module, x[0])
            last = module.encoder.ln(blocks[-1].after)
            relevance = torch.zeros_like(last)
            one = F.one_hot(target, head.out_features) * logits
            relevance[:1] = proportional(one, last[:1], head.weight, logits[None])
            relevance = normed(relevance, blocks[-1].after, module.encoder.ln, last)
            for block in reversed(blocks):
                relevance = lower(block, relevance, cp)
            of_tokens = divided(relevance * tokens_of(tokens), blocks[0].before)[1:]
        image = x.clone().requires_grad_()
        stem = module._process_input(image)[0]
        (gradient,) = torch.autograd.grad(stem, image, divided(of_tokens, tokens))
        return (image * gradient).sum(1).detach()

    return made


def tokens_of(tokens: Tensor) -> Tensor:
    """Return patches (T - 1, C) preceded by a row for the class token, which has no pixels."""
    return torch.cat([torch.zeros_like(tokens[:1]), tokens])


def normed(relevance: Tensor, x: Tensor, norm: nn.Module, out: Tensor) -> Tensor:
    """Return the relevance before a LayerNorm whose deviation is a constant."""
    assert isinstance(norm, nn.LayerNorm)
    deviation = (x.var(1, correction=0, keepdim=True) + norm.eps).sqrt()
    share = divided(relevance, out) * norm.weight / deviation
    return x * (share - share.mean(1, keepdim=True))


def lower(block: Block, relevance: Tensor, cp: bool) -> Tensor:
    """Return the relevance (T, C) before a block."""
    attention, (up, back) = block.module.self_attention, weights_of(block.module.mlp)
    share = divided(relevance, block.after)
    fed = proportional(share * block.fed, block.active, back, block.fed)
    fed = proportional(fed, block.normed_again, up, block.hidden)
    relevance = share * block.between + normed(fed, block.between, block.module.ln_2, block.normed_again)
    share = divided(relevance, block.between)
    joined = block.mixed.transpose(0, 1).flatten(1)
    mixed = proportional(share * block.attended, joined, attention.out_proj.weight, block.attended)
    each = divided(mixed.view(len(relevance), *_heads(block)).transpose(0, 1), block.mixed) / (1 if cp else 2)
    of_v = block.v * torch.einsum("hij,hid->hjd", block.weights, each)
    of_q, of_k = torch.zeros_like(of_v), torch.zeros_like(of_v)
    if not cp:
        of_weights = block.weights * torch.einsum("hid,hjd->hij", each, block.v)
        scores = torch.einsum("hid,hjd->hij", block.q, block.k)
        of_scores = (of_weights - block.weights * of_weights.sum(-1, keepdim=True)) * scores / block.q.shape[2] ** 0.5
        each = divided(of_scores, scores) / 2
        of_q = block.q * torch.einsum("hij,hjd->hid", each, block.k)
        of_k = block.k * torch.einsum("hij,hid->hjd", each, block.q)
    projected = torch.stack([of_q, of_k, of_v]).permute(2, 0, 1, 3).flatten(1)
    out = torch.stack([block.q, block.k, block.v]).permute(2, 0, 1, 3).flatten(1)
    below = proportional(projected, block.normed, attention.in_proj_weight, out)
    return share * block.before + normed(below, block.before, block.module.ln_1, block.normed)


def legrad(blocks: int) -> Callable[[nn.Module, Tensor, Tensor], Tensor]:
    """Return torchcam's LeGrad over the last blocks, with its mean turned into a sum."""

    def made(module: nn.Module, x: Tensor, target: Tensor) -> Tensor:
        assert isinstance(module, VisionTransformer)
        layers = [f"encoder.layers.{name}" for name, _ in module.encoder.layers.named_children()][-blocks:]
        with torchcam.methods.LeGrad(module, list(layers)) as cam:
            (found,) = cam(int(target), module(x), normalized=False)
        return blocks * found.detach().view(1, *found.shape[-2:])

    return made


def vit_cx(distance: float) -> Callable[[Case], Tensor]:
    """Return the authors' sum over the clusters' masks, with the noise of `ViTCX`."""

    def made(case: Case) -> Tensor:
        module, found = case.module(), []
        side = round((activations_of(case).shape[1] - 1) ** 0.5)
        for n, (x, tokens, target) in enumerate(zip(case.inputs, activations_of(case), case.targets, strict=True)):
            maps = tokens[1:].T.reshape(1, -1, side, side).float()
            maps = F.interpolate(maps, x.shape[1:], mode="bilinear", align_corners=False)[0]
            masks = torch.stack([(one - one.min()) / (one.max() - one.min()) for one in maps])
            flat = masks.flatten(1)
            cosines = flat @ flat.T / (flat.norm(dim=1)[:, None] * flat.norm(dim=1))
            options: dict[str, Any] = {"n_clusters": None, "distance_threshold": distance, "metric": "precomputed"}
            fit = AgglomerativeClustering(linkage="complete", **options).fit(1 - cosines.numpy())
            order = dict.fromkeys(fit.labels_.tolist())  # by first channels
            sums = [masks[torch.from_numpy(fit.labels_ == label)].sum(0) for label in order]
            masks = torch.stack([(one - one.min()) / (one.max() - one.min()) for one in sums])
            scores = []
            with torch.no_grad():
                p = module(x[None]).softmax(1)[0, target]
                for k, mask in enumerate(masks):
                    noise = 0.1 * normal(torch.tensor([n]), tuple(x.shape), k)[0] * (1 - mask)
                    answers = module(torch.stack([x * mask + noise, x + noise])).softmax(1)[:, target]
                    scores.append(answers[0] - answers[1] + p)
            found.append((torch.stack(scores)[:, None, None] * masks / masks.sum(0)).sum(0) / len(masks))
        return torch.stack(found)

    return made


def of_torchvision(network: Network) -> str:
    """Return why the loops cannot run on a network."""
    module = network.module
    known = isinstance(module, VisionTransformer) and len(module.heads) == 1
    return "" if known else "the reference goes through torchvision's vision transformer"


PAIRS = [
    Pair("rollout", AttentionRollout(), OWN, one_by_one(rollout), unfit=of_torchvision),
    Pair("gae", GAE(), CHEFER_GAE, one_by_one(gae), unfit=of_torchvision),
    Pair("transformer_attribution", TransformerAttribution(), CHEFER, one_by_one(attribution), unfit=of_torchvision),
    Pair("attnlrp", AttnLRP(), LXT, one_by_one(lrp(cp=False)), unfit=of_torchvision),
    Pair("cp_lrp", AttnLRP("cp"), LXT, one_by_one(lrp(cp=True)), unfit=of_torchvision),
    Pair("legrad", LeGrad(), "torchcam, sum of blocks", one_by_one(legrad(2)), "torchcam", of_torchvision),
    Pair("vitcx distance=0.3", ViTCX(0.3), VIT_CX, vit_cx(0.3), unfit=of_torchvision),
]
