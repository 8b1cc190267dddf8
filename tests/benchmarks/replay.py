"""Which search finds the best GANs soonest? Sweeps replayed on a table of trained configurations.

``python -m tests.benchmarks.replay [TABLE]`` replays every method with 30 seeds, in place of training
taking what the table says that a configuration reported and how long it took, and prints a table of
what came out. ``python -m tests.benchmarks.replay make RUN TABLE`` makes a table of a run that has
ended; ring.parquet is that of ring.yaml.
"""

import copy
import heapq
import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import optuna
import pyarrow as pa
import pyarrow.parquet as pq
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.trial import FrozenTrial
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler
from scipy.stats import trim_mean

from tests.benchmarks.search_quality import ITERATIONS, METHODS
from tune_gan.metrics.score import WORST_SCORE
from tune_gan.results.trials import METRIC, TrialState, ranking_score, read_sweep, read_trials
from tune_gan.search.sampler import draw
from tune_gan.search.scheduler import make_scheduler, tune_trial_id
from tune_gan.search.spec import SweepSpec
from tune_gan.search.study import BY_SCHEDULER, SweepStudy, objectives
from tune_gan.space import Distribution

TABLE = Path(__file__).with_name("ring.parquet")
# The table's own points were drawn with 0.
SEEDS = range(1, 31)
WORKERS = 2
# Of the table's configurations, those that are to be found.
BEST_SHARE = 0.05

_CURVES = {
    "iteration": pa.int32(),
    "fid_proxy": pa.float32(),
    "degenerate": pa.bool_(),
    "best_fid_proxy": pa.float32(),
    "train_time_s": pa.float32(),
}
_RANKED = (TrialState.COMPLETED, TrialState.STOPPED)
_UNFINISHED = (TrialState.RUNNING, TrialState.PENDING)
_RECIPE = b"tune_gan"
# Whom the schedulers ask nothing.
_CONTROLLER: Any = None


@dataclass(frozen=True)
class Row:
    """A configuration that was trained.

    Attributes:
        values: Its searched fields.
        state: How its trial ended.
        reports: What its trial told Tune.
        seconds: How long it trained for each of them.
    """

    values: dict[str, Any]
    state: TrialState
    reports: list[dict[str, Any]]
    seconds: list[float]

    @property
    def scores(self) -> list[float]:
        """The best score up to each report; those of a trial that has no rank never count."""
        return [r[METRIC] if self.state in _RANKED else math.inf for r in self.reports]


@dataclass(frozen=True)
class Table:
    """Configurations that were trained, the default one first.

    Attributes:
        sweep: The sweep that trained them.
        rows: The configurations.
    """

    sweep: dict[str, Any]
    rows: list[Row]

    @cached_property
    def target(self) -> float:
        """The score that the best configurations come to."""
        return float(np.quantile([min(row.scores, default=math.inf) for row in self.rows], BEST_SHARE))


class Step(NamedTuple):
    """A report of a replayed sweep.

    Attributes:
        time_s: When it came.
        iterations: Iterations of all trials until then.
        trial: Number of the trial.
        row: The trial's place in the table.
        score: The best score of the trial until then.
    """

    time_s: float
    iterations: int
    trial: int
    row: int
    score: float


class _StudyInMemory(SweepStudy):
    """A sweep's study that leaves no files behind."""

    def __init__(self, spec: SweepSpec) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.folder, self.broken, self.spec = Path(), None, spec
        # What a study needs of its storage, every one of Optuna's has.
        self._storage = cast(JournalStorage, InMemoryStorage())
        self._study = optuna.create_study(storage=self._storage, directions=spec.search.directions)
        self._study_id = self._storage.get_study_id_from_name(self._study.study_name)
        self._distributions = {name: d.to_optuna() for name, d in spec.space.items()}

    def _list(self, *args: Any) -> None:
        pass


