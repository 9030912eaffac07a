"""Weights files of methods' authors: synthetic files in their formats are read, all others are refused."""

import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from toys import make, network

from eigencam.methods.broadcam import BroadCAM
from eigencam.methods.lcam import LCAM, attention_logits
from eigencam.networks.network import Network, Preprocess, load_network
from eigencam.networks.weights import weight_file

TARGETS = torch.tensor([3, 2, 1, 0, 1])
OP = {"weight": torch.randn(4, 6, 1, 1, generator=torch.Generator().manual_seed(0)), "bias": torch.arange(4.0)}


def plain(module: nn.Module, layer: str = "conv") -> Network:
    return Network("toy", module.eval(), layer, "c", "", Preprocess(size=12))


def lcam(module: nn.Module) -> dict[str, Any]:
    """What L-CAM's training saves."""
    state = {**module.state_dict(), **{f"attnM.op.{name}": t for name, t in OP.items()}}
    optimizer = torch.optim.SGD(module.parameters(), 0.1).state_dict()
    return {"epoch": 3, "arch": "resnet", "global_counter": 9, "state_dict": state, "optimizer": optimizer}


def ttame(module: nn.Module, layers: list[str]) -> dict[str, Any]:
    """What Lightning saves of T-TAME's."""
    state = {f"generic.body.{name}": t for name, t in module.state_dict().items()}
    state |= {f"generic.attn_mech.op.{name}": t for name, t in OP.items()}
    options = {"model_name": "toy", "layers": layers, "attention_version": "lcam", "train_method": "raw_normalize"}
    return {"epoch": 1, "state_dict": state, "hyper_parameters": options, "pytorch-lightning_version": "2.0"}


def saved(path: Path, content: object) -> str:
    torch.save(content, path)
    return str(path)


@pytest.mark.parametrize("form", ["L-CAM", "DataParallel", "T-TAME", "attention alone"])
def test_an_attention_is_read_from_its_authors_checkpoint(form: str, tmp_path: Path) -> None:
    net = network("gap")
    content = ttame(net, ["conv"]) if form == "T-TAME" else lcam(net)
    if form == "DataParallel":
        content["state_dict"] = {f"module.{name}": t for name, t in content["state_dict"].items()}
    if form == "attention alone":
        content = {f"op.{name}": t for name, t in OP.items()}
    method = LCAM(saved(tmp_path / ("x.ckpt" if form == "T-TAME" else "x.pth.tar"), content))
    assert not method.unsupported(plain(net))
    assert len(str(method.identity()["file"])) == 64
    forward = make(net)
    expected = attention_logits(forward.activations(), OP["weight"].flatten(1), OP["bias"], TARGETS)
    torch.testing.assert_close(method(forward, TARGETS), expected)


def test_an_attention_of_another_network_or_layer_is_refused(tmp_path: Path) -> None:
    net, other = network("gap"), network("gap")
    nn.init.normal_(other.get_submodule("fc").weight)  # type: ignore[arg-type]
    path = saved(tmp_path / "x.pth.tar", lcam(net))
    assert "other weights than toy has (fc.weight differs)" in LCAM(path).unsupported(plain(other))
    assert "has fc.weight; toy does not" in LCAM(path).unsupported(plain(network("conv")))
    path = saved(tmp_path / "y.ckpt", ttame(net, ["layer4"]))
    assert "is for the layer layer4, not for conv" in LCAM(path).unsupported(plain(net))
    alone = {"op.weight": torch.zeros(7, 6, 1, 1), "op.bias": torch.zeros(7)}
    path = saved(tmp_path / "z.pth", alone)
    assert "7 classes and 6 channels; conv of toy has 4 and 6" in LCAM(path).unsupported(plain(net))


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {"convs.0.weight": torch.zeros(2, 2, 1, 1), "fuser.weight": torch.zeros(2, 4, 1, 1)}},  # TAME's
        {"state_dict": {"a.op.weight": torch.zeros(2, 2, 1, 1), "b.op.weight": torch.zeros(2, 2, 1, 1)}},
        {"attnM.op.weight": torch.zeros(2, 2, 3, 3), "attnM.op.bias": torch.zeros(2)},
        {"attnM.op.weight": torch.zeros(2, 2, 1, 1)},
        [1, 2],
    ],
)
def test_a_checkpoint_without_the_attention_is_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no attention of L-CAM; expected: one `\*op.weight` \(K, C, 1, 1\)"):
        LCAM(saved(tmp_path / "x.pth", content))


