"""How fast is one training, against the script that a reader of the tutorial would write?

``python -m tests.benchmarks.bench_train`` prints a table. Both train in this process, by turns, the
same networks on the same data with the same batch size, on one thread. The MNIST files are looked for
where TUNE_GAN_DATA says. Names of presets, if any are given, choose the rows.
"""

import gzip
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import MNIST

from tests.benchmarks.machine import describe_machine
from tests.benchmarks.ordinary import ordinary_networks
from tune_gan.config import GanConfig
from tune_gan.gan.memory import measure_memory
from tune_gan.gan.training import iterate
from tune_gan.places import data_root
from tune_gan.presets import load_preset

# Preset, precision and iterations of a round.
CASES = [
    ("simple", "fp32", 400),
    ("vanilla", "fp32", 60),
    ("vanilla", "bf16", 60),
    ("dcgan28", "fp32", 3),
    ("dcgan28", "bf16", 3),
]
ROUNDS = 7


def ordinary_script(config: GanConfig, loader: DataLoader[Any]) -> Iterator[tuple[float, float]]:
    """Train as the tutorial's loop does, and read both losses at every step."""
    generator, discriminator = ordinary_networks(config)
    opt_disc = torch.optim.Adam(discriminator.parameters(), lr=config.disc_lr)
    opt_gen = torch.optim.Adam(generator.parameters(), lr=config.gen_lr)
    criterion = nn.BCEWithLogitsLoss()
    for _epoch in itertools.count():
        for real, _label in loader:
            noise = torch.randn(len(real), config.latent_dim)
            fake = generator(noise)
            disc_real = discriminator(real)
            loss_real = criterion(disc_real, torch.ones_like(disc_real))
            disc_fake = discriminator(fake.detach())
            loss_fake = criterion(disc_fake, torch.zeros_like(disc_fake))
            loss_disc = (loss_real + loss_fake) / 2
            discriminator.zero_grad()
            loss_disc.backward()
            opt_disc.step()

            output = discriminator(fake)
            loss_gen = criterion(output, torch.ones_like(output))
            generator.zero_grad()
            loss_gen.backward()
            opt_gen.step()
            yield loss_disc.item(), loss_gen.item()


def ordinary_loader(config: GanConfig, root: Path) -> DataLoader[Any]:
    """Load MNIST as the tutorial does: every image made a tensor and scaled when its turn comes."""
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,), (0.5,))])
    return DataLoader(MNIST(str(root), transform=transform), config.batch_size, shuffle=True)


def unpack_mnist(root: Path) -> None:
    """Unpack the MNIST files to where torchvision looks for them under `root`."""
    raw = root / "MNIST/raw"
    raw.mkdir(parents=True)
    for packed in data_root(None).glob("mnist/*.gz"):
        (raw / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))


def measure(name: str, precision: str, iterations: int, root: Path) -> str:
    """Return a row: milliseconds an iteration of both, by turns, and the ratio of each turn."""
    config = load_preset(name).model_copy(update={"precision": precision, "device": "cpu"})
    script = ordinary_script(config, ordinary_loader(config, root))
    lengths = {"num_iterations": (ROUNDS + 2) * iterations, "report_every": iterations}
    loop, trained_before = iterate(config.model_copy(update=lengths)), 0.0
    theirs, ours = [], []
    for turn in range(ROUNDS + 1):
        started = time.perf_counter()
        for _ in range(iterations):
            next(script)
        script_s = time.perf_counter() - started
        trained = next(loop).metrics["train_time_s"]
        # The first turn warms both up.
        if turn:
            theirs.append(1000 * script_s / iterations)
            ours.append(1000 * (trained - trained_before) / iterations)
        trained_before = trained
    ratios = [a / b for a, b in zip(theirs, ours, strict=True)]
    low, middle, high = min(ratios), statistics.median(ratios), max(ratios)
    return (
        f"| {name} | {precision} | {statistics.median(theirs):.2f} | {statistics.median(ours):.2f} "
        f"| {middle:.2f} ({low:.2f} to {high:.2f}) |"
    )


def share_of_scoring(name: str) -> str:
    """Return a row: what share of its time a preset's run spends on scoring."""
    config = load_preset(name)
    # Two reports of the preset's own distance are enough to know the share.
    config = config.model_copy(update={"num_iterations": 2 * config.report_every, "device": "cpu"})
    first, second = (dict(report.metrics) for report in iterate(config))
    whole = second["time_s"] - first["time_s"]
    scoring = whole - (second["train_time_s"] - first["train_time_s"])
    share = 100 * scoring / whole
    return f"| {name} | {config.report_every} | {whole:.1f} | {scoring:.2f} | {share:.1f} % |"


def main() -> None:
    """Print the tables."""
    chosen = sys.argv[1:] or sorted({name for name, _, _ in CASES})
    torch.set_num_threads(1)
    print(describe_machine(), end="\n\n")
    print(
        "| preset | precision | script, ms | tune-gan, ms | script / tune-gan |\n|---|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as root:
        unpack_mnist(Path(root))
        for name, precision, iterations in CASES:
            if name in chosen:
                print(measure(name, precision, iterations, Path(root)), flush=True)
    print("\n| preset | report every | seconds a report | of these scoring | share |")
    print("|---|---|---|---|---|")
    for name in chosen:
        print(share_of_scoring(name), flush=True)
    print("\n| preset | peak memory of one training |\n|---|---|")
    for name in chosen:
        print(f"| {name} | {measure_memory(load_preset(name)).host / 1e9:.2f} GB |", flush=True)


if __name__ == "__main__":
    main()
