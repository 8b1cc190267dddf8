"""The memory that trials take, measured, and what is said where there is not enough."""

import contextlib
import resource
from typing import Any, NamedTuple

import pytest
import ray
import torch

from tests.conftest import TINY_RING
from tune_gan.errors import ConfigError
from tune_gan.gan import memory as measured
from tune_gan.gan.memory import (
    CONTEXT_BYTES,
    Footprint,
    measure_memory,
    smallest_gpu,
)
from tune_gan.gan.shortage import is_of_device, is_shortage
from tune_gan.search import memory
from tune_gan.search.memory import Room, largest, room_for, try_largest
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
        "resources": {"gpus": 0},
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
    monkeypatch.setattr(memory, "_look_for_smallest_gpus", lambda nodes: {})


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
    with pytest.raises(ConfigError, match=r"took 5 GB on the GPU, .* but 0.25 of one is 4 GB; give"):
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
    spec = _spec(resources={"gpus": 0, "max_concurrent_trials": 4})
    assert room_for(spec, 4) == Room(4, _GB)


def test_a_gpu_is_tried_where_the_smallest_one_is(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{**_node(memory=_GB, CPU=2, GPU=2), "NodeID": name} for name in ("a", "b", "c")]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    sizes = {"a": 80 * _GB, "b": 16 * _GB}
    monkeypatch.setattr(memory, "_look_for_smallest_gpus", lambda nodes: sizes)
    tried: list[str] = []

    def train(config: Any, spec: Any, node: Any, lanes: int) -> Footprint:
        tried.append(node["NodeID"])
        return Footprint(_GB, 2 * _GB, 24 * _GB, "cuda")

    monkeypatch.setattr(memory, "_try", train)
    footprint = try_largest(_spec(resources={"gpus": 0.5})).footprint
    assert tried == ["b"]
    assert footprint is not None
    assert footprint.device_total == 16 * _GB


@pytest.mark.parametrize(
    ("message", "is_of_gpu"),
    [
        ("CUDA out of memory. Tried to allocate 20.00 MiB", True),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", True),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", True),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", True),
        ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", True),
        ("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`", True),
        ("cuFFT error: CUFFT_ALLOC_FAILED", True),
        ("NVRTC: cudaErrorMemoryAllocation", True),
        ("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory", False),
    ],
)
def test_how_shortage_is_told(message: str, is_of_gpu: bool) -> None:
    assert is_shortage(RuntimeError(message))
    assert is_of_device(RuntimeError(message)) == is_of_gpu


@pytest.mark.parametrize(
    "message",
    [
        "CUDA error: an illegal memory access was encountered",
        "CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`",
        "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED",
    ],
)
def test_other_errors_of_a_gpu_are_no_shortage(message: str) -> None:
    assert not is_shortage(RuntimeError(message))


class _Gpu(NamedTuple):
    total_memory: int


def test_a_gpu_with_an_index_is_measured_with_its_context(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch would say of it: peaks of a device with an index are reset once CUDA is there."""
    called: list[str] = []

    def reset(device: torch.device) -> None:
        if "init" not in called:
            raise RuntimeError("Invalid device argument: did you call init?")

    class NoSeeds(contextlib.nullcontext[None]):
        pass

    monkeypatch.setattr(measured, "choose_device", lambda name: torch.device("cuda:0"))
    monkeypatch.setattr(measured, "_train", lambda config, lanes: None)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: None)
    monkeypatch.setattr(torch.random, "fork_rng", lambda devices: NoSeeds())
    monkeypatch.setattr(torch.cuda, "init", lambda: called.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 3 * _GB)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: _Gpu(16 * _GB))
    footprint = measure_memory(TINY_RING)
    assert footprint.device == 3 * _GB + CONTEXT_BYTES
    assert (footprint.device_total, footprint.trained_on) == (16 * _GB, "cuda")


def test_the_smallest_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = [24 * _GB, 8 * _GB]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert smallest_gpu() == 0
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(sizes))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: _Gpu(sizes[index]))
    assert smallest_gpu() == 8 * _GB


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
