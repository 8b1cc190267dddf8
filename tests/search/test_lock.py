import getpass
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from tune_gan.errors import RunFolderError, StorageError
from tune_gan.search.lock import LOCK_FILE, holder, locked, require_free

_HOLD = """
import sys, time
from pathlib import Path
from tune_gan.search.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _hold(folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """Run a process that holds a folder until its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def a_run(tmp_path: Path) -> None:
    """What makes a folder one of a sweep."""
    (tmp_path / "sweep.yaml").touch()


def _take(folder: Path) -> None:
    with locked(folder):
        pass


def test_a_second_process_is_refused_and_told_who_holds_the_folder(tmp_path: Path) -> None:
    begun = datetime.now().astimezone().replace(microsecond=0)
    with _hold(tmp_path) as other:
        for take in (_take, require_free):
            started = time.monotonic()
            with pytest.raises(RunFolderError) as caught:
                take(tmp_path)
            assert time.monotonic() - started < 2
            said = re.fullmatch(
                rf"{re.escape(str(tmp_path))} is in use by process {other.pid} of "
                rf"{re.escape(repr(getpass.getuser()))} on {re.escape(repr(socket.gethostname()))} "
                r"since (\S+); wait for it, or stop it",
                str(caught.value),
            )
            assert said is not None, str(caught.value)
            assert begun <= datetime.fromisoformat(said[1]) <= datetime.now().astimezone()


def test_a_refused_process_does_not_free_the_folder(tmp_path: Path) -> None:
    with _hold(tmp_path):
        for _ in range(3):
            with pytest.raises(RunFolderError, match="is in use by process"):
                require_free(tmp_path)


def test_the_folder_of_a_killed_process_is_free(tmp_path: Path) -> None:
    with _hold(tmp_path) as other:
        other.send_signal(signal.SIGKILL)
        assert other.wait() == -signal.SIGKILL
        assert (tmp_path / LOCK_FILE).exists()
        require_free(tmp_path)
        with locked(tmp_path):
            pass


def test_the_folder_is_free_once_its_holder_lets_go(tmp_path: Path) -> None:
    with _hold(tmp_path) as other:
        other.communicate("")
        assert other.returncode == 0
        require_free(tmp_path)


def test_an_error_inside_lets_go_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    require_free(tmp_path)


def test_the_same_process_does_not_hold_a_folder_twice(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(RunFolderError, match=f"by process {os.getpid()} of"):
        require_free(tmp_path)
    require_free(tmp_path)


@pytest.mark.parametrize(
    "written", [b"", b"{", b"[1]", b'{"process": 5}', b'{"process": "x"}', b"\xff\xfe", b"null"]
)
def test_who_left_no_word_is_another_process(tmp_path: Path, written: bytes) -> None:
    with locked(tmp_path):
        (tmp_path / LOCK_FILE).write_bytes(written)
        with pytest.raises(RunFolderError) as caught:
            require_free(tmp_path)
    assert str(caught.value) == f"{tmp_path} is in use by another process; wait for it, or stop it"


def test_a_holder_with_line_breaks_is_told_in_one_line(tmp_path: Path) -> None:
    with locked(tmp_path):
        (tmp_path / LOCK_FILE).write_text(
            '{"process": 5, "host": "a\\nb", "user": "\\u001b[31m", "since": "now\\nthen"}'
        )
        with pytest.raises(RunFolderError) as caught:
            require_free(tmp_path)
    assert str(caught.value).isprintable()


def test_who_holds_a_folder_can_be_asked(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    assert list(tmp_path.iterdir()) == [tmp_path / "sweep.yaml"]
    with _hold(tmp_path) as other:
        written = (tmp_path / LOCK_FILE).read_bytes()
        for _ in range(2):
            said = holder(tmp_path)
            assert said is not None
            assert said.startswith(f"process {other.pid} of ")
        assert (tmp_path / LOCK_FILE).read_bytes() == written
        other.kill()
        other.wait()
        assert holder(tmp_path) is None
        assert (tmp_path / LOCK_FILE).read_bytes() == written
    require_free(tmp_path)
    assert holder(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_a_missing_folder_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError) as caught:
        require_free(tmp_path / "none")
    assert str(caught.value) == f"{tmp_path / 'none'} is no run folder: it is not there"
    assert not (tmp_path / "none").exists()


def test_a_lock_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / LOCK_FILE).mkdir()
    with pytest.raises(StorageError) as caught:
        require_free(tmp_path)
    assert str(caught.value) == f"{tmp_path / LOCK_FILE} cannot be written (Is a directory)"


def test_a_user_without_a_name_can_hold_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs under a number which its /etc/passwd does not list."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    unlisted = max(user.pw_uid for user in pwd.getpwall()) + 12345
    monkeypatch.setattr(os, "getuid", lambda: unlisted)
    _take(tmp_path)
    with locked(tmp_path), pytest.raises(RunFolderError, match=f"by process {os.getpid()} "):
        require_free(tmp_path)
