"""Run a sweep on Ray Tune."""

import logging
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ray import tune
from rich.console import Console

from tune_gan.config import GanConfig
from tune_gan.errors import CheckpointError, ConfigError, RunFolderError, StorageError
from tune_gan.files import write_whole
from tune_gan.gan.album import save_real_samples
from tune_gan.gan.checkpoint import FILE_NAME, read_progress
from tune_gan.gan.data import load_data
from tune_gan.gan.scoring import floor_of, prepare, scorer_of, with_features
from tune_gan.metrics.score import NUM_GENERATED
from tune_gan.places import FEATURES_FILE
from tune_gan.results.floor import FLOOR_FILE, Floor, write_floor
from tune_gan.results.trials import METRIC, REAL_FILE, TRIALS_FILE, no_run_folder, read_sweep
from tune_gan.search.checks import check_sweep
from tune_gan.search.cluster import living_nodes, num_workers, on_ray, require_answer, require_visible
from tune_gan.search.environment import note_resumption, write_environment
from tune_gan.search.gpus import leave_out_gpus, share_gpus
from tune_gan.search.lane_trainable import relay_trial
from tune_gan.search.lanes import (
    LaneEnds,
    Lanes,
    lane_actors,
    lanes_of,
    require_place,
    share_of_cpus,
)
from tune_gan.search.lock import LOCK_FILE, locked
from tune_gan.search.memory import Room, room_for
from tune_gan.search.progress import SweepProgress
from tune_gan.search.scheduler import make_scheduler
from tune_gan.search.searcher import StudySearch
from tune_gan.search.spec import SweepSpec, resolve
from tune_gan.search.study import STORAGE_FILE, SweepStudy, SweepTrial
from tune_gan.search.supervisor import Budget, Curves, Supervisor
from tune_gan.search.tracking import trackers
from tune_gan.search.trainable import CHECKPOINT, GRID_SIDE, train_trial
from tune_gan.search.warm_start import (
    WARM_START_FILE,
    read_warm_start,
    require_instrument,
    save_warm_start,
)

_log = logging.getLogger(__name__)
_BEFORE_IT_BEGINS = {LOCK_FILE, WARM_START_FILE, FEATURES_FILE}


@dataclass(frozen=True)
class SweepEnd:
    """How one start of a sweep ended.

    Attributes:
        folder: The run folder.
        num_resumed: Trials that had not ended when it started.
        num_left: Trials that have not ended.
        budget: What of its budget is spent, empty where that is not why trials are left.
    """

    folder: Path
    num_resumed: int
    num_left: int
    budget: str


def run_sweep(spec: SweepSpec, out: Path | None = None, console: Console | None = None) -> Path:
    """Run a sweep to its end, as `start_sweep` does, which says what the arguments and errors are.

    Returns:
        The run folder. `tune_gan.load_results` reads it, also while the sweep runs.
    """
    return start_sweep(spec, out, console).folder


def start_sweep(
    spec: SweepSpec,
    out: Path | None = None,
    console: Console | None = None,
    address: str | None = None,
    min_nodes: int = 1,
) -> SweepEnd:
    """Run a sweep to its end, on the Ray that runs already, or that is named, or a new one.

    Args:
        spec: What to search.
        out: The run folder, which must not exist yet; by default ``runs/NAME-DATE-TIME``.
        console: Where to show progress; by default the standard error.
        address: Ray to run on, ``HOST:PORT`` or ``auto``; by default what RAY_ADDRESS names.
        min_nodes: Nodes of a cluster to wait for.

    Raises:
        ConfigError: if the resources exceed those of the machine or cluster, one of its nodes does not
            see the run folder, the constraints leave nothing of the space, or a run to learn from does
            not compare.
        DataError: if the data set cannot be loaded or is smaller than a batch.
        TuneGanError: if Ray cannot be started, or not so many nodes come.
        RunFolderError: if the folder exists already or cannot be written.
        StorageError: if a file cannot be written, for example on a full disk; `resume_sweep` goes on.
    """
    console = console or Console(stderr=True)
    folder = (out or default_run_folder(spec)).absolute()
    spec = resolve(spec)
    warm_trials = check_sweep(spec)
    require_answer(address)
    _make_folder(folder)
    with locked(folder):
        try:
            # Left behind by a sweep that was killed before it began, perhaps of other images.
            (folder / FEATURES_FILE).unlink(missing_ok=True)
            spec = _prepare(spec, folder, console)
            require_instrument(warm_trials, scorer_of(_on_cpu(spec.gan)).name())
            with on_ray(address, min_nodes):
                require_visible(folder / LOCK_FILE)
                spec, lanes, room = _place(spec, console)
                save_warm_start(folder, warm_trials)
                write_whole(folder / "sweep.yaml", spec.to_yaml())
                write_environment(folder)
                study = SweepStudy(folder, spec)
                return _sweep(study, room, lanes, console)
        except BaseException:
            # Leave nothing behind where nothing was begun.
            if not (folder / "sweep.yaml").exists():
                for name in _BEFORE_IT_BEGINS:
                    (folder / name).unlink(missing_ok=True)
                with suppress(OSError):
                    folder.rmdir()
            raise


