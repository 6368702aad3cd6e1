"""The token that a cluster asks for: where it is looked for, how one is made, and when one is needed."""

from __future__ import annotations

import ipaddress
import os
import secrets
from pathlib import Path
from urllib.parse import urlsplit

from cluster.errors import InputError

TOKEN_BYTES = 32


def token(folder: Path | None = None) -> str | None:
    """Return the token in Ray's own order, then that of a local cluster's folder; None when there is none.

    $RAY_AUTH_TOKEN, the file named by $RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token, `folder`/token. Raises InputError where
    a file that was named cannot be read.
    """
    given = os.environ.get("RAY_AUTH_TOKEN")
    if given:
        return given.strip()
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if named:
        try:
            return Path(named).read_text().strip()
        except OSError as error:
            raise InputError(
                "RAY_AUTH_TOKEN_PATH cannot be read", got=error, expected="a file with the token"
            ) from None
    places = [Path.home() / ".ray" / "auth_token", *([folder / "token"] if folder else [])]
    if folder:
        places.reverse()  # a local cluster has made a token of its own
    for place in places:
        if place.is_file():
            return place.read_text().strip()
    return None


def make_token(path: Path) -> str:
    """Write a new token (64 hex digits) that only this user can read, and return it."""
    made = secrets.token_hex(TOKEN_BYTES)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(made)
    return made


def is_loopback(address: str) -> bool:
    """Tell whether a URL or host:port means this machine alone."""
    host = urlsplit(address if "://" in address else f"//{address}").hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
