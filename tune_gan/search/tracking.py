"""Tell an experiment tracker of a sweep's trials, through Ray's own callbacks."""

import logging
import os
from pathlib import Path
from typing import Any

from ray import tune

from tune_gan.errors import ConfigError
from tune_gan.search.spec import SweepSpec

_log = logging.getLogger(__name__)


def trackers(spec: SweepSpec, folder: Path) -> list[tune.Callback]:
    """Return what tells a sweep's tracker of its trials; nothing without one.

    MLflow gets an experiment of the sweep's name, at ``MLFLOW_TRACKING_URI`` or in ``mlflow.db`` in the
    run folder; Weights & Biases a project of that name, as its own environment variables say, with
    its files in ``wandb`` in the run folder. Each trial is a run there, and one more after a resume.

    Raises:
        ConfigError: if it cannot be opened.
    """
    if spec.tracker == "mlflow":
        from ray.air.integrations.mlflow import MLflowLoggerCallback

        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder / 'mlflow.db'}"
        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        tags = {"run": folder.name}
        return [_Tracker(MLflowLoggerCallback(uri, experiment_name=spec.name, tags=tags))]
    if spec.tracker == "wandb":
        from ray.air.integrations.wandb import WandbLoggerCallback

        # Else it writes into folders of which Ray copies what is there too early.
        (folder / "wandb").mkdir(exist_ok=True)
        # Without an id of its own choice a trial would overwrite that of its number in another sweep.
        own: dict[str, Any] = {"dir": str(folder), "id": None}
        return [_Tracker(WandbLoggerCallback(project=spec.name, group=folder.name, **own))]
    return []


class _Tracker(tune.Callback):
    """A tracker that a sweep goes on without, should it fail in between.

    Args:
        callback: What tells it.

    Raises:
        ConfigError: if it cannot be opened, while somebody is still looking.
    """

    def __init__(self, callback: tune.Callback) -> None:
        self._callback: tune.Callback | None = callback
        try:
            callback.setup()
        # Trackers fail in ways of their own.
        except Exception as error:
            raise ConfigError(f"the tracker cannot be opened ({_one_line(error)})") from None

    def __getstate__(self) -> dict[str, Any]:
        """Leave out everything when Tune pickles its settings, which nobody reads."""
        return {}

    def on_trial_start(self, *args: Any, **info: Any) -> None:
        """Tell that a trial begins."""
        self._tell("on_trial_start", *args, **info)

    def on_trial_restore(self, *args: Any, **info: Any) -> None:
        """Tell that a trial begins again."""
        self._tell("on_trial_restore", *args, **info)

    def on_trial_result(self, *args: Any, **info: Any) -> None:
        """Tell of a report."""
        self._tell("on_trial_result", *args, **info)

    def on_trial_complete(self, *args: Any, **info: Any) -> None:
        """Tell that a trial has ended."""
        self._tell("on_trial_complete", *args, **info)

    def on_trial_error(self, *args: Any, **info: Any) -> None:
        """Tell that a trial has failed."""
        self._tell("on_trial_error", *args, **info)

    def on_experiment_end(self, *args: Any, **info: Any) -> None:
        """Tell that the sweep has ended."""
        self._tell("on_experiment_end", *args, **info)

    def _tell(self, hook: str, *args: Any, **info: Any) -> None:
        if self._callback is None:
            return
        try:
            getattr(self._callback, hook)(*args, **info)
        # A sweep of days is not to end because a server is away.
        except Exception as error:
            self._callback = None
            _log.warning("the tracker is told no more (%s)", _one_line(error))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
