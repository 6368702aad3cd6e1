"""Secrets on their way to a cluster: sealed with its token, opened in the job's own processes, never in a log.

Ray writes a job's environment variables into its logs on every node (`Creating runtime env: {...}`) and shows them to
whoever asks the Jobs API. So only what is sealed travels there, and the nodes open it with the token that they hold.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from collections.abc import Mapping, Sequence

from cluster import credentials
from cluster.errors import InputError, MismatchError

VARIABLE = "RAYDISTILL_SEALED"
HOOK = "cluster.sealed.open_here"  # Ray calls it when a worker of the job starts
WRAPPER = ("python", "-m", "cluster.sealed", "--")


def collect(names: Sequence[str]) -> dict[str, str]:
    """Return the named variables of this process; raises InputError naming those that are not set."""
    missing = [name for name in names if not os.environ.get(name)]
    if missing:
        raise InputError(
            "these secrets are not set here", got=", ".join(missing), hint="export them, then submit again"
        )
    return {name: os.environ[name] for name in names}


def seal(values: Mapping[str, str], token: str) -> str:
    """Return the values as text that only holders of the token can read (Fernet: AES-128-CBC, HMAC-SHA256)."""
    from cryptography.fernet import Fernet

    return Fernet(_key(token)).encrypt(json.dumps(dict(values)).encode()).decode()


def unseal(text: str, token: str) -> dict[str, str]:
    """Return what was sealed; raises MismatchError where the token is another one."""
    from cryptography.fernet import Fernet, InvalidToken

    try:
        return dict(json.loads(Fernet(_key(token)).decrypt(text.encode())))
    except InvalidToken:
        hint = "the nodes hold another token than the one that this job was submitted with"
        raise MismatchError("the job's secrets do not open", hint=hint) from None


def open_here() -> None:
    """Put the job's secrets into this process's environment, if it has any. Raises MismatchError, InputError."""
    text = os.environ.get(VARIABLE)
    if not text:
        return
    token = credentials.token()
    if token is None:
        raise InputError("the job's secrets cannot be opened", got="no token on this node", expected="RAY_AUTH_TOKEN")
    os.environ.update(unseal(text, token))


def _key(token: str) -> bytes:
    # The token has 256 random bits, so one hash is enough; the prefix keeps this key apart from other uses of it.
    return base64.urlsafe_b64encode(hashlib.sha256(b"raydistill sealed secrets:" + token.encode()).digest())


if __name__ == "__main__":
    open_here()
    command = sys.argv[2:]
    os.execvp(command[0], command)
