"""Data sets as one tensor, with a fixed split into training and held-out samples."""

import gzip
import math
import struct
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from tune_gan.config import GanConfig
from tune_gan.errors import DataError
from tune_gan.gan.folder import load_classes, load_folder
from tune_gan.gan.seeds import derive_seed
from tune_gan.metrics.imagenet import download_mobilenet
from tune_gan.metrics.resizing import resized
from tune_gan.places import data_root

RING_RADIUS = 1.0
RING_NOISE = 0.05
_RING_SAMPLES = 10_000
_DIGITS_HELD_OUT = 500
_FOLDER_HELD_OUT = (2_000, 10_000)
_SPLIT_SEED = 20_141_206

_IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_TORCHVISION_CLASS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
# What the third byte of a file of unsigned bytes is.
_IDX_BYTES = 8
_LARGEST_IDX = 1_000_000_000
_IDX_FOLDERS = {
    "mnist": ("mnist", "MNIST/raw", "."),
    "fashion_mnist": ("fashion-mnist", "fashion_mnist", "FashionMNIST/raw", "."),
}


@dataclass(frozen=True, eq=False)
class Dataset:
    """Real samples, in memory but for a folder's images, which are mapped from their cache.

    Attributes:
        name: The data set's name in `GanConfig`.
        train: Samples to train on: uint8 images ``(N, channels, H, W)`` or float32 points ``(N, 2)``.
        held_out: Samples that only the score sees, of the same kind.
        train_labels: Classes ``(N,)`` of `train`, int64; none for the ring and for a folder without.
        held_out_labels: Classes of `held_out`.
    """

    name: str
    train: Tensor
    held_out: Tensor
    train_labels: Tensor | None = None
    held_out_labels: Tensor | None = None


@lru_cache(maxsize=2)
def load_dataset(
    name: str, root: Path, image_size: int | None = None, labelled: bool = False
) -> Dataset:
    """Load a data set at its own image size.

    Args:
        name: As in `GanConfig`.
        root: Where the four IDX files lie, or a folder's images; unused for the others.
        image_size: Size at which a folder's images are kept; unused for the others.
        labelled: Whether the subfolders of a folder are classes; unused for the others.

    Raises:
        DataError: if a file is missing, truncated or no IDX file, or a folder holds too few images, too
            many bad ones, or images without a class.
    """
    if name == "circle":
        return _ring()
    if name == "digits":
        return _digits()
    if name == "folder":
        assert image_size is not None
        return _folder(root, image_size, labelled)
    return _idx_dataset(name, root)


def load_data(config: GanConfig) -> Dataset:
    """Load what a configuration trains on, once a process.

    Raises:
        DataError: if it cannot be loaded.
    """
    root = data_root(config.data_root)
    return load_dataset(config.dataset, root, config.image_size, config.labelled)


def resize(samples: Tensor, image_size: int | None) -> Tensor:
    """Return uint8 images ``(N, C, H, W)`` at `image_size`, bilinear; anything else as it is."""
    if image_size is None or samples.dim() == 2 or samples.shape[-1] == image_size:
        return samples
    return torch.cat([resized(chunk, image_size) for chunk in samples.split(4096)])


def to_unit_range(samples: Tensor) -> Tensor:
    """Map uint8 images 0..255 to float32 in [-1, 1]; leave points as they are."""
    return samples.float().div_(127.5).sub_(1.0) if samples.dtype == torch.uint8 else samples


def to_saved_form(samples: Tensor) -> Tensor:
    """Map float images in [-1, 1] to uint8 as a file would hold them; leave points as they are."""
    if samples.dim() == 2:
        return samples.float()
    return samples.float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8)


class BatchOrder:
    """Indices of real samples in batches: a fresh seeded permutation for every epoch.

    The permutation follows from the seed and the epoch alone, so `epoch` and `offset` are all that a
    checkpoint has to hold. A last batch that would be short is left out.

    Raises:
        DataError: if a batch is larger than the data set.
    """

    def __init__(self, num_samples: int, batch_size: int, seed: int) -> None:
        if batch_size > num_samples:
            raise DataError(f"batch_size {batch_size} is above the {num_samples} training samples")
        self._num_samples, self._batch_size, self._seed = num_samples, batch_size, seed
        self.move_to(epoch=0, offset=0)

    def move_to(self, epoch: int, offset: int) -> None:
        """Go to a position that `epoch` and `offset` held before."""
        self.epoch, self.offset = epoch, offset
        source = torch.Generator().manual_seed(derive_seed(self._seed, f"batches of epoch {epoch}"))
        self._permutation = torch.randperm(self._num_samples, generator=source)

    @property
    def epochs_done(self) -> float:
        """Passes over the samples so far."""
        return self.epoch + self.offset / self._num_samples

    def next(self) -> Tensor:
        """Return the next ``(batch_size,)`` indices."""
        if self.offset + self._batch_size > self._num_samples:
            self.move_to(self.epoch + 1, 0)
        start, self.offset = self.offset, self.offset + self._batch_size
        return self._permutation[start : self.offset]


