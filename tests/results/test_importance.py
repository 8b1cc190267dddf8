"""Which hyperparameters mattered, of trials whose scores follow from one of them."""

import math
from pathlib import Path

import numpy as np
import pytest

from tests.results.test_results import write_run
from tune_gan.errors import ConfigError, IncomparableError
from tune_gan.files import append_line
from tune_gan.results.importance import Importance, Method, importance

_SPACE = """
name: test
gan: {dataset: digits, num_iterations: 200, report_every: 100}
space: {gen_lr: {log_uniform: [1e-5, 1e-2]}, beta1: {uniform: [0, 0.9]}, dropout: {uniform: [0, 0.5]}}
search: {num_trials: 99}
"""


def write_study(folder: Path, num_trials: int, seed: int = 0) -> Path:
    """A run whose first scores follow from the learning rate alone, and the last from the momentum."""
    source, configs = np.random.default_rng(seed), []
    for _ in range(num_trials):
        rate = 10 ** source.uniform(-5, -2)
        configs.append(
            {"gen_lr": rate, "beta1": source.uniform(0, 0.9), "dropout": source.uniform(0, 0.5)}
        )
    scores = [[10 ** (math.log10(c["gen_lr"]) + 5.1), 10 ** (-10 * c["beta1"])] for c in configs]
    write_run(folder, [("completed", pair, "") for pair in scores], _SPACE)
    for number, config in enumerate(configs):
        line = {"trial": number, "state": "completed", "cause": "", "config": config}
        append_line(folder / "trials.jsonl", line)
    return folder


def _shown(found: Importance) -> list[str]:
    return found.table[found.table["matters"]]["field"].tolist()


@pytest.mark.parametrize("method", list(Method))
def test_what_mattered_stands_above_the_noise(method: Method, tmp_path: Path) -> None:
    """Where one trial has only its first report, all are judged by theirs."""
    runs = [write_study(tmp_path / "one", 20, seed=1), write_study(tmp_path / "other", 20, seed=2)]
    found = importance(runs, method)
    assert (found.iteration, found.num_trials, _shown(found)) == (200, 40, ["beta1"])
    short = runs[0] / "trial_00000" / "result.json"
    short.write_text(f"{short.read_text().splitlines()[0]}\n")
    found = importance(runs, method)
    assert (found.iteration, _shown(found)) == (100, ["gen_lr"])
    assert set(found.table["field"]) == {"gen_lr", "beta1", "dropout", "noise"}
    assert found.table["share"].iloc[0] > 0.7
    assert not found.pairs["matters"].any()


def test_what_matters_only_together_is_found_as_a_pair(tmp_path: Path) -> None:
    """The score is low where the momentum is high with a high dropout, or low with a low one."""
    run, source = write_study(tmp_path / "run", 80), np.random.default_rng(0)
    for number in range(80):
        beta1, dropout = source.uniform(0, 0.9), source.uniform(0, 0.5)
        config = {"gen_lr": 10 ** source.uniform(-5, -2), "beta1": beta1, "dropout": dropout}
        line = {"trial": number, "state": "completed", "cause": "", "config": config}
        append_line(run / "trials.jsonl", line)
        score = 10.0 if (beta1 > 0.45) == (dropout > 0.25) else 1000.0
        (run / f"trial_{number:05d}" / "result.json").unlink()
        append_line(run / f"trial_{number:05d}" / "result.json", {"iteration": 200, "fid_proxy": score})
    pairs = importance([run]).pairs
    first = pairs.iloc[0]
    assert {first["field"], first["with"]} == {"beta1", "dropout"}
    assert pairs["matters"].tolist()[:2] == [True, False]


def test_of_noise_nothing_matters_most_of_the_time(tmp_path: Path) -> None:
    """Of 30 fields, each with its own low end above noise's high end."""
    false = 0
    for seed in range(10):
        run, source = write_study(tmp_path / str(seed), 40, seed), np.random.default_rng(seed)
        for number in range(40):
            file = run / f"trial_{number:05d}" / "result.json"
            file.unlink()
            append_line(file, {"iteration": 200, "fid_proxy": source.lognormal()})
        false += len(_shown(importance([run])))
    assert false <= 1


def test_one_trial_that_does_not_fit_is_left_out_not_the_field(tmp_path: Path) -> None:
    run = write_study(tmp_path / "run", 40)
    outside = {"gen_lr": 0.5, "beta1": 0.95, "dropout": 0.1}
    append_line(run / "trials.jsonl", {"trial": 0, "state": "completed", "config": outside})
    # It ended early, and is judged by what it came to.
    append_line(run / "trials.jsonl", {"trial": 1, "state": "collapsed"})
    short = run / "trial_00001" / "result.json"
    short.write_text(f"{short.read_text().splitlines()[0]}\n")
    found = importance([run])
    assert (found.iteration, found.num_trials, _shown(found)) == (200, 39, ["beta1"])
    assert set(found.table["field"]) == {"gen_lr", "beta1", "dropout", "noise"}


def test_a_field_that_depends_on_another_is_named_as_left_out(tmp_path: Path) -> None:
    run = write_study(tmp_path / "run", 40)
    text = (run / "sweep.yaml").read_text().replace("dropout: {", "dropout: {when: {beta1: 0.5}, ")
    (run / "sweep.yaml").write_text(text)
    assert importance([run]).left_out == ["dropout"]


def test_of_few_trials_it_does_not_say(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="29 trials can be compared, and under 30"):
        importance([write_study(tmp_path / "run", 29)])


def test_runs_over_different_spaces_are_refused(tmp_path: Path) -> None:
    one, other = (write_study(tmp_path / name, 30) for name in ("one", "other"))
    changed = (other / "sweep.yaml").read_text().replace("0.9", "0.8")
    (other / "sweep.yaml").write_text(changed)
    with pytest.raises(IncomparableError, match="searches another space"):
        importance([one, other])
