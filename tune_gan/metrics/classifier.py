"""The small classifier whose penultimate layer are the features of `fid_proxy` for labelled images."""

import hashlib
import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody uses)
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from tune_gan.config import IMAGE_SIZE_OF_DATASET
from tune_gan.errors import DataError
from tune_gan.metrics.arithmetic import products
from tune_gan.metrics.resizing import resized

NUM_FEATURES = 64
SHIPPED = Path(__file__).parent / "weights"
RECIPES_FILE = SHIPPED / "recipes.json"
_VERSION = "lenet-v1"  # Part of every name: raise it with every change to network or training.
_LARGEST_SIZE = 64
_SEED = 1998
_BATCH_SIZE = 128
_MIN_EPOCHS = 3
_MIN_STEPS = 1_500
_LEARNING_RATE = 2e-3
_CHUNK = 500


class _MaxPool(nn.Module):
    """The largest of each 2x2 pixels, as `torch.nn.MaxPool2d`; on a CPU eight times as fast.

    That has to remember where each came from, which only training wants to know.
    """

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(B, C, H // 2, W // 2)`` of ``(B, C, H, W)``."""
        if torch.is_grad_enabled():
            return F.max_pool2d(images, 2)
        height, width = (size // 2 * 2 for size in images.shape[-2:])
        rows = torch.maximum(images[..., 0:height:2, :width], images[..., 1:height:2, :width])
        return torch.maximum(rows[..., 0::2], rows[..., 1::2])


class LeNet(nn.Module):
    """A LeNet-type classifier (LeCun et al. 1998) with a 64-wide penultimate layer.

    Args:
        image_size: Height and width of the images.
        num_classes: Number of labels.
        channels: 1 for grey images, 3 for colour.
    """

    def __init__(self, image_size: int, num_classes: int, channels: int = 1) -> None:
        super().__init__()
        self.image_size = image_size
        self.convolutions = nn.Sequential(
            nn.Conv2d(channels, 16, 5, padding=2),
            nn.ReLU(),
            _MaxPool(),
            nn.Conv2d(16, 32, 5, padding=2),
            nn.ReLU(),
            _MaxPool(),
            nn.Flatten(),
            nn.Linear(32 * (image_size // 4) ** 2, NUM_FEATURES),
        )
        self.classify = nn.Linear(NUM_FEATURES, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(B, num_classes)`` of uint8 images ``(B, C, H, W)``."""
        return self.logits(self._penultimate(images))

    def _penultimate(self, images: Tensor) -> Tensor:
        values: Tensor = self.convolutions(images.float() / 127.5 - 1.0)
        return values

    def logits(self, features: Tensor) -> Tensor:
        """Return logits ``(B, num_classes)`` of features ``(B, 64)``."""
        logits: Tensor = self.classify(F.relu(features))
        return logits

    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate layer before its ReLU, ``(N, 64)``, of uint8 images of any size.

        Before, because a third of the units never pass a ReLU on held-out images, which makes the
        covariance of the activations singular.
        """
        size = self.image_size
        chunks = []
        with torch.inference_mode(), products("ieee", images.device):
            for chunk in images.split(_CHUNK):
                chunks.append(self._penultimate(resized(chunk, size)))
        return torch.cat(chunks)

    def classes(self, features: Tensor) -> Tensor:
        """Return the likeliest class of each of the features ``(N, 64)``, int64 ``(N,)``."""
        with torch.inference_mode(), products("ieee", features.device):
            return self.logits(features).argmax(dim=1)


def recipes() -> dict[str, dict[str, Any]]:
    """Return what is known of the classifiers that ship, by data set.

    Each has ``instrument``, its name and that of its file; ``sha256`` of the file; ``test_accuracy``
    on the held-out images; ``held_out_sha256`` of these; and ``recipe``, how it was trained.
    """
    loaded: dict[str, dict[str, Any]] = json.loads(RECIPES_FILE.read_text(encoding="utf-8"))
    return loaded


@lru_cache(maxsize=4)
def load_shipped(dataset: str) -> LeNet:
    """Return the classifier that ships for a data set.

    Raises:
        DataError: if its file is not the one that was shipped.
    """
    recipe = recipes()[dataset]
    path = SHIPPED / f"{recipe['instrument']}.safetensors"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); install tune-gan again") from None
    if hashlib.sha256(content).hexdigest() != recipe["sha256"]:
        raise DataError(f"{path} is not the file that was shipped; install tune-gan again")
    images = IMAGE_SIZE_OF_DATASET[dataset]
    assert images is not None
    weights = load(content)
    with torch.random.fork_rng(devices=[]):
        network = LeNet(images, len(weights["classify.weight"]))
    network.load_state_dict(weights)
    return network.eval().requires_grad_(False)


@lru_cache(maxsize=4)
def load_classifier(path: Path) -> LeNet:
    """Return the classifier that `to_bytes` made the content of a file of.

    Nothing in the file is executed.

    Raises:
        DataError: if there is no such file, or it holds no classifier.
    """
    try:
        weights = load(path.read_bytes())
        first, last = weights["convolutions.0.weight"], weights["classify.weight"]
        size = 4 * math.isqrt(weights["convolutions.7.weight"].shape[1] // 32)
        with torch.random.fork_rng(devices=[]):
            network = LeNet(size, len(last), first.shape[1])
        network.load_state_dict(weights)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror})") from None
    except (SafetensorError, KeyError, RuntimeError, IndexError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:100]
        raise DataError(f"{path} holds no classifier of this program ({reason})") from None
    if not all(bool(values.isfinite().all()) for values in weights.values()):
        raise DataError(f"{path} holds weights that are not finite")
    return network.eval().requires_grad_(False)


def to_bytes(network: LeNet, about: dict[str, Any] | None = None) -> bytes:
    """Return a classifier as the content of a safetensors file, with what is known of it beside."""
    return save(network.state_dict(), {"about": json.dumps(about)} if about else None)


def digest_of(content: bytes | Tensor) -> str:
    """Return the sha256 of a file's content or of a tensor's values, in hexadecimal digits."""
    return hashlib.sha256(
        content if isinstance(content, bytes) else content.contiguous().numpy().data
    ).hexdigest()


def instrument_name(prefix: str) -> str:
    """Return the name of a classifier's features, e.g. ``mnist-lenet-v1``."""
    return f"{prefix}-{_VERSION}"


def train_classifier(images: Tensor, labels: Tensor) -> LeNet:
    """Train a classifier: Adam, its learning rate falling linearly to 0, 3 epochs or 1,500 steps.

    Always the same on one machine: it depends on neither torch's global random numbers nor its thread
    count, and changes neither.

    Args:
        images: Training images, uint8 ``(N, C, H, W)``; those above 64x64 are made smaller.
        labels: Their classes, int64 ``(N,)``.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    # A multiple of 4, so that the weights tell the size.
    size = min(images.shape[-1], _LARGEST_SIZE) // 4 * 4
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            network = LeNet(size, int(labels.max()) + 1, images.shape[1])
            torch.manual_seed(_SEED)
            _descend(network, images, labels)
    finally:
        torch.set_num_threads(num_threads)
    return network.eval().requires_grad_(False)


def recipe() -> dict[str, Any]:
    """Return how `train_classifier` trains, to be kept beside its result."""
    return {
        "network": "LeNet: 16 and 32 channels of 5x5, 64 features",
        "optimizer": "Adam",
        "learning_rate": f"{_LEARNING_RATE:g}, falling linearly to 0",
        "batch_size": _BATCH_SIZE,
        "epochs": f"{_MIN_EPOCHS}, or as many as make {_MIN_STEPS} steps",
        "seed": _SEED,
    }


def accuracy(network: LeNet, images: Tensor, labels: Tensor) -> float:
    """Return the share of images that the classifier labels rightly, 0 to 1."""
    return float((network.classes(network.features(images)) == labels).double().mean())


def _descend(network: LeNet, images: Tensor, labels: Tensor) -> None:
    batch_size = min(_BATCH_SIZE, len(images))
    steps_per_epoch = len(images) // batch_size
    num_epochs = max(_MIN_EPOCHS, -(-_MIN_STEPS // steps_per_epoch))
    optimizer = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(
        optimizer, 1.0, 0.0, total_iters=num_epochs * steps_per_epoch
    )
    network.train()
    for _ in range(num_epochs):
        for indices in torch.randperm(len(images)).split(batch_size)[:steps_per_epoch]:
            batch = resized(images[indices], network.image_size)
            loss = F.cross_entropy(network(batch), labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
