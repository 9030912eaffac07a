"""Compare what `eigencam fit` erases, clusters and trains with the public codes, on the same tensors, in float64.

    git clone https://github.com/clovaai/wsolevaluation FOLDER/wsolevaluation            (96f4b88)
    git clone https://github.com/sihyeong671/PyTorch_CAM-loss FOLDER/PyTorch_CAM-loss    (2a1843e)
    git clone https://github.com/LIDS-UNICAMP/flim-python-demo FOLDER/flim-python-demo   (806da1d)
    git clone https://github.com/LIDS-UNICAMP/FLIM FOLDER/FLIM                           (5438b27)
    python scripts/training_agreement.py FOLDER --out results/training_agreement.csv

The table has for each part n, the number of inputs, and the largest difference relative to the reference's largest
value. Names that NumPy has dropped and `cuda` are replaced, and scikit-learn's k-means replaces faiss; nothing else of
the public codes is changed. FLIM's inputs are four distinct textures, so that k-means has a unique solution.
"""

import argparse
import csv
import importlib
import os
import platform
import random
import sys
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from eigencam.files import replacing
from eigencam.fitting import erasing, flim_filters
from eigencam.fitting.cam_loss import cam_term, distance
from eigencam.fitting.spg import SPG, SideHeads
from eigencam.fitting.whole_network import Trainee
from eigencam.fitting.wsol import WSOLFit, _Learner
from eigencam.methods.acol import ACoL as ACoLMap
from eigencam.methods.cam import CAM
from eigencam.networks.acol import wsol_inception_v3_acol, wsol_resnet50_acol, wsol_vgg16_acol
from eigencam.networks.classifier import find_last_layer
from eigencam.networks.flim import Lab
from eigencam.networks.network import Network, Preprocess
from eigencam.networks.wsol import WSOLVGG16, WSOLVGG16SPG, WSOLInceptionV3, wsol_resnet50
from eigencam.passes.forward import forward_pass
from eigencam.store.environment import git

COLUMNS = ["part", "reference", "n", "largest_difference"]
FORMS: tuple[tuple[str, Callable[..., Any], str], ...] = (
    ("vgg16", WSOLVGG16, "relu"),
    ("resnet50", wsol_resnet50, "layer4"),
    ("inception_v3", WSOLInceptionV3, "SPG_A3_2b"),
)


class Line(NamedTuple):
    """A row of the table."""

    part: str
    reference: str
    n: int
    difference: float


def apart(theirs: Any, ours: Any) -> float:
    """Return the largest difference, relative to the reference's largest value."""
    a, b = (np.asarray(t.detach() if isinstance(t, Tensor) else t, np.float64) for t in (theirs, ours))
    return float(np.abs(a - b).max() / np.abs(a).max()) if a.shape == b.shape else float("inf")


@contextmanager
def put(owner: Any, **values: Any) -> Iterator[None]:
    """Replace attributes inside the block."""
    before = {name: getattr(owner, name) for name in values}
    for name, value in values.items():
        setattr(owner, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)


