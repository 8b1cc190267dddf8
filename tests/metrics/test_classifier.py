import threading
from pathlib import Path

import pytest
import torch

from tune_gan.gan.data import load_dataset
from tune_gan.metrics import classifier
from tune_gan.metrics.classifier import LeNet, accuracy, load_classifier


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(classifier, "_MIN_STEPS", 30)
    return tmp_path / "tune-gan" / "features"


def _load() -> LeNet:
    digits = load_dataset("digits", Path())
    assert digits.train_labels is not None
    return load_classifier("digits", digits.train, digits.train_labels)


def _trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []
    train = classifier._train

    def count(network: LeNet, images: torch.Tensor, labels: torch.Tensor) -> None:
        calls.append(threading.current_thread().name)
        train(network, images, labels)

    monkeypatch.setattr(classifier, "_train", count)
    return calls


def test_digits_are_told_apart() -> None:
    digits = load_dataset("digits", Path())
    assert digits.held_out_labels is not None
    network = _load()
    assert accuracy(network, digits.held_out, digits.held_out_labels) >= 0.97
    assert network.features(digits.held_out[:3]).shape == (3, 64)


def test_features_are_taken_before_the_relu() -> None:
    digits = load_dataset("digits", Path())
    features = _load().features(digits.held_out)
    assert bool((features < 0).any())
    assert bool((features.std(dim=0) > 0).all())


def test_training_is_repeatable_and_leaves_random_numbers_and_threads_alone(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _trained(monkeypatch)
    torch.manual_seed(1)
    torch.set_num_threads(2)
    expected = torch.randn(3)
    torch.manual_seed(1)
    first = _load()
    assert torch.equal(torch.randn(3), expected)
    assert torch.get_num_threads() == 2
    for path in cache.glob("*.safetensors"):
        path.unlink()
    second = _load()
    assert len(calls) == 2
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_second_user_waits_for_the_first(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _trained(monkeypatch)
    threads = [threading.Thread(target=_load) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert len(list(cache.glob("*.safetensors"))) == 1


def test_a_damaged_cache_is_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _trained(monkeypatch)
    first = _load()
    (path,) = cache.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:1000])
    second = _load()
    assert len(calls) == 2
    assert torch.equal(first.classify.weight, second.classify.weight)


def test_other_data_under_the_same_name_has_its_own_network(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _trained(monkeypatch)
    digits = load_dataset("digits", Path())
    assert digits.train_labels is not None
    load_classifier("digits", digits.train, digits.train_labels)
    load_classifier("digits", 255 - digits.train, digits.train_labels)
    assert len(calls) == 2


def test_mnist_accuracy(mnist_root: str) -> None:
    mnist = load_dataset("mnist", Path(mnist_root))
    assert mnist.train_labels is not None
    assert mnist.held_out_labels is not None
    network = load_classifier("mnist", mnist.train, mnist.train_labels)
    assert accuracy(network, mnist.held_out, mnist.held_out_labels) >= 0.985