class Replay:
    """A sweep whose trials are not trained but looked up, on a clock that goes as the table says.

    What is drawn, stopped and learnt from is up to the program itself. A point that it draws is moved
    to that of the nearest row which is still free, and it is told the row's.

    Args:
        table: The configurations.
        spec: The sweep.
    """

    def __init__(self, table: Table, spec: SweepSpec) -> None:
        self._rows, self._spec = table.rows, spec
        self._places = np.array([place(spec.space, row.values) for row in table.rows])
        self._free = np.ones(len(table.rows), dtype=bool)
        self._study = _StudyInMemory(spec)
        self._scheduler = make_scheduler(spec, lambda number: {})
        self._scheduler.set_search_properties(METRIC, "min")
        self._trials: list[tuple[int, Trial]] = []
        # When a report comes, the number of its trial, and its own.
        self._expected: list[tuple[float, int, int]] = []
        self._iterations = 0
        self._steps: list[Step] = []

    def run(self) -> list[Step]:
        """Return the reports until the sweep's iterations are spent or no row is free."""
        budget = self._spec.budget.iterations or math.inf
        for _ in range(WORKERS):
            self._start(0.0)
        while self._expected and self._iterations < budget:
            now, number, evaluation = heapq.heappop(self._expected)
            if self._report(now, number, evaluation):
                self._expect(now, number, evaluation + 1)
            else:
                self._start(now)
        return self._steps

    def _start(self, now: float) -> None:
        """Give a free worker the next trial that has anything to report."""
        while self._free.any():
            number = len(self._trials)
            row = self._nearest(self._point(number))
            self._free[row] = False
            self._study.add(self._rows[row].values)
            trial = Trial("replayed", stub=True, trial_id=tune_trial_id(number))
            self._trials.append((row, trial))
            self._scheduler.on_trial_add(_CONTROLLER, trial)
            if self._rows[row].reports:
                self._expect(now, number, 1)
                return
            self._study.end(number, self._rows[row].state, "")

    def _point(self, number: int) -> dict[str, Any]:
        if number == 0:
            return self._spec.default_point
        # Handing over what random draws do not depend on would take most of their time.
        learns = self._spec.search.algorithm == "tpe"
        return draw(self._spec, number, self._study.frozen_trials if learns else [])

    def _nearest(self, point: Mapping[str, Any]) -> int:
        distances = np.linalg.norm(self._places - place(self._spec.space, point), axis=1)
        return int(np.where(self._free, distances, math.inf).argmin())

    def _expect(self, now: float, number: int, evaluation: int) -> None:
        seconds = self._rows[self._trials[number][0]].seconds[evaluation - 1]
        heapq.heappush(self._expected, (now + seconds, number, evaluation))

    def _report(self, now: float, number: int, evaluation: int) -> bool:
        """Tell all of a report whom Tune and the program tell; return whether the trial goes on."""
        index, trial = self._trials[number]
        row = self._rows[index]
        report = row.reports[evaluation - 1]
        self._iterations += report["iteration"]
        if evaluation > 1:
            self._iterations -= row.reports[evaluation - 2]["iteration"]
        self._steps.append(Step(now, self._iterations, number, index, row.scores[evaluation - 1]))
        action = self._scheduler.on_trial_result(_CONTROLLER, trial, report)
        self._study.report(number, evaluation, report[METRIC])
        state, cause = report["state"], ""
        if state == "running" and action == TrialScheduler.STOP:
            state, cause = "stopped", BY_SCHEDULER
        if state != "running":
            self._scheduler.on_trial_complete(_CONTROLLER, trial, report)
            told = objectives(self._spec, row.reports[:evaluation])
            self._study.end(number, state, cause, told)
        return bool(state == "running")


def place(space: Mapping[str, Distribution], point: Mapping[str, Any]) -> list[float]:
    """Return where in the unit cube a point of a space lies; different choices are 1 apart."""
    coordinates = []
    for name, distribution in space.items():
        ends: Any = distribution.extremes()
        if distribution.is_finite:
            coordinates += [math.sqrt(0.5) * (point[name] == value) for value in ends]
        else:
            scale = math.log if distribution.kind.startswith("log_") else float
            low, high, value = map(scale, (*ends, point[name]))
            coordinates.append((value - low) / (high - low))
    return coordinates


