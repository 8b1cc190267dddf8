import pytest
import torch
from torch import Tensor
from torchmetrics.image.kid import poly_mmd

from tune_gan.metrics.kernel import NUM_SUBSETS, SUBSET_SIZE, KernelReference


def _draw(count: int, seed: int, shift: float = 0.0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randn(count, 8, generator=source, dtype=torch.float64) + shift


def test_by_hand() -> None:
    """Two and two points on a line: all of the pairs, none of a point with itself."""
    real, fake = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    # k(x, y) = (x y + 1)^3: k(0, 1) = 1, k(2, 3) = 343, across 1, 1, 27, 64.
    assert KernelReference(real).distance(fake) == pytest.approx(1 + 343 - 2 * (1 + 1 + 27 + 64) / 4)


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_agrees_with_torchmetrics_where_a_subset_is_all(scale: float) -> None:
    """But for the rounding of kernels in float32, which grows with them."""
    real, fake = scale * _draw(300, 0), scale * _draw(300, 1, shift=0.3)
    theirs = poly_mmd(real, fake, degree=3, gamma=None, coef=1.0)
    size = float((fake @ fake.T / 8 + 1).pow(3).abs().mean())
    off = abs(KernelReference(real).distance(fake) - float(theirs))
    assert off < 1e-7 * size


def test_large_features_are_compared_in_double_precision() -> None:
    """Their kernel would be infinite otherwise, and the difference of two of them no number."""
    for real_scale, fake_scale in ((1e10, 1e10), (1e10, 1.0), (1.0, 1e10)):
        real, fake = real_scale * _draw(300, 0), fake_scale * _draw(300, 1, shift=0.3)
        theirs = poly_mmd(real, fake, degree=3, gamma=None, coef=1.0)
        assert KernelReference(real).distance(fake) == pytest.approx(float(theirs), rel=1e-9)


def test_is_unbiased() -> None:
    """Equal distributions: around 0, on both sides of it, whatever the number of samples."""
    for count in (200, 2000):
        reference = KernelReference(_draw(2000, 0))
        distances = torch.tensor([reference.distance(_draw(count, seed)) for seed in range(1, 13)])
        assert float(distances.min()) < 0 < float(distances.max())
        error = float(distances.std()) / len(distances) ** 0.5
        # The one real set is off by as much as any other.
        assert abs(float(distances.mean())) < 5 * error + 0.02


def test_subsets_are_random_always_the_same_and_of_their_size() -> None:
    real, fake = _draw(1500, 0), _draw(1200, 1, shift=0.1)
    reference = KernelReference(real)
    whole = float(poly_mmd(real[:1200], fake, degree=3, gamma=None, coef=1.0))
    assert reference.distance(fake) == KernelReference(real).distance(fake)
    assert reference.distance(fake) == pytest.approx(whole, rel=0.5)
    assert (NUM_SUBSETS, SUBSET_SIZE) == (100, 1000)


def test_samples_compared_with_themselves_are_two_sets() -> None:
    same = _draw(300, 0)
    theirs = poly_mmd(same, same, degree=3, gamma=None, coef=1.0)
    assert KernelReference(same).distance(same) == pytest.approx(float(theirs), abs=1e-6)
