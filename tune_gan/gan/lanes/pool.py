"""The loop of `tune_gan.gan.training`, for many runs of one shape at once."""

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError
from tune_gan.gan.checkpoint import TrainingState
from tune_gan.gan.data import load_data, to_unit_range
from tune_gan.gan.graphs import Replayed
from tune_gan.gan.lanes.networks import LaneNetwork, LaneSettings
from tune_gan.gan.lanes.optimizers import LaneOptimizer
from tune_gan.gan.loss_buffer import Losses, summarise
from tune_gan.gan.losses import (
    discriminator_loss,
    discriminator_output,
    generator_loss,
    gradient_penalty,
    r1_penalty,
)
from tune_gan.gan.models import build_networks, choose_device
from tune_gan.gan.precision import autocast, products_of, with_precision
from tune_gan.gan.real_samples import RealSamples, copy_to, real_samples
from tune_gan.gan.scoring import scorer_of
from tune_gan.gan.training import Report, Times, begin, is_due, make_report, take_up

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
# Ticks whose random numbers are drawn at once: a bound on the memory that they take. Of real samples
# that are copied from the host, too, there are fewer.
_LONGEST_BLOCK, _LONGEST_BLOCK_FROM_HOST = 64, 4
# Copies of lanes that wait for their scores at a time, on a GPU.
MOST_COLLECTED = 4
# Whether a GPU repeats ticks from CUDA graphs. Nobody has seen that on a GPU yet.
REPLAYS_TICKS = False


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
        rows: Of its ticks since then, ``(ticks, 4)``: the generator's loss, where it had its turn, and
            what the discriminator's step came to.
    """

    training: TrainingState
    index: int
    reported_at: float
    trained_s_then: float
    ticks_done: int = 0
    steps: int = 0
    rows: list[Tensor] = field(default_factory=list)


class Collected(NamedTuple):
    """A lane that is due, as it then was.

    Attributes:
        training: Its state.
        losses: Of its iterations since the last report.
        times: Of its training since then.
    """

    training: TrainingState
    losses: Losses
    times: Times


@dataclass
class _Block:
    """The random numbers and the turns of some ticks, and what comes of them.

    Attributes:
        batches: Of the real samples, as `RealSamples.batches` makes them for ``(ticks, lanes, B)``.
        disc_latents: ``(ticks, lanes, B, latent_dim)``.
        gen_latents: Alike, where a lane's generator has its turn.
        shares: Of the gradient penalty, ``(ticks, lanes, B)``.
        turns: Which lanes' generators have their turn, on the device, ``(ticks, lanes)``.
        rows: ``gen_loss, disc_loss, disc_real, disc_fake`` of each tick, ``(ticks, lanes, 4)``.
        told_turns: The turns on the CPU, of these ticks alone; empty lanes always have theirs.
        place: The tick that comes next, on the device, for what is replayed.
    """

    batches: Tensor
    disc_latents: Tensor
    gen_latents: Tensor
    shares: Tensor
    turns: Tensor
    rows: Tensor
    told_turns: Tensor
    place: Tensor

    @classmethod
    def empty(
        cls, config: GanConfig, samples: RealSamples, size: tuple[int, int], device: torch.device
    ) -> "_Block":
        """Return a block of ``(ticks, lanes)``."""
        shape = (*size, config.batch_size)
        return cls(
            batches=samples.batches(shape),
            disc_latents=torch.zeros(*shape, config.latent_dim, device=device),
            gen_latents=torch.zeros(*shape, config.latent_dim, device=device),
            shares=torch.zeros(shape, device=device),
            turns=torch.ones(size, dtype=torch.bool, device=device),
            rows=torch.zeros(*size, 4, device=device),
            told_turns=torch.ones(size, dtype=torch.bool),
            place=torch.zeros(1, dtype=torch.int64, device=device),
        )


@dataclass
class _Tick:
    """What one tick takes of a block: views, or copies where its place is a tensor."""

    batch: Tensor
    disc_latents: Tensor
    gen_latents: Tensor
    shares: Tensor
    turns: Tensor
    row: Tensor

    @classmethod
    def at(cls, block: _Block, tick: int | None) -> "_Tick":
        """Return a tick of a block, by default that at the block's place."""
        parts = (block.batches, block.disc_latents, block.gen_latents, block.shares, block.turns)
        if tick is None:
            batch, disc_latents, gen_latents, shares, turns = (
                part.index_select(0, block.place).squeeze(0) for part in parts
            )
            row = torch.zeros_like(block.rows[0])
        else:
            batch, disc_latents, gen_latents, shares, turns = (part[tick] for part in parts)
            row = block.rows[tick]
        return cls(batch, disc_latents, gen_latents, shares, turns, row)