def download(name: str, root: Path) -> None:
    """Fetch what a data set needs that is not here yet.

    The IDX files of MNIST or Fashion-MNIST go into torchvision's folders under `root`, the ImageNet
    weights with which a folder is scored into torchvision's cache.

    Raises:
        DataError: if they cannot be fetched.
    """
    if name == "folder":
        download_mobilenet()
    if name not in _TORCHVISION_CLASS or _idx_folder(name, root):
        return
    # Imported here, since it takes as long as torch, which what is there already need not wait for.
    from torchvision import datasets

    try:
        getattr(datasets, _TORCHVISION_CLASS[name])(root=str(root), download=True)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{name} could not be downloaded into {root} ({reason})") from None


def _ring() -> Dataset:
    """Points on a circle with normal noise on both coordinates (seed document 'GANs with Flax')."""
    source = torch.Generator().manual_seed(_SPLIT_SEED)
    count = 2 * _RING_SAMPLES
    angle = 2 * math.pi * torch.rand(count, generator=source)
    circle = RING_RADIUS * torch.stack([angle.cos(), angle.sin()], dim=1)
    points = circle + RING_NOISE * torch.randn(count, 2, generator=source)
    return Dataset("circle", train=points[:_RING_SAMPLES], held_out=points[_RING_SAMPLES:])


def _digits() -> Dataset:
    """The 1,797 handwritten 8x8 digits that scikit-learn ships; their 17 grey levels become 256."""
    # Imported here, since it takes a second, which other data sets need not wait for.
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).div(16).mul(255).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_SPLIT_SEED))
    held_out, train = order[:_DIGITS_HELD_OUT], order[_DIGITS_HELD_OUT:]
    return Dataset("digits", images[train], images[held_out], labels[train], labels[held_out])


def _folder(root: Path, image_size: int, labelled: bool) -> Dataset:
    """A tenth of a folder's images is held out, at least 2,000 and at most 10,000.

    They come in an order of their own, so the first are as good as any.
    """
    found = load_folder(root, image_size)
    images = found.images
    least, most = _FOLDER_HELD_OUT
    held_out = min(max(len(images) // 10, least), most)
    train, real = images[held_out:], images[:held_out]
    if not labelled:
        return Dataset("folder", train, real)
    _, labels = load_classes(root, found)
    return Dataset("folder", train, real, labels[held_out:], labels[:held_out])


def _idx_dataset(name: str, root: Path) -> Dataset:
    folder = _idx_folder(name, root)
    if folder is None:
        raise DataError(
            f"{name} is not under {root}: {_what_is_missing(name, root)}; "
            "put them there, name their folder with --data-root, or fetch them with --download"
        )
    tensors = [_read_idx(folder, file_name) for file_name in _IDX_FILES]
    train, train_labels, held_out, held_out_labels = tensors
    for images, labels in ((train, train_labels), (held_out, held_out_labels)):
        if len(images) != len(labels):
            raise DataError(f"{folder} holds no images of 28x28 with a label each: no {name}")
    return Dataset(
        name,
        train.unsqueeze(1),
        held_out.unsqueeze(1),
        train_labels.long(),
        held_out_labels.long(),
    )


def _idx_folder(name: str, root: Path) -> Path | None:
    """Return the first of the folders that holds all four files, packed or not."""
    for folder in (root / part for part in _IDX_FOLDERS[name]):
        if all(_idx_file(folder, file_name) for file_name in _IDX_FILES):
            return folder
    return None


def _what_is_missing(name: str, root: Path) -> str:
    for folder in (root / part for part in _IDX_FOLDERS[name]):
        missing = [f"{file_name}.gz" for file_name in _IDX_FILES if not _idx_file(folder, file_name)]
        if len(missing) < len(_IDX_FILES):
            return f"{folder} lacks {' and '.join(missing)}"
    return f"expected {root / _IDX_FOLDERS[name][0] / _IDX_FILES[0]}.gz and its three companions"


def _idx_file(folder: Path, file_name: str) -> Path | None:
    candidates = (folder / file_name, folder / f"{file_name}.gz")
    return next((path for path in candidates if path.is_file()), None)


def _read_idx(folder: Path, file_name: str) -> Tensor:
    """Read a file of bytes in the IDX format of http://yann.lecun.com/exdb/mnist, packed or not."""
    path = _idx_file(folder, file_name)
    assert path is not None
    axes = (28, 28) if "images" in file_name else ()
    remedy = "replace the four files or fetch them with --download"
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            zeros, kind, num_axes = struct.unpack(">HBB", file.read(4))
            shape = struct.unpack(f">{num_axes}I", file.read(4 * num_axes))
            is_fit = (zeros, kind) == (0, _IDX_BYTES) and shape[1:] == axes
            values = file.read(min(math.prod(shape), _LARGEST_IDX) + 1) if is_fit else b""
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DataError(f"{path} is truncated or cannot be read ({error}); {remedy}") from None
    if not values or len(values) != math.prod(shape):
        kept = "images of 28x28" if axes else "labels"
        raise DataError(f"{path} is truncated or no IDX file of {kept}; {remedy}")
    return torch.frombuffer(bytearray(values), dtype=torch.uint8).reshape(shape)
