"""Loading networks: weights from files, checksums, layers, preprocessing; the original Caffe layouts."""

import hashlib
import os
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import torchvision
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from eigencam.networks import caffe
from eigencam.networks import weights as weights_module
from eigencam.networks.network import Preprocess, load_network

SHARED = os.environ.get("EIGENCAM_SHARED")
needs_shared = pytest.mark.skipif(not SHARED, reason="EIGENCAM_SHARED is not set: real weights are not here")


def describe(**changes: Any) -> dict[str, Any]:
    description = {"name": "tiny", "_target_": "eigencam.networks.scenes.ScenesResNet", "args": {}}
    return {**description, "weights": None, "layer": "layer3", "classes": "scenes", **changes}


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_local_weights_are_loaded_and_hashed(tmp_path: Path, suffix: str) -> None:
    module = load_network(describe()).module
    with torch.no_grad():
        module.fc.bias.fill_(3)  # type: ignore[union-attr]
    state = {k: v.half() if v.is_floating_point() else v for k, v in module.state_dict().items()}
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, path)
    else:
        save_file(state, path)
    network = load_network(describe(weights=str(path)))
    assert network.dtype == torch.float32
    assert (network.module.fc.bias == 3).all()  # type: ignore[union-attr]
    assert network.sha256 == network.identity["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert not any("path" in key or str(tmp_path) in str(value) for key, value in network.identity.items())


def test_a_network_without_weights_is_the_same_each_time_and_hashed_by_its_parameters() -> None:
    first, second = load_network(describe()), load_network(describe())
    assert first.sha256 == second.sha256
    with torch.no_grad():
        state = torch.random.get_rng_state()
    load_network(describe())
    assert torch.equal(torch.random.get_rng_state(), state)


def test_dropped_prefixes_and_densenets_old_keys(tmp_path: Path) -> None:
    from torchvision.models import densenet121

    torch.manual_seed(1)
    state = densenet121().state_dict()
    old = {k.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): v for k, v in state.items()}
    path = tmp_path / "w.pth"
    torch.save({**old, "aux1.x": torch.zeros(1)}, path)
    description = describe(
        _target_="torchvision.models.densenet121", args={}, layer="features.norm5", weights=str(path), drop=["aux1."]
    )
    loaded = load_network(description).module.state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in state.items())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"weights": "/nowhere/w.pth"}, FileNotFoundError, r"/nowhere/w\.pth: no such file.*EIGENCAM_WEIGHTS"),
        ({"layer": "layer33"}, ValueError, r"no layer 'layer33'; near matches: layer3"),
        ({"weights": "IMAGENET1K_V1"}, ValueError, "no network of torchvision's"),
        (
            {"weights": "V9", "_target_": "torchvision.models.alexnet", "args": {}},
            ValueError,
            "'V9' of torchvision.models.alexnet; allowed: IMAGENET1K_V1",
        ),
        ({"_target_": "eigencam.networks.caffe._lrn", "args": {}, "layer": ""}, ValueError, "no layer ''"),
        ({"_target_": "pathlib.Path", "args": {}}, ValueError, "not an nn.Module"),
        ({"preprocess": {"size": 0}}, ValueError, "preprocess.size=0"),
        ({"preprocess": {"resize": "stretch"}}, ValueError, "allowed: squash, crop, squash_crop, pad"),
    ],
)
def test_wrong_descriptions_say_what_is_allowed(changes: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        load_network(describe(**changes))


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"conv1.weight": torch.zeros(1)}, path)
    with pytest.raises(
        ValueError, match=r"w\.safetensors do not fit ScenesResNet: missing: bn1.weight, .*another shape: conv1.weight"
    ):
        load_network(describe(weights=str(path)))


def test_torchvisions_weights_offline_say_where_to_put_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nobody listens there
    description = describe(_target_="torchvision.models.alexnet", args={}, weights="IMAGENET1K_V1", layer="features.11")
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded.*put alexnet-owt-.*\.pth into"):
        load_network(description)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"<html>not found</html>"])
def test_a_damaged_download_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/alexnet-owt-7be5be79.pth").write_bytes(content)
    description = describe(_target_="torchvision.models.alexnet", args={}, weights="IMAGENET1K_V1", layer="features.11")
    with pytest.raises(ValueError, match=r"alexnet-owt-7be5be79\.pth, is damaged \(.*\); remove the file"):
        load_network(description)


def test_a_whole_download_is_not_called_damaged_whatever_fails(tmp_path: Path) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    for name, damaged in (
        (f"net-{digest[:8]}", False),
        (f"net_{digest[:8]}", False),
        ("net", False),
        ("net-0000aaaa", True),
    ):
        (tmp_path / f"{name}.pth").write_bytes(b"weights")
        assert weights_module._is_damaged(tmp_path / f"{name}.pth", TypeError("an argument")) is damaged
    assert not weights_module._is_damaged(tmp_path / "none-0000aaaa.pth", TypeError("an argument"))


