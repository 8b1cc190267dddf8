"""Features of an ImageNet network, for images that have no labels to train a classifier on."""

import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody uses)
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from tune_gan.errors import DataError
from tune_gan.metrics.arithmetic import products

INPUT_SIZE = 128
NUM_FEATURES = 1280
# The first of torchvision's two sets of weights, because it is the one that lies on many machines.
_URL = "https://download.pytorch.org/models/mobilenet_v2-b0353104.pth"
_MEAN = (0.485, 0.456, 0.406)
_DEVIATION = (0.229, 0.224, 0.225)
# Small enough for a processor's cache: 100 at a time take twice as long. A GPU wants more at a time.
_CHUNK, _CHUNK_ON_GPU = 20, 250


def load_mobilenet(weights: Path | None) -> nn.Module:
    """Return torchvision's MobileNetV2 (Sandler et al. 2018), frozen, without fetching anything.

    torch's global RNG is left as it is, and nothing in the file of weights is executed.

    Args:
        weights: A state dict of it as ``.pth`` or ``.safetensors``; without one, the file of
            torchvision's own cache.

    Raises:
        DataError: if the file is missing or holds no such state dict.
    """
    path = weights or _cached_weights()
    if not path.is_file():
        raise DataError(
            f"{path} is no file of MobileNetV2 weights, which score images without labels; "
            "name one with --weights FILE, or fetch it with --download"
        )
    # Imported here, since it takes as long as torch, which other data sets need not wait for.
    from torchvision.models import mobilenet_v2

    with torch.random.fork_rng(devices=[]):
        network: nn.Module = mobilenet_v2()
    try:
        network.load_state_dict(read_state(path))
    # The readers fail in many ways on a file that is something else, none of them documented, and what
    # they say of it may span a page and advise to execute it.
    except Exception as error:
        reason = f" ({error.strerror})" if isinstance(error, OSError) and error.strerror else ""
        raise DataError(
            f"{path} holds no state dict of torchvision's mobilenet_v2{reason}; "
            "name another with --weights FILE, or fetch it with --download"
        ) from None
    if not all(bool(values.isfinite().all()) for values in network.state_dict().values()):
        raise DataError(f"{path} holds weights that are not finite; name another with --weights FILE")
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def download_mobilenet() -> None:
    """Fetch the weights (14 MB) into torchvision's cache, unless they are there.

    Raises:
        DataError: if they cannot be fetched or are not what torchvision published.
    """
    try:
        torch.hub.load_state_dict_from_url(
            _URL, map_location="cpu", progress=sys.stderr.isatty(), check_hash=True, weights_only=True
        )
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{_URL} could not be fetched into {_cached_weights().parent} ({reason})"
        ) from None


def imagenet_features(network: nn.Module, input_size: int = INPUT_SIZE) -> Callable[[Tensor], Tensor]:
    """Return the features of uint8 images ``(N, 3, H, W)``: ``(N, 1280)`` float32, after pooling.

    Images are to be where the network is.

    Images are resized first, by default to 128x128. On one core 2,000 images of 64x64 take some 12 s.

    Args:
        network: What `load_mobilenet` returns.
        input_size: Height and width that images are resized to.
    """
    # Each batch normalisation as a part of the convolution before it: 1.6 times as fast.
    convolutions = fuse(network.get_submodule("features"))
    device = next(network.parameters()).device
    mean, deviation = (torch.tensor(v, device=device).view(3, 1, 1) for v in (_MEAN, _DEVIATION))
    size_of_chunk = _CHUNK if device.type == "cpu" else _CHUNK_ON_GPU

    def features(images: Tensor) -> Tensor:
        chunks = []
        with torch.inference_mode(), products("ieee", device):
            for chunk in images.split(size_of_chunk):
                values = chunk.float().div(255).contiguous(memory_format=torch.channels_last)
                if values.shape[-2:] != (input_size, input_size):
                    size = [input_size, input_size]
                    values = F.interpolate(values, size, mode="bilinear", antialias=True)
                chunks.append(convolutions((values - mean) / deviation).mean(dim=(2, 3)))
        return torch.cat(chunks)

    return features


def _cached_weights() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints" / _URL.rpartition("/")[2]


def read_state(path: Path) -> dict[str, Tensor]:
    """Return the state dict in a ``.pth`` or ``.safetensors`` file, executing nothing in it.

    Raises:
        Exception: many kinds, none of them documented, where the file is something else.
    """
    if path.suffix == ".safetensors":
        return load_file(path)
    # torch warns of a pickle of another making before it refuses it.
    with warnings.catch_warnings(action="ignore"):
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return state
