"""Does `fid_proxy` agree with dearer measures? ``python -m analysis.proxy RUN``.

Trains trials of a sweep once more, which gives the same generators, and measures these at several
ages in several ways. Unlike the rest of this folder it needs torch, and half an hour. What it has
measured is in ``RUN/proxy.jsonl``; given again, it goes on from there.
"""

import argparse
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from analysis import one_line
from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError
from tune_gan.files import append_line, read_lines
from tune_gan.gan.data import load_data, resize
from tune_gan.gan.scoring import generate, scorer_of
from tune_gan.gan.training import Report, ReportState, iterate
from tune_gan.metrics.frechet import FrechetReference
from tune_gan.metrics.imagenet import imagenet_features, load_mobilenet
from tune_gan.metrics.score import NUM_GENERATED, score_latents
from tune_gan.results.trials import TrialState, read_sweep, read_trials, trial_config

AGES = (0.05, 0.1, 0.2, 0.5, 1.0)
COUNTS = (500, 1000, 2000, 5000)
_IMAGENET_SIZE = 48
_OURS = "fid_proxy N=2000"
_IMAGENET = f"MobileNetV2 {_IMAGENET_SIZE}x{_IMAGENET_SIZE}, N=5000"


def measure_trial(config: GanConfig, weights: Path | None) -> list[dict[str, float]]:
    """Train a configuration and measure its generator at `AGES`, as far as it comes.

    Args:
        config: What to train; its reports must fall on the ages.
        weights: File of MobileNetV2's weights; by default that in torchvision's cache.

    Returns:
        For each age ``age, iteration``; ``fid_proxy N=...`` for `COUNTS`, each of other samples;
        ``coverage`` and ``kid`` of 2,000 more; and the Fréchet distance of 5,000, those of N=5000, to
        all held-out images in the features of MobileNetV2, unscaled, on images resized to 48x48 and
        grey tiled to three channels.
    """
    scorer = scorer_of(config)
    held_out = resize(load_data(config).held_out, config.image_size)
    features = imagenet_features(load_mobilenet(weights), _IMAGENET_SIZE)
    reference = FrechetReference(features(_in_colour(held_out)), scale=False)
    ages = {round(age * config.num_iterations): age for age in AGES}
    rows = []
    for report in iterate(config):
        iteration = int(report.metrics["iteration"])
        if iteration not in ages or report.state == ReportState.DIVERGED:
            continue
        # Each with latents of its own: else the noise of one draw would agree with itself.
        samples = {count: _samples(config, report, count) for count in COUNTS}
        row = {f"fid_proxy N={n}": scorer.score(part)["fid_proxy"] for n, part in samples.items()}
        others = scorer.score(_samples(config, report, 2000, seed=1))
        row |= {name: others[name] for name in ("coverage", "kid")}
        row[_IMAGENET] = reference.measure(features(_in_colour(samples[5000]))).value
        rows.append({"age": ages[iteration], "iteration": iteration, **row})
    return rows


def _samples(config: GanConfig, report: Report, count: int, seed: int | None = None) -> Tensor:
    latents = score_latents(config.latent_dim, count, seed or count)
    return generate(report.training.scored_generator, latents)


def _in_colour(images: Tensor) -> Tensor:
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def known_samples(config: GanConfig, weights: Path | None) -> pd.DataFrame:
    """Return what `fid_proxy` and the distance of MobileNetV2 say of samples of known faults.

    Returns:
        A row a fault, of 2,000 real training images each but for noise and blank ones.
    """
    data = load_data(config)
    held_out = resize(data.held_out, config.image_size)
    real = resize(data.train[:NUM_GENERATED], config.image_size)
    scorer = scorer_of(config)
    features = imagenet_features(load_mobilenet(weights), _IMAGENET_SIZE)
    reference = FrechetReference(features(_in_colour(held_out)), scale=False)
    source = torch.Generator().manual_seed(0)

    def with_noise(deviation: float) -> Tensor:
        noise = deviation * torch.randn(real.shape, generator=source)
        return (real + noise).clamp(0, 255).to(torch.uint8)

    faults = {
        "none": real,
        "noise of 10 grey levels": with_noise(10),
        "noise of 40 grey levels": with_noise(40),
        "each pixel the mean of 3x3": avg_pool2d(real.float(), 3, 1, 1).to(torch.uint8),
        "100 images, repeated": real[torch.randint(100, (len(real),), generator=source)],
        "one image, repeated": real[:1].expand(real.shape),
        "noise alone": torch.randint(256, real.shape, generator=source, dtype=torch.uint8),
        "blank": torch.zeros_like(real),
    }
    rows = [
        {
            "fault": fault,
            "fid_proxy": scorer.score(samples)["fid_proxy"],
            "MobileNetV2": reference.measure(features(_in_colour(samples))).value,
        }
        for fault, samples in faults.items()
    ]
    return pd.DataFrame(rows).set_index("fault")


