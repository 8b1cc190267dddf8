import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from tests.search.test_spec import SPEC
from tune_gan.metrics.score import WORST_SCORE
from tune_gan.results.trials import METRIC
from tune_gan.search.scheduler import DEFAULT_TRIAL_ID, SweepAsha, make_scheduler, tune_trial_id
from tune_gan.search.spec import SweepSpec

CONTINUE, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
Scores = Mapping[int, Mapping[int, float]]
# Whom these schedulers ask nothing.
CONTROLLER: Any = None


def _spec(seed: int = 0, **scheduler: Any) -> SweepSpec:
    gan = {**SPEC["gan"], "num_iterations": 300, "report_every": 10}
    search = {**SPEC["search"], "seed": seed}
    return SweepSpec.parse({**SPEC, "gan": gan, "search": search, "scheduler": scheduler})


def _asha(spec: SweepSpec, past: Scores | None = None) -> SweepAsha:
    asha = make_scheduler(spec, lambda number: (past or {}).get(number, {}))
    assert isinstance(asha, SweepAsha)
    assert asha.set_search_properties(METRIC, "min")
    return asha


class _Sweep:
    """Trials of one scheduler, told of as Ray Tune tells of them."""

    def __init__(self, asha: SweepAsha, numbers: range) -> None:
        self.asha = asha
        self.trials = {n: Trial("dummy", stub=True, trial_id=tune_trial_id(n)) for n in numbers}
        for trial in self.trials.values():
            asha.on_trial_add(CONTROLLER, trial)

    def bracket(self, number: int) -> int:
        return self.asha._brackets.index(self.asha._trial_info[tune_trial_id(number)])

    def report(self, number: int, evaluation: int, score: float) -> str:
        result = {"evaluation": evaluation, METRIC: score}
        return self.asha.on_trial_result(CONTROLLER, self.trials[number], result)

    def end(self, number: int, evaluation: int, score: float) -> None:
        result = {"evaluation": evaluation, METRIC: score}
        self.asha.on_trial_complete(CONTROLLER, self.trials[number], result)


def _rungs(asha: SweepAsha) -> list[list[tuple[float, dict[str, float]]]]:
    return [sorted(bracket._rungs, key=lambda rung: rung[0]) for bracket in asha._brackets]


def test_no_scheduler_stops_nothing() -> None:
    scheduler = make_scheduler(_spec(name="none"), lambda number: {})
    assert type(scheduler) is FIFOScheduler


def test_rungs_count_evaluations_from_the_grace_period_on() -> None:
    assert [[m for m, _ in rungs] for rungs in _rungs(_asha(_spec()))] == [[3, 9, 27]]
    asha = _asha(_spec(grace_period=2, reduction_factor=2, brackets=2))
    assert [[m for m, _ in rungs] for rungs in _rungs(asha)] == [[2, 4, 8, 16], [4, 8, 16]]


def test_the_worst_of_three_is_stopped_at_a_rung_and_not_before() -> None:
    sweep = _Sweep(_asha(_spec()), range(1, 4))
    for evaluation in (1, 2):
        assert [sweep.report(n, evaluation, 10.0 * n) for n in (1, 2, 3)] == [CONTINUE] * 3
    assert sweep.report(1, 3, 10.0) == CONTINUE
    assert sweep.report(2, 3, 9.0) == CONTINUE
    assert sweep.report(3, 3, 30.0) == STOP
    stopped = [getattr(trial, "stopped_by_scheduler", None) for trial in sweep.trials.values()]
    assert stopped == [False, False, True]


def test_a_trial_ends_by_itself_and_not_at_the_schedulers_word() -> None:
    spec = _spec()
    sweep = _Sweep(_asha(spec), range(1, 2))
    actions = [sweep.report(1, n, 5.0) for n in range(1, spec.gan.num_reports + 1)]
    assert actions == [CONTINUE] * 30


def test_the_default_is_never_stopped_but_counts() -> None:
    sweep = _Sweep(_asha(_spec()), range(12))
    assert sweep.trials[0].trial_id == DEFAULT_TRIAL_ID == "00000"
    for evaluation in range(1, 31):
        for number in range(1, 12):
            sweep.report(number, evaluation, float(number))
        assert sweep.report(0, evaluation, 1e6) == CONTINUE
    assert all(recorded["00000"] == -1e6 for _, recorded in _rungs(sweep.asha)[0])


def test_others_are_measured_at_the_default() -> None:
    sweep = _Sweep(_asha(_spec()), range(2))
    assert sweep.report(0, 3, 5.0) == CONTINUE
    assert sweep.report(1, 3, 6.0) == STOP


