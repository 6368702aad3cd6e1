"""Every metric as `docs/metrics.md` shows it, read from `cluster.metrics`, and which alert and panel look at it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from cluster.deploy.alerts import RAY, alerts
from cluster.deploy.dashboard import panels
from cluster.metrics import PIPELINE, SERVED, Metric
from jobs.after.markdown import table

HEAD = """\
# Metrics

Written by `make docs` from `cluster/metrics.py` and `cluster/deploy/`; do not edit.

Ray exports them on every node; the name here is the series' name in Prometheus. A histogram has `_bucket`, `_sum` and
`_count` behind it, in the bounds that its row names. Ray adds labels of its own, such as the node's address.
[observability.md](observability.md) says how to scrape them, [operations.md](operations.md) what to do about an alert.
"""
TITLES = {"Of a service": SERVED, "Of a run": PIPELINE}


def page() -> str:
    """The whole of docs/metrics.md."""
    parts = [HEAD]
    for title, metrics in TITLES.items():
        parts += [f"## {title}\n", _table(metrics)]
    ray = [(f"`{name}`", _watched(name)) for name in RAY]
    parts += ["## Of Ray itself, where a rule reads it\n", table(("series", "watched by"), ray)]
    return "\n".join(parts).rstrip() + "\n"


def _table(metrics: Sequence[Metric]) -> str:
    rows = []
    for one in metrics:
        bounds = f" Bounds: {', '.join(f'{bound:g}' for bound in one.buckets)}." if one.buckets else ""
        labels = ", ".join(f"`{label}`" for label in one.labels)
        rows.append((f"`{one.exported}`", one.kind, one.unit, labels, one.meaning + bounds, _watched(one.exported)))
    return table(("series", "kind", "unit", "labels", "meaning", "watched by"), rows)


def _watched(name: str) -> str:
    """The alerts, linked to their sections, and the panels that read a series."""
    own = re.compile(rf"\b{name}(_bucket|_sum|_count)?\b")
    rules = [f"[{one.name}](operations.md#{one.name.lower()})" for one in alerts() if own.search(one.expression)]
    shown = [f"panel *{one.title}*" for one in panels() if any(own.search(query) for query, _ in one.queries)]
    return ", ".join(rules + shown)
