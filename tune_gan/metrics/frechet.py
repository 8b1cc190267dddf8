"""The Fréchet distance between two sets of features, each taken for a Gaussian."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

_LEAST_ROOT = 1e-6


class Distance(NamedTuple):
    """A Fréchet distance.

    Attributes:
        value: The distance, 0 or above.
        standard_error: Its standard deviation over other draws of as many generated samples.
    """

    value: float
    standard_error: float


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

    def measure(self, features: Tensor) -> Distance:
        """Return the squared Fréchet distance of ``(N, d)`` features to the real ones, and its error.

        Dowson and Landau 1982; as a score of generators Heusel et al. 2017
        (https://arxiv.org/abs/1706.08500): ``|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))``. The trace of
        the root is the sum of the roots of the eigenvalues of ``C^(1/2) C' C^(1/2)``, which is
        symmetric; eigenvalues below 0 are rounding errors and count as 0. Infinite where the features
        are too large for a number.

        The standard error over other draws of N samples is that of the first-order change of the
        distance with each sample (delta method; van der Vaart 1998, Asymptotic Statistics, chapter 20):
        ``2 (m' - m).(x - m') + (x - m').(I - T)(x - m')`` with the derivative of the root ``T =
        C^(1/2) (C^(1/2) C' C^(1/2))^(-1/2) C^(1/2)``.
        """
        standardised = self.standardise(features)
        mean = standardised.mean(dim=0)
        covariance = standardised.T.cov()
        inner = self._root @ covariance @ self._root
        if not bool(inner.isfinite().all()):
            return Distance(math.inf, math.inf)
        eigenvalues, eigenvectors = torch.linalg.eigh((inner + inner.T) / 2)
        roots = eigenvalues.clamp(min=0).sqrt()
        value = float(mean.square().sum() + covariance.trace() + self._trace - 2 * roots.sum())
        if not math.isfinite(value):
            return Distance(math.inf, math.inf)
        # Directions in which the samples do not vary at all have no root to differentiate.
        inverse = torch.where(roots > _LEAST_ROOT * roots.max(), 1 / roots, 0.0)
        side = self._root @ eigenvectors
        centred = standardised - mean
        change = centred @ (2 * mean) + centred.square().sum(dim=1)
        change -= ((centred @ side).square() * inverse).sum(dim=1)
        # max() would take what is not a number for 0, which is the best score.
        return Distance(max(0.0, value), float(change.std() / math.sqrt(len(features))))
