"""Sweeps and training on the real MNIST and Fashion-MNIST."""

from pathlib import Path

import pytest

from tests.integration.commands import tune_gan
from tune_gan import load_results
from tune_gan.gan.training import iterate
from tune_gan.presets import load_preset

pytestmark = pytest.mark.integration


@pytest.mark.parametrize("preset", ["vanilla", "dcgan28"])
def test_a_sweep_on_mnist(preset: str, mnist_root: str, tmp_path: Path) -> None:
    _sweep(preset, "mnist", mnist_root, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["vanilla", "dcgan28"])
def test_a_sweep_on_fashion_mnist(preset: str, fashion_root: str, tmp_path: Path) -> None:
    _sweep(preset, "fashion_mnist", fashion_root, tmp_path)


def _sweep(preset: str, dataset: str, root: str, folder: Path) -> None:
    changes = [f"dataset={dataset}", "num_iterations=4", "report_every=2", "batch_size=32"]
    arguments = [part for change in changes for part in ("--set", change)]
    trials = ["--num-trials", "2", "--data-root", root, "--out", "run"]
    result = tune_gan("sweep", preset, *trials, *arguments, cwd=folder)
    assert result.returncode == 0, result.stderr
    table = load_results(folder / "run")
    assert list(table["trial"]) == [0, 1]
    assert set(table["state"]) <= {"completed", "stopped"}
    assert (folder / "run" / "best_samples.png").is_file()


@pytest.mark.slow
def test_the_default_vanilla_gan_learns_mnist(mnist_root: str) -> None:
    """2,000 iterations, two minutes on one thread: the score falls to a fifth or less."""
    changes = {"data_root": mnist_root, "num_iterations": 2000, "report_every": 100}
    config = load_preset("vanilla").model_copy(update=changes)
    scores = {r.metrics["iteration"]: r.metrics["fid_proxy"] for r in iterate(config)}
    print(f"\nfid_proxy {scores[100]:.1f} at iteration 100, {scores[2000]:.1f} at 2,000")
    assert scores[2000] <= scores[100] / 5
