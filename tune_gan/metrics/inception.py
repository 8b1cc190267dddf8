"""The Fréchet inception distance of papers, by torch-fidelity."""

import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tune_gan.errors import ConfigError, DataError
from tune_gan.metrics.imagenet import read_state

# As torch-fidelity and torchmetrics name it, in the cache of either.
_FILE_NAME = "weights-inception-2015-12-05-6726825d.pth"
_BATCH_SIZE = 50


class _Images(Dataset[Tensor]):
    """Images as torch-fidelity takes them: uint8 ``(3, H, W)``, grey ones tiled."""

    def __init__(self, images: Tensor) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Tensor:
        image = self._images[index]
        return image.expand(3, -1, -1) if len(image) == 1 else image


def inception_weights(named: Path | None) -> Path:
    """Return the file with the weights of the Inception network of the FID, fetching nothing.

    Args:
        named: The file; by default that in torch's cache, where torch-fidelity keeps it.

    Raises:
        ConfigError: if torch-fidelity is not installed.
        DataError: if there is no such file.
    """
    if find_spec("torch_fidelity") is None:
        raise ConfigError("fid needs torch-fidelity: pip install torch-fidelity, or leave fid out")
    path = named or Path(torch.hub.get_dir()) / "checkpoints" / _FILE_NAME
    if not path.is_file():
        raise DataError(
            f"{path} is no file of Inception weights, in whose features fid is measured; name one with "
            f"--weights FILE: torch-fidelity's release v0.2.0 has it as {_FILE_NAME}"
        )
    return path


def inception_distance(generated: Tensor, real: Tensor, weights: Path) -> float:
    """Return the FID (Heusel et al. 2017, https://arxiv.org/abs/1706.08500) of generated images.

    In the 2,048 pooled features of the network that the paper took, on images resized to 299x299 as
    TensorFlow did it. On one CPU core it takes about a tenth of a second an image.

    Args:
        generated: uint8 ``(N, C, H, W)``, grey or colour.
        real: uint8 ``(M, C, H, W)``.
        weights: The network's weights, as torch-fidelity or torchmetrics publish them.

    Raises:
        DataError: if the file holds no such weights.
    """
    from torch_fidelity import calculate_metrics

    # torch-fidelity would execute what a stranger put into the file; what is written here is ours.
    with tempfile.TemporaryDirectory(prefix="tune-gan-") as folder:
        own = Path(folder) / _FILE_NAME
        # The reader fails in many undocumented ways on a file that is something else.
        try:
            state = read_state(weights)
        except Exception:
            raise _no_weights(weights) from None
        if not isinstance(state, dict):
            raise _no_weights(weights)
        torch.save(state, own)
        try:
            values = calculate_metrics(
                input1=_Images(generated),
                input2=_Images(real),
                fid=True,
                batch_size=_BATCH_SIZE,
                cuda=torch.cuda.is_available(),
                cache=False,
                feature_extractor_weights_path=str(own),
                verbose=sys.stderr.isatty(),
            )
        except RuntimeError as error:
            if "state_dict" not in str(error):
                raise
            raise _no_weights(weights) from None
    return float(values["frechet_inception_distance"])


def _no_weights(path: Path) -> DataError:
    return DataError(
        f"{path} holds no state dict of torch-fidelity's Inception network; "
        "name one with --weights FILE"
    )
