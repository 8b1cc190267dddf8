"""Sweeps that are killed, interrupted, starved and broken, and resumed: on real Ray, the ring."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tests.integration.commands import PATIENCE_S, command, descendants, numbers, tune_gan
from tune_gan import load_results
from tune_gan.gan.checkpoint import FILE_NAME, check
from tune_gan.search.study import STORAGE_FILE

pytestmark = pytest.mark.integration

NUM_ITERATIONS, REPORT_EVERY = 400, 50
RING = [
    "circle",
    *("--set", f"num_iterations={NUM_ITERATIONS}"),
    *("--set", f"report_every={REPORT_EVERY}"),
    *("--set", "scheduler.name=none"),
    # Numbers of a trial are then those of its configuration and nothing else.
    *("--set", "search.algorithm=random"),
    # Small batches and few steps: what is tried here is what befalls a trial, not what it learns.
    *("--set", "batch_size=32", "--set", "space.batch_size={choice: [16, 32]}"),
    *("--set", "disc_steps=1", "--set", "space.disc_steps={choice: [1, 2]}"),
]
# No trial ends because of what it learns.
HEALTHY = ["--set", "health={min_coverage: 0, min_spread: 0, max_score_ratio: null}"]
FAULTS = Path(__file__).parent / "faults"


def start(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def wait_for(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)


def wait_until_free(run: Path, trial: int) -> None:
    """Wait for the worker of a sweep that was killed to be gone, too."""
    with FileLock(run / f"trial_{trial:05d}" / ".lock", timeout=PATIENCE_S):
        pass


def iterations(run: Path, trial: int) -> list[int]:
    return [int(report["iteration"]) for report in reports(run, trial)]


def reports(run: Path, trial: int) -> list[dict[str, Any]]:
    path = run / f"trial_{trial:05d}" / "result.json"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [json.loads(line) for line in lines]


def study(run: Path) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(run / STORAGE_FILE)))
    return optuna.load_study(study_name=None, storage=storage)


def tune_list(run: Path) -> dict[int, str]:
    newest = max(run.glob("experiment_state-*.json"))
    listed = [json.loads(trial) for trial, _ in json.loads(newest.read_text())["trial_data"]]
    return {int(trial["trial_id"]): str(trial["status"]) for trial in listed}


def assert_consistent(run: Path, num_trials: int) -> None:
    """Every trial once, in the table, in Tune's list and in the study, each with all its reports."""
    table = load_results(run)
    assert list(table["trial"]) == list(range(num_trials))
    assert not set(table["state"]) & {"running", "pending"}
    assert set(tune_list(run)) == set(range(num_trials))
    told = {"completed": TrialState.COMPLETE, "diverged": TrialState.FAIL}
    told |= {"collapsed": TrialState.FAIL, "failed": TrialState.FAIL}
    trials = study(run).trials
    assert [trial.number for trial in trials] == list(range(num_trials))
    for trial, (_, row) in zip(trials, table.iterrows(), strict=True):
        reached = int(row["iteration"])
        assert iterations(run, trial.number) == list(range(REPORT_EVERY, reached + 1, REPORT_EVERY))
        assert len(trial.intermediate_values) == reached // REPORT_EVERY
        if row["state"] in told:
            assert trial.state == told[row["state"]]
        if row["state"] == "completed":
            assert reached == NUM_ITERATIONS
            assert trial.value == row["best_fid_proxy"]


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of six trials that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    result = tune_gan("sweep", *RING, "--num-trials", "6", "--out", "run", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert_consistent(folder / "run", 6)
    return folder / "run"


def assert_same_numbers(run: Path, whole: Path, trials: range) -> None:
    for trial in trials:
        assert [*map(numbers, reports(run, trial))] == [*map(numbers, reports(whole, trial))]


def end_and_resume(folder: Path, signals: list[signal.Signals], seed: int, num_trials: int) -> Path:
    """Start a sweep, end it at random moments, resume it each time, and at last let it finish."""
    moments, run = random.Random(seed), folder / "run"  # noqa: S311
    arguments: list[str | Path] = ["sweep", *RING, "--num-trials", str(num_trials), "--out", run]
    reached: dict[int, int] = {}
    for ending in [*signals, None]:
        with start(*arguments, cwd=folder) as process:
            if ending is not None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(moments.uniform(3, 28))
                process.send_signal(ending)
            output, errors = process.communicate(timeout=PATIENCE_S)
        assert "Traceback" not in errors
        if ending in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1) and process.returncode:
            assert process.returncode in (130, -ending), errors
        for trial in range(num_trials):
            # At most the report that was being made is made again.
            now = (iterations(run, trial) or [0])[-1]
            assert now >= reached.get(trial, 0) - REPORT_EVERY
            reached[trial] = now
        if (run / "sweep.yaml").is_file():
            arguments = ["resume", run]
    assert process.returncode == 0, errors
    assert output.startswith(" ")
    return run


