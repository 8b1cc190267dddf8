"""The Ray that a sweep runs on: that of this machine, or a cluster's."""

import logging
import math
import os
import signal
import socket
import textwrap
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path
from types import FrameType
from typing import Any

import ray
from ray.tune.execution.cluster_info import _is_ray_cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import tune_gan
from tune_gan.errors import ConfigError, TuneGanError
from tune_gan.search.spec import RAY_PARTS, SweepSpec
from tune_gan.settings import read_yaml

_log = logging.getLogger(__name__)
_LONGEST_WAIT_S = 180
_LONGEST_LOOK_S = 180


@contextmanager
def on_ray(address: str | None = None, min_nodes: int = 1) -> Iterator[None]:
    """Connect to the Ray that runs already or that is named, or start one for the time.

    Args:
        address: ``HOST:PORT``, or ``auto`` for a cluster's Ray on this machine; by default what
            RAY_ADDRESS names.
        min_nodes: Nodes to wait for.

    Raises:
        ConfigError: if it cannot be reached.
        TuneGanError: if one of its own cannot be started, or not so many nodes come.
    """
    # Ray writes of dying workers, in colours, on the standard output, which is for results; their
    # cause of death is in the ranking.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        starts_ray = not ray.is_initialized()
        try:
            if starts_ray:
                _start_ray(_address(address))
            _wait_for_nodes(min_nodes)
            yield
        finally:
            if starts_ray:
                ray.shutdown()


