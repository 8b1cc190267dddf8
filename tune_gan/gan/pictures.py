"""Pictures of samples: a grid of images, enlarged, or a scatter of points."""

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Tensor

_PLOT_REACH = 1.6
_REAL_COLOUR = (170, 170, 170)
_GENERATED_COLOUR = (214, 69, 20)
_GAP_COLOUR = (64, 64, 64)
# The pixels of a point: a square of four without its corners, around where it lies. As many ellipses
# would take twice as long.
_DOT = torch.tensor([(x, y) for x in range(-2, 2) for y in range(-2, 2) if not {x, y} <= {-2, 1}])


def picture(samples: Tensor, real: Tensor | None = None, side: int = 640) -> Image.Image:
    """Draw samples in the form they are saved in.

    Args:
        samples: uint8 images ``(N, C, H, W)``, laid out as a square grid and enlarged, bicubic, or
            points ``(N, 2)``, drawn in red where they lie within 1.6 of the origin.
        real: Real points ``(M, 2)`` to draw in grey beneath; images are drawn alone.
        side: Height and width of the picture in pixels, for a grid roughly.
    """
    samples = samples.cpu()
    return _scatter(samples, real, side) if samples.dim() == 2 else _grid(samples, side)


def picture_tensor(samples: Tensor, real: Tensor | None = None, side: int = 640) -> Tensor:
    """Return `picture` as uint8 ``(3, H, W)``, as TensorBoard takes it."""
    return _as_tensor(picture(samples, real, side))


def read_tensor(file: Path) -> Tensor:
    """Read a picture that was saved here as uint8 ``(3, H, W)``."""
    with Image.open(file, formats=("PNG",)) as image:
        return _as_tensor(image)


def _as_tensor(image: Image.Image) -> Tensor:
    image = image.convert("RGB")
    pixels = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8)
    return pixels.reshape(image.height, image.width, 3).permute(2, 0, 1)


def tiles(images: Tensor, per_row: int, scale: int = 1, gap: int = 1) -> Image.Image:
    """Lay uint8 images ``(N, C, H, W)`` side by side, so many a row, enlarged, bicubic.

    Args:
        images: Grey or in colour.
        per_row: Images a row.
        scale: How many times as large they become.
        gap: Pixels of dark grey between and around them, if there are several.
    """
    num_images, channels, height, width = images.shape
    gap = 0 if num_images == 1 else gap
    height, width = scale * height, scale * width
    num_rows, per_row = -(-num_images // per_row), min(per_row, num_images)
    size = per_row * (width + gap) + gap, num_rows * (height + gap) + gap
    mode, pixels = ("L", images[:, 0]) if channels == 1 else ("RGB", images.permute(0, 2, 3, 1))
    whole = Image.new(mode, size, _GAP_COLOUR[:channels])
    for index, image in enumerate(pixels.numpy()):
        row, column = divmod(index, per_row)
        larger = Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC)
        whole.paste(larger, (gap + column * (width + gap), gap + row * (height + gap)))
    return whole


def _grid(images: Tensor, side: int) -> Image.Image:
    per_row = max(1, round(len(images) ** 0.5))
    scale = max(1, round(side / (per_row * images.shape[-1])))
    return tiles(images, per_row, scale, gap=4)


def _scatter(points: Tensor, real: Tensor | None, side: int) -> Image.Image:
    image = Image.new("RGB", (side, side), "white")
    draw = ImageDraw.Draw(image)
    layers = [] if real is None else [(real, _REAL_COLOUR)]
    for positions, colour in [*layers, (points, _GENERATED_COLOUR)]:
        # A point that is not a number is nowhere; the comparison leaves it out, too.
        inside = positions[(positions.abs() < _PLOT_REACH).all(dim=1)]
        centres = (1 + inside * torch.tensor([1, -1]) / _PLOT_REACH) / 2 * side
        draw.point((centres.round()[:, None] + _DOT).flatten().tolist(), fill=colour)
    if real is not None:
        draw.text((8, 6), "real", fill=_REAL_COLOUR)
        draw.text((8, 20), "generated", fill=_GENERATED_COLOUR)
    return image
