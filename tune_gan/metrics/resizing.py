"""Images at another size."""

from functools import lru_cache

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody uses)
from torch import Tensor

# Of a weight, as torch packs them into 16 bits.
_MOST_BITS, _LARGEST_WEIGHT = 22, 2**15


def resized(images: Tensor, size: int) -> Tensor:
    """Return uint8 images ``(N, C, H, W)`` at `size` by `size`: bilinear, averaging where they shrink.

    As torchvision resizes them, which takes as long to import as torch itself. A GPU gives the same
    bytes as a CPU.
    """
    if images.shape[-2:] == (size, size):
        return images
    if images.device.type == "cuda":
        return resized_by_products(images, size)
    return F.interpolate(images, [size, size], mode="bilinear", align_corners=False, antialias=True)


def resized_by_products(images: Tensor, size: int) -> Tensor:
    """Return what a CPU's `torch.nn.functional.interpolate` does of bytes, by products of matrices.

    Torch resizes bytes on a CPU alone, by weights of 16 bits, rounding after the rows and after the
    columns (aten/src/ATen/native/cpu/UpSampleKernel.cpp). All of these are whole numbers of float64.
    """
    values = images.double()
    for _ in range(2):
        weights = _weights(values.shape[-1], size).to(images.device)
        # The columns of one turn are the rows of the next.
        values = (values @ weights.T + 0.5).floor_().clamp_(0, 255).transpose(-2, -1)
    return values.to(torch.uint8)


@lru_cache(maxsize=8)
def _weights(size_in: int, size: int) -> Tensor:
    """Return the weight of each old pixel in each new one, ``(size, size_in)``, as torch rounds it."""
    scale = size_in / size
    reach = max(scale, 1.0)
    rows: list[tuple[int, list[float]]] = []
    for pixel in range(size):
        centre = scale * (pixel + 0.5)
        first, end = max(int(centre - reach + 0.5), 0), min(int(centre + reach + 0.5), size_in)
        tents = [max(0.0, 1 - abs((old - centre + 0.5) / reach)) for old in range(first, end)]
        rows.append((first, [tent / sum(tents) for tent in tents]))
    largest, bits = max(max(row) for _, row in rows), 0
    while bits < _MOST_BITS and 0.5 + largest * 2 ** (bits + 1) < _LARGEST_WEIGHT:
        bits += 1
    weights = torch.zeros(size, size_in, dtype=torch.float64)
    for pixel, (first, row) in enumerate(rows):
        for place, weight in enumerate(row):
            weights[pixel, first + place] = int(weight * 2**bits + 0.5) / 2**bits
    return weights
