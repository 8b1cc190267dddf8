import copy
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from tune_gan.errors import ConfigError
from tune_gan.search.sampler import _seed, draw
from tune_gan.search.spec import SweepSpec
from tune_gan.space import in_order

ALGORITHMS = ("random", "tpe")
SPACE: dict[str, Any] = {
    "gen_lr": {"log_uniform": [1e-5, 1e-1]},
    "disc_lr": {"log_uniform": [1e-5, 1e-1]},
    "dropout": {"uniform": [0.0, 0.5]},
    "disc_steps": {"choice": [1, 2, 5]},
}
CONDITIONAL: dict[str, Any] = {
    "beta2": {"uniform": [0.9, 0.999], "when": {"beta1": [0.5, 0.9]}},
    "beta1": {"choice": [0.0, 0.5, 0.9], "when": {"optimizer": ["adam", "nadam"]}},
    "optimizer": {"choice": ["adam", "nadam", "sgd"]},
}


def _spec(algorithm: str = "tpe", seed: int = 0, **changes: Any) -> SweepSpec:
    search = {"algorithm": algorithm, "num_trials": 100, "seed": seed}
    search |= changes.pop("search", {})
    gan = {"preset": "circle", "gen_lr": 1e-3, "disc_lr": 1e-3, "disc_steps": 1}
    return SweepSpec.parse({"name": "test", "gan": gan, "space": SPACE, "search": search, **changes})


def _trial(
    spec: SweepSpec,
    point: dict[str, Any],
    values: Sequence[float] | None,
    state: TrialState = TrialState.COMPLETE,
    scores: dict[int, float] | None = None,
) -> FrozenTrial:
    return create_trial(
        state=state,
        values=values,
        params=point,
        distributions={name: spec.space[name].to_optuna() for name in point},
        intermediate_values=scores or {},
    )


def _complete(
    spec: SweepSpec, number: int, score: Callable[[dict[str, Any]], float]
) -> list[FrozenTrial]:
    """Return as many complete trials, at random points."""
    drawn = spec.model_copy(
        update={"search": spec.search.model_copy(update={"algorithm": "random", "warm_start": []})}
    )
    points = [draw(drawn, 1000 + i, []) for i in range(number)]
    return [_trial(spec, point, [score(point)]) for point in points]


def _distance(point: dict[str, Any]) -> float:
    """Return how far a point's gen_lr is from 1e-2, in powers of ten."""
    return abs(math.log10(point["gen_lr"]) + 2)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_draw_depends_on_seed_number_and_trials_alone(algorithm: str) -> None:
    spec = _spec(algorithm)
    trials = _complete(spec, 15, _distance)
    first = draw(spec, 15, trials)
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)
        draw(spec, 16, trials)
        assert draw(spec, 15, copy.deepcopy(trials)) == first
    assert draw(_spec(algorithm), 15, trials) == first
    assert draw(spec, 16, trials) != first
    assert draw(_spec(algorithm, seed=1), 15, trials) != first


def test_only_tpe_learns_from_the_trials() -> None:
    for algorithm, learns in (("random", False), ("tpe", True)):
        spec = _spec(algorithm)
        trials = _complete(spec, 15, _distance)
        assert (draw(spec, 15, trials) != draw(spec, 15, [])) is learns


@pytest.mark.parametrize("state", [TrialState.FAIL, TrialState.WAITING])
def test_trials_that_failed_or_wait_do_not_matter(state: TrialState) -> None:
    spec = _spec()
    trials = _complete(spec, 15, _distance)
    others = [_trial(spec, draw(spec, i, []), None, state) for i in range(5)]
    assert draw(spec, 20, [*trials, *others]) == draw(spec, 20, trials)


