"""The score of a generator: `fid_proxy`, with coverage and the ring's own measures beside it."""

from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as image_ops

from tune_gan.metrics.classifier import LeNet
from tune_gan.metrics.coverage import CoverageReference
from tune_gan.metrics.frechet import FrechetReference

NUM_GENERATED = 2000
WORST_SCORE = 1e6
_FARTHEST = 1e6
_COVERAGE_REAL = 2000
_LATENT_SEED = 20_170_626
_SHUFFLE_SEED = 7

Features = Callable[[Tensor], Tensor]
Measures = Callable[[Tensor], dict[str, float]]


class Scorer:
    """Scores generated samples against all held-out real ones.

    The real side is shuffled once with a fixed seed, because data files are ordered and coverage
    takes the first 2,000.

    Args:
        features: Maps samples (uint8 images or float points) to ``(N, d)`` features.
        held_out: Held-out real samples of that kind.
        measures: Further measures of generated samples, by name.
        scale: As `FrechetReference` takes it.
    """

    def __init__(
        self,
        features: Features,
        held_out: Tensor,
        measures: Measures | None = None,
        *,
        scale: bool = True,
    ) -> None:
        shuffle = torch.Generator().manual_seed(_SHUFFLE_SEED)
        order = torch.randperm(len(held_out), generator=shuffle)
        real_features = features(held_out[order])
        self._features, self._measures = features, measures
        self._real_spread = _spread(held_out)
        self._frechet = FrechetReference(real_features, scale=scale)
        standardised = self._frechet.standardise(real_features)
        self._coverage = CoverageReference(standardised[:_COVERAGE_REAL])

    def score(self, samples: Tensor) -> dict[str, float]:
        """Score generated samples, by rule `NUM_GENERATED` of them, in the form they are saved in.

        Returns:
            ``fid_proxy`` (0 is best), ``coverage`` (1 is best), ``spread`` (the spread of the
            samples over that of the real ones: 1 is best, 0 all alike), and the further measures,
            all finite; `worst` where a sample is `out_of_bounds`.
        """
        if out_of_bounds(samples):
            return self.worst()
        features = self._features(samples)
        measured = self._measures(samples) if self._measures else {}
        return {
            "fid_proxy": min(self._frechet.distance(features), WORST_SCORE),
            "coverage": self._coverage.coverage(self._frechet.standardise(features)),
            "spread": _spread(samples) / self._real_spread if self._real_spread else 1.0,
            **measured,
        }

    @staticmethod
    def worst() -> dict[str, float]:
        """Return the finite score of a generator that has diverged."""
        return {"fid_proxy": WORST_SCORE, "coverage": 0.0, "spread": 0.0}


def _spread(samples: Tensor) -> float:
    """Return the root of the mean variance of pixels or coordinates from sample to sample."""
    return float(samples.float().var(dim=0).mean().sqrt())


def out_of_bounds(samples: Tensor) -> bool:
    """Return whether a sample is not finite, or lies so far out that its generator has diverged."""
    return not bool((samples.abs() <= _FARTHEST).all())


def score_latents(latent_dim: int, count: int = NUM_GENERATED, seed: int = _LATENT_SEED) -> Tensor:
    """Return the latents ``(count, latent_dim)`` that a score is drawn from.

    Every report of every trial takes the default ones.
    """
    source = torch.Generator().manual_seed(seed)
    return torch.randn(count, latent_dim, generator=source)


def image_features(network: LeNet) -> Features:
    """Return the features of uint8 images ``(N, 1, H, W)``, resized to the classifier's own size."""

    def features(images: Tensor) -> Tensor:
        chunks = []
        with torch.inference_mode():
            for chunk in images.split(500):
                size = network.image_size
                fits = chunk.shape[-1] == size
                chunks.append(
                    network.features(chunk if fits else image_ops.resize(chunk, [size, size]))
                )
        return torch.cat(chunks)

    return features
