import math
from typing import Any

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
from tune_gan.search.space import Distribution


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
