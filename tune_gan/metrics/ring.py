"""Measures of the 2-D ring that need no features."""

import math

from torch import Tensor

NUM_SECTORS = 32
_REACH_IN_DEVIATIONS = 3


def ring_measures(points: Tensor, radius: float, noise: float) -> dict[str, float]:
    """Measure points ``(N, 2)`` against a ring around the origin.

    Args:
        points: Generated points.
        radius: The ring's radius.
        noise: Standard deviation of the ring's noise, in the same unit.

    Returns:
        ``radial_error``, the mean distance of a point's radius from the ring's, in the data's unit;
        ``sector_coverage``, the share of 32 equal sectors with a point within 3 deviations of the
        ring.
    """
    # As many as there are, so that a GPU would be waited for anyway.
    points = points.cpu()
    radii = points.norm(dim=1)
    on_ring = (radii - radius).abs() <= _REACH_IN_DEVIATIONS * noise
    turns = points[on_ring][:, 1].atan2(points[on_ring][:, 0]) / (2 * math.pi) + 0.5
    sectors = (turns * NUM_SECTORS).long().clamp(max=NUM_SECTORS - 1)
    return {
        "radial_error": float((radii - radius).abs().mean()),
        "sector_coverage": len(sectors.unique()) / NUM_SECTORS,
    }
