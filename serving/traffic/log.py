"""The log of requests and answers: sampled, freed of personal data, written as Parquet beside the answering.

One row per request, and one more for each feedback; `read` makes one record of all rows of a request id, so a request
that HAProxy repeats, or feedback that is sent twice, changes nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from cluster import pii
from cluster.errors import RaydistillError
from cluster.recipe.traffic import TrafficSection
from cluster.store import Store, tables

if TYPE_CHECKING:
    import pyarrow as pa

log = logging.getLogger(__name__)

TABLE = "traffic"
MEDIA = ("images", "audio", "frames", "fps")
TEXTS = ("prompt", "answer", "teacher_answer", "shadow_answer", "label")
DAY_MS = 86_400_000
STOP_S = 10.0


def kept(request_id: str, share: float) -> bool:
    """Whether a request is in the sample: by its id alone, so that its feedback is kept when it is."""
    number = int.from_bytes(hashlib.blake2b(request_id.encode(), digest_size=8, person=b"traffic").digest())
    return number < share * 2.0**64


def clean(row: Mapping[str, Any], section: TrafficSection) -> dict[str, Any] | None:
    """The row as it may be written: personal data masked, or None where the policy drops the row.

    `drop` keeps nothing of a request whose texts hold personal data; pictures, sounds and videos are never looked into,
    and are left out where `media` is false.
    """
    made = dict(row)
    if not section.media:
        made = {name: value for name, value in made.items() if name not in MEDIA}
    if section.pii == "keep":
        return made
    for name in TEXTS:
        text = made.get(name)
        if text and pii.find(text, section.pii_kinds):
            if section.pii == "drop":
                return None
            made[name] = pii.mask(text, section.pii_kinds)
    return made


class TrafficLog:
    """Takes rows on the event loop and writes them in a thread of its own. `add` neither blocks nor raises: a row that
    finds the queue full is dropped and `counted` as such; so is one that the policy does not let be written."""

    def __init__(self, store: Store, model: str, section: TrafficSection, counted: Callable[[str, int], None]) -> None:
        """`counted(what, rows)` is told "written", "queue_full", "pii" and "failed"; from the thread, too."""
        self._store, self._model, self._section, self._counted = store, model, section, counted
        self._rows: queue.Queue[dict[str, Any]] = queue.Queue(section.queue)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)
        self._thread.start()

    def add(self, row: Mapping[str, Any]) -> None:
        """Keep a row (`cluster.schema` "traffic") when its request is in the sample."""
        if not kept(row["request_id"], self._section.share):
            return
        try:
            self._rows.put_nowait(dict(row))
        except queue.Full:
            self._counted("queue_full", 1)

    def close(self) -> None:
        """Write what waits; returns when it is written, at most STOP_S later."""
        self._ending.set()
        self._thread.join(STOP_S)

    def _run(self) -> None:
        held: list[dict[str, Any]] = []
        since, expired = time.monotonic(), -math.inf
        while not (self._ending.is_set() and self._rows.empty()):
            if not held:
                since = time.monotonic()
            with contextlib.suppress(queue.Empty):
                row = clean(self._rows.get(timeout=0.1), self._section)
                if row is None:
                    self._counted("pii", 1)
                else:
                    held.append(row)
            if len(held) >= self._section.file_rows or (held and time.monotonic() - since >= self._section.file_s):
                held = self._write(held)
            if time.monotonic() - expired >= DAY_MS / 1000:
                expired = time.monotonic()
                self._expire()
        self._write(held)

    def _write(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        if rows:
            try:
                tables.append(self._store, TABLE, self._model, rows, time.time_ns() // 1_000_000)
                self._counted("written", len(rows))
            except (OSError, ValueError, TypeError, RaydistillError):
                log.exception("%d rows of traffic are lost", len(rows))
                self._counted("failed", len(rows))
        return []

    def _expire(self) -> None:
        before = time.time_ns() // 1_000_000 - int(self._section.keep_days * DAY_MS)
        try:
            tables.expire(self._store, TABLE, self._model, before)
        except OSError:
            log.exception("old traffic is not removed")


def read(store: Store, model: str, since_ms: int = 0) -> pa.Table:
    """One row per request id, in the order of first sight: in every column the last value that is not null.

    `since_ms`: only files written then or later. Columns are those of `cluster.schema` "traffic".
    """
    import pyarrow as pa

    table = tables.read(store, TABLE, model, since_ms)
    merged: dict[str, dict[str, Any]] = {}
    for row in sorted(table.to_pylist(), key=lambda one: int(one["at"])):
        known = merged.setdefault(row["request_id"], row)
        known.update({name: value for name, value in row.items() if value is not None and name != "at"})
    return pa.Table.from_pylist(list(merged.values()), schema=table.schema)