def resume_sweep(
    folder: Path,
    changes: Mapping[str, Any] | None = None,
    console: Console | None = None,
    address: str | None = None,
    min_nodes: int = 1,
) -> SweepEnd:
    """Go on with a sweep that was stopped, killed, or has ended and is to have more trials.

    Trials that have ended stay as they are, those that were interrupted go on from their checkpoints.
    Nothing is unpickled.

    Args:
        folder: The run folder.
        changes: New values of ``num_trials``, ``time_budget``, ``max_iterations_total`` or
            ``data_root``.
        console: Where to show progress; by default the standard error.
        address: Ray to run on, as for `start_sweep`.
        min_nodes: Nodes of a cluster to wait for.

    Raises:
        ConfigError: if a change is none that a resumed sweep can take, or as for `start_sweep`.
        TuneGanError: if Ray cannot be started, or not so many nodes come.
        RunFolderError: if the folder is no run folder, is in use, or is damaged beyond repair.
        DataError: if the data set cannot be loaded.
        StorageError: if a file cannot be written.
    """
    console = console or Console(stderr=True)
    folder = folder.absolute()
    _require_run_folder(folder)
    require_answer(address)
    with locked(folder):
        study = SweepStudy(folder)
        _require_own_spec(folder, study.spec)
        _take_over(study, _with_gpus_as_begun(study.spec, folder))
        _take_over(study, changed_spec(study.spec, changes or {}))
        study.settle()
        if not _num_left(study):
            return SweepEnd(folder, 0, 0, "")
        _take_over(study, _prepare(study.spec, folder, console))
        with on_ray(address, min_nodes):
            require_visible(folder / LOCK_FILE)
            spec, lanes, room = _place(study.spec, console)
            _take_over(study, spec)
            note_resumption(folder)
            return _sweep(study, room, lanes, console)


