"""Real sweeps on real Ray: the ring, some seconds each."""

import json
import logging
import re
import signal
import subprocess
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import pytest
import ray
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from PIL import Image

from tests.integration.commands import command, tune_gan
from tune_gan import __version__, load_results, run_sweep
from tune_gan.results.ranking import rank
from tune_gan.results.show import ranking_records
from tune_gan.search.spec import SweepSpec
from tune_gan.search.study import STORAGE_FILE

pytestmark = pytest.mark.integration

TINY: dict[str, Any] = {
    "name": "tiny",
    "gan": {
        "preset": "circle",
        "gen_hidden": [32],
        "disc_hidden": [32],
        "disc_logits": 1,
        "disc_steps": 1,
        "beta1": 0.9,
        "num_iterations": 60,
        "report_every": 10,
    },
    "space": {
        "gen_lr": {"log_uniform": [1e-5, 1e-2]},
        "gen_hidden": {"choice": [[32], [16, 16]]},
        "disc_steps": {"choice": [1, 2]},
    },
    "search": {"algorithm": "random", "num_trials": 6, "seed": 3},
}


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """One Ray for the sweeps of this module, so that each takes seconds."""
    ray.init(
        "local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    yield
    ray.shutdown()


def _study(run: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(run / STORAGE_FILE)))
    return optuna.load_study(study_name=run.name, storage=storage)


