"""All real samples of a training, where its device can reach them."""

from functools import lru_cache

import torch
from torch import Tensor

from tune_gan.gan.data import Dataset, resize

# Of a GPU's free memory that real samples may take; where they are more they stay on the host.
_MOST_OF_FREE = 0.25


class RealSamples:
    """Real samples on the device, or on the host where they would take too much of a GPU's memory.

    On the device a batch is a tensor of indices, and its samples are gathered there. On the host a
    batch is a tensor of samples on the device, into which they are copied from pinned memory.

    Args:
        samples: Training samples at their size, uint8 or float32 ``(N, ...)``.
        device: Where they are trained on.
    """

    def __init__(self, samples: Tensor, device: torch.device) -> None:
        self._device = device
        self.is_on_host = device.type == "cuda" and _bytes(samples) > _MOST_OF_FREE * _free(device)
        self._samples = samples if self.is_on_host else samples.to(device)

    def batches(self, shape: tuple[int, ...]) -> Tensor:
        """Return a tensor on the device for batches to be put into, ``(*shape)`` indices or samples."""
        if self.is_on_host:
            kind, size = self._samples.dtype, self._samples.shape[1:]
            return torch.zeros(*shape, *size, dtype=kind, device=self._device)
        return torch.zeros(shape, dtype=torch.int64, device=self._device)

    def put(self, indices: Tensor, batch: Tensor) -> None:
        """Put the samples of these indices, a CPU's, into a batch, without waiting for a GPU."""
        copy_to(batch, self._samples[indices] if self.is_on_host else indices)

    def take(self, batch: Tensor) -> Tensor:
        """Return the samples of a batch, on the device."""
        return batch if self.is_on_host else self._samples[batch]


def copy_to(target: Tensor, values: Tensor) -> None:
    """Copy a CPU's values to wherever the target is."""
    # From memory that is pinned, a copy to a GPU does not wait for what is under way there.
    values = values.pin_memory() if target.device.type == "cuda" else values
    target.copy_(values, non_blocking=True)


def _bytes(samples: Tensor) -> int:
    return samples.numel() * samples.element_size()


def _free(device: torch.device) -> int:
    return torch.cuda.mem_get_info(device)[0]


@lru_cache(maxsize=1)
def real_samples(data: Dataset, image_size: int | None, device: torch.device) -> RealSamples:
    """Return the training samples of a data set at a size, resized and uploaded once a process."""
    return RealSamples(resize(data.train, image_size), device)
