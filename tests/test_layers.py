"""Which layers are maps, how they are read, and which one is the default; the answers are known by construction."""

from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_module
from layer_outputs import (
    MAPS,
    NO_MAPS,
    OPAQUE,
    OPAQUE_NO_MAPS,
    SIZES,
    STRIDE,
    Layer,
    opaque,
    outputs,
    tokens,
    with_extra,
)
from torch import Tensor, nn

from eigencam import Explainer
from eigencam.commands.main import main
from eigencam.networks.default_layer import choose, default_layer
from eigencam.networks.layers import examine, reading_of
from eigencam.networks.network import Preprocess, load_network
from eigencam.passes.readings import CHANNELS_FIRST, Layout, Reading

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_layers.py"
_spec = spec_from_file_location("check_layers", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
check_layers = module_from_spec(_spec)
_spec.loader.exec_module(check_layers)
KNOWN = check_layers.read_known(check_layers.LIST)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("seed", range(2))
def test_maps_are_read_as_they_are_made_and_nothing_else_is(size: tuple[int, int], seed: int) -> None:
    """All cases of both lists at once: 19 maps, and 24 outputs that are no maps."""
    functions = {name: made[0] for name, made in (MAPS | NO_MAPS).items()}
    found = examine(outputs(functions, seed), size).findings
    shape = (size[0] // STRIDE, size[1] // STRIDE)
    wrong = {n: str(found[f"out.{n}"]) for n, (_, answer) in MAPS.items() if found[f"out.{n}"].reading != answer(shape)}
    assert not wrong
    assert not {n: str(found[f"out.{n}"].reading) for n in NO_MAPS if found[f"out.{n}"].reading}
    undecided = [n for n in MAPS if found[f"out.{n}"].state != "follows"]
    assert len(undecided) <= len(MAPS) // 10, undecided


@pytest.mark.parametrize("name", NO_MAPS)
def test_the_reason_is_the_true_one(name: str) -> None:
    function, reason = NO_MAPS[name]
    found = examine(outputs({"it": function}), (64, 64)).findings["out.it"]
    assert found.state == "none"
    assert any(part in found.reason for part in reason.split("|")), found.reason


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_where_the_operations_say_nothing_the_stimulus_decides(size: tuple[int, int]) -> None:
    functions: dict[str, Layer] = {n: lambda x, f=MAPS[n][0]: opaque(f(x)) for n in OPAQUE}
    functions |= {n: lambda x, f=NO_MAPS[n][0]: opaque(f(x)) for n in OPAQUE_NO_MAPS}
    found = examine(outputs(functions), size).findings
    shape = (size[0] // STRIDE, size[1] // STRIDE)
    assert {n: found[f"out.{n}"].reading for n in OPAQUE} == {n: MAPS[n][1](shape) for n in OPAQUE}
    assert not {n: str(found[f"out.{n}"].reading) for n in OPAQUE_NO_MAPS if found[f"out.{n}"].reading}
    assert "mirrored left to right" in found["out.mirrored"].reason


def test_operations_that_say_one_thing_and_a_stimulus_that_says_another_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from eigencam.passes import position_rules

    monkeypatch.setitem(position_rules.RULES, "flip", position_rules.RULES["clone"])  # type: ignore[arg-type]
    found = examine(outputs({"it": lambda x: x.flip(3)}), (64, 64)).findings["out.it"]
    assert found.reading is None
    assert found.reason.startswith("its operations say channels_first, but a moved stimulus moves as in")
    assert "mirrored left to right" in found.reason


def test_what_the_stimulus_cannot_tell_is_marked() -> None:
    functions: dict[str, Layer] = {
        "mixed": lambda x: x * 1e-9 + x.mean((2, 3), keepdim=True) * 1e3,
        "small": lambda x: F.adaptive_avg_pool2d(x, 2),
    }
    found = examine(outputs(functions), (64, 64)).findings
    assert {found[f"out.{n}"].state for n in functions} == {"undecided"}
    assert {found[f"out.{n}"].reading for n in functions} == {CHANNELS_FIRST}


class Transformer(nn.Module):
    """Patches, a class token and two residual blocks of attention; the classifier reads the class token or the mean."""

    def __init__(self, pooled: bool, zeros: bool = False) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 16, STRIDE, STRIDE)
        self.drop, self.pooled = nn.Identity(), pooled
        self.blocks = nn.Sequential(*(nn.TransformerEncoderLayer(16, 2, 32, batch_first=True) for _ in range(2)))
        self.norm, self.fc = nn.LayerNorm(16), nn.Linear(16, 5)
        if zeros:
            nn.init.zeros_(self.fc.weight)
            nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = tokens(self.embed(x))
        x = self.norm(self.blocks(self.drop(torch.cat([x.new_zeros(len(x), 1, 16), x], 1))))
        return self.fc(x[:, 1:].mean(1) if self.pooled else x[:, 0])


class Convolutional(nn.Module):
    """Two stages; the part behind them varies."""

    def __init__(self, head: str) -> None:
        super().__init__()
        self.stem, self.stage = (
            nn.Conv2d(3, 8, STRIDE, STRIDE),
            nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(inplace=True)),
        )
        self.classes, self.fc, self.last, self.head = nn.Conv2d(8, 4, 1), nn.Linear(8, 4), nn.Identity(), head

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        if self.head == "beside":
            return self.fc((self.stage(x) + x).mean((2, 3)))
        x = self.stage(x)
        if self.head == "class maps":
            return self.classes(x).relu().mean((2, 3))
        if self.head == "mirrored":
            x = self.last(x.flip(3))
        return x if self.head == "none" else self.fc(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "layer", "reading"),
    [
        (lambda: Convolutional("mean"), "stage", CHANNELS_FIRST),
        (lambda: Convolutional("beside"), "stem", CHANNELS_FIRST),
        (lambda: Convolutional("class maps"), "stage", CHANNELS_FIRST),
        (lambda: Convolutional("none"), "stage", CHANNELS_FIRST),
        (lambda: Transformer(pooled=True), "norm", Reading((1,), (8, 12), 1)),
        (lambda: Transformer(pooled=False), "blocks.0", Reading((1,), (8, 12), 1)),
        (lambda: Transformer(pooled=False, zeros=True), "blocks.0", Reading((1,), (8, 12), 1)),
    ],
    ids=["mean", "residual", "class maps", "no classifier", "mean of tokens", "class token", "a head of zeros"],
)
def test_the_default_is_the_last_map_that_the_output_depends_on(
    make: Callable[[], nn.Module], layer: str, reading: Reading
) -> None:
    torch.manual_seed(0)
    module = make().eval()
    state = {name: value.clone() for name, value in module.state_dict().items()}
    examined = examine(module, (64, 96))
    assert default_layer(module, examined, "net") == layer
    assert reading_of(examined, layer, "net") == reading
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


