"""Sweeps on a real SLURM of two nodes, submitted by the installed command."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from tests.integration.commands import PATIENCE_S, command, numbers, tune_gan
from tune_gan import load_results
from tune_gan.results.report.contents import timeline
from tune_gan.results.reports import load_reports

_LAB = Path(__file__).with_name("lab.sh")
_STATE = Path("/var/tmp/tune-gan-slurm-lab")
_MISSING = [name for name in ("slurmctld", "slurmd", "munged", "ip") if shutil.which(name) is None]

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make network namespaces"),
    pytest.mark.skipif(
        bool(_MISSING), reason=f"{', '.join(_MISSING)} not here: slurm-wlm munge iproute2"
    ),
]

_NUM_TRIALS = 6
_RING = [
    "circle",
    *("--num-trials", str(_NUM_TRIALS)),
    *("--set", "num_iterations=400"),
    *("--set", "report_every=50"),
    *("--set", "search.algorithm=random"),
    *("--set", "scheduler.name=none"),
    *("--set", "health={min_coverage: 0, min_spread: 0, max_score_ratio: null}"),
]


def _lab(*arguments: str) -> None:
    with (_STATE.parent / "tune-gan-slurm-lab.out").open("a") as log:
        subprocess.run([str(_LAB), *arguments], check=True, stdout=log, stderr=log, timeout=PATIENCE_S)


@pytest.fixture(scope="module")
def _two_nodes() -> Iterator[None]:
    _lab("down")
    _lab("up")
    os.environ["SLURM_CONF"] = str(_STATE / "slurm.conf")
    os.environ["CANARY"] = "canary-9931"
    yield
    _lab("down")


@pytest.fixture
def folder(_two_nodes: None, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that both nodes share; what this machine has for itself is refused."""
    _wait(lambda: _slurm("sinfo", "-h", "-N", "-o", "%T").split() == ["idle", "idle"])
    path = Path("/srv/tune-gan-test") / request.node.name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    _site(path)
    yield path
    _slurm("scancel", "--user=root")
    shutil.rmtree(path)


def _slurm(*arguments: str) -> str:
    ran = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    return ran.stdout


def _site(folder: Path, **changes: object) -> Path:
    values = {"nodes": 2, "cpus_per_node": 2, "time": "20m", "scratch": "/scratch", **changes}
    file = folder / "site.yaml"
    file.write_text("".join(f"{name}: {value}\n" for name, value in values.items()))
    return file


def _wait(holds: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "it never came to this"
        time.sleep(0.5)


def _submit(folder: Path, *arguments: str | Path) -> str:
    """Submit a job and return its number."""
    sent = tune_gan("submit", *arguments, "--to", "slurm", "--site", folder / "site.yaml", cwd=folder)
    assert (sent.returncode, sent.stderr) == (0, "")
    found = re.match(r"job (\d+): sweep circle in ", sent.stdout)
    assert found is not None, sent.stdout
    return found[1]


def _job(number: str) -> dict[str, str]:
    """Return what SLURM says of a job."""
    said = _slurm("scontrol", "--oneliner", "show", "job", number)
    return dict(part.split("=", 1) for part in said.split() if "=" in part)


def _ended(number: str) -> dict[str, str]:
    _wait(lambda: _job(number)["JobState"] not in ("PENDING", "RUNNING", "COMPLETING"))
    return _job(number)


def _log(folder: Path, number: str) -> str:
    return (folder / "run.slurm" / f"{number}.log").read_text()


def _reports(run: Path) -> dict[int, list[str]]:
    return {
        int(file.parent.name.removeprefix("trial_")): lines
        for file in run.glob("trial_*/result.json")
        if (lines := file.read_text().splitlines())
    }


def _is_whole(run: Path) -> bool:
    """Return whether every trial has each of its reports once."""
    reports = load_reports(run)
    steps = reports.groupby("trial")["iteration"].agg(list)
    return len(steps) == _NUM_TRIALS and all(s == list(range(50, 401, 50)) for s in steps)


def _ray_processes(job: str) -> str:
    """Return the processes of a job's Ray, a line each."""
    pattern = f"/scratch/tune-gan-{job}-"
    return subprocess.run(["pgrep", "-fa", pattern], capture_output=True, text=True, check=False).stdout


@pytest.mark.slow
def test_a_sweep_keeps_both_nodes_busy_and_leaves_nothing(folder: Path) -> None:
    number = _submit(folder, *_RING, "--out", folder / "run")
    _wait((folder / "run.slurm" / f"{number}.token").is_file)
    assert (folder / "run.slurm" / f"{number}.token").stat().st_mode & 0o777 == 0o600
    job = _ended(number)
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), _log(folder, number)
    assert set(load_results(folder / "run")["state"]) == {"completed"}
    assert _is_whole(folder / "run")
    stretches = pd.DataFrame(timeline(load_reports(folder / "run")))
    node = stretches["worker"].str.split(":").str[0]
    busy = (stretches["end"] - stretches["start"]).groupby(node).sum()
    # Of two CPUs each, from the first trial's begin to the last one's end.
    share = busy / (2 * stretches["end"].max())
    assert set(share.index) == {"n1", "n2"}
    assert share.min() > 0.4, share
    # Neither Ray nor files nor the token are left, nor is a secret anywhere.
    assert _ray_processes(number) == ""
    assert [list((_STATE / f"scratch.{n}").iterdir()) for n in ("n1", "n2")] == [[], []]
    assert sorted(file.name for file in (folder / "run.slurm").iterdir()) == [
        f"{number}.log",
        "job.sh",
        "sweep.yaml",
    ]
    for file in folder.rglob("*"):
        assert file.is_dir() or b"canary-9931" not in file.read_bytes(), file


