"""A network at each entry point: `run`, `explain`, `compare` and `Explainer`.

All of them call `compute_maps`, where the maps are recorded; `compare` reads the results of `run`.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from activations import SIDE, activation, small
from golden_methods import FEW, FITTED, nodes
from hydra import compose, initialize_config_module
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from eigencam.commands.main import main
from eigencam.configuring.catalogue import catalogue
from eigencam.configuring.method_names import model_overrides
from eigencam.configuring.wrapped_methods import short_name
from eigencam.explainer import Explainer
from eigencam.methods.base import gives_boxes
from eigencam.networks.network import load_network
from eigencam.running.batch_maps import compute_maps
from eigencam.running.run import run
from eigencam.store.build import find

Maps = dict[str, NDArray[np.float32]]
FEWER: dict[str, dict[str, Any]] = {
    "captum_occlusion": {"options.sliding_window_shapes": "[3,4,4]", "options.strides": "[3,4,4]"},
    "augmented_gradcam": {"steps": 1},
    "extremal_perturbation": {"steps": 1},
}
"""Beside `FEW`, by method."""


def net(name: str, form: str) -> nn.Module:
    """A network with an activation that is written in one of three forms."""
    return small(lambda: activation(name, form))


class Parts(nn.Module):
    """A network in two parts: the first without a graph, or returned beside the logits."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        whole = small(nn.ReLU)
        self.first, self.second, self.kind = whole[:3], whole[3:], kind

    def forward(self, x: Tensor) -> Any:
        with torch.set_grad_enabled(self.kind != "cut" and torch.is_grad_enabled()):
            x = self.first(x)
        logits = self.second(x)
        return (x.mean((2, 3)), logits) if self.kind == "pair" else logits


def options() -> list[str]:
    """The options of `method` that give maps, but for `files`, which needs a folder."""
    boxes = {name for name, node in nodes("method").items() if gives_boxes(find(node["_target_"]))}
    return [entry.option for entry in catalogue() if entry.option not in boxes | {"files"}]


def few(asked: Sequence[str]) -> list[str]:
    """Overrides by which methods do little."""
    made: list[str] = []
    for name in map(short_name, asked):
        less = {key: FEW[key] for key in nodes("method")[name] if key in FEW} | FEWER.get(name, {})
        made += [f"method.{name}.{key}={value}" for key, value in less.items()]
        made += [f"method.{name}.file=eigencam:{name}-scenes_resnet.safetensors"] if name in FITTED else []
    return made


@dataclass
class Doors:
    """One network and one image, with some methods, at all doors.

    Attributes:
        folder: of images and results.
        model: as `--model` takes it.
        own: settings of the network.
        asked: options of `method`, the reference of a comparison first.
        seen: the maps of each pass, in order.
    """

    folder: Path
    model: str
    own: Sequence[str]
    asked: Sequence[str]
    seen: list[Maps] = field(default_factory=list)

    def recorded(self, monkeypatch: pytest.MonkeyPatch) -> "Doors":
        """Write an image, and record all passes from now on."""
        pixels = np.random.default_rng(0).integers(0, 256, (14, 18, 3), np.uint8)
        (self.folder / "images").mkdir()
        Image.fromarray(pixels).save(self.folder / "images" / "one.png")

        def recorded(*args: Any, **kwargs: Any) -> Any:
            made = compute_maps(*args, **kwargs)
            self.seen.append(made.maps)
            return made

        for module in ("eigencam.running.batch_pass", "eigencam.explainer"):
            monkeypatch.setattr(f"{module}.compute_maps", recorded)
        monkeypatch.chdir(self.folder)
        return self

    @property
    def settings(self) -> list[str]:
        """What the doors of the command line share."""
        return [*self.own, f"paths.folder={self.folder / 'images'}", "workers=0", "device=cpu", *few(self.asked)]

    def run(self) -> tuple[Any, Maps]:
        """The job of `eigencam run`, and its maps."""
        more = [f"method=[{','.join(self.asked)}]", "evaluator=[sparseness]", "on_unsupported=skip", "timing=false"]
        more += ["dataset=folder", "target=predicted", f"paths.results={self.folder / 'results'}"]
        with initialize_config_module("eigencam.configs", version_base="1.3"):
            config = compose("run", [*model_overrides(self.model), *more, *self.settings])
        job = run(config, say=lambda _line: None)
        return job, self.seen[-1] if self.seen else {}

    def explainer(self, job: Any) -> tuple[Mapping[str, str], Maps]:
        """What `Explainer` refuses, and its maps."""
        explain = Explainer(load_network(job.config.model), references=[job.dataset.image(0)])
        found = explain(job.dataset.image(0), job.methods, name="one")
        return found.refused, {name: made.raw[None] for name, made in found.items()}

    def explain(self, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, str], Maps]:
        """What `eigencam explain` refuses, and its maps."""
        capsys.readouterr()
        asked = ["--model", self.model, "--method", ",".join(self.asked), "--dataset", "folder", "--images", "1"]
        assert main(["explain", *asked, *self.settings]) == 0
        lines = capsys.readouterr().out.splitlines()
        return dict(line.split(" left out: ") for line in lines if " left out: " in line), self.seen[-1]

    def compare(self, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
        """What `eigencam compare` refuses; what it compares are the results of `run`, and nothing is computed."""
        capsys.readouterr()
        passes = len(self.seen)
        asked = ["--model", self.model, "--dataset", "folder", "--evaluator", "sparseness", "--format", "json"]
        asked += ["--results", str(self.folder / "results"), "target=predicted", "timing=false"]
        assert main(["compare", *self.asked, *asked, *self.settings]) == 0
        assert len(self.seen) == passes
        notes = json.loads(capsys.readouterr().out)["notes"]
        parts = [note.split(": not run, ", 1) for note in notes if ": not run, " in note]
        return {method.split(" on ")[0]: reason for method, reason in parts}


OWN = ["model.name=net", "model.classes=own", f"model.preprocess.size={SIDE}"]


def check(doors: Doors, capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """Check that the doors agree: the same maps, bit by bit, and the same refusals, which are returned."""
    job, maps = doors.run()
    assert maps.keys() | job.unsupported.keys() == {short_name(option) for option in doors.asked}
    for refused, made in (doors.explainer(job), doors.explain(capsys)):
        assert refused == job.unsupported
        assert made.keys() == maps.keys()
        for method, found in made.items():
            np.testing.assert_array_equal(found, maps[method], err_msg=method)
    assert doors.compare(capsys) == job.unsupported
    return job.unsupported
