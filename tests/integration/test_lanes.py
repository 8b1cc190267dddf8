"""Sweeps whose trials share a process, on a real Ray."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import LANE_SWEEP
from tests.integration.commands import PATIENCE_S, command, descendants
from tune_gan.config import GanConfig
from tune_gan.gan.training import iterate
from tune_gan.results.load import load_results
from tune_gan.results.trials import read_reports
from tune_gan.search.spec import SweepSpec
from tune_gan.search.tuner import resume_sweep, run_sweep

pytestmark = pytest.mark.integration

SPEC: dict[str, Any] = {
    **LANE_SWEEP,
    "gan": {**LANE_SWEEP["gan"], "num_iterations": 100},
    "space": {"gen_lr": {"log_uniform": [1e-4, 1e-1]}, "dropout": {"uniform": [0.0, 0.5]}},
    "search": {"algorithm": "random", "num_trials": 6},
    "resources": {"lanes": 3, "max_concurrent_trials": 3},
}


def test_a_sweep_in_lanes_gives_the_scores_of_trials_alone(tmp_path: Path) -> None:
    # Long enough for trials to be trained at the same time.
    spec = SweepSpec.parse({**SPEC, "gan": {**SPEC["gan"], "num_iterations": 1000}})
    run = run_sweep(spec, tmp_path / "run")
    trials = load_results(run)
    assert list(trials["state"]) == ["completed"] * 6
    reports = [read_reports(run / f"trial_{number:05d}/result.json") for number in range(6)]
    assert any(_are_trained_together(*pair) for pair in combinations(reports, 2))
    for number in (0, 5):
        values = json.loads((run / f"trial_{number:05d}/params.json").read_text())
        alone = iterate(GanConfig.parse({**spec.gan.model_dump(), **values}))
        lines = reports[number]
        assert [line["iteration"] for line in lines] == list(range(50, 1001, 50))
        # Later than that their rounding errors have grown.
        for line, report in zip(lines[:2], alone, strict=False):
            for name in ("gen_loss", "disc_loss", "fid_proxy"):
                assert line[name] == pytest.approx(report.metrics[name], rel=1e-4), name
    extended = resume_sweep(run, {"num_trials": 7})
    assert extended.num_left == 0
    assert list(load_results(run)["state"]) == ["completed"] * 7


def _are_trained_together(lines: list[dict[str, Any]], others: list[dict[str, Any]]) -> bool:
    """Return whether two trials were in one process at the same time, not one after the other."""
    times, other_times = ([line["reported_at"] for line in each] for each in (lines, others))
    overlap = times[0] < other_times[-1] and other_times[0] < times[-1]
    return bool(overlap and lines[0]["worker"] == others[0]["worker"])


def test_a_process_that_trains_is_killed_and_nothing_is_lost(tmp_path: Path) -> None:
    """All its trials go on from their last reports, in a new process; so they do without their own."""
    spec = {**SPEC, "gan": {**SPEC["gan"], "num_iterations": 1500, "report_every": 100}}
    sweep, run = _begin(spec, tmp_path)
    _wait_for_reports(sweep, run, 2)
    first = run / "trial_00000/result.json"
    killed = read_reports(first)[-1]["worker"]
    os.kill(int(killed.rpartition(":")[2]), signal.SIGKILL)
    _wait_for_reports(sweep, run, len(read_reports(first)) + 2)
    os.kill(descendants(sweep.pid, "ray::ImplicitFunc")[0], signal.SIGKILL)
    assert sweep.wait(timeout=PATIENCE_S) == 0
    assert list(load_results(run)["state"]) == ["completed"] * 6
    for number in range(6):
        assert _iterations(run, number) == list(range(100, 1501, 100))
    assert read_reports(first)[-1]["worker"] != killed
    assert (run / "trials.jsonl").read_text().count("started again") >= 2


def test_a_sweep_with_asha_in_lanes_is_killed_and_gone_on_with(tmp_path: Path) -> None:
    """Trials that ASHA stops leave their lanes to others; what was reported stays."""
    spec = {
        **SPEC,
        "gan": {**SPEC["gan"], "num_iterations": 800},
        "search": {"algorithm": "tpe", "num_trials": 12},
        "scheduler": {"name": "asha", "grace_period": 1, "reduction_factor": 2},
    }
    sweep, run = _begin(spec, tmp_path)
    _wait_for_reports(sweep, run, 2)
    sweep.kill()
    sweep.wait()
    before = [_iterations(run, number) for number in range(3)]
    end = resume_sweep(run)
    assert end.num_left == 0
    trials = load_results(run)
    assert set(trials["state"]) == {"completed", "stopped"}
    lengths = [len(_iterations(run, number)) for number in range(12)]
    for number, length in enumerate(lengths):
        assert _iterations(run, number) == list(range(50, 50 * length + 1, 50))
        assert (length == 16) == (trials.set_index("trial")["state"][number] == "completed")
    assert all(len(then) <= now for then, now in zip(before, lengths, strict=False))
    # As many processes before and after the kill as train at a time, and none for each trial.
    workers = {read_reports(run / f"trial_{n:05d}/result.json")[-1]["worker"] for n in range(12)}
    assert len(workers) <= 2 * min(3, os.cpu_count() or 1)


def _begin(spec: dict[str, Any], folder: Path) -> tuple["subprocess.Popen[bytes]", Path]:
    path, run = folder / "sweep.yaml", folder / "run"
    path.write_text(SweepSpec.parse(spec).to_yaml())
    sweep = subprocess.Popen(command("sweep", path, "--out", run), stderr=subprocess.DEVNULL)
    return sweep, run


def _wait_for_reports(sweep: "subprocess.Popen[bytes]", run: Path, count: int) -> None:
    """Wait until the first trial has made so many."""
    first, deadline = run / "trial_00000/result.json", time.monotonic() + PATIENCE_S
    while not (first.is_file() and len(read_reports(first)) >= count):
        assert time.monotonic() < deadline
        assert sweep.poll() is None
        time.sleep(0.1)


def _iterations(run: Path, number: int) -> list[int]:
    return [line["iteration"] for line in read_reports(run / f"trial_{number:05d}/result.json")]


def test_what_fails_in_a_lane_fails_alone(tmp_path: Path) -> None:
    """Trials with a batch larger than the data set, of which each would be the first of its pool."""
    values = {**SPEC, "gan": {**SPEC["gan"], "preset": None, "dataset": "digits", "latent_dim": 2}}
    del values["gan"]["preset"]
    values["space"] = {"batch_size": {"choice": [32, 5000]}}
    values["search"] = {"algorithm": "grid"}
    run = run_sweep(SweepSpec.parse(values), tmp_path / "run")
    trials = load_results(run).set_index("trial")
    failed = trials[trials["batch_size"] == 5000]
    assert set(failed["state"]) == {"failed"}
    assert set(trials[trials["batch_size"] == 32]["state"]) == {"completed"}
    assert "batch_size 5000 is above the 1297 training samples" in failed["cause"].iloc[0]


def test_the_process_of_a_trial_in_a_lane_loads_no_torch() -> None:
    code = (
        "import sys, tune_gan.search.lane_trainable, tune_gan.search.lane_actor; "
        "print('torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
