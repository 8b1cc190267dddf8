"""Dropout with masks that are cheap to draw."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_UNITS_A_NUMBER = 4
_LEVELS = 2**16


class Dropout(nn.Dropout):
    """Drop each unit with probability `p`, and divide those that are kept by ``1 - p``.

    Srivastava et al. 2014, https://jmlr.org/papers/v15/srivastava14a.html. As `torch.nn.Dropout`, which
    draws 64 random bits a unit on a CPU, and takes long to do so; here four units share them, so that
    `p` is met to the nearest of 65,536.
    """

    def forward(self, values: Tensor) -> Tensor:
        """Return as many values, all of them where the module does not train."""
        if not self.training or not self.p:
            return values
        kept = torch.empty(values.shape, dtype=values.dtype, device=values.device)
        torch.ge(draw_bits(values.shape, values.device), least_kept(self.p), out=kept)
        return values * kept.mul_(1 / (1 - self.p))


def draw_bits(
    shape: Sequence[int],
    device: torch.device,
    sources: Sequence[torch.Generator | None] | None = None,
) -> Tensor:
    """Return 16 random bits for each unit, int16 of that shape.

    Args:
        shape: Of the units.
        device: Of the units.
        sources: Random numbers of each lane, which are the first axis; bits of one that has none are
            whatever was in memory. torch's global ones if there are no lanes.
    """
    lanes = 1 if sources is None else shape[0]
    units = math.prod(shape) // lanes
    numbers = torch.empty(lanes, -(-units // _UNITS_A_NUMBER), dtype=torch.int64, device=device)
    least = torch.iinfo(torch.int64).min
    if sources is None:
        numbers.random_(least, None)
    else:
        for own, source in zip(numbers.unbind(), sources, strict=True):
            if source is not None:
                own.random_(least, None, generator=source)
    return numbers.view(torch.int16)[:, :units].view(*shape)


def least_kept(probability: float) -> int:
    """Return the lowest 16 bits with which a unit is kept."""
    return min(round(probability * _LEVELS), _LEVELS - 1) - _LEVELS // 2