def _place(spec: SweepSpec, console: Console) -> tuple[SweepSpec, Lanes, Room]:
    """Return a sweep with its share of a GPU, how many lanes it has, and its trials at a time."""
    spec, note = leave_out_gpus(spec)
    _say(console, note)
    nodes = [node["Resources"] for node in living_nodes()]
    # What is tried below would wait for a place that never comes.
    num_workers(spec, nodes)
    lanes = lanes_of(spec)
    _say(console, lanes.note)
    while True:
        # Without lanes a process a trial; with them, all devices are used before lanes are filled.
        try:
            shared = share_gpus(spec, lanes.of_a_process)
            workers = num_workers(shared.spec, nodes)
            room = room_for(shared.spec, workers, lanes.of_a_process, shared.tried)
            break
        except ConfigError:
            if spec.resources.lanes != "auto" or lanes.of_a_process == 1:
                raise
        lanes = lanes._replace(of_a_process=lanes.of_a_process // 2)
        _say(console, f"lanes: {lanes.of_a_process}, since memory is short")
    _say(console, shared.note)
    spec = shared.spec
    if lanes.of_a_process == 1:
        return spec, lanes, room
    # Memory is that of the processes that train.
    workers = num_workers(spec, nodes, lanes.of_a_process)
    most = min(workers, lanes.of_a_process * room.workers)
    lanes = lanes._replace(processes=room.workers, process_bytes=room.trial_bytes)
    require_place(spec, lanes)
    return spec, lanes, Room(most, note=room.note)


def _say(console: Console, line: str) -> None:
    if line:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _take_over(study: SweepStudy, spec: SweepSpec) -> None:
    if spec != study.spec:
        study.change_spec(spec)
        write_whole(study.folder / "sweep.yaml", spec.to_yaml())


def changed_spec(spec: SweepSpec, changes: Mapping[str, Any]) -> SweepSpec:
    """Return a sweep with the changes that `resume_sweep` takes.

    Raises:
        ConfigError: if they do not fit it.
    """
    values = spec.model_dump(mode="json")
    if "num_trials" in changes:
        if spec.search.num_trials is None:
            raise ConfigError("num_trials: this sweep has a fixed list of trials, and no more of them")
        if isinstance(changes["num_trials"], int) and changes["num_trials"] < spec.num_trials:
            raise ConfigError(
                f"num_trials {changes['num_trials']} is less than the {spec.num_trials} that the sweep "
                "has; give more, or leave it out"
            )
        values["search"]["num_trials"] = changes["num_trials"]
    for name, part in (("time_budget", "time"), ("max_iterations_total", "iterations")):
        if name in changes:
            values["budget"][part] = changes[name]
    if "data_root" in changes:
        values["gan"]["data_root"] = str(Path(changes["data_root"]).absolute())
    return SweepSpec.parse(values)


def _without_changes(spec: SweepSpec) -> dict[str, Any]:
    """Return what no `resume` changes."""
    values = spec.model_dump(mode="json", exclude={"budget"})
    values["search"].pop("num_trials")
    values["resources"].pop("gpus")
    for place in ("data_root", "weights", "device"):
        values["gan"].pop(place)
    return values


def _with_gpus_as_begun(spec: SweepSpec, folder: Path) -> SweepSpec:
    """Let a run of version 0.2.0 have the GPU that it trained on without that Ray knew of it."""
    if spec.resources.gpus != 0 or spec.gan.device == "cpu":
        return spec
    checkpoints = [file.parent for file in folder.glob(f"trial_*/{CHECKPOINT}/{FILE_NAME}")]
    if not any(_was_on_gpu(checkpoint) for checkpoint in checkpoints):
        return spec
    resources = spec.resources.model_copy(update={"gpus": "auto"})
    gan = spec.gan.model_copy(update={"device": "cuda"})
    return spec.model_copy(update={"resources": resources, "gan": gan})


def _was_on_gpu(checkpoint: Path) -> bool:
    try:
        return read_progress(checkpoint).device == "cuda"
    except CheckpointError:
        # Its trial begins anew, and says so.
        return False


def _num_left(study: SweepStudy) -> int:
    ended = sum(trial.state not in ("pending", "running") for trial in study.trials)
    return study.spec.num_trials - ended


def _prepare(spec: SweepSpec, folder: Path, console: Console) -> SweepSpec:
    """Load the data here, once, before every trial needs them; return the sweep with its classifier."""
    console.print(f"preparing {spec.gan.dataset} and its score", highlight=False)
    spec = spec.model_copy(update={"gan": with_features(spec.gan, folder)})
    prepare(_on_cpu(spec.gan))
    return spec


def _on_cpu(config: GanConfig) -> GanConfig:
    """Return what is done of a configuration here, where no GPU is to be taken from the trials."""
    return config.model_copy(update={"device": "cpu"})


def _require_run_folder(folder: Path) -> None:
    files = ("sweep.yaml", STORAGE_FILE, TRIALS_FILE)
    if not any((folder / name).exists() for name in files):
        raise no_run_folder(folder)
    if not (folder / TRIALS_FILE).exists() and list(folder.glob("experiment_state-*.json")):
        read_sweep(folder)
        journal = folder / STORAGE_FILE
        if not journal.exists() or b'"spec"' not in journal.read_bytes():
            raise RunFolderError(
                f"{folder} is of version 0.1.0, which kept too little to go on with; "
                "a new sweep learns from it with --warm-start"
            )


def _require_own_spec(folder: Path, spec: SweepSpec) -> None:
    """See that `sweep.yaml` still says what the study is of, and write it anew if it is damaged."""
    path = folder / "sweep.yaml"
    try:
        written = SweepSpec.from_yaml(path)
    except ConfigError as error:
        _log.warning("%s; written anew from the study", error)
        write_whole(path, spec.to_yaml())
        return
    if written == spec:
        return
    if _without_changes(written) == _without_changes(spec):
        # A change by `resume` that was killed before it could be written here, too.
        write_whole(path, spec.to_yaml())
    else:
        raise RunFolderError(
            f"{path} was changed since the sweep began; put it back, or start a new sweep with it and "
            "--warm-start, which learns from this one"
        )


def default_run_folder(spec: SweepSpec) -> Path:
    """Return ``runs/NAME-DATE-TIME``, by the local clock."""
    return Path("runs") / f"{spec.name}-{datetime.now().astimezone():%Y%m%d-%H%M%S}"


def _sweep(study: SweepStudy, room: Room, lanes: Lanes, console: Console) -> SweepEnd:
    spec, folder = study.spec, study.folder
    left = _num_left(study)
    of = f"{left} of {spec.num_trials}" if left < spec.num_trials else str(spec.num_trials)
    text = f"sweep {spec.name}: {of} trials, {room.workers} at a time, in {folder}"
    _say(console, text)
    _say(console, room.note)
    quoted = shlex.quote(str(folder))
    if how := spec.confirmation:
        run, chosen = shlex.quote(str(folder.parent)), f"--top {how.top} --seeds {len(how.seeds)}"
        lines = [f"should it be stopped, go on with: tune-gan confirm {run} {chosen}"]
    else:
        lines = [f"watch it with: tune-gan status {quoted}, or tune-gan report {quoted} --watch"]
        lines += [f"should it be stopped, go on with: tune-gan resume {quoted}"]
    for line in lines:
        _say(console, line)
    if not (folder / FLOOR_FILE).exists():
        count = spec.confirmation.num_samples if spec.confirmation else NUM_GENERATED
        write_floor(folder, Floor(**floor_of(_on_cpu(spec.gan), count)))
    if not (folder / REAL_FILE).exists():
        _draw_real(folder / REAL_FILE, spec)
    told = trackers(spec, folder)
    warm_trials, in_lanes = read_warm_start(folder, spec), lanes.of_a_process > 1
    search = StudySearch(study, room.workers, warm_trials, room.trial_bytes, in_lanes)
    budget = Budget(study, search)
    try:
        watching = [_progress(study, console, room.workers, budget), *told]
        with _trainable(study, room, lanes) as (trainable, callbacks):
            callbacks += [Supervisor(study, search, budget), Curves(study), *watching]
            _fit(study, search, budget, trainable, callbacks)
    except Exception as error:
        # What Tune makes of it does not say what happened.
        if known := study.broken or search.problem:
            raise known from None
        reason = " ".join(str(error).strip().splitlines()[-1:]) or type(error).__name__
        raise StorageError(f"Ray ended the sweep in {folder} ({reason})") from error
    finally:
        with suppress(StorageError):
            search.close()
    return SweepEnd(folder, left, _num_left(study), budget.spent if _num_left(study) else "")


def _draw_real(file: Path, spec: SweepSpec) -> None:
    try:
        save_real_samples(file, spec.gan, load_data(spec.gan), GRID_SIDE)
    except OSError as error:
        raise StorageError(f"{file} cannot be written ({error.strerror})") from None


def _progress(study: SweepStudy, console: Console, workers: int, budget: Budget) -> SweepProgress:
    ended = [trial for trial in study.trials if trial.state not in ("running", "pending")]
    scores = {trial.number: _score(trial) for trial in ended}
    return SweepProgress(study, console, scores, workers, budget.seconds_left)


@contextmanager
def _trainable(
    study: SweepStudy, room: Room, lanes: Lanes
) -> Iterator[tuple[Any, list[tune.Callback]]]:
    """Return what Tune runs for each trial, with what it takes of a machine, and what has to know."""
    spec = study.spec
    if lanes.of_a_process == 1:
        trainable = tune.with_parameters(
            train_trial, spec=spec.model_dump(mode="json"), run=str(study.folder)
        )
        # As Ray has it, which then places no more trials on a node than it has memory for.
        taken = {"cpu": spec.resources.cpus, "gpu": spec.resources.num_gpus, "memory": room.trial_bytes}
        yield tune.with_resources(trainable, taken), []
        return
    with lane_actors(spec, str(study.folder), lanes) as pools:
        trainable = tune.with_parameters(relay_trial, pools=pools)
        # Fewer trials at a time than lanes take as many CPUs together as the processes do.
        of_each = min(lanes.of_a_process, room.workers / max(1, len(pools)))
        taken = {"cpu": share_of_cpus(spec, of_each)}
        yield tune.with_resources(trainable, taken), [LaneEnds(pools)]


def _fit(
    study: SweepStudy,
    search: StudySearch,
    budget: Budget,
    trainable: Any,
    callbacks: list[tune.Callback],
) -> None:
    spec, folder = study.spec, study.folder
    # The console shows what happens; Tune's own tables, tips, lists and log files are switched off.
    os.environ["RAY_AIR_NEW_OUTPUT"] = "0"
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    # As many processes start at once as trials may run.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(search.num_workers)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    past = {trial.number: _judged_reports(trial) for trial in study.trials}
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            metric=METRIC,
            mode="min",
            search_alg=search,
            scheduler=make_scheduler(spec, lambda number: past.get(number, {})),
            num_samples=spec.num_trials,
            # Without this every trial starts a process and imports torch again.
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            stop=budget,
            callbacks=callbacks,
            verbose=0,
        ),
    )
    tuner.fit()


def _judged_reports(trial: SweepTrial) -> dict[int, float]:
    """Return the reports that the scheduler has judged: the last of a pending trial comes again."""
    reports = dict(sorted(trial.reports.items()))
    if trial.state == "pending" and reports:
        reports.popitem()
    return reports


def _score(trial: SweepTrial) -> float | None:
    is_ranked = trial.state in ("completed", "stopped")
    return min(trial.reports.values(), default=None) if is_ranked else None


def _make_folder(folder: Path) -> None:
    try:
        was_there = folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        # A sweep that was killed before it began leaves its lock, and no more.
        names = {file.name for file in folder.iterdir() if not file.name.endswith(".tmp")}
        if names - _BEFORE_IT_BEGINS or (was_there and not names):
            raise FileExistsError
    except FileExistsError:
        raise RunFolderError(
            f"{folder} exists already; name another folder with --out, or go on with it by "
            "`tune-gan resume`"
        ) from None
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be made ({error.strerror})") from None
