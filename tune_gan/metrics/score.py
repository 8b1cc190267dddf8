"""The score of a generator: `fid_proxy`, and more views of its samples beside it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from tune_gan.metrics.diversity import Neighbourhoods
from tune_gan.metrics.frechet import FrechetReference
from tune_gan.metrics.kernel import KernelReference

NUM_GENERATED = 2000
WORST_SCORE = 1e6
_FARTHEST = 1e6
_MOST_REAL = 2000
_LATENT_SEED = 20_170_626
_SHUFFLE_SEED = 7
# A hundred real images repeated score better than many an honest generator. Even of 2,000 draws among
# a thousand of MNIST only 14 % are distinct, and one class has an entropy of 0.02; a generator that has
# learned all classes comes near neither.
_LEAST_DISTINCT = 0.5
_LEAST_CLASS_ENTROPY = 0.3

_CPU = torch.device("cpu")

Measures = Callable[[Tensor], dict[str, float]]


@dataclass(frozen=True)
class Instrument:
    """What samples are looked at with.

    Attributes:
        name: Says what it is: scores by instruments of different names do not compare.
        features: Maps samples (uint8 images or float points) to ``(N, d)`` features.
        classes: Maps features to the likeliest class of each, ``(N,)``, where there are classes.
        measures: Further measures of samples, by name.
        scale: As `FrechetReference` takes it.
    """

    name: str
    features: Callable[[Tensor], Tensor]
    classes: Callable[[Tensor], Tensor] | None = None
    measures: Measures | None = None
    scale: bool = True


class Scorer:
    """Scores generated samples against all held-out real ones.

    The real side is shuffled once with a fixed seed, because data files are ordered and all but the
    Fréchet distance take the first 2,000.

    All is computed where the instrument computes features, on a GPU in full precision, whatever that of
    the training is: only numbers come back.

    Args:
        instrument: What to look with.
        held_out: Held-out real samples, on the CPU.
        device: Where the instrument computes.
    """

    def __init__(self, instrument: Instrument, held_out: Tensor, device: torch.device = _CPU) -> None:
        self.instrument, self._device = instrument, device
        shuffle = torch.Generator().manual_seed(_SHUFFLE_SEED)
        order = torch.randperm(len(held_out), generator=shuffle)
        real_features = instrument.features(held_out[order].to(device))
        self._real_spread = _spread(held_out)
        self._frechet = FrechetReference(real_features, scale=instrument.scale)
        standardised = self._frechet.standardise(real_features)[:_MOST_REAL]
        self._neighbourhoods = Neighbourhoods(standardised)
        self._kernel = KernelReference(standardised)
        self._real_entropy = self._class_entropy(real_features)

    def name(self, count: int = NUM_GENERATED) -> str:
        """Name the instrument and the number of samples, without which no two scores compare."""
        return f"{self.instrument.name}, N={count}"

    def score(self, samples: Tensor) -> dict[str, float]:
        """Score generated samples, by rule `NUM_GENERATED` of them, in the form they are saved in.

        Returns:
            All finite, `worst` where a sample is `out_of_bounds`: ``fid_proxy`` (0 is best) and
            ``fid_proxy_se``, its standard error over other draws of as many samples; ``kid`` (about 0
            is best); ``coverage``, ``density`` and ``distinct`` (about 1 is best); ``class_entropy``,
            that of the samples' classes over that of the real ones' (1 is best, 0 all of one class),
            where there are classes; ``spread``, the spread of the samples over that of the real ones
            (1 is best, 0 all alike); ``degenerate``, as `is_degenerate` says; and the instrument's
            further measures. Points have no ``distinct``: those of a thin ring are near each other.
        """
        samples = samples.to(self._device)
        if out_of_bounds(samples):
            return self.worst()
        features = self.instrument.features(samples)
        frechet = self._frechet.measure(features)
        standardised = self._frechet.standardise(features)
        scores = {
            "fid_proxy": min(frechet.value, WORST_SCORE),
            "fid_proxy_se": min(frechet.standard_error, WORST_SCORE),
            "kid": min(self._kernel.distance(standardised), WORST_SCORE),
            **self._neighbourhoods.measure(standardised),
            "spread": _spread(samples) / self._real_spread if self._real_spread else 1.0,
        }
        if samples.dim() > 2:
            scores["distinct"] = self._neighbourhoods.distinct(standardised)
        # A classifier may be so poor that it finds one class among the real ones, too.
        if self.instrument.classes is not None and self._real_entropy > 0:
            scores["class_entropy"] = self._class_entropy(features) / self._real_entropy
        scores["degenerate"] = is_degenerate(scores)
        return scores | (self.instrument.measures(samples) if self.instrument.measures else {})

    def _class_entropy(self, features: Tensor) -> float:
        """Return the entropy of the classes of features, in nats; 1 where there are no classes."""
        if self.instrument.classes is None:
            return 1.0
        shares = self.instrument.classes(features).cpu().bincount().double() / len(features)
        return float(torch.special.entr(shares).sum())

    @staticmethod
    def worst() -> dict[str, float]:
        """Return the finite score of a generator that has diverged."""
        return {
            "fid_proxy": WORST_SCORE,
            "fid_proxy_se": 0.0,
            "kid": WORST_SCORE,
            "coverage": 0.0,
            "density": 0.0,
            "spread": 0.0,
            "degenerate": True,
        }


def is_degenerate(scores: Mapping[str, float]) -> bool:
    """Return whether samples are a few repeated, or all but of one class, whatever their `fid_proxy`.

    Such samples are ranked below all others: under a half of them has no twin among them, or their
    classes have less than 0.3 of the entropy that those of the real samples have.

    Args:
        scores: ``distinct`` and ``class_entropy`` as `Scorer.score` returns them; what is missing
            counts as good.
    """
    few = scores.get("distinct", 1.0) < _LEAST_DISTINCT
    return few or scores.get("class_entropy", 1.0) < _LEAST_CLASS_ENTROPY


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
