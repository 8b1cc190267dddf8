"""The function that Ray Tune runs: a configuration in, reports out."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from filelock import FileLock
from ray import tune
from torch import Tensor

from tune_gan.config import GanConfig
from tune_gan.errors import CheckpointError, InputError, StorageError
from tune_gan.files import append_line, write_whole
from tune_gan.gan.album import Grids
from tune_gan.gan.beside import Beside
from tune_gan.gan.checkpoint import FILE_NAME, check
from tune_gan.gan.data import load_data
from tune_gan.gan.models import choose_device
from tune_gan.gan.reports import described, json_metrics, keep_reports_until
from tune_gan.gan.scoring import rescore, scorer_of
from tune_gan.gan.shortage import is_shortage
from tune_gan.gan.training import Report, iterate
from tune_gan.grids import GRIDS
from tune_gan.losses_file import LOSSES_FILE, keep_losses_until, write_losses
from tune_gan.metrics.score import WORST_SCORE
from tune_gan.results.trials import METRIC, REPORTS_FILE, SAMPLES_FILE, ranking_score, trial_folder
from tune_gan.search.failures import TrialFailure
from tune_gan.search.health import Health
from tune_gan.search.spec import SweepSpec

# How long to wait for a process of a sweep that was killed to let go of a trial, in seconds.
_LOCK_TIMEOUT_S = 120
CHECKPOINT = "checkpoint"
# Of the pictures of a trial's samples, in pixels: small, since there are many.
GRID_SIDE = 160


def train_trial(values: dict[str, Any], spec: dict[str, Any], run: str) -> None:
    """Train one trial from its last checkpoint on, reporting to Ray Tune.

    A report is first its losses, then a line of the trial's ``result.json``, then a checkpoint, then
    told to Tune, so that whatever is killed, and when, the folder alone says how to go on. A GPU trains
    on while this is written.

    Args:
        values: The searched fields.
        spec: The sweep, as `SweepSpec.model_dump` gives it.
        run: The run folder, which every machine must see under this path.

    Raises:
        TrialFailure: for what a blind retry would not mend.
    """
    number = int(tune.get_context().get_trial_id())
    with telling_failures(), opened_trial(Path(run), number, values, SweepSpec.parse(spec)) as trial:
        if trial.told:
            tune.report(trial.told)
        if trial.has_ended:
            return
        with Beside(choose_device(trial.config.device)) as beside:
            for report in iterate(trial.config, trial.checkpoint, beside.look):
                line, write = trial.take(report)
                beside.begin(write, partial(tune.report, line))
                if line["state"] != "running":
                    break
            beside.wait()


@contextmanager
def telling_failures() -> Iterator[None]:
    """Turn what a blind retry would not mend into `TrialFailure`."""
    try:
        yield
    except InputError as error:
        raise TrialFailure("input", str(error)) from None
    except StorageError as error:
        raise TrialFailure("storage", str(error)) from None
    except (MemoryError, RuntimeError) as error:
        if is_shortage(error):
            raise TrialFailure("memory", _one_line(error)) from None
        raise


@contextmanager
def opened_trial(
    run: Path, number: int, values: dict[str, Any], spec: SweepSpec
) -> Iterator["TrialRecord"]:
    """Lock a trial's folder, which is made if it is not there, and say where the trial stands.

    Raises:
        InputError, StorageError: if it cannot go on.
    """
    folder = trial_folder(run, number)
    _require_run(run)
    _make_folder(folder)
    # As Ray Tune's own tools look for it.
    write_whole(folder / "params.json", json.dumps(values))
    # A process of a sweep that was killed may live on for a moment.
    with FileLock(folder / ".lock", timeout=_LOCK_TIMEOUT_S):
        yield TrialRecord(folder, values, spec)


class TrialRecord:
    """A trial's folder: where the trial stands, and what is written of each report.

    Attributes:
        config: What to train.
        checkpoint: Where to go on from, if anything is there.
        told: What to tell Ray Tune before anything else, which may not have heard of it.
        has_ended: Whether nothing is left to train.
    """

    def __init__(self, folder: Path, values: dict[str, Any], spec: SweepSpec) -> None:
        self._folder, self._spec = folder, spec
        self.config = GanConfig.parse({**spec.gan.model_dump(), **values})
        checkpoint = folder / CHECKPOINT
        reached, self._note = _iteration_of(checkpoint)
        for aside in checkpoint.glob(".*.tmp"):
            aside.unlink(missing_ok=True)
        past = keep_reports_until(folder / REPORTS_FILE, reached)
        if reached and not _ends_at(past, reached):
            self._note = f"begun anew, since {folder / REPORTS_FILE} was damaged"
            reached, past = 0, keep_reports_until(folder / REPORTS_FILE, 0)
        keep_losses_until(folder / LOSSES_FILE, reached)
        self.checkpoint = checkpoint if reached else None
        self.told = {METRIC: min(map(ranking_score, past)), **past[-1]} if past else {}
        self.has_ended = bool(past) and past[-1]["state"] != "running"
        # A report's note is told once.
        self._noted = {""}
        self._health = Health(spec.health, spec.grace_period)
        self._health.catch_up(past)
        self._grids = _grids(folder, self.config, reached)

    def take(self, report: Report) -> tuple[dict[str, Any], Callable[[], None]]:
        """Take in a report.

        Returns:
            The report's line, and what writes its losses, the line, its samples and a checkpoint, in
            this order. That holds all that it takes of the training as it is now, and may be called in
            another thread.
        """
        line, training = _line(report, self._health, self._spec), report.training
        if report.note not in self._noted:
            self._note = self._note or report.note
            self._noted.add(report.note)
        if self._note and line["state"] == "running":
            line["cause"], self._note = self._note, ""
        samples, snapshot = self._grids.samples_of(training.scored_generator), training.snapshot()
        iteration = int(report.metrics["iteration"])
        is_best = training.best.iteration == iteration

        def write() -> None:
            write_losses(self._folder / LOSSES_FILE, iteration, report.losses)
            append_line(self._folder / REPORTS_FILE, line)
            self._draw(samples, iteration, is_best)
            snapshot.write(self._folder / CHECKPOINT)

        return line, write

    def _draw(self, samples: Tensor, iteration: int, is_best: bool) -> None:
        """Draw the samples of a report, once more as the trial's own where it is the best so far."""
        file = self._grids.file(iteration)
        try:
            self._grids.add(samples, iteration)
            if is_best:
                write_whole(self._folder / SAMPLES_FILE, file.read_bytes())
        except OSError as error:
            raise StorageError(f"{file} cannot be written ({error.strerror})") from None


