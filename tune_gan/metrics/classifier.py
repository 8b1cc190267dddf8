"""The small classifier whose penultimate layer are the features of `fid_proxy` for images.

It is trained once on a data set's labels and kept in the user's cache folder.
"""

import hashlib
import logging
import os
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody uses)
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tune_gan.places import cache_folder

logger = logging.getLogger(__name__)

NUM_FEATURES = 64
_VERSION = "lenet-v1"  # Part of the cache key: raise it with every change to network or training.
_SEED = 1998
_BATCH_SIZE = 128
_MIN_STEPS = 1_500
_LEARNING_RATE = 2e-3


class LeNet(nn.Module):
    """A LeNet-type classifier (LeCun et al. 1998) with a 64-wide penultimate layer.

    Args:
        image_size: Height and width of the grey images.
        num_classes: Number of labels.
    """

    def __init__(self, image_size: int, num_classes: int) -> None:
        super().__init__()
        self.image_size = image_size
        self.convolutions = nn.Sequential(
            nn.Conv2d(1, 16, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(32 * (image_size // 4) ** 2, NUM_FEATURES),
        )
        self.classify = nn.Linear(NUM_FEATURES, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate layer before its ReLU, ``(B, 64)``, of uint8 images.

        Before, because a third of the units never pass a ReLU on held-out images, which makes the
        covariance of the activations singular.
        """
        features: Tensor = self.convolutions(images.float() / 127.5 - 1.0)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(B, num_classes)`` of uint8 images ``(B, 1, H, W)``."""
        logits: Tensor = self.classify(F.relu(self.features(images)))
        return logits


def load_classifier(name: str, images: Tensor, labels: Tensor) -> LeNet:
    """Return the classifier of a data set, from the cache or else trained now (40 s for MNIST).

    The cache key holds the data set's name, a digest of the images and labels, and the version of
    this code. A second process waits for the first rather than training again. What is trained here
    does not depend on torch's global RNG or thread count, and changes neither.

    Args:
        name: The data set's name.
        images: Training images, uint8 ``(N, 1, H, W)``.
        labels: Their classes, int64 ``(N,)``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        network = LeNet(images.shape[-1], int(labels.max()) + 1)
    path = _cache_path(name, images, labels)
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not _read_weights(path, network):
            logger.info("training the feature network of %s, once", name)
            _train(network, images, labels)
            _write_weights(path, network)
    return network.eval().requires_grad_(False)


def accuracy(network: LeNet, images: Tensor, labels: Tensor) -> float:
    """Return the share of images that the classifier labels rightly, 0 to 1."""
    with torch.inference_mode():
        guesses = torch.cat([network(chunk).argmax(dim=1) for chunk in images.split(1000)])
    return float((guesses == labels).float().mean())


def _cache_path(name: str, images: Tensor, labels: Tensor) -> Path:
    digest = hashlib.sha256(images.contiguous().numpy().data)
    digest.update(labels.contiguous().numpy().data)
    file_name = f"{name}-{_VERSION}-{digest.hexdigest()[:16]}.safetensors"
    return cache_folder() / "features" / file_name


def _read_weights(path: Path, network: LeNet) -> bool:
    """Load cached weights; a damaged file counts as absent."""
    try:
        network.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        if path.exists():
            logger.warning("%s is damaged (%s) and is made again", path, error)
        return False
    return True


def _write_weights(path: Path, network: LeNet) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    os.close(descriptor)
    save_file(network.state_dict(), temporary)
    Path(temporary).replace(path)


def _train(network: LeNet, images: Tensor, labels: Tensor) -> None:
    """Train with Adam, the learning rate falling linearly to 0, for 3 epochs or 1,500 steps."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            _descend(network, images, labels)
    finally:
        torch.set_num_threads(num_threads)


def _descend(network: LeNet, images: Tensor, labels: Tensor) -> None:
    batch_size = min(_BATCH_SIZE, len(images))
    steps_per_epoch = len(images) // batch_size
    num_epochs = max(3, -(-_MIN_STEPS // steps_per_epoch))
    optimizer = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.LinearLR(
        optimizer, 1.0, 0.0, total_iters=num_epochs * steps_per_epoch
    )
    network.train()
    for _ in range(num_epochs):
        for indices in torch.randperm(len(images)).split(batch_size)[:steps_per_epoch]:
            loss = F.cross_entropy(network(images[indices]), labels[indices])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
