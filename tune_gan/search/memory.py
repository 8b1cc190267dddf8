"""Whether the largest configuration of a space fits into memory, tried before the first trial."""

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import ray
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError, InputError
from tune_gan.gan.checkpoint import estimate_bytes
from tune_gan.gan.memory import Footprint, measure_memory, smallest_gpu
from tune_gan.gan.shortage import is_of_device, is_shortage
from tune_gan.search.cluster import living_nodes, may_grow, places_on
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
_LONGEST_LOOK_S = 60


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


class Tried(NamedTuple):
    """What a training of the largest configuration took; nothing where that cannot be known."""

    footprint: Footprint | None


def room_for(spec: SweepSpec, workers: int, lanes: int = 1, tried: Tried | None = None) -> Room:
    """Train one iteration of the largest configuration, and see how many trials there is memory for.

    On CPUs it is trained in this process first, which takes more than a trial's. Only where that is too
    much, and on GPUs, a process of Ray's trains it, as `try_largest` does.

    Nothing is tried where a cluster grows, whose nodes are still to come, where Ray knows of no memory,
    or where it has no place for it within five minutes.

    Args:
        spec: The sweep.
        workers: Trials at a time that the CPUs and GPUs allow.
        lanes: Trials that one process trains; `workers` and what is returned are then processes, and
            each is tried with all its lanes.
        tried: What `try_largest` returned, if it was called already.

    Returns:
        How many trials there is room for.

    Raises:
        ConfigError: if not even one fits, with what was measured.
    """
    nodes = _nodes_with_places(spec)
    if may_grow(spec) or not any(_memory(node) for node in nodes):
        return Room(workers)
    config = largest(spec)
    places = [places_on(node["Resources"], spec) for node in nodes]
    relays = _of_relays(spec, workers, lanes)
    if tried is None:
        if _fits_easily(config, spec, nodes, places, lanes, relays):
            return Room(workers)
        tried = try_largest(spec, lanes)
    if tried.footprint is None:
        return Room(workers)
    footprint = replace(tried.footprint, host=tried.footprint.host + relays)
    _require_device(config, spec, footprint)
    fitting = [_memory(node) // footprint.host for node in nodes]
    if not sum(fitting):
        most = gigabytes(max(map(_memory, nodes)))
        raise ConfigError(
            f"resources: {_describe(config, spec)} took {gigabytes(footprint.host)} of memory when it "
            f"was tried for one iteration, but no node gives more than {most}; {_REMEDY}"
            + (f", or have fewer than {lanes} resources.lanes" if lanes > 1 else "")
        )
    if all(fits >= most for fits, most in zip(fitting, places, strict=True)):
        return Room(workers)
    room = min(workers, sum(map(min, fitting, places)))
    one, many = ("process that trains", "processes that train") if lanes > 1 else ("trial", "trials")
    note = (
        f"memory for {room} {one if room == 1 else many} at a time: {_describe(config, spec)} took "
        f"{gigabytes(footprint.host)} when it was tried for one iteration"
    )
    return Room(room, footprint.host, note if room < workers else "")


def try_largest(spec: SweepSpec, lanes: int = 1) -> Tried:
    """Train one iteration of the largest configuration in a process of Ray's, with what a trial takes.

    Of nodes with different GPUs it is that with the smallest one, which is also the GPU whose memory is
    told; else that with the most memory.

    Args:
        spec: The sweep.
        lanes: Trials that the process trains at once.

    Raises:
        ConfigError: if memory was short.
    """
    nodes = _nodes_with_places(spec)
    smallest = _look_for_smallest_gpus(nodes) if spec.resources.num_gpus else {}
    node = min(nodes, key=lambda n: (smallest.get(n["NodeID"], math.inf), -_memory(n)))
    footprint = _try(largest(spec), spec, node, lanes)
    if footprint is not None and footprint.device_total:
        least = min([footprint.device_total, *smallest.values()])
        footprint = replace(footprint, device_total=least)
    return Tried(footprint)


def _nodes_with_places(spec: SweepSpec) -> list[dict[str, Any]]:
    return [node for node in living_nodes() if places_on(node["Resources"], spec)]


def _look_for_smallest_gpus(nodes: list[dict[str, Any]]) -> dict[str, int]:
    """Return the memory of each node's smallest GPU in bytes, where there is more than one GPU.

    A node that has none which torch can use, or whose GPUs others use for a minute, is left out.
    """
    counts = {node["NodeID"]: int(node["Resources"].get("GPU", 0)) for node in nodes}
    if sum(counts.values()) < 2:
        return {}
    look: Any = ray.remote(max_calls=1)(smallest_gpu)
    looks = {
        look.options(
            num_cpus=0,
            num_gpus=count,
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        ).remote(): node
        for node, count in counts.items()
        if count
    }
    seen, unseen = ray.wait(list(looks), num_returns=len(looks), timeout=_LONGEST_LOOK_S)
    for told in unseen:
        ray.cancel(told, force=True)
    found = {}
    for told in seen:
        with suppress(RayError, RuntimeError):
            found[looks[told]] = int(ray.get(told))
    return {node: size for node, size in found.items() if size}


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
    if spec.resources.num_gpus:
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
    # A process of its own, which leaves no memory of a GPU taken and no GPU chosen for others.
    task: Any = ray.remote(max_calls=1)(measure_memory).options(
        num_cpus=spec.resources.cpus,
        num_gpus=spec.resources.num_gpus,
        max_retries=0,
        scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
    )
    trial = task.remote(config, _memory(node) or None, lanes)
    try:
        footprint: Footprint = ray.get(trial, timeout=_LONGEST_TRY_S)
    except GetTimeoutError:
        ray.cancel(trial, force=True)
        return None
    except (InputError, MemoryError, RuntimeError, RayError) as error:
        if not (is_shortage(error) or isinstance(error, OutOfMemoryError)):
            # The trial that it belongs to will say what it is.
            return None
        if is_of_device(error):
            raise ConfigError(
                f"resources.gpus: {_describe(config, spec)} took more memory than the GPU has left "
                "when it was tried for one iteration; give more of one, or make the space smaller"
            ) from None
        raise ConfigError(
            f"resources: {_describe(config, spec)} took more memory than the "
            f"{gigabytes(_memory(node))} that a node gives when it was tried for one iteration; "
            f"{_REMEDY}"
        ) from None
    return footprint


def _of_relays(spec: SweepSpec, workers: int, lanes: int) -> int:
    """Return the memory of the light processes of the trials that one process trains, in bytes."""
    most = min(spec.num_trials, spec.resources.max_concurrent_trials or spec.num_trials)
    return min(lanes, math.ceil(most / workers)) * _RELAY_BYTES if lanes > 1 else 0


def _require_device(config: GanConfig, spec: SweepSpec, footprint: Footprint) -> None:
    gpus = min(spec.resources.num_gpus, 1.0)
    share = gpus * footprint.device_total
    if gpus and footprint.device > share:
        raise ConfigError(
            f"resources.gpus: {_describe(config, spec)} took {gigabytes(footprint.device)} on the GPU, "
            f"CUDA's own with it, when it was tried for one iteration, but {gpus:g} of one is "
            f"{gigabytes(share)}; " + ("give more of it, or " * (gpus < 1)) + "make the space smaller"
        )


def _describe(config: GanConfig, spec: SweepSpec) -> str:
    values, default = config.model_dump(mode="json"), spec.gan.model_dump(mode="json")
    changed = [f"{name} {value}" for name, value in values.items() if value != default[name]]
    return f"the largest configuration ({', '.join(changed) or 'the default'})"


def gigabytes(size: float) -> str:
    """Write a number of bytes."""
    return f"{size / 1e9:.3g} GB"
