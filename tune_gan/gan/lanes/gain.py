"""How many lanes pay on a device, measured there."""

import time
from typing import NamedTuple

from tune_gan.config import GanConfig
from tune_gan.gan.lanes.pool import LanePool
from tune_gan.gan.models import choose_device
from tune_gan.gan.shortage import is_shortage
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


class _Pace(NamedTuple):
    """What one training takes of its process's time.

    Attributes:
        iteration_s: Seconds of an iteration, without reports.
        report_s: Seconds of a report.
    """

    iteration_s: float
    report_s: float

    def total_s(self, report_every: int) -> float:
        """Return the seconds of an iteration with its share of a report."""
        return self.iteration_s + self.report_s / report_every


def measure_gain(config: GanConfig) -> Gain:
    """Double the lanes until that gains less than a tenth or memory is short, some iterations each.

    Reports count as often as `config` has them: those of lanes are made one after the other.

    Raises:
        ConfigError: if the device is not there.
        DataError: if the data set cannot be loaded.
    """
    report_every = config.report_every
    lengths = {"num_iterations": (_ROUNDS + 1) * _ITERATIONS, "report_every": _ITERATIONS}
    config = config.model_copy(update=lengths)
    best = Gain(1, 1.0)
    if choose_device(config.device).type == "mps":
        # Lanes want double precision, which it has not.
        return best
    alone = _measure_alone(config)
    if alone is None:
        return best
    lanes = _FEWEST_LANES
    while lanes <= _MOST_LANES:
        try:
            pace = _measure_lanes(config, lanes)
        except (MemoryError, RuntimeError) as error:
            if not is_shortage(error):
                raise
            break
        ratio = alone.total_s(report_every) / pace.total_s(report_every)
        if ratio < _LEAST_GAIN * best.ratio:
            break
        best, lanes = Gain(lanes, ratio), 2 * lanes
    return best


def _measure_alone(config: GanConfig) -> _Pace | None:
    """Return the pace of the ordinary loop, or nothing where lanes cannot pay or nothing is learned."""
    is_on_cpu = choose_device(config.device).type == "cpu"
    paces: list[_Pace] = []
    trained_s, started = 0.0, time.perf_counter()
    for report in iterate(config):
        took, train_s = time.perf_counter() - started, report.metrics["train_time_s"] - trained_s
        paces.append(_Pace(train_s / _ITERATIONS, max(0.0, took - train_s)))
        if len(paces) == 1 and is_on_cpu and paces[0].iteration_s > _BUSY_S:
            return None
        trained_s, started = report.metrics["train_time_s"], time.perf_counter()
    # The first warms up; where a training diverges at once, there is no other.
    return _best(paces[1:]) if paces[1:] else None


def _measure_lanes(config: GanConfig, lanes: int) -> _Pace:
    """Return the pace of one lane, all of them sharing the time."""
    pool = LanePool(config, lanes)
    for seed in range(lanes):
        pool.join(config.model_copy(update={"seed": seed}))
    paces = []
    for _ in range(_ROUNDS + 1):
        started = time.perf_counter()
        while not (due := pool.advance()):
            pass
        trained = time.perf_counter()
        for lane in due:
            pool.report(lane)
        reported = time.perf_counter()
        iteration_s = (trained - started) / (_ITERATIONS * lanes)
        paces.append(_Pace(iteration_s, (reported - trained) / len(due)))
    return _best(paces[1:])


def _best(paces: list[_Pace]) -> _Pace:
    """Return the least of each, which other work on the machine has least of a part in."""
    return _Pace(min(p.iteration_s for p in paces), min(p.report_s for p in paces))
