"""The losses of every iteration as scalars of TensorBoard."""

from pathlib import Path

import numpy as np

from tune_gan.gan.event_file import EventFile
from tune_gan.losses_file import LOSSES, read_losses

MOST_POINTS = 10_000
_TAGS = [f"losses/{name}" for name in LOSSES]


class LossScalars:
    """Writes a training's losses from their file as ``losses/gen_loss`` and so on.

    A training has 10,000 points of each at most, at iterations that are multiples of one number.

    Args:
        events: Where to.
        file: The file of the training's losses, which need not be there yet.
        num_iterations: Of the whole training.
        reached: The last iteration whose losses TensorBoard has already.
    """

    def __init__(self, events: EventFile, file: Path, num_iterations: int, reached: int = 0) -> None:
        self._events, self._file, self._reached = events, file, reached
        self._stride = -(-num_iterations // MOST_POINTS)

    def add_until(self, iteration: int) -> None:
        """Write the losses since the last call up to an iteration, as far as the file has them.

        Raises:
            StorageError: if the file is there but cannot be read.
            OSError: if the events cannot be written.
        """
        rows = read_losses(self._file, self._reached)[: iteration - self._reached]
        steps = np.arange(self._reached + 1, self._reached + len(rows) + 1)
        # Rows that were lost are NaN as a whole.
        is_point = (steps % self._stride == 0) & ~np.isnan(rows).all(axis=1)
        self._events.add_rows(_TAGS, steps[is_point].tolist(), rows[is_point])
        self._reached += len(rows)
