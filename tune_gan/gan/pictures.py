"""Pictures of samples: a grid of images, enlarged, or a scatter of points; and a training's GIF."""

from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torchvision.transforms.v2 import functional as image_ops
from torchvision.utils import make_grid

_PLOT_REACH = 1.6
_REAL_COLOUR = (170, 170, 170)
_GENERATED_COLOUR = (214, 69, 20)
_FRAME_MS = 250
_LAST_FRAME_MS = 2000
_CAPTION_HEIGHT = 20


def picture(samples: Tensor, real: Tensor | None = None, side: int = 640) -> Image.Image:
    """Draw samples in the form they are saved in.

    Args:
        samples: uint8 images ``(N, C, H, W)``, laid out as a square grid and enlarged, bicubic, or
            points ``(N, 2)``, drawn in red where they lie within 1.6 of the origin.
        real: Real points ``(M, 2)`` to draw in grey beneath; images are drawn alone.
        side: Height and width of the picture in pixels, for a grid roughly.
    """
    return _scatter(samples, real, side) if samples.dim() == 2 else _grid(samples, side)


def picture_tensor(samples: Tensor, real: Tensor | None = None, side: int = 640) -> Tensor:
    """Return `picture` as uint8 ``(3, H, W)``, as TensorBoard takes it."""
    image = picture(samples, real, side).convert("RGB")
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.reshape(image.height, image.width, 3).permute(2, 0, 1)


def save_gif(frames: Mapping[str, Path], path: Path) -> None:
    """Save pictures as an endless GIF, a frame each, the last shown longer.

    Args:
        frames: Picture files of one size by their captions, which are drawn beneath them. The captions
            differ, or the format would merge pictures that are the same.
        path: Where to write.
    """
    images = [_captioned(Image.open(file), text).quantize(256) for text, file in frames.items()]
    durations = [_FRAME_MS] * (len(images) - 1) + [_LAST_FRAME_MS]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)


def _captioned(image: Image.Image, text: str) -> Image.Image:
    frame = Image.new("RGB", (image.width, image.height + _CAPTION_HEIGHT), "white")
    frame.paste(image)
    ImageDraw.Draw(frame).text((6, image.height + 4), text, fill="black")
    return frame


def _grid(images: Tensor, side: int) -> Image.Image:
    per_row = max(1, round(len(images) ** 0.5))
    height, width = images.shape[-2:]
    scale = max(1, round(side / (per_row * width)))
    larger = image_ops.resize(
        images, [scale * height, scale * width], image_ops.InterpolationMode.BICUBIC
    )
    grid = make_grid(larger, nrow=per_row, padding=4, pad_value=64)
    is_grey = images.shape[1] == 1
    return Image.fromarray((grid[0] if is_grey else grid.permute(1, 2, 0)).numpy())


def _scatter(points: Tensor, real: Tensor | None, side: int) -> Image.Image:
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    layers = [] if real is None else [(real, _REAL_COLOUR)]
    for positions, colour in [*layers, (points, _GENERATED_COLOUR)]:
        # A point that is not a number is nowhere; the comparison leaves it out, too.
        inside = positions[(positions.abs() < _PLOT_REACH).all(dim=1)]
        for x, y in inside.tolist():
            column = (x / _PLOT_REACH + 1) / 2 * side
            row = (1 - y / _PLOT_REACH) / 2 * side
            draw.ellipse((column - 1.5, row - 1.5, column + 1.5, row + 1.5), fill=colour)
    if real is not None:
        draw.text((8, 6), "real", fill=_REAL_COLOUR)
        draw.text((8, 20), "generated", fill=_GENERATED_COLOUR)
    return image