@pytest.mark.parametrize("args", [None, {}])
def test_torchvisions_weights_with_training_heads_load_from_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: dict[str, Any] | None
) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    trained = torchvision.models.googlenet(aux_logits=True, init_weights=False)
    torch.save(trained.state_dict(), tmp_path / "checkpoints/googlenet-1378be20.pth")
    description = cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load("configs/model/googlenet.yaml")))
    module = load_network(description if args is None else {**description, "args": args}).module
    assert isinstance(module, torchvision.models.GoogLeNet)
    assert module.transform_input
    assert module.aux1 is None
    assert torch.equal(module.fc.weight, trained.fc.weight)


def test_squash_shows_the_whole_image_and_crop_the_middle() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, 100:] = 255
    images, region = Preprocess(size=50)(image)
    assert images.shape == (3, 50, 50)
    assert region == (0, 0, 200, 100)
    assert (images[:, :, 24] < 128).all()
    assert (images[:, :, 25] > 128).all()
    images, region = Preprocess(size=50, resize="crop", short_side=60)(image)
    assert images.shape == (3, 50, 50)
    assert region == pytest.approx((35 / 0.6, 5 / 0.6, 85 / 0.6, 55 / 0.6))


def test_pad_shows_the_whole_image_in_its_own_aspect() -> None:
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, 100:] = 255
    preprocess = Preprocess(size=50, resize="pad", mean=(0.25, 0.5, 0.75), std=(1, 1, 1))
    made, region = preprocess(image)
    assert region == pytest.approx((0, -48, 200, 152))
    assert (made[:, :12] == np.array([64, 128, 191], np.uint8)[:, None, None]).all()
    assert (made[:, 12:37, :24] == 0).all()
    assert (made[:, 12:37, 26:] == 255).all()
    assert (made[:, 37:] == made[:, :12, :1][:, :1]).all()
    grey, region = Preprocess(size=(40, 60), resize="pad", mean=(0.5,), std=(1,))(image[:, :50, :1])
    assert (grey.shape, region) == ((1, 40, 60), (-50, 0, 100, 100))


def test_crop_is_torchvisions() -> None:
    from torchvision.transforms import v2

    image = np.random.default_rng(0).integers(0, 256, (211, 333, 3), np.uint8)
    crop = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    images, _ = Preprocess(resize="crop")(image)
    expected = np.asarray(crop(Image.fromarray(image))).transpose(2, 0, 1)
    assert (images == expected).all()


def test_normalize_and_channel_order() -> None:
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    x = Preprocess(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 0.5)).normalize(images, torch.float32)
    torch.testing.assert_close(x.flatten(), torch.tensor([-2.0, 2 * (128 / 255 - 0.5), 1.0]))
    bgr = Preprocess(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 0.5), bgr=True).normalize(images, torch.float32)
    assert torch.equal(bgr.flatten(), x.flatten().flip(0))


def test_caffe_layouts_differ_from_torchvisions_where_the_papers_networks_do() -> None:
    net = caffe.googlenet().eval()
    assert net.inception3a.branch3[1].conv.kernel_size == (5, 5)  # type: ignore[union-attr]
    shapes: dict[str, torch.Size] = {}
    for name in ("maxpool1", "conv3", "maxpool4", "inception5b"):
        module = getattr(net, name)
        module.register_forward_hook(lambda _m, _a, out, name=name: shapes.update({name: out.shape}))
    with torch.inference_mode():
        assert net(torch.zeros(1, 3, 224, 224)).shape == (1, 1000)
    assert shapes["inception5b"] == (1, 1024, 7, 7)
    assert sum(isinstance(m, nn.LocalResponseNorm) for m in net.modules()) == 2
    alexnet = caffe.alexnet().eval()
    with torch.inference_mode():
        assert alexnet(torch.zeros(1, 3, 227, 227)).shape == (1, 1000)
    assert [m.groups for m in alexnet.modules() if isinstance(m, nn.Conv2d)] == [1, 2, 1, 2, 2]
    # the counts of BVLC's deploy files
    assert sum(p.numel() for p in alexnet.parameters()) == 60_965_224


@pytest.mark.full
@needs_shared
@pytest.mark.parametrize(
    ("name", "expected"), [("googlenet_bvlc", 0.7), ("mobilenet_v2_tf", 0.65), ("squeezenet1_1_local", 0.5)]
)
def test_real_weights_classify_real_images(name: str, expected: float) -> None:
    from hydra import compose, initialize_config_module

    from eigencam.datasets.ilsvrc import Ilsvrc
    from eigencam.running.batch_maps import compute_maps

    folder = Path(str(SHARED), "realdata")
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        config = compose("run", [f"model={name}", f"paths.weights={folder}/weights"])
    network = load_network(config.model)
    dataset = Ilsvrc(folder)
    right = 0
    for start in range(0, len(dataset.ids), 33):
        index = range(start, min(start + 33, len(dataset.ids)))
        images = np.stack([network.preprocess(dataset.image(i))[0] for i in index])
        top = compute_maps(network, {}, torch.from_numpy(images)).top5
        right += sum(top[n][0] == dataset.truth(i).label for n, i in enumerate(index))
    assert right / len(dataset.ids) > expected
