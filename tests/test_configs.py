"""Every option of every group composes, and every `_target_` accepts its keys; nothing is built."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from eigencam.networks.libraries import target as target_of
from eigencam.running.prepare import prepare
from eigencam.store.build import signature_errors

GROUPS = ("model", "dataset", "method", "evaluator", "experiment", "fit", "logger")


def options() -> list[tuple[str, str]]:
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        found = [(group, name) for group in GROUPS for name in loader.get_group_options(group)]
        return found + [("experiment", f"paper/{name}") for name in loader.get_group_options("experiment/paper")]


def targets(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(node, dict):
        if "_target_" in node and path != "model":
            yield path, node
        for key, value in node.items():
            yield from targets(value, f"{path}.{key}".lstrip("."))


@pytest.mark.parametrize(("group", "name"), options(), ids=str)
def test_every_option_composes_and_fits_its_target(group: str, name: str) -> None:
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        config = compose("fit" if group == "fit" else "run", [f"{group}={name}"])
    if name == "custom":  # to be filled in by the user
        config.model._target_, config.model.layer = "torchvision.models.alexnet", "features.11"
    elif name == "library":
        config.model.library, config.model.name = "torchvision", name
    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(plain, dict)
    errors = [error for path, node in targets(plain) for error in signature_errors(node, path)]
    model = plain["model"]
    target = target_of("alexnet") if model["library"] else model["_target_"]
    errors += signature_errors({"_target_": target, **(model["args"] or {})}, "model.args")
    assert not errors
    if group in ("method", "evaluator", "logger"):
        assert list(plain[group]) == [name]
    if group == "model":
        assert model["name"] == name.removesuffix("_local")


def test_signature_errors_name_the_key_and_what_is_allowed() -> None:
    def errors(**node: Any) -> list[str]:
        return list(signature_errors(node, "method.x"))

    assert errors(_target_="eigencam.methods.cam.CAM", kk=2) == [
        "method.x.kk: unknown; eigencam.methods.cam.CAM takes: layer"
    ]
    assert "missing" in errors(_target_="eigencam.networks.network.load_network")[0]
    assert "nowhere" in errors(_target_="eigencam.nowhere.X")[0]
    assert "no _target_" in errors()[0]


def test_an_experiment_s_settings_of_what_is_not_chosen_are_left_out(tmp_path: Path) -> None:
    chosen = ["experiment=paper/rise2018", "model=scenes_vgg", "dataset=scenes", "dataset.count=2", "device=cpu"]
    chosen += ["method=[gradcam]", f"paths.results={tmp_path}"]
    with initialize_config_module("eigencam.configs", version_base="1.3"):
        config = compose("run", chosen)
    assert "rise" in config.method
    assert list(prepare(config).methods) == ["gradcam"]
    config.method = {"mine": {"power": 2}}
    with pytest.raises(ValueError, match=r"method\.mine: no _target_"):
        prepare(config)
