"""The file of a training's losses at every iteration.

A row for each iteration, from the first on: ``gen_loss, disc_loss, disc_real, disc_fake`` as float32 in
little-endian order, which ``numpy.fromfile("losses.f32", "<f4").reshape(-1, 4)`` reads. The place of a
row follows from its iteration, so a row that is written again replaces itself.
"""

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tune_gan.errors import StorageError

LOSSES_FILE = "losses.f32"
LOSSES = ("gen_loss", "disc_loss", "disc_real", "disc_fake")
_TYPE = np.dtype("<f4")
_ROW_BYTES = len(LOSSES) * _TYPE.itemsize

Rows = npt.NDArray[np.float32]


def write_losses(path: Path, iteration: int, rows: Rows) -> None:
    """Write the losses of the last iterations and flush them to the disk; later rows are cut off.

    Rows that are missing before them, since the file was damaged or is of an earlier version, are NaN.

    Args:
        path: The file, made if it is not there.
        iteration: The iteration of the last row, from 1.
        rows: ``(iterations, 4)``.

    Raises:
        StorageError: if it cannot be written.
    """
    first = iteration - len(rows)
    try:
        with path.open("r+b" if path.exists() else "w+b") as file:
            known = file.seek(0, os.SEEK_END) // _ROW_BYTES
            if known < first:
                rows = np.concatenate([np.full((first - known, len(LOSSES)), np.nan, _TYPE), rows])
            file.seek(_ROW_BYTES * min(known, first))
            file.write(rows.astype(_TYPE).tobytes())
            file.truncate()
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from None


def keep_losses_until(path: Path, iteration: int) -> None:
    """Cut the file back to an iteration, if it goes beyond.

    Raises:
        StorageError: if it cannot be written.
    """
    try:
        if path.exists() and path.stat().st_size > _ROW_BYTES * iteration:
            os.truncate(path, _ROW_BYTES * iteration)
    except OSError as error:
        raise StorageError(f"{path} cannot be written ({error.strerror or error})") from None


def read_losses(path: Path, start: int = 0) -> Rows:
    """Return the whole rows of a file, ``(iterations, 4)``; none where it is missing.

    Args:
        path: The file.
        start: Iterations to leave out at the begin.

    Raises:
        StorageError: if the file is there but cannot be read.
    """
    try:
        if not path.is_file():
            return np.empty((0, len(LOSSES)), np.float32)
        rows = (path.stat().st_size // _ROW_BYTES - start) * len(LOSSES)
        if rows <= 0:
            return np.empty((0, len(LOSSES)), np.float32)
        found = np.fromfile(path, _TYPE, count=rows, offset=start * _ROW_BYTES)
    except OSError as error:
        raise StorageError(f"{path} cannot be read ({error.strerror or error})") from None
    # A file that is cut back meanwhile gives fewer.
    whole = len(found) // len(LOSSES)
    return found[: whole * len(LOSSES)].reshape(-1, len(LOSSES)).astype(np.float32)