def test_the_packaged_attention_gives_the_same_maps_in_its_authors_form(tmp_path: Path) -> None:
    used = load_network(scenes_resnet())
    file = "eigencam:lcam_fm-scenes_resnet.safetensors"
    own = load_file(weight_file(file))
    attention = {"attnM.op.weight": own["weight"][:, :, None, None], "attnM.op.bias": own["bias"]}
    path = saved(tmp_path / "x.pth.tar", {"state_dict": {**used.module.state_dict(), **attention}})
    images = torch.randint(0, 256, (2, 3, 112, 112), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    forward, targets = used.forward(images), torch.tensor([2, 5])
    assert not LCAM(path).unsupported(used)
    assert torch.equal(LCAM(path)(forward, targets), LCAM(file)(forward, targets))


def scenes_resnet() -> dict[str, Any]:
    from golden_methods import nodes

    return nodes("model")["scenes_resnet"]


class Bls:
    """The state of the authors' solver that a pickle keeps."""

    def __init__(self, coefficients: Any) -> None:
        self.coef_, self.alpha, self.normalize = coefficients, 50, object()


class Solved:
    """The authors' object, which also holds the network."""

    def __init__(self, coefficients: Any, module: nn.Module) -> None:
        self.bls_merge, self.model, self.target_layer = [Bls(coefficients)], module, "[0+1]"


def pickled(path: Path, made: object, monkeypatch: pytest.MonkeyPatch) -> str:
    """Write a pickle whose classes are in a module that is missing when it is read."""
    module = ModuleType("utils_of_the_authors")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for kind in (Bls, Solved):
        monkeypatch.setattr(kind, "__module__", module.__name__)
        setattr(module, kind.__name__, kind)
    path.write_bytes(pickle.dumps(made))
    monkeypatch.delitem(sys.modules, module.__name__)
    return str(path)


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")  # the authors' own
@pytest.mark.parametrize("form", [np.asarray, np.matrix])
def test_the_coefficients_of_broadcams_authors_are_read(
    form: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    coefficients = np.random.default_rng(0).normal(size=(4, 6))
    net = network("rectified")
    method = BroadCAM(pickled(tmp_path / "x.pkl", Solved(form(coefficients), net), monkeypatch))
    assert not method.unsupported(plain(net))
    forward = make(net)
    weight: Tensor = torch.from_numpy(coefficients.astype(np.float32))[TARGETS]
    expected = torch.einsum("nc,nchw->nhw", weight, forward.activations().relu()).relu()
    torch.testing.assert_close(method(forward, TARGETS), expected)
    assert "4 classes and 6 channels; classifier.0 of toy has 4 and 4" in method.unsupported(
        plain(network("conv"), "classifier.0")
    )


class Harm:
    """A pickle that runs code if the reader allows it."""

    def __reduce__(self) -> Any:
        return Path.touch, (Path("harmed"),)


def test_nothing_of_a_pickle_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = Solved(np.zeros((2, 3)), nn.Identity())
    made.model = Harm()  # type: ignore[assignment]
    method = BroadCAM(pickled(tmp_path / "x.pkl", made, monkeypatch))
    assert method.weights is not None
    assert not Path("harmed").exists()
    pickle.loads(pickle.dumps(Harm()))  # Python's own reader does run it
    assert Path("harmed").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no pickle", "cannot be read as a pickle"),
        (
            pickle.dumps({"coef_": 1}),
            r"no weights of BroadCAM; expected: an object with `bls_merge\[0\].coef_` \(K, d\)",
        ),
        (pickle.dumps(np.zeros(3)), "no weights of BroadCAM"),
    ],
)
def test_another_pickle_is_refused(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=words):
        BroadCAM(str(tmp_path / "x.pkl"))
