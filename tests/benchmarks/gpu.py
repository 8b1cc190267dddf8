"""What a GPU gains: an iteration as one CUDA graph, other arithmetic, lanes, and whole trainings.

``python -m tests.benchmarks.gpu`` needs torch and this package alone, and a GPU; ``--device cpu`` shows
that the script works. First it checks that a replayed training and one in lanes give the numbers of
one that is launched step by step, and that a score is that of a CPU. Then it prints iterations a
second, how much of a training its reports take, and how long a whole one of the preset ``vanilla``
takes, as ``tune-gan train`` trains it. The networks are those of the presets, and the images digits at
their size.
"""

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
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
from tune_gan.gan.precision import set_precision, with_precision
from tune_gan.gan.real_samples import RealSamples
from tune_gan.gan.run_folder import train
from tune_gan.gan.scoring import generate, scorer_of
from tune_gan.gan.training import Report, begin, iterate
from tune_gan.metrics.score import score_latents
from tune_gan.presets import load_preset

ROUNDS = 5
# Iterations of seed 001: 100 passes over MNIST in batches of 128.
ITERATIONS_OF_SEED_001 = 46_900
# Doubling the lanes pays while it gives so many times more iterations a second.
LEAST_GAIN = 1.1
MOST_LANES = 256
# At so low a learning rate, trainings whose last bits differ stay as close for 200 iterations.
CHECKED = {"num_iterations": 200, "report_every": 100, "gen_lr": 1e-5, "disc_lr": 1e-5}
# Sums of other order: 6e-6 on an AMD EPYC, 2.4e-5 on an Intel Xeon, both in lanes.
TOLERANCE = 1e-4
TOLERANCE_OF_SCORES = 1e-4

Train = Callable[[], object]


def on_digits(preset: str, device: str, **changes: Any) -> GanConfig:
    """Return a preset's configuration with digits for its images; a ring stays one."""
    values = load_preset(preset).model_dump(mode="json")
    dataset = {} if values["dataset"] == "circle" else {"dataset": "digits"}
    return GanConfig.parse({**values, **dataset, "device": device, **changes})


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
    others_by_name = {"as one graph": replayed, "in lanes": lanes}
    for name, others in others_by_name.items():
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
    single = on_digits(preset, str(device), precision="fp32")
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
    for precision in (tf32, bf16):
        print_lanes(precision, device, calls, (base, best))


def print_lanes(
    config: GanConfig, device: torch.device, calls: int, others: tuple[float, float]
) -> None:
    """Print rows of lanes, doubled while that pays: against the script and the fastest of one."""
    heading = f"lanes, {config.precision}"
    print(f"\n| {heading} | iterations/s, all together | of the tutorial's | of the fastest alone |")
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


def check_score(config: GanConfig) -> bool:
    """Print how far a score is from that of the same samples on a CPU; return whether near enough."""
    on_cpu = config.model_copy(update={"device": "cpu"})
    generator = begin(config, load_data(config)).generator
    samples = generate(generator, score_latents(config.latent_dim))
    expected, found = scorer_of(on_cpu).score(samples.cpu()), scorer_of(config).score(samples)
    furthest = max(abs(found[name] - value) / max(abs(value), 1e-3) for name, value in expected.items())
    print(f"{config.architecture}, the score: {furthest:.1e} from a CPU's")
    return furthest <= TOLERANCE_OF_SCORES


def print_reports(presets: Sequence[str], device: torch.device, iterations: int | None) -> None:
    """Print how much of a training its reports take, as ``tune-gan train`` trains three of them."""
    print("\n| preset | precision | iterations a report | training, s | with its report, s | share |")
    print("|---|---|---|---|---|---|")
    for preset in presets:
        config = on_digits(preset, str(device))
        every = iterations or config.report_every
        config = config.model_copy(update={"report_every": every, "num_iterations": 4 * every})
        metrics: list[dict[str, float]] = []
        _, precision, _ = trained(config, partial(_note, metrics))
        # The first has the start of CUDA, the capture and the first pinned memory in it.
        trained_s, whole_s = (
            (metrics[-1][name] - metrics[0][name]) / (len(metrics) - 1)
            for name in ("train_time_s", "time_s")
        )
        share = 1 - trained_s / whole_s
        row = f"{precision} | {every} | {trained_s:.3f} | {whole_s:.3f} | {share:.0%}"
        print(f"| {preset} | {row} |", flush=True)


def _note(metrics: list[dict[str, float]], report: Report) -> None:
    metrics.append(report.metrics)


def print_whole(device: torch.device, iterations: int | None) -> None:
    """Print how long a whole training of the preset ``vanilla`` takes, folder and all."""
    config = on_digits("vanilla", str(device))
    if iterations is not None:
        lengths = {"num_iterations": 4 * iterations, "report_every": iterations}
        config = config.model_copy(update=lengths)
    seconds, precision, score = trained(config, None)
    print(
        f"\na whole training of vanilla, {config.num_iterations} iterations in {precision}: "
        f"{seconds:.1f} s, best fid_proxy {score:.4g}"
    )


def trained(config: GanConfig, on_report: Callable[[Report], None] | None) -> tuple[float, str, float]:
    """Train into a folder; return the seconds, the precision that was chosen, and the best score."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        result = train(config, Path(folder) / "run", on_report=on_report)
        seconds = time.perf_counter() - started
        precision = with_precision(config, choose_device(config.device)).precision
    return seconds, precision, result.best_fid_proxy


def main() -> None:
    """Check that the ways agree, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to see that this works")
    parser.add_argument("--calls", type=int, default=500, help="iterations of a round")
    parser.add_argument(
        "--report-every", type=int, help="for a trial of this script: shorter trainings"
    )
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU here; --device cpu shows that this script works")
    print(describe_machine(), end="\n\n")
    small = {"features": 8, "batch_size": 16}
    single: dict[str, Any] = {"precision": "fp32"}
    checks = [
        on_digits("vanilla", str(device), **single),
        on_digits("dcgan28", str(device), **single, **small),
    ]
    agree = [check(config) for config in checks] + [check_score(config) for config in checks]
    for preset in ("vanilla", "dcgan28"):
        print_rates(preset, device, arguments.calls)
    print_reports(("circle", "digits", "vanilla", "dcgan28"), device, arguments.report_every)
    print_whole(device, arguments.report_every)
    if not all(agree):
        sys.exit(f"not all agree to {TOLERANCE:g}, scores to {TOLERANCE_OF_SCORES:g}")


if __name__ == "__main__":
    main()
