"""The Ray that a sweep runs on: that of this machine, or a cluster's."""

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from pathlib import Path

import ray

import tune_gan
from tune_gan.errors import ConfigError
from tune_gan.search.spec import SweepSpec


@contextmanager
def on_ray() -> Iterator[None]:
    """Connect to the Ray that runs already or that RAY_ADDRESS names, or start one for the time.

    Raises:
        ConfigError: if it cannot be reached.
    """
    # Ray writes of dying workers, in colours, on the standard output, which is for results; their
    # cause of death is in the ranking.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        started_ray = _start_ray()
        try:
            yield
        finally:
            if started_ray:
                ray.shutdown()


def num_workers(spec: SweepSpec, available: dict[str, float]) -> int:
    """Return how many trials run at a time on the resources of a machine or cluster.

    Args:
        spec: The sweep.
        available: ``CPU`` and ``GPU`` counts, as ``ray.cluster_resources()`` gives them.

    Raises:
        ConfigError: if not even one trial fits.
    """
    limits = [spec.num_trials, int(available.get("CPU", 0) // spec.resources.cpus)]
    if spec.resources.gpus:
        limits.append(int(available.get("GPU", 0) / spec.resources.gpus))
    if spec.resources.max_concurrent_trials:
        limits.append(spec.resources.max_concurrent_trials)
    if min(limits) < 1:
        raise ConfigError(
            f"resources: a trial takes cpus {spec.resources.cpus} and gpus {spec.resources.gpus:g}, "
            f"but there are {available.get('CPU', 0):g} and {available.get('GPU', 0):g}; "
            "lower them with --set resources.cpus=1 --set resources.gpus=0"
        )
    return min(limits)


def _start_ray() -> bool:
    """Connect to Ray or start it; return whether it was not there before."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Each trial of a worker runs in a thread of its own, and glibc keeps memory for every thread: after
    # thirty trials of the ring 1.6 GB a worker instead of 1.
    os.environ.setdefault("MALLOC_ARENA_MAX", "2")
    # Without this a path in a configuration would be relative to the folder of its trial.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    address = os.environ.get("RAY_ADDRESS") or "local"
    _require_answer(address)
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        # Workers look for modules first where Ray was started: not in the user's folder, where another
        # tune_gan may lie, such as the checkout that this one was installed from.
        with chdir(Path(tune_gan.__file__).parents[1]):
            ray.init(
                address=address,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"Ray cannot be reached at RAY_ADDRESS={address} ({reason})") from None
    # Ray takes the signal for itself and would end the process at once.
    if callable(on_terminate) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)
    return True


def _require_answer(address: str) -> None:
    """Fail at once where Ray would try an address that does not answer for minutes."""
    host, colon, port = address.rpartition("//")[2].rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise ConfigError(f"nothing answers at RAY_ADDRESS={address} ({error})") from None
