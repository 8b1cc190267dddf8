"""The Fréchet distance between two sets of features, each taken for a Gaussian."""

import math

import torch
from torch import Tensor


class FrechetReference:
    """The real side of Fréchet distances: computed once, compared with many generated sets.

    Args:
        real_features: ``(N, d)`` features of real samples.
        scale: Whether to divide each feature by its deviation among the real ones, so that none
            dominates by its scale. Not for features of which some hardly vary among real samples: by
            those alone would samples be judged that are not quite real.
    """

    def __init__(self, real_features: Tensor, *, scale: bool = True) -> None:
        features = real_features.double()
        self._mean = features.mean(dim=0)
        deviation = features.std(dim=0)
        # A feature that never varies among real samples keeps its scale.
        ones = torch.ones_like(deviation)
        self._deviation = torch.where(deviation > 0, deviation, ones) if scale else ones
        covariance = self.standardise(real_features).T.cov()
        eigenvalues, eigenvectors = torch.linalg.eigh(covariance)
        self._root = (eigenvectors * eigenvalues.clamp(min=0).sqrt()) @ eigenvectors.T
        self._trace = covariance.trace()

    def standardise(self, features: Tensor) -> Tensor:
        """Return features ``(N, d)`` in float64 with the real mean, and deviation, taken out."""
        return (features.double() - self._mean) / self._deviation

    def distance(self, features: Tensor) -> float:
        """Return the squared Fréchet distance of ``(N, d)`` features to the real ones.

        Dowson and Landau 1982; as a score of generators Heusel et al. 2017
        (https://arxiv.org/abs/1706.08500): ``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))``. The trace of
        the root is the sum of the roots of the eigenvalues of ``C^(1/2) C' C^(1/2)``, which is
        symmetric; eigenvalues below 0 are rounding errors and count as 0. Infinite where the features
        are too large for a number.
        """
        standardised = self.standardise(features)
        covariance = standardised.T.cov()
        inner = self._root @ covariance @ self._root
        if not bool(inner.isfinite().all()):
            return math.inf
        eigenvalues = torch.linalg.eigvalsh((inner + inner.T) / 2)
        shift = standardised.mean(dim=0).square().sum()
        spread = covariance.trace() + self._trace - 2 * eigenvalues.clamp(min=0).sqrt().sum()
        distance = float(shift + spread)
        # max() would take what is not a number for 0, which is the best score.
        return max(0.0, distance) if math.isfinite(distance) else math.inf
