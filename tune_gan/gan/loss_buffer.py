"""The losses of every iteration, kept on the device until a report reads them."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tune_gan.losses_file import Rows

# Iterations that are kept on the device; a report that comes later reads them in parts.
_MOST_ROWS = 16_384


class Losses(NamedTuple):
    """The losses of the iterations since the last report.

    Attributes:
        metrics: What a report says of them: the means ``gen_loss, disc_loss, disc_real, disc_fake``,
            and ``gen_loss_std, disc_loss_std``, the standard deviations from iteration to iteration.
        rows: float32 ``(iterations, 4)``, as `tune_gan.losses_file` has them; those of the
            discriminator are means over its steps.
    """

    metrics: dict[str, float]
    rows: Rows


def summarise(gen_losses: Rows, steps: Rows) -> Losses:
    """Return what is known of some iterations.

    Sums are of their own precision, one number after the other.

    Args:
        gen_losses: ``(iterations,)``.
        steps: ``disc_loss, disc_real, disc_fake`` of each discriminator step,
            ``(iterations, disc_steps, 3)``.
    """
    of_disc = steps.mean(axis=1, dtype=np.float64)
    rows = np.column_stack([gen_losses, of_disc]).astype(np.float32)
    sums = [_last_sum(gen_losses[:, None]), _last_sum(steps.reshape(-1, 3))]
    counts = [len(gen_losses), steps.shape[0] * steps.shape[1]]
    means = [total / count for part, count in zip(sums, counts, strict=True) for total in part]
    metrics = dict(zip(("gen_loss", "disc_loss", "disc_real", "disc_fake"), means, strict=True))
    with np.errstate(all="ignore"):
        metrics["gen_loss_std"] = float(rows[:, 0].std(dtype=np.float64))
        metrics["disc_loss_std"] = float(rows[:, 1].std(dtype=np.float64))
    return Losses(metrics, rows)


def _last_sum(values: Rows) -> list[float]:
    """Return the sums of the columns, added one after the other."""
    with np.errstate(all="ignore"):
        sums: list[float] = np.add.accumulate(values, axis=0)[-1].tolist()
    return sums


class LossBuffer:
    """Rows of losses that a CUDA graph can write: the place of the next one is a tensor, too.

    Args:
        report_every: Iterations between two reports.
        disc_steps: Discriminator steps of an iteration.
        device: Where the losses are.
    """

    def __init__(self, report_every: int, disc_steps: int, device: torch.device) -> None:
        self._disc_steps = disc_steps
        size = (min(report_every, _MOST_ROWS), 1 + 3 * disc_steps)
        self._rows = torch.zeros(size, device=device)
        self._place = torch.zeros(1, dtype=torch.int64, device=device)
        self._read: list[Rows] = []
        self._count = 0

    def expect_row(self) -> None:
        """Make room for the row of the next iteration; the device is waited for where there is none."""
        if self._count == len(self._rows):
            self._take()
        self._count += 1

    def add(self, gen_loss: Tensor, steps: list[Tensor]) -> None:
        """Write the row of an iteration.

        Args:
            gen_loss: The generator's loss, a scalar.
            steps: ``disc_loss, disc_real, disc_fake`` of each discriminator step, ``(3,)`` each.
        """
        row = torch.cat([gen_loss.detach().reshape(1), *steps])
        self._rows.index_copy_(0, self._place, row[None])
        self._place += 1

    def read(self) -> Losses:
        """Read the losses of all iterations since the last time, and forget them."""
        self._take()
        rows, self._read = np.concatenate(self._read), []
        return summarise(rows[:, 0], rows[:, 1:].reshape(-1, self._disc_steps, 3))

    def _take(self) -> None:
        self._read.append(self._rows[: self._count].cpu().numpy().copy())
        self._place.zero_()
        self._count = 0