def test_brackets_are_drawn_by_seed_and_number_alone() -> None:
    def drawn(seed: int, order: list[int]) -> list[int]:
        np.random.seed(len(order) + order[0])
        asha = _asha(_spec(seed, brackets=3))
        sweep = _Sweep(asha, range(0))
        for number in order:
            sweep.trials[number] = Trial("dummy", stub=True, trial_id=tune_trial_id(number))
            asha.on_trial_add(CONTROLLER, sweep.trials[number])
            np.random.rand()
        return [sweep.bracket(number) for number in sorted(order)]

    forwards = list(range(300))
    first = drawn(0, forwards)
    assert drawn(0, forwards[::-1]) == first
    assert drawn(0, forwards[5:50]) == first[5:50]
    assert drawn(1, forwards) != first
    # As Tune shares them out: by e to the number of rungs, here 3, 2 and 1.
    shares = np.exp([3, 2, 1]) / np.exp([3, 2, 1]).sum()
    assert np.bincount(first) / 300 == pytest.approx(shares, abs=0.06)


def test_drawing_brackets_takes_no_number_from_the_global_generator() -> None:
    np.random.seed(5)
    expected = np.random.rand()
    np.random.seed(5)
    _Sweep(_asha(_spec(brackets=3)), range(20))
    assert np.random.rand() == expected


def test_ten_brackets_of_few_reports_work() -> None:
    sweep = _Sweep(_asha(_spec(brackets=10)), range(50))
    actions = {sweep.report(n, e, 50.0 - n) for e in range(1, 31) for n in range(50)}
    assert actions == {CONTINUE}


def _history(seed: int, num_trials: int) -> list[tuple[int, int, float]]:
    """Return reports of trials in the order of a sweep with some of them at a time."""
    source = np.random.default_rng(seed)
    done, best = dict.fromkeys(range(num_trials), 0), dict.fromkeys(range(num_trials), math.inf)
    reports = []
    while any(evaluations < 30 for evaluations in done.values()):
        running = [n for n, evaluations in done.items() if evaluations < 30][:4]
        number = int(source.choice(running))
        done[number] += 1
        score = WORST_SCORE if source.random() < 0.02 else float(source.gamma(2.0) * (number % 5 + 1))
        best[number] = min(best[number], score)
        reports.append((number, done[number], best[number]))
    return reports


def _play(sweep: _Sweep, reports: list[tuple[int, int, float]], ended: set[int]) -> list[Any]:
    actions: list[Any] = []
    for number, evaluation, score in reports:
        if number in ended:
            actions.append(None)
            continue
        actions.append(sweep.report(number, evaluation, score))
        if actions[-1] == STOP or evaluation == 30:
            ended.add(number)
            sweep.end(number, evaluation, score)
    return actions


@pytest.mark.parametrize("brackets", [1, 3])
@pytest.mark.parametrize("cut", [0, 1, 7, 30, 31, 60, 100, 150, 250, 359])
def test_a_resumed_sweep_stops_what_an_uninterrupted_one_stops(cut: int, brackets: int) -> None:
    spec, reports, num_trials = _spec(brackets=brackets, reduction_factor=2), _history(1, 12), 12
    whole = _Sweep(_asha(spec), range(num_trials))
    ended: set[int] = set()
    before = _play(whole, reports[:cut], ended)
    past: dict[int, dict[int, float]] = {}
    for (number, evaluation, score), action in zip(reports[:cut], before, strict=True):
        if action is not None:
            past.setdefault(number, {})[evaluation] = score
    resumed = _Sweep(_asha(spec, past), range(num_trials))
    assert _rungs(resumed.asha) == _rungs(whole.asha)
    ended_too = set(ended)
    assert _play(resumed, reports[cut:], ended_too) == _play(whole, reports[cut:], ended)
    assert ended_too == ended == set(range(num_trials))


def test_the_histories_of_these_tests_have_trials_that_are_stopped() -> None:
    sweep = _Sweep(_asha(_spec(reduction_factor=2)), range(12))
    assert 3 <= _play(sweep, _history(1, 12), set()).count(STOP) <= 10


def test_all_that_the_rungs_hold_is_finite() -> None:
    asha = _asha(_spec(brackets=3), {3: {1: 9.0, 2: WORST_SCORE, 3: 5.0}})
    sweep = _Sweep(asha, range(12))
    _play(sweep, [r for r in _history(2, 12) if r[0] != 3], set())
    held = [score for rungs in _rungs(asha) for _, rung in rungs for score in rung.values()]
    assert len(held) > 12
    assert all(map(math.isfinite, held))
    cutoffs = [b.cutoff(rung) for b in asha._brackets for _, rung in b._rungs if rung]
    assert np.isfinite(np.array(cutoffs, dtype=float)).all()
    assert "nan" not in asha.debug_string()
