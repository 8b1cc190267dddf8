"""Write files so that a kill or a full disk leaves the old or the new one, never half of one."""

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from tune_gan.errors import ConfigError, StorageError


def require_writable(file: Path) -> None:
    """See that a file may be written, before the work begins that it is to hold.

    Raises:
        ConfigError: if it may not, its folder is not there or takes no file, or a folder has its name.
    """
    folder = file.parent
    try:
        if not folder.is_dir():
            raise ConfigError(f"{file} cannot be written: there is no folder {folder}; make it first")
        if file.is_dir():
            raise ConfigError(f"{file} cannot be written: it is a folder; name a file in it")
        if not os.access(file if file.exists() else folder, os.W_OK):
            raise ConfigError(f"{file} cannot be written: it is read-only; name another file")
    except OSError as error:
        raise ConfigError(f"{file} cannot be written ({error.strerror})") from None


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file aside, flush it to the disk, and move it into place.

    Raises:
        StorageError: if it cannot be written; what was there before is still whole.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with aside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):
            aside.unlink()


def append_line(path: Path, values: Mapping[str, Any]) -> None:
    """Append a line of JSON to a file and flush it to the disk.

    A line that another process left unfinished is ended first, so that it spoils no other.

    Raises:
        StorageError: if it cannot be written.
    """
    line = json.dumps(values, allow_nan=False).encode() + b"\n"
    try:
        with path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    line = b"\n" + line
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from None


def read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """Read a file of JSON lines; what is no whole JSON object is left out.

    Returns:
        The objects, none if there is no such file, and how many lines were left out.

    Raises:
        StorageError: if the file is there but cannot be read.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror or error})") from None
    found, damaged = [], 0
    # Not `splitlines`, which also splits at characters that JSON may hold within a text.
    for line in content.split(b"\n"):
        if not line.strip():
            continue
        value = _parse(line)
        if isinstance(value, dict):
            found.append(value)
        else:
            damaged += 1
    return found, damaged


def _parse(line: bytes) -> Any:
    """Return a line of JSON as an object, or None where it is none."""
    try:
        # Several times quicker, and stricter: it knows no NaN, and only numbers of 64 bits.
        return orjson.loads(line)
    except ValueError:
        pass
    try:
        return json.loads(line.decode(errors="replace"))
    except (ValueError, RecursionError):
        return None
