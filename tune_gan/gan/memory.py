"""How much memory a training takes, measured by training one iteration."""

import gc
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from tune_gan.config import GanConfig
from tune_gan.gan.graphs import WARM_UPS
from tune_gan.gan.lanes.pool import MOST_COLLECTED, LanePool
from tune_gan.gan.models import choose_device
from tune_gan.gan.training import iterate

_STATUS = Path("/proc/self/status")
# CUDA's context and libraries take 0.4 to 0.8 GB of a GPU in each process, which torch does not count.
CONTEXT_BYTES = 700_000_000


@dataclass(frozen=True)
class Footprint:
    """The most memory that was taken at a time, in bytes.

    Attributes:
        host: Of the process, without what it shares with others: libraries and mapped files.
        device: On the GPU, where it trained there, with CUDA's context and libraries.
        device_total: What that GPU has.
        trained_on: The type of the device.
    """

    host: int
    device: int = 0
    device_total: int = 0
    trained_on: str = "cpu"


def measure_memory(config: GanConfig, most: int | None = None, lanes: int = 1) -> Footprint:
    """Train one iteration of a configuration here and score it, and return what that took.

    Where the system keeps no peak that can be reset (other than Linux), the host's is that of the
    process since it began.

    Args:
        config: What to train.
        most: How many bytes more than now the process may take, where the system can be told so:
            beyond them torch fails, where the system might kill the process.
        lanes: How many of them to train at once, in lanes.

    Raises:
        ConfigError: if the device is not there.
        DataError: if the data set cannot be loaded.
        MemoryError: if the memory is not there.
        RuntimeError: as torch says it, the same.
    """
    device = choose_device(config.device)
    is_cuda = device.type == "cuda"
    if is_cuda:
        # Its context is there before peaks are reset, which else fails, and before the host's limit.
        torch.cuda.init()
        torch.zeros(1, device=device)
        # What another trial run of this process has left is none of this one's.
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what it is now: see proc(5)
    with torch.random.fork_rng(devices=[device] if is_cuda else []), _at_most(most):
        # On a GPU up to the first that is replayed.
        length = WARM_UPS + 1 if is_cuda and lanes == 1 else 1
        _train(config.model_copy(update={"num_iterations": length, "report_every": length}), lanes)
    host = _peak()
    if not is_cuda:
        return Footprint(host, trained_on=device.type)
    taken = torch.cuda.max_memory_reserved(device) + CONTEXT_BYTES
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    return Footprint(host, taken, total, trained_on=device.type)


def smallest_gpu() -> int:
    """Return the memory of the smallest GPU that this process sees, in bytes; 0 where it sees none."""
    if not torch.cuda.is_available():
        return 0
    gpus = (torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count()))
    return min((gpu.total_memory for gpu in gpus), default=0)


def _train(config: GanConfig, lanes: int) -> None:
    if lanes == 1:
        for _ in iterate(config):
            pass
        return
    pool = LanePool(config, lanes)
    for _ in range(lanes):
        pool.join(config)
    while not (due := pool.advance()):
        pass
    # As many as there are at a time.
    collected = [pool.collect(lane) for lane in due[:MOST_COLLECTED]]
    pool.score(collected[0])


@contextmanager
def _at_most(more: int | None) -> Iterator[None]:
    if more is None or not _STATUS.is_file():
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_DATA)
    limit = _sizes()["VmData"] + more
    if before[0] != resource.RLIM_INFINITY:
        limit = min(limit, before[0])
    resource.setrlimit(resource.RLIMIT_DATA, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


def _sizes() -> dict[str, int]:
    """Return what Linux says of this process, in bytes."""
    lines = (line.split() for line in _STATUS.read_text().splitlines())
    return {words[0].rstrip(":"): 1024 * int(words[1]) for words in lines if words[-1] == "kB"}


def _peak() -> int:
    if _STATUS.is_file():
        sizes = _sizes()
        return sizes["VmHWM"] - sizes["RssFile"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