@pytest.mark.slow
def test_two_jobs_share_the_nodes_and_cancelling_one_ends_it_alone(folder: Path) -> None:
    _site(folder, cpus_per_node=1)
    first = _submit(folder, *_RING, "--out", folder / "run")
    other = _submit(folder, *_RING, "--out", folder / "other")
    runs = folder / "run", folder / "other"
    _wait(lambda: all(len(_reports(run)) >= 2 for run in runs))
    _slurm("scancel", first)
    assert _ended(first)["JobState"] == "CANCELLED"
    _wait(lambda: _ray_processes(first) == "")
    assert _ray_processes(other) != ""
    saved = _reports(folder / "run")
    assert _job(other)["JobState"] == "RUNNING"
    assert _ended(other)["JobState"] == "COMPLETED"
    assert _is_whole(folder / "other")
    again = _submit(folder, folder / "run")
    assert _ended(again)["JobState"] == "COMPLETED", _log(folder, again)
    assert _is_whole(folder / "run")
    for trial, lines in _reports(folder / "run").items():
        assert lines[: len(saved.get(trial, []))] == saved.get(trial, [])


@pytest.mark.slow
def test_at_the_time_limit_the_next_job_goes_on_to_the_last_trial(folder: Path) -> None:
    _site(folder, time="3m", save_time="90s")
    longer = ("--set", "num_iterations=1600", "--requeue-until-done")
    number = _submit(folder, *_RING, *longer, "--out", folder / "run")
    _wait(lambda: int(_job(number)["Restarts"]) >= 1)
    assert "interrupted; what was trained is kept" in _log(folder, number)
    deadline = time.monotonic() + PATIENCE_S
    while (job := _job(number))["JobState"] in ("PENDING", "RUNNING", "COMPLETING", "REQUEUED"):
        assert time.monotonic() < deadline, _log(folder, number)
        if job["Reason"] == "BeginTime":
            # SLURM leaves two minutes before a job that was put back.
            _slurm("scontrol", "update", f"JobId={number}", "StartTime=now")
        time.sleep(1)
    assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), _log(folder, number)
    steps = load_reports(folder / "run").groupby("trial")["iteration"].agg(list)
    assert len(steps) == _NUM_TRIALS
    assert all(s == list(range(50, 1601, 50)) for s in steps)


def test_trials_of_a_lost_node_go_on_elsewhere(folder: Path) -> None:
    number = _submit(folder, *_RING, "--out", folder / "run")

    def workers() -> set[str]:
        return (
            set(load_reports(folder / "run")["worker"].str.split(":").str[0])
            if run_is_there()
            else set()
        )

    def run_is_there() -> bool:
        return (folder / "run" / "trials.jsonl").is_file()

    _wait(lambda: workers() == {"n1", "n2"})
    last = load_reports(folder / "run").groupby("trial").tail(1)
    # Else nothing would be lost with the node.
    assert any(last["worker"].str.startswith("n2:") & (last["iteration"] < 400))
    saved = _reports(folder / "run")
    _lab("kill", "n2")
    try:
        job = _ended(number)
        assert (job["JobState"], job["ExitCode"]) == ("COMPLETED", "0:0"), _log(folder, number)
        assert set(load_results(folder / "run")["state"]) == {"completed"}
        assert _is_whole(folder / "run")
        kept = _reports(folder / "run")
        for trial, (*earlier, newest) in saved.items():
            assert kept[trial][: len(earlier)] == earlier
            # A report whose checkpoint was still to be written is made again, to the digit.
            assert numbers(json.loads(kept[trial][len(earlier)])) == numbers(json.loads(newest))
    finally:
        _lab("revive", "n2")


def test_a_folder_that_a_node_does_not_see_is_one_clear_line(folder: Path) -> None:
    parent = (_STATE / "node.n2.pid").read_text().strip()
    node = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0]
    within = ["nsenter", "--target", node, "--mount"]
    _slurm(*within, "mount", "-t", "tmpfs", "none", str(folder))
    try:
        number = _submit(folder, *_RING, "--out", folder / "run")
        job = _ended(number)
    finally:
        _slurm(*within, "umount", str(folder))
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "2:0")
    own = [line for line in _log(folder, number).splitlines() if line.startswith("tune-gan: ")]
    assert own == [
        f"tune-gan: n1: not every node sees {folder}/run.slurm; "
        "give --out a folder on a file system that all nodes share"
    ]
    assert not (folder / "run").exists()


def test_without_a_token_a_job_ends_in_one_clear_line(folder: Path) -> None:
    number = _submit(folder, *_RING, "--out", folder / "first")
    _slurm("scancel", number)
    _ended(number)
    token = folder / "run.slurm" / f"{int(number) + 1}.token"
    token.mkdir(parents=True)
    assert _submit(folder, *_RING, "--out", folder / "run") == str(int(number) + 1)
    job = _ended(str(int(number) + 1))
    assert (job["JobState"], job["ExitCode"]) == ("FAILED", "2:0")
    own = [line for line in _log(folder, str(int(number) + 1)).splitlines() if "tune-gan: " in line]
    assert own == [f"tune-gan: n1: the token {token} cannot be written"]


def test_what_slurm_refuses_is_one_line(folder: Path) -> None:
    _site(folder, partition="nowhere")
    sent = subprocess.run(
        command(
            "submit", *_RING, "--to", "slurm", "--site", folder / "site.yaml", "--out", folder / "run"
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert (sent.returncode, sent.stdout) == (2, "")
    assert sent.stderr == (
        "tune-gan: SLURM refuses the job (Batch job submission failed: Invalid partition name "
        "specified); change the site file\n"
    )