def erased(method: Any, draws: torch.Generator) -> Iterator[Line]:
    """HaS, CutMix and ADL compared with wsolevaluation's."""
    images, found = torch.randn(3, 3, 56, 56, generator=draws, dtype=torch.float64), []
    for grid in (4, 15, 56, 100):
        drawn = torch.rand(3, *2 * [erasing.squares(56, grid)], generator=draws)
        numbers = iter(drawn.flatten().tolist())
        with put(random, random=lambda numbers=numbers: next(numbers)):
            theirs = method.has(images.clone(), grid, 0.4)
        found.append(apart(theirs, erasing.hide(images, drawn, grid, 0.4)))
    yield Line("HaS", "wsolevaluation", 4, max(found))
    wide, labels, numpy, found = torch.randn(4, 3, 40, 52, generator=draws), torch.arange(4), np.random, []
    state = np.random.default_rng(0)
    for _ in range(200):
        share, centre = state.beta(1, 1), [int(state.integers(40)), int(state.integers(52))]
        order, places = torch.from_numpy(state.permutation(4)), iter(centre)
        with (
            put(numpy, beta=lambda *_, share=share: share, randint=lambda _, places=places: next(places)),
            put(torch, randperm=lambda _, order=order: order),
        ):
            theirs, _, others, left = method.cutmix(wide.clone(), labels, 1.0)
        box = erasing.cut_box((40, 52), share, centre)
        found += [apart(theirs, erasing.mixed(wide, order, box)), abs(left - box.outside), apart(others, labels[order])]
    yield Line("CutMix: images, lambda, labels", "wsolevaluation", 200, max(found))
    for drop in (True, False):
        theirs, ours = (torch.randn(3, 5, 7, 9, generator=torch.Generator().manual_seed(1)).double() for _ in range(2))
        theirs.requires_grad_()
        ours.requires_grad_()
        with put(torch, rand=lambda *_, drop=drop, **__: torch.tensor(0.9 if drop else 0.1)):
            made = method.ADL(0.5, 0.6).train()(theirs)
        mine = erasing.attention_dropout(ours, 0.6, drop)
        made.square().sum().backward()
        mine.square().sum().backward()
        what = "drop mask" if drop else "importance"
        yield Line(f"ADL, {what}: features", "wsolevaluation", 3, apart(made, mine))
        yield Line(f"ADL, {what}: gradients", "wsolevaluation", 3, apart(theirs.grad, ours.grad))


def networks(wsol: Any, draws: torch.Generator) -> Iterator[Line]:
    """Compare both codes' networks with equal weights: their logits, and their CAMs up to a factor."""
    image, label = torch.randn(1, 3, 112, 112, generator=draws), torch.tensor([3])
    for name, make, layer in FORMS:
        for large in (False, True):
            options = {"pretrained": False, "num_classes": 7, "large_feature_map": large, "dataset_name": "CUB"}
            theirs, ours = getattr(wsol, name)(architecture_type="cam", **options).eval(), make(7, large).eval()
            ours.load_state_dict(theirs.state_dict())
            with torch.no_grad():
                logits, cam = theirs(image)["logits"], theirs(image, label, return_cam=True)
                mine = CAM()(forward_pass(ours, image, layer), label)
                difference = apart(logits, ours(image))
            scaled = [(m - m.mean()) / m.std() for m in (cam, mine)]
            size = f"{mine.shape[1]} x {mine.shape[2]} of 112"
            yield Line(f"{name}, {size}: logits", "wsolevaluation", 1, difference)
            yield Line(f"{name}, {size}: CAM, scaled", "wsolevaluation", 1, apart(*scaled))


def acol_networks(wsol: Any, draws: torch.Generator) -> Iterator[Line]:
    """ACoL with equal weights in float64: both logits and their gradients, and the map of a class."""
    images, labels = torch.randn(2, 3, 112, 112, generator=draws).double(), torch.tensor([3, 5])
    for name, make in (
        ("vgg16", wsol_vgg16_acol),
        ("resnet50", wsol_resnet50_acol),
        ("inception_v3", wsol_inception_v3_acol),
    ):
        for large in (False, True):
            options = {"pretrained": False, "num_classes": 7, "large_feature_map": large, "dataset_name": "CUB"}
            theirs = getattr(wsol, name)(architecture_type="acol", acol_drop_threshold=0.6, **options).double().eval()
            ours = make(7, large, threshold=0.6).double().eval()
            ours.load_state_dict(
                {
                    k if k.startswith(("classifier", "features")) else f"features.{k}": v
                    for k, v in theirs.state_dict().items()
                }
            )
            made, mine = theirs(images, labels), ours.both(images, labels)
            method = importlib.import_module("wsol.method.acol")
            method.get_loss(made, labels).backward()
            torch.stack([torch.nn.functional.cross_entropy(logits, labels) for logits in mine]).sum().backward()
            size = f"ACoL, {name}, {made['feat_map_a'].shape[2]} x {made['feat_map_a'].shape[3]} of 112"
            difference = max(apart(made[key], logits) for key, logits in zip(("logits", "logit_b"), mine, strict=True))
            yield Line(f"{size}: logits", "wsolevaluation", 2, difference)
            yield Line(f"{size}: gradients", "wsolevaluation", 2, apart(first_gradient(theirs), first_gradient(ours)))
            with torch.no_grad():
                forward = forward_pass(ours, images, "classifier_A.3", layers=["features", "classifier_A"])
                yield Line(
                    f"{size}: map",
                    "wsolevaluation",
                    2,
                    apart(theirs(images, labels, return_cam=True), ACoLMap()(forward, labels)),
                )


