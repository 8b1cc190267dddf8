"""Adversarial losses on logits, and gradient penalties.

D(x) is the discriminator's logit, s the logistic sigmoid. Where GANs are trained as a batch of models,
a tensor has its lanes first, and a loss is one number a lane.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody uses)
from torch import Tensor

Network = Callable[[Tensor], Tensor]


def _mean(values: Tensor) -> Tensor:
    return values.mean()


def _mean_of_lanes(values: Tensor) -> Tensor:
    return values.flatten(1).mean(dim=1)


_MEANS = {False: _mean, True: _mean_of_lanes}


def discriminator_loss(
    loss: str,
    real_logits: Tensor,
    fake_logits: Tensor,
    label_smoothing: float | Tensor = 0.0,
    *,
    in_lanes: bool = False,
) -> Tensor:
    """Return the discriminator's loss, means over the batch: a scalar, or ``(lanes,)``.

    With ``t = 1 - label_smoothing`` (one-sided smoothing, Salimans et al. 2016,
    https://arxiv.org/abs/1606.03498):

    * ``non_saturating``, ``minimax`` (Goodfellow et al. 2014, https://arxiv.org/abs/1406.2661):
      ``-E[t log s(D(x)) + (1 - t) log(1 - s(D(x)))] - E[log(1 - s(D(G(z))))]``
    * ``least_squares`` (Mao et al. 2017, https://arxiv.org/abs/1611.04076):
      ``E[(D(x) - t)^2] / 2 + E[D(G(z))^2] / 2``
    * ``hinge`` (Lim and Ye 2017, https://arxiv.org/abs/1705.02894):
      ``E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]``; smoothing has no effect.
    * ``wasserstein`` (Arjovsky et al. 2017, https://arxiv.org/abs/1701.07875):
      ``E[D(G(z))] - E[D(x)]``; smoothing has no effect.

    Args:
        loss: One of the names above.
        real_logits: Logits ``(B,)`` or ``(B, disc_logits)`` of real samples, or so with lanes first.
        fake_logits: Logits of generated samples, alike.
        label_smoothing: How far the real label lies below 1; with lanes, a tensor that broadcasts
            against the logits.
        in_lanes: Whether the logits have lanes.
    """
    mean = _MEANS[in_lanes]
    if loss in ("non_saturating", "minimax"):
        # -log s(x) = softplus(-x), and -log(1 - s(x)) = softplus(-x) + x.
        real = F.softplus(-real_logits) + label_smoothing * real_logits
        return mean(real) + mean(F.softplus(fake_logits))
    if loss == "least_squares":
        real_error = real_logits - (1.0 - label_smoothing)
        return (mean(real_error.square()) + mean(fake_logits.square())) / 2
    if loss == "wasserstein":
        return mean(fake_logits) - mean(real_logits)
    assert loss == "hinge", loss
    return mean(F.relu(1 - real_logits)) + mean(F.relu(1 + fake_logits))


def generator_loss(loss: str, fake_logits: Tensor, *, in_lanes: bool = False) -> Tensor:
    """Return the generator's loss, a scalar or ``(lanes,)``; papers as in `discriminator_loss`.

    * ``non_saturating``: ``-E[log s(D(G(z)))]``
    * ``minimax``: ``E[log(1 - s(D(G(z))))]``, which saturates where D is sure
    * ``least_squares``: ``E[(D(G(z)) - 1)^2] / 2``
    * ``hinge``, ``wasserstein``: ``-E[D(G(z))]``

    Args:
        loss: One of the names above.
        fake_logits: Logits of generated samples, as `discriminator_loss` takes them.
        in_lanes: Whether they have lanes.
    """
    mean = _MEANS[in_lanes]
    if loss == "non_saturating":
        return mean(F.softplus(-fake_logits))
    if loss == "minimax":
        return -mean(F.softplus(fake_logits))
    if loss == "least_squares":
        return mean((fake_logits - 1).square()) / 2
    assert loss in ("hinge", "wasserstein"), loss
    return -mean(fake_logits)


def gradient_penalty(
    discriminator: Network, real: Tensor, fake: Tensor, shares: Tensor, *, in_lanes: bool = False
) -> Tensor:
    """Return the penalty of WGAN-GP (Gulrajani et al. 2017, https://arxiv.org/abs/1704.00028).

    ``E[(|grad D(y)| - 1)^2]`` with ``y = e x + (1 - e) G(z)``, one ``e`` uniform in [0, 1) a sample.

    Args:
        discriminator: Maps samples to logits; of several logits the mean counts.
        real: Real samples ``(B, ...)`` in [-1, 1], or points; or so with lanes first.
        fake: Generated samples, alike.
        shares: The ``e``: ``(B,)``, or ``(lanes, B)``.
        in_lanes: Whether the samples have lanes.
    """
    shares = shares.reshape(*shares.shape, *[1] * (real.dim() - shares.dim()))
    gradients = _input_gradients(discriminator, fake + shares * (real - fake), in_lanes)
    norms: Tensor = torch.linalg.vector_norm(gradients, dim=-1)
    return (norms - 1).square().mean(dim=-1)


def r1_penalty(discriminator: Network, real: Tensor, *, in_lanes: bool = False) -> Tensor:
    """Return ``E[|grad D(x)|^2] / 2`` on real samples ``(B, ...)``, or so with lanes first.

    Mescheder et al. 2018, https://arxiv.org/abs/1801.04406, whose weight is called gamma.
    """
    return _input_gradients(discriminator, real, in_lanes).square().sum(dim=-1).mean(dim=-1) / 2


def _input_gradients(discriminator: Network, samples: Tensor, in_lanes: bool) -> Tensor:
    """Return the gradients, ``(..., B, size of a sample)``, of each logit by its own sample."""
    samples = samples.detach().requires_grad_(True)
    logits = discriminator(samples)
    num_samples = math.prod(samples.shape[: 1 + in_lanes])
    total = logits.sum() / (logits.numel() / num_samples)
    gradients: Tensor = torch.autograd.grad(total, samples, create_graph=True)[0]
    return gradients.flatten(1 + in_lanes)


def discriminator_output(loss: str, logits: Tensor, *, in_lanes: bool = False) -> Tensor:
    """Return the mean output to report, of each lane where there are any.

    Probabilities for cross entropy, else raw scores.

    At equilibrium it is 0.5 for the two cross-entropy losses and least squares, 0 for hinge;
    for wasserstein only the difference of real and generated has a meaning.
    """
    if loss in ("non_saturating", "minimax"):
        logits = logits.sigmoid()
    return _MEANS[in_lanes](logits)
