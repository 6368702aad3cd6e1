"""Who may ask what, and how often: API keys with a role, and a rate limit per key.

Keys are drawn here (256 random bits, so one round of SHA-256 is enough at rest: there is nothing to guess), shown once,
and kept as digests in a JSON file: `[{"name", "role", "sha256", "per_minute"}]`.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import os
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, TypeAdapter, ValidationError

from cluster.errors import DataError, InputError, RecipeError
from cluster.recipe.base import Section
from serving.seams.problems import Refusal

Role = Literal["client", "admin"]
PREFIX = "rd_"
OPEN = "open"  # who asks where no key is needed
CALLERS_MAX = 10_000  # buckets that are remembered (count)


class Key(Section):
    """A key at rest; `admin` may all that `client` may."""

    name: str = Field(min_length=1, max_length=64, description="What the key is called in logs and limits.")
    role: Role = Field("client", description="client: the /v1 routes; admin: also /v1/admin.")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$", description="Digest of the key.")
    per_minute: float | None = Field(None, gt=0, description="Requests a minute; null: the recipe's limit.")


@dataclass(frozen=True)
class Caller:
    """Who asks; `per_minute` is the key's own limit, None for the recipe's."""

    name: str
    role: Role
    per_minute: float | None = None


class Keys:
    """The keys of a deployment. Without any the client routes are open (a deployment then listens on loopback only);
    admin routes always need one."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = list(keys)
        self.open = all(key.name == OPERATOR for key in self._keys)

    def caller(self, given: str | None, needs: Role) -> Caller:
        """Who the key belongs to. Raises Refusal: none or an unknown one is 401, one without the role 403.

        Every key is compared, in constant time, so that how long it takes says nothing.
        """
        digest = hashlib.sha256((given or "").encode("utf-8", "surrogatepass")).hexdigest()
        matching = [key for key in self._keys if hmac.compare_digest(key.sha256, digest)]
        if given is None or not matching:
            if self.open and needs == "client":  # with any key: OpenAI's clients always send one
                return Caller(OPEN, "client")
            raise Refusal("unauthorized", "got no key that is known here", {"WWW-Authenticate": "Bearer"})
        key = matching[0]
        if needs == "admin" and key.role != "admin":
            raise Refusal("forbidden", f"the key {key.name!r} has the role {key.role}, expected admin")
        return Caller(key.name, key.role, key.per_minute)


def guard(keys: Sequence[Key], host: str) -> None:
    """Raise RecipeError where whoever reaches `host` could ask without a key: keys come first, then other addresses.

    The operator's key opens admin routes only, so it alone is none.
    """
    if on_loopback(host) or not Keys(keys).open:
        return
    raise RecipeError(
        "serving.host", got=f"{host} and no API key: whoever reaches it may ask",
        expected="a loopback address (127.0.0.1), or serving.keys_file with keys in it",
        hint="python -m serving key NAME --file KEYS, then --set serving.keys_file=KEYS (`config` prints digests)",
    )  # fmt: skip


def on_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


OPERATOR = "operator"  # the key that `serving up` draws for its own commands


def draw(name: str, role: Role, per_minute: float | None = None) -> tuple[str, Key]:
    """A new key as its owner keeps it, and as it is kept here."""
    secret = PREFIX + secrets.token_urlsafe(32)
    return secret, Key(name=name, role=role, sha256=hashlib.sha256(secret.encode()).hexdigest(), per_minute=per_minute)


def read(path: Path) -> list[Key]:
    """The keys of a file. Raises DataError when it is none, or when others than its owner may write it."""
    try:
        text, mode = path.read_text(), path.stat().st_mode
        found = TypeAdapter(list[Key]).validate_json(text, strict=True)
    except (OSError, ValidationError) as error:
        raise DataError(f"{path} holds no keys", got=f"{error}"[:300], expected="python -m serving key NAME") from None
    if mode & 0o022:
        raise DataError(f"{path} may be written by others", got=oct(mode & 0o777), expected="0o600")
    if len({key.name for key in found}) < len(found):
        raise DataError(f"{path} names a key twice", expected="one entry a name")
    return found


def add(path: Path, key: Key) -> None:
    """Put a key into the file (made, mode 0600). Raises InputError when the name is taken, DataError as `read`."""
    known = read(path) if path.exists() else []
    if key.name in {one.name for one in known} | {OPERATOR, OPEN}:
        raise InputError(f"there is a key called {key.name} already", got=key.name, expected="another name")
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        json.dump([one.model_dump() for one in [*known, key]], stream, indent=1)
    aside.replace(path)


class RateLimit:
    """A bucket of tokens per caller: `per_minute` are poured in over a minute, and as many fit in.

    Counted per gateway replica: with two of them a caller gets up to twice as much.
    """

    def __init__(self, per_minute: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        """`per_minute` for callers whose key says nothing; None: no limit."""
        self._per_minute, self._clock = per_minute, clock
        self._levels: dict[str, tuple[float, float]] = {}

    def take(self, caller: Caller) -> None:
        """One request of this caller. Raises Refusal (429, Retry-After in whole seconds) beyond the limit."""
        per_minute = caller.per_minute or self._per_minute
        if per_minute is None:
            return
        now = self._clock()
        level, before = self._levels.pop(caller.name, (per_minute, now))
        level = min(max(per_minute, 1.0), level + (now - before) * per_minute / 60)
        if level < 1:
            self._levels[caller.name] = (level, now)
            wait_s = max(1, round((1 - level) * 60 / per_minute + 0.5))
            raise Refusal("rate_limited", f"at most {per_minute:g} a minute", {"Retry-After": str(wait_s)})
        self._levels[caller.name] = (level - 1, now)
        if len(self._levels) > CALLERS_MAX:
            del self._levels[next(iter(self._levels))]  # the one that has been quiet longest: its bucket is full
