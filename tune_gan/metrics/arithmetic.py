"""How a GPU multiplies in single precision: a setting of the whole process."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch

Products = Literal["ieee", "tf32"]

# For as long as a thread launches what it wants to be computed in its own way.
_lock = threading.RLock()


def set_products(name: Products) -> None:
    """Have products of matrices, convolutions and recurrent networks be whole, or of TensorFloat-32.

    By torch's older switches: where some were set by the newer ones alone, whoever reads the older ones
    in this process gets an error.
    """
    torch.backends.cuda.matmul.allow_tf32 = name == "tf32"
    torch.backends.cudnn.allow_tf32 = name == "tf32"


@contextmanager
def products(name: Products, device: torch.device) -> Iterator[None]:
    """Have products be computed in one way while this thread launches them; other threads wait.

    A kernel is chosen when it is launched, so what other threads have launched already stays as it is.
    Nothing is done but on a GPU: elsewhere single precision is single precision.
    """
    if device.type != "cuda":
        yield
        return
    with _lock:
        before: Products = "tf32" if torch.backends.cuda.matmul.allow_tf32 else "ieee"
        set_products(name)
        try:
            yield
        finally:
            set_products(before)