def spg_networks(wsol: Any, draws: torch.Generator) -> Iterator[Line]:
    """SPG with equal weights in float64: logits, the four terms together, and gradients."""
    images, labels = torch.randn(2, 3, 112, 112, generator=draws).double(), torch.tensor([3, 5])
    forms: tuple[tuple[str, Callable[..., Any], str], ...] = (("vgg16", WSOLVGG16SPG, "SPG_A_3"), *FORMS[1:])
    thresholds = ((0.7, 0.3), (0.5001, 0.4999), (0.501, 0.499))
    for name, make, layer in forms:
        for large in (False, True):
            options = {"pretrained": False, "num_classes": 7, "large_feature_map": large, "dataset_name": "CUB"}
            theirs = getattr(wsol, name)(architecture_type="spg", **options).double().eval()
            ours = make(7, large).double().eval()
            network = Network(f"wsol_{name}", ours, layer, "cub", "", Preprocess(size=112))
            heads = SideHeads(network, SPG(thresholds)).double()
            whole = torch.nn.ModuleDict({"network": ours, "heads": heads})
            whole.load_state_dict(spg_names(theirs.state_dict()))
            place = find_last_layer(ours, (112, 112))
            learner = _Learner(WSOLFit("", "spg", spg={"thresholds": thresholds}), Trainee(ours, layer, place, heads))
            made = theirs(images, labels)
            logits, terms = learner._passed(types.SimpleNamespace(network=network), images, labels)  # type: ignore[arg-type]
            loss = importlib.import_module("wsol.method.spg").get_loss(made, labels, thresholds)
            mine = torch.nn.functional.cross_entropy(logits, labels) + sum(terms.values())
            loss.backward()
            mine.backward()
            size = f"SPG, {name}{', large' if large else ''}"
            yield Line(f"{size}: logits", "wsolevaluation", 2, apart(made["logits"], logits))
            yield Line(f"{size}: loss", "wsolevaluation", 2, apart(loss, mine))
            yield Line(f"{size}: gradients", "wsolevaluation", 2, apart(first_gradient(theirs), first_gradient(ours)))


