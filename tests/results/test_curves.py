"""Whether early stopping was right."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from tests.results.test_results import write_run
from tune_gan.results.answers import print_curves, print_learning_curves
from tune_gan.results.curves import early_and_final, learning_curves, rungs, verdict
from tune_gan.results.formats import Format

_SWEEP = """
name: test
gan: {dataset: digits, num_iterations: 2000, report_every: 100}
space: {gen_lr: {log_uniform: [1e-5, 1e-2]}}
"""
_ASHA = "scheduler: {name: asha, grace_period: 2, reduction_factor: 3}\n"
# The best score until 5, 10, 20, 50 % and until the end.
_BEST: list[list[float]] = [
    [9, 8, 6, 4, 3],
    [5, 5, 5, 5, 1],
    [7, 3, 2, 2, 2],
    [8, 8, 8, 8, 8],
    [4, 4, 4, 4, 4.5],
]


def _run(folder: Path, sweep: str = _SWEEP) -> Path:
    trials: list[Any] = []
    for best in _BEST:
        scores = [100.0] * 20
        for place, score in zip((0, 1, 3, 9, 19), best, strict=True):
            scores[place] = float(score)
        trials.append(("completed", scores, ""))
    return write_run(folder, [*trials, ("stopped", [1.0, 0.5], "scheduler")], sweep)


def test_early_and_final_scores_are_correlated(tmp_path: Path) -> None:
    table = early_and_final(_run(tmp_path / "run"))
    assert table["iteration"].tolist() == [100, 200, 400, 1000]
    assert table["share"].tolist() == [0.05, 0.1, 0.2, 0.5]
    assert table["finished"].tolist() == [5] * 4
    # Of the last one the best is that of before.
    final = [3, 1, 2, 8, 4]
    for place, row in table.iterrows():
        early = [min(best[: int(str(place)) + 1]) for best in _BEST]
        assert row["rho"] == pytest.approx(stats.spearmanr(early, final).statistic)
        assert row["tau"] == pytest.approx(stats.kendalltau(early, final).statistic)
        assert row["low"] <= row["rho"] <= row["high"]
    # The best in the end: second of 9, 5, 7, 8, 4, and fourth of 4, 5, 2, 8, 4.
    assert table["place"].tolist() == [2, 3, 3, 4]


def test_rungs_are_those_of_the_scheduler(tmp_path: Path) -> None:
    table = early_and_final(_run(tmp_path / "run", _SWEEP + _ASHA))
    assert table["iteration"].tolist() == [200, 600, 1800]
    assert table["stopped"].tolist() == [1, 0, 0]
    assert rungs(
        {"gan": {"num_iterations": 300, "report_every": 100}, "scheduler": {"name": "none"}}
    ) == [100, 200]


def test_rungs_of_a_sweep_are_where_its_scheduler_judges() -> None:
    """The grace period and the rungs are rounded up, as reports are whole."""
    scheduler = {"name": "asha", "reduction_factor": 2.5}
    spec = {"gan": {"num_iterations": 2500, "report_every": 100}, "scheduler": scheduler}
    assert rungs(spec) == [300, 800, 1900]
    # What a stranger wrote ends, too.
    endless = {**spec, "scheduler": {**scheduler, "reduction_factor": 1}}
    assert rungs(endless) == [300]
    assert rungs({**spec, "scheduler": "asha"}) == [100, 200, 500, 1200]


def test_under_five_trials_it_says_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [("completed", [1.0] * 20, "")] * 4, _SWEEP)
    assert early_and_final(run)["rho"].isna().all()
    assert verdict(run) == (
        "4 trials came to their end, which says nothing: 5 with different scores are the least"
    )


def test_without_a_rung_nothing_is_compared(tmp_path: Path) -> None:
    sweep = _SWEEP.replace("report_every: 100", "report_every: 2000")
    run = write_run(tmp_path / "run", [("completed", [float(i)], "") for i in range(9)], sweep)
    assert verdict(run).startswith("trials report but at their end")


def test_the_interval_is_a_bootstrap_of_trials(tmp_path: Path) -> None:
    source = np.random.default_rng(3)
    early, late = source.normal(size=30) + 5, source.normal(size=30)
    pairs = [[float(a), float(a / 2 + b)] for a, b in zip(early, late, strict=True)]
    sweep = _SWEEP.replace("report_every: 100", "report_every: 1000")
    run = write_run(tmp_path / "run", [("completed", pair, "") for pair in pairs], sweep)
    for file in run.glob("trial_*/result.json"):
        file.write_text(
            file.read_text()
            .replace('"iteration": 100', '"iteration": 1000')
            .replace('"iteration": 200', '"iteration": 2000')
        )
    row = early_and_final(run).iloc[-1]
    final = [min(pair) for pair in pairs]
    interval = stats.bootstrap(
        (early, np.array(final)),
        lambda x, y: stats.spearmanr(x, y).statistic,
        paired=True,
        vectorized=False,
        method="percentile",
        n_resamples=2000,
        rng=np.random.default_rng(1),
    ).confidence_interval
    assert (row["low"], row["high"]) == pytest.approx((interval.low, interval.high), abs=0.05)


def test_the_verdict_names_the_first_rung(tmp_path: Path) -> None:
    line = verdict(_run(tmp_path / "run", _SWEEP + _ASHA))
    assert line.startswith("at iteration 200 the order of the 5 trials that came to their end agreed")
    assert line.endswith("the best in the end was in place 3; the scheduler stopped 1")


def test_a_run_without_a_report_has_no_curves(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [("pending", [], "")], _SWEEP)
    assert learning_curves(run).empty
    assert early_and_final(run)["finished"].tolist() == [0] * 4


def test_the_command_prints_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = _run(tmp_path / "run", _SWEEP + _ASHA)
    print_curves(run, Format.TABLE)
    assert capsys.readouterr().out.splitlines()[-1] == verdict(run)
    print_learning_curves(run, Format.CSV)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "trial,iteration,fid_proxy,degenerate,best_so_far"
    assert (len(lines), lines[1]) == (103, "0,100,9.0,False,9.0")


def test_curves_fall_and_never_rise(tmp_path: Path) -> None:
    curves = learning_curves(_run(tmp_path / "run"))
    assert len(curves) == 102
    own = curves[curves["trial"] == 2]
    assert own["best_so_far"].is_monotonic_decreasing
    pd.testing.assert_series_equal(own["best_so_far"], own["fid_proxy"].cummin(), check_names=False)
