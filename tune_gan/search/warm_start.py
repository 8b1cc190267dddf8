"""Let a new sweep learn from the trials of old ones."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState, create_trial

from tune_gan.config import GanConfig
from tune_gan.errors import ConfigError, RunFolderError
from tune_gan.files import write_whole
from tune_gan.results.trials import ListedTrial, read_sweep, read_trials
from tune_gan.results.trials import TrialState as State
from tune_gan.search.spec import SweepSpec
from tune_gan.search.study import BY_SCHEDULER, objectives, running_best
from tune_gan.space import in_order, plain

WARM_START_FILE = "warm_start.json"
# Fields that do not change what a score means or what a configuration is worth.
_FREE_FIELDS = {"data_root", "weights", "device", "num_threads", "seed"}


def load_warm_start(spec: SweepSpec) -> list[dict[str, Any]]:
    """Return what the trials of other runs tell about a new sweep's space.

    A trial counts if its whole configuration is one that the new sweep could draw: the searched fields
    inside of the space, all others as the new sweep has them. Otherwise its score would not compare.

    Raises:
        ConfigError: if a run has not a single such trial, with the first field that differs.
        RunFolderError: if it is no run folder.
    """
    known: list[dict[str, Any]] = []
    for run in spec.search.warm_start:
        usable, problem = _usable(spec, Path(run))
        if not usable:
            raise ConfigError(f"search.warm_start: no trial of {run} fits this sweep: {problem}")
        known += usable
    return known


def require_instrument(known: Sequence[dict[str, Any]], instrument: str) -> None:
    """See that the scores of other runs compare with those of a new sweep.

    Args:
        known: What `load_warm_start` returned.
        instrument: What the new sweep measures with.

    Raises:
        ConfigError: if one was measured with another instrument.
    """
    # Version 0.1.0 did not say.
    others = {trial["instrument"] for trial in known if "instrument" in trial} - {instrument}
    if others:
        raise ConfigError(
            f"search.warm_start: scores of {min(others)} do not compare with those of {instrument}, "
            "which this sweep is measured with; leave that run out"
        )


def save_warm_start(folder: Path, known: Sequence[dict[str, Any]]) -> None:
    """Keep what other runs told in the run folder, since they may be gone when the sweep is resumed."""
    if known:
        write_whole(folder / WARM_START_FILE, json.dumps(known))


def read_warm_start(folder: Path, spec: SweepSpec) -> list[FrozenTrial]:
    """Return what `save_warm_start` kept, as Optuna's trials.

    Raises:
        RunFolderError: if the file is damaged.
    """
    path = folder / WARM_START_FILE
    if not path.is_file():
        return []
    distributions = {name: d.to_optuna() for name, d in spec.space.items()}
    try:
        return [
            create_trial(
                state=TrialState.COMPLETE if known["values"] else TrialState.PRUNED,
                values=known["values"],
                params=known["params"],
                distributions={name: distributions[name] for name in known["params"]},
                intermediate_values={int(n): score for n, score in known["scores"].items()},
            )
            for known in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path} is damaged ({error}); remove it to go on without") from None


def _usable(spec: SweepSpec, run: Path) -> tuple[list[dict[str, Any]], str]:
    base, problem = read_sweep(run)["gan"], "none has ended"
    usable = []
    for trial in read_trials(run):
        if trial.state not in (State.COMPLETED, State.STOPPED) or not trial.reports:
            continue
        config = GanConfig.parse({**base, **trial.values})
        point, difference = _as_point(spec, config)
        if difference:
            problem = difference
        else:
            told = _told(spec, trial, point)
            usable += [told] if told else []
    return usable, problem


def _as_point(spec: SweepSpec, config: GanConfig) -> tuple[dict[str, Any], str]:
    """Return a configuration as a point of a sweep's space, or why it is none."""
    point: dict[str, Any] = {}
    for name in in_order(spec.space):
        if spec.space[name].is_active(point):
            point[name] = plain(getattr(config, name))
            if not spec.space[name].contains(point[name]):
                return {}, f"{name} {point[name]} is outside of the space"
    for name in GanConfig.model_fields:
        own, other = getattr(spec.gan, name), getattr(config, name)
        if name not in point and name not in _FREE_FIELDS and own != other:
            return {}, f"{name} is {other}, here {own}"
    return point, ""


def _told(spec: SweepSpec, trial: ListedTrial, point: dict[str, Any]) -> dict[str, Any] | None:
    pruned = trial.state == State.STOPPED and trial.cause == BY_SCHEDULER
    values = None if pruned else objectives(spec, trial.reports)
    if not pruned and values is None:
        return None
    instrument = trial.reports[-1].get("instrument")
    told = {"params": point, "scores": running_best(trial.reports), "values": values}
    return {**told, "instrument": instrument} if isinstance(instrument, str) else told
