"""The FID of papers. The published weights are not to be had here: the network has random ones."""

import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from tune_gan.errors import ConfigError, DataError
from tune_gan.gan.data import load_dataset
from tune_gan.metrics.frechet import FrechetReference
from tune_gan.metrics.inception import inception_distance, inception_weights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state dict of torch-fidelity's network as it is before it loads one, from a fixed seed."""
    path = tmp_path_factory.mktemp("inception") / "weights.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        patch.setattr(torch, "load", lambda *_, **__: OrderedDict())
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        network = FeatureExtractorInceptionV3("random", ["2048"], feature_extractor_weights_path="none")
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def digits() -> Tensor:
    return load_dataset("digits", Path()).train[:60]


def test_it_is_the_frechet_distance_in_the_networks_own_features(weights: Path, digits: Tensor) -> None:
    one, other = digits[:30], digits[30:]
    network = FeatureExtractorInceptionV3("same", ["2048"], feature_extractor_weights_path=str(weights))
    with torch.inference_mode():
        features = [network(part.expand(-1, 3, -1, -1))[0].double() for part in (one, other)]
    expected = FrechetReference(features[1], scale=False).measure(features[0]).value
    assert inception_distance(one, other, weights) == pytest.approx(expected, rel=1e-3)
    assert expected > 0


def test_the_same_images_are_at_no_distance(weights: Path, digits: Tensor) -> None:
    real, noise = digits[:20], torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8)
    nothing = inception_distance(real, real, weights)
    assert abs(nothing) < 1e-3 * inception_distance(noise, real, weights)


def test_without_weights_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(DataError, match=r"is no file of Inception weights.*--weights FILE"):
        inception_weights(None)
    with pytest.raises(DataError, match=r"mine\.pth is no file of Inception weights"):
        inception_weights(tmp_path / "mine.pth")


def test_without_torch_fidelity_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setattr("tune_gan.metrics.inception.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="pip install torch-fidelity"):
        inception_weights(None)


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('executed')",)


@pytest.mark.parametrize("content", ["bomb", "text", "other"])
def test_a_file_of_something_else_is_one_clear_error(
    content: str, tmp_path: Path, digits: Tensor
) -> None:
    path = tmp_path / "weights.pth"
    if content == "text":
        path.write_text("no weights")
    else:
        torch.save({"a": torch.zeros(3)} if content == "other" else {"a": _Bomb()}, path)
    with pytest.raises(DataError, match="holds no state dict of torch-fidelity's Inception") as caught:
        inception_distance(digits[:10], digits[10:20], path)
    assert "\n" not in str(caught.value)
