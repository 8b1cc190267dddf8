"""The figures of a report, drawn by plotly from its contents."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from scipy.interpolate import griddata
from scipy.spatial import QhullError

from tune_gan.space import Distribution

# Of Okabe and Ito (2008), which people who see few colours tell apart.
_BLUE, _ORANGE, _GREEN, _RED, _PURPLE, _GREY = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#8a8a8a",
)
STATE_COLOURS = {
    "completed": _BLUE,
    "stopped": _ORANGE,
    "running": _GREEN,
    "pending": _GREY,
    "collapsed": _PURPLE,
    "diverged": _RED,
    "failed": _RED,
}
# Of trials side by side.
_TRIAL_COLOURS = (_BLUE, _ORANGE, _GREEN, _PURPLE, _RED, _GREY)
_LOSSES = ("gen_loss", "disc_loss")
_NUM_SHOWN = 2
_WORST = 1e6
_NUM_TOP = 5
_MOST_SLICES = 6
_NUM_CELLS = 30
_LEAST_FOR_CONTOUR = 30
_MOST_DECADES = 4


def figures(
    contents: Mapping[str, Any], space: Mapping[str, Distribution]
) -> dict[str, dict[str, Any]]:
    """Return plotly's figures by name, each only where the run has what it shows.

    Args:
        contents: What `report_contents` returns.
        space: The distributions of the searched fields.

    Returns:
        ``curves, losses, progress, attainable, importance, confirmation, timeline, objectives``,
        ``slice-FIELD`` for each important field, and ``contour`` of the two most important numbers.
    """
    drawn: dict[str, go.Figure | None] = {
        "curves": _curves(contents),
        "losses": _losses(contents),
        "progress": _progress(contents["progress"]),
        "attainable": _attainable(contents["attainable"]),
        "importance": _importance(contents["importance"]),
        "confirmation": _confirmation(contents["confirmation"]),
        "timeline": _timeline(contents),
        "objectives": _objectives(contents),
    }
    important = important_fields(contents)
    for field in important[:_MOST_SLICES]:
        drawn[f"slice-{field}"] = _slice(contents, field, space[field])
    drawn["contour"] = _contour(contents, important, space)
    return {name: _plain(figure) for name, figure in drawn.items() if figure is not None}


def important_fields(contents: Mapping[str, Any]) -> list[str]:
    """Return the searched fields, the most important first where that is known."""
    ordered = [row["field"] for row in contents["importance"].get("fields", [])]
    known = [field for field in ordered if field in contents["fields"]]
    return known + [field for field in contents["fields"] if field not in known]


def _plain(figure: go.Figure) -> dict[str, Any]:
    figure.update_layout(
        template="none",
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 70, "r": 20, "t": 36, "b": 60},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        hoverlabel={"align": "left"},
    )
    # Numbers as lists: what plotly packs into base64 nobody can read in the page's source.
    found: dict[str, Any] = figure.to_plotly_json()
    return {"data": _unpacked(found["data"]), "layout": _unpacked(found["layout"])}


def _unpacked(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _unpacked(part) for name, part in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_unpacked(part) for part in value]
    value = value.item() if isinstance(value, np.generic) else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _log_axis(title: str, values: Sequence[float]) -> dict[str, Any]:
    """Return a logarithmic axis with ticks at 1, 2 and 5 times powers of ten, or at these alone."""
    known = [value for value in values if value > 0]
    low, high = (math.log10(end) for end in (min(known, default=1), max(known, default=10)))
    steps = (1, 2, 5) if high - low < _MOST_DECADES else (1,)
    ticks = [
        step * 10.0**power
        for power in range(math.floor(low) - 1, math.ceil(high) + 2)
        for step in steps
    ]
    labels = [f"{tick:g}" for tick in ticks]
    return {"type": "log", "title": {"text": title}, "tickvals": ticks, "ticktext": labels}


def _axis(title: str) -> dict[str, Any]:
    return {"title": {"text": title}, "rangemode": "tozero"}


def _hover(row: Mapping[str, Any]) -> str:
    config = "<br>".join(f"{name} {_short(v)}" for name, v in row["config"].items() if v is not None)
    return (
        f"<b>trial {row['trial']}</b>, {row['state']}{', degenerate' * _is_degenerate(row)}<br>{config}"
    )


def _is_degenerate(row: Mapping[str, Any]) -> bool:
    return row["degenerate"] is True


def _short(value: Any) -> str:
    text = f"{value:.3g}" if isinstance(value, float) else str(value)
    # Plotly reads tags in texts.
    return text.replace("<", "&lt;")


def _curves(contents: Mapping[str, Any]) -> go.Figure | None:
    """Draw the score of every trial; the best ones thick, those that broke off marked at their end."""
    rows = {row["trial"]: row for row in contents["leaderboard"]}
    curves = contents["curves"]["trials"]
    if not curves:
        return None
    figure, states = go.Figure(), dict[str, None]()
    shown: list[float] = []
    for curve in sorted(curves, key=lambda c: -(rows[c["trial"]]["rank"] or math.inf)):
        row = rows[curve["trial"]]
        state, is_top = row["state"], (row["rank"] or math.inf) <= _NUM_TOP
        points = _scored(curve)
        if not points:
            continue
        shown += [point[1] for point in points]
        ends_early = state in ("diverged", "collapsed", "failed", "stopped")
        sizes = [0] * (len(points) - 1) + [7 if ends_early else 0]
        figure.add_scatter(
            x=[point[0] for point in points],
            y=[point[1] for point in points],
            mode="lines+markers",
            line={
                "color": STATE_COLOURS[state],
                "width": 3.5 if is_top else 1,
                "dash": "dot" if _is_degenerate(row) else "solid",
            },
            opacity=1 if is_top else 0.45,
            marker={"size": sizes, "symbol": "circle" if state == "stopped" else "x"},
            name=state,
            legendgroup=state,
            showlegend=False,
            text=_hover(row),
            hovertemplate="%{text}<br>fid_proxy %{y:.4g} at %{x}<extra></extra>",
            meta=curve["trial"],
        )
        states[state] = None
    # In the legend lines of their own: those of trials may be thin and dotted.
    for state in states:
        figure.add_scatter(
            x=[None],
            y=[None],
            mode="lines",
            line={"color": STATE_COLOURS[state], "width": 2.5},
            name=state,
            legendgroup=state,
            text="",
        )
    figure.update_layout(
        xaxis=_axis("iteration"), yaxis=_log_axis("fid_proxy", shown), hovermode="closest"
    )
    return figure


def _scored(curve: Mapping[str, Any]) -> list[tuple[int, float]]:
    """Return the iterations and scores of a trial's reports; the worst value stands for none."""
    reported = zip(curve["iteration"], curve["fid_proxy"], strict=True)
    return [(iteration, score) for iteration, score in reported if 0 < score < _WORST]


