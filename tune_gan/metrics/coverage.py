"""Coverage: the share of real samples that have a generated one in their neighbourhood."""

import torch
from torch import Tensor

NEIGHBOURS = 5


class CoverageReference:
    """The real side of coverage: the neighbourhood of every real sample, computed once.

    A real sample's neighbourhood reaches to its fifth nearest real sample.

    Args:
        real_features: ``(N, d)`` features of real samples, more than five.
    """

    def __init__(self, real_features: Tensor) -> None:
        self._real = real_features.float()
        distances = torch.cdist(self._real, self._real)
        # The nearest to each sample is the sample itself.
        self._radii = distances.kthvalue(NEIGHBOURS + 1, dim=1).values

    def coverage(self, features: Tensor) -> float:
        """Return the coverage by generated ``(M, d)`` features, 0 to 1.

        Naeem et al. 2020 (https://arxiv.org/abs/2002.09797): the share of real samples whose
        neighbourhood holds at least one generated sample. Unlike the Fréchet distance it falls when a
        generator repeats a few good samples.
        """
        nearest = torch.cdist(self._real, features.float()).min(dim=1).values
        return int((nearest <= self._radii).sum()) / len(self._real)
