"""TensorBoard reads what is written here as what its own writer writes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

from tests.limits import largest_file
from tune_gan.gan.event_file import EventFile, _masked_checksums


def _scalars(folder: Path, tag: str) -> list[tuple[int, float, float]]:
    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    return [(event.step, event.value, event.wall_time) for event in events.Scalars(tag)]


def test_checksums_are_those_of_tensorboard() -> None:
    content = np.random.default_rng(0).integers(256, size=(50, 117), dtype=np.uint8)
    assert _masked_checksums(content).tolist() == [masked_crc32c(row.tobytes()) for row in content]


def test_numbers_are_read_with_their_iterations_and_times(tmp_path: Path) -> None:
    file = EventFile(tmp_path / "run", 0)
    file.add_scalars({"a": 0.5, "b": 0.0}, 3, wall_time=1e9)
    file.add_scalars({"a": float("inf")}, 4, wall_time=1e9 + 1)
    file.flush()
    assert _scalars(tmp_path / "run", "a") == [(3, 0.5, 1e9), (4, float("inf"), 1e9 + 1)]
    assert _scalars(tmp_path / "run", "b") == [(3, 0.0, 1e9)]
    file.close()


def test_rows_are_read_as_one_event_each_whatever_the_length_of_their_iterations(
    tmp_path: Path,
) -> None:
    steps = [1, 127, 128, 129, 16383, 16384, 2**21, 2**28 - 1, 2**40]
    rows = np.random.default_rng(0).normal(size=(len(steps), 2)).astype(np.float32)
    rows[0], rows[1, 0] = 0.0, np.inf
    file = EventFile(tmp_path, 0)
    file.add_rows(["x/a", "x/b"], steps, rows)
    file.add_rows(["x/a", "x/b"], [], rows[:0])
    file.close()
    for place, tag in enumerate(("x/a", "x/b")):
        shown = [(step, value) for step, value, _ in _scalars(tmp_path, tag)]
        assert shown == list(zip(steps, rows[:, place].tolist(), strict=True))


def test_a_later_file_takes_the_place_of_what_came_after_its_purge_step(tmp_path: Path) -> None:
    for purge_step, value in ((0, 1.0), (2, 2.0)):
        file = EventFile(tmp_path, purge_step)
        for step in range(purge_step, 4):
            file.add_scalars({"a": value}, step)
        file.close()
    shown = [(step, value) for step, value, _ in _scalars(tmp_path, "a")]
    assert shown == [(0, 1.0), (1, 1.0), (2, 2.0), (3, 2.0)]


def test_a_picture_is_read(tmp_path: Path) -> None:
    file = EventFile(tmp_path, 0)
    file.add_picture("samples", torch.zeros(3, 8, 9), 7)
    file.close()
    (shown,) = EventAccumulator(str(tmp_path)).Reload().Images("samples")
    assert (shown.step, shown.height, shown.width) == (7, 8, 9)


def test_a_full_disk_is_an_error_of_the_system(tmp_path: Path) -> None:
    file = EventFile(tmp_path, 0)
    with largest_file(200), pytest.raises(OSError, match="File too large"):
        _fill(file)


def _fill(file: EventFile) -> None:
    for step in range(100):
        file.add_scalars({"a": 1.0}, step)
        file.flush()


def test_every_file_says_its_version_first(tmp_path: Path) -> None:
    EventFile(tmp_path, 5).close()
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    event = Event.FromString(content[12 : 12 + length])
    assert (event.file_version, event.step) == ("brain.Event:2", 0)
