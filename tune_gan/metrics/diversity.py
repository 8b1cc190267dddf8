"""Neighbourhoods among real and generated samples: coverage, density, and how many are distinct."""

import torch
from torch import Tensor

from tune_gan.metrics.arithmetic import products

NEIGHBOURS = 5
# Two generated samples are one and the same when they lie nearer than this share of the usual distance
# between nearest real samples. Of real MNIST images 97 % are distinct then, and of a hundred of them
# repeated with noise of 20 of 256 levels, none; with a tenth for the share it would be 86 %.
_TWINS = 0.3


class Neighbourhoods:
    """The neighbourhood of every real sample, computed once: it reaches to its fifth nearest.

    Args:
        real_features: ``(N, d)`` features of real samples, more than five.
    """

    def __init__(self, real_features: Tensor) -> None:
        self._real = real_features.float()
        distances = _distances(self._real, self._real)
        # The nearest to each sample is the sample itself.
        self._radii = distances.kthvalue(NEIGHBOURS + 1, dim=1).values
        self._usual_distance = distances.kthvalue(2, dim=1).values.median()

    def measure(self, features: Tensor) -> dict[str, float]:
        """Measure generated ``(M, d)`` features against the real ones.

        Returns:
            ``coverage``, the share of real samples whose neighbourhood holds a generated one, 0 to 1,
            and ``density``, how many real neighbourhoods a generated sample lies in, over 5: about 1
            for real samples, 0 for samples far from all real ones (both Naeem et al. 2020,
            https://arxiv.org/abs/2002.09797).
        """
        generated = features.float()
        distances = _distances(self._real, generated)
        covered = distances.amin(dim=1) <= self._radii
        # As numbers, which a CPU compares faster into than into truths.
        inside = torch.le(distances, self._radii[:, None], out=distances)
        num_inside = inside.sum(dim=1).double().sum()
        return {
            "coverage": float(covered.double().mean()),
            "density": float(num_inside) / (NEIGHBOURS * len(generated)),
        }

    def distinct(self, features: Tensor) -> float:
        """Return the share of generated ``(M, d)`` features without a twin among the others."""
        generated = features.float()
        own = _distances(generated, generated).fill_diagonal_(torch.inf)
        alone = own.amin(dim=1) > _TWINS * self._usual_distance
        return float(alone.double().mean())


def _distances(ones: Tensor, others: Tensor) -> Tensor:
    with products("ieee", ones.device):
        return torch.cdist(ones, others)
