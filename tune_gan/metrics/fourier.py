"""Features for 2-D points: fixed random Fourier features of several bandwidths."""

import math

import torch
from torch import Tensor

_BANDWIDTHS = (0.1, 0.25, 0.5, 1.0)
_FREQUENCIES_PER_BANDWIDTH = 8
_SEED = 2007


def fourier_features(points: Tensor) -> Tensor:
    """Map points ``(N, 2)`` to ``(N, 64)`` random Fourier features.

    Rahimi and Recht 2007, 'Random Features for Large-Scale Kernel Machines': cosines and sines of
    random projections, which approximate Gaussian kernels, here of bandwidths 0.1, 0.25, 0.5 and 1 in
    the units of the data. The frequencies are always the same.
    """
    source = torch.Generator().manual_seed(_SEED)
    projections = [
        torch.randn(2, _FREQUENCIES_PER_BANDWIDTH, generator=source) / bandwidth
        for bandwidth in _BANDWIDTHS
    ]
    angles = points @ torch.cat(projections, dim=1).to(points.device)
    return math.sqrt(2) * torch.cat([angles.cos(), angles.sin()], dim=1)
