"""How many lanes pay on a device, measured there."""

import itertools
import time
from typing import NamedTuple

import torch

from tune_gan.config import GanConfig
from tune_gan.gan.lanes.pool import LanePool
from tune_gan.gan.memory import is_shortage
from tune_gan.gan.models import choose_device
from tune_gan.gan.training import iterate

# Two lanes hardly pay for what a lane costs, where sixteen may.
_FEWEST_LANES, _MOST_LANES = 4, 64
# Doubling the lanes pays while it gives so many times more iterations a second.
_LEAST_GAIN = 1.1
_ROUNDS = 3
_ITERATIONS = 10
# A CPU that is busy for so long with one iteration has no time to gain, but arithmetic alone.
_BUSY_S = 0.05


class Gain(NamedTuple):
    """What lanes bring.

    Attributes:
        lanes: The best number, 1 for the ordinary loop.
        ratio: Iterations a second of all together over those of the ordinary loop.
    """

    lanes: int
    ratio: float


def measure_gain(config: GanConfig) -> Gain:
    """Double the lanes until that gains less than a tenth or memory is short, some iterations each.

    Raises:
        ConfigError: if the device is not there.
        DataError: if the data set cannot be loaded.
    """
    lengths = {"num_iterations": (_ROUNDS + 1) * _ITERATIONS, "report_every": _ITERATIONS}
    config = config.model_copy(update=lengths)
    best = Gain(1, 1.0)
    trained = (report.metrics["train_time_s"] for report in iterate(config))
    warmed_up = next(trained)
    if choose_device(config.device).type == "cpu" and warmed_up > _BUSY_S * _ITERATIONS:
        return best
    times = itertools.pairwise([warmed_up, *trained])
    alone = min((after - before for before, after in times), default=0.0) / _ITERATIONS
    if not alone:
        # It diverges at once, and tells nothing.
        return best
    lanes = _FEWEST_LANES
    while lanes <= _MOST_LANES:
        try:
            ratio = alone / _seconds_in_lanes(config, lanes)
        except (MemoryError, RuntimeError) as error:
            if not is_shortage(error):
                raise
            break
        if ratio < _LEAST_GAIN * best.ratio:
            break
        best, lanes = Gain(lanes, ratio), 2 * lanes
    if torch.cuda.is_available():
        # Of a GPU, what is kept for later would be missing where trials are trained.
        torch.cuda.empty_cache()
    return best


def _seconds_in_lanes(config: GanConfig, lanes: int) -> float:
    """Return the seconds of an iteration of one lane, all of them sharing the time."""
    pool = LanePool(config, lanes)
    for seed in range(lanes):
        pool.join(config.model_copy(update={"seed": seed}))
    times = []
    for _ in range(_ROUNDS + 1):
        started = time.perf_counter()
        while not pool.advance():
            pass
        times.append(time.perf_counter() - started)
    return min(times[1:]) / (_ITERATIONS * lanes)
