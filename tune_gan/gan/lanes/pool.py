"""The loop of `tune_gan.gan.training`, for many runs of one shape at once."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tune_gan.config import GanConfig
from tune_gan.gan.checkpoint import TrainingState
from tune_gan.gan.data import load_data, resize, to_unit_range
from tune_gan.gan.lanes.networks import LaneNetwork, LaneSettings
from tune_gan.gan.lanes.optimizers import LaneOptimizer
from tune_gan.gan.losses import (
    discriminator_loss,
    discriminator_output,
    generator_loss,
    gradient_penalty,
    r1_penalty,
)
from tune_gan.gan.models import build_networks, choose_device
from tune_gan.gan.precision import autocast, set_precision
from tune_gan.gan.scoring import scorer_of
from tune_gan.gan.training import Report, Times, begin, is_due, make_report, means_of, take_up

# What may differ from lane to lane; two runs that differ in anything else have different shapes.
LANE_FIELDS = frozenset(
    {
        "gen_lr",
        "disc_lr",
        "beta1",
        "beta2",
        "dropout",
        "label_smoothing",
        "activation_alpha",
        "gp_weight",
        "r1_weight",
        "ema_decay",
        "disc_steps",
        "seed",
        "num_iterations",
        "report_every",
    }
)
# Weights of what is either computed in all lanes or in none.
_SWITCHES = ("gp_weight", "r1_weight", "ema_decay")
# Ticks whose random numbers are drawn at once: a bound on the memory that they take.
_LONGEST_BLOCK = 64


def shape_of(config: GanConfig) -> tuple[tuple[str, Any], ...]:
    """Return what runs must have in common to be trained in lanes of one pool."""
    shape = {n: v for n, v in config.model_dump(mode="json").items() if n not in LANE_FIELDS}
    shape |= {name: bool(getattr(config, name)) for name in _SWITCHES}
    return tuple((name, tuple(v) if isinstance(v, list) else v) for name, v in sorted(shape.items()))


@dataclass(eq=False)
class Lane:
    """A run in its lane.

    Attributes:
        training: Its state, whose networks are those of its last report.
        index: Its place in the tensors, which may change.
        reported_at: When it joined or reported last.
        trained_s_then: How long the pool had trained by then, in seconds.
        ticks_done: Discriminator steps of the present iteration.
        steps: Iterations since the last report.
    """

    training: TrainingState
    index: int
    reported_at: float
    trained_s_then: float
    ticks_done: int = 0
    steps: int = 0


@dataclass
class _Block:
    """The random numbers and the turns of some ticks.

    Attributes:
        indices: Of the real samples, ``(ticks, lanes, B)``.
        disc_latents: ``(ticks, lanes, B, latent_dim)``.
        gen_latents: Alike, where a lane's generator has its turn.
        shares: Of the gradient penalty, ``(ticks, lanes, B)``.
        turns: Which lanes' generators have their turn, ``(ticks, lanes)``; empty lanes always.
    """

    indices: Tensor
    disc_latents: Tensor
    gen_latents: Tensor
    shares: Tensor
    turns: Tensor


class LanePool:
    """Trains up to `most_lanes` GANs of one shape, each with settings and random numbers of its own.

    A tick is one step of all discriminators; a generator has its turn when its lane's `disc_steps` are
    done. Numbers do not depend on the lane or on its neighbours, and agree with those of
    `tune_gan.gan.training.iterate` but for the rounding of sums.

    Args:
        config: Any configuration of the shape.
        most_lanes: How many at the most; the tensors are as large as there are runs, by powers of 2.

    Raises:
        ConfigError: if the device is not there.
        DataError: if the data set cannot be loaded.
    """

    def __init__(self, config: GanConfig, most_lanes: int) -> None:
        torch.set_num_threads(config.num_threads)
        self._config, self._shape, self._most_lanes = config, shape_of(config), most_lanes
        self._device = choose_device(config.device)
        self._scorer, self._data = scorer_of(config), load_data(config)
        self._samples = resize(self._data.train, config.image_size).to(self._device)
        self._trained_s = 0.0
        self._build(1)

    def _build(self, num_lanes: int) -> None:
        """Make tensors for so many lanes, all empty."""
        config, device = self._config, self._device
        with torch.device("meta"):
            generator, discriminator = build_networks(config)
        self._settings = LaneSettings.empty(num_lanes, device)
        self._generator = LaneNetwork(generator, self._settings)
        self._discriminator = LaneNetwork(discriminator, self._settings)
        networks = (self._generator, self._discriminator)
        self._gen_optimizer, self._disc_optimizer = (
            LaneOptimizer(config.optimizer, network.flat, network.gradients) for network in networks
        )
        self._average = LaneNetwork(generator, self._settings) if config.ema_decay else None
        self._num_averaged = torch.zeros(num_lanes, 1, device=device)
        zeros = torch.zeros(num_lanes, device=device)
        self._weights = {n: zeros.clone() for n in ("label_smoothing", *_SWITCHES)}
        self._sums = torch.zeros(num_lanes, 4, device=device)
        self._lanes: list[Lane | None] = [None] * num_lanes

    @property
    def lanes(self) -> list[Lane]:
        """The runs that are being trained."""
        return [lane for lane in self._lanes if lane is not None]

    @property
    def is_full(self) -> bool:
        """Whether no more can join."""
        return len(self.lanes) >= self._most_lanes

    def join(self, config: GanConfig, checkpoint: Path | None = None) -> Lane:
        """Put a run into a lane, from its checkpoint on; the others go on as they are.

        Args:
            config: Of the pool's shape.
            checkpoint: Folder of a checkpoint of this configuration to go on from.

        Raises:
            CheckpointError: as `tune_gan.gan.training.iterate` does.
        """
        assert shape_of(config) == self._shape
        assert not self.is_full
        with torch.random.fork_rng(devices=[self._device] if self._device.type == "cuda" else []):
            training = begin(config, self._data)
            source = torch.Generator(self._device)
            training.dropout_source = source.set_state(training.dropout_source.get_state())
        take_up(training, checkpoint, self._scorer.name())
        if None not in self._lanes:
            self._resize(min(2 * len(self._lanes), self._most_lanes))
        lane = Lane(training, self._lanes.index(None), time.perf_counter(), self._trained_s)
        self._put(lane)
        return lane

    def leave(self, lane: Lane) -> None:
        """Make a lane free for another run, at any time."""
        self._settings.set_dropout(lane.index, 0.0, None)
        self._lanes[lane.index] = None
        if len(self._lanes) > 1 and len(self.lanes) <= len(self._lanes) // 4:
            self._resize(len(self._lanes) // 2)

    def _resize(self, num_lanes: int) -> None:
        """Move all runs into tensors of another size."""
        lanes, sums = self.lanes, self._sums
        for lane in lanes:
            self._take(lane)
        self._build(num_lanes)
        for index, lane in enumerate(lanes):
            before, lane.index = lane.index, index
            self._put(lane)
            self._sums[index] = sums[before]

    def _put(self, lane: Lane) -> None:
        """Copy a run's state into its place."""
        index, training = lane.index, lane.training
        config = training.config
        for network, optimizer, module, own, rate in self._parts(training):
            network.put(index, module)
            optimizer.set(index, config, rate)
            optimizer.put(index, own, list(network.slices.values()))
        if self._average is not None and training.average is not None:
            self._average.put(index, training.average.module)
            self._num_averaged[index] = float(training.average.n_averaged)
        for name, weight in self._weights.items():
            weight[index] = getattr(config, name)
        self._settings.alpha[index] = config.activation_alpha
        self._settings.set_dropout(index, config.dropout, training.dropout_source)
        self._sums[index] = 0.0
        self._lanes[index] = lane

    def _take(self, lane: Lane) -> None:
        """Copy what is in a run's place into its state."""
        index, training = lane.index, lane.training
        for network, optimizer, module, own, _rate in self._parts(training):
            network.take(index, module)
            optimizer.take(index, own, list(network.slices.values()))
        if self._average is not None and training.average is not None:
            self._average.take(index, training.average.module)
            training.average.n_averaged.fill_(int(self._num_averaged[index]))

    def advance(self) -> list[Lane]:
        """Train all lanes for a while; return which are to report now, and must before the next."""
        # Of the whole process, where another pool may want another.
        set_precision(self._config)
        started = time.perf_counter()
        block = self._next_block()
        for tick in range(len(block.indices)):
            self._tick(block, tick)
        self._count(block)
        due = [lane for lane in self.lanes if _is_due(lane)]
        if due and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._trained_s += time.perf_counter() - started
        return due

    def report(self, lane: Lane) -> Report:
        """Score a lane that is due and return its report; the run is then as `iterate` leaves it."""
        training = lane.training
        self._take(lane)
        means = means_of(self._sums[lane.index].tolist(), lane.steps, training.config.disc_steps)
        times = Times(self._trained_s - lane.trained_s_then, lane.reported_at)
        report = make_report(training, means, self._scorer, times, lane.steps)
        self._sums[lane.index] = 0.0
        lane.reported_at, lane.trained_s_then, lane.steps = time.perf_counter(), self._trained_s, 0
        return report

    def _parts(self, training: TrainingState) -> list[tuple[Any, ...]]:
        """Return what belongs together: stacked network and optimizer, and the run's own."""
        config = training.config
        return [
            (
                self._generator,
                self._gen_optimizer,
                training.generator,
                training.gen_optimizer,
                config.gen_lr,
            ),
            (
                self._discriminator,
                self._disc_optimizer,
                training.discriminator,
                training.disc_optimizer,
                config.disc_lr,
            ),
        ]

    def _next_block(self) -> _Block:
        """Draw for as many ticks as no lane has to report before, each lane from its own sources."""
        ticks = min(self._longest_block(), *map(_ticks_left, self.lanes))
        config, num_lanes = self._config, len(self._lanes)
        shape = (ticks, num_lanes, config.batch_size)
        block = _Block(
            indices=torch.zeros(shape, dtype=torch.int64),
            disc_latents=torch.zeros(*shape, config.latent_dim, device=self._device),
            gen_latents=torch.zeros(*shape, config.latent_dim, device=self._device),
            shares=torch.zeros(shape, device=self._device),
            turns=torch.ones(ticks, num_lanes, dtype=torch.bool),
        )
        for lane in self.lanes:
            _draw(block, lane)
        block.indices = block.indices.to(self._device)
        return block

    def _longest_block(self) -> int:
        """Return a length with which blocks end where iterations of all lanes end, if there is one.

        A run that joins then trains its generator in the same ticks as the others, which takes as long
        for one lane as for all. A block that a report ends may leave lanes of other steps out of step.
        """
        steps = {lane.training.config.disc_steps for lane in self.lanes}
        period = math.lcm(*steps)
        if period <= _LONGEST_BLOCK:
            return _LONGEST_BLOCK - _LONGEST_BLOCK % period
        return period if len(steps) == 1 else _LONGEST_BLOCK

    def _tick(self, block: _Block, tick: int) -> None:
        """Train the discriminators, then the generators whose turn it is."""
        real = to_unit_range(self._samples[block.indices[tick]])
        with autocast(self._config, self._device):
            with torch.no_grad():
                fake = self._generator(block.disc_latents[tick])
            real_logits, fake_logits = self._judge(real, fake)
        disc_loss = discriminator_loss(
            self._config.loss,
            real_logits,
            fake_logits,
            self._weights["label_smoothing"][:, None, None],
            in_lanes=True,
        )
        disc_loss = disc_loss + self._penalties(real, fake.float(), block.shares[tick])
        # Summed, since a mean would divide every lane's learning rate by their number.
        self._discriminator.differentiate(disc_loss.sum())
        self._disc_optimizer.step(None)
        with torch.no_grad():
            outputs = (
                discriminator_output(self._config.loss, logits, in_lanes=True)
                for logits in (real_logits, fake_logits)
            )
            self._sums[:, 1:] += torch.stack([disc_loss, *outputs], dim=1)
        if bool(block.turns[tick].any()):
            self._train_generators(block.gen_latents[tick], block.turns[tick])

    def _train_generators(self, latents: Tensor, turns: Tensor) -> None:
        """Train the generators whose turn it is, the discriminators' dropout off."""
        # Asked before they are on the device, which would have to be waited for.
        all_lanes, turns = bool(turns.all()), turns.to(self._device)
        self._settings.updates = None if all_lanes else turns
        with self._settings.no_dropout(), autocast(self._config, self._device):
            logits = self._discriminator(self._generator(latents)).float()
            gen_loss = generator_loss(self._config.loss, logits, in_lanes=True)
        self._generator.differentiate(gen_loss.sum())
        self._settings.updates = None
        self._gen_optimizer.step(None if all_lanes else turns[:, None])
        if self._average is not None:
            self._update_averages(turns)
        self._sums[:, 0] += torch.where(turns, gen_loss.detach(), 0.0)

    def _judge(self, real: Tensor, fake: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits of real and of generated samples, in one pass or in two."""
        if self._config.disc_batch_norm:
            return self._discriminator(real).float(), self._discriminator(fake).float()
        logits = self._discriminator(torch.cat([real, fake], dim=1)).float()
        real_logits, fake_logits = logits.chunk(2, dim=1)
        return real_logits, fake_logits

    def _penalties(self, real: Tensor, fake: Tensor, shares: Tensor) -> Tensor | float:
        total: Tensor | float = 0.0
        if self._config.gp_weight:
            penalty = gradient_penalty(self._discriminator, real, fake, shares, in_lanes=True)
            total = total + self._weights["gp_weight"] * penalty
        if self._config.r1_weight:
            penalty = r1_penalty(self._discriminator, real, in_lanes=True)
            total = total + self._weights["r1_weight"] * penalty
        return total

    def _update_averages(self, turns: Tensor) -> None:
        """Move the generators' averages on; the first time they are the generators themselves."""
        assert self._average is not None
        with torch.no_grad():
            share = 1 - self._weights["ema_decay"][:, None]
            share = torch.where(self._num_averaged == 0, 1.0, share) * turns[:, None]
            self._average.flat.lerp_(self._generator.flat, share)
            for name, buffer in self._average.buffers.items():
                weight = share.view(-1, *[1] * (buffer.dim() - 1)).double()
                moved = torch.lerp(buffer.double(), self._generator.buffers[name].double(), weight)
                buffer.copy_(moved)
            self._num_averaged += turns[:, None]

    def _count(self, block: _Block) -> None:
        """Note what the ticks of a block did for each lane."""
        ticks = len(block.indices)
        for lane in self.lanes:
            done, disc_steps = lane.ticks_done + ticks, lane.training.config.disc_steps
            lane.training.iteration += done // disc_steps
            lane.steps += done // disc_steps
            lane.ticks_done = done % disc_steps


def _is_due(lane: Lane) -> bool:
    return lane.steps > 0 and lane.ticks_done == 0 and is_due(lane.training)


def _ticks_left(lane: Lane) -> int:
    """Return how many ticks a lane has until its next report."""
    config = lane.training.config
    next_report = (lane.training.iteration // config.report_every + 1) * config.report_every
    iterations = min(next_report, config.num_iterations) - lane.training.iteration
    return iterations * config.disc_steps - lane.ticks_done


def _draw(block: _Block, lane: Lane) -> None:
    """Draw a lane's part of a block, in the order in which the run alone would."""
    index, training, ticks = lane.index, lane.training, len(block.indices)
    config, source = training.config, training.latent_source
    block.indices[:, index] = torch.stack([training.batches.next() for _ in range(ticks)])
    turns = [(lane.ticks_done + tick + 1) % config.disc_steps == 0 for tick in range(ticks)]
    block.turns[:, index] = torch.tensor(turns)
    size = (config.batch_size, config.latent_dim)
    if not config.gp_weight and _draws_add_up(size, source.device):
        latents = torch.randn(ticks + sum(turns), *size, generator=source)
        places = torch.tensor([0, *turns]).cumsum(0)
        own = torch.arange(ticks)
        block.disc_latents[:, index] = latents[own + places[:-1]]
        block.gen_latents[turns, index] = latents[(own + places[:-1] + 1)[turns]]
        return
    for tick, turn in enumerate(turns):
        torch.randn(size, generator=source, out=block.disc_latents[tick, index])
        if config.gp_weight:
            torch.rand(config.batch_size, generator=source, out=block.shares[tick, index])
        if turn:
            torch.randn(size, generator=source, out=block.gen_latents[tick, index])


def _draws_add_up(size: tuple[int, int], device: torch.device) -> bool:
    """Return whether one large draw gives the numbers of many small ones.

    On a CPU torch draws normal numbers in sixteens.
    """
    return device.type == "cpu" and math.prod(size) % 16 == 0
