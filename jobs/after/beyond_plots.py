"""Pictures of what a report holds beyond its core; a picture whose block is missing or null is not drawn."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from cluster.measured import STUDENT_INT8, TEACHER
from jobs.after import wording
from jobs.after.plots import COLOURS, SERIES, legend_above, svg

Report = Mapping[str, Any]
BLOCKS = (
    "per_class",
    "slices",
    "robustness",
    "transfer",
    "fairness",
    "engines",
    "cost",
    "edge",
    "money",
    "golden",
    "not_measured",
)
CLASSES_MAX = 14  # classes of the confusion that are still read; the most confused ones come first
BARS_MAX = 16  # slices over all dimensions, the weakest first


def all_plots(report: Report) -> dict[str, str]:
    """Name -> SVG of every picture that there is data for; `report` has every key of BLOCKS, null where it is empty."""
    drawn = {}
    for name, (height_of, draw) in PICTURES.items():
        height = height_of(report)
        if height is not None:
            drawn[name] = svg(name, height, draw, report)
    return drawn


def whole(report: Report) -> dict[str, Any]:
    """The report with null for every block that it does not have: older reports and other tasks have fewer."""
    return {**dict.fromkeys(BLOCKS), **report}


def _confusion_height(report: Report) -> float | None:
    block = report["per_class"]
    if block is None or STUDENT_INT8 not in block:
        return None
    return 1.2 + 0.26 * min(CLASSES_MAX, len(block[STUDENT_INT8]["confusion"]["labels"]))


def _confusion(axes: Axes, report: Report) -> None:
    found = report["per_class"][STUDENT_INT8]["confusion"]
    counts = np.array(found["counts"], float)
    wrong = counts.sum(0) + counts.sum(1) - 2 * np.diag(counts)
    shown = np.sort(np.argsort(-wrong, kind="stable")[:CLASSES_MAX])
    labels = [found["labels"][place] for place in shown]
    share = (counts / counts.sum(1, keepdims=True).clip(1))[np.ix_(shown, shown)]
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for row, column in np.argwhere(share >= 0.005):
        shade = "white" if share[row, column] > 0.5 else "#334155"
        text = f"{share[row, column] * 100:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=7, color=shade)
    names = [_short(name, 14) for name in labels]
    axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set(xlabel="answered (% of the true class)", ylabel="true")
    axes.grid(visible=False)


def _bars(report: Report) -> list[tuple[str, Mapping[str, Any]]]:
    """The weakest slices over all dimensions but the first picture's own, those of one dimension together."""
    dimensions = report["slices"] or {}
    found = [(dimension, one) for dimension, own in dimensions.items() if dimension != "slice" for one in _ranged(own)]
    weakest = {id(one) for _, one in sorted(found, key=lambda pair: pair[1][STUDENT_INT8])[:BARS_MAX]}
    return [pair for pair in found if id(pair[1]) in weakest]


def _ranged(slices: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Slices whose names begin with numbers (0.5 to 0.7) by those, others as they come: weakest first."""
    starts = [re.match(r"\d+(\.\d+)?", str(one["name"])) for one in slices]
    if not all(starts):
        return list(slices)
    return [one for _, one in sorted(zip([float(s[0]) for s in starts if s], slices, strict=True), key=lambda p: p[0])]


def _dimensions_height(report: Report) -> float | None:
    bars = _bars(report)
    return 1.0 + 0.3 * len(bars) if bars else None


def _dimensions(axes: Axes, report: Report) -> None:
    bars = _bars(report)
    places = np.arange(len(bars))
    values = np.array([one[STUDENT_INT8] for _, one in bars])
    low, high = (np.abs(np.array([one[end] for _, one in bars]) - values) for end in ("low", "high"))
    axes.barh(places, values, 0.62, color=COLOURS[STUDENT_INT8], xerr=np.stack([low, high]),
              error_kw={"ecolor": "#94a3b8", "elinewidth": 1.2})  # fmt: skip
    axes.plot([one[TEACHER] for _, one in bars], places, "|", color="#0f172a", markersize=11, markeredgewidth=2)
    names = [f"{wording.metric(dimension)}: {_short(str(one['name']), 20)} ({one['rows']})" for dimension, one in bars]
    axes.set_yticks(places, names, fontsize=8.5)
    axes.invert_yaxis()
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.02)
    axes.xaxis.set_major_formatter(PercentFormatter(1))


def _robustness_height(report: Report) -> float | None:
    return None if report["robustness"] is None or not report["robustness"]["kinds"] else 3.4


def _robustness(axes: Axes, report: Report) -> None:
    block = report["robustness"]
    kinds = list(dict.fromkeys(one["kind"] for one in block["kinds"]))
    for kind, colour in zip(kinds, SERIES * (1 + len(kinds) // len(SERIES)), strict=False):
        own = sorted((one for one in block["kinds"] if one["kind"] == kind), key=lambda one: one["severity"])
        steps = [0, *(one["severity"] for one in own)]
        for model, style in ((STUDENT_INT8, "-o"), (TEACHER, "--")):
            if model in block["clean"]:
                values = [block["clean"][model], *(one[model] for one in own)]
                label = wording.metric(kind) if model == STUDENT_INT8 else None
                axes.plot(steps, values, style, color=colour, label=label, markersize=4,
                          linewidth=1.8 if model == STUDENT_INT8 else 1.1)  # fmt: skip
    axes.set_xticks(range(4), ["clean", "mild", "medium", "strong"])
    axes.set_ylabel("share right")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    legend_above(axes, 3)


def _transfer_height(report: Report) -> float | None:
    return 3.4 if report["transfer"] and report["transfer"]["agreement_by_confidence"] else None


def _transfer(axes: Axes, report: Report) -> None:
    bins = report["transfer"]["agreement_by_confidence"]
    places = np.arange(len(bins))
    for index, (key, colour, label) in enumerate((
        ("teacher_right", COLOURS[TEACHER], "teacher is right"),
        (STUDENT_INT8, COLOURS[STUDENT_INT8], "INT8 student says the same"),
    )):  # fmt: skip
        axes.bar(places + (index - 0.5) * 0.4, [one[key] for one in bins], 0.38, color=colour, label=label)
    names = [f"{one['low'] * 100:g}–{one['high'] * 100:g} %\n{one['rows']} rows" for one in bins]
    axes.set_xticks(places, names, fontsize=8)
    axes.grid(axis="x", visible=False)
    axes.set_xlabel("confidence of the teacher")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    legend_above(axes, 2)


def _fairness_height(report: Report) -> float | None:
    return None if report["fairness"] is None else 1.0 + 0.3 * len(report["fairness"]["groups"])


def _fairness(axes: Axes, report: Report) -> None:
    groups = sorted(report["fairness"]["groups"], key=lambda one: one["probability"])
    axes.barh(range(len(groups)), [one["probability"] for one in groups], 0.62, color=COLOURS[STUDENT_INT8])
    axes.set_yticks(range(len(groups)), [_short(one["name"], 22) for one in groups], fontsize=8.5)
    axes.grid(axis="y", visible=False)
    axes.set(xlim=(0, 1.0), xlabel="mean probability")


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


Height = Callable[[Report], float | None]
PICTURES: Mapping[str, tuple[Height, Callable[[Axes, Report], None]]] = {
    "confusion": (_confusion_height, _confusion),
    "dimensions": (_dimensions_height, _dimensions),
    "robustness": (_robustness_height, _robustness),
    "transfer": (_transfer_height, _transfer),
    "fairness": (_fairness_height, _fairness),
}
