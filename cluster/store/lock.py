"""One writer per artifact: a kernel lock on a local directory, a lease object in a bucket."""

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from cluster.store.filesystem import Files

log = logging.getLogger(__name__)

POLL_S = 0.1
REMIND_S = 30.0
LEASE_S = 30.0
SETTLE_S = 0.5

# POSIX locks belong to the process, so two threads of one process would both get them: this holds the second one back.
_in_process: dict[Path, threading.Lock] = {}
_in_process_guard = threading.Lock()


def hold(files: Files, key: str) -> "contextlib.AbstractContextManager[None]":
    """Return a context manager that waits until nobody else writes below `key`; logging says whom it waits for.

    Local: fcntl lock that the kernel releases with the process, however it ends, and that forked children do not
    inherit. Remote: a lease with expiry and heartbeat. Object stores have no compare-and-set here, so two writers can
    both think that they hold it for a moment; each writes into a directory of its own and the first complete manifest
    wins, so readers never see a mixture.
    """
    return hold_file(files.workspace / key / "lock") if files.local else _hold_lease(files, f"{key}/lease.json")


def _who() -> str:
    return json.dumps(
        {"host": socket.gethostname(), "pid": os.getpid(), "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    )


@contextlib.contextmanager
def hold_file(path: Path) -> Iterator[None]:
    """Hold the kernel lock on a local file, which is made when it is not there; it says who holds it and stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _in_process_guard:
        mine = _in_process.setdefault(path, threading.Lock())
    # The file is opened under `mine` only: closing any descriptor of it would drop this process's lock (POSIX).
    with mine, path.open("a+b", buffering=0) as stream:
        _wait(stream.fileno(), path)
        os.ftruncate(stream.fileno(), 0)
        os.pwrite(stream.fileno(), _who().encode(), 0)
        yield


def _wait(descriptor: int, path: Path) -> None:
    reminded = -REMIND_S
    while True:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            if time.monotonic() - reminded > REMIND_S:
                holder = os.pread(descriptor, 4096, 0).decode(errors="replace")
                log.warning("waiting for %s, held by %s", path.parent, holder or "a process that has just started")
                reminded = time.monotonic()
            time.sleep(POLL_S)
        else:
            return


@contextlib.contextmanager
def _hold_lease(files: Files, key: str) -> Iterator[None]:
    me, done = uuid.uuid4().hex, threading.Event()
    _take(files, key, me)

    def beat() -> None:
        while not done.wait(LEASE_S / 3):
            try:
                _write_lease(files, key, me)
            except OSError as error:  # the lease outlives two beats that failed
                log.warning("could not renew %s: %s", key, error)

    heart = threading.Thread(target=beat, name="store-lease", daemon=True)
    heart.start()
    try:
        yield
    finally:
        done.set()
        heart.join()
        if _read_lease(files, key).get("owner") == me:
            files.remove(key)


def _take(files: Files, key: str, me: str) -> None:
    reminded = -REMIND_S
    while True:
        lease = _read_lease(files, key)
        if not lease or float(str(lease["expires"])) < time.time():
            _write_lease(files, key, me)
            time.sleep(SETTLE_S)  # a rival that saw the same free lease has written by now; the later write stands
            if _read_lease(files, key).get("owner") == me:
                return
        elif time.monotonic() - reminded > REMIND_S:
            log.warning("waiting for %s, held by %s", key, lease["who"])
            reminded = time.monotonic()
        time.sleep(POLL_S)


def _read_lease(files: Files, key: str) -> dict[str, object]:
    text = files.read(key)
    return json.loads(text) if text else {}


def _write_lease(files: Files, key: str, me: str) -> None:
    files.write(key, json.dumps({"owner": me, "expires": time.time() + LEASE_S, "who": _who()}).encode())
