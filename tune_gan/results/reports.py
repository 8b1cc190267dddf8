"""All reports of a run as one table, kept as parquet beside them and refreshed by what is new."""

import json
import logging
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tune_gan.errors import StorageError
from tune_gan.files import write_whole
from tune_gan.results.trials import (
    LARGEST_NUMBER,
    ListedTrial,
    ranking_score,
    read_trials,
)

CACHE_FILE = "reports.parquet"
# What a report may hold as a number, each missing where a run has no such measure.
MEASURES = [
    "epoch",
    "gen_loss",
    "disc_loss",
    "disc_real",
    "disc_fake",
    "gen_loss_std",
    "disc_loss_std",
    "fid_proxy",
    "fid_proxy_se",
    "kid",
    "coverage",
    "density",
    "distinct",
    "spread",
    "class_entropy",
    "radial_error",
    "sector_coverage",
    "samples_per_s",
    "train_time_s",
    "time_s",
    "reported_at",
]
TEXTS = ["instrument", "worker"]
COLUMNS = ["trial", "iteration", "ranking_score", "degenerate", *MEASURES, *TEXTS]
# Of the file's form and not of the program: a cache of another form is made anew.
_FORM = 2

_log = logging.getLogger(__name__)


def load_reports(run: str | Path, trials: Sequence[ListedTrial] | None = None) -> pd.DataFrame:
    """Load every report of a run.

    What was read is kept in ``RUN/reports.parquet``; only files of reports that have changed since are
    read again. Where it cannot be written the run is read as a whole each time.

    Args:
        run: The run folder.
        trials: Its trials, where they have been read.

    Returns:
        A row a report, by trial and iteration: ``trial``, ``iteration``, ``ranking_score`` (what trials
        are ranked by: `fid_proxy`, 1,000,000 higher for degenerate samples), ``degenerate``, the
        measures of a report as float64, missing where it has none, ``instrument`` of the score and
        ``worker`` (host and process) that trained it. ``reported_at`` is in seconds since 1970.

    Raises:
        RunFolderError: if the folder is no run folder or holds no list of trials that can be read.
    """
    folder = Path(run)
    trials = read_trials(folder) if trials is None else trials
    versions = {trial.number: _version(trial.file) for trial in trials}
    known, known_versions = _read_cache(folder / CACHE_FILE)
    is_known = {n for n, version in versions.items() if version and known_versions.get(n) == version}
    kept = known[known["trial"].isin(is_known)]
    fresh = []
    for trial in trials:
        if versions[trial.number] and trial.number not in is_known:
            # Not kept: the reports of thousands of trials would not fit into memory as they are.
            found, num_damaged = trial.read()
            fresh.append(_columns(trial.number, found))
            if num_damaged:
                # To be said again the next time.
                versions[trial.number] = None
    table = _joined(fresh, kept)
    if fresh or len(kept) < len(known):
        _write_cache(folder / CACHE_FILE, table, versions)
    return table


def _version(path: Path | None) -> list[int] | None:
    """Return what changes when a file does, or None where there is none."""
    try:
        stat = path.stat() if path else None
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns] if stat else None