def _grids(folder: Path, config: GanConfig, reached: int) -> Grids:
    try:
        return Grids(folder, config, load_data(config), reached, GRID_SIDE)
    except OSError as error:
        raise StorageError(f"{folder / GRIDS} cannot be made ({error.strerror})") from None


def _line(report: Report, health: Health, spec: SweepSpec) -> dict[str, Any]:
    """Return a report as Tune and the readers take it: finite, with its state and cause."""
    metrics: dict[str, Any] = json_metrics(report.metrics)
    best = report.training.best
    metrics[METRIC] = ranking_score({"fid_proxy": best.fid_proxy, "degenerate": best.degenerate})
    state, cause = report.state.value, report.cause
    limit = spec.budget.trial_time
    if state == "running":
        state, cause = health.judge(metrics)
        if state == "running" and limit is not None and metrics["time_s"] >= limit:
            state, cause = "stopped", f"its time limit of {limit:g} s is over"
    if state in ("diverged", "collapsed"):
        # Whoever compares trials, Tune's own tools included, is not to take it for a good one.
        metrics["best_fid_proxy"] = WORST_SCORE
        metrics[METRIC] = ranking_score({"fid_proxy": WORST_SCORE, "degenerate": True})
    elif state != "running" and spec.confirmation is not None:
        how = spec.confirmation
        metrics["rescored"] = rescore(report.training, how.num_samples, how.num_latent_seeds)
        metrics["rescored_by"] = scorer_of(report.training.config).name(how.num_samples)
    evaluation = len(report.training.history)
    return {
        **metrics,
        **described(report),
        "evaluation": evaluation,
        "state": state,
        "cause": cause,
        "reported_at": time.time(),
        "worker": f"{socket.gethostname()}:{os.getpid()}",
    }


def _iteration_of(checkpoint: Path) -> tuple[int, str]:
    """Return where a trial was left, and a note if its checkpoint is damaged: then it starts anew."""
    path = checkpoint / FILE_NAME
    if not path.is_file():
        return 0, ""
    try:
        return check(checkpoint).iteration, ""
    except CheckpointError as error:
        path.replace(path.with_suffix(".damaged"))
        return 0, f"begun anew, since {error}"


def _ends_at(reports: list[dict[str, Any]], iteration: int) -> bool:
    """Return whether the reports are whole up to the checkpoint's iteration."""
    last = reports[-1] if reports else {}
    needed = ("evaluation", "state", "cause", "fid_proxy", "best_fid_proxy", "coverage", "spread")
    return last.get("iteration") == iteration and all(name in last for name in needed)


def _require_run(run: Path) -> None:
    if not run.is_dir():
        raise StorageError(
            f"{run} is not to be seen on this machine; a sweep over several machines wants a folder "
            "that all of them share"
        )


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise StorageError(f"{folder} cannot be made ({error.strerror})") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or "out of memory"