def _losses(contents: Mapping[str, Any]) -> go.Figure | None:
    """Draw the losses of some trials with their bands below the scores, over the same iterations.

    Shown are the best two of them and the default; the legend shows the others.
    """
    trials = contents["losses"]
    if not trials:
        return None
    curves = {curve["trial"]: curve for curve in contents["curves"]["trials"]}
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, vertical_spacing=0.04)
    shown: list[float] = []
    for place, losses in enumerate(trials):
        trial, colour = losses["trial"], _TRIAL_COLOURS[place]
        points = _scored(curves[trial]) if trial in curves else []
        shown += [score for _, score in points]
        same = {
            "legendgroup": str(trial),
            "visible": True if place < _NUM_SHOWN or trial == 0 else "legendonly",
        }
        line = {
            "mode": "lines",
            "line": {"color": colour, "width": 2},
            "name": f"trial {trial}{' (default)' * (trial == 0)}",
            "hovertemplate": "%{y:.4g} at %{x}<extra>%{fullData.name}</extra>",
        }
        x, y = [point[0] for point in points], [point[1] for point in points]
        figure.add_scatter(x=x, y=y, **same, **line, row=1, col=1)
        middles = [(a + b) / 2 for a, b in zip(losses["first"], losses["last"], strict=True)]
        for row, name in enumerate(_LOSSES, start=2):
            band = _band(middles, losses[name]["low"], losses[name]["high"], colour)
            figure.add_scatter(**band, **same, row=row, col=1)
            y = losses[name]["mean"]
            figure.add_scatter(x=middles, y=y, showlegend=False, **same, **line, row=row, col=1)
    figure.update_layout(
        yaxis=_log_axis("fid_proxy", shown),
        xaxis3=_axis("iteration"),
        **{f"yaxis{row}": {"title": {"text": name}} for row, name in enumerate(_LOSSES, start=2)},
        height=680,
    )
    return figure


