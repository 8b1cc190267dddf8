import math
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from tune_gan.errors import ConfigError
from tune_gan.space import Constraint, Distribution, Value, grid_points, in_order, plain


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"uniform": [0.0, 0.5]}, FloatDistribution(0.0, 0.5)),
        ({"log_uniform": [1e-5, 1e-2]}, FloatDistribution(1e-5, 1e-2, log=True)),
        ({"int_uniform": [1, 9]}, IntDistribution(1, 9)),
        ({"log_int_uniform": [16, 256]}, IntDistribution(16, 256, log=True)),
        ({"quantized_uniform": [0.0, 0.5, 0.1]}, FloatDistribution(0.0, 0.5, step=0.1)),
        ({"quantized_uniform": [32, 256, 32]}, IntDistribution(32, 256, step=32)),
        ({"choice": [1, 2, 5]}, CategoricalDistribution([1, 2, 5])),
        ({"choice": [[256, 512], [512]]}, CategoricalDistribution(["256,512", "512"])),
        ({"grid": ["hinge", "minimax"]}, CategoricalDistribution(["hinge", "minimax"])),
    ],
)
def test_what_optuna_gets(given: dict[str, Any], expected: BaseDistribution) -> None:
    assert Distribution.from_mapping(given).to_optuna() == expected


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (5, "expected one distribution"),
        ({}, "expected one distribution"),
        ({"uniform": [0, 1], "choice": [1]}, "expected one distribution"),
        ({"loguniform": [1e-5, 1]}, "unknown distribution 'loguniform'; did you mean log_uniform?"),
        ({"uniform": [1.0, 0.5]}, r"uniform takes [low, high], got [1.0, 0.5]"),
        ({"uniform": [1.0, 1.0]}, "uniform takes"),
        ({"uniform": [0, "1"]}, "uniform takes"),
        ({"uniform": [0, 1, 2]}, "uniform takes"),
        ({"uniform": "01"}, "uniform takes"),
        ({"uniform": [0, float("nan")]}, "uniform takes"),
        ({"log_uniform": [0.0, 1.0]}, "with low above 0"),
        ({"int_uniform": [1, 2.5]}, "of whole numbers"),
        ({"log_int_uniform": [0, 4]}, "low at least 1"),
        ({"quantized_uniform": [0, 1, 0]}, "with a step above 0"),
        ({"quantized_uniform": [0, 1]}, "with a step above 0"),
        ({"choice": []}, "a list of different values"),
        ({"choice": [1, 1]}, "a list of different values"),
        ({"choice": [{"a": 1}]}, "is no number, text"),
    ],
)
def test_what_is_refused(given: object, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Distribution.from_mapping(given)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_round_trip(low: float, width: float) -> None:
    for kind in ("uniform", "choice", "grid"):
        distribution = Distribution.from_mapping({kind: [low, low + width]})
        assert Distribution.from_mapping(distribution.to_mapping()) == distribution


def test_contains() -> None:
    widths = Distribution.from_mapping({"choice": [[256, 512], [512]]})
    assert widths.contains((256, 512))
    assert not widths.contains((256,))
    steps = Distribution.from_mapping({"quantized_uniform": [0.0, 0.5, 0.1]})
    assert steps.contains(0.3)
    assert not steps.contains(0.35)
    rate = Distribution.from_mapping({"log_uniform": [1e-5, 1e-2]})
    assert rate.contains(1e-5)
    assert not rate.contains(0.1)
    assert not rate.contains("0.001")
    assert not rate.contains(True)
    assert not rate.contains(math.nan)


@pytest.mark.parametrize("kind", ["int_uniform", "log_int_uniform", "quantized_uniform"])
def test_whole_numbers_contain_no_fraction(kind: str) -> None:
    ends = [1, 9, 2] if kind == "quantized_uniform" else [1, 9]
    distribution = Distribution.from_mapping({kind: ends})
    assert distribution.contains(3)
    assert not distribution.contains(2.5)
    assert not distribution.contains(0)
    assert not distribution.contains(10)


def test_a_list_is_no_text_of_a_condition_but_its_values() -> None:
    given = {"uniform": [0.0, 1.0], "when": {"a": [1, 2], "b": "x", "c": [[64, 32]]}}
    distribution = Distribution.from_mapping(given)
    assert distribution.when == {"a": (1, 2), "b": ("x",), "c": ("64,32",)}
    assert Distribution.from_mapping(distribution.to_mapping()) == distribution


@pytest.mark.parametrize("when", [None, {}, [], "a", 5])
def test_a_condition_names_fields(when: object) -> None:
    with pytest.raises(ConfigError, match="when takes fields with their values, got"):
        Distribution.from_mapping({"choice": [1], "when": when})


@pytest.mark.parametrize(
    ("when", "point", "active"),
    [
        ({}, {}, True),
        ({"a": 1}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": 1}, {}, False),
        ({"a": [1, 2]}, {"a": 2}, True),
        ({"a": 1, "b": "x"}, {"a": 1, "b": "x"}, True),
        ({"a": 1, "b": "x"}, {"a": 1, "b": "y"}, False),
        ({"a": 1, "b": "x"}, {"a": 1}, False),
    ],
)
def test_a_field_is_active_where_all_its_conditions_hold(
    when: dict[str, Any], point: dict[str, Value], active: bool
) -> None:
    given = {"choice": [1, 2], **({"when": when} if when else {})}
    assert Distribution.from_mapping(given).is_active(point) is active


def _draws(given: dict[str, Any]) -> list[Any]:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    distribution = Distribution.from_mapping(given)
    values = []
    for _ in range(300):
        trial = study.ask()
        values.append(distribution.suggest(trial, "x"))
        assert trial.params == {"x": values[-1]}
        assert trial.distributions == {"x": distribution.to_optuna()}
        assert distribution.contains(values[-1])
    return values


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"int_uniform": [1, 4]}, {1, 2, 3, 4}),
        ({"log_int_uniform": [1, 4]}, {1, 2, 3, 4}),
        ({"quantized_uniform": [32, 128, 32]}, {32, 64, 96, 128}),
        ({"choice": [5, 1, 2]}, {5, 1, 2}),
        ({"choice": [True, None, "x", 0.5]}, {True, None, "x", 0.5}),
        ({"choice": [[256, 512], [64]]}, {"256,512", "64"}),
        ({"grid": ["hinge", "minimax"]}, {"hinge", "minimax"}),
    ],
)
def test_all_values_are_drawn_and_no_other(given: dict[str, Any], expected: set[Any]) -> None:
    assert set(_draws(given)) == expected
    assert {type(value) for value in _draws(given)} == {type(value) for value in expected}


