"""Every metric once: its name, unit, labels and meaning, and the one way to make it on Ray.

Ray exports them per node in Prometheus' format with the prefix `ray_` (counters get `_total`); dashboards and alert
rules are generated from this table (`cluster.deploy.monitoring`), so none of them can name what does not exist.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ray.util.metrics import Counter, Gauge, Histogram

PREFIX = "raydistill_"
LATENCY_MS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)


@dataclass(frozen=True)
class Metric:
    """`kind` of Prometheus, `unit` of the values, `labels` every value carries, `meaning` in a sentence."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    unit: str
    labels: tuple[str, ...]
    meaning: str
    buckets: tuple[float, ...] = ()

    @property
    def exported(self) -> str:
        """The series' name in Prometheus (of a histogram without `_bucket`, `_sum`, `_count`)."""
        return f"ray_{PREFIX}{self.name}{'_total' if self.kind == 'counter' else ''}"


# Of gateways, students and teachers (`kind`) and the monitor beside them. `measure` is `same` (share of equal answers),
# of written texts `bleu`.
SERVED = (
    Metric("requests", "counter", "count", ("model", "outcome"), "Requests by who answered."),
    Metric("fallbacks", "counter", "count", ("model", "reason"), "Student answers not taken at once, by reason."),
    Metric("latency_ms", "histogram", "ms", ("model", "arm"), "From arrival to answer.", LATENCY_MS),
    Metric("teacher_latency_ms", "histogram", "ms", ("model",), "A teacher's answer to a shadow.", LATENCY_MS),
    Metric("arm_requests", "counter", "count", ("model", "arm", "outcome"), "Requests by the arm they went to."),
    Metric("shadows", "counter", "count", ("model", "arm", "result"), "Shadow requests: agrees, differs or failed."),
    Metric("shadows_dropped", "counter", "count", ("model",), "Shadow requests not made: the queue was full."),
    Metric("traffic_rows", "counter", "count", ("model",), "Rows of the traffic log written."),
    Metric("traffic_dropped", "counter", "count", ("model", "reason"), "Rows of the traffic log not written."),
    Metric("feedback", "counter", "count", ("model", "kind"), "Feedback by kind: reward or label."),
    Metric("agreement", "gauge", "share", ("model", "arm", "measure"), "Agreement with the teacher on judged shadows."),
    Metric("agreement_low", "gauge", "share", ("model", "arm", "measure"), "Lower end of its confidence sequence."),
    Metric("agreement_high", "gauge", "share", ("model", "arm", "measure"), "Upper end of its confidence sequence."),
    Metric("judged", "gauge", "count", ("model", "arm"), "Judged shadows behind the agreement."),
    Metric("accuracy", "gauge", "share", ("model", "measure"), "Right answers among those with a label, last window."),
    Metric("arm_share", "gauge", "share", ("model", "arm"), "Share of units that the arm is asked to have."),
    Metric("evidence", "gauge", "log10", ("model", "arm", "metric"), "log10 e-value that the arm is worse."),
    Metric("srm", "gauge", "log10", ("model", "experiment"), "log10 e-value that the split is not as asked."),
    Metric("srm_limit", "gauge", "log10", ("model", "experiment"), "log10 e-value that is an alarm."),
    Metric("psi", "gauge", "nats", ("model", "input"), "Population stability index against the first requests."),
    Metric("quality_drop", "gauge", "share", ("model", "metric"), "Relative drop of quality since promotion."),
    Metric("decisions", "counter", "count", ("model", "kind", "decision"), "Verdicts, by what was decided."),
    Metric("breaker_open", "gauge", "0 or 1", ("model", "target"), "Whether the circuit breaker keeps calls away."),
    Metric("hedges", "counter", "count", ("model", "result"), "Second requests sent because the first was late."),
    Metric("shed", "counter", "count", ("model",), "Requests refused because the queue was full (429)."),
    Metric("replica_memory_bytes", "gauge", "bytes", ("model", "kind", "replica"), "Resident memory of a replica."),
)  # fmt: skip
# Of a run's driver; on a node that outlives it the last values stay.
PIPELINE = (
    Metric("step_seconds", "gauge", "s", ("run", "step"), "How long a step took, or has taken so far."),
    Metric("step_done_share", "gauge", "share", ("run", "step", "part"), "How much of it is done."),
    Metric("step_still_s", "gauge", "s", ("run", "step", "part"), "Since it last moved; large when it hangs."),
    Metric("rows_per_s", "gauge", "rows/s", ("run", "step"), "Rows that the teacher answers."),
    Metric("tokens_per_s", "gauge", "tokens/s", ("run", "step"), "Tokens that the teacher reads and writes."),
    Metric("loss", "gauge", "loss", ("run", "part", "stage", "term"), "Training loss; `total`, else a term of it."),
    Metric("loss_share", "gauge", "share", ("run", "part", "stage", "term"), "A term's realised share of the loss."),
    Metric("rows", "gauge", "rows", ("run", "step", "outcome"), "Rows of a finished step by what became of them."),
    Metric("kept_share", "gauge", "share", ("run",), "Share of the samples that curation kept."),
    Metric("cache_hit_share", "gauge", "share", ("run",), "Share of the answers taken over from earlier runs."),
    Metric("steps_failed", "counter", "count", ("run", "step", "reason"), "Steps that ended without their artifact."),
)  # fmt: skip
METRICS = {metric.name: metric for metric in (*SERVED, *PIPELINE)}


@functools.cache
def counter(name: str) -> Counter:
    """The counter of this process; call `.inc(value, tags=)`. Raises KeyError on a name that is not in METRICS."""
    from ray.util.metrics import Counter

    metric = _known(name, "counter")
    return Counter(PREFIX + name, _help(metric), metric.labels)


@functools.cache
def gauge(name: str) -> Gauge:
    """The gauge of this process; call `.set(value, tags=)`. Raises KeyError on a name that is not in METRICS."""
    from ray.util.metrics import Gauge

    metric = _known(name, "gauge")
    return Gauge(PREFIX + name, _help(metric), metric.labels)


@functools.cache
def histogram(name: str) -> Histogram:
    """The histogram of this process; call `.observe(value, tags=)`. Raises KeyError on a name not in METRICS."""
    from ray.util.metrics import Histogram

    metric = _known(name, "histogram")
    return Histogram(PREFIX + name, _help(metric), list(metric.buckets), metric.labels)


def _help(metric: Metric) -> str:
    return f"{metric.meaning.rstrip('.')} ({metric.unit})"


def _known(name: str, kind: str) -> Metric:
    metric = METRICS[name]
    assert metric.kind == kind, f"{name} is a {metric.kind}, not a {kind}"
    return metric