def test_a_later_layer_that_is_not_read_for_certain_is_never_passed_over_in_silence() -> None:
    module = Convolutional("mirrored").eval()
    examined = examine(module, (64, 64))
    with pytest.raises(
        ValueError, match=r"net: which layer\?.*'last'.*backwards.*before it is 'stage'.*eigencam layers"
    ):
        default_layer(module, examined, "net")
    choice = choose(module, examined)
    assert choice.chosen is not None
    assert choice.doubtful is not None
    assert (choice.chosen.layer, choice.doubtful.layer) == ("stage", "last")


class Resampling(nn.Module):
    """A residual block that halves the grid and doubles it again, shifted up and left by half a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(8, 8, 5, 2, 2)
        self.up = nn.ConvTranspose2d(8, 8, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x)) + x


def test_blocks_beside_a_shortcut_add_no_drift() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 8, STRIDE, STRIDE), *(Resampling() for _ in range(6))).eval()
    examined = examine(module, (64, 64))
    assert reading_of(examined, "6", "net") == CHANNELS_FIRST
    assert default_layer(module, examined, "net") == "6"


def test_no_layer_at_all() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    with pytest.raises(ValueError, match=r"no layer is a map that all paths pass through; set model.layer"):
        default_layer(module, examine(module, (32, 32)), "net")


@pytest.mark.parametrize(
    ("layer", "reshape", "prefix", "message"),
    [
        (
            "norm",
            "channels_last",
            None,
            r"'norm' \(97, 16\) is read as tokens 8x12, 1 in front, not with model.reshape",
        ),
        (
            "norm",
            "tokens",
            0,
            "is read as tokens 8x12, 1 in front, not with model.reshape=tokens, model.prefix_tokens=0",
        ),
        ("embed", "tokens", None, "is read as channels_first, not with"),
        ("fc", None, None, r"layer 'fc' \(5,\) is no map: .*pooled.*`eigencam layers MODEL` lists"),
        ("fc", "channels_first", None, "is no map with model.reshape=channels_first"),
    ],
)
def test_what_a_person_says_is_checked(layer: str, reshape: Layout | None, prefix: int | None, message: str) -> None:
    examined = examine(Transformer(pooled=True).eval(), (64, 96))
    with pytest.raises(ValueError, match=message):
        reading_of(examined, layer, "net", reshape, prefix)


def test_what_a_person_says_wins_where_nothing_is_known() -> None:
    functions: dict[str, Layer] = {"it": lambda x: opaque(with_extra(x * 1e-9, 2, 0) + 1)}
    examined = examine(outputs(functions), (64, 96))
    with pytest.raises(ValueError, match="is no map: a stimulus in the image does not change it"):
        reading_of(examined, "out.it", "net")
    assert reading_of(examined, "out.it", "net", "tokens", 2) == Reading((1,), (8, 12), 2)
    with pytest.raises(ValueError, match=r"is no map with model.reshape=tokens, model.prefix_tokens=3"):
        reading_of(examined, "out.it", "net", "tokens", 3)


@pytest.mark.full
@pytest.mark.parametrize(
    "name",
    [
        "torchvision/squeezenet1_1",
        "torchvision/mobilenet_v3_small",
        "timm/test_vit",
        "timm/test_vit3",
        "timm/test_maxvit",
        "timm/test_coatnet",
        "timm/test_convnext",
        "timm/test_nfnet",
        "timm/edgenext_xx_small",
        "timm/pvt_v2_b0",
    ],
)
@pytest.mark.filterwarnings("ignore")  # timm's and torch.jit's own
def test_layers_with_a_known_answer(name: str) -> None:
    """A part of the list; `scripts/check_layers.py` checks all of it."""
    ((size, layers),) = [(size, layers) for (net, size), layers in KNOWN.items() if net == name]
    found = examine(check_layers.built(name, size), size).findings
    outcomes = {layer: check_layers.judged(found[layer], answer) for layer, answer in layers.items()}
    assert not {layer: outcome for layer, outcome in outcomes.items() if outcome.isupper()}
    assert list(outcomes.values()).count("map: undecided") <= 1


@pytest.mark.parametrize(
    "name", ["scenes_resnet", "scenes_vgg", "scenes_vig", "scenes_vit", "alexnet", "squeezenet1_1"]
)
def test_the_layers_of_our_configs_are_confirmed(name: str) -> None:
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        model = compose("run", [f"model={name}", *([] if "scenes" in name else ["model.weights=null"])]).model
    network = load_network(model)
    found = network.examined().findings[network.layer]
    assert (found.state, found.reading) == ("follows", network.reading(network.layer))
    default = default_layer(network.module, network.examined(), name)
    same = network.examined().findings[default].values == found.values
    # the sum bypasses the transformer's norm; a pool follows AlexNet's ReLU
    assert same == (name in ("scenes_resnet", "scenes_vgg", "scenes_vig", "squeezenet1_1"))


@pytest.mark.full
def test_every_door_finds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    Path("own_transformer.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.embed = nn.Conv2d(3, 8, 8, 8)\n"
        "        self.block = nn.Linear(8, 8)\n        self.fc = nn.Linear(8, 12)\n\n"
        "    def forward(self, x):\n        x = self.embed(x).flatten(2).mT\n"
        "        x = self.block(torch.cat([x, x.mean(1, keepdim=True)], 1))\n"
        "        return self.fc(x[:, :-1].relu().mean(1))\n"
    )
    from own_transformer import Net  # pyright: ignore[reportMissingImports]

    chosen = ["model=custom", "model._target_=own_transformer.Net", "model.preprocess.size=48"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        network = load_network(compose("run", chosen).model)
    assert network.layer == "block"
    assert network.reading("block") == Reading((1,), (6, 6), behind=1)
    explain = Explainer(Net(), preprocess=Preprocess(size=48))
    assert explain.network.layer == "block"
    image = np.random.default_rng(0).integers(0, 256, (48, 48, 3), np.uint8)
    assert explain(image, "eigencam")["eigencam"].raw.shape == (6, 6)
    capsys.readouterr()
    assert main(["layers", "own_transformer.Net", "model.preprocess.size=48"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("block"))
    assert line.split() == [
        "block",
        "37",
        "x",
        "8",
        "tokens",
        "6x6,",
        "1",
        "behind",
        "6",
        "x",
        "6",
        line.split()[11],
        "default",
    ]
    assert main(["layers", "own_transformer.Net", "model.preprocess.size=48", "--all"]) == 0
    assert "no map: it has no positions of the image left" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"no layer 'blok'; near matches: block.*eigencam layers MODEL"):
        Explainer(Net(), "blok")
    with pytest.raises(ValueError, match=r"model.reshape='rows'; allowed: null, channels_first, channels_last, tokens"):
        Explainer(Net(), reshape="rows")  # type: ignore[arg-type]
