"""The alert rules, each with what it means and what to do; every series in them is one of `cluster.metrics`, or one of
Ray's own named in `RAY`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from cluster.metrics import METRICS

GIB = 1 << 30
LATENCY_MS, AGREEMENT, MEMORY_GIB = 200, 0.9, 2  # DESIGN, decision 7; the seed text's quality; the issue's memory
STILL_S, NODE_MEMORY = 600, 0.9  # ten minutes without a step; Ray's monitor ends workers at 0.95 of a node
EQUAL = '{measure="same"}'  # a share of equal answers: a BLEU of 0.9 is another thing, and of no use as a limit
RUNBOOK = "docs/operations.md"
# What Ray exports by itself and rules read.
RAY = ("ray_node_mem_used", "ray_node_mem_total", "ray_memory_manager_worker_eviction_total")


@dataclass(frozen=True)
class Alert:
    """A rule: true for `hold`, it is sent. `means` and `do` are what the page at night says."""

    name: str
    expression: str
    hold: str
    severity: Literal["page", "ticket"]
    means: str
    do: str

    def rule(self) -> dict[str, Any]:
        """The rule as Prometheus reads it."""
        return {
            "alert": self.name, "expr": self.expression, "for": self.hold, "labels": {"severity": self.severity},
            "annotations": {"summary": self.means, "description": self.do, "runbook": f"{RUNBOOK}#{self.name.lower()}"},
        }  # fmt: skip


def series(name: str, part: Literal["", "_bucket", "_sum", "_count"] = "") -> str:
    """A metric's series in Prometheus. Raises KeyError on a name that is not in `cluster.metrics`."""
    return METRICS[name].exported + part


def p95(name: str, by: str) -> str:
    """The 95th percentile over five minutes of a histogram."""
    return f"histogram_quantile(0.95, sum by (le, {by}) (rate({series(name, '_bucket')}[5m])))"


def alerts() -> tuple[Alert, ...]:
    """All rules: of what is served, and of what runs."""
    return (*_served(), *_running())


def _served() -> tuple[Alert, ...]:
    requests, failed = series("requests"), 'outcome=~"unanswered|failed"'
    return (
        Alert(
            "RaydistillSlow", f"{p95('latency_ms', 'model')} > {LATENCY_MS}", "5m", "page",
            f"95 % of the answers of {{{{ $labels.model }}}} take up to {{{{ $value | printf \"%.0f\" }}}} ms, "
            f"more than {LATENCY_MS} ms.",
            "Look at /ui: one arm or all? One: python -m serving rollback. All: the machine is busy (ray "
            "status, top), or "
            "the teacher is asked too often (deferral): raise serving.replicas or serving.confidence_min's target.",
        ),
        Alert(
            "RaydistillDisagrees",
            f"{series('agreement')}{EQUAL} < {AGREEMENT} and on (model, arm) {series('judged')} >= 500", "1m", "page",
            f"Arm {{{{ $labels.arm }}}} says what the teacher says in {{{{ $value | printf \"%.3f\" }}}} of "
            "500 or more "
            f"judged requests, less than {AGREEMENT}.",
            "A challenger: it is rolled back by itself when it is shown to be worse; else python -m serving "
            "rollback. The "
            "champion: python -m jobs watch RECIPE --once mines the failing slice.",
        ),
        Alert(
            "RaydistillInaccurate", f"{series('accuracy')}{EQUAL} < {AGREEMENT}", "1m", "page",
            f"By the users' own labels {{{{ $value | printf \"%.3f\" }}}} of the answers are right, less "
            f"than {AGREEMENT}.",
            "Compare with agreement: if that is high the teacher is wrong too, and new labels are needed, not a new "
            "student. Else as RaydistillDisagrees.",
        ),
        Alert(
            "RaydistillQualityFell", f"{series('quality_drop')} > 0.05", "0m", "page",
            "Quality by {{ $labels.metric }} is {{ $value | printf \"%.3f\" }} below its value at promotion, "
            "relatively.",
            "The service has rolled back by itself unless drift.rollback is off (decisions on /ui). Run "
            "python -m jobs watch RECIPE --once: it re-curates from the hard requests of the verdict.",
        ),
        Alert(
            "RaydistillInputsShifted", f"{series('psi')} > 0.25", "10m", "ticket",
            "Requests are not what they were ({{ $labels.input }}: population stability index "
            "{{ $value | printf \"%.2f\" }}).",
            "Look at the last rows of traffic/MODEL: new users, another language, a broken client? Quality "
            "may still be "
            "fine; when it falls RaydistillQualityFell says so.",
        ),
        Alert(
            "RaydistillBreakerOpen", f"max by (model, target) ({series('breaker_open')}) == 1", "1m", "page",
            "Calls to {{ $labels.target }} are kept away: it failed again and again.",
            "target teacher: students answer on, unsure answers are marked; restart the teacher's "
            "application or fix its "
            "endpoint. An arm: its units get the teacher; ray logs of its application say why.",
        ),
        Alert(
            "RaydistillSampleRatioMismatch",
            f"{series('srm')} > on (model, experiment) {series('srm_limit')}", "0m", "page",
            "Units of experiment {{ $labels.experiment }} do not fall on arms as asked (log10 e-value "
            "{{ $value | printf \"%.1f\" }}).",
            "Its comparison is worth nothing: the ramp stands still and nothing is promoted. Look for "
            "requests that one "
            "arm loses (crashes, timeouts, retries with new ids), then start the experiment again with a "
            "new challenger.",
        ),
        Alert(
            "RaydistillMemory", f"{series('replica_memory_bytes')} > {MEMORY_GIB * GIB}", "5m", "ticket",
            f"Replica {{{{ $labels.replica }}}} ({{{{ $labels.kind }}}}) holds {{{{ $value | humanize1024 }}}}B, more "
            f"than {MEMORY_GIB} GiB.",
            "A leak grows, a large model stands: see the panel. Lower serving.queue_max, or restart the "
            "replica (two of them: nobody notices). A teacher that is that large by nature: silence kind teacher.",
        ),
        Alert(
            "RaydistillFailing",
            f"sum by (model) (rate({requests}{{{failed}}}[5m])) / sum by (model) (rate({requests}[5m])) > 0.01", "2m",
            "page", "{{ $value | humanizePercentage }} of the requests get no answer.",
            "Student and teacher both fail: python -m serving status, then ray logs. python -m serving rollback serves "
            "the previous champion.",
        ),
        Alert(
            "RaydistillTrafficLost", f"sum by (model, reason) (rate({series('traffic_dropped')}[5m])) > 1", "10m",
            "ticket", "The traffic log loses {{ $value | printf \"%.0f\" }} rows a second by {{ $labels.reason }}.",
            "queue_full: the store is slow, or traffic.share too high. failed: the store refuses to be "
            "written (disk full?).",
        ),
    )  # fmt: skip


