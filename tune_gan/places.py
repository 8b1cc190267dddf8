"""Where data sets and caches lie on this machine."""

import os
from pathlib import Path

from platformdirs import user_cache_path

from tune_gan.config import DATASETS_WITHOUT_FILES, GanConfig

FEATURES_FILE = "features.safetensors"


def cache_folder() -> Path:
    """Return the user's cache folder of this program."""
    return user_cache_path("tune-gan")


def data_root(configured: str | None) -> Path:
    """Return the folder of the image files: `configured`, ``$TUNE_GAN_DATA`` or in the cache."""
    chosen = configured or os.environ.get("TUNE_GAN_DATA")
    return Path(chosen).absolute() if chosen else cache_folder() / "data"


def with_whole_paths(config: GanConfig) -> GanConfig:
    """Return a configuration that names its places as they are called from anywhere on this machine."""
    changes = {}
    if config.dataset not in DATASETS_WITHOUT_FILES:
        changes["data_root"] = str(data_root(config.data_root))
    if config.weights is not None:
        changes["weights"] = str(Path(config.weights).absolute())
    return config.model_copy(update=changes)


def features_near(folder: Path) -> Path | None:
    """Return the classifier that a run's labelled images are scored with, where the run made its own.

    Args:
        folder: The folder of the run, or of a trial, a checkpoint or a confirmation in it.
    """
    while True:
        if (folder / FEATURES_FILE).is_file():
            return (folder / FEATURES_FILE).absolute()
        if folder.name not in ("checkpoint", "confirm") and not folder.name.startswith("trial_"):
            return None
        folder = folder.absolute().parent
