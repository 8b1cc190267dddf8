import logging

import pytest
import torch

from tests.conftest import TINY_RING
from tune_gan.gan.graphs import Replayed
from tune_gan.gan.training import iterate

_CPU = torch.device("cpu")
on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def test_on_a_cpu_it_is_called_as_it_is() -> None:
    calls: list[int] = []
    replayed = Replayed(lambda: calls.append(len(calls)), _CPU)
    for _ in range(5):
        replayed()
    assert calls == [0, 1, 2, 3, 4]


def test_what_a_function_raises_is_raised() -> None:
    def fails() -> None:
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        Replayed(fails, _CPU)()


@on_gpu
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "nadam"},
        {"optimizer": "rmsprop"},
        {"optimizer": "sgd"},
        {"dropout": 0.3, "disc_steps": 3},
        {"loss": "wasserstein", "gp_weight": 10.0},
        {"ema_decay": 0.9},
        {"spectral_norm": True},
        {"precision": "bf16"},
        {"precision": "tf32"},
    ],
)
def test_a_replayed_training_gives_the_numbers_of_one_step_by_step(
    changes: dict[str, object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = TINY_RING.model_copy(update={"device": "cuda", **changes})
    replayed = [report.metrics for report in iterate(config)]
    assert not caplog.records
    monkeypatch.setattr("tune_gan.gan.graphs.WARM_UPS", config.num_iterations)
    step_by_step = [report.metrics for report in iterate(config)]
    for one, other in zip(replayed, step_by_step, strict=True):
        for name in ("gen_loss", "disc_loss", "fid_proxy"):
            assert one[name] == pytest.approx(other[name], rel=1e-5), name


@on_gpu
def test_what_cannot_be_captured_is_called_as_it_is_with_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    device = torch.device("cuda")
    source, total = torch.Generator(device).manual_seed(0), torch.zeros((), device=device)

    def waits_for_the_device() -> None:
        total.add_(torch.randn((), generator=source, device=device))
        total.item()

    replayed = Replayed(waits_for_the_device, device)
    with caplog.at_level(logging.WARNING):
        for _ in range(10):
            replayed()
    assert len(caplog.records) == 1
    again = torch.Generator(device).manual_seed(0)
    expected = sum(float(torch.randn((), generator=again, device=device)) for _ in range(10))
    assert float(total) == pytest.approx(expected, rel=1e-5)
