"""`run`, `explain`, `compare` and `Explainer`: the same maps and the same refusals, whatever the network does."""

from pathlib import Path

import pytest
from activations import RULED
from doors import OWN, Doors, check, options
from golden_methods import ELSEWHERE, FITTED
from test_activations import accepted

from eigencam.configuring.wrapped_methods import short_name
from eigencam.methods.base import follows, needs_smooth

NAMES = ("ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "GELU", "SiLU", "Hardswish", "Sigmoid", "Softplus", "Threshold")
"""Names of the activations in `activations.FORMS`."""


def one_of_each_rule() -> list[str]:
    """Return, of the methods that depend on the operations, one for each set of rules, and one that does not."""
    found: dict[tuple[frozenset[str] | None, bool], str] = {}
    for option in options():
        if option in RULED:
            rules = follows(RULED[option])
            found.setdefault((rules and frozenset(rules), needs_smooth(RULED[option])), option)
    return ["eigencam", *found.values(), "fullgrad"]  # which states its rules itself


ASKED = one_of_each_rule()
EVERY = ["eigencam", *(name for name in options() if name != "eigencam")]
FULL = pytest.mark.full


@pytest.mark.parametrize("form", ["module", "function", "inline"])
@pytest.mark.parametrize("name", NAMES)
def test_every_activation_at_every_door(
    name: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["model.layer='3'", f"+model.args.name={name}", f"+model.args.form={form}", *OWN]
    refused = check(Doors(tmp_path, "doors.net", own, ASKED).recorded(monkeypatch), capsys)
    assert set(ASKED[1:]) - accepted(name, form) == refused.keys()
    assert all("no rule for" in reason for reason in refused.values())


NETWORKS = [
    pytest.param("net", ["model.layer='3'", "+model.args.name=ReLU", "+model.args.form=inline"], set[str]()),
    pytest.param("Parts", ["model.layer=first.2", "+model.args.kind=cut"], {"gradcam", "deeplift"}, marks=FULL),
    pytest.param("Parts", ["model.layer=first.2", "+model.args.kind=pair"], {"scorecam", "rise"}, marks=FULL),
]


@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")  # of Captum
@pytest.mark.parametrize(("name", "own", "some"), NETWORKS, ids=["plain", "cut", "pair"])
def test_every_method_at_every_door(
    name: str,
    own: list[str],
    some: set[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    refused = check(Doors(tmp_path, f"doors.{name}", [*own, *OWN], EVERY).recorded(monkeypatch), capsys)
    assert refused.keys() >= {"drise", *FITTED, *ELSEWHERE} - {"cam", "vitcx"} | some
    assert len(EVERY) > 90
    assert len(EVERY) - len(refused) > 8


@pytest.mark.full
@pytest.mark.parametrize("model", ["scenes_resnet", "scenes_vit", "scenes_vig", "acol"])
def test_methods_of_one_kind_of_network_at_every_door(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fitted = FITTED if model == "scenes_resnet" else ()
    asked = ["eigencam", *(name for name in options() if ELSEWHERE.get(name) == model or name in fitted)]
    own = ["model.weights=null", "model.preprocess.size=64"] if model == "acol" else []
    assert len(asked) > 1
    assert not check(Doors(tmp_path, model, own, asked).recorded(monkeypatch), capsys)


def test_a_name_is_that_of_the_results() -> None:
    assert [short_name(option) for option in ("captum/any", "captum/occlusion", "aug_smooth/gradcam")] == [
        "captum",
        "captum_occlusion",
        "aug_smooth_gradcam",
    ]
