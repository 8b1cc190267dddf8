"""Distributions of hyperparameters, and what Optuna calls them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tune_gan.errors import ConfigError
from tune_gan.settings import nearest, shortened

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

Value = bool | int | float | str | None

_FORMS = {
    "uniform": "[low, high]",
    "log_uniform": "[low, high] with low above 0",
    "int_uniform": "[low, high] of whole numbers",
    "log_int_uniform": "[low, high] of whole numbers with low at least 1",
    "quantized_uniform": "[low, high, step] with a step above 0",
    "choice": "a list of different values",
    "grid": "a list of different values",
}
_FINITE = ("choice", "grid")


@dataclass(frozen=True)
class Distribution:
    """Values that a field may take in a sweep.

    Attributes:
        kind: ``uniform``, ``log_uniform`` (its logarithm is uniform), ``int_uniform``,
            ``log_int_uniform``, ``quantized_uniform`` (low, low + step, ...), ``choice`` or ``grid``.
        arguments: The ends (and step), or all values. A list among the values, such as layer widths,
            is held as text, ``256,512``, which the configuration reads back.
    """

    kind: str
    arguments: tuple[Value, ...]

    @classmethod
    def from_mapping(cls, given: object) -> Distribution:
        """Read what a YAML file says, e.g. ``{log_uniform: [1e-5, 1e-2]}``.

        Raises:
            ConfigError: for another kind, or arguments that do not fit it.
        """
        if not isinstance(given, Mapping) or len(given) != 1:
            raise ConfigError(
                f"expected one distribution, one of {', '.join(_FORMS)}, got {shortened(given)}"
            )
        ((kind, arguments),) = given.items()
        if kind not in _FORMS:
            hint = nearest(str(kind), list(_FORMS))
            raise ConfigError(
                f"unknown distribution {shortened(kind)};{hint} valid: {', '.join(_FORMS)}"
            )
        if isinstance(arguments, str) or not isinstance(arguments, Sequence):
            raise ConfigError(f"{kind} takes {_FORMS[kind]}, got {shortened(arguments)}")
        distribution = cls(kind, tuple(_plain(value) for value in arguments))
        if not distribution._fits():
            raise ConfigError(f"{kind} takes {_FORMS[kind]}, got {shortened(list(arguments))}")
        return distribution

    def to_mapping(self) -> dict[str, list[Value]]:
        """Return what `from_mapping` reads."""
        return {self.kind: list(self.arguments)}

    @property
    def is_finite(self) -> bool:
        """Whether all values are listed."""
        return self.kind in _FINITE

    def extremes(self) -> tuple[Value, ...]:
        """Return both ends, or all values where they are listed."""
        return self.arguments if self.is_finite else self.arguments[:2]

    def contains(self, value: object) -> bool:
        """Return whether the distribution could draw a field's value."""
        value = _plain(value)
        if self.is_finite:
            return value in self.arguments
        low, high = self._ends()
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        on_step = True
        if self.kind == "quantized_uniform":
            steps = (value - low) / float(self.arguments[2])  # type: ignore[arg-type]
            on_step = math.isclose(steps, round(steps), abs_tol=1e-9)
        return low <= value <= high and on_step

    def to_optuna(self) -> BaseDistribution:
        """Return the distribution as Optuna has it."""
        from optuna.distributions import (
            CategoricalDistribution,
            FloatDistribution,
            IntDistribution,
        )

        if self.is_finite:
            return CategoricalDistribution(self.arguments)
        low, high = self._ends()
        log = self.kind.startswith("log_")
        if self.kind in ("int_uniform", "log_int_uniform"):
            return IntDistribution(int(low), int(high), log=log)
        if self.kind != "quantized_uniform":
            return FloatDistribution(low, high, log=log)
        step = self.arguments[2]
        assert isinstance(step, int | float)
        if all(isinstance(argument, int) for argument in self.arguments):
            return IntDistribution(int(low), int(high), step=int(step))
        return FloatDistribution(low, high, step=float(step))

    def _ends(self) -> tuple[float, float]:
        low, high = self.arguments[:2]
        assert isinstance(low, int | float)
        assert isinstance(high, int | float)
        return low, high

    def _fits(self) -> bool:
        if self.is_finite:
            return 0 < len(self.arguments) == len(set(map(repr, self.arguments)))
        count = 3 if self.kind == "quantized_uniform" else 2
        numbers = [
            value
            for value in self.arguments
            if isinstance(value, int | float) and not isinstance(value, bool)
        ]
        if not len(numbers) == len(self.arguments) == count or not all(map(math.isfinite, numbers)):
            return False
        whole = all(isinstance(number, int) for number in numbers)
        low, high = numbers[:2]
        positive = not self.kind.startswith("log_") or low > 0
        step_above_0 = count == 2 or numbers[2] > 0
        return low < high and positive and step_above_0 and (whole or "int" not in self.kind)


def _plain(value: object) -> Value:
    """Return a value as Optuna and JSON keep it: lists as text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(part, int | str) for part in value):
        return ",".join(map(str, value))
    raise ConfigError(f"{shortened(value)} is no number, text, true, false, null or flat list")
