"""Results are data, never code: no object that they name is built unless it is trusted."""

import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
from stored import IDENTITY, finished

from eigencam.store.identity import describe
from eigencam.store.reader import read, read_all
from eigencam.store.schema import IDENTITY as IDENTITY_FILE
from eigencam.store.seal import write_json
from eigencam.store.trust import PACKAGED, Trust, UntrustedError, rebuilt

# Data, never program

PAYLOADS: list[dict[str, Any]] = [
    {"_target_": "pandas.read_pickle", "filepath_or_buffer": "payload"},
    {"target": "pandas.read_pickle", "parameters": {"filepath_or_buffer": "payload"}},
    {"target": "os.system", "source": "", "parameters": {"command": "touch RAN"}},
    {
        "library": "pandas",
        "name": "read_pickle",
        "library_version": "2",
        "parameters": {"filepath_or_buffer": "payload"},
    },
    {
        "name": "Localization",
        "version": 1,
        "parameters": {"threshold": {"_target_": "os.system", "command": "touch RAN"}},
    },
    {"name": "../evil", "version": 1},
    {"name": "system", "version": 1},
    {"target": "evil.Evaluator", "source": "0" * 64},
    {"target": 3},
    {"name": "Localization", "version": 1, "parameters": {"__class__": 1}},
    {"name": "Localization", "version": "1"},
    {},
]


@pytest.mark.parametrize("payload", PAYLOADS, ids=str)
def test_nothing_that_a_result_holds_is_run(
    tmp_path: Path, payload: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Payload:
        def __reduce__(self) -> Any:
            return os.system, ("touch RAN",)

    made = finished(tmp_path / "runs", evaluator=payload)
    (made.folder / "evil.py").write_text("open('RAN', 'w')\nclass Evaluator: pass\n")
    (made.folder / "payload").write_bytes(pickle.dumps(Payload()))
    monkeypatch.chdir(made.folder)
    monkeypatch.syspath_prepend(str(made.folder))
    (stored,) = read_all(tmp_path / "runs")
    assert stored.state == "done"  # its stored metrics are in every table
    with pytest.raises(UntrustedError) as caught:
        stored.evaluator()
    assert "\n" not in str(caught.value)
    assert not (made.folder / "RAN").exists()


def test_a_person_s_code_is_built_where_this_command_trusts_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_evaluator.py").write_text("class Own:\n    def __init__(self, k=1):\n        self.k = k\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    described = describe({"_target_": "own_evaluator.Own", "k": 2})
    with pytest.raises(UntrustedError, match=r"own_evaluator\.Own is not trusted; --trust own_evaluator allows it"):
        rebuilt(described, "evaluator")
    (tmp_path / "configs").mkdir()
    assert rebuilt(described, "evaluator", Trust.of(modules=["own_evaluator"])).k == 2
    (tmp_path / "configs" / "x.yaml").write_text("trust: [own_evaluator]\n")
    assert rebuilt(described, "evaluator", Trust.of(tmp_path / "configs")).k == 2
    (tmp_path / "configs" / "x.yaml").write_text("own:\n  _target_: own_evaluator.Own\n")
    assert rebuilt(described, "evaluator", Trust.of(tmp_path / "configs")).k == 2
    with pytest.raises(UntrustedError, match="another version"):
        rebuilt({**described, "source": "0" * 64}, "evaluator", Trust.of(modules=["own_evaluator"]))


def test_a_stored_config_names_only_what_is_trusted_and_holds_values() -> None:
    PACKAGED.check({"dataset": {"_target_": "eigencam.datasets.scenes.Scenes", "count": 3}}, "config.yaml")
    for node in (
        {"dataset": {"_target_": "pathlib.Path.write_text"}},
        {"model": {"args": [{"_target_": "torch.load", "weights_only": False}]}},
        {"method": {"x": {"_target_": "eigencam.store.files.write_text"}}},
    ):
        with pytest.raises(UntrustedError, match=r"config\.yaml: _target_=.* is not trusted"):
            PACKAGED.check(node, "config.yaml")
    with pytest.raises(UntrustedError, match="no interpolations"):
        PACKAGED.check({"paths": {"results": "${oc.env:HOME}"}}, "config.yaml")


def test_an_identity_is_refused_in_one_line_whatever_it_holds(tmp_path: Path) -> None:
    made = finished(tmp_path)
    rng = random.Random(0)
    values: list[Any] = [None, 3, "x" * 100_000, [], {}, [[]] * 100, True, -1e308, {"a": {"b": {"c": []}}}]
    for _ in range(200):
        identity: dict[str, Any] = dict(IDENTITY)
        for key in rng.sample(sorted(identity), rng.randint(1, 3)):
            identity[key] = rng.choice(values)
        write_json(made.folder / IDENTITY_FILE, identity)
        stored = read(made.folder)
        assert stored
        assert stored.state in ("damaged", "old", "done")
        assert all("\n" not in fault for fault in (*stored.faults, stored.old))
