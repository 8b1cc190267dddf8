"""What a GPU gains: an iteration as one CUDA graph, other arithmetic, and lanes.

``python -m tests.benchmarks.gpu`` needs torch and this package alone, and a GPU; ``--device cpu`` shows
that the script works. First it checks that a replayed training and one in lanes give the numbers of
one that is launched step by step, then it prints iterations a second. The networks are those of the
presets, and the images digits at their size.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from tests.benchmarks.machine import describe_machine
from tests.benchmarks.ordinary import ordinary_networks
from tune_gan.config import GanConfig
from tune_gan.gan.data import load_data, resize, to_unit_range
from tune_gan.gan.graphs import Replayed
from tune_gan.gan.iteration import Iteration
from tune_gan.gan.lanes.pool import LanePool
from tune_gan.gan.models import choose_device
from tune_gan.gan.precision import set_precision
from tune_gan.gan.real_samples import RealSamples
from tune_gan.gan.training import begin, iterate
from tune_gan.presets import load_preset

ROUNDS = 5
# Iterations of seed 001: 100 passes over MNIST in batches of 128.
ITERATIONS_OF_SEED_001 = 46_900
# Doubling the lanes pays while it gives so many times more iterations a second.
LEAST_GAIN = 1.1
MOST_LANES = 256
# At so low a learning rate, trainings whose last bits differ stay as close for 200 iterations.
CHECKED = {"num_iterations": 200, "report_every": 100, "gen_lr": 1e-5, "disc_lr": 1e-5}
TOLERANCE = 1e-5

Train = Callable[[], object]


def on_digits(preset: str, device: str, **changes: Any) -> GanConfig:
    """Return a preset's configuration with digits for its images."""
    values = load_preset(preset).model_dump(mode="json")
    return GanConfig.parse({**values, "dataset": "digits", "device": device, **changes})


def tune_gans(config: GanConfig, *, graph: bool = True, channels_last: bool = False) -> Train:
    """Return what trains one iteration as `tune_gan.gan.training.iterate` does."""
    data = load_data(config)
    training = begin(config, data)
    config, device = training.config, training.latent_source.device
    set_precision(config)
    if channels_last:
        for network in (training.generator, training.discriminator):
            network.to(memory_format=torch.channels_last)
    iteration = Iteration(training, RealSamples(resize(data.train, config.image_size), device))
    train = Replayed(iteration.train, iteration.device) if graph else iteration.train

    def one() -> None:
        iteration.take(training.batches)
        train()

    return one


def ordinary(config: GanConfig) -> Train:
    """Return what trains one iteration as the tutorial's loop does, the losses read at every step.

    Its samples are on the device already, which the tutorial's are not.
    """
    set_precision(config)
    device = choose_device(config.device)
    samples = resize(load_data(config).train, config.image_size).to(device)
    generator, discriminator = (network.to(device) for network in ordinary_networks(config))
    opt_disc = torch.optim.Adam(discriminator.parameters(), lr=config.disc_lr)
    opt_gen = torch.optim.Adam(generator.parameters(), lr=config.gen_lr)
    criterion = nn.BCEWithLogitsLoss()

    def step(loss: Tensor, network: nn.Module, optimizer: torch.optim.Optimizer) -> float:
        network.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    def one() -> None:
        indices = torch.randint(len(samples), (config.batch_size,))
        real = to_unit_range(samples[indices.to(device)])
        fake = generator(torch.randn(config.batch_size, config.latent_dim, device=device))
        disc_real, disc_fake = discriminator(real), discriminator(fake.detach())
        loss_real = criterion(disc_real, torch.ones_like(disc_real))
        loss_fake = criterion(disc_fake, torch.zeros_like(disc_fake))
        step((loss_real + loss_fake) / 2, discriminator, opt_disc)
        output = discriminator(fake)
        step(criterion(output, torch.ones_like(output)), generator, opt_gen)

    return one


def in_lanes(config: GanConfig, num_lanes: int, iterations: int) -> Train:
    """Return what trains so many iterations of every lane."""
    lengths = {"num_iterations": 1_000_000, "report_every": iterations}
    config = config.model_copy(update=lengths)
    pool = LanePool(config, num_lanes)
    for seed in range(num_lanes):
        pool.join(config.model_copy(update={"seed": seed}))

    def many() -> None:
        while not (due := pool.advance()):
            pass
        # As after a report, without its scores.
        for lane in due:
            lane.steps = 0

    return many


