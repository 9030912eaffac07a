"""Networks of libraries by name: configs, descriptions, weights, and notes on untrained ones."""

import os
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hydra.errors import MissingConfigException
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from eigencam.commands.main import main
from eigencam.configuring.compose import compose
from eigencam.methods.rollout import AttentionRollout
from eigencam.networks import libraries
from eigencam.networks.building import build
from eigencam.networks.efficientnet_lite import PACKAGE
from eigencam.networks.libraries import describe
from eigencam.networks.network import chosen_preprocess, load_network
from eigencam.networks.preprocess import Preprocess
from eigencam.running import sweep
from eigencam.running.accuracy import compared

PHOTO = np.random.default_rng(0).integers(0, 256, (211, 333, 3), np.uint8)


def node(option: str, *overrides: str) -> dict[str, Any]:
    plain = OmegaConf.to_container(compose("run", [f"model={option}", *overrides]).model)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def test_a_name_of_a_library_is_an_option_wherever_one_may_stand(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /model: timm/test_vit\n"
        "hydra:\n  sweeper:\n    params:\n      dataset.count: 2,3\n"
    )
    found = [
        (c.model.library, c.model.name) for _, c in sweep.jobs(["model=timm/resnet18.tv_in1k,torchvision/resnet18"])
    ]
    assert found == [("timm", "resnet18.tv_in1k"), ("torchvision", "resnet18")]
    mine = ["experiment=mine", f"hydra.searchpath=[file://{tmp_path}]"]
    assert [(c.model.name, c.dataset.count) for _, c in sweep.jobs(mine)] == [("test_vit", 2), ("test_vit", 3)]
    assert compose("fit", ["model=timm/test_vit"]).model.library == "timm"
    with pytest.raises(MissingConfigException, match="model/tim/resnet18"):
        compose("run", ["model=tim/resnet18"])


def test_without_timm_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    libraries.names.cache_clear()
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ValueError, match=r"timm is not installed.*pip install 'eigencam-bench\[timm\]'"):
        build(node("timm/resnet18"), None)
    libraries.names.cache_clear()


@pytest.mark.full
@pytest.mark.parametrize(
    "name", ["resnet18", "vit_base_patch16_224", "test_vit", "dm_nfnet_f0", "tf_efficientnet_lite0"]
)
def test_timms_images_are_its_own_transforms(name: str) -> None:
    from timm.data.transforms_factory import create_transform
    from timm.models import get_pretrained_cfg

    config = get_pretrained_cfg(name)
    assert config is not None
    keys = ("input_size", "interpolation", "mean", "std", "crop_pct", "crop_mode")
    theirs: Any = create_transform(**{key: getattr(config, key) for key in keys})
    assert_same_input(Preprocess(**describe("timm", name).preprocess), theirs)


@pytest.mark.parametrize("name", ["resnet50", "vit_b_16", "efficientnet_v2_s", "inception_v3"])
def test_torchvisions_images_are_its_own_transforms(name: str) -> None:
    from torchvision.models import get_model_weights

    weights: Any = get_model_weights(name)
    assert_same_input(Preprocess(**describe("torchvision", name).preprocess), weights.DEFAULT.transforms())


@pytest.mark.parametrize("shape", [(211, 333, 3), (300, 97, 3), (64, 64, 3)])
def test_timms_border_is_padding(shape: tuple[int, int, int]) -> None:
    from timm.data.transforms_factory import create_transform

    image = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    described = describe("timm", "deepseek_vit_412m").preprocess
    assert described["resize"] == "pad"
    keys: dict[str, Any] = {"interpolation": "bicubic", "mean": (0.5, 0.4, 0.3), "std": (0.5, 0.5, 0.5)}
    theirs: Any = create_transform((3, 140, 140), crop_pct=1.0, crop_mode="border", **keys)
    ours = Preprocess(size=140, resize="pad", **keys)
    mine, region = ours(image)
    torch.testing.assert_close(ours.normalize(torch.from_numpy(mine)[None])[0], theirs(Image.fromarray(image)))
    assert min(region[:2]) <= 0
    assert region[2] >= shape[1]


def assert_same_input(ours: Preprocess, theirs: Any) -> None:
    mine = ours.normalize(torch.from_numpy(ours(PHOTO)[0])[None])[0]
    torch.testing.assert_close(mine, theirs(Image.fromarray(PHOTO)))


