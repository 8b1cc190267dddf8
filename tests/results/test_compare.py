"""Sweeps at equal cost, and what so many trials attain."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.results.test_results import SWEEP, Trial, write_run
from tune_gan.errors import ConfigError, IncomparableError
from tune_gan.files import append_line
from tune_gan.results import compare as compare_module
from tune_gan.results.compare import attainable, beside, best_by_cost, compare, groups, lowest_of

_SEED = "search: {{algorithm: random, num_trials: 2, seed: {}}}\n"


def _timed(run: Path, times: dict[int, list[float]]) -> Path:
    """Give the reports of trials a time, each trained since the one before, the first for 2 seconds."""
    for trial, seconds in times.items():
        file = run / f"trial_{trial:05d}" / "result.json"
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line, second in zip(lines, seconds, strict=True):
            line |= {
                "reported_at": 1000.0 + second,
                "time_s": 2.0 + second - seconds[0],
                "worker": "a:1",
            }
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    trials = [("completed", [9.0, 5.0, 6.0], ""), ("completed", [8.0, 7.0, 1.0], "")]
    return _timed(write_run(tmp_path / "run", trials), {0: [2, 6, 10], 1: [3, 7, 11]})


def test_the_best_score_as_it_was_reached(run: Path) -> None:
    curve = best_by_cost(run)
    assert curve["iterations"].tolist() == [100, 200, 300, 400, 500, 600]
    assert curve["seconds"].tolist() == [2, 3, 6, 7, 10, 11]
    assert curve["best"].tolist() == [9, 8, 5, 5, 5, 1]


def test_without_times_reports_are_taken_trial_by_trial(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [("completed", [9.0, 5.0], ""), ("completed", [8.0, 1.0], "")])
    curve = best_by_cost(run)
    assert curve["best"].tolist() == [9, 5, 5, 1]
    assert curve["seconds"].isna().all()
    with pytest.raises(IncomparableError, match="has no times in its reports"):
        compare([run], by="seconds")


def test_degenerate_scores_are_not_the_best(run: Path) -> None:
    file = run / "trial_00000" / "result.json"
    lines = [{**json.loads(line), "degenerate": True} for line in file.read_text().splitlines()]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    best = best_by_cost(run)["best"]
    assert best.isna().tolist() == [True] + [False] * 5
    assert best.tolist()[1:] == [8, 8, 7, 7, 1]


def test_runs_that_differ_by_their_seed_are_repeats(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / f"{n}", [("completed", [1.0 + n], "")], SWEEP + _SEED.format(n))
        for n in range(5)
    ]
    other = write_run(tmp_path / "other", [("completed", [1.0], "")])
    assert groups([*runs, other]) == {"0": runs, "other": [other]}
    table = compare([*runs, other])
    repeated, single = table[table["iterations"] == 100].to_dict("records")
    assert (repeated["sweep"], repeated["repeats"]) == ("0", 5)
    # The mean of the middle three of 1, 2, 3, 4, 5.
    assert repeated["best"] == 3
    assert 1 <= repeated["low"] < 3 < repeated["high"] <= 5
    assert math.isnan(single["low"])
    assert math.isnan(single["high"])
    wide = beside(table, "iterations", "best")
    assert list(wide.columns) == ["iterations", "0", "other"]
    assert wide["0"].iloc[-1].startswith("3 (")
    assert wide["other"].iloc[-1] == "1"


def test_costs_end_where_the_shortest_run_does(run: Path, tmp_path: Path) -> None:
    short = write_run(tmp_path / "short", [("completed", [4.0, 3.0], "")], SWEEP + _SEED.format(0))
    table = compare([run, short])
    assert table["iterations"].max() == 200
    at_end = table[table["iterations"] == 200].set_index("sweep")["best"]
    assert at_end.to_dict() == {"run": 8.0, "short": 3.0}


def test_runs_of_one_name_and_of_other_machines_are_told_apart(tmp_path: Path) -> None:
    folders = [tmp_path / place / "mnist" for place in ("a", "b", "c")]
    for folder in folders:
        folder.parent.mkdir()
    moved = SWEEP.replace("dataset: digits", "dataset: digits, data_root: /elsewhere")
    one, same = (
        write_run(f, [("completed", [1.0], "")], s)
        for f, s in zip(folders, (SWEEP, moved), strict=False)
    )
    other = write_run(folders[2], [("completed", [1.0], "")], SWEEP + _SEED.format(0))
    assert groups([one, same, other]) == {str(one): [one, same], str(other): [other]}
    with pytest.raises(ConfigError, match="named twice"):
        groups([one, one])


def test_small_costs_are_told_apart(tmp_path: Path) -> None:
    sweep = SWEEP.replace(
        "num_iterations: 300, report_every: 100", "num_iterations: 7, report_every: 1"
    )
    run = write_run(tmp_path / "run", [("completed", [2.0, 1.0], "")], sweep)
    file = run / "trial_00000" / "result.json"
    reports = [{"iteration": i, "fid_proxy": 9.0 - i} for i in range(1, 8)]
    file.write_text("".join(json.dumps(report) + "\n" for report in reports))
    table = compare([run])
    assert table["iterations"].tolist() == pytest.approx([0.7 * i for i in range(1, 11)])
    assert len(beside(table, "iterations", "best")) == 10


def test_trials_of_different_instruments_are_not_compared(run: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "other", [("completed", [1.0], "")])
    for folder, name in ((run, "a"), (other, "b")):
        append_line(
            folder / "trial_00000" / "result.json",
            {"iteration": 400, "fid_proxy": 0.5, "instrument": name},
        )
    for question in (compare, attainable):
        with pytest.raises(IncomparableError, match="different instruments"):
            question([run, other])


def test_runs_of_different_lengths_are_refused(run: Path, tmp_path: Path) -> None:
    longer = SWEEP.replace("num_iterations: 300", "num_iterations: 400")
    other = write_run(tmp_path / "other", [("completed", [1.0], "")], longer)
    with pytest.raises(IncomparableError, match=r"numbers of iterations \(300, 400\)"):
        compare([run, other])


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_lowest_of_k_is_the_mean_over_all_draws(count: int) -> None:
    scores = np.array([4.0, 1.0, 9.0, 2.5, 7.0])
    lowest = [min(drawn) for drawn in itertools.combinations(scores, count)]
    expected, low, high = lowest_of(scores, count)
    assert expected == pytest.approx(np.mean(lowest))
    assert low <= expected <= high
    assert sum(low <= value <= high for value in lowest) / math.comb(5, count) >= 0.8


def test_what_so_many_trials_attain_counts_those_that_broke_off(tmp_path: Path) -> None:
    trials = [
        ("completed", [2.0], ""),
        ("completed", [8.0], ""),
        ("diverged", [0.1], ""),
        ("running", [0.5], ""),
    ]
    table = attainable([write_run(tmp_path / "run", trials)])
    assert table["k"].tolist() == [1, 2, 3]
    # Of 2, 8 and 8, which the diverged one counts as.
    assert table["expected"].tolist() == pytest.approx([6.0, (2 + 2 + 8) / 3, 2.0])


def test_without_an_honest_score_nothing_is_attained(tmp_path: Path) -> None:
    assert attainable([write_run(tmp_path / "run", [("diverged", [0.1], "")])]).empty


@pytest.mark.parametrize("state", ["collapsed", "diverged", "failed"])
def test_what_broke_off_is_never_the_best(state: str, tmp_path: Path) -> None:
    trials: list[Trial] = [("completed", [9.0, 5.0], ""), (state, [2.0, 900.0], "so it ended")]
    run = _timed(write_run(tmp_path / "run", trials), {0: [2, 6], 1: [1, 3]})
    curve = best_by_cost(run)
    assert curve["iterations"].tolist() == [100, 200, 300, 400]
    assert curve["best"].fillna(-1).tolist() == [-1, 9, 9, 5]
    # The worst honest score stands for it.
    table = attainable([run])
    assert (table["k"].tolist(), table["expected"].tolist()) == ([1, 2], [5, 5])


def test_the_interval_is_that_of_the_interquartile_mean() -> None:
    scores = np.array([1.0, 2.0, 2.5, 3.0, 4.0, 5.0, 9.0, 30.0])
    low, middle, high = compare_module._interquartile_mean(scores)
    assert middle == pytest.approx(scores[2:6].mean())
    other = stats.bootstrap(
        (scores,),
        lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
        method="percentile",
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (low, high) == pytest.approx((other.low, other.high), rel=0.1)


def test_a_run_without_reports_is_said_to_be_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [("pending", [], "")])
    with pytest.raises(IncomparableError, match="has no reports yet; leave it out"):
        compare([run])
