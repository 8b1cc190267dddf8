"""How a shortage of memory shows itself, and a GPU that is lost."""

import re

import torch

_SHORTAGE = re.compile(
    "not enough memory|out of memory|allocate memory|low on memory|cudaErrorMemoryAllocation|"
    # Where a library of CUDA's is the first to find none left.
    "CU(BLAS|DNN|SOLVER|SPARSE|FFT|RAND)_[A-Z_]*ALLOC[A-Z_]*FAILED|"
    "CU(BLAS|DNN|SOLVER|SPARSE)_STATUS_NOT_INITIALIZED"
)
_DEVICE_WORDS = re.compile("CUDA|CUBLAS|CUDNN|CUSOLVER|CUSPARSE|CUFFT|CURAND|cudaError|MPS backend")


def is_shortage(error: BaseException | None) -> bool:
    """Return whether an error says that memory was short.

    Of a CPU's memory torch has no other way to, and CUDA's libraries raise no kind of their own.
    """
    is_told = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return is_told or _SHORTAGE.search(str(error)) is not None


def is_of_device(error: BaseException) -> bool:
    """Return whether an error that says that memory was short says it of a GPU's."""
    return _DEVICE_WORDS.search(str(error)) is not None


def is_broken(error: BaseException) -> bool:
    """Return whether an error leaves the process without a GPU: every later call would fail, too.

    An illegal access or a fault of the device, in CUDA's words a sticky error.
    """
    is_cuda = isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)
    return is_cuda and not is_shortage(error)
