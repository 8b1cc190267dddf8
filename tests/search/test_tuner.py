import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY_RING
from tests.search.test_spec import SPEC
from tune_gan.errors import ConfigError, DataError, RunFolderError
from tune_gan.gan.training import iterate
from tune_gan.search import cluster
from tune_gan.search.cluster import num_workers, places_on
from tune_gan.search.spec import SweepSpec, load_spec, resolve
from tune_gan.search.tuner import _with_gpus_as_begun, run_sweep


@pytest.mark.parametrize(
    ("resources", "available", "expected"),
    [
        ({"cpus": 1}, {"CPU": 2.0}, 2),
        ({"cpus": 2}, {"CPU": 5.0}, 2),
        ({"cpus": 1}, {"CPU": 64.0}, 8),
        ({"cpus": 1, "gpus": 0.25}, {"CPU": 64.0, "GPU": 1.0}, 4),
        ({"cpus": 1, "max_concurrent_trials": 1}, {"CPU": 2.0}, 1),
    ],
)
def test_workers(resources: dict[str, Any], available: dict[str, float], expected: int) -> None:
    spec = SweepSpec.parse({**SPEC, "resources": {"gpus": 0, **resources}})
    assert num_workers(spec, [available]) == expected


@pytest.mark.parametrize(
    ("gpus", "there", "expected"),
    [
        (0.6, 2, 2),
        (0.1, 1, 10),
        (0.3, 2, 6),
        (1 / 3, 1, 3),
        (0.3333, 1, 3),
        (1 / 6, 2, 12),
        (1, 3, 3),
        (2, 3, 1),
        (2, 1, 0),
        (0.5, 0, 0),
        # What is left of a GPU where another sweep has a share of it is none that can be counted on.
        (0.5, 1.5, 2),
    ],
)
def test_shares_are_counted_as_ray_places_them(gpus: float, there: float, expected: int) -> None:
    spec = SweepSpec.parse({**SPEC, "resources": {"gpus": gpus}})
    assert places_on({"CPU": 64.0, "GPU": there}, spec) == expected


def test_places_are_counted_on_each_node() -> None:
    spec = SweepSpec.parse({**SPEC, "resources": {"gpus": 2}})
    assert num_workers(spec, [{"CPU": 8.0, "GPU": 3.0}] * 2) == 2
    with pytest.raises(ConfigError, match="there are 8 and 0, or on another node 8 and 1; lower"):
        num_workers(spec, [{"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0}])


@pytest.mark.parametrize(("wanted", "expected"), [(2, 2), (64, 8), (None, 1)])
def test_a_cluster_that_grows_is_asked_for_what_the_sweep_wants(
    wanted: int | None, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cluster, "_is_ray_cluster", lambda: True)
    _kinds(tmp_path, monkeypatch, head={"CPU": 0}, worker={"CPU": 8, "GPU": 1})
    spec = SweepSpec.parse({**SPEC, "resources": {"gpus": 0, "max_concurrent_trials": wanted}})
    assert num_workers(spec, [{"CPU": 1.0}]) == expected


def test_what_a_growing_cluster_has_no_node_for_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cluster, "_is_ray_cluster", lambda: True)
    _kinds(tmp_path, monkeypatch, head={"CPU": 0}, worker={"CPU": 8, "GPU": 1})
    resources = {"gpus": 4, "max_concurrent_trials": 2}
    with pytest.raises(ConfigError, match=r"no node of the cluster has both \(head: 0 and 0; worker: "):
        num_workers(SweepSpec.parse({**SPEC, "resources": resources}), [])
    with pytest.raises(ConfigError, match=r"resources\.max_concurrent_trials=N"):
        num_workers(SweepSpec.parse(SPEC), [])


def _kinds(home: Path, monkeypatch: pytest.MonkeyPatch, **kinds: dict[str, int]) -> None:
    """Put down what `ray up` leaves on the head."""
    nodes = {name: {"resources": resources} for name, resources in kinds.items()}
    (home / "ray_bootstrap_config.yaml").write_text(json.dumps({"available_node_types": nodes}))
    monkeypatch.setenv("HOME", str(home))


@pytest.mark.parametrize("resources", [{"cpus": 4}, {"gpus": 1}])
def test_resources_that_are_not_there(resources: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="but there are 2 and 0"):
        num_workers(SweepSpec.parse({**SPEC, "resources": resources}), [{"CPU": 2.0}])


def test_resolved_spec_holds_threads_and_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNE_GAN_DATA", str(tmp_path))
    spec = resolve(load_spec("vanilla", {"resources.cpus": 2}))
    assert spec.gan.num_threads == 2
    assert spec.gan.data_root == str(tmp_path)
    assert resolve(load_spec("circle")).gan.data_root is None


def test_a_trial_without_a_gpu_trains_on_the_cpu(tmp_path: Path) -> None:
    assert resolve(load_spec("circle", {"resources.gpus": 0})).gan.device == "cpu"
    assert resolve(load_spec("circle", {"resources.gpus": 0.5})).gan.device == "auto"
    assert resolve(load_spec("circle")).gan.device == "auto"


def test_nothing_is_started_or_written_on_wrong_input(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("somebody's")
    with pytest.raises(RunFolderError, match="exists already"):
        run_sweep(load_spec("circle"), tmp_path)
    other.unlink()
    spec = load_spec("vanilla", {"data_root": str(tmp_path / "nothing")})
    with pytest.raises(DataError, match="expected"):
        run_sweep(spec, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("named", ["auto", "cuda", "cuda:3"])
def test_a_run_of_0_2_0_goes_on_on_the_gpu_that_ray_did_not_know_of(named: str, tmp_path: Path) -> None:
    """Its trials trained on GPU 0, with ``gpus: 0`` in the sweep; it must be read, and have one."""
    gan = {**TINY_RING.model_dump(mode="json"), "device": named}
    space = {"gen_lr": {"log_uniform": [1e-4, 1e-3]}}
    spec = SweepSpec.parse(
        {**SPEC, "constraints": [], "gan": gan, "space": space, "resources": {"gpus": 0.0}}
    )
    assert _with_gpus_as_begun(spec, tmp_path) == spec
    snapshot = next(iterate(TINY_RING.model_copy(update={"device": "cpu"}))).training.snapshot()
    snapshot.write(tmp_path / "trial_00000/checkpoint")
    assert _with_gpus_as_begun(spec, tmp_path) == spec
    progress = json.dumps({**json.loads(snapshot.progress), "device": "cuda"})
    snapshot._replace(progress=progress).write(tmp_path / "trial_00001/checkpoint")
    changed = _with_gpus_as_begun(spec, tmp_path)
    assert (changed.resources.gpus, changed.gan.device) == ("auto", "cuda")
    on_cpus = resolve(spec)
    assert on_cpus.gan.device == "cpu"
    assert _with_gpus_as_begun(on_cpus, tmp_path) == on_cpus
