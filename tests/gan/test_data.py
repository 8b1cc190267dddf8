import gzip
import struct
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torchvision.datasets import MNIST

from tune_gan.errors import DataError
from tune_gan.gan.data import (
    BatchOrder,
    download,
    load_dataset,
    resize,
    to_saved_form,
    to_unit_range,
)
from tune_gan.places import data_root

FILES = [
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
]


def write_idx_files(folder: Path, packed: bool = True) -> None:
    """Write a small data set in MNIST's form: 40 training and 20 test images."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for name in FILES:
        count = 40 if name.startswith("train") else 20
        if "images" in name:
            header = struct.pack(">IIII", 2051, count, 28, 28)
            body = random.integers(0, 256, (count, 28, 28), dtype=np.uint8).tobytes()
        else:
            header = struct.pack(">II", 2049, count)
            body = (np.arange(count) % 10).astype(np.uint8).tobytes()
        if packed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(header + body))
        else:
            (folder / name).write_bytes(header + body)


@pytest.fixture(autouse=True)
def _forget_data_sets() -> Iterator[None]:
    yield
    load_dataset.cache_clear()


def test_ring_has_its_radius_and_noise() -> None:
    ring = load_dataset("circle", Path())
    assert ring.train.shape == ring.held_out.shape == (10_000, 2)
    radii = ring.held_out.norm(dim=1)
    assert radii.mean().item() == pytest.approx(1.0, abs=0.005)
    assert radii.std().item() == pytest.approx(0.05, abs=0.002)
    quadrants = (ring.held_out > 0).float().mean(dim=0)
    assert quadrants.tolist() == pytest.approx([0.5, 0.5], abs=0.03)


def test_digits_are_scikit_learns_each_once() -> None:
    digits = load_dataset("digits", Path())
    assert digits.train.dtype == torch.uint8
    assert digits.train.shape == (1297, 1, 8, 8)
    assert digits.held_out.shape == (500, 1, 8, 8)
    original = np.round(load_digits().images / 16 * 255).astype(np.uint8).reshape(1797, 64)
    ours = torch.cat([digits.train, digits.held_out]).reshape(1797, 64).numpy()
    assert sorted(map(bytes, ours)) == sorted(map(bytes, original))
    assert digits.held_out_labels is not None
    assert digits.held_out_labels.unique().tolist() == list(range(10))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("mnist", "."),
        ("fashion_mnist", "fashion-mnist"),
        ("fashion_mnist", "FashionMNIST/raw"),
    ],
)
def test_idx_files_are_found_packed_or_not(
    tmp_path: Path, name: str, folder: str, packed: bool
) -> None:
    write_idx_files(tmp_path / folder, packed)
    data = load_dataset(name, tmp_path)
    assert data.train.shape == (40, 1, 28, 28)
    assert data.held_out.shape == (20, 1, 28, 28)
    assert data.train_labels is not None
    assert data.train_labels[:11].tolist() == [*range(10), 0]
    expected = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    assert np.array_equal(data.train.squeeze(1).numpy(), expected)


def test_missing_files_are_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_dataset("mnist", tmp_path)
    message = str(caught.value)
    assert str(tmp_path / "mnist" / "train-images-idx3-ubyte.gz") in message
    assert "--data-root" in message
    assert "--download" in message
    assert "\n" not in message


def test_of_a_part_of_the_files_those_that_are_missing_are_named(tmp_path: Path) -> None:
    write_idx_files(tmp_path / "fashion-mnist")
    for missing in ("train-labels-idx1-ubyte.gz", "t10k-labels-idx1-ubyte.gz"):
        (tmp_path / "fashion-mnist" / missing).unlink()
    with pytest.raises(DataError) as caught:
        load_dataset("fashion_mnist", tmp_path)
    assert str(caught.value).startswith(
        f"fashion_mnist is not under {tmp_path}: {tmp_path}/fashion-mnist lacks "
        "train-labels-idx1-ubyte.gz and t10k-labels-idx1-ubyte.gz; put them there, "
    )


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("keep", [0, 3, 0.5])
def test_truncated_files_are_one_clear_error(
    tmp_path: Path, name: str, packed: bool, keep: float
) -> None:
    write_idx_files(tmp_path / "mnist", packed)
    path = tmp_path / "mnist" / (f"{name}.gz" if packed else name)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else int(keep)])
    with pytest.raises(DataError, match=r"truncated|no images") as caught:
        load_dataset("mnist", tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_real_mnist(mnist_root: str) -> None:
    data = load_dataset("mnist", Path(mnist_root))
    assert data.train.shape == (60_000, 1, 28, 28)
    assert data.held_out_labels is not None
    assert data.held_out_labels[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


def test_real_fashion_mnist(fashion_root: str) -> None:
    data = load_dataset("fashion_mnist", Path(fashion_root))
    assert data.train.shape == (60_000, 1, 28, 28)
    assert data.held_out_labels is not None
    assert data.held_out_labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]


def test_download_uses_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on this machine stands for the mirror; the fetching is torchvision's own."""
    served = tmp_path / "served"
    write_idx_files(served)
    handler = partial(SimpleHTTPRequestHandler, directory=str(served))
    monkeypatch.setattr(handler.func, "log_message", lambda *args: None)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
    monkeypatch.setattr(MNIST, "resources", [(f"{name}.gz", None) for name in FILES])
    download("mnist", tmp_path / "root")
    assert load_dataset("mnist", tmp_path / "root").train.shape == (40, 1, 28, 28)
    fetched = sorted(path.stat().st_mtime_ns for path in (tmp_path / "root").rglob("*"))
    server.shutdown()
    server.server_close()
    with pytest.raises(DataError, match="could not be downloaded"):
        download("mnist", tmp_path / "elsewhere")
    # What is there is not fetched again.
    download("mnist", tmp_path / "root")
    assert sorted(path.stat().st_mtime_ns for path in (tmp_path / "root").rglob("*")) == fetched


