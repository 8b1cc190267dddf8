"""Sweeps on a running Ray cluster of two nodes, through its Jobs API, by the installed command."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import mkdtemp

import pytest

from tests.integration.commands import PATIENCE_S, command
from tune_gan.errors import ConfigError
from tune_gan.results.load import load_results
from tune_gan.results.reports import load_reports
from tune_gan.submission.submit import require_shared

pytestmark = pytest.mark.integration

_CANARY = "canary-4471"
_RING = ["circle", "--num-trials", "2", "--set", "report_every=50", "--set", "scheduler.name=none"]
_RING += ["--set", "search.algorithm=random"]
_RING += ["--set", "health={min_coverage: 0, min_spread: 0, max_score_ratio: null}"]


class _Cluster:
    """A head and another node, each with a CPU, that want a token."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "token").write_text(secrets.token_hex(32))
        # As on a cluster: what is on the path there is what a job finds.
        bare = {name: text for name, text in os.environ.items() if not name.startswith("RAY_")}
        self.stranger = {**bare, "HOME": str(folder)}
        self.env = {
            **self.stranger,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        }
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self._port = port
        self._nodes: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._start("--head", "--port=0", "--include-dashboard=true", f"--dashboard-port={self._port}")
        note = self.folder / "ray0" / "ray_current_cluster"
        wait(lambda: note.is_file() and bool(note.read_text()))
        head = note.read_text()
        self._start(f"--address={head}")
        wait(lambda: self.ray("status", "--address", head).stdout.count(" node_") == 2)

    def _start(self, *arguments: str) -> None:
        own = ["--block", "--num-cpus=1", "--min-worker-port=0", "--max-worker-port=0"]
        own += ["--dashboard-agent-listen-port=0", "--object-store-memory=100000000"]
        # As two machines they share no folder of Ray's.
        own.append(f"--temp-dir={self.folder}/ray{len(self._nodes)}")
        with (self.folder / "ray.log").open("ab") as log:
            start = [sys.executable, "-m", "ray.scripts.scripts", "start", *own, *arguments]
            node = subprocess.Popen(start, env=self.env, stdout=log, stderr=log, start_new_session=True)
        self._nodes.append(node)

    def ray(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        ray = [sys.executable, "-m", "ray.scripts.scripts", *arguments]
        return subprocess.run(
            ray, env=self.env, capture_output=True, text=True, check=False, timeout=PATIENCE_S
        )

    def submit(self, *arguments: str | Path) -> subprocess.Popen[str]:
        line = command("submit", *arguments, "--to", "ray", "--address", self.address)
        pipe = subprocess.PIPE
        env = {**self.env, "CANARY": _CANARY}
        return subprocess.Popen(
            line, cwd=self.folder, env=env, stdout=pipe, stderr=pipe, text=True, bufsize=1
        )

    def stop(self) -> None:
        for node in reversed(self._nodes):
            node.terminate()
        for node in self._nodes:
            node.wait(PATIENCE_S)


def wait(until: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not until():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.fixture(scope="module")
def cluster() -> Iterator[_Cluster]:
    # Sockets of Ray want a short path.
    folder = Path(mkdtemp(prefix="tune-gan-", dir="/tmp"))
    (folder / ".env").write_text(f"SECRET={_CANARY}")
    nodes = _Cluster(folder)
    try:
        nodes.start()
        yield nodes
    finally:
        nodes.stop()
        # What the nodes began ends after them, and writes to its folder until then.
        wait(lambda: _is_removed(folder))


def _is_removed(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that is refused as no machine's own."""
    for place in (Path.home(), Path("/srv")):
        try:
            require_shared(place)
            folder = Path(mkdtemp(prefix="tune-gan-test-", dir=place))
        except (ConfigError, OSError):
            continue
        yield folder
        shutil.rmtree(folder)
        return
    pytest.skip("neither HOME nor /srv is a place for a run that nodes share")


def test_a_sweep_is_sent_followed_and_its_exit_code_is_the_jobs(
    cluster: _Cluster, shared: Path
) -> None:
    job = cluster.submit(*_RING, "--set", "num_iterations=100", "--out", shared / "run")
    out, err = job.communicate(timeout=PATIENCE_S)
    assert (job.returncode, err) == (0, ""), out
    assert re.match(r"job raysubmit_\w+: sweep circle in ", out)
    assert "2 trials, 2 at a time" in out
    assert "[2/2] trial" in out
    assert list(load_results(shared / "run")["state"]) == ["completed"] * 2
    own = {cluster.folder / ".env", cluster.folder / "token"}
    places = [*shared.rglob("*"), *cluster.folder.rglob("*")]
    files = [path for path in places if path.is_file() and path not in own]
    # What the job had with it is unpacked among them.
    assert any(file.name == "ray_jobs.py" for file in files)
    hidden = [_CANARY.encode(), (cluster.folder / "token").read_bytes()]
    for file in files:
        # Ray goes on, and turns over its own.
        with suppress(FileNotFoundError):
            content = file.read_bytes()
            assert not any(secret in content for secret in hidden), file


def test_a_job_that_fails_fails_here(cluster: _Cluster) -> None:
    job = cluster.submit("/srv/no-such-run")
    out, err = job.communicate(timeout=PATIENCE_S)
    assert (job.returncode, err) == (2, "")
    assert "tune-gan: /srv/no-such-run is no run folder: it is not there" in out


def test_a_job_that_is_left_goes_on_and_one_that_is_stopped_is_gone_on_with(
    cluster: _Cluster, shared: Path
) -> None:
    run = shared / "run"
    job = cluster.submit(*_RING, "--set", "num_iterations=3000", "--out", run)
    assert job.stdout is not None
    lines: list[str] = []
    for line in job.stdout:
        lines.append(line)
        if "should it be stopped" in line:
            break
    wait(lambda: (run / "trials.jsonl").is_file() and len(load_reports(run)) > 3)
    job.send_signal(signal.SIGINT)
    out, err = job.communicate(timeout=PATIENCE_S)
    assert job.returncode == 130
    assert "no longer following; job raysubmit_" in out
    assert err == "tune-gan: interrupted\n"
    name = lines[0].split()[1].rstrip(":")
    status = cluster.ray("job", "status", name, "--address", cluster.address)
    assert f"Status for job '{name}': RUNNING" in status.stdout
    stopped = cluster.ray("job", "stop", name, "--address", cluster.address)
    assert stopped.returncode == 0, stopped.stderr
    before = load_reports(run)
    assert 3 < len(before) < 120
    again = cluster.submit(run)
    out, err = again.communicate(timeout=PATIENCE_S)
    assert (again.returncode, err) == (0, ""), out
    after = load_reports(run)
    assert list(load_results(run)["state"]) == ["completed"] * 2
    assert not after.duplicated(["trial", "iteration"]).any()
    assert len(after) == 120
    key = ["trial", "iteration"]
    both = before.merge(after, on=key, suffixes=("", "_after"))
    assert len(both) == len(before)
    assert (both["fid_proxy"] == both["fid_proxy_after"]).all()


def test_without_its_token_a_cluster_takes_nothing(cluster: _Cluster, shared: Path) -> None:
    line = command("submit", *_RING, "--to", "ray", "--address", cluster.address, "--out", shared / "r")
    ran = subprocess.run(
        line, env=cluster.stranger, capture_output=True, text=True, check=False, timeout=PATIENCE_S
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr == (
        f"tune-gan: the cluster at {cluster.address} takes no job without its own token; set "
        "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN_PATH to the file with it where that is not "
        "~/.ray/auth_token\n"
    )
    assert not (shared / "r").exists()
