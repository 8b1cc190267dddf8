"""What is wrong with a sweep, as far as that is seen before its data is loaded and Ray is there."""

from importlib.util import find_spec
from typing import Any

from tune_gan.errors import ConfigError
from tune_gan.search.sampler import draw
from tune_gan.search.spec import SweepSpec
from tune_gan.search.warm_start import load_warm_start


def check_sweep(spec: SweepSpec) -> list[dict[str, Any]]:
    """See that a sweep can begin.

    Args:
        spec: As `resolve` returns it.

    Returns:
        What it learns from other runs, as `load_warm_start` does.

    Raises:
        ConfigError: if its tracker is not installed, its trials would not have its device, its
            constraints leave nothing of the space, or a run to learn from does not fit.
        RunFolderError: if what it is to learn from is no run folder.
    """
    _require_tracker(spec)
    if spec.confirmation is None:
        # A confirmation has what its run had.
        spec.require_device()
    if spec.search.algorithm != "grid" and spec.confirmation is None:
        draw(spec, 1, [])
    return load_warm_start(spec)


def _require_tracker(spec: SweepSpec) -> None:
    if spec.tracker != "none" and find_spec(spec.tracker) is None:
        raise ConfigError(
            f"tracker {spec.tracker} is not installed; pip install 'tune-gan[{spec.tracker}]', "
            "or leave the tracker out"
        )
