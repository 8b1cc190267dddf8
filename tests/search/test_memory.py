"""The memory that trials take, measured, and what is said where there is not enough."""

import resource
from typing import Any

import pytest
import ray

from tests.conftest import TINY_RING
from tune_gan.errors import ConfigError
from tune_gan.gan.memory import Footprint, measure_memory
from tune_gan.search import memory
from tune_gan.search.memory import Room, largest, room_for
from tune_gan.search.spec import SweepSpec

_GB = 10**9
_SPACE = {
    "gen_lr": {"log_uniform": [1e-5, 1e-2]},
    "batch_size": {"choice": [32, 512, 64]},
    "gen_hidden": {"choice": [[16], [512, 512]]},
    "gp_weight": {"uniform": [0.0, 10.0]},
}


_GAN = TINY_RING.model_dump()


def _spec(**changes: Any) -> SweepSpec:
    values = {
        "name": "ring",
        "gan": TINY_RING.model_dump(),
        "space": _SPACE,
        "search": {"num_trials": 9},
    }
    return SweepSpec.parse({**values, **changes})


def _node(**resources: float) -> dict[str, Any]:
    return {"Alive": True, "NodeID": "n", "Resources": resources}


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes of 2 and 3 GB."""
    nodes = [_node(memory=2 * _GB, CPU=3, GPU=1), _node(memory=3 * _GB, CPU=2, GPU=1)]
    # One that is gone, and one that only searches.
    nodes += [{**_node(memory=99 * _GB, CPU=9), "Alive": False}, _node(memory=99 * _GB)]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    monkeypatch.setattr(memory, "_fits_easily", lambda *_: False)


def test_the_largest_configuration_has_the_most_of_what_takes_memory() -> None:
    config = largest(_spec())
    assert (config.batch_size, config.gen_hidden, config.gp_weight) == (512, (512, 512), 10.0)
    assert config.gen_lr == TINY_RING.gen_lr


def test_what_is_measured_grows_with_the_batch_and_is_what_torch_took() -> None:
    # A hidden layer of 4,096 x 10,000 floats takes 164 MB, and its gradient as much.
    wide = TINY_RING.model_copy(update={"gen_hidden": (4096,), "disc_hidden": (4096,)})
    small, large = measure_memory(wide), measure_memory(wide.model_copy(update={"batch_size": 10_000}))
    assert 0.3 * _GB < large.host - small.host < 3 * _GB
    assert (large.device, large.device_total) == (0, 0)


@pytest.mark.usefixtures("two_nodes")
@pytest.mark.parametrize(
    ("taken", "expected"),
    [
        (0.4, Room(5)),
        (1.1, Room(3, int(1.1 * _GB))),
        (2.5, Room(1, int(2.5 * _GB))),
    ],
)
def test_no_more_trials_at_a_time_than_the_nodes_have_memory_for(
    taken: float, expected: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_try", lambda *_: Footprint(int(taken * _GB)))
    room = room_for(_spec(), 5)
    assert (room.workers, room.trial_bytes) == (expected.workers, expected.trial_bytes)
    if room.note:
        assert room.note == (
            f"memory for {room.workers} trial{'s' * (room.workers > 1)} at a time: the largest "
            f"configuration (gen_hidden [512, 512], gp_weight 10.0, batch_size 512) took "
            f"{taken} GB when it was tried for one iteration"
        )
    assert bool(room.note) == (room.workers < 5)


@pytest.mark.usefixtures("two_nodes")
def test_what_fits_on_no_node_is_said_with_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_try", lambda *_: Footprint(4 * _GB))
    with pytest.raises(ConfigError) as caught:
        room_for(_spec(), 2)
    assert str(caught.value) == (
        "resources: the largest configuration (gen_hidden [512, 512], gp_weight 10.0, batch_size 512) "
        "took 4 GB of memory when it was tried for one iteration, but no node gives more than 3 GB; "
        "make the space smaller, or give the nodes more memory"
    )


@pytest.mark.usefixtures("two_nodes")
def test_the_share_of_a_gpu_is_what_a_trial_has(monkeypatch: pytest.MonkeyPatch) -> None:
    footprint = Footprint(_GB, 5 * _GB, 16 * _GB)
    monkeypatch.setattr(memory, "_try", lambda *_: footprint)
    spec = _spec(resources={"gpus": 0.25})
    with pytest.raises(ConfigError, match=r"took 5 GB on the GPU .* but 0.25 of one is 4 GB; give"):
        room_for(spec, 2)
    assert room_for(_spec(resources={"gpus": 0.5}), 2) == Room(2)


@pytest.mark.usefixtures("two_nodes")
def test_a_gpu_is_seen_without_being_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_try", lambda *_: Footprint(_GB // 10, 5 * _GB, 16 * _GB))
    assert room_for(_spec(), 2) == Room(2)


@pytest.mark.usefixtures("two_nodes")
def test_memory_is_reserved_where_one_node_has_too_little(monkeypatch: pytest.MonkeyPatch) -> None:
    # One node would take three trials and has memory for two.
    monkeypatch.setattr(memory, "_try", lambda *_: Footprint(_GB))
    spec = _spec(resources={"max_concurrent_trials": 4})
    assert room_for(spec, 4) == Room(4, _GB)


def test_what_no_trial_has_is_not_tried() -> None:
    space = {
        "batch_size": {"choice": [32, 512]},
        "loss": {"choice": ["non_saturating", "hinge"]},
        "gp_weight": {"uniform": [0.0, 10.0], "when": {"loss": ["hinge"]}},
    }
    assert largest(_spec(space=space)).gp_weight == TINY_RING.gp_weight
    bounded = _spec(constraints=["batch_size <= latent_dim"], gan={**_GAN, "latent_dim": 64})
    assert largest(bounded).batch_size == 32


def test_more_than_it_may_take_is_refused_and_not_taken() -> None:
    # The weights alone: 40,000 x 40,000 floats, 6.4 GB.
    huge = TINY_RING.model_copy(update={"gen_hidden": (40_000, 40_000)})
    limit = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(RuntimeError, match=r"allocate memory|not enough memory"):
        measure_memory(huge, 3 * _GB)
    assert resource.getrlimit(resource.RLIMIT_DATA) == limit
