"""Trials at a time on a Ray that is said to have four CPUs, one GPU or two, and little memory."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray
import torch
from ray import tune
from rich.console import Console

from tests.conftest import TINY_RING
from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError
from tune_gan.results.load import load_results
from tune_gan.results.report.contents import timeline
from tune_gan.results.reports import load_reports
from tune_gan.search import cluster, tuner
from tune_gan.search.spec import SweepSpec
from tune_gan.search.trainable import train_trial
from tune_gan.search.tuner import resume_sweep, run_sweep

pytestmark = pytest.mark.integration

_RING = TINY_RING.model_copy(update={"num_iterations": 4000, "report_every": 500})


@pytest.fixture
def need(request: pytest.FixtureRequest) -> Iterator[int]:
    """Start a Ray with memory for so many trials and more, and so many GPUs."""
    code = (
        "from tune_gan.gan.memory import *; import sys; "
        "print(measure_memory(GanConfig.parse(__import__('json').loads(sys.argv[1]))).host)"
    )
    told = [sys.executable, "-c", code, _RING.model_dump_json()]
    need = int(subprocess.run(told, capture_output=True, text=True, check=True).stdout)
    ray.init(
        num_cpus=4,
        num_gpus=request.param[1],
        _memory=int((request.param[0] + 0.6) * need),
        include_dashboard=False,
    )
    yield need
    ray.shutdown()


def _sweep(run: Path, gpus: float | str, gan: GanConfig = _RING) -> tuple[str, int]:
    """Run four trials; return what was said, and how many of them trained at the same time."""
    spec = SweepSpec.parse(
        {
            "name": "packed",
            "gan": gan.model_dump(),
            "space": {"gen_lr": {"log_uniform": [1e-4, 1e-3]}},
            "search": {"algorithm": "random", "num_trials": 4},
            "scheduler": {"name": "none"},
            "health": {"min_coverage": 0.0, "min_spread": 0.0, "max_score_ratio": None},
            "resources": {"gpus": gpus},
        }
    )
    console = Console(record=True, width=300, quiet=False, file=(run.parent / "said").open("w"))
    run_sweep(spec, run, console)
    assert list(load_results(run)["state"]) == ["completed"] * 4
    return console.export_text(), _most_at_a_time(load_reports(run))


def _most_at_a_time(reports: pd.DataFrame) -> int:
    spans = reports.groupby("trial")["reported_at"].agg(["min", "max"])
    return max(int(((spans["min"] <= t) & (t <= spans["max"])).sum()) for t in spans["min"])


def test_a_gpu_that_ray_has_and_torch_cannot_use_fails_its_trials_with_the_reason(
    tmp_path: Path,
) -> None:
    """Wrong input of a trial alone: it is not tried again, and the command fails with 1."""
    code = (
        "import ray, sys; from tune_gan.cli import main; "
        "ray.init(num_cpus=2, num_gpus=2, include_dashboard=False, log_to_driver=False); main()"
    )
    given = [
        "sweep",
        "circle",
        "--num-trials",
        "2",
        "--set",
        "device=cuda",
        "--set",
        "resources.gpus=1",
    ]
    command = [sys.executable, "-c", code, *given, "--out", str(tmp_path / "run")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert last.startswith("tune-gan: no trial can be ranked (2 failed); causes: 2 of "), result.stderr
    assert "device cuda is not there" in last
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("need", [(8, 1)], indirect=True)
def test_a_quarter_of_a_gpu_packs_four_trials_on_it(need: int, tmp_path: Path) -> None:
    said, at_a_time = _sweep(tmp_path / "run", gpus=0.25)
    assert "4 trials, 4 at a time" in said
    assert "memory for" not in said
    assert at_a_time == 4


@pytest.mark.parametrize("need", [(8, 2)], indirect=True)
def test_two_gpus_are_both_kept_busy(need: int, tmp_path: Path) -> None:
    said, at_a_time = _sweep(tmp_path / "run", gpus=1)
    assert "4 trials, 2 at a time" in said
    assert at_a_time == 2
    stretches = pd.DataFrame(timeline(load_reports(tmp_path / "run")))
    busy = (stretches["end"] - stretches["start"]).groupby(stretches["worker"]).sum()
    assert len(busy) == 2
    # From the first trial's begin to the last one's end.
    assert busy.min() / stretches["end"].max() > 0.5, busy


@pytest.mark.parametrize(
    ("need", "share", "said_first", "places"),
    [
        (
            (8, 1),
            0.25,
            "4 trials on the GPU: CPUs for 4 (1 of 4), trials for 4, ",
            {"0": 4},
        ),
        (
            (8, 2),
            0.5,
            "2 trials on each of 2 GPUs: CPUs for 2 (1 of 2), trials for 2, ",
            {"0": 2, "1": 2},
        ),
    ],
    indirect=["need"],
)
def test_auto_shares_the_gpus_that_ray_has(
    need: int,
    share: float,
    said_first: str,
    places: dict[str, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert not torch.cuda.is_available(), "what is said of a GPU that torch can use is another line"
    seen = tmp_path / "seen"
    seen.mkdir()

    def train_and_note(values: dict[str, Any], spec: dict[str, Any], run: str) -> None:
        number = tune.get_context().get_trial_id()
        (seen / str(number)).write_text(os.environ["CUDA_VISIBLE_DEVICES"])
        train_trial(values, spec, run)

    monkeypatch.setattr(tuner, "train_trial", train_and_note)
    said, at_a_time = _sweep(tmp_path / "run", gpus="auto")
    line = f"{said_first}torch can use none and trains on the CPU, at most 4\n"
    assert said.index(line) < said.index("4 trials, 4 at a time")
    assert at_a_time == 4
    shown = [file.read_text() for file in seen.iterdir()]
    assert {gpu: shown.count(gpu) for gpu in sorted(set(shown))} == places
    spec = SweepSpec.from_yaml(tmp_path / "run" / "sweep.yaml")
    assert (spec.resources.gpus, spec.gan.device) == (share, "auto")
    assert not torch.cuda.is_initialized()


def test_without_a_gpu_trials_are_shown_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Ray that this program starts, which is told of a GPU all the same."""
    start = ray.init
    monkeypatch.setattr(ray, "init", lambda **kinds: start(num_cpus=2, num_gpus=1, **kinds))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with cluster.on_ray():
        look: Any = ray.remote(lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
        assert ray.get(look.options(num_gpus=0).remote()) == ""
        assert ray.get(look.options(num_gpus=1).remote()) == "0"


@pytest.mark.parametrize("need", [(8, 0)], indirect=True)
def test_a_run_goes_on_as_it_was_chosen(need: int, tmp_path: Path) -> None:
    said, _ = _sweep(tmp_path / "run", "auto", TINY_RING)
    assert "no GPU is used: Ray has none\n" in said
    spec = SweepSpec.from_yaml(tmp_path / "run" / "sweep.yaml")
    assert (spec.resources.gpus, spec.gan.device) == (0, "cpu")
    ray.shutdown()
    ray.init(num_cpus=4, num_gpus=1, include_dashboard=False)
    console = Console(record=True, width=300, quiet=False, file=(tmp_path / "said").open("w"))
    resume_sweep(tmp_path / "run", {"num_trials": 5}, console)
    assert "GPU" not in console.export_text()
    resumed = SweepSpec.from_yaml(tmp_path / "run" / "sweep.yaml")
    assert (resumed.resources, resumed.gan.device) == (spec.resources, "cpu")
    assert list(load_results(tmp_path / "run")["state"]) == ["completed"] * 5


@pytest.mark.parametrize("need", [(2, 1)], indirect=True)
def test_memory_for_two_trials_runs_two_at_a_time(need: int, tmp_path: Path) -> None:
    said, at_a_time = _sweep(tmp_path / "run", gpus=0)
    assert "4 trials, 2 at a time" in said
    assert "memory for 2 trials at a time: the largest configuration (the default) took " in said
    assert at_a_time == 2


@pytest.mark.parametrize("need", [(0, 1)], indirect=True)
def test_no_memory_for_one_trial_is_refused_and_leaves_nothing(need: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"took [0-9.]+ [MG]B of memory when it was tried for one "):
        _sweep(tmp_path / "run", gpus=0)
    assert not (tmp_path / "run").exists()
