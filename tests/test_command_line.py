"""The help of every command, the position of options, and the shell's completion."""

import importlib
import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eigencam.commands.completion import BASH, ZSH, candidates
from eigencam.commands.main import HYDRA, SUBCOMMANDS, examples, main
from eigencam.configuring.overrides import options_first

PLAIN = [name for name in SUBCOMMANDS if name not in HYDRA]
EIGENCAM = Path(sys.executable).parent / "eigencam"


@pytest.mark.parametrize("command", PLAIN)
def test_the_help_of_each_command_has_two_examples_of_it(command: str) -> None:
    lines = examples(importlib.import_module(f"eigencam.commands.{command}").__doc__ or "").splitlines()
    assert lines[0] == "examples:"
    assert sum(line.startswith(f"  eigencam {command}") for line in lines) >= 2


@pytest.mark.parametrize("command", HYDRA)
def test_hydra_s_help_has_two_examples(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    shown = capsys.readouterr().out.partition("Examples:")[2].partition("Groups and their options")[0]
    assert shown.count(f"  eigencam {command} ") == 2


@pytest.mark.parametrize(
    ("typed", "given"),
    [
        ("method=cam -m limit=3", "-m method=cam limit=3"),
        ("a=1 --config-dir mine b=2", "--config-dir mine a=1 b=2"),
        ("a=1 --config-dir=mine -cn fit b=2", "--config-dir=mine -cn fit a=1 b=2"),
        ("~a b=2 --cfg job", "--cfg job ~a b=2"),
        ("a=1 -- -m", "-- a=1 -m"),
        ("a=1 --config-dir", "--config-dir a=1"),
    ],
)
def test_options_may_stand_anywhere_among_overrides(typed: str, given: str) -> None:
    assert options_first(typed.split()) == given.split()


@pytest.fixture(autouse=True)
def argv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hydra's commands write `sys.argv`."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))


@pytest.mark.full
def test_a_config_folder_between_overrides(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method/mine.yaml").write_text("mine:\n  _target_: eigencam.methods.cam.CAM\n")
    assert main(["run", "method=[mine]", "--config-dir", str(tmp_path), "dataset.count=3", "--cfg", "job"]) == 0
    assert "mine:" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("eigencam ta", "table"),
        ("eigencam run mod", "model="),
        ("eigencam run model=scenes_", "model=scenes_vgg"),
        ("eigencam run method=[cam,eig", "method=[cam,eigencam"),
        ("eigencam run evaluator.localization.thr", "evaluator.localization.threshold="),
        ("eigencam run dataset=scenes dataset.co", "dataset.count="),
        ("eigencam fit --con", "--config-dir"),
        ("eigencam table --format ", "latex"),
        ("eigencam table --piv", "--pivot"),
    ],
)
def test_candidates(line: str, word: str) -> None:
    found = candidates(line)
    assert word in found
    assert all(other.startswith(line.rpartition(" ")[2]) for other in found)


@pytest.mark.full
def test_bash_completes(tmp_path: Path) -> None:
    """Run the script in a real shell, with a stand-in that answers its queries, so that nothing heavy starts."""
    if not (bash := shutil.which("bash")):
        pytest.skip("no bash")
    answer = tmp_path / "eigencam"
    asked = "completion --query eigencam run model=scenes_v"
    answer.write_text(f'#!/bin/sh\n[ "$1 $2 $3" = "{asked}" ] && echo model=scenes_vgg\n')
    answer.chmod(0o755)
    script = BASH + (
        'COMP_LINE="eigencam run model=scenes_v"; COMP_POINT=${#COMP_LINE}\n'
        "COMP_WORDS=(eigencam run model = scenes_v)\n"
        '_eigencam; echo "${COMPREPLY[*]}"; complete -p eigencam\n'
    )
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([bash, "-c", script], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.splitlines()[0] == "scenes_vgg"  # bash has already inserted `model=`
    assert "-F _eigencam eigencam" in done.stdout


def typed(shell: list[str], line: str, environment: dict[str, str]) -> str:
    """The line of an interactive shell after the tabulator key, and Enter."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execvpe(shell[0], shell, environment)
    said = b""
    for text, awaited in ((None, b"ready>"), (f"{line}\t", b""), ("\n", b"ran:")):
        if text is not None:
            os.write(terminal, text.encode())
        deadline, said = time.monotonic() + (60 if awaited else 3), b""
        while time.monotonic() < deadline and not (awaited and awaited in said):
            if select.select([terminal], [], [], 0.1)[0]:
                said += os.read(terminal, 4096)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(terminal)
    return said.decode(errors="replace").partition("ran:")[2].strip()


@pytest.mark.full
@pytest.mark.parametrize(
    ("line", "candidates", "completed"),
    [
        ("eigencam run mod", "model=", "eigencam run model="),
        ("eigencam run model=scenes_v", "model=scenes_vgg", "eigencam run model=scenes_vgg "),
        ("eigencam run model=sc", "model=scenes_vgg model=scenes_vit", "eigencam run model=scenes_v"),
        ("eigencam run dataset.co", "dataset.count=", "eigencam run dataset.count="),
        ("./eigencam ta", "table", "./eigencam table "),
    ],
)
def test_zsh_completes(tmp_path: Path, line: str, candidates: str, completed: str) -> None:
    """The script in a real, interactive shell; a stand-in answers, so that nothing heavy starts."""
    if not (zsh := shutil.which("zsh")):
        pytest.skip("no zsh")
    answer = tmp_path / "eigencam"
    asked = f"completion --query {line}"
    answer.write_text(f'#!/bin/sh\n[ "$1 $2 $3" = "{asked}" ] && printf "%s\\n" {candidates}\n')
    answer.chmod(0o755)
    shown = 'accept-line() { print -r -- "ran:$BUFFER|"; zle .accept-line }\nzle -N accept-line\n'
    (tmp_path / ".zshrc").write_text(f"cd {tmp_path}\nPS1='ready>'\n{ZSH}{shown}")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "dumb"}
    found = typed([zsh, "-d", "-i"], line, {**environment, "ZDOTDIR": str(tmp_path)})
    assert found.partition("|")[0] == completed


@pytest.mark.full
def test_help_that_nobody_reads_to_its_end_ends_quietly() -> None:
    script = f"set -o pipefail; {EIGENCAM} fit --help | head -1; {EIGENCAM} table --help | head -1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.full
def test_what_is_wrong_is_said_when_it_is_seen(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from eigencam.commands.streams import outlive_readers\n"
        "outlive_readers()\n"
        "print('wrong', file=sys.stderr)\n"
        "print(open('log').read(), flush=True)\n"
    )
    with (tmp_path / "log").open("w") as log:
        done = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=log, check=True
        )
    assert done.stdout.split() == [b"wrong"]


def test_defaults_that_are_no_values_are_not_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["table", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert "(default: terminal)" in out
    assert not any(f"(default: {nothing})" in out for nothing in ("None", "False", "[]", "()"))