def _columns(trial: int, reports: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Return a trial's reports by column."""
    columns = {
        "trial": np.full(len(reports), trial, dtype=np.int64),
        "iteration": np.array([report["iteration"] for report in reports], dtype=np.int64),
        "ranking_score": np.array([ranking_score(report) for report in reports], dtype=float),
        "degenerate": np.array([report.get("degenerate") is True for report in reports], dtype=bool),
    }
    table = _numbers([list(map(report.get, MEASURES)) for report in reports])
    columns |= {name: table[:, place] for place, name in enumerate(MEASURES)}
    for name in TEXTS:
        values = [report.get(name) for report in reports]
        columns[name] = np.array([v if isinstance(v, str) else None for v in values], dtype=object)
    return columns


def _numbers(rows: list[list[Any]]) -> np.ndarray:
    """Return what are finite numbers among values that a stranger may have written; else NaN."""
    # What every own report holds passes at once.
    if not set(map(type, chain.from_iterable(rows))) <= {float, type(None)}:
        rows = [[v if _is_number(v) else None for v in row] for row in rows]
    numbers = np.array(rows, dtype=float).reshape(len(rows), len(MEASURES))
    return np.where(np.abs(numbers) <= LARGEST_NUMBER, numbers, np.nan)


def _is_number(value: Any) -> bool:
    return type(value) in (float, int) and abs(value) <= LARGEST_NUMBER


def _joined(parts: Sequence[dict[str, np.ndarray]], kept: pd.DataFrame) -> pd.DataFrame:
    if not parts:
        return kept.sort_values(["trial", "iteration"], ignore_index=True)
    fresh = pd.DataFrame({name: np.concatenate([part[name] for part in parts]) for name in COLUMNS})
    fresh = fresh.astype(dict.fromkeys(TEXTS, "category"))
    tables = [fresh, kept] if len(kept) else [fresh]
    for name in TEXTS:
        names = pd.Index(sorted({text for table in tables for text in table[name].cat.categories}))
        for table in tables:
            table[name] = table[name].cat.set_categories(names)
    return pd.concat(tables).sort_values(["trial", "iteration"], ignore_index=True)


def _empty() -> pd.DataFrame:
    kinds = {"trial": "int64", "iteration": "int64", "degenerate": "bool"}
    kinds |= dict.fromkeys(TEXTS, "category")
    return pd.DataFrame({name: pd.Series(dtype=kinds.get(name, "float64")) for name in COLUMNS}).astype(
        kinds
    )


def _read_cache(path: Path) -> tuple[pd.DataFrame, dict[int, list[int]]]:
    """Return what is kept and of which versions of the files; nothing where it is damaged."""
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        kept = json.loads(table.schema.metadata[b"tune_gan"])
        frame = table.to_pandas(ignore_metadata=True)[COLUMNS]
        if (kept["form"], kept["rows"]) != (_FORM, len(frame)) or list(_empty().dtypes[:-2]) != list(
            frame.dtypes[:-2]
        ):
            raise ValueError("of another form")
        frame = frame.astype(dict.fromkeys(TEXTS, "category"))
        versions = {int(number): version for number, version in kept["files"].items()}
    except FileNotFoundError:
        return _empty(), {}
    # A stranger's file fails in many ways, none of them documented; the reports are still there.
    except Exception as error:
        _log.info("%s is read anew (%s)", path, " ".join(str(error).split())[:100])
        return _empty(), {}
    return frame, versions


def _write_cache(path: Path, table: pd.DataFrame, versions: dict[int, list[int] | None]) -> None:
    kept = {
        "form": _FORM,
        "rows": len(table),
        "files": {number: v for number, v in versions.items() if v},
    }
    arrow = pa.Table.from_pandas(table, preserve_index=False)
    arrow = arrow.replace_schema_metadata({"tune_gan": json.dumps(kept)})
    sink = pa.BufferOutputStream()
    pq.write_table(arrow, sink, compression="lz4", write_page_checksum=True)
    try:
        write_whole(path, sink.getvalue().to_pybytes())
    except StorageError as error:
        _log.debug("%s", error)


def best_reports(reports: pd.DataFrame) -> pd.DataFrame:
    """Return the best report of each trial, by `ranking_score`, the earliest of equal ones.

    Args:
        reports: What `load_reports` returns.
    """
    best: pd.DataFrame = reports.loc[reports.groupby("trial")["ranking_score"].idxmin()]
    return best.set_index("trial")


def last_reports(reports: pd.DataFrame) -> pd.DataFrame:
    """Return the last report of each trial."""
    return reports.groupby("trial").tail(1).set_index("trial")


def best_so_far(reports: pd.DataFrame) -> pd.Series:
    """Return for each report the lowest `ranking_score` of its trial until then."""
    return reports.groupby("trial")["ranking_score"].cummin()
