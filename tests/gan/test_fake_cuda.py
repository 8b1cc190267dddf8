"""The training loop, the lanes and the score on a GPU that is not there: see `tests.gan.fake_gpu`."""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from tests.gan.fake_gpu import CUDA, FakeGpu, fake_gpu
from tune_gan.config import GanConfig
from tune_gan.gan import iteration as iterations
from tune_gan.gan import real_samples as samples_module
from tune_gan.gan.data import load_data
from tune_gan.gan.graphs import WARM_UPS, Replayed
from tune_gan.gan.lanes import pool as pools
from tune_gan.gan.lanes.pool import LanePool
from tune_gan.gan.loss_buffer import LossBuffer
from tune_gan.gan.losses import generator_loss
from tune_gan.gan.real_samples import real_samples
from tune_gan.gan.scoring import generate, load_scorer, scorer_of
from tune_gan.gan.training import iterate
from tune_gan.metrics.score import score_latents


def _problem_of_the_harness() -> str:
    """Say why torch cannot be told of a GPU that is not there: its private parts may have moved."""
    if torch.cuda.is_available():
        return "there is a GPU, on which test_graphs.py runs the real thing"
    try:
        with fake_gpu() as gpu:
            layer = torch.nn.Linear(3, 2).to("cuda")
            layer(torch.randn(4, 3, device="cuda")).sum().backward()
            assert layer.weight.grad is not None
            assert layer.weight.grad.device == CUDA
            assert gpu.kernels
    # Whatever it is, it says nothing of the program.
    except Exception as error:
        return (
            f"torch {torch.__version__} has moved the private parts that a fake GPU needs ({error!r})"
        )
    return ""


PROBLEM = _problem_of_the_harness()
pytestmark = pytest.mark.skipif(bool(PROBLEM), reason=f"no fake GPU: {PROBLEM}")


@pytest.fixture(autouse=True)
def own_data() -> Iterator[None]:
    """Keep no tensor of a fake GPU for other tests.

    What a lane has come to is not copied into its run: gradients cannot be given to parameters of a
    fake GPU, which in C++ are on none.
    """
    with mock.patch.object(LanePool, "_take"):
        yield
    real_samples.cache_clear()
    load_scorer.cache_clear()


def _config(**changes: Any) -> GanConfig:
    small = {"gen_hidden": [32], "disc_hidden": [32], "features": 4, "batch_size": 16}
    lengths = {"num_iterations": WARM_UPS + 3, "report_every": WARM_UPS + 3}
    fp32 = {"dataset": "digits", "device": "cuda", "precision": "fp32"}
    return GanConfig.parse({**fp32, **small, **lengths, **changes})


def _prepare(config: GanConfig) -> None:
    """Load what is on the CPU with or without a GPU."""
    load_data(config)
    scorer_of(config.model_copy(update={"device": "cpu"}))


VARIANTS: list[dict[str, Any]] = [
    {},
    {"dataset": "circle", "latent_dim": 2, "disc_logits": 2, "disc_steps": 5},
    {"precision": "auto"},
    {"precision": "bf16"},
    {"precision": "tf32", "optimizer": "adamw"},
    {"optimizer": "nadam"},
    {"optimizer": "rmsprop"},
    {"optimizer": "sgd", "beta1": 0.0},
    {"spectral_norm": True},
    {"loss": "wasserstein", "gp_weight": 10.0, "precision": "bf16"},
    {"loss": "hinge", "r1_weight": 10.0, "disc_batch_norm": True, "dropout": 0.0},
    {"loss": "least_squares", "label_smoothing": 0.1, "activation": "elu"},
    {"loss": "minimax", "activation": "celu", "optimizer": "sgd"},
    {"activation": "trelu", "ema_decay": 0.9},
    {"architecture": "dcgan28", "precision": "auto", "ema_decay": 0.9},
    {"architecture": "dcgan28", "gp_weight": 10.0, "r1_weight": 1.0, "activation": "relu"},
    {"architecture": "dcgan64"},
    {"architecture": "dcgan64", "spectral_norm": True, "precision": "bf16", "batch_size": 4},
]


