"""Optimised masks: each part in closed form, the descent compared with one by hand, and images with a known answer."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from scipy.ndimage import gaussian_filter
from test_every_method import random_network
from torch import Tensor, nn
from toys import colored, network, random_activations

from eigencam.datasets.scenes import Scenes
from eigencam.methods import optimised_masks as om
from eigencam.methods.optimised_masks import ExtremalPerturbation, MeaningfulPerturbation
from eigencam.methods.randomness import uniform
from eigencam.passes.forward import Forward, forward_pass

Floats = NDArray[np.float64]
TARGETS = torch.tensor([3, 2, 1])


class Texture(nn.Module):
    """Class 0 responds to contrast in rows 8 to 24 and columns 24 to 40; class 1 is constant; class 2 is the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        energy = self.conv(x).abs().mean(1)
        inside = energy[:, 8:24, 24:40].mean((1, 2))
        rest = energy.mean((1, 2)) - inside * 256 / energy[0].numel()
        return torch.stack([6 * inside, torch.full_like(inside, 3), 2 * rest], 1)


def texture(count: int = 2) -> Forward:
    return forward_pass(Texture(), random_activations(count, 3, 48, 64), "conv")


def box() -> Tensor:
    inside = torch.zeros(48, 64, dtype=torch.bool)
    inside[8:24, 24:40] = True
    return inside


@pytest.fixture(scope="module")
def scenes() -> tuple[Forward, Tensor]:
    """The embedded network and two scenes that it classifies with confidence."""
    from hydra import compose, initialize_config_module

    from eigencam.networks.network import load_network

    with initialize_config_module("eigencam.configs", version_base="1.3"):
        net = load_network(compose("run", ["model=scenes_vgg"]).model)
    data = Scenes(count=400, split="test")
    pixels = torch.from_numpy(np.stack([net.preprocess(data.image(i))[0] for i in (3, 40)]))
    labels = torch.tensor([data.truth(i).label for i in (3, 40)])
    return net.forward(pixels), labels


# ------------------------------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("beta", [1.0, 2.0, 3.0])
def test_variation_is_the_sum_over_positions(beta: float) -> None:
    mask = torch.rand(2, 4, 5, dtype=torch.float64)
    expected = torch.zeros(2, dtype=torch.float64)
    for y in range(4):
        for x in range(5):
            down = mask[:, y + 1, x] - mask[:, y, x] if y < 3 else 0 * expected
            right = mask[:, y, x + 1] - mask[:, y, x] if x < 4 else 0 * expected
            expected += (down**2 + right**2) ** (beta / 2)
    torch.testing.assert_close(om.variation(mask, beta), expected, atol=1e-4, rtol=0)
    flat = torch.ones(1, 3, 3, requires_grad=True)
    om.variation(flat, beta).sum().backward()
    assert flat.grad is not None
    assert not flat.grad.any()


def test_misfit_of_areas() -> None:
    masks = torch.zeros(3, 10, 10)
    masks[:, :2, :5] = 1  # a tenth
    found = om.misfit(masks, torch.tensor([90, 70, 96]))
    torch.testing.assert_close(found, torch.tensor([0.0, 0.2, 0.06]))
    even = om.misfit(torch.full((1, 10, 10), 0.5), torch.tensor([75]))
    torch.testing.assert_close(even, torch.tensor([0.25]))


def test_levels_of_perturbation() -> None:
    x = random_activations(2, 3, 9, 12)
    blurred, faded = om.pyramid(x, "blur"), om.pyramid(x, "fade")
    assert torch.equal(blurred[:, -1], x)
    torch.testing.assert_close(blurred[:, 0], om.gaussian_blur(x, 20, "zero"))
    masks = torch.rand(2, 9, 12)
    torch.testing.assert_close(om.perturbed(faded, masks), masks[:, None] * x)
    for level, share in enumerate(np.arange(8) / 7):
        torch.testing.assert_close(om.perturbed(blurred, torch.full((2, 9, 12), share)), blurred[:, level])
    ramp = torch.zeros(1, 9, 12, requires_grad=True)  # at the most changed level the gradient passes
    om.perturbed(blurred[:1], ramp).sum().backward()
    assert ramp.grad is not None
    torch.testing.assert_close(ramp.grad, 7 * (blurred[:1, 1] - blurred[:1, 0]).sum(1))