def test_steps_of_fractions_are_drawn() -> None:
    values = _draws({"quantized_uniform": [0.0, 0.5, 0.1]})
    assert {round(value, 9) for value in values} == {0.0, 0.1, 0.2, 0.3, 0.4, 0.5}


@pytest.mark.parametrize(
    ("given", "middle"), [({"uniform": [0.0, 1.0]}, 0.5), ({"log_uniform": [1e-4, 1.0]}, 1e-2)]
)
def test_half_of_the_draws_are_below_the_middle(given: dict[str, Any], middle: float) -> None:
    values = _draws(given)
    assert all(type(value) is float for value in values)
    assert 120 < sum(value < middle for value in values) < 180


@pytest.mark.parametrize(
    ("text", "expected", "fields"),
    [
        ("disc_lr >= gen_lr", Constraint("disc_lr", ">=", "gen_lr"), ["disc_lr", "gen_lr"]),
        ("disc_lr>=gen_lr", Constraint("disc_lr", ">=", "gen_lr"), ["disc_lr", "gen_lr"]),
        ("  a  <  1e-3 ", Constraint("a", "<", "1e-3"), ["a"]),
        ("-1.5e+3 <= a", Constraint("-1.5e+3", "<=", "a"), ["a"]),
        ("2 > 1", Constraint("2", ">", "1"), []),
    ],
)
def test_a_constraint_is_parsed(text: str, expected: Constraint, fields: list[str]) -> None:
    assert Constraint.parse(text) == expected
    assert Constraint.parse(str(expected)) == expected
    assert expected.fields == fields


