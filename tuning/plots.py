"""The pictures of a search's page, as inline SVG in the style of the run's report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from jobs.after import wording
from jobs.after.plots import SERIES, legend_above, svg

Found = Mapping[str, Any]
BLUE, ORANGE, GREY = SERIES[0], SERIES[1], "#94a3b8"
KNOBS_MAX = 6  # pictures of single knobs; the table has them all
LABEL_MAX = 34
THIN: Any = {"color": "#93c5fd", "linewidth": 0.9, "zorder": 2}


def all_plots(found: Found) -> dict[str, str]:
    """Name -> SVG of everything that there are finished trials for."""
    done = [one for one in found["trials"] if one["status"] == "done"]
    drawn = {"progress": svg("progress", 3.0, _progress, found)}
    if len(done) > 1 and "latency_ms" in found["objectives"]:
        drawn["front"] = svg("front", 3.4, _front, found, done)
    if any(one.get("curve") for one in done):
        drawn["curves"] = svg("curves", 3.0, _curves, found, done)
    if found["importance"]:
        drawn["importance"] = svg("importance", 1.0 + 0.36 * len(found["importance"]), _importance, found["importance"])
    return drawn


def knob_plots(found: Found) -> dict[str, str]:
    """Knob -> SVG of quality over its values, the most important knobs first."""
    done = [one for one in found["trials"] if one["status"] == "done"]
    names = list(found["importance"] or found["knobs"])[:KNOBS_MAX]
    return {name: svg(f"knob{at}", 2.6, _knob, found, done, name) for at, name in enumerate(names)} if done else {}


def short(name: str) -> str:
    """A knob's name, its beginning cut where it is long: the end says more."""
    return name if len(name) <= LABEL_MAX else "…" + name[1 - LABEL_MAX :]


def _progress(axes: Axes, found: Found) -> None:
    trials, best = found["trials"], list[float]()
    for one in trials:
        value = one["objectives"]["quality"] if one["status"] == "done" else float("-inf")
        best.append(max(value, best[-1] if best else float("-inf")))
    numbers = np.arange(1, len(trials) + 1)
    own = [(at, one["objectives"]["quality"]) for at, one in enumerate(trials, 1) if one["status"] == "done"]
    early = [(at, one["agreement"]) for at, one in enumerate(trials, 1) if one["status"] == "stopped"]
    if own:
        _dots(axes, own, color=BLUE, s=22, label="finished", zorder=3)
    if early:
        _dots(axes, early, color=GREY, s=22, marker="x", label="stopped early (agreement)", zorder=2)
    reached = np.array(best)
    axes.step(
        numbers[np.isfinite(reached)], reached[np.isfinite(reached)], where="post", color=ORANGE, label="best so far"
    )
    axes.set(xlabel="trial", ylabel="quality on validation rows")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    legend_above(axes, 2)


def _dots(axes: Axes, places: Sequence[tuple[float, float]], **look: Any) -> None:
    axes.scatter([x for x, _ in places], [y for _, y in places], **look)


def _front(axes: Axes, found: Found, done: Sequence[Found]) -> None:
    largest = max(one["objectives"]["bytes"] for one in done)
    on_front = set(found["front"])
    for one in done:
        x, y, size = (one["objectives"][name] for name in ("latency_ms", "quality", "bytes"))
        colour = BLUE if one["number"] in on_front else "#cbd5e1"
        axes.scatter(
            x, y, s=14 + 130 * size / largest, color=colour, alpha=0.8, zorder=3 if one["number"] in on_front else 2
        )
    for key, colour, label in (("best", ORANGE, "best"), ("preset", "#0f172a", "recipe as it was")):
        if found[key] is not None:
            own = found[key]["objectives"]
            axes.scatter(
                own["latency_ms"],
                own["quality"],
                s=190,
                facecolors="none",
                edgecolors=colour,
                linewidths=1.8,
                label=label,
                zorder=4,
            )
    axes.set(
        xlabel=f"median latency at batch 1 (ms); dot: size, largest {wording.size(largest)}",
        ylabel="quality on validation rows",
    )
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
    legend_above(axes, 2)


def _curves(axes: Axes, found: Found, done: Sequence[Found]) -> None:
    best = None if found["best"] is None else found["best"]["number"]
    for one in done:
        share, agreement = zip(*one["curve"], strict=True)
        own = one["number"] == best
        look: Any = {"color": ORANGE, "linewidth": 2, "zorder": 3, "label": "best"} if own else THIN
        axes.plot(share, agreement, **look)
    stopped = [(one["progress"] / 100, one["agreement"]) for one in found["trials"] if one["status"] == "stopped"]
    if stopped:
        _dots(axes, stopped, color=GREY, marker="x", s=20, label="stopped early", zorder=4)
    axes.set(xlabel="share of the trial's steps", ylabel="agreement with the teacher")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=None))
    legend_above(axes, 2)


def _importance(axes: Axes, importance: Mapping[str, float]) -> None:
    names = list(importance)[::-1]
    axes.barh([short(name) for name in names], [importance[name] for name in names], color=BLUE, height=0.6)
    axes.grid(axis="y", visible=False)
    axes.set(xlabel="share of the effect", xlim=(0, None))
    axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=None))


def _knob(axes: Axes, found: Found, done: Sequence[Found], name: str) -> None:
    values = [one["point"][name] for one in done]
    quality = [one["objectives"]["quality"] for one in done]
    knob = found["knobs"][name]
    if "choice" in knob:
        labels = [str(value)[:18] for value in knob["choice"]]
        axes.scatter(
            [knob["choice"].index(value) if value in knob["choice"] else -1 for value in values],
            quality,
            color=BLUE,
            s=22,
        )
        axes.set_xticks(range(len(labels)), labels, fontsize=8, rotation=20 if max(map(len, labels)) > 6 else 0)
    else:
        axes.scatter(values, quality, color=BLUE, s=22)
        if "log" in knob:
            axes.set_xscale("log")
    axes.set(xlabel=short(name), ylabel="quality")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=None))
