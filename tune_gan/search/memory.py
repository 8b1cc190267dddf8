"""Whether the largest configuration of a space fits into memory, tried before the first trial."""

from dataclasses import dataclass

import ray
from ray.exceptions import RayError

from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError, InputError
from tune_gan.gan.memory import Footprint, measure_memory
from tune_gan.search.cluster import may_grow
from tune_gan.search.disk import largest_networks
from tune_gan.search.spec import SweepSpec

# What makes a step take more memory, beside the size of the networks.
_COSTLY = ("batch_size", "gp_weight", "r1_weight", "ema_decay")
_WORDS_OF_SHORTAGE = ("not enough memory", "out of memory", "allocate memory", "low on memory")
_REMEDY = "make the space smaller, or give the nodes more memory"


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


def room_for(spec: SweepSpec, workers: int) -> Room:
    """Train one iteration of the largest configuration, and return how many trials there is room for.

    On CPUs it is trained here, on a GPU where Ray has one.

    Args:
        spec: The sweep.
        workers: Trials at a time that the CPUs and GPUs allow.

    Raises:
        ConfigError: if not even one fits, with what was measured.
    """
    if spec.confirmation is not None or may_grow(spec):
        return Room(workers)
    config = largest(spec)
    nodes = [int(node["Resources"].get("memory", 0)) for node in ray.nodes() if node["Alive"]]
    try:
        footprint = _measure(config, spec, max(nodes))
    except InputError:
        # The trial that it belongs to will say what it is.
        return Room(workers)
    except (MemoryError, RuntimeError, RayError) as error:
        if not _is_shortage(error):
            return Room(workers)
        raise ConfigError(
            f"resources: {_describe(config, spec)} took more memory than the {_gb(max(nodes))} that a "
            f"node gives when it was tried for one iteration; {_REMEDY}"
        ) from None
    _require_device(config, spec, footprint)
    fitting = sum(int(memory // footprint.host) for memory in nodes)
    if not fitting:
        raise ConfigError(
            f"resources: {_describe(config, spec)} took {_gb(footprint.host)} of memory when it was "
            f"tried for one iteration, but no node gives more than {_gb(max(nodes))}; {_REMEDY}"
        )
    if fitting >= workers:
        return Room(workers)
    note = (
        f"memory for {fitting} trial{'s' * (fitting > 1)} at a time: {_describe(config, spec)} took "
        f"{_gb(footprint.host)} when it was tried for one iteration"
    )
    return Room(fitting, footprint.host, note)


def largest(spec: SweepSpec) -> GanConfig:
    """Return the configuration of a space that takes the most memory, one field after the other."""
    config = largest_networks(spec)
    for field in _COSTLY:
        if field in spec.space:
            most = max(float(value or 0) for value in spec.space[field].extremes())
            value = int(most) if field == "batch_size" else most
            try:
                config = GanConfig.parse({**config.model_dump(), field: value})
            except ConfigError:
                # Not together with the others.
                continue
    return config


def _measure(config: GanConfig, spec: SweepSpec, most: int) -> Footprint:
    taken = spec.resources
    if not taken.gpus:
        return measure_memory(config, most)
    task = ray.remote(num_cpus=taken.cpus, num_gpus=taken.gpus, max_retries=0)(measure_memory)
    footprint: Footprint = ray.get(task.remote(config))
    return footprint


def _require_device(config: GanConfig, spec: SweepSpec, footprint: Footprint) -> None:
    share = min(spec.resources.gpus, 1.0) * footprint.device_total
    if footprint.device > share:
        raise ConfigError(
            f"resources.gpus: {_describe(config, spec)} took {_gb(footprint.device)} on the GPU when "
            f"it was tried for one iteration, but {spec.resources.gpus:g} of one is {_gb(share)}; give "
            "more of it, or make the space smaller"
        )


def _is_shortage(error: Exception) -> bool:
    said = str(error)
    return isinstance(error, MemoryError) or any(words in said for words in _WORDS_OF_SHORTAGE)


def _describe(config: GanConfig, spec: SweepSpec) -> str:
    values, default = config.model_dump(mode="json"), spec.gan.model_dump(mode="json")
    changed = [f"{name} {value}" for name, value in values.items() if value != default[name]]
    return f"the largest configuration ({', '.join(changed) or 'the default'})"


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
