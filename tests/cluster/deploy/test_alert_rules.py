"""Every alert rule, given to promtool twice: series that must make it fire, and series beside them that must not."""

import re
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.__main__ import app as cluster_app
from cluster.deploy.alerts import RAY, alerts, series
from cluster.deploy.monitoring import HERE, RUNBOOK
from cluster.recipe import ResourcesSection
from jobs.__main__ import app as jobs_app
from jobs.after.reference import applied
from serving.__main__ import app as serving_app

PROMTOOL = shutil.which("promtool")
APPS = {"cluster": cluster_app, "jobs": jobs_app, "serving": serving_app}
AT, LONG = "40m", "x40"  # when promtool looks (minutes), and how many minutes a series goes on
Series = dict[str, str]


def still(name: str, value: float, **labels: str) -> Series:
    """A gauge that stays what it is."""
    return {labelled(name, labels): f"{value}{LONG}"}


def rising(name: str, each_minute: float, part: Any = "", **labels: str) -> Series:
    """A series that rises."""
    return {labelled(name, labels, part): f"0+{each_minute}{LONG}"}


def appears(name: str, before: int, value: float, **labels: str) -> Series:
    """A counter that nobody has seen for the first `before` minutes, and that says `value` from then on."""
    return {labelled(name, labels): f"_x{before - 1} {value}x{40 - before}"}


def labelled(name: str, labels: dict[str, str], part: Any = "") -> str:
    told = ",".join(f'{key}="{value}"' for key, value in {"NodeAddress": "10.0.0.1", **labels}.items())
    return f"{name if name in RAY else series(name, part)}{{{told}}}"


def latency(slow: float) -> Series:
    """A hundred answers a minute, `slow` of them in more than 100 ms and less than 500."""
    counts = {"100": 100 - slow, "500": 100.0, "+Inf": 100.0}
    found: Series = {}
    for le, count in counts.items():
        found |= rising("latency_ms", count, "_bucket", model="m", arm="champion", le=le)
    return found


def failed(at: int, reason: str) -> Series:
    return appears("steps_failed", at, 1, run="r", step="distill", reason=reason)


TRAINS, ANSWERS = {"run": "r", "step": "distill"}, {"run": "r", "step": "generate"}
KINDS = ("gateway", "student", "teacher")
ARM = {"model": "m", "arm": "a"}
RUNS = rising("step_seconds", 60, **TRAINS)
STUDENT_STANDS = still("step_still_s", 700, **TRAINS, part="student")
# Rule -> series that make it fire, and series that leave it quiet (each a case of its own).
CASES: dict[str, tuple[list[Series], list[Series]]] = {
    "RaydistillSlow": ([latency(90)], [latency(1)]),
    "RaydistillDisagrees": (
        [still("agreement", 0.8, **ARM, measure="same") | still("judged", 800, **ARM)],
        [still("agreement", 0.8, **ARM, measure="same") | still("judged", 100, **ARM),
         still("agreement", 0.95, **ARM, measure="same") | still("judged", 800, **ARM),
         still("agreement", 0.4, **ARM, measure="bleu") | still("judged", 800, **ARM)],  # a good BLEU, not a share
    ),
    "RaydistillInaccurate": (
        [still("accuracy", 0.8, model="m", measure="same")],
        [still("accuracy", 0.95, model="m", measure="same"), still("accuracy", 0.4, model="m", measure="bleu")],
    ),
    "RaydistillQualityFell": (
        [still("quality_drop", 0.06, model="m", metric="accuracy")],
        [still("quality_drop", 0.04, model="m", metric="accuracy")],
    ),
    "RaydistillInputsShifted": (
        [still("psi", 0.3, model="m", input="words")], [still("psi", 0.2, model="m", input="words")],
    ),
    "RaydistillBreakerOpen": (
        [still("breaker_open", 1, model="m", target="teacher")],
        [still("breaker_open", 0, model="m", target="teacher")],
    ),
    "RaydistillSampleRatioMismatch": (
        [still("srm", 4, model="m", experiment="e") | still("srm_limit", 3, model="m", experiment="e")],
        [still("srm", 2, model="m", experiment="e") | still("srm_limit", 3, model="m", experiment="e")],
    ),
    "RaydistillMemory": (
        [still("replica_memory_bytes", 3e9, model="m", replica="r", kind=kind) for kind in KINDS],
        [still("replica_memory_bytes", 1e9, model="m", replica="r", kind=kind) for kind in KINDS],
    ),
    "RaydistillFailing": (
        [rising("requests", 95, model="m", outcome="student") | rising("requests", 5, model="m", outcome="unanswered")],
        [rising("requests", 1000, model="m", outcome="student")
         | rising("requests", 5, model="m", outcome="unanswered")],
    ),
    "RaydistillTrafficLost": (
        [rising("traffic_dropped", 120, model="m", reason="queue_full")],
        [rising("traffic_dropped", 30, model="m", reason="queue_full")],
    ),
    "RaydistillDiverged": (
        [failed(38, "diverged"), failed(38, "exploding")],
        [failed(38, "other"), failed(10, "diverged")],  # the second is half an hour old
    ),
    "RaydistillOutOfMemory": (
        [failed(38, "out_of_memory"), rising("ray_memory_manager_worker_eviction_total", 1, Type="actor")],
        [failed(38, "diverged"), still("ray_memory_manager_worker_eviction_total", 7, Type="actor")],
    ),
    "RaydistillNodeMemory": (
        [still("ray_node_mem_used", 93e9) | still("ray_node_mem_total", 100e9)],
        [still("ray_node_mem_used", 80e9) | still("ray_node_mem_total", 100e9)],
    ),
    "RaydistillStalled": (
        [RUNS | STUDENT_STANDS,
         rising("step_seconds", 60, **ANSWERS) | still("rows_per_s", 0, **ANSWERS)],
        [RUNS | STUDENT_STANDS | still("step_still_s", 3, **TRAINS, part="control"),  # the other arm's turn
         STUDENT_STANDS | still("step_seconds", 900, **TRAINS),  # it is over; the run goes on
         rising("step_seconds", 60, **ANSWERS) | still("rows_per_s", 5, **ANSWERS)],
    ),
    "RaydistillStepFailed": ([failed(38, "other")], [failed(38, "diverged"), failed(38, "paused")]),
}  # fmt: skip