class LanePool:
    """Trains up to `most_lanes` GANs of one shape, each with settings and random numbers of its own.

    A tick is one step of all discriminators; a generator has its turn when its lane's `disc_steps` are
    done. Numbers do not depend on the lane or on its neighbours, and agree with those of
    `tune_gan.gan.training.iterate` but for the rounding of sums.

    Args:
        config: Any configuration of the shape.
        most_lanes: How many at the most; the tensors are as large as there are runs, by powers of 2.

    Raises:
        ConfigError: if the device is not there, or knows no double precision.
        DataError: if the data set cannot be loaded.
    """

    def __init__(self, config: GanConfig, most_lanes: int) -> None:
        torch.set_num_threads(config.num_threads)
        self._shape, self._most_lanes = shape_of(config), most_lanes
        self._device = choose_device(config.device)
        if self._device.type == "mps":
            raise ConfigError(
                "resources.lanes: lanes count in double precision, which mps has not; leave lanes out"
            )
        self._config = with_precision(config, self._device)
        self._scorer, self._data = scorer_of(config), load_data(config)
        self._samples = real_samples(self._data, config.image_size, self._device)
        self._replays = REPLAYS_TICKS and self._device.type == "cuda"
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
        self._lanes: list[Lane | None] = [None] * num_lanes
        self._forget_graphs()

    def _forget_graphs(self) -> None:
        """Have ticks be captured anew: which lanes draw random numbers is a part of a graph."""
        self._graphs: dict[tuple[bool, bool], Replayed] = {}
        self._static: _Block | None = None

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
        self._forget_graphs()
        if len(self._lanes) > 1 and len(self.lanes) <= len(self._lanes) // 4:
            self._resize(len(self._lanes) // 2)

    def _resize(self, num_lanes: int) -> None:
        """Move all runs into tensors of another size."""
        lanes = self.lanes
        for lane in lanes:
            self._take(lane)
        self._build(num_lanes)
        for index, lane in enumerate(lanes):
            lane.index = index
            self._put(lane)

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
        self._lanes[index] = lane
        self._forget_graphs()

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
        started = time.perf_counter()
        block = self._next_block()
        for tick in range(len(block.told_turns)):
            # Of the whole process, where another pool may want another, or a score.
            with products_of(self._config, self._device):
                self._tick(block, tick)
        self._count(block)
        due = [lane for lane in self.lanes if _is_due(lane)]
        if due and self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._trained_s += time.perf_counter() - started
        return due

    def collect(self, lane: Lane) -> Collected:
        """Take what is to be reported of a lane that is due; the lane may then go on, or be left.

        On a GPU it is a copy, so that it can be scored while the lanes are trained on.
        """
        self._take(lane)
        steps = lane.training.config.disc_steps
        rows = torch.cat(lane.rows).numpy()
        losses = summarise(rows[steps - 1 :: steps, 0], rows[:, 1:].reshape(-1, steps, 3))
        times = Times(self._trained_s - lane.trained_s_then, lane.reported_at)
        lane.reported_at, lane.trained_s_then = time.perf_counter(), self._trained_s
        lane.steps, lane.rows = 0, []
        training = lane.training
        return Collected(training if self.is_on_cpu else training.copied(), losses, times)

    def score(self, collected: Collected) -> Report:
        """Score what was collected, in any thread; the report's state is as `iterate` leaves it."""
        return make_report(collected.training, collected.losses, self._scorer, collected.times)

    def report(self, lane: Lane) -> Report:
        """Score a lane that is due and return its report."""
        report = self.score(self.collect(lane))
        lane.training.adopt(report.training)
        return report

    @property
    def is_on_cpu(self) -> bool:
        """Whether a CPU trains, which gains nothing from two things at a time."""
        return self._device.type == "cpu"

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
        size = (ticks, len(self._lanes))
        block = self._static or _Block.empty(
            self._config,
            self._samples,
            (_LONGEST_BLOCK if self._replays else ticks, size[1]),
            self._device,
        )
        self._static = block if self._replays else None
        indices = torch.zeros(*size, self._config.batch_size, dtype=torch.int64)
        block.told_turns = torch.ones(size, dtype=torch.bool)
        for lane in self.lanes:
            _draw(block, lane, indices)
        self._samples.put(indices, block.batches[:ticks])
        copy_to(block.turns[:ticks], block.told_turns)
        block.place.zero_()
        return block

    def _longest_block(self) -> int:
        """Return a length with which blocks end where iterations of all lanes end, if there is one.

        A run that joins then trains its generator in the same ticks as the others, which takes as long
        for one lane as for all. A block that a report ends may leave lanes of other steps out of step.
        """
        steps = {lane.training.config.disc_steps for lane in self.lanes}
        period = math.lcm(*steps)
        if self._samples.is_on_host:
            return _LONGEST_BLOCK_FROM_HOST
        if self._replays:
            # A graph works on a block that stays where it is.
            return _LONGEST_BLOCK - (_LONGEST_BLOCK % period if period <= _LONGEST_BLOCK else 0)
        if period <= _LONGEST_BLOCK:
            return _LONGEST_BLOCK - _LONGEST_BLOCK % period
        return period if len(steps) == 1 else _LONGEST_BLOCK

    def _tick(self, block: _Block, tick: int) -> None:
        """Train the discriminators, then the generators whose turn it is."""
        # Asked of the CPU's, since the device's would have to be waited for.
        turns = block.told_turns[tick]
        kind = bool(turns.any()), bool(turns.all())
        if not self._replays:
            self._train(_Tick.at(block, tick), *kind)
            return
        if kind not in self._graphs:
            self._graphs[kind] = Replayed(lambda: self._replayed_tick(block, *kind), self._device)
        self._graphs[kind]()

    def _replayed_tick(self, block: _Block, some: bool, everyone: bool) -> None:
        tick = _Tick.at(block, None)
        self._train(tick, some, everyone)
        block.rows.index_copy_(0, block.place, tick.row[None])
        block.place += 1

    def _train(self, tick: _Tick, some: bool, everyone: bool) -> None:
        """Train all discriminators, and the generators of some lanes or of all."""
        real = to_unit_range(self._samples.take(tick.batch))
        with autocast(self._config, self._device):
            with torch.no_grad():
                fake = self._generator(tick.disc_latents)
            real_logits, fake_logits = self._judge(real, fake)
        disc_loss = discriminator_loss(
            self._config.loss,
            real_logits,
            fake_logits,
            self._weights["label_smoothing"][:, None, None],
            in_lanes=True,
        )
        disc_loss = disc_loss + self._penalties(real, fake.float(), tick.shares)
        # Summed, since a mean would divide every lane's learning rate by their number.
        self._discriminator.differentiate(disc_loss.sum())
        self._disc_optimizer.step(None)
        with torch.no_grad():
            outputs = (
                discriminator_output(self._config.loss, logits, in_lanes=True)
                for logits in (real_logits, fake_logits)
            )
            torch.stack([disc_loss, *outputs], dim=1, out=tick.row[:, 1:])
        if some:
            self._train_generators(tick, everyone)

    def _train_generators(self, tick: _Tick, everyone: bool) -> None:
        """Train the generators whose turn it is, the discriminators' dropout off."""
        self._settings.updates = None if everyone else tick.turns
        with self._settings.no_dropout(), autocast(self._config, self._device):
            logits = self._discriminator(self._generator(tick.gen_latents)).float()
            gen_loss = generator_loss(self._config.loss, logits, in_lanes=True)
        self._generator.differentiate(gen_loss.sum())
        self._settings.updates = None
        self._gen_optimizer.step(None if everyone else tick.turns[:, None])
        if self._average is not None:
            self._update_averages(tick.turns)
        tick.row[:, 0] = gen_loss.detach()

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
        ticks = len(block.told_turns)
        # Into pinned memory of a GPU's host, which is read after the device was waited for.
        rows = block.rows[:ticks].to("cpu", non_blocking=True)
        for lane in self.lanes:
            done, disc_steps = lane.ticks_done + ticks, lane.training.config.disc_steps
            lane.training.iteration += done // disc_steps
            lane.steps += done // disc_steps
            lane.ticks_done = done % disc_steps
            lane.rows.append(rows[:, lane.index])


def _is_due(lane: Lane) -> bool:
    return lane.steps > 0 and lane.ticks_done == 0 and is_due(lane.training)


def _ticks_left(lane: Lane) -> int:
    """Return how many ticks a lane has until its next report."""
    config = lane.training.config
    next_report = (lane.training.iteration // config.report_every + 1) * config.report_every
    iterations = min(next_report, config.num_iterations) - lane.training.iteration
    return iterations * config.disc_steps - lane.ticks_done


def _draw(block: _Block, lane: Lane, indices: Tensor) -> None:
    """Draw a lane's part of a block, in the order in which the run alone would."""
    index, training, ticks = lane.index, lane.training, len(block.told_turns)
    config, source = training.config, training.latent_source
    indices[:, index] = torch.stack([training.batches.next() for _ in range(ticks)])
    turns = [(lane.ticks_done + tick + 1) % config.disc_steps == 0 for tick in range(ticks)]
    block.told_turns[:, index] = torch.tensor(turns)
    size = (config.batch_size, config.latent_dim)
    if not config.gp_weight and _draws_add_up(size, source.device):
        latents = torch.randn(ticks + sum(turns), *size, generator=source)
        places = torch.tensor([0, *turns]).cumsum(0)
        own = torch.arange(ticks)
        block.disc_latents[:ticks, index] = latents[own + places[:-1]]
        block.gen_latents[:ticks][turns, index] = latents[(own + places[:-1] + 1)[turns]]
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
