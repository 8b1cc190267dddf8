"""The processes that train a sweep's trials in lanes, and how many lanes each has."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import ray
from ray import tune
from ray.exceptions import GetTimeoutError, RayError, RayTaskError
from ray.tune.experiment import Trial
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tune_gan.errors import ConfigError
from tune_gan.gan.lanes.gain import Gain, measure_gain
from tune_gan.gan.lanes.networks import has_lanes
from tune_gan.gan.lanes.pool import LANE_FIELDS
from tune_gan.search.cluster import living_nodes, may_grow, places_on
from tune_gan.search.lane_actor import LaneActor
from tune_gan.search.spec import RAY_PARTS, SweepSpec

# Calls at a time of each lane, and some of those that ask for one.
_CALLS_OF_A_LANE = 3
_MORE_CALLS = 64
# A process that is being started again answers nothing for a while.
_LONGEST_ANSWER_S = 2.0
# Another's work may take all of a cluster.
_LONGEST_MEASUREMENT_S = 600


class Lanes(NamedTuple):
    """How many lanes a sweep has.

    Attributes:
        of_a_process: Trials that one process trains, 1 where trials are trained one by one.
        note: What to tell of it, empty where nobody asked.
        processes: How many train at the most, where there are lanes.
        process_bytes: What to reserve on a node for each, 0 where memory is not short.
    """

    of_a_process: int
    note: str = ""
    processes: int = 0
    process_bytes: int = 0


def lanes_of(spec: SweepSpec) -> Lanes:
    """Return how many lanes a sweep asks for, measured with what a trial takes where it says ``auto``.

    Raises:
        ConfigError: if the device is not there, or lanes are asked for where nodes are still to come.
        DataError: if the data set cannot be loaded.
    """
    lanes = spec.resources.lanes
    if lanes == 1:
        return Lanes(1)
    if may_grow(spec):
        # Processes that train are started once, on the nodes that are there.
        if lanes == "auto":
            return Lanes(1, "lanes: 1, since this cluster starts nodes while a sweep runs")
        raise ConfigError(
            f"resources.lanes {lanes}: this cluster starts nodes while a sweep runs, whose trials are "
            "trained one by one; leave lanes out"
        )
    if lanes != "auto":
        return Lanes(lanes)
    others = [field for field in spec.space if field not in LANE_FIELDS]
    if others:
        return Lanes(1, f"lanes: 1, since {others[0]} is searched and lanes want GANs of one shape")
    if not has_lanes(spec.gan):
        return Lanes(1, "lanes: 1, since networks with spectral_norm are trained one by one")
    gain = _measure(spec)
    if gain is None:
        return Lanes(1, "lanes: 1, since they could not be measured: others use the CPUs and GPUs")
    if gain.lanes == 1:
        return Lanes(1, "lanes: 1, since more make it no faster here")
    return Lanes(
        gain.lanes, f"lanes: {gain.lanes}, together {gain.ratio:.1f} times as fast here as one"
    )


def _measure(spec: SweepSpec) -> Gain | None:
    """Measure in a process of Ray's, with a trial's CPUs and GPUs; nothing where none can be had."""
    # A process of its own, which leaves no memory of a GPU taken and no GPU chosen for others.
    task: Any = ray.remote(max_calls=1)(measure_gain).options(
        num_cpus=spec.resources.cpus, num_gpus=spec.resources.num_gpus, max_retries=0
    )
    measurement = task.remote(spec.gan)
    try:
        gain: Gain = ray.get(measurement, timeout=_LONGEST_MEASUREMENT_S)
    except GetTimeoutError:
        ray.cancel(measurement, force=True)
        return None
    except RayTaskError as error:
        raise error.cause from None
    except RayError:
        # The process died, perhaps for want of memory.
        return None
    return gain


def share_of_cpus(spec: SweepSpec, trials: float) -> float:
    """Return what Ray is to count for a trial in a lane where so many share a process."""
    return math.floor(RAY_PARTS * spec.resources.cpus / trials) / RAY_PARTS


def require_place(spec: SweepSpec, lanes: Lanes) -> None:
    """See that a node has room for a process that trains.

    Raises:
        ConfigError: if none has.
    """
    if not any(_places(spec, lanes, node["Resources"]) for node in living_nodes()):
        raise ConfigError(
            f"resources.lanes {lanes.of_a_process}: no node has room for a process that trains them; "
            "lower resources.cpus or resources.gpus, or leave lanes out"
        )


def _places(spec: SweepSpec, lanes: Lanes, resources: Mapping[str, float]) -> int:
    """Return how many processes that train a node has room for."""
    places = places_on(resources, spec)
    if lanes.process_bytes:
        places = min(places, int(resources.get("memory", 0) // lanes.process_bytes))
    return places


@contextmanager
def lane_actors(spec: SweepSpec, run: str, lanes: Lanes) -> Iterator[list[Any]]:
    """Start the processes that train, as many as each node has room for; end them afterwards.

    A process that dies is started again by Ray.

    Args:
        spec: The sweep.
        run: The run folder.
        lanes: How many of each process, and how many processes.
    """
    actors: list[Any] = []
    for node in living_nodes():
        places = min(_places(spec, lanes, node["Resources"]), lanes.processes - len(actors))
        actors += [_start(spec, run, lanes, node["NodeID"]) for _ in range(places)]
    try:
        yield actors
    finally:
        for actor in actors:
            ray.kill(actor)


def _start(spec: SweepSpec, run: str, lanes: Lanes, node: str) -> Any:
    actor: Any = ray.remote(LaneActor)
    # Its CPUs are counted with the processes of its trials.
    return actor.options(
        num_cpus=0,
        num_gpus=spec.resources.num_gpus,
        memory=lanes.process_bytes or None,
        max_restarts=-1,
        max_concurrency=_CALLS_OF_A_LANE * lanes.of_a_process + _MORE_CALLS,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
    ).remote(spec.model_dump(mode="json"), run, lanes.of_a_process)


class LaneEnds(tune.Callback):
    """Tells the processes that train of trials that Tune has ended, which keeps theirs waiting.

    Args:
        actors: Of `lane_actors`.
    """

    def __init__(self, actors: Sequence[Any]) -> None:
        self._actors = actors

    def __getstate__(self) -> dict[str, Any]:
        """Leave out everything when Tune pickles its settings, which nobody reads."""
        return {}

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Let a trial go."""
        self._stop(trial)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Let a trial go."""
        self._stop(trial)

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        """Let a trial go whose process died, before another submits it again."""
        ray.wait(told := self._stop(trial), num_returns=len(told), timeout=_LONGEST_ANSWER_S)

    def _stop(self, trial: Trial) -> list[Any]:
        return [actor.stop.remote(int(trial.trial_id)) for actor in self._actors]
