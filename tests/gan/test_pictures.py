import torch

from tune_gan.gan.pictures import picture, picture_tensor


def test_images_become_an_enlarged_square_grid() -> None:
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    images[3] = 255
    grid = picture(images)
    assert grid.size[0] == grid.size[1] >= 600
    quarter = grid.size[0] // 4
    assert grid.getpixel((quarter, quarter)) == 0
    assert grid.getpixel((3 * quarter, 3 * quarter)) == 255


def test_points_are_drawn_where_they_lie() -> None:
    plot = picture(torch.tensor([[1.6 / 2, 1.6 / 2]]))
    assert plot.getpixel((480, 160)) == 0
    assert plot.getpixel((160, 480)) == 255


def test_points_outside_are_left_out() -> None:
    assert picture(torch.tensor([[9.0, 9.0]])).getextrema() == (255, 255)


def test_tensor_for_tensorboard() -> None:
    pixels = picture_tensor(torch.full((1, 1, 8, 8), 200, dtype=torch.uint8))
    assert pixels.dtype == torch.uint8
    assert pixels.shape[0] == 3
    assert pixels[:, 300, 300].tolist() == [200, 200, 200]