def test_a_config_s_words_come_before_the_weights_own() -> None:
    own = describe("timm", "vit_base_patch16_224").preprocess
    made = chosen_preprocess(own, {"size": 112, "mean": None, "resize": None}, "x")
    assert (made.shape, made.short_side, made.mean) == ((112, 112), 124, (0.5, 0.5, 0.5))
    assert chosen_preprocess(own, {"resize": "squash"}, "x").resize == "squash"
    with pytest.raises(ValueError, match=r"x: preprocess.crop: unknown; allowed: size, resize"):
        chosen_preprocess(own, {"crop": 3}, "x")
    with pytest.raises(ValueError, match="do not say the input's size"):
        chosen_preprocess(describe("torchvision", "fasterrcnn_resnet50_fpn").preprocess, {}, "x")


@pytest.mark.parametrize(
    ("option", "args", "message"),
    [
        ("timm/resnt18", {}, r"timm has no network of this name; near matches: timm/resnet18, .*`eigencam networks"),
        ("torchvision/test_vit", {}, "torchvision has no network of this name; near matches: .*timm/test_vit"),
        ("timm/resnet18.nix", {}, "no weights 'nix' of resnet18; there are: a1_in1k"),
        ("timm/test_vit", {"nix": 3}, r"model=timm/test_vit with model.args=\{'nix': 3\}: TypeError"),
        ("timm/test_vit", {"pretrained": True}, "model.args.pretrained: weights are chosen by model.weights"),
    ],
)
def test_wrong_names_give_near_matches(option: str, args: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_network({**node(option), "args": args, "weights": None})


def test_weights_by_a_wrong_name_or_without_a_network() -> None:
    with pytest.raises(ValueError, match="'V9' of torchvision/resnet18; allowed: default, IMAGENET1K_V1"):
        load_network({**node("torchvision/resnet18"), "weights": "V9"})
    with pytest.raises(ValueError, match="'V9' of timm/test_vit; allowed: default, r160_in1k"):
        load_network({**node("timm/test_vit"), "weights": "V9"})


def test_timms_weights_offline_say_what_can_be_done(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    def refuse(name: str, **_: object) -> None:
        raise OSError(f"no way to {name}")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(FileNotFoundError, match=r"test_vit.r160_in1k could not be downloaded.*no way to.*null"):
        load_network(node("timm/test_vit"))


@pytest.mark.full
@pytest.mark.parametrize("option", ["timm/test_efficientnet", "torchvision/shufflenet_v2_x0_5"])
def test_untrained_and_from_a_file_of_ones_own(tmp_path: Path, option: str) -> None:
    network = load_network({**node(option), "weights": None})
    assert network.identity["untrained"] == network.untrained == "untrained"
    assert network.label == f"{network.name} (untrained)"
    assert network.classes == "imagenet"
    assert network.identity["constructor"] == {"library": option.split("/")[0], "name": network.name}
    path = tmp_path / "mine.pth"
    torch.save({"net": {f"module.{k}": v for k, v in network.module.state_dict().items()}, "epoch": 3}, path)
    again = load_network({**node(option), "weights": str(path)})
    assert not again.untrained
    assert all(torch.equal(v, again.module.state_dict()[k]) for k, v in network.module.state_dict().items())
    assert again.layer == network.layer


class Half(nn.Sequential):
    """A trained layer, and a random one."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 2, 3), nn.Conv2d(2, 2, 3))
        nn.init.constant_(self[0].weight, 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("eigencam.networks.scenes.ScenesResNet", "untrained"),
        ("test_libraries.Half", "partly untrained: 1.weight"),
        ("torch.nn.Identity", ""),
    ],
)
def test_random_weights_of_any_constructor_are_said(target: str, said: str) -> None:
    assert build({"name": "x", "_target_": target}, None).untrained == said


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_other_channels_and_oblong_inputs_are_read(channels: int) -> None:
    description = node("timm/test_efficientnet", f"+model.args.in_chans={channels}", "model.preprocess.size=[96,160]")
    network = load_network({**description, "weights": None})
    assert network.preprocess.channels == channels
    assert network.preprocess.shape == (96, 160)
    found = network.reading(network.layer)
    images = torch.from_numpy(network.preprocess(PHOTO[:, :, :1].repeat(channels, 2))[0])[None]
    forward = network.forward(images)
    assert tuple(forward.logits.shape) == (1, 1000)
    assert found.size((1, 256, 3, 5)) == (3, 5)


def test_channels_of_an_image_that_are_not_the_networks() -> None:
    grey = Preprocess(size=50, mean=(0.5,), std=(0.2,))
    made, _ = grey(PHOTO)
    expected = np.asarray(Image.fromarray(PHOTO).convert("L").resize((50, 50), Image.Resampling.BILINEAR))
    assert np.array_equal(made[0], expected)
    assert Preprocess(size=50)(PHOTO[:, :, 0])[0].shape == (3, 50, 50)
    with pytest.raises(ValueError, match="an image of 3 channels for a network of 2"):
        Preprocess(mean=(0.5, 0.5), std=(0.2, 0.2))(PHOTO)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": [3]}, r"size=\[3\]; allowed: 1, 2, ... pixels, or \[height, width\]"),
        ({"interpolation": "cubic"}, "interpolation='cubic'; allowed: nearest, bilinear, bicubic"),
        ({"mean": 0.5}, "mean=0.5; a list"),
        ({"mean": [0.5]}, r"a number per channel is needed in each"),
        ({"mean": [0.5], "std": [0.5], "bgr": True}, "it is for 3 channels"),
    ],
)
def test_wrong_preprocessing_says_what_is_allowed(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocess(**changes)


def test_networks_are_listed_by_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["networks", "efficientnet_lite0"]) == 0
    shown = capsys.readouterr().out
    assert "timm/tf_efficientnet_lite0" in shown
    assert "224 x 224, bicubic, the centre of the short side at 256, mean 0.5, std 0.5" in shown
    assert main(["networks", "torchvision/resnet18"]) == 0
    assert "IMAGENET1K_V1" in capsys.readouterr().out
    assert main(["networks", "resnt18"]) == 1
    assert "near matches: torchvision/resnet18" in capsys.readouterr().out


REALDATA = Path(os.environ.get("EIGENCAM_SHARED", "/nowhere"), "realdata")


@pytest.mark.full
@pytest.mark.skipif(find_spec(PACKAGE) is None or not REALDATA.is_dir(), reason=f"{PACKAGE} or real images are missing")
def test_real_weights_of_a_package_classify_real_images() -> None:
    from eigencam.datasets.ilsvrc import Ilsvrc

    network = load_network(node("efficientnet_lite0", "model.preprocess.resize=crop"))
    assert not network.untrained
    dataset, right = Ilsvrc(REALDATA), 0
    for i in range(len(dataset.ids)):
        images = torch.from_numpy(network.preprocess(dataset.image(i))[0])[None]
        with torch.inference_mode():
            logits = network.module(network.preprocess.normalize(images))
        right += int(logits.argmax()) == dataset.truth(i).label
    assert right >= 67, len(dataset.ids)  # 69 of 99; rounding of the resized image may change one


def test_the_published_numbers_know_the_top1_of_timms_weights() -> None:
    assert describe("timm", "resnet18.tv_in1k").top1 == pytest.approx(69.752)
    assert describe("timm", "resnet18.a1_in1k").top1 is None


def test_without_the_package_the_message_says_which() -> None:
    if find_spec(PACKAGE) is None:
        with pytest.raises(FileNotFoundError, match=r"pip install 'eigencam-bench\[efficientnet\]'"):
            load_network(node("efficientnet_lite0"))


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("torchvision/swin_t", r"its attention is within windows, .*weights of \(\d+, 3, 49, 49\) for 2 images"),
        ("timm/test_vit", "^$"),
        ("timm/test_resnet", "the network has none"),
    ],
)
def test_rollout_says_the_true_reason(option: str, said: str) -> None:
    network = load_network({**node(option), "weights": None, "preprocess": {"size": 160}})
    assert re.search(said, AttentionRollout().unsupported(network))


@pytest.mark.parametrize(
    ("right", "n", "said"),
    [(70, 99, ""), (140, 200, "top-1 70.0 % of 200 images [61.0, 78.0], reported 69.8 %: they agree"),
     (90, 200, "they do not agree; are these the weights, and is the preprocessing theirs?")],
)  # fmt: skip
def test_the_accuracy_is_compared_with_the_reported_one(right: int, n: int, said: str) -> None:
    answers = [[1, 2]] * right + [[2, 1]] * (n - right)
    rows = pd.DataFrame({"image": [str(k) for k in range(n)], "label": 1, "top5": answers})
    line = compared("resnet18", 69.76, pd.concat([rows, rows]))  # an image with two classes counts once
    assert said in line
    assert bool(line) == bool(said)
