"""Train the best configurations of a run again, with fresh seeds."""

from pathlib import Path
from typing import Any

from rich.console import Console

from tune_gan.errors import ConfigError, RunFolderError
from tune_gan.gan.scoring import with_features
from tune_gan.results.confirmed import CONFIRMATION_FOLDER
from tune_gan.results.load import load_results
from tune_gan.results.ranking import best_trial, num_ended, rank
from tune_gan.results.trials import TRIALS_FILE, no_run_folder, read_trials
from tune_gan.search.lock import holder
from tune_gan.search.spec import Budget, Confirmation, SchedulerSettings, SearchSettings, SweepSpec
from tune_gan.search.study import STORAGE_FILE
from tune_gan.search.tuner import SweepEnd, resume_sweep, start_sweep

_LONGEST_NAME = 56


def confirm(run: Path, top: int, num_seeds: int, console: Console | None = None) -> SweepEnd:
    """Train the best configurations of a run and its default with fresh seeds, and score them anew.

    They are trained as a sweep of its own in ``RUN/confirm``, without a scheduler; where that exists
    already it is gone on with.

    Args:
        run: The run folder of the sweep.
        top: How many of the best; the default configuration comes on top.
        num_seeds: Trainings of each.
        console: Where to show progress; by default the standard error.

    Raises:
        ConfigError: if a confirmation of other configurations or seeds is there already.
        RunFolderError: if the folder is no run folder, or the confirmation is in use.
        SweepFailedError: if no trial of the run is ranked.
    """
    folder = run.absolute() / CONFIRMATION_FOLDER
    if at_work := holder(run):
        raise RunFolderError(f"{run} is in use by {at_work}; confirm it when it has ended")
    if any((folder / name).exists() for name in ("sweep.yaml", TRIALS_FILE, STORAGE_FILE)):
        _require_same(folder, top, num_seeds)
        end = resume_sweep(folder, {}, console)
    else:
        end = start_sweep(confirmation_spec(run, top, num_seeds), folder, console)
    return end


def confirmation_spec(run: Path, top: int, num_seeds: int) -> SweepSpec:
    """Return the sweep that confirms the best configurations of a run.

    Raises:
        RunFolderError: if the folder is no run folder.
        SweepFailedError: if no trial of the run is ranked.
    """
    spec = _spec_of(run)
    # The run may have been moved, and its classifier with it.
    gan = with_features(spec.gan, run.absolute())
    ranked = rank(load_results(run))
    best_trial(ranked)
    numbers = [int(n) for n in ranked[ranked["rank"].notna()]["trial"].head(top)]
    values = {trial.number: trial.values for trial in read_trials(run)}
    candidates: dict[int, dict[str, Any]] = {number: values[number] for number in numbers}
    candidates.setdefault(0, spec.default_point)
    seeds = [spec.gan.seed + i for i in range(1, num_seeds + 1)]
    return spec.model_copy(
        update={
            "gan": gan,
            "name": f"{spec.name[:_LONGEST_NAME]}-confirm",
            "constraints": [],
            "scheduler": SchedulerSettings(name="none"),
            "search": SearchSettings(algorithm="random", num_trials=None),
            "budget": Budget(trial_time=spec.budget.trial_time),
            "confirmation": Confirmation(
                candidates=candidates, seeds=seeds, top=top, num_ended=num_ended(ranked)
            ),
        }
    )


def _require_same(folder: Path, top: int, num_seeds: int) -> None:
    how = _spec_of(folder).confirmation
    if how is None:
        raise RunFolderError(f"{folder} is no confirmation")
    if (how.top, len(how.seeds)) != (top, num_seeds):
        raise ConfigError(
            f"{folder} holds a confirmation of the best {how.top} with {len(how.seeds)} seeds already; "
            "remove it to make another"
        )
    grown = num_ended(load_results(folder.parent)) - how.num_ended
    if grown > 0:
        raise ConfigError(
            f"{folder} is older than the last {grown} trials of the sweep; remove it to make another"
        )


def _spec_of(folder: Path) -> SweepSpec:
    path = folder / "sweep.yaml"
    if not path.is_file():
        raise no_run_folder(folder)
    return SweepSpec.from_yaml(path)
