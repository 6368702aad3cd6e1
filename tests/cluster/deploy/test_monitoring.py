"""Rules and dashboard are written from the code, name only series that exist, and are what the real tools read."""

import json
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from cluster.deploy.alerts import RAY, alerts, rules
from cluster.deploy.dashboard import dashboard, panels
from cluster.deploy.monitoring import HERE, files, runbook, write
from cluster.metrics import METRICS, counter, histogram

ROOT = Path(__file__).resolve().parents[3]
PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
needs_tools = pytest.mark.skipif(PROMTOOL is None or PROMETHEUS is None, reason="Debian's package prometheus is needed")
SERIES = {metric.exported + part for metric in METRICS.values() for part in ("", "_bucket", "_sum", "_count")}

# What Ray's metrics port says of a service that is slow, disagrees, loses units and has grown.
SICK = """\
# TYPE ray_raydistill_latency_ms histogram
ray_raydistill_latency_ms_bucket{model="m",arm="champion",le="100"} %(n)d
ray_raydistill_latency_ms_bucket{model="m",arm="champion",le="500"} %(n)d0
ray_raydistill_latency_ms_bucket{model="m",arm="champion",le="+Inf"} %(n)d0
# TYPE ray_raydistill_agreement gauge
ray_raydistill_agreement{model="m",arm="champion",measure="same"} 0.8
ray_raydistill_judged{model="m",arm="champion"} 800
ray_raydistill_srm{model="m",experiment="challenger"} 4
ray_raydistill_srm_limit{model="m",experiment="challenger"} 3
ray_raydistill_breaker_open{model="m",target="teacher"} 1
ray_raydistill_replica_memory_bytes{model="m",kind="student",replica="a"} 3e9
ray_raydistill_quality_drop{model="m",metric="agreement"} 0.12
"""


def test_the_files_in_the_tree_are_those_that_the_code_writes(tmp_path: Path) -> None:
    write(tmp_path)
    for name in files():
        assert (HERE / name).read_text() == (tmp_path / name).read_text(), "run python -m cluster.deploy.monitoring"


@pytest.mark.parametrize(
    "expression", [one.expression for one in alerts()] + [q for p in panels() for q, _ in p.queries]
)
def test_every_expression_names_series_that_exist_and_their_labels(expression: str) -> None:
    named = set(re.findall(r"\bray_\w+", expression))
    assert named
    assert named <= SERIES | set(RAY)
    labels = {"le", *(label for metric in METRICS.values() for label in metric.labels)}
    assert set(re.findall(r"(\w+)=~", expression)) <= labels


def test_the_alerts_that_the_project_promises_are_there_each_with_a_row_in_the_runbook() -> None:
    names = {one.name for one in alerts()}
    assert {"RaydistillSlow", "RaydistillDisagrees", "RaydistillInaccurate", "RaydistillBreakerOpen",
            "RaydistillSampleRatioMismatch", "RaydistillMemory"} <= names  # fmt: skip
    assert runbook() in (ROOT / "docs" / "operations.md").read_text(), "run python -m cluster.deploy.monitoring"


def test_the_dashboard_has_a_panel_for_each_question_without_overlap() -> None:
    made = dashboard()
    places = [tuple(panel["gridPos"].values()) for panel in made["panels"]]
    assert len(set(places)) == len(places) == len(panels())
    assert len({panel["id"] for panel in made["panels"]}) == len(places)
    assert json.loads((HERE / "grafana" / "raydistill.json").read_text()) == made


def test_a_metric_that_is_not_in_the_table_or_of_another_kind_cannot_be_made() -> None:
    with pytest.raises(KeyError):
        counter("reqests")
    with pytest.raises(AssertionError, match="not a histogram"):
        histogram("requests")


