"""The report's pictures as inline SVG: text stays text, nothing is loaded from anywhere."""

from __future__ import annotations

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from cluster.measured import BASELINE, CONTROL, STUDENT, STUDENT_INT8, TEACHER
from jobs.after import wording
from jobs.after.wording import MODELS

Report = Mapping[str, Any]
COLOURS = {
    TEACHER: "#475569",
    STUDENT: "#7dd3fc",
    STUDENT_INT8: "#2563eb",
    CONTROL: "#f59e0b",
    BASELINE: "#a8a29e",
}
SERIES = ("#2563eb", "#f59e0b", "#0d9488", "#be185d", "#7c3aed", "#65a30d")
SLICES_MAX = 15  # bars beyond this are no longer read
STYLE: Any = {
    "svg.fonttype": "none", "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans", "Arial", "sans-serif"],
    "font.size": 9.5, "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#94a3b8",
    "axes.labelcolor": "#334155", "xtick.color": "#475569", "ytick.color": "#475569", "legend.frameon": False,
    "axes.grid": True, "grid.color": "#e2e8f0", "axes.axisbelow": True, "figure.constrained_layout.use": True,
}  # fmt: skip


def all_plots(report: Report, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, str]:
    """Name -> SVG of every picture that this run has data for."""
    bars = _slices(report)
    height = max(3.2, 0.9 + 0.38 * len(bars))  # these two stand side by side
    drawn = {
        "tradeoff": svg("tradeoff", height, _tradeoff, report),
        "slices": svg("slices", height, _slice_bars, report, bars),
    }
    if report["stages"]:
        drawn["stages"] = svg("stages", 3.2, _stages, report["stages"])
        drawn["shares"] = svg("shares", 1.1 + 0.36 * len(report["stages"]), _shares, report["stages"])
    if any(curves.values()):
        drawn["curves"] = svg("curves", 2.6, _curves, curves)
    drawn["curation"] = svg(
        "curation", max(2.4, 1.0 + 0.36 * (2 + len(report["curation"]["reasons"]))), funnel, report["curation"]
    )
    drawn["calibration"] = svg("calibration", 3.0, _calibration, report)
    return drawn


def svg(name: str, height: float, draw: Any, *data: Any) -> str:
    """One picture 4.5 inches wide, which a phone shows at nearly its own size; ids get the name in front, since all
    pictures share a page."""
    with rc_context(STYLE):
        figure = Figure(figsize=(4.5, height))
        draw(figure.subplots(), *data)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = re.sub(r'(\bid="|url\(#|xlink:href="#)', rf"\1{name}-", text[text.index("<svg") :])
    return re.sub(r'<svg ([^>]*?)height="[^"]*" ?([^>]*?)width="[^"]*"', r'<svg role="img" \1\2', text, count=1)


def _tradeoff(axes: Axes, report: Report) -> None:
    models, primary = report["models"], report["primary_metric"]
    reached = {name: model["metrics"][primary] for name, model in models.items()}
    timed = [name for name in (TEACHER, STUDENT, STUDENT_INT8) if models[name]["latency_ms"]]
    largest = max(models[name]["bytes"] for name in timed)
    for name in timed:
        size, x = models[name]["bytes"], models[name]["latency_ms"]["p50"]
        label = f"{MODELS[name]}, {wording.size(size)}"
        axes.scatter(
            x,
            reached[name],
            s=30 + 270 * size / largest,
            color=COLOURS[name],
            alpha=0.85,
            zorder=3,
            label=label,
        )
    seen = [share for name, share in reached.items() if name != BASELINE]
    seen += [one["metrics"][primary] for one in (report["engines"] or {}).values()]
    room = max(0.3 * (max(seen) - min(seen)), 0.01)
    bottom, top = min(seen) - room, max(seen) + room
    for name in (TEACHER, CONTROL, BASELINE):
        if name in reached and name not in timed:
            # A baseline far below would press everything else into one line; its number says enough.
            drawn = bottom <= reached[name] <= top
            y = [reached[name]] * 2 if drawn else [float("nan")] * 2
            axes.plot(
                [0, 1],
                y,
                "--",
                color=COLOURS[name],
                transform=axes.get_yaxis_transform(),
                label=f"{MODELS[name]}, {wording.percent(reached[name])}",
            )
    slowest = max([models[name]["latency_ms"]["p50"] for name in timed] + _engines(axes, report))
    axes.set(xlim=(0, 1.15 * slowest), ylim=(bottom, top))
    axes.set(xlabel="median latency at batch 1 (ms)", ylabel=wording.metric(primary))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.4g}%"))
    legend = legend_above(axes, 2)
    for handle in legend.legend_handles:
        if isinstance(handle, PathCollection):  # dots of one size, whatever the model's
            handle.set_sizes([45])


def _engines(axes: Axes, report: Report) -> list[float]:
    """Draw the student in other engines as diamonds; their median latencies (ms)."""
    others = [one for name, one in (report["engines"] or {}).items() if name != STUDENT_INT8]
    for one, colour in zip(others, itertools.cycle(SERIES[1:])):
        label = f"{one['engine'].partition(' ')[0]} {one['scheme']}, {wording.size(one['bytes'])}"
        reached = one["metrics"][report["primary_metric"]]
        axes.scatter(one["latency_ms"]["p50"], reached, s=42, marker="D", color=colour, zorder=4, label=label)
    return [one["latency_ms"]["p50"] for one in others]


