"""Images at another size."""

import torch.nn.functional as F  # noqa: N812 (the name everybody uses)
from torch import Tensor


def resized(images: Tensor, size: int) -> Tensor:
    """Return uint8 images ``(N, C, H, W)`` at `size` by `size`: bilinear, averaging where they shrink.

    As torchvision resizes them, which takes as long to import as torch itself.
    """
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, [size, size], mode="bilinear", align_corners=False, antialias=True)
