"""The file of a run's reports: a line of JSON for each."""

import json
import math
from pathlib import Path
from typing import Any

from tune_gan.files import read_lines, write_whole
from tune_gan.gan.training import Report


def keep_reports_until(path: Path, iteration: int) -> list[dict[str, Any]]:
    """Cut a file of reports back to those up to an iteration, and return them.

    Raises:
        StorageError: if it cannot be read or written.
    """
    reports, damaged = read_lines(path)
    kept = [report for report in reports if report.get("iteration", math.inf) <= iteration]
    if damaged or len(kept) < len(reports):
        write_whole(path, "".join(json.dumps(report) + "\n" for report in kept))
    return kept


def json_metrics(metrics: dict[str, float]) -> dict[str, float | None]:
    """Return a report as JSON takes it, which has no word for NaN: a loss that is none is null."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def described(report: Report) -> dict[str, str]:
    """Return what a report says in words: how it was scored, and on what and how it was trained."""
    training = report.training
    return {
        "instrument": training.instrument,
        "device": training.latent_source.device.type,
        "precision": training.config.precision,
    }
