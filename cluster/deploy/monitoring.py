"""Writes the Prometheus rules and the Grafana dashboard beside this file: `python -m cluster.deploy.monitoring`.

Scrape what Ray exports with the file that Ray writes (`/tmp/ray/session_latest/metrics/prometheus/prometheus.yml`, or
`file_sd_configs` on `/tmp/ray/prom_metrics_service_discovery.json`) and name `alerts.yml` under `rule_files`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from cluster.deploy.alerts import alerts, rules
from cluster.deploy.dashboard import dashboard

HERE = Path(__file__).parent
RUNBOOK = HERE.parents[1] / "docs" / "operations.md"
BEGIN, END = "<!-- alerts: python -m cluster.deploy.monitoring -->", "<!-- end of alerts -->"
HEAD = "# Written by python -m cluster.deploy.monitoring from cluster/deploy/alerts.py: change it there.\n"


def files() -> dict[Path, str]:
    """What is to lie where, below this folder."""
    return {
        Path("prometheus/alerts.yml"): HEAD + yaml.safe_dump(rules(), sort_keys=False, width=1000),
        Path("grafana/raydistill.json"): json.dumps(dashboard(), indent=1) + "\n",
    }


def runbook() -> str:
    """The rules for people: a section for each, of what it means and what to do."""
    parts = []
    for alert in alerts():
        means = re.sub(r"\{\{ \$labels\.(\w+) \}\}", r"`\1`", re.sub(r"\{\{ \$value[^}]*\}\}", "N", alert.means))
        sent = f"`{alert.expression}` for {alert.hold}; {alert.severity}."
        parts.append(f"### {alert.name}\n\n{sent}\n\n**Means:** {means}\n\n**Do:** {alert.do}\n")
    return "\n".join(parts)


def write_runbook(page: Path = RUNBOOK) -> None:
    """Put the runbook between its two marks on the page of operations."""
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n{runbook()}{END}{rest.partition(END)[2]}")


def write(folder: Path = HERE) -> None:
    """Write all files."""
    for name, text in files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


if __name__ == "__main__":
    write()
    write_runbook()
