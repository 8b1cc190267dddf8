"""Adversarial losses on logits. D(x) is the discriminator's logit, s the logistic sigmoid."""

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody uses)
from torch import Tensor


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

    Args:
        loss: One of the names above.
        real_logits: Logits ``(B,)`` of real samples.
        fake_logits: Logits ``(B,)`` of generated samples.
        label_smoothing: How far the real label lies below 1.
    """
    if loss in ("non_saturating", "minimax"):
        real_labels = torch.full_like(real_logits, 1.0 - label_smoothing)
        real = F.binary_cross_entropy_with_logits(real_logits, real_labels)
        return real + F.softplus(fake_logits).mean()
    if loss == "least_squares":
        real_error = real_logits - (1.0 - label_smoothing)
        return (real_error.square().mean() + fake_logits.square().mean()) / 2
    assert loss == "hinge", loss
    return F.relu(1 - real_logits).mean() + F.relu(1 + fake_logits).mean()


def generator_loss(loss: str, fake_logits: Tensor) -> Tensor:
    """Return the generator's scalar loss; papers as in `discriminator_loss`.

    * ``non_saturating``: ``-E[log s(D(G(z)))]``
    * ``minimax``: ``E[log(1 - s(D(G(z))))]``, which saturates where D is sure
    * ``least_squares``: ``E[(D(G(z)) - 1)^2] / 2``
    * ``hinge``: ``-E[D(G(z))]``

    Args:
        loss: One of the names above.
        fake_logits: Logits ``(B,)`` of generated samples.
    """
    if loss == "non_saturating":
        return F.softplus(-fake_logits).mean()
    if loss == "minimax":
        return -F.softplus(fake_logits).mean()
    if loss == "least_squares":
        return (fake_logits - 1).square().mean() / 2
    assert loss == "hinge", loss
    return -fake_logits.mean()


def discriminator_output(loss: str, logits: Tensor) -> Tensor:
    """Return the scalar mean output to report: probabilities for cross entropy, else raw scores.

    At equilibrium it is 0.5 for the two cross-entropy losses and least squares, 0 for hinge.
    """
    if loss in ("non_saturating", "minimax"):
        return logits.sigmoid().mean()
    return logits.mean()
