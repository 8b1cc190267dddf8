"""How `resources.gpus: auto` chooses, from numbers and from what Ray says that there is."""

import json
from pathlib import Path
from typing import Any

import pytest
import ray

from tests.search.test_spec import SPEC
from tune_gan.errors import ConfigError
from tune_gan.gan.memory import Footprint
from tune_gan.search import cluster, gpus
from tune_gan.search.cluster import num_workers, places_on
from tune_gan.search.gpus import choose_trials_on_a_gpu, leave_out_gpus, share_gpus
from tune_gan.search.memory import Tried
from tune_gan.search.spec import SweepSpec

_GB = 10**9
_SMALL = Footprint(_GB, 2 * _GB, 80 * _GB, "cuda")


def _spec(num_trials: int = 32, device: str = "auto", **resources: Any) -> SweepSpec:
    values = {**SPEC, "gan": {**SPEC["gan"], "device": device}, "resources": resources}
    return SweepSpec.parse({**values, "search": {"algorithm": "random", "num_trials": num_trials}})


@pytest.fixture
def nodes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Have Ray say that it has nodes with these resources."""
    said = [
        {"Alive": True, "NodeID": str(number), "Resources": {"memory": 64 * _GB, **resources}}
        for number, resources in enumerate(request.param)
    ]
    monkeypatch.setattr(ray, "nodes", lambda: said)
    return said


@pytest.mark.parametrize(
    ("cpus_of_a_gpu", "cpus", "trials", "footprint", "expected", "reason"),
    [
        (
            16,
            1,
            16,
            _SMALL,
            4,
            "CPUs for 16 (1 of 16), trials for 16, memory for 40 (2 GB of 80 GB), at most 4",
        ),
        (3, 1, 16, _SMALL, 3, "CPUs for 3 (1 of 3), trials for 16, memory for 40 (2 GB of 80 GB)"),
        (16, 6, 16, _SMALL, 2, "CPUs for 2 (6 of 16), "),
        (16, 1, 16, Footprint(_GB, 5 * _GB, 16 * _GB, "cuda"), 3, "memory for 3 (5 GB of 16 GB)"),
        (16, 1, 2, _SMALL, 2, "trials for 2"),
        # Four GPUs with two CPUs: one trial each, on two of them.
        (0.5, 1, 4, _SMALL, 1, "CPUs for 0 (1 of 0.5)"),
        # Too large for the GPU, which is refused afterwards with what was measured.
        (16, 1, 4, Footprint(_GB, 20 * _GB, 16 * _GB, "cuda"), 1, "memory for 0 (20 GB of 16 GB)"),
        (16, 1, 16, None, 1, "what one takes of its memory could not be measured"),
        (16, 1, 16, Footprint(_GB), 4, "torch can use none and trains on the CPU"),
        (8, 1, 8, Footprint(_GB, trained_on="mps"), 4, "CPUs for 8 (1 of 8), trials for 8, at most 4"),
    ],
)
def test_how_many_trials_share_a_gpu(
    cpus_of_a_gpu: float,
    cpus: int,
    trials: int,
    footprint: Footprint | None,
    expected: int,
    reason: str,
) -> None:
    chosen, said = choose_trials_on_a_gpu(cpus_of_a_gpu, cpus, trials, footprint)
    assert chosen == expected
    assert reason in said


@pytest.mark.parametrize(
    ("nodes", "trials", "resources", "share", "note", "workers"),
    [
        ([{"CPU": 16.0, "GPU": 1.0}], 32, {}, 0.25, "4 trials on the GPU: CPUs for 16 ", 4),
        ([{"CPU": 16.0, "GPU": 2.0}], 32, {}, 0.25, "4 trials on each of 2 GPUs: ", 8),
        ([{"CPU": 6.0, "GPU": 2.0}], 32, {}, 0.3333, "3 trials on each of 2 GPUs: ", 6),
        # Ray fills one GPU before the next: three trials are to be on two.
        ([{"CPU": 16.0, "GPU": 2.0}], 3, {}, 0.5, "2 trials on each of 2 GPUs: ", 3),
        ([{"CPU": 16.0, "GPU": 2.0}], 9, {"max_concurrent_trials": 2}, 1.0, "1 trial on each of 2", 2),
        ([{"CPU": 16.0, "GPU": 2.0}], 9, {"cpus": 8}, 1.0, "1 trial on each of 2 GPUs: ", 2),
        # The node with the fewest CPUs for each GPU says it; one without GPUs says nothing.
        (
            [{"CPU": 16.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 2.0}, {"CPU": 64.0}],
            32,
            {},
            0.5,
            "2 trials on each of 3 GPUs: CPUs for 2 (1 of 2)",
            6,
        ),
    ],
    indirect=["nodes"],
)
def test_auto_chooses_a_share_that_ray_can_place(
    nodes: list[dict[str, Any]],
    trials: int,
    resources: dict[str, Any],
    share: float,
    note: str,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gpus, "try_largest", lambda spec, lanes: Tried(_SMALL))
    spec, reason = leave_out_gpus(_spec(trials, **resources))
    assert (spec.resources.gpus, reason) == ("auto", "")
    shared = share_gpus(spec)
    assert shared.spec.resources.gpus == share
    assert shared.note.startswith(note)
    assert shared.tried == Tried(_SMALL)
    assert shared.spec.gan.device == "cuda"
    assert num_workers(shared.spec, [node["Resources"] for node in nodes]) == workers


@pytest.mark.parametrize("nodes", [[{"CPU": 16.0, "GPU": 1.0}]], indirect=True)
def test_what_is_said_is_not_chosen(nodes: Any) -> None:
    for given in (0, 0.5, 1):
        spec = _spec(gpus=given)
        assert leave_out_gpus(spec) == (spec, "")
        assert share_gpus(spec) == (spec, "", None)


@pytest.mark.parametrize(
    ("nodes", "device", "cpus", "reason"),
    [
        ([{"CPU": 2.0}], "auto", 1, "Ray has none"),
        ([{"CPU": 2.0, "GPU": 1.0}], "cpu", 1, "gan.device is cpu"),
        (
            [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 8.0}],
            "auto",
            4,
            "no node that has one has the 4 CPUs of a trial",
        ),
    ],
    indirect=["nodes"],
)
def test_why_no_gpu_is_used(nodes: Any, device: str, cpus: int, reason: str) -> None:
    spec, said = leave_out_gpus(_spec(device=device, cpus=cpus))
    assert said == f"no GPU is used: {reason}"
    assert (spec.resources.gpus, spec.gan.device) == (0, "cpu")
    # As `resume` reads it.
    assert SweepSpec.parse(spec.model_dump(mode="json")) == spec


@pytest.mark.parametrize("nodes", [[{"CPU": 2.0}]], indirect=True)
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "mps"])
def test_a_gpu_that_is_named_and_not_there_is_one_line(nodes: Any, device: str) -> None:
    with pytest.raises(ConfigError) as caught:
        leave_out_gpus(_spec(device=device))
    assert str(caught.value) == (
        f"gan.device {device}: no GPU is there for a trial: Ray has none; use auto or cpu"
    )


def test_where_nodes_are_still_to_come_a_trial_has_a_gpu_for_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cluster, "_is_ray_cluster", lambda: True)
    monkeypatch.setenv("HOME", str(tmp_path))

    def come(**resources: int) -> None:
        kinds = {"available_node_types": {"worker": {"resources": resources}}}
        (tmp_path / "ray_bootstrap_config.yaml").write_text(json.dumps(kinds))

    spec = _spec(max_concurrent_trials=8)
    come(CPU=8, GPU=1)
    assert leave_out_gpus(spec) == (spec, "")
    shared = share_gpus(spec)
    assert shared.spec.resources.gpus == 1
    assert shared.note == "1 trial on each GPU: this cluster starts nodes for them"
    come(CPU=8)
    assert leave_out_gpus(spec)[0].resources.gpus == 0


def test_a_whole_gpu_is_counted_while_nothing_is_chosen() -> None:
    assert places_on({"CPU": 8.0, "GPU": 2.0}, _spec()) == 2
