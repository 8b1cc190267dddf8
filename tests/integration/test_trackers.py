"""What other programs show of a sweep: TensorBoard, optuna-dashboard, MLflow, each the real one."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.integration.commands import PATIENCE_S, tune_gan
from tests.integration.test_sweep import TINY
from tune_gan.errors import ConfigError
from tune_gan.results.load import load_results
from tune_gan.search.checks import check_sweep
from tune_gan.search.spec import SweepSpec

pytestmark = pytest.mark.integration

_SCORES = ("hparam/best_fid_proxy", "hparam/last_fid_proxy")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of the ring that told MLflow of its trials."""
    folder = tmp_path_factory.mktemp("tracked")
    (folder / "tiny.yaml").write_text(json.dumps(TINY))
    ended = tune_gan("sweep", "tiny.yaml", "--tracker", "mlflow", "--out", "run", cwd=folder)
    assert ended.returncode == 0, ended.stderr
    assert "the tracker" not in ended.stderr
    return folder / "run"


@contextmanager
def _server(program: str, *arguments: str) -> Iterator[str]:
    """Start a program that serves pages on this machine alone, and give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = str(Path(sys.executable).with_name(program))
    called = [script, *arguments, "--host", "127.0.0.1", "--port", port]
    server = subprocess.Popen(called, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=PATIENCE_S)


def _get(address: str, body: dict[str, Any] | None = None, until: str = "") -> Any:
    """Return what an address answers as JSON, once it answers with this text in it."""
    deadline = time.monotonic() + PATIENCE_S
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"})  # noqa: S310
    while True:
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                text = answer.read().decode()
                if answer.status == 200 and until in text:
                    return json.loads(text)
        except (urllib.error.URLError, ConnectionError) as error:
            text = str(error)
        assert time.monotonic() < deadline, text
        time.sleep(0.5)


def test_tensorboard_shows_each_trial_with_its_scores_and_samples(run: Path) -> None:
    trials = load_results(run)
    with _server("tensorboard", "--logdir", str(run)) as address:
        tags = _get(f"{address}/data/plugin/images/tags", until="trial_00005")
        assert set(tags) == {f"trial_{number:05d}" for number in range(6)}
        assert all(set(found) == {"samples"} for found in tags.values())
        question = {
            "experimentName": "",
            "allowedStatuses": ["STATUS_SUCCESS", "STATUS_UNKNOWN", "STATUS_RUNNING"],
            "colParams": [
                {"metric": {"group": "", "tag": f"hparam/{name}_fid_proxy"}}
                for name in ("best", "last")
            ],
            "startIndex": 0,
            "sliceSize": 100,
        }
        path = "data/plugin/hparams/session_groups"
        groups = _get(f"{address}/{path}", question, until="trial_00005")["sessionGroups"]
    shown = {
        int(group["name"].split("_")[-1]): {
            value["name"]["tag"]: value["value"] for value in group["metricValues"]
        }
        for group in groups
    }
    for number, best, last in zip(
        trials["trial"], trials["best_fid_proxy"], trials["fid_proxy"], strict=True
    ):
        assert shown[number]["hparam/best_fid_proxy"] == pytest.approx(best, rel=1e-4)
        assert shown[number]["hparam/last_fid_proxy"] == pytest.approx(last, rel=1e-4)
    assert "gen_lr" in groups[0]["hparams"]


def test_optuna_dashboard_opens_the_runs_study(run: Path) -> None:
    with _server("optuna-dashboard", str(run / "optuna_journal.log")) as address:
        (summary,) = _get(f"{address}/api/studies")["study_summaries"]
        study = _get(f"{address}/api/studies/{summary['study_id']}?after=0")
    assert [trial["number"] for trial in study["trials"]] == list(range(6))
    assert {trial["state"] for trial in study["trials"]} <= {"Complete", "Pruned"}


def test_mlflow_has_a_run_for_each_trial(run: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{run / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "tiny"]
    runs = client.search_runs([experiment.experiment_id])
    last = {found.data.tags["trial_name"]: found.data.metrics["fid_proxy"] for found in runs}
    expected = {
        f"trial_{number:05d}": score for number, score in enumerate(load_results(run)["fid_proxy"])
    }
    assert last == pytest.approx(expected)
    assert all(found.data.params["gen_lr"] for found in runs)
    assert {found.data.tags["run"] for found in runs} == {"run"}


def test_a_tracker_that_cannot_be_opened_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(json.dumps(TINY))
    (tmp_path / "file").touch()
    command = [
        str(Path(sys.executable).with_name("tune-gan")),
        "sweep",
        "tiny.yaml",
        "--tracker",
        "mlflow",
    ]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/file/mlflow.db"}
    ended = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert ended.returncode == 2
    assert "the tracker cannot be opened" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_another_tracker_and_one_that_is_not_installed_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"tracker: 'comet' is not valid"):
        SweepSpec.parse({**TINY, "tracker": "comet"})
    if find_spec("wandb") is None:
        with pytest.raises(ConfigError, match=r"pip install 'tune-gan\[wandb\]'"):
            check_sweep(SweepSpec.parse({**TINY, "tracker": "wandb"}))