@needs_tools
def test_promtool_reads_the_rules() -> None:
    checked = subprocess.run(
        [str(PROMTOOL), "check", "rules", HERE / "prometheus" / "alerts.yml"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr
    assert f"{len(alerts())} rules found" in checked.stdout


@needs_tools
def test_promtool_fires_and_is_quiet_where_it_should(tmp_path: Path) -> None:
    """Series over time, and what is firing after 10 minutes, as promtool's own unit tests take them."""
    sick = [
        {"series": 'ray_raydistill_latency_ms_bucket{model="m",arm="a",le="100"}', "values": "0+10x20"},
        {"series": 'ray_raydistill_latency_ms_bucket{model="m",arm="a",le="500"}', "values": "0+100x20"},
        {"series": 'ray_raydistill_latency_ms_bucket{model="m",arm="a",le="+Inf"}', "values": "0+100x20"},
        {"series": 'ray_raydistill_agreement{model="m",arm="few",measure="same"}', "values": "0.5x20"},
        {"series": 'ray_raydistill_judged{model="m",arm="few"}', "values": "100x20"},
        {"series": 'ray_raydistill_replica_memory_bytes{model="m",kind="gateway",replica="r"}', "values": "1e9x20"},
    ]
    expected = [
        {"exp_labels": {"severity": "page", "model": "m"}, "exp_annotations": _annotations("RaydistillSlow", "478")}
    ]
    tests = [
        {"eval_time": "10m", "alertname": "RaydistillSlow", "exp_alerts": expected},
        {"eval_time": "10m", "alertname": "RaydistillDisagrees", "exp_alerts": []},
        {"eval_time": "10m", "alertname": "RaydistillMemory", "exp_alerts": []},
    ]
    document = {"rule_files": [str(HERE / "prometheus" / "alerts.yml")], "evaluation_interval": "1m",
                "tests": [{"interval": "1m", "input_series": sick, "alert_rule_test": tests}]}  # fmt: skip
    (tmp_path / "unit.yml").write_text(yaml.safe_dump(document))
    ran = subprocess.run(
        [str(PROMTOOL), "test", "rules", tmp_path / "unit.yml"], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def _annotations(name: str, value: str) -> dict[str, str]:
    found = next(one for one in alerts() if one.name == name).rule()["annotations"]
    shown = re.sub(r'\{\{ \$value \| printf "%.0f" \}\}', value, found["summary"])
    return {**found, "summary": shown.replace("{{ $labels.model }}", "m")}


@pytest.fixture
def exporter() -> Iterator[int]:
    """A metrics port that says what a sick service's would, with counts that grow at each scrape."""
    scrapes = [0]

    class Port(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            scrapes[0] += 1
            body = (SICK % {"n": 10 * scrapes[0]}).encode()
            self.send_response(200)
            self.send_header("content-type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


@needs_tools
def test_a_real_prometheus_scrapes_and_alerts(exporter: int, tmp_path: Path) -> None:
    """The rules as they are but for their waiting times, cut to nothing so that a test need not wait."""
    now = rules()
    for rule in now["groups"][0]["rules"]:
        rule["for"] = "0s"
    now["groups"][0]["interval"] = "1s"
    (tmp_path / "alerts.yml").write_text(yaml.safe_dump(now))
    target = f"127.0.0.1:{exporter}"
    config = {"global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "rule_files": ["alerts.yml"],
              "scrape_configs": [{"job_name": "ray", "static_configs": [{"targets": [target]}]}]}  # fmt: skip
    (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = [str(PROMETHEUS), f"--config.file={tmp_path / 'prometheus.yml'}", f"--web.listen-address={address}",
               f"--storage.tsdb.path={tmp_path / 'data'}", "--log.level=error"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        expected = {"RaydistillSlow", "RaydistillDisagrees", "RaydistillSampleRatioMismatch", "RaydistillBreakerOpen",
                    "RaydistillMemory", "RaydistillQualityFell"}  # fmt: skip
        assert await_firing(f"http://{address}/api/v1/alerts", expected) == expected
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def await_firing(url: str, expected: set[str]) -> set[str]:
    """Names of the firing alerts, as soon as they are the expected ones, or after 40 s."""
    firing: set[str] = set()
    until = time.monotonic() + 40
    while time.monotonic() < until and firing != expected:
        time.sleep(0.5)
        try:
            found = httpx.get(url, timeout=5, trust_env=False).json()["data"]["alerts"]
        except (httpx.TransportError, ValueError):
            continue  # it is on its way up
        firing = {one["labels"]["alertname"] for one in found if one["state"] == "firing"}
    return firing
