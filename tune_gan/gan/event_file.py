"""A file of TensorBoard's events, written without a thread and many events at a time.

Torch's `SummaryWriter` writes an event for each number, opens the file for each event, and takes its
checksum byte by byte in Python, which costs too much for the losses of every iteration.
"""

import os
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import CRC_TABLE, masked_crc32c
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor
from torch.utils.tensorboard.summary import image

_TABLE = np.array(CRC_TABLE, dtype=np.uint32)


class EventFile:
    """Writes scalars and pictures for TensorBoard into a new file.

    Args:
        folder: Where the file is made.
        purge_step: What earlier files of the folder say of this iteration and later ones is not shown.

    Raises:
        OSError: if it cannot be written, as do all methods.
    """

    def __init__(self, folder: Path, purge_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        seconds, rest = divmod(time.time_ns(), 10**9)
        name = f"events.out.tfevents.{seconds:010d}.{rest:09d}.{socket.gethostname()}.{os.getpid()}"
        self._file = (folder / name).open("xb")
        self._records = RecordWriter(self._file)
        self._add(Event(file_version="brain.Event:2"), 0, None)
        self._add(Event(session_log=SessionLog(status=SessionLog.START)), purge_step, None)

    def add_picture(self, tag: str, picture: Tensor, step: int) -> None:
        """Write a picture, ``(3, height, width)``."""
        self._add(Event(summary=image(tag, picture, dataformats="CHW")), step, None)

    def add_scalars(
        self, values: Mapping[str, float], step: int, wall_time: float | None = None
    ) -> None:
        """Write numbers of an iteration by their tags.

        Args:
            values: The numbers.
            step: The iteration.
            wall_time: When they were measured, in seconds since 1970; now by default.
        """
        numbers = [Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._add(Event(summary=Summary(value=numbers)), step, wall_time)

    def add_rows(
        self, tags: Sequence[str], steps: Sequence[int], rows: npt.NDArray[np.float32]
    ) -> None:
        """Write the same numbers of many iterations.

        Args:
            tags: Of a row's numbers.
            steps: The iterations.
            rows: ``(iterations, tags)``.
        """
        summary = Summary(value=[Summary.Value(tag=tag) for tag in tags])
        event = Event(summary=summary, wall_time=time.time())
        values, records = event.summary.value, []
        for step, row in zip(steps, rows.tolist(), strict=True):
            event.step = step
            for value, number in zip(values, row, strict=True):
                value.simple_value = number
            records.append(event.SerializeToString())
        for _, alike in groupby(records, len):
            self._file.write(_framed(list(alike)))

    def flush(self) -> None:
        """Make what was written visible to others."""
        self._file.flush()

    def close(self) -> None:
        """Write what is left, and close the file."""
        self._file.close()

    def _add(self, event: Event, step: int, wall_time: float | None) -> None:
        event.step, event.wall_time = step, time.time() if wall_time is None else wall_time
        self._records.write(event.SerializeToString())


def _framed(records: list[bytes]) -> bytes:
    """Return records of one length in the frames that `RecordWriter` would write."""
    content = np.frombuffer(b"".join(records), np.uint8).reshape(len(records), -1)
    length = struct.pack("<Q", content.shape[1])
    head = np.frombuffer(length + struct.pack("<I", masked_crc32c(length)), np.uint8)
    heads = np.broadcast_to(head, (len(records), len(head)))
    ends = _masked_checksums(content).astype("<u4")[:, None].view(np.uint8)
    return np.concatenate([heads, content, ends], axis=1).tobytes()


def _masked_checksums(content: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint32]:
    """Return the CRC-32C of each row as `masked_crc32c` does, a byte of all rows at a time."""
    checksums = np.full(len(content), 0xFFFFFFFF, np.uint32)
    for column in np.ascontiguousarray(content.T):
        checksums = _TABLE[(checksums ^ column) & 0xFF] ^ (checksums >> 8)
    checksums = ~checksums
    # The sum is taken modulo 2**32.
    masked = ((checksums >> 15) | (checksums << 17)) + np.uint32(0xA282EAD8)
    return masked.astype(np.uint32)