def _calibration(axes: Axes, report: Report) -> None:
    axes.plot([0, 1], [0, 1], color="#94a3b8", linestyle=":", linewidth=1.4)
    for name in (TEACHER, STUDENT_INT8):
        measured = report["calibration"][name]
        xs, ys, rows = ([one[key] for one in measured["bins"]] for key in ("confidence", "right", "rows"))
        label = f"{MODELS[name]} (ECE {wording.percent(measured['ece'])})"
        axes.plot(xs, ys, color=COLOURS[name], linewidth=1.2, label=label)
        # By the square root: a last bin with nearly all rows would leave nothing of the others.
        axes.scatter(xs, ys, s=[8 + 110 * math.sqrt(one / sum(rows)) for one in rows], color=COLOURS[name], zorder=3)
    axes.set(xlim=(0, 1.03), ylim=(0, 1.05), xlabel="confidence of the answer", ylabel="share right")
    legend_above(axes, 2)


def legend_above(axes: Axes, columns: int) -> Legend:
    """A legend over the whole figure: above the axes alone, long tick labels would push it out of the picture."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure.legend(
        loc="outside upper center", ncols=columns, columnspacing=1.0, handletextpad=0.5, handlelength=1.3
    )


def _slices(report: Report) -> list[str]:
    """Slices that get bars, in order; of many the ones where the INT8 student is weakest."""
    own = report["models"][STUDENT_INT8]["slices"]
    return list(own) if len(own) <= SLICES_MAX else sorted(own, key=own.__getitem__)[:SLICES_MAX]


def _slice_bars(axes: Axes, report: Report, slices: Sequence[str]) -> None:
    names = [name for name in (TEACHER, STUDENT_INT8, CONTROL) if name in report["models"]]
    for index, name in enumerate(names):
        values = [report["models"][name]["slices"][one] for one in slices]
        places = [place + (index - (len(names) - 1) / 2) * 0.26 for place in range(len(slices))]
        axes.barh(places, values, 0.24, color=COLOURS[name], label=MODELS[name])
    axes.set_yticks(range(len(slices)), [one if len(one) <= 22 else one[:21] + "\u2026" for one in slices])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    legend_above(axes, 3)


def _stages(axes: Axes, stages: Sequence[Mapping[str, Any]]) -> None:
    for index, metric in enumerate(stages[0]["after"]):
        colour = SERIES[index % len(SERIES)]
        for place, stage in enumerate(stages):
            label = wording.metric(metric) if place == 0 else None
            ends = [stage["before"][metric], stage["after"][metric]]
            axes.plot([place + 0.12, place + 0.88], ends, marker="o", markersize=5, color=colour, label=label)
        for place, (stage, after) in enumerate(itertools.pairwise(stages)):
            gap = [stage["after"][metric], after["before"][metric]]
            axes.plot([place + 0.88, place + 1.12], gap, linestyle=":", linewidth=1.2, color=colour)
    for place in range(1, len(stages)):
        axes.axvline(place, color="#cbd5e1", linewidth=1)
    axes.set_xticks([place + 0.5 for place in range(len(stages))], [wording.metric(stage["name"]) for stage in stages])
    axes.grid(axis="x", visible=False)
    axes.tick_params(axis="x", length=0)
    axes.set(xlim=(0, len(stages)), ylim=(0, 1.03), ylabel="validation, before and after")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    legend_above(axes, 3)


def _shares(axes: Axes, stages: Sequence[Mapping[str, Any]]) -> None:
    terms = list(dict.fromkeys(term for stage in stages for term in stage["shares"]))
    left = [0.0] * len(stages)
    for index, term in enumerate(terms):
        widths = [stage["shares"].get(term, 0.0) for stage in stages]
        bars = axes.barh(
            range(len(stages)), widths, 0.6, left=left, color=SERIES[index % len(SERIES)], label=wording.metric(term)
        )
        axes.bar_label(
            bars,
            [f"{width:.0%}" if width > 0.06 else "" for width in widths],
            label_type="center",
            color="white",
            fontsize=8.5,
        )
        left = [start + width for start, width in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(stages)), [wording.metric(stage["name"]) for stage in stages])
    axes.invert_yaxis()
    axes.grid(visible=False)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    legend_above(axes, 3)


def _curves(axes: Axes, curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    for name in (TEACHER, CONTROL, STUDENT):
        if points := curves.get(name):
            steps, ends = _steps(points)
            axes.plot(
                steps,
                [point["loss"] for point in points],
                color=COLOURS[STUDENT_INT8 if name == STUDENT else name],
                label=MODELS[name].split()[0],
                linewidth=1.5,
            )
            if name == STUDENT:
                for end in ends:
                    axes.axvline(end, color="#cbd5e1", linewidth=1)
    axes.set(xlabel="optimizer step (lines: the student's stages)", ylabel="training loss")
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())
    legend_above(axes, 3)


def _steps(points: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[int]]:
    """Steps counted through all stages, and where a new stage begins: a curve counts each stage from 0."""
    steps, ends, offset = [], [], 0
    for before, point in zip([points[0], *points], points, strict=False):
        if point["stage"] != before["stage"]:
            offset += before["step"] + 1
            ends.append(offset)
        steps.append(offset + point["step"])
    return steps, ends


def funnel(axes: Axes, curation: Mapping[str, Any]) -> None:
    """Rows generated, refused by each reason, and kept."""
    rows = [("generated", curation["in"]), *curation["reasons"].items(), ("kept", curation["kept"])]
    colours = ["#94a3b8", *["#f59e0b"] * len(curation["reasons"]), "#2563eb"]
    left, starts = curation["in"], [0]
    for refused in curation["reasons"].values():
        left -= refused
        starts.append(left)
    bars = axes.barh(range(len(rows)), [number for _, number in rows], 0.62, left=[*starts, 0], color=colours)
    axes.bar_label(bars, [f"{number:,}" for _, number in rows], padding=3, fontsize=8.5)
    axes.set_yticks(range(len(rows)), [wording.metric(name) for name, _ in rows])
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, curation["in"] * 1.14)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("samples")