def _name(changes: dict[str, Any]) -> str:
    return "-".join(f"{name}_{value}" for name, value in changes.items()) or "vanilla"


def _train(config: GanConfig) -> tuple[FakeGpu, Replayed, Any]:
    """Train by the real loop past its capture, to its only report; return that without its scores."""
    _prepare(config)
    made: list[Replayed] = []
    with fake_gpu() as gpu, ExitStack() as stack:

        def replayed(*args: Any, **kwargs: Any) -> Replayed:
            # All is prepared.
            gpu.hot = True
            made.append(Replayed(*args, **kwargs))
            return made[0]

        def read(buffer: Any) -> Any:
            gpu.hot = False
            return buffer_read(buffer)

        def report(training: Any, losses: Any, *_: Any) -> Any:
            assert len(losses.rows) == config.num_iterations
            samples = generate(training.scored_generator, score_latents(config.latent_dim))
            assert samples.device.type == "cuda"
            training.record({"fid_proxy": 1.0, "degenerate": False}, "", 1.0)
            snapshot = training.snapshot().tensors
            on_host = (*snapshot.values(), *training.best_generator.values())
            assert {tensor.device.type for tensor in on_host} == {"cpu"}
            # It is written while these go on.
            counters = [state[p]["step"] for state, p in _counters(training)]
            counters += [] if training.average is None else [training.average.n_averaged]
            own = {t.data_ptr() for t in counters if t.device.type == "cpu"}
            assert not own & {tensor.data_ptr() for tensor in snapshot.values()}
            return training

        buffer_read = LossBuffer.read
        stack.enter_context(mock.patch.object(LossBuffer, "read", read))
        for name, function in (("Replayed", replayed), ("make_report", report)):
            stack.enter_context(mock.patch(f"tune_gan.gan.training.{name}", function))
        (training,) = iterate(config)
    return gpu, made[0], training


def _counters(training: Any) -> list[tuple[Any, Any]]:
    """Return the optimizers' states with the parameters that count steps in them."""
    optimizers = (training.gen_optimizer, training.disc_optimizer)
    found = [(o.state, p) for o in optimizers for p in o.param_groups[0]["params"]]
    return [(state, p) for state, p in found if "step" in state[p]]


