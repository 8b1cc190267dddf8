"""The kernel inception distance (KID) between two sets of features."""

from functools import lru_cache

import torch
from torch import Tensor

NUM_SUBSETS = 100
SUBSET_SIZE = 1000
_SEED = 2018


class KernelReference:
    """The real side of kernel distances: computed once, compared with many generated sets.

    Args:
        real_features: ``(N, d)`` features of real samples, at least two.
    """

    def __init__(self, real_features: Tensor) -> None:
        self._real = real_features.double()
        self._within = _means_of_pairs(self._kernel(self._real), _subsets(len(self._real), 0))

    def distance(self, features: Tensor) -> float:
        """Return the KID of ``(M, d)`` features to the real ones, about 0 for real samples.

        Binkowski et al. 2018 (https://arxiv.org/abs/1801.01401): the squared maximum mean discrepancy
        with kernel ``(x.y / d + 1)^3``, by its unbiased estimator, which may fall below 0; the mean
        over 100 random subsets of 1,000 samples of either side, fewer where there are fewer.
        """
        generated = features.double()
        real_subsets, own_subsets = _subsets(len(self._real), 0), _subsets(len(generated), 1)
        within = _means_of_pairs(self._kernel(generated), own_subsets)
        across = (real_subsets @ self._kernel(self._real, generated) * own_subsets).sum(dim=1)
        across /= real_subsets.sum(dim=1) * own_subsets.sum(dim=1)
        return float((self._within + within - 2 * across).mean())

    @staticmethod
    def _kernel(ones: Tensor, others: Tensor | None = None) -> Tensor:
        others = ones if others is None else others
        return (ones @ others.T).div_(ones.shape[1]).add_(1).pow_(3)


@lru_cache(maxsize=4)
def _subsets(count: int, number: int) -> Tensor:
    """Return random subsets as rows ``(100, count)`` of ones and zeros, always the same."""
    source = torch.Generator().manual_seed(_SEED + number)
    order = torch.rand(NUM_SUBSETS, count, generator=source).argsort(dim=1)
    chosen = order[:, : min(SUBSET_SIZE, count)]
    return torch.zeros(NUM_SUBSETS, count, dtype=torch.float64).scatter_(1, chosen, 1.0)


def _means_of_pairs(kernel: Tensor, subsets: Tensor) -> Tensor:
    """Return the mean of the kernel over the pairs of two different samples of each subset."""
    sizes = subsets.sum(dim=1)
    sums = (subsets @ kernel * subsets).sum(dim=1) - subsets @ kernel.diagonal()
    return sums / (sizes * (sizes - 1))
