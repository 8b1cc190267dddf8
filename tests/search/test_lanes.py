import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch

from tests.conftest import TINY_RING
from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError
from tune_gan.gan.lanes import gain as gain_module
from tune_gan.gan.lanes.gain import Gain, measure_gain
from tune_gan.gan.lanes.pool import Lane, LanePool
from tune_gan.gan.training import Report
from tune_gan.search import lanes as lanes_module
from tune_gan.search.lanes import Lanes, lanes_of, share_of_cpus
from tune_gan.search.spec import SweepSpec


def _spec(
    lanes: Any,
    space: dict[str, Any] | None = None,
    resources: dict[str, Any] | None = None,
    **gan: Any,
) -> SweepSpec:
    return SweepSpec.parse(
        {
            "name": "x",
            "gan": {**TINY_RING.model_dump(), **gan},
            "space": space or {"gen_lr": {"log_uniform": [1e-4, 1e-2]}},
            "search": {"algorithm": "random", "num_trials": 4},
            "resources": {"lanes": lanes, **(resources or {})},
        }
    )


def test_lanes_that_are_asked_for() -> None:
    assert lanes_of(_spec(16)) == Lanes(16)
    assert lanes_of(_spec(1)) == Lanes(1)


def test_auto_says_why_trials_are_trained_one_by_one() -> None:
    shapes = _spec("auto", {"batch_size": {"choice": [32, 64]}})
    assert lanes_of(shapes).note.startswith("lanes: 1, since batch_size is searched")
    assert "spectral_norm" in lanes_of(_spec("auto", spectral_norm=True)).note


@pytest.fixture
def own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have speed measured by the processor's time, of which other processes take none."""
    monkeypatch.setattr(time, "perf_counter", time.thread_time)


# Reports as rare as those of a training that takes longer.
_RARE = TINY_RING.model_copy(update={"num_iterations": 4000, "report_every": 1000})


@pytest.mark.usefixtures("own_time")
def test_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gain_module, "_MOST_LANES", 8)
    gain = measure_gain(_RARE)
    assert gain.lanes in (4, 8)
    assert gain.ratio > 1


@pytest.mark.usefixtures("own_time")
def test_reports_which_lanes_make_one_after_the_other_count(monkeypatch: pytest.MonkeyPatch) -> None:
    report = LanePool.report

    def report_slowly(pool: LanePool, lane: Lane) -> Report:
        until = time.thread_time() + 0.02
        while time.thread_time() < until:
            pass
        return report(pool, lane)

    monkeypatch.setattr(LanePool, "report", report_slowly)
    monkeypatch.setattr(gain_module, "_MOST_LANES", 4)
    assert measure_gain(_RARE).lanes > 1
    assert measure_gain(_RARE.model_copy(update={"report_every": 1})) == (1, 1.0)


@pytest.fixture
def gpu_of_ray() -> Iterator[None]:
    """Start a Ray that is told of a GPU, by which this process is shown none."""
    ray.init(num_cpus=2, num_gpus=1, include_dashboard=False)
    yield
    ray.shutdown()


@pytest.mark.usefixtures("gpu_of_ray")
@pytest.mark.parametrize(("gpus", "shown"), [(0.5, 1), ("auto", 1)])
def test_auto_measures_where_a_trial_runs(
    gpus: Any, shown: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = os.getpid()

    def measure(config: GanConfig) -> Gain:
        assert os.getpid() != here
        return Gain(4, float(len(os.environ["CUDA_VISIBLE_DEVICES"].split(","))))

    monkeypatch.setattr(lanes_module, "measure_gain", measure)
    lanes = lanes_of(_spec("auto", resources={"gpus": gpus}))
    assert lanes == Lanes(4, f"lanes: 4, together {shown:.1f} times as fast here as one")


@pytest.mark.usefixtures("gpu_of_ray")
def test_what_cannot_be_measured_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(config: GanConfig) -> Gain:
        raise ConfigError("device cuda is not there, with 0 GPUs; use auto or cpu")

    monkeypatch.setattr(lanes_module, "measure_gain", fail)
    with pytest.raises(ConfigError) as caught:
        lanes_of(_spec("auto"))
    assert str(caught.value) == "device cuda is not there, with 0 GPUs; use auto or cpu"
    # Of two CPUs three cannot be had.
    monkeypatch.setattr(lanes_module, "_LONGEST_MEASUREMENT_S", 1)
    lanes = lanes_of(_spec("auto", resources={"cpus": 3}))
    assert lanes.note == "lanes: 1, since they could not be measured: others use the CPUs and GPUs"


@pytest.mark.usefixtures("own_time")
def test_auto_stops_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    join = LanePool.join

    def join_few(pool: LanePool, config: GanConfig) -> Lane:
        if len(pool.lanes) == 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return join(pool, config)

    monkeypatch.setattr(LanePool, "join", join_few)
    assert measure_gain(_RARE).lanes in (4, 8)


def test_networks_that_keep_a_cpu_busy_have_no_lanes() -> None:
    config = TINY_RING.model_copy(
        update={"gen_hidden": (2048, 2048), "disc_hidden": (2048, 2048), "batch_size": 256}
    )
    assert measure_gain(config) == (1, 1.0)


def test_where_nodes_are_still_to_come_trials_are_trained_one_by_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lanes_module, "may_grow", lambda spec: True)
    assert lanes_of(_spec(1)) == Lanes(1)
    auto = lanes_of(_spec("auto"))
    assert (auto.of_a_process, auto.note[:30]) == (1, "lanes: 1, since this cluster s")
    with pytest.raises(ConfigError, match=r"resources\.lanes 4: this cluster starts nodes"):
        lanes_of(_spec(4))


def test_spectral_norm_and_a_number_of_lanes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"resources\.lanes 4: networks with spectral_norm"):
        _spec(4, spectral_norm=True)
    with pytest.raises(ConfigError, match="spectral_norm"):
        _spec(4, {"spectral_norm": {"choice": [True, False]}})


@pytest.mark.parametrize(("lanes", "share"), [(16, 0.0625), (3, 0.3333), (7, 0.1428)])
def test_shares_are_what_ray_can_count(lanes: int, share: float) -> None:
    assert share_of_cpus(_spec(lanes), lanes) == share
