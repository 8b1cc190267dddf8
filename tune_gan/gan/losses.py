"""Adversarial losses on logits, and gradient penalties.

D(x) is the discriminator's logit, s the logistic sigmoid.
"""

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody uses)
from torch import Tensor, nn


def discriminator_loss(
    loss: str, real_logits: Tensor, fake_logits: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Return the discriminator's scalar loss, means over the batch.

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
        real_logits: Logits ``(B,)`` or ``(B, disc_logits)`` of real samples.
        fake_logits: Logits of generated samples, alike.
        label_smoothing: How far the real label lies below 1.
    """
    if loss in ("non_saturating", "minimax"):
        real_labels = torch.full_like(real_logits, 1.0 - label_smoothing)
        real = F.binary_cross_entropy_with_logits(real_logits, real_labels)
        return real + F.softplus(fake_logits).mean()
    if loss == "least_squares":
        real_error = real_logits - (1.0 - label_smoothing)
        return (real_error.square().mean() + fake_logits.square().mean()) / 2
    if loss == "wasserstein":
        return fake_logits.mean() - real_logits.mean()
    assert loss == "hinge", loss
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def generator_loss(loss: str, fake_logits: Tensor) -> Tensor:
    """Return the generator's scalar loss; papers as in `discriminator_loss`.

    * ``non_saturating``: ``-E[log s(D(G(z)))]``
    * ``minimax``: ``E[log(1 - s(D(G(z))))]``, which saturates where D is sure
    * ``least_squares``: ``E[(D(G(z)) - 1)^2] / 2``
    * ``hinge``, ``wasserstein``: ``-E[D(G(z))]``

    Args:
        loss: One of the names above.
        fake_logits: Logits ``(B,)`` or ``(B, disc_logits)`` of generated samples.
    """
    if loss == "non_saturating":
        return F.softplus(-fake_logits).mean()
    if loss == "minimax":
        return -F.softplus(fake_logits).mean()
    if loss == "least_squares":
        return (fake_logits - 1).square().mean() / 2
    assert loss in ("hinge", "wasserstein"), loss
    return -fake_logits.mean()


def gradient_penalty(
    discriminator: nn.Module, real: Tensor, fake: Tensor, source: torch.Generator
) -> Tensor:
    """Return the penalty of WGAN-GP (Gulrajani et al. 2017, https://arxiv.org/abs/1704.00028).

    ``E[(|grad D(y)| - 1)^2]`` with ``y = e x + (1 - e) G(z)``, one ``e`` uniform in [0, 1) a sample.

    Args:
        discriminator: Maps samples to logits; of several logits the mean counts.
        real: Real samples ``(B, ...)`` in [-1, 1], or points.
        fake: Generated samples, alike.
        source: Random numbers of the interpolation, on the samples' device.
    """
    shares = torch.rand(len(real), generator=source, device=real.device)
    shares = shares.reshape(-1, *[1] * (real.dim() - 1))
    gradients = _input_gradients(discriminator, fake + shares * (real - fake))
    norms: Tensor = torch.linalg.vector_norm(gradients, dim=1)
    return (norms - 1).square().mean()


def r1_penalty(discriminator: nn.Module, real: Tensor) -> Tensor:
    """Return ``E[|grad D(x)|^2] / 2`` on real samples ``(B, ...)``.

    Mescheder et al. 2018, https://arxiv.org/abs/1801.04406, whose weight is called gamma.
    """
    return _input_gradients(discriminator, real).square().sum(dim=1).mean() / 2


def _input_gradients(discriminator: nn.Module, samples: Tensor) -> Tensor:
    """Return the gradients ``(B, size of a sample)`` of each logit by its own sample."""
    samples = samples.detach().requires_grad_(True)
    logits = discriminator(samples)
    total = logits.sum() / (logits.numel() / len(samples))
    gradients: Tensor = torch.autograd.grad(total, samples, create_graph=True)[0]
    return gradients.flatten(1)


def discriminator_output(loss: str, logits: Tensor) -> Tensor:
    """Return the scalar mean output to report: probabilities for cross entropy, else raw scores.

    At equilibrium it is 0.5 for the two cross-entropy losses and least squares, 0 for hinge;
    for wasserstein only the difference of real and generated has a meaning.
    """
    if loss in ("non_saturating", "minimax"):
        return logits.sigmoid().mean()
    return logits.mean()
