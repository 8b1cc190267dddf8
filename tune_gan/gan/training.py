"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel

from tune_gan.config import GanConfig
from tune_gan.errors import CheckpointError
from tune_gan.gan.checkpoint import TrainingState
from tune_gan.gan.data import BatchOrder, Dataset, load_data
from tune_gan.gan.graphs import Replayed
from tune_gan.gan.iteration import Iteration
from tune_gan.gan.loss_buffer import Losses
from tune_gan.gan.models import build_networks, choose_device
from tune_gan.gan.optimizers import is_capturable, make_optimizer
from tune_gan.gan.precision import set_precision, wants_channels_last, with_precision
from tune_gan.gan.real_samples import real_samples
from tune_gan.gan.scoring import generate, scorer_of
from tune_gan.gan.seeds import derive_seed
from tune_gan.losses_file import LOSSES, Rows
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
            report; ``gen_loss_std, disc_loss_std``, their standard deviations from iteration to
            iteration; what `Scorer.score` returns, never NaN; ``best_fid_proxy``, the lowest so far of
            the samples that were not degenerate, if there were any; ``samples_per_s``, real samples a
            second of training since the last report, scoring not counted; ``train_time_s``, seconds of
            training so far, scoring not counted; ``time_s``, wall seconds of the run.
        state: Whether the run goes on, is complete or has diverged.
        cause: Why it diverged, else empty.
        training: The state to save; it changes as the run goes on.
        losses: Of each iteration since the last report, as `tune_gan.losses_file` has them.
        note: What to tell of the run, beside its numbers; empty where there is nothing.
    """

    metrics: dict[str, float]
    state: ReportState
    cause: str
    training: TrainingState
    losses: Rows
    note: str = ""


def iterate(
    config: GanConfig, checkpoint: Path | None = None, meanwhile: Callable[[], None] = lambda: None
) -> Iterator[Report]:
    """Train one GAN, reporting as it goes; the caller may stop at any report.

    The same configuration gives the same numbers on the same machine, alone, in a sweep, and after a
    stop and a resume. It seeds torch's global random numbers and sets its thread count.

    Args:
        config: What to train.
        checkpoint: Folder of a checkpoint of this configuration to go on from.
        meanwhile: Called after each iteration was begun with, while a GPU may still be at it.

    Raises:
        DataError: if the data set cannot be loaded or is smaller than a batch.
        CheckpointError: if the checkpoint is damaged, of another configuration, or its scores were
            measured with another instrument.
    """
    # Load the data and what scores samples; build the networks or take them up where they were left.
    data, scorer = load_data(config), scorer_of(config)
    # Nothing may draw random numbers between this, which seeds them, and the first step.
    training = begin(config, data)
    config, device = training.config, training.latent_source.device
    set_precision(config)
    take_up(training, checkpoint, scorer.name())
    iteration = Iteration(training, real_samples(data, config.image_size, device))
    train = Replayed(iteration.train, device, is_capturable=is_capturable(config))

    started = time.perf_counter()
    while training.iteration < config.num_iterations and not training.cause:
        # Train on the next real samples until a report is due.
        iteration.take(training.batches)
        train()
        if training.average is not None:
            training.average.n_averaged += 1
        training.iteration += 1
        # What is done meanwhile is no training.
        paused = time.perf_counter()
        meanwhile()
        started += time.perf_counter() - paused
        if not is_due(training):
            continue

        # Read the losses from the device, once, score the generator and report.
        losses = iteration.losses.read()
        times = Times(time.perf_counter() - started, started)
        yield make_report(training, losses, scorer, times, train.problem)
        started = time.perf_counter()


class Times(NamedTuple):
    """Of what was done since the last report.

    Attributes:
        trained_s: Seconds of training.
        began: When it began, by `time.perf_counter`.
    """

    trained_s: float
    began: float


def is_due(training: TrainingState) -> bool:
    """Return whether a run is to report after this iteration."""
    config = training.config
    return training.iteration % config.report_every == 0 or training.iteration == config.num_iterations


def make_report(
    training: TrainingState, losses: Losses, scorer: Scorer, times: Times, note: str = ""
) -> Report:
    """Score the generator and say how the run stands.

    Args:
        training: The run; its history takes in the score.
        losses: Of the iterations since the last report.
        scorer: What to score with.
        times: Of the training since the last report.
        note: What to tell of the run, beside its numbers.
    """
    config, trained_s = training.config, times.trained_s
    samples = generate(training.scored_generator, score_latents(config.latent_dim))
    cause = _divergence({name: losses.metrics[name] for name in LOSSES}, training, samples)
    scores = scorer.worst() if cause else scorer.score(samples)
    training.record(scores, cause, trained_s)
    training.time_s += time.perf_counter() - times.began
    metrics = {
        "iteration": training.iteration,
        "epoch": training.batches.epochs_done,
        **losses.metrics,
        **scores,
        "best_fid_proxy": training.best.fid_proxy,
        "samples_per_s": len(losses.rows) * config.disc_steps * config.batch_size / trained_s,
        "train_time_s": training.train_time_s,
        "time_s": training.time_s,
    }
    done = training.iteration == config.num_iterations
    state = ReportState.COMPLETED if done else ReportState.RUNNING
    state = ReportState.DIVERGED if cause else state
    return Report(metrics, state, cause, training, losses.rows, note)


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
    if device.index is not None and device.type == "cuda":
        # Or else pinned memory would make a context on the first GPU, too.
        torch.cuda.set_device(device)
    config = with_precision(config, device)
    torch.manual_seed(derive_seed(config.seed, "weights and dropout"))
    generator, discriminator = build_networks(config)
    for network in (generator, discriminator):
        if wants_channels_last(config, device):
            network.to(memory_format=torch.channels_last)
        network.to(device)
    average = AveragedModel(generator, use_buffers=True) if config.ema_decay else None
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
    if device.type == "mps":
        return torch.mps._get_default_mps_generator()
    return torch.default_generator


def _divergence(means: Mapping[str, float], training: TrainingState, samples: Tensor) -> str:
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
