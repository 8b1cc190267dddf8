"""How a sweep stands while it runs."""

import io
import json
import time
from pathlib import Path

import pytest
from rich.console import Console

from tests.results.test_results import SWEEP, Trial, write_run
from tune_gan.results.standing import Running, Standing, read_standing, standing_table

_TRIALS: list[Trial] = [
    ("completed", [90.0, 50.0, 60.0], ""),
    ("completed", [70.0, 8.0, 9.0], ""),
    ("running", [30.0, 5.0], ""),
    ("running", [40.0], ""),
]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Of eight trials of 300 iterations one ended before the start 100 s ago; one 40 s ago, two run."""
    run = write_run(tmp_path / "run", _TRIALS, f"{SWEEP}search: {{num_trials: 8}}\n")
    ages = {0: [400, 300, 200], 1: [90, 60, 40], 2: [50, 20], 3: [30]}
    for trial, seconds in ages.items():
        file = run / f"trial_{trial:05d}" / "result.json"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line, age in zip(lines, seconds, strict=True):
            line |= {"reported_at": time.time() - age, "worker": "a:1"}
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def test_a_sweep_at_work(run: Path) -> None:
    standing = read_standing(run, time.time() - 100)
    assert (standing.num_trials, standing.num_ended) == (8, 2)
    assert standing.states == {"completed": 2, "running": 2}
    assert (standing.best_trial, standing.best_score) == (2, 5.0)
    assert standing.best_config["gen_lr"] == 1e-4
    assert standing.best_age_s == pytest.approx(20, abs=2)
    # 300, 200 and 100 of this start's trials in 100 seconds.
    assert standing.iterations_per_s == pytest.approx(6, rel=0.05)
    assert standing.running == [Running(2, 200 / 300, 5.0), Running(3, 100 / 300, 40.0)]
    # Two trials' worth in 100 seconds; left are 6 less the one that both have done.
    assert standing.seconds_left == pytest.approx(250, rel=0.05)


@pytest.mark.parametrize(
    ("budget", "seconds"),
    [("time: 130", 30), ("iterations: 1000", (1000 - 900) / 6), ("time: 9000", 250)],
)
def test_a_budget_ends_it_sooner(run: Path, budget: str, seconds: float) -> None:
    with (run / "sweep.yaml").open("a") as file:
        file.write(f"budget: {{{budget}}}\n")
    standing = read_standing(run, time.time() - 100)
    assert standing.seconds_left == pytest.approx(seconds, rel=0.1)


def test_what_a_trial_did_before_this_start_is_no_speed_of_it(run: Path) -> None:
    # Since 55 s: 100 iterations of trial 1, 200 and 100 of those at work.
    assert read_standing(run, time.time() - 55).iterations_per_s == pytest.approx(400 / 55, rel=0.05)


@pytest.mark.parametrize(
    ("change", "total"),
    [
        # Two times three points, of which the default is one; a constraint forbids one more.
        ("search: {algorithm: grid}\n", 6),
        ("search: {algorithm: grid}\nconstraints: [disc_lr >= gen_lr]\n", 5),
        ("confirmation: {candidates: {0: {}, 3: {}}, seeds: [1, 2, 3], num_ended: 4}\n", 6),
    ],
)
def test_a_list_of_trials_is_as_long_as_it_will_be(change: str, total: int, tmp_path: Path) -> None:
    sweep = (
        "name: test\ngan: {dataset: circle, num_iterations: 300, gen_lr: 0.001, disc_lr: 0.001}\n"
        "space: {gen_lr: {grid: [0.001, 0.002]}, disc_lr: {grid: [0.001, 0.002, 0.003]}}\n"
    )
    run = write_run(tmp_path / "run", [("running", [3.0], "")], sweep + change)
    assert read_standing(run, None).num_trials == total


def test_a_sweep_that_rests_has_no_speed(run: Path) -> None:
    standing = read_standing(run, None)
    assert standing.best_trial == 2
    assert (standing.iterations_per_s, standing.seconds_left, standing.running) == (None, None, ())


def _printed(standing: Standing, width: int) -> list[str]:
    console = Console(width=width, record=True, file=io.StringIO(), color_system=None)
    console.print(standing_table(standing, "sweep test"))
    return console.export_text().splitlines()


def test_what_is_shown_of_it(run: Path) -> None:
    lines = _printed(read_standing(run, time.time() - 100), 120)
    assert lines[0].split("  ")[0] == "sweep test 2 of 8 trials have ended, about 4 min left".strip()
    assert lines[1].split() == ["states", "2", "completed,", "2", "running"]
    assert "fid_proxy 5 by trial 2, 20 s ago: gen_lr 0.0001" in lines[2]
    assert "6 iterations a second, 2 workers busy" in lines[3]
    assert lines[4].startswith("trial 2")
    assert "67% fid_proxy 5" in lines[4]


def test_many_trials_at_work_are_counted() -> None:
    running = [Running(number, 0.5, None) for number in range(20)]
    lines = _printed(Standing(100, {"running": 20}, running=running, num_workers=24), 40)
    assert lines[-1].startswith("and 12 more")
    assert "no score yet" in " ".join(lines)
    assert all(len(line.rstrip()) <= 40 for line in lines)
