"""How many trials share a GPU where a sweep leaves that open: ``resources.gpus: auto``."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from tune_gan.errors import ConfigError
from tune_gan.gan.memory import Footprint
from tune_gan.search.cluster import kinds_of_nodes, living_nodes, may_grow, places_on
from tune_gan.search.memory import Tried, gigabytes, try_largest
from tune_gan.search.spec import RAY_PARTS, SweepSpec, resolve

# More processes take turns on a GPU without that it does more.
_MOST_ON_A_GPU = 4


class Shared(NamedTuple):
    """A sweep whose share of a GPU is a number.

    Attributes:
        spec: The sweep.
        note: What was chosen and why, empty where the sweep said it.
        tried: What was tried for it, if anything.
    """

    spec: SweepSpec
    note: str = ""
    tried: Tried | None = None


def leave_out_gpus(spec: SweepSpec) -> tuple[SweepSpec, str]:
    """Return a sweep without GPUs where it leaves them open and cannot use one, and why.

    Raises:
        ConfigError: if its device is a GPU, and Ray has none for a trial.
    """
    if spec.resources.gpus != "auto":
        return spec, ""
    if spec.gan.device == "cpu":
        return _with_gpus(spec, 0.0), "no GPU is used: gan.device is cpu"
    nodes = _nodes(spec)
    if any(places_on(node, spec) for node in nodes):
        return spec, ""
    reason = "Ray has none"
    if any(node.get("GPU", 0) >= 1 for node in nodes):
        reason = f"no node that has one has the {spec.resources.cpus} CPUs of a trial"
    if spec.gan.device != "auto":
        raise ConfigError(
            f"gan.device {spec.gan.device}: no GPU is there for a trial: {reason}; use auto or cpu"
        )
    return _with_gpus(spec, 0.0), f"no GPU is used: {reason}"


def share_gpus(spec: SweepSpec, lanes: int = 1) -> Shared:
    """Choose how many trials share a GPU, by a trial run on the smallest one.

    Args:
        spec: The sweep, as `leave_out_gpus` returns it.
        lanes: Trials that one process trains; processes then share a GPU.

    Raises:
        ConfigError: if a GPU's memory was short for one.
    """
    if spec.resources.gpus != "auto":
        return Shared(spec)
    if may_grow(spec):
        # Nothing can be tried on nodes that are still to come.
        return Shared(_with_gpus(spec, 1.0), "1 trial on each GPU: this cluster starts nodes for them")
    nodes = [node for node in _nodes(spec) if places_on(node, spec)]
    num_gpus = sum(int(node["GPU"]) for node in nodes)
    tried = try_largest(spec, lanes)
    most = min(spec.num_trials, spec.resources.max_concurrent_trials or spec.num_trials)
    on_each, reason = choose_trials_on_a_gpu(
        # Of the node with the fewest, or else one GPU would take all its CPUs.
        cpus_of_a_gpu=min(node["CPU"] / int(node["GPU"]) for node in nodes),
        cpus=spec.resources.cpus,
        trials_of_a_gpu=math.ceil(math.ceil(most / lanes) / num_gpus),
        footprint=tried.footprint,
    )
    one, many = ("process that trains", "processes that train") if lanes > 1 else ("trial", "trials")
    where = f"each of {num_gpus} GPUs" if num_gpus > 1 else "the GPU"
    note = f"{on_each} {one if on_each == 1 else many} on {where}: {reason}"
    shared = _with_gpus(spec, math.floor(RAY_PARTS / on_each) / RAY_PARTS)
    if tried.footprint is not None and tried.footprint.device_total and spec.gan.device == "auto":
        # A node on which torch cannot use its GPU fails its trials, and trains none on its CPU.
        gan = shared.gan.model_copy(update={"device": tried.footprint.trained_on})
        shared = shared.model_copy(update={"gan": gan})
    return Shared(shared, note, tried)


def choose_trials_on_a_gpu(
    cpus_of_a_gpu: float, cpus: int, trials_of_a_gpu: int, footprint: Footprint | None
) -> tuple[int, str]:
    """Return how many trials share a GPU, at least one, and the numbers that say why.

    Args:
        cpus_of_a_gpu: CPUs that there are for each GPU.
        cpus: CPUs of a trial.
        trials_of_a_gpu: Trials that there are for each GPU.
        footprint: What one takes, None where that is not known: then one has the GPU for itself.
    """
    limits = {
        f"CPUs for {int(cpus_of_a_gpu // cpus)} ({cpus} of {cpus_of_a_gpu:g})": cpus_of_a_gpu // cpus,
        f"trials for {trials_of_a_gpu}": trials_of_a_gpu,
    }
    if footprint is None:
        limits["what one takes of its memory could not be measured"] = 1
    elif footprint.device_total:
        fitting = footprint.device_total // footprint.device
        took = f"{gigabytes(footprint.device)} of {gigabytes(footprint.device_total)}"
        limits[f"memory for {fitting} ({took})"] = fitting
    elif footprint.trained_on == "cpu":
        limits["torch can use none and trains on the CPU"] = _MOST_ON_A_GPU
    limits[f"at most {_MOST_ON_A_GPU}"] = _MOST_ON_A_GPU
    return max(1, int(min(limits.values()))), ", ".join(limits)


def _nodes(spec: SweepSpec) -> list[Mapping[str, Any]]:
    """Return what each node has, or each kind of node that is still to come."""
    if may_grow(spec):
        return list(kinds_of_nodes().values())
    return [node["Resources"] for node in living_nodes()]


def _with_gpus(spec: SweepSpec, gpus: float) -> SweepSpec:
    resources = spec.resources.model_copy(update={"gpus": gpus})
    return resolve(spec.model_copy(update={"resources": resources}))
