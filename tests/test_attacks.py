"""Attacks compared with closed forms on affine networks, and DeepFool with its authors' loop, image by image."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eigencam.evaluation.attacks import FGSM, PGD, DeepFool, deepfool, pgd

Logits = Callable[[Tensor], Tensor]
CHANNELS = torch.ones(3, 1, 1)


def affine(classes: int, seed: int = 0) -> tuple[Tensor, Tensor, Logits]:
    g = torch.Generator().manual_seed(seed)
    w, b = torch.randn(classes, 12, generator=g), torch.randn(classes, generator=g)
    return w, b, lambda x: x.flatten(1) @ w.T + b


def random_images(n: int, seed: int = 1) -> Tensor:
    return torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


def curved() -> Logits:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 6)).requires_grad_(False)
    return lambda x: 3 * net(x)


def test_the_noise_of_two_classes_is_the_distance_to_their_hyperplane() -> None:
    w, b, logits = affine(2)
    x = random_images(20)
    found = deepfool(logits, x, overshoot=0.0)
    difference = w[1] - w[0]
    signed = (x.flatten(1) @ difference + b[1] - b[0]) / difference.norm()
    assert (found.iterations == 1).all()
    expected = x.flatten(1) - (signed + 1e-4 * signed.sign())[:, None] * difference / difference.norm()
    torch.testing.assert_close(found.images.flatten(1), expected, atol=1e-5, rtol=1e-5)
    overshot = deepfool(logits, x, overshoot=0.5)
    torch.testing.assert_close(overshot.images - x, 1.5 * (found.images - x), atol=1e-5, rtol=1e-4)
    assert (logits(overshot.images).argmax(1) != logits(x).argmax(1)).all()


@pytest.mark.parametrize("considered", [3, 10])
def test_of_many_classes_the_nearest_boundary_is_crossed(considered: int) -> None:
    w, b, logits = affine(7)
    x = random_images(30)
    found = deepfool(logits, x, num_classes=considered, max_iter=1, overshoot=0.0)
    for n in range(30):
        scores = (w @ x[n].flatten() + b).tolist()
        order = sorted(range(7), key=lambda k: -scores[k])[:considered]
        first = order[0]
        distances = {k: (scores[first] - scores[k]) / (w[k] - w[first]).norm().item() for k in order[1:]}
        nearest = min(distances, key=lambda k: distances[k])
        noise = (found.images[n] - x[n]).flatten()
        assert noise.norm().item() == pytest.approx(distances[nearest] + 1e-4, rel=1e-3)
        assert torch.cosine_similarity(noise, w[nearest] - w[first], dim=0).item() == pytest.approx(1, abs=1e-5)


def of_the_authors(
    logits: Logits, image: Tensor, num_classes: int, overshoot: float, max_iter: int
) -> tuple[Tensor, int]:
    """The published pseudocode for one image, which computes one gradient at a time."""
    order = logits(image[None])[0].argsort(descending=True)[:num_classes].tolist()
    total, x, i = torch.zeros_like(image), image.clone(), 0
    while logits(x[None])[0].argmax().item() == order[0] and i < max_iter:

        def gradient(k: int, x: Tensor = x) -> Tensor:
            z = x.clone().requires_grad_()
            return torch.autograd.grad(logits(z[None])[0, k], z)[0]

        f, first = logits(x[None])[0], gradient(order[0])
        best, step = np.inf, torch.zeros_like(x)
        for k in order[1:]:
            w = gradient(k) - first
            p = ((f[k] - f[order[0]]).abs() / w.norm()).item()
            if p < best:
                best, step = p, (p + 1e-4) * w / w.norm()
        total = total + step
        x, i = image + (1 + overshoot) * total, i + 1
    return x, i


@pytest.mark.parametrize(("considered", "most"), [(10, 50), (3, 50), (6, 1)])
def test_a_batch_is_what_the_authors_loop_gives_for_each_image(considered: int, most: int) -> None:
    logits, x = curved(), 4 * random_images(12) - 2
    found = deepfool(logits, x, num_classes=considered, max_iter=most)
    steps = set()
    for n in range(len(x)):
        expected, iterations = of_the_authors(logits, x[n], considered, 0.02, most)
        torch.testing.assert_close(found.images[n], expected, atol=1e-4, rtol=1e-4)
        assert found.iterations[n] == iterations
        steps.add(iterations)
    assert most == 1 or len(steps) > 1  # images leave the loop at different times
    if most == 50:
        assert (logits(found.images).argmax(1) != logits(x).argmax(1)).all()


def test_a_network_that_does_not_look_is_left_alone() -> None:
    x = random_images(2)
    found = deepfool(lambda z: 0 * z.flatten(1)[:, :3] + torch.tensor([2.0, 1.0, 0.0]), x)
    assert torch.equal(found.images, x)
    assert found.iterations.tolist() == [0, 0]


def test_lengths_are_measured_where_it_is_said_and_clipping_keeps_the_range() -> None:
    scale = torch.tensor([1.0, 10.0, 1.0])[:, None, None]  # noise in the second channel costs little in pixel units
    _, _, logits = affine(4)
    x = random_images(10)
    of_pixels = DeepFool(space="pixels", overshoot=0)(logits, x, scale, ())
    of_network = DeepFool(space="network", overshoot=0)(logits, x, scale, ())

    def length(images: Tensor, unit: Tensor) -> Tensor:
        return ((images - x) * unit).flatten(1).norm(dim=1)

    assert (length(of_pixels.images, CHANNELS) <= length(of_network.images, CHANNELS) + 1e-4).all()
    assert (length(of_network.images, scale) <= length(of_pixels.images, scale) + 2e-3).all()
    assert not torch.allclose(of_pixels.images, of_network.images, atol=1e-2)
    far = DeepFool(overshoot=3.0)(logits, x, scale, ()).images
    assert far.min() < 0 or far.max() > 1
    clipped = DeepFool(overshoot=3.0, clip=True)(logits, x, scale, ()).images
    assert clipped.min() >= 0
    assert clipped.max() <= 1


def test_fgsm_moves_every_pixel_by_eps_towards_the_other_class() -> None:
    w, _, logits = affine(2)
    x = 0.5 + 0.1 * random_images(8)
    found = FGSM(0.1)(logits, x, CHANNELS, ()).images
    for n in range(8):
        first = int(logits(x[n : n + 1]).argmax())
        expected = x[n].flatten() + 0.1 * (w[1 - first] - w[first]).sign()
        torch.testing.assert_close(found[n].flatten(), expected)
    edge = FGSM(0.3)(logits, random_images(8), CHANNELS, ()).images
    assert edge.min() == 0
    assert edge.max() == 1


def test_pgd_ends_in_the_corner_of_its_box_and_never_leaves_it() -> None:
    w, _, logits = affine(2)
    x = 0.5 + 0.1 * random_images(8)
    first = logits(x).argmax(1)
    corner = x.flatten(1) + 0.05 * (w[1 - first] - w[first]).sign()
    for random_start in (False, True):
        attack = PGD(eps=0.05, step=0.02, steps=6, random_start=random_start)
        found = attack(logits, x, CHANNELS, [f"image {n}" for n in range(8)])
        torch.testing.assert_close(found.images.flatten(1), corner)
    short = PGD(eps=0.05, step=0.001, steps=1)(logits, x, CHANNELS, list("abcdefgh")).images
    assert ((short - x).abs() <= 0.05 + 1e-6).all()
    assert (short - x).abs().std() > 0.005  # the start is random
    assert not torch.equal((short - x)[0], (short - x)[1])


def test_the_random_start_depends_on_the_image_alone() -> None:
    _, _, logits = affine(3)
    x = random_images(4)
    attack = PGD(eps=0.1, step=0.01, steps=2)
    whole = attack(logits, x, CHANNELS, list("abcd")).images
    alone = attack(logits, x[2:3], CHANNELS, ["c"]).images
    torch.testing.assert_close(whole[2:3], alone)
    other = PGD(eps=0.1, step=0.01, steps=2, seed=1)(logits, x, CHANNELS, list("abcd")).images
    assert not torch.allclose(whole, other)


def test_the_loss_grows_with_the_steps() -> None:
    logits, x = curved(), random_images(6)
    labels = logits(x).argmax(1)
    losses = [
        torch.nn.functional.cross_entropy(logits(pgd(logits, x, labels, eps=0.2, step=0.05, steps=k).images), labels)
        for k in (0, 1, 4)
    ]
    assert losses[0] < losses[1] < losses[2]


@pytest.mark.parametrize(
    ("attack", "bad"),
    [
        (DeepFool, {"num_classes": 1}),
        (DeepFool, {"max_iter": 0}),
        (DeepFool, {"space": "moon"}),
        (FGSM, {"eps": 8}),
        (PGD, {"eps": 0}),
        (PGD, {"steps": 0}),
    ],
)
def test_parameters_are_checked(attack: Callable[..., object], bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="allowed"):
        attack(**bad)
