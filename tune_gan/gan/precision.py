"""The arithmetic of the networks."""

import torch

from tune_gan.config import GanConfig


def set_precision(config: GanConfig) -> None:
    """Have single precision be what the configuration calls so, in the whole process.

    On a GPU products are then of numbers rounded to TensorFloat-32, 10 bits of mantissa, or of whole
    ones, whatever torch's default; on a CPU they are whole.
    """
    name = "tf32" if config.precision == "tf32" else "ieee"
    torch.backends.cuda.matmul.fp32_precision = name
    torch.backends.cudnn.conv.fp32_precision = name  # type: ignore[attr-defined]


def autocast(config: GanConfig, device: torch.device) -> torch.autocast:
    """Return a context in which networks compute in bf16, if the configuration asks for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")
