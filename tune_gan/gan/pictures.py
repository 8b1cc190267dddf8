"""Pictures of samples: a grid of images, enlarged, or a scatter of points."""

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.v2 import functional as image_ops
from torchvision.utils import make_grid

_SIDE = 640
_PLOT_REACH = 1.6


def picture(samples: Tensor) -> Image.Image:
    """Draw samples in the form they are saved in.

    Args:
        samples: uint8 images ``(N, 1, H, W)``, laid out as a square grid and enlarged, bicubic,
            to some 640 pixels, or points ``(N, 2)``, drawn where they lie within 1.6 of the origin.
    """
    return _scatter(samples) if samples.dim() == 2 else _grid(samples)


def picture_tensor(samples: Tensor) -> Tensor:
    """Return `picture` as uint8 ``(3, H, W)``, as TensorBoard takes it."""
    image = picture(samples).convert("RGB")
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.reshape(image.height, image.width, 3).permute(2, 0, 1)


def _grid(images: Tensor) -> Image.Image:
    per_row = max(1, round(len(images) ** 0.5))
    height, width = images.shape[-2:]
    scale = max(1, round(_SIDE / (per_row * width)))
    larger = image_ops.resize(
        images, [scale * height, scale * width], image_ops.InterpolationMode.BICUBIC
    )
    grid = make_grid(larger, nrow=per_row, padding=4, pad_value=64)[0]
    return Image.fromarray(grid.numpy())


def _scatter(points: Tensor) -> Image.Image:
    image = Image.new("L", (_SIDE, _SIDE), 255)
    draw = ImageDraw.Draw(image)
    for x, y in points.tolist():
        column = (x / _PLOT_REACH + 1) / 2 * _SIDE
        row = (1 - y / _PLOT_REACH) / 2 * _SIDE
        draw.ellipse((column - 1.5, row - 1.5, column + 1.5, row + 1.5), fill=0)
    return image
