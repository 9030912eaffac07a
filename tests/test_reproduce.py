"""Tables are reproduced from their headers, cell by cell; unsafe requests in a stranger's header are refused."""

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from eigencam.commands.main import main
from eigencam.evaluation.tables import Table
from eigencam.reporting.parsed_tables import numbers, read_stated
from eigencam.reporting.reproduce import _of_digits, _of_text
from eigencam.reporting.table_files import as_csv, write
from eigencam.running.foreign_commands import Foreign, ForeignError

RUN = ["run", "dataset.count=6", "method=[gradcam,center_box]", "evaluator=[localization]", "timing=false", "workers=0"]
ODD = r"a|b \ *c* _d_ $e$ {f} ~g^ <h> & 100 % #1 --x [i]"


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of a small run, written by the command."""
    root = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", sys.argv)
        patch.setattr(sys, "path", sys.path.copy())
        patch.chdir(root)
        assert main([*RUN, "device=cpu", f"paths.results={root / 'runs'}"]) == 0
        assert main(["table", "--results", str(root / "runs"), "--out", str(root)]) == 0
    return root


@pytest.mark.full
def test_every_cell_of_every_format_is_the_same_again(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(tables / f"tables.{kind}") for kind in ("md", "csv", "tex")]
    assert main(["reproduce", *files, "device=cpu", "--out", str(tmp_path / "r")]) == 0
    out = capsys.readouterr().out.splitlines()
    counts = {
        line.split(": ")[0].rsplit(".", 1)[1]: line.split(": ", 1)[1] for line in out if line.startswith(str(tables))
    }
    md, csv = (len(read_stated(Path(file)).cells) for file in files[:2])
    assert md > 8
    assert counts == {
        "md": f"{md} cells: {md} same",
        "tex": f"{md} cells: {md} same",
        "csv": f"{csv} cells: {csv} same",
    }
    changed = tmp_path / "tables.md"
    text = Path(files[0]).read_text()
    cell = next(c for c in read_stated(Path(files[0])).cells if c.column == "mean_iou" and c.method == "gradcam").text
    value, digits = numbers(cell)[0]
    for step, kind, status in ((0.1, "same within rounding", 0), (5, "different", 1)):
        changed.write_text(text.replace(cell, cell.replace(f"{value:.{digits}f}", f"{value + step:.{digits}f}", 1), 1))
        assert main(["reproduce", str(changed), "--out", str(tmp_path / "r")]) == status
        said = capsys.readouterr().out
        assert f"{kind}: scenes test: localization: scenes_resnet/gradcam: mean_iou: {value + step:.{digits}f}" in said


@pytest.mark.full
def test_a_part_of_the_images_gives_no_verdict_and_says_so(
    tables: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", str(tables / "tables.csv"), "--limit", "3", "--out", str(tmp_path / "r")]) == 0
    said = capsys.readouterr().out
    assert "cells: 3 of 6 images were scored" in said
    assert "same" not in said


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("eigencam run method.gradcam._target_=os.system", "names no code"),
        ("eigencam run +method.x={_target_:os.system}", "names no code"),
        ("eigencam run +method.x.own=os.system", "is code that is not trusted"),
        ("eigencam run model.weights=${oc.env:HOME}", "no interpolation"),
        ("eigencam run hydra.searchpath=[file:///tmp/evil]", "refused"),
        ("eigencam run 'hydra.searchpath=[pkg://evil]'", "refused"),
        ("eigencam run hydra.callbacks={a:b}", "refused"),
        ("eigencam run +hydra.callbacks.x.y=b", "refused"),
        ("eigencam run hydra/launcher=joblib", "refused"),
        ("eigencam run hydra.launcher.n_jobs=3", "refused"),
        ("eigencam run hydra.sweeper.params.hydra.searchpath=x", "refused"),
        ("eigencam run hydra.run.dir=/tmp/x", "refused"),
        ("eigencam run --config-dir evil", "--config-dir is refused"),
        ("eigencam run --config-dir=evil", "--config-dir=evil is refused"),
        ("eigencam run -cd evil", "-cd is refused"),
        ("eigencam run --config-path /evil", "refused"),
        ("eigencam compare a b --config-dir evil", "refused"),
        ("eigencam compare gradcam evil.method", "allowed are methods of this package"),
        ("eigencam compare gradcam evil.py", "allowed are methods of this package"),
        ("eigencam run paths.voc=/data/VOC dataset=voc2007", "give paths.voc=FOLDER"),
        ("eigencam run dataset=folder dataset.root=/etc", "a path that this command line did not give"),
        ("eigencam run model.weights=../secret.pth", "a path that this command line did not give"),
        ("eigencam run images=there.txt", "a path that this command line did not give"),
        ("eigencam run 'model.weights=\"~/secret.pth\"'", "a path that this command line did not give"),
        ("eigencam run experiment=../../evil", "a path that this command line did not give"),
        ("eigencam fit fit.file=/tmp/evil.safetensors", "a path that this command line did not give"),
        ("python -c 'import os'", "nothing else is run"),
        ("eigencam prune --yes", "nothing else is run"),
        ("eigencam", "nothing else is run"),
        ("eigencam run 'a", "No closing quotation"),
        ("eigencam run " + "[" * 5000, "[[["),
        ("eigencam run ;rm -rf x", "refused"),
        ("eigencam run dataset.count=range(1,1000000000)", "more than 1000 jobs"),
        ("eigencam run -m " + " ".join(f"a{k}=1,2,3" for k in range(9)), "more than 1000 jobs"),
        ("eigencam run hydra.sweeper.params.model=" + ",".join(["scenes_vgg"] * 1200), "more than 1000 jobs"),
        ("", "nothing else is run"),
    ],
)
def test_what_a_stranger_s_header_may_not_ask_for_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.txt").write_text("a\n")
    (tmp_path / "evil.py").write_text("raise SystemExit('it ran')\n")
    foreign = Foreign({}, tmp_path / "r", {})
    with pytest.raises(ValueError, match=re.escape(reason)) as raised:
        list(foreign.jobs(command))
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "r").exists()


def test_what_is_composed_is_this_machine_s(tmp_path: Path) -> None:
    (tmp_path / "data" / "a").mkdir(parents=True)
    foreign = Foreign({"folder": str(tmp_path / "data")}, tmp_path / "r", {"device": "cpu"})
    line = (
        "'eigencam run' -m model=scenes_resnet,scenes_vgg dataset.count=3 paths.results=/elsewhere logger=tensorboard"
    )
    jobs = list(foreign.jobs(f"{line} launcher=slurm shard=1/4 device=cuda:7 paths.folder=/x"))
    assert [(name, config.model.name) for name, _, config in jobs] == [("run", "scenes_resnet"), ("run", "scenes_vgg")]
    for _, _, config in jobs:
        assert config.paths.results == str(tmp_path / "r")
        assert config.paths.folder == str(tmp_path / "data")
        assert (config.logger, config.device, config.shard) == ({}, "cpu", "1/1")
    ((_, _, config),) = foreign.jobs(f"eigencam run dataset=folder dataset.root={tmp_path}/data/a")
    assert config.dataset.root == f"{tmp_path}/data/a"
    with pytest.raises(ForeignError, match="did not give"):
        list(foreign.jobs(f"eigencam run dataset=folder dataset.root={tmp_path}/data/../other"))
    ((name, _, config),) = foreign.jobs("eigencam compare gradcam cam --evaluator pointing dataset.count=3 --results x")
    assert (name, list(config.method), list(config.evaluator)) == ("run", ["gradcam", "cam"], ["pointing"])
    assert list(foreign.jobs("eigencam table --paper cam2016")) == []
    assert list(foreign.jobs("eigencam run --retry-failed --results x")) == []


@pytest.mark.parametrize("kind", ["md", "tex", "csv"])
def test_names_come_back_as_they_were_written(tmp_path: Path, kind: str) -> None:
    title = "data part, 6 images: evaluator (maps for the class: each, float16)"
    frame = pd.DataFrame({"network": [ODD, "=b"], "method": ["-m", "*x*"], "mean_iou %": ["57.5 [50.6, 64.1]", "-"]})
    best = pd.DataFrame({"mean_iou %": [True, False]})
    said = ["command: eigencam run a=b --x '|' <!--", "code: c"]
    long = pd.DataFrame(
        [
            {"dataset": "data", "part": "part", "pictures": 6, "network": network, "method": method, "value": value}
            for network, method, value in ((ODD, "-m", 57.5), ("=b", "*x*", float("nan")))
        ]
    ).assign(evaluator="evaluator", target="each", dtype="float16", metric="mean_iou", low=50.6, high=64.1, unit="%")
    long = long.assign(n=6, threshold="", note="", left_out=0, bad_truths=0, cost=1.0, folder="f")
    write(tmp_path, "tables", [Table(title, frame, best, ["top1 %: net 21.9 [19.5, 24.4]"])], said, as_csv(long, 6))
    stated = read_stated(tmp_path / f"tables.{kind}")
    assert stated.commands == ["eigencam run a=b --x '|' <!--"]
    names = {(cell.data, cell.evaluator, cell.target, cell.dtype, cell.images) for cell in stated.cells}
    assert names == {("data part", "evaluator", "each", "float16", 6)}
    cells = Counter((cell.network, cell.method) for cell in stated.cells if cell.network != "net")
    assert set(cells) == {(ODD, "-m"), ("=b", "*x*")}
    if kind != "csv":
        assert [cell.text for cell in stated.cells if cell.network != "net"] == ["57.5 [50.6, 64.1]", "-"]
        assert [(c.column, c.text) for c in stated.cells if c.network == "net"] == [("top1", "21.9 [19.5, 24.4]")]


@pytest.mark.parametrize(
    ("text", "now", "kind"),
    [
        ("57.4921", 57.4921, "same"),
        ("57.4921", 57.4922, "same within rounding"),
        ("57.4921", 57.4931, "different"),
        ("24", 24, "same"),
        ("24", 25, "different"),
        ("", float("nan"), "same"),
        ("", 3.0, "different"),
        ("3", float("nan"), "different"),
    ],
)
def test_digits_decide(text: str, now: Any, kind: str) -> None:
    assert _of_digits(text, now).kind == kind


def test_printed_cells_of_papers() -> None:
    assert _of_text("57.50 [1.0, 2.0]", "57.51 [1.0, 2.1]").kind == "same within rounding"
    assert _of_text("57.50 [1.0, 2.0]", "57.50").kind == "different"
    assert _of_text("1,079", "1,078").kind == "different"


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("x.md", "# nothing\n", "no table of numbers"),
        ("x.csv", "a,b\n1,2\n", "no columns dataset"),
        ("x.html", "<table>", "no table of numbers"),
        (
            "x.md",
            "### d, 3 images: e (maps for the class: each)\n| network | method | m |\n| a | b | 3.0 |",
            "no `command",
        ),
    ],
)
def test_what_is_no_table_of_ours_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, reason: str
) -> None:
    (tmp_path / name).write_text(text)
    assert main(["reproduce", str(tmp_path / name)]) == 2
    said = capsys.readouterr().err
    assert reason in said
    assert str(tmp_path / name) in said


def test_committed_tables_can_be_read_with_a_command_for_each() -> None:
    files = [
        *Path(__file__).parents[1].glob("results/*/tables.*"),
        *Path(__file__).parents[1].glob("results/papers/*.md"),
    ]
    read = [read_stated(path) for path in files if path.suffix in (".md", ".csv", ".tex")]
    assert sum(len(stated.cells) for stated in read) > 10_000
    foreign = Foreign({"voc": "/x", "ilsvrc": "/x", "weights": "/x"}, Path("r"), {})
    for line in {line for stated in read for line in stated.commands}:
        assert foreign.parsed(line)[0] == "run"
