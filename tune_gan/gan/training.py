"""The training loop."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tune_gan.config import GanConfig
from tune_gan.errors import CheckpointError
from tune_gan.gan.checkpoint import TrainingState
from tune_gan.gan.data import BatchOrder, Dataset, load_data, resize
from tune_gan.gan.graphs import Replayed
from tune_gan.gan.iteration import Iteration
from tune_gan.gan.models import build_networks, choose_device
from tune_gan.gan.optimizers import make_optimizer
from tune_gan.gan.precision import set_precision
from tune_gan.gan.scoring import generate, scorer_of
from tune_gan.gan.seeds import derive_seed
from tune_gan.metrics.score import Scorer, out_of_bounds, score_latents

_MOST_CAUSES = 3


class ReportState(StrEnum):
    """What a report says of its run."""

    RUNNING = "running"
    COMPLETED = "completed"
    DIVERGED = "diverged"


@dataclass(frozen=True)
class Report:
    """What a run tells every `report_every` iterations.

    Attributes:
        metrics: ``iteration``; ``epoch``, passes over the training samples so far; ``gen_loss,
            disc_loss`` (penalties included) and ``disc_real, disc_fake``, means since the last
            report; what `Scorer.score` returns, never NaN; ``best_fid_proxy``, the lowest so far of the
            samples that were not degenerate, if there were any; ``samples_per_s``,
            real samples a second of training since the last report, scoring not counted;
            ``train_time_s``, seconds of training so far, scoring not counted; ``time_s``, wall seconds
            of the run.
        state: Whether the run goes on, is complete or has diverged.
        cause: Why it diverged, else empty.
        training: The state to save; it changes as the run goes on.
    """

    metrics: dict[str, float]
    state: ReportState
    cause: str
    training: TrainingState


def iterate(config: GanConfig, checkpoint: Path | None = None) -> Iterator[Report]:
    """Train one GAN, reporting as it goes; the caller may stop at any report.

    The same configuration gives the same numbers on the same machine, alone, in a sweep, and after a
    stop and a resume. It seeds torch's global random numbers and sets its thread count.

    Args:
        config: What to train.
        checkpoint: Folder of a checkpoint of this configuration to go on from.

    Raises:
        DataError: if the data set cannot be loaded or is smaller than a batch.
        CheckpointError: if the checkpoint is damaged, of another configuration, or its scores were
            measured with another instrument.
    """
    # Load the data and what scores samples; build the networks or take them up where they were left.
    data, scorer = load_data(config), scorer_of(config)
    set_precision(config)
    # Nothing may draw random numbers between this, which seeds them, and the first step.
    training = begin(config, data)
    take_up(training, checkpoint, scorer.name())
    iteration = Iteration(training, resize(data.train, config.image_size))
    train = Replayed(iteration.train, iteration.device)

    steps_since, started = 0, time.perf_counter()
    while training.iteration < config.num_iterations and not training.cause:
        # Train on the next real samples until a report is due.
        iteration.take(training.batches)
        train()
        if training.average is not None:
            training.average.update_parameters(training.generator)
        training.iteration += 1
        steps_since += 1
        if not is_due(training):
            continue

        # Read the sums from the device, once, score the generator and report.
        means = means_of(iteration.sums.tolist(), steps_since, config.disc_steps)
        yield make_report(
            training, means, scorer, Times(time.perf_counter() - started, started), steps_since
        )
        iteration.sums.zero_()
        steps_since, started = 0, time.perf_counter()


class Times(NamedTuple):
    """Of what was done since the last report.

    Attributes:
        trained_s: Seconds of training.
        began: When it began, by `time.perf_counter`.
    """

    trained_s: float
    began: float


def means_of(sums: Sequence[float], steps: int, disc_steps: int) -> dict[str, float]:
    """Return what a report says of the losses, from the sums of so many iterations."""
    gen_loss, disc_loss, disc_real, disc_fake = sums
    return {
        "gen_loss": gen_loss / steps,
        "disc_loss": disc_loss / (steps * disc_steps),
        "disc_real": disc_real / (steps * disc_steps),
        "disc_fake": disc_fake / (steps * disc_steps),
    }


def is_due(training: TrainingState) -> bool:
    """Return whether a run is to report after this iteration."""
    config = training.config
    return training.iteration % config.report_every == 0 or training.iteration == config.num_iterations


def make_report(
    training: TrainingState, means: dict[str, float], scorer: Scorer, times: Times, steps: int
) -> Report:
    """Score the generator and say how the run stands.

    Args:
        training: The run; its history takes in the score.
        means: Of the losses since the last report, as `means_of` returns them.
        scorer: What to score with.
        times: Of the training since the last report.
        steps: Iterations since the last report.
    """
    config, trained_s = training.config, times.trained_s
    samples = generate(training.scored_generator, score_latents(config.latent_dim))
    cause = _divergence(means, training, samples)
    scores = scorer.worst() if cause else scorer.score(samples)
    training.record(scores, cause, trained_s)
    training.time_s += time.perf_counter() - times.began
    metrics = {
        "iteration": training.iteration,
        "epoch": training.batches.epochs_done,
        **means,
        **scores,
        "best_fid_proxy": training.best.fid_proxy,
        "samples_per_s": steps * config.disc_steps * config.batch_size / trained_s,
        "train_time_s": training.train_time_s,
        "time_s": training.time_s,
    }
    done = training.iteration == config.num_iterations
    state = ReportState.COMPLETED if done else ReportState.RUNNING
    return Report(metrics, ReportState.DIVERGED if cause else state, cause, training)


def take_up(training: TrainingState, checkpoint: Path | None, instrument: str) -> None:
    """Go on from a checkpoint, if there is one, and if its scores compare with those to come."""
    if checkpoint is not None:
        training.load(checkpoint)
        before = training.instrument
        if before and before != instrument:
            raise CheckpointError(
                f"{checkpoint} was scored with {before}, and would go on with {instrument}, which do "
                "not compare; go on with the data and the version of the program that it began with"
            )
    training.instrument = instrument


def begin(config: GanConfig, data: Dataset) -> TrainingState:
    """Build a run's networks and optimizers as they are before its first step.

    Seeds torch's global random numbers.

    Raises:
        ConfigError: if the device is not there.
        DataError: if a batch is larger than the data set.
    """
    device = choose_device(config.device)
    torch.manual_seed(derive_seed(config.seed, "weights and dropout"))
    generator, discriminator = (network.to(device) for network in build_networks(config))
    average = None
    if config.ema_decay:
        average = AveragedModel(
            generator, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay), use_buffers=True
        )
    return TrainingState(
        config=config,
        generator=generator,
        discriminator=discriminator,
        gen_optimizer=make_optimizer(config, generator, config.gen_lr),
        disc_optimizer=make_optimizer(config, discriminator, config.disc_lr),
        batches=BatchOrder(len(data.train), config.batch_size, config.seed),
        latent_source=torch.Generator(device).manual_seed(derive_seed(config.seed, "latents")),
        dropout_source=_global_source(device),
        average=average,
    )


def _global_source(device: torch.device) -> torch.Generator:
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return torch.cuda.default_generators[index]
    return torch.default_generator


def _divergence(means: dict[str, float], training: TrainingState, samples: Tensor) -> str:
    """Say what is not finite, or nothing: a loss, the last gradients, a weight, a sample."""
    broken = [f"{name} is {value}" for name, value in means.items() if not math.isfinite(value)]
    networks = {"generator": training.generator, "discriminator": training.discriminator}
    for name, network in networks.items():
        norm = float(get_total_norm([p.grad for p in network.parameters() if p.grad is not None]))
        if not math.isfinite(norm):
            broken.append(f"the gradient norm of the {name} is {norm}")
        if not all(bool(weight.isfinite().all()) for weight in network.state_dict().values()):
            broken.append(f"a weight of the {name} is not finite")
    if out_of_bounds(samples):
        broken.append("a generated sample is not finite or beyond 1e6")
    more = f" and {len(broken) - _MOST_CAUSES} more" if len(broken) > _MOST_CAUSES else ""
    return ", ".join(broken[:_MOST_CAUSES]) + more
