from typing import Any

import pytest

from tune_gan.search.health import Health
from tune_gan.search.spec import HealthSettings

SETTINGS: dict[str, Any] = {
    "min_coverage": 0.05,
    "min_spread": 0.1,
    "max_score_ratio": 3.0,
    "evaluations": 2,
}


def _report(score: float = 10.0, coverage: float = 0.8, spread: float = 0.9) -> dict[str, float]:
    return {"fid_proxy": score, "coverage": coverage, "spread": spread}


def _judge(
    reports: list[dict[str, float]], grace_period: int = 2, **changes: Any
) -> list[tuple[str, str]]:
    health = Health(HealthSettings(**{**SETTINGS, **changes}), grace_period)
    return [health.judge(report) for report in reports]


def _states(reports: list[dict[str, float]], grace_period: int = 2, **changes: Any) -> list[str]:
    return [state for state, _ in _judge(reports, grace_period, **changes)]


GOOD, NO_COVERAGE, NO_SPREAD = _report(), _report(coverage=0.01), _report(spread=0.05)


def test_a_good_trial_runs_on() -> None:
    assert _judge([GOOD] * 10) == [("running", "")] * 10


@pytest.mark.parametrize("bad", [NO_COVERAGE, NO_SPREAD])
def test_a_collapse_is_seen_after_so_many_in_a_row(bad: dict[str, float]) -> None:
    assert _states([GOOD, GOOD, bad, bad]) == ["running"] * 3 + ["collapsed"]
    assert _states([GOOD, GOOD, bad, bad, bad], evaluations=3) == ["running"] * 4 + ["collapsed"]
    assert _states([GOOD, GOOD, bad], evaluations=1) == ["running"] * 2 + ["collapsed"]


def test_a_good_report_in_between_begins_the_count_anew() -> None:
    assert _states([GOOD, GOOD] + [NO_SPREAD, GOOD] * 5) == ["running"] * 12
    assert _states([GOOD, GOOD, NO_SPREAD, GOOD, NO_SPREAD, NO_SPREAD])[-2:] == ["running", "collapsed"]


def test_a_collapse_of_either_kind_counts_for_the_other() -> None:
    assert _states([GOOD, GOOD, NO_SPREAD, NO_COVERAGE])[-1] == "collapsed"


def test_the_collapse_is_told_in_numbers() -> None:
    *_, (state, cause) = _judge([GOOD, GOOD, NO_SPREAD, _report(coverage=0.123456, spread=0.0456789)])
    assert state == "collapsed"
    assert cause == "coverage 0.123 and spread 0.0457, 2 evaluations in a row"


@pytest.mark.parametrize("grace_period", [1, 3, 7])
def test_nothing_is_judged_within_the_grace_period(grace_period: int) -> None:
    states = _states([NO_SPREAD] * 12, grace_period)
    assert states.index("collapsed") == grace_period + 1
    late = _states([_report(1.0)] + [_report(100.0)] * 11, grace_period)
    assert late.index("stopped") == grace_period + 1


def test_the_thresholds_themselves_are_allowed() -> None:
    assert _states([GOOD, GOOD] + [_report(spread=0.1)] * 4) == ["running"] * 6
    assert _states([GOOD, GOOD] + [_report(coverage=0.05)] * 4) == ["running"] * 6
    assert _states([GOOD, GOOD] + [_report(30.0)] * 4) == ["running"] * 6
    assert _states([GOOD, GOOD] + [_report(30.1)] * 2) == ["running"] * 3 + ["stopped"]


def test_a_slow_learner_with_low_coverage_is_not_collapsed() -> None:
    slow = [_report(coverage=0.001 * i) for i in range(10)]
    assert _states(slow) == ["running"] * 10


def test_a_low_coverage_counts_once_it_is_under_half_of_the_own_best() -> None:
    learnt = [_report(coverage=0.04)] * 3
    assert _states([*learnt, *[_report(coverage=0.02)] * 3]) == ["running"] * 6
    assert _states([*learnt, *[_report(coverage=0.019)] * 2])[-1] == "collapsed"


def test_the_late_collapse_is_told_with_its_best() -> None:
    reports = [_report(50.0), _report(12.3456), _report(40.0), _report(99.98765)]
    assert _judge(reports) == [("running", "")] * 3 + [
        (
            "stopped",
            "past its best: fid_proxy 99.99 is over 3 times its best 12.35, 2 evaluations in a row",
        )
    ]


def test_a_late_collapse_is_measured_at_the_best_before() -> None:
    falling = [_report(1000.0 / 2**i) for i in range(10)]
    assert _states(falling) == ["running"] * 10


def test_no_ratio_stops_nothing_late() -> None:
    assert _states([_report(1.0)] + [_report(1e6)] * 5, max_score_ratio=None) == ["running"] * 6


def test_a_collapse_goes_before_a_late_one() -> None:
    both = _report(1e6, spread=0.0)
    assert _states([GOOD, GOOD, both, both])[-1] == "collapsed"


@pytest.mark.parametrize("cut", range(9))
def test_catching_up_equals_having_judged(cut: int) -> None:
    reports = [
        _report(50.0),
        _report(10.0),
        NO_SPREAD,
        GOOD,
        _report(40.0),
        _report(9.0, coverage=0.02),
        _report(35.0),
        _report(36.0),
    ]
    whole = _judge(reports)
    assert whole[-1][0] == "stopped"
    resumed = Health(HealthSettings(**SETTINGS), 2)
    resumed.catch_up(reports[:cut])
    assert [resumed.judge(report) for report in reports[cut:]] == whole[cut:]


def test_what_else_a_report_holds_does_not_matter() -> None:
    health = Health(HealthSettings(), 1)
    assert health.judge({**GOOD, "state": "running", "gen_loss": None}) == ("running", "")


def test_degenerate_samples_are_never_the_best_that_a_trial_falls_from() -> None:
    """A few memorised images score 2; the honest samples that follow are better, not worse."""
    repeated = {**_report(2.0), "degenerate": True}
    assert _states([repeated, repeated, GOOD, GOOD, GOOD]) == ["running"] * 5


def test_a_fall_into_degenerate_samples_is_one() -> None:
    *_, (state, cause) = _judge(
        [GOOD, GOOD, {**GOOD, "degenerate": True}, {**GOOD, "degenerate": True}]
    )
    assert state == "stopped"
    assert "fid_proxy 10 (degenerate) is over 3 times its best 10, " in cause
