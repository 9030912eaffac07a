"""Output files are written completely or not at all; errors name the file that cannot be written or read."""

import errno
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eigencam import files


def _hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def _fail_half_way(path: Path, error: BaseException) -> None:
    with files.replacing(path) as beside:
        beside.write_text("half")
        raise error


def test_a_file_is_written_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "table.md"
    files.write_text(path, "grün\n", sync=True)
    files.sync_folder(path.parent)
    assert path.read_bytes() == "grün\n".encode()
    assert _hidden(path.parent) == []


def test_text_without_a_utf8_form_is_still_written(tmp_path: Path) -> None:
    files.write_text(tmp_path / "a", os.fsdecode(b"/data/\xff.jpg"))
    assert (tmp_path / "a").read_text() == "/data/\\udcff.jpg"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), ValueError()])
def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "report.html"
    path.write_text("old")
    with pytest.raises(type(error)) as raised:
        _fail_half_way(path, error)
    assert path.read_text() == "old"
    assert _hidden(tmp_path) == []
    if isinstance(error, OSError):
        assert files.one_line(raised.value) == f"{path}: no space left on the disk"  # type: ignore[arg-type]


def test_a_full_disk_is_said_of_the_file_asked_for(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with pytest.raises(OSError, match="No space left") as raised:
        files.write_text(Path("/dev/full"), "text")
    assert files.one_line(raised.value) == "/dev/full: no space left on the disk"
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)  # a device is written to, never replaced


def test_an_error_without_a_number_keeps_its_sentence(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="RGBA") as raised:
        _fail_half_way(tmp_path / "a.jpg", OSError("cannot write mode RGBA as JPEG"))
    assert files.one_line(raised.value) == f"{tmp_path / 'a.jpg'}: cannot write mode RGBA as JPEG"


def test_a_file_where_a_folder_should_be_and_the_other_way_round(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises((NotADirectoryError, FileExistsError)) as raised:
        files.write_text(tmp_path / "file" / "table.md", "")
    assert "a file is in the place of a folder" in files.one_line(raised.value)
    assert str(tmp_path / "file") in files.one_line(raised.value)
    with pytest.raises(IsADirectoryError) as folder:
        files.write_text(tmp_path, "")
    assert files.one_line(folder.value) == f"{tmp_path}: a folder is in the place of a file"


def test_another_file_that_the_block_failed_on_keeps_its_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised, files.replacing(tmp_path / "a"):
        (tmp_path / "other").read_text()
    assert files.one_line(raised.value) == f"{tmp_path / 'other'}: no such file or folder"


def test_a_link_is_followed_and_permissions_stay(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "real").chmod(0o640)
    (tmp_path / "link").symlink_to("real")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "real").stat().st_mode) == 0o640


def test_new_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "a", "")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_the_content_is_synced_before_it_takes_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (steps.append("sync"), fsync(number)))
    monkeypatch.setattr(Path, "replace", lambda path, to: (steps.append("replace"), replace(path, to))[1])
    files.write_text(tmp_path / "a", "", sync=True)
    assert steps == ["sync", "replace"]


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("file")
    assert files.regular(tmp_path / "link") == tmp_path / "link"
    for path, kind in [(tmp_path / "pipe", "a named pipe"), (tmp_path, "a folder"), (Path("/dev/zero"), "a device")]:
        with pytest.raises(ValueError, match=f"not a regular file, but {kind}"):
            files.regular(path)
    with pytest.raises(FileNotFoundError):
        files.regular(tmp_path / "missing")


def test_leftovers_of_killed_processes_go_and_those_of_others_stay(tmp_path: Path) -> None:
    dead = os.fork()
    if dead == 0:
        os._exit(0)
    os.waitpid(dead, 0)
    host = files.machine()
    container = f".writing-{socket.gethostname()}.1-{dead}-0.json"  # of one that shares the machine's name
    others = (f".writing-{host}-{os.getpid()}-a1f.json", ".writing-a-b-7-0.parquet", container)
    for name in (f".writing-{host}-{dead}-0.json", *others):
        (tmp_path / name).write_text("")
    old = tmp_path / ".writing-other-8-1"
    old.write_text("")
    os.utime(old, (time.time() - 90000, time.time() - 90000))
    assert {path.name for path in files.remove_leftovers(tmp_path)} == {f".writing-{host}-{dead}-0.json", old.name}
    assert len(_hidden(tmp_path)) == 3


AS_ANOTHER = """
import os, sys
from eigencam.commands.main import main
main([sys.argv[1], "--results", "none"])  # imports what it needs while that may be read
os.setuid(4001)
sys.exit(main([sys.argv[1], "--results", "results"]))
"""


@pytest.mark.full
@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
@pytest.mark.parametrize("command", ["status", "table"])
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_what_another_user_keeps_to_himself_is_said(tmp_path: Path, umask: int, command: str) -> None:
    tmp_path.chmod(0o755)
    before = os.umask(umask)
    for name in ("scenes-net-a-localization-0123456789", "scenes-net-b-localization-abcdef0123"):
        (tmp_path / "results" / name).mkdir(parents=True)
    os.umask(before)
    (tmp_path / "results").chmod(0o755)
    call = [sys.executable, "-c", AS_ANOTHER, command]  # in the current folder, since the folders above belong to root
    done = subprocess.run(call, cwd=tmp_path, capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    if umask == 0o077:
        assert "scenes-net-a-localization-0123456789: no permission" in said
        assert "results: no results there" not in said
        assert done.returncode == 1
    else:
        assert "eigencam: results: no " in said
