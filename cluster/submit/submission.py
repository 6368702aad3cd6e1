"""The commands on jobs: submit, list, follow, stop, and resume under the same run."""

from __future__ import annotations

import asyncio
import logging
import shlex
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import InputError, StepFailed
from cluster.session import ROOT, commit
from cluster.submit import client as clients
from cluster.submit import package, stamp

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

log = logging.getLogger(__name__)

ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
POLL_S = 0.2
STOP_S = 60.0


def submit(
    asked: stamp.Asked, cluster: clients.Target, *, resumes: str | None = None, limit_mb: float = 50.0
) -> dict[str, Any]:
    """Ship the working directory and start the command on the cluster; return its id and what was stamped.

    resumes: the job that this one goes on for. Raises InputError before anything is sent: an unreadable recipe, no
    store, a package over the limit, secrets that are not set.
    """
    asked = stamp.with_store(asked, cluster.loopback, ROOT)
    facts = stamp.about(asked, ROOT) | ({"resumes": resumes} if resumes else {})
    job = stamp.name(facts)
    with tempfile.TemporaryDirectory(prefix="raydistill-") as folder:
        packed = package.pack(ROOT, Path(folder) / "code.zip")
        environment = stamp.runtime_env(packed.path, asked, facts, cluster.token)
        client = clients.connect(cluster)
        with clients.readable(cluster):
            client.submit_job(
                entrypoint=stamp.entrypoint(asked), submission_id=job, runtime_env=environment, metadata=facts,
                **stamp.placement(asked),
            )  # fmt: skip
    return {
        "job": job,
        "cluster": cluster.url,
        "shipped_bytes": packed.total_bytes,
        "files": len(packed.files),
        **facts,
    }


def resume(job: str | None, cluster: clients.Target) -> dict[str, Any]:
    """Submit a job again as it was: same command, same store, so same run, and finished steps are not done again.

    The code is that of this working directory; where its commit is another one it says so. Raises InputError: no such
    job, one that still runs, or one that succeeded.
    """
    found = clients.find(clients.connect(cluster), cluster, job)
    if status(found) not in ENDED:
        raise InputError(f"{found.submission_id} is {status(found)}", hint="python -m cluster logs -f follows it")
    if status(found) == "SUCCEEDED":
        raise InputError(f"{found.submission_id} has succeeded: there is nothing to resume")
    facts = dict(found.metadata or {})
    asked = stamp.asked_again(facts)
    if facts["commit"] != commit():
        log.warning("the code has changed since: %s then, %s now", facts["commit"], commit())
    return submit(asked, cluster, resumes=str(found.submission_id))


def follow(job: str, cluster: clients.Target, tell: Callable[[str], None]) -> int:
    """Pass the job's log on line by line until it ends; return its exit code (1 where Ray knows none, 143 stopped)."""
    client = clients.connect(cluster)

    async def read() -> None:
        rest = ""
        async for text in client.tail_job_logs(job):
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                tell(line)
        if rest:
            tell(rest)

    with clients.readable(cluster):
        asyncio.run(read())
    return exit_code(_wait(client, cluster, job))


def logs(job: str | None, cluster: clients.Target) -> str:
    """Return what the job has printed so far."""
    client = clients.connect(cluster)
    found = clients.find(client, cluster, job)
    with clients.readable(cluster):
        return str(client.get_job_logs(str(found.submission_id)))


def stop(job: str | None, cluster: clients.Target) -> dict[str, Any]:
    """Ask the job's command to end (SIGTERM: what is done is kept) and wait until it has.

    Raises StepFailed when it has not ended after a minute.
    """
    client = clients.connect(cluster)
    found = clients.find(client, cluster, job)
    name = str(found.submission_id)
    with clients.readable(cluster):
        client.stop_job(name)
    ended = _wait(client, cluster, name, STOP_S)
    if status(ended) not in ENDED:
        raise StepFailed(f"stopping {name}", f"it is {status(ended)} after {STOP_S:.0f} s", hint="its node may be gone")
    return {"job": name, "status": status(ended)}


def listed(cluster: clients.Target) -> list[dict[str, Any]]:
    """Return the submitted jobs, newest first: id, status, recipe, run, commit, command, start, seconds, exit code."""
    client = clients.connect(cluster)
    with clients.readable(cluster):
        return [_row(one) for one in clients.submissions(client)]


def _row(job: JobDetails) -> dict[str, Any]:
    facts: Mapping[str, str] = job.metadata or {}
    started, ended = (job.start_time or 0) / 1000, (job.end_time or time.time() * 1000) / 1000
    told = {key: facts.get(key) for key in ("recipe", "run", "commit", "store", "resumes")}
    command = facts.get("command") or job.entrypoint
    return {"job": job.submission_id, "status": status(job), **told, "command": command,
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)), "seconds": round(ended - started, 1),
            "exit_code": exit_code(job) if status(job) in ENDED else None}  # fmt: skip


def status(job: JobDetails) -> str:
    """Return PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED."""
    return str(getattr(job.status, "value", job.status))


def exit_code(job: JobDetails) -> int:
    """Return what the command itself ended with (a failed gate is 3 here as it is on a laptop)."""
    if status(job) == "SUCCEEDED":
        return 0
    code = job.driver_exit_code
    if code is None:
        return 1
    return 128 - code if code < 0 else code  # a signal's number, as a shell says it


def told(document: Mapping[str, Any]) -> str:
    """Return what a submission says for people."""
    lines = [f"{document['job']} runs on {document['cluster']}: {document['command']}"]
    lines.append(
        f"  shipped: {document['files']} files, {document['shipped_bytes'] / 1e6:.1f} MB, commit {document['commit']}"
    )
    lines += [f"  {key}: {document[key]}" for key in ("store", "resumes", "secrets") if document.get(key)]
    return "\n".join([*lines, f"  follow it: {shlex.join(['python', '-m', 'cluster', 'logs', '-f', document['job']])}"])


def _wait(client: JobSubmissionClient, cluster: clients.Target, job: str, seconds: float = 30.0) -> JobDetails:
    """Return the job when it has ended, or after this long (s)."""
    until = time.monotonic() + seconds
    while True:
        with clients.readable(cluster):
            found = client.get_job_info(job)
        if status(found) in ENDED or time.monotonic() > until:
            return found
        time.sleep(POLL_S)
