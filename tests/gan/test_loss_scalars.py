"""The losses of every iteration in TensorBoard."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tune_gan.gan.event_file import EventFile
from tune_gan.gan.loss_scalars import LossScalars
from tune_gan.losses_file import LOSSES, LOSSES_FILE, Rows, write_losses

TAGS = [f"losses/{name}" for name in LOSSES]


def rows_of(first: int, last: int) -> Rows:
    """Losses of the iterations after the first, up to the last: each has its number and four places."""
    iterations = np.arange(first + 1, last + 1, dtype=np.float32)[:, None]
    return iterations + np.array([0.25, 0.5, 0.75, 0.875], dtype=np.float32)


def points_of(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard would show of losses, by tag: pairs of iteration and value."""
    events = EventAccumulator(str(folder), {"scalars": 0}).Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag.startswith("losses/")]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}


def expected(steps: list[int]) -> dict[str, list[tuple[int, float]]]:
    """Return the points of iterations whose losses are those of `rows_of`."""
    rows = rows_of(0, max(steps, default=0))
    return {
        tag: [(step, float(rows[step - 1, place])) for step in steps] for place, tag in enumerate(TAGS)
    }


@pytest.fixture
def file(tmp_path: Path) -> Iterator[EventFile]:
    file = EventFile(tmp_path, 0)
    yield file
    file.close()


def test_each_iteration_is_a_point_of_every_loss(file: EventFile, tmp_path: Path) -> None:
    write_losses(tmp_path / LOSSES_FILE, 5, rows_of(0, 5))
    scalars = LossScalars(file, tmp_path / LOSSES_FILE, 10_000)
    # What lies beyond is of a report that is still to come.
    scalars.add_until(3)
    file.flush()
    assert points_of(tmp_path) == expected([1, 2, 3])
    write_losses(tmp_path / LOSSES_FILE, 9, rows_of(5, 9))
    scalars.add_until(9)
    scalars.add_until(9)
    file.flush()
    assert points_of(tmp_path) == expected([1, 2, 3, 4, 5, 6, 7, 8, 9])


@pytest.mark.parametrize(("num_iterations", "stride"), [(10_001, 2), (25_000, 3)])
def test_a_long_training_has_ten_thousand_points_at_most(
    num_iterations: int, stride: int, file: EventFile, tmp_path: Path
) -> None:
    write_losses(tmp_path / LOSSES_FILE, num_iterations, rows_of(0, num_iterations))
    scalars = LossScalars(file, tmp_path / LOSSES_FILE, num_iterations)
    for iteration in (10, 11, num_iterations):
        scalars.add_until(iteration)
    file.flush()
    steps = list(range(stride, num_iterations + 1, stride))
    assert len(steps) <= 10_000
    assert points_of(tmp_path) == expected(steps)


def test_it_goes_on_after_what_was_written(file: EventFile, tmp_path: Path) -> None:
    write_losses(tmp_path / LOSSES_FILE, 4, rows_of(0, 4))
    LossScalars(file, tmp_path / LOSSES_FILE, 10, reached=2).add_until(4)
    file.flush()
    assert points_of(tmp_path) == expected([3, 4])


def test_lost_rows_are_no_points_and_those_that_diverged_are(file: EventFile, tmp_path: Path) -> None:
    write_losses(tmp_path / LOSSES_FILE, 3, np.array([[np.nan, np.inf, 1, 2]], dtype=np.float32))
    LossScalars(file, tmp_path / LOSSES_FILE, 10).add_until(3)
    file.flush()
    assert [(point[0][0], len(point)) for point in points_of(tmp_path).values()] == [(3, 1)] * 4
    values = [point[0][1] for point in points_of(tmp_path).values()]
    assert np.array_equal(values, [np.nan, np.inf, 1, 2], equal_nan=True)


def test_without_a_file_there_is_nothing(file: EventFile, tmp_path: Path) -> None:
    scalars = LossScalars(file, tmp_path / LOSSES_FILE, 10)
    scalars.add_until(3)
    file.flush()
    assert points_of(tmp_path) == {}
    write_losses(tmp_path / LOSSES_FILE, 4, rows_of(0, 4))
    scalars.add_until(4)
    file.flush()
    assert points_of(tmp_path) == expected([1, 2, 3, 4])