def test_it_starts_from_the_smallest_disc_that_is_enough() -> None:
    forward, targets = texture(), torch.tensor([0, 2])
    blurred = forward.normalized(MeaningfulPerturbation(blur=3)._resized(forward, 0)[1])
    found = MeaningfulPerturbation(blur=3).start(forward, targets)
    y, x = np.mgrid[-24:24, -32:32]
    for n, target in enumerate(targets.tolist()):
        radii = np.arange(0, 40 + 3 + 5, 5)
        discs = [gaussian_filter((y**2 + x**2 <= r**2) * 1.0, 3) for r in radii]
        tensors = [torch.from_numpy(disc).float() for disc in discs]
        shown = torch.stack([forward.images[n] * (1 - d) + blurred[n] * d for d in tensors])
        scores = forward.module(shown).softmax(1)[:, target].double()
        left = (scores - scores[-1]) / (forward.logits.softmax(1)[n, target] - scores[-1])
        first = next(k for k in range(len(radii)) if left[k] < 0.01)
        assert 0 < first < len(radii) - 1 or target == 2
        torch.testing.assert_close(found[n], tensors[first], atol=1e-5, rtol=0)


def test_the_file_is_blurred_at_its_own_size_and_a_changed_image_as_much() -> None:
    generator = np.random.default_rng(0)
    file = np.kron(generator.integers(0, 255, (24, 32, 3)), np.ones((8, 8, 1))).astype(np.uint8)  # 192 x 256
    small = np.array(Image.fromarray(file).resize((64, 48), Image.Resampling.BILINEAR))
    forward = colored(forward_pass(Texture(), random_activations(1, 3, 48, 64), "conv"))
    forward.pixels, forward.regions = torch.from_numpy(small).permute(2, 0, 1)[None], ((0.0, 0.0, 256.0, 192.0),)
    method = MeaningfulPerturbation(blur=12)
    changed = method._resized(forward, 4)[1].float()  # 12 pixels of the file are 3 of the input
    forward.original = lambda n: file
    clear, dull = method._resized(forward, 4)
    expected = Image.fromarray(file).filter(ImageFilter.GaussianBlur(12)).resize((68, 52), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(dull[0].permute(1, 2, 0).numpy(), np.array(expected))
    assert clear.shape == (1, 3, 52, 68)
    assert (changed - dull.float()).abs().mean() < 3
    assert (
        method._resized(forward.repeat(forward.images + 1, gradients=False), 4)[1].float() - changed
    ).abs().max() > 3


def test_where_nothing_is_taken_away_it_starts_from_the_whole_image() -> None:
    forward = forward_pass(Texture(), torch.zeros(1, 3, 48, 64), "conv")
    assert (MeaningfulPerturbation().start(forward, torch.tensor([0])) > 0.5).all()


# ----------------------------------------------------------------------------------------------------------- descent


def pillow(x: Floats, radius: float) -> Floats:
    """The authors' smoothing: Pillow's filter on 8 bits."""
    return np.array(Image.fromarray((x * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(radius))) / 255


def by_hand(forward: Forward, n: int, target: int, steps: int, beta: float) -> Floats:
    """The authors' loop in NumPy and float64, with their gradient; only the network's gradient is torch's.

    The image comes from the file; without a file it is the input in 8 bits.
    """
    file = Image.fromarray(forward.original(n) if forward.original else forward.pixels[n].permute(1, 2, 0).numpy())
    h, w = forward.images.shape[2:]
    pixels = file, file.filter(ImageFilter.GaussianBlur(10))
    wide, wide_dull = (
        forward.normalized(torch.from_numpy(np.array(x.resize((w + 4, h + 4), 2))).permute(2, 0, 1)[None]).double()
        for x in pixels
    )
    disc = MeaningfulPerturbation().start(forward, torch.full((len(forward),), target))[n].double().numpy()
    span = disc.max() - disc.min()
    mask = ((disc.max() - disc) * 255 / span + 0.5).astype(np.uint8)[4::8, 4::8] / 255
    net = forward.module.double()
    shifts = (uniform(forward.index, (steps, 2), 0)[n] * 4).long().tolist()
    first, second = np.zeros_like(mask), np.zeros_like(mask)
    cells = np.ones((8, 8))
    for step, (top, left) in enumerate(shifts, 1):
        clear, smooth = (x[:, :, top : top + h, left : left + w] for x in (wide, wide_dull))
        enlarged = torch.from_numpy(pillow(np.kron(mask, cells), 5))
        shown = (enlarged * clear + (1 - enlarged) * smooth).requires_grad_()
        (g,) = torch.autograd.grad(net(shown).softmax(1)[0, target], shown)
        change = (g * (clear - smooth))[0].sum(0).numpy()
        gradient = change.reshape(h // 8, 8, w // 8, 8).sum((1, 3)) - 1e-3 * (mask < 1)
        for y in range(mask.shape[0]):
            for x in range(mask.shape[1]):
                down = mask[y + 1, x] - mask[y, x] if y + 1 < mask.shape[0] else 0
                right = mask[y, x + 1] - mask[y, x] if x + 1 < mask.shape[1] else 0
                factor = 0.01 * beta * np.hypot(down, right) ** (beta - 2)
                gradient[y, x] -= factor * (down + right)
                if down:
                    gradient[y + 1, x] += factor * down
                if right:
                    gradient[y, x + 1] += factor * right
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        unbiased = first / (1 - 0.9**step), second / (1 - 0.999**step)
        mask = np.clip(mask - 0.1 * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8), 0, 1)
    forward.module.float()
    return 1 - pillow(np.kron(mask, cells), 5)


@pytest.mark.parametrize("beta", [2.0, 3.0])
def test_meaningful_perturbation_is_the_descent_by_hand(beta: float) -> None:
    net = network("rectified")
    with torch.no_grad():
        net.get_submodule("fc").weight.mul_(40)  # type: ignore[operator]
    forward = forward_pass(net, random_activations(2, 3, 40, 48, seed=5), "conv")
    targets = torch.tensor([1, 2])
    found = MeaningfulPerturbation(steps=12, beta=beta, l1=1e-3)(forward, targets)
    for n in range(2):
        expected = by_hand(forward, n, int(targets[n]), 12, beta)
        assert expected.std() > 0.02
        torch.testing.assert_close(found[n].double(), torch.from_numpy(expected), atol=2e-3, rtol=0)


def test_extremal_perturbations_first_steps_are_gradient_ascent() -> None:
    """The energy's gradient by central differences in float64, and the momentum of the first two steps.

    The area is a single pixel, since otherwise the order of equal values at the start would be undefined.
    """
    forward = texture(1)
    levels, pool = om.pyramid(forward.images.double(), "blur"), om.SmoothMax((48, 64), 8, 8, torch.zeros(0).double())

    def energy(parameters: Tensor, step: int) -> Tensor:
        full = pool(parameters[None])
        x = om.perturbed(levels, full[:, 8:56, 8:72])
        misfit = om.misfit(full, torch.tensor([int(full[0].numel() * (1 - 1e-6))]))[0]
        return forward.module(x.flip(3) if step % 2 == 0 else x)[0, 0] - 300 * 1.0035**step * misfit

    def slope(at: Tensor, step: int) -> Tensor:
        found = torch.zeros_like(at)
        for k in range(at.numel()):
            shift = torch.zeros(at.numel(), dtype=at.dtype)
            shift[k] = 1e-6
            ends = [energy(at + sign * shift.view_as(at), step) for sign in (1, -1)]
            found.view(-1)[k] = (ends[0] - ends[1]) / 2e-6
        return found

    start = torch.ones(6, 8, dtype=torch.float64)
    speed = slope(start, 0)
    one = (start + 0.01 * speed).clamp(0, 1)
    speed = 0.9 * speed + 0.1 * slope(one, 1)
    two = (one + 0.01 * speed).clamp(0, 1)
    assert (two - start).abs().max() > 0.05
    expected = pool(two[None])[:, 8:56, 8:72]
    found = ExtremalPerturbation([1e-6], steps=2, cell=8, sigma=8).masks(forward, torch.tensor([0]))
    torch.testing.assert_close(found[0].double(), expected, atol=3e-3, rtol=0)  # one pixel of the area


# -------------------------------------------------------------------------------------------------- what they find


def test_the_region_that_a_network_looks_at_is_found() -> None:
    forward, targets = texture(), torch.tensor([0, 0])
    methods = [
        MeaningfulPerturbation(steps=60, cell=4, smooth=2, blur=3, l1=1e-3),
        ExtremalPerturbation([0.1], steps=60, cell=4, sigma=8, smooth=0),
        ExtremalPerturbation([0.1], steps=60, cell=4, sigma=8, smooth=0, variant="delete", perturbation="fade"),
        ExtremalPerturbation([0.1], steps=60, cell=4, sigma=8, smooth=0, variant="dual", perturbation="fade"),
    ]
    for method in methods:
        for found in method(forward, targets):
            top = found.flatten().topk(256).indices
            assert box().flatten()[top].float().mean() > 0.6, method  # of the box's area; a twelfth by chance


def test_a_sum_over_all_classes_cannot_fall_so_nothing_is_deleted() -> None:
    forward = forward_pass(network("gap"), random_activations(1, 3, 40, 40), "conv")
    found = MeaningfulPerturbation(steps=150, top=9)(forward, torch.tensor([0]))
    assert found.abs().max() < 1e-3


@pytest.mark.full
def test_on_scenes_it_deletes_and_keeps_better_than_the_same_mask_elsewhere(
    scenes: tuple[Forward, Tensor],
) -> None:
    forward, labels = scenes
    deleted = MeaningfulPerturbation(steps=40)(forward, labels)
    kept = ExtremalPerturbation([0.1], steps=40).masks(forward, labels)[:, 0]
    dull = forward.normalized(MeaningfulPerturbation()._resized(forward, 0)[1])
    levels = om.pyramid(forward.images, "blur")

    def answers(masks: Tensor, delete: bool) -> Tensor:
        x = torch.lerp(forward.images, dull, masks[:, None]) if delete else om.perturbed(levels, masks)
        logits = forward.predict(len(x), lambda part: x[part])
        return (logits.softmax(1) if delete else logits).gather(1, labels[:, None])[:, 0]

    def moved(masks: Tensor, seed: int) -> Tensor:
        down, right = np.random.default_rng(seed).integers(0, 112, 2).tolist()
        return masks.roll((down, right), (1, 2))

    others = [(answers(moved(deleted, k), True), answers(moved(kept, k), False)) for k in range(8)]
    assert (answers(deleted, True) < torch.stack([a for a, _ in others]).mean(0)).all()
    assert (answers(kept, False) > torch.stack([b for _, b in others]).mean(0)).all()


# ---------------------------------------------------------------------------------------------------- as all methods

METHODS = [
    MeaningfulPerturbation(5),
    MeaningfulPerturbation(5, top=2, jitter=0),
    ExtremalPerturbation((0.1, 0.3), 4),
    ExtremalPerturbation((0.1, 0.3), 4, variant="dual", perturbation="fade"),
]


@pytest.mark.parametrize("chunk", [1, 64])
@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_batches_and_chunks_do_not_matter(method: Any, chunk: int) -> None:
    net, x = network("rectified"), random_activations(3, 3, 20, 27)
    with torch.inference_mode():
        together = method(colored(forward_pass(net, x, "conv")), TARGETS)
    assert together.shape == (3, 20, 27)
    for i in range(3):
        told: list[int] = []
        one = colored(forward_pass(net, x[i : i + 1], "conv", index=torch.tensor([i]), chunk=chunk))
        one.progress = told.append
        torch.testing.assert_close(method(one, TARGETS[i : i + 1])[0], together[i], atol=1e-6, rtol=0)
        assert max(told) <= 2 * chunk
        assert sum(told) >= method.steps
    half = forward_pass(net.bfloat16(), x.bfloat16(), "conv")
    found = method(half, TARGETS)
    assert found.dtype == torch.float32
    assert not found.requires_grad


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_masks_that_descend_together_are_those_alone(method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Computed as on an accelerator, so that only rounding may differ."""
    forward = forward_pass(network("rectified"), random_activations(3, 3, 20, 27), "conv", chunk=2)
    alone = method(forward, TARGETS)
    told: list[int] = []
    forward.progress = told.append
    monkeypatch.setattr(om, "together", lambda forward, count: torch.arange(count).split(forward.chunk))
    torch.testing.assert_close(method(forward, TARGETS), alone, atol=1e-4, rtol=1e-3)
    assert 2 <= max(told) <= 4  # both halves of `dual` count


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_the_network_and_the_pass_are_left_as_they_were(method: Any) -> None:
    net = network("rectified").train()
    forward = forward_pass(net, random_activations(3, 3, 20, 27), "conv")
    before, versions = {k: v.clone() for k, v in net.state_dict().items()}, forward.versions()
    method(forward, TARGETS)
    assert forward.versions() == versions
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_shifts_depend_on_the_seed_and_the_place_alone() -> None:
    forward = forward_pass(network("rectified"), random_activations(2, 3, 20, 27), "conv")
    found = [MeaningfulPerturbation(3, seed=seed)(forward, TARGETS[:2]) for seed in (0, 0, 1)]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


@pytest.mark.full
def test_they_run_on_any_network() -> None:
    for name in ("scenes_vit", "scenes_vig"):
        net = random_network(name)
        for method in METHODS[0], METHODS[2]:
            forward = net.forward(torch.randint(0, 255, (1, 3, *net.preprocess.shape), dtype=torch.uint8))
            assert method(forward, torch.tensor([1])).isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MeaningfulPerturbation(steps=0), "steps=0; allowed: 1 or more"),
        (lambda: MeaningfulPerturbation(l1=-1), "l1=-1; allowed: 0 or more"),
        (lambda: MeaningfulPerturbation(beta=0.5), "beta=0.5; allowed: 1 or more"),
        (lambda: ExtremalPerturbation(steps=0), "steps=0; allowed: 1 or more"),
        (lambda: ExtremalPerturbation(cell=28, sigma=42.0), "cell=28, sigma=42.0; allowed: e.g. a cell below 2/3"),
        (lambda: ExtremalPerturbation(cell=500), "cell=500, sigma=21.0; allowed: e.g. a cell below 2/3 of sigma"),
        (lambda: ExtremalPerturbation([]), r"areas=\[\]; allowed: one or more, each 0 < a < 1"),
        (lambda: ExtremalPerturbation([0.5, 1]), r"areas=\[0.5, 1\]"),
        (lambda: ExtremalPerturbation(variant="keep"), "variant='keep'; allowed: preserve, delete, dual"),  # type: ignore[arg-type]
        (lambda: ExtremalPerturbation(perturbation="noise"), "perturbation='noise'; allowed: blur, fade"),  # type: ignore[arg-type]
    ],
)
def test_options_are_checked(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
