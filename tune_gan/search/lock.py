"""The lock of a run folder: one sweep at a time."""

import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from tune_gan.errors import RunFolderError, StorageError
from tune_gan.results.trials import no_run_folder

LOCK_FILE = ".lock"
_SIGNS_OF_A_RUN = ("sweep.yaml", "optuna_journal.log", "trials.jsonl")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run folder; the lock goes with the process, also when that is killed.

    Raises:
        RunFolderError: if another process holds it, with its host, number and start.
        StorageError: if the folder cannot be written.
    """
    path = folder / LOCK_FILE
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        raise RunFolderError(
            f"{folder} is in use by {_holder(path)}; wait for it, or stop it"
        ) from None
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from None
    try:
        holder = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "user": _user(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
        }
        # What is told of the holder is a courtesy; the lock itself holds without.
        with suppress(OSError):
            path.write_text(json.dumps(holder), encoding="utf-8")
        yield
    finally:
        lock.release()


def _user() -> str:
    """Return who runs this process; in a container the number may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def require_free(folder: Path) -> None:
    """See that nobody holds a run folder.

    Raises:
        RunFolderError: if another process does, or there is no such folder.
        StorageError: if the folder cannot be written.
    """
    if not any((folder / name).exists() for name in _SIGNS_OF_A_RUN):
        raise no_run_folder(folder)
    with locked(folder):
        pass


def holder(folder: Path) -> str | None:
    """Return who holds a run folder, in words, or None; nothing is written."""
    path = folder / LOCK_FILE
    lock = FileLock(path)
    try:
        if path.exists():
            lock.acquire(blocking=False)
    except Timeout:
        return _holder(path)
    except OSError:
        return None
    finally:
        lock.release()
    return None


def held_since(folder: Path) -> float | None:
    """Return when a run folder was taken by who holds it, in seconds since 1970, or None."""
    if holder(folder) is None:
        return None
    try:
        since = json.loads((folder / LOCK_FILE).read_text(encoding="utf-8"))["since"]
        return datetime.fromisoformat(since).timestamp()
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return (
            f"process {int(holder['process'])} of {str(holder['user'])!r} on "
            f"{str(holder['host'])!r} since {datetime.fromisoformat(holder['since']).isoformat()}"
        )
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
