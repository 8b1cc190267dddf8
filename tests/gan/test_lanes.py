"""A run in a lane is the run alone."""

import gc
import weakref
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tune_gan.config import GanConfig
from tune_gan.gan import training
from tune_gan.gan.checkpoint import TrainingState
from tune_gan.gan.data import load_dataset
from tune_gan.gan.lanes import pool as pool_module
from tune_gan.gan.lanes.networks import has_lanes
from tune_gan.gan.lanes.pool import Lane, LanePool, shape_of
from tune_gan.gan.training import Report, iterate

RING = {
    "dataset": "circle",
    "gen_hidden": [16, 16],
    "disc_hidden": [16, 16],
    "latent_dim": 2,
    "batch_size": 32,
    "disc_logits": 2,
    "num_iterations": 200,
    "report_every": 100,
    "device": "cpu",
}
DIGITS = {**RING, "dataset": "digits", "disc_logits": 1, "latent_dim": 8}
DCGAN = {
    **DIGITS,
    "architecture": "dcgan28",
    "features": 2,
    "batch_size": 8,
    "num_iterations": 200,
    "report_every": 200,
}
SHORT = {"num_iterations": 60, "report_every": 30}
# Of each lane: what may differ.
LANES: list[dict[str, Any]] = [
    {"gen_lr": 1e-3, "disc_lr": 5e-4, "beta2": 0.9, "seed": 1, "dropout": 0.0, "disc_steps": 1},
    {"gen_lr": 2e-4, "disc_lr": 1e-3, "beta2": 0.99, "seed": 2, "dropout": 0.3, "disc_steps": 2},
    {"gen_lr": 5e-4, "disc_lr": 2e-4, "beta2": 0.999, "seed": 3, "dropout": 0.1, "disc_steps": 1},
]
LANES[0] |= {"beta1": 0.5, "activation_alpha": 0.2}
LANES[1] |= {"beta1": 0.0, "activation_alpha": 0.05}
LANES[2] |= {"beta1": 0.9, "activation_alpha": 1.5}
# Where a case has one of these, its lanes have this share of it each.
WEIGHTS = ("label_smoothing", "gp_weight", "r1_weight", "ema_decay")
SHARES = (1.0, 0.5, 0.8)


def _train(pool: LanePool, configs: list[GanConfig]) -> list[list[Report]]:
    """Train all to their ends, each joining as soon as a lane is free."""
    waiting = list(enumerate(configs))
    lanes: dict[Lane, int] = {}
    reports: list[list[Report]] = [[] for _ in configs]
    while waiting or lanes:
        while waiting and not pool.is_full:
            number, config = waiting.pop(0)
            lanes[pool.join(config)] = number
        for lane in pool.advance():
            report = pool.report(lane)
            reports[lanes[lane]].append(report)
            if report.state != "running":
                pool.leave(lane)
                del lanes[lane]
    return reports


def _distance(own: TrainingState, other: TrainingState) -> float:
    """Return how far the networks are from each other, relative to their weights."""
    distances = []
    for name in ("generator", "discriminator", "scored_generator"):
        one, two = (
            torch.cat([p.detach().double().flatten() for p in getattr(state, name).parameters()])
            for state in (own, other)
        )
        distances.append(float((one - two).norm() / two.norm()))
    return max(distances)


def _compare(
    changes: dict[str, Any],
    num_lanes: int,
    tolerance: float,
    lanes: Sequence[dict[str, Any]] = LANES,
) -> None:
    """Train all of `lanes` in a pool, and each alone."""
    configs = [
        GanConfig.parse(
            {**changes, **own, **{name: changes[name] * share for name in WEIGHTS if name in changes}}
        )
        for own, share in zip(lanes, SHARES, strict=True)
    ]
    assert all(map(has_lanes, configs))
    assert len({shape_of(config) for config in configs}) == 1
    in_lanes = _train(LanePool(configs[0], num_lanes), configs)
    for config, reports in zip(configs, in_lanes, strict=True):
        alone = list(iterate(config))
        assert [r.metrics["iteration"] for r in reports] == [r.metrics["iteration"] for r in alone]
        assert _distance(reports[-1].training, alone[-1].training) <= tolerance
        for one, other in zip(reports, alone, strict=True):
            for name in ("gen_loss", "disc_loss", "disc_real", "disc_fake", "epoch"):
                expected = pytest.approx(other.metrics[name], rel=tolerance)
                assert one.metrics[name] == expected, name


