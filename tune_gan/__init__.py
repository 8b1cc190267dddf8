"""Hyperparameter search for generative adversarial networks, on Ray Tune.

The public names are imported on first use, so that ``import tune_gan`` and ``tune-gan --help``
load neither torch, ray nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tune_gan.config import GanConfig
    from tune_gan.gan.run_folder import train
    from tune_gan.presets import load_preset
    from tune_gan.results.load import load_results
    from tune_gan.results.losses import load_losses
    from tune_gan.search.spec import SweepSpec
    from tune_gan.search.tuner import run_sweep

__version__ = "0.2.0"

__all__ = [
    "GanConfig",
    "SweepSpec",
    "load_losses",
    "load_preset",
    "load_results",
    "run_sweep",
    "train",
]

_HOME_OF_NAME = {
    "GanConfig": "tune_gan.config",
    "SweepSpec": "tune_gan.search.spec",
    "load_losses": "tune_gan.results.losses",
    "load_preset": "tune_gan.presets",
    "load_results": "tune_gan.results.load",
    "run_sweep": "tune_gan.search.tuner",
    "train": "tune_gan.gan.run_folder",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF_NAME:
        raise AttributeError(f"module 'tune_gan' has no attribute {name!r}")
    return getattr(import_module(_HOME_OF_NAME[name]), name)