def lately(name: str, by: str, chosen: str) -> str:
    """Counts that rose, or were seen for the first time, in the last quarter of an hour: a counter that begins at 1
    has no increase in Prometheus, and one that a dead process left behind is no news."""
    counted = f"{series(name)}{{{chosen}}}"
    now, before = f"sum by ({by}) ({counted})", f"sum by ({by}) ({counted} offset 15m)"
    return f"{now} unless {before} or sum by ({by}) (increase({counted}[15m])) > 0"


def _running() -> tuple[Alert, ...]:
    # A finished step's gauges stay as they were while the run goes on; the seconds of one that runs rise.
    runs = f"and on (run, step) delta({series('step_seconds')}[2m]) > 0"
    failed = "steps_failed", "run, step, reason"
    no_memory = lately(*failed, 'reason="out_of_memory"')
    return (
        Alert(
            "RaydistillDiverged", lately(*failed, 'reason=~"diverged|exploding|vanishing"'), "0m", "page",
            "The training of step {{ $labels.step }} of run {{ $labels.run }} was given up: {{ $labels.reason }} "
            "(diverged: a loss or a gradient was NaN or infinite).",
            "The command's last lines say stage, step, every loss term and what to change. diverged, exploding: lower "
            "the stage's learning_rate or set engine.gradient_clip, and look for rows with extreme targets "
            "(python -m jobs labels inspect RUN). vanishing: raise learning_rate or thaw layers. Then run the same "
            "command again: finished steps are found.",
        ),
        Alert(
            "RaydistillOutOfMemory", f"{no_memory} or increase({RAY[2]}[15m]) > 0", "0m", "page",
            "Memory ended: step {{ $labels.step }} of run {{ $labels.run }} was given up, or Ray's monitor ended a "
            "worker to save its node.",
            "Of a training: lower batch_size, or set engine.micro_batch or engine.activation_checkpointing. Of a "
            "teacher: lower generate.batch_size or generate.concurrency. Then the same command again: it goes on from "
            "the checkpoint. What holds the memory: docs/observability.md.",
        ),
        Alert(
            "RaydistillNodeMemory", f"{RAY[0]} / {RAY[1]} > {NODE_MEMORY}", "2m", "ticket",
            f"Node {{{{ $labels.instance }}}} has used {{{{ $value | humanizePercentage }}}} of its memory, more than "
            f"{NODE_MEMORY:.0%}; at 95 % Ray ends workers there.",
            "See who holds it (docs/observability.md), and do as for RaydistillOutOfMemory before it comes to that, or "
            "give the step's node type more memory.",
        ),
        Alert(
            "RaydistillStalled",
            f"min by (run, step) ({series('step_still_s')}) > {STILL_S} {runs} or "
            f"max by (run, step) (max_over_time({series('rows_per_s')}[10m])) == 0 {runs} "
            f"and on (run, step) {series('step_seconds')} > {STILL_S}", "1m", "page",
            "Step {{ $labels.step }} of run {{ $labels.run }} runs and nothing in it has moved for ten minutes: no "
            "training step, no answer of the teacher.",
            "python -m cluster jobs and python -m cluster doctor: did a node or its resources go (a placement that "
            "waits)? Then py-spy dump on the worker (docs/observability.md). An endpoint: does it answer, is its "
            "budget spent? Stop and resume lose at most checkpoint_every steps.",
        ),
        Alert(
            "RaydistillStepFailed", lately(*failed, 'reason!~"diverged|exploding|vanishing|out_of_memory|paused"'),
            "0m", "ticket",
            "Step {{ $labels.step }} of run {{ $labels.run }} ended without its artifact ({{ $labels.reason }}).",
            "python -m cluster logs JOB says why in its last lines, with a hint. Exit code 2: the input. 3: a gate; "
            "the report is there (python -m jobs report). Else run the same command again (python -m cluster resume "
            "JOB): finished steps are found.",
        ),
    )  # fmt: skip


def rules() -> dict[str, Any]:
    """The rule file."""
    return {"groups": [{"name": "raydistill", "interval": "15s", "rules": [alert.rule() for alert in alerts()]}]}
