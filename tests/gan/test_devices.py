"""Which device is chosen, with a torch that is told what GPUs and drivers there are."""

import logging
import warnings

import pytest
import torch

from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError
from tune_gan.gan import devices
from tune_gan.gan.devices import has_kernels
from tune_gan.gan.models import choose_device

_WHEEL = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
_OLD_DRIVER = (
    "CUDA initialization: The NVIDIA driver on your system is too old (found version 12080). Please "
    "update your GPU driver."
)


@pytest.fixture(autouse=True)
def forgotten() -> None:
    """Have nothing said yet in this process."""
    devices._warn_once.cache_clear()


def _tell(monkeypatch: pytest.MonkeyPatch, *capabilities: tuple[int, int], works: bool = True) -> None:
    """Have torch count GPUs of these capabilities, which the driver runs or is too old for."""

    def is_available() -> bool:
        if capabilities and not works:
            warnings.warn(_OLD_DRIVER, stacklevel=1)
        return bool(capabilities) and works

    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: capabilities[index])
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: _WHEEL)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)


@pytest.mark.parametrize(
    ("capability", "architectures", "expected"),
    [
        ((7, 5), _WHEEL, True),
        ((8, 9), _WHEEL, True),
        ((7, 0), _WHEEL, False),
        ((6, 1), _WHEEL, False),
        ((11, 0), _WHEEL, False),
        ((12, 1), _WHEEL, True),
        ((11, 0), [*_WHEEL, "compute_90"], True),
        ((13, 0), [*_WHEEL, "compute_120"], True),
        ((7, 0), [*_WHEEL, "compute_75"], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((10, 0), ["compute_90a"], False),
        ((10, 3), ["sm_100f"], True),
        ((12, 0), ["compute_100f"], False),
        ((8, 0), ["sm_86"], False),
    ],
)
def test_kernels_that_a_gpu_runs(
    capability: tuple[int, int], architectures: list[str], expected: bool
) -> None:
    assert has_kernels(capability, architectures) == expected


def test_auto_takes_the_first_gpu_that_has_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    _tell(monkeypatch, (9, 0))
    assert choose_device("auto") == torch.device("cuda")
    _tell(monkeypatch, (7, 0), (8, 0))
    assert choose_device("auto") == torch.device("cuda", 1)


def test_auto_says_once_why_a_gpu_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _tell(monkeypatch, (9, 0), works=False)
    with caplog.at_level(logging.WARNING):
        assert [choose_device("auto").type for _ in range(3)] == ["cpu"] * 3
    assert [record.getMessage() for record in caplog.records] == [
        "training on the CPU: the GPU cannot be used: CUDA initialization: The NVIDIA driver on your "
        "system is too old (found version 12080)"
    ]
    _tell(monkeypatch, (7, 0))
    with caplog.at_level(logging.WARNING):
        assert choose_device("auto").type == "cpu"
    assert caplog.records[-1].getMessage() == (
        "training on the CPU: the GPU cannot be used: its compute capability is 7.0, and this torch is "
        f"for {', '.join(_WHEEL)}"
    )


def test_without_a_gpu_nothing_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _tell(monkeypatch)
    assert choose_device("auto") == torch.device("cpu")
    assert not caplog.records


def test_auto_takes_apples_gpu_after_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    _tell(monkeypatch)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == choose_device("mps") == torch.device("mps")
    _tell(monkeypatch, (9, 0))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert choose_device("auto") == torch.device("cuda")


@pytest.mark.parametrize(
    ("capabilities", "works", "name", "message"),
    [
        ([], True, "cuda", "device cuda is not there, with 0 GPUs; use auto or cpu"),
        ([(9, 0)], True, "cuda:1", "device cuda:1 is not there, with 1 GPUs; use auto or cpu"),
        (
            [(9, 0)],
            False,
            "cuda",
            "device cuda cannot be used: CUDA initialization: The NVIDIA driver on your system is too "
            "old (found version 12080); use auto or cpu",
        ),
        (
            [(9, 0), (6, 1)],
            True,
            "cuda:1",
            "device cuda:1 cannot be used: its compute capability is 6.1, and this torch is for "
            f"{', '.join(_WHEEL)}; use auto or cpu",
        ),
        ([], True, "mps", "device mps is not there: torch finds no GPU of Apple's; use auto or cpu"),
    ],
)
def test_a_named_device_that_cannot_be_used_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
    capabilities: list[tuple[int, int]],
    works: bool,
    name: str,
    message: str,
) -> None:
    _tell(monkeypatch, *capabilities, works=works)
    with pytest.raises(ConfigError) as caught:
        choose_device(name)
    assert str(caught.value) == message


def test_a_gpu_that_ends_in_an_error_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    _tell(monkeypatch, (9, 0))

    def fail(index: int) -> tuple[int, int]:
        raise RuntimeError("CUDA error: uncorrectable ECC error encountered\nCompile with ...")

    monkeypatch.setattr(torch.cuda, "get_device_capability", fail)
    assert choose_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="device cuda cannot be used: CUDA error: uncorrectable ECC"):
        choose_device("cuda")


def test_nothing_is_asked_of_cuda_where_the_cpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise AssertionError("asked")

    for name in ("device_count", "is_available", "init", "get_device_capability"):
        monkeypatch.setattr(torch.cuda, name, fail)
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12"])
def test_names_of_devices(name: str) -> None:
    assert GanConfig(device=name).device == name


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:01", "cuda:100", "mps:0", "CUDA"])
def test_names_that_torch_does_not_take_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="device"):
        GanConfig.parse({"device": name})