def test_tpe_keeps_away_from_what_runs() -> None:
    spec = _spec(space={"gen_lr": SPACE["gen_lr"]})
    trials = _complete(spec, 20, _distance)
    alone = [draw(spec, n, trials) for n in range(40)]
    running = [_trial(spec, {"gen_lr": 1e-2}, None, TrialState.RUNNING)] * 20
    beside = [draw(spec, n, [*trials, *running]) for n in range(40)]
    assert np.median([_distance(p) for p in beside]) > 2 * np.median([_distance(p) for p in alone])


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_values_are_inside_of_the_space(algorithm: str) -> None:
    spec = _spec(algorithm)
    trials = _complete(spec, 12, _distance)
    for number in range(30):
        point = draw(spec, number, trials)
        assert list(point) == list(SPACE)
        assert all(spec.space[name].contains(value) for name, value in point.items())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_field_is_drawn_where_its_condition_holds_and_only_there(algorithm: str) -> None:
    spec = _spec(algorithm, space=CONDITIONAL)
    seen = set()
    few_or_many: list[Callable[[dict[str, Any]], float]] = [len, lambda point: -len(point)]
    for score in few_or_many:
        trials = _complete(spec, 15, score)
        for number in range(30):
            point = draw(spec, number, trials)
            expected = ["optimizer"]
            if point["optimizer"] != "sgd":
                expected.append("beta1")
                if point["beta1"] != 0.0:
                    expected.append("beta2")
            assert list(point) == expected
            seen.add(len(point))
    assert seen >= {1, 3}


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_constraints_hold_in_every_draw(algorithm: str) -> None:
    spec = _spec(algorithm, constraints=["disc_lr >= gen_lr", "dropout < 0.25", "beta1 <= dropout"])
    trials = _complete(spec, 12, _distance)
    for number in range(60):
        point: dict[str, Any] = draw(spec, number, trials)
        assert point["disc_lr"] >= point["gen_lr"]
        assert point["dropout"] < 0.25


def test_tpe_that_is_sure_of_a_forbidden_corner_does_not_end_the_search() -> None:
    free, bound = _spec(), _spec(constraints=["disc_lr >= gen_lr"])
    trials = _complete(free, 60, lambda point: math.log(point["disc_lr"] / point["gen_lr"]))
    for number in range(20):
        point: dict[str, Any] = draw(bound, number, trials)
        assert point["disc_lr"] >= point["gen_lr"]


def test_rejected_draws_do_not_change_what_tpe_learns_from() -> None:
    spec = _spec(constraints=["disc_lr >= gen_lr"])
    trials = _complete(spec, 12, _distance)
    before = copy.deepcopy(trials)
    for number in range(20):
        draw(spec, number, trials)
    assert trials == before


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_constraints_that_nothing_fulfils_are_refused_in_one_line(algorithm: str) -> None:
    spec = _spec(
        algorithm,
        space={"gen_lr": {"log_uniform": [1e-5, 1e-4]}},
        constraints=["gen_lr >= 1e-3", "disc_lr >= gen_lr"],
    )
    started = time.thread_time()
    with pytest.raises(ConfigError) as caught:
        draw(spec, 1, [])
    assert time.thread_time() - started < 2
    assert str(caught.value) == (
        "constraints: none of 1,000 points drawn from the space fulfils gen_lr >= 1e-3, "
        "disc_lr >= gen_lr; loosen them or narrow the space"
    )


@pytest.mark.parametrize("constraints", [[], ["disc_lr >= gen_lr"]])
def test_tpe_draws_near_the_best_trials(constraints: list[str]) -> None:
    near = {}
    for algorithm in ALGORITHMS:
        spec = _spec(algorithm, constraints=constraints)
        trials = _complete(spec, 30, _distance)
        near[algorithm] = np.median([_distance(draw(spec, n, trials)) for n in range(40)])
    assert near["tpe"] < near["random"] / 2


def test_tpe_takes_pruned_trials_for_worse_than_complete_ones() -> None:
    spec = _spec(space={"gen_lr": SPACE["gen_lr"]})
    complete = _complete(spec, 20, _distance)
    pruned = [
        _trial(spec, {"gen_lr": 1e-4 * 1.1**i}, None, TrialState.PRUNED, {1: 0.0}) for i in range(20)
    ]
    drawn = [draw(spec, n, [*complete, *pruned]) for n in range(40)]
    assert np.median([_distance(point) for point in drawn]) < 0.5


@pytest.mark.parametrize("second", ["samples_per_s", "train_time_s"])
def test_tpe_with_two_objectives_takes_trials_of_every_state(second: str) -> None:
    """ASHA, which is the default, prunes trials of such a sweep as of any other."""
    spec = _spec(search={"objectives": ["fid_proxy", second]})
    points = [draw(spec, n, []) for n in range(24)]
    trials = [_trial(spec, p, [_distance(p), float(i % 7)]) for i, p in enumerate(points[:14])]
    trials += [_trial(spec, p, None, TrialState.PRUNED, {1: 5.0, 2: 4.0}) for p in points[14:20]]
    trials += [_trial(spec, p, None, TrialState.RUNNING, {1: 5.0}) for p in points[20:]]
    drawn = draw(spec, 24, trials)
    assert list(drawn) == list(SPACE)
    assert drawn == draw(spec, 24, trials)


