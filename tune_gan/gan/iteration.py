"""One iteration of the training loop."""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tune_gan.config import GanConfig
from tune_gan.gan.checkpoint import TrainingState
from tune_gan.gan.data import BatchOrder, to_unit_range
from tune_gan.gan.dropout import Dropout
from tune_gan.gan.loss_buffer import LossBuffer
from tune_gan.gan.losses import (
    discriminator_loss,
    discriminator_output,
    generator_loss,
    gradient_penalty,
    r1_penalty,
)
from tune_gan.gan.optimizers import step_of
from tune_gan.gan.precision import autocast
from tune_gan.gan.real_samples import RealSamples


class Iteration:
    """One iteration of a run, on tensors that stay where they are.

    Args:
        training: The run.
        samples: All real samples, on the run's device or the host.

    Attributes:
        device: Where it works.
        losses: Of the iterations since they were read.
    """

    def __init__(self, training: TrainingState, samples: RealSamples) -> None:
        config, device = training.config, training.latent_source.device
        self.device = device
        self._training, self._samples = training, samples
        self._frozen = _Frozen(training.discriminator)
        self._step_generator = step_of(training.gen_optimizer)
        self._step_discriminator = step_of(training.disc_optimizer)
        self._batches = samples.batches((config.disc_steps, config.batch_size))
        self._average = None
        if training.average is not None:
            self._average = _Average(training.average, training.generator, config.ema_decay)
        self.losses = LossBuffer(config.report_every, config.disc_steps, device)

    def take(self, batches: BatchOrder) -> None:
        """Take the next batches of real samples, one for each discriminator step."""
        self.losses.expect_row()
        for batch in self._batches:
            self._samples.put(batches.next(), batch)

    def train(self) -> None:
        """Train both networks."""
        training, steps = self._training, list[Tensor]()
        config, generator, discriminator = (
            training.config,
            training.generator,
            training.discriminator,
        )

        # Train the discriminator, each step on fresh real and generated samples.
        for batch in self._batches:
            real = to_unit_range(self._samples.take(batch))
            with autocast(config, self.device):
                with torch.no_grad():
                    fake = generator(_draw_latents(config, training))
                real_logits, fake_logits = _judge(config, discriminator, real, fake)
            disc_loss = discriminator_loss(
                config.loss, real_logits, fake_logits, config.label_smoothing
            )
            disc_loss = disc_loss + _penalties(training, real, fake.float())
            training.disc_optimizer.zero_grad()
            disc_loss.backward()
            self._step_discriminator()
            with torch.no_grad():
                outputs = (discriminator_output(config.loss, x) for x in (real_logits, fake_logits))
                steps.append(torch.stack([disc_loss, *outputs]))

        # Train the generator against the frozen discriminator, its dropout off.
        with self._frozen, autocast(config, self.device):
            logits = discriminator(generator(_draw_latents(config, training)))
            gen_loss = generator_loss(config.loss, logits.float())
        training.gen_optimizer.zero_grad()
        gen_loss.backward()
        self._step_generator()

        # Move the generator's average on, and note the losses.
        if self._average is not None:
            self._average.update()
        self.losses.add(gen_loss, steps)


class _Average:
    """Moves a generator's exponential moving average on, as `AveragedModel.update_parameters` does.

    That copies a counter to the GPU each time, which waits for the GPU, and no CUDA graph can hold it.
    """

    def __init__(self, average: AveragedModel, generator: nn.Module, decay: float) -> None:
        self._average, self._decay = average, decay
        ours, theirs = average.module.state_dict(), generator.state_dict()
        pairs = [(ours[name], theirs[name]) for name in theirs]
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the generator; the first time the average is the generator itself."""
        if not self._average.n_averaged:
            for ours, theirs in (*self._averaged, *self._counts):
                ours.copy_(theirs)
            return
        averaged, values = map(list, zip(*self._averaged, strict=True))
        torch._foreach_lerp_(averaged, values, 1 - self._decay)
        for ours, theirs in self._counts:
            ours.copy_(ours * self._decay + theirs * (1 - self._decay))


def _draw_latents(config: GanConfig, training: TrainingState) -> Tensor:
    source = training.latent_source
    return torch.randn(config.batch_size, config.latent_dim, generator=source, device=source.device)


def _judge(
    config: GanConfig, discriminator: nn.Module, real: Tensor, fake: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the logits of real and of generated samples, in single precision.

    In one pass where no layer looks at a batch as a whole or changes from pass to pass.
    """
    if config.disc_batch_norm or config.spectral_norm:
        return discriminator(real).float(), discriminator(fake).float()
    real_logits, fake_logits = discriminator(torch.cat([real, fake])).float().chunk(2)
    return real_logits, fake_logits


def _penalties(training: TrainingState, real: Tensor, fake: Tensor) -> Tensor | float:
    """Return the weighted gradient penalties that the configuration asks for, in single precision."""
    config, discriminator = training.config, training.discriminator
    total: Tensor | float = 0.0
    if config.gp_weight:
        shares = torch.rand(len(real), generator=training.latent_source, device=real.device)
        penalty = gradient_penalty(discriminator, real, fake, shares)
        total = total + config.gp_weight * penalty
    if config.r1_weight:
        total = total + config.r1_weight * r1_penalty(discriminator, real)
    return total


class _Frozen:
    """Computes no gradients of a discriminator and drops none of its units; batch norm is as ever."""

    def __init__(self, discriminator: nn.Module) -> None:
        self._weights = list(discriminator.parameters())
        self._dropouts = [m for m in discriminator.modules() if isinstance(m, Dropout)]

    def __enter__(self) -> None:
        self._set(learns=False)

    def __exit__(self, *error: object) -> None:
        self._set(learns=True)

    def _set(self, *, learns: bool) -> None:
        for weight in self._weights:
            weight.requires_grad = learns
        for dropout in self._dropouts:
            dropout.training = learns
