import pytest
import torch

from tune_gan.metrics.diversity import NEIGHBOURS, Neighbourhoods


def test_by_hand() -> None:
    real = torch.arange(20.0).unsqueeze(1)
    reference = Neighbourhoods(real)
    assert reference.measure(real)["coverage"] == 1.0
    # The fifth neighbour of an inner point lies 3 away, that of an end 5 away.
    inner = reference.measure(torch.tensor([[10.0]]))
    assert inner == {"coverage": 7 / 20, "density": 7 / NEIGHBOURS}
    assert reference.measure(torch.tensor([[-4.5]]))["coverage"] == 1 / 20
    assert reference.measure(torch.tensor([[100.0]])) == {"coverage": 0.0, "density": 0.0}


def test_real_samples_have_coverage_and_density_about_1() -> None:
    source = torch.Generator().manual_seed(0)
    real, others = torch.randn(2, 2000, 16, generator=source)
    reference = Neighbourhoods(real)
    measures = reference.measure(others)
    # Naeem et al. 2020: 1 - (1/2)^k expected coverage, density 1.
    assert measures["coverage"] == pytest.approx(1 - 0.5**NEIGHBOURS, abs=0.02)
    assert measures["density"] == pytest.approx(1.0, abs=0.1)
    assert reference.distinct(others) == 1.0


@pytest.mark.parametrize(("jitter", "distinct"), [(0.0, 0.0), (1e-4, 0.0), (0.5, 1.0)])
def test_twins_are_not_distinct(jitter: float, distinct: float) -> None:
    source = torch.Generator().manual_seed(0)
    real, noise = torch.randn(2, 500, 16, generator=source)
    repeated = real[:50].repeat(10, 1) + jitter * noise
    assert Neighbourhoods(real).distinct(repeated) == pytest.approx(distinct, abs=0.02)


def test_one_sample_among_many_others_counts_as_a_twin_only_of_its_like() -> None:
    real = torch.arange(100.0).unsqueeze(1)
    generated = torch.cat([torch.arange(9.0), torch.tensor([4.0])]).unsqueeze(1)
    assert Neighbourhoods(real).distinct(generated) == 8 / 10