def _band(
    x: Sequence[float], low: Sequence[float | None], high: Sequence[float | None], colour: str
) -> dict[str, Any]:
    """Return the filled band between two lines, with a gap where they have one."""
    outline: list[tuple[float | None, float | None]] = []
    points = list(zip(x, low, high, strict=True))
    for is_gap, part in itertools.groupby(points, lambda point: point[1] is None):
        if not is_gap:
            stretch = list(part)
            outline += [(at, upper) for at, _, upper in stretch]
            outline += [(at, lower) for at, lower, _ in reversed(stretch)]
            outline.append((None, None))
    return {
        "x": [point[0] for point in outline],
        "y": [point[1] for point in outline],
        "mode": "lines",
        "fill": "toself",
        "fillcolor": colour,
        "opacity": 0.2,
        "line": {"width": 0},
        "hoverinfo": "skip",
        "showlegend": False,
    }


def _progress(points: Sequence[Mapping[str, Any]]) -> go.Figure | None:
    if len(points) < 2:
        return None
    figure = go.Figure()
    figure.add_scatter(
        x=[point["iterations"] for point in points],
        y=[point["best"] for point in points],
        line={"shape": "hv", "color": _BLUE, "width": 2.5},
        name="best so far",
        hovertemplate="%{y:.4g} after %{x:,} iterations<extra></extra>",
    )
    figure.update_layout(
        xaxis=_axis("iterations of all trials"),
        yaxis=_log_axis("best fid_proxy so far", [point["best"] for point in points]),
    )
    return figure


def _attainable(rows: Sequence[Mapping[str, Any]]) -> go.Figure | None:
    if len(rows) < 2:
        return None
    figure = go.Figure()
    counts = [row["k"] for row in rows]
    figure.add_scatter(
        x=counts + counts[::-1],
        y=[row["high"] for row in rows] + [row["low"] for row in rows][::-1],
        mode="lines",
        fill="toself",
        fillcolor="rgba(0,114,178,0.2)",
        line={"width": 0},
        hoverinfo="skip",
        name="80 % of the draws",
    )
    figure.add_scatter(
        x=counts,
        y=[row["expected"] for row in rows],
        mode="lines+markers",
        line={"color": _BLUE, "width": 2.5},
        name="expected",
        hovertemplate="%{y:.4g} of %{x} trials<extra></extra>",
    )
    figure.update_layout(
        xaxis={"type": "log", "title": {"text": "trials"}, "tickvals": counts},
        yaxis=_log_axis("lowest fid_proxy", [row[end] for row in rows for end in ("low", "high")]),
    )
    return figure


def _importance(found: Mapping[str, Any]) -> go.Figure | None:
    if "fields" not in found:
        return None
    rows = list(reversed(found["fields"]))
    ceiling = next(row["high"] for row in rows if row["field"] == "noise")
    figure = go.Figure()
    figure.add_bar(
        x=[row["share"] for row in rows],
        y=[row["field"] for row in rows],
        orientation="h",
        marker={"color": [_BLUE if row["matters"] else _GREY for row in rows]},
        error_x={
            "type": "data",
            "symmetric": False,
            "array": [row["high"] - row["share"] for row in rows],
            "arrayminus": [row["share"] - row["low"] for row in rows],
        },
        hovertemplate="%{y} %{x:.2f}<extra></extra>",
    )
    figure.add_vline(x=ceiling, line={"dash": "dash", "color": _RED, "width": 2})
    figure.update_layout(
        xaxis=_axis("share of the importance of all; dashed: what noise reaches"),
        yaxis={"automargin": True},
        height=max(240, 32 * len(rows) + 90),
    )
    return figure


