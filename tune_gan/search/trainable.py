"""The function that Ray Tune runs: a configuration in, reports out."""

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ray import tune

from tune_gan.config import GanConfig
from tune_gan.gan.training import iterate


def train_trial(values: dict[str, Any], gan: dict[str, Any]) -> None:
    """Train one trial, reporting to Ray Tune, each report with a checkpoint.

    Every report holds what `tune_gan.gan.training.Report` says, its ``state`` and its ``cause``.

    Args:
        values: The searched fields.
        gan: All fields of the default configuration.
    """
    config = GanConfig.parse({**gan, **values})
    with ExitStack() as stack:
        checkpoint = tune.get_checkpoint()
        folder = stack.enter_context(checkpoint.as_directory()) if checkpoint else None
        for report in iterate(config, Path(folder) if folder else None):
            with tempfile.TemporaryDirectory(prefix="tune-gan-") as aside:
                report.training.save(Path(aside))
                tune.report(
                    {**report.metrics, "state": report.state.value, "cause": report.cause},
                    checkpoint=tune.Checkpoint.from_directory(aside),
                )