def sweep(table: Table, method: str, seed: int) -> SweepSpec:
    """Return the sweep of a method on a table."""
    parts = METHODS[method]
    num_trials, num_iterations = len(table.rows), int(table.sweep["gan"]["num_iterations"])
    # ASHA stops nothing before a tenth of a trial, so that no method uses the table up.
    iterations = min(ITERATIONS, num_trials * num_iterations // 10)
    changes = {
        "search": {**parts["search"], "num_trials": num_trials, "seed": seed},
        "scheduler": parts["scheduler"],
        "budget": {"iterations": iterations},
    }
    return SweepSpec.parse({**table.sweep, **changes})


def make(run: Path, path: Path) -> None:
    """Write the table of a run whose trials have all ended.

    Args:
        run: The run folder.
        path: The parquet file: a row a trial, by number, its curves as lists with a number a report.
            The sweep, the versions and the date are JSON in the metadata of its schema.
    """
    trials = read_trials(run)
    if any(trial.state in _UNFINISHED for trial in trials):
        raise SystemExit(f"{run} has trials that have not ended")
    environment = json.loads((run / "environment.json").read_text())
    recipe = {name: environment[name] for name in ("started", "git_revision", "python", "packages")}
    recipe = {"sweep": read_sweep(run), **recipe}
    columns = {"state": pa.array([trial.state.value for trial in trials])}
    columns |= {name: pa.array([t.values[name] for t in trials]) for name in recipe["sweep"]["space"]}
    for name, kind in _CURVES.items():
        curves = [[report[name] for report in trial.reports] for trial in trials]
        columns[name] = pa.array(curves, pa.list_(kind))
    table = pa.table(columns).replace_schema_metadata({_RECIPE: json.dumps(recipe)})
    pq.write_table(table, path, compression="zstd")


def read(path: Path) -> Table:
    """Read what `make` wrote."""
    table = pq.read_table(path)
    spec = json.loads(table.schema.metadata[_RECIPE])["sweep"]
    return Table(spec, [_row(list(spec["space"]), line) for line in table.to_pylist()])


def _row(fields: Sequence[str], line: Mapping[str, Any]) -> Row:
    """Return a row with its reports as `tune_gan.search.trainable` makes them."""
    state = TrialState(line["state"])
    reports: list[dict[str, Any]] = []
    for i in range(len(line["iteration"])):
        report = {name: line[name][i] for name in ("iteration", "fid_proxy", "degenerate")}
        best = min([ranking_score(report), *(r[METRIC] for r in reports[-1:])])
        reports.append({**report, METRIC: best, "evaluation": i + 1, "state": "running"})
    if reports:
        reports[-1]["state"] = state.value
    if reports and state in (TrialState.DIVERGED, TrialState.COLLAPSED):
        reports[-1][METRIC] = ranking_score({"fid_proxy": WORST_SCORE, "degenerate": True})
    seconds = np.diff(line["train_time_s"], prepend=0.0).tolist()
    return Row({name: line[name] for name in fields}, state, reports, seconds)


def iqm(values: Sequence[float]) -> float:
    """Return the interquartile mean: that of the middle half of the values."""
    return float(trim_mean(values, 0.25))


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Return a 95 % interval of the interquartile mean, by the percentiles of 10,000 bootstraps."""
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values)))
    low, high = np.quantile(trim_mean(drawn, 0.25, axis=1), [0.025, 0.975])
    return float(low), float(high)


def _cell(values: Sequence[float]) -> str:
    numbers = (iqm(values), *interval(values))
    middle, low, high = (f"{n:,.0f}" if numbers[0] >= 100 else f"{n:.3g}" for n in numbers)
    return f"{middle} [{low}, {high}]"


def summary(method: str, runs: Sequence[Sequence[Step]], target: float) -> str:
    """Return a method's line of the table that is printed, of its runs with different seeds."""
    # The first that came to the target, or else the last, at which the budget was spent.
    ends = [next((step for step in run if step.score <= target), run[-1]) for run in runs]
    missed = sum(step.score > target for step in ends)
    cells = [
        _cell([step.iterations for step in ends]),
        _cell([step.time_s for step in ends]),
        f"{missed} of {len(runs)}",
        _cell([min(step.score for step in run) for run in runs]),
        _cell([len({step.trial for step in run}) for run in runs]),
    ]
    return f"| {method} | {' | '.join(cells)} |"


def compare(table: Table) -> None:
    """Replay all methods with all seeds, and print a table of how they did."""
    budget = sweep(table, "random", 0).budget.iterations
    print(
        f"{len(table.rows)} configurations, the best {100 * BEST_SHARE:g} % of which come to a score "
        f"of {table.target:.3g} or lower; {len(SEEDS)} seeds, {WORKERS} trials at a time, {budget:,} "
        "iterations. Interquartile means over the seeds, with 95 % bootstrap intervals; a sweep that "
        "never came to that score counts with all it spent.\n"
    )
    print("| method | iterations to it | seconds to it | never | best score at the end | trials |")
    print("|---|---|---|---|---|---|")
    for method in METHODS:
        runs = [Replay(table, sweep(table, method, seed)).run() for seed in SEEDS]
        print(summary(method, runs, table.target), flush=True)


def main() -> None:
    """Make a table, or replay sweeps on one."""
    if sys.argv[1:2] == ["make"]:
        make(Path(sys.argv[2]), Path(sys.argv[3]))
        return
    # A draw copies all trials that it learns from, most of its time, but then changes none of them.
    FrozenTrial.__deepcopy__ = lambda self, memo: copy.copy(self)  # type: ignore[attr-defined]
    compare(read(Path(sys.argv[1]) if sys.argv[1:] else TABLE))


if __name__ == "__main__":
    main()
