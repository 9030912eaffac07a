"""What users type: quoting for Hydra, and configs in other encodings."""

import os
from pathlib import Path

import pytest

from eigencam.commands.main import main
from eigencam.configuring.overrides import accepted, hint


@pytest.mark.parametrize(
    ("arguments", "quoted"),
    [
        (["model.weights=epoch=3-step=10.pth"], """'model.weights="epoch=3-step=10.pth"'"""),
        (["paths.voc=/data/Bücher"], """'paths.voc="/data/Bücher"'"""),
        (["dataset.root=/a b (1)/c"], """'dataset.root="/a b (1)/c"'"""),
        (["paths.voc=/a", "b/c"], """'paths.voc="/a b/c"'"""),
        (["dataset=voc2012", "method=[eigencam,~/y]"], """'method=[eigencam,"~/y"]'"""),
        (["-m", "paths.voc=/a,ü"], """'paths.voc=/a,"ü"'"""),
        (["paths.voc=it's"], """'paths.voc="it'"'"'s"'"""),
        (['paths.voc=a"b'], """'paths.voc='"'"'a"b'"'"''"""),
    ],
)
def test_what_hydra_cannot_read_comes_back_quoted(
    arguments: list[str], quoted: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hint(arguments).endswith(f"quote it: {quoted}")
    assert main(["run", *arguments]) == 2
    assert quoted in capsys.readouterr().err


def test_what_is_quoted_so_is_what_was_meant() -> None:
    import shlex

    from hydra.core.override_parser.overrides_parser import OverridesParser

    for value in ("a=b", "ü", "a'b", 'a"b', "a\\b=", "a'\"=b", "x (1)", "{a", "[a", "a#b", "~a\\", " é ", "é\\\\"):
        (typed,) = shlex.split(hint([f"key={value}"]).partition("quote it: ")[2])
        assert OverridesParser.create().parse_override(typed).value() == value
    for arguments in (["a/b"], ["a=1", "-m"], ["--config-dir", "x", "a=1"], [], ["~a"], ["=é"]):
        assert hint(arguments) == ""


def test_a_home_folder_is_what_a_shell_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/zoë")
    monkeypatch.setenv("EIGENCAM_RESULTS", "~/results")
    assert accepted(["paths.voc=~/VOC", "+a=~", "~dataset.expect", "a=b~", "-m"]) == [
        'paths.voc="/home/zoë/VOC"',
        '+a="/home/zoë"',
        "~dataset.expect",
        "a=b~",
        "-m",
    ]
    assert os.environ["EIGENCAM_RESULTS"] == "/home/zoë/results"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
@pytest.mark.parametrize("option", [["--config-dir", "{}"], ["--config-dir={}"], ["-cd", "{}"]])
def test_configs_that_hydra_would_misread_are_named(
    option: list[str], encoding: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "experiment" / "mine.yaml"
    path.parent.mkdir()
    path.write_text("# @package _global_\n# é\ndevice: cpu\n", encoding=encoding)
    (path.parent / "._mine.yaml").write_bytes(b"\0\xff")
    assert main(["run", *(word.format(tmp_path) for word in option), "experiment=mine"]) == 2
    seen = capsys.readouterr().err
    assert seen.startswith(f"eigencam: {path}")
    assert seen.count("\n") == 1


def test_a_config_that_is_no_yaml_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text("a: b: c\n")
    assert main(["run", f"--config-dir={tmp_path}", "+mine=x"]) == 2
    assert main(["explain", "--method", str(tmp_path / "mine.yaml")]) == 2
    seen = capsys.readouterr().err
    assert f"eigencam: {tmp_path / 'mine.yaml'}: mapping values are not allowed here" in seen