def _confirmation(found: Mapping[str, Any] | None) -> go.Figure | None:
    rows = [row for row in (found or {}).get("configurations", []) if row["scores"]]
    if not rows:
        return None
    figure = go.Figure()
    names = [f"trial {row['trial']}" for row in rows]
    figure.add_scatter(
        x=[name for name, row in zip(names, rows, strict=True) for _ in row["scores"]],
        y=[score for row in rows for score in row["scores"]],
        mode="markers",
        marker={"color": _ORANGE, "size": 7},
        name="a seed",
        hovertemplate="%{x}: %{y:.4g}<extra></extra>",
    )
    known = [(name, row) for name, row in zip(names, rows, strict=True) if row["low"] is not None]
    figure.add_scatter(
        x=[name for name, _ in known],
        y=[row["mean"] for _, row in known],
        mode="markers",
        marker={"symbol": "line-ew", "size": 22, "line": {"width": 3, "color": _BLUE}},
        error_y={"type": "data", "array": [row["high"] - row["mean"] for _, row in known]},
        name="mean, 95 % interval",
        hovertemplate="%{x}: mean %{y:.4g}<extra></extra>",
    )
    # An interval may reach below 0, where a logarithm has nothing to show.
    figure.update_layout(yaxis=_axis("fid_proxy"), xaxis={"type": "category"})
    return figure


def _timeline(contents: Mapping[str, Any]) -> go.Figure | None:
    stretches = contents["timeline"]
    if not stretches:
        return None
    states = {row["trial"]: row["state"] for row in contents["leaderboard"]}
    workers = sorted({stretch["worker"] for stretch in stretches})
    figure = go.Figure()
    for state in dict.fromkeys(states.values()):
        own = [stretch for stretch in stretches if states.get(stretch["trial"]) == state]
        if own:
            figure.add_bar(
                base=[stretch["start"] for stretch in own],
                x=[stretch["end"] - stretch["start"] for stretch in own],
                y=[_short(stretch["worker"]) for stretch in own],
                orientation="h",
                name=state,
                text=[stretch["trial"] for stretch in own],
                textposition="inside",
                insidetextanchor="middle",
                textangle=0,
                textfont={"color": "white", "size": 12},
                marker={"color": STATE_COLOURS[state], "line": {"color": "white", "width": 1}},
                hovertemplate="trial %{text}: %{x:.1f} s from second %{base:.1f}<extra></extra>",
            )
    figure.update_layout(
        barmode="overlay",
        xaxis=_axis("seconds"),
        yaxis={"automargin": True, "type": "category"},
        height=max(220, 44 * len(workers) + 110),
    )
    return figure


def _objectives(contents: Mapping[str, Any]) -> go.Figure | None:
    name = contents["objective"]
    rows = [
        row
        for row in contents["leaderboard"]
        if name and row["state"] == "completed" and row[name] is not None and row["best_fid_proxy"]
    ]
    if not rows:
        return None
    figure = go.Figure()
    for on_front, colour, label in ((False, _GREY, "others"), (True, _RED, "Pareto front")):
        own = sorted((r for r in rows if bool(r["pareto"]) == on_front), key=lambda row: row[name])
        figure.add_scatter(
            x=[row[name] for row in own],
            y=[row["best_fid_proxy"] for row in own],
            mode="lines+markers" if on_front else "markers",
            line={"shape": "hv"},
            marker={"color": colour, "size": 8},
            name=label,
            text=[_hover(row) for row in own],
            hovertemplate="%{text}<extra></extra>",
        )
    figure.update_layout(
        xaxis=_axis(name), yaxis=_log_axis("best fid_proxy", [row["best_fid_proxy"] for row in rows])
    )
    return figure


def _measured(contents: Mapping[str, Any], *fields: str) -> list[Mapping[str, Any]]:
    """Return the rows of trials that are ranked and have these fields."""
    return [
        row
        for row in contents["leaderboard"]
        if row["rank"] and row["best_fid_proxy"] and all(row["config"][f] is not None for f in fields)
    ]


