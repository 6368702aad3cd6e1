"""The Grafana dashboard: one panel per question people ask, every series from `cluster.metrics` or named in
`cluster.deploy.alerts.RAY`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cluster.deploy.alerts import AGREEMENT, GIB, LATENCY_MS, MEMORY_GIB, NODE_MEMORY, RAY, STILL_S, p95, series

WIDTH, HEIGHT = 12, 8  # of 24 columns


@dataclass(frozen=True)
class Panel:
    """A title, the queries with their legends, Grafana's unit, and a line to stay below or above."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    limit: float | None = None


def panels() -> tuple[Panel, ...]:
    """All panels in the order of the page: what is served, then what runs."""
    return (*_served(), *_running())


def _served() -> tuple[Panel, ...]:
    of = '{model=~"$model"}'
    per_s = f"sum by (%s) (rate(%s{of}[5m]))"
    return (
        Panel("Requests by who answered", ((per_s % ("outcome", series("requests")), "{{outcome}}"),), "reqps"),
        Panel("Latency p95 by arm", ((p95("latency_ms", "arm"), "{{arm}}"),), "ms", LATENCY_MS),
        Panel("Agreement with the teacher, with its confidence sequence", _agreement("same"), "percentunit", AGREEMENT),
        Panel("BLEU of written texts against the teacher's", _agreement("bleu"), "percentunit"),
        Panel("Share of units", ((series("arm_share") + of, "{{arm}}"),), "percentunit"),
        Panel("Why the student was not enough", ((per_s % ("reason", series("fallbacks")), "{{reason}}"),), "reqps"),
        Panel("Evidence that an arm is worse", ((series("evidence") + of, "{{arm}} {{metric}} (log10)"),)),
        Panel(
            "Sample ratio mismatch",
            ((series("srm") + of, "{{experiment}} (log10)"), (series("srm_limit") + of, "{{experiment}} alarm")),
        ),
        Panel("Drift of inputs (PSI)", ((series("psi") + of, "{{input}}"),), "short", 0.25),
        Panel("Relative drop of quality", ((series("quality_drop") + of, "{{metric}}"),), "percentunit", 0.05),
        Panel("Breakers", ((series("breaker_open") + of, "{{target}}"),)),
        Panel("Refused (429) and hedged", (
            (per_s % ("model", series("shed")), "refused"), (per_s % ("result", series("hedges")), "hedge {{result}}"),
        ), "reqps"),
        Panel("Memory of replicas", ((series("replica_memory_bytes") + of, "{{kind}} {{replica}}"),), "bytes",
              MEMORY_GIB * GIB),
        Panel("Shadows", ((per_s % ("arm, result", series("shadows")), "{{arm}} {{result}}"),), "reqps"),
        Panel("Traffic log", (
            (per_s % ("model", series("traffic_rows")), "written"),
            (per_s % ("reason", series("traffic_dropped")), "lost: {{reason}}"),
        ), "reqps"),
        Panel("Decisions", ((f"sum by (kind, decision) ({series('decisions')}{of})", "{{kind}}: {{decision}}"),)),
    )  # fmt: skip


def _agreement(measure: str) -> tuple[tuple[str, str], ...]:
    of = f'{{model=~"$model",measure="{measure}"}}'
    return tuple(
        (series(f"agreement{end}") + of, f"{{{{arm}}}}{end.replace('_', ' ')}") for end in ("", "_low", "_high")
    )


def _running() -> tuple[Panel, ...]:
    of = '{run=~"$run"}'
    return (
        Panel("How much of a step is done", ((series("step_done_share") + of, "{{step}} {{part}}"),), "percentunit"),
        Panel("How long nothing has moved", ((series("step_still_s") + of, "{{step}} {{part}}"),), "s", STILL_S),
        Panel("Rows that the teacher answers", ((series("rows_per_s") + of, "{{step}}"),), "rowsps"),
        Panel("Tokens that the teacher reads and writes", ((series("tokens_per_s") + of, "{{step}} tokens/s"),)),
        Panel("Loss and its terms", ((series("loss") + of, "{{part}} {{stage}} {{term}}"),)),
        Panel("Realised shares of the loss",
              ((series("loss_share") + of, "{{part}} {{stage}} {{term}}"),), "percentunit"),
        Panel("Kept by curation, and taken over from earlier runs",
              ((series("kept_share") + of, "{{run}} kept"), (series("cache_hit_share") + of, "{{run}} reused")),
              "percentunit"),
        Panel("Rows by what became of them", ((series("rows") + of, "{{step}} {{outcome}}"),)),
        Panel("Steps that failed", ((f"sum by (step, reason) ({series('steps_failed')}{of})", "{{step}} {{reason}}"),)),
        Panel("Memory used on each node", ((f"{RAY[0]} / {RAY[1]}", "{{instance}}"),), "percentunit", NODE_MEMORY),
    )  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana 10 and later import it; its data source is a variable."""
    source = {"type": "prometheus", "uid": "${source}"}
    pickers = [
        {"type": "query", "name": label, "label": label.title(), "datasource": source, "includeAll": True,
         "multi": True, "refresh": 2, "query": f"label_values({series(metric)}, {label})",
         "current": {"text": "All", "value": "$__all"}}
        for label, metric in (("model", "requests"), ("run", "step_seconds"))
    ]  # fmt: skip
    picker = {"type": "datasource", "name": "source", "label": "Prometheus", "query": "prometheus"}
    return {
        "uid": "raydistill", "title": "raydistill: what is served, what runs", "schemaVersion": 39, "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"}, "templating": {"list": [picker, *pickers]},
        "panels": [_panel(number, panel, source) for number, panel in enumerate(panels())],
    }  # fmt: skip


def _panel(number: int, panel: Panel, source: dict[str, str]) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    if panel.limit is not None:
        steps.append({"color": "red", "value": panel.limit})
    thresholds = {"mode": "absolute", "steps": steps}
    custom = {"thresholdsStyle": {"mode": "line" if panel.limit is not None else "off"}, "fillOpacity": 5}
    return {
        "id": number + 1, "type": "timeseries", "title": panel.title, "datasource": source,
        "gridPos": {"x": number % 2 * WIDTH, "y": number // 2 * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "custom": custom, "thresholds": thresholds}},
        "targets": [
            {"refId": chr(ord("A") + place), "expr": query, "legendFormat": legend, "datasource": source}
            for place, (query, legend) in enumerate(panel.queries)
        ],
    }  # fmt: skip
