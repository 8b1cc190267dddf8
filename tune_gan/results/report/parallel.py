"""Parallel coordinates of a sweep's trials, as SVG: plotly draws them with WebGL alone."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tune_gan.space import Distribution, Value

WIDTH, HEIGHT = 1080, 420
_TOP, _BOTTOM, _SIDE = 50, 360, 70
# Where a field that a trial does not have is drawn: below its axis.
_ABSENT = 395
_WORST = 1e6
_LOST = ("diverged", "collapsed", "failed")


@dataclass(frozen=True)
class Axis:
    """An axis.

    Attributes:
        name: Its field, or ``fid_proxy``.
        x: Where it stands, in pixels.
        ticks: Positions in pixels with their labels.
    """

    name: str
    x: float
    ticks: list[tuple[float, str]]


@dataclass(frozen=True)
class Line:
    """A trial.

    Attributes:
        trial: Its number.
        state: Its state, and whether it is degenerate.
        points: Its path, as SVG's polyline takes it.
        colour: From blue, the best, to yellow, the worst of those that are ranked; grey for others.
        is_top: Whether it is among the best five.
        is_lost: Whether it broke off: it diverged, collapsed or failed.
    """

    trial: int
    state: str
    points: str
    colour: str
    is_top: bool
    is_lost: bool


def parallel_coordinates(
    contents: Mapping[str, Any], space: Mapping[str, Distribution]
) -> tuple[list[Axis], list[Line]]:
    """Return the axes, a field each and the score last, and the trials' lines, the best last.

    Args:
        contents: What `report_contents` returns.
        space: The distributions of the searched fields.
    """
    fields = contents["fields"]
    rows = [row for row in contents["leaderboard"] if row["best_fid_proxy"]]
    gap = (WIDTH - 2 * _SIDE) / max(1, len(fields))
    scales = {field: _scale(space[field]) for field in fields}
    scores = [row["best_fid_proxy"] for row in rows if 0 < row["best_fid_proxy"] < _WORST]
    low, high = (min(scores), max(scores)) if scores else (1.0, 10.0)
    score_scale = _Scale(math.log10(low), math.log10(max(high, low * 1.01)), True)
    axes = [Axis(f, _SIDE + i * gap, scales[f].ticks()) for i, f in enumerate(fields)]
    axes.append(Axis("fid_proxy", _SIDE + len(fields) * gap, score_scale.ticks()))
    num_ranked = sum(bool(row["rank"]) for row in rows)
    lines = []
    for row in reversed(rows):
        heights = [scales[field].place(row["config"][field]) for field in fields]
        heights.append(score_scale.place(min(row["best_fid_proxy"], high)))
        path = [f"{axis.x:.1f},{height:.1f}" for axis, height in zip(axes, heights, strict=True)]
        share = (row["rank"] - 1) / max(1, num_ranked - 1) if row["rank"] else None
        is_top = bool(row["rank"]) and row["rank"] <= 5
        state = f"{row['state']}{', degenerate' * (row['degenerate'] is True)}"
        lines.append(
            Line(row["trial"], state, " ".join(path), _colour(share), is_top, row["state"] in _LOST)
        )
    return axes, lines


@dataclass(frozen=True)
class _Scale:
    """Where values of numbers stand, from the bottom to the top."""

    low: float
    high: float
    is_log: bool

    def place(self, value: Value) -> float:
        if not isinstance(value, int | float):
            return _ABSENT
        if self.is_log and value <= 0:
            return _BOTTOM
        number = math.log10(value) if self.is_log else float(value)
        share = (number - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return _BOTTOM - min(1.0, max(0.0, share)) * (_BOTTOM - _TOP)

    def ticks(self) -> list[tuple[float, str]]:
        ends = [self.low + share * (self.high - self.low) for share in (0, 0.5, 1)]
        values = [10**end if self.is_log else end for end in ends]
        return [(self.place(value), f"{value:.3g}") for value in values]


@dataclass(frozen=True)
class _Choices:
    """Where listed values stand."""

    values: Sequence[Value]

    def place(self, value: Value) -> float:
        if value not in self.values:
            return _ABSENT
        if len(self.values) == 1:
            return (_TOP + _BOTTOM) / 2
        return _BOTTOM - self.values.index(value) / (len(self.values) - 1) * (_BOTTOM - _TOP)

    def ticks(self) -> list[tuple[float, str]]:
        return [(self.place(value), str(value)) for value in self.values]


def _scale(distribution: Distribution) -> _Scale | _Choices:
    if distribution.is_finite:
        return _Choices(distribution.arguments)
    low, high = (float(end) for end in distribution.extremes())  # type: ignore[arg-type]
    is_log = distribution.kind.startswith("log_")
    return _Scale(math.log10(low), math.log10(high), True) if is_log else _Scale(low, high, False)


def _colour(share: float | None) -> str:
    """Return a colour between blue and yellow, which people who see few colours tell apart."""
    if share is None:
        return "#8a8a8a"
    ends = (0, 84, 168), (235, 190, 40)
    red, green, blue = (round(a + share * (b - a)) for a, b in zip(*ends, strict=True))
    return f"#{red:02x}{green:02x}{blue:02x}"
