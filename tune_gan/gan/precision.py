"""The arithmetic of the networks."""

from contextlib import AbstractContextManager

import torch

from tune_gan.config import GanConfig
from tune_gan.metrics.arithmetic import Products, products, set_products


def with_precision(config: GanConfig, device: torch.device) -> GanConfig:
    """Return a configuration whose precision is what ``auto`` stands for on a device.

    On a GPU that has them, TensorFloat-32 for fully connected networks, whose products are too small
    for bf16 to pay for its conversions, and bf16 for convolutional ones; elsewhere single precision.
    """
    if config.precision != "auto":
        return config
    chosen = "fp32"
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        # Each GPU that has bf16 has TensorFloat-32, too.
        chosen = "tf32" if config.architecture == "mlp" else "bf16"
    return config.model_copy(update={"precision": chosen})


def set_precision(config: GanConfig) -> None:
    """Have single precision be what the configuration calls so, in the whole process.

    On a GPU products are then of numbers rounded to TensorFloat-32, 10 bits of mantissa, or of whole
    ones, whatever torch's default; on a CPU they are whole. With bf16, what is outside of it, such as
    penalties, is in TensorFloat-32.
    """
    set_products(_products(config))


def products_of(config: GanConfig, device: torch.device) -> AbstractContextManager[None]:
    """Return a context in which this thread's products are as `set_precision` would have them."""
    return products(_products(config), device)


def _products(config: GanConfig) -> Products:
    return "ieee" if config.precision == "fp32" else "tf32"


def autocast(config: GanConfig, device: torch.device) -> torch.autocast:
    """Return a context in which networks compute in bf16, if the configuration asks for it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


def wants_channels_last(config: GanConfig, device: torch.device) -> bool:
    """Return whether images lie with their channels last, as a GPU's convolutions in bf16 want them."""
    return device.type == "cuda" and config.precision == "bf16" and config.architecture != "mlp"
