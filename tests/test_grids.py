"""The pictures of a training, and their GIF."""

import io
from pathlib import Path

import pytest
from PIL import Image, ImageSequence

from tune_gan.grids import GRIDS, grid_file, grid_files, save_whole, training_gif


def test_a_gif_has_a_frame_for_each_picture_even_of_the_same_look(tmp_path: Path) -> None:
    (tmp_path / GRIDS).mkdir()
    for number in range(5):
        picture = Image.new("L", (160, 160), 100 if number < 3 else 200)
        save_whole(picture, grid_file(tmp_path, 10 * number))
    (tmp_path / GRIDS / "iteration_last.png").write_bytes(b"not of a training")
    assert [file.stem[-2:] for file in grid_files(tmp_path)] == ["00", "10", "20", "30", "40"]
    content = training_gif(tmp_path)
    assert content is not None
    with Image.open(io.BytesIO(content)) as gif:
        assert len(list(ImageSequence.Iterator(gif))) == 5
        assert gif.info["loop"] == 0
        shown = []
        for number in range(5):
            gif.seek(number)
            shown.append(gif.convert("L").getpixel((80, 80)))
        assert shown == pytest.approx([100, 100, 100, 200, 200], abs=2)


def test_without_pictures_there_is_no_gif(tmp_path: Path) -> None:
    assert training_gif(tmp_path) is None
