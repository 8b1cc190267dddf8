import pytest
import torch
from torchvision.transforms.v2 import functional as image_ops

from tune_gan.metrics.resizing import resized, resized_by_products


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


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("before", "after"),
    [(64, 28), (28, 64), (28, 8), (8, 28), (33, 28), (30, 29), (178, 64), (512, 128)],
)
def test_a_gpu_resizes_to_the_same_bytes(before: int, after: int, channels: int) -> None:
    source = torch.Generator().manual_seed(before)
    shape = (8, channels, before, before + 5)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=source)
    # Edges reach farther than noise.
    images[:4] = torch.where(images[:4] > 127, 255, 0).to(torch.uint8)
    assert torch.equal(resized_by_products(images, after), resized(images, after))
