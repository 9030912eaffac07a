"""Every method on every kind of network: it runs, or gives a reason before anything is computed."""

import re
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from torch import nn

from eigencam.methods.refusal import refusal
from eigencam.networks.efficientnet_lite import PACKAGE
from eigencam.networks.network import Network, load_network
from eigencam.running.batch_maps import compute_maps
from eigencam.store.build import instantiate

sys.path.append(str(Path(__file__).parents[1] / "scripts"))

from zoo import FEW as REPETITIONS

pytestmark = pytest.mark.full

NETWORKS: dict[str, tuple[str, ...]] = {  # and their other sizes, which differ only in numbers
    "acol": ("wsol_inception_v3_acol", "wsol_resnet50_acol", "wsol_vgg16_acol"),
    "alexnet": (),
    "alexnet_bvlc": (),
    "alexnet_bvlc_features": (),
    "densenet121": (),
    "dual_cross_small": ("dual_cross",),
    "efficientnet_lite0": (),
    "flim": (),
    "googlenet": ("wsol_inception_v3",),
    "googlenet_bvlc": (),
    "mobilenet_v2": (),
    "mobilenet_v2_tf": (),
    "planted": (),
    "resnet18_trunk": (),
    "resnet50": ("resnet101", "wsol_resnet50"),
    "scenes_resnet": (),
    "scenes_resnet_cells": (),
    "scenes_vgg": (),
    "scenes_vgg_cells": (),
    "scenes_vig": (),
    "scenes_vit": (),
    "squeezenet1_0": ("squeezenet1_0_local",),
    "squeezenet1_1": ("squeezenet1_1_local",),
    "swin_t": ("swin_s",),
    "vgg16": ("wsol_vgg16", "wsol_vgg16_spg"),
    "vit_b_16": ("vit_l_16",),
}
FEW = REPETITIONS | {"groups": 4, "copies": 2, "distance": 1.0}  # the zoo keeps the packaged values of these
"""Parameters that only set a number of repetitions."""
NO_RANDOM = (
    "broadcam",
    "fam_support_reading",
    "lcam_fm",
    "lcam_img",
)  # they need weights that were fitted for the network


@lru_cache(maxsize=1)
def methods() -> dict[str, Any]:
    """Every method of `configs/method` except `files`, which needs a folder; with few repetitions."""
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        names = GlobalHydra.instance().config_loader().get_group_options("method")
        names = [name for name in names if name != "files"]
        nodes = OmegaConf.to_container(compose("run", [f"method=[{','.join(names)}]"]).method, resolve=False)
    assert isinstance(nodes, dict)
    assert len(nodes) == len(names) > 50
    found = {}
    for name, node in nodes.items():
        if "file" in node:
            node["file"] = "nowhere.safetensors"
        if name in ("sscam", "iscam"):
            node["channels"] = None
        found[str(name)] = instantiate({key: FEW.get(str(key), value) for key, value in node.items()})
    return found


def random_network(name: str) -> Network:
    """A network with nonzero random weights, for images of 64 pixels if the architecture allows it."""
    torch.manual_seed(0)
    changes = [f"model={name}", "model.weights=null"]
    if not name.startswith("scenes") or name.endswith("_cells"):
        changes.append(f"model.preprocess.size={227 if name == 'alexnet_bvlc' else 96 if 'alexnet' in name else 64}")
    if name == "flim":
        changes.append("model.args.size=64")
    if name.startswith("vit"):
        changes.append("+model.args.image_size=64")
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        network = load_network(compose("run", changes).model)
    for module in network.module.modules():  # torchvision starts some heads at zero
        if isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, std=0.1)
    return network


def test_the_list_of_networks_is_complete() -> None:
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        names = set(GlobalHydra.instance().config_loader().get_group_options("model"))
    known = set(NETWORKS) | {other for others in NETWORKS.values() for other in others}
    # the first two are to be filled in; the third is a detector
    assert names - {"custom", "library", "scenes_detector"} == known


@pytest.mark.parametrize("name", NETWORKS)
def test_every_method_runs_or_says_why_not(name: str) -> None:
    if name == "efficientnet_lite0":
        pytest.importorskip(PACKAGE)
    network = random_network(name)
    image = np.random.default_rng(0).integers(0, 256, (80, 100, 3), np.uint8)
    small, region = network.preprocess(image)
    reasons = {m: refusal(method, network) for m, method in methods().items()}
    for m, reason in reasons.items():
        assert not reason or re.fullmatch(r"(\S+ ){3,}[^\n]+\S", reason), (m, reason)
    assert all(reasons[m] for m in NO_RANDOM)
    ran = {m: method for m, method in methods().items() if not reasons[m]}
    assert {"eigencam", "random", "center_box", "selective_search"} <= ran.keys()
    found = compute_maps(
        network,
        ran,
        torch.from_numpy(small)[None],
        labels=None if network.classes is None else [3],
        original=lambda _: image,
        regions=[region],
        population=(1, lambda _k: small),
    )
    assert found.maps.keys() | found.boxes.keys() == ran.keys()
    for m, maps in found.maps.items():
        assert maps.dtype == np.float32
        # KPCA-CAM gives no map if no component dominates.
        assert np.isfinite(maps).all() or (m.startswith("kpcacam") and np.isnan(maps).all()), m
    for m, boxes in found.boxes.items():
        assert boxes[0].shape[1:] == (5,), m


def test_what_runs_where() -> None:
    """By name, as a user would look for it."""
    runs = {
        name: {m for m, method in methods().items() if not refusal(method, random_network(name))}
        for name in ("scenes_vgg", "scenes_resnet", "scenes_vit", "scenes_vig")
    }
    both = runs["scenes_vgg"] & runs["scenes_resnet"]
    assert {"cnn_fixations", "lrp", "deeplift", "cmwp", "guided_backprop", "ablationcam", "shapcam", "lime"} <= both
    assert "cam" in runs["scenes_resnet"] & runs["scenes_vig"] - runs["scenes_vgg"] - runs["scenes_vit"]
    of_attention = {"rollout", "gae", "transformer_attribution", "legrad", "attnlrp", "cp_lrp", "cp_lrp_gamma"}
    assert of_attention <= runs["scenes_vit"] - runs["scenes_vig"] - both
    assert "vscam_reading" in runs["scenes_vig"] - runs["scenes_vit"] - both
    everywhere = {"eigencam", "gradcam", "scorecam", "rise", "mask", "extremal_perturbation", "fullgrad", "vitcx"}
    assert everywhere <= set.intersection(*runs.values())
