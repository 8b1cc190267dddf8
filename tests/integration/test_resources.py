"""Trials at a time on a Ray that is said to have four CPUs, one GPU or two, and little memory."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import ray
from rich.console import Console

from tests.conftest import TINY_RING
from tune_gan.errors import ConfigError
from tune_gan.results.load import load_results
from tune_gan.results.report.contents import timeline
from tune_gan.results.reports import load_reports
from tune_gan.search.spec import SweepSpec
from tune_gan.search.tuner import run_sweep

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


def _sweep(run: Path, gpus: float) -> tuple[str, int]:
    """Run four trials; return what was said, and how many of them trained at the same time."""
    spec = SweepSpec.parse(
        {
            "name": "packed",
            "gan": _RING.model_dump(),
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
