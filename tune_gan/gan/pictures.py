"""Pictures of samples: a grid of images, enlarged, or a scatter of points."""

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.utils import make_grid

_SMALLEST_SIDE = 640
_PLOT_SIDE = 640
_PLOT_REACH = 1.6


def picture(samples: Tensor) -> Image.Image:
    """Draw samples in the form they are saved in.

    Args:
        samples: uint8 images ``(N, 1, H, W)``, laid out as a square grid and enlarged pixel by pixel
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
    grid = make_grid(images, nrow=per_row, padding=1, pad_value=64)[0]
    image = Image.fromarray(grid.numpy(), mode=None)
    scale = max(1, -(-_SMALLEST_SIDE // max(image.size)))
    return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)


def _scatter(points: Tensor) -> Image.Image:
    image = Image.new("L", (_PLOT_SIDE, _PLOT_SIDE), 255)
    draw = ImageDraw.Draw(image)
    for x, y in points.tolist():
        column = (x / _PLOT_REACH + 1) / 2 * _PLOT_SIDE
        row = (1 - y / _PLOT_REACH) / 2 * _PLOT_SIDE
        draw.ellipse((column - 1.5, row - 1.5, column + 1.5, row + 1.5), fill=0)
    return image
