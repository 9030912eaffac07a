"""Methods and evaluators of one's own that break their contract: each is named and costs its own result alone."""

import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import config, tables

from eigencam import Explainer
from eigencam.networks.network import Preprocess
from eigencam.running.faults import NetworkChangedError, PartlyFailedError
from eigencam.running.run import run

SMALL = ["dataset.count=4", "batch_size=2", "flush_s=0", "timing=false", "method=[center_box]"]
MINE = '''"""Parts that break their contract."""
import sys

import numpy as np
import torch

from eigencam.evaluation.base import Metric
from eigencam.evaluation.localization import Localization


class Method:
    def __init__(self, how):
        self.how = how

    def __call__(self, forward, targets):
        maps = torch.ones(len(forward), 4, 4)
        if self.how == "exit":
            sys.exit("no weights")
        if self.how == "weights":
            with torch.no_grad():
                next(forward.module.parameters()).mul_(0.5)
        if self.how == "replaced":
            layer = next(m for m in forward.module.modules() if isinstance(m, torch.nn.Conv2d))
            layer.weight = torch.nn.Parameter(0.5 * layer.weight.detach())
        if self.how == "hook":
            list(forward.module.modules())[-1].register_forward_hook(lambda _m, _x, out: 2 * out)
        if self.how == "unhooked":
            for module in forward.module.modules():
                module._forward_hooks.clear()
        if self.how == "raises":
            forward.module.register_forward_pre_hook(lambda _m, x: x[0] * 0)
            raise RuntimeError("half way")
        if self.how == "sparse":
            return maps.to_sparse()
        return {"empty": maps[:, :0], "complex": maps.to(torch.complex64)}.get(self.how, maps)


class Boxes:
    gives_boxes = True

    def __call__(self, forward, targets):
        return [np.array([[0, 0, np.nan, 5, 1.0]])] * len(forward)


class Image(Localization):
    def row(self, score_map, truth):
        return super().row(score_map, truth) | {"image": "same"}


class Truth(Localization):
    def row(self, score_map, truth):
        truth.boxes[:] = 0


class Values(Localization):
    def row(self, score_map, truth):
        score_map.values[:] -= score_map.values.min()


class Exit(Localization):
    def row(self, score_map, truth):
        sys.exit(4)


def summary_of(*numbers):
    made = {"summary": lambda self, rows: [Metric("m", *numbers)], "__module__": __name__}
    return type("Summary", (Localization,), made)


Infinite, Huge, Fraction, Text = map(
    lambda numbers: summary_of(*numbers), [(np.inf, 0, 1, 3), (1e300, 0, 1e301, 3), (4, 3, 5, 3.5), ("4", 3, 5, 3)]
)
Numbers = summary_of(np.float32(40), np.float64(30), np.float32(50), np.int64(4))
'''
FAULTS = {
    "method exit": r"SystemExit: no weights .*mine_broken\.py, line 18",
    "method empty": r"returned \(2, 0, 4\); needed",
    "method complex": r"returned \(2, 4, 4\) of complex numbers",
    "method sparse": r"returned \(2, 4, 4\), torch\.sparse_coo",
    "method boxes": r"a box with a corner that is no finite number",
    "evaluator image, of": r"a row has the column image",
    "evaluator truth, of": r"read-only .*mine_broken\.py",
    "evaluator values, of": r"read-only .*mine_broken\.py",
    "evaluator exit, of": r"SystemExit: 4 .*mine_broken\.py",
    "evaluator infinite, of": r"metric m: value: inf; allowed",
    "evaluator huge, of": r"metric m: value: 1e\+300; allowed",
    "evaluator fraction, of": r"metric m: n: float in the place of int",
    "evaluator text, of": r"metric m: value: str in the place of float",
}


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / "mine_broken.py").write_text(MINE)
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("mine_broken", None)
    yield
    sys.modules.pop("mine_broken", None)


def test_what_breaks_its_contract_is_named_and_costs_its_own_result(tmp_path: Path) -> None:
    run(config(tmp_path / "alone", *SMALL, "evaluator=[localization]"))
    methods = [
        f"+method.{how}={{_target_: mine_broken.Method, how: {how}}}" for how in ("exit", "empty", "complex", "sparse")
    ]
    methods.append("+method.boxes={_target_: mine_broken.Boxes}")
    names = ("image", "truth", "values", "exit", "infinite", "huge", "fraction", "text", "numbers")
    mine = [f"+evaluator.{name}={{_target_: mine_broken.{name.capitalize()}}}" for name in names]
    packaged = "+evaluator.localization={_target_: eigencam.evaluation.localization.Localization}"
    with pytest.raises(PartlyFailedError) as raised:
        run(config(tmp_path / "r", *SMALL, "evaluator=[]", *mine, packaged, *methods))
    for part, words in FAULTS.items():
        assert re.search(f"{part}.*{words}", str(raised.value)), part
    made = tables(tmp_path / "r")
    assert tables(tmp_path / "alone").items() <= made.items()
    (numbers,) = (metrics for name, (_, metrics) in made.items() if "-center_box-numbers-" in name)
    assert '"value": 40.0' in numbers
    assert len(made) == 2


@pytest.mark.parametrize("how", ["weights", "replaced", "hook"])
def test_a_method_that_changes_the_network_stops_the_run(how: str, tmp_path: Path) -> None:
    what = "hooks" if how == "hook" else "weights or buffers"
    with pytest.raises(NetworkChangedError, match=f"method mine changes the network's {what}, so the run stops"):
        run(
            config(
                tmp_path / "r",
                *SMALL,
                "evaluator=[localization]",
                f"+method.mine={{_target_: mine_broken.Method, how: {how}}}",
            )
        )
    assert not tables(tmp_path / "r")


@pytest.mark.parametrize("how", ["hook", "unhooked", "raises"])
def test_hooks_are_as_they_were_before_a_method(how: str) -> None:
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    kept = [
        module[0].register_forward_hook(lambda *given: torch.relu(given[2])),
        module.register_full_backward_pre_hook(print),
    ]
    before = [dict(inner._forward_hooks) for inner in module.modules()]
    explain = Explainer(module, "0", preprocess=Preprocess(16))
    image = np.zeros((16, 16, 3), np.uint8)
    logits = explain.output(image)
    with pytest.raises(RuntimeError if how == "raises" else NetworkChangedError):
        explain(image, {"mine": import_module("mine_broken").Method(how)})
    assert [dict(inner._forward_hooks) for inner in module.modules()] == before
    assert not module._forward_pre_hooks
    assert torch.equal(explain.output(image), logits)
    kept[1].remove()
    assert not module._backward_pre_hooks


def test_an_infinite_parameter_is_refused_before_the_run(tmp_path: Path) -> None:
    for value, shown in (("inf", "inf"), ("[1, nan]", "nan")):
        with pytest.raises(ValueError, match=rf"method\.mine\.how=.*{shown}.*; allowed: finite numbers"):
            run(
                config(
                    tmp_path / "r",
                    *SMALL,
                    "evaluator=[localization]",
                    f"+method.mine={{_target_: mine_broken.Method, how: {value}}}",
                )
            )
