import pytest
import torch
from torchvision.transforms.v2 import functional as image_ops

from tune_gan.metrics.resizing import resized


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("before", "after"), [(8, 28), (28, 8), (28, 64), (100, 64)])
def test_images_are_resized_as_torchvision_does(channels: int, before: int, after: int) -> None:
    images = torch.randint(0, 256, (5, channels, before, before), dtype=torch.uint8)
    ours = resized(images, after)
    assert ours.dtype == torch.uint8
    assert torch.equal(ours, image_ops.resize(images, [after, after]))


def test_what_has_the_size_is_as_it_was() -> None:
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert resized(images, 8) is images
