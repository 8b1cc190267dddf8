"""Whether the largest configuration of a space fits into memory, tried before the first trial."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError, InputError
from tune_gan.gan.checkpoint import estimate_bytes
from tune_gan.gan.memory import Footprint, is_shortage, measure_memory
from tune_gan.search.cluster import may_grow, places_on
from tune_gan.search.disk import largest_networks
from tune_gan.search.spec import SweepSpec

# What makes a step take more memory, beside the size of the networks.
_COSTLY = ("batch_size", "gp_weight", "r1_weight", "ema_decay")
_REMEDY = "make the space smaller, or give the nodes more memory"
# What a head takes for it that is to train nothing.
_LITTLE_BYTES = 10**9
# Of each trial in a lane, whose process trains nothing, without what it shares with others.
_RELAY_BYTES = 110_000_000
# Another's work may take all of a cluster.
_LONGEST_TRY_S = 300


@dataclass(frozen=True)
class Room:
    """How many trials the memory has room for.

    Attributes:
        workers: Trials at a time, of all nodes together.
        trial_bytes: What to reserve on a node for each, 0 where nothing is short.
        note: What to tell of it, empty where nothing is short.
    """

    workers: int
    trial_bytes: int = 0
    note: str = ""


def room_for(spec: SweepSpec, workers: int, lanes: int = 1) -> Room:
    """Train one iteration of the largest configuration, and see how many trials there is memory for.

    On CPUs it is trained in this process first, which takes more than a trial's. Only where that is too
    much, and on GPUs, a process of Ray's trains it on the node with the most memory.

    Nothing is tried where a cluster grows, whose nodes are still to come, where Ray knows of no memory,
    or where it has no place for it within five minutes.

    Args:
        spec: The sweep.
        workers: Trials at a time that the CPUs and GPUs allow.
        lanes: Trials that one process trains; `workers` and what is returned are then processes, and
            each is tried with all its lanes.

    Returns:
        How many trials there is room for.

    Raises:
        ConfigError: if not even one fits, with what was measured.
    """
    nodes = [node for node in ray.nodes() if node["Alive"] and places_on(node["Resources"], spec)]
    if may_grow(spec) or not any(_memory(node) for node in nodes):
        return Room(workers)
    config = largest(spec)
    places = [places_on(node["Resources"], spec) for node in nodes]
    relays = _of_relays(spec, workers, lanes)
    if _fits_easily(config, spec, nodes, places, lanes, relays):
        return Room(workers)
    node = max(nodes, key=_memory)
    footprint = _try(config, spec, node, lanes)
    if footprint is None:
        return Room(workers)
    footprint = replace(footprint, host=footprint.host + relays)
    _require_device(config, spec, footprint)
    fitting = [_memory(node) // footprint.host for node in nodes]
    if not sum(fitting):
        raise ConfigError(
            f"resources: {_describe(config, spec)} took {_gb(footprint.host)} of memory when it was "
            f"tried for one iteration, but no node gives more than {_gb(_memory(node))}; {_REMEDY}"
            + (f", or have fewer than {lanes} resources.lanes" if lanes > 1 else "")
        )
    if all(fits >= most for fits, most in zip(fitting, places, strict=True)):
        return Room(workers)
    room = min(workers, sum(map(min, fitting, places)))
    one, many = ("process that trains", "processes that train") if lanes > 1 else ("trial", "trials")
    note = (
        f"memory for {room} {one if room == 1 else many} at a time: {_describe(config, spec)} took "
        f"{_gb(footprint.host)} when it was tried for one iteration"
    )
    return Room(room, footprint.host, note if room < workers else "")


def largest(spec: SweepSpec) -> GanConfig:
    """Return the configuration that takes the most memory, looking at one field after the other."""
    if spec.confirmation is not None:
        base = spec.gan.model_dump()
        candidates = [GanConfig.parse({**base, **own}) for own in spec.confirmation.candidates.values()]
        return max(candidates, key=lambda config: estimate_bytes(config) * config.batch_size)
    values = largest_networks(spec).model_dump()
    for field in _COSTLY:
        distribution = spec.space.get(field)
        if distribution is None or not distribution.is_active(values):
            continue
        most = max(float(value or 0) for value in distribution.extremes())
        larger = {**values, field: int(most) if field == "batch_size" else most}
        try:
            GanConfig.parse(larger)
        except ConfigError:
            # Not together with the others.
            continue
        if spec.allows(larger):
            values = larger
    return GanConfig.parse(values)


def _memory(node: Mapping[str, Any]) -> int:
    return int(node["Resources"].get("memory", 0))


def _fits_easily(
    config: GanConfig,
    spec: SweepSpec,
    nodes: list[dict[str, Any]],
    places: list[int],
    lanes: int,
    relays: int,
) -> bool:
    """Return whether each node has memory for all its places, by a training in this process."""
    if spec.resources.gpus:
        return False
    this = ray.get_runtime_context().get_node_id()
    most = max((_memory(node) for node in nodes if node["NodeID"] == this), default=_LITTLE_BYTES)
    try:
        took = measure_memory(config.model_copy(update={"device": "cpu"}), most, lanes).host
        took += relays
    except (InputError, MemoryError, RuntimeError):
        return False
    return all(_memory(node) >= took * most for node, most in zip(nodes, places, strict=True))


def _try(config: GanConfig, spec: SweepSpec, node: Mapping[str, Any], lanes: int) -> Footprint | None:
    """Return what a training takes on a node, or nothing where that cannot be known."""
    task: Any = ray.remote(measure_memory).options(
        num_cpus=spec.resources.cpus,
        num_gpus=spec.resources.gpus,
        max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
    )
    trial = task.remote(config, _memory(node), lanes)
    try:
        footprint: Footprint = ray.get(trial, timeout=_LONGEST_TRY_S)
    except GetTimeoutError:
        ray.cancel(trial, force=True)
        return None
    except (InputError, MemoryError, RuntimeError, RayError) as error:
        if not (is_shortage(error) or isinstance(error, OutOfMemoryError)):
            # The trial that it belongs to will say what it is.
            return None
        if "CUDA" in str(error):
            raise ConfigError(
                f"resources.gpus: {_describe(config, spec)} took more memory than the GPU has left "
                "when it was tried for one iteration; give more of one, or make the space smaller"
            ) from None
        raise ConfigError(
            f"resources: {_describe(config, spec)} took more memory than the {_gb(_memory(node))} that "
            f"a node gives when it was tried for one iteration; {_REMEDY}"
        ) from None
    return footprint


def _of_relays(spec: SweepSpec, workers: int, lanes: int) -> int:
    """Return the memory of the light processes of the trials that one process trains, in bytes."""
    most = min(spec.num_trials, spec.resources.max_concurrent_trials or spec.num_trials)
    return min(lanes, math.ceil(most / workers)) * _RELAY_BYTES if lanes > 1 else 0


def _require_device(config: GanConfig, spec: SweepSpec, footprint: Footprint) -> None:
    share = min(spec.resources.gpus, 1.0) * footprint.device_total
    if spec.resources.gpus and footprint.device > share:
        raise ConfigError(
            f"resources.gpus: {_describe(config, spec)} took {_gb(footprint.device)} on the GPU when "
            f"it was tried for one iteration, but {spec.resources.gpus:g} of one is {_gb(share)}; give "
            "more of it, or make the space smaller"
        )


def _describe(config: GanConfig, spec: SweepSpec) -> str:
    values, default = config.model_dump(mode="json"), spec.gan.model_dump(mode="json")
    changed = [f"{name} {value}" for name, value in values.items() if value != default[name]]
    return f"the largest configuration ({', '.join(changed) or 'the default'})"


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