def places_on(available: Mapping[str, float], spec: SweepSpec) -> int:
    """Return for how many trials a node has CPUs and GPUs, as Ray counts and places them.

    A share of a GPU is of one GPU alone, whatever other GPUs have left.
    """
    places = int(available.get("CPU", 0) // spec.resources.cpus)
    if gpus := spec.resources.num_gpus:
        # Ray cuts a share off to its parts; the millionth is for what floating point makes of it.
        parts = math.floor(RAY_PARTS * gpus + 1e-6)
        whole = int(available.get("GPU", 0))
        places = min(places, whole * (RAY_PARTS // parts) if gpus < 1 else int(whole // gpus))
    return places


def living_nodes() -> list[dict[str, Any]]:
    """Return Ray's own description of the nodes that are alive."""
    return [node for node in ray.nodes() if node["Alive"]]


def num_workers(spec: SweepSpec, nodes: Sequence[Mapping[str, float]], lanes: int = 1) -> int:
    """Return how many trials run at a time on the resources of a machine or cluster.

    Args:
        spec: The sweep.
        nodes: ``CPU`` and ``GPU`` counts of each node.
        lanes: Trials that share what the sweep says that one takes.

    Raises:
        ConfigError: if not even one trial fits.
    """
    if may_grow(spec):
        assert spec.resources.max_concurrent_trials is not None
        _require_kind_of_node(spec)
        return min(spec.num_trials, spec.resources.max_concurrent_trials)
    limits = [spec.num_trials, sum(places_on(node, spec) for node in nodes) * lanes]
    if spec.resources.max_concurrent_trials:
        limits.append(spec.resources.max_concurrent_trials)
    if min(limits) < 1:
        there = sorted({f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in nodes})
        raise ConfigError(
            f"resources: a trial takes {_describe(spec)}, but there are "
            f"{', or on another node '.join(there) or '0 and 0'}; lower them with --set "
            "resources.cpus=1 --set resources.gpus=auto, or go on with a run where there are as many"
            + (
                ", or say for how many the cluster is to grow, with --set "
                "resources.max_concurrent_trials=N"
            )
            * _is_ray_cluster()
        )
    return min(limits)


def kinds_of_nodes() -> dict[str, dict[str, float]]:
    """Return the resources of each kind of node that a cluster which grows may start."""
    bootstrap = read_yaml(Path("~/ray_bootstrap_config.yaml").expanduser())
    return {name: kind["resources"] for name, kind in bootstrap["available_node_types"].items()}


def _require_kind_of_node(spec: SweepSpec) -> None:
    """See that a trial fits on a kind of node that comes, or else it would wait for ever."""
    kinds = kinds_of_nodes()
    if not any(places_on(kind, spec) for kind in kinds.values()):
        listed = "; ".join(
            f"{name}: {kind.get('CPU', 0)} and {kind.get('GPU', 0)}" for name, kind in kinds.items()
        )
        raise ConfigError(
            f"resources: a trial takes {_describe(spec)}, but no node of the cluster has both "
            f"({listed}); lower them"
        )


def _describe(spec: SweepSpec) -> str:
    return f"cpus {spec.resources.cpus} and gpus {spec.resources.num_gpus:g}"


def may_grow(spec: SweepSpec) -> bool:
    """Return whether nodes come for trials that wait.

    They do where `ray up` began the cluster, on whose head this runs, and the sweep says how many
    trials it wants at a time.
    """
    return spec.resources.max_concurrent_trials is not None and _is_ray_cluster()


def require_visible(file: Path) -> None:
    """See that every node of a cluster sees a file.

    Raises:
        ConfigError: if one does not, with their names.
    """
    nodes = {node["NodeID"]: node["NodeManagerHostname"] for node in living_nodes()}
    if len(nodes) < 2:
        return
    look = ray.remote(num_cpus=0)(Path.exists)
    looks = [
        look.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False)).remote(file)
        for node in nodes
    ]
    try:
        seen = ray.get(looks, timeout=_LONGEST_LOOK_S)
    except ray.exceptions.RayError as error:
        raise ConfigError(f"a node of the cluster cannot run anything ({_one_line(error)})") from None
    blind = [name for name, sees in zip(nodes.values(), seen, strict=True) if not sees]
    if blind:
        raise ConfigError(
            f"{file.parent} is not seen by {', '.join(blind)}; give --out a folder on a file system "
            "that all nodes share"
        )


def _address(given: str | None) -> str:
    return given or os.environ.get("RAY_ADDRESS") or "local"


def _wait_for_nodes(wanted: int) -> None:
    deadline = time.monotonic() + _LONGEST_WAIT_S
    while (there := sum(node["Alive"] for node in ray.nodes())) < wanted:
        if time.monotonic() > deadline:
            raise TuneGanError(
                f"only {there} of {wanted} nodes came to the cluster in {_LONGEST_WAIT_S} s; "
                "look at the logs of the others"
            )
        time.sleep(1)


def _one_line(error: Exception) -> str:
    return textwrap.shorten(str(error), 300, placeholder=" …")


@contextmanager
def _interrupts_put_off() -> Iterator[None]:
    """Let a first interrupt wait for the end, where Ray would lose it or crash, and Ray's own go by."""
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        endings = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
        handlers = {number: signal.getsignal(number) for number in endings}
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            _log.info("ending when Ray has started; a second interrupt ends it at once")
        elif callable(handler := handlers[signal.Signals(number)]):
            handler(number, frame)

    for number, handler in handlers.items():
        if callable(handler):
            signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _start_ray(address: str) -> None:
    """Connect to Ray or start it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Each trial of a worker runs in a thread of its own, and glibc keeps memory for every thread: after
    # thirty trials of the ring 1.6 GB a worker instead of 1.
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    # Without this a path in a configuration would be relative to the folder of its trial.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    # Without this a process that was given no GPU sees them all.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "1")
    try:
        # Workers look for modules first where Ray was started: not in the user's folder, where another
        # tune_gan may lie, such as the checkout that this one was installed from.
        with chdir(Path(tune_gan.__file__).parents[1]), _interrupts_put_off():
            ray.init(
                address=address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except SystemExit:
        # Ray has taken the signal for itself by then, and ends the process with its number.
        raise KeyboardInterrupt from None
    except Exception as error:
        # Ray raises no kind of its own where one that it starts is not there after half a minute.
        known = (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError)
        if not isinstance(error, known) and type(error) is not Exception:
            raise
        if address == "local":
            raise TuneGanError(f"Ray could not be started ({_one_line(error)})") from None
        raise ConfigError(f"Ray cannot be reached at {address} ({_one_line(error)})") from None


def require_answer(address: str | None) -> None:
    """Fail at once where Ray would try an address that does not answer for minutes.

    Args:
        address: As for `on_ray`.

    Raises:
        ConfigError: if nothing answers.
    """
    address = _address(address)
    host, colon, port = address.rpartition("//")[2].rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise ConfigError(f"no Ray answers at {address} ({error})") from None
