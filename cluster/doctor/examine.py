"""Asks every node of the Ray that this process is connected to, and a Jobs API from outside."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from cluster import credentials, pins
from cluster.doctor import checks, probe
from cluster.errors import StepFailed
from cluster.submit import client, stamp, submission

CLOCK_TRIES = 3  # the call with the shortest way there and back tells the time best
LONG_S = 120.0


def connected(store: str) -> dict[str, Any]:
    """Return {"nodes", "checks", "blocked"} of the cluster that this process is connected to (cluster.session.connect).

    Raises StepFailed when a node that Ray calls alive does not answer within two minutes.
    """
    import ray

    from cluster.store.filesystem import open_files

    files = open_files(store)
    marker = f"doctor-{uuid.uuid4().hex}"
    nodes = ray.nodes()  # type: ignore[no-untyped-call]
    alive = [node for node in nodes if node["Alive"]]
    question = probe.Question(store if "://" in store else str(files.workspace), marker, probe.ports_of(alive))
    files.workspace.mkdir(parents=True, exist_ok=True)
    (files.workspace / marker).touch()
    try:
        reports = _ask(alive, question)
    finally:
        (files.workspace / marker).unlink(missing_ok=True)
    loopback = all(credentials.is_loopback(node["NodeManagerAddress"]) for node in alive)
    return _document(checks.Cluster(pins.here(), reports, len(nodes) - len(alive), loopback))


def from_outside(cluster: client.Target, store: str) -> dict[str, Any]:
    """Return the same of a cluster behind a Jobs API: the doctor runs there as a job; the door is tried from here.

    Raises StepFailed with the job's log when the job says nothing.
    """
    command = ("python", "-m", "cluster", "doctor", "--json", "--store", store)
    job = submission.submit(stamp.Asked(command), cluster)["job"]
    lines: list[str] = []
    submission.follow(job, cluster, lines.append)
    document = _answer(lines)
    if document is None:
        raise StepFailed("doctor", " | ".join(lines[-3:]), hint=f"python -m cluster logs {job}")
    reports = [probe.NodeReport(**values) for values in document["nodes"]]
    judged = checks.Cluster(pins.here(), reports, document["dead"], document["loopback"] and cluster.loopback,
                            is_open(cluster.url))  # fmt: skip
    return _document(judged)


def is_open(url: str) -> bool:
    """Tell whether a Jobs API lists jobs to somebody without a token."""
    import httpx

    try:
        return httpx.get(f"{url}/api/jobs/", timeout=10, trust_env=False).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def told(document: dict[str, Any]) -> str:
    """Return the findings for people: what is fine in one line each, what is not with what to do."""
    marks = {"ok": "ok   ", "warn": "WARN ", "block": "BLOCK"}
    lines = []
    for check in document["checks"]:
        where = f" [{check['node']}]" if check["node"] else ""
        lines.append(f"{marks[check['status']]} {check['name']}{where}: {check['found']}")
        if check["todo"] and check["status"] != "ok":
            lines.append(f"        {check['todo']}")
    lines.append("not fit to run on yet" if document["blocked"] else "fit to run on")
    return "\n".join(lines)


def _document(cluster: checks.Cluster) -> dict[str, Any]:
    found = checks.judge(cluster)
    return {
        "nodes": [asdict(report) for report in cluster.reports], "dead": cluster.dead, "loopback": cluster.loopback,
        "checks": [asdict(check) for check in found], "blocked": checks.blocked(found),
    }  # fmt: skip


def _ask(nodes: Sequence[dict[str, Any]], question: probe.Question) -> list[probe.NodeReport]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    def on(node: dict[str, Any], function: Any) -> Any:
        place = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        return ray.remote(function).options(num_cpus=0, scheduling_strategy=place)

    looking = [
        on(node, probe.look).remote(question, _name(node), dict(node["Labels"]), dict(node["Resources"]))
        for node in nodes
    ]
    try:
        reports = ray.get(looking, timeout=LONG_S)
        clocks = [_clock(on(node, probe.now)) for node in nodes]
    except ray.exceptions.RayError as error:
        raise StepFailed("doctor", f"a node does not answer: {type(error).__name__}", hint="see ray status") from error
    return [
        replace(report, skew_s=skew, skew_within_s=within)
        for report, (skew, within) in zip(reports, clocks, strict=True)
    ]


def _clock(there: Any) -> tuple[float, float]:
    """Return how far a node's clock is ahead (s) and how well that is known (s): half the way there and back."""
    import ray

    tries = []
    for _ in range(CLOCK_TRIES):
        sent = time.time()
        theirs = ray.get(there.remote(), timeout=LONG_S)
        back = time.time()
        tries.append(((back - sent) / 2, theirs - (sent + back) / 2))
    within, skew = min(tries)
    return round(skew, 4), round(within, 4)


def _name(node: dict[str, Any]) -> str:
    return f"{node['NodeManagerAddress']} {node['NodeID'][:8]}"


def _answer(lines: Sequence[str]) -> dict[str, Any] | None:
    """The doctor's document in a job's log, which holds other lines too."""
    for line in reversed(lines):
        if line.startswith('{"nodes"'):
            return dict(json.loads(line))
    return None
