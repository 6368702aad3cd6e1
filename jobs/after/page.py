"""One self-contained page per run: `report.html` opens from a disk, on a phone, years later, and asks for nothing."""

from __future__ import annotations

import base64
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cluster.measured import CONTROL, STUDENT_INT8, TEACHER
from cluster.recipe import Gates
from jobs.after import wording
from jobs.measure import gates
from jobs.measure.exam import Exam

TEMPLATE, BEYOND = (Path(__file__).with_name(f"{name}.html.j2") for name in ("page", "beyond"))
EXAMPLES = 12
TEXT_MAX = 400  # characters of a text shown


def render(
    report: Mapping[str, Any], curves: Mapping[str, Sequence[Mapping[str, Any]]], wrong: Sequence[Mapping[str, Any]]
) -> str:
    """The page of a report (`report.json`'s content), with training curves by model and examples of wrong answers."""
    from markupsafe import Markup

    from jobs.after import beyond_plots, plots

    whole = beyond_plots.whole(report)
    drawn = {name: Markup(svg) for name, svg in plots.all_plots(whole, curves).items()}
    return filled(
        TEMPLATE,
        r=report,
        plots=drawn,
        wrong=wrong,
        names=wording.MODELS,
        colours=plots.COLOURS,
        failed=gates.failed(report["gates"]),
        explain=_meanings(),
        slices_max=plots.SLICES_MAX,
        beyond=Markup(filled(
            BEYOND, r=whole, names=wording.MODELS,
            plots={name: Markup(svg) for name, svg in beyond_plots.all_plots(whole).items()},
        )),
    )  # fmt: skip


def filled(template: Path, **values: Any) -> str:
    """A page out of its template: everything escaped that is no Markup, numbers and names as `wording` has them."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    for name in ("percent", "points", "count", "size", "milliseconds", "seconds", "plain", "metric", "money", "limit"):
        environment.filters[name] = getattr(wording, name)
    return environment.from_string(template.read_text()).render(**values)


def examples(rows: Exam, predictions: pa.Table, count: int = EXAMPLES) -> list[dict[str, Any]]:
    """Up to `count` rows that the INT8 student got wrong, taken in turn from every slice, the surest mistakes first."""
    columns = predictions.to_pydict()
    others = [name for name in (TEACHER, CONTROL) if name in columns]
    queues: defaultdict[str, list[int]] = defaultdict(list)
    wrong = [row for row in range(len(rows)) if columns[STUDENT_INT8][row] != rows.truth[row]]
    for row in sorted(wrong, key=lambda row: -columns["student_int8_confidence"][row]):
        queues[rows.slices[row]].append(row)
    turns = sorted((turn, row) for queue in queues.values() for turn, row in enumerate(queue))
    return [
        {
            "text": rows.items[row]["text"][:TEXT_MAX],
            "images": [base64.b64encode(image).decode() for image in rows.items[row]["images"]],
            "slice": rows.slices[row],
            "truth": rows.truth[row],
            "answer": columns[STUDENT_INT8][row],
            "confidence": columns["student_int8_confidence"][row],
            "others": {name: columns[name][row] for name in others},
        }
        for _, row in turns[:count]
    ]


def _meanings() -> dict[str, str]:
    """What each gate holds, as its recipe field says it (sources left out)."""
    return {name: (field.description or "").partition(" Source:")[0] for name, field in Gates.model_fields.items()}
