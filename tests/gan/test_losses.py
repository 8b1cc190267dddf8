import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from tune_gan.gan.losses import (
    discriminator_loss,
    discriminator_output,
    generator_loss,
    gradient_penalty,
    r1_penalty,
)

REAL = torch.tensor([1.5, -0.5, 0.0])
FAKE = torch.tensor([-2.0, 0.5, 3.0])


def _sigmoid(logits: torch.Tensor) -> torch.Tensor:
    return 1 / (1 + torch.exp(-logits))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("loss", ["non_saturating", "minimax"])
def test_cross_entropy_discriminator_follows_its_formula(loss: str, smoothing: float) -> None:
    t = 1 - smoothing
    real = t * _sigmoid(REAL).log() + (1 - t) * (1 - _sigmoid(REAL)).log()
    expected = -real.mean() - (1 - _sigmoid(FAKE)).log().mean()
    torch.testing.assert_close(discriminator_loss(loss, REAL, FAKE, smoothing), expected)


def test_generator_losses_follow_their_formulas() -> None:
    formulas = {
        "non_saturating": -_sigmoid(FAKE).log().mean(),
        "minimax": (1 - _sigmoid(FAKE)).log().mean(),
        "least_squares": ((FAKE - 1) ** 2).mean() / 2,
        "hinge": -FAKE.mean(),
        "wasserstein": -FAKE.mean(),
    }
    for loss, expected in formulas.items():
        torch.testing.assert_close(generator_loss(loss, FAKE), expected)


def test_wasserstein_discriminator() -> None:
    expected = FAKE.mean() - REAL.mean()
    torch.testing.assert_close(discriminator_loss("wasserstein", REAL, FAKE), expected)


def _quadratic(samples: torch.Tensor) -> torch.Tensor:
    """D(x) = |x|^2 / 2, whose gradient is x."""
    return samples.flatten(1).square().sum(dim=1) / 2


def test_gradient_penalty_follows_its_formula() -> None:
    torch.manual_seed(0)
    real, fake = torch.randn(5, 1, 2, 2), torch.randn(5, 1, 2, 2)
    shares = torch.rand(5, generator=torch.Generator().manual_seed(3)).reshape(5, 1, 1, 1)
    between = shares * real + (1 - shares) * fake
    expected = (between.flatten(1).norm(dim=1) - 1).square().mean()
    penalty = gradient_penalty(_Network(_quadratic), real, fake, shares.flatten())
    torch.testing.assert_close(penalty, expected)


def test_r1_follows_its_formula_and_averages_several_logits() -> None:
    real = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    expected = torch.tensor((25.0 + 1.0) / 2 / 2)
    torch.testing.assert_close(r1_penalty(_Network(_quadratic), real), expected)
    twice = _Network(lambda x: torch.stack([_quadratic(x), _quadratic(x)], dim=1))
    torch.testing.assert_close(r1_penalty(twice, real), expected)


def test_penalties_have_gradients_by_the_weights() -> None:
    first = torch.nn.Linear(2, 4)
    network = torch.nn.Sequential(first, torch.nn.Tanh(), torch.nn.Linear(4, 1))
    for penalty in (
        r1_penalty(network, torch.randn(6, 2)),
        gradient_penalty(network, torch.randn(6, 2), torch.randn(6, 2), torch.rand(6)),
    ):
        (gradient,) = torch.autograd.grad(penalty, first.weight)
        assert gradient.abs().sum() > 0


class _Network(torch.nn.Module):
    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        return self._function(samples)


def test_least_squares_and_hinge_discriminators() -> None:
    least_squares = ((REAL - 0.9) ** 2).mean() / 2 + (FAKE**2).mean() / 2
    torch.testing.assert_close(discriminator_loss("least_squares", REAL, FAKE, 0.1), least_squares)
    hinge = F.relu(1 - REAL).mean() + F.relu(1 + FAKE).mean()
    torch.testing.assert_close(discriminator_loss("hinge", REAL, FAKE, 0.1), hinge)


@pytest.mark.parametrize("loss", ["non_saturating", "minimax", "least_squares", "hinge"])
def test_a_step_on_the_generator_loss_raises_the_logits(loss: str) -> None:
    logits = FAKE.clone().requires_grad_()
    generator_loss(loss, logits).backward()
    assert logits.grad is not None
    below_target = FAKE < 1 if loss == "least_squares" else torch.ones(3, dtype=torch.bool)
    assert bool((logits.grad[below_target] < 0).all())


def test_large_logits_stay_finite() -> None:
    large = torch.tensor([1e4, -1e4])
    for loss in ("non_saturating", "minimax"):
        assert math.isfinite(discriminator_loss(loss, large, large).item())
        assert math.isfinite(generator_loss(loss, large).item())


def test_output_is_a_probability_for_cross_entropy_alone() -> None:
    assert discriminator_output("minimax", torch.zeros(2)).item() == 0.5
    assert discriminator_output("hinge", torch.full((2,), -3.0)).item() == -3.0
