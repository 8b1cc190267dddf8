import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap, trim_mean

from tests.benchmarks.bench_results import generate
from tests.benchmarks.replay import (
    TABLE,
    Replay,
    Row,
    Step,
    Table,
    _row,
    interval,
    iqm,
    make,
    place,
    read,
    summary,
    sweep,
)
from tune_gan.results.reports import load_reports
from tune_gan.results.trials import METRIC
from tune_gan.search.spec import Budget, SweepSpec, load_spec

SWEEP = SweepSpec.parse(
    {
        "name": "table",
        "gan": {"preset": "circle", "disc_steps": 1, "num_iterations": 300, "report_every": 50},
        "space": {"gen_lr": {"log_uniform": [1e-5, 1e-1]}, "disc_steps": {"choice": [1, 2, 5]}},
        "search": {"algorithm": "random", "num_trials": 3},
        "health": {"min_coverage": 0.0, "min_spread": 0.0, "max_score_ratio": None},
    }
)
HOPELESS = [100.0] * 6


def _trained(
    values: dict[str, Any], scores: Sequence[float], seconds: float = 1.0, state: str = "completed"
) -> Row:
    """Return a row that took so many seconds for each report."""
    numbers = np.arange(1, len(scores) + 1)
    curves: dict[str, Any] = {
        "iteration": (50 * numbers).tolist(),
        "fid_proxy": list(scores),
        "degenerate": [False] * len(scores),
        "train_time_s": (seconds * numbers).tolist(),
    }
    return _row(list(values), {**values, "state": state, **curves})


