import math

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from tune_gan.metrics.frechet import FrechetReference


def whitened(num: int, dim: int, seed: int = 0) -> Tensor:
    """Features whose sample mean is 0 and whose sample covariance is the identity, exactly."""
    x = torch.randn(num, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    x = x - x.mean(dim=0)
    root = torch.linalg.cholesky(x.T.cov())
    whitened: Tensor = torch.linalg.solve_triangular(root, x.T, upper=False).T
    return whitened


def test_without_scaling_features_count_in_their_own_units() -> None:
    shift = torch.tensor([3.0, 0.0, 0.0, 0.0])
    real = whitened(500, 4) * torch.tensor([1.0, 2.0, 1e-6, 5.0])
    assert FrechetReference(real, scale=False).measure(real + shift).value == pytest.approx(9, rel=1e-4)


def test_equal_gaussians_have_distance_0() -> None:
    real = whitened(500, 8)
    assert FrechetReference(real).measure(whitened(700, 8, seed=1)).value == pytest.approx(0, abs=1e-9)


def test_a_shifted_mean_costs_its_square() -> None:
    shift = torch.linspace(-1, 2, 8, dtype=torch.float64)
    distance = FrechetReference(whitened(500, 8)).measure(whitened(500, 8) + shift).value
    assert distance == pytest.approx(float(shift.square().sum()), rel=1e-9)


def test_a_scaled_covariance_costs_the_difference_of_deviations() -> None:
    scales = torch.linspace(0.1, 3, 8, dtype=torch.float64)
    distance = FrechetReference(whitened(500, 8)).measure(whitened(500, 8) * scales).value
    assert distance == pytest.approx(float((scales - 1).square().sum()), rel=1e-9)


def test_features_are_standardised_on_the_real_ones() -> None:
    units = torch.tensor([1e-3, 1.0, 1e3, 7.0], dtype=torch.float64)
    generated = whitened(300, 4, seed=1) * 1.5 + 0.3
    plain = FrechetReference(whitened(300, 4)).measure(generated).value
    scaled = FrechetReference(whitened(300, 4) * units + 5).measure(generated * units + 5).value
    assert scaled == pytest.approx(plain, rel=1e-6)


def test_singular_covariances_are_finite() -> None:
    real = whitened(300, 4)
    reference = FrechetReference(torch.cat([real, real[:, :1], torch.ones(300, 1)], dim=1))
    one_point = torch.zeros(300, 6, dtype=torch.float64)
    assert reference.measure(one_point).value == pytest.approx(4 + 1 + 1, rel=1e-6)


def test_what_is_too_large_for_a_number_is_infinite_and_never_0() -> None:
    huge = torch.full((300, 4), 1e308, dtype=torch.float64)
    huge[0] = -1e308
    assert FrechetReference(whitened(300, 4)).measure(huge).value == math.inf


class _FirstPixels(nn.Module):
    """'Features' of images: eight of their pixels, as standardised by a reference."""

    num_features = 8

    def __init__(self, reference: FrechetReference | None = None) -> None:
        super().__init__()
        self.reference = reference

    def forward(self, images: Tensor) -> Tensor:
        pixels = images.flatten(1)[:, :8].double()
        return pixels if self.reference is None else self.reference.standardise(pixels)


def test_agrees_with_torchmetrics() -> None:
    source = torch.Generator().manual_seed(3)
    mix = torch.randn(12, 12, generator=source)
    real = (torch.randn(400, 12, generator=source) @ mix * 20 + 100).clamp(0, 255).byte()
    fake = (torch.randn(300, 12, generator=source) @ mix * 25 + 90).clamp(0, 255).byte()
    real, fake = real.reshape(-1, 3, 2, 2), fake.reshape(-1, 3, 2, 2)
    reference = FrechetReference(_FirstPixels()(real))
    theirs = FrechetInceptionDistance(feature=_FirstPixels(reference)).set_dtype(torch.float64)
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    ours = reference.measure(_FirstPixels()(fake)).value
    assert ours > 0.1
    assert ours == pytest.approx(theirs.compute().item(), rel=1e-6)


def test_the_standard_error_is_that_of_other_draws() -> None:
    source = torch.Generator().manual_seed(5)
    mix = torch.randn(16, 16, generator=source, dtype=torch.float64)
    reference = FrechetReference(torch.randn(5000, 16, generator=source, dtype=torch.float64))
    for scale in (0.3, 1.0):
        measured = [
            reference.measure(scale * torch.randn(2000, 16, generator=source).double() @ mix)
            for _ in range(200)
        ]
        over_draws = torch.tensor([distance.value for distance in measured]).std()
        estimated = torch.tensor([distance.standard_error for distance in measured]).mean()
        # 200 draws know a deviation to 5 %.
        assert float(estimated / over_draws) == pytest.approx(1, abs=0.15)


def test_the_standard_error_of_samples_that_hardly_vary_is_finite() -> None:
    real = whitened(500, 8)
    assert FrechetReference(real).measure(torch.zeros(300, 8)).standard_error == pytest.approx(0)
    flat = whitened(300, 8) * torch.tensor([1.0, 1, 1, 1, 1, 1, 0, 0])
    error = FrechetReference(real).measure(flat).standard_error
    assert 0 < error < 1
