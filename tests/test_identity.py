"""Identities do not depend on module paths or on the spelling of defaults; versions and environments."""

import inspect
import json
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest
import yaml
from stored import ENVIRONMENT, IDENTITY, finished

from eigencam.commands.prune import prunable
from eigencam.commands.summarize import again
from eigencam.evaluation.localization import Localization
from eigencam.store.build import find
from eigencam.store.canonical import canonical
from eigencam.store.identity import describe
from eigencam.store.reader import newest, read_all
from eigencam.store.schema import IDENTITY as IDENTITY_FILE
from eigencam.store.schema import SUMMARY
from eigencam.store.trust import PACKAGED

# Identity


def test_one_and_true_are_one_parameter_where_the_default_says_which() -> None:
    target = "eigencam.methods.eigencam.EigenCAM"
    flags = {name for name, p in inspect.signature(find(target)).parameters.items() if isinstance(p.default, bool)}
    assert flags
    for name in flags:
        for said, meant in ((1, True), (0, False)):
            assert describe({"_target_": target, name: said}) == describe({"_target_": target, name: meant})
    pointing = "eigencam.evaluation.localization.Localization"
    assert describe({"_target_": pointing, "threshold": True}) == describe({"_target_": pointing, "threshold": 1.0})


def test_renaming_our_modules_changes_no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = []
    for group in ("method", "evaluator"):
        for path in sorted(Path(str(files("eigencam.configs"))).glob(f"{group}/*.yaml")):
            nodes += [node for node in yaml.safe_load(path.read_text()).values() if "${" not in str(node)]
    before = [canonical(describe(node)) for node in nodes]
    assert len(before) > 60
    for node in nodes:
        monkeypatch.setattr(find(node["_target_"]), "__module__", "eigencam.elsewhere.of_old")
        assert "eigencam" not in canonical(describe(node)).replace("eigencam_centered", "").replace('"eigencam:', "")


def test_a_default_that_is_spelled_out_is_no_other_identity() -> None:
    node = {"_target_": "eigencam.methods.eigencam.EigenCAM"}
    assert describe(node) == describe({**node, "center": False, "sign": "sum"})
    assert describe(node) != describe({**node, "center": True})
    target = {"_target_": "eigencam.evaluation.localization.Localization"}
    assert describe({**target, "threshold": 2.0}) == describe({**target, "threshold": 2})


def test_a_higher_version_is_another_result_and_tables_show_the_newest(tmp_path: Path) -> None:
    for version in (1, 2):
        finished(tmp_path, evaluator={"name": "Localization", "version": version})
    latest, superseded = newest(read_all(tmp_path))
    assert [s.identity["evaluator"]["version"] for s in (*latest, *superseded)] == [2, 1]
    assert [why for _, why, _ in prunable(tmp_path)] == ["superseded"]


def test_results_of_the_old_format_are_named_and_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "scenes-net-cam-localization-0123456789"
    folder.mkdir()
    old = {"version": 1, "network": {"name": "net"}, "dataset": {"name": "scenes"}, "method": {}, "evaluator": {}}
    (folder / IDENTITY_FILE).write_text(json.dumps(old))
    (folder / SUMMARY).write_text("{}")
    (stored,) = read_all(tmp_path)
    assert stored.state == "old"
    assert "format 1" in stored.old
    assert [why for _, why, _ in prunable(tmp_path)] == ["old"]


def test_a_summary_of_another_version_is_made_again_from_the_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = finished(tmp_path)
    assert again(read_all(tmp_path, hashed=True)[0], PACKAGED)  # for its curves, which are kept
    (stored,) = read_all(tmp_path, hashed=True)
    assert not again(stored, PACKAGED)
    monkeypatch.setattr(Localization, "summary_version", 99, raising=False)
    assert again(stored, PACKAGED)
    summary = made.summary
    assert summary
    assert summary.summary_versions["summary_version"] == 99
    assert summary.rows == stored.summary.rows if stored.summary else False
    assert not again(read_all(tmp_path, hashed=True)[0], PACKAGED)


def test_environments_differ_in_the_packages_that_took_part(tmp_path: Path) -> None:
    made = finished(tmp_path)
    (stored,) = read_all(tmp_path)
    assert stored.runs[0].packages == ENVIRONMENT["packages"]
    assert stored.updated
    assert made.folder.name in stored.folder.name
    assert isinstance(pd.Timestamp(stored.updated), pd.Timestamp)


def test_parameters_tell_results_apart_whatever_they_are_called(tmp_path: Path) -> None:
    for source in ("logits", "features"):
        method = {"target": "my.M", "source": "0" * 64, "parameters": {"source": source, "version": 2}}
        finished(tmp_path, method=method)
    finished(tmp_path, dataset={**IDENTITY["dataset"], "version": "2019"})
    finished(tmp_path, dataset={**IDENTITY["dataset"], "version": "2021"})
    assert len(newest(read_all(tmp_path))[0]) == 4
    assert not prunable(tmp_path)


@pytest.mark.full
def test_a_folder_of_results_may_hold_the_environment(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from eigencam.store.trust import keep_out\n"
        "keep_out(Path(sys.prefix).parent); import hydra, eigencam.evaluation.pxap"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=tmp_path).returncode == 0


def test_a_person_s_class_that_is_built_on_ours_has_the_versions_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "built_on_ours.py").write_text(
        "from eigencam.methods.gradcam import GradCAM\nclass My(GradCAM):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    node = {"_target_": "built_on_ours.My"}
    before = describe(node)
    monkeypatch.setattr(find("eigencam.methods.gradcam.GradCAM"), "version", 7)
    assert describe(node) != before