@pytest.mark.parametrize(("second", "best"), [("samples_per_s", 5), ("train_time_s", 1)])
def test_tpe_heeds_the_direction_of_the_second_objective(second: str, best: int) -> None:
    spec = _spec(
        space={"disc_steps": SPACE["disc_steps"]}, search={"objectives": ["fid_proxy", second]}
    )
    trials = [_trial(spec, {"disc_steps": steps}, [1.0, float(steps)]) for steps in (1, 2, 5) * 8]
    drawn = [draw(spec, n, trials)["disc_steps"] for n in range(40)]
    assert max(set(drawn), key=drawn.count) == best


def _draw_from_copies(spec: SweepSpec, number: int, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    """Draw as Optuna does by itself: in a study that is told of every trial."""
    seed = _seed(spec, number)
    random_sampler = optuna.samplers.RandomSampler(seed=seed)
    is_tpe = spec.search.algorithm == "tpe"
    sampler = optuna.samplers.TPESampler(seed=seed) if is_tpe else random_sampler
    study = optuna.create_study(directions=spec.search.directions, sampler=sampler)
    for trial in trials:
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING):
            if len(spec.search.objectives) > 1:
                trial = create_trial(
                    state=trial.state,
                    values=trial.values,
                    params=trial.params,
                    distributions=trial.distributions,
                )
            study.add_trial(trial)
    for count in range(1000):
        if count == 50:
            study.sampler = optuna.samplers.RandomSampler(seed=seed)
        asked = study.ask()
        point: dict[str, Any] = {}
        for name in in_order(spec.space):
            if spec.space[name].is_active(point):
                point[name] = spec.space[name].suggest(asked, name)
        if spec.allows(point):
            return point
        study.tell(asked, state=TrialState.FAIL)
    raise AssertionError


def _of_all_states(spec: SweepSpec) -> list[FrozenTrial]:
    """Return trials as they stand after a while: of each state, with ties, one outside of the space."""
    drawn = spec.model_copy(update={"search": spec.search.model_copy(update={"algorithm": "random"})})
    trials = []
    for number in range(48):
        point = draw(drawn, 1000 + number, [])
        if number == 0:
            del point["gen_lr"]
        scores = {step: round(100 / (step + number % 7), 1) for step in range(1, 2 + number % 4)}
        state = TrialState.COMPLETE
        if number > 40:
            state = TrialState.RUNNING
        elif number % 3:
            state = {1: TrialState.FAIL, 2: TrialState.WAITING}.get(number % 8, TrialState.PRUNED)
        told = [min(scores.values()), float(number % 5)][: len(spec.search.objectives)]
        values = told if state == TrialState.COMPLETE else None
        trials.append(_trial(spec, point, values, state, scores))
    return trials


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("objectives", [["fid_proxy"], ["fid_proxy", "samples_per_s"]])
@pytest.mark.parametrize(
    ("space", "constraints"),
    [
        (SPACE, []),
        (SPACE, ["disc_lr >= gen_lr", "dropout < 0.25"]),
        ({**CONDITIONAL, **SPACE}, ["disc_lr >= gen_lr"]),
    ],
)
def test_a_draw_is_that_of_a_study_which_was_told_of_every_trial(
    algorithm: str, objectives: list[str], space: dict[str, Any], constraints: list[str]
) -> None:
    spec = _spec(algorithm, space=space, constraints=constraints, search={"objectives": objectives})
    trials = _of_all_states(spec)
    own, warm = trials[:36], trials[36:]
    for number, trial in enumerate(own):
        trial.number = number
    before = copy.deepcopy(trials)
    for known in ([], trials[:9], own, [*own, *warm], warm):
        for number in (1, 48, 49):
            assert draw(spec, number, known) == _draw_from_copies(spec, number, known)
    assert trials == before


def test_tpe_that_is_sure_of_a_forbidden_corner_ends_at_the_same_random_point() -> None:
    free, bound = _spec(), _spec(constraints=["disc_lr >= gen_lr"])
    trials = _complete(free, 60, lambda point: math.log(point["disc_lr"] / point["gen_lr"]))
    for number in range(3):
        assert draw(bound, number, trials) == _draw_from_copies(bound, number, trials)
