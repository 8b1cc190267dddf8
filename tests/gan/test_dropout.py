import pytest
import torch

from tune_gan.gan.dropout import Dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.999999])
def test_drops_a_share_and_scales_the_rest(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    ones = torch.ones(1001, 999, dtype=dtype)
    dropped = Dropout(p)(ones)
    assert dropped.dtype == dtype
    share = float((dropped == 0).double().mean())
    # Four standard deviations of a million draws, and what rounding p leaves.
    assert share == pytest.approx(p, abs=4 * (p * (1 - p) / ones.numel()) ** 0.5 + 2**-16)
    assert set(dropped.unique().tolist()) <= {0.0, float(torch.tensor(1 / (1 - p), dtype=dtype))}


def test_units_are_dropped_independently() -> None:
    """Those that share a random number, too: neighbours, one by one, and whole rows."""
    torch.manual_seed(0)
    kept = (Dropout(0.3)(torch.ones(1000, 1000)) > 0).double() - 0.7
    for distance in (1, 2, 3, 4, 1000):
        one, other = kept.flatten()[:-distance], kept.flatten()[distance:]
        correlation = float((one * other).mean()) / 0.21
        assert abs(correlation) < 4 / len(one) ** 0.5, distance


def test_gradients_go_where_values_went() -> None:
    torch.manual_seed(0)
    values = torch.randn(50, 7, requires_grad=True)
    dropped = Dropout(0.4)(values)
    dropped.sum().backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad * values.detach(), dropped.detach())


def test_follows_torch_s_seed_and_is_off_in_evaluation() -> None:
    dropout, values = Dropout(0.5), torch.randn(10, 10)
    torch.manual_seed(3)
    first = dropout(values)
    torch.manual_seed(3)
    assert torch.equal(dropout(values), first)
    assert not torch.equal(dropout(values), first)
    assert dropout.eval()(values) is values
    assert Dropout(0.0)(values) is values