def test_every_rule_has_its_section_in_the_runbook_and_every_section_its_rule() -> None:
    sections = re.findall(r"^### (Raydistill\w+)", RUNBOOK.read_text(), re.MULTILINE)
    written = yaml.safe_load((HERE / "prometheus" / "alerts.yml").read_text())["groups"][0]["rules"]
    assert sections == [one.name for one in alerts()] == [rule["alert"] for rule in written]
    for rule in written:
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert (RUNBOOK.parents[1] / page).is_file() and anchor in {name.lower() for name in sections}


def test_every_command_that_a_rule_advises_exists() -> None:
    known = {f"{module} {name}" for module, app in APPS.items() for name in applied(app)}
    for one in alerts():
        assert set(re.findall(r"python -m (\w+ (?:labels )?\w+)", one.do)) <= known, one.name


def test_every_rule_has_its_two_cases() -> None:
    assert list(CASES) == [one.name for one in alerts()]


@pytest.mark.skipif(PROMTOOL is None, reason="Debian's package prometheus is needed")
def test_every_rule_fires_on_what_it_is_for_and_is_quiet_beside_it(tmp_path: Path) -> None:
    tests = [
        case(f"{name}: {'fires' if fires else 'quiet'} {place}", name, given, fires)
        for name, (sick, well) in CASES.items()
        for fires, all_given in ((True, sick), (False, well))
        for place, given in enumerate(all_given)
    ]
    document = {"rule_files": [str(HERE / "prometheus" / "alerts.yml")], "evaluation_interval": "1m", "tests": tests}
    (tmp_path / "cases.yml").write_text(yaml.safe_dump(document))
    command = [str(PROMTOOL), "test", "rules", tmp_path / "cases.yml"]
    ran = subprocess.run(command, check=False, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def case(title: str, name: str, given: Series, fires: bool) -> dict[str, Any]:
    """One of promtool's unit tests: how many alerts of the rule are firing at the end."""
    firing = f'count by (alertname) (ALERTS{{alertname="{name}",alertstate="firing"}})'
    expected = [{"labels": f'{{alertname="{name}"}}', "value": 1}] if fires else []
    return {
        "name": title, "interval": "1m",
        "input_series": [{"series": one, "values": values} for one, values in given.items()],
        "promql_expr_test": [{"expr": firing, "eval_time": AT, "exp_samples": expected}],
    }  # fmt: skip


def test_the_series_of_rays_own_that_rules_read_are_exported_by_this_ray(ray_cluster: ResourcesSection) -> None:
    """All but the eviction counter, which begins with the first eviction."""
    import ray

    node = next(one for one in ray.nodes() if one["Alive"])
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    wanted = {name for name in RAY if "node_mem" in name}
    for _ in range(60):
        text = httpx.get(url, timeout=10, trust_env=False).text
        if all(re.search(rf"^{name}\{{", text, re.MULTILINE) for name in wanted):
            return
        time.sleep(0.5)
    pytest.fail(f"not all of {sorted(wanted)} on {url}")
