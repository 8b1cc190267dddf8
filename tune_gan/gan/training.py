"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from tune_gan.config import GanConfig
from tune_gan.gan.checkpoint import TrainingState
from tune_gan.gan.data import (
    RING_NOISE,
    RING_RADIUS,
    BatchOrder,
    Dataset,
    load_dataset,
    resize,
    to_saved_form,
    to_unit_range,
)
from tune_gan.gan.folder import list_folder
from tune_gan.gan.losses import (
    discriminator_loss,
    discriminator_output,
    generator_loss,
    gradient_penalty,
    r1_penalty,
)
from tune_gan.gan.models import build_networks, choose_device
from tune_gan.gan.seeds import derive_seed
from tune_gan.metrics.classifier import load_classifier
from tune_gan.metrics.fourier import fourier_features
from tune_gan.metrics.imagenet import imagenet_features, load_mobilenet
from tune_gan.metrics.ring import ring_measures
from tune_gan.metrics.score import Scorer, image_features, out_of_bounds, score_latents
from tune_gan.places import data_root

_OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
}
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
            report; ``fid_proxy, best_fid_proxy, coverage, spread`` and, on the ring, ``radial_error,
            sector_coverage``, never NaN; ``samples_per_s``, real samples a second of training since
            the last report, scoring not counted; ``train_time_s``, seconds of training so far,
            scoring not counted; ``time_s``, wall seconds of the run.
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
        CheckpointError: if the checkpoint is damaged or of another configuration.
    """
    # Load the data and what scores samples; build the networks or take them up where they were left.
    data = load_data(config)
    training = begin(config, data)
    scorer = scorer_of(config)
    if checkpoint is not None:
        training.load(checkpoint)
    generator, discriminator = training.generator, training.discriminator
    device = training.latent_source.device
    real_samples = resize(data.train, config.image_size).to(device)

    totals, steps_since, started = torch.zeros(4, device=device), 0, time.perf_counter()
    while training.iteration < config.num_iterations and not training.cause:
        # Train the discriminator, each step on fresh real and generated samples.
        for _ in range(config.disc_steps):
            real = to_unit_range(real_samples[training.batches.next().to(device)])
            with _autocast(config, device):
                with torch.no_grad():
                    fake = generator(_draw_latents(config, training))
                real_logits, fake_logits = discriminator(real), discriminator(fake)
            real_logits, fake_logits = real_logits.float(), fake_logits.float()
            disc_loss = discriminator_loss(
                config.loss, real_logits, fake_logits, config.label_smoothing
            )
            disc_loss = disc_loss + _penalties(training, real, fake.float())
            training.disc_optimizer.zero_grad()
            disc_loss.backward()
            training.disc_optimizer.step()
            outputs = (discriminator_output(config.loss, x) for x in (real_logits, fake_logits))
            totals[1:] += torch.stack([disc_loss, *outputs]).detach()

        # Train the generator against the frozen discriminator, its dropout off.
        with _frozen(discriminator), _autocast(config, device):
            logits = discriminator(generator(_draw_latents(config, training)))
            gen_loss = generator_loss(config.loss, logits.float())
        training.gen_optimizer.zero_grad()
        gen_loss.backward()
        training.gen_optimizer.step()
        if training.average is not None:
            training.average.update_parameters(generator)
        totals[0] += gen_loss.detach()

        # Go on until a report is due.
        training.iteration += 1
        steps_since += 1
        done = training.iteration == config.num_iterations
        if training.iteration % config.report_every and not done:
            continue

        # Read the sums from the device, once, and score the generator.
        means = _means(totals, steps_since, config.disc_steps)
        trained_s = time.perf_counter() - started
        samples = generate(training.scored_generator, score_latents(config.latent_dim))
        cause = _divergence(means, training, samples)
        scores = scorer.worst() if cause else scorer.score(samples)
        training.record(scores["fid_proxy"], cause, trained_s)
        training.time_s += time.perf_counter() - started

        # Report.
        metrics = {
            "iteration": training.iteration,
            "epoch": training.batches.epoch + training.batches.offset / len(data.train),
            **means,
            **scores,
            "best_fid_proxy": training.best_score,
            "samples_per_s": steps_since * config.disc_steps * config.batch_size / trained_s,
            "train_time_s": training.train_time_s,
            "time_s": training.time_s,
        }
        state = ReportState.COMPLETED if done else ReportState.RUNNING
        yield Report(metrics, ReportState.DIVERGED if cause else state, cause, training)
        totals, steps_since, started = torch.zeros(4, device=device), 0, time.perf_counter()


def generate(generator: nn.Module, latents: Tensor) -> Tensor:
    """Generate samples as they would be saved: uint8 images ``(N, C, H, W)`` or points ``(N, 2)``.

    Args:
        generator: Put into evaluation mode for it, and back.
        latents: ``(N, latent_dim)``, on any device; the samples come back on the CPU.
    """
    device = next(generator.parameters()).device
    was_training = generator.training
    generator.eval()
    with torch.inference_mode():
        chunks = [to_saved_form(generator(c.to(device))).cpu() for c in latents.split(500)]
    generator.train(was_training)
    return torch.cat(chunks)


def rescore(training: TrainingState, count: int, num_seeds: int) -> list[float]:
    """Score a run's best generator anew, on other latents than those that chose it.

    Args:
        training: The run.
        count: Samples of a score.
        num_seeds: How many scores, each with its own latents, the same for every run.

    Returns:
        A `fid_proxy` for each set of latents.
    """
    generator = deepcopy(training.scored_generator)
    generator.load_state_dict(training.best_generator)
    scorer = scorer_of(training.config)
    return [
        scorer.score(generate(generator, score_latents(training.config.latent_dim, count, seed)))[
            "fid_proxy"
        ]
        for seed in range(1, num_seeds + 1)
    ]


def score_of_real(config: GanConfig, count: int, num_seeds: int) -> list[float]:
    """Score real training samples as if they were generated: what no generator gets below for long.

    Args:
        config: A configuration, whose data set and image size count.
        count: Samples of a score; fewer where the data set holds fewer.
        num_seeds: How many scores, each of other samples.
    """
    real = resize(load_data(config).train, config.image_size)
    scorer = scorer_of(config)
    scores = []
    for seed in range(1, num_seeds + 1):
        order = torch.randperm(len(real), generator=torch.Generator().manual_seed(seed))
        scores.append(scorer.score(real[order[:count]])["fid_proxy"])
    return scores


def prepare(config: GanConfig) -> None:
    """Load what a run needs, and train its feature network, where that was not done yet.

    To be called once, before the first of many runs; what is wrong is said before what takes long.

    Raises:
        DataError: if the data set or the weights of its feature network cannot be loaded, or a batch
            is larger than the data set.
    """
    if config.dataset == "folder":
        # What is missing is said before a hundred thousand images are decoded.
        list_folder(data_root(config.data_root))
        load_mobilenet(Path(config.weights) if config.weights else None)
    BatchOrder(len(load_data(config).train), config.batch_size, config.seed)
    scorer_of(config)


def load_data(config: GanConfig) -> Dataset:
    """Load what a configuration trains on, once a process.

    Raises:
        DataError: if it cannot be loaded.
    """
    return load_dataset(config.dataset, data_root(config.data_root), config.image_size)


def scorer_of(config: GanConfig) -> Scorer:
    """Return what a configuration is scored with, made once a process.

    Sets torch's thread count, on which the sums in a score depend.

    Raises:
        DataError: if the data set or the weights of its feature network cannot be loaded.
    """
    torch.set_num_threads(config.num_threads)
    root = data_root(config.data_root)
    return load_scorer(config.dataset, root, config.image_size, config.weights)


@lru_cache(maxsize=1)
def load_scorer(dataset: str, root: Path, image_size: int | None, weights: str | None = None) -> Scorer:
    """Return the score of a data set, its feature network trained now if it is not in the cache.

    The feature network sees labelled images at the data set's own size. Real images go through
    `image_size` and back as generated ones do, so that what resizing takes away is missing on both
    sides. A folder's images, which have no labels, are scored in ImageNet features.

    Args:
        dataset: The data set's name.
        root: Where its files lie, for MNIST, Fashion-MNIST and a folder.
        image_size: Height and width of the images to score; None for points.
        weights: File of the ImageNet network's weights; None for torchvision's cache.

    Raises:
        DataError: if the data set or the weights cannot be loaded.
    """
    native = load_dataset(dataset, root, image_size)
    if dataset == "circle":
        return Scorer(
            fourier_features,
            native.held_out,
            lambda points: ring_measures(points, RING_RADIUS, RING_NOISE),
        )
    if native.train_labels is None:
        network = load_mobilenet(Path(weights) if weights else None)
        # As published for ImageNet features: unscaled.
        return Scorer(imagenet_features(network), native.held_out, scale=False)
    classifier = load_classifier(dataset, native.train, native.train_labels)
    return Scorer(image_features(classifier), resize(native.held_out, image_size))


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
        gen_optimizer=_optimizer(config, generator, config.gen_lr),
        disc_optimizer=_optimizer(config, discriminator, config.disc_lr),
        batches=BatchOrder(len(data.train), config.batch_size, config.seed),
        latent_source=torch.Generator(device).manual_seed(derive_seed(config.seed, "latents")),
        average=average,
    )


def _optimizer(config: GanConfig, network: nn.Module, learning_rate: float) -> torch.optim.Optimizer:
    parameters = network.parameters()
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, lr=learning_rate, momentum=config.beta1)
    if config.optimizer == "rmsprop":
        return torch.optim.RMSprop(
            parameters, lr=learning_rate, alpha=config.beta2, momentum=config.beta1
        )
    fused = {"fused": True} if config.optimizer in ("adam", "adamw") else {}
    betas = (config.beta1, config.beta2)
    return _OPTIMIZERS[config.optimizer](parameters, lr=learning_rate, betas=betas, **fused)


def _draw_latents(config: GanConfig, training: TrainingState) -> Tensor:
    source = training.latent_source
    return torch.randn(config.batch_size, config.latent_dim, generator=source, device=source.device)


def _penalties(training: TrainingState, real: Tensor, fake: Tensor) -> Tensor | float:
    """Return the weighted gradient penalties that the configuration asks for, in single precision."""
    config, discriminator = training.config, training.discriminator
    total: Tensor | float = 0.0
    if config.gp_weight:
        penalty = gradient_penalty(discriminator, real, fake, training.latent_source)
        total = total + config.gp_weight * penalty
    if config.r1_weight:
        total = total + config.r1_weight * r1_penalty(discriminator, real)
    return total


def _autocast(config: GanConfig, device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16")


@contextmanager
def _frozen(discriminator: nn.Module) -> Iterator[None]:
    """Compute no gradients of the discriminator and drop none of its units; batch norm is as ever."""
    dropouts = [module for module in discriminator.modules() if isinstance(module, nn.Dropout)]
    discriminator.requires_grad_(False)
    for dropout in dropouts:
        dropout.eval()
    try:
        yield
    finally:
        discriminator.requires_grad_(True)
        for dropout in dropouts:
            dropout.train()


def _means(totals: Tensor, steps: int, disc_steps: int) -> dict[str, float]:
    gen_loss, disc_loss, disc_real, disc_fake = totals.tolist()
    return {
        "gen_loss": gen_loss / steps,
        "disc_loss": disc_loss / (steps * disc_steps),
        "disc_real": disc_real / (steps * disc_steps),
        "disc_fake": disc_fake / (steps * disc_steps),
    }


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
