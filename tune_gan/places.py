"""Where data sets and caches lie on this machine."""

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_folder() -> Path:
    """Return the user's cache folder of this program."""
    return user_cache_path("tune-gan")


def data_root(configured: str | None) -> Path:
    """Return the folder of the image files: `configured`, ``$TUNE_GAN_DATA`` or in the cache."""
    chosen = configured or os.environ.get("TUNE_GAN_DATA")
    return Path(chosen).absolute() if chosen else cache_folder() / "data"
