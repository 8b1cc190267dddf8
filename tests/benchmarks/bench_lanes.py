"""How many more trial-steps a second do lanes make than the ordinary loop?

``python -m tests.benchmarks.bench_lanes`` prints a table: the loops run by turns in this process, on
one thread, an iteration of a lane counting as one of a run alone.
"""

import statistics
import time
from typing import Any

import torch

from tests.benchmarks.machine import describe_machine
from tune_gan.config import GanConfig
from tune_gan.gan.lanes.pool import LanePool
from tune_gan.gan.training import iterate
from tune_gan.presets import load_preset

SMALL_RING = {"gen_hidden": (32, 32), "disc_hidden": (32, 32)}
# Name, preset, changes, iterations of a round.
CASES: list[tuple[str, str, dict[str, Any], int]] = [
    ("ring, 32 wide", "circle", {**SMALL_RING, "disc_steps": 1}, 100),
    ("ring, 32 wide, disc_steps 5", "circle", SMALL_RING, 40),
    ("ring, 32 wide, dropout 0.2", "circle", {**SMALL_RING, "disc_steps": 1, "dropout": 0.2}, 100),
    ("ring, 128 wide", "circle", {"disc_steps": 1}, 50),
    ("digits preset", "digits", {}, 5),
    ("dcgan28, 8 features, batch 16", "dcgan28", {"features": 8, "batch_size": 16}, 2),
]
NUM_LANES = (4, 16)
ROUNDS = 5


def measure(config: GanConfig, num_lanes: int, iterations: int) -> tuple[float, float]:
    """Return trial-iterations a second, of the ordinary loop and of so many lanes."""
    lengths = {"num_iterations": (ROUNDS + 2) * iterations, "report_every": iterations}
    config = config.model_copy(update={**lengths, "device": "cpu"})
    alone, before = iterate(config), 0.0
    pool = LanePool(config, num_lanes)
    for seed in range(num_lanes):
        pool.join(config.model_copy(update={"seed": seed}))
    ours, theirs = [], []
    for turn in range(ROUNDS + 1):
        trained = next(alone).metrics["train_time_s"]
        started = time.perf_counter()
        while not (due := pool.advance()):
            pass
        elapsed = time.perf_counter() - started
        for lane in due:
            pool.report(lane)
        # The first turn warms both up.
        if turn:
            theirs.append(iterations / (trained - before))
            ours.append(num_lanes * iterations / elapsed)
        before = trained
    return statistics.median(theirs), statistics.median(ours)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(describe_machine(), end="\n\n")
    print("| GAN | lanes | alone, iterations/s | in lanes, all together | gain |")
    print("|---|---|---|---|---|")
    for name, preset, changes, iterations in CASES:
        config = load_preset(preset).model_copy(update=changes)
        for num_lanes in NUM_LANES:
            alone, together = measure(config, num_lanes, iterations)
            ratio = together / alone
            print(f"| {name} | {num_lanes} | {alone:.1f} | {together:.1f} | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
