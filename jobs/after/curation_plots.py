"""The pictures of `curation.html` as inline SVG, in the report's style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from jobs.after import plots

BEFORE, AFTER = "#cbd5e1", "#2563eb"
BARS_MAX = 20  # classes drawn; of more the ten largest and the ten smallest


def all_plots(facts: Mapping[str, Any], collected: Mapping[str, Any]) -> dict[str, str]:
    """Name -> SVG: funnel, difficulty, confidence and length, classes where answers are classes, targets if any."""
    kept = collected["kept"]
    rows = 2 + len(facts["reasons"])
    drawn = {
        "funnel": plots.svg("funnel", max(2.4, 1.0 + 0.36 * rows), plots.funnel, facts),
        "difficulty": plots.svg("difficulty", 2.6, _difficulty, facts["difficulty"]),
        "confidence": plots.svg("confidence", 2.6, _histogram, collected["confidence"], kept, "teacher confidence"),
        "length": plots.svg("length", 2.6, _histogram, collected["length"], kept, "prompt length (words)"),
    }
    if classes := _ends(collected["classes"]):
        drawn["classes"] = plots.svg("classes", 1.0 + 0.3 * len(classes), _classes, classes)
    for column, target in facts["targets"].items():
        height = 1.0 + 0.42 * len(target["shares"])
        drawn[f"target-{column}"] = plots.svg(f"target-{column}", height, _target, target["shares"])
    return drawn


def _difficulty(axes: Axes, bins: Sequence[Mapping[str, Any]]) -> None:
    names = [f"{one['from']:g}–{one['to']:g}" for one in bins]
    places = np.arange(len(bins))
    axes.bar(places - 0.2, [one["in"] for one in bins], 0.38, color=BEFORE, label="generated")
    axes.bar(places + 0.2, [one["kept"] for one in bins], 0.38, color=AFTER, label="kept")
    axes.set_xticks(places, names)
    axes.grid(axis="x", visible=False)
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set(xlabel="margin of the teacher's two likeliest answers", ylabel="samples")
    plots.legend_above(axes, 2)


def _histogram(axes: Axes, values: np.ndarray, kept: np.ndarray, label: str) -> None:
    known, kept = values[~np.isnan(values)], kept[~np.isnan(values)]  # NaN: the teacher told none
    low, high = (float(known.min()), float(known.max())) if len(known) else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, 25)
    if known.dtype.kind == "i":  # whole numbers in bins of whole numbers
        edges = np.arange(low, high + 2, max(1, round((high - low) / 24))) - 0.5
    for part, colour, name in ((known, BEFORE, "generated"), (known[kept], AFTER, "kept")):
        axes.hist(part, bins=edges.tolist(), color=colour, label=name)
    for axis in (axes.yaxis, axes.xaxis)[: 2 if known.dtype.kind == "i" else 1]:
        axis.set_major_locator(MaxNLocator(4, integer=True))
    axes.set(xlabel=label, ylabel="samples")
    plots.legend_above(axes, 2)


def _ends(classes: Sequence[tuple[str, int, int]]) -> list[tuple[str, int, int]]:
    if len(classes) <= BARS_MAX:
        return list(classes)
    return [*classes[: BARS_MAX // 2], *classes[-BARS_MAX // 2 :]]


def _classes(axes: Axes, classes: Sequence[tuple[str, int, int]]) -> None:
    places = np.arange(len(classes))
    axes.barh(places, [before for _, before, _ in classes], 0.62, color=BEFORE, label="generated")
    axes.barh(places, [after for _, _, after in classes], 0.62, color=AFTER, label="kept")
    _names(axes, [name for name, _, _ in classes])
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("samples")
    plots.legend_above(axes, 2)


def _target(axes: Axes, shares: Mapping[str, Mapping[str, float]]) -> None:
    places = np.arange(len(shares))
    axes.barh(places - 0.2, [one["wanted"] for one in shares.values()], 0.38, color=plots.SERIES[1], label="wanted")
    axes.barh(places + 0.2, [one["kept"] for one in shares.values()], 0.38, color=AFTER, label="kept")
    _names(axes, list(shares))
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    plots.legend_above(axes, 2)


def _names(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [one if len(one) <= 22 else one[:21] + "…" for one in names])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
