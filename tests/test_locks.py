"""Locks end with their process, are reported as held only while they are, and their absence is reported."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from eigencam.store import locks

HOLDER = "import sys, time; from pathlib import Path; from eigencam.store import locks\n"
HOLDER += "lock = locks.take(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"


def held_by_another(path: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_is_held_until_it_is_released(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    assert not locks.is_held(path)
    with locks.take(path) as lock:
        assert locks.is_held(path)
        with pytest.raises(locks.HeldError, match="another process"):
            locks.take(path)
    lock.release()
    assert not locks.is_held(path)
    assert path.is_file()


def test_a_lock_ends_with_its_process_however_it_ends(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    process = held_by_another(path)
    assert locks.is_held(path)
    with pytest.raises(locks.HeldError):
        locks.take(path)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not locks.is_held(path)
    locks.take(path).release()


def test_what_an_older_soft_lock_left_behind_is_no_lock(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("4242\na-host-of-another-name\n")
    assert not locks.is_held(tmp_path / ".lock")
    locks.take(tmp_path / ".lock").release()


def test_who_waits_gets_it_afterwards(tmp_path: Path) -> None:
    path, order = tmp_path / ".lock", []

    def second() -> None:
        with locks.take(path, wait=True):
            order.append("second")

    with locks.take(path):
        thread = threading.Thread(target=second)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join(5)
    assert order == ["first", "second"]


def test_who_only_asks_does_not_stand_in_the_way(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    locks.take(path).release()
    asking = os.open(path, os.O_RDONLY)
    fcntl.flock(asking, fcntl.LOCK_SH)  # as `is_held` does briefly
    threading.Timer(0.05, os.close, [asking]).start()
    locks.take(path).release()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_locks_is_named_with_what_to_do(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(_number: int, _how: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)
    with pytest.raises(locks.NoLocksError, match=r"no file locks .*a folder of its own") as raised:
        locks.take(tmp_path / ".lock")
    assert str(raised.value).startswith(f"{tmp_path}: ")
    assert not locks.is_held(tmp_path / ".lock")


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as raised:
        locks.take(tmp_path / "none" / ".lock")
    assert raised.value.filename == str(tmp_path / "none" / ".lock")


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".lock").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic"):
        locks.take(tmp_path / ".lock")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes two users")
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_two_users_share_the_lock_of_a_gpu(tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o1777)
    monkeypatch.chdir(tmp_path)  # the folders above belong to root
    path = Path("gpu.lock")

    def as_user(user: int, what: str) -> int:
        if (pid := os.fork()) == 0:
            try:
                os.umask(umask)
                os.setuid(user)
                if what == "take":
                    locks.take(path, for_everybody=True).release()
                os._exit(int(locks.is_held(path)))
            except BaseException:
                os._exit(9)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert as_user(4001, "take") == 0
    assert as_user(4002, "take") == 0
    with locks.take(path, for_everybody=True):
        assert as_user(4002, "ask") == 1
        assert as_user(4002, "take") == 9
