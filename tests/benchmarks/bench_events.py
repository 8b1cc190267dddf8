"""What TensorBoard's events of losses cost: ``python -m tests.benchmarks.bench_events``.

Prints the processor's microseconds an iteration of three ways to write four losses, with a report and a
flush every so many iterations, and the size of what they write.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from tests.benchmarks.machine import describe_machine
from tune_gan.gan.event_file import EventFile
from tune_gan.losses_file import LOSSES, Rows

_NUM_ITERATIONS = 2000
_REPEATS = 3
_EVERY = (10, 100, 1000)
_TAGS = [f"losses/{name}" for name in LOSSES]

# Write the rows up to an iteration, which is that of the last row.
Write = Callable[[int, Rows], None]


def add_scalar(folder: Path) -> Write:
    """Return a writer of an event for each number."""
    writer = SummaryWriter(str(folder))

    def write(last: int, rows: Rows) -> None:
        for step, row in enumerate(rows.tolist(), start=last - len(rows) + 1):
            for tag, value in zip(_TAGS, row, strict=True):
                writer.add_scalar(tag, value, step)
        writer.flush()

    return write


def add_summary(folder: Path) -> Write:
    """Return a writer of an event for each iteration."""
    writer = SummaryWriter(str(folder))

    def write(last: int, rows: Rows) -> None:
        for step, row in enumerate(rows.tolist(), start=last - len(rows) + 1):
            values = [
                Summary.Value(tag=tag, simple_value=value)
                for tag, value in zip(_TAGS, row, strict=True)
            ]
            writer._get_file_writer().add_summary(Summary(value=values), step)
        writer.flush()

    return write


def event_file(folder: Path) -> Write:
    """Return the writer that trainings and sweeps use."""
    file = EventFile(folder, 0)

    def write(last: int, rows: Rows) -> None:
        file.add_rows(_TAGS, list(range(last - len(rows) + 1, last + 1)), rows)
        file.flush()

    return write


def measure(make: Callable[[Path], Write], every: int) -> tuple[float, float]:
    """Return microseconds of all threads and bytes an iteration."""
    rows = np.random.default_rng(0).normal(size=(_NUM_ITERATIONS, len(LOSSES))).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        write = make(Path(name))
        started = time.process_time()
        for last in range(every, _NUM_ITERATIONS + 1, every):
            write(last, rows[last - every : last])
        seconds = time.process_time() - started
        size = sum(path.stat().st_size for path in Path(name).iterdir())
    return 1e6 * seconds / _NUM_ITERATIONS, size / _NUM_ITERATIONS


def main() -> None:
    """Print the table."""
    print(describe_machine(), end="\n\n")
    print("| writer | " + " | ".join(f"{every} a report" for every in _EVERY) + " | bytes |")
    print("|---|" + "---|" * (len(_EVERY) + 1))
    for name, make in (
        ("`SummaryWriter.add_scalar`", add_scalar),
        ("`SummaryWriter`, one event an iteration", add_summary),
        ("`event_file.py`", event_file),
    ):
        found = [[measure(make, every) for _ in range(_REPEATS)] for every in _EVERY]
        times = [min(seconds for seconds, _ in repeats) for repeats in found]
        print(f"| {name} | " + " | ".join(f"{t:.0f}" for t in times) + f" | {found[-1][0][1]:.0f} |")


if __name__ == "__main__":
    main()