def test_workers_import_the_program_and_not_what_lies_in_the_folder(tmp_path: Path) -> None:
    (tmp_path / "tune_gan").mkdir()
    (tmp_path / "tune_gan" / "__init__.py").write_text("raise ImportError('another one')\n")
    changes = ["--num-trials", "1", "--set", "num_iterations=10", "--set", "report_every=10"]
    result = tune_gan("sweep", "circle", *changes, "--out", "run", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "completed" in result.stdout


def test_a_sweep_from_one_command_to_the_trained_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "canary-5f1e9c"  # noqa: S105
    monkeypatch.setenv("SOME_TOKEN", secret)
    changes = ["--num-trials", "6", "--set", "num_iterations=200", "--set", "report_every=20"]
    result = tune_gan("sweep", "circle", *changes, "--out", "a run's folder", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    run = tmp_path / "a run's folder"
    assert [path.name for path in tmp_path.iterdir()] == ["a run's folder"]
    assert not [p for p in run.rglob("*") if p.is_file() and secret.encode() in p.read_bytes()]

    # What is shown: plain lines, few of them, then the table and what to do next.
    assert "\x1b" not in result.stdout + result.stderr
    assert len((result.stdout + result.stderr).splitlines()) < 30
    assert [line for line in result.stderr.splitlines() if line.startswith("[6/6] trial ")]
    assert "Traceback" not in result.stderr
    assert f"tune-gan train --config '{tmp_path}/a run'\"'\"'s folder/best.yaml'" in result.stdout

    # What is kept.
    assert SweepSpec.from_yaml(run / "sweep.yaml").gan.num_iterations == 200
    environment = json.loads((run / "environment.json").read_text())
    assert environment["packages"]["ray"] == ray.__version__
    assert environment["packages"]["tune-gan"] == __version__ == version("tune-gan")
    with Image.open(run / "best_samples.png") as picture:
        assert min(picture.size) >= 600
    for folder in run.glob("trial_*"):
        assert json.loads((folder / "params.json").read_text())["gen_lr"]
    # Of the six trials the checkpoints of the best five.
    assert len(list(run.glob("trial_*/checkpoint/state.safetensors"))) == 5

    # The ranking, and the winner trained again with the same numbers.
    records = json.loads(tune_gan("rank", run, "--json", cwd=tmp_path).stdout)
    assert sorted(record["trial"] for record in records) == list(range(6))
    # Which points are drawn depends on which trial ends first, and some collapse.
    assert {record["state"] for record in records} <= {"completed", "stopped", "collapsed"}
    default = next(record for record in records if record["trial"] == 0)
    assert default["config"]["gen_lr"] == 1e-3
    retrained = tune_gan("train", "--config", run / "best.yaml", "--out", "again", cwd=tmp_path)
    assert retrained.returncode == 0, retrained.stderr
    again = json.loads((tmp_path / "again" / "result.json").read_text())
    # A stopped winner can only get better when it is trained to its end.
    assert again["best_fid_proxy"] <= records[0]["best_fid_proxy"]
    lines = (tmp_path / "again" / "metrics.jsonl").read_text().splitlines()
    reports = [json.loads(line) for line in lines]
    at_best = next(r for r in reports if r["iteration"] == records[0]["best_iteration"])
    assert at_best["fid_proxy"] == records[0]["best_fid_proxy"]

    # TensorBoard events and Optuna's study can be read, and agree with the list of trials.
    assert len({path.parent for path in run.glob("trial_*/events.out.tfevents*")}) == 6
    trials = _study(run).trials
    assert len(trials) == 6
    for record in records:
        told = trials[record["trial"]].state
        failed = record["state"] == "collapsed"
        assert told in ((TrialState.FAIL,) if failed else (TrialState.COMPLETE, TrialState.PRUNED))


@pytest.mark.usefixtures("local_ray")
def test_random_search_with_one_worker_is_repeatable(tmp_path: Path) -> None:
    """Trials that share a reused worker report what each would alone."""
    spec = SweepSpec.parse({**TINY, "resources": {"max_concurrent_trials": 1}})
    tables = []
    for name in ("one", "two"):
        tables.append(ranking_records(rank(load_results(run_sweep(spec, tmp_path / name)))))
    assert tables[0] == tables[1]
    assert len({json.dumps(record["config"]) for record in tables[0]}) == 6


@pytest.mark.usefixtures("local_ray")
def test_asha_stops_weak_trials_and_tpe_learns_them_as_pruned(tmp_path: Path) -> None:
    changes = {
        "search": {"algorithm": "tpe", "num_trials": 12},
        "scheduler": {"grace_period": 1, "reduction_factor": 3},
    }
    run = run_sweep(SweepSpec.parse({**TINY, **changes}), tmp_path / "run")
    table = load_results(run)
    states = dict(zip(table["trial"], table["state"], strict=True))
    assert list(states.values()).count("stopped") >= 4
    assert (table[table["state"] == "stopped"]["iteration"] < 60).all()
    told = [trial.state for trial in _study(run).trials]
    assert told.count(TrialState.PRUNED) == list(states.values()).count("stopped")
    assert told.count(TrialState.COMPLETE) == list(states.values()).count("completed")


@pytest.mark.usefixtures("local_ray")
def test_a_weak_default_is_trained_to_its_end(tmp_path: Path) -> None:
    changes = {
        # Slow, so that better trials are in every rung before it.
        "gan": {**TINY["gan"], "gen_lr": 1e-9, "disc_steps": 100},
        "space": {"gen_lr": {"grid": [2e-3, 1e-3, 5e-4, 2e-4]}, "disc_steps": {"grid": [1]}},
        "search": {"algorithm": "grid"},
        "scheduler": {"grace_period": 2, "reduction_factor": 2},
    }
    run = run_sweep(SweepSpec.parse({**TINY, **changes}), tmp_path / "run")
    ranked = rank(load_results(run))
    last = ranked.iloc[-1]
    assert (last["trial"], last["state"], last["iteration"]) == (0, "completed", 60)


@pytest.mark.usefixtures("local_ray")
def test_two_objectives_under_conditions_and_constraints(tmp_path: Path) -> None:
    changes = {
        "gan": {**TINY["gan"], "beta2": 0.95},
        "space": {
            "gen_lr": {"log_uniform": [1e-4, 1e-2]},
            "disc_lr": {"log_uniform": [1e-4, 1e-2]},
            "optimizer": {"choice": ["adam", "sgd"]},
            "beta2": {"uniform": [0.9, 0.999], "when": {"optimizer": "adam"}},
        },
        "constraints": ["disc_lr >= gen_lr"],
        "search": {
            "algorithm": "tpe",
            "num_trials": 14,
            "objectives": ["fid_proxy", "samples_per_s"],
        },
    }
    run = run_sweep(SweepSpec.parse({**TINY, **changes}), tmp_path / "run")
    trials = _study(run).trials
    assert len(trials) == 14
    for trial in trials:
        assert trial.params["disc_lr"] >= trial.params["gen_lr"]
        assert ("beta2" in trial.params) == (trial.params["optimizer"] == "adam")
        if trial.state == TrialState.COMPLETE:
            assert len(trial.values) == 2
    records = ranking_records(rank(load_results(run)))
    front = {record["trial"] for record in records if record["pareto"]}
    completed = [record["trial"] for record in records if record["state"] == "completed"]
    assert front == {trial.number for trial in _study(run).best_trials} & set(completed)
    assert completed[0] in front


@pytest.mark.usefixtures("local_ray")
def test_a_sweep_learns_from_an_older_one(tmp_path: Path) -> None:
    old = run_sweep(SweepSpec.parse(TINY), tmp_path / "old")
    search = {"algorithm": "tpe", "num_trials": 3, "warm_start": [str(old)]}
    warm = run_sweep(SweepSpec.parse({**TINY, "search": search}), tmp_path / "warm")
    known = json.loads((warm / "warm_start.json").read_text())
    ranked = [state for state in load_results(old)["state"] if state in ("completed", "stopped")]
    assert len(known) == len(ranked)
    assert len(load_results(warm)) == 3


@pytest.mark.usefixtures("local_ray")
def test_the_best_are_confirmed_with_fresh_seeds(tmp_path: Path) -> None:
    run = run_sweep(SweepSpec.parse(TINY), tmp_path / "run")
    result = tune_gan("confirm", run, "--top", "2", "--seeds", "2", "--json", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    go_on = f"should it be stopped, go on with: tune-gan confirm {run} --top 2 --seeds 2"
    assert go_on in result.stderr.splitlines()
    assert re.search(r"^\[1/[46]\] trial \d with seed [12] ", result.stderr, re.MULTILINE)
    confirmed = json.loads(result.stdout)
    configurations = confirmed["configurations"]
    assert 0 in [row["trial"] for row in configurations]
    assert len(configurations) in (2, 3)
    for row in configurations:
        assert row["seeds"] + row["lost"] == 2
        assert len(row["scores"]) == row["seeds"]
    assert confirmed["left"] == 0
    assert confirmed["real_samples"]["num_samples"] == 10_000
    # Each training is that of `train` with the seed, and is scored with other latents.
    seeds = {int(config["seed"]) for config in _configs(run / "confirm")}
    assert seeds == {1, 2}
    reports = [json.loads(line) for line in _result(run / "confirm", 0).splitlines()]
    assert len(reports[-1]["rescored"]) == 3
    assert len(set(reports[-1]["rescored"])) == 3
    best = tune_gan("best", run, cwd=tmp_path).stdout.splitlines()[0]
    first = configurations[0]
    assert best.startswith(f"# trial {first['trial']} of 'run', chosen by the mean of ")
    other = tune_gan("confirm", run, "--top", "2", "--seeds", "4", cwd=tmp_path)
    assert other.returncode == 2
    assert "remove it to make another" in other.stderr


def _configs(run: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(run.glob("trial_*/params.json"))]


def _result(run: Path, trial: int) -> str:
    return (run / f"trial_{trial:05d}" / "result.json").read_text()


@pytest.mark.usefixtures("local_ray")
def test_failed_and_diverged_trials_are_named_and_ranked_last(tmp_path: Path) -> None:
    changes = {
        "gan": {**TINY["gan"], "optimizer": "sgd", "loss": "least_squares", "dropout": 0.0},
        "space": {"batch_size": {"grid": [128, 20_000]}, "gen_lr": {"grid": [1e-3, 1.0]}},
        "search": {"algorithm": "grid"},
        "scheduler": {"name": "none"},
    }
    spec = SweepSpec.parse({**TINY, **changes})
    spec = spec.model_copy(update={"gan": spec.gan.model_copy(update={"disc_lr": 0.9})})
    run = run_sweep(spec, tmp_path / "run")
    table = rank(load_results(run))
    states = list(table["state"])
    assert states[-2:] == ["failed", "failed"]
    assert "diverged" in states
    for _, row in table.iterrows():
        if row["state"] == "failed":
            assert "batch_size 20000 is above the 10000 training samples" in row["cause"]
        if row["state"] == "diverged":
            assert "not finite" in row["cause"] or "nan" in row["cause"]
    assert TrialState.RUNNING not in {trial.state for trial in _study(run).trials}


@pytest.mark.parametrize(
    ("address", "words"),
    [("127.0.0.1:1", "no Ray answers at"), ("nonsense", "Ray cannot be reached")],
)
def test_a_wrong_ray_address_is_one_line_and_leaves_nothing(
    address: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    result = tune_gan("sweep", "circle", "--out", "run", cwd=tmp_path)
    assert result.returncode == 2
    assert words in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_training_says_how_to_go_on_and_does(
    ending: signal.Signals, tmp_path: Path
) -> None:
    arguments = ["train", "--preset", "circle", "--num-iterations", "1000", "--out", "my run"]
    with subprocess.Popen(
        command(*arguments), cwd=tmp_path, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("iteration 300/"):
                process.send_signal(ending)
                break
        errors = process.stderr.read()
    assert process.returncode == 130
    hint = errors.splitlines()[-1]
    assert hint.endswith(f"go on with: tune-gan train --resume '{tmp_path}/my run'")
    resumed = tune_gan("train", "--resume", "my run", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert "completed at iteration 1000" in resumed.stdout
    lines = (tmp_path / "my run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["iteration"] for line in lines] == list(range(100, 1001, 100))
