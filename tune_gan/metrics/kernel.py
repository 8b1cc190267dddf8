"""The kernel inception distance (KID) between two sets of features."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

NUM_SUBSETS = 100
SUBSET_SIZE = 1000
_SEED = 2018
# Of the kernel's matrix, which whole would not fit a processor's cache.
_ROWS_AT_A_TIME = 100


class KernelReference:
    """The real side of kernel distances: computed once, compared with many generated sets.

    Args:
        real_features: ``(N, d)`` features of real samples, at least two.
    """

    def __init__(self, real_features: Tensor) -> None:
        self._real = real_features.double()
        self._within = _mean(self._real, self._real, _pairs_within(len(self._real), 0))

    def distance(self, features: Tensor) -> float:
        """Return the KID of ``(M, d)`` features to the real ones, about 0 for real samples.

        Binkowski et al. 2018 (https://arxiv.org/abs/1801.01401): the squared maximum mean discrepancy
        with kernel ``(x.y / d + 1)^3``, by its unbiased estimator, which may fall below 0; the mean
        over 100 random subsets of 1,000 samples of either side, fewer where there are fewer. The
        subsets are of one size, so that the mean over them is one over all pairs, each as often as
        subsets have it.
        """
        generated = features.double()
        within = _mean(generated, generated, _pairs_within(len(generated), 1))
        across = _mean(self._real, generated, _pairs_across(len(self._real), len(generated)))
        return self._within + within - 2 * across


class _Pairs(NamedTuple):
    """How many subsets have both samples of a pair: uint8, a row for each one, and all of them."""

    counts: Tensor
    total: int


def _mean(ones: Tensor, others: Tensor, pairs: _Pairs) -> float:
    """Return the mean of the kernel over pairs of a one and another, each as often as it is drawn."""
    total, shift = 0.0, torch.ones((), dtype=torch.float64)
    blocks = (ones.split(_ROWS_AT_A_TIME), pairs.counts.split(_ROWS_AT_A_TIME))
    for rows, often in zip(*blocks, strict=True):
        kernel = torch.addmm(shift, rows, others.T, alpha=1 / rows.shape[1]).pow_(3)
        total += float(torch.dot(kernel.flatten(), often.double().flatten()))
    return total / pairs.total


@lru_cache(maxsize=4)
def _pairs_within(count: int, number: int) -> _Pairs:
    """Return the pairs of different samples in the same subset."""
    subsets = _subsets(count, number)
    return _as_pairs((subsets.T @ subsets).fill_diagonal_(0))


@lru_cache(maxsize=4)
def _pairs_across(num_real: int, num_generated: int) -> _Pairs:
    """Return the pairs of a real sample in a subset and a generated one in its counterpart."""
    return _as_pairs(_subsets(num_real, 0).T @ _subsets(num_generated, 1))


def _as_pairs(counts: Tensor) -> _Pairs:
    return _Pairs(counts.to(torch.uint8), int(counts.double().sum()))


def _subsets(count: int, number: int) -> Tensor:
    """Return random subsets as rows ``(100, count)`` of ones and zeros, always the same."""
    source = torch.Generator().manual_seed(_SEED + number)
    order = torch.rand(NUM_SUBSETS, count, generator=source).argsort(dim=1)
    return torch.zeros(NUM_SUBSETS, count).scatter_(1, order[:, : min(SUBSET_SIZE, count)], 1.0)
