"""Distributions of hyperparameters, and what Optuna calls them."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tune_gan.errors import ConfigError
from tune_gan.settings import nearest, shortened

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import Trial

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
        when: Values that other searched fields must have, one of those listed, for this field to be
            searched; where they have others it keeps the value of the default configuration.
    """

    kind: str
    arguments: tuple[Value, ...]
    when: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    @classmethod
    def from_mapping(cls, given: object) -> Distribution:
        """Read what a YAML file says, e.g. ``{log_uniform: [1e-5, 1e-2], when: {optimizer: adam}}``.

        Raises:
            ConfigError: for another kind, or arguments that do not fit it.
        """
        kinds = [key for key in given if key != "when"] if isinstance(given, Mapping) else []
        if not isinstance(given, Mapping) or len(kinds) != 1:
            raise ConfigError(
                f"expected one distribution, one of {', '.join(_FORMS)}, got {shortened(given)}"
            )
        kind, arguments = kinds[0], given[kinds[0]]
        if kind not in _FORMS:
            hint = nearest(str(kind), list(_FORMS))
            raise ConfigError(
                f"unknown distribution {shortened(kind)};{hint} valid: {', '.join(_FORMS)}"
            )
        if isinstance(arguments, str) or not isinstance(arguments, Sequence):
            raise ConfigError(f"{kind} takes {_FORMS[kind]}, got {shortened(arguments)}")
        when = _parse_when(given["when"]) if "when" in given else {}
        distribution = cls(kind, tuple(plain(value) for value in arguments), when)
        if not distribution._fits():
            raise ConfigError(f"{kind} takes {_FORMS[kind]}, got {shortened(list(arguments))}")
        return distribution

    def to_mapping(self) -> dict[str, Any]:
        """Return what `from_mapping` reads."""
        mapping: dict[str, Any] = {self.kind: list(self.arguments)}
        if self.when:
            mapping["when"] = {name: list(values) for name, values in self.when.items()}
        return mapping

    def is_active(self, point: Mapping[str, Value]) -> bool:
        """Return whether the field is searched where the fields before it have a point's values."""
        return all(name in point and point[name] in values for name, values in self.when.items())

    @property
    def is_finite(self) -> bool:
        """Whether all values are listed."""
        return self.kind in _FINITE

    def extremes(self) -> tuple[Value, ...]:
        """Return both ends, or all values where they are listed."""
        return self.arguments if self.is_finite else self.arguments[:2]

    def between(self) -> tuple[float, ...]:
        """Return a value between the ends where those that are drawn are no whole numbers."""
        low, high = (0, 0) if self.is_finite else self._ends()
        if self.kind == "quantized_uniform":
            whole = all(isinstance(argument, int) for argument in self.arguments)
            return () if whole else (float(low) + float(self.arguments[2]),)  # type: ignore[arg-type]
        return (low + (high - low) / math.e,) if self.kind in ("uniform", "log_uniform") else ()

    def contains(self, value: object) -> bool:
        """Return whether the distribution could draw a field's value."""
        value = plain(value)
        if self.is_finite:
            return value in self.arguments
        low, high = self._ends()
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if "int" in self.kind and value != int(value):
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

    def suggest(self, trial: Trial, name: str) -> Value:
        """Let an Optuna trial draw a value for a field of that name."""
        if self.is_finite:
            value: Value = trial.suggest_categorical(name, self.arguments)
            return value
        from optuna.distributions import FloatDistribution, IntDistribution

        distribution = self.to_optuna()
        if isinstance(distribution, IntDistribution):
            d = distribution
            return trial.suggest_int(name, d.low, d.high, step=d.step, log=d.log)
        assert isinstance(distribution, FloatDistribution)
        f = distribution
        return trial.suggest_float(name, f.low, f.high, step=f.step, log=f.log)

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
        try:
            are_finite = all(map(math.isfinite, numbers))
        except OverflowError:
            # A whole number of hundreds of digits.
            return False
        if not len(numbers) == len(self.arguments) == count or not are_finite:
            return False
        whole = all(isinstance(number, int) for number in numbers)
        low, high = numbers[:2]
        positive = not self.kind.startswith("log_") or low > 0
        step_above_0 = count == 2 or numbers[2] > 0
        return low < high and positive and step_above_0 and (whole or "int" not in self.kind)