def measure_run(run: Path, num_trials: int, workers: int, weights: Path | None) -> pd.DataFrame:
    """Measure the first completed trials of a run, a row a generator, going on from what is there."""
    _require_ages(GanConfig.parse(read_sweep(run)["gan"]))
    path = run / "proxy.jsonl"
    known = {line["trial"] for line in read_lines(path)[0]} if path.is_file() else set()
    trials = [trial for trial in read_trials(run) if trial.state == TrialState.COMPLETED][:num_trials]
    if not trials:
        raise ConfigError(f"{run} has no completed trial to measure")
    left = [trial for trial in trials if trial.number not in known]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = {
            t.number: pool.submit(measure_trial, trial_config(run, t.values), weights) for t in left
        }
        for done, (number, job) in enumerate(jobs.items(), start=1):
            append_line(path, {"trial": number, "generators": job.result()})
            print(f"trial {number}: {done} of {len(left)}", flush=True)
    measured = {line["trial"]: line["generators"] for line in read_lines(path)[0]}
    return pd.DataFrame(
        [{"trial": t.number, **row} for t in trials for row in measured.get(t.number, [])]
    )


def _require_ages(config: GanConfig) -> None:
    missed = [age for age in AGES if round(age * config.num_iterations) % config.report_every]
    if missed:
        raise ConfigError(
            f"the run has no report at {', '.join(f'{age:.0%}' for age in missed)} of training "
            f"(report_every {config.report_every} of {config.num_iterations}); take one that has"
        )


def agreement(generators: pd.DataFrame) -> pd.DataFrame:
    """Return how far `fid_proxy` at N = 2,000 orders generators as other measures do.

    Args:
        generators: What `measure_run` returns.

    Returns:
        A row a measure: Spearman's rho and Kendall's tau over all generators, and over the better half
        by `fid_proxy` at N = 2,000. Coverage counts with its sign changed, so that 1 is agreement.
    """
    better = generators[generators[_OURS] <= generators[_OURS].median()]
    names = [f"fid_proxy N={count}" for count in COUNTS if count != 2000]
    rows = []
    for name in [*names, "coverage", "kid", _IMAGENET]:
        sign = -1.0 if name == "coverage" else 1.0
        row: dict[str, Any] = {"measure": name}
        for part, label in ((generators, "all"), (better, "better half")):
            for method, letter in (("spearman", "rho"), ("kendall", "tau")):
                row[f"{letter}, {label}"] = part[_OURS].corr(sign * part[name], method=method)  # type: ignore[arg-type]
        rows.append(row)
    return pd.DataFrame(rows).set_index("measure")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the trials of the run folder that the command line names, and print what agrees."""
    parser = argparse.ArgumentParser(description="How far does fid_proxy agree with dearer measures?")
    parser.add_argument("run", type=Path, help="the folder of a sweep that had no scheduler")
    parser.add_argument("--trials", type=int, default=16, help="trials to train once more (16)")
    parser.add_argument("--workers", type=int, default=2, help="processes, a thread each (2)")
    parser.add_argument(
        "--weights", type=Path, help="MobileNetV2's weights, by default torchvision's cache"
    )
    options = parser.parse_args(arguments)
    with one_line(parser):
        generators = measure_run(options.run, options.trials, options.workers, options.weights)
    print(
        f"\n{len(generators)} generators of {generators['trial'].nunique()} trials: {_OURS} against\n"
    )
    print(agreement(generators).to_string(float_format="%.3f"))
    config = GanConfig.parse(read_sweep(options.run)["gan"])
    print("\nboth distances of real images with a known fault\n")
    print(known_samples(config, options.weights).to_string(float_format="%.1f"))


if __name__ == "__main__":
    main()
