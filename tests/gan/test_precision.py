from collections.abc import Iterator

import pytest
import torch

from tests.conftest import TINY_RING
from tune_gan.gan.precision import set_precision, with_precision
from tune_gan.metrics.arithmetic import products, set_products

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    set_products("ieee")


def test_auto_is_single_precision_on_a_cpu_and_a_named_one_stays() -> None:
    assert with_precision(TINY_RING, CPU).precision == "fp32"
    named = TINY_RING.model_copy(update={"precision": "bf16"})
    assert with_precision(named, CPU) is named


def test_auto_is_single_precision_on_a_gpu_without_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: False)
    assert with_precision(TINY_RING, CUDA).precision == "fp32"


@pytest.mark.parametrize(("precision", "is_tf32"), [("fp32", False), ("tf32", True), ("bf16", True)])
def test_all_of_torchs_switches_say_the_same(precision: str, is_tf32: bool) -> None:
    """Some set and others not, whoever reads the others in this process gets an error."""
    set_precision(TINY_RING.model_copy(update={"precision": precision}))
    assert torch.backends.cuda.matmul.allow_tf32 == is_tf32
    assert torch.backends.cudnn.allow_tf32 == is_tf32
    assert torch.get_float32_matmul_precision() == ("high" if is_tf32 else "highest")
    with torch.backends.cudnn.flags():
        pass


def test_a_score_has_whole_products_and_leaves_the_training_its_own() -> None:
    set_products("tf32")
    with products("ieee", CUDA):
        assert not torch.backends.cuda.matmul.allow_tf32
        with products("tf32", CUDA):
            assert torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32
    with products("ieee", CPU):
        assert torch.backends.cuda.matmul.allow_tf32