def _table(*others: Row) -> Table:
    default = _trained(SWEEP.default_point, [6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    return Table(SWEEP.model_dump(mode="json"), [default, *others])


def _many(count: int) -> Table:
    """Return a table of rows whose scores fall at random."""
    source = np.random.default_rng(0)
    rows = []
    for _ in range(count - 1):
        values = {"gen_lr": 10 ** source.uniform(-5, -1), "disc_steps": int(source.choice([1, 2, 5]))}
        scores = source.uniform(1, 9, 6).cumsum()[::-1].tolist()
        rows.append(_trained(values, scores, source.uniform(1, 2)))
    return _table(*rows)


def _whole(table: Table, method: str, seed: int = 0) -> Replay:
    """Return a replay that goes on until no row is left."""
    return Replay(table, sweep(table, method, seed).model_copy(update={"budget": Budget()}))


def test_two_workers_take_turns_as_the_clock_says() -> None:
    slow = [_trained({"gen_lr": 1e-4, "disc_steps": n}, [9.0, 8.0, 7.0], 1.5) for n in (2, 5)]
    steps = _whole(_table(*slow), "random").run()
    # The third begins where the second ends.
    times: dict[int, list[float]] = {0: [1, 2, 3, 4, 5, 6], 1: [1.5, 3, 4.5], 2: [6, 7.5, 9]}
    assert [(s.time_s, s.trial) for s in steps] == sorted((t, n) for n in times for t in times[n])
    assert [s.iterations for s in steps] == [50 * n for n in range(1, 13)]
    assert [s.score for s in steps if s.trial == 0] == [6, 5, 4, 3, 2, 1]


def test_a_replay_ends_when_its_iterations_are_spent() -> None:
    table = _many(20)
    spec = sweep(table, "random", 0)
    assert spec.budget.iterations == 600
    assert [step.iterations for step in Replay(table, spec).run()] == [50 * n for n in range(1, 13)]


def test_asha_stops_a_hopeless_trial_at_the_rung() -> None:
    table = _table(_trained({"gen_lr": 1e-4, "disc_steps": 2}, HOPELESS))
    replay = _whole(table, "random+asha")
    assert replay._spec.grace_period == 2
    steps = replay.run()
    assert [step.trial for step in steps] == [0, 1, 0, 1, 0, 0, 0, 0]
    assert steps[-1].iterations == 6 * 50 + 2 * 50
    assert [trial.state for trial in replay._study.trials] == ["completed", "stopped"]
    told = replay._study.frozen_trials
    assert [(t.state.name, t.value) for t in told] == [("COMPLETE", 1.0), ("PRUNED", 100.0)]
    assert len(_whole(table, "random").run()) == 12


@pytest.mark.parametrize("method", ["random", "tpe+asha"])
def test_a_row_is_used_once_and_a_seed_gives_the_same_replay(method: str) -> None:
    table = _many(20)
    steps = _whole(table, method).run()
    rows = dict.fromkeys((step.trial, step.row) for step in steps)
    assert [trial for trial, _ in sorted(rows)] == sorted(row for _, row in rows) == list(range(20))
    assert (0, 0) in rows
    assert _whole(table, method).run() == steps
    assert _whole(table, method, seed=1).run() != steps


def test_points_are_told_as_those_of_the_nearest_rows() -> None:
    near, far = {"gen_lr": 2e-5, "disc_steps": 5}, {"gen_lr": 9e-2, "disc_steps": 5}
    replay = _whole(_table(_trained(far, [1.0]), _trained(near, [1.0])), "random")
    assert place(SWEEP.space, {"gen_lr": 1e-3, "disc_steps": 2}) == pytest.approx([0.5, 0, 0.5**0.5, 0])
    assert replay._nearest({"gen_lr": 1e-5, "disc_steps": 5}) == 2
    replay.run()
    assert sorted(t.values["gen_lr"] for t in replay._study.trials) == [2e-5, 1e-3, 9e-2]


def test_a_trial_that_diverged_counts_for_nothing_and_one_without_reports_takes_no_time() -> None:
    diverged = _trained({"gen_lr": 1e-4, "disc_steps": 2}, [0.1, 0.1], state="diverged")
    failed = _trained({"gen_lr": 1e-4, "disc_steps": 5}, [], state="failed")
    table = _table(diverged, failed)
    assert [r[METRIC] for r in diverged.reports] == [0.1, 2e6]
    replay = _whole(table, "random")
    steps = replay.run()
    assert min(step.score for step in steps) == 1.0
    assert steps[-1].time_s == 6
    assert len(steps) == 8
    assert sorted(trial.state for trial in replay._study.trials) == ["completed", "diverged", "failed"]


def test_the_interquartile_mean_and_its_interval() -> None:
    assert iqm([100, 1, 2, 3, 4, 5, 6, -50]) == np.mean([2, 3, 4, 5])
    values = np.random.default_rng(1).lognormal(size=30).tolist()
    assert iqm(values) == pytest.approx(np.mean(sorted(values)[7:23]))
    expected = bootstrap(
        (values,), lambda x, axis: trim_mean(x, 0.25, axis=axis), method="percentile", rng=5
    ).confidence_interval
    assert interval(values) == pytest.approx(tuple(expected), rel=0.03)
    assert interval(values) == interval(values)
    assert interval([7.0] * 30) == (7, 7)


def test_a_search_that_never_comes_to_the_best_counts_with_all_it_spent() -> None:
    reached = [Step(1.0, 50, 0, 0, 9.0), Step(2.0, 100, 1, 3, 0.5), Step(3.0, 150, 1, 3, 0.25)]
    missed = [Step(1.0, 50, 0, 0, 9.0), Step(8.0, 400, 1, 2, 2.0)]
    cells = summary("random", [reached, reached, reached, missed], 1.0).strip("| ").split(" | ")
    assert cells[0] == "random"
    assert [cell.split()[0] for cell in cells[1:]] == ["100", "2", "1", "0.25", "2"]
    assert summary("tpe", [missed] * 4, 1.0).startswith("| tpe | 400 [400, 400] | 8 [8, 8] | 4 of 4 |")


def test_the_best_are_a_twentieth_of_the_rows() -> None:
    table = _many(101)
    scores = [row.scores[-1] for row in table.rows]
    assert sum(score <= table.target for score in scores) == 6


def test_a_table_says_what_the_run_said(tmp_path: Path) -> None:
    run, path = tmp_path / "run", tmp_path / "table.parquet"
    run.mkdir()
    generate(run, 4, 3)
    made = {"started": "today", "git_revision": None, "python": "3", "packages": {"ray": "2"}}
    (run / "environment.json").write_text(json.dumps(made))
    make(run, path)
    table, reports = read(path), load_reports(run)
    assert len(table.rows) == 4
    for number, row in enumerate(table.rows):
        told = reports[reports["trial"] == number]
        assert [r["fid_proxy"] for r in row.reports] == pytest.approx(told["fid_proxy"])
        assert row.scores == pytest.approx(told["ranking_score"].cummin())
        assert np.cumsum(row.seconds) == pytest.approx(told["train_time_s"])
        assert [r["state"] for r in row.reports] == ["running", "running", "completed"]
        assert set(row.values) == {"gen_lr", "disc_lr", "beta1", "disc_steps", "activation"}


@pytest.mark.skipif(not TABLE.exists(), reason="the table is not there")
def test_the_table_of_the_ring_is_that_of_its_sweep() -> None:
    table, spec = read(TABLE), load_spec(str(TABLE.with_suffix(".yaml")))
    assert SweepSpec.parse(table.sweep).space == spec.space
    assert len(table.rows) == spec.num_trials
    assert table.rows[0].values == spec.default_point
    assert all(math.isfinite(second) and second > 0 for row in table.rows for second in row.seconds)
