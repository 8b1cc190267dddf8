"""Which devices torch can use, and why not the others."""

import logging
import re
import warnings
from collections.abc import Sequence
from functools import cache

import torch

_log = logging.getLogger(__name__)
_ARCHITECTURE = re.compile(r"(sm|compute)_(\d+)(\d)([af]?)")


def find_best_device() -> torch.device:
    """Return the first GPU that torch can use, or else the CPU.

    A GPU that is there and cannot be used is named in the log, once a process.
    """
    problems = _find_gpu_problems()
    if "" in problems:
        index = problems.index("")
        return torch.device("cuda", index) if index else torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    if problems:
        _warn_once(f"training on the CPU: the GPU {problems[0]}")
    return torch.device("cpu")


def find_problem(device: torch.device) -> str:
    """Return why torch cannot use a device, after whose name it stands; empty where it can."""
    if device.type == "cuda":
        problems, index = _find_gpu_problems(), device.index or 0
        return problems[index] if index < len(problems) else f"is not there, with {len(problems)} GPUs"
    if device.type == "mps" and not torch.backends.mps.is_available():
        return "is not there: torch finds no GPU of Apple's"
    return ""


def has_kernels(capability: tuple[int, int], architectures: Sequence[str]) -> bool:
    """Return whether torch has machine code, or PTX to make it from, for a GPU.

    Machine code of ``sm_75`` runs on capability 7.5 and later ones of major version 7; PTX of
    ``compute_75`` on all later ones. ``sm_90a`` and ``compute_90a`` are for 9.0 alone, ``sm_100f``
    for its major version.

    Args:
        capability: Of the GPU, major and minor.
        architectures: What torch was built for, as ``torch.cuda.get_arch_list`` gives it.
    """
    for kind, major_text, minor_text, suffix in _ARCHITECTURE.findall(" ".join(architectures)):
        built_for = (int(major_text), int(minor_text))
        is_same_major = built_for[0] == capability[0]
        if suffix == "a":
            fits = capability == built_for
        else:
            fits = capability >= built_for and (is_same_major or (kind == "compute" and not suffix))
        if fits:
            return True
    return False


def _find_gpu_problems() -> list[str]:
    """Return for each GPU that is seen why torch cannot use it, empty where it can."""
    with warnings.catch_warnings(record=True) as told:
        # What torch says of a driver that is too old or of a card that it was not built for.
        warnings.simplefilter("always")
        # NVML's count, where it answers; `is_available` asks the driver and the runtime.
        count = torch.cuda.device_count()
        if not count:
            return []
        if torch.cuda.is_available():
            return [_find_gpu_problem(index) for index in range(count)]
    reason = _first_sentence(told[0].message) if told else "its driver does not answer"
    return [f"cannot be used: {reason}"] * count


def _find_gpu_problem(index: int) -> str:
    try:
        capability = torch.cuda.get_device_capability(index)
    except (AssertionError, RuntimeError) as error:
        return f"cannot be used: {_first_sentence(error)}"
    architectures = torch.cuda.get_arch_list()
    # Torch for AMD's GPUs names other architectures.
    if torch.version.cuda is None or not architectures or has_kernels(capability, architectures):
        return ""
    return (
        f"cannot be used: its compute capability is {capability[0]}.{capability[1]}, and this torch is "
        f"for {', '.join(architectures)}"
    )


def _first_sentence(message: object) -> str:
    text = " ".join(str(message).split())
    return text.partition(". ")[0].rstrip(".")[:300] or type(message).__name__


@cache
def _warn_once(line: str) -> None:
    _log.warning("%s", line)