@pytest.mark.parametrize(
    ("signals", "seed"),
    [
        ([signal.SIGKILL] * 3, 1),
        ([signal.SIGINT, signal.SIGTERM, signal.SIGUSR1], 2),
    ],
    ids=["killed", "interrupted"],
)
def test_a_sweep_ended_at_random_moments_comes_to_the_same_end(
    signals: list[signal.Signals], seed: int, whole_run: Path, tmp_path: Path
) -> None:
    run = end_and_resume(tmp_path, signals, seed, 6)
    assert_consistent(run, 6)
    # Bit for bit, as if nothing had happened.
    assert_same_numbers(run, whole_run, range(6))


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("seed", range(5))
def test_a_sweep_killed_at_twenty_random_moments(seed: int, tmp_path: Path) -> None:
    run = end_and_resume(tmp_path, [signal.SIGKILL] * 20, seed, 24)
    assert_consistent(run, 24)


def test_workers_that_are_killed_and_stopped_go_on_from_their_checkpoints(
    whole_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    limits = ["--set", "failures.report_timeout=30"]
    arguments: list[str | Path] = ["sweep", *RING, *limits, "--num-trials", "6", "--out", run]
    with start(*arguments, cwd=tmp_path) as process:
        for trial, ending in ((1, signal.SIGKILL), (3, signal.SIGSTOP), (4, signal.SIGKILL)):
            # The first report comes before the first checkpoint.
            state = run / f"trial_{trial:05d}" / "checkpoint" / FILE_NAME
            wait_for(state.is_file, process)
            os.kill(_worker_of(run, trial), ending)
            held_at = check(run / f"trial_{trial:05d}" / "checkpoint").iteration
            assert held_at in (iterations(run, trial)[-1], iterations(run, trial)[-1] - REPORT_EVERY)
        # A second process is told who is at work, and does not wait for its end.
        second = tune_gan("resume", run, cwd=tmp_path)
        assert process.poll() is None
        assert second.returncode == 2
        assert f"is in use by process {process.pid} of " in second.stderr
        assert len(second.stderr.splitlines()) == 1
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "trial 3 starts again from its last checkpoint: hung: no report for 30 s" in errors
    assert_consistent(run, 6)
    assert_same_numbers(run, whole_run, range(6))
    listed = (run / "trials.jsonl").read_text()
    assert '"started again: its worker died' in listed


@pytest.mark.slow
def test_a_random_worker_killed_every_five_seconds(tmp_path: Path) -> None:
    run, choice = tmp_path / "run", random.Random(0)  # noqa: S311
    # A process may be killed more often than twice before it has begun to train.
    limits = ["--set", "failures.max_failures=1000"]
    arguments: list[str | Path] = ["sweep", *RING, *limits, "--num-trials", "24", "--out", run]
    with start(*arguments, cwd=tmp_path) as process:
        wait_for(lambda: reports(run, 0), process)
        while process.poll() is None:
            workers = descendants(process.pid, "ray::ImplicitFunc")
            if workers:
                with suppress(ProcessLookupError):
                    os.kill(choice.choice(workers), signal.SIGKILL)
            with suppress(subprocess.TimeoutExpired):
                process.wait(5)
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    assert_consistent(run, 24)
    assert "failed" not in set(load_results(run)["state"])


def _worker_of(run: Path, trial: int) -> int:
    """Return the process that holds a trial's lock."""
    lock = (run / f"trial_{trial:05d}" / ".lock").stat()
    for line in Path("/proc/locks").read_text().splitlines():
        found = re.search(r"FLOCK.* (\d+) [0-9a-f:]+:(\d+) ", line)
        if found and int(found[2]) == lock.st_ino:
            return int(found[1])
    raise AssertionError(f"nobody trains trial {trial}")


def test_every_way_to_fail_is_named_and_spares_the_others(tmp_path: Path) -> None:
    faults = {
        1: "exception",
        2: "segfault",
        3: "exit:1",
        4: "hang:1",
        5: "memory",
    }
    run = tmp_path / "run"
    limits = ["--set", "failures.report_timeout=30", "--set", "failures.max_failures=1"]
    limits += HEALTHY
    arguments: list[str | Path] = ["sweep", *RING, *limits, "--num-trials", "7", "--out", run]
    with start(
        *arguments,
        cwd=tmp_path,
        PYTHONPATH=str(FAULTS),
        TRIAL_FAULTS=json.dumps(faults),
        TRIAL_FAULTS_TALLY=str(tmp_path),
    ) as process:
        output, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    assert "Traceback" not in output + errors
    assert "\x1b" not in output + errors
    # How often each was tried: one retry; memory once more, alone.
    tallies = {path.name: len(path.read_text()) for path in tmp_path.glob("*-[0-9]")}
    assert tallies == {"exception-1": 2, "segfault-2": 2, "exit-3": 1, "hang-4": 1, "memory-5": 2}
    table = load_results(run)
    assert list(table["state"])[1:6] == ["failed", "failed", "completed", "completed", "failed"]
    assert table["cause"][1] == "ValueError: forced to fail (2 times in a row)"
    assert table["cause"][2].startswith("its worker died (")
    assert "you tried to allocate 281474976710656 bytes" in table["cause"][5]
    assert table["cause"][5].endswith("also when it was alone on its device")
    assert TrialState.RUNNING not in {trial.state for trial in study(run).trials}
    assert output.splitlines()[-1].startswith("all trials:")


def test_ten_of_twenty_trials_diverge(tmp_path: Path) -> None:
    diverging = range(1, 20, 2)
    run = tmp_path / "run"
    scheduler = ["--set", "scheduler={name: asha, grace_period: 3}", "--set", "num_iterations=250"]
    with start(
        *("sweep", *RING, *scheduler, "--set", "search.algorithm=tpe", "--num-trials", "20"),
        *("--out", run),
        cwd=tmp_path,
        PYTHONPATH=str(FAULTS),
        TRIAL_FAULTS=json.dumps(dict.fromkeys(diverging, "nan")),
        TRIAL_FAULTS_TALLY=str(tmp_path),
    ) as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, errors
    ranked = json.loads(tune_gan("rank", run, "--json", cwd=tmp_path).stdout)
    assert sorted(r["trial"] for r in ranked if r["state"] == "diverged") == list(diverging)
    assert [record["state"] for record in ranked[10:]] == ["diverged"] * 10
    for record in ranked[10:]:
        assert record["rank"] is None
        # Poisoned after its second report, found at its third.
        assert record["cause"].startswith(f"at iteration {3 * REPORT_EVERY}: gen_loss is nan")
    # The others ended as ever, and TPE was told of all.
    others = [record["state"] for record in ranked[:10]]
    assert {"completed", "stopped"} <= set(others) <= {"completed", "stopped", "collapsed"}
    told = [trial.state for trial in study(run).trials]
    assert told.count(TrialState.FAIL) == 10 + others.count("collapsed")
    assert TrialState.RUNNING not in told
    for trial in study(run).trials:
        assert all(abs(score) < float("inf") for score in trial.intermediate_values.values())


def test_a_sweep_in_which_all_fail_counts_the_causes(tmp_path: Path) -> None:
    with start(
        *("sweep", *RING, "--num-trials", "3", "--set", "failures.max_failures=0", "--out", "run"),
        cwd=tmp_path,
        PYTHONPATH=str(FAULTS),
        TRIAL_FAULTS=json.dumps({0: "exception", 1: "nan", 2: "exception"}),
        TRIAL_FAULTS_TALLY=str(tmp_path),
    ) as process:
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith(
        "tune-gan: no trial can be ranked (2 failed, 1 diverged); causes: "
        "2 of ValueError: forced to fail, 1 of at iteration 150: gen_loss is nan"
    )
    assert "Traceback" not in errors


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["/bin/mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)]
    made = subprocess.run(mount, capture_output=True, check=False)
    if made.returncode:
        pytest.skip("only root can mount a small file system")
    yield place
    subprocess.run(["/bin/umount", "-l", str(place)], check=False)


def test_a_full_disk_ends_a_sweep_that_goes_on_when_there_is_room(
    small_disk: Path, whole_run: Path, tmp_path: Path
) -> None:
    run = small_disk / "run"
    full = tune_gan("sweep", *RING, "--num-trials", "6", "--out", run, cwd=tmp_path)
    assert full.returncode == 1
    last = full.stderr.splitlines()[-1]
    assert re.match(rf"tune-gan: {run}/\S+ cannot be written \(No space left on device\)", last)
    assert last.endswith(f"go on with: tune-gan resume {run}")
    assert "Traceback" not in full.stderr
    # Nothing half-written has its final name, and what was written is whole.
    assert not list(run.rglob("*.tmp"))
    for checkpoint in run.glob("trial_*/checkpoint/state.safetensors"):
        check(checkpoint.parent)
    ranked = json.loads(tune_gan("rank", run, "--json", cwd=tmp_path).stdout)
    assert ranked[0]["rank"] == 1
    subprocess.run(["/bin/mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    resumed = tune_gan("resume", run, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_consistent(run, 6)
    assert_same_numbers(run, whole_run, range(6))


def test_budgets_end_a_sweep_within_a_report(whole_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    budget = ["--max-iterations-total", "1200"]
    ended = tune_gan("sweep", *RING, *budget, "--num-trials", "6", "--out", run, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    last = ended.stderr.splitlines()[-1]
    assert "since the budget is spent: its 1,200 iterations are spent" in last
    assert last.endswith(f"tune-gan resume {run} --max-iterations-total N, with a greater N")
    spent = sum((iterations(run, trial) or [0])[-1] for trial in range(6))
    assert 1200 <= spent <= 1200 + 2 * REPORT_EVERY
    states = list(load_results(run)["state"])
    assert len(states) < 6
    assert "running" not in states
    assert len(study(run).trials) == len(states)
    resumed = tune_gan("resume", run, "--max-iterations-total", "100000", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert_consistent(run, 6)
    assert_same_numbers(run, whole_run, range(6))


def test_time_is_a_budget_too(tmp_path: Path) -> None:
    """However slow a machine: how far trials come in it is not asked."""
    run = tmp_path / "run"
    endless = ["--set", "num_iterations=100000", "--num-trials", "50", *HEALTHY]
    ended = tune_gan("sweep", *RING, *endless, "--time-budget", "8s", "--out", run, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "since the budget is spent: its time of 8 s is over" in ended.stderr.splitlines()[-1]
    states = load_results(run)["state"]
    assert 0 < len(states) < 50
    assert set(states) == {"pending"}


def test_a_trial_has_its_time_limit(tmp_path: Path) -> None:
    run = tmp_path / "run"
    limits = ["--set", "num_iterations=100000", "--set", "budget.trial_time=1"]
    ended = tune_gan("sweep", *RING, *limits, *HEALTHY, "--num-trials", "3", "--out", run, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    table = load_results(run)
    assert list(table["state"]) == ["stopped"] * 3
    assert set(table["cause"]) == {"its time limit of 1 s is over"}
    for number in range(3):
        times = [report["time_s"] for report in reports(run, number)]
        assert times[-1] >= 1
        assert all(time < 1 for time in times[:-1])


def test_a_damaged_checkpoint_is_reported_and_stepped_over(tmp_path: Path, whole_run: Path) -> None:
    run = tmp_path / "run"
    with start("sweep", *RING, "--num-trials", "6", "--out", run, cwd=tmp_path) as process:
        wait_for(lambda: len(reports(run, 1)) > 2, process)
        process.kill()
    wait_until_free(run, 1)
    state = run / "trial_00001" / "checkpoint" / "state.safetensors"
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    with (run / STORAGE_FILE).open("ab") as file:
        file.write(b'{"op_code": 7, "wor')
    resumed = tune_gan("resume", run, cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    assert f"{run / STORAGE_FILE}: cut back by 19 bytes to its last whole line" in resumed.stderr
    assert "is damaged" in (run / "trials.jsonl").read_text()
    assert_consistent(run, 6)
    assert_same_numbers(run, whole_run, range(6))


def test_a_moved_run_folder_is_resumed(tmp_path: Path, whole_run: Path) -> None:
    moved = tmp_path / "a 'moved' run"
    shutil.copytree(whole_run, moved)
    more = tune_gan("resume", moved, "--num-trials", "7", cwd=tmp_path)
    assert more.returncode == 0, more.stderr
    assert_consistent(moved, 7)
    assert_same_numbers(moved, whole_run, range(6))
    fewer = tune_gan("resume", moved, "--num-trials", "6", cwd=tmp_path)
    assert (fewer.returncode, fewer.stderr.splitlines()[-1]) == (
        2,
        "tune-gan: num_trials 6 is less than the 7 that the sweep has; give more, or leave it out",
    )


def test_a_ray_that_does_not_start_is_one_line(tmp_path: Path) -> None:
    """Its own limit is half a minute, which a busy machine may take."""
    with start("sweep", *RING, "--num-trials", "6", "--out", "run", cwd=tmp_path) as process:
        while not (raylet := descendants(process.pid, "/raylet/raylet\0")):
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(raylet[0], signal.SIGSTOP)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1
    assert errors.splitlines()[-1].startswith("tune-gan: Ray could not be started (The current node")
    assert "Traceback" not in errors
    assert not (tmp_path / "run").exists()


def test_an_interrupt_while_ray_starts_leaves_nothing_behind(tmp_path: Path) -> None:
    """Amid Ray's start Python may lose it, and Ray's threads may crash the process as it ends."""
    with start("sweep", *RING, "--num-trials", "6", "--out", "run", cwd=tmp_path) as process:
        while not (servers := descendants(process.pid, "gcs_server")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert errors.splitlines()[1:] == [
        "ending when Ray has started; a second interrupt ends it at once",
        "tune-gan: interrupted",
    ]
    assert not (tmp_path / "run").exists()
    assert not any(Path(f"/proc/{server}").exists() for server in servers)


def test_a_second_interrupt_while_the_first_waits_loses_nothing(tmp_path: Path) -> None:
    """How much sooner it ends is not asked, which would be a matter of the machine."""
    run = tmp_path / "run"
    with start("sweep", *RING, "--num-trials", "6", "--out", run, cwd=tmp_path) as process:
        wait_for(lambda: reports(run, 0), process)
        workers = descendants(process.pid, "ray::ImplicitFunc")
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)
        process.send_signal(signal.SIGINT)
        # Python takes two for one where the first has not been dealt with; Tune waits 10 s for workers.
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE_S)
    assert workers
    assert process.returncode == 130
    assert errors.splitlines()[-1].endswith(f"go on with: tune-gan resume {run}")
    assert "Traceback" not in errors
