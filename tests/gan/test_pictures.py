import math

import numpy as np
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
    red, green, _ = np.asarray(plot)[160, 480]
    assert red > 200 > green
    assert plot.getpixel((160, 480)) == (255, 255, 255)


def test_real_points_lie_beneath_generated_ones_in_another_colour() -> None:
    point = torch.tensor([[0.8, 0.8]])
    both = picture(point, real=torch.tensor([[0.8, 0.8], [-0.8, -0.8]]))
    assert both.getpixel((480, 160)) == picture(point).getpixel((480, 160))
    grey = np.asarray(both)[480, 160].tolist()
    assert len(set(grey)) == 1
    assert grey[0] < 200


def test_points_outside_and_points_that_are_no_numbers_are_left_out() -> None:
    points = torch.tensor([[9.0, 9.0], [0.0, 2.0], [math.nan, 0.0], [math.inf, 0.0]])
    assert picture(points).getextrema() == ((255, 255),) * 3


def test_images_keep_their_colours() -> None:
    images = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    images[0, 0], images[1, 1], images[2, 2] = 250, 240, 230
    grid = picture(images)
    quarter = grid.size[0] // 4
    centres = [(quarter, quarter), (3 * quarter, quarter), (quarter, 3 * quarter)]
    assert [grid.getpixel(at) for at in centres] == [(250, 0, 0), (0, 240, 0), (0, 0, 230)]


def test_tensor_for_tensorboard() -> None:
    pixels = picture_tensor(torch.full((1, 1, 8, 8), 200, dtype=torch.uint8))
    assert pixels.dtype == torch.uint8
    assert pixels.shape[0] == 3
    assert pixels[:, 300, 300].tolist() == [200, 200, 200]