def _slice(contents: Mapping[str, Any], field: str, distribution: Distribution) -> go.Figure | None:
    rows = _measured(contents, field)
    if not rows:
        return None
    figure = go.Figure()
    for state, is_degenerate in itertools.product(("completed", "stopped"), (False, True)):
        own = [r for r in rows if r["state"] == state and _is_degenerate(r) == is_degenerate]
        if not own:
            continue
        values = [row["config"][field] for row in own]
        figure.add_scatter(
            x=[_short(value) for value in values] if distribution.is_finite else values,
            y=[row["best_fid_proxy"] for row in own],
            mode="markers",
            marker={
                "color": STATE_COLOURS[state],
                "size": 7,
                "opacity": 0.75,
                "symbol": "x-thin-open" if is_degenerate else "circle",
            },
            name=f"{state}{', degenerate' * is_degenerate}",
            text=[_hover(row) for row in own],
            hovertemplate="%{text}<br>fid_proxy %{y:.4g}<extra></extra>",
        )
    axis: dict[str, Any] = {"title": {"text": field}}
    if distribution.is_finite:
        axis |= {"type": "category", "categoryarray": [_short(v) for v in distribution.arguments]}
    elif distribution.kind.startswith("log_"):
        axis |= {"type": "log", "dtick": 1, "exponentformat": "power"}
    figure.update_layout(
        xaxis=axis,
        yaxis=_log_axis("best fid_proxy", [row["best_fid_proxy"] for row in rows]),
        height=320,
    )
    return figure


def _contour(
    contents: Mapping[str, Any], important: Sequence[str], space: Mapping[str, Distribution]
) -> go.Figure | None:
    """Draw log10 of the score over the two most important numbers, between the trials by lines."""
    numbers = [field for field in important if not space[field].is_finite]
    if len(numbers) < 2:
        return None
    first, second = numbers[:2]
    rows = [
        row
        for row in _measured(contents, first, second)
        if all(space[f].contains(row["config"][f]) for f in (first, second))
    ]
    if len(rows) < _LEAST_FOR_CONTOUR:
        return None
    points = np.array([[_placed(row, f, space) for f in (first, second)] for row in rows])
    scores = np.log10([row["best_fid_proxy"] for row in rows])
    low, high = points.min(axis=0), points.max(axis=0)
    if (low == high).any():
        return None
    # Both axes from 0 to 1, or triangles would be drawn along the longer one.
    places = np.linspace(0, 1, _NUM_CELLS)
    cells = tuple(np.meshgrid(places, places))
    try:
        grid = griddata((points - low) / (high - low), scores, cells, method="linear")
    except QhullError:
        # All on a line.
        return None
    x, y = (low[i] + places * (high[i] - low[i]) for i in (0, 1))
    figure = go.Figure()
    figure.add_contour(
        x=_unplaced(x, space[first]),
        y=_unplaced(y, space[second]),
        z=grid,
        colorscale="Cividis",
        reversescale=True,
        colorbar={"title": {"text": "log10 of<br>fid_proxy"}},
        hoverinfo="skip",
        line={"width": 0.5},
    )
    figure.add_scatter(
        x=[row["config"][first] for row in rows],
        y=[row["config"][second] for row in rows],
        mode="markers",
        marker={"color": "white", "size": 6, "line": {"color": "black", "width": 1}},
        text=[_hover(row) for row in rows],
        customdata=[row["best_fid_proxy"] for row in rows],
        hovertemplate="%{text}<br>fid_proxy %{customdata:.4g}<extra></extra>",
        showlegend=False,
    )
    axes = [
        {"title": {"text": name}, **({"type": "log"} if space[name].kind.startswith("log_") else {})}
        for name in (first, second)
    ]
    figure.update_layout(xaxis=axes[0], yaxis=axes[1], height=460)
    return figure


def _placed(row: Mapping[str, Any], field: str, space: Mapping[str, Distribution]) -> float:
    value = float(row["config"][field])
    return math.log10(value) if space[field].kind.startswith("log_") else value


def _unplaced(values: np.ndarray, distribution: Distribution) -> np.ndarray:
    return 10.0**values if distribution.kind.startswith("log_") else values
