from pathlib import Path

import numpy as np
import pytest

from tests.limits import largest_file
from tune_gan.errors import StorageError
from tune_gan.losses_file import keep_losses_until, read_losses, write_losses


def _rows(first: int, last: int) -> np.ndarray:
    return np.arange(4 * first, 4 * last, dtype=np.float32).reshape(-1, 4)


def test_rows_lie_at_their_iterations_and_are_written_once(tmp_path: Path) -> None:
    file = tmp_path / "losses.f32"
    write_losses(file, 3, _rows(0, 3))
    write_losses(file, 5, _rows(3, 5))
    # Once more, as after a kill between the losses and the checkpoint.
    write_losses(file, 5, _rows(3, 5))
    assert np.array_equal(read_losses(file), _rows(0, 5))
    assert np.array_equal(read_losses(file, 2), _rows(2, 5))
    assert len(read_losses(file, 9)) == 0
    assert np.array_equal(np.fromfile(file, "<f4").reshape(-1, 4), _rows(0, 5))


def test_it_is_cut_back_and_goes_on(tmp_path: Path) -> None:
    file = tmp_path / "losses.f32"
    write_losses(file, 5, _rows(0, 5))
    keep_losses_until(file, 7)
    keep_losses_until(file, 2)
    assert np.array_equal(read_losses(file), _rows(0, 2))
    write_losses(file, 4, _rows(2, 4))
    assert np.array_equal(read_losses(file), _rows(0, 4))
    keep_losses_until(tmp_path / "none.f32", 3)
    assert not (tmp_path / "none.f32").exists()


@pytest.mark.parametrize("left", [0, 16, 23])
def test_rows_that_are_lost_are_no_numbers(tmp_path: Path, left: int) -> None:
    file = tmp_path / "losses.f32"
    write_losses(file, 4, _rows(0, 4))
    file.write_bytes(file.read_bytes()[:left])
    assert len(read_losses(file)) == left // 16
    write_losses(file, 6, _rows(4, 6))
    found = read_losses(file)
    assert np.array_equal(found[: left // 16], _rows(0, left // 16))
    assert np.isnan(found[left // 16 : 4]).all()
    assert np.array_equal(found[4:], _rows(4, 6))


def test_losses_that_diverged_stay_what_they_are(tmp_path: Path) -> None:
    rows = np.array([[np.nan, np.inf, -np.inf, 0.5]], dtype=np.float32)
    write_losses(tmp_path / "losses.f32", 1, rows)
    assert np.array_equal(read_losses(tmp_path / "losses.f32"), rows, equal_nan=True)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    file = tmp_path / "losses.f32"
    write_losses(file, 4, _rows(0, 4))
    with largest_file(80), pytest.raises(StorageError, match="f32 cannot be written"):
        write_losses(file, 10, _rows(4, 10))
    assert np.array_equal(read_losses(file)[:4], _rows(0, 4))
