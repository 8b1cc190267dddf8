"""How a shortage of memory shows itself."""

import torch

# Of a CPU's torch has no error of its own. CUDA's libraries say it in their own ways, and where others
# share the GPU they are often the first.
_WORDS = (
    "not enough memory",
    "out of memory",
    "allocate memory",
    "low on memory",
    "cudaErrorMemoryAllocation",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "ALLOCATION_FAILED",
)


def is_shortage(error: BaseException | None) -> bool:
    """Return whether an error says that memory was short, of the host or of a GPU."""
    is_told = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return is_told or any(words in str(error) for words in _WORDS)


def is_broken(error: BaseException) -> bool:
    """Return whether an error leaves the process without a GPU: every later call would fail, too.

    An illegal access or a fault of the device, in CUDA's words a sticky error.
    """
    is_cuda = isinstance(error, torch.AcceleratorError) or "CUDA error" in str(error)
    return is_cuda and not is_shortage(error)
