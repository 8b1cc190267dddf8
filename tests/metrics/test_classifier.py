import hashlib
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tune_gan.errors import DataError
from tune_gan.gan.data import load_dataset
from tune_gan.metrics import classifier
from tune_gan.metrics.classifier import (
    SHIPPED,
    accuracy,
    load_shipped,
    recipes,
    train_classifier,
)

LEAST_ACCURACY = {"digits": 0.97, "mnist": 0.99, "fashion_mnist": 0.90}


def _digits() -> tuple[Tensor, Tensor]:
    digits = load_dataset("digits", Path())
    assert digits.train_labels is not None
    return digits.train, digits.train_labels


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "_MIN_STEPS", 30)


@pytest.mark.parametrize("dataset", LEAST_ACCURACY)
def test_what_ships_is_what_was_recorded(dataset: str) -> None:
    recipe = recipes()[dataset]
    content = (SHIPPED / f"{recipe['instrument']}.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() == recipe["sha256"]
    assert len(content) < 500_000
    assert recipe["test_accuracy"] >= LEAST_ACCURACY[dataset]
    assert len(list(SHIPPED.iterdir())) == len(LEAST_ACCURACY) + 1


def test_the_recorded_accuracy_of_digits() -> None:
    _require_recorded_accuracy("digits", "")


def test_the_recorded_accuracy_of_mnist(mnist_root: str) -> None:
    _require_recorded_accuracy("mnist", mnist_root)


def test_the_recorded_accuracy_of_fashion_mnist(fashion_root: str) -> None:
    _require_recorded_accuracy("fashion_mnist", fashion_root)


def _require_recorded_accuracy(dataset: str, root: str) -> None:
    data, known = load_dataset(dataset, Path(root)), recipes()[dataset]
    assert data.held_out_labels is not None
    assert hashlib.sha256(data.held_out.numpy().tobytes()).hexdigest() == known["held_out_sha256"]
    reached = accuracy(load_shipped(dataset), data.held_out, data.held_out_labels)
    assert reached == pytest.approx(known["test_accuracy"], abs=2e-3)


def test_features_are_taken_before_the_relu() -> None:
    features = load_shipped("digits").features(load_dataset("digits", Path()).held_out)
    assert features.shape == (500, 64)
    assert bool((features < 0).any())
    assert bool((features.std(dim=0) > 0).all())


def test_training_gives_what_ships() -> None:
    """Here, and within what arithmetic of another machine may change: 2 of 12,800 weights by 0.08."""
    trained, shipped = train_classifier(*_digits()), load_shipped("digits")
    for name, weights in shipped.state_dict().items():
        near = torch.isclose(trained.state_dict()[name], weights, rtol=0.05, atol=0.05)
        assert near.double().mean() > 0.999, name
    images, _labels = _digits()
    one, other = (network.features(images).flatten() for network in (trained, shipped))
    assert float(torch.corrcoef(torch.stack([one, other]))[0, 1]) > 0.999


@pytest.mark.usefixtures("quick")
def test_training_is_repeatable_and_leaves_random_numbers_and_threads_alone() -> None:
    torch.manual_seed(1)
    torch.set_num_threads(2)
    expected = torch.randn(3)
    torch.manual_seed(1)
    first = train_classifier(*_digits())
    assert torch.equal(torch.randn(3), expected)
    assert torch.get_num_threads() == 2
    second = train_classifier(*_digits())
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_shipped_file_that_was_changed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "SHIPPED", tmp_path)
    load_shipped.cache_clear()
    with pytest.raises(DataError, match=r"digits-lenet-v1\.safetensors cannot be read"):
        load_shipped("digits")
    content = bytearray((SHIPPED / "digits-lenet-v1.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "digits-lenet-v1.safetensors").write_bytes(content)
    with pytest.raises(DataError, match="is not the file that was shipped; install tune-gan again"):
        load_shipped("digits")
    load_shipped.cache_clear()
