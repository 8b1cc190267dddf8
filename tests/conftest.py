"""What several test modules share."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tune_gan.config import GanConfig

TINY_RING = GanConfig(
    dataset="circle",
    gen_hidden=(16,),
    disc_hidden=(16,),
    latent_dim=2,
    batch_size=32,
    num_iterations=6,
    report_every=2,
)

# Of a ring whose numbers in lanes are those of the ordinary loop for long, with rules that end nothing.
LANE_SWEEP: dict[str, Any] = {
    "name": "lanes",
    "gan": {
        "preset": "circle",
        "gen_hidden": [16, 16],
        "disc_hidden": [16, 16],
        "batch_size": 32,
        "disc_steps": 1,
        "num_iterations": 200,
        "report_every": 50,
        "optimizer": "sgd",
    },
    "space": {"gen_lr": {"log_uniform": [1e-4, 1e-1]}},
    "search": {"algorithm": "random", "num_trials": 4},
    "scheduler": {"name": "none"},
    "health": {"min_coverage": 0.0, "min_spread": 0.0, "max_score_ratio": None},
    "resources": {"lanes": 2},
}

# A busy machine is no counterexample.
settings.register_profile("no-deadline", deadline=None)
settings.load_profile("no-deadline")

_DATA_ROOT = os.environ.get("TUNE_GAN_DATA")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the feature networks of the tests in a cache of their own, one for all test processes."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    patch = pytest.MonkeyPatch()
    patch.setenv("XDG_CACHE_HOME", str(shared / "cache"))
    # Tests see the machine's data through `mnist_root` and `fashion_root` alone.
    patch.delenv("TUNE_GAN_DATA", raising=False)
    yield
    patch.undo()


@pytest.fixture
def tiny_ring() -> GanConfig:
    """A ring GAN that trains in milliseconds."""
    return TINY_RING


@pytest.fixture(scope="session")
def mnist_root() -> str:
    """The folder with the real MNIST files."""
    return _root_of("mnist")


@pytest.fixture(scope="session")
def fashion_root() -> str:
    """The folder with the real Fashion-MNIST files."""
    return _root_of("fashion-mnist")


def _root_of(folder: str) -> str:
    if _DATA_ROOT is None:
        pytest.skip(f"TUNE_GAN_DATA is not set; it names the folder that holds {folder}/")
    if not (Path(_DATA_ROOT) / folder / "train-images-idx3-ubyte.gz").is_file():
        pytest.skip(f"{_DATA_ROOT}/{folder} does not hold the IDX files")
    return str(Path(_DATA_ROOT).absolute())
