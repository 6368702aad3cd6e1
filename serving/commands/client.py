"""Asks a running service over HTTP on behalf of `python -m serving`: where it is and by which key, its address says,
or the two variables of `elsewhere`."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from cluster.errors import InputError, RaydistillError
from serving.commands import address
from serving.web.auth import on_loopback

TIMEOUT_S = 300.0  # a promotion loads a model in every replica
LOOK_S = 5.0


URL, KEY = "RAYDISTILL_SERVING_URL", "RAYDISTILL_SERVING_KEY"


def elsewhere() -> dict[str, Any] | None:
    """The address that $RAYDISTILL_SERVING_URL and $RAYDISTILL_SERVING_KEY name: a service that was deployed, not begun
    by `serving up` here; None without them. Raises InputError for one without the other."""
    named = {name: os.environ.get(name, "") for name in (URL, KEY)}
    if not any(named.values()):
        return None
    if missing := [name for name, value in named.items() if not value]:
        raise InputError(
            f"${missing[0]} is not set", expected="a service's address, and a key of it with the role admin"
        )
    return {"url": named[URL].rstrip("/"), "key": named[KEY]}


def known(folder: Path) -> dict[str, Any]:
    """The address of what is served from this folder, or `elsewhere`. Raises InputError when nothing is."""
    found = elsewhere() or address.read(folder)
    if not found:
        hint = f"python -m serving up RECIPE, or ${URL} and ${KEY}"
        raise InputError("nothing is served from this store", got=str(folder), hint=hint)
    return found


def ask(where: dict[str, Any], path: str, body: dict[str, Any] | None = None, method: str = "GET") -> dict[str, Any]:
    """The service's JSON answer, asked with the operator's key, or elsewhere the user's own.

    Raises InputError for what it refuses as wrong (its problem's detail), RaydistillError for every other failure.
    """
    headers = {"authorization": f"Bearer {where['key']}", "content-type": "application/json"}
    data = None if method == "GET" else json.dumps(body or {}).encode()
    request = urllib.request.Request(f"{where['url']}{path}", data, headers, method=method)
    try:
        with _opener(where).open(request, timeout=LOOK_S if method == "GET" else TIMEOUT_S) as response:
            return dict(json.load(response))
    except urllib.error.HTTPError as error:
        raise _refused(error) from None
    except (urllib.error.URLError, TimeoutError, ValueError) as error:
        raise RaydistillError(f"the service at {where['url']} does not answer: {error}") from error


def _opener(where: dict[str, Any]) -> urllib.request.OpenerDirector:
    """No proxy between us and this machine, where `serving up` is (its address has a `pid`) or a tunnel begins; others
    are reached as the environment says."""
    near = "pid" in where or on_loopback(urllib.parse.urlsplit(where["url"]).hostname or "")
    return urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if near else []))


def _refused(error: urllib.error.HTTPError) -> RaydistillError:
    try:
        problem = json.load(error)
        what = f"{problem['code']}: {problem['detail']}"
    except (ValueError, KeyError, TypeError):
        return RaydistillError(f"HTTP {error.code}")
    return InputError(what) if problem["code"] in ("invalid_request", "conflict") else RaydistillError(what)
