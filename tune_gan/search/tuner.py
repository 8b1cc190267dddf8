"""Run a sweep on Ray Tune."""

import json
import logging
import os
import platform
import shlex
import signal
import socket
import subprocess
import sys
import threading
from contextlib import redirect_stdout, suppress
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, TrialScheduler
from rich.console import Console

from tune_gan.errors import ConfigError, RunFolderError
from tune_gan.gan.training import prepare
from tune_gan.search.progress import SweepProgress, trial_number
from tune_gan.search.searcher import METRIC, StudySearcher
from tune_gan.search.spec import SweepSpec, resolve
from tune_gan.search.trainable import train_trial

_RECORDED_PACKAGES = ("tune-gan", "ray", "torch", "torchvision", "optuna", "numpy", "pandas")


def run_sweep(spec: SweepSpec, out: Path | None = None, console: Console | None = None) -> Path:
    """Run a sweep to its end, on the Ray that runs already, or that RAY_ADDRESS names, or a new one.

    Args:
        spec: What to search.
        out: The run folder, which must not exist yet; by default ``runs/NAME-DATE-TIME``.
        console: Where to show progress; by default the standard error.

    Returns:
        The run folder. `tune_gan.load_results` reads it, also while the sweep runs.

    Raises:
        ConfigError: if the resources exceed those of the machine or cluster.
        DataError: if the data set cannot be loaded or is smaller than a batch.
        RunFolderError: if the folder exists already or cannot be written.
    """
    console = console or Console(stderr=True)
    folder = (out or default_run_folder(spec)).absolute()
    spec = resolve(spec)
    _make_folder(folder)
    try:
        # Load the data, see that the default fits it, and train the feature network here, once,
        # before every trial needs them.
        console.print(f"preparing {spec.gan.dataset} and its score", highlight=False)
        prepare(spec.gan)
        # Ray writes of dying workers, in colours, on the standard output, which is for results; their
        # cause of death is in the trial's error file and in the ranking.
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            _sweep_on_ray(spec, folder, console)
    except BaseException:
        # Leave nothing behind where nothing was begun.
        with suppress(OSError):
            folder.rmdir()
        raise
    return folder


def default_run_folder(spec: SweepSpec) -> Path:
    """Return ``runs/NAME-DATE-TIME``, by the local clock."""
    return Path("runs") / f"{spec.name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"


def num_workers(spec: SweepSpec, available: dict[str, float]) -> int:
    """Return how many trials run at a time on the resources of a machine or cluster.

    Args:
        spec: The sweep.
        available: ``CPU`` and ``GPU`` counts, as ``ray.cluster_resources()`` gives them.

    Raises:
        ConfigError: if not even one trial fits.
    """
    limits = [spec.num_trials, int(available.get("CPU", 0) // spec.resources.cpus)]
    if spec.resources.gpus:
        limits.append(int(available.get("GPU", 0) / spec.resources.gpus))
    if spec.resources.max_concurrent_trials:
        limits.append(spec.resources.max_concurrent_trials)
    if min(limits) < 1:
        raise ConfigError(
            f"resources: a trial takes cpus {spec.resources.cpus} and gpus {spec.resources.gpus:g}, "
            f"but there are {available.get('CPU', 0):g} and {available.get('GPU', 0):g}; "
            "lower them with --set resources.cpus=1 --set resources.gpus=0"
        )
    return min(limits)


def _sweep_on_ray(spec: SweepSpec, folder: Path, console: Console) -> None:
    started_ray = _start_ray()
    try:
        workers = num_workers(spec, ray.cluster_resources())
        _write_head(folder, spec)
        text = f"sweep {spec.name}: {spec.num_trials} trials, {workers} at a time, in {folder}"
        console.print(text, markup=False, highlight=False, soft_wrap=True)
        _fit(spec, folder, workers, console)
    finally:
        if started_ray:
            ray.shutdown()


def _fit(spec: SweepSpec, folder: Path, workers: int, console: Console) -> None:
    # The console shows what happens; Tune's own tables, tips and lists are switched off.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    searcher = StudySearcher(spec, folder)
    trainable = tune.with_parameters(train_trial, gan=spec.gan.model_dump())
    resources = {"cpu": spec.resources.cpus, "gpu": spec.resources.gpus}
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources),
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="min",
            search_alg=searcher,
            scheduler=_scheduler(spec),
            num_samples=spec.num_trials,
            max_concurrent_trials=workers,
            # Without this every trial starts a process and imports torch again.
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            callbacks=[SweepProgress(spec, console)],
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    finally:
        searcher.close()


class _SparingAsha(ASHAScheduler):
    """ASHA (Li et al. 2018, https://arxiv.org/abs/1810.05934) that never stops the default.

    Its scores count in the rungs as any other's, but the gain of tuning is only known if it is
    trained to its end.
    """

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        action = super().on_trial_result(tune_controller, trial, result)
        return TrialScheduler.CONTINUE if trial_number(trial) == "0" else action


def _scheduler(spec: SweepSpec) -> TrialScheduler:
    """Return ASHA counting reports, or what stops nothing."""
    if spec.scheduler.name == "none":
        return FIFOScheduler()
    return _SparingAsha(
        time_attr="training_iteration",
        # One more than there are, so that a trial ends by itself and not at the scheduler's word.
        max_t=spec.gan.num_reports + 1,
        grace_period=spec.grace_period,
        reduction_factor=spec.scheduler.reduction_factor,
    )


def _trial_name(trial: Trial) -> str:
    return f"trial_{int(trial_number(trial)):05d}"


def _start_ray() -> bool:
    """Connect to Ray or start it; return whether it was not there before."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Without this a path in a configuration would be relative to the folder of its trial.
    os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")
    address = os.environ.get("RAY_ADDRESS") or "local"
    _require_answer(address)
    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"Ray cannot be reached at RAY_ADDRESS={address} ({reason})") from None
    # Ray takes the signal for itself and would end the process at once.
    if callable(on_terminate) and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)
    return True


def _require_answer(address: str) -> None:
    """Fail at once where Ray would try an address that does not answer for minutes."""
    host, colon, port = address.rpartition("//")[2].rpartition(":")
    if colon and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=5).close()
        except OSError as error:
            raise ConfigError(f"nothing answers at RAY_ADDRESS={address} ({error})") from None


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise RunFolderError(f"{folder} exists already; name another folder with --out") from None
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be made ({error.strerror})") from None


def _write_head(folder: Path, spec: SweepSpec) -> None:
    """Write what the sweep is and where it ran, before its first trial."""
    (folder / "sweep.yaml").write_text(spec.to_yaml(), encoding="utf-8")
    environment = {
        "command": shlex.join(sys.argv),
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "cluster": {k: v for k, v in ray.cluster_resources().items() if k in ("CPU", "GPU")},
        "packages": {name: version(name) for name in _RECORDED_PACKAGES},
        "git_revision": _git_revision(),
    }
    text = json.dumps(environment, indent=2)
    (folder / "environment.json").write_text(text + "\n", encoding="utf-8")


def _git_revision() -> str | None:
    """Return the revision of the checkout that this package runs from, if it does.

    Where files of it are changed, ``-dirty`` is added.
    """
    package = Path(__file__).parent.parent
    if not (package.parent / ".git").exists():
        return None
    command = ["git", "-C", str(package), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
    return output.stdout.strip()