@pytest.mark.parametrize("changes", VARIANTS, ids=_name)
def test_a_training_waits_for_nothing_and_is_captured(
    changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    gpu, train, training = _train(_config(**changes))
    assert train._graph is not None, caplog.text
    assert {p.device for p in training.generator.parameters()} == {CUDA}
    assert not gpu.faults


def test_samples_that_are_many_stay_on_the_host_and_nothing_waits_for_them() -> None:
    with mock.patch.object(samples_module, "_free", return_value=1000):
        gpu, train, _ = _train(_config(disc_steps=2))
    assert train._graph is not None
    # They are gathered there.
    assert set(gpu.faults) == {"index on the CPU"}


def test_what_no_graph_can_hold_is_known_before(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        gpu, train, _ = _train(_config(optimizer="radam"))
    assert train._graph is None
    assert not caplog.text
    assert not gpu.faults


@pytest.mark.parametrize(
    ("changes", "precision", "channels_last"),
    [
        ({}, "tf32", False),
        ({"architecture": "dcgan28"}, "bf16", True),
        ({"architecture": "dcgan28", "precision": "fp32"}, "fp32", False),
    ],
)
def test_auto_is_the_fastest_arithmetic_of_a_gpu(
    changes: dict[str, Any], precision: str, channels_last: bool
) -> None:
    _, _, training = _train(_config(**{"precision": "auto", **changes}))
    assert training.config.precision == precision
    weights = [p for p in training.discriminator.parameters() if p.dim() == 4]
    last = [w.is_contiguous(memory_format=torch.channels_last) for w in weights if w.shape[1] > 1]
    assert all(last) == channels_last or not last


# Faults.


@contextmanager
def _number_read() -> Iterator[None]:
    def reads(*args: Any) -> Tensor:
        found = generator_loss(*args)
        found.item()
        return found

    with mock.patch.object(iterations, "generator_loss", reads):
        yield


@contextmanager
def _latents_of_the_cpu() -> Iterator[None]:
    def drawn(config: GanConfig, training: Any) -> Tensor:
        return torch.randn(config.batch_size, config.latent_dim).to("cuda")

    with mock.patch.object(iterations, "_draw_latents", drawn):
        yield


@contextmanager
def _generator_of_the_cpu() -> Iterator[None]:
    def drawn(config: GanConfig, training: Any) -> Tensor:
        source = torch.Generator().manual_seed(0)
        return torch.randn(config.batch_size, config.latent_dim, generator=source, device="cuda")

    with mock.patch.object(iterations, "_draw_latents", drawn):
        yield


@contextmanager
def _tensor_on_the_cpu() -> Iterator[None]:
    def scaled(samples: Tensor) -> Tensor:
        return samples.float() * torch.full((1,), 2 / 255) - 1.0

    with mock.patch.object(iterations, "to_unit_range", scaled):
        yield


@contextmanager
def _copy_that_waits() -> Iterator[None]:
    def put(samples: Any, indices: Tensor, batch: Tensor) -> None:
        batch.copy_(indices)

    with mock.patch.object(samples_module.RealSamples, "put", put):
        yield


@contextmanager
def _average_of_torch() -> Iterator[None]:
    def update(average: Any) -> None:
        average._average.n_averaged.to("cuda")

    with mock.patch.object(iterations._Average, "update", update):
        yield


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (_number_read, "a number is read from the GPU"),
        (_latents_of_the_cpu, "randn on the CPU"),
        (_generator_of_the_cpu, "by a generator of the cpu"),
        (_tensor_on_the_cpu, "same device"),
        (_copy_that_waits, "copy_ of"),
        (_average_of_torch, "_to_copy of"),
    ],
)
def test_a_fault_in_the_loop_is_found(
    fault: Callable[[], Any], said: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Or else that none is found would say nothing."""
    found: list[str] = []
    with fault():
        try:
            found = _train(_config(ema_decay=0.9))[0].faults
        except RuntimeError as error:
            found = [str(error)]
    assert any(said in each for each in found), found


# Lanes.

# Up to the second that is replayed.
_NUM_TICKS = WARM_UPS + 2


def _ticks(
    config: GanConfig, num_lanes: int, replays: bool = False
) -> tuple[FakeGpu, LanePool, list[Any]]:
    """Train lanes past a capture and to their report; return the GPU and what was collected."""
    _prepare(config)
    lengths = {"num_iterations": _NUM_TICKS, "report_every": _NUM_TICKS}
    config = config.model_copy(update=lengths)
    with fake_gpu() as gpu, mock.patch.object(pools, "REPLAYS_TICKS", replays):
        pool = LanePool(config, num_lanes)
        for seed in range(num_lanes):
            pool.join(config.model_copy(update={"seed": seed}))
        tick = pool._tick

        def watched(block: Any, number: int) -> None:
            with mock.patch.object(gpu, "hot", True):
                tick(block, number)

        due: list[Any] = []
        with mock.patch.object(pool, "_tick", watched):
            while not due:
                due = pool.advance()
            return gpu, pool, [pool.collect(lane) for lane in due]


# Of DCGANs the one with most in it: each takes as long as all others.
LANE_VARIANTS = [c for c in VARIANTS if "spectral_norm" not in c and "architecture" not in c]
LANE_VARIANTS += [c for c in VARIANTS if c.get("architecture") == "dcgan28" and "gp_weight" in c]


@pytest.mark.parametrize("changes", LANE_VARIANTS[:3], ids=_name)
def test_a_tick_of_lanes_waits_for_nothing(changes: dict[str, Any]) -> None:
    gpu, _, collected = _ticks(_config(**changes), 4)
    assert not gpu.faults
    assert len(collected) == 4
    assert all(part.losses.rows.shape == (_NUM_TICKS, 4) for part in collected)


@pytest.mark.parametrize("changes", LANE_VARIANTS, ids=_name)
def test_a_tick_of_lanes_waits_for_nothing_and_can_be_captured(
    changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """What goes before a capture is launched as it is; the capture itself nobody has seen on a GPU."""
    gpu, pool, _ = _ticks(_config(**changes), 2, replays=True)
    assert pool._graphs
    assert all(graph._graph is not None for graph in pool._graphs.values()), caplog.text
    assert not gpu.faults


def test_graphs_of_ticks_are_made_anew_when_lanes_come_or_go() -> None:
    config = _config(num_iterations=900, report_every=900)
    _prepare(config)
    with fake_gpu(), mock.patch.object(pools, "REPLAYS_TICKS", True):
        pool = LanePool(config, 4)
        first = pool.join(config)
        pool.advance()
        assert pool._graphs
        pool.join(config)
        assert not pool._graphs
        pool.advance()
        assert pool._graphs
        pool.leave(first)
        assert not pool._graphs


def test_lanes_need_no_compiler() -> None:
    """Outer products, such as the gradient of a single logit, torch would have Triton compile."""
    gpu, _, _ = _ticks(_config(gp_weight=1.0, r1_weight=1.0), 4)
    assert "bmm" in gpu.kernels
    assert not [fault for fault in gpu.faults if "outer" in fault]


def test_a_lane_is_scored_while_it_is_trained_on() -> None:
    _, pool, collected = _ticks(_config(ema_decay=0.9), 4)
    for lane, part in zip(pool.lanes, collected, strict=True):
        ours, theirs = lane.training, part.training
        assert ours.generator is not theirs.generator
        assert ours.batches is not theirs.batches
        assert ours.latent_source is not theirs.latent_source


# The score.


@pytest.mark.parametrize(
    "changes", [{}, {"dataset": "circle", "latent_dim": 2}, {"architecture": "dcgan64"}]
)
def test_samples_are_scored_where_they_are(changes: dict[str, Any]) -> None:
    config = _config(**changes)
    _prepare(config)
    with fake_gpu() as gpu:
        scorer = scorer_of(config)
        samples = torch.zeros(2000, *config.sample_shape, device="cuda")
        samples = samples if config.image_size is None else samples.to(torch.uint8)
        features = scorer.instrument.features(samples)
        assert features.device == CUDA
        # The first one brings there what is the same for all.
        scorer.score(samples)
        gpu.clear()
        with mock.patch.object(gpu, "hot", True):
            scorer.score(samples)
        assert gpu.kernels["_linalg_eigh"] == 1
    allowed = ("a number is read from the GPU", "on the CPU", "between CPU and GPU")
    assert all(any(words in fault for words in allowed) for fault in gpu.faults), gpu.faults
    # Classes, points of a ring and frequencies are few; no image and no feature comes or goes.
    few = ("(2000,)", "(2000, 2)", "(2, 32)")
    copied = [fault for fault in gpu.faults if "between" in fault]
    assert all(any(shape in fault for shape in few) for fault in copied), copied


def test_a_context_is_made_on_no_gpu_where_the_cpu_trains() -> None:
    """Torch asks CUDA of a capture before each step of an optimizer, unless it is kept from it."""
    config = _config(device="cpu")
    with mock.patch("torch.cuda._lazy_init", side_effect=AssertionError("a context is made")):
        reports = list(iterate(config))
    assert reports[-1].training.latent_source.device.type == "cpu"