def spg_names(theirs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names of the tensors of their SPG networks."""
    heads = {"SPG_B_1a.": "first.", "SPG_B_2a.": "second.", "SPG_B_shared.0": "shared.0", "SPG_B_shared.2": "shared.2"}
    heads |= {"SPG_C.0": "last.0", "SPG_C.2": "last.2"}
    found = {}
    for name, tensor in theirs.items():
        key = f"network.{name}"
        for before, after in heads.items():
            if name.startswith(before):
                key = f"heads.{after}{name.removeprefix(before)}"
        if name.startswith("SPG_A1."):  # ResNet-50, whose layer3 is in two parts there, and whose fc is a convolution
            key = f"network.layer3.{name.removeprefix('SPG_A1.')}"
        elif name.startswith("SPG_A2."):
            block, _, rest = name.removeprefix("SPG_A2.").partition(".")
            key = f"network.layer3.{int(block) + 1}.{rest}"
        elif name.startswith("SPG_A4.") and "layer4.0.conv1.weight" in theirs:
            key, tensor = (
                f"network.fc.{name.removeprefix('SPG_A4.')}",
                tensor.flatten(1) if tensor.ndim == 4 else tensor,
            )
        found[key] = tensor
    return found


def first_gradient(module: torch.nn.Module) -> Tensor | None:
    """The gradient with respect to the first convolution's weights, which depends on all layers."""
    return next(m.weight.grad for m in module.modules() if isinstance(m, torch.nn.Conv2d))


def cam_loss(utils: Any, draws: torch.Generator) -> Iterator[Line]:
    """The maps, and the value with each code's normalization."""
    a = torch.randn(4, 6, 7, 7, generator=draws, dtype=torch.float64)
    weight, labels = torch.randn(9, 6, generator=draws, dtype=torch.float64), torch.tensor([0, 8, 3, 3])
    cam, caam = utils.made_cam(a, labels, weight.T), a.sum(1)
    reference = "PyTorch_CAM-loss"
    yield Line("CAM-loss: CAM", reference, 4, apart(cam, torch.einsum("nc,nchw->nhw", weight[labels], a)))
    theirs = (utils.minmax_normalize(cam) - utils.minmax_normalize(caam)).abs().mean()
    ours = cam_term(a, weight, labels).distance
    yield Line(f"CAM-loss: value, theirs {theirs:.3f}, ours {ours:.3f}", reference, 4, apart(theirs, ours))
    whole = [m.flatten(1)[..., None].expand(-1, -1, 49) for m in (cam, caam)]  # every column has the whole map
    square = (utils.minmax_normalize(whole[0]) - utils.minmax_normalize(whole[1])).abs().mean()
    yield Line("CAM-loss: value, their scaling given whole maps", reference, 4, apart(square, distance(cam, caam)[0]))


class _Faiss:
    """scikit-learn's k-means instead of faiss'."""

    def __init__(self, _size: int, count: int, **_: object) -> None:
        self.count = count

    def train(self, points: Any) -> None:
        self.centroids = KMeans(self.count, n_init="auto", random_state=0).fit(points).cluster_centers_


def flim(folder: Path) -> Iterator[Line]:
    """Colours, statistics, patches and filters."""
    state = np.random.default_rng(0)
    image, labels = np.zeros((48, 60, 3)), np.zeros((48, 60), np.int64)
    for k, (row, column) in enumerate(((0, 0), (0, 30), (24, 0), (24, 30))):
        texture = state.integers(20, 235, 3) + state.integers(-3, 4, (24, 30, 3))
        image[row : row + 24, column : column + 30] = texture
        labels[row + 8 : row + 13, column + 8 : column + 14] = 1 + k // 2
    image[0, 0] = 255  # pyflim divides by the largest value
    fake = types.ModuleType("faiss")
    fake.Kmeans = _Faiss  # type: ignore[attr-defined]
    sys.modules["faiss"] = fake
    sys.path.insert(0, str(folder / "flim-python-demo"))
    py, data = importlib.import_module("pyflim.flim"), importlib.import_module("pyflim.data")
    model, reference = py.FLIMModel, "pyflim"
    maps = Lab()(torch.from_numpy(image / 255).permute(2, 0, 1)[None])
    yield Line("FLIM: Lab", reference, 1, apart(data.FLIMData.image_to_lab_norm(image), maps[0].permute(1, 2, 0)))
    theirs = model.find_marker_norm_parameters([maps[0]], [labels], [3, 3], 0.01)
    mean, deviation = flim_filters.statistics(maps, [labels], 0.01)
    difference = max(apart(theirs["mean"], mean), apart(theirs["std"], deviation))
    yield Line("FLIM: statistics", reference, 1, difference)
    z = (maps - mean[:, None, None]) / deviation[:, None, None]
    pixels = z[0].permute(1, 2, 0).numpy()
    for dilation in (1, 3):
        every = model.patchify(pixels, [3, 3], dilation)
        chosen = model.select_patches(every, (labels > 0).astype(float))[0].transpose(0, 3, 1, 2)
        ours = flim_filters.patches(z, [labels], 3, dilation)[0].reshape(chosen.shape)
        yield Line(f"FLIM: patches, dilation {dilation}", reference, len(ours), apart(chosen, ours))
    around = flim_filters.patches(z, [labels], 3, 1)
    layer = {"kernel_size": [3, 3], "dilation_rate": 1, "nkernels_per_marker": 1, "noutput_channels": 4}
    conv = torch.nn.Conv2d(3, 4, 3)
    learner = types.SimpleNamespace(
        architecture=types.SimpleNamespace(layers=[layer | {"ninput_channels": 3}], nlayers=1),
        kmeans=model.cluster_patches_faiss, network_type="regular", use_bias=False, device="cpu",
        layers=[types.SimpleNamespace(conv=conv, normalization_parameters=theirs)],
    )  # fmt: skip
    with torch.no_grad():
        model.learn_layer_weights(learner, [z[0]], [labels], 0)
    made = learner.layers[0].conv.weight.detach().transpose(2, 3).flatten(1).numpy()
    ours = flim_filters.filters(around, [labels], "pyflim", 4, 1, "kmeans")
    yield Line("FLIM: filters, transposed back", reference, 4, matched(made, ours))
    sides = {"kernel_size": [3, 3], "dilation": [1, 1], "in_channels": 3, "out_channels": 4}
    kernels, _ = flim_creator(folder)._initialize_convNd_weights(
        pixels[None], labels[None], **sides, number_of_kernels_per_marker=2, use_pca=False
    )
    ours = flim_filters.filters(around, [labels], "flim", 4, 1, "kmeans")
    yield Line("FLIM: filters", "FLIM", 4, matched(kernels.reshape(4, -1), ours))


def matched(theirs: Any, ours: Any) -> float:
    """Return the largest difference of filters, after matching each of theirs with one of ours."""
    distances = np.abs(theirs[:, None] - ours[None]).max(2)
    nearest = distances.argmin(1)
    return float(distances.min(1).max()) if len(set(nearest.tolist())) == len(ours) else float("inf")


def flim_creator(folder: Path) -> Any:
    """The module of FLIM that makes filters, without the packages that its graphical tools need."""
    for name in ("flim", "flim.models", "flim.models.lcn"):
        package = types.ModuleType(name)
        package.__path__ = [str(folder / "FLIM" / name.replace(".", "/"))]
        sys.modules[name] = package
    pairwise: Any = importlib.import_module("sklearn.metrics.pairwise")
    pairwise._euclidean_distances = pairwise.euclidean_distances
    return importlib.import_module("flim.models.lcn._creator")


def lines(folder: Path) -> Iterator[Line]:
    """All rows."""
    for name, kind in (("int", int), ("float", float)):
        setattr(np, name, kind)
    Tensor.cuda = lambda self, *_: self  # type: ignore[method-assign, assignment]
    draws = torch.Generator().manual_seed(0)
    sys.path.insert(0, str(folder / "wsolevaluation"))
    yield from erased(importlib.import_module("wsol.method"), draws)
    wsol = importlib.import_module("wsol")
    yield from networks(wsol, draws)
    yield from acol_networks(wsol, draws)
    yield from spg_networks(wsol, draws)
    sys.path.insert(0, str(folder / "PyTorch_CAM-loss"))
    yield from cam_loss(importlib.import_module("module.utils"), draws)
    yield from flim(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with the four repositories")
    parser.add_argument("--out", type=Path, help="CSV; without it the table is printed only")
    args = parser.parse_args()
    torch.manual_seed(0)
    table = [[part, reference, n, f"{difference:.1e}"] for part, reference, n, difference in lines(args.folder)]
    csv.writer(sys.stdout).writerows([COLUMNS, *table])
    if args.out:
        with replacing(args.out) as beside, beside.open("w", newline="") as file:
            file.write(f"# command: python scripts/training_agreement.py FOLDER --out {args.out}\n")
            file.write(f"# {os.cpu_count()} CPU cores, {platform.machine()}, torch {torch.__version__}, ")
            file.write(f"code {git()['git_commit']}\n")
            csv.writer(file).writerows([COLUMNS, *table])


if __name__ == "__main__":
    main()