@pytest.mark.parametrize(
    "text", ["a => b", "a <> b", "a < b < c", "a <", "a + b < c", "a\n", 5, None, ["a"]]
)
def test_what_is_no_constraint(text: object) -> None:
    with pytest.raises(ConfigError) as caught:
        Constraint.parse(text)
    assert str(caught.value).startswith("expected a comparison such as disc_lr >= gen_lr, got ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("comparison", "holds"),
    [
        ("<", [True, False, False]),
        ("<=", [True, True, False]),
        (">", [False, False, True]),
        (">=", [False, True, True]),
    ],
)
def test_what_a_constraint_says(comparison: str, holds: list[bool]) -> None:
    between = Constraint.parse(f"a {comparison} b")
    number = Constraint.parse(f"a {comparison} 2")
    for a, expected in zip((1.9, 2, 2.1), holds, strict=True):
        assert between.holds({"a": a, "b": 2.0}) is expected
        assert number.holds({"a": a}) is expected


def _space(**fields: Any) -> dict[str, Distribution]:
    return {name: Distribution.from_mapping(given) for name, given in fields.items()}


def test_fields_come_after_what_they_depend_on() -> None:
    space = _space(
        c={"choice": [1], "when": {"b": 1, "a": 1}},
        b={"choice": [1], "when": {"a": 1}},
        x={"choice": [1]},
        a={"choice": [1]},
    )
    assert in_order(space) == ["x", "a", "b", "c"]
    assert in_order({}) == []


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            _space(a={"choice": [1], "when": {"none": 1}}),
            "space.a.when: depends on none, which is not in the space",
        ),
        (
            _space(a={"choice": [1], "when": {"a": 1}}),
            "space.a.when: depends on a, which waits for it",
        ),
        (
            _space(
                x={"choice": [1]},
                a={"choice": [1], "when": {"x": 1, "b": 1}},
                b={"choice": [1], "when": {"c": 1}},
                c={"choice": [1], "when": {"a": 1}},
            ),
            "space.a.when: depends on b, which waits for it",
        ),
    ],
)
def test_fields_that_wait_for_ever_are_refused(space: dict[str, Distribution], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        in_order(space)
    assert str(caught.value) == message


def test_a_grid_changes_its_last_field_fastest() -> None:
    space = _space(a={"grid": [1, 2]}, b={"choice": ["x", "y", "z"]})
    assert [tuple(point.values()) for point in grid_points(space)] == [
        (1, "x"),
        (1, "y"),
        (1, "z"),
        (2, "x"),
        (2, "y"),
        (2, "z"),
    ]
    assert list(grid_points(_space(a={"grid": [None]}))) == [{"a": None}]


def test_a_grid_with_conditions_has_each_point_once() -> None:
    space = _space(
        deep={"grid": [7, 8], "when": {"rate": 0.5}},
        rate={"grid": [0.5, 0.9], "when": {"kind": ["adam", "nadam"]}},
        kind={"grid": ["adam", "nadam", "sgd"]},
        other={"grid": [True, False]},
    )
    expected: list[dict[str, Value]] = []
    for other in (True, False):
        expected.append({"kind": "sgd", "other": other})
        for kind in ("adam", "nadam"):
            expected.append({"kind": kind, "rate": 0.9, "other": other})
            expected += [{"kind": kind, "rate": 0.5, "deep": deep, "other": other} for deep in (7, 8)]
    points = list(grid_points(space))
    assert len(points) == len(expected) == 14
    assert all(point in points for point in expected)


def test_plain_values() -> None:
    assert [plain(value) for value in ((64, 32), [64], ["a", 1], None, True, 0.5, "x")] == [
        "64,32",
        "64",
        "a,1",
        None,
        True,
        0.5,
        "x",
    ]
    for value in ({}, [[1]], object(), [0.5]):
        with pytest.raises(ConfigError, match="is no number, text, true, false, null or flat list"):
            plain(value)