def _parse_when(given: object) -> dict[str, tuple[Value, ...]]:
    if not isinstance(given, Mapping) or not given:
        raise ConfigError(f"when takes fields with their values, got {shortened(given)}")
    if [] in given.values():
        raise ConfigError(f"when takes one value or more of each field, got {shortened(given)}")
    return {
        str(name): tuple(map(plain, values)) if isinstance(values, list) else (plain(values),)
        for name, values in given.items()
    }


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}


@dataclass(frozen=True)
class Constraint:
    """What must hold between fields of a configuration, e.g. ``disc_lr >= gen_lr``.

    Attributes:
        left: A field, or a number.
        comparison: ``<``, ``<=``, ``>`` or ``>=``.
        right: A field, or a number.
    """

    left: str
    comparison: str
    right: str

    @classmethod
    def parse(cls, text: object) -> Constraint:
        """Read what a YAML file says.

        Raises:
            ConfigError: if it is no comparison of two fields or of a field and a number.
        """
        match = re.fullmatch(r"\s*([\w.+-]+)\s*(<=|>=|<|>)\s*([\w.+-]+)\s*", str(text))
        if match is None or not isinstance(text, str):
            raise ConfigError(f"expected a comparison such as disc_lr >= gen_lr, got {shortened(text)}")
        return cls(*match.groups())

    def __str__(self) -> str:
        return f"{self.left} {self.comparison} {self.right}"

    @property
    def fields(self) -> list[str]:
        """The sides that are no numbers."""
        return [side for side in (self.left, self.right) if _number(side) is None]

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Return whether all fields of a configuration, searched or not, fulfil it."""
        left, right = (values[s] if _number(s) is None else _number(s) for s in (self.left, self.right))
        return _COMPARISONS[self.comparison](left, right)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def in_order(space: Mapping[str, Distribution]) -> list[str]:
    """Return the fields of a space so that each comes after those that its `when` names.

    Raises:
        ConfigError: if fields wait for each other, or for one that is not searched.
    """
    order: list[str] = []
    while len(order) < len(space):
        ready = [
            name for name in space if name not in order and all(p in order for p in space[name].when)
        ]
        if not ready:
            stuck = next(name for name in space if name not in order)
            waits_for = next(name for name in space[stuck].when if name not in order)
            why = "which waits for it" if waits_for in space else "which is not in the space"
            raise ConfigError(f"space.{stuck}.when: depends on {waits_for}, {why}")
        order.append(ready[0])
    return order


def grid_points(space: Mapping[str, Distribution]) -> Iterator[dict[str, Value]]:
    """Yield all combinations of a space of listed values, the last field changing fastest."""

    def extend(point: dict[str, Value], names: list[str]) -> Iterator[dict[str, Value]]:
        if not names:
            yield point
        elif not space[names[0]].is_active(point):
            yield from extend(point, names[1:])
        else:
            for value in space[names[0]].arguments:
                yield from extend({**point, names[0]: value}, names[1:])

    yield from extend({}, in_order(space))


def default_point(
    space: Mapping[str, Distribution], configuration: Mapping[str, Any]
) -> dict[str, Value]:
    """Return the searched fields of the default configuration, as a point of the space."""
    point: dict[str, Value] = {}
    for name in in_order(space):
        if space[name].is_active(point):
            point[name] = plain(configuration[name])
    return point


def grid_after_default(
    space: Mapping[str, Distribution],
    constraints: Iterable[Constraint],
    configuration: Mapping[str, Any],
) -> list[dict[str, Value]]:
    """Return the points of a grid search: that of the default configuration, then all others allowed.

    Args:
        space: The searched fields.
        constraints: What every point fulfils.
        configuration: The default one, all fields.
    """
    default = default_point(space, configuration)
    others = (
        point
        for point in grid_points(space)
        if point != default and all(c.holds({**configuration, **point}) for c in constraints)
    )
    return [default, *others]


def plain(value: object) -> Value:
    """Return a value as Optuna and JSON keep it: lists as text."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple) and all(isinstance(part, int | str) for part in value):
        return ",".join(map(str, value))
    raise ConfigError(f"{shortened(value)} is no number, text, true, false, null or flat list")
