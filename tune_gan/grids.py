"""The pictures of a training's samples: a file for each report in ``grids/``, and a GIF of them."""

import io
from pathlib import Path

from PIL import Image, ImageDraw

GRIDS = "grids"
_NAME = "iteration_"
_FRAME_MS = 250
_LAST_FRAME_MS = 2000
_CAPTION_HEIGHT = 20
_MOST_FRAMES = 400
_MOST_PIXELS = 4_000_000


def grid_file(folder: Path, iteration: int) -> Path:
    """Return where a training's picture of an iteration is."""
    return folder / GRIDS / f"{_NAME}{iteration:07d}.png"


def grid_files(folder: Path) -> list[Path]:
    """Return the pictures of a training, first to last."""
    files = (folder / GRIDS).glob(f"{_NAME}*.png")
    # Only those that a training wrote, and wrote whole.
    ours = [file for file in files if file.stem.removeprefix(_NAME).isdecimal()]
    return sorted((file for file in ours if file.stat().st_size), key=iteration_of)


def iteration_of(file: Path) -> int:
    """Return the iteration of a picture that `grid_files` returned."""
    return int(file.stem.removeprefix(_NAME))


def save_whole(image: Image.Image, file: Path) -> None:
    """Save a picture as PNG aside and move it into place."""
    aside = file.with_name(f".{file.name}.tmp")
    image.save(aside, format="PNG")
    aside.replace(file)


def training_gif(folder: Path) -> bytes | None:
    """Return an endless GIF of a training, a frame for each picture, or None where there is none.

    The iteration is drawn beneath each, so that none is like another, which the format would merge; the
    last is shown longer.

    Raises:
        OSError: if a picture cannot be read.
    """
    frames = []
    for file in grid_files(folder)[-_MOST_FRAMES:]:
        with Image.open(file, formats=("PNG",)) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise OSError(f"{file} is no picture of samples: it is too large")
            frames.append(_captioned(image, f"iteration {iteration_of(file)}"))
    if not frames:
        return None
    durations = [_FRAME_MS] * (len(frames) - 1) + [_LAST_FRAME_MS]
    content = io.BytesIO()
    if frames[0].mode == "RGB":
        # One palette for all: with one for each, what a frame leaves unchanged would change its colour.
        palette = frames[-1].quantize(256)
        frames = [frame.quantize(palette=palette) for frame in frames]
    frames[0].save(
        content, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0
    )
    return content.getvalue()


def _captioned(image: Image.Image, text: str) -> Image.Image:
    # A GIF holds all grey levels as they are.
    mode = "L" if image.mode in ("1", "L") else "RGB"
    frame = Image.new(mode, (image.width, image.height + _CAPTION_HEIGHT), "white")
    frame.paste(image.convert(mode))
    ImageDraw.Draw(frame).text((6, image.height + 4), text, fill="black")
    return frame