@pytest.mark.parametrize(
    ("changes", "num_lanes"),
    [(RING, 1), (RING, 2), (RING, 4), (DIGITS, 4), ({**DCGAN, "optimizer": "sgd"}, 2)],
    ids=["ring in 1", "ring in 2", "ring in 4", "digits in 4", "dcgan in 2"],
)
def test_lanes_agree_with_the_ordinary_loop_after_200_steps(
    changes: dict[str, Any], num_lanes: int
) -> None:
    """In single precision. With two lanes, the last run takes the tensors that another leaves.

    At low learning rates: at 1e-3, two ordinary loops whose first weights differ in their last bit are
    further than 1e-5 from each other after 200 steps, too. So are two DCGANs at any rate of Adam, which
    makes whole steps of gradients that are nothing but rounding.
    """
    slow = [{**own, "gen_lr": own["gen_lr"] / 20, "disc_lr": own["disc_lr"] / 20} for own in LANES]
    _compare(changes, num_lanes, 1e-5, slow)


@pytest.mark.parametrize(
    "changes",
    [
        {**RING, "label_smoothing": 0.1},
        *({**RING, "activation": name} for name in ("elu", "celu", "trelu", "gelu", "tanh")),
        {**RING, "loss": "hinge"},
        {**RING, "loss": "minimax"},
        {**RING, "loss": "least_squares", "label_smoothing": 0.1},
        {**RING, "loss": "wasserstein", "gp_weight": 10.0},
        {**RING, "r1_weight": 1.0},
        *({**RING, "optimizer": name} for name in ("adamw", "nadam", "radam", "rmsprop", "sgd")),
        {**RING, "batch_size": 31},
        {**RING, "disc_batch_norm": True},
        {**RING, "ema_decay": 0.9},
        {**DCGAN, "ema_decay": 0.9, "num_iterations": 10, "report_every": 10},
        {**DCGAN, "disc_batch_norm": True, "num_iterations": 10, "report_every": 10},
        {**DCGAN, "architecture": "dcgan64", "num_iterations": 4, "report_every": 4},
    ],
    ids=lambda changes: " ".join(str(v) for k, v in changes.items() if RING.get(k) != v),
)
def test_lanes_do_what_the_ordinary_loop_does(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In double precision, where rounding cannot hide what is not the same.

    The score is left out, whose networks are of single precision.
    """
    scores = {"fid_proxy": 1.0, "degenerate": False}
    scorer = SimpleNamespace(score=lambda samples: scores, worst=lambda: scores, name=lambda: "none")
    for module in (training, pool_module):
        monkeypatch.setattr(module, "scorer_of", lambda config: scorer)
    monkeypatch.setattr(training, "generate", lambda generator, latents: torch.zeros(2, 2))
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    # What other tests loaded is of single precision.
    load_dataset.cache_clear()
    try:
        # With batch norm after few samples, rounding grows faster than elsewhere.
        _compare({**changes, **SHORT} if "architecture" not in changes else changes, 2, 1e-7)
    finally:
        torch.set_default_dtype(torch.float32)
        load_dataset.cache_clear()


def test_a_neighbour_that_diverges_harms_nobody() -> None:
    config = GanConfig.parse({**RING, **LANES[0]})
    broken = config.model_copy(update={"gen_lr": 1.0, "disc_lr": 1.0, "optimizer": "sgd"})
    config = config.model_copy(update={"optimizer": "sgd"})
    beside = _train(LanePool(config, 2), [config, broken])
    assert beside[1][-1].state == "diverged"
    with_itself = _train(LanePool(config, 2), [config, config])
    for name, weights in beside[0][-1].training.generator.state_dict().items():
        assert torch.equal(weights, with_itself[0][-1].training.generator.state_dict()[name])


@pytest.mark.parametrize("changes", [{**RING, "ema_decay": 0.9}, DCGAN, {**RING, "optimizer": "sgd"}])
def test_checkpoints_move_between_lanes_and_the_ordinary_loop(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    config = GanConfig.parse({**changes, **LANES[1], "num_iterations": 20, "report_every": 10})
    whole = list(iterate(config))[-1].training

    alone = next(iterate(config))
    alone.training.save(tmp_path / "alone")
    pool = LanePool(config, 3)
    lane = pool.join(config, tmp_path / "alone")
    while not pool.advance():
        pass
    assert _distance(pool.report(lane).training, whole) < 1e-5

    pool = LanePool(config, 3)
    lane = pool.join(config)
    while not pool.advance():
        pass
    pool.report(lane).training.save(tmp_path / "lane")
    for report in iterate(config, tmp_path / "lane"):
        assert report.metrics["iteration"] == 20
        assert _distance(report.training, whole) < 1e-5


def test_a_lane_that_is_left_at_any_time_is_free_for_the_next() -> None:
    config = GanConfig.parse({**RING, **LANES[0], "num_iterations": 300, "report_every": 100})
    pool = LanePool(config, 2)
    first = pool.join(config.model_copy(update={"report_every": 7}))
    second = pool.join(config)
    pool.advance()
    pool.report(first)
    pool.leave(first)
    assert pool.lanes == [second]
    pool.join(config.model_copy(update={"seed": 9}))
    assert pool.is_full
    while second not in pool.advance():
        pass
    assert pool.report(second).metrics["iteration"] == 100


def test_runs_that_come_and_go_in_tensors_of_changing_size_are_those_alone() -> None:
    """Five runs of different lengths in up to four lanes, one of them joining in mid-training."""
    lengths = [30, 10, 10, 10, 40]
    configs = [
        GanConfig.parse(
            {**RING, **LANES[n % 3], "optimizer": "sgd", "num_iterations": length, "report_every": 10}
        )
        for n, length in enumerate(lengths)
    ]
    for config, reports in zip(configs, _train(LanePool(configs[0], 4), configs), strict=True):
        alone = list(iterate(config))
        assert len(reports) == len(alone)
        assert _distance(reports[-1].training, alone[-1].training) < 1e-5
        assert reports[-1].metrics["gen_loss"] == pytest.approx(alone[-1].metrics["gen_loss"], rel=1e-5)


@pytest.mark.parametrize("disc_steps", [5, 70])
def test_a_run_that_joins_later_trains_its_generator_together_with_the_others(
    monkeypatch: pytest.MonkeyPatch, disc_steps: int
) -> None:
    """Which takes as long for all as for one."""
    steps = 0
    train_generators = LanePool._train_generators

    def count(pool: LanePool, *given: Any) -> None:
        nonlocal steps
        steps += 1
        train_generators(pool, *given)

    monkeypatch.setattr(LanePool, "_train_generators", count)
    config = GanConfig.parse({**RING, "disc_steps": disc_steps, "report_every": 40})
    pool = LanePool(config, 2)
    first = pool.join(config)
    pool.advance()
    pool.join(config.model_copy(update={"seed": 1}))
    while not (due := pool.advance()):
        pass
    assert due == [first]
    assert steps == 40


def test_shapes() -> None:
    config = GanConfig.parse(RING)
    same = {"gen_lr": 0.1, "dropout": 0.0, "disc_steps": 5, "seed": 3, "activation_alpha": 0.5}
    assert shape_of(config) == shape_of(config.model_copy(update=same))
    for change in ({"batch_size": 64}, {"activation": "relu"}, {"gp_weight": 1.0}, {"loss": "hinge"}):
        assert shape_of(config) != shape_of(config.model_copy(update=change))
    assert not has_lanes(config.model_copy(update={"spectral_norm": True}))


def test_a_pool_that_is_given_up_frees_its_memory_at_once() -> None:
    """Not at the next collection of garbage, which a GPU that is full does not wait for."""
    config = GanConfig.parse({**RING, **LANES[1]})
    pool = LanePool(config, 2)
    pool.join(config)
    networks = [weakref.ref(network.flat) for network in (pool._generator, pool._discriminator)]
    gc.disable()
    try:
        pool.advance()
        del pool
        assert [network() for network in networks] == [None, None]
    finally:
        gc.enable()
