"""Which cluster is meant, and a Jobs API client that says what to do when it cannot be reached or refuses."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from cluster import credentials, local
from cluster.errors import InputError

if TYPE_CHECKING:
    from ray.dashboard.modules.job.pydantic_models import JobDetails
    from ray.job_submission import JobSubmissionClient

VARIABLE = "RAY_API_SERVER_ADDRESS"  # Ray's own name for it
REFUSED = (401, 403)


@dataclass(frozen=True)
class Target:
    """A cluster's Jobs API: its URL (http://host:8265), the token for it, and whether it is of this machine alone."""

    url: str
    token: str | None
    loopback: bool


def target(address: str | None) -> Target:
    """Return the cluster that `address` names; without one $RAY_API_SERVER_ADDRESS, else the one that `up` started.

    Raises InputError: no cluster is named or running, an address of another kind, or one beyond this machine without
    a token (RAY_AUTH_MODE=disabled says that it asks for none).
    """
    running = local.read()
    url = address or os.environ.get(VARIABLE) or (running.dashboard if running else None)
    if url is None:
        hint = "python -m cluster up starts one on this machine; another one is named by --address http://HOST:8265"
        raise InputError("no cluster is named", got=f"no --address, no ${VARIABLE}, none started here", hint=hint)
    if urlsplit(url).scheme not in ("http", "https"):
        raise InputError(
            "this is no Jobs API", got=url, expected="http://HOST:8265 or https://..., the dashboard's address"
        )
    url = url.rstrip("/")
    ours = running is not None and url == running.dashboard
    token = None if os.environ.get("RAY_AUTH_MODE") == "disabled" and not ours else _token(url, ours)
    return Target(url, token, credentials.is_loopback(url))


def _token(url: str, ours: bool) -> str | None:
    found = credentials.token(local.folder() if ours else None)
    if found is None and not credentials.is_loopback(url):
        hint = "export RAY_AUTH_TOKEN, or RAY_AUTH_MODE=disabled if this cluster really takes work from anybody"
        raise InputError("no token for a cluster beyond this machine", got=url, hint=hint)
    return found


def connect(cluster: Target) -> JobSubmissionClient:
    """Return a client of its Jobs API; raises InputError where nothing answers, or the token is not the cluster's."""
    with readable(cluster):
        os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # unset, importing Ray may leave a ~/.ray/auth_token behind
        from ray.job_submission import JobSubmissionClient

        for name in ("dashboard_sdk", "job.sdk"):  # they set their own levels, and tell of every upload and socket
            logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
        headers = {"Authorization": f"Bearer {cluster.token}"} if cluster.token else {}
        return JobSubmissionClient(cluster.url, headers=headers)


@contextlib.contextmanager
def readable(cluster: Target) -> Iterator[None]:
    """Turn what the SDK raises into what a person can act on."""
    from ray.exceptions import AuthenticationError

    try:
        yield
    except AuthenticationError as error:
        raise _refused(cluster, error) from None
    except ConnectionError as error:
        hint = "is it running, and does its dashboard listen on this address (--dashboard-host)?"
        raise InputError(f"no Jobs API answers at {cluster.url}", got=error, hint=hint) from None
    except RuntimeError as error:
        if any(f"status code {code}" in str(error) for code in REFUSED):
            raise _refused(cluster, error) from None
        raise InputError(f"the Jobs API at {cluster.url} cannot do this", got=error) from None


def find(client: JobSubmissionClient, cluster: Target, job: str | None) -> JobDetails:
    """Return the job of that submission id, or the newest; raises InputError where there is none."""
    with readable(cluster):
        known = submissions(client)
    if not known:
        raise InputError("no job was submitted to this cluster", got=cluster.url)
    if job is None:
        return known[0]
    for one in known:
        if one.submission_id == job:
            return one
    names = ", ".join(str(one.submission_id) for one in known[:5])
    raise InputError(f"no job {job}", got=cluster.url, expected=names)


def submissions(client: JobSubmissionClient) -> list[JobDetails]:
    """Return the submitted jobs, newest first (drivers that connected by themselves are none)."""
    jobs = [one for one in client.list_jobs() if one.submission_id]
    return sorted(jobs, key=lambda one: one.start_time or 0, reverse=True)


def _refused(cluster: Target, error: Exception) -> InputError:
    got = "no token was sent" if cluster.token is None else "another token than the cluster's"
    hint = "export RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH) of that cluster"
    return InputError(f"{cluster.url} refuses: {got}", got=str(error).splitlines()[0], hint=hint)