def test_data_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert data_root("data").is_absolute()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert data_root(None) == tmp_path / "tune-gan" / "data"
    monkeypatch.setenv("TUNE_GAN_DATA", "/somewhere")
    assert data_root(None) == Path("/somewhere")
    assert data_root("/chosen") == Path("/chosen")


def test_images_pass_to_floats_and_back() -> None:
    levels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    values = to_unit_range(levels)
    assert (values.min().item(), values.max().item()) == (-1.0, 1.0)
    assert torch.equal(to_saved_form(values), levels)
    assert to_saved_form(torch.tensor([[[[-1.7, 1.7]]]])).flatten().tolist() == [0, 255]


def test_resize_changes_images_alone() -> None:
    images = torch.full((3, 1, 8, 8), 100, dtype=torch.uint8)
    assert torch.equal(resize(images, 28), torch.full((3, 1, 28, 28), 100, dtype=torch.uint8))
    points = torch.randn(3, 2)
    assert resize(points, None) is points


def test_batches_are_permutations_of_the_data() -> None:
    batches = BatchOrder(10, 3, seed=1)
    first, second = ([batches.next() for _ in range(3)] for _ in range(2))
    for epoch in (first, second):
        taken = torch.cat(epoch).tolist()
        assert len(set(taken)) == 9
        assert set(taken) <= set(range(10))
    assert torch.cat(first).tolist() != torch.cat(second).tolist()


def test_batches_go_on_from_a_position() -> None:
    batches = BatchOrder(10, 3, seed=1)
    for _ in range(5):
        batches.next()
    other = BatchOrder(10, 3, seed=1)
    other.move_to(batches.epoch, batches.offset)
    for _ in range(5):
        assert torch.equal(batches.next(), other.next())


def test_a_batch_above_the_data_set_is_refused() -> None:
    with pytest.raises(DataError, match="batch_size 11 is above the 10"):
        BatchOrder(10, 11, seed=0)
