"""A Ray cluster of two nodes on this machine: waiting for nodes, and folders that they do not see."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from tests.integration.commands import tune_gan
from tune_gan.errors import ConfigError, TuneGanError
from tune_gan.results.load import load_results
from tune_gan.search import cluster as search_cluster
from tune_gan.search.cluster import on_ray, require_visible

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a cluster of two nodes with a CPU each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    ray.shutdown()
    cluster.shutdown()


def test_a_sweep_runs_on_the_cluster_that_is_named(address: str, tmp_path: Path) -> None:
    ended = tune_gan(
        *("sweep", "circle", "--num-trials", "2", "--set", "num_iterations=100"),
        *("--set", "report_every=50", "--set", "scheduler.name=none"),
        *("--address", address, "--min-nodes", "2", "--out", "run"),
        cwd=tmp_path,
    )
    assert ended.returncode == 0, ended.stderr
    assert "2 trials, 2 at a time" in ended.stderr
    assert list(load_results(tmp_path / "run")["state"]) == ["completed", "completed"]


def test_a_file_that_the_nodes_do_not_see_is_named(address: str, tmp_path: Path) -> None:
    (tmp_path / "here").touch()
    with on_ray(address, min_nodes=2):
        require_visible(tmp_path / "here")
        with pytest.raises(ConfigError) as caught:
            require_visible(tmp_path / "elsewhere" / "file")
    host = os.uname().nodename
    assert str(caught.value) == (
        f"{tmp_path}/elsewhere is not seen by {host}, {host}; give --out a folder on a file system "
        "that all nodes share"
    )


def test_nodes_that_do_not_come_end_the_wait(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search_cluster, "_LONGEST_WAIT_S", 1)
    with (
        pytest.raises(TuneGanError, match="only 2 of 3 nodes came to the cluster in 1 s"),
        on_ray(address, min_nodes=3),
    ):
        pass
    assert not ray.is_initialized()


def test_an_address_where_nothing_answers_is_one_line(tmp_path: Path) -> None:
    ended = tune_gan("sweep", "circle", "--address", "127.0.0.1:1", "--out", "run", cwd=tmp_path)
    assert (ended.returncode, ended.stdout) == (2, "")
    last = ended.stderr.splitlines()[-1]
    assert last.startswith("tune-gan: no Ray answers at 127.0.0.1:1 (")
    assert not (tmp_path / "run").exists()
