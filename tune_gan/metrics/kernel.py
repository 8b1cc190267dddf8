"""The kernel inception distance (KID) between two sets of features."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from tune_gan.metrics.arithmetic import products

NUM_SUBSETS = 100
SUBSET_SIZE = 1000
_SEED = 2018
# Of the kernel's matrix, which whole would not fit a processor's cache.
_ROWS_AT_A_TIME = 100
# Up to here the cube of a product of two features is a number in float32, too.
_LARGEST_IN_SINGLE = 1e4


class KernelReference:
    """The real side of kernel distances: computed once, compared with many generated sets.

    Args:
        real_features: ``(N, d)`` features of real samples, at least two.
    """

    def __init__(self, real_features: Tensor) -> None:
        self._real = real_features.double()
        self._is_large = bool(self._real.abs().amax() > _LARGEST_IN_SINGLE)
        pairs = _pairs_within(len(self._real), 0, self._real.device)
        self._within = _mean(self._real, self._real, pairs)

    def distance(self, features: Tensor) -> float:
        """Return the KID of ``(M, d)`` features to the real ones, about 0 for real samples.

        Binkowski et al. 2018 (https://arxiv.org/abs/1801.01401): the squared maximum mean discrepancy
        with kernel ``(x.y / d + 1)^3``, by its unbiased estimator, which may fall below 0; the mean
        over 100 random subsets of 1,000 samples of either side, fewer where there are fewer. The
        subsets are of one size, so that the mean over them is one over all pairs, each as often as
        subsets have it. The kernel is computed in float32, which leaves its mean right to some 1e-8
        of itself, and in float64 where a feature is above 10,000.
        """
        is_large = bool(features.abs().amax() > _LARGEST_IN_SINGLE)
        dtype = torch.float64 if is_large or self._is_large else torch.float32
        generated, real = features.to(dtype), self._real.to(dtype)
        within = _mean(generated, generated, _pairs_within(len(generated), 1, real.device))
        across = _mean(real, generated, _pairs_across(len(real), len(generated), real.device))
        return self._within + within - 2 * across


class _Pairs(NamedTuple):
    """How many subsets have both samples of a pair.

    Attributes:
        counts: uint8, a row for each one.
        total: Of all pairs.
        above_diagonal: Whether the pairs are of one set, so that those of a sample with an earlier one,
            or with itself, are left out.
    """

    counts: Tensor
    total: int
    above_diagonal: bool


def _mean(ones: Tensor, others: Tensor, pairs: _Pairs) -> float:
    """Return the mean of the kernel over pairs of a one and another, each as often as it is drawn."""
    total = torch.zeros((), dtype=torch.float64, device=ones.device)
    shift = torch.ones((), dtype=ones.dtype, device=ones.device)
    with products("ieee", ones.device):
        for start in range(0, len(ones), _ROWS_AT_A_TIME):
            rows = ones[start : start + _ROWS_AT_A_TIME]
            first = start if pairs.above_diagonal else 0
            often = pairs.counts[start : start + _ROWS_AT_A_TIME, first:].to(ones.dtype)
            kernel = torch.addmm(shift, rows, others[first:].T, alpha=1 / rows.shape[1]).pow_(3)
            # Torch sums by halves; a dot product is no faster, and far less exact on some processors.
            total += kernel.mul_(often).sum(dim=1).double().sum()
    return float(total) / pairs.total


@lru_cache(maxsize=4)
def _pairs_within(count: int, number: int, device: torch.device) -> _Pairs:
    """Return the pairs of different samples in the same subset, each once."""
    subsets = _subsets(count, number)
    return _as_pairs(_count(subsets, subsets).triu_(1), device, above_diagonal=True)


@lru_cache(maxsize=4)
def _pairs_across(num_real: int, num_generated: int, device: torch.device) -> _Pairs:
    """Return the pairs of a real sample in a subset and a generated one in its counterpart."""
    counts = _count(_subsets(num_real, 0), _subsets(num_generated, 1))
    return _as_pairs(counts, device, above_diagonal=False)


def _count(subsets: Tensor, counterparts: Tensor) -> Tensor:
    """Return for each pair of columns how many rows have both, in blocks, to save memory."""
    counts = torch.empty(subsets.shape[1], counterparts.shape[1], dtype=torch.uint8)
    blocks = zip(subsets.T.split(_ROWS_AT_A_TIME), counts.split(_ROWS_AT_A_TIME), strict=True)
    for rows, block in blocks:
        block.copy_(rows @ counterparts)
    return counts


def _as_pairs(counts: Tensor, device: torch.device, *, above_diagonal: bool) -> _Pairs:
    total = sum(int(block.sum()) for block in counts.split(_ROWS_AT_A_TIME))
    return _Pairs(counts.to(device), total, above_diagonal)


def _subsets(count: int, number: int) -> Tensor:
    """Return random subsets as rows ``(100, count)`` of ones and zeros, always the same."""
    source = torch.Generator().manual_seed(_SEED + number)
    order = torch.rand(NUM_SUBSETS, count, generator=source).argsort(dim=1)
    return torch.zeros(NUM_SUBSETS, count).scatter_(1, order[:, : min(SUBSET_SIZE, count)], 1.0)