def rate(train: Train, calls: int, device: torch.device) -> float:
    """Return calls a second, the median of some rounds, the first of which warms up."""
    rates = []
    for _ in range(ROUNDS + 1):
        started = time.perf_counter()
        for _ in range(calls):
            train()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        rates.append(calls / (time.perf_counter() - started))
    return statistics.median(rates[1:])


def check(config: GanConfig) -> bool:
    """Print how far losses are from those of a training step by step; return whether near enough."""
    config = config.model_copy(update=CHECKED)
    # Without a graph, all calls are what goes before one.
    with mock.patch("tune_gan.gan.graphs.WARM_UPS", config.num_iterations):
        alone = [report.metrics for report in iterate(config)]
    replayed = [report.metrics for report in iterate(config)]
    pool = LanePool(config, 2)
    ours = pool.join(config)
    lanes: list[dict[str, float]] = []
    pool.join(config.model_copy(update={"seed": config.seed + 1, "gen_lr": 1e-4}))
    while len(lanes) < len(alone):
        for lane in pool.advance():
            report = pool.report(lane)
            if lane is ours:
                lanes.append(report.metrics)
    agrees = True
    for name, others in (("as one graph", replayed), ("in lanes", lanes)):
        furthest = max(
            abs(other[loss] / one[loss] - 1)
            for one, other in zip(alone, others, strict=True)
            for loss in ("gen_loss", "disc_loss")
        )
        print(f"{config.architecture} {config.precision}, {name}: {furthest:.1e} from step by step")
        agrees = agrees and furthest <= TOLERANCE
    return agrees


def print_rates(preset: str, device: torch.device, calls: int) -> None:
    """Print a table of one preset: the script, tune-gan's own loop in several ways, and lanes."""
    single = on_digits(preset, str(device))
    bf16 = single.model_copy(update={"precision": "bf16"})
    tf32 = single.model_copy(update={"precision": "tf32"})
    # Each is made when its turn comes, since precision is that of the whole process.
    rows: list[tuple[str, Callable[[], Train]]] = [
        ("tutorial's loop, fp32", partial(ordinary, single)),
        ("step by step, fp32", partial(tune_gans, single, graph=False)),
        ("one graph, fp32", partial(tune_gans, single)),
        ("one graph, tf32", partial(tune_gans, tf32)),
        ("one graph, bf16", partial(tune_gans, bf16)),
    ]
    if single.architecture != "mlp":
        last = partial(tune_gans, bf16, channels_last=True)
        rows.append(("one graph, bf16, channels_last", last))
    print(f"\n| {preset} | iterations/s | of the tutorial's | seconds of 100 epochs |")
    print("|---|---|---|---|")
    base = best = 0.0
    for name, make in rows:
        speed = rate(make(), calls, device)
        base = base or speed
        best = max(best, speed)
        seconds = ITERATIONS_OF_SEED_001 / speed
        print(f"| {name} | {speed:.1f} | {speed / base:.2f} | {seconds:.1f} |", flush=True)
    print_lanes(bf16, device, calls, (base, best))


def print_lanes(
    config: GanConfig, device: torch.device, calls: int, others: tuple[float, float]
) -> None:
    """Print rows of lanes, doubled while that pays: against the script and the fastest of one."""
    print("\n| lanes, bf16 | iterations/s, all together | of the tutorial's | of the fastest alone |")
    print("|---|---|---|---|")
    script, alone = others
    lanes, before = 2, 0.0
    while lanes <= MOST_LANES:
        iterations = max(1, calls // lanes)
        speed = lanes * iterations * rate(in_lanes(config, lanes, iterations), 1, device)
        ratios = f"{speed / script:.2f} | {speed / alone:.2f}"
        print(f"| {lanes} | {speed:.1f} | {ratios} |", flush=True)
        if speed < LEAST_GAIN * before:
            return
        before, lanes = speed, 2 * lanes


def main() -> None:
    """Check that the ways agree, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to see that this works")
    parser.add_argument("--calls", type=int, default=500, help="iterations of a round")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU here; --device cpu shows that this script works")
    print(describe_machine(), end="\n\n")
    small = {"features": 8, "batch_size": 16}
    checks = [on_digits("vanilla", str(device)), on_digits("dcgan28", str(device), **small)]
    agree = [check(config) for config in checks]
    for preset in ("vanilla", "dcgan28"):
        print_rates(preset, device, arguments.calls)
    if not all(agree):
        sys.exit(f"not all agree to {TOLERANCE:g}")


if __name__ == "__main__":
    main()
